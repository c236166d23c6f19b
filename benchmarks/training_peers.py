"""nanoGPT and Hugging Face transformers as peers of the trainer.

nanoGPT is a checkout of its repository, named with `--nanogpt` or lying in the folder of the peers as `nanoGPT`. It is
not changed: what it writes goes into a copy.
"""

from __future__ import annotations

import hashlib
import importlib.util
import itertools
import os
import pickle
import re
import shutil
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, redirect_stdout
from dataclasses import dataclass, field
from importlib.metadata import PackageNotFoundError, version
from io import StringIO
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

ABSENT = "nanoGPT is absent: name a checkout of it with --nanogpt FOLDER, or put one into the folder of the peers"


def nanogpt_folder(given: Path | None) -> Path | None:
    """A checkout of nanoGPT, or None. Raises SystemExit where the folder that was named is none."""
    folder = given or Path(os.environ.get("HEADRACE_PEERS", ".peers"), "nanoGPT")
    if (folder / "train.py").exists() and (folder / "model.py").exists():
        return folder.absolute()
    if given:
        raise SystemExit(f"{given}: no checkout of nanoGPT, which has a train.py and a model.py")
    return None


def nanogpt_version(folder: Path) -> str:
    """The commit of a checkout, or where it has none the start of the digest of its loop and model."""
    if (folder / ".git").exists():
        found = subprocess.run(["git", "-C", folder, "rev-parse", "--short", "HEAD"], capture_output=True, text=True)
        if found.returncode == 0:
            return found.stdout.strip()
    content = b"".join((folder / name).read_bytes() for name in ("train.py", "model.py"))
    return f"sha256:{hashlib.sha256(content).hexdigest()[:8]}"


def package_version(name: str) -> str | None:
    """The version of an installed distribution, or None."""
    try:
        return version(name)
    except PackageNotFoundError:
        return None


def nanogpt_module(folder: Path) -> ModuleType:
    """Its model.py."""
    spec = importlib.util.spec_from_file_location("nanogpt_model", folder / "model.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules[spec.name] = module  # its dataclasses look themselves up there
    spec.loader.exec_module(module)
    return module


def nanogpt_step(folder: Path, ids: np.ndarray, **shape: Any) -> Callable[[], None]:
    """One call is one step of nanoGPT's loop on a CPU in float32: its model, its optimiser, its batches.

    `shape`: batch_size, block_size, vocab_size, n_layer, n_head, n_embd, dropout. As in its train.py: clipped at 1,
    betas 0.9 and 0.99, decay 0.1; the loss is read every ten steps.
    """
    module = nanogpt_module(folder)
    batch_size = shape.pop("batch_size")
    length = shape["block_size"]
    with redirect_stdout(StringIO()):
        model = module.GPT(module.GPTConfig(bias=False, **shape)).train()
        optimizer = model.configure_optimizers(0.1, 1e-3, (0.9, 0.99), "cpu")

    def batch() -> tuple[Tensor, Tensor]:
        starts = torch.randint(len(ids) - length, (batch_size,)).tolist()
        return tuple(
            torch.stack(
                [torch.from_numpy(ids[start + shift : start + shift + length].astype(np.int64)) for start in starts]
            )
            for shift in (0, 1)
        )  # type: ignore[return-value]

    return _stepper(model, optimizer, batch, lambda inputs, targets: model(inputs, targets)[1])


def transformers_step(ids: np.ndarray, batch_size: int, vocabulary: int, **shape: int) -> Callable[[], None]:
    """One call is one step of a plain loop over transformers' GPT-2 on a CPU: AdamW as torch has it by default."""
    model = gpt2_of_transformers(vocabulary, dropout=0.0, **shape).train()
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-3, betas=(0.9, 0.99), weight_decay=0.1)
    length = shape["context_length"]

    def batch() -> tuple[Tensor, Tensor]:
        starts = torch.randint(len(ids) - length, (batch_size,)).tolist()
        inputs = torch.stack([torch.from_numpy(ids[start : start + length].astype(np.int64)) for start in starts])
        return inputs, inputs  # the model shifts the labels

    return _stepper(model, optimizer, batch, lambda inputs, labels: model(input_ids=inputs, labels=labels).loss)


def gpt2_of_transformers(
    vocabulary: int, context_length: int, layers: int, heads: int, width: int, dropout: float = 0.0
) -> nn.Module:
    """GPT2LMHeadModel of a shape, with the fastest attention that it has and without a cache."""
    from transformers import GPT2Config, GPT2LMHeadModel

    config = GPT2Config(  # type: ignore[call-arg]
        vocab_size=vocabulary,
        n_positions=context_length,
        n_embd=width,
        n_layer=layers,
        n_head=heads,
        resid_pdrop=dropout,
        embd_pdrop=dropout,
        attn_pdrop=dropout,
        use_cache=False,
        attn_implementation="sdpa",
        bos_token_id=0,
        eos_token_id=0,
    )
    return GPT2LMHeadModel(config)


def _stepper(
    model: nn.Module,
    optimizer: torch.optim.Optimizer,
    batch: Callable[[], tuple[Tensor, Tensor]],
    loss_of: Callable[[Tensor, Tensor], Tensor],
) -> Callable[[], None]:
    steps = 0

    def step() -> None:
        nonlocal steps
        loss = loss_of(*batch())
        loss.backward()
        nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
        optimizer.zero_grad(set_to_none=True)
        steps += 1
        if steps % 10 == 0:
            loss.item()

    return step


@contextmanager
def stopped_after(process: subprocess.Popen[str], seconds: float | None) -> Iterator[list[float]]:
    """Kill a process that leads a group of its own, with that group, when it takes longer; the list then fills."""
    late: list[float] = []

    def stop() -> None:
        late.append(seconds or 0.0)
        os.killpg(process.pid, signal.SIGKILL)

    timer = threading.Timer(seconds, stop) if seconds is not None else None
    if timer:
        timer.start()
    try:
        yield late
    except BaseException:
        os.killpg(process.pid, signal.SIGKILL)
        raise
    finally:
        process.wait()
        if timer:
            timer.cancel()


def reason(lines: Sequence[str]) -> str:
    """Why a process failed, in a line: its last words that name an error, else its last words."""
    said = [line.strip() for line in lines if line.strip()]
    errors = [line for line in said if re.match(r"[\w.]*(Error|Exception|Exit)\b", line)]
    return (errors or said or ["it said nothing"])[-1][:300]


@dataclass
class Printed:
    """What nanoGPT's train.py said: the losses of its evaluations, and when it had done which iteration."""

    validation: dict[int, float] = field(default_factory=dict)
    """Its estimate of the validation loss by iteration."""
    clock: list[tuple[int, float]] = field(default_factory=list)
    """Iteration, and seconds at which its loss had been read."""
    seconds: float = 0.0
    """Wall time of the process."""

    def seconds_per_iteration(self, skip: int) -> list[float]:
        """Of each pair of lines in a row after the first `skip` lines. Raises ValueError where there are too few."""
        clock = self.clock[skip:]
        if len(clock) < 2:
            raise ValueError(f"nanoGPT printed {len(self.clock)} iterations, too few to time")
        return [(later - sooner) / (b - a) for (a, sooner), (b, later) in itertools.pairwise(clock)]


class Checkout:
    """A copy of nanoGPT that may be written to, with the data of one benchmark."""

    def __init__(self, source: Path, folder: Path) -> None:
        self.folder = folder
        folder.mkdir(parents=True)
        for path in source.glob("*.py"):
            shutil.copy(path, folder)
        for name in ("config", "data/shakespeare_char"):
            shutil.copytree(source / name, folder / name)

    def prepare_shakespeare(self, text: str) -> None:
        """Run its preparation on a text; raises RuntimeError where that fails."""
        data = self.folder / "data/shakespeare_char"
        (data / "input.txt").write_text(text, encoding="utf-8")
        done = subprocess.run([sys.executable, data / "prepare.py"], capture_output=True, text=True)
        if done.returncode:
            raise RuntimeError(f"nanoGPT's prepare.py failed: {done.stderr.strip().splitlines()[-1]}")

    def put_data(self, name: str, ids: np.ndarray, vocabulary: int) -> None:
        """Make a data set of given ids, in the form that its preparations write."""
        folder = self.folder / "data" / name
        folder.mkdir(parents=True)
        for split in ("train", "val"):
            ids.astype("<u2").tofile(folder / f"{split}.bin")
        (folder / "meta.pkl").write_bytes(pickle.dumps({"vocab_size": vocabulary}))

    def train(
        self, *arguments: str, seconds: float | None = None, environment: dict[str, str] | None = None
    ) -> Printed:
        """Run its train.py; raises RuntimeError where it fails or takes longer than `seconds`."""
        printed = Printed()
        tail: list[str] = []
        started = time.perf_counter()
        process = subprocess.Popen(
            [sys.executable, "-u", "train.py", *arguments],
            cwd=self.folder,
            env={**os.environ, **(environment or {})},
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            start_new_session=True,
        )
        with process, stopped_after(process, seconds) as late:
            assert process.stdout is not None
            for line in process.stdout:
                now = time.perf_counter() - started
                tail = [*tail[-20:], line.strip()]
                if found := re.match(r"step (\d+): train loss \S+ val loss (\S+)", line):
                    printed.validation[int(found[1])] = float(found[2])
                elif found := re.match(r"iter (\d+): loss", line):
                    printed.clock.append((int(found[1]), now))
        printed.seconds = time.perf_counter() - started
        if late:
            raise RuntimeError(f"nanoGPT was not done after {seconds:.0f} s")
        if process.returncode:
            raise RuntimeError(reason(tail))
        return printed

    @torch.no_grad()
    def whole_validation_loss(self, out_dir: str) -> float:
        """Loss of its best checkpoint over the whole validation split, in windows of its block size."""
        module = nanogpt_module(self.folder)
        saved = torch.load(self.folder / out_dir / "ckpt.pt", map_location="cpu", weights_only=True)
        with redirect_stdout(StringIO()):
            model = module.GPT(module.GPTConfig(**saved["model_args"])).eval()
        prefix = "_orig_mod."
        model.load_state_dict({name.removeprefix(prefix): tensor for name, tensor in saved["model"].items()})
        ids = torch.from_numpy(np.fromfile(self.folder / "data/shakespeare_char/val.bin", "<u2").astype(np.int64))
        length, summed = saved["model_args"]["block_size"], 0.0
        for start in range(0, len(ids) - 1, length):
            targets = ids[start + 1 : start + 1 + length]
            loss = model(ids[start : start + len(targets)].unsqueeze(0), targets.unsqueeze(0))[1]
            summed += float(loss) * len(targets)
        return summed / (len(ids) - 1)
