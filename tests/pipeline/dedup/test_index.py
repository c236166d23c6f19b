"""New documents against those of earlier runs: the same result as one run over all."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pyarrow as pa
import pytest

from pipeline.dedup.config import DedupConfig
from pipeline.stage import StageError
from pipeline.store import Committed
from tests.pipeline.dedup.corpora import Writer, deduplicate, rows, shard

MEASURES = ("rule", "twin", "estimated", "coverage", "containment", "similarity")


def dumps(seed: int, count: int, originals: int) -> list[list[pa.Table]]:
    """Documents of several dumps, each in two shards; versions of one original are spread over all of them."""
    writer = Writer(seed)
    texts: list[list[str]] = [[] for _ in range(count)]
    for _ in range(originals):
        original = writer.write(int(writer.random.integers(3, 120)))
        versions = [
            original,
            writer.edit(original, 0.02),
            writer.edit(original, 0.05),
            original[: round(0.9 * len(original))],
            original + writer.write(len(original) // 8),
            original,
            original + writer.write(1),
        ]
        for version in versions[: int(writer.random.integers(1, 8))]:
            texts[int(writer.random.integers(count))].append(" ".join(version))
    made = []
    for number, dump in enumerate(texts):
        table = shard(dump, f"dump {number}")
        urls = [f"https://example.org/{int(page)}" for page in writer.random.integers(0, originals * 4, len(dump))]
        table = table.set_column(table.schema.get_field_index("url"), table.schema.field("url"), pa.array(urls))
        made.append([table.slice(0, len(dump) // 3), table.slice(len(dump) // 3)])
    return made


def decided(committed: Committed) -> dict[str, tuple[Any, ...]]:
    return {row["id"]: tuple(row[name] for name in MEASURES) for row in rows(committed, "duplicates")}


@pytest.mark.parametrize(
    "settings",
    [{}, {"urls": True}, {"exact": False}, {"within": "url[-1:]", "urls": True}, {"representatives": 2, "rows": 3}],
    ids=["default", "urls", "without exact", "within", "few representatives"],
)
def test_a_chain_of_runs_equals_one_run_over_all(tmp_path: Path, settings: dict[str, Any]):
    three = dumps(1, 3, 150)
    priority = {"prefer": ["priority", "longest"], "priority": [f"dump {number}" for number in range(3)]}
    whole = deduplicate(
        [table for tables in three for table in tables], tmp_path / "whole", DedupConfig(**settings, **priority)
    )
    chained: dict[str, tuple[Any, ...]] = {}
    kept: list[dict[str, Any]] = []
    known = None
    for tables in three:
        run = deduplicate(tables, tmp_path / "chained", DedupConfig(**settings), known=known)
        known = run["duplicates"]
        found = decided(known)
        assert not found.keys() & chained.keys()
        chained |= found
        kept += rows(run["deduplicate"], "documents")
    assert chained == decided(whole["duplicates"])
    assert kept == rows(whole["deduplicate"], "documents")
    across = [row for row in rows(known, "duplicates") if row["twin_ingest"] != run["ingest"].fingerprint]
    assert len(across) > 20
    assert len(chained) > 100
    assert {"minhash"} < {row[0] for row in chained.values()} or not settings.get("exact", True)


def test_the_place_of_a_known_twin(tmp_path: Path):
    text = Writer(2).write(90)
    old = deduplicate([shard(["else"]), shard(["other", " ".join(text)])], tmp_path)
    new = deduplicate([shard(["new", " ".join(text[:85])], "new")], tmp_path, known=old["duplicates"])
    (row,) = rows(new["duplicates"], "duplicates")
    assert (row["twin_ingest"], row["twin_shard"], row["twin_row"]) == (old["ingest"].fingerprint, 1, 1)
    assert row["coverage"] == 1.0


def test_old_text_is_read_only_to_verify(tmp_path: Path):
    texts = [" ".join(Writer(3).write(60)), " ".join(Writer(4).write(60))]
    old = deduplicate([shard(texts[:1], "one"), shard(texts[1:], "two")], tmp_path)
    (_, unasked) = old["ingest"].files("documents")
    Path(unasked.path).write_bytes(b"nobody reads this")
    new = deduplicate([shard([texts[0] + " more", "something else"], "new")], tmp_path, known=old["duplicates"])
    assert len(rows(new["duplicates"], "duplicates")) == 1


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"seed": 2}, "was made with seed 1, but the new documents have seed 2"),
        ({"bands": 7}, "was made with .*bands 14.* have .*bands 7"),
        ({"shingle_words": 3}, "shingle_words 5"),
        ({"within": "source"}, "was made within None, but .* within 'source'"),
    ],
)
def test_an_index_of_another_make_is_refused(tmp_path: Path, settings: dict[str, Any], message: str):
    old = deduplicate([shard(["one two three"])], tmp_path)
    with pytest.raises(StageError, match=message):
        deduplicate([shard(["one"], "new")], tmp_path, DedupConfig(**settings), known=old["duplicates"])


def test_thresholds_may_differ_from_those_of_the_index(tmp_path: Path):
    text = Writer(5).write(100)
    old = deduplicate([shard([" ".join(text)])], tmp_path)
    config = DedupConfig(coverage=1.0)
    new = deduplicate([shard([" ".join([*text[:97], "x"])], "new")], tmp_path, config, known=old["duplicates"])
    assert new["deduplicate"].counts["kept"] == 1


@pytest.mark.parametrize("empty", [0, 1])
def test_empty_runs_in_the_chain(tmp_path: Path, empty: int):
    first, second = ([], [shard(["one two"])]) if empty == 0 else ([shard(["one two"])], [shard([])])
    old = deduplicate(first, tmp_path)
    new = deduplicate(second, tmp_path, known=old["duplicates"])
    again = deduplicate([shard(["one, two"], "new")], tmp_path, known=new["duplicates"])
    assert again["deduplicate"].counts["dropped"] == 1
