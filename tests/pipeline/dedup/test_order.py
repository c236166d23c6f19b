"""Which of several duplicates stays, and which documents are compared at all."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pytest

from pipeline.dedup.config import DedupConfig
from pipeline.store import Committed
from tests.pipeline.dedup.corpora import Writer, deduplicate, rows, shard, twins


def with_column(table: pa.Table, name: str, values: list[Any]) -> pa.Table:
    at = table.schema.get_field_index(name)
    return table.set_column(at, table.schema.field(at), pa.array(values, table.schema.field(at).type))


def kept_ids(committed: dict[str, Committed]) -> list[str]:
    return [row["id"] for row in rows(committed["deduplicate"], "documents")]


def ids(count: int) -> list[str]:
    return [f"{number:032x}" for number in range(count)]


def ranks(committed: dict[str, Committed]) -> list[int]:
    (file,) = committed["order"].files("rank")
    return np.fromfile(file.path, np.uint32).tolist()


@pytest.fixture
def versions() -> pa.Table:
    """Versions of one text: rows 0 to 3 are ever shorter, of several sources, dates and scores."""
    text = Writer(1).write(100)
    table = shard(
        [" ".join(text[: 100 - cut]) for cut in (0, 1, 2, 3)],
        ids=ids(4),
        dates=["2022-01-01", "2021-01-01", None, "2023-01-01"],
    )
    table = with_column(table, "source", ["web", "books", "wiki", "web"])
    return with_column(table, "metadata", [json.dumps({"score": score}) for score in (0.5, 0.75, None, 0.25)])


@pytest.mark.parametrize(
    ("settings", "expected"),
    [
        ({}, [0, 1, 2, 3]),
        ({"prefer": ["earliest"]}, [1, 0, 3, 2]),
        ({"prefer": ["latest"]}, [3, 0, 1, 2]),
        ({"prefer": ["priority"], "priority": ["wiki", "it's absent", "books"]}, [2, 1, 0, 3]),
        ({"prefer": ["priority", "latest"], "priority": ["wiki"]}, [2, 3, 0, 1]),
        ({"prefer": ["quality"], "quality": "(metadata->>'$.score')::DOUBLE"}, [1, 0, 3, 2]),
        ({"prefer": ["quality"], "quality": "-length(text)"}, [3, 2, 1, 0]),
        ({"prefer": ["quality"], "quality": "if(source = 'web', 'NaN'::DOUBLE, 1)"}, [1, 2, 0, 3]),
    ],
)
def test_criteria_of_preference(tmp_path: Path, versions: pa.Table, settings: dict[str, Any], expected: list[int]):
    committed = deduplicate([versions.slice(0, 1), versions.slice(1)], tmp_path, DedupConfig(**settings))
    assert ranks(committed) == [expected.index(row) for row in range(4)]
    assert kept_ids(committed)[0] == versions["id"][min(expected[:1])].as_py() or expected[0] != 0


def test_the_preferred_one_stays_if_it_holds_enough(tmp_path: Path, versions: pa.Table):
    settings = {"prefer": ["priority"], "priority": ["wiki"], "coverage": 0.9}
    committed = deduplicate([versions], tmp_path, DedupConfig(**settings))
    assert kept_ids(committed) == ids(4)[2:3]
    assert set(twins(committed).values()) == {ids(4)[2]}


def test_equal_documents_are_ordered_by_id(tmp_path: Path):
    names = ["c" * 32, "a" * 32, "b" * 32]
    assert ranks(deduplicate([shard(["one two"] * 3, ids=names)], tmp_path)) == [2, 0, 1]


def test_within_a_source_or_a_key(tmp_path: Path):
    text = " ".join(Writer(2).write(80))
    near = text + " more"
    table = shard([text, near, text, near, text, text], ids=ids(6))
    table = with_column(table, "source", ["a", "a", "b", "b", "c", "d"])
    table = with_column(table, "language", ["en", "de", "en", "de", None, None])
    assert kept_ids(deduplicate([table], tmp_path / "all")) == [ids(6)[1]]
    by_source = deduplicate([table.slice(0, 3), table.slice(3)], tmp_path / "source", DedupConfig(within="source"))
    assert kept_ids(by_source) == [ids(6)[row] for row in (1, 3, 4, 5)]
    assert twins(by_source) == {ids(6)[0]: ids(6)[1], ids(6)[2]: ids(6)[3]}
    by_key = deduplicate([table], tmp_path / "key", DedupConfig(within="language"))
    assert kept_ids(by_key) == [ids(6)[row] for row in (0, 1, 4)]  # undated ones are compared with each other
    neither = deduplicate([table], tmp_path / "either", DedupConfig(within="source || coalesce(language, '')"))
    assert kept_ids(neither) == ids(6)


def test_documents_of_one_url(tmp_path: Path):
    writer = Writer(3)
    texts = [" ".join(writer.write(length)) for length in (30, 60, 40, 50)]
    texts += [texts[0], texts[1] + " more words at the end", texts[0]]
    table = with_column(
        shard(texts, ids=ids(7)),
        "url",
        [
            "https://example.org/a",
            "http://www.EXAMPLE.org/a?utm_source=feed#top",
            "https://example.org/b",
            "https://example.org/a/",
            None,
            "https://example.org/c",
            None,
        ],
    )
    without = deduplicate([table], tmp_path / "without")
    assert kept_ids(without) == [ids(7)[row] for row in (0, 2, 3, 5)]
    committed = deduplicate([table.slice(0, 2), table.slice(2)], tmp_path / "with", DedupConfig(urls=True))
    # Of /a document 1 is the longest; it goes for document 5, which contains it. Document 0 goes with the URL, but its
    # copies 4 and 6 have none: the first of them stays.
    assert kept_ids(committed) == [ids(7)[row] for row in (2, 4, 5)]
    found = {row["id"]: row for row in rows(committed["duplicates"], "duplicates")}
    assert {key: (row["rule"], row["twin"]) for key, row in found.items()} == {
        ids(7)[0]: ("url", ids(7)[5]),
        ids(7)[1]: ("minhash", ids(7)[5]),
        ids(7)[3]: ("url", ids(7)[5]),
        ids(7)[6]: ("exact", ids(7)[4]),
    }
    assert found[ids(7)[0]]["estimated"] is found[ids(7)[0]]["coverage"] is None
    ledger = {row["id"]: row for row in rows(committed["deduplicate"], "ledger")}
    assert (ledger[ids(7)[0]]["rule"], ledger[ids(7)[0]]["value"]) == ("url_duplicate", None)
    counts = committed["duplicates"].counts
    assert [counts[f"{rule}_duplicates"] for rule in ("exact", "url", "near")] == [1, 2, 1]


def test_the_same_words_at_the_same_url_are_an_exact_copy(tmp_path: Path):
    text = " ".join(Writer(5).write(30))
    urls = ["https://example.org/", "https://example.org", "https://example.org"]
    table = with_column(shard([text, text.upper(), text[:-9]], ids=ids(3)), "url", urls)
    committed = deduplicate([table], tmp_path, DedupConfig(urls=True))
    found = {row["id"]: (row["rule"], row["coverage"]) for row in rows(committed["duplicates"], "duplicates")}
    assert found == {ids(3)[1]: ("exact", 1.0), ids(3)[2]: ("url", None)}


def test_a_copy_by_url_follows_a_copy_by_words(tmp_path: Path):
    writer = Writer(4)
    longest, other = " ".join(writer.write(60)), " ".join(writer.write(20))
    table = with_column(
        shard([longest, longest, other], ids=ids(3)), "url", [None, "https://example.org/", "https://example.org"]
    )
    committed = deduplicate([table], tmp_path, DedupConfig(urls=True))
    assert twins(committed) == {ids(3)[1]: ids(3)[0], ids(3)[2]: ids(3)[0]}
