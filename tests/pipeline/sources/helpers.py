"""What the tests of the sources share: files in every format and compression, and reading them in units."""

from __future__ import annotations

import bz2
import gzip
import lzma
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any
from xml.sax.saxutils import escape

import pyarrow as pa

from pipeline.sources import Dropped, Item, Limits, Record, Rejected, SourceConfig, plan_units, read_items, source_files

SHARED = Path(__file__).parents[3] / "../shared/data"
WHOLE = 1 << 40


def read(path: Path | str, unit_bytes: int = WHOLE, limits: Limits | None = None, **source: Any) -> list[Item]:
    """Read a source through its units, as the ingest stage does."""
    config = SourceConfig(name="test", path=str(path), **source)
    limits = limits or Limits()
    units = plan_units(config, source_files(config), unit_bytes, limits)
    return [item for unit in units for item in read_items(unit.spec)]


def unit_count(path: Path, unit_bytes: int, **source: Any) -> int:
    config = SourceConfig(name="test", path=str(path), **source)
    return len(plan_units(config, source_files(config), unit_bytes, Limits()))


def records(items: Iterable[Item]) -> list[Record]:
    return [item for item in items if isinstance(item, Record)]


def texts(items: Iterable[Item]) -> list[str]:
    return [record.text for record in records(items)]


def rejected(items: Iterable[Item]) -> list[Rejected]:
    return [item for item in items if isinstance(item, Rejected)]


def rules(items: Iterable[Item]) -> list[str]:
    return [item.rule for item in items if not isinstance(item, Record)]


def dropped(items: Iterable[Item]) -> list[Dropped]:
    return [item for item in items if isinstance(item, Dropped)]


def zstd(data: bytes) -> bytes:
    return pa.Codec("zstd").compress(data, asbytes=True)


def gz(data: bytes) -> bytes:
    return gzip.compress(data, 6, mtime=0)


def chunks(data: bytes, size: int) -> list[bytes]:
    return [data[start : start + size] for start in range(0, len(data), size)] or [b""]


def framed(compress: Callable[[bytes], bytes], size: int) -> Callable[[bytes], bytes]:
    """Compression in frames of `size` bytes each, wherever that cuts the content."""
    return lambda data: b"".join(compress(chunk) for chunk in chunks(data, size))


PACKERS: dict[str, Callable[[bytes], bytes]] = {
    "plain": bytes,
    "gzip": gz,
    "gzip-members": framed(gz, 700),
    "bzip2": bz2.compress,
    "bzip2-streams": framed(bz2.compress, 700),
    "zstd": zstd,
    "zstd-frames": framed(zstd, 700),
    "xz": lzma.compress,
}


def warc_record(block: bytes, url: str = "http://a.test/", kind: str = "response", **headers: str) -> bytes:
    content_type = "application/http; msgtype=response" if kind == "response" else "text/plain"
    lines = {
        "WARC-Type": kind,
        "WARC-Target-URI": url,
        "WARC-Date": "2024-05-01T10:00:00Z",
        "Content-Type": content_type,
        "Content-Length": str(len(block)),
        **{name.replace("_", "-"): value for name, value in headers.items()},
    }
    head = "".join(f"{name}: {value}\r\n" for name, value in lines.items())
    return b"WARC/1.1\r\n" + head.encode() + b"\r\n" + block + b"\r\n\r\n"


def http(body: bytes | str, status: str = "200 OK", content_type: str = "text/html", *more: str) -> bytes:
    body = body.encode() if isinstance(body, str) else body
    headers = [f"HTTP/1.1 {status}", f"Content-Type: {content_type}", *more]
    return "\r\n".join(headers).encode() + b"\r\n\r\n" + body


def html(text: str, title: str = "A title") -> str:
    paragraphs = "".join(f"<p>{escape(line)}</p>" for line in text.split("\n"))
    head = f'<!DOCTYPE html><html lang="en"><head><title>{title}</title></head>'
    return f"{head}<body><main>{paragraphs}</main></body></html>"


SITEINFO = """<mediawiki xmlns="http://www.mediawiki.org/xml/export-0.10/" version="0.10" xml:lang="de">
  <siteinfo>
    <sitename>Wikipedia</sitename>
    <base>https://de.wikipedia.org/wiki/Wikipedia:Hauptseite</base>
    <namespaces>
      <namespace key="-2" case="first-letter">Medium</namespace>
      <namespace key="0" case="first-letter" />
      <namespace key="1" case="first-letter">Diskussion</namespace>
      <namespace key="6" case="first-letter">Lichtbild</namespace>
      <namespace key="14" case="first-letter">Kategorie</namespace>
    </namespaces>
  </siteinfo>
"""


def wiki_page(title: str, text: str, namespace: int | None = 0, redirect: str | None = None) -> str:
    ns = "" if namespace is None else f"<ns>{namespace}</ns>"
    to = f'<redirect title="{escape(redirect)}" />' if redirect else ""
    return (
        f"  <page>\n    <title>{escape(title)}</title>\n    {ns}<id>7</id>{to}\n    <revision><id>9</id>"
        f"<timestamp>2020-01-02T03:04:05Z</timestamp><model>wikitext</model>"
        f'<text xml:space="preserve">{escape(text)}</text></revision>\n  </page>\n'
    )


def wiki_dump(pages: Iterable[str], encoding: str = "utf-8") -> bytes:
    return (SITEINFO + "".join(pages) + "</mediawiki>\n").encode(encoding)
