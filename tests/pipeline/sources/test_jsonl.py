from __future__ import annotations

import json
from pathlib import Path

import pytest

from pipeline.sources import Limits, Record
from tests.pipeline.sources.helpers import gz, read, records, rejected, rules, texts, zstd


def write(path: Path, *lines: bytes | dict) -> Path:
    path.write_bytes(b"\n".join(json.dumps(line).encode() if isinstance(line, dict) else line for line in lines))
    return path


def test_fields_become_a_record(tmp_path: Path):
    row = {"text": "A text.", "url": "http://a.test", "date": "2024-02-03", "id": 5, "stars": 3, "tags": ["x"]}
    file = write(tmp_path / "a.jsonl", row)
    options = {"metadata_fields": ("stars", "tags", "absent"), "license": "MIT", "language": "en"}
    (record,) = records(read(file, format="jsonl", **options))
    assert record == Record(
        "a.jsonl#0", "A text.", "http://a.test", "2024-02-03", "MIT", "en", '{"stars":3,"tags":["x"]}'
    )


def test_fields_may_be_named_and_nested(tmp_path: Path):
    row = {"body": {"clean": "Inside."}, "link": "u", "meta": {"lang": "de", "licence": "CC0-1.0"}, "a.b": 1}
    file = write(tmp_path / "a.jsonl", row)
    (record,) = records(
        read(
            file,
            format="jsonl",
            text_field="body.clean",
            url_field="link",
            language_field="meta.lang",
            license_field="meta.licence",
            language="en",
            metadata_fields=("a.b", "meta.lang"),
        )
    )
    assert (record.text, record.url, record.language, record.license) == ("Inside.", "u", "de", "CC0-1.0")
    assert json.loads(record.metadata or "") == {"a.b": 1, "meta.lang": "de"}


def test_a_date_that_is_none_is_kept_as_metadata(tmp_path: Path):
    file = write(tmp_path / "a.jsonl", {"text": "a", "date": "yesterday"}, {"text": "b", "date": "2024-02"})
    first, second = records(read(file, format="jsonl"))
    assert (first.date, first.metadata) == (None, '{"date":"yesterday"}')
    assert (second.date, second.metadata) == ("2024-02", None)


def test_every_broken_line_is_reported_where_it_is(tmp_path: Path):
    lines = [
        b'{"text": "good"}',
        b'{"text": "cut of',
        b'{"text": "\xff"}',
        b'{"txt": "no text"}',
        b'{"text": null}',
        b'{"text": 5}',
        b'["a list"]',
        b"",
        b'{"text": "good too"}',
        b'{"text": ' + b"[" * 100_000,
        b'{"text": "the last"}',
    ]
    file = write(tmp_path / "a.jsonl", *lines)
    items = read(file, format="jsonl")
    assert texts(items) == ["good", "good too", "the last"]
    assert rules(items) == [
        "broken_record",
        "undecodable_bytes",
        "missing_field",
        "missing_field",
        "wrong_type",
        "wrong_type",
        "broken_record",
    ]
    places = [f"a.jsonl#{sum(len(line) + 1 for line in lines[:index])}" for index in range(len(lines))]
    assert [item.locator for item in rejected(items)] == [places[index] for index in (1, 2, 3, 4, 5, 6, 9)]
    assert [record.locator for record in records(items)] == [places[index] for index in (0, 8, 10)]


def test_text_that_is_no_utf8_is_made_so(tmp_path: Path):
    lines = [rb'{"text": "lone \ud800 surrogate"}', rb'{"text": "pair \ud83d\ude00"}', rb'{"text": "nul \u0000 nul"}']
    lines += [rb'{"text": "meta", "m": {"k\udc00": ["\udfff", NaN, 123456789012345678901234567890]}}']
    items = read(write(tmp_path / "a.jsonl", *lines), format="jsonl", metadata_fields=("m",))
    assert texts(items) == ["lone � surrogate", "pair 😀", "nul � nul", "meta"]
    assert json.loads(records(items)[3].metadata or "") == {"m": {"k�": ["�", None, 1.2345678901234568e29]}}


def test_line_ends_and_white_space_are_normalised(tmp_path: Path):
    items = read(write(tmp_path / "a.jsonl", {"text": "\r\n a\r\nb\rc \n\n"}), format="jsonl")
    assert texts(items) == ["a\nb\nc"]


def test_a_byte_order_mark_is_passed_and_utf16_refused(tmp_path: Path):
    file = tmp_path / "a.jsonl"
    file.write_bytes(b'\xef\xbb\xbf{"text": "a"}\n{"text": "b"}')
    assert texts(read(file, format="jsonl")) == ["a", "b"]
    file.write_bytes('{"text": "a"}\n{"text": "b"}'.encode("utf-16"))
    assert rules(read(file, 5, format="jsonl")) == ["unknown_encoding"]


@pytest.mark.parametrize("pack", [bytes, gz, zstd])
def test_lines_beyond_the_limit_are_rejected_unread(tmp_path: Path, pack):
    long = b'{"text": "%s"}' % (b"x" * 5_000_000)
    file = tmp_path / "a.jsonl"
    file.write_bytes(pack(b"\n".join([b'{"text": "a"}', long, b'{"text": "b"}', long])))
    items = read(file, format="jsonl", limits=Limits(max_record_bytes=1_000_000, max_decompression_ratio=1e6))
    assert texts(items) == ["a", "b"]
    assert [(item.rule, item.value, item.threshold) for item in rejected(items)] == [
        ("too_large", len(long), 1_000_000)
    ] * 2
    items = read(file, format="jsonl", limits=Limits(max_document_bytes=999, max_decompression_ratio=1e6))
    assert texts(items) == ["a", "b"]
    assert [(item.rule, item.value, item.threshold) for item in rejected(items)] == [("too_large", 5_000_000, 999)] * 2


def test_the_document_limit_counts_bytes_not_characters(tmp_path: Path):
    file = write(tmp_path / "a.jsonl", {"text": "é" * 50}, {"text": "e" * 99})
    items = read(file, format="jsonl", limits=Limits(max_document_bytes=99))
    assert texts(items) == ["e" * 99]
    assert [item.value for item in rejected(items)] == [100]


def test_a_truncated_file_gives_what_was_read(tmp_path: Path):
    lines = [{"text": f"line {number} " * 50} for number in range(2000)]
    content = b"".join(json.dumps(line).encode() + b"\n" for line in lines)
    file = tmp_path / "a.jsonl.gz"
    data = gz(content)
    file.write_bytes(data[: len(data) // 2])
    items = read(file, format="jsonl")
    assert 500 < len(records(items)) < 1500
    assert texts(items) == [line["text"].strip() for line in lines[: len(records(items))]]
    (truncated,) = rejected(items)
    assert truncated.rule == "truncated_stream"
    assert truncated.locator.startswith("a.jsonl.gz#0+")


def test_an_empty_file_is_reported(tmp_path: Path):
    file = tmp_path / "a.jsonl"
    for content in (b"", b"\n\n", gz(b"")):
        file.write_bytes(content)
        assert rules(read(file, format="jsonl")) == ["empty"]
