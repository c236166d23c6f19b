"""The benchmarks of objectives, run in small; and that both sides train the same model on the same text."""

from __future__ import annotations

import argparse
import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import torch.nn.functional as F

from benchmarks import objectives_cpu, objectives_peers, training_gpu
from benchmarks import objectives_data as data
from benchmarks.objectives_measures import MEASURES, Case, Rounds, Speed, tokens_per_step
from benchmarks.objectives_peers import Electra, Peer, absent, collator, model_of
from benchmarks.rows import read
from benchmarks.training_gpu import Session
from benchmarks.training_ours import fit
from benchmarks.training_peers import package_version
from training.models import build
from training.rows import SENTENCE, WORD

needs_transformers = pytest.mark.skipif(package_version("transformers") is None, reason="transformers is not installed")
needs_the_trainer = pytest.mark.skipif(absent() is not None, reason="the Trainer is not installed")
OBJECTIVES = {"bert-tiny": "bert", "roberta-tiny": "roberta", "electra-tiny": "electra"}
LENGTH = 32


@pytest.fixture(autouse=True)
def one_thread() -> Iterator[None]:
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)


def small(preset: str = "bert-tiny", median: float = 0.8 * LENGTH) -> Case:
    model = {"preset": preset, "width": 32, "context_length": LENGTH}
    if preset.startswith("electra"):
        model["embedding_width"] = 16
    return Case(model, OBJECTIVES[preset], 4, median, vocabulary=64, corpus_tokens=4000, threads=1)


def numbered_documents() -> list[data.Document]:
    """Every token has an id of its own, so that one sees where it comes from."""
    corpus = data.drawn_corpus(20_000, 64, 60)
    documents, begin = [], 100
    for document in corpus.documents:
        ends = np.cumsum([len(sentence) for sentence in document])
        documents.append(np.split(begin + np.arange(ends[-1]), ends[:-1]))
        begin += ends[-1]
    return documents


def parts(example: data.Example) -> list[list[int]]:
    """The texts between the special tokens."""
    found: list[list[int]] = []
    for token, special in zip(example["input_ids"], example["special_tokens_mask"], strict=True):
        if special:
            found.append([])
        else:
            found[-1].append(token)
    return found[:-1]


def test_the_peer_reads_the_text_of_the_shard(tmp_path: Path) -> None:
    corpus = data.drawn_corpus(5000, 64, 40)
    shard = corpus.shard(tmp_path)
    ids, marks = np.fromfile(shard.path, "<u2"), np.fromfile(shard.marks, np.uint8)
    assert len(ids) == len(marks) == shard.tokens == 5000
    read, place = [], 0
    for document in corpus.documents:
        for sentence in document:
            place += int(ids[place] == data.END_OF_TEXT)
            assert marks[place] == WORD | SENTENCE
            assert (marks[place + 1 : place + len(sentence)] == WORD).all()
            read += sentence.tolist()
            place += len(sentence)
    assert read == ids[ids != data.END_OF_TEXT].tolist()
    assert set(marks[ids == data.END_OF_TEXT]) == {0}
    assert ids[ids != data.END_OF_TEXT].min() > data.MASK
    assert ids.max() < 64


def test_texts_are_whole_and_of_one_document() -> None:
    documents = numbered_documents()
    examples = list(data.texts(documents, LENGTH))
    read = [token for example in examples for token in parts(example)[0]]
    assert read == np.concatenate([np.concatenate(document) for document in documents]).tolist()
    assert max(len(example["input_ids"]) for example in examples) == LENGTH
    owner = {token: number for number, document in enumerate(documents) for token in np.concatenate(document).tolist()}
    assert all(len({owner[token] for token in parts(example)[0]}) == 1 for example in examples)


def test_pairs_follow_each_other_or_are_of_two_documents() -> None:
    documents = numbered_documents()
    owner = {token: number for number, document in enumerate(documents) for token in np.concatenate(document).tolist()}
    examples, seen = list(data.pairs(documents, LENGTH)), set()
    for example in examples:
        a, b = parts(example)
        assert len(a) + len(b) + 3 == len(example["input_ids"]) <= LENGTH
        assert example["token_type_ids"] == [0] * (len(a) + 2) + [1] * (len(b) + 1)
        assert a == list(range(a[0], a[0] + len(a)))
        assert b == list(range(b[0], b[0] + len(b)))
        assert example["next_sentence_label"] == int(owner[a[0]] != owner[b[0]])
        assert example["next_sentence_label"] or b[0] > a[-1]
        seen.add(owner[a[0]])
    assert seen == set(range(len(documents)))
    labels = [example["next_sentence_label"] for example in examples if sum(map(len, parts(example))) == LENGTH - 3]
    assert 0.4 < np.mean(labels) < 0.8  # a single sentence has always a random one beside it


def test_pairs_lose_nothing_that_a_random_part_displaces() -> None:
    documents = numbered_documents()
    read: list[int] = []
    for example in data.pairs(documents, 4096, short_share=0.0):  # long enough that nothing is cut
        a, b = parts(example)
        read += a if example["next_sentence_label"] else a + b
    assert read == np.concatenate([np.concatenate(document) for document in documents]).tolist()


@needs_transformers
@pytest.mark.parametrize("preset", OBJECTIVES)
def test_both_sides_have_the_same_parameters(preset: str) -> None:
    case = small(preset)
    theirs = model_of(case.model_config, case.objective_config, case.vocabulary)
    ours = build(case.model_config, case.vocabulary)
    # RoBERTa's table of positions has a row for padding.
    extra = 32 if preset.startswith("roberta") else 0
    assert sum(parameter.numel() for parameter in theirs.parameters()) == ours.parameters_count() + extra


@needs_transformers
def test_the_joined_electra_has_the_loss_of_the_paper() -> None:
    case = small("electra-tiny")
    torch.manual_seed(0)
    model = Electra(case.model_config, 64, weight=50.0).eval()
    model.generator.generator_lm_head.bias.data[7] = 100.0  # so that it always says 7
    ids = torch.randint(5, 64, (2, 10))
    masked = torch.zeros_like(ids, dtype=torch.bool)
    masked[:, 2:5], ids[0, 3] = True, 7
    mask = torch.ones_like(ids)
    mask[1, 8:] = 0
    labels = ids.masked_fill(~masked, -100)
    inputs = ids.masked_fill(masked, data.MASK)
    found = model(inputs, mask, torch.zeros_like(ids), labels)["loss"]
    with torch.no_grad():
        corrupted = ids.masked_fill(masked, 7)
        logits = model.discriminator(corrupted, attention_mask=mask).logits
        second = F.binary_cross_entropy_with_logits(logits[mask > 0], (corrupted != ids)[mask > 0].float())
        first = F.cross_entropy(model.generator(inputs, attention_mask=mask).logits[masked], ids[masked])
    torch.testing.assert_close(found, first + 50 * second)
    assert model.generator.electra.embeddings is model.discriminator.electra.embeddings


@needs_transformers
def test_the_collator_masks_as_the_objective_says() -> None:
    case = small()
    examples = list(data.pairs(case.corpus().documents, LENGTH))
    lengths, special = ([sum(e[name]) for e in examples] for name in ("attention_mask", "special_tokens_mask"))
    torch.manual_seed(0)
    batch = collator(case.objective_config, case.vocabulary, LENGTH)(examples)
    assert batch["attention_mask"].sum(1).tolist() == lengths
    assert batch["input_ids"].shape[1] == LENGTH
    chosen, masked = batch["labels"] != -100, batch["input_ids"] == data.MASK
    assert float(chosen.sum()) / (sum(lengths) - sum(special)) == pytest.approx(0.15, abs=0.02)
    assert float(masked.sum() / chosen.sum()) == pytest.approx(0.8, abs=0.05)
    assert int(batch["labels"][chosen].min()) > data.MASK
    assert batch["next_sentence_label"].shape == (len(examples),)


def test_rounds_time_ours_and_the_peer_in_turn(tmp_path: Path) -> None:
    called = []

    def peer(warmup: int, steps: int) -> Speed:
        called.append((warmup, steps))
        return Speed(2.0, 1.0, 100.0, 0.5)

    clock = Rounds({"peer": peer}, steps=2)
    run = small().run(tmp_path, 6)
    trainer = fit(run, [clock])
    assert called == [(1, 2), (1, 2)]
    assert [speed.rate for speed in clock.speeds["peer"]] == [50.0, 50.0]
    for ours in clock.speeds["ours"]:
        assert ours.tokens == pytest.approx((1 - ours.padding) * trainer.tokens_per_step)
        assert ours.seconds > 0
    batches = [trainer.loader.batch(step)["documents"] for step in (1, 2, 4, 5)]
    counted = [np.count_nonzero(np.stack(pair)) / 2 for pair in (batches[:2], batches[2:])]
    assert [ours.tokens for ours in clock.speeds["ours"]] == counted


@needs_the_trainer
@pytest.mark.parametrize("preset", OBJECTIVES)
def test_a_step_of_the_peer_holds_as_many_tokens(preset: str, tmp_path: Path) -> None:
    case = small(preset)
    ours = tokens_per_step(case.run(tmp_path, 1))
    peer = Peer(case, ours)
    before = [parameter.detach().clone() for parameter in peer.model.parameters()]
    (speed,) = peer.train(1, 8)
    assert 0.75 < speed.tokens / ours < 1.5
    assert 0.05 < speed.padding < 0.6
    assert torch.get_num_threads() == 1
    assert any(not torch.equal(a, b) for a, b in zip(before, peer.model.parameters(), strict=True))


ARGUMENTS = ["--lengths", "32", "--vocabulary", "64", "--tokens", "64", "--rounds", "2", "--steps", "1"]


def test_the_benchmark_from_end_to_end(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(objectives_cpu, "CORPUS_SEQUENCES", 100)
    path = tmp_path / "rows.json"
    objectives_cpu.main([*ARGUMENTS, "--only", "bert-tiny,electra-tiny", "--threads", "1", "--json", str(path)])
    rows = read(path)
    assert len(rows) == 2 * 2 * 2
    assert all(row.ours is not None and row.ours > 0 for row in rows)
    best, median = rows[:2]
    assert best.ours >= median.ours  # type: ignore[operator]
    assert (best.peer is None) == (absent() is not None)
    assert "padding" in best.note


def test_without_the_trainer_ours_runs_alone(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(objectives_cpu, "CORPUS_SEQUENCES", 100)
    monkeypatch.setattr(objectives_peers, "package_version", lambda name: None if name == "accelerate" else "1")
    rows = objectives_cpu.main([*ARGUMENTS, "--only", "bert-tiny", "--documents", "ragged", "--threads", "1"])
    assert [(row.peer, row.peer_name) for row in rows] == [(None, "")] * 2
    assert all("pip install accelerate" in row.note for row in rows)


@pytest.mark.parametrize("part", ["bert-base", "electra-small-filled"])
def test_parts_of_the_gpu_in_small(part: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    options = argparse.Namespace(device="cpu", tiny=True, set=[], minutes=5)
    session = Session(options, tmp_path, gemm=1e12)
    asked: list[dict[str, Any]] = []

    def ask(what: str, request: Any, seconds: float = 0, module: str = "") -> dict[str, Any]:
        assert module == "objectives_measures"
        asked.append(json.loads(json.dumps(request)))
        return MEASURES[what](asked[-1])

    monkeypatch.setattr(session, "ask", ask)
    rows = training_gpu.PARTS[part](session)
    speed, share, compared = rows
    assert share.ours is not None
    assert speed.ours is not None
    flops = share.ours / 100 * 1e12 / speed.ours
    model = build(Case(**asked[0]).model_config, 64)
    assert 0 < flops < model.flops_per_token(64)  # the head reads some positions alone
    assert compared.ours == speed.ours
    if absent() is None:
        assert compared.peer is not None
        assert compared.peer > 0
        assert asked[1]["tokens_per_step"] > 100
    else:
        assert "accelerate" in compared.note
