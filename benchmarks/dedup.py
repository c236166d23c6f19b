"""Deduplication from Parquet to Parquet, verified: speed, memory, disk, growth; beside datatrove's four MinHash stages.

    python -m benchmarks.dedup [--megabytes 50] [--peer-megabytes 20] [--growth 20000,100000] [--json FILE]
    python -m benchmarks.dedup --megabytes 1000 --peer-megabytes 200 --growth 100000,1000000,10000000

The corpus is that of `benchmarks.duplicates`: 20 % copies of 13 kinds, 10 % pages of templates. Ours is what a recipe
does from its Parquet files to the documents that stay: `ingest` and the stages of deduplication, as `headrace run`
carries them out, with the ledger. datatrove (in the peers' environment, `benchmarks/peers.sh`) reads the same Parquet
and writes what stays as Parquet. Both have two workers (`--workers`), one after the other in the same run.

Seconds are wall time inside a process of its own: Python and its modules are loaded before, and our kernels are
compiled before, as `make setup` does; starting workers is in them on both sides. The ratio is that of the size that
both have had (`--peer-megabytes`, as the peer takes hours for large ones); it grows with the size, as ours has a start
of some seconds. CPU seconds are of all processes, loading Python and its modules among them; a busy machine stretches
them less than the wall time. Memory is resident memory sampled every 50 ms: of the largest process, and of all
processes together (shared pages once a process). Growth is over documents of about 100 words.
"""

from __future__ import annotations

import importlib
import json
import os
import subprocess
import sys
import tempfile
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from benchmarks.duplicates import Corpus, CorpusPlan, write_corpus
from benchmarks.peak import Peak, run_measured
from benchmarks.peers import peers_python
from benchmarks.rows import Row, parser, show

LAST_STAGE = "deduplicate"
SHORT_WORDS = 100
MIB = 1 << 20
ROOT = Path(__file__).parents[1]


@dataclass(frozen=True)
class Run:
    """A deduplication: seconds by stage, documents that stay, and what it took."""

    seconds: dict[str, float]
    kept: int
    peak: Peak
    version: str = ""

    @property
    def total(self) -> float:
        return sum(self.seconds.values())

    @property
    def peaks(self) -> dict[str, float]:
        """MiB of memory and disk."""
        return {
            "memory, largest process": self.peak.process_bytes / MIB,
            "memory, all processes": self.peak.tree_bytes / MIB,
            "memory, all processes, without mapped files": self.peak.anonymous_bytes / MIB,
            "disk": self.peak.disk_bytes / MIB,
        }


def recipe_of(documents: Path, **deduplicate: Any) -> dict[str, Any]:
    """A recipe over a folder of Parquet files with id, text, url and date; the ids are kept as metadata."""
    source = {"name": "planted", "format": "parquet", "path": str(documents / "*.parquet"), "metadata_fields": ["id"]}
    return {"name": "dedup", "ingest": {"sources": [source]}, "deduplicate": deduplicate}


def environment() -> dict[str, str]:
    """The environment of a process that imports these modules from anywhere."""
    return {**os.environ, "PYTHONPATH": str(ROOT)}


def run_stages(recipe: dict[str, Any], workspace: str, workers: int) -> tuple[dict[str, float], dict[str, Any]]:
    """Run the stages up to `deduplicate`: seconds of each, and what each committed."""
    from flows.plan import make_plan
    from pipeline.execution import run_stage

    seconds, committed = {}, {}
    started = time.perf_counter()
    plan = make_plan(recipe, workspace)  # the digests of the input are taken here
    names = [*plan.stages]
    for name in names[: names.index(LAST_STAGE) + 1]:
        committed[name] = run_stage(plan.stages[name], plan.store, workers)
        ended = time.perf_counter()
        seconds[name], started = ended - started, ended
    return seconds, committed


def work(request: dict[str, Any]) -> None:
    """Carry out one deduplication in this process and print its measures."""
    for module in ("flows.plan", "pipeline.execution"):  # before the clock starts
        importlib.import_module(module)
    seconds, committed = run_stages(**request)
    print(json.dumps({"seconds": seconds, "kept": committed[LAST_STAGE].counts["kept"]}))


def measure_ours(corpus: Corpus, scratch: Path, workers: int) -> Run:
    """Deduplicate a corpus in a process of its own."""
    request = {"recipe": recipe_of(corpus.documents_folder), "workspace": str(scratch), "workers": workers}
    command = [sys.executable, "-m", "benchmarks.dedup", "--work", json.dumps(request)]
    printed, peak = run_measured(command, scratch, environment())
    return Run(peak=peak, **json.loads(printed))


def measure_datatrove(corpus: Corpus, scratch: Path, workers: int) -> Run:
    """datatrove's four stages in a process of their own."""
    script = Path(__file__).parent / "peers/datatrove_dedup.py"
    command = [*map(str, (peers_python(), script, corpus.documents_folder, scratch, workers))]
    printed, peak = run_measured(command, scratch, os.environ)
    return Run(peak=peak, **json.loads(printed.splitlines()[-1]))


def size_of(corpus: Corpus) -> str:
    return f"{corpus.text_bytes / 1e6:,.0f} MB, {corpus.documents:,} documents"


def comparison_rows(corpus: Corpus, scratch: Path, workers: int) -> list[Row]:
    """Both sides on one corpus."""
    ours, theirs = measure_ours(corpus, scratch / "ours", workers), measure_datatrove(corpus, scratch / "peer", workers)
    stages = ", ".join(f"{name} {taken:.1f} s" for name, taken in theirs.seconds.items())
    print(f"{size_of(corpus)}: kept {ours.kept:,}; datatrove {theirs.kept:,} ({stages})", flush=True)
    peer = ("datatrove", theirs.version)
    megabytes = corpus.text_bytes / 1e6
    where = size_of(corpus)
    return [
        Row(f"Parquet to Parquet, {where}", "MB/s", megabytes / ours.total, megabytes / theirs.total, *peer),
        Row(f"Parquet to Parquet, {where}", "s", ours.total, theirs.total, *peer),
        Row(f"Parquet to Parquet, {where}", "CPU s", ours.peak.cpu_seconds, theirs.peak.cpu_seconds, *peer),
        *(
            Row(f"peak {label}, {where}", "MiB", mebibytes, theirs.peaks[label], *peer)
            for label, mebibytes in ours.peaks.items()
        ),
    ]


def own_rows(corpus: Corpus, scratch: Path, workers: int, stages: bool) -> list[Row]:
    """Ours alone on one corpus."""
    ours = measure_ours(corpus, scratch / "ours", workers)
    where, megabytes = size_of(corpus), corpus.text_bytes / 1e6
    print(f"{where}: kept {ours.kept:,}", flush=True)
    return [
        Row(f"Parquet to Parquet, {where}", "s", ours.total),
        Row(f"Parquet to Parquet, {where}", "MB/s", megabytes / ours.total),
        Row(f"Parquet to Parquet, {where}", "CPU s", ours.peak.cpu_seconds),
        *(Row(f"stage {name}, {where}", "s", taken) for name, taken in ours.seconds.items() if stages),
        *(Row(f"peak {label}, {where}", "MiB", mebibytes) for label, mebibytes in ours.peaks.items()),
    ]


def on_corpus(plan: CorpusPlan, folder: str | None, measure: Any, *arguments: Any) -> list[Row]:
    """Make a corpus in a folder of its own, measure, and remove it."""
    with tempfile.TemporaryDirectory(dir=folder) as scratch:
        return measure(write_corpus(Path(scratch, "corpus"), plan), Path(scratch), *arguments)


def main() -> None:
    arguments = parser(__doc__ or "")
    arguments.add_argument("--megabytes", type=float, default=50, help="text for ours; 0: skip")
    arguments.add_argument("--peer-megabytes", type=float, default=20, help="text that both sides have; 0: skip")
    arguments.add_argument("--growth", default="20000,100000", help="numbers of documents, or nothing")
    arguments.add_argument("--workers", type=int, default=2)
    arguments.add_argument("--folder", help="where corpora and outputs lie; by default among the temporary files")
    arguments.add_argument("--work", type=json.loads, help=json.dumps("a deduplication to do in this process"))
    options = arguments.parse_args()
    if options.work:
        work(options.work)
        return
    subprocess.run([sys.executable, "-m", "pipeline.compile_kernels"], check=True, env=environment())
    rows: list[Row] = []
    if options.peer_megabytes:
        plan = CorpusPlan.of_size(options.peer_megabytes)
        rows += on_corpus(plan, options.folder, comparison_rows, options.workers)
    if options.megabytes:
        plan = CorpusPlan.of_size(options.megabytes)
        rows += on_corpus(plan, options.folder, own_rows, options.workers, True)
    for documents in map(int, filter(None, options.growth.split(","))):
        files = max(2, documents // 500_000)
        plan = CorpusPlan(documents, median_words=SHORT_WORDS, sigma=0.5, files=files)
        rows += on_corpus(plan, options.folder, own_rows, options.workers, False)
    show(rows, f"Deduplication, {options.workers} workers, wall time", options.json)


if __name__ == "__main__":
    main()
