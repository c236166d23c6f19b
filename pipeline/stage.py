"""The stage: a function from work units or shards to shards, and how one is run to its commit.

A map stage looks at a document alone, a global stage across documents; both are cut into units. A unit's files are
written into a temporary folder and renamed into place, then its record is written; a unit with a record is never done
again. When every unit has its record, the counts are checked (read = kept + dropped) and the manifest commits the
stage.
"""

from __future__ import annotations

import contextlib
import os
import platform
import resource
import shutil
import sys
import tempfile
import time
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any, BinaryIO, ClassVar, Generic, TypeVar

import fsspec
import pyarrow as pa
import pyarrow.parquet as pq
from pydantic import BaseModel, ConfigDict

from pipeline.ledger import LEDGER_SCHEMA, count_actions, ledger_table
from pipeline.store import (
    EXECUTION,
    MANIFEST,
    UNITS,
    Committed,
    File,
    StageRef,
    Store,
    StoreError,
    canonical_json,
    file_sha256,
    fingerprint,
    is_local,
    read_json,
    temporary_name,
    unwritable,
    write_json,
)

ROW_GROUP_ROWS = 2048
COMPRESSION = {"compression": "zstd", "compression_level": 1}
"""Level 1 takes half the time of level 3 to write and three quarters to read; the files are 10 to 40 % larger."""

DISTINCT_COLUMNS = frozenset(("id", "text"))
"""Columns whose values hardly ever repeat: a dictionary of them would be built, written and given up."""
DOCUMENT_COUNTERS = ("read", "kept", "dropped", "edited", "rejected", "bytes_in", "bytes_out")


class StageError(RuntimeError):
    """A stage could not be completed; the message names the stage, the unit and what to do."""


class StageConfig(BaseModel):
    """The configuration of a stage: one model per stage, unknown keys are refused."""

    model_config = ConfigDict(extra="forbid", frozen=True)


C = TypeVar("C", bound=BaseModel)


@dataclass(frozen=True)
class Unit:
    """One piece of a stage's work: what a crash costs, and what a worker takes at a time.

    `name` is for people; `spec` is JSON and all that `process` needs; `weight` is the input in bytes, for scheduling.
    """

    index: int
    name: str
    spec: dict[str, Any]
    weight: int = 0


@dataclass(frozen=True)
class UnitRecord:
    """What a finished unit wrote and counted; `execution` (time, memory, host) is not part of its identity."""

    unit: int
    name: str
    files: list[dict[str, Any]]
    counts: dict[str, int]
    execution: dict[str, Any] = field(default_factory=dict)


class OutputFile:
    """A binary file that a unit writes; `attributes` may be set until it is closed."""

    def __init__(self, stream: BinaryIO, attributes: dict[str, Any]) -> None:
        self._stream = stream
        self.attributes = attributes
        self.rows = 0

    def write(self, data: Any) -> int:
        """Write bytes or any buffer."""
        return self._stream.write(data)


class UnitOutput:
    """Where a unit writes its files, ledger rows and counts.

    Everything goes to `scratch`, a folder of this process alone; `publish` renames the files into the stage's folder.
    """

    def __init__(self, ref: StageRef, unit: Unit, scratch: Path) -> None:
        self.ref = ref
        self.unit = unit
        self.scratch = scratch
        self.counts: dict[str, int] = dict.fromkeys(DOCUMENT_COUNTERS, 0)
        self._files: list[dict[str, Any]] = []
        self._ledger: list[pa.Table] = []

    def write(self, kind: str, table: pa.Table, row_group_rows: int = ROW_GROUP_ROWS) -> None:
        """Write one Parquet file, `<kind>/<unit>.parquet`."""
        with self.parquet(kind, table.schema, row_group_rows) as writer:
            writer.write_table(table, row_group_size=row_group_rows)

    @contextlib.contextmanager
    def parquet(self, kind: str, schema: pa.Schema, row_group_rows: int = ROW_GROUP_ROWS) -> Iterator[_ParquetSink]:
        """Stream batches or tables into one Parquet file, `<kind>/<unit>.parquet`."""
        relative = f"{kind}/{self.unit.index:05d}.parquet"
        path = self.scratch / relative
        path.parent.mkdir(parents=True, exist_ok=True)
        with pq.ParquetWriter(path, schema, use_dictionary=_dictionary_columns(schema), **COMPRESSION) as writer:
            sink = _ParquetSink(writer, row_group_rows)
            yield sink
        self._add(kind, relative, sink.rows, {})

    @contextlib.contextmanager
    def file(self, kind: str, suffix: str, **attributes: Any) -> Iterator[OutputFile]:
        """Write a binary file, `<kind>/<unit>[-<n>]<suffix>`, listed in the manifest with its attributes."""
        number = sum(entry["kind"] == kind for entry in self._files)
        relative = f"{kind}/{self.unit.index:05d}" + (f"-{number}" if number else "") + suffix
        path = self.scratch / relative
        path.parent.mkdir(parents=True, exist_ok=True)
        with open(path, "wb") as stream:
            output = OutputFile(stream, dict(attributes))
            yield output
        self._add(kind, relative, output.rows, output.attributes)

    def adopt(self, kind: str, path: Path, name: str, rows: int = 0, **attributes: Any) -> None:
        """Take over a finished file that something else wrote (a training process), as `<kind>/<name>`.

        It is linked where the disk allows it and copied otherwise; its writer must never change it in place.
        """
        target = self.scratch / kind / name
        target.parent.mkdir(parents=True, exist_ok=True)
        try:
            os.link(path, target)
        except OSError:
            shutil.copyfile(path, target)
        self._add(kind, f"{kind}/{name}", rows, attributes)

    def ledger(self, rows: pa.Table | Iterable[Mapping[str, Any]]) -> None:
        """Add rows of LEDGER_SCHEMA (`stage` is filled in)."""
        table = ledger_table(self.ref.name, rows)
        if table.num_rows:
            self._ledger.append(table)

    def count(self, **counters: int) -> None:
        """Add to counters."""
        for name, value in counters.items():
            self.counts[name] = self.counts.get(name, 0) + int(value)

    def _add(self, kind: str, relative: str, rows: int, attributes: dict[str, Any]) -> None:
        path = self.scratch / relative
        self._files.append(
            asdict(File(relative, kind, self.unit.index, rows, path.stat().st_size, file_sha256(path), attributes))
        )

    def publish(self, started: float, cpu_started: float) -> UnitRecord:
        """Write the ledger, check the counts against it, rename every file into place, then write the unit's record."""
        ledger = pa.concat_tables(self._ledger) if self._ledger else LEDGER_SCHEMA.empty_table()
        actions = count_actions(ledger)
        for action in ("dropped", "edited", "rejected"):
            if actions.get(action, 0) != self.counts[action]:
                raise StageError(
                    f"stage {self.ref.name!r}, unit {self.unit.name!r}: counted {self.counts[action]} {action} "
                    f"documents but the ledger says {actions.get(action, 0)}; this is a defect of the stage"
                )
        check_conservation(self.ref.name, self.unit.name, self.counts)
        self.write("ledger", ledger)
        for entry in self._files:
            _publish(self.scratch / entry["path"], f"{self.ref.path}/{entry['path']}")
        record = UnitRecord(
            self.unit.index,
            self.unit.name,
            self._files,
            dict(sorted(self.counts.items())),
            {
                "seconds": round(max(0.0, time.time() - started), 3),  # the system may set time back
                "cpu_seconds": round(cpu_seconds() - cpu_started, 3),
                "started": started,
                "peak_memory_bytes": peak_memory_bytes(),
                "host": platform.node(),
                "pid": os.getpid(),
            },
        )
        write_json(_record_path(self.ref, self.unit.index), asdict(record))
        return record


class _ParquetSink:
    def __init__(self, writer: pq.ParquetWriter, row_group_rows: int) -> None:
        self._writer = writer
        self._row_group_rows = row_group_rows
        self.rows = 0

    def write(self, data: pa.Table | pa.RecordBatch) -> None:
        """Write a batch or a table."""
        table = pa.Table.from_batches([data]) if isinstance(data, pa.RecordBatch) else data
        self.write_table(table, self._row_group_rows)

    def write_table(self, table: pa.Table, row_group_size: int) -> None:
        self._writer.write_table(table, row_group_size=row_group_size)
        self.rows += table.num_rows


def _dictionary_columns(schema: pa.Schema) -> bool | list[str]:
    """Return the columns to encode with a dictionary, or True for all."""
    if any(pa.types.is_nested(field.type) for field in schema):  # named by their leaves; no such file has texts
        return True
    return [name for name in schema.names if name not in DISTINCT_COLUMNS]


CORPUS_STAGES = (
    *("ingest", "signatures", "order", "candidates", "duplicates", "lines", "substrings", "deduplicate"),
    *("annotate", "classify", "perplexity_model", "perplexity", "filter", "privacy", "overlaps", "decontaminate"),
    *("tokenizer", "tokenize", "marks"),
)
"""All stages of the corpus in their order; a run has those that its recipe asks for."""

DOCUMENT_STAGES = ("ingest", "deduplicate", "filter", "privacy", "decontaminate")
"""The stages that write documents, in the order in which those pass through them."""


def document_input(inputs: Mapping[str, StageRef]) -> str:
    """The name of the input that a stage takes its documents from: the last one of DOCUMENT_STAGES that is there."""
    return next(name for name in reversed(DOCUMENT_STAGES) if name in inputs)


class Stage(ABC, Generic[C]):
    """A named, versioned function from committed inputs to shards. Instances are pickled into worker processes."""

    name: ClassVar[str]
    version: ClassVar[int]
    """Changes when the output would."""
    in_process: ClassVar[bool] = False
    """Whether units run in the calling process, because they start a process of their own."""
    conserves: str | None = None
    """The input whose kept documents this stage must read, every one."""

    def __init__(self, config: C, inputs: Mapping[str, StageRef]) -> None:
        self.config = config
        self.inputs = dict(inputs)

    def identity(self) -> Any:
        """Return the configuration that affects the content, as JSON."""
        return self.config.model_dump(mode="json")

    def fingerprint(self) -> str:
        """Return the identity of this stage's output."""
        inputs = {name: ref.fingerprint for name, ref in self.inputs.items()}
        return fingerprint(self.name, self.version, self.identity(), inputs)

    @abstractmethod
    def units(self) -> list[Unit]:
        """Return the plan: the same units in the same order on every machine. Inputs are committed by now."""

    @abstractmethod
    def process(self, unit: Unit, output: UnitOutput) -> None:
        """Do one unit's work. Deterministic: the same unit gives the same bytes."""

    def summary(self, records: Sequence[UnitRecord]) -> dict[str, Any]:
        """Return facts about the whole output for the manifest."""
        return {}


class StageRun:
    """A stage on its way to its commit: plan, process the units that are missing, commit.

    `meter` tells at the commit what was metered since the run was made, as facts for the record of the execution.
    """

    def __init__(self, stage: Stage[Any], store: Store, meter: Callable[[], Mapping[str, Any]] | None = None) -> None:
        self.stage = stage
        self.store = store
        self.meter = meter
        self.ref = store.ref(stage.name, stage.fingerprint())
        self.units: list[Unit] = []
        self.started = time.time()
        self._began = time.monotonic()

    def plan(self) -> list[Unit]:
        """Prepare the folder and return the units that have no record yet."""
        self.store.prepare(self.ref)
        self.units = self.stage.units()
        assert [unit.index for unit in self.units] == list(range(len(self.units)))
        return [unit for unit in self.units if read_record(self.ref, unit.index) is None]

    def commit(self) -> Committed:
        """Check the counts, write the execution summary and, last, the manifest.

        Raises StageError where a unit is missing or documents got lost.
        """
        records = []
        for unit in self.units:
            record = read_record(self.ref, unit.index)
            if record is None:
                raise StageError(f"stage {self.stage.name!r}: unit {unit.name!r} is not done; start the run again")
            records.append(record)
        counts: dict[str, int] = dict.fromkeys(DOCUMENT_COUNTERS, 0)
        for record in records:
            for name, value in record.counts.items():
                counts[name] = counts.get(name, 0) + value
        check_conservation(self.stage.name, None, counts)
        if self.stage.conserves is not None:
            parent = self.stage.inputs[self.stage.conserves].committed()
            if counts["read"] != parent.counts["kept"]:
                raise StageError(
                    f"stage {self.stage.name!r} read {counts['read']} documents but {parent.name!r} kept "
                    f"{parent.counts['kept']}; this is a defect of the stage, nothing was committed"
                )
        manifest = {
            "stage": self.stage.name,
            "version": self.stage.version,
            "fingerprint": self.ref.fingerprint,
            "config": self.stage.identity(),
            "inputs": {name: ref.fingerprint for name, ref in self.stage.inputs.items()},
            "units": len(records),
            "files": [entry for record in records for entry in record.files],
            "counts": dict(sorted(counts.items())),
            "summary": self.stage.summary(records),
        }
        canonical_json(manifest)  # refuses what would not be the same on every machine, before it is written
        self.store.clean(self.ref)
        write_json(f"{self.ref.path}/{EXECUTION}", self._execution(records))
        write_json(f"{self.ref.path}/{MANIFEST}", manifest)
        return self.ref.committed()

    def _execution(self, records: Sequence[UnitRecord]) -> dict[str, Any]:
        executions = [record.execution for record in records]
        earlier = sum(item["started"] < self.started for item in executions)
        # What was metered is that of this run alone: a part of the work has no energy of its own.
        metered = self.meter() if self.meter is not None and not earlier else {}
        return {
            **metered,
            "started": min([self.started, *(item["started"] for item in executions)]),
            "finished": time.time(),
            "wall_seconds": round(time.monotonic() - self._began, 3),
            "unit_seconds": round(sum(item["seconds"] for item in executions), 3),
            "cpu_seconds": round(sum(item["cpu_seconds"] for item in executions), 3),
            "peak_memory_bytes": max([peak_memory_bytes(), *(item["peak_memory_bytes"] for item in executions)]),
            "units": len(records),
            "units_of_earlier_runs": earlier,
            "host": platform.node(),
        }


def execute_unit(stage: Stage[Any], ref: StageRef, unit: Unit) -> UnitRecord:
    """Run one unit of a stage, in whichever process this is, and publish its output.

    Raises StageError naming the unit where it fails; what it had written is removed.
    """
    started, cpu_started = time.time(), cpu_seconds()
    scratch = Path(ref.path if is_local(ref.path) else tempfile.gettempdir(), temporary_name())
    try:
        scratch.mkdir(parents=True)
        output = UnitOutput(ref, unit, scratch)
        stage.process(unit, output)
        return output.publish(started, cpu_started)
    except (StageError, StoreError):
        raise
    except OSError as error:
        if error.errno in (28, 30, 122):  # ENOSPC, EROFS, EDQUOT
            raise unwritable(ref.path, error) from error
        raise StageError(f"stage {stage.name!r}, unit {unit.name!r}: {type(error).__name__}: {error}") from error
    except Exception as error:
        raise StageError(f"stage {stage.name!r}, unit {unit.name!r}: {type(error).__name__}: {error}") from error
    finally:
        shutil.rmtree(scratch, ignore_errors=True)


def read_record(ref: StageRef, index: int) -> UnitRecord | None:
    """Return a unit's record where the unit is done and all its files are there in full, otherwise None."""
    try:
        record = UnitRecord(**read_json(_record_path(ref, index)))
    except (FileNotFoundError, ValueError, TypeError):
        return None
    for entry in record.files:
        filesystem, path = fsspec.core.url_to_fs(f"{ref.path}/{entry['path']}")
        if not filesystem.exists(path) or filesystem.size(path) != entry["bytes"]:
            return None
    return record


def check_conservation(stage: str, unit: str | None, counts: Mapping[str, int]) -> None:
    """Raise StageError unless every document read was kept or dropped."""
    if counts["read"] != counts["kept"] + counts["dropped"]:
        where = f"stage {stage!r}" + (f", unit {unit!r}" if unit else "")
        raise StageError(
            f"{where}: read {counts['read']} documents but kept {counts['kept']} and dropped {counts['dropped']}; "
            "documents got lost, nothing was committed"
        )


def cpu_seconds() -> float:
    """Return the processor time of this process and of the children that it has waited for."""
    children = resource.getrusage(resource.RUSAGE_CHILDREN)
    return time.process_time() + children.ru_utime + children.ru_stime


def peak_memory_bytes() -> int:
    """Return the peak resident memory in bytes: this process's, or that of its largest finished child."""
    peak = max(resource.getrusage(who).ru_maxrss for who in (resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN))
    return peak if sys.platform == "darwin" else peak * 1024


def _record_path(ref: StageRef, index: int) -> str:
    return f"{ref.path}/{UNITS}/{index:05d}.json"


def _publish(source: Path, target: str) -> None:
    if is_local(target):
        Path(target).parent.mkdir(parents=True, exist_ok=True)
        with open(source, "rb") as stream:
            os.fsync(stream.fileno())
        os.replace(source, target)
    else:
        filesystem, path = fsspec.core.url_to_fs(target)
        filesystem.put_file(str(source), path)


Progress = Callable[[UnitRecord, int, int], None]
"""Called with a finished unit's record, the number of units done and the number of all units."""
