from __future__ import annotations

import gzip
import io
import tarfile
import zlib
from collections import Counter
from pathlib import Path

import brotli
import pytest
from fastwarc.warc import ArchiveIterator, WarcRecordType

from pipeline.sources import Limits
from tests.pipeline.sources.helpers import SHARED, gz, html, http, read, records, rejected, rules, texts, warc_record

EDGE_CASES = SHARED / "warc/warc_edge_cases.tar.gz"


def write(path: Path, *parts: bytes) -> Path:
    path.write_bytes(b"".join(parts))
    return path


def crawl(number: int = 6) -> list[bytes]:
    return [warc_record(http(html(f"page {index}")), f"http://a.test/{index}") for index in range(number)]


def test_pages_become_records(tmp_path: Path):
    info = warc_record(b"software: x\r\n", kind="warcinfo")
    request = warc_record(b"GET / HTTP/1.1\r\n\r\n", kind="request")
    page = warc_record(http(html("A page.\nTwo lines.", "The title")), "<http://a.test/x>")
    file = write(tmp_path / "a.warc.gz", gz(info), gz(request), gz(page))
    (record,) = records(read(file, format="warc", license="CC0-1.0"))
    assert record.locator == f"a.warc.gz#{len(gz(info) + gz(request))}"
    assert record.text == "A page.\n\nTwo lines."
    assert (record.url, record.date, record.license) == ("http://a.test/x", "2024-05-01T10:00:00Z", "CC0-1.0")
    assert record.metadata == '{"html_language":"en","title":"The title"}'


def test_records_that_are_no_pages(tmp_path: Path):
    file = write(
        tmp_path / "a.warc",
        warc_record(http(html("gone"), "404 Not Found")),
        warc_record(http(b"\x89PNG", content_type="image/png")),
        warc_record(b"no HTTP at all"),
        warc_record(http(html("good"))),
        warc_record(b"20240501 a.test", "dns:a.test").replace(b"application/http; msgtype=response", b"text/dns"),
        warc_record(b"", kind="revisit"),
    )
    items = read(file, format="warc")
    assert texts(items) == ["good"]
    assert [(item.rule, item.value, item.threshold) for item in rejected(items)] == [
        ("http_status", 404, 200),
        ("not_html", None, None),
        ("http_status", 0, 200),
    ]
    assert rejected(items)[1].detail == "image/png at http://a.test/"


def test_wet_files_and_resources(tmp_path: Path):
    file = write(
        tmp_path / "a.warc.wet",
        warc_record(b"Reiner Text.\r\nZwei Zeilen.", kind="conversion"),
        warc_record(b"\xff\xfe", kind="conversion"),
        warc_record(html("A resource.").encode(), kind="resource").replace(b"text/plain", b"text/html"),
    )
    items = read(file, format="warc")
    assert texts(items) == ["Reiner Text.\nZwei Zeilen.", "A resource."]
    assert rules(items) == ["undecodable_bytes"]


BODY = html("The body. " * 100)


@pytest.mark.parametrize(
    ("headers", "body"),
    [
        (["Content-Encoding: gzip"], gzip.compress(BODY.encode())),
        (["Content-Encoding: deflate"], zlib.compress(BODY.encode())),
        (["Content-Encoding: br"], brotli.compress(BODY.encode())),
        (
            ["Transfer-Encoding: chunked"],
            b"5\r\n%s\r\n%x\r\n%s\r\n0\r\n\r\n" % (BODY[:5].encode(), len(BODY) - 5, BODY[5:].encode()),
        ),
        (["Content-Encoding: gzip"], BODY.encode()),  # crawlers store decoded bodies under the old headers
        (["Transfer-Encoding: chunked"], BODY.encode()),
        (["Content-Encoding: unheard-of"], BODY.encode()),
        (["Content-Type: application/xhtml+xml"], BODY.encode()),
    ],
)
def test_payload_encodings(tmp_path: Path, headers: list[str], body: bytes):
    file = write(tmp_path / "a.warc", warc_record(http(body, "200 OK", "text/html; charset=utf-8", *headers)))
    assert texts(read(file, format="warc")) == [("The body. " * 100).strip()]


def test_a_payload_that_does_not_decode(tmp_path: Path):
    broken = http(b"\x1f\x8b\x08broken", "200 OK", "text/html", "Content-Encoding: gzip")
    assert rules(read(write(tmp_path / "a.warc", warc_record(broken)), format="warc")) == ["broken_record"]


def test_a_payload_bomb(tmp_path: Path):
    bomb = http(gzip.compress(b"<p>" + b"a" * 300_000_000, 1), "200 OK", "text/html", "Content-Encoding: gzip")
    items = read(write(tmp_path / "a.warc", warc_record(bomb)), format="warc", limits=Limits(max_document_bytes=10_000))
    assert [(item.rule, item.threshold) for item in rejected(items)] == [("too_large", 10_000)]


def test_charset_and_line_ends_of_servers(tmp_path: Path):
    chinese = http(html("天地玄黄，宇宙洪荒。").encode("gb18030"), "200 OK", "text/html; charset=gb2312")
    newline = http(html("Line ends.")).replace(b"\r\n", b"\n")
    both = warc_record(newline, "http://a.test/3").replace(b"\r\n", b"\n") + b"\r\n"
    items = read(write(tmp_path / "a.warc", warc_record(chinese), warc_record(newline), both), format="warc")
    assert texts(items) == ["天地玄黄，宇宙洪荒。", "Line ends.", "Line ends."]
    assert rules(items) == []


def test_a_broken_record_costs_itself(tmp_path: Path):
    pages = crawl()
    pages[1] = pages[1].replace(b"Content-Length", b"Content-Lengt")
    pages[2] = pages[2].replace(b"Content-Length: ", b"Content-Length: 1")  # far too long
    pages[4] = b"garbage\r\n\r\n" + pages[4]
    items = read(write(tmp_path / "a.warc", *pages), format="warc")
    assert texts(items) == ["page 0", "page 3", "page 4", "page 5"]
    assert rules(items) == ["broken_record"] * 3
    places = [len(b"".join(pages[:index])) for index in (1, 2, 4)]
    assert [item.locator for item in rejected(items)] == [f"a.warc#{place}" for place in places]


@pytest.mark.parametrize("padding", range(0, 256, 15))
def test_lengths_that_are_a_little_wrong(tmp_path: Path, padding: int):
    pages = crawl(8)
    for index, wrong in ((1, 1), (3, padding), (4, -5), (6, 300)):
        length = int(pages[index].partition(b"Content-Length: ")[2].partition(b"\r\n")[0])
        pages[index] = pages[index].replace(b"Content-Length: %d" % length, b"Content-Length: %d" % (length + wrong))
    file = write(tmp_path / "a.warc", *pages)
    whole = read(file, format="warc")
    assert {"page 0", "page 2", "page 5", "page 7"} <= set(texts(whole))
    assert set(rules(whole)) == {"broken_record"}
    for unit_bytes in (50, 200, 500):
        assert read(file, unit_bytes, format="warc") == whole


@pytest.mark.parametrize("where", ["head", "middle", "checksum", "whole but checksum"])
def test_a_broken_member_costs_itself(tmp_path: Path, where: str):
    pages = crawl()
    if where == "whole but checksum":  # all of it is decompressed before the checksum is looked at
        pages[2] += b"\r\n" * 512
    members = [gz(page) for page in pages]
    at = {"head": 0, "middle": len(members[2]) // 2}.get(where, len(members[2]) - 6)
    members[2] = members[2][:at] + bytes(255 - byte for byte in members[2][at : at + 3]) + members[2][at + 3 :]
    items = read(write(tmp_path / "a.warc.gz", *members), format="warc")
    assert texts(items) == [f"page {index}" for index in (0, 1, 3, 4, 5)]
    (broken,) = rejected(items)
    assert broken.rule == "broken_stream"
    assert broken.locator.partition("+")[0] == f"a.warc.gz#{len(members[0] + members[1])}"


def test_a_cut_off_crawl(tmp_path: Path):
    pages = crawl()
    file = write(tmp_path / "a.warc", b"".join(pages)[:-40])
    assert texts(read(file, format="warc")) == [f"page {index}" for index in range(5)]
    assert rules(read(file, format="warc")) == ["truncated_stream"]
    file = write(tmp_path / "a.warc.gz", b"".join(map(gz, pages))[:-40])
    assert texts(read(file, format="warc")) == [f"page {index}" for index in range(5)]
    assert rules(read(file, format="warc")) == ["truncated_stream"]
    file = write(tmp_path / "b.warc", pages[0], b"WARC/1.0\r\nWARC-Type: respo")
    assert rules(read(file, format="warc")) == ["truncated_stream"]


def test_records_beyond_the_limit_are_passed_unread(tmp_path: Path):
    large = warc_record(http(b"x" * 3_000_000))
    for pack in (bytes, gz):
        file = write(tmp_path / "a.warc", *(pack(part) for part in (crawl()[0], large, crawl()[1], large)))
        items = read(file, format="warc", limits=Limits(max_record_bytes=1_000_000))
        assert texts(items) == ["page 0", "page 1"]
        assert [(item.rule, item.threshold) for item in rejected(items)] == [("too_large", 1_000_000)] * 2


def test_an_archived_crawl_is_not_taken_for_the_crawl(tmp_path: Path):
    inside = b"".join(gz(page) for page in crawl(4))
    archive = warc_record(http(inside, content_type="application/warc"), "http://a.test/x.warc.gz")
    stored = zlib.compressobj(0, zlib.DEFLATED, 31)
    member = stored.compress(archive) + stored.flush()
    parts = [gz(page) for page in crawl(3)]
    file = write(tmp_path / "a.warc.gz", parts[0], member, parts[1], parts[2])
    whole = read(file, format="warc")
    assert texts(whole) == ["page 0", "page 1", "page 2"]
    assert rules(whole) == ["not_html"]
    for unit_bytes in range(20, 1000, 35):
        assert read(file, unit_bytes, format="warc") == whole


def test_other_files_are_no_crawl(tmp_path: Path):
    assert rules(read(write(tmp_path / "a.warc", b"filedesc://x.arc 0.0.0.0\n"), format="warc")) == ["broken_record"]
    assert rules(read(write(tmp_path / "a.warc", b"\0" * 1000), format="warc")) == ["broken_record"]
    assert rules(read(write(tmp_path / "a.warc", b""), format="warc")) == ["empty"]


@pytest.fixture(scope="module")
def edge_cases(tmp_path_factory: pytest.TempPathFactory) -> list[Path]:
    folder = tmp_path_factory.mktemp("warc")
    with tarfile.open(EDGE_CASES) as archive:
        archive.extractall(folder, filter="data")
    return sorted(path for path in folder.rglob("*") if path.is_file() and path.suffix != ".lz4")


@pytest.mark.skipif(not EDGE_CASES.exists(), reason="the shared WARC edge cases are not here")
def test_real_crawls_never_fail_and_split_anywhere(edge_cases: list[Path]):
    assert len(edge_cases) > 50
    kinds: Counter[str] = Counter()
    for path in edge_cases:
        whole = read(path, format="warc")
        kinds.update(["document"] * len(records(whole)) + rules(whole))
        if path.stat().st_size < 60_000:
            split = [item for item in read(path, 2_000, format="warc") if item not in whole]
            assert split == [], path.name
    assert kinds["document"] > 100
    assert kinds["truncated_stream"] == 2  # clipped.warc.gz, and one whose line ends were doubled
    assert kinds["broken_stream"] == 0


# Where fastwarc stops at a wrong length, takes a cut-off record, or needs its special mode.
DIFFERENT = (
    "example.warc",
    "example-trunc.warc",
    "clipped.warc.gz",
    "clueweb-quirk.warc.gz",
    "example-resource.warc.gz",
)


@pytest.mark.skipif(not EDGE_CASES.exists(), reason="the shared WARC edge cases are not here")
def test_the_pages_are_those_that_fastwarc_finds(edge_cases: list[Path]):
    compared = 0
    for path in edge_cases:
        if path.name.endswith((".warc", ".warc.gz")) and path.name not in DIFFERENT:
            expected = [
                (record.headers.get("WARC-Target-URI") or "").strip("<> ")
                for record in ArchiveIterator(io.BytesIO(path.read_bytes()), record_types=WarcRecordType.response)
                if record.is_http
                and record.http_headers
                and record.http_headers.status_code == 200
                and record.http_content_type in ("text/html", "application/xhtml+xml")
            ]
            found = [record.url or "" for record in records(read(path, format="warc"))]
            assert found == expected, path.name
            compared += len(found)
    assert compared > 70
