"""The statistics and decisions of the published rules, beside datatrove's four filters, in one process on one core.

    python -m benchmarks.filters [--megabytes 1] [--repeats 2] [--json FILE]

Both sides judge the same documents in the same run, in process time of one core, the best of the repeats: English
documentation, English books, Chinese. datatrove runs in the peers' environment (`benchmarks/peers.sh`), without its
start and the loading of its tokenizers; a filter of datatrove stops at the first rule that a document breaks.

Ours measures every signal in one pass, those of the rules that a row does not name included, and then decides by every
rule of the named sets. So `all` is the row that compares like with like, and the rows of single filters set datatrove's
filter alone beside our whole pass. The last rows show the memory of the pass over files of different sizes.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq

from benchmarks.corpora import Text, arrow, texts
from benchmarks.peers import ask_datatrove
from benchmarks.rows import Row, parser, show
from pipeline.quality.c4 import C4
from pipeline.quality.fineweb import FineWeb
from pipeline.quality.gopher import GopherQuality, GopherRepetition
from pipeline.quality.lines import Lines, line_rules
from pipeline.quality.rules import RuleSet, first_failure
from pipeline.quality.signals import measure

SETS: dict[str, tuple[RuleSet, ...]] = {
    "gopher_quality": (GopherQuality(),),
    "gopher_repetition": (GopherRepetition(),),
    "c4": (C4(),),
    "fineweb": (FineWeb(),),
}
SETS["all"] = tuple(rules for members in SETS.values() for rules in members)
KINDS = {"technical": "English documentation", "prose": "English books", "chinese": "Chinese"}
BATCH_ROWS = 1024  # as the annotate stage reads


def judge(batch: pa.Array, languages: Sequence[str | None], sets: Sequence[RuleSet]) -> int:
    """Measure a batch and decide by the rules; the number of documents that stay."""
    signals = measure(batch, languages, line_rules(Lines()))
    signals = signals.append_column("language", pa.array(languages, pa.string()))
    evaluations = [evaluation for rules in sets for evaluation in rules.evaluate(signals)]
    return int((first_failure(evaluations, len(batch)) < 0).sum())


def best_seconds(repeats: int, work: Callable[[], object]) -> float:
    """Process time of the fastest run: at least `repeats` runs, and half a second of them."""
    work()
    found: list[float] = []
    while len(found) < repeats or sum(found) < 0.5:
        started = time.process_time()
        work()
        found.append(time.process_time() - started)
    return min(found)


def speed_rows(kind: str, documents: Sequence[Text], repeats: int) -> list[Row]:
    """MB/s of each set of rules on the documents."""
    megabytes = sum(len(item.text.encode()) for item in documents) / 1e6
    batches = [
        (arrow(documents[at : at + BATCH_ROWS]), [item.language for item in documents[at : at + BATCH_ROWS]])
        for at in range(0, len(documents), BATCH_ROWS)
    ]
    versions, (theirs,) = ask_datatrove("time", documents, repeats)
    rows = []
    for name, sets in SETS.items():
        ours = best_seconds(repeats, lambda sets=sets: [judge(*batch, sets) for batch in batches])  # type: ignore[misc]
        peer = megabytes / theirs[name]
        rows.append(Row(f"{name}, {KINDS[kind]}", "MB/s", megabytes / ours, peer, "datatrove", versions["version"]))
    return rows


def write_documents(path: Path, megabytes: float) -> None:
    """A Parquet file of this much text."""
    schema = pa.schema([("text", pa.large_string())])
    with pq.ParquetWriter(path, schema) as writer:
        for _ in range(max(1, round(megabytes / 8))):
            writer.write_table(pa.table({"text": arrow(texts("technical", 8))}, schema=schema))


def peak_mib() -> float:
    """Peak memory of this process. Not that of getrusage, which begins with the parent's."""
    (line,) = (line for line in Path("/proc/self/status").read_text().splitlines() if line.startswith("VmHWM"))
    return int(line.split()[1]) / 1024


def judge_file(path: str) -> dict[str, float]:
    """Judge the documents of a Parquet file batch by batch; the peak of this process's memory before and after."""

    judge(pa.array(["Warm the kernels up."]), ["en"], SETS["all"])
    before = peak_mib()
    with pq.ParquetFile(path, pre_buffer=False) as documents:
        for batch in documents.iter_batches(BATCH_ROWS, columns=["text"]):
            judge(batch["text"], ["en"] * batch.num_rows, SETS["all"])
    return {"before": before, "after": peak_mib()}


def memory_rows(sizes: Sequence[float]) -> list[Row]:
    """Peak memory of a process of its own over files of each size."""
    rows = []
    with tempfile.TemporaryDirectory() as folder:
        for megabytes in sizes:
            path = Path(folder, f"{megabytes}.parquet")
            write_documents(path, megabytes)
            command = [sys.executable, "-m", "benchmarks.filters", "--judge-file", str(path)]
            root = {**os.environ, "PYTHONPATH": str(Path(__file__).parents[1])}
            done = subprocess.run(command, check=True, capture_output=True, text=True, env=root)
            found = json.loads(done.stdout)
            rows.append(Row(f"peak_memory, {megabytes:g} MB of text", "MiB", found["after"]))
    rows.append(Row("peak_memory, before the first document", "MiB", found["before"]))
    return rows


def main() -> None:
    arguments = parser(__doc__ or "")
    arguments.add_argument("--megabytes", type=float, default=1.0, help="text of each kind for both sides")
    arguments.add_argument("--repeats", type=int, default=2)
    arguments.add_argument("--memory-megabytes", type=float, nargs="+", default=[32.0, 128.0], metavar="SIZE")
    arguments.add_argument("--judge-file", help="judge one Parquet file, and print the memory that it took")
    options = arguments.parse_args()
    if options.judge_file:
        print(json.dumps(judge_file(options.judge_file)))
        return
    rows = [row for kind in KINDS for row in speed_rows(kind, texts(kind, options.megabytes), options.repeats)]
    if Path("/proc").is_dir():
        rows += memory_rows(options.memory_megabytes)
    show(rows, "Filters: one core, process time", options.json)


if __name__ == "__main__":
    main()
