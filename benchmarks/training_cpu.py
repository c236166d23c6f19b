"""Training on two CPU cores: the time of a step and the quality after 2,000, beside nanoGPT's loop.

    python -m benchmarks.training_cpu [--nanogpt FOLDER] [--text FILE] [--only step,quality] [--json FILE]

nanoGPT is a checkout of its repository (--nanogpt, else `nanoGPT` in HEADRACE_PEERS, else in .peers); without one our
side runs alone. The setting is that of its README for a CPU: tiny-shakespeare by character, 4 layers, 4 heads, width
128, context 64, batch 12, no dropout; the text is ../shared/data/text/tinyshakespeare.txt.gz or --text.

`step`: in one process, ten steps of our trainer, then ten of each peer, and again; each side has its own batches of the
same shape, whose making is counted. Rows named `nanogpt` are the same model, optimiser and float32 on both sides; the
head of ours has one more id, the end of text that a run of ours must have and that never occurs. transformers' GPT-2,
which has biases, runs in the same loop as nanoGPT's. Best and median over the windows of ten steps.

`quality`: 2,000 iterations, each side as its user starts it, one after the other. Losses are over the whole validation
split, cut into windows of 64; nanoGPT's is that of the checkpoint that it takes for its best. Its README gives 1.88,
which is an estimate from 20 batches. The second model is our default recipe in this size: rotary positions, squared
ReLU, Muon, bfloat16 where the CPU multiplies it.
"""

from __future__ import annotations

import argparse
import statistics
import tempfile
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch

from benchmarks.rows import Row, table, write
from benchmarks.training_data import by_character, read_text
from benchmarks.training_ours import (
    NANOGPT_OPTIMIZER,
    NANOGPT_SCHEDULE,
    Alternation,
    Shape,
    fit,
    train_as_a_user,
    training_run,
    whole_validation,
)
from benchmarks.training_peers import (
    ABSENT,
    Checkout,
    nanogpt_folder,
    nanogpt_step,
    nanogpt_version,
    package_version,
    transformers_step,
)
from training.config import Shard, TrainingConfig

SHAPE = Shape(layers=4, heads=4, width=128, context_length=64, batch_size=12)
PUBLISHED_LOSS = 1.88
WINDOW = 10  # steps


@dataclass(frozen=True)
class Setting:
    """What all measurements share."""

    text: str
    shards: list[Shard]
    vocabulary: int
    nanogpt: Path | None
    scratch: Path
    threads: int
    shape: Shape = SHAPE

    def run(self, folder: str, recipe: str, **training: Any) -> Any:
        """A run of the same model as nanoGPT's (`nanogpt`) or of our defaults (`recipe`)."""
        settings = {"device": "cpu", "threads": self.threads, "batch_size": self.shape.batch_size, **training}
        if recipe == "nanogpt":
            settings = {"precision": "fp32", **settings}
            model, others = self.shape.nanogpt_model(), {"optimizer": NANOGPT_OPTIMIZER, "schedule": NANOGPT_SCHEDULE}
        else:
            model, others = self.shape.default_model(), {}
        config = TrainingConfig(**settings)
        return training_run(self.shards, self.vocabulary, self.scratch / folder, model, training=config, **others)


def peers_of(setting: Setting) -> dict[str, Callable[[], None]]:
    """A step of each peer that is at hand, by its name and version."""
    ids = np.memmap(setting.shards[0].path, dtype="<u2", mode="r")
    shape, peers = setting.shape, {}
    torch.manual_seed(1337)
    if setting.nanogpt:
        peers[f"nanoGPT {nanogpt_version(setting.nanogpt)}"] = nanogpt_step(
            setting.nanogpt,
            ids,
            batch_size=shape.batch_size,
            block_size=shape.context_length,
            vocab_size=setting.vocabulary - 1,
            n_layer=shape.layers,
            n_head=shape.heads,
            n_embd=shape.width,
            dropout=shape.dropout,
        )
    if found := package_version("transformers"):
        size = {name: getattr(shape, name) for name in ("context_length", "layers", "heads", "width")}
        peers[f"transformers {found}"] = transformers_step(ids, shape.batch_size, setting.vocabulary - 1, **size)
    return peers


def step_rows(setting: Setting, steps: int) -> list[Row]:
    """Tokens per second, the same model beside each peer, and our default recipe."""
    rows = [] if setting.nanogpt else [Row("nanogpt, step", "tokens/s", note=ABSENT)]
    for recipe, label in (("nanogpt", "same model, float32"), ("recipe", "our default recipe")):
        peers = peers_of(setting)
        clock = Alternation(peers, WINDOW)
        trainer = fit(setting.run(recipe, recipe, steps=steps), [clock])
        precision = trainer.compute.precision
        for measure, of in (("best", min), ("median", statistics.median)):
            speeds = {name: trainer.tokens_per_step / of(seconds) for name, seconds in clock.seconds.items()}
            milliseconds = ", ".join(f"{name} {1e3 * of(seconds):.1f} ms" for name, seconds in clock.seconds.items())
            note = f"{precision}; {milliseconds}"
            for peer in peers or [""]:
                name, _, version = peer.partition(" ")
                row = f"{(name or 'step').lower()}, step, {label}, {measure}"
                rows.append(Row(row, "tokens/s", speeds["ours"], speeds.get(peer), name, version, note))
    return rows


def quality_rows(setting: Setting, iterations: int) -> list[Row]:
    """Validation losses and wall times after so many iterations."""
    theirs: dict[str, Any] = {}
    note, peer = ABSENT, ("nanoGPT, published", "")
    loss, seconds = PUBLISHED_LOSS, None
    if setting.nanogpt:
        peer = ("nanoGPT", nanogpt_version(setting.nanogpt))
        try:
            theirs = nanogpt_quality(setting, setting.nanogpt, iterations)
            loss, seconds = theirs["whole"], theirs["seconds"]
            note = f"nanoGPT's own estimate {theirs['estimate']:.4f}"
        except RuntimeError as error:
            note = f"nanoGPT failed: {error}"
    rows = []
    for recipe, label in (("nanogpt", "same model"), ("recipe", "our default recipe")):
        intervals = {"steps": iterations, "evaluate_every": iterations, "checkpoint_every": iterations}
        run = whole_validation(setting.run(f"quality-{recipe}", recipe, **intervals))
        ours = train_as_a_user(run)
        found, precision = ours.validation[iterations], ours.result["precision"]
        name = f"nanogpt, quality after {iterations:,} iterations, {label}"
        rows += [
            Row(f"{name}, published", "validation loss", found, PUBLISHED_LOSS, "nanoGPT", "README", precision),
            *([Row(name, "validation loss", found, loss, *peer, note)] if theirs else []),
            Row(f"{name}, wall time", "s", ours.seconds, seconds, *(peer if theirs else ("", "")), note),
        ]
    return rows


def nanogpt_quality(setting: Setting, folder: Path, iterations: int) -> dict[str, float]:
    """nanoGPT as its README starts it on a CPU: its estimate, the loss over the whole split, and seconds."""
    checkout = Checkout(folder, setting.scratch / "nanoGPT")
    checkout.prepare_shakespeare(setting.text)
    printed = checkout.train(
        "config/train_shakespeare_char.py",
        "--device=cpu",
        "--compile=False",
        "--eval_iters=20",
        f"--eval_interval={min(250, iterations)}",
        f"--max_iters={iterations}",
        f"--lr_decay_iters={iterations}",
        *setting.shape.nanogpt_arguments(),
        environment={"OMP_NUM_THREADS": str(setting.threads)},
    )
    whole = checkout.whole_validation_loss("out-shakespeare-char")
    return {"estimate": min(printed.validation.values()), "whole": whole, "seconds": printed.seconds}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--json", type=Path, metavar="FILE", help="write the rows as JSON, too")
    parser.add_argument("--nanogpt", type=Path, metavar="FOLDER", help="a checkout of nanoGPT")
    parser.add_argument("--text", type=Path, metavar="FILE", help="tiny-shakespeare, plain or gzipped")
    parser.add_argument("--only", default="step,quality", help="parts, with commas between them")
    parser.add_argument("--steps", type=int, default=400, help="steps of `step`")
    parser.add_argument("--iterations", type=int, default=2000, help="iterations of `quality`")
    parser.add_argument("--threads", type=int, default=2)
    options = parser.parse_args()
    text, rows = read_text(options.text), []
    measures = {"step": (step_rows, options.steps), "quality": (quality_rows, options.iterations)}
    with tempfile.TemporaryDirectory() as scratch:
        shards, vocabulary = by_character(text, Path(scratch))
        nanogpt = nanogpt_folder(options.nanogpt)
        setting = Setting(text, shards, vocabulary, nanogpt, Path(scratch), options.threads)
        for part in options.only.split(","):
            if part not in measures:
                parser.error(f"--only: {part!r} is none of {', '.join(measures)}")
            measure, count = measures[part]
            rows += measure(setting, count)
    print(table(rows, f"Training on a CPU, {options.threads} threads, torch {torch.__version__}"))
    if options.json:
        write(rows, options.json)


if __name__ == "__main__":
    main()
