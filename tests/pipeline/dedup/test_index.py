"""New documents against those of earlier runs: the same result as one run over all."""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import Any

import pyarrow as pa
import pytest

from pipeline.dedup import stages as dedup_stages
from pipeline.dedup.config import DedupConfig
from pipeline.dedup.index import Index, known_runs
from pipeline.repeats.kept import KeptInShards
from pipeline.stage import StageError
from pipeline.store import Committed, NotCommitted, StageRef
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
    three = dumps(1, 3, 120)
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


def test_the_same_documents_again(tmp_path: Path):
    texts = [" ".join(Writer(6).write(60)), "one two three"]
    texts += [f"{texts[0]} more", "One, two, three!"]
    old = deduplicate([shard(texts)], tmp_path)
    again = deduplicate([shard(texts)], tmp_path, known=old["duplicates"])
    assert again["ingest"].path == old["ingest"].path  # the same shards stand in the index twice
    assert again["deduplicate"].counts["kept"] == 0
    twins = {row["id"]: row["twin"] for row in rows(old["duplicates"], "duplicates")}
    found = {row["id"]: (row["twin"], row["rule"]) for row in rows(again["duplicates"], "duplicates")}
    names = [row["id"] for row in rows(old["ingest"], "documents")]
    assert found == {
        name: (twins.get(name, name), "minhash" if name == names[0] else "exact") for name in names
    }  # a copy of a known near duplicate goes as that one did


def test_a_chain_over_several_stores(tmp_path: Path):
    """Each run knows where the one before it lies; the result is that of a chain in one store."""
    four = dumps(7, 4, 20)
    decisions = []
    for folders in (["one"] * 4, ["first", "second", "second", "third"]):
        known = None
        for tables, folder in zip(four, folders, strict=True):
            run = deduplicate(tables, tmp_path / folder, known=known)
            known = run["duplicates"]
        decisions.append((known.fingerprint, rows(known, "duplicates")))
    assert decisions[0] == decisions[1]
    places = [earlier["ingest"].path.split("/")[-3] for earlier in known_runs(reference(known))]
    assert places == ["first", "second", "second", "third"]
    shutil.rmtree(tmp_path / "second")
    with pytest.raises(NotCommitted, match=str(tmp_path / "second")):
        known_runs(reference(known))


def reference(committed: Committed) -> StageRef:
    return StageRef(committed.name, committed.fingerprint, committed.path)


def test_units_of_candidates_count_the_known_documents(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(dedup_stages, "BAND_KEYS_PER_UNIT", 14 * 10)
    old = deduplicate([shard([f"text {number}" for number in range(60)])], tmp_path)
    assert old["candidates"].manifest["units"] == 7  # two bands of 60 documents each
    new = deduplicate([shard(["text 7 and more"], "new")], tmp_path, known=old["duplicates"])
    assert new["candidates"].manifest["units"] == 7
    inputs = {name: reference(old[name]) for name in ("ingest", "signatures", "order")}
    units = dedup_stages.Candidates(DedupConfig(), inputs).units()
    assert [unit.spec["bands"] for unit in units] == [[band, band + 1] for band in range(0, 14, 2)]


def test_what_stays_is_ranked_among_the_new_documents(tmp_path: Path):
    old = deduplicate([shard(["a b c", "d e f"])], tmp_path)
    config = DedupConfig()
    texts = ["short text", "a b c", "a text that is longer than the other ones", "D e f!", "g"]
    new = deduplicate([shard(texts[:2], "new"), shard(texts[2:], "new")], tmp_path, config, known=old["duplicates"])
    inputs = {name: reference(new[name]) for name in ("ingest", "signatures", "order")}
    index = Index({**inputs, "known": reference(old["duplicates"])}, None)
    kept = KeptInShards(index, new["duplicates"].files("duplicates")[0], tmp_path)
    batches = [batch for number in range(kept.shards) for batch in kept.read(number)]
    assert [text for batch in batches for text in batch.texts.to_pylist()] == [texts[0], texts[2], texts[4]]
    assert [row for batch in batches for row in batch.rows.tolist()] == [0, 0, 2]
    ranks = [rank for batch in batches for rank in batch.ranks.tolist()]
    assert (kept.shards, kept.documents) == (2, 5)
    assert ranks[1] == 0  # the longest
    assert max(ranks) < kept.documents


def test_what_stays_of_several_row_groups(tmp_path: Path):
    texts = [f"text {number % 90}" for number in range(100)]  # groups of 64 and 36 rows
    committed = deduplicate([shard(texts, ids=[f"{number:032x}" for number in range(100)])], tmp_path)
    index = Index({name: reference(committed[name]) for name in ("ingest", "signatures", "order")}, None)
    kept = KeptInShards(index, committed["duplicates"].files("duplicates")[0], tmp_path)
    batches = list(kept.read(0))
    assert len(batches) == 2
    assert [row for batch in batches for row in batch.rows.tolist()] == list(range(90))
    assert [text for batch in batches for text in batch.texts.to_pylist()] == texts[:90]
