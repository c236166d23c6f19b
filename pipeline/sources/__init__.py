"""The sources: files in the formats of the field become records, in units of work of one size.

`plan_units` says which parts of which files a unit reads, `read_unit` reads them. One file a format: each has `plan`
(the parts of a file, cut where a record surely begins), `read` (a part's records) and `SUFFIXES`. A record belongs to
exactly one part, however the files are cut.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from types import ModuleType
from typing import Any

import pyarrow as pa

from pipeline.sources import html, jsonl, parquet, text, warc, wikipedia
from pipeline.sources.compression import Place
from pipeline.sources.config import HtmlConfig, IngestConfig, Limits, SourceConfig
from pipeline.sources.content import Part
from pipeline.sources.files import InputFile, find_files
from pipeline.sources.records import Dropped, Found, Item, Record, Rejected

__all__ = [
    "Dropped",
    "Found",
    "HtmlConfig",
    "IngestConfig",
    "InputFile",
    "Item",
    "Limits",
    "Record",
    "Rejected",
    "SourceConfig",
    "UnitPlan",
    "plan_units",
    "read_items",
    "read_unit",
    "source_files",
]

FORMATS: Mapping[str, ModuleType] = {
    "warc": warc,
    "wikipedia": wikipedia,
    "jsonl": jsonl,
    "parquet": parquet,
    "text": text,
    "html": html,
}

Reader = Callable[[Part, SourceConfig, Limits], Iterator[Found]]


@dataclass(frozen=True, slots=True)
class UnitPlan:
    """One unit of work: a name for people, what `read_unit` needs as JSON, and the bytes of input."""

    name: str
    spec: dict[str, Any]
    weight: int


def source_files(source: SourceConfig) -> list[InputFile]:
    """Return the files of a source. Raises ValueError, naming source and path, where a path means no file."""
    return find_files(source, FORMATS[source.format].SUFFIXES)


def plan_units(source: SourceConfig, files: Sequence[InputFile], unit_bytes: int, limits: Limits) -> list[UnitPlan]:
    """Return the units of a source: large files split near `unit_bytes`, small files grouped up to it.

    Raises ValueError, naming source and file, where reading could not even begin: an archive, a source of Parquet files
    none of which has the text column.
    """
    plan = FORMATS[source.format].plan
    parts: list[Part] = []
    for file in files:
        try:
            parts += plan(file, source, unit_bytes, limits)
        except (ValueError, OSError) as error:
            raise ValueError(f"source {source.name!r}: cannot read {file.path}: {error}") from error
    missing = [part.options["missing"] for part in parts if "missing" in part.options]
    if missing and len(missing) == len(parts):
        raise ValueError(f"source {source.name!r}: {missing[0]} ({files[0].path})")
    return [_unit(source, group, limits) for group in _groups(parts, unit_bytes)]


def read_unit(spec: Mapping[str, Any]) -> Iterator[Found]:
    """Yield the records of a unit in the order of its files, and a reason for whatever is not a record."""
    source = SourceConfig.model_validate(spec["source"])
    limits = Limits.model_validate(spec["limits"])
    read: Reader = FORMATS[source.format].read
    for described in spec["parts"]:
        part = Part.from_json(described)
        anything = False
        for found in read(part, source, limits):
            anything = True
            yield found
        whole = part.end is None and part.start == Place(0, 0)
        if not anything and whole:
            yield Rejected(part.locator(0), "empty", "the file holds no record")


def read_items(spec: Mapping[str, Any]) -> Iterator[Item]:
    """Yield what `read_unit` does, one record at a time."""
    for found in read_unit(spec):
        if isinstance(found, pa.RecordBatch):
            yield from (Record(**row) for row in found.to_pylist())
        else:
            yield found


def _groups(parts: Sequence[Part], unit_bytes: int) -> Iterator[list[Part]]:
    group: list[Part] = []
    weight = 0
    for part in parts:
        if group and weight + part.weight > unit_bytes:
            yield group
            group, weight = [], 0
        group.append(part)
        weight += part.weight
    if group:
        yield group


def _unit(source: SourceConfig, parts: list[Part], limits: Limits) -> UnitPlan:
    options = source.model_dump(mode="json", exclude_unset=True)
    spec = {
        "source": {**options, "path": ["-"]},  # parts name the files; what is found does not depend on how
        "limits": limits.model_dump(mode="json"),
        "parts": [part.to_json() for part in parts],
    }
    first, rest = parts[0], len(parts) - 1
    name = f"{source.name} {first.name}"
    if rest:
        name += f" and {rest} more"
    elif first.start != Place(0, 0) or first.end is not None:
        name += f" [{_offset(first, first.start)}:{_offset(first, first.end) if first.end else ''}]"
    elif "groups" in first.options:
        begin, end = first.options["groups"]
        name += f" [row groups {begin}:{end}]"
    return UnitPlan(name, spec, sum(part.weight for part in parts))


def _offset(part: Part, place: Place) -> int:
    return place.inner if part.compression == "none" else place.frame
