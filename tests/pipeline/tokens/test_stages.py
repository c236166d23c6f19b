from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pytest
from tokenizers import Tokenizer

from pipeline.execution import run_stage
from pipeline.stage import StageError
from pipeline.store import Committed, StageRef, Store
from pipeline.tokens import stages as stages_module
from pipeline.tokens.encoding import Encoded, Loaded, load_encoder
from pipeline.tokens.shards import close_documents, token_dtype
from pipeline.tokens.split import split_of
from pipeline.tokens.stages import Tokenize, TokenizeConfig, TokenizerConfig, TrainTokenizer
from tests.pipeline.tokens.corpus import as_table, committed_documents, make_documents

TRAINING = TokenizerConfig(vocabulary_size=600, validation_fraction=0.15, split_seed=3)


def train(store: Store, documents: StageRef, config: TokenizerConfig = TRAINING) -> Committed:
    return run_stage(TrainTokenizer(config, {"filter": documents}), store, workers=0)


def tokenize(store: Store, documents: StageRef, tokenizer: Committed, workers: int = 0, **config: Any) -> Committed:
    ref = store.ref("tokenizer", tokenizer.fingerprint)
    stage = Tokenize(TokenizeConfig(**config), {"filter": documents, "tokenizer": ref})
    return run_stage(stage, store, workers=workers)


def tokenizer_of(committed: Committed) -> Tokenizer:
    return Tokenizer.from_file(committed.files("tokenizer")[0].path)


def documents_in(file: Any, tokenizer: Tokenizer) -> list[str]:
    """Read a shard with NumPy alone, as a trainer would, and decode the documents between the end-of-text ids."""
    tokens = np.fromfile(file.path, np.dtype(file.attributes["dtype"]).newbyteorder("<"))
    assert len(tokens) == file.attributes["tokens"]
    ends = np.flatnonzero(tokens == 0)
    assert ends[-1] == len(tokens) - 1
    starts = [0, *(ends[:-1] + 1)]
    return [
        tokenizer.decode(tokens[start:end].tolist(), skip_special_tokens=False)
        for start, end in zip(starts, ends, strict=True)
    ]


@pytest.fixture(scope="module")
def documents() -> list[dict[str, Any]]:
    return make_documents(240)


@pytest.fixture(scope="module")
def store(tmp_path_factory: pytest.TempPathFactory) -> Store:
    return Store.at(tmp_path_factory.mktemp("store"))


@pytest.fixture(scope="module")
def given(store: Store, documents: list[dict[str, Any]]) -> StageRef:
    return committed_documents(store, documents, shards=5)


@pytest.fixture(scope="module")
def trained(store: Store, given: StageRef) -> Committed:
    return train(store, given)


@pytest.fixture(scope="module")
def tokenized(store: Store, given: StageRef, trained: Committed) -> Committed:
    two_shards = sum(file.bytes for file in given.committed().files("documents")[:2])
    return tokenize(store, given, trained, unit_bytes=two_shards + 100)


def test_every_document_comes_back_in_order(
    documents: list[dict[str, Any]], trained: Committed, tokenized: Committed
) -> None:
    tokenizer = tokenizer_of(trained)
    held_out = split_of(as_table(documents)["id"], 0.15, 3)
    assert 20 < held_out.sum() < 60
    read = {"train": [], "validation": []}
    for file in tokenized.files("tokens"):
        texts = documents_in(file, tokenizer)
        assert len(texts) == file.rows == file.attributes["documents"]
        assert sum(len(text.encode()) for text in texts) == file.attributes["text_bytes"]
        read[file.attributes["split"]] += texts
    assert read["train"] == [d["text"] for d, out in zip(documents, held_out, strict=True) if not out]
    assert sorted(read["validation"]) == sorted(d["text"] for d, out in zip(documents, held_out, strict=True) if out)


def test_a_validation_shard_holds_one_source_and_language(
    documents: list[dict[str, Any]], trained: Committed, tokenized: Committed
) -> None:
    origin = {d["text"]: (d["source"], d["language"] or "und") for d in documents}
    tokenizer = tokenizer_of(trained)
    seen = []
    for file in tokenized.files("tokens"):
        stratum = (file.attributes["source"], file.attributes["language"])
        if file.attributes["split"] == "validation":
            assert {origin[text] for text in documents_in(file, tokenizer)} == {stratum}
            seen.append((file.unit, *stratum))
        else:
            assert stratum == (None, None)
    assert len(set(seen)) == len(seen) > 10
    assert seen == sorted(seen)


def test_the_index_says_where_each_document_lies(
    documents: list[dict[str, Any]], trained: Committed, tokenized: Committed
) -> None:
    by_id = {d["id"]: d for d in documents}
    tokenizer = tokenizer_of(trained)
    shards = {str(Path(file.path).relative_to(tokenized.path)): file for file in tokenized.files("tokens")}
    rows = [row for file in tokenized.files("index") for row in file.table().to_pylist()]
    assert len(rows) == len(documents) == len({row["id"] for row in rows})
    for row in rows:
        file, document = shards[row["shard"]], by_id[row["id"]]
        tokens = np.memmap(file.path, "<u2", mode="r")[row["offset"] : row["offset"] + row["tokens"]]
        assert tokens[-1] == 0
        assert tokenizer.decode(tokens[:-1].tolist(), skip_special_tokens=False) == document["text"]
        assert (row["source"], row["language"]) == (document["source"], document["language"] or "und")
        assert row["split"] == file.attributes["split"]
        assert row["text_bytes"] == len(document["text"].encode())


def test_the_summary_adds_up(documents: list[dict[str, Any]], trained: Committed, tokenized: Committed) -> None:
    summary = tokenized.manifest["summary"]
    assert summary["tokenizer"]["sha256"] == trained.files("tokenizer")[0].sha256
    assert (summary["tokenizer"]["vocabulary_size"], summary["tokenizer"]["end_of_text_id"]) == (600, 0)
    assert (summary["dtype"], summary["warnings"]) == ("uint16", [])
    assert summary["tokens"] == tokenized.counts["tokens"]
    assert summary["tokens"] == sum(split["tokens"] for split in summary["splits"].values())
    for name, split in summary["splits"].items():
        files = [file for file in tokenized.files("tokens") if file.attributes["split"] == name]
        assert split["tokens"] == sum(file.bytes for file in files) // 2
        for axis in ("sources", "languages"):
            for count in ("documents", "tokens", "text_bytes"):
                assert split[count] == sum(cell[count] for cell in split[axis].values())
        expected = split["text_bytes"] / (split["tokens"] - split["documents"])
        assert split["bytes_per_token"] == pytest.approx(expected, abs=1e-4)
    counts = tokenized.counts
    assert counts["read"] == counts["kept"] == len(documents)
    assert counts["bytes_in"] == counts["bytes_out"] == sum(len(d["text"].encode()) for d in documents)


def test_consecutive_shards_are_grouped_up_to_the_limit(store: Store, given: StageRef, trained: Committed) -> None:
    sizes = [file.bytes for file in given.committed().files("documents")]
    ref = store.ref("tokenizer", trained.fingerprint)

    def plan(unit_bytes: int) -> list[tuple[int, int]]:
        stage = Tokenize(TokenizeConfig(unit_bytes=unit_bytes), {"filter": given, "tokenizer": ref})
        return [(unit.spec["begin"], unit.spec["end"]) for unit in stage.units()]

    assert plan(1) == [(i, i + 1) for i in range(5)]
    assert plan(sum(sizes)) == [(0, 5)]
    assert plan(sum(sizes) - 1) == [(0, 4), (4, 5)]


def test_validation_documents_do_not_reach_the_tokenizer(tmp_path: Path, documents: list[dict[str, Any]]) -> None:
    held_out = split_of(as_table(documents)["id"], 0.15, 3)
    marked = [
        {**document, "text": document["text"] + ("qqqqqqqq" * 50 if out else "")}
        for document, out in zip(documents, held_out, strict=True)
    ]
    store = Store.at(tmp_path)
    trained = train(store, committed_documents(store, marked))
    assert not [token for token in tokenizer_of(trained).get_vocab() if "qq" in token]
    sample = trained.manifest["summary"]["sample"]
    assert sum(cell["documents"] for cell in sample) == (~held_out).sum()
    unsplit = TokenizerConfig(vocabulary_size=600, validation_fraction=0.0)
    everything = train(store, committed_documents(store, marked), unsplit)
    assert [token for token in tokenizer_of(everything).get_vocab() if "qq" in token]


def test_the_sample_is_bounded_and_lifts_small_strata(store: Store, given: StageRef) -> None:
    config = TRAINING.model_copy(update={"sample_bytes": 9000})
    trained = train(store, given, config)
    assert trained.counts["sampled_bytes"] <= 9000
    assert trained.counts["sampled_bytes"] > 8900
    cells = trained.manifest["summary"]["sample"]
    assert all(cell["bytes"] > 0 for cell in cells)
    assert [(cell["source"], cell["language"]) for cell in cells] == sorted(
        {(cell["source"], cell["language"]) for cell in cells}
    )
    largest, smallest = (pick(cells, key=lambda cell: cell["of_bytes"]) for pick in (max, min))
    assert smallest["bytes"] / smallest["of_bytes"] > largest["bytes"] / largest["of_bytes"]


def test_workers_and_encoder_do_not_change_a_byte(
    tmp_path: Path, documents: list[dict[str, Any]], store: Store, given: StageRef, trained: Committed
) -> None:
    one = tokenize(store, given, trained, unit_bytes=1)
    other_store = Store.at(tmp_path)
    other_given = committed_documents(other_store, documents, shards=5)
    other_trained = train(other_store, other_given)
    assert other_trained.manifest == trained.manifest
    other = tokenize(
        other_store, other_given, other_trained, workers=2, unit_bytes=1, encoder="tokenizers", verify_documents=0
    )
    assert other.manifest == one.manifest
    assert other.verify() == []


def test_without_gigatoken_the_shards_are_the_same_and_say_so(
    tmp_path: Path, documents: list[dict[str, Any]], monkeypatch: pytest.MonkeyPatch, tokenized: Committed
) -> None:
    store = Store.at(tmp_path)
    given = committed_documents(store, documents, shards=5)
    trained = train(store, given)
    load_encoder.cache_clear()
    monkeypatch.setitem(sys.modules, "gigatoken", None)  # makes the import fail
    fallen = tokenize(store, given, trained, unit_bytes=tokenized.manifest["config"]["unit_bytes"])
    load_encoder.cache_clear()
    assert [file.sha256 for file in fallen.files("tokens")] == [file.sha256 for file in tokenized.files("tokens")]
    (warning,) = fallen.manifest["summary"]["warnings"]
    assert "tokenizers instead of gigatoken: gigatoken: ModuleNotFoundError" in warning


class WrongEncoder:
    """Gives one wrong id in the longest document of every batch."""

    name = "gigatoken"

    def __init__(self, encoder: Any) -> None:
        self._encoder = encoder

    def encode(self, texts: pa.Array) -> Encoded:
        encoded = self._encoder.encode(texts)
        longest = int(np.diff(encoded.offsets).argmax())
        ids = encoded.ids.copy()
        ids[encoded.offsets[longest]] ^= 1
        return Encoded(ids, encoded.offsets)


@pytest.mark.parametrize("length", [1, 1000])  # a short document, and one verified on its beginning
def test_a_difference_to_tokenizers_fails_the_run(
    tmp_path: Path, documents: list[dict[str, Any]], monkeypatch: pytest.MonkeyPatch, length: int
) -> None:
    store = Store.at(tmp_path)
    longest = max(range(20), key=lambda i: len(documents[i]["text"]))
    some = [{**d, "text": d["text"] * length} if i == longest else d for i, d in enumerate(documents[:20])]
    given = committed_documents(store, some)
    trained = train(store, given, TRAINING.model_copy(update={"sample_bytes": 20_000}))

    def load(*arguments: Any) -> Loaded:
        right = load_encoder(*arguments)
        return Loaded(WrongEncoder(right.encoder), right.reference, None)  # type: ignore[arg-type]

    monkeypatch.setattr(stages_module, "load_encoder", load)
    with pytest.raises(StageError, match=r"encode document [0-9a-f]{32} \(\w+ file.jsonl:\d+\) differently from token"):
        tokenize(store, given, trained)
    assert not list(tmp_path.glob("tokenize/*/manifest.json"))
    assert tokenize(store, given, trained, verify_documents=0).counts["read"] == 20  # the check it was that failed


@pytest.mark.parametrize("some", [[], [{"text": "", "language": "en"}]])
def test_nothing_to_train_on_is_refused(tmp_path: Path, documents: list[dict[str, Any]], some: list) -> None:
    store = Store.at(tmp_path)
    given = committed_documents(store, [{**documents[0], **document} for document in some], shards=1)
    with pytest.raises(StageError, match="no text to train a tokenizer on"):
        train(store, given, TokenizerConfig(validation_fraction=0.0))


def test_an_empty_document_is_its_end_of_text_alone(tmp_path: Path, documents: list[dict[str, Any]]) -> None:
    store = Store.at(tmp_path)
    given = committed_documents(store, [{**documents[0], "text": ""}, *documents[1:9]], shards=1)
    trained = train(store, given, TokenizerConfig(vocabulary_size=300, validation_fraction=0.0))
    tokenized = tokenize(store, given, trained)
    (file,) = tokenized.files("tokens")
    assert np.fromfile(file.path, "<u2")[0] == 0
    assert documents_in(file, tokenizer_of(trained)) == ["", *(d["text"] for d in documents[1:9])]
    assert tokenized.manifest["summary"]["splits"]["validation"]["tokens"] == 0


def test_dtype_holds_the_vocabulary() -> None:
    assert token_dtype(65_536).str == "<u2"
    assert token_dtype(65_537).str == "<u4"
    assert token_dtype(100, "uint32").str == "<u4"
    with pytest.raises(ValueError, match="65,537 ids does not fit into uint16"):
        token_dtype(65_537, "uint16")
    closed = close_documents(Encoded(np.array([70_000, 1], np.uint32), np.array([0, 1, 1, 2])), 9, token_dtype(70_001))
    assert closed.tokens.tolist() == [70_000, 9, 9, 1, 9]
    assert closed.lengths.tolist() == [2, 1, 2]


def test_a_vocabulary_above_the_dtype_fails_the_stage(
    store: Store, given: StageRef, trained: Committed, tmp_path: Path
) -> None:
    folder = tmp_path / "tokenizer"
    folder.mkdir()
    manifest = json.loads(Path(trained.path, "manifest.json").read_text())
    manifest["summary"]["vocabulary_size"] = 70_000
    (folder / "manifest.json").write_text(json.dumps(manifest))
    Path(folder, "tokenizer").symlink_to(Path(trained.path, "tokenizer"))
    ref = StageRef("tokenizer", "0" * 20, str(folder))
    with pytest.raises(StageError, match="70,000 ids does not fit into uint16"):
        run_stage(Tokenize(TokenizeConfig(dtype="uint16"), {"filter": given, "tokenizer": ref}), store, workers=0)
