"""A model that keeps what it has read writes what one that reads everything anew would write."""

from __future__ import annotations

from typing import Any

import pytest
import torch

from tests.training.huggingface.parity import randomize
from tests.training.small_models import one_thread
from training.config import ModelConfig
from training.generation.sequences import Sequences, Trunk, keeps_keys
from training.models import Model, build

__all__ = ["one_thread"]

SHAPES: list[dict[str, Any]] = [
    {},
    {"kv_heads": 1, "qk_norm": "gains"},
    {"positions": "learned", "norm": "layernorm", "bias": "all", "qk_norm": "none"},
    {"positions": "alibi", "kv_heads": 2},
    {"positions": "none", "norm_position": "post", "embedding_norm": True},
    {"window": 3, "rope_theta_windowed": 100.0, "global_every": 2},
    {"window": 4, "positions": "alibi"},
    {"bigram_buckets": 31, "layer_groups": 1},
    {"attention": "bidirectional", "embedding_width": 8, "head": "transform", "tied_embeddings": True},
    {"mlp": "swiglu", "rope_scaling": {"name": "yarn", "factor": 2.0, "original_context_length": 8}},
]
VOCABULARY = 60
CONTEXT = 12
PROMPTS = [[5, 6, 7], [9], [1, 2, 3, 4, 5, 6, 7, 8, 9], [int(i) for i in range(20, 35)]]


def random_model(fields: dict[str, Any], context_length: int = CONTEXT) -> Model:
    from training.config import from_dict

    config = from_dict(ModelConfig, {"layers": 2, "heads": 4, "width": 32, "context_length": context_length, **fields})
    model = build(config, VOCABULARY)
    randomize(model)
    return model.eval()


@torch.no_grad()
def plain_logits(model: Model, ids: list[int], given: int, prefix: bool) -> torch.Tensor:
    """Of what follows the newest tokens, the whole context read."""
    window = ids[-CONTEXT:]
    how: dict[str, Any] = {} if model.config.attention == "causal" else {"causal": True}
    if prefix:
        how["prefix_BT"] = torch.arange(len(window))[None] < given - (len(ids) - len(window))
    return model.head(model.readout(model.hidden(torch.tensor([window]), **how)))[0, -1]


@pytest.mark.parametrize("fields", SHAPES)
@pytest.mark.parametrize("prefix", [False, True])
def test_every_shape_beyond_the_end_of_the_context_too(fields: dict[str, Any], prefix: bool) -> None:
    model = random_model(fields)
    assert keeps_keys(model)
    given = [len(prompt) for prompt in PROMPTS]
    sequences = Sequences(Trunk(model, given, prefix), PROMPTS, 10)
    random = torch.Generator().manual_seed(2)
    with torch.inference_mode():
        for step in range(10):
            found = sequences.logits()[:, 0]
            for row, ids in enumerate(sequences.ids):
                expected = plain_logits(model, ids, given[row], prefix)
                torch.testing.assert_close(found[row], expected, rtol=1e-4, atol=1e-4)
            sequences.append(torch.randint(VOCABULARY, (len(sequences),), generator=random).tolist())
            if step == 4:  # as beams do, and rows that end
                order = [2, 0, 0]
                sequences.select(order)
                given = [given[row] for row in order]


def test_tokens_are_taken_back_and_several_are_read_at_once() -> None:
    model = random_model({"bigram_buckets": 31})
    sequences = Sequences(Trunk(model, [3], False), [[5, 6, 7]], 9)
    with torch.inference_mode():
        sequences.logits()
        for token in (8, 9, 10):
            sequences.append([token])
        several = sequences.logits(3)[0]
        for place, ids in enumerate(([5, 6, 7, 8], [5, 6, 7, 8, 9], [5, 6, 7, 8, 9, 10])):
            expected = plain_logits(model, ids, 3, False)
            torch.testing.assert_close(several[place], expected, rtol=1e-4, atol=1e-4)
        sequences.cut(0, 4)
        sequences.append([11])
        expected = plain_logits(model, [5, 6, 7, 8, 11], 3, False)
        torch.testing.assert_close(sequences.logits()[0, 0], expected, rtol=1e-4, atol=1e-4)


def test_a_token_is_read_once_while_there_is_room(monkeypatch: pytest.MonkeyPatch) -> None:
    model = random_model({})
    read: list[int] = []
    hidden = model.hidden
    monkeypatch.setattr(model, "hidden", lambda ids, **how: read.append(ids.shape[1]) or hidden(ids, **how))
    sequences = Sequences(Trunk(model, [3], False), [[5, 6, 7]], 12)
    with torch.inference_mode():
        for _ in range(12):
            sequences.logits()
            sequences.append([1])
    assert read == [3] + [1] * 9 + [CONTEXT] * 2


def test_attention_that_an_adapter_has_changed_is_read_anew() -> None:
    from training.models.transformer import Attention

    class Changed(Attention):
        pass

    model = random_model({})
    model.blocks[0].attention.__class__ = Changed
    assert not keeps_keys(model)
    with torch.inference_mode():
        found = Sequences(Trunk(model, [3, 1], False), [[5, 6, 7], [9]], 4).logits()[:, 0]
        expected = Sequences(Trunk(random_model({}), [3, 1], False), [[5, 6, 7], [9]], 4).logits()[:, 0]
    torch.testing.assert_close(found, expected, rtol=1e-4, atol=1e-4)
