from __future__ import annotations

from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pipeline.sources import Limits
from pipeline.sources.text import first_paragraph
from tests.pipeline.sources.helpers import gz, read, records, rejected, rules, texts

POEM = "Ein Vers\nzwei Verse\n\n  eingerückt\n \t\n\n\ndas Ende"


def test_a_file_is_one_document(tmp_path: Path):
    (tmp_path / "deep").mkdir()
    (tmp_path / "deep/b.txt").write_text(POEM)
    (tmp_path / "a.txt.gz").write_bytes(gz(b"packed"))
    (tmp_path / "c.png").write_bytes(b"no text")
    items = read(tmp_path, format="text", license="CC0-1.0", language="de")
    assert [(record.locator, record.text) for record in records(items)] == [
        ("a.txt.gz#0", "packed"),
        ("deep/b.txt#0", POEM),
    ]
    assert {(record.license, record.language) for record in records(items)} == {("CC0-1.0", "de")}


def test_paragraphs_and_lines(tmp_path: Path):
    file = tmp_path / "a.txt"
    file.write_text(POEM)
    paragraphs = read(file, format="text", delimiter="paragraph")
    assert texts(paragraphs) == ["Ein Vers\nzwei Verse", "eingerückt", "das Ende"]
    assert [record.locator for record in records(paragraphs)] == ["a.txt#0", "a.txt#21", "a.txt#40"]
    lines = read(file, format="text", delimiter="line")
    assert texts(lines) == ["Ein Vers", "zwei Verse", "eingerückt", "das Ende"]
    assert [record.locator for record in records(lines)] == ["a.txt#0", "a.txt#9", "a.txt#21", "a.txt#40"]


@pytest.mark.parametrize("encoding", ["utf-8-sig", "utf-16", "utf-16-le", "utf-16-be"])
@pytest.mark.parametrize("delimiter", ["file", "paragraph", "line"])
def test_byte_order_marks_decide(tmp_path: Path, encoding: str, delimiter: str):
    file = tmp_path / "a.txt"
    file.write_text(POEM, encoding="utf-8")
    expected = texts(read(file, format="text", delimiter=delimiter))
    mark = "" if encoding in ("utf-8-sig", "utf-16") else "\ufeff"
    file.write_bytes((mark + POEM).encode(encoding))
    assert texts(read(file, 10, format="text", delimiter=delimiter)) == expected


def test_a_configured_encoding(tmp_path: Path):
    file = tmp_path / "a.txt"
    file.write_bytes("天地玄黄\n宇宙洪荒\n".encode("gb18030"))
    assert texts(read(file, 5, format="text", delimiter="line", encoding="gb18030")) == ["天地玄黄", "宇宙洪荒"]
    assert rules(read(file, format="text", delimiter="line")) == ["undecodable_bytes"] * 2
    assert rules(read(file, format="text")) == ["undecodable_bytes"]
    file.write_bytes("wide\nrows".encode("utf-32"))
    assert texts(read(file, 2, format="text", delimiter="line", encoding="utf-32")) == ["wide", "rows"]


def test_undecodable_bytes_cost_their_line_only(tmp_path: Path):
    file = tmp_path / "a.txt"
    file.write_bytes(b"good\nbad \xff\xfe byte\ngood again\n")
    items = read(file, format="text", delimiter="line")
    assert texts(items) == ["good", "good again"]
    (bad,) = rejected(items)
    assert (bad.rule, bad.locator) == ("undecodable_bytes", "a.txt#5")
    assert "byte 4 of the line" in bad.detail


def test_lone_surrogates_and_nul(tmp_path: Path):
    file = tmp_path / "a.txt"
    file.write_bytes(b"\xff\xfe" + "a\0b".encode("utf-16-le") + b"\x00\xd8" + "c".encode("utf-16-le"))
    assert texts(read(file, format="text")) == ["a�b�c"]


def test_a_cut_off_file_is_no_document(tmp_path: Path):
    file = tmp_path / "a.txt.gz"
    file.write_bytes(gz(b"one line\n" * 1000)[:-20])
    assert rules(read(file, format="text")) == ["truncated_stream"]
    items = read(file, format="text", delimiter="line")
    assert rules(items) == ["truncated_stream"]
    assert 0 < len(texts(items)) <= 1000


def test_limits(tmp_path: Path):
    (tmp_path / "a.txt").write_text("x" * 5000)
    (tmp_path / "b.txt").write_text("y" * 50)
    for limits in (Limits(max_document_bytes=100), Limits(max_record_bytes=1024)):
        for delimiter in ("file", "paragraph", "line"):
            items = read(tmp_path, format="text", delimiter=delimiter, limits=limits)
            assert texts(items) == ["y" * 50]
            assert [(item.rule, item.value) for item in rejected(items)] == [("too_large", 5000)]


def test_blank_files_are_reported(tmp_path: Path):
    (tmp_path / "a.txt").write_text("")
    assert rules(read(tmp_path, format="text")) == ["empty"]
    (tmp_path / "a.txt").write_text(" \n\n")
    assert texts(read(tmp_path, format="text")) == [""]  # the ingest stage drops it, as any document without text
    assert rules(read(tmp_path, format="text", delimiter="line")) == ["empty"]


@given(st.text(alphabet="a \t\r\n", max_size=60))
def test_the_first_paragraph_behind_a_blank_line(text: str):
    lines = text.split("\n")
    blank = [not line.strip() for line in lines]
    expected, offset = -1, 0
    for index, line in enumerate(lines):
        if index >= 2 and not blank[index] and blank[index - 1]:
            expected = offset
            break
        offset += len(line) + 1
    assert first_paragraph(text.encode()) == expected
