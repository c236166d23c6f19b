"""Masked language modelling and ELECTRA on two CPU cores, beside transformers' Trainer: tokens a second.

    python -m benchmarks.objectives_cpu [--only bert-tiny,electra-tiny] [--lengths 128,512] [--json FILE]

Both sides train the same model in float32 with AdamW and the published dropout on the same corpus, in one process: some
steps of our trainer, then as many of the peer's, and again. The peer is the Trainer with BertForPreTraining, with
RobertaForMaskedLM, or with ElectraForMaskedLM and ElectraForPreTraining joined over one embedding; scaled dot-product
attention, DataCollatorForLanguageModeling, each batch padded to its longest sequence. It needs accelerate; without it
our side runs alone.

The corpus is drawn: log-normal sentences and documents. `filled`: documents of 16 times the length that the model
reads, so that nearly every sequence is full; `ragged`: a median of 0.8 times the length, spread as on the web. From it
ours packs whole sequences into rows; the peer gets one an example, its pairs made as in BERT's pipeline. A step holds
the same number of tokens on both sides.

tokens/s counts the tokens that are not padding, special ones included. Best and median of the rounds. The note has the
processor time a token, too, which other processes change less; with --threads 1 no thread waits for another.
"""

from __future__ import annotations

import argparse
import statistics
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch

from benchmarks.objectives_measures import VOCABULARY, Case, Rounds, Speed, tokens_per_step
from benchmarks.objectives_peers import Peer, absent
from benchmarks.rows import Row, table, write
from benchmarks.training_ours import fit
from benchmarks.training_peers import package_version

_SMALL = {"layers": 4, "heads": 4, "width": 256}
MODELS: dict[str, tuple[str, dict[str, Any]]] = {
    "bert-tiny": ("bert", {"preset": "bert-tiny"}),
    "bert-4x256": ("bert", {"preset": "bert-tiny", **_SMALL}),
    "roberta-tiny": ("roberta", {"preset": "roberta-tiny"}),
    "electra-tiny": ("electra", {"preset": "electra-tiny"}),
    "electra-4x256": ("electra", {"preset": "electra-small", **_SMALL}),
}
"""The objective and the model of each part."""
DOCUMENTS = {"filled": 16.0, "ragged": 0.8}
"""Median length of a document in sequences."""
CORPUS_SEQUENCES = 2000


def cases(options: argparse.Namespace) -> dict[str, Case]:
    """What is measured, by name."""
    found = {}
    for part in options.only:
        objective, model = MODELS[part]
        for length in options.lengths:
            for kind in options.documents:
                found[f"{part}, T={length}, {kind}"] = Case(
                    {**model, "context_length": length},
                    objective,
                    batch_size=max(1, options.tokens // length),
                    median_document=DOCUMENTS[kind] * length,
                    vocabulary=options.vocabulary,
                    corpus_tokens=CORPUS_SEQUENCES * length,
                    threads=options.threads,
                )
    return found


def rows_of(name: str, case: Case, rounds: int, steps: int) -> list[Row]:
    """Best and median speed of ours, beside the peer's where there is one."""
    peer_name, missing = "transformers Trainer", absent()
    with tempfile.TemporaryDirectory() as scratch:
        run = case.run(Path(scratch), rounds * (1 + steps))
        sides: dict[str, Callable[[int, int], Speed]] = {}
        if missing is None:
            peer = Peer(case, tokens_per_step(run))
            sides[peer_name] = peer.window
        clock = Rounds(sides, steps)
        fit(run, [clock])
    shown = "; ".join(_description(side, speeds) for side, speeds in clock.speeds.items())
    version, rows = package_version("transformers") or "", []
    for measure, of in (("best", max), ("median", statistics.median)):
        rates = {side: of(speed.rate for speed in speeds) for side, speeds in clock.speeds.items()}
        described = (peer_name, version, shown) if missing is None else ("", "", f"{shown}; {missing}")
        rows.append(Row(f"{name}, {measure}", "tokens/s", rates["ours"], rates.get(peer_name), *described))
    return rows


def _description(side: str, speeds: list[Speed]) -> str:
    steps = statistics.median(1 / speed.seconds for speed in speeds)
    busy = statistics.median(1e6 * speed.processor_seconds / speed.tokens for speed in speeds)
    tokens = statistics.mean(speed.tokens for speed in speeds)
    padding = statistics.mean(speed.padding for speed in speeds)
    return f"{side}: {steps:.3g} steps/s of {tokens:,.0f} tokens, {padding:.0%} padding, {busy:.0f} us of CPU a token"


def _choice(known: Any) -> Callable[[str], list[str]]:
    def names(text: str) -> list[str]:
        if unknown := set(text.split(",")) - set(known):
            raise argparse.ArgumentTypeError(f"{', '.join(sorted(unknown))}: there are {', '.join(known)}")
        return text.split(",")

    return names


def parser() -> argparse.ArgumentParser:
    """Of the command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--json", type=Path, metavar="FILE", help="write the rows as JSON, too")
    parser.add_argument("--only", type=_choice(MODELS), default=list(MODELS), help="models, with commas between them")
    parser.add_argument("--documents", type=_choice(DOCUMENTS), default=list(DOCUMENTS), help="filled, ragged")
    parser.add_argument("--lengths", type=lambda text: [int(part) for part in text.split(",")], default=[128, 512])
    parser.add_argument("--vocabulary", type=int, default=VOCABULARY)
    parser.add_argument("--tokens", type=int, default=2048, help="positions of a batch of ours")
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--steps", type=int, default=4, help="timed steps of each side in a round")
    parser.add_argument("--threads", type=int, default=2)
    return parser


def main(arguments: list[str] | None = None) -> list[Row]:
    options = parser().parse_args(arguments)
    rows: list[Row] = []
    for name, case in cases(options).items():
        found = rows_of(name, case, options.rounds, options.steps)
        print(table(found, name), flush=True)  # what is known stays known if the call is cut off
        rows += found
        if options.json:
            write(rows, options.json)
    title = (
        f"Objectives on a CPU, {options.threads} threads, vocabulary {options.vocabulary:,}, torch {torch.__version__}"
    )
    print(table(rows, title))
    return rows


if __name__ == "__main__":
    main()
