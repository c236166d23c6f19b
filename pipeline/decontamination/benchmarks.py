"""Evaluation sets as data: which files they are, and what the text of an item is."""

from __future__ import annotations

import itertools
import re
from collections.abc import Iterator
from functools import lru_cache
from pathlib import PurePosixPath
from typing import Any, Final, NamedTuple, Self

from pydantic import Field, field_validator, model_validator

from pipeline.decontamination.readers import Format, Layout, Row, Source, find_sources, read_sources
from pipeline.sources.records import replace_surrogates
from pipeline.stage import StageConfig

FILE: Final = "$file"
"""`split_by` this makes a benchmark of each file."""
_PLACEHOLDER: Final = re.compile(r"\{([^{}]+)\}")


class Item(NamedTuple):
    """A text of an item of a benchmark. An item has several where it has alternatives (`templates`)."""

    benchmark: str
    item_id: str
    text: str


class BenchmarkConfig(StageConfig):
    """An evaluation set, or a family of them (`split_by`)."""

    name: str = Field(min_length=1, description="Name in ledger, report and marks, such as hellaswag")
    path: str = Field(
        min_length=1,
        description="File, glob (** included) or ARCHIVE.tar.gz::PATTERN; .gz, .bz2 and .xz are unpacked. The digests "
        "of the files are part of the stage's identity, their folder is not",
    )
    fields: list[str] = Field(
        default=[],
        description="Fields that make the text of an item, one below the other: a.b is b inside a, a list gives "
        "each of its elements. Give these or templates",
    )
    templates: list[str] = Field(
        default=[],
        description="Texts with {field} in them, each an alternative of its own: no n-gram spans two. Where a field "
        "is a list, there is one text for each element: '{ctx} {endings}' gives every ending after its context",
    )
    id_field: str | None = Field(default=None, description="Field with the item's id; null: file name and row number")
    split_by: str | None = Field(
        default=None,
        description="Field whose values name benchmarks, NAME/VALUE each; $file: the name of the file without its "
        "suffixes (CMMLU's subjects)",
    )
    format: Format | None = Field(default=None, description="Null: by the suffix of the file's name")
    columns: list[str] | None = Field(
        default=None, description="csv, tsv, lines: names of the columns of files without a header; more are passed by"
    )
    delimiter: str | None = Field(default=None, min_length=1, description="csv, tsv, lines: null is , or tab or none")
    quoted: bool | None = Field(default=None, description="csv, tsv: whether quotes enclose cells; null: csv yes")
    records: str | None = Field(default=None, description="json: where in the file the list of items is, such as data")

    @field_validator("templates")
    @classmethod
    def _check_templates(cls, templates: list[str]) -> list[str]:
        for template in templates:
            if not _PLACEHOLDER.search(template):
                raise ValueError(f"template {template!r} names no field; write it as {{field}}")
        return templates

    @model_validator(mode="after")
    def _check(self) -> Self:
        if bool(self.fields) == bool(self.templates):
            raise ValueError(f"benchmark {self.name!r}: give either fields or templates")
        return self

    def layout(self) -> Layout:
        """How the files are laid out."""
        columns = None if self.columns is None else tuple(self.columns)
        return Layout(self.format, columns, self.delimiter, self.quoted, self.records)

    def sources(self) -> list[Source]:
        """The files, with their digests. Raises ValueError, naming the benchmark, where there is none."""
        try:
            return find_sources(self.path)
        except ValueError as error:
            raise ValueError(f"benchmark {self.name!r}: {error}") from None

    def identity(self) -> dict[str, Any]:
        """What the items follow from, as JSON: the settings, and names and digests of the files for the path."""
        files = [{"name": source.name, "sha256": source.sha256} for source in self.sources()]
        return {**self.model_dump(mode="json", exclude={"path"}), "files": files}


def items(config: BenchmarkConfig) -> Iterator[Item]:
    """The texts of all items, in the order of files (by name) and rows.

    Raises ValueError naming the benchmark and the file for a path without files, a file that cannot be read, a row
    without one of the fields, and a benchmark without any text.
    """
    empty = True
    sources = config.sources()
    for source, number, row in _rows(config, sources):
        where = f"benchmark {config.name!r}: {source.name}, row {number}"
        name, item_id = _names(config, source, number, row, where)
        for text in _texts(config, row, where):
            if text.strip():
                empty = False
                yield Item(name, item_id, replace_surrogates(text))
    if empty:
        raise ValueError(f"benchmark {config.name!r}: no text in {len(sources)} files like {config.path!r}")


def _rows(config: BenchmarkConfig, sources: list[Source]) -> Iterator[tuple[Source, int, Row]]:
    try:
        yield from read_sources(sources, config.layout())
    except ValueError as error:
        raise ValueError(f"benchmark {config.name!r}: {error}") from None


def _names(config: BenchmarkConfig, source: Source, number: int, row: Row, where: str) -> tuple[str, str]:
    """Names of the benchmark and of the item."""
    name, item_id = config.name, f"{source.name}:{number}"
    if config.split_by == FILE:
        name += "/" + PurePosixPath(source.name).name.partition(".")[0]
    elif config.split_by is not None:
        name += "/" + " ".join(field_texts(row, config.split_by, where))
    if config.id_field is not None:
        item_id = " ".join(field_texts(row, config.id_field, where))
    return name, item_id


def _texts(config: BenchmarkConfig, row: Row, where: str) -> Iterator[str]:
    if config.fields:
        yield "\n".join(itertools.chain.from_iterable(field_texts(row, name, where) for name in config.fields))
    for template in config.templates:
        yield from _fill(template, row, where)


@lru_cache
def _placeholders(template: str) -> list[str]:
    return list(dict.fromkeys(_PLACEHOLDER.findall(template)))


def _fill(template: str, row: Row, where: str) -> Iterator[str]:
    """A template with every choice of elements for the fields that are lists."""
    names = _placeholders(template)
    for values in itertools.product(*(field_texts(row, name, where) or [""] for name in names)):
        chosen = dict(zip(names, values, strict=True))
        yield _PLACEHOLDER.sub(lambda match, chosen=chosen: chosen[match[1]], template)  # type: ignore[misc]


def field_texts(row: Row, name: str, where: str) -> list[str]:
    """The strings of a field: `a.b` is b inside a, lists are flattened, null is none, numbers are written out.

    Raises ValueError where the row lacks the field, or it holds an object.
    """
    value = row.get(name)
    return [value] if type(value) is str else _flat(row, name, name, row, where)  # most are


def _flat(value: Any, rest: str, name: str, row: Row, where: str) -> list[str]:
    if isinstance(value, list | tuple):
        return [text for element in value for text in _flat(element, rest, name, row, where)]
    if not rest:
        if isinstance(value, dict):
            raise ValueError(f"{where}: field {name!r} is an object with {', '.join(map(repr, value))}; name one")
        return [] if value is None else [value if isinstance(value, str) else str(value)]
    if isinstance(value, dict):
        if rest in value:
            return _flat(value[rest], "", name, row, where)
        outer, dot, inner = rest.partition(".")
        if dot and outer in value:
            return _flat(value[outer], inner, name, row, where)
    raise ValueError(f"{where}: there is no field {name!r}; it has {', '.join(map(repr, row)) or 'none'}")
