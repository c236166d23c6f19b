"""Deduplication at scale: ten million synthetic signatures through ordering and banding, and a plan for a billion.

    python -m benchmarks.dedup_scale [--signatures 10000000] [--documents 1000000000] [--text-bytes 4000]
        [--cores 2,64,1024] [--workers 2] [--memory-limit-mb 512] [--rates-megabytes 200] [--folder DIR] [--json FILE]

First the stages `order`, `candidates` and `duplicates` (with connected components: there is no text to verify with) run
on signatures made at random, in which a tenth of the documents are near copies of an earlier one at a Jaccard
similarity of 0.9, a twentieth are exact copies, and 100,000 are pages of one template, all in one bucket of each of
four bands. What the bands should find follows from the similarity; what they find is beside it. Memory and disk are
sampled.

Then all stages run on a small corpus of text (benchmarks.duplicates) for the rates that hang on text, and a simulation
hands the units of every stage of a larger corpus, each as long as the measured rates make it, to a number of cores:
hours, bytes on disk and memory follow. It leaves out what was not measured: networks, object stores, stragglers.
"""

from __future__ import annotations

import argparse
import heapq
import json
import math
import shutil
import sys
import tempfile
import time
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
from rich.console import Console
from rich.table import Table

from benchmarks.dedup import environment, recipe_of, run_stages
from benchmarks.duplicates import CorpusPlan, write_corpus
from benchmarks.peak import Peak, disk_bytes, run_measured
from benchmarks.rows import Row, parser, show
from pipeline.dedup.config import DedupConfig
from pipeline.dedup.signatures import band_column, band_keys, signature_schema
from pipeline.dedup.stages import SIGNATURE_GROUP_ROWS, Candidates, Duplicates, PreferenceOrder, Signatures
from pipeline.documents import DOCUMENT_SCHEMA
from pipeline.execution import run_stage
from pipeline.stage import Stage, StageConfig, Unit, UnitOutput
from pipeline.store import Committed, StageRef, Store, read_json

MIB = 1 << 20
SHARD_DOCUMENTS = 250_000
NEAR, SIMILARITY = 0.1, 0.9
EXACT = 0.05
TEMPLATED, TEMPLATE_BANDS = 100_000, 4  # pages that share so many bands whole
GLOBAL_STAGES = ("order", "candidates", "duplicates")


class SyntheticDocuments(Stage[StageConfig]):
    """Stands where ingest stands: documents with an id and no text."""

    name = "ingest"
    version = 1

    def __init__(self, documents: int) -> None:
        super().__init__(StageConfig(), {})
        self.documents = documents

    def identity(self) -> Any:
        return self.documents

    def units(self) -> list[Unit]:
        return [
            Unit(number, f"shard {number}", {"size": min(SHARD_DOCUMENTS, self.documents - first)})
            for number, first in enumerate(range(0, self.documents, SHARD_DOCUMENTS))
        ]

    def process(self, unit: Unit, output: UnitOutput) -> None:
        first, size = unit.index * SHARD_DOCUMENTS, unit.spec["size"]
        nothing = pa.nulls(size, pa.string())
        columns = dict.fromkeys(DOCUMENT_SCHEMA.names, nothing)
        columns["id"] = ids_of(np.arange(first, first + size))
        columns["text"] = pa.repeat(pa.scalar("", pa.large_string()), size)
        columns["source"] = columns["locator"] = pa.repeat("synthetic", size)
        output.write("documents", pa.table(columns, schema=DOCUMENT_SCHEMA), SIGNATURE_GROUP_ROWS)
        output.count(read=size, kept=size)


class SyntheticSignatures(Signatures):
    """Stands where signatures stand: random ones with near copies, exact copies and pages of a template."""

    version = -1

    def process(self, unit: Unit, output: UnitOutput) -> None:
        start = unit.index * SHARD_DOCUMENTS
        end = start + unit.spec["file"]["rows"]
        with output.parquet("signatures", signature_schema(self.config), SIGNATURE_GROUP_ROWS) as sink:
            for first in range(start, end, SIGNATURE_GROUP_ROWS):
                sink.write(self._table(np.arange(first, min(first + SIGNATURE_GROUP_ROWS, end))))
        output.count(read=end - start, kept=end - start)

    def _table(self, numbers: np.ndarray) -> pa.Table:
        """Signatures by number: that of an odd document may be a copy of that of the even one before it."""
        size, width = len(numbers), self.config.permutations
        even, odd = numbers // 2 * 2, numbers % 2 == 1
        draw = _random(numbers, 1)[:, 0] / 2**32
        near, exact = odd & (draw < 2 * NEAR), odd & (draw >= 2 * NEAR) & (draw < 2 * (NEAR + EXACT))
        kept = _random(numbers + 2**40, width) < SIMILARITY * 2**32
        values = _random(even, width)
        step = 2 * max(1, self.inputs["ingest"].committed().counts["kept"] // (2 * TEMPLATED))
        values[even % step == 0, : TEMPLATE_BANDS * self.config.rows] = 7
        values = np.where(near[:, None] & kept | (exact | ~odd)[:, None], values, _random(numbers, width))
        columns = {
            "id": ids_of(numbers),
            "source": pa.repeat("synthetic", size),
            "date": pa.nulls(size, pa.string()),
            "text_bytes": pa.repeat(pa.scalar(0, pa.int64()), size),
            "shingles": pa.array(1 + (5000 * draw**4).astype(np.int64)),
            "digest": _binary(_random(np.where(exact, even, numbers) + 2**41, 4)),
            "signature": _binary(values),
        }
        for band, keys in enumerate(band_keys(values, self.config.bands, self.config.rows)):
            columns[band_column(band)] = pa.array(keys)
        return pa.table(columns, schema=signature_schema(self.config))


def _random(numbers: np.ndarray, width: int) -> np.ndarray:
    """Numbers (documents, width), uint32, that follow from each document's number alone (SplitMix64)."""
    state = numbers.astype(np.uint64)[:, None] * np.uint64(0x9E3779B97F4A7C15) + np.arange(
        1, width + 1, dtype=np.uint64
    ) * np.uint64(0xD1342543DE82EF95)
    state = (state ^ (state >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
    state = (state ^ (state >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    return ((state ^ (state >> np.uint64(31))) >> np.uint64(32)).astype(np.uint32)


def ids_of(numbers: np.ndarray) -> pa.Array:
    """Ids of 32 hexadecimal digits, in an order that is not that of the numbers."""
    digits = np.frombuffer(b"0123456789abcdef", np.uint8)
    data = np.ascontiguousarray(_random(numbers, 4)).view(np.uint8)
    text = np.stack([digits[data >> 4], digits[data & 15]], axis=2).reshape(-1)
    offsets = np.arange(0, 32 * len(numbers) + 1, 32, dtype=np.int32)
    return pa.Array.from_buffers(pa.string(), len(numbers), [None, pa.py_buffer(offsets), pa.py_buffer(text)])


def _binary(values: np.ndarray) -> pa.Array:
    width = pa.binary(values.shape[1] * values.itemsize)
    return pa.FixedSizeBinaryArray.from_buffers(width, len(values), [None, pa.py_buffer(np.ascontiguousarray(values))])


def run_synthetic(folder: str, signatures: int, workers: int, memory_limit_mb: int) -> dict[str, Any]:
    """Make signatures, run the global stages on them and return seconds, core seconds, counts and bytes of each."""
    store, config = Store.at(folder), DedupConfig(verify=False, memory_limit_mb=memory_limit_mb)
    refs: dict[str, StageRef] = {}
    facts: dict[str, Any] = {}

    def run(stage: Stage[Any]) -> Committed:
        refs[stage.name] = store.ref(stage.name, stage.fingerprint())
        started = time.perf_counter()
        committed = run_stage(stage, store, workers)
        facts[stage.name] = stage_facts(committed, time.perf_counter() - started)
        return committed

    run(SyntheticDocuments(signatures))
    for stage in (SyntheticSignatures, PreferenceOrder, Candidates, Duplicates):
        run(stage(config, refs.copy()))
    facts["expected_near"] = NEAR * signatures * (1 - (1 - SIMILARITY**config.rows) ** config.bands)
    return facts


def stage_facts(committed: Committed, seconds: float) -> dict[str, Any]:
    """What a stage cost: seconds of the clock and of the processor, memory of its largest process, bytes written."""
    execution = read_json(f"{committed.path}/execution.json")
    return {
        "seconds": seconds,
        "cpu_seconds": execution["cpu_seconds"],
        "memory": execution["peak_memory_bytes"],
        "bytes": disk_bytes(Path(committed.path)),
        "counts": committed.counts,
    }


def run_text(folder: str, megabytes: float, workers: int) -> dict[str, Any]:
    """Run every stage on a small corpus of text: what `stage_facts` returns for each."""
    corpus = write_corpus(Path(folder, "corpus"), CorpusPlan.of_size(megabytes))
    seconds, committed = run_stages(recipe_of(corpus.documents_folder), f"{folder}/workspace", workers)
    facts = {name: stage_facts(stage, seconds[name]) for name, stage in committed.items()}
    return {"stages": facts, "documents": corpus.documents, "text_bytes": corpus.text_bytes}


@dataclass(frozen=True)
class Work:
    """A stage of a larger corpus: core seconds in all, how many units share them, and cores that a unit can use."""

    core_seconds: float
    units: int
    cores_a_unit: int
    disk_bytes: float
    memory_bytes: float


def hours(works: Mapping[str, Work], cores: int) -> dict[str, float]:
    """Hours of each stage on so many cores: units go to whichever cores are free first, stage after stage."""
    result = {}
    for name, work in works.items():
        wide = min(work.cores_a_unit, cores)
        free = [0.0] * max(1, cores // wide)
        unit = work.core_seconds / work.units / wide
        for _ in range(work.units):
            heapq.heappush(free, heapq.heappop(free) + unit)
        result[name] = max(free) / 3600
    return result


def project(
    synthetic: Mapping[str, Any], text: Mapping[str, Any], documents: int, text_bytes: int, cores: int
) -> dict[str, Work]:
    """The work of every stage for so many documents of so many bytes, by the measured rates.

    What is sorted grows as n log n, everything else linearly. Sorts and the verification use the cores of one machine,
    `cores` at most; the memory of `order` and `duplicates` is what their arrays take where it is to stay in memory.
    """
    counts, stages = synthetic["order"]["counts"]["read"], text["stages"]
    grown = documents / counts
    sorted_ = grown * math.log2(documents) / math.log2(counts)
    bytes_grown = documents * text_bytes / text["text_bytes"]
    texts_in_pairs = stages["duplicates"]["cpu_seconds"] * bytes_grown
    shards = max(1, documents * text_bytes // (256 * MIB))
    bands, one = DedupConfig().bands, min(cores, 64)

    def memory(name: str) -> float:
        return max(synthetic.get(name, stages[name])["memory"], stages[name]["memory"])

    compared = documents * stages["duplicates"]["counts"]["compared"] / text["documents"]
    return {
        "signatures": Work(
            stages["signatures"]["cpu_seconds"] * bytes_grown,
            shards,
            1,
            synthetic["signatures"]["bytes"] * grown,
            memory("signatures"),
        ),
        "order": Work(
            synthetic["order"]["cpu_seconds"] * sorted_, 1, one, synthetic["order"]["bytes"] * grown, 13.0 * documents
        ),
        "candidates": Work(
            synthetic["candidates"]["cpu_seconds"] * sorted_,
            bands,
            max(1, one // bands),
            synthetic["candidates"]["bytes"] * grown,
            memory("candidates"),
        ),
        "duplicates": Work(
            texts_in_pairs,
            1,
            one,
            synthetic["duplicates"]["bytes"] * grown + 2.0 * compared * text_bytes,  # shingles, and tables of them
            4.0 * documents + documents / 8 + 60 * compared,
        ),
        "deduplicate": Work(
            stages["deduplicate"]["cpu_seconds"] * bytes_grown,
            shards,
            1,
            stages["deduplicate"]["bytes"] * bytes_grown,
            memory("deduplicate"),
        ),
    }


def show_projection(works: Mapping[str, Work], documents: int, text_bytes: int, cores: list[int]) -> None:
    """Print the plan for a larger corpus."""
    title = (
        f"Planned: {documents:,} documents of {text_bytes:,} bytes ({documents * text_bytes / 1e12:,.1f} TB of text)"
    )
    table = Table(title=title, title_justify="left")
    for column in ("stage", "units", "core hours", "disk, GB", "memory a worker, GB"):
        table.add_column(column, justify="left" if column == "stage" else "right")
    for each in cores:
        table.add_column(f"hours on {each:,} cores", justify="right")
    by_cores = {each: hours(works, each) for each in cores}
    for name, work in works.items():
        table.add_row(
            name,
            f"{work.units:,}",
            f"{work.core_seconds / 3600:,.1f}",
            f"{work.disk_bytes / 1e9:,.0f}",
            f"{work.memory_bytes / 1e9:,.1f}",
            *(f"{by_cores[each][name]:,.2f}" for each in cores),
        )
    table.add_section()
    totals = (f"{sum(by_cores[each].values()):,.2f}" for each in cores)
    core_hours, disk = (
        (sum(work.core_seconds for work in works.values()) / 3600),
        sum(w.disk_bytes for w in works.values()),
    )
    table.add_row("all", "", f"{core_hours:,.1f}", f"{disk / 1e9:,.0f}", "", *totals)
    Console().print(table)


def rows_of(synthetic: Mapping[str, Any], peak: Peak) -> Iterator[Row]:
    """What the run on synthetic signatures showed."""
    size = synthetic["order"]["counts"]["read"]
    for name in GLOBAL_STAGES:
        yield Row(f"{name}, {size:,} signatures", "s", synthetic[name]["seconds"])
    yield Row("candidates, keys a second", "millions/s", 14 * size / synthetic["candidates"]["seconds"] / 1e6)
    yield Row("pairs a document", "pairs", synthetic["candidates"]["counts"]["pairs"] / size)
    found = synthetic["duplicates"]["counts"]
    wanted = TEMPLATED - 1 + EXACT * size + synthetic["expected_near"]
    share = (found["exact_duplicates"] + found["near_duplicates"]) / wanted
    yield Row("copies found, of those that the bands should find", "share", share)
    yield Row("peak memory, largest process", "MiB", peak.process_bytes / MIB)
    yield Row("peak memory, all processes", "MiB", peak.tree_bytes / MIB)
    yield Row("peak memory, all processes, without mapped files", "MiB", peak.anonymous_bytes / MIB)
    yield Row("peak disk, signatures included", "GB", peak.disk_bytes / 1e9)


def measured(work: str, folder: Path, **request: Any) -> tuple[dict[str, Any], Peak]:
    """Carry out one part in a process of its own, and sample its memory and disk."""
    folder.mkdir(parents=True)
    request = {"work": work, "folder": str(folder), **request}
    command = [sys.executable, "-m", "benchmarks.dedup_scale", "--work", json.dumps(request)]
    printed, peak = run_measured(command, folder, environment())
    return json.loads(printed.splitlines()[-1]), peak


def main() -> None:
    arguments = _arguments()
    if arguments.work:
        request = json.loads(arguments.work)
        print(json.dumps({"synthetic": run_synthetic, "text": run_text}[request.pop("work")](**request)))
        return
    folder = Path(tempfile.mkdtemp(dir=arguments.folder))
    try:
        size, workers = arguments.signatures, arguments.workers
        limit = arguments.memory_limit_mb
        request = {"signatures": size, "workers": workers, "memory_limit_mb": limit}
        synthetic, peak = measured("synthetic", folder / "synthetic", **request)
        shutil.rmtree(folder / "synthetic")
        text, _ = measured("text", folder / "text", megabytes=arguments.rates_megabytes, workers=workers)
    finally:
        shutil.rmtree(folder, ignore_errors=True)
    rows = [*rows_of(synthetic, peak)]
    show(rows, f"{size:,} synthetic signatures, {workers} workers of {limit} MB each for DuckDB", arguments.json)
    works = project(synthetic, text, arguments.documents, arguments.text_bytes, max(arguments.cores))
    show_projection(works, arguments.documents, arguments.text_bytes, arguments.cores)


def _arguments() -> argparse.Namespace:
    options = parser("Deduplication at scale: ten million synthetic signatures, and a plan for a billion documents.")
    options.add_argument("--signatures", type=int, default=10_000_000)
    options.add_argument("--documents", type=int, default=10**9, help="of the larger corpus")
    options.add_argument("--text-bytes", type=int, default=4000, help="mean size of its documents")
    options.add_argument("--cores", type=lambda text: [int(part) for part in text.split(",")], default=[2, 64, 1024])
    options.add_argument("--workers", type=int, default=2)
    limit = DedupConfig().memory_limit_mb
    options.add_argument("--memory-limit-mb", type=int, default=limit, help="of DuckDB, for each worker")
    options.add_argument("--rates-megabytes", type=float, default=200.0, help="text to measure rates on")
    options.add_argument("--folder", type=Path, help="where temporary files go")
    options.add_argument("--work", help=argparse.SUPPRESS)
    return options.parse_args()


if __name__ == "__main__":
    main()
