"""The stages of a larger corpus as work: the units that each would have, and what they ask for by the measured rates.

What is sorted (`order`, `candidates`) grows as n log n, a tokenizer and language models with their samples and so not
at all, everything else as its text. A stage that looks across documents is one unit, on one machine.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

from flows.internet.measured import MeasuredRun, MeasuredStage
from flows.internet.work import StageWork, UnitWork
from pipeline.dedup.stages import BAND_KEYS_PER_UNIT
from pipeline.stage import DOCUMENT_STAGES

PER_SHARD = frozenset(
    (
        *("ingest", "signatures", "deduplicate", "annotate", "classify", "perplexity", "filter", "privacy"),
        *("overlaps", "decontaminate"),
    )
)
"""Stages with a unit for each unit of `ingest`."""
GROUPED = frozenset(("tokenize", "marks"))
SORTED = frozenset(("order", "candidates"))
CONSTANT = frozenset(("perplexity_model", "tokenizer"))
PER_DOCUMENT = frozenset(("signatures", "order", "candidates", "duplicates"))
"""Stages whose output grows with the number of documents."""
WIDE_CORES = 64
"""Cores that the sorts and the verification of one machine use at most."""


@dataclass(frozen=True)
class Input:
    """What is to be read: the stored bytes of each unit of `ingest`, and what they hold."""

    unit_bytes: Sequence[float]
    text_bytes: float
    documents: float
    cost: float = 1.0
    """Core seconds of reading a stored byte, over those of the measured sources: it may be packed tighter."""
    kept_deduplicated: float | None = None
    """Share of the text that stays in deduplication; None: as measured."""
    kept_filtered: float | None = None
    """Share of that which stays in the filter; None: as measured."""


@dataclass(frozen=True)
class Scale:
    """How units are made into work."""

    wall: bool = False
    """Whether seconds of the clock that no core was busy count: waits of this machine, not of another."""
    wide_cores: int | None = None
    """Cores that a stage of one unit uses; None: as many as it did when it was measured."""
    most_units: int = 1 << 30
    """More units of a stage are put together for the simulation."""
    request_bytes: float = 0.0
    """Of one request to the storage; 0: storage is not modelled."""
    driver_fixed: float = 0.0
    driver_per_unit: float = 0.0
    """Seconds of planning and committing a stage, and of each of its units."""


def works(run: MeasuredRun, given: Input, scale: Scale) -> list[StageWork]:
    """Return the work of every stage of a run for another input; of those that had nothing to do, none.

    Raises ValueError for an input without units.
    """
    if not len(given.unit_bytes):
        raise ValueError("there are no units to work on")
    return [_work(run, stage, given, scale) for stage in run.stages.values() if stage.units]


def share_of_text(run: MeasuredRun, name: str, given: Input) -> float:
    """Share of the ingested text that reaches a stage."""
    names = [*run.stages]
    deduplicated = name in names and names.index(name) > names.index("deduplicate")
    filtered = deduplicated and names.index(name) > names.index("filter")
    if not deduplicated:
        return 1.0
    text, kept = run.text_bytes, run.stages["deduplicate"].bytes_out
    share = given.kept_deduplicated if given.kept_deduplicated is not None else kept / text
    if filtered:
        into = run.stages["filter"]
        measured = into.bytes_out / into.bytes_in if into.bytes_in else 0.0
        share *= given.kept_filtered if given.kept_filtered is not None else measured
    return share


def _work(run: MeasuredRun, stage: MeasuredStage, given: Input, scale: Scale) -> StageWork:
    sizes, rate = _sizes(run, stage, given), stage.rate()
    clock = stage.rate(wall=True) if scale.wall else rate
    total = sum(sizes)
    growth = _growth(run, stage, given)
    reads, writes = _bytes(run, stage, given)
    wide = stage.name not in PER_SHARD | GROUPED | CONSTANT
    cores = stage.cores
    if wide and scale.wide_cores is not None:
        cores = float(max(1, min(scale.wide_cores, WIDE_CORES) // (len(sizes) if stage.name == "candidates" else 1)))
    together = math.ceil(len(sizes) / scale.most_units)
    groups = [sizes[at : at + together] for at in range(0, len(sizes), together)]
    units = []
    for group in groups:
        size = sum(group)
        part = size / total if total else 1 / len(groups)
        seconds = growth * (rate.fixed * len(group) + rate.per_byte * size)
        waits = growth * (clock.fixed * len(group) + clock.per_byte * size) - seconds / cores if scale.wall else 0.0
        stored = scale.request_bytes > 0
        units.append(
            UnitWork(
                core_seconds=seconds,
                cores=cores,
                requests=part * reads / scale.request_bytes + 4 * len(group) if stored else 0.0,
                read_bytes=part * reads if stored else 0.0,
                write_bytes=part * writes if stored else 0.0,
                wait_seconds=max(0.0, waits),
            )
        )
    return StageWork(
        name=stage.name,
        units=tuple(units),
        driver_seconds=scale.driver_fixed + scale.driver_per_unit * len(sizes),
        warm_seconds=(clock if scale.wall else rate).warm,
        memory_bytes=_memory(stage, given),
        unit_count=len(sizes),
    )


def _sizes(run: MeasuredRun, stage: MeasuredStage, given: Input) -> list[float]:
    """The size of each unit, as the stage's rate counts it."""
    stored = [float(size) for size in given.unit_bytes]
    if stage.name == "ingest":
        return [size * given.cost for size in stored]
    if stage.name in CONSTANT:
        return [unit.size for unit in stage.units]
    text = given.text_bytes * share_of_text(run, stage.name, given)
    if stage.name in PER_SHARD:
        whole = sum(stored)
        return [text * size / whole for size in stored]
    count = 1
    if stage.name in GROUPED:
        count = max(1, min(len(stored), round(text / run.group_bytes)))
    elif stage.name == "candidates":
        count = math.ceil(run.bands / min(run.bands, max(1, BAND_KEYS_PER_UNIT // max(1, int(given.documents)))))
    return [text / count] * count


def _growth(run: MeasuredRun, stage: MeasuredStage, given: Input) -> float:
    if stage.name not in SORTED:
        return 1.0
    # By documents rather than by text, and by the logarithm of their number.
    documents = given.documents / max(1.0, run.documents)
    text = given.text_bytes / max(1.0, run.text_bytes)
    return documents / text * math.log2(max(2.0, given.documents)) / math.log2(max(2.0, run.documents))


def _bytes(run: MeasuredRun, stage: MeasuredStage, given: Input) -> tuple[float, float]:
    """Bytes that a stage reads and writes in all."""
    if stage.name in CONSTANT:
        return stage.input_bytes, stage.written_bytes
    text = given.text_bytes * share_of_text(run, stage.name, given)
    grown = text / stage.bytes_in if stage.bytes_in else 0.0
    documents = given.documents / max(1.0, run.documents)
    by_document = stage.name in PER_DOCUMENT and stage.name != "signatures"
    reads = stage.input_bytes * (documents if by_document else grown)
    if stage.name == "ingest":
        reads = float(sum(given.unit_bytes))
    writes = stage.written_bytes * (documents if stage.name in PER_DOCUMENT else grown)
    if stage.name in DOCUMENT_STAGES and stage.name != "ingest" and stage.bytes_out:
        kept = given.text_bytes * _share_after(run, stage, given)
        writes = stage.written_bytes * kept / stage.bytes_out
    return reads, writes


def _share_after(run: MeasuredRun, stage: MeasuredStage, given: Input) -> float:
    names = [*run.stages]
    following = names[names.index(stage.name) + 1 :]
    if not following:
        return share_of_text(run, stage.name, given)
    return share_of_text(run, following[0], given)


def _memory(stage: MeasuredStage, given: Input) -> float:
    """Of a worker: as measured, but what keeps a number for each document in memory grows with them.

    `order` holds 13 bytes a document, `duplicates` 4 and a bit, and 60 for each that is compared.
    """
    if stage.name == "order":
        return max(stage.memory_bytes, 13.0 * given.documents)
    if stage.name == "duplicates":
        return max(stage.memory_bytes, (4.0 + 1 / 8) * given.documents)
    return stage.memory_bytes
