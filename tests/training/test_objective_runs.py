"""Each objective through the real trainer: it is evaluated, and goes on after a stop as if there had been none."""

from __future__ import annotations

import dataclasses
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from tests.training.small_models import one_thread  # noqa: F401
from tests.training.tiny_run import changed, final_weights, journal, make_run
from training import checkpoints
from training.config import ModelConfig, ObjectiveConfig, SpecialTokens, TrainingRun, from_dict
from training.rows import SENTENCE, WORD
from training.run import train
from training.trainer import Stopped

SMALL = {"layers": 2, "heads": 2, "width": 32, "context_length": 32}
BERT = {"preset": "bert-tiny", **SMALL}
PLAIN = {"preset": "roberta-tiny", **SMALL}
KINDS: dict[str, tuple[dict[str, Any], Any]] = {
    "bert": (BERT, "bert"),
    "albert": ({"preset": "albert-tiny", **SMALL, "embedding_width": 16}, "albert"),
    "roberta": (PLAIN, "roberta"),
    "modernbert": ({"preset": "modernbert-tiny", **SMALL, "window": 9}, "modernbert"),
    "electra": ({"preset": "electra-tiny", **SMALL, "head_width": 16}, "electra"),
    "xlnet": ({"preset": "xlnet-tiny", **SMALL}, "xlnet"),
    "t5": ({"preset": "t5-tiny", **SMALL, "head_width": 16}, "t5"),
    "unilm": (PLAIN, "unilm"),
    "simcse": (
        {**BERT, "sentence_classes": 0},
        {"preset": "simcse", "contrastive": {"queue": 16, "sentence_length": 12}, "also": [{"name": "masked"}]},
    ),
    "fim": ({**SMALL}, {"preset": "gpt", "fill_in_the_middle": 0.5}),
}


def run_of(kind: str, folder: Path, **training: Any) -> TrainingRun:
    """Ten steps of four rows on shards with marks: a word every other token, a sentence every seventh."""
    model, objective = KINDS[kind]
    run = make_run(
        folder, **{"steps": 10, "evaluate_every": 5, "checkpoint_every": 5, "device_batch_size": 2, **training}
    )
    shards = []
    for number, shard in enumerate(run.data):
        place = np.arange(shard.tokens)
        tokens = np.fromfile(shard.path, dtype="<u2")
        tokens[tokens < 5] += 5  # the special ids
        tokens[40::41] = 0
        tokens.tofile(shard.path)
        marks = folder / f"marks-{number}.bin"
        ((place % 2 == 0) * WORD + (place % 7 == 0) * SENTENCE).astype(np.uint8).tofile(marks)
        shards.append(dataclasses.replace(shard, sha256="", marks=str(marks)))
    return changed(
        run,
        data=shards,
        model=from_dict(ModelConfig, model),
        objective=from_dict(ObjectiveConfig, objective),
        special_tokens=SpecialTokens(1, 2, 3, 4),
    )


@pytest.mark.parametrize("kind", KINDS)
def test_a_run_that_is_stopped_ends_with_the_same_weights(kind: str, tmp_path: Path) -> None:
    whole, parted = run_of(kind, tmp_path / "whole"), run_of(kind, tmp_path / "parted")
    result = train(whole)
    with pytest.raises(Stopped):
        train(parted, lambda trainer: trainer.stop())
    train(parted)
    assert final_weights(parted) == final_weights(whole)
    metrics = result["metrics"]
    assert metrics["validation/loss"] > 0
    assert ("validation/perplexity" in metrics) == (kind == "fim")
    described = checkpoints.describe(result["checkpoint"])
    assert from_dict(ObjectiveConfig, described["objective"]) == whole.objective
    model, config = checkpoints.load_model(result["checkpoint"])
    assert config == whole.model
    assert model.vocabulary_size == whole.vocabulary_size + whole.objective.extra_tokens


@pytest.mark.parametrize("kind", ["bert", "electra", "xlnet", "t5"])
def test_the_micro_batch_does_not_change_the_step(kind: str, tmp_path: Path) -> None:
    losses = []
    for size in (1, 4):
        run = run_of(kind, tmp_path / str(size), steps=1, log_every=1, device_batch_size=size)
        model = dataclasses.replace(run.model, dropout=0.0, attention_dropout=0.0)
        train(changed(run, model=model))
        (line,) = journal(run)
        losses.append([line["metrics"][f"train/{name}"] for name in ("loss", "gradient_norm")])
    assert losses[0] == pytest.approx(losses[1], rel=2e-5)


def test_marks_that_lack_or_changed_are_refused(tmp_path: Path) -> None:
    run = run_of("bert", tmp_path)
    with pytest.raises(ValueError, match="has no marks of words and sentences, which the objective needs"):
        train(changed(run, data=[dataclasses.replace(shard, marks="") for shard in run.data]))
    path = Path(run.data[0].marks)
    path.write_bytes(path.read_bytes()[:-1])
    with pytest.raises(ValueError, match=r"marks-0\.bin: not those of the 2500 tokens"):
        train(run)


def test_a_tokenizer_without_a_mask_is_refused(tmp_path: Path) -> None:
    run = changed(run_of("roberta", tmp_path), special_tokens=SpecialTokens(1, None, 3, 4))
    with pytest.raises(ValueError, match=r"special_tokens\.mask: this objective needs it"):
        train(run)


def test_a_run_starts_from_a_checkpoint(tmp_path: Path) -> None:
    first = train(run_of("bert", tmp_path / "first"))
    run = changed(run_of("simcse", tmp_path / "second", steps=1), initial_checkpoint=first["checkpoint"])
    pretrained, _ = checkpoints.load_model(first["checkpoint"])
    tuned, _ = checkpoints.load_model(train(run)["checkpoint"])
    drawn, _ = checkpoints.load_model(train(run_of("simcse", tmp_path / "third", steps=1))["checkpoint"])
    distances = [(model.pooler.weight - pretrained.pooler.weight).norm() for model in (tuned, drawn)]
    assert distances[0] < 0.3 * distances[1]
