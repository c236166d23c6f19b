from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pyarrow as pa
import pytest
from datasketch import MinHashLSH

from pipeline.dedup import buckets as dedup_buckets
from pipeline.dedup import decisions
from pipeline.dedup import index as dedup_index
from pipeline.dedup import stages as dedup_stages
from pipeline.dedup.config import DedupConfig
from pipeline.dedup.stages import Candidates, Deduplicate, Duplicates, PreferenceOrder, Signatures
from pipeline.documents import DOCUMENT_SCHEMA
from pipeline.execution import run_stage, shut_down_pools
from pipeline.stage import Stage, StageError
from pipeline.store import Committed, StageRef, Store
from tests.pipeline.dedup.corpora import Writer, covered, deduplicate, rows, shard, shingles, words

ALL_PAIRS = {"bands": 32, "rows": 1, "representatives": 256}
"""Bands of one value propose all pairs that have much in common."""


@pytest.fixture(scope="module", autouse=True)
def _end_workers() -> Iterator[None]:
    yield
    shut_down_pools()


def kept_texts(committed: dict[str, Committed]) -> list[str]:
    return [row["text"] for row in rows(committed["deduplicate"], "documents")]


def planted(seed: int, originals: int = 40) -> list[str]:
    """Originals, each with edited, truncated, extended or equal versions."""
    writer = Writer(seed)
    texts = []
    for number in range(originals):
        original = writer.write(int(writer.random.integers(20, 120)))
        versions = [
            original,
            writer.edit(original, 0.02),
            writer.edit(original, 0.04),
            original[: round(0.85 * len(original))],
            original + writer.write(len(original) // 5),
            original,
        ]
        texts += [" ".join(version) for version in versions[: 1 + number % 6]]
    writer.random.shuffle(texts)
    return texts


def brute_force(texts: dict[str, str], coverage: float) -> dict[str, tuple[str, float, float, float]]:
    """Twin, coverage, containment and similarity of each duplicate, by comparing all pairs of texts as word tuples."""
    sets = {key: shingles(text) for key, text in texts.items()}
    preferred = sorted((key for key in texts), key=lambda key: (-len(words(texts[key])), key))
    kept: list[str] = []
    found: dict[str, tuple[str, float, float, float]] = {}
    leaders: dict[tuple[str, ...], str] = {}
    for key in preferred:
        leader = leaders.setdefault(words(texts[key]), key)
        if leader != key:
            found[key] = found.get(leader, (leader, 1.0, 1.0, 1.0))
            continue
        measured = []
        for place, other in enumerate(kept):
            common = len(sets[key] & sets[other])
            similarity = common / len(sets[key] | sets[other])
            measured.append((covered(texts[key], sets[other]), common / len(sets[key]), similarity, -place))
        best = max(measured, default=(0.0, 0.0, 0.0, 0))
        if best[0] >= coverage and best[1] >= 0.5:
            found[key] = (kept[-best[3]], *best[:3])
        else:
            kept.append(key)
    return found


@pytest.mark.parametrize("seed", [1, 2])
def test_the_result_is_that_of_comparing_all_pairs(tmp_path: Path, seed: int):
    texts = planted(seed)
    tables = [shard(texts[:50], "one"), shard(texts[50:], "two")]
    committed = deduplicate(tables, tmp_path, DedupConfig(**ALL_PAIRS))
    by_id = {row["id"]: row["text"] for table in tables for row in table.to_pylist()}
    expected = brute_force(by_id, 0.82)
    found = {row["id"]: row for row in rows(committed["duplicates"], "duplicates")}
    assert found.keys() == expected.keys()
    assert 20 < len(found) < len(texts) - 20
    for key, (twin, *measures) in expected.items():
        row = found[key]
        assert (row["twin"], row["rule"]) == (twin, "exact" if measures[2] == 1.0 else "minhash")
        assert [row["coverage"], row["containment"], row["similarity"]] == pytest.approx(measures)
        assert row["estimated"] == pytest.approx(measures[2], abs=0.3)
        lies = tables[row["twin_shard"]].slice(row["twin_row"], 1)
        assert (row["twin_ingest"], lies["id"].to_pylist()) == (committed["ingest"].fingerprint, [twin])


def test_the_ledger_explains_every_removal(tmp_path: Path):
    texts = planted(3)
    tables = [shard(texts[:70], "one"), shard(texts[70:], "two")]
    committed = deduplicate(tables, tmp_path)
    documents = {row["id"]: row for table in tables for row in table.to_pylist()}
    kept = rows(committed["deduplicate"], "documents")
    ledger = rows(committed["deduplicate"], "ledger")
    duplicates = rows(committed["duplicates"], "duplicates")
    gone = {row["id"] for row in ledger}
    assert gone == {row["id"] for row in duplicates}
    assert kept == [row for key, row in documents.items() if key not in gone]  # in their order, untouched
    for row, duplicate in zip(ledger, duplicates, strict=True):
        document = documents[row["id"]]
        assert row["action"] == "dropped"
        assert row["rule"] == {"exact": "exact_duplicate", "minhash": "near_duplicate"}[duplicate["rule"]]
        assert row["value"] == duplicate["coverage"] >= row["threshold"]
        assert row["threshold"] == (1.0 if duplicate["rule"] == "exact" else 0.82)
        assert row["twin"] == duplicate["twin"] not in gone
        assert row["source"] == duplicate["source"] == document["source"]
        assert row["bytes"] == len(document["text"].encode())
    counts = committed["deduplicate"].counts
    assert counts["read"] == len(texts) == counts["kept"] + counts["dropped"]
    assert counts["bytes_in"] - counts["bytes_out"] == sum(row["bytes"] for row in ledger)
    found = committed["duplicates"].counts
    assert found["exact_duplicates"] + found["near_duplicates"] == counts["dropped"]
    assert found["exact_duplicates"] == sum(row["rule"] == "exact" for row in duplicates) > 0


def test_no_chain_removes_what_no_kept_document_contains(tmp_path: Path):
    text = Writer(4).write(2000)
    chain = [" ".join(text[start : start + 1000 - start // 90]) for start in range(0, 900, 90)]  # ever shorter
    verified = deduplicate([shard(chain)], tmp_path / "verified", DedupConfig(coverage=0.85, **ALL_PAIRS))
    plain = deduplicate([shard(chain)], tmp_path / "plain", DedupConfig(verify=False, **ALL_PAIRS))
    assert kept_texts(plain) == chain[:1]
    kept = kept_texts(verified)
    assert kept == chain[::2]  # each removed one shares at least 85 % with the one kept before it
    for gone in set(chain) - set(kept):
        assert max(covered(gone, shingles(text)) for text in kept) >= 0.85


def test_a_copy_of_a_near_duplicate_names_a_document_that_stays(tmp_path: Path):
    text = Writer(8).write(100)
    texts = [" ".join(text[:95]), " ".join(text), " ".join(text[:95]).upper()]
    committed = deduplicate([shard(texts)], tmp_path)
    assert kept_texts(committed) == texts[1:2]
    first, copy = rows(committed["duplicates"], "duplicates")
    assert first["rule"] == copy["rule"] == "minhash"
    assert first["twin"] == copy["twin"] == rows(committed["deduplicate"], "documents")[0]["id"]
    assert copy["containment"] == 1.0
    assert copy["similarity"] == first["similarity"] == pytest.approx(91 / 96)


def test_the_earliest_may_be_preferred(tmp_path: Path):
    text = Writer(9).write(100)
    texts = [" ".join(text), " ".join(text[:97]), " ".join(text[:94]), " ".join(text[:50])]
    table = shard(texts, dates=["2021-01-01", "2020-05-01", None, "2019-01-01"])
    assert kept_texts(deduplicate([table], tmp_path / "longest", DedupConfig(**ALL_PAIRS))) == texts[:1]
    earliest = deduplicate([table], tmp_path / "earliest", DedupConfig(prefer=["earliest"], **ALL_PAIRS))
    assert kept_texts(earliest) == [texts[1], texts[3]]  # a first, shorter version does not contain the later ones


@pytest.mark.parametrize("verify", [True, False])
def test_the_order_of_shards_does_not_matter(tmp_path: Path, verify: bool):
    texts = planted(10, originals=80)
    tables = [shard(texts[start : start + 60], f"source {start}") for start in range(0, len(texts), 60)]
    config = DedupConfig(verify=verify)
    one = deduplicate(tables, tmp_path / "one", config)
    other = deduplicate([tables[2], tables[0], *tables[:2:-1], tables[1]], tmp_path / "other", config)

    def decisions(committed: dict[str, Committed]) -> list[tuple]:
        kept = rows(committed["duplicates"], "duplicates")
        places = ("shard", "row", "twin_shard", "twin_row", "twin_ingest")
        return sorted(tuple(item for item in row.items() if item[0] not in places) for row in kept)

    assert decisions(one) == decisions(other)
    assert len(decisions(one)) > 50


def test_the_number_of_workers_does_not_change_a_byte(tmp_path: Path):
    texts = planted(11, originals=60)
    tables = [shard(texts[start : start + 50]) for start in range(0, len(texts), 50)]
    one = deduplicate(tables, tmp_path / "one", workers=0)
    two = deduplicate(tables, tmp_path / "two", workers=2)
    for name in ("signatures", "order", "candidates", "duplicates", "deduplicate"):
        assert one[name].manifest == two[name].manifest  # with the digest of every file


@pytest.mark.parametrize("settings", [ALL_PAIRS, {"verify": False}, {"within": "source", "urls": True}], ids=str)
def test_neither_batches_nor_units_change_the_result(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, settings: dict[str, Any]
):
    texts = planted(14)
    writer = Writer(15)
    for _ in range(12):  # a text of which two others that stay hold enough, the first of them more
        text = writer.write(50)
        texts += [" ".join(text), " ".join(text + writer.write(40)), " ".join(text[:45] + writer.write(30))]
    urls = pa.array([f"https://example.org/{number % 90}" if number % 3 else None for number in range(len(texts))])
    table = shard(texts).set_column(4, DOCUMENT_SCHEMA.field(4), urls.cast(DOCUMENT_SCHEMA.field(4).type))
    assert DOCUMENT_SCHEMA.field(4).name == "url"
    tables = [table.slice(0, 70), shard(texts[:20], "more"), table.slice(70)]
    config = DedupConfig(**settings)
    whole = deduplicate(tables, tmp_path / "whole", config)
    monkeypatch.setattr(dedup_stages, "BAND_KEYS_PER_UNIT", 4 * len(texts))
    monkeypatch.setattr(dedup_index, "BATCH_ROWS", 3)
    monkeypatch.setattr(decisions, "BATCH_ROWS", 3)
    monkeypatch.setattr(dedup_buckets, "PAIRS", 5)
    monkeypatch.setattr(dedup_stages, "SIGNATURE_GROUP_ROWS", 10)
    cut = deduplicate(tables, tmp_path / "cut", config)
    assert cut["candidates"].manifest["units"] > 3
    for name in ("order", "deduplicate"):
        assert cut[name].manifest == whole[name].manifest
    assert cut["duplicates"].files("kept")[0].sha256 == whole["duplicates"].files("kept")[0].sha256
    for name, kind in (("signatures", "signatures"), ("candidates", "pairs"), ("duplicates", "duplicates")):
        assert cut[name].counts == whole[name].counts
        assert rows(cut[name], kind) == rows(whole[name], kind)
    assert whole["duplicates"].counts["near_duplicates"] > 20


def test_documents_with_one_id_are_told_apart_by_their_place(tmp_path: Path):
    text = " ".join(Writer(12).write(50))
    committed = deduplicate([shard([text, text], ids=["a" * 32] * 2), shard([text], ids=["b" * 32])], tmp_path)
    assert committed["deduplicate"].counts["kept"] == 1
    assert kept_texts(committed) == [text]


@pytest.mark.parametrize("tables", [[], [shard([])], [shard([]), shard(["text"]), shard([])]])
def test_empty_corpora_and_shards(tmp_path: Path, tables: list[pa.Table]):
    committed = deduplicate(tables, tmp_path)
    assert committed["deduplicate"].counts["kept"] == sum(map(len, tables))
    assert len(committed["deduplicate"].files("documents")) == len(tables)
    assert rows(committed["duplicates"], "duplicates") == []


def test_signatures_of_other_documents_are_refused(tmp_path: Path):
    def refs(texts: list[str], *names: str) -> dict[str, StageRef]:
        made = deduplicate([shard(texts)], tmp_path / "made")
        return {name: Store.at(tmp_path / "made").ref(name, made[name].fingerprint) for name in names}

    store = Store.at(tmp_path / "other")
    inputs = refs(["one two three"], "ingest", "signatures")
    others = refs(["one", "two"], "ingest")
    with pytest.raises(StageError, match="are of other documents; make them again"):
        run_stage(PreferenceOrder(DedupConfig(), {**inputs, **others}), store, 0)
    with pytest.raises(StageError, match="are of other documents; find them again"):
        run_stage(Deduplicate(DedupConfig(), {**others, **refs(["three", "three"], "duplicates")}), store, 0)


def test_what_a_setting_costs(tmp_path: Path):
    store = Store.at(tmp_path)

    def fingerprints(**settings) -> list[str]:
        config = DedupConfig(**settings)
        refs = {"ingest": store.ref("ingest", "0" * 20)}
        stages: list[type[Stage[DedupConfig]]] = [Signatures, PreferenceOrder, Candidates, Duplicates]
        for stage_class in stages:
            refs[stage_class.name] = store.ref(stage_class.name, stage_class(config, refs).fingerprint())
        return [refs[stage_class.name].fingerprint for stage_class in stages]

    def kept(**settings) -> int:
        """How many stages in a row stay as they are."""
        same = [a == b for a, b in zip(fingerprints(), fingerprints(**settings), strict=True)]
        assert same == sorted(same, reverse=True)
        return sum(same)

    assert kept(memory_limit_mb=256) == 4
    assert kept(coverage=0.9) == kept(containment=0.6) == kept(verify=False) == 3
    assert kept(representatives=9) == 2
    assert kept(prefer=["earliest"]) == kept(urls=True) == kept(within="source") == 1
    assert kept(rows=7) == kept(seed=2) == kept(threshold=0.8) == 0


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"bands": 256, "rows": 64}, "permutations\n.*less than or equal to 4096"),
        ({"bands": "many"}, "bands\n.*valid integer"),
        ({"coverage": 0, "containment": 0}, "asks for nothing"),
        ({"containment": 1.1}, "less than or equal to 1"),
        ({"contaiment": 0.9}, "Extra inputs"),
        ({"threshold": 0.8, "bands": 20}, "bands follows from threshold"),
        ({"threshold": 1.5}, "less than 1"),
        ({"permutations": 100}, "permutations is 100, but bands x rows is 112"),
        ({"threshold": 0.8, "permutations": 10**9}, "permutations\n.*less than or equal to 4096"),
        ({"prefer": ["priority"]}, "need each other"),
        ({"quality": "1"}, "need each other"),
        ({"prefer": ["longest", "longest"]}, "twice"),
        ({"prefer": ["shortest"]}, "'priority', 'quality', 'longest', 'earliest' or 'latest'"),
        ({"within": "sourse"}, "no column 'sourse'.*'source'"),
        ({"within": "max(source)"}, "looks at more than one document"),
        ({"prefer": ["quality"], "quality": "random()"}, "another answer on another run"),
        ({"against": {"recipe": "crawl"}, "verify": False}, "merges components"),
    ],
)
def test_settings_that_cannot_be_are_refused(settings: dict[str, Any], message: str):
    with pytest.raises(ValueError, match=message):
        DedupConfig(**settings)


@pytest.mark.parametrize("permutations", [64, 112, 256])
@pytest.mark.parametrize("threshold", [0.5, 0.7, 0.9])
def test_bands_follow_from_the_threshold(threshold: float, permutations: int):
    config = DedupConfig(threshold=threshold, permutations=permutations)
    peer = MinHashLSH(threshold=threshold, num_perm=permutations)
    assert (config.bands, config.rows, config.permutations) == (peer.b, peer.r, permutations)
    assert DedupConfig(**config.model_dump()) == config


def test_a_threshold_that_leaves_permutations_over(tmp_path: Path):
    config = DedupConfig(threshold=0.6, permutations=100)
    assert config.bands * config.rows < 100
    text = Writer(21).write(100)
    texts = [" ".join(text), " ".join(text[:95]), " ".join(Writer(22).write(50))]
    assert kept_texts(deduplicate([shard(texts)], tmp_path, config)) == [texts[0], texts[2]]
