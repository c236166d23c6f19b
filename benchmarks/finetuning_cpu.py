"""A step of fine-tuning on two CPU cores beside transformers' Trainer, and the memory of LoRA beside full training.

    python -m benchmarks.finetuning_cpu [--models 4x256,6x384] [--only step,memory] [--json FILE]

Both sides fine-tune the same BERT, as a checkpoint and as a folder of transformers, to classify pairs of drawn texts,
in float32 with AdamW, dropout 0.1 and the same number of examples a step, in one process: some steps of ours, then as
many of the Trainer's, and again. The Trainer has its defaults, scaled dot-product attention, DataCollatorWithPadding
and batches by length where ours has them. `even`: all examples are of one length, so that both sides compute the same
shapes; `ragged`: log-normal lengths. tokens/s count no padding. Best and median of the rounds; the note has the
processor time a token, which other processes change less.

`memory`: peak resident memory of a process that trains full weights, and of one with LoRA on all matrices, and the
bytes of weights, gradients and optimiser state in each.
"""

from __future__ import annotations

import argparse
import functools
import json
import shlex
import statistics
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

import numpy as np
import torch

from benchmarks.objectives_measures import Clocks, Speed, speed_since
from benchmarks.rows import Row, table, write
from benchmarks.training_peers import package_version
from training.checkpoints import TrainerState, save
from training.config import ModelConfig, SpecialTokens, from_dict, to_dict
from training.finetuning import run
from training.finetuning.sequences import Reader
from training.models import build
from training.models.huggingface import export

VOCABULARY = 30_522
PEER = "transformers Trainer"
PADDING, MASK, FIRST, SEPARATOR = 1, 2, 3, 4


def make_checkpoint(folder: Path, name: str) -> Path:
    """A BERT of `<layers>x<width>` with heads of 64 and a vocabulary of words."""
    from tokenizers import Tokenizer, models, pre_tokenizers

    layers, width = map(int, name.split("x"))
    words = Tokenizer(models.WordLevel({f"w{number}": number for number in range(VOCABULARY)}, unk_token="w0"))
    words.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
    words.save(str(folder / "tokenizer.json"))
    shape = {"preset": "bert-tiny", "layers": layers, "width": width, "heads": width // 64, "context_length": 512}
    config = from_dict(ModelConfig, ModelConfig.expand(shape))
    torch.manual_seed(0)
    special = to_dict(SpecialTokens(PADDING, MASK, FIRST, SEPARATOR))
    description = {"end_of_text": 0, "special_tokens": special, "objective": {"name": "masked"}}
    state = TrainerState(0, {}, {}, {})
    return save(folder / "checkpoints", build(config, VOCABULARY), state, description, folder / "tokenizer.json")


def write_pairs(path: Path, examples: int, length: int, ragged: bool) -> Path:
    """Pairs of texts whose label is whether they begin with the same word, with `length` tokens at the median."""
    random = np.random.default_rng(0)
    half = (length - 3) // 2
    lines = []
    for _ in range(examples):
        sizes = [half, length - 3 - half]
        if ragged:
            sizes = [int(np.clip(half * np.exp(random.normal(0.0, 0.5)), 2, 250)) for _ in sizes]
        texts = [[f"w{number}" for number in random.integers(5, VOCABULARY, size)] for size in sizes]
        label = int(random.integers(2))
        if label:
            texts[1][0] = texts[0][0]
        lines.append(json.dumps({"text": " ".join(texts[0]), "second": " ".join(texts[1]), "label": label}) + "\n")
    path.write_text("".join(lines))
    return path


def settings(
    checkpoint: Path, output: Path, pairs: Path, options: argparse.Namespace, **further: Any
) -> dict[str, Any]:
    """The configuration of our side."""
    task = {
        "name": "pairs",
        "kind": "pair_classification",
        "train": str(pairs),
        "format": "jsonl",
        "columns": {"second": "second"},
        "labels": ["0", "1"],
        "dev_share": 0.0,
    }
    plain = {
        "epochs": 100,
        "max_steps": options.rounds * options.steps + options.steps,
        "log_every": options.steps,
        "batch_size": options.batch,
        "learning_rate": 5e-5,
        "warmup": 0.0,
        "precision": "fp32",
        "device": "cpu",
        "threads": options.threads,
    }
    return {"checkpoint": str(checkpoint), "output": str(output), "tasks": [task], **plain, **further}


class Peer:
    """The same model by transformers' Trainer, on the same sequences."""

    def __init__(self, checkpoint: Path, folder: Path, pairs: Path, options: argparse.Namespace) -> None:
        from transformers import AutoModelForSequenceClassification, DataCollatorWithPadding, PreTrainedTokenizerFast

        export(checkpoint, folder)
        self._model = AutoModelForSequenceClassification.from_pretrained(folder, attn_implementation="sdpa")
        reader = Reader(checkpoint)
        rows = [json.loads(line) for line in pairs.read_text().splitlines()]
        sides = [reader.ids([row[name] for row in rows]) for name in ("text", "second")]
        self._examples = []
        for row, first, second in zip(rows, *sides, strict=True):
            one = reader.pair(first, second)
            types, mask = one.segments.tolist(), [1] * len(one.ids)
            entry = {"input_ids": one.ids.tolist(), "token_type_ids": types, "attention_mask": mask}
            self._examples.append({**entry, "labels": row["label"]})
        tokenizer = PreTrainedTokenizerFast(tokenizer_object=reader.tokenizer, pad_token=f"w{PADDING}")
        self._collator = DataCollatorWithPadding(tokenizer)
        self._options, self._trained = options, 0

    def window(self) -> Speed:
        """The speed of some steps, with a new optimiser and behind a step that is not timed."""
        from transformers import Trainer, TrainerCallback, TrainingArguments
        from transformers.trainer_callback import PrinterCallback

        masks: list[torch.Tensor] = []
        speeds: list[Speed] = []
        steps = self._options.steps

        class Counting(Trainer):
            def training_step(self, model: Any, inputs: dict[str, Any], *rest: Any, **more: Any) -> torch.Tensor:
                masks.append(inputs["attention_mask"])
                return super().training_step(model, inputs, *rest, **more)

        class Clock(TrainerCallback):
            begin = Clocks.now()

            def on_step_end(self, args: Any, state: Any, control: Any, **facts: Any) -> None:
                if state.global_step == 1:
                    masks.clear()
                    self.begin = Clocks.now()
                elif state.global_step == steps + 1:
                    speeds.append(speed_since(self.begin, masks))

        self._trained += 1
        with tempfile.TemporaryDirectory() as scratch:
            arguments = TrainingArguments(
                output_dir=scratch,
                per_device_train_batch_size=self._options.batch,
                max_steps=steps + 1,
                seed=self._trained,
                use_cpu=True,
                train_sampling_strategy="group_by_length",
                dataloader_pin_memory=False,
                logging_steps=steps + 1,
                save_strategy="no",
                report_to="none",
                disable_tqdm=True,
            )
            trainer = Counting(
                model=self._model,
                args=arguments,
                data_collator=self._collator,
                train_dataset=self._examples,  # type: ignore[arg-type]
                callbacks=[Clock()],
            )
            trainer.remove_callback(PrinterCallback)
            trainer.train()
        return speeds[0]


def step_rows(name: str, ragged: bool, options: argparse.Namespace) -> list[Row]:
    """Speed of ours beside the Trainer's."""
    kind = "ragged" if ragged else "even"
    with tempfile.TemporaryDirectory() as scratch:
        folder = Path(scratch)
        checkpoint = make_checkpoint(folder, name)
        pairs = write_pairs(folder / "pairs.jsonl", 40 * options.batch, options.length, ragged)
        peer = Peer(checkpoint, folder / "theirs", pairs, options)
        ours: list[tuple[float, float, int]] = []
        theirs: list[Speed] = []
        clock = Clocks.now()

        def report(event: dict[str, Any]) -> None:
            nonlocal clock
            if event["event"] != "progress":
                clock = Clocks.now()
                return
            spent = Clocks.now()
            ours.append((spent.wall - clock.wall, spent.processor - clock.processor, event["tokens"]))
            theirs.append(peer.window())
            clock = Clocks.now()

        run(settings(checkpoint, folder / "out", pairs, options), report)
    tokens = np.diff([0, *(one[2] for one in ours)])
    rates = [count / one[0] for count, one in zip(tokens, ours, strict=True)][1:]
    busy = statistics.median(1e6 * one[1] / count for count, one in zip(tokens, ours, strict=True))
    their_busy = statistics.median(1e6 * speed.processor_seconds / speed.tokens for speed in theirs)
    their_rates = [speed.rate for speed in theirs][1:]
    note = f"us of CPU a token: ours {busy:.0f}, theirs {their_busy:.0f}"
    title = f"BERT {name}, batch {options.batch}, {options.length} tokens, {kind}"
    version = package_version("transformers") or ""
    return [
        Row(f"{title}, {measure}", "tokens/s", of(rates), of(their_rates), PEER, version, note)
        for measure, of in (("best", max), ("median", statistics.median))
    ]


def memory_rows(name: str, options: argparse.Namespace) -> list[Row]:
    """What LoRA saves: resident memory of the whole process at its peak, and what belongs to the weights."""
    found = {}
    with tempfile.TemporaryDirectory() as scratch:
        folder = Path(scratch)
        checkpoint = make_checkpoint(folder, name)
        pairs = write_pairs(folder / "pairs.jsonl", 4 * options.batch, options.length, False)
        for method in ("full", "lora"):
            adapter = {"method": method, "targets": ["all"]}
            output = folder / method
            config = settings(checkpoint, output, pairs, options, adapter=adapter, max_steps=5, merge=False)
            (folder / "config.json").write_text(json.dumps(config))
            command = shlex.join([sys.executable, "-m", "training.finetuning", str(folder / "config.json")])
            # A process begins with the peak of the one that started it: a shell, and not this one.
            subprocess.run(["sh", "-c", f"{command}; exit $?"], check=True, stdout=subprocess.DEVNULL)
            found[method] = json.loads((output / "results.json").read_text())
    full, lora = found["full"], found["lora"]
    rows = []
    for title, keys in (
        ("peak resident memory", ("peak_bytes",)),
        ("weights, gradients, optimiser", ("weights_bytes", "gradient_bytes", "optimizer_bytes")),
        ("gradients, optimiser", ("gradient_bytes", "optimizer_bytes")),
    ):
        sizes = [sum(one["memory"][key] for key in keys) / 1e6 for one in (lora, full)]
        share = lora["parameters"]["trained"] / lora["parameters"]["all"]
        note = f"LoRA trains {share:.2%} of the weights"
        rows.append(Row(f"BERT {name}, {title}", "MB", sizes[0], sizes[1], "full", note=note))
    return rows


def parser() -> argparse.ArgumentParser:
    """Of the command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--json", type=Path, metavar="FILE", help="write the rows as JSON, too")
    parser.add_argument("--models", type=lambda text: text.split(","), default=["4x256", "6x384"])
    parser.add_argument("--only", type=lambda text: text.split(","), default=["step", "memory"])
    parser.add_argument("--length", type=int, default=64, help="tokens of an example, at the median")
    parser.add_argument("--batch", type=int, default=32)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--steps", type=int, default=4, help="timed steps of each side in a round")
    parser.add_argument("--threads", type=int, default=2)
    return parser


def main(arguments: list[str] | None = None) -> list[Row]:
    options = parser().parse_args(arguments)
    rows: list[Row] = []
    for name in options.models:
        parts = [functools.partial(step_rows, name, ragged, options) for ragged in (False, True)]
        parts = parts if "step" in options.only else []
        for part in [*parts, *([functools.partial(memory_rows, name, options)] if "memory" in options.only else [])]:
            found = part()
            print(table(found, name), flush=True)  # what is known stays known if the call is cut off
            rows += found
        if options.json:
            write(rows, options.json)
    print(table(rows, f"Fine-tuning on a CPU, {options.threads} threads, torch {torch.__version__}"))
    return rows


if __name__ == "__main__":
    main()
