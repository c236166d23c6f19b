"""Columns against the same rows one by one, which is what they must give."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

import pyarrow as pa
import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from pipeline.documents import document_id, document_ids
from pipeline.sources import Limits, Record, SourceConfig
from pipeline.sources.cleaning import cleaned
from pipeline.sources.columns import ObjectRows, Rows, TableRows, records_of
from pipeline.sources.fields import record_of
from pipeline.sources.records import RECORD_SCHEMA, Found, clean_text

LIMITS = Limits(max_document_bytes=30)
SOURCE = SourceConfig(
    name="test",
    format="jsonl",
    path="-",
    license="MIT",
    language_field="info.lang",
    license_field="license",
    metadata_fields=("info.n", "a.b", "score", "date"),
)
BARE = SourceConfig(name="bare", format="jsonl", path="-")
TEXTS = st.text(st.sampled_from("aé字😀 \n\r\0\t\x1c\x85\xa0\u2003\u3000。"), max_size=12)
STRINGS = st.none() | st.sampled_from(["", "x", "é"])
DATES = st.none() | st.sampled_from(["2024-05-06", " 2024 ", "2024-13", "yesterday", ""])


def one_by_one(found: Iterable[Found]) -> list[Any]:
    items: list[Any] = []
    for item in found:
        if isinstance(item, pa.RecordBatch):
            assert item.schema == RECORD_SCHEMA
            item.validate(full=True)
            items += [Record(**row) for row in item.to_pylist()]
        else:
            items.append(item)
    return items


def check(rows: Rows) -> list[Any]:
    locators = [f"a#{index}" for index in range(len(rows))]
    for source in (BARE, SOURCE):
        found = one_by_one(records_of(rows, locators, source, LIMITS))
        assert found == [record_of(locator, rows.row(n), source, LIMITS) for n, locator in enumerate(locators)]
    return found


@given(st.lists(TEXTS))
def test_cleaned_texts(texts: list[str]):
    array = pa.array([None, *texts, "x"], pa.large_string())
    expected = ["", *map(clean_text, texts), "x"]
    assert cleaned(array).to_pylist() == expected
    assert cleaned(array.slice(1, len(texts))).to_pylist() == expected[1:-1]


def test_every_white_space_is_cleaned():
    characters = [chr(code) for code in range(0x11_0000) if not 0xD800 <= code < 0xE000]
    texts = [f"{c}x" for c in characters] + [f"x{c}" for c in characters]
    assert cleaned(pa.array(texts, pa.large_string())).to_pylist() == [clean_text(text) for text in texts]


def test_texts_that_are_clean_are_not_copied():
    texts = pa.array(["a", "b c", "", "字。"], pa.large_string())
    assert cleaned(texts) is texts


ODD = st.sampled_from([1, True, 1.0, None, ["x"], {"lang": "fr"}, "\ud800", 10**30, float("nan")])
OBJECT = st.fixed_dictionaries(
    {},
    optional={
        "text": TEXTS | ODD | st.just("y" * 40),
        "url": STRINGS | ODD,
        "date": DATES | ODD,
        "license": STRINGS | ODD,
        "info": st.fixed_dictionaries({}, optional={"lang": STRINGS | ODD, "n": ODD}) | ODD,
        "a.b": ODD,
        "a": st.fixed_dictionaries({"b": ODD}),
        "score": ODD,
    },
)


@given(st.lists(OBJECT, max_size=20))
@example([{"text": "a", "url": 1}, {"text": "b", "url": True}, {"text": "c", "url": 1.0}])
def test_json_objects(objects: list[dict[str, Any]]):
    check(ObjectRows(objects))


ROW = st.fixed_dictionaries(
    {
        "text": st.none() | TEXTS | st.just("y" * 40),
        "url": STRINGS,
        "date": DATES,
        "info": st.none() | st.fixed_dictionaries({"lang": STRINGS, "n": st.none() | st.integers(0, 9)}),
        "score": st.none() | st.sampled_from([0.5, -0.0, float("inf")]),
    }
)
KINDS = [pa.string(), pa.large_string(), pa.string_view(), pa.binary(), pa.large_binary()]


@given(st.lists(ROW, min_size=1, max_size=20), st.sampled_from(KINDS), st.sampled_from(KINDS))
def test_rows_of_a_table(rows: list[dict[str, Any]], text: pa.DataType, url: pa.DataType):
    info = pa.struct([("lang", pa.string()), ("n", pa.int64())])
    columns = {
        "text": pa.array([row["text"] for row in rows], pa.string()).cast(text),
        "url": pa.array([row["url"] for row in rows], pa.string()).cast(url),
        "date": pa.array([row["date"] for row in rows], pa.string()).dictionary_encode(),
        "info": pa.array([row["info"] for row in rows], info),
        "score": pa.array([row["score"] for row in rows], pa.float64()),
    }
    check(TableRows(pa.record_batch(columns)))


def test_bytes_that_are_no_utf8_cost_themselves():
    texts = pa.array([b"good", b"\xff", b" fine", None, b"y" * 40], pa.binary())
    found = check(TableRows(pa.record_batch({"text": texts})))
    assert [getattr(item, "text", None) or item.rule for item in found] == [
        *("good", "undecodable_bytes", "fine", "missing_field", "too_large")
    ]


@pytest.mark.parametrize("kind", [pa.int64(), pa.list_(pa.string()), pa.null()])
def test_texts_of_another_type(kind: pa.DataType):
    found = check(TableRows(pa.record_batch({"text": pa.nulls(2, kind), "url": pa.array(["a", "b"])})))
    assert [item.rule for item in found] == ["missing_field"] * 2


@given(st.lists(st.tuples(st.text(max_size=5), st.text(max_size=9)), max_size=9), st.integers(0, 3))
def test_ids_in_bulk(records: list[tuple[str, str]], skipped: int):
    texts = pa.array([text for _, text in records], pa.large_string()).slice(skipped)
    ids = document_ids("test", [locator for locator, _ in records[skipped:]], texts)
    ids.validate(full=True)
    assert ids.to_pylist() == [document_id("test", *pair[:1], pair[1].encode()) for pair in records[skipped:]]
