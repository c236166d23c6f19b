"""The stages that find repeated text, and `deduplicate`, which cuts it."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pyarrow as pa
import pytest

from pipeline.dedup.config import DedupConfig
from pipeline.dedup.stages import SPAN_RULES, Deduplicate
from pipeline.execution import run_stage
from pipeline.repeats.lines import RULE_NAMES
from pipeline.repeats.stages import Lines, Substrings
from pipeline.repeats.substrings import REPEATED_SUBSTRINGS
from pipeline.stage import StageError
from pipeline.store import Committed, StageRef, Store
from tests.pipeline.dedup.corpora import Writer, deduplicate, rows, shard

LINES = {"rules": [{"unit": "line"}]}


def cut(
    tables: list[pa.Table], root: Path, config: DedupConfig, names: tuple[str, ...] = ("lines", "substrings")
) -> dict[str, Committed]:
    """Run all stages up to `duplicates`, then those of `names`, then `deduplicate` with what they found."""
    committed = deduplicate(tables, root, config)
    store = Store.at(root)
    refs = {name: StageRef(name, stage.fingerprint, stage.path) for name, stage in committed.items()}
    inputs = {name: refs[name] for name in ("ingest", "duplicates")}
    for stage in (Lines(config, refs), Substrings(config, refs)):
        if stage.name in names:
            inputs[stage.name] = store.ref(stage.name, stage.fingerprint())
            committed[stage.name] = run_stage(stage, store, 0)
    committed["deduplicate"] = run_stage(Deduplicate(config, inputs), store, 0)
    return committed


def text_of(number: int) -> str:
    return " ".join(Writer(number).write(30))


@pytest.fixture(scope="module")
def tables() -> list[pa.Table]:
    """Pages of own lines under a banner; a duplicate; a page that holds nothing but the banner."""
    banner = "All rights reserved, and nothing on these pages may be copied."
    pages = [f"{text_of(number)}\n{banner}\n{text_of(number + 50)}" for number in range(9)]
    pages += [pages[3], banner + "\n", f"{text_of(99)}\nshort line", f"{text_of(98)}\nshort line"]
    return [shard(pages[:5], "one"), shard(pages[5:], "two")]


def test_lines_are_cut_and_counted(tmp_path: Path, tables: list[pa.Table]):
    config = DedupConfig(lines=LINES)
    committed = cut(tables, tmp_path, config, ("lines",))
    before = {row["id"]: row["text"] for table in tables for row in table.to_pylist()}
    after = {row["id"]: row["text"] for row in rows(committed["deduplicate"], "documents")}
    ledger = rows(committed["deduplicate"], "ledger")
    assert [row["action"] for row in ledger].count("dropped") == 2
    edited = {row["id"]: row for row in ledger if row["action"] == "edited"}
    assert len(edited) == 8  # all pages of the banner that stay, but the most preferred one
    for key, row in edited.items():
        assert after[key] == "\n".join(line for line in before[key].splitlines() if "rights" not in line)
        assert (row["rule"], row["value"], row["twin"]) == ("repeated_lines", 1.0, None)
        assert row["bytes"] == len(before[key].encode()) - len(after[key].encode())
    untouched = after.keys() - edited.keys()
    assert {before[key] for key in untouched} == {after[key] for key in untouched}
    assert sum("rights" in text for text in after.values()) == 1
    (emptied,) = [row for row in ledger if row["rule"] == "repeated_lines" and row["action"] == "dropped"]
    assert emptied["id"] not in after
    assert emptied["bytes"] == len(before[emptied["id"]])
    counts = committed["deduplicate"].counts
    assert (counts["read"], counts["kept"], counts["dropped"], counts["edited"]) == (13, 11, 2, 8)
    assert counts["bytes_in"] - counts["bytes_out"] == sum(row["bytes"] for row in ledger)
    (facts,) = committed["lines"].files("facts")
    assert json.loads(Path(facts.path).read_text())["rules"][0]["rule"] == "repeated_lines"
    assert committed["lines"].counts["spans"] == 9


def test_a_first_occurrence_is_in_a_document_that_stays(tmp_path: Path):
    """A line that stands in a document that goes, and in one that stays, is not the repeat of the one that went."""
    line = "a line of its own that stands in two documents only"
    text = text_of(1)
    longer = f"{line}\n{text} {text_of(2)} {text_of(3)}"  # the most preferred that holds the line, and a duplicate
    table = shard([f"{longer}\nmore and more", longer, f"{line}\n{text_of(5)}"])
    kept = cut([table], tmp_path, DedupConfig(lines=LINES), ("lines",))["deduplicate"]
    assert [row["text"].count(line) for row in rows(kept, "documents")] == [1, 0]


def test_substrings_are_cut_or_counted(tmp_path: Path):
    writer = Writer(7)
    shared = " ".join(writer.write(60))
    texts = [" ".join([*writer.write(80), shared, *writer.write(80)]) for _ in range(3)]
    tables = [shard(texts[:2], "one"), shard(texts[2:], "two")]
    config = DedupConfig(substrings={})
    committed = cut(tables, tmp_path, config, ("substrings",))
    kept = [row["text"] for row in rows(committed["deduplicate"], "documents")]
    assert sorted(text.count(shared) for text in kept) == [0, 0, 1]
    assert all(len(text.split()) == 160 for text in kept if shared not in text)
    ledger = rows(committed["deduplicate"], "ledger")
    assert {(row["action"], row["rule"], row["value"]) for row in ledger} == {("edited", "repeated_substrings", 1.0)}
    facts = json.loads(Path(committed["substrings"].files("facts")[0].path).read_text())
    assert (facts["tokens"], facts["repeated_tokens"], facts["spans"]) == (660, 120, 2)
    counted = DedupConfig(substrings={"action": "count"})
    refs: dict[str, StageRef] = {
        name: StageRef(name, stage.fingerprint, stage.path) for name, stage in committed.items() if name != "substrings"
    }
    assert Substrings(counted, refs).fingerprint() == Substrings(config, refs).fingerprint()


def test_both_cut_the_same_text_once(tmp_path: Path):
    line = " ".join(Writer(11).write(70))
    tables = [shard([f"{text_of(1)}\n{line}\n{text_of(2)}", f"{text_of(3)}\n{line}\n{text_of(4)}"])]
    committed = cut(tables, tmp_path, DedupConfig(lines=LINES, substrings={}))
    (row,) = rows(committed["deduplicate"], "ledger")
    assert row["rule"] == "repeated_lines"  # each byte counts for the first rule
    counts = committed["deduplicate"].counts
    assert counts["bytes_in"] - counts["bytes_out"] == row["bytes"] == len(line) + 1


def test_every_rule_of_the_finders_is_known_to_the_stage_that_cuts():
    assert {*RULE_NAMES.values(), REPEATED_SUBSTRINGS} == {*SPAN_RULES}


@pytest.mark.parametrize("settings", [{"lines": LINES}, {"substrings": {"tokens": 8}}], ids=["lines", "substrings"])
def test_the_order_of_shards_changes_nothing_but_their_order(
    tmp_path: Path, tables: list[pa.Table], settings: dict[str, Any]
):
    name = next(iter(settings))
    config = DedupConfig(**settings)
    one = cut(tables, tmp_path / "one", config, (name,))["deduplicate"]
    other = cut(tables[::-1], tmp_path / "other", config, (name,))["deduplicate"]

    def in_order(kind: str, committed: Committed) -> list[dict[str, Any]]:
        return sorted(rows(committed, kind), key=lambda row: (row["id"], str(row.get("rule"))))

    assert in_order("documents", one) == in_order("documents", other)
    assert in_order("ledger", one) == in_order("ledger", other)
    assert one.counts["edited"] > 0


@pytest.mark.parametrize("tables", [[], [shard([])]])
def test_empty_corpora(tmp_path: Path, tables: list[pa.Table]):
    committed = cut(tables, tmp_path, DedupConfig(lines=LINES, substrings={}))
    assert committed["deduplicate"].counts["read"] == 0


def test_a_filter_that_is_too_small_is_refused(tmp_path: Path):
    texts = ["\n".join(f"line {place} of page {page} is its own" for place in range(2000)) for page in range(30)]
    bloom = {"rules": [{"unit": "line"}], "method": "bloom", "bloom_megabytes": 1}
    with pytest.raises(StageError, match=r"1 MiB would take .*% of the units of repeated_lines .*bloom_megabytes \d+"):
        cut([shard(texts)], tmp_path, DedupConfig(lines=bloom), ("lines",))
    config = DedupConfig(lines={**bloom, "bloom_megabytes": 16})
    assert cut([shard(texts)], tmp_path, config, ("lines",))["lines"].counts["spans"] < 0.01 * 60_000
