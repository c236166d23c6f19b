"""Prefix tuning is peft's; what sees what; and models that peft does not know."""

from __future__ import annotations

import copy
from dataclasses import replace
from typing import Any

import pytest
import torch
from peft import PrefixTuningConfig, TaskType, get_peft_model
from torch import Tensor

from tests.training.adapters import pairs
from tests.training.huggingface.parity import GRADIENT, LOGITS, VOCABULARY, randomize, tokens
from training.adapters import AdapterConfig, adapt
from training.adapters.adaptation import Adaptation
from training.config import ModelConfig, RopeScaling
from training.models import build
from training.models.attention import EXPLICIT_TOKENS
from training.models.cache import KeyValueCache

PREFIX = 4
CONFIG = AdapterConfig("prefix", prefix_tokens=PREFIX)
SMALL: dict[str, Any] = {"layers": 2, "heads": 4, "width": 32, "context_length": 48}


def as_peft_has_it(tensors: list[Tensor]) -> Tensor:
    """The layers' (2, P, G, K) in one row for each place."""
    return torch.stack(tensors).permute(2, 0, 1, 3, 4).flatten(1)


def adapted(prefix_tokens: int = PREFIX, **config: Any) -> tuple[Any, Adaptation]:
    torch.manual_seed(0)
    model = build(ModelConfig(**{**SMALL, **config}), VOCABULARY)
    randomize(model)
    return model.eval(), adapt(model, AdapterConfig("prefix", prefix_tokens=prefix_tokens), 1)


@pytest.mark.parametrize("family", list(pairs.BUILDERS))
def test_outputs_gradients_and_steps_are_those_of_peft(family: str) -> None:
    theirs, ours = (copy.deepcopy(base) for base in pairs._bases(family))
    bare = family == "bert"
    torch.manual_seed(pairs.SEED)
    task = TaskType.FEATURE_EXTRACTION if bare else TaskType.CAUSAL_LM
    wrapped: Any = get_peft_model(
        theirs.bert if bare else theirs, PrefixTuningConfig(task_type=task, num_virtual_tokens=PREFIX)
    )
    adaptation = adapt(ours, CONFIG, pairs.SEED)
    (other,) = (parameter for parameter in wrapped.parameters() if parameter.requires_grad)
    assert torch.equal(as_peft_has_it([p.detach() for p in adaptation.trained()]), other)
    optimizers = [torch.optim.AdamW(group, lr=3e-2, eps=1e-4) for group in (adaptation.trained(), [other])]
    for step, ids in enumerate(pairs.batches(5)):
        found = ours.hidden(ids) if bare else ours(ids)
        output = wrapped(input_ids=ids)
        expected = output.last_hidden_state if bare else output.logits
        torch.testing.assert_close(found, expected, rtol=1e-4, atol=2e-5 * (1 + 10 * step))
        for optimizer, values in zip(optimizers, (found, expected), strict=True):
            optimizer.zero_grad()
            values.square().mean().backward()
        mine = as_peft_has_it([p.grad for p in adaptation.trained() if p.grad is not None])
        assert other.grad is not None
        assert (mine - other.grad).abs().max() < GRADIENT * (1 + 10 * step) * other.grad.abs().max()
        for optimizer in optimizers:
            optimizer.step()


@pytest.mark.parametrize("positions", ["rotary", "learned", "alibi"])
@pytest.mark.parametrize("attention", ["causal", "bidirectional"])
def test_packed_documents_are_what_they_are_alone(attention: str, positions: str) -> None:
    model, _ = adapted(attention=attention, positions=positions, window=5, global_every=2)
    first, second = tokens(9, batch=1), tokens(14, batch=1, seed=1)
    documents = torch.tensor([[1] * 9 + [2] * 14])
    packed = model(torch.cat([first, second], 1), documents)
    alone = torch.cat([model(first), model(second)], 1)
    torch.testing.assert_close(packed, alone, **LOGITS)
    assert not torch.allclose(packed, build_without_prefix(model, torch.cat([first, second], 1), documents), atol=0.1)


def build_without_prefix(model: Any, ids: Tensor, documents: Tensor) -> Tensor:
    plain = build(replace(model.config, context_length=48), VOCABULARY).eval()
    plain.load_state_dict({name: tensor for name, tensor in model.state_dict().items() if "prefix" not in name})
    logits: Tensor = plain(ids, documents)
    return logits


@pytest.mark.parametrize("attention", ["causal", "bidirectional"])
def test_long_rows_take_another_route_to_the_same_numbers(attention: str, monkeypatch: pytest.MonkeyPatch) -> None:
    model, _ = adapted(attention=attention, context_length=2 * EXPLICIT_TOKENS)
    ids = tokens(EXPLICIT_TOKENS + 3)
    fused = model(ids)
    monkeypatch.setattr("training.models.attention.EXPLICIT_TOKENS", 4 * EXPLICIT_TOKENS)
    torch.testing.assert_close(model(ids), fused, **LOGITS)


@pytest.mark.parametrize(
    "config",
    [
        {"rope_scaling": RopeScaling("yarn", 4.0, 16), "rope_theta": 100.0},
        {"attention": "bidirectional", "window": 5, "global_every": 2, "rope_theta_windowed": 50.0},
        {"layers": 4, "layer_groups": 2, "kv_heads": 2, "qk_norm": "gains"},
    ],
    ids=["yarn", "two-thetas", "shared-blocks"],
)
def test_keys_turned_back_are_tokens_moved_on(config: dict[str, Any]) -> None:
    """The layer's own attention, with the prefix as it is and the tokens' angles from place P on."""
    model, _ = adapted(**config)
    cases = []
    hook = lambda module, given, output: cases.append((module, *given, output))  # noqa: E731
    for block in model.blocks:
        block.attention.register_forward_hook(hook)
    model(tokens(11))
    tables = {}
    longer = build(ModelConfig(**{**SMALL, **config, "context_length": 80}), VOCABULARY)
    for everywhere, cos, sin in (
        (True, longer.cos_TK, longer.sin_TK),
        (False, longer.windowed_cos_TK, longer.windowed_sin_TK),
    ):
        tables[everywhere] = (cos, sin) if cos is not None else tables[True]
    assert len(cases) == model.config.layers
    for layer, (attention, x, context, found) in enumerate(cases):
        cos, sin = (table[PREFIX : PREFIX + 11] for table in tables[model.sees_everything(layer)])
        q, k, v = attention.projections(x, context._replace(cos_TK=cos, sin_TK=sin))
        keys, values = (part.transpose(0, 1).expand(2, -1, -1, -1) for part in attention.prefix)
        groups = q.shape[1] // k.shape[1]
        k, v = (torch.cat(both, 2).repeat_interleave(groups, 1) for both in ((keys, k), (values, v)))
        place = torch.arange(11)
        seen = place[:, None] >= place if model.config.attention == "causal" else torch.ones(11, 11, dtype=torch.bool)
        if model.config.window and not model.sees_everything(layer):
            seen = seen & ((place[:, None] - place).abs() < model.config.window)
        mask = torch.cat([torch.ones(11, PREFIX, dtype=torch.bool), seen], 1)
        expected = torch.nn.functional.scaled_dot_product_attention(q, k, v, mask).transpose(1, 2).flatten(2)
        torch.testing.assert_close(found, attention.output(expected), **LOGITS)


@pytest.mark.parametrize("positions", ["rotary", "learned", "alibi"])
@pytest.mark.parametrize("window", [None, 5])
def test_a_cache_changes_nothing(window: int | None, positions: str) -> None:
    model, _ = adapted(positions=positions, window=window, global_every=2 if window else 0, kv_heads=2)
    ids = tokens(14)
    expected = model(ids)
    for steps in ((9, 1, 3, 1), (1,) * 14):
        cache = KeyValueCache(2, 20)
        found, first = [], 0
        for count in steps:
            hidden = model.hidden(ids[:, first : first + count], cache=cache)
            cache.advance(count)
            found.append(model.head(model.readout(hidden)))
            first += count
        torch.testing.assert_close(torch.cat(found, 1), expected, **LOGITS)
    cache = KeyValueCache(2, 20)
    model.hidden(ids[:, :9], cache=cache)
    cache.advance([9, 6])
    rest = model.head(model.readout(model.hidden(torch.stack([ids[0, 9:11], ids[1, 6:8]]), cache=cache)))
    torch.testing.assert_close(rest, torch.stack([expected[0, 9:11], expected[1, 6:8]]), **LOGITS)


def test_weights_of_attention_leave_the_share_of_the_prefix_out() -> None:
    model, adaptation = adapted()
    seen: list[Any] = []
    attention = model.blocks[1].attention
    attention.register_forward_hook(lambda module, given, output: seen.append(given))
    model(tokens(7))
    weights = attention.probabilities(*seen[0])
    assert weights.shape == (2, 4, 7, 7)
    assert (weights.sum(-1) < 1).all()
    with torch.no_grad():
        attention.prefix[0] = 0
    flat = attention.probabilities(*seen[0])
    # Keys of nought have the score 0: each takes exp(0) of the sum.
    scores = flat[:, :, 0, 0].reciprocal() - 1
    own = torch.log(PREFIX / scores)
    q, k, _ = attention.projections(*seen[0])
    torch.testing.assert_close(own, (q[:, :, 0] * k[:, :, 0]).sum(-1) * 8**-0.5, rtol=1e-4, atol=1e-4)
    adaptation.remove()
    torch.testing.assert_close(attention.probabilities(*seen[0]).sum(-1), torch.ones(2, 4, 7))


def test_taken_out_it_is_the_model_that_it_was() -> None:
    model, adaptation = adapted(positions="learned")
    before = {name: tensor.clone() for name, tensor in adaptation.base_tensors().items()}
    with_prefix = model(tokens(9))
    adaptation.remove()
    assert model.state_dict().keys() == before.keys() == build(model.config, VOCABULARY).state_dict().keys()
    plain = build(model.config, VOCABULARY).eval()
    plain.load_state_dict(before)
    assert torch.equal(model(tokens(9)), plain(tokens(9)))
    assert not torch.allclose(model(tokens(9)), with_prefix, atol=0.1)


def test_learned_positions_have_less_room() -> None:
    model, adaptation = adapted(positions="learned")
    assert adaptation.context_length == model.config.context_length == 48 - PREFIX
    assert model(tokens(48 - PREFIX)).isfinite().all()
    with pytest.raises(ValueError, match="45 tokens exceed the model's context length of 44"):
        model(tokens(45))
    with pytest.raises(ValueError, match="prefix_tokens must be less than"):
        adapted(48, positions="learned")
    with pytest.raises(ValueError, match="has an adapter already"):
        adapt(model, CONFIG, 0)
    adaptation.remove()
    assert adaptation.context_length == 48
    assert model(tokens(48)).isfinite().all()
