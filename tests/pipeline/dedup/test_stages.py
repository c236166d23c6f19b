from __future__ import annotations

import resource
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pyarrow as pa
import pytest
from datasketch import MinHashLSH

from pipeline.dedup.config import DedupConfig
from pipeline.dedup.stages import Candidates, Deduplicate, Duplicates, PreferenceOrder, Signatures
from pipeline.execution import run_stage, shut_down_pools
from pipeline.stage import Stage, StageError
from pipeline.store import Committed, StageRef, Store, StoreError
from tests.pipeline.dedup.corpora import Given, Writer, covered, deduplicate, rows, shard, shingles, words

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


def test_templated_pages_are_kept_unless_told_to_merge_components(tmp_path: Path):
    writer = Writer(5)
    template, own = writer.write(110), writer.write(40 * 15_000)
    pages = [" ".join([*template[:60], *own[at : at + 40], *template[60:]]) for at in range(0, len(own), 40)]
    tables = [shard(pages[:7000], "one"), shard(pages[7000:], "two")]
    started = time.process_time()
    verified = deduplicate(tables, tmp_path / "verified")
    assert time.process_time() - started < 20
    assert verified["deduplicate"].counts["dropped"] == 0
    plain = deduplicate(tables, tmp_path / "plain", DedupConfig(verify=False))
    assert plain["deduplicate"].counts["dropped"] > 7_500
    (row, *_) = rows(plain["deduplicate"], "ledger")
    (duplicate, *_) = rows(plain["duplicates"], "duplicates")
    assert (row["value"], row["threshold"]) == (duplicate["estimated"], None)
    assert duplicate["similarity"] is duplicate["containment"] is None


@pytest.mark.parametrize("exact", [True, False])
def test_one_document_repeated(tmp_path: Path, exact: bool):
    text = " ".join(Writer(6).write(60))
    table = shard([text] * 50_000, ids=[f"{number:032x}" for number in reversed(range(50_000))])
    started = time.process_time()
    committed = deduplicate([table.slice(0, 20_000), table.slice(20_000)], tmp_path, DedupConfig(exact=exact))
    assert time.process_time() - started < 20
    assert [row["id"] for row in rows(committed["deduplicate"], "documents")] == ["0" * 32]
    rules = set(pa.concat_tables(file.table(["rule"]) for file in committed["deduplicate"].files("ledger"))["rule"])
    assert {str(rule) for rule in rules} == {"exact_duplicate" if exact else "near_duplicate"}


def test_different_documents_are_all_kept(tmp_path: Path):
    writer = Writer(7)
    texts = [" ".join(writer.write(40)) for _ in range(500)]
    committed = deduplicate([shard(texts)], tmp_path)
    assert kept_texts(committed) == texts
    assert committed["duplicates"].counts["near_duplicates"] == 0


def test_short_and_empty_documents(tmp_path: Path):
    texts = [
        "",
        "word",
        "!",
        "Word.",
        " \n",
        "other",
        "two words",
        "words two",
        "two  words",
        "three little words",
        "?",
    ]
    near = ["a b c d", "a b c d e", "a b c d e f"]  # below, at and above the length of a shingle
    committed = deduplicate([shard(texts + near)], tmp_path)
    kept = {"word", "!", "other", "two words", "words two", "three little words", "?", *near}
    normalised = [text.strip(" \n.").lower().replace("  ", " ") for text in kept_texts(committed)]
    assert sorted(normalised) == sorted({*kept, ""})
    assert {row["rule"] for row in rows(committed["duplicates"], "duplicates")} == {"exact"}


def test_without_exact_matching_empty_documents_stay(tmp_path: Path):
    texts = ["", "", "?", "one two three", "One, two: three!"]
    committed = deduplicate([shard(texts)], tmp_path, DedupConfig(exact=False))
    assert len(kept_texts(committed)) == 4
    (row,) = rows(committed["duplicates"], "duplicates")
    assert (row["rule"], row["similarity"], row["containment"], row["estimated"]) == ("minhash", 1.0, 1.0, 1.0)


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


@pytest.mark.parametrize("name", ["order", "candidates", "duplicates"])
def test_a_disk_that_is_full_in_the_middle_is_said_so(tmp_path: Path, name: str):
    writer = Writer(13)
    texts = [" ".join(writer.write(30)) for _ in range(3000)]
    texts += [f"{text} more" for text in texts]
    stages: dict[str, Stage[Any]] = {"ingest": Given([shard(texts)])}
    store, config = Store.at(tmp_path), DedupConfig(exact=False, memory_limit_mb=128)
    refs = {"ingest": store.ref("ingest", stages["ingest"].fingerprint())}
    for stage_class in (Signatures, PreferenceOrder, Candidates, Duplicates):
        stage = stage_class(config, refs)
        stages[stage.name] = stage
        refs[stage.name] = store.ref(stage.name, stage.fingerprint())
    for stage in list(stages.values())[: list(stages).index(name)]:
        run_stage(stage, store, 0)
    limits = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (4096, limits[1]))  # as a full disk, no file grows beyond it
    try:
        with pytest.raises((StageError, StoreError), match=r"start (again|the same command again)|File too large"):
            run_stage(stages[name], store, 0)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limits)
    assert not list(Path(refs[name].path).glob(".tmp-*"))
    assert run_stage(stages[name], store, 0).counts["read"] == 6000
