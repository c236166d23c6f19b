"""The mixture: documents of a source are read as often as its weight says, and never when they are held out."""

from __future__ import annotations

from collections import Counter
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pytest
from pydantic import ValidationError

from pipeline.store import Committed, StageRef, Store
from pipeline.tokens.mixture import copies, draws
from pipeline.tokens.stages import Tokenize, TokenizeConfig
from tests.pipeline.tokens.corpus import committed_documents, make_documents
from tests.pipeline.tokens.test_stages import documents_in, tokenize, tokenizer_of, train

DOCUMENTS = make_documents(240)
WEIGHTS = {"books": 2.5, "web": 0.4}


@pytest.fixture(scope="module")
def store(tmp_path_factory: pytest.TempPathFactory) -> Store:
    return Store.at(tmp_path_factory.mktemp("store"))


@pytest.fixture(scope="module")
def given(store: Store) -> StageRef:
    return committed_documents(store, DOCUMENTS)


@pytest.fixture(scope="module")
def trained(store: Store, given: StageRef) -> Committed:
    return train(store, given)


def rows(committed: Committed, split: str) -> pa.Table:
    table = pa.concat_tables(file.table() for file in committed.files("index"))
    return table.filter(pc.equal(table["split"], split))


def test_sources_are_read_by_their_weights(store: Store, given: StageRef, trained: Committed) -> None:
    plain, mixed = tokenize(store, given, trained), tokenize(store, given, trained, mixture=WEIGHTS)
    assert mixed.fingerprint != plain.fingerprint
    assert rows(mixed, "validation").equals(rows(plain, "validation"))
    sources = {document["id"]: document["source"] for document in DOCUMENTS}
    expected = Counter(rows(plain, "train")["id"].to_pylist())
    found = Counter(rows(mixed, "train")["id"].to_pylist())
    drawn = dict(zip(sources, draws(pa.array([*sources])).tolist(), strict=True))
    for document in expected:
        weight = WEIGHTS[sources[document]]
        assert found[document] == int(weight) + (drawn[document] < weight % 1)
    for source, weight in WEIGHTS.items():
        times = [found[document] for document in expected if sources[document] == source]
        assert np.mean(times) == pytest.approx(weight, abs=0.2)


def test_repeats_stand_behind_all_first_readings_and_decode(store: Store, given: StageRef, trained: Committed) -> None:
    mixed = tokenize(store, given, trained, mixture=WEIGHTS)
    (shard,) = (file for file in mixed.files("tokens") if file.attributes["split"] == "train")
    texts = documents_in(shard, tokenizer_of(trained))
    by_id = {document["id"]: document["text"] for document in DOCUMENTS}
    ids = rows(mixed, "train")["id"].to_pylist()
    assert texts == [by_id[document] for document in ids]
    firsts = len(set(ids))
    assert len(set(ids[:firsts])) == firsts
    assert shard.attributes["documents"] == len(ids)


def test_what_is_left_out_is_in_the_ledger(store: Store, given: StageRef, trained: Committed) -> None:
    mixed = tokenize(store, given, trained, mixture=WEIGHTS)
    ledger = pa.concat_tables(file.table() for file in mixed.files("ledger"))
    trained_on = set(rows(mixed, "train")["id"].to_pylist())
    held_out = set(rows(mixed, "validation")["id"].to_pylist())
    gone = {document["id"] for document in DOCUMENTS} - trained_on - held_out
    assert set(ledger["id"].to_pylist()) == gone
    assert gone
    assert {row["rule"] for row in ledger.to_pylist()} == {"tokenize.mixture"}
    assert all(row["value"] >= row["threshold"] == 0.4 for row in ledger.to_pylist())
    assert mixed.counts["dropped"] == len(gone)
    assert mixed.counts["read"] == len(DOCUMENTS) == mixed.counts["kept"] + mixed.counts["dropped"]
    assert mixed.counts["bytes_in"] - mixed.counts["bytes_out"] == sum(ledger["bytes"].to_pylist())


def test_without_weights_nothing_changes(store: Store, given: StageRef, trained: Committed) -> None:
    inputs = {"filter": given, "tokenizer": store.ref("tokenizer", trained.fingerprint)}
    assert "mixture" not in Tokenize(TokenizeConfig(), inputs).identity()
    assert copies(np.array([0.1, 0.9]), pa.array(["a", "b"]), {}).tolist() == [1, 1]


def test_a_larger_weight_only_adds_documents() -> None:
    ids = pa.array([document["id"] for document in DOCUMENTS])
    drawn, sources = draws(ids), pa.array(["a"] * len(ids))
    before = np.zeros(len(ids), np.int64)
    for weight in (0.0, 0.3, 0.9, 1.0, 1.7, 3.0):
        now = copies(drawn, sources, {"a": weight})
        assert (now >= before).all()
        before = now
    assert (before == 3).all()


@pytest.mark.parametrize("weight", [-0.1, 101.0, float("nan")])
def test_a_weight_out_of_range_is_refused(weight: Any) -> None:
    with pytest.raises(ValidationError, match=r"mixture\.web"):
        TokenizeConfig(mixture={"web": weight})
