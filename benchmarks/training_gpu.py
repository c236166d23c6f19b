"""Training on one GPU: tokens per second, MFU and memory, beside nanoGPT and Hugging Face's Trainer. One call does all.

    python -m benchmarks.training_gpu [--nanogpt FOLDER] [--text FILE] [--minutes N] [--only gemm,gpt2] [--json FILE]
    python -m benchmarks.training_gpu --device cpu --tiny      # the same code in a minute, for the tests

It needs torch, NumPy and safetensors. Parts, in their order (`--only` takes some):

    gemm          bf16 matrix products: the peak that this GPU really has
    gpt2          GPT-2 124M at T=1024, over a ladder of batches
    nanogpt       nanoGPT's train.py as published (compiled, bf16, fused AdamW) on the best batch of `gpt2`
    trainer       transformers' Trainer (compiled, bf16, fused AdamW) on it; its GPT-2 in a plain loop where there is no
                  accelerate, which the Trainer needs
    llama-350m    llama-style 350M at T=2048, vocabulary 32,000
    gpt2-xl       1.5B at T=1024, four micro-batches a step; the first of some batches and recomputations that fits
    gpt2-xl-fp8   the same in float8
    mask          GPT-2 124M with attention kept within documents, against without
    bert-base     BERT-base at T=512, ragged documents, beside transformers' Trainer with BertForPreTraining
    bert-base-filled      the same with documents that fill the sequences
    electra-small         ELECTRA-small at T=512, ragged documents, beside the Trainer with transformers' two models
    electra-small-filled  the same with documents that fill the sequences
    shakespeare   tiny-shakespeare by character, nanoGPT's 10.7M setting, 5,000 iterations; published loss 1.4697
    shakespeare-nanogpt   the same by nanoGPT's train.py

Ours is the trainer with its usual metrics, AdamW, float32 weights, bf16 products and torch.compile. GPT-2 has biases
and the tanh GELU, nanoGPT by default neither; all have a vocabulary of 50,304, and ids drawn by Zipf's law. Time is
wall time between synchronisations, the median of three windows after a warm-up; making batches, clipping and the
optimiser are in it. Each measurement is a process of its own.

The parts of BERT and ELECTRA take their corpus, and the Trainer its batches, as `objectives_cpu` says; their tokens/s
leave out padding. The Trainer (bf16, scaled dot-product attention) is measured compiled on sequences padded to T, and
not compiled on batches padded to their longest sequence; the faster one counts.

MFU counts FLOPs as PaLM's appendix B does, causal attention in full, against the GPU's data sheet (989 TFLOP/s dense
bf16 for H100 SXM and H200); "of the GEMM peak" is the same FLOPs against `gemm`. In float8 both stay those of bf16. For
BERT and ELECTRA both sides are credited with the FLOPs of ours a token, whose vocabulary head reads chosen positions.

A part that fails is a row that says why, and the rest goes on. With --minutes, parts for which too little time is left
are not begun: call again with --only, and --json with the same file, whose rows are then kept.
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import torch

from benchmarks.objectives_cpu import DOCUMENTS
from benchmarks.objectives_measures import Case
from benchmarks.objectives_peers import absent
from benchmarks.rows import Row, read, table, write
from benchmarks.training_data import by_character, drawn, read_text
from benchmarks.training_measures import Work, shard_tokens
from benchmarks.training_ours import (
    NANOGPT_OPTIMIZER,
    NANOGPT_SCHEDULE,
    ROOT,
    Shape,
    train_as_a_user,
    training_run,
    whole_validation,
)
from benchmarks.training_peers import (
    ABSENT,
    Checkout,
    nanogpt_folder,
    nanogpt_version,
    package_version,
    reason,
    stopped_after,
)
from training.config import TrainingConfig

GIB = 1 << 30
PUBLISHED_LOSS = 1.4697
VOCABULARY = 50_304
GPT2 = {"layers": 12, "heads": 12, "width": 768, "context_length": 1024}
SHAKESPEARE = Shape(layers=6, heads=6, width=384, context_length=256, batch_size=64, dropout=0.2)


class Failure(RuntimeError):
    """A measurement that did not come about; the message says why."""


@dataclass
class Session:
    """What the parts share: the options, the clock, and what was measured so far."""

    options: argparse.Namespace
    scratch: Path
    started: float = field(default_factory=time.monotonic)
    gemm: float | None = None
    """Measured peak in FLOP/s."""
    gpt2: dict[str, Any] | None = None
    """The best of the ladder."""
    shakespeare: tuple[float, float] | None = None
    """Our best validation loss and wall time."""

    @property
    def left(self) -> float:
        """Seconds until the time is up."""
        return 60 * self.options.minutes - (time.monotonic() - self.started)

    def work(self, model: dict[str, Any], device_batch: int, **settings: Any) -> Work:
        """A measurement at full size or, with --tiny, of a model of two layers and few steps."""
        vocabulary = settings.pop("vocabulary", VOCABULARY)
        if self.options.tiny:
            model = {**model, "layers": 2, "heads": 2, "width": 32, "context_length": 32}
            small = {"compiled": False, "precision": "fp32", "warmup": 1, "steps": 2}
            settings, vocabulary, device_batch = {**settings, **small}, 64, min(device_batch, 4)
        common = {"device": self.options.device, "training": dict(self.options.set)}
        return Work(model, vocabulary, device_batch, **common, **settings)

    def case(self, preset: str, objective: str, documents: str, batch: int) -> Case:
        """A measurement of an objective at T=512 or, with --tiny, of a model of two layers and few steps."""
        length = 64 if self.options.tiny else 512
        model: dict[str, Any] = {"preset": preset, "context_length": length}
        settings: dict[str, Any] = {"precision": "bf16", "compiled": True, "corpus_tokens": 4_000_000}
        if self.options.tiny:
            model |= {"layers": 2, "heads": 2, "width": 32}
            small = {"compiled": False, "precision": "fp32", "warmup": 1, "steps": 2}
            settings, batch = {**small, "corpus_tokens": 4000, "vocabulary": 64, "threads": 1}, min(batch, 4)
        median = DOCUMENTS[documents] * length
        common = {"device": self.options.device, "training": dict(self.options.set)}
        return Case(model, objective, batch, median, **common, **settings)

    def ask(self, what: str, request: Any, seconds: float = 240, module: str = "training_measures") -> dict[str, Any]:
        """Let a process of its own measure; raises Failure with its reason."""
        command = [sys.executable, "-m", f"benchmarks.{module}", what, json.dumps(request)]
        environment = {**os.environ, "PYTHONPATH": str(ROOT)}
        limit = max(1.0, min(seconds, self.left))
        log = (self.scratch / "errors.log").open("w+")
        process = subprocess.Popen(
            command, env=environment, stdout=subprocess.PIPE, stderr=log, text=True, start_new_session=True
        )
        with log, process, stopped_after(process, limit) as late:
            assert process.stdout is not None
            printed = process.stdout.read()
        if late:
            raise Failure(f"not done after {limit:.0f} s")
        lines = [line for line in printed.splitlines() if line.startswith("{")]
        if process.returncode or not lines:
            raise Failure(reason((self.scratch / "errors.log").read_text(errors="replace").splitlines()))
        answer: dict[str, Any] = json.loads(lines[-1])
        if "failed" in answer:
            raise Failure(answer["failed"])
        return answer

    def peak(self) -> float | None:
        """The measured GEMM peak, measured now if that has not been done; None where it fails."""
        if self.gemm is None:
            try:
                self.gemm = self.ask("gemm", {"device": self.options.device, "tiny": self.options.tiny}, 60)["flops"]
            except Failure:
                return None
        return self.gemm

    def best_gpt2(self) -> dict[str, Any]:
        """Ours on GPT-2 124M, measured now if that has not been done."""
        if self.gpt2 is None:
            self.gpt2 = self.ask("ours", asdict(self.work({"preset": "gpt2", **GPT2}, self.options.batches[0])))
        return self.gpt2


def gemm(session: Session) -> list[Row]:
    """The measured peak."""
    peak = session.peak()
    if peak is None:
        raise Failure("the matrix products failed")
    return [Row("GEMM peak, bf16" if session.options.device == "cuda" else "GEMM peak", "TFLOP/s", peak / 1e12)]


def gpt2(session: Session) -> list[Row]:
    """The ladder of batches; a rung that does not fit is a row."""
    rows: list[Row] = []
    for batch in session.options.batches:
        name = f"GPT-2 124M, T=1024, batch {batch}"
        if rows and session.left < EXPECTED["gpt2"] / len(session.options.batches):
            rows.append(Row(name, "tokens/s", note="no time was left"))
            continue
        try:
            found = session.ask("ours", asdict(session.work({"preset": "gpt2", **GPT2}, batch)))
        except Failure as failure:
            rows.append(Row(name, "tokens/s", note=str(failure)))
            continue
        rows += speed_rows(session, name, found)
        if session.gpt2 is None or found["tokens_per_second"] > session.gpt2["tokens_per_second"]:
            session.gpt2 = found
    return rows


def nanogpt(session: Session) -> list[Row]:
    """nanoGPT's train.py on the same batch, or half of it as often as it takes to fit."""
    source = nanogpt_folder(session.options.nanogpt)
    if source is None:
        raise Failure(ABSENT)
    ours = session.best_gpt2()
    work = Work(**ours["work"])
    checkout = Checkout(source, session.scratch / "nanoGPT")
    checkout.put_data("drawn", ids_of(session, work), work.vocabulary)
    notes, batch = ["as published; median of lines ten iterations apart"], work.device_batch
    while True:
        try:
            speed = nanogpt_speed(session, checkout, work, batch)
            break
        except RuntimeError as error:
            if "memory" not in str(error) or batch == 1:
                raise Failure(f"nanoGPT: {error}") from None
            notes.append(f"out of memory at batch {batch}")
            batch //= 2
    name = f"GPT-2 124M, T=1024, ours at batch {work.device_batch}, nanoGPT at {batch}"
    version = nanogpt_version(source)
    return [Row(name, "tokens/s", ours["tokens_per_second"], speed, "nanoGPT", version, "; ".join(notes))]


def nanogpt_speed(session: Session, checkout: Checkout, work: Work, batch: int) -> float:
    """Tokens per second of nanoGPT's train.py."""
    log_every, lines = (10, 7) if work.device == "cuda" else (2, 4)
    shape = Shape(**{key: work.model[key] for key in ("layers", "heads", "width", "context_length")}, batch_size=batch)
    printed = checkout.train(
        *(() if work.device == "cuda" else ("--device=cpu", "--dtype=float32")),
        f"--compile={work.compiled}",
        "--dataset=drawn",
        "--gradient_accumulation_steps=1",
        f"--log_interval={log_every}",
        f"--max_iters={log_every * lines}",
        "--eval_interval=1000000",
        "--eval_iters=1",
        *shape.nanogpt_arguments(),
        seconds=max(1.0, min(240.0, session.left)),
    )
    # The first line follows the compilation; the one after it may.
    return batch * shape.context_length / statistics.median(printed.seconds_per_iteration(skip=2))


def trainer(session: Session) -> list[Row]:
    """Hugging Face's Trainer, or its model in a plain loop."""
    version = package_version("transformers")
    if version is None:
        raise Failure("transformers is not installed")
    ours = session.best_gpt2()
    whole = package_version("accelerate") is not None
    peer = "transformers Trainer" if whole else "transformers GPT-2, plain loop"
    note = "bf16, compiled, fused AdamW" if session.options.device == "cuda" else ""
    note += "" if whole else "; the Trainer needs accelerate, which is not installed"
    found = session.ask("trainer" if whole else "transformers", ours["work"])
    batch = ours["work"]["device_batch"]
    return [
        Row(
            f"GPT-2 124M, T=1024, batch {batch}",
            "tokens/s",
            ours["tokens_per_second"],
            found["tokens_per_second"],
            peer,
            version,
            note.removeprefix("; "),
        ),
        *memory_row(f"GPT-2 124M, T=1024, batch {batch}, peak memory", ours, found["memory"], peer, version),
    ]


def llama(session: Session) -> list[Row]:
    """350M at T=2048."""
    model = {"preset": "llama-350m", **full_size("llama-350m")}
    return first_that_fits(
        session, "llama-style 350M, T=2048", model, [(16, "none"), (8, "none")], vocabulary=32_000, steps=10
    )


def gpt2_xl(session: Session, precision: str = "bf16") -> list[Row]:
    """1.5B at T=1024: batches and recomputations from the fastest to the most sparing."""
    model = {"preset": "gpt2-xl", **full_size("gpt2-xl")}
    trials = [(16, "none"), (8, "none"), (16, "products"), (16, "blocks")]
    name = f"GPT-2 1.5B, T=1024{', fp8' if precision == 'fp8' else ''}"
    return first_that_fits(session, name, model, trials, precision=precision, accumulated=4, warmup=3, steps=3)


def first_that_fits(
    session: Session, name: str, model: dict[str, Any], trials: list[tuple[int, str]], **settings: Any
) -> list[Row]:
    """The rows of the first batch and recomputation that fit the memory; raises Failure where none does."""
    refused = []
    for batch, recompute in trials:
        tried = f"batch {batch}, recompute {recompute}"
        work = session.work(model, batch, recompute=recompute, **settings)
        try:
            found = session.ask("ours", asdict(work), 300)
        except Failure as failure:
            if "memory" not in str(failure):
                raise Failure(f"{tried}: {failure}") from None
            refused.append(f"{tried}: out of memory")
            continue
        label = f"{name}, batch {work.accumulated} x {batch}, recompute {recompute}"
        return speed_rows(session, label, found, "; ".join(refused))
    raise Failure("; ".join(refused))


def mask(session: Session) -> list[Row]:
    """What a document mask costs."""
    ours = session.best_gpt2()
    masked = session.ask("ours", {**ours["work"], "document_mask": True})
    cost = 100 * (ours["tokens_per_second"] / masked["tokens_per_second"] - 1)
    speed, without = masked["tokens_per_second"], ours["tokens_per_second"]
    name = f"GPT-2 124M, T=1024, batch {ours['work']['device_batch']}, documents masked"
    return [
        Row(name, "tokens/s", speed, without, "without the mask", "", "documents of a median of 400 tokens"),
        Row(f"{name}, cost", "% of time", cost),
    ]


def objective(session: Session, preset: str, name: str, documents: str, batch: int) -> list[Row]:
    """Ours on a preset, and beside it the faster of the Trainer's ways."""
    case = session.case(preset, name, documents, batch)
    ours = session.ask("ours", asdict(case), module="objectives_measures")
    label = f"{preset}, T={case.length}, {documents}, batch {case.batch_size}"
    rows = speed_rows(session, label, ours, f"{ours['padding']:.1%} padding")
    label += ", beside the Trainer"
    if missing := absent():
        return [*rows, Row(label, "tokens/s", ours["tokens_per_second"], note=missing)]
    found, notes = [], []
    ways = {"padded to the longest": False} | ({"compiled, padded to T": True} if case.compiled else {})
    for way, compiled in ways.items():
        request = {**asdict(case), "compiled": compiled, "tokens_per_step": ours["tokens_per_step"]}
        try:
            found.append(session.ask("trainer", request, module="objectives_measures"))
        except Failure as failure:
            notes.append(f"{way}: {failure}")
            continue
        rate, padding = found[-1]["tokens_per_second"], found[-1]["padding"]
        notes.append(f"{way}: {rate:,.0f} tokens/s, {padding:.0%} padding, batch {found[-1]['sequences']}")
    if not found:
        return [*rows, Row(label, "tokens/s", ours["tokens_per_second"], note="; ".join(notes))]
    best = max(found, key=lambda answer: answer["tokens_per_second"])
    peer = "transformers Trainer", package_version("transformers") or ""
    speed, other = ours["tokens_per_second"], best["tokens_per_second"]
    rows.append(Row(label, "tokens/s", speed, other, *peer, "; ".join(notes)))
    if ours["peak_flops"]:
        per_rate = 100 * ours["flops_per_token"] / ours["peak_flops"]
        rows.append(Row(f"{label}, MFU", "%", per_rate * speed, per_rate * other, *peer))
    return rows + memory_row(f"{label}, peak memory", ours, best["memory"], *peer)


def shakespeare(session: Session) -> list[Row]:
    """nanoGPT's 10.7M setting by our trainer, as a user starts it."""
    shape, iterations = (TINY_SHAKESPEARE, 8) if session.options.tiny else (SHAKESPEARE, 5000)
    folder = session.scratch / "shakespeare"
    shards, vocabulary = by_character(text_of(session), folder)
    every = min(250, iterations)
    settings = TrainingConfig(
        steps=iterations,
        batch_size=shape.batch_size,
        evaluate_every=every,
        checkpoint_every=iterations,
        device=session.options.device,
    )
    run = training_run(
        shards,
        vocabulary,
        folder / "run",
        shape.nanogpt_model(),
        optimizer=NANOGPT_OPTIMIZER,
        schedule=NANOGPT_SCHEDULE,
        training=settings,
    )
    try:
        ours = train_as_a_user(whole_validation(run), max(1.0, session.left))
    except RuntimeError as error:
        raise Failure(str(error)) from None
    step = min(ours.validation, key=lambda key: ours.validation[key])
    name, best = f"tiny-shakespeare, 10.7M, {iterations:,} iterations", ours.validation[step]
    session.shakespeare = best, ours.seconds
    note = f"at step {step:,}; over the whole validation split, the published one estimated from 200 batches"
    return [
        Row(f"{name}, best validation loss", "nats", best, PUBLISHED_LOSS, "nanoGPT", "README", note),
        Row(f"{name}, wall time", "s", ours.seconds),
    ]


def shakespeare_nanogpt(session: Session) -> list[Row]:
    """The same by nanoGPT as published: its time, its best estimate."""
    source = nanogpt_folder(session.options.nanogpt)
    if source is None:
        raise Failure(ABSENT)
    shape, iterations = (TINY_SHAKESPEARE, 8) if session.options.tiny else (SHAKESPEARE, 5000)
    checkout = Checkout(source, session.scratch / "nanoGPT-shakespeare")
    cpu = ["--device=cpu", "--compile=False", "--eval_iters=2", "--eval_interval=4"]
    try:
        checkout.prepare_shakespeare(text_of(session))
        printed = checkout.train(
            "config/train_shakespeare_char.py",
            *(cpu if session.options.device == "cpu" else []),
            f"--max_iters={iterations}",
            *shape.nanogpt_arguments(),
            seconds=max(1.0, session.left),
        )
    except RuntimeError as error:
        raise Failure(f"nanoGPT: {error}") from None
    peer, name = ("nanoGPT", nanogpt_version(source)), f"tiny-shakespeare, 10.7M, {iterations:,} iterations"
    estimate = min(printed.validation.values())
    loss, seconds = session.shakespeare or (None, None)
    return [
        Row(f"{name}, best validation loss", "nats", loss, estimate, *peer, "its own estimate from 200 batches"),
        Row(f"{name}, wall time", "s", seconds, printed.seconds, *peer),
    ]


TINY_SHAKESPEARE = Shape(layers=2, heads=2, width=32, context_length=32, batch_size=8, dropout=0.2)

PARTS: dict[str, Callable[[Session], list[Row]]] = {
    "gemm": gemm,
    "gpt2": gpt2,
    "nanogpt": nanogpt,
    "trainer": trainer,
    "llama-350m": llama,
    "gpt2-xl": gpt2_xl,
    "gpt2-xl-fp8": lambda session: gpt2_xl(session, "fp8"),
    "mask": mask,
    "bert-base": lambda session: objective(session, "bert-base", "bert", "ragged", 64),
    "bert-base-filled": lambda session: objective(session, "bert-base", "bert", "filled", 64),
    "electra-small": lambda session: objective(session, "electra-small", "electra", "ragged", 128),
    "electra-small-filled": lambda session: objective(session, "electra-small", "electra", "filled", 128),
    "shakespeare": shakespeare,
    "shakespeare-nanogpt": shakespeare_nanogpt,
}
EXPECTED = {
    "gemm": 15,
    "gpt2": 120,
    "nanogpt": 70,
    "trainer": 80,
    "llama-350m": 70,
    "gpt2-xl": 120,
    "gpt2-xl-fp8": 120,
    "mask": 60,
    "bert-base": 200,
    "bert-base-filled": 200,
    "electra-small": 200,
    "electra-small-filled": 200,
    "shakespeare": 100,
    "shakespeare-nanogpt": 120,
}
"""Seconds that a part takes on an H100, as a guess; with less time left it is not begun."""


def speed_rows(session: Session, name: str, found: dict[str, Any], note: str = "") -> list[Row]:
    """Speed, MFU and memory of one measurement of ours."""
    flops = found["tokens_per_second"] * found["flops_per_token"]
    milliseconds = f"{1e3 * found['seconds_per_step']:.1f} ms a step, loss {found['loss']:.3f}"
    rows = [Row(name, "tokens/s", found["tokens_per_second"], note="; ".join(filter(None, (milliseconds, note))))]
    if found["peak_flops"]:
        rows.append(Row(f"{name}, MFU", "%", 100 * flops / found["peak_flops"]))
    if peak := session.peak():
        rows.append(Row(f"{name}, of the GEMM peak", "%", 100 * flops / peak))
    return rows + memory_row(f"{name}, peak memory", found, found.get("planned"), "the plan's estimate")


def memory_row(name: str, ours: dict[str, Any], peer: float | None, peer_name: str, version: str = "") -> list[Row]:
    """Peak memory where the device tells it."""
    if not ours["memory"]:
        return []
    if not peer:
        return [Row(name, "GiB", ours["memory"] / GIB)]
    return [Row(name, "GiB", ours["memory"] / GIB, peer / GIB, peer_name, version)]


def full_size(preset: str) -> dict[str, Any]:
    """The fields of a preset that a measurement needs to know."""
    from training.config import PRESETS

    return {key: PRESETS[preset][key] for key in ("layers", "heads", "width", "context_length")}


def ids_of(session: Session, work: Work) -> np.ndarray:
    """Ids of the kind that ours was measured on."""
    (shard,) = drawn(session.scratch / "drawn", shard_tokens(work), work.vocabulary)
    return np.fromfile(shard.path, "<u2").astype(np.int64)


def text_of(session: Session) -> str:
    """Tiny-shakespeare, or with --tiny some lines that do."""
    return (
        "To be, or not to be: that is the question.\n" * 100
        if session.options.tiny
        else read_text(session.options.text)
    )


def measured(name: str, session: Session) -> list[Row]:
    """The rows of a part, or the one that says why there are none."""
    if session.left < (5 if session.options.tiny else EXPECTED[name]):
        return [Row(name, "", note=f"not begun: {max(0, session.left):.0f} s left of --minutes")]
    begin = time.monotonic()
    try:
        rows = PARTS[name](session)
    except Failure as failure:
        rows = [Row(name, "", note=str(failure))]
    except Exception as error:  # one part must not cost the others
        rows = [Row(name, "", note=f"{type(error).__name__}: {error}")]
    print(f"{name}: {time.monotonic() - begin:.0f} s", file=sys.stderr, flush=True)
    return rows


def setting(text: str) -> tuple[str, Any]:
    """`field=value` with a value in JSON, or a plain word."""
    name, _, value = text.partition("=")
    try:
        return name, json.loads(value)
    except ValueError:
        return name, value


def device_name(device: str) -> str:
    return torch.cuda.get_device_name() if device == "cuda" else "CPU"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--json", type=Path, metavar="FILE", help="write the rows as JSON, after those already there")
    parser.add_argument("--nanogpt", type=Path, metavar="FOLDER", help="a checkout of nanoGPT")
    parser.add_argument("--text", type=Path, metavar="FILE", help="tiny-shakespeare, plain or gzipped")
    parser.add_argument("--only", default=",".join(PARTS), help="parts, with commas between them")
    parser.add_argument("--minutes", type=float, default=60, help="time for all; parts that do not fit are left out")
    parser.add_argument("--batches", default="32,64", help="the ladder of gpt2, with commas between them")
    parser.add_argument("--device", choices=("cuda", "cpu"), default="cuda")
    parser.add_argument("--tiny", action="store_true", help="tiny models: whether it works, not how fast")
    parser.add_argument(
        "--set", action="append", default=[], type=setting, metavar="FIELD=JSON", help="of our TrainingConfig"
    )
    options = parser.parse_args()
    os.environ.setdefault("PYTORCH_CUDA_ALLOC_CONF", "expandable_segments:True")  # for both sides
    names, options.batches = options.only.split(","), [int(size) for size in options.batches.split(",")]
    if unknown := set(names) - set(PARTS):
        parser.error(f"--only: {', '.join(sorted(unknown))}: parts are {', '.join(PARTS)}")
    if options.device == "cuda" and not torch.cuda.is_available():
        parser.error("torch sees no CUDA device here; --device cpu --tiny runs the same code small")
    rows = read(options.json) if options.json and options.json.exists() else []
    with tempfile.TemporaryDirectory() as scratch:
        session = Session(options, Path(scratch))
        for name in names:
            found = measured(name, session)
            print(table(found, name), flush=True)  # what is known stays known if the call is cut off
            rows += found
            if options.json:
                write(rows, options.json)
    title = f"Training on {device_name(options.device)}, torch {torch.__version__}"
    print(table(rows, title))


if __name__ == "__main__":
    main()
