"""Repeated lines, paragraphs and sentences found and cut, beside datatrove's sentence deduplication.

    python -m benchmarks.repeats [--megabytes 12] [--peer-megabytes 1] [--kinds prose technical chinese] [--json FILE]

Ours: documents in memory, one thread; every unit of one word or more, counted exactly and by the filter of bounded
memory; both passes over the text and the cutting, in process time, the best of three. `scan` is the first pass alone,
without counting. datatrove runs in the peers' environment (`benchmarks/peers.sh`) on a smaller part of the English
documents, without its start and the loading of its tokenizer: its three stages, lines and spans of three sentences.
The corpora are even samples of real documents; where more is asked for than there is, they repeat, so that most of a
corpus goes.
"""

from __future__ import annotations

import json
import subprocess
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow.compute as pc

from benchmarks.corpora import KINDS, Text, arrow, texts
from benchmarks.peers import peers_python
from benchmarks.rows import Row, parser, show
from pipeline.repeats.kept import KeptBatch, KeptInMemory
from pipeline.repeats.line_units import find_units
from pipeline.repeats.lines import LineRule, LinesConfig, find_repeated_lines
from pipeline.repeats.spans import cut_spans

BATCH_ROWS = 256
UNITS = ("line", "paragraph", "sentences")
METHODS = ("exact", "bloom")
REPEATS = 3


def kept_documents(documents: list[Text]) -> KeptInMemory:
    """One shard, preferred in the order of the documents."""
    batches = []
    for start in range(0, len(documents), BATCH_ROWS):
        rows = np.arange(start, min(start + BATCH_ROWS, len(documents)))
        batches.append(KeptBatch(0, rows, rows.astype(np.uint32), arrow(documents[rows[0] : rows[-1] + 1])))
    return KeptInMemory(batches)


def deduplicate(kept: KeptInMemory, config: LinesConfig) -> dict[str, Any]:
    """Find and cut: the bytes that went, and what the finder says of itself."""
    gone = 0
    with tempfile.TemporaryDirectory() as scratch:
        found = find_repeated_lines(kept, config, Path(scratch), 1)
        for spans in found.tables():
            rows = spans["row"].to_numpy()
            for batch in kept.batches:
                begin, end = np.searchsorted(rows, [batch.rows[0], batch.rows[-1] + 1])
                own = spans.slice(begin, end - begin)
                cut = cut_spans(batch.texts, batch.rows, own, [config.rules[0].name])
                gone += pc.sum(cut.cuts["bytes"]).as_py() or 0
    return {"gone": gone, **found.facts[0]}


def fastest(work: Callable[[], Any]) -> float:
    """Process time in seconds, the least of several runs."""
    work()
    seconds = []
    for _ in range(REPEATS):
        started = time.process_time()
        work()
        seconds.append(time.process_time() - started)
    return min(seconds)


def ask_datatrove(documents: list[Text]) -> dict[str, Any]:
    """What datatrove_lines.py says."""
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder, "documents.jsonl")
        with path.open("w", encoding="utf-8") as stream:
            stream.writelines(json.dumps({"text": item.text}) + "\n" for item in documents)
        script = Path(__file__).parent / "peers/datatrove_lines.py"
        command = [str(peers_python()), str(script), str(path), folder]
        done = subprocess.run(command, check=True, stdout=subprocess.PIPE, text=True, cwd=folder)
    return json.loads(done.stdout.splitlines()[-1])


def rule(unit: str) -> LineRule:
    return LineRule(unit=unit, minimum_words=1)  # type: ignore[arg-type]


def peer_rows(kind: str, megabytes: float) -> list[Row]:
    """Both sides on the same documents."""
    documents = texts(kind, megabytes)
    size = sum(len(item.text.encode()) for item in documents) / 1e6
    theirs, kept = ask_datatrove(documents), kept_documents(documents)
    name, version = "datatrove SentenceDedup", theirs["version"]
    rows = []
    for unit in ("line", "sentences"):
        left = theirs[unit]["kept_bytes"] / 1e6
        for method in METHODS:
            config = LinesConfig(rules=[rule(unit)], method=method)
            ours = size / fastest(lambda config=config: deduplicate(kept, config))  # type: ignore[misc]
            gone = deduplicate(kept, config)["gone"] / 1e6
            label = f"{unit}, {kind}, {size:.1f} MB"
            rows.append(Row(f"{method}, {label}", "MB/s", ours, size / theirs[unit]["seconds"], name, version))
        rows.append(Row(f"text that stays, {label}", "MB", size - gone, left, name, version))
    return rows


def own_rows(kind: str, megabytes: float) -> list[Row]:
    """Ours alone on a larger corpus."""
    documents = texts(kind, megabytes)
    size = sum(len(item.text.encode()) for item in documents) / 1e6
    kept = kept_documents(documents)
    rows = []
    for unit in UNITS:
        label = f"{unit}, {kind}, {size:.0f} MB"
        least = rule(unit)
        scan = fastest(
            lambda unit=unit, least=least: [  # type: ignore[misc]
                find_units(batch.texts, unit, least.sentences, least.minimum_words, False) for batch in kept.batches
            ]
        )
        rows.append(Row(f"scan, {label}", "MB/s", size / scan))
        for method in METHODS:
            config = LinesConfig(rules=[least], method=method)
            seconds = fastest(lambda config=config: deduplicate(kept, config))  # type: ignore[misc]
            rows.append(Row(f"{method}, {label}", "MB/s", size / seconds))
            facts = deduplicate(kept, config)
        rows.append(Row(f"gone, {label}", "%", facts["gone"] / size / 1e4))
    return rows


def main() -> None:
    arguments = parser(__doc__ or "")
    arguments.add_argument("--megabytes", type=float, default=12.0, help="text of each kind for ours alone")
    arguments.add_argument("--peer-megabytes", type=float, default=1.0, help="text of each kind for both sides")
    arguments.add_argument("--kinds", nargs="+", choices=KINDS, default=["prose", "technical", "chinese"])
    options = arguments.parse_args()
    english = [kind for kind in options.kinds if kind in ("prose", "technical")]
    rows = [row for kind in english for row in peer_rows(kind, options.peer_megabytes)]
    rows += [row for kind in options.kinds for row in own_rows(kind, options.megabytes)]
    show(rows, "Repeated lines, paragraphs and sentences: one core, process time", options.json)


if __name__ == "__main__":
    main()
