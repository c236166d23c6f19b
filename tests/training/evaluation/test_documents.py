"""What each held-out document costs: the parts of what the whole shards cost."""

from __future__ import annotations

import dataclasses
import json
from pathlib import Path

import numpy as np
import pytest

from tests.training.small_models import TEXT, one_thread, tiny_checkpoint, tiny_tokenizer, write_shard
from training import trials
from training.config import Shard
from training.evaluation import run
from training.evaluation.documents import DocumentScoring, document_nats, score_documents

__all__ = ["one_thread"]

OTHERS = ["The man saw the book again.", "他昨天买了书。"]


@pytest.fixture(scope="module")
def shards(tmp_path_factory: pytest.TempPathFactory) -> list[Shard]:
    folder, tokenizer = tmp_path_factory.mktemp("shards"), tiny_tokenizer()
    return [
        write_shard(folder / "a.bin", TEXT * 3, tokenizer, "validation", "web", "en"),
        write_shard(folder / "b.bin", OTHERS, tokenizer, "validation", "wiki", "en"),
    ]


def test_the_documents_add_up_to_the_evaluation(shards: list[Shard], tmp_path: Path, one_thread: None) -> None:
    checkpoint = tiny_checkpoint(tmp_path / "model")
    order = DocumentScoring(str(checkpoint), shards, str(tmp_path / "nats.npy"), device="cpu", threads=1)
    (tmp_path / "order.json").write_text(json.dumps(dataclasses.asdict(order)))
    nats = score_documents(tmp_path / "order.json")
    assert np.array_equal(np.load(tmp_path / "nats.npy", allow_pickle=False), nats)
    assert nats.shape == (11, 2)
    assert (nats > 0).all()
    settings = {
        "checkpoint": str(checkpoint),
        "data": [dataclasses.asdict(shard) for shard in shards],
        "output": str(tmp_path / "results.json"),
        "ngram_order": 0,
        "minimal_pairs": [],
        "prompts": [],
        "threads": 1,
    }
    found = run(settings)["perplexity"]["model"]
    tokens, size = (sum(getattr(shard, name) for shard in shards) for name in ("tokens", "text_bytes"))
    assert nats.sum() / tokens == pytest.approx(found["overall"]["loss"], rel=1e-6)
    assert nats[:, 0].sum() / np.log(2) / size == pytest.approx(found["overall"]["bits_per_byte"], rel=1e-6)
    wiki = nats[9:, 0].sum() / np.log(2) / shards[1].text_bytes
    assert wiki == pytest.approx(found["sources"]["wiki"]["bits_per_byte"], rel=1e-6)


def test_each_document_gets_its_own_tokens() -> None:
    shard = Shard("x.bin", "validation", 6, documents=3)
    tokens = np.array([5, 6, 0, 0, 7, 0])  # the second document is empty
    nats = document_nats(shard, tokens, -np.array([1.0, 2.0, 4.0, 8.0, 16.0, 32.0]), 0)
    assert nats.tolist() == [[3.0, 4.0], [0.0, 8.0], [16.0, 32.0]]


def test_what_is_no_shard_of_documents_is_refused() -> None:
    logs = -np.ones(3)
    with pytest.raises(ValueError, match="holds 1 documents that end, not the 2"):
        document_nats(Shard("x.bin", "validation", 3, documents=2), np.array([5, 6, 0]), logs, 0)
    with pytest.raises(ValueError, match="documents that end"):
        document_nats(Shard("x.bin", "validation", 3, documents=1), np.array([5, 0, 6]), logs, 0)
    with pytest.raises(ValueError, match="diverged"):
        document_nats(Shard("x.bin", "validation", 3, documents=1), np.array([5, 6, 0]), logs * np.inf, 0)


def test_the_worker_says_what_cannot_be_judged(shards: list[Shard], tmp_path: Path) -> None:
    order = DocumentScoring(str(tmp_path / "nothing"), shards, str(tmp_path / "nats.npy"))
    path = tmp_path / "order.json"
    path.write_text(json.dumps(dataclasses.asdict(order)))
    state, message = trials._score(str(path))
    assert state == "refused"
    assert "nothing" in message
    path.write_text(json.dumps({**dataclasses.asdict(order), "device": "abacus"}))
    state, message = trials._score(str(path))
    assert state == "refused"
    assert "device" in message
    assert not (tmp_path / "nats.npy").exists()
