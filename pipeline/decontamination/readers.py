"""Files of evaluation sets as rows: JSONL, JSON, CSV, TSV, plain lines and Parquet, packed or not, in a tar too."""

from __future__ import annotations

import bz2
import csv
import glob
import gzip
import hashlib
import io
import itertools
import json
import lzma
import tarfile
import zlib
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from fnmatch import fnmatchcase
from pathlib import Path, PurePosixPath
from typing import Any, Final, Literal

import pyarrow as pa
import pyarrow.parquet as pq

from pipeline.store import file_sha256

Format = Literal["jsonl", "json", "csv", "tsv", "lines", "parquet"]
Row = dict[str, Any]

MAX_FILE_BYTES: Final = 1 << 30
"""Decompressed size beyond which a file is refused: an evaluation set is small, a packed bomb is not."""
MEMBER: Final = "::"
"""Stands between an archive and the pattern of its members: `cmmlu.tar.gz::test/*.csv`."""

_UNPACKERS: Final[dict[str, Callable[[io.BytesIO], Any]]] = {
    ".gz": lambda raw: gzip.GzipFile(fileobj=raw),
    ".bz2": bz2.BZ2File,
    ".xz": lzma.LZMAFile,
}
_ARCHIVES: Final = (".tar", ".tar.gz", ".tgz", ".tar.bz2", ".tar.xz")
_FORMATS: Final[dict[str, Format]] = {
    ".jsonl": "jsonl",
    ".ndjson": "jsonl",
    ".json": "json",
    ".csv": "csv",
    ".tsv": "tsv",
    ".txt": "lines",
    ".parquet": "parquet",
}
_BROKEN: Final = (OSError, EOFError, zlib.error, lzma.LZMAError, tarfile.TarError)


@dataclass(frozen=True)
class Layout:
    """How the rows of a file are laid out; see `BenchmarkConfig` for what each means."""

    format: Format | None = None
    columns: tuple[str, ...] | None = None
    delimiter: str | None = None
    quoted: bool | None = None
    records: str | None = None


@dataclass(frozen=True)
class Source:
    """A file that rows are read from. `name` is portable: a path inside its folder pattern or its archive."""

    name: str
    path: Path
    member: str | None
    sha256: str


def find_sources(path: str) -> list[Source]:
    """The files that a path, a glob or `archive::pattern` means, by name, each with the digest of what is on disk.

    Raises ValueError where there is none, or an archive is broken.
    """
    outer, mark, pattern = path.partition(MEMBER)
    wild = glob.has_magic(outer) and not Path(outer).exists()
    folder = _folder(outer)
    found = sorted(folder.glob(str(PurePosixPath(outer).relative_to(folder)))) if wild else [Path(outer)]
    files = [file for file in found if file.is_file()]
    if not files:
        raise ValueError(f"no file at {outer!r}; give a file, a glob, or ARCHIVE.tar.gz{MEMBER}PATTERN")
    sources = []
    for file in files:
        name = file.relative_to(folder).as_posix() if wild else file.name
        digest = file_sha256(file)
        if file.name.endswith(_ARCHIVES):
            prefix = f"{name}/" if len(files) > 1 else ""
            members = _members(file, pattern or "*")
            sources += [Source(prefix + member, file, member, digest) for member in members]
        elif mark:
            raise ValueError(f"{file} is no archive ({', '.join(_ARCHIVES)}), so {MEMBER}{pattern} means nothing")
        else:
            sources.append(Source(name, file, None, digest))
    return sources


def _folder(pattern: str) -> Path:
    """The folders of a glob before the first with a wildcard."""
    return Path(*itertools.takewhile(lambda part: not glob.has_magic(part), Path(pattern).parts[:-1]))


def _members(archive: Path, pattern: str) -> list[str]:
    try:
        with tarfile.open(archive) as tar:
            names = sorted(member.name for member in tar if member.isfile() and not member.name.endswith("/"))
    except _BROKEN as error:
        raise ValueError(f"{archive} is not a whole tar archive: {error}") from None
    matching = [name for name in names if fnmatchcase(name, pattern)]
    if not matching:
        raise ValueError(f"{archive} has no member like {pattern!r}; it has {', '.join(names[:8]) or 'none'}")
    return matching


def read_sources(sources: Iterable[Source], layout: Layout) -> Iterator[tuple[Source, int, Row]]:
    """The rows of files, numbered from 0 in each. Text is UTF-8, with a byte order mark or without.

    Raises ValueError naming the file, and the line where there is one, for what cannot be read, is larger than
    MAX_FILE_BYTES, or is not what its digest says.
    """
    for path, group in itertools.groupby(sources, key=lambda source: source.path):
        members = list(group)
        raw = _read(path, members[0].sha256)
        if members[0].member is None:
            yield from _rows(members[0], raw, layout)
            continue
        packed = PurePosixPath(path.name.replace(".tgz", ".tar.gz")).suffix
        with tarfile.open(fileobj=io.BytesIO(_unpack(raw, packed, str(path)))) as tar:
            for source in members:
                stream = tar.extractfile(source.member or "")
                assert stream is not None, "find_sources lists files only"
                yield from _rows(source, stream.read(), layout)


def _rows(source: Source, raw: bytes, layout: Layout) -> Iterator[tuple[Source, int, Row]]:
    label = f"{source.path}{MEMBER}{source.member}" if source.member else str(source.path)
    data = _unpack(raw, PurePosixPath(source.name).suffix, label)
    format_ = layout.format or _format_of(source.name, label)
    try:
        for number, row in enumerate(_parse(data, format_, layout)):
            yield source, number, row
    except (UnicodeDecodeError, csv.Error, pa.ArrowException, ValueError) as error:
        raise ValueError(f"{label}: cannot be read as {format_}: {error}") from None


def _parse(data: bytes, format_: Format, layout: Layout) -> Iterable[Row]:
    if format_ == "parquet":
        return pq.read_table(io.BytesIO(data)).to_pylist()
    text = data.decode("utf-8-sig")
    if format_ == "json":
        return _json_rows(text, layout.records)
    if format_ == "jsonl":
        return _jsonl_rows(text)
    return _line_rows(text, layout) if format_ == "lines" else _table_rows(text, format_, layout)


def _read(path: Path, sha256: str) -> bytes:
    try:
        raw = path.read_bytes()
    except OSError as error:
        raise ValueError(f"{path}: cannot be read: {error}") from None
    if hashlib.sha256(raw).hexdigest() != sha256:
        raise ValueError(f"{path} changed while the run used it; start the run again")
    return raw


def _unpack(raw: bytes, suffix: str, label: str) -> bytes:
    try:
        if suffix in _UNPACKERS:
            with _UNPACKERS[suffix](io.BytesIO(raw)) as unpacked:
                raw = unpacked.read(MAX_FILE_BYTES + 1)
    except _BROKEN as error:
        raise ValueError(f"{label}: cannot be unpacked: {error}") from None
    if len(raw) > MAX_FILE_BYTES:
        raise ValueError(f"{label}: has more than {MAX_FILE_BYTES} bytes; split it into files")
    return raw


def _format_of(name: str, label: str) -> Format:
    suffixes = [suffix for suffix in PurePosixPath(name).suffixes if suffix not in _UNPACKERS]
    if not suffixes or suffixes[-1] not in _FORMATS:
        raise ValueError(f"{label}: the format does not follow from the name; set `format` to {', '.join(_FORMATS)}")
    return _FORMATS[suffixes[-1]]


def _jsonl_rows(text: str) -> Iterator[Row]:
    for line_number, line in enumerate(text.split("\n"), 1):
        if not line.strip():
            continue
        try:
            row = json.loads(line)
        except ValueError as error:
            raise ValueError(f"line {line_number}: {error}") from None
        if not isinstance(row, dict):
            raise ValueError(f"line {line_number}: expected an object, got {type(row).__name__}")
        yield row


def _json_rows(text: str, records: str | None) -> list[Row]:
    value = json.loads(text)
    for name in records.split(".") if records else []:
        if not isinstance(value, dict) or name not in value:
            raise ValueError(f"there are no `records` at {records!r}")
        value = value[name]
    if not isinstance(value, list) or not all(isinstance(row, dict) for row in value):
        raise ValueError("expected a list of objects; `records` says where in the file it is")
    return value


def _table_rows(text: str, format_: Format, layout: Layout) -> Iterator[Row]:
    # The default of 128 KiB is shorter than some passages; the limit is the process's.
    csv.field_size_limit(max(csv.field_size_limit(), MAX_FILE_BYTES))
    quoted = layout.quoted if layout.quoted is not None else format_ == "csv"
    reader = csv.reader(
        io.StringIO(text, newline=""),
        delimiter=layout.delimiter or ("," if format_ == "csv" else "\t"),
        quoting=csv.QUOTE_MINIMAL if quoted else csv.QUOTE_NONE,
        strict=quoted,
    )
    names = layout.columns or next(reader, None)
    for cells in reader:
        if cells and names:
            yield dict(zip(names, cells, strict=False))  # what is missing is told where it is wanted


def _line_rows(text: str, layout: Layout) -> Iterator[Row]:
    names = layout.columns or ("line",)
    for line in text.split("\n"):
        cells = line.rstrip("\r").split(layout.delimiter, len(names) - 1) if len(names) > 1 else [line.rstrip("\r")]
        if line.strip():
            yield dict(zip(names, cells, strict=False))
