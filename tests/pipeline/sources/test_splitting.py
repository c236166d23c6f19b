"""Whatever the size of a unit, and whatever is broken in a file, the documents of a file are the same."""

from __future__ import annotations

import random
from pathlib import Path
from tempfile import TemporaryDirectory

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from pipeline.sources import Item, Limits, Record
from tests.pipeline.sources.helpers import (
    PACKERS,
    gz,
    html,
    http,
    read,
    records,
    texts,
    unit_count,
    warc_record,
    wiki_dump,
    wiki_page,
    zstd,
)

FORMATS = {
    "jsonl": {"format": "jsonl"},
    "line": {"format": "text", "delimiter": "line"},
    "paragraph": {"format": "text", "delimiter": "paragraph"},
    "wikipedia": {"format": "wikipedia"},
    "warc": {"format": "warc"},
}
SMALL = Limits(max_record_bytes=1500, max_document_bytes=1000)


def json_lines(choose: random.Random) -> bytes:
    def line(number: int) -> bytes:
        plain = b'{"text": "' + b"word %d " % number * choose.randint(1, 60) + b'"}'
        chinese = '{"text": "' + "".join(chr(choose.randint(0x4E00, 0x9FFF)) for _ in range(300)) + '"}'
        return choose.choice([plain, plain, plain, chinese.encode(), b"", b"no json", b"\xff\xfe\xff"])

    return b"\n".join(line(number) for number in range(choose.randint(0, 60))) + choose.choice([b"", b"\n"])


def paragraphs(choose: random.Random) -> bytes:
    ends = [b"\n", b"\n\n", b"\n \t\n", b"\n\n\n\n", b"\r\n\r\n"]
    return b"".join(
        b"p%d " % number * choose.randint(1, 40) + choose.choice(ends) for number in range(choose.randint(0, 80))
    )


def wiki(choose: random.Random) -> bytes:
    return wiki_dump(
        wiki_page(f"T{number}", "word & <b>x</b> " * choose.randint(0, 80), choose.choice([0, 0, 1]), None)
        for number in range(choose.randint(0, 25))
    )


def warc_records(choose: random.Random) -> list[bytes]:
    embedded = b"see\r\n\r\nWARC/1.0\r\nWARC-Type: response\r\nContent-Length: 5\r\n\r\nhello"

    def record(number: int) -> bytes:
        body = choose.choice([html(f"page {number} " * choose.randint(1, 60)), embedded])
        made = warc_record(http(body), f"http://a.test/{number}")
        wrong = choose.random()
        if wrong < 0.05:
            made = made.replace(b"Content-Length: ", b"Content-Length: 9", 1)
        elif wrong < 0.1:
            made = made.replace(b"Content-Length: 1", b"Content-Length: ", 1)
        return made

    return [record(number) for number in range(choose.randint(1, 25))]


def content_of(kind: str, packer: str, choose: random.Random) -> bytes:
    pack = PACKERS[packer]
    if kind == "warc":
        parts = warc_records(choose)
        each = {"gzip-members": gz, "zstd-frames": zstd}.get(packer)
        return b"".join(each(part) for part in parts) if each else pack(b"".join(parts))
    make = {"jsonl": json_lines, "wikipedia": wiki, "paragraph": paragraphs, "line": paragraphs}[kind]
    return pack(make(choose))


def damaged(data: bytes, choose: random.Random) -> bytes:
    """Data with bits flipped, bytes lost, added or zeroed, or its end cut off."""
    broken = bytearray(data)
    for _ in range(choose.choice([0, 1, 1, 2, 5])):
        if not broken:
            break
        at, how = choose.randrange(len(broken)), choose.randrange(5)
        if how == 0:
            broken[at] ^= 1 << choose.randrange(8)
        elif how == 1:
            del broken[at : at + choose.choice([1, 10, 500])]
        elif how == 2:
            broken[at:at] = choose.randbytes(choose.choice([1, 5, 300]))
        elif how == 3:
            broken[at : at + 50] = bytes(min(50, len(broken) - at))
        else:
            del broken[at:]
    return bytes(broken)


def without_empty_files(items: list[Item]) -> list[Item]:
    return [item for item in items if isinstance(item, Record) or item.rule != "empty"]


@pytest.mark.parametrize("kind", FORMATS)
@settings(max_examples=25, deadline=None, derandomize=True)
@given(
    seed=st.integers(0, 2**32),
    packer=st.sampled_from(sorted(PACKERS)),
    unit_bytes=st.integers(1, 3000),
    small=st.booleans(),
    broken=st.booleans(),
)
def test_units_of_any_size_give_the_same_items(kind: str, seed: int, packer: str, unit_bytes: int, small, broken):
    choose = random.Random(seed)
    data = content_of(kind, packer, choose)
    if broken:
        data = damaged(data, choose)
    limits = SMALL if small else Limits()
    with TemporaryDirectory() as folder:
        file = Path(folder, "input")
        file.write_bytes(data)
        whole = read(file, limits=limits, **FORMATS[kind])
        split = read(file, unit_bytes, limits=limits, **FORMATS[kind])
    assert without_empty_files(split) == without_empty_files(whole)
    locators = [record.locator for record in records(whole)]
    assert len(set(locators)) == len(locators)


@pytest.mark.parametrize("kind", FORMATS)
@pytest.mark.parametrize("packer", PACKERS)
def test_a_sound_file_is_read_whole_in_every_format_and_compression(tmp_path: Path, kind: str, packer: str):
    number_of_pages = 40
    words = [f"document {number} " * (number % 7 + 1) for number in range(number_of_pages)]
    file = tmp_path / "input"
    if kind == "warc":
        parts = [warc_record(http(html(text)), f"http://a.test/{number}") for number, text in enumerate(words)]
        each = {"gzip-members": gz, "zstd-frames": zstd}.get(packer)
        file.write_bytes(b"".join(map(each, parts)) if each else PACKERS[packer](b"".join(parts)))
    elif kind == "wikipedia":
        file.write_bytes(PACKERS[packer](wiki_dump(wiki_page(f"T{n}", text) for n, text in enumerate(words))))
    else:
        lines = {
            "jsonl": "\n".join(f'{{"text": "{text}"}}' for text in words),
            "line": "\n".join(words),
            "paragraph": "\n\n".join(words),
        }[kind]
        file.write_bytes(PACKERS[packer](lines.encode()))
    expected = [text.strip() for text in words]
    assert texts(read(file, **FORMATS[kind])) == expected
    assert texts(read(file, 300, **FORMATS[kind])) == expected
    if packer in ("plain", "gzip-members", "zstd-frames", "bzip2-streams") and kind != "warc":
        assert unit_count(file, file.stat().st_size // 4, **FORMATS[kind]) > 2  # work for several workers
    if packer in ("gzip", "zstd", "bzip2", "xz"):
        assert unit_count(file, 100, **FORMATS[kind]) == 1


@pytest.mark.parametrize("packer", ["plain", "gzip-members", "zstd-frames"])
def test_a_crawl_spreads_over_units(tmp_path: Path, packer: str):
    parts = [warc_record(http(html(f"page {number}")), f"http://a.test/{number}") for number in range(40)]
    pack = {"plain": bytes, "gzip-members": gz, "zstd-frames": zstd}[packer]
    file = tmp_path / "crawl"
    file.write_bytes(b"".join(map(pack, parts)))
    assert unit_count(file, file.stat().st_size // 8 + 1, format="warc") == 8


def test_units_are_of_one_size(tmp_path: Path):
    file = tmp_path / "a.jsonl"
    file.write_bytes(b'{"text": "%s"}\n' % (b"x" * 80) * 1000)
    from pipeline.sources import SourceConfig, plan_units, source_files

    source = SourceConfig(name="test", format="jsonl", path=str(file))
    weights = [unit.weight for unit in plan_units(source, source_files(source), 10_000, Limits())]
    assert sum(weights) == file.stat().st_size
    assert len(weights) == 10
    assert max(weights) - min(weights) < 400


def test_small_files_share_a_unit(tmp_path: Path):
    for number in range(500):
        (tmp_path / f"{number:04}.txt").write_text(f"text {number}\n" * 10)
    assert unit_count(tmp_path, 10_000, format="text") == 5
    assert texts(read(tmp_path, 10_000, format="text")) == texts(read(tmp_path, format="text"))
    assert len(texts(read(tmp_path, format="text"))) == 500
