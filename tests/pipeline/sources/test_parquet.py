from __future__ import annotations

import datetime
import json
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from pipeline.sources import Limits
from tests.pipeline.sources.helpers import read, records, rejected, rules, texts, unit_count

ROWS = 5000


def write(path: Path, row_group_size: int = 700, **columns) -> Path:
    table = pa.table(columns or {"text": [f"text {row} " * 20 for row in range(ROWS)], "unused": list(range(ROWS))})
    pq.write_table(table, path, row_group_size=row_group_size)
    return path


def test_rows_in_order_whatever_the_units(tmp_path: Path):
    file = write(tmp_path / "a.parquet")
    whole = read(file, format="parquet")
    assert texts(whole) == [(f"text {row} " * 20).strip() for row in range(ROWS)]
    assert [record.locator for record in records(whole)] == [f"a.parquet#{row}" for row in range(ROWS)]
    for unit_bytes in (1, 20_000):
        assert read(file, unit_bytes, format="parquet") == whole
    assert unit_count(file, 1, format="parquet") == 8


def test_types_of_columns(tmp_path: Path):
    when = [datetime.datetime(2024, 5, 6, 7, 8, 9), None]
    file = write(
        tmp_path / "a.parquet",
        text=pa.array(["a", "b"]).dictionary_encode(),
        date=pa.array(when, pa.timestamp("s")),
        info=[{"lang": "fr", "n": 1}, None],
        score=[0.5, float("nan")],
    )
    first, second = records(
        read(file, format="parquet", language_field="info.lang", metadata_fields=("info.n", "score"))
    )
    assert (first.text, first.date, first.language) == ("a", "2024-05-06T07:08:09", "fr")
    assert json.loads(first.metadata or "") == {"info.n": 1, "score": 0.5}
    assert (second.date, second.language) == (None, None)
    for kind in (pa.large_string(), pa.binary(), pa.string_view()):
        pq.write_table(pa.table({"text": pa.array(["ä", "b"]).cast(kind)}), file)
        assert texts(read(file, format="parquet")) == ["ä", "b"]


def test_rows_that_are_no_documents(tmp_path: Path):
    file = write(tmp_path / "a.parquet", text=pa.array([b"good", None, b"\xff\xfe", b"x" * 200], pa.binary()))
    items = read(file, format="parquet", limits=Limits(max_document_bytes=100))
    assert texts(items) == ["good"]
    assert rules(items) == ["missing_field", "undecodable_bytes", "too_large"]
    write(file, text=[1, 2])
    assert rules(read(file, format="parquet")) == ["wrong_type"] * 2


def test_strings_that_are_no_utf8(tmp_path: Path):
    """Writers that do not look put any bytes into a string column."""
    data = pa.array([b"good", b"\xff\xff", b"fine"], pa.binary())
    strings = pa.Array.from_buffers(pa.string(), 3, data.buffers())
    items = read(write(tmp_path / "a.parquet", text=strings), format="parquet")
    assert texts(items) == ["good", "fine"]
    assert [(item.rule, item.locator) for item in rejected(items)] == [("undecodable_bytes", "a.parquet#1")]


def test_a_broken_row_group_costs_itself(tmp_path: Path):
    file = write(tmp_path / "a.parquet")
    place = pq.read_metadata(file).row_group(3).column(0)
    data = bytearray(file.read_bytes())
    start = place.dictionary_page_offset or place.data_page_offset
    data[start : start + place.total_compressed_size] = bytes(place.total_compressed_size)
    file.write_bytes(data)
    items = read(file, format="parquet")
    assert len(records(items)) == ROWS - 700
    (broken,) = rejected(items)
    assert (broken.rule, broken.locator, broken.value) == ("broken_record", "a.parquet#2100", 700)
    assert read(file, 1, format="parquet") == items


@pytest.mark.parametrize("content", [b"", b"no Parquet", b"PAR1" + b"\0" * 100 + b"PAR1"])
def test_a_file_that_is_no_parquet(tmp_path: Path, content: bytes):
    write(tmp_path / "a.parquet", text=["good"])
    (tmp_path / "b.parquet").write_bytes(content)
    items = read(tmp_path, format="parquet")
    assert texts(items) == ["good"]
    assert [(item.rule, item.locator) for item in rejected(items)] == [("broken_file", "b.parquet#0")]


def test_a_truncated_file(tmp_path: Path):
    file = write(tmp_path / "a.parquet")
    file.write_bytes(file.read_bytes()[:-100])
    assert rules(read(file, format="parquet")) == ["broken_file"]


def test_a_missing_column(tmp_path: Path):
    write(tmp_path / "a.parquet", body=["a"])
    with pytest.raises(ValueError, match=r"source 'test': no column 'text'; the file has 'body'"):
        read(tmp_path, format="parquet")
    write(tmp_path / "b.parquet", text=["b"])
    items = read(tmp_path, format="parquet")
    assert texts(items) == ["b"]
    assert rules(items) == ["missing_field"]


def test_no_rows(tmp_path: Path):
    write(tmp_path / "a.parquet", text=pa.array([], pa.string()))
    assert rules(read(tmp_path, format="parquet")) == ["empty"]


def test_a_row_group_beyond_the_limit(tmp_path: Path):
    file = write(tmp_path / "a.parquet", text=["x" * 100_000])
    items = read(file, format="parquet", limits=Limits(max_decompressed_bytes=50_000))
    assert rules(items) == ["decompression_limit"]
