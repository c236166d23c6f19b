"""HellaSwag's first items: training.suites beside lm-evaluation-harness with its model of transformers.

    python -m benchmarks.suites_cpu --data FOLDER [--items 1000] [--threads 2] [--models NAME ...] [--json FILE]

Both sides judge the same weights (ours are exported with training.models.huggingface.export) in float32 with as many
threads, in turns in one process tree, each time in a process of its own; the best time of each counts. The time is that
of the answers from the loaded model on: building prompts, tokenizing, scoring (ours: loading the model, too); beside it
that of all threads together, which a busy machine disturbs less. The harness runs at the fastest of its
batch sizes that are tried on a small part of the items. The accuracies of both sides are compared to the fourth digit.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

from benchmarks.rows import Row, parser, show

MODELS: dict[str, dict[str, Any]] = {
    "nano": {"preset": "gpt2", "layers": 6, "heads": 4, "width": 256, "context_length": 256},
    "llama-125m": {"preset": "llama-125m"},
    "gpt2": {"preset": "gpt2"},
}
"""Shapes by name: a small one, and two of about 125 million parameters."""
BATCH_SIZES = (1, 8, 32)
FILE = "eval/hellaswag_val.jsonl.gz"


def main() -> None:
    """Measure and print."""
    options = _options()
    if options.side:
        print(json.dumps(SIDES[options.side](options)))
        return
    rows = []
    for name in options.models:
        rows += _compare(name, options)
    title = f"HellaSwag, first {options.items} items, {options.threads} threads, float32"
    show(rows, title, options.json)


def _options() -> argparse.Namespace:
    options = parser(__doc__ or "")
    options.add_argument("--data", default="data", help="folder that holds eval/hellaswag_val.jsonl.gz, tok/gpt2")
    options.add_argument("--items", type=int, default=1000)
    options.add_argument("--threads", type=int, default=2)
    options.add_argument("--rounds", type=int, default=2, help="how often each side is timed")
    options.add_argument("--models", nargs="+", choices=list(MODELS), default=["nano", "gpt2"])
    options.add_argument("--side", choices=list(SIDES), help=argparse.SUPPRESS)
    options.add_argument("--folder", help=argparse.SUPPRESS)
    options.add_argument("--batch-size", type=int, default=8, help=argparse.SUPPRESS)
    return options.parse_args()


def _compare(name: str, options: argparse.Namespace) -> list[Row]:
    with tempfile.TemporaryDirectory() as temporary:
        folder = Path(temporary)
        _write_model(MODELS[name], folder, Path(options.data))
        size = _best_batch_size(folder, options)
        ours, theirs = [], []
        for _ in range(options.rounds):
            ours.append(_run("ours", folder, options, options.items, size))
            theirs.append(_run("harness", folder, options, options.items, size))
        mine, yours = ours[0], theirs[0]
        peer = {"peer_name": "lm-eval HFLM", "peer_version": yours["version"]}
        rates = [
            Row(
                f"{name}: {what}",
                unit,
                options.items / min(one[key] for one in ours),
                options.items / min(one[key] for one in theirs),
                note=f"batch size of the harness {size}",
                **peer,
            )
            for what, unit, key in (
                ("items per second", "items/s", "seconds"),
                ("items per second of CPU time", "items/s", "spent"),
            )
        ]
        metrics = [
            Row(
                f"{name}: {metric}",
                "",
                mine[metric],
                yours[metric],
                note=_agreement(mine[metric], yours[metric]),
                **peer,
            )
            for metric in ("accuracy", "accuracy_normalized")
        ]
        return [*rates, *metrics]


def _agreement(mine: float, yours: float) -> str:
    return "agree to the fourth digit" if abs(mine - yours) < 5e-5 else "DIFFER"


def _best_batch_size(folder: Path, options: argparse.Namespace) -> int:
    few = max(8, options.items // 25)
    return min(BATCH_SIZES, key=lambda size: _run("harness", folder, options, few, size)["seconds"])


def _run(side: str, folder: Path, options: argparse.Namespace, items: int, size: int) -> dict[str, Any]:
    command = [sys.executable, "-m", "benchmarks.suites_cpu", "--side", side, "--folder", str(folder)]
    command += ["--data", options.data, "--items", str(items), "--threads", str(options.threads)]
    environment = {**os.environ, "OMP_NUM_THREADS": str(options.threads), "TOKENIZERS_PARALLELISM": "true"}
    environment |= {"HF_HUB_OFFLINE": "1", "HF_DATASETS_OFFLINE": "1"}
    command += ["--batch-size", str(size)]
    done = subprocess.run(command, env=environment, capture_output=True, text=True)
    if done.returncode:
        raise RuntimeError(f"{' '.join(command)} failed:\n{done.stderr[-4000:]}")
    result: dict[str, Any] = json.loads(done.stdout.strip().splitlines()[-1])
    return result


def _write_model(shape: dict[str, Any], folder: Path, data: Path) -> None:
    """A checkpoint of random weights with GPT-2's tokenizer, and its export: as slow as trained ones."""
    import torch

    from training.checkpoints import TrainerState, save
    from training.config import ModelConfig, from_dict
    from training.models import build
    from training.models.huggingface import export

    tokenizer = _gpt2_tokenizer(data / "tok" / "gpt2")
    tokenizer.save(str(folder / "tokenizer.json"))
    torch.manual_seed(0)
    model = build(from_dict(ModelConfig, shape), tokenizer.get_vocab_size())
    state, facts = TrainerState(0, {}, {}, {}), {"end_of_text": tokenizer.token_to_id("<|endoftext|>")}
    checkpoint = save(folder / "checkpoints", model, state, facts, folder / "tokenizer.json")
    checkpoint.rename(folder / "ours")
    export(folder / "ours", folder / "theirs")


def _gpt2_tokenizer(folder: Path) -> Any:
    import gzip

    from tokenizers import AddedToken, Tokenizer, decoders, models, pre_tokenizers

    vocabulary = json.loads(gzip.decompress((folder / "encoder.json.gz").read_bytes()))
    lines = gzip.decompress((folder / "vocab.bpe.gz").read_bytes()).decode().split("\n")[1:]
    merges = [(line.split(" ")[0], line.split(" ")[1]) for line in lines if line]
    tokenizer = Tokenizer(models.BPE(vocabulary, merges))
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    tokenizer.add_special_tokens([AddedToken("<|endoftext|>", special=True)])
    return tokenizer


def _ours(options: argparse.Namespace) -> dict[str, Any]:
    """The time of the whole of `training.suites.run`, loading included, after a first run on one item."""
    from training.suites import run

    with tempfile.TemporaryDirectory() as output:
        config = {
            "tasks": ["hellaswag"],
            "root": options.data,
            "limit": options.items,
            "bootstrap": 0,
            "precision": "fp32",
            "checkpoint": str(Path(options.folder) / "ours"),
            "output": output,
            "threads": options.threads,
            "device": "cpu",
        }
        run({**config, "limit": 1})
        begin, spent = time.perf_counter(), time.process_time()
        metrics = run(config)["metrics"]
        seconds, spent = time.perf_counter() - begin, time.process_time() - spent
    found = {name: metrics[f"hellaswag/{name}"] for name in ("accuracy", "accuracy_normalized")}
    return {"seconds": seconds, "spent": spent, **found}


def _harness(options: argparse.Namespace) -> dict[str, Any]:
    """The time of its `evaluate` with a loaded model; the model's begin-of-text id stands before each text."""
    import lm_eval
    import torch
    from lm_eval.models.huggingface import HFLM

    from training.suites.documents import read_documents
    from training.suites.harness import local_task

    torch.set_num_threads(options.threads)
    folder = str(Path(options.folder) / "theirs")
    model = HFLM(folder, device="cpu", batch_size=options.batch_size, add_bos_token=True, dtype="float32")
    task = local_task(
        "hellaswag_local",
        lambda: read_documents(options.data, FILE, options.items),
        output_type="multiple_choice",
        doc_to_text="{{ctx}}",
        doc_to_choice="{{endings}}",
        doc_to_target="gold",
        metric_list=[{"metric": "acc"}, {"metric": "acc_norm"}],
    )
    begin, spent = time.perf_counter(), time.process_time()
    found = lm_eval.evaluate(model, {"hellaswag_local": task}, bootstrap_iters=0, log_samples=False)
    seconds, spent = time.perf_counter() - begin, time.process_time() - spent
    assert found is not None
    result = found["results"]["hellaswag_local"]
    version = str(lm_eval.__version__)
    metrics = {"accuracy": result["acc,none"], "accuracy_normalized": result["acc_norm,none"]}
    return {"seconds": seconds, "spent": spent, "version": version, **metrics}


SIDES: dict[str, Callable[[argparse.Namespace], dict[str, Any]]] = {"ours": _ours, "harness": _harness}

if __name__ == "__main__":
    main()
