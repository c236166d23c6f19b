"""What a committed run tells of its stages: seconds, bytes and memory of every unit, from manifests and unit records.

Within a stage, core seconds of a unit are `fixed + rate x size`, and a worker's first unit takes `warm` more: a fit by
least squares without negative terms. Units of one size tell no fixed part, few units their rate alone. Sizes are in
bytes of text, those of `ingest` in bytes of the sources as they are stored.
"""

from __future__ import annotations

import gzip
import itertools
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

from flows.plan import Plan
from pipeline.stage import CORPUS_STAGES, Stage, read_record
from pipeline.store import EXECUTION, Committed, StageRef, read_json

UNREAD = {"order": ("ingest",), "candidates": ("ingest",), "duplicates": ("ingest",)}
"""Inputs of which a stage reads next to nothing: the text of the few documents that look alike."""
MINIMUM_UNITS = 4
"""Fewer units of a stage tell their rate alone."""
MINIMUM_SPREAD = 2.0
"""Units tell a fixed part where large ones are so many times the size of small ones."""


@dataclass(frozen=True)
class MeasuredUnit:
    """A unit that was done; `first` of its stage in its process."""

    size: float
    seconds: float
    core_seconds: float
    first: bool
    text_bytes: float


@dataclass(frozen=True)
class Rate:
    """Seconds of a unit as a function of its size."""

    fixed: float
    per_byte: float
    warm: float = 0.0

    def seconds(self, size: float) -> float:
        """Seconds of a unit that is not its worker's first."""
        return self.fixed + self.per_byte * size


@dataclass(frozen=True)
class MeasuredStage:
    """A stage as it was carried out once."""

    name: str
    units: tuple[MeasuredUnit, ...]
    wall_seconds: float
    memory_bytes: float
    read: float
    """Documents."""
    bytes_in: float
    """Of text."""
    bytes_out: float
    input_bytes: float
    """Files of all inputs, an upper bound of what was read: a stage may leave columns out."""
    written_bytes: float

    @property
    def core_seconds(self) -> float:
        """Processor time of all units."""
        return sum(unit.core_seconds for unit in self.units)

    @property
    def size(self) -> float:
        """Of all units."""
        return sum(unit.size for unit in self.units)

    @property
    def cores(self) -> float:
        """How many cores a unit kept busy in the mean."""
        seconds = sum(unit.seconds for unit in self.units)
        return max(1.0, self.core_seconds / seconds) if seconds else 1.0

    def rate(self, wall: bool = False) -> Rate:
        """Core seconds of a unit by its size, or its seconds of the clock. Raises ValueError where there is no unit."""
        # All units of `candidates` go through the whole text, and the first alone counts it.
        return total_rate(self.units, wall) if self.name == "candidates" else fit_rate(self.units, wall)


@dataclass(frozen=True)
class MeasuredRun:
    """The stages of a run in their order, and what its crawl files hold."""

    recipe: str
    stages: Mapping[str, MeasuredStage]
    expansion: float
    """Bytes of a source file unpacked, over those stored; 1 where that is not known."""
    sources: str
    """Which sources `ingest` was measured on."""
    tokens: float
    bands: int
    group_bytes: float
    """Text that makes a unit of `tokenize`."""

    @property
    def documents(self) -> float:
        """Documents that `ingest` kept."""
        return self.stages["signatures"].read

    @property
    def text_bytes(self) -> float:
        """Text that `ingest` wrote, from all sources."""
        return self.stages["signatures"].bytes_in


def fit_rate(units: Sequence[MeasuredUnit], wall: bool = False) -> Rate:
    """Fit seconds to sizes. Raises ValueError where there is no unit."""
    import numpy as np
    from scipy.optimize import nnls

    seconds = np.array([unit.seconds if wall else unit.core_seconds for unit in units])
    sizes = np.array([unit.size for unit in units])
    later = sum(not unit.first for unit in units)
    if len(units) < MINIMUM_UNITS or later < MINIMUM_UNITS - 1 or not sizes.any():
        return total_rate(units, wall)
    scale = float(sizes.max())
    # Of units of one size ones and sizes are the same column, and larger units would be charged for no more than that.
    # By deciles: a last, small unit tells too little.
    small, large = np.quantile(sizes[sizes > 0], (0.1, 0.9))
    ones = np.full(len(units), float(large >= MINIMUM_SPREAD * small))
    first = np.array([float(unit.first) for unit in units])
    (fixed, slope, warm), _ = nnls(np.stack([ones, sizes / scale, first], axis=1), seconds)
    return Rate(float(fixed), float(slope) / scale, float(warm))


def total_rate(units: Sequence[MeasuredUnit], wall: bool = False) -> Rate:
    """All seconds over all sizes; the mean of the seconds where no unit has a size. Raises ValueError without units."""
    if not units:
        raise ValueError("there is no unit to fit a rate to")
    seconds = sum(unit.seconds if wall else unit.core_seconds for unit in units)
    total = sum(unit.size for unit in units)
    return Rate(0.0, seconds / total) if total else Rate(seconds / len(units), 0.0)


def measure(plan: Plan, source_format: str | None = None) -> MeasuredRun:
    """Read what a run in a workspace measured; of `ingest` the units of sources of this format, where there are any.

    Raises ValueError naming a stage of the corpus that is not committed.
    """
    names = [name for name in CORPUS_STAGES if name in plan.stages]
    missing = [name for name in names if not plan.refs[name].is_committed]
    if missing:
        raise ValueError(
            f"run {plan.recipe.name!r} in {plan.workspace} has not finished: {', '.join(missing)}; start it again, or "
            "measure afresh with --calibrate"
        )
    committed = {name: plan.refs[name].committed() for name in names}
    stages = {name: _stage(plan.stages[name], plan.refs[name], committed) for name in names}
    chosen, told = _of_format(plan, stages["ingest"], source_format)
    stages["ingest"] = chosen
    tokenize = stages["tokenize"]
    return MeasuredRun(
        recipe=plan.recipe.name,
        stages=stages,
        expansion=_expansion(plan, source_format),
        sources=told,
        tokens=float(committed["tokenize"].counts["tokens"]),
        bands=plan.recipe.deduplicate.bands,
        group_bytes=plan.recipe.tokenize.unit_bytes * tokenize.bytes_in / max(1.0, tokenize.input_bytes),
    )


def _stage(stage: Stage[Any], ref: StageRef, committed: Mapping[str, Committed]) -> MeasuredStage:
    done = committed[ref.name]
    execution = read_json(f"{ref.path}/{EXECUTION}")
    units = _units(ref, int(done.manifest["units"]))
    if ref.name == "ingest":
        weights = [float(unit.weight) for unit in stage.units()]
        units = [
            MeasuredUnit(weight, unit.seconds, unit.core_seconds, unit.first, unit.text_bytes)
            for weight, unit in zip(weights, units, strict=True)
        ]
    inputs = sum(_bytes(committed[name]) for name in _read_inputs(stage) if name in committed)
    counts = done.counts
    return MeasuredStage(
        ref.name,
        tuple(units),
        float(execution["wall_seconds"]),
        float(execution["peak_memory_bytes"]),
        float(counts["read"]),
        float(counts["bytes_in"]),
        float(counts["bytes_out"]),
        inputs if inputs else sum(unit.size for unit in units),
        _bytes(done),
    )


def _read_inputs(stage: Stage[Any]) -> list[str]:
    return [name for name in stage.inputs if name not in UNREAD.get(stage.name, ())]


def _units(ref: StageRef, count: int) -> list[MeasuredUnit]:
    records = [read_record(ref, index) for index in range(count)]
    if any(record is None for record in records):
        raise ValueError(f"{ref.path} has lost records of its units, so its times are not known; measure another run")
    started: dict[tuple[str, int], float] = {}
    for record in records:
        assert record is not None
        key = (str(record.execution["host"]), int(record.execution["pid"]))
        started[key] = min(started.get(key, float("inf")), float(record.execution["started"]))
    units = []
    for record in records:
        assert record is not None
        execution, size = record.execution, float(record.counts["bytes_in"])
        first = float(execution["started"]) == started[str(execution["host"]), int(execution["pid"])]
        units.append(
            MeasuredUnit(
                size, float(execution["seconds"]), float(execution["cpu_seconds"]), first, record.counts["bytes_out"]
            )
        )
    return units


def _bytes(committed: Committed) -> float:
    return float(sum(entry["bytes"] for entry in committed.manifest["files"]))


def _of_format(plan: Plan, ingest: MeasuredStage, wanted: str | None) -> tuple[MeasuredStage, str]:
    """`ingest` by the units of one format of source, and a sentence that tells which those were."""
    formats = [unit.spec["source"]["format"] for unit in plan.stages["ingest"].units()]
    if wanted is None or wanted not in formats:
        told = "all sources" if wanted is None else f"all sources, as none is of format {wanted}"
        return ingest, f"{told} ({', '.join(sorted(set(formats)))})"
    units = tuple(unit for unit, name in zip(ingest.units, formats, strict=True) if name == wanted)
    share = sum(unit.text_bytes for unit in units) / max(1.0, ingest.bytes_out)
    chosen = replace(
        ingest,
        units=units,
        bytes_in=sum(unit.text_bytes for unit in units),
        bytes_out=sum(unit.text_bytes for unit in units),
        written_bytes=ingest.written_bytes * share,
        input_bytes=sum(unit.size for unit in units),
    )
    return chosen, f"the {len(units)} units of format {wanted}"


def _expansion(plan: Plan, wanted: str | None) -> float:
    """How much larger the source files are unpacked, by the first megabytes of some of them."""
    packed = unpacked = 0
    for source, files in zip(plan.recipe.ingest.sources, plan.stages["ingest"].files, strict=True):  # type: ignore[attr-defined]
        if source.format != wanted:
            continue
        for file in itertools.islice((file for file in files if _is_local_gzip(file.path)), 4):
            with open(file.path, "rb") as stored, gzip.open(stored) as stream:
                unpacked += sum(len(block) for block in itertools.islice(iter(lambda: stream.read(1 << 20), b""), 64))
                packed += stored.tell()
    return unpacked / packed if packed else 1.0


def _is_local_gzip(path: str) -> bool:
    return "://" not in path and path.endswith(".gz")
