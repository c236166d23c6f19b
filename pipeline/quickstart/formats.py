"""Formats: records as a WARC, as JSON Lines (gz, zst), as Parquet or as single files; equal records give equal bytes.

pyarrow's codecs compress: the zlib of a Python build may differ from machine to machine, and with it every offset.
"""

from __future__ import annotations

import base64
import email.utils
import hashlib
import mimetypes
import re
import uuid
from collections.abc import Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path

import orjson
import pyarrow as pa
import pyarrow.parquet as pq

GZIP_LEVEL = 6
ZSTD_LEVEL = 9
ROW_GROUP_ROWS = 128


@dataclass(frozen=True)
class Record:
    """One document or file on its way into the corpus. `date` is ISO 8601; `name` is the file's in a folder."""

    content: bytes
    language: str
    licence: str
    date: str
    package: str
    url: str = ""
    name: str = ""
    fields: dict[str, str] = field(default_factory=dict)


def write_records(path: Path, records: Sequence[Record]) -> None:
    """Write records to one file, or one file each below `path` where that is to be a folder, by the name's ending."""
    path.parent.mkdir(parents=True, exist_ok=True)
    if path.name.endswith(".warc.gz"):
        path.write_bytes(b"".join(_warc_members(path.name, records)))
    elif path.name.endswith((".jsonl.gz", ".jsonl.zst")):
        lines = b"".join(orjson.dumps(_row(record), option=orjson.OPT_APPEND_NEWLINE) for record in records)
        path.write_bytes(compress(path.suffix, lines))
    elif path.suffix == ".parquet":
        _write_parquet(path, records)
    else:
        assert len(records) == 1, f"{path} takes one file, not {len(records)}"
        path.write_bytes(records[0].content)


def compress(suffix: str, content: bytes) -> bytes:
    """Compress in one piece as `.gz` or `.zst`, without a name or a time in it."""
    codec = pa.Codec("gzip", GZIP_LEVEL) if suffix == ".gz" else pa.Codec("zstd", ZSTD_LEVEL)
    return bytes(codec.compress(content, asbytes=True))


def _row(record: Record) -> dict[str, str]:
    row = {"text": record.content.decode("utf-8"), "url": record.url, "date": record.date}
    row |= {"license": record.licence, "language": record.language, "package": record.package}
    return {name: value for name, value in (row | record.fields).items() if value}


def _write_parquet(path: Path, records: Sequence[Record]) -> None:
    names = ("url", "date", "license", "language", "package", "text")
    schema = pa.schema([pa.field(name, pa.string()) for name in names])
    table = pa.Table.from_pylist([_row(record) for record in records], schema=schema)
    pq.write_table(table, path, row_group_size=ROW_GROUP_ROWS, compression="zstd")


def _warc_members(name: str, records: Sequence[Record]) -> list[bytes]:
    """Return a WARC/1.1 file as one gzip member a record: a warcinfo, then a response for each page."""
    info = b"software: headrace quickstart\r\nformat: WARC file version 1.1\r\n"
    first = min((record.date for record in records), default="1970-01-01")
    named = ("WARC-Filename", name)
    members = [_warc_record("warcinfo", first, named, "application/warc-fields", info)]
    for record in records:
        http = _http_response(record)
        target = ("WARC-Target-URI", record.url)
        kind = "application/http; msgtype=response"
        members.append(_warc_record("response", record.date, target, kind, http, record.content))
    return [compress(".gz", member) for member in members]


def _http_response(record: Record) -> bytes:
    headers = (
        "HTTP/1.1 200 OK",
        f"Content-Type: {_content_type(record)}",
        f"Content-Length: {len(record.content)}",
        f"Last-Modified: {email.utils.format_datetime(_midnight(record.date), usegmt=True)}",
    )
    return "\r\n".join((*headers, "", "")).encode() + record.content


def _content_type(record: Record) -> str:
    kind = mimetypes.guess_type(re.sub(r"/$", "/index.html", record.url))[0] or "application/octet-stream"
    if not kind.startswith("text/"):
        return kind
    try:
        record.content.decode("utf-8")
    except UnicodeDecodeError:
        return kind
    return f"{kind}; charset=utf-8"


def _midnight(date: str) -> datetime:
    return datetime.fromisoformat(date).replace(tzinfo=UTC)


def _warc_record(
    kind: str, date: str, named: tuple[str, str], content_type: str, block: bytes, payload: bytes | None = None
) -> bytes:
    identity = hashlib.sha256("\0".join((kind, date, *named)).encode() + block).hexdigest()
    headers = [
        ("WARC-Type", kind),
        ("WARC-Record-ID", f"<urn:uuid:{uuid.UUID(identity[:32])}>"),
        ("WARC-Date", f"{date}T00:00:00Z"),
        named,
        ("Content-Type", content_type),
        ("WARC-Block-Digest", _digest(block)),
        *([("WARC-Payload-Digest", _digest(payload))] if payload is not None else []),
        ("Content-Length", str(len(block))),
    ]
    lines = ["WARC/1.1", *(f"{name}: {value}" for name, value in headers), "", ""]
    return "\r\n".join(lines).encode() + block + b"\r\n\r\n"


def _digest(content: bytes) -> str:
    """Return a digest as WARC files write it."""
    return "sha1:" + base64.b32encode(hashlib.sha1(content, usedforsecurity=False).digest()).decode()
