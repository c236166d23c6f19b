"""Every kind of model from its checkpoint to the results, and the parts of them against a slow way to the same."""

from __future__ import annotations

import json
import math
from collections import Counter
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from tests.training.evaluation.kinds import KINDS, SPECIAL, checkpoint, shards
from tests.training.small_models import one_thread
from training.config import Shard, TrainingConfig, to_dict
from training.config.generation import GenerationConfig
from training.devices import resolve
from training.distributed import World
from training.evaluation import run
from training.evaluation.held_out import by_group, measure
from training.evaluation.judged import Judged
from training.evaluation.pseudo_likelihood import probabilities, pseudo_log_probabilities
from training.evaluation.stretches import held_out_sentences
from training.evaluation.text_scores import original_log_probabilities
from training.generation import Generator
from training.loader import ValidationLoader, as_tensors
from training.rows import SENTENCE

__all__ = ["one_thread"]


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> list[Shard]:
    return shards(tmp_path_factory.mktemp("shards"))


def judged(folder: Path, kind: str, **objective: Any) -> Judged:
    compute = resolve(TrainingConfig(device="cpu", precision="fp32", threads=1, compile="off"), World())
    return Judged(checkpoint(folder, kind, **objective), compute)


EXPECTED = {
    "bert": {
        "loss",
        "masked_loss/baseline/unigram",
        "masked_accuracy/baseline/unigram",
        "sentence_accuracy/baseline/majority",
    },
    "albert": {"masked_accuracy/baseline/unigram", "sentence_accuracy/baseline/majority", "pseudo_perplexity"},
    "roberta": {"loss/baseline/unigram", "masked_accuracy/language/zh", "pseudo_bits_per_byte/baseline/unigram"},
    "electra": {"replaced_f1", "replaced_accuracy/baseline/always_original", "generator_accuracy/baseline/unigram"},
    "xlnet": {"permutation_accuracy/baseline/unigram", "permutation_accuracy/source/wiki", "pseudo_perplexity"},
    "t5": {"target_accuracy/baseline/unigram", "loss/baseline/unigram"},
    "prefix": {"loss/baseline/unigram"},
    "unilm": {"masked/masked_accuracy/baseline/unigram", "perplexity", "loss", "causal/loss/baseline/unigram"},
    "simcse": {"alignment/baseline/untrained", "uniformity", "contrastive_accuracy/baseline/untrained"},
}


@pytest.mark.parametrize("kind", EXPECTED)
def test_every_kind_is_judged_by_its_objective(kind: str, data: list[Shard], tmp_path: Path) -> None:
    settings = {
        "checkpoint": str(checkpoint(tmp_path, kind)),
        "data": [to_dict(shard) for shard in data],
        "output": str(tmp_path / "results.json"),
        "minimal_pairs": ["templates:en"],
        "pairs_per_phenomenon": 1,
        "prompts": ["The"],
        "sample_tokens": 3,
        "pseudo_sentences": 6,
        "blanks": 2,
        "threads": 1,
        "precision": "fp32",
    }
    results = run(settings)
    written = Path(settings["output"]).read_bytes()
    assert json.loads(written) == results
    metrics = {name.removeprefix("evaluation/") for name in results["metrics"]}
    assert metrics >= EXPECTED[kind]
    assert all(math.isfinite(value) for value in results["metrics"].values())
    assert ("perplexity" in results) == (kind == "unilm")
    assert bool(results["samples"]) == (kind != "simcse")
    assert bool(results["minimal_pairs"]) == (kind not in ("t5", "simcse"))
    if kind == "roberta":  # masks, samples and all else are the same again
        run(settings)
        assert Path(settings["output"]).read_bytes() == written


@pytest.mark.parametrize("kind", ["bert", "electra", "xlnet"])
def test_pseudo_likelihoods_are_those_of_one_pass_for_each_token(kind: str, tmp_path: Path) -> None:
    one = judged(tmp_path, kind)
    random = np.random.default_rng(0)
    texts = [random.integers(5, 300, length) for length in (1, 9, 70, 0)]
    found = pseudo_log_probabilities(one, texts)
    room = 64 - 2
    for text, logs in zip(texts, found, strict=True):
        by_hand = []
        for place in range(len(text)):
            begin = place // room * room
            piece = text[begin : begin + room].tolist()
            if kind == "xlnet":
                framed = torch.tensor([[0, *piece, 0]])
                order = torch.zeros_like(framed)
                order[0, 1 + place - begin] = 1
                hidden = one.model.streams(framed, order, torch.tensor([[1 + place - begin]]))[0][0, 0]
                logits = one.model.head(hidden)
            else:
                model = one.model.generator if kind == "electra" else one.model
                piece[place - begin] = SPECIAL.mask
                framed = torch.tensor([[SPECIAL.first, *piece, SPECIAL.separator]])
                logits = model(framed)[0, 1 + place - begin]
            by_hand.append(float(torch.log_softmax(logits.double(), 0)[text[place]].detach()))
        np.testing.assert_allclose(logs, by_hand, atol=2e-4)
    (later,) = pseudo_log_probabilities(one, [texts[1]], [6])
    np.testing.assert_allclose(later[6:], found[1][6:], atol=1e-5)
    assert not later[:6].any()
    distribution = probabilities(one, texts[1], 4)
    assert float(distribution.sum()) == pytest.approx(1.0, abs=1e-4)
    assert float(distribution[texts[1][4]].log()) == pytest.approx(float(found[1][4]), abs=1e-4)


def test_a_discriminator_scores_a_text_in_one_pass(tmp_path: Path) -> None:
    one = judged(tmp_path, "electra")
    texts = [np.arange(10, 18), np.arange(50, 53)]
    for text, logs in zip(texts, original_log_probabilities(one, texts), strict=True):
        logits = one.model(torch.tensor([[SPECIAL.first, *text.tolist(), SPECIAL.separator]]))[0, 1:-1]
        np.testing.assert_allclose(logs, torch.log_softmax(torch.stack([logits, logits * 0]), 0)[1].detach(), atol=1e-5)


def test_the_unigram_baseline_is_that_of_counting(data: list[Shard], tmp_path: Path) -> None:
    one = judged(tmp_path, "roberta")
    validation = [shard for shard in data if shard.split == "validation"]
    train = [np.fromfile(shard.path, "<u2") for shard in data if shard.split == "train"]
    measured = measure(one, validation, train)
    counts = Counter(token for tokens in train for token in tokens.tolist() if token > 4)  # no end-of-text ids
    likeliest = counts.most_common(1)[0][0]

    # The same rows and masks once more, target by target.
    hits = losses = total = copied = 0.0
    rows = 0
    loader = ValidationLoader(validation, one.objective.form(64), 10_000, 0)
    for part in loader.batches(1):
        rows += 1
        batch = one.objective.prepare(as_tensors(part.rows), training=False)
        stands = batch["inputs"][0, batch["positions"][0]].tolist()
        for target, given in zip(batch["targets"][0].tolist(), stands, strict=True):
            if target < 0:
                continue
            total += 1
            copied += target == (likeliest if given == SPECIAL.mask else given)
            hits += target == likeliest
            losses -= math.log(counts[target] / sum(counts.values()))
    assert rows == sum(-(-shard.tokens // 64) for shard in validation)  # all of the held-out text
    overall = by_group(measured.shards, measured.baselines["masked_accuracy"])["unigram"]["overall"]
    assert overall == {"value": pytest.approx(hits / total), "count": total}
    guess = by_group(measured.shards, measured.baselines["masked_accuracy"])["copied"]["overall"]["value"]
    assert guess == pytest.approx(copied / total)
    loss = by_group(measured.shards, measured.baselines["loss"])["unigram"]["overall"]["value"]
    assert losses / total < loss < losses / total + 0.2  # which its smoothing costs on so few tokens
    groups = by_group(measured.shards, measured.metrics)["masked_accuracy"]
    assert sum(facts["count"] for facts in groups["languages"].values()) == groups["overall"]["count"]


def test_sentences_are_spread_over_the_shards_and_end_where_they_end(data: list[Shard]) -> None:
    validation = [shard for shard in data if shard.split == "validation"]
    sentences = held_out_sentences(validation, 0, 12)
    assert {sentence.shard for sentence in sentences} == {0, 1, 2}
    for sentence in sentences:
        tokens = np.fromfile(validation[sentence.shard].path, "<u2").tolist()
        marks = np.fromfile(validation[sentence.shard].marks, np.uint8)
        wanted = sentence.tokens.tolist()
        places = [at for at in range(len(tokens)) if tokens[at : at + len(wanted)] == wanted]
        assert any(marks[at] & SENTENCE for at in places)
        assert 0 not in wanted
    bare = [Shard(shard.path, "validation", shard.tokens) for shard in validation]
    assert all(len(sentence.tokens) <= 5 for sentence in held_out_sentences(bare, 0, 3, longest=5))


@pytest.mark.parametrize("kind", ["bert", "electra", "xlnet", "simcse"])
def test_a_model_that_continues_no_text_says_so(kind: str, tmp_path: Path) -> None:
    name = {"bert": "masked", "electra": "replaced_token", "xlnet": "permutation", "t5": "span_corruption"}
    with pytest.raises(ValueError, match=f"objective {name.get(kind, 'contrastive')} cannot continue a text"):
        Generator.load(checkpoint(tmp_path, kind))


def test_a_prefix_model_sees_its_prompt_whole(tmp_path: Path) -> None:
    generator = Generator.load(checkpoint(tmp_path, "prefix"))
    prompt = generator.encode("The man saw the book")
    written: list[int] = []
    for _ in range(5):
        ids = torch.tensor([[0, *prompt, *written]])
        prefix = torch.arange(ids.shape[1])[None] < 1 + len(prompt)
        with torch.no_grad():
            logits = generator.model(ids, prefix_BT=prefix, causal=True)[0, -1]
        written.append(int(logits.argmax()))
    found = list(generator.token_ids(prompt, GenerationConfig(max_new_tokens=5, temperature=0.0)))
    assert found == written[: len(found)]
    assert found or written[0] == 0
    assert Generator.load(checkpoint(tmp_path / "unilm", "unilm")).prefix is False


def test_all_kinds_are_tested() -> None:
    assert set(KINDS) - {"gpt"} == set(EXPECTED)
