"""What cannot be trained is told before anything is done."""

from __future__ import annotations

from typing import Any

import pytest

from training.config import OBJECTIVES, PRESETS, ModelConfig, ObjectiveConfig, from_dict
from training.fitting import try_out

MODELS = {
    "electra": "electra-small",
    "xlnet": "xlnet-base",
    "t5": "t5-base",
    "gpt": "gpt2",
    "modernbert": "modernbert-base",
}
PLAIN = {"preset": "roberta-base"}


@pytest.mark.parametrize("name", OBJECTIVES)
def test_every_objective_has_a_model(name: str) -> None:
    paired = {"bert": "bert-base", "bert-wwm": "bert-base", "albert": "albert-base", **MODELS}
    model: Any = paired.get(name, PLAIN)
    if name == "simcse":
        model = {"preset": "bert-base", "sentence_classes": 0}
    try_out(from_dict(ModelConfig, model), from_dict(ObjectiveConfig, name), 512)


@pytest.mark.parametrize(
    ("model", "objective", "message"),
    [
        ("xlnet-tiny", {"preset": "xlnet", "permutation": {"memory_segments": 3}}, "memory_segments"),
        ({"preset": "t5-tiny", "bias": "all"}, "t5", "bias"),
        ("t5-tiny", {"preset": "t5", "span_corruption": {"sentinels": 2}}, "sentinels"),
        ({"preset": "electra-base", "generator_share": 0.3}, "electra", "generator_share"),
        ({"preset": "electra-tiny", "attention": "causal"}, "electra", "needs model.attention: bidirectional"),
        ("nano", "simcse", "needs model.attention: bidirectional"),
        ("gpt2", "roberta", "needs model.attention: bidirectional"),
        ("roberta-base", {"name": "masked", "sentence_task": "next_sentence"}, "model.sentence_classes: 2"),
        ("bert-base", "roberta", "model.pooler: false"),
    ],
)
def test_what_does_not_go_together_is_told(model: Any, objective: Any, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        try_out(from_dict(ModelConfig, model), from_dict(ObjectiveConfig, objective), 128)


def test_every_preset_is_a_model() -> None:
    assert all(from_dict(ModelConfig, name) for name in PRESETS)
