from dataclasses import replace
from typing import Literal

import pytest
import torch
import torch.nn.functional as F
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.utils.flop_counter import FlopCounterMode

from training.config import PRESETS, ModelConfig
from training.models import attention
from training.models.gpt import GPT, rotary_table, rotate

SMALL = ModelConfig(layers=2, heads=2, width=32, context_length=24)
VOCABULARY = 31


def model_of(config: ModelConfig) -> GPT:
    torch.manual_seed(0)
    model = GPT(config, VOCABULARY).eval()
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(torch.randn_like(parameter) * 0.2)
    return model


@pytest.mark.parametrize(
    "config",
    [
        SMALL,
        replace(SMALL, mlp="swiglu", tied_embeddings=True),
        replace(SMALL, mlp="gelu", qk_norm=False),
    ],
    ids=["relu2", "swiglu-tied", "gelu"],
)
def test_no_position_sees_a_later_one(config: ModelConfig) -> None:
    model = model_of(config)
    ids = torch.randint(0, VOCABULARY, (2, 24))
    logits = model(ids)
    assert logits.shape == (2, 24, VOCABULARY)
    for position in (0, 11, 23):
        other = ids.clone()
        other[0, position] = (other[0, position] + 1) % VOCABULARY
        difference = (model(other) - logits).abs().amax(-1)
        assert (difference[0, :position] == 0).all()
        assert (difference[0, position:] > 1e-5).all()
        assert (difference[1] == 0).all()


def test_rotary_products_depend_on_the_distance_only() -> None:
    cos, sin = rotary_table(64, 16, 100.0)
    q, k = torch.randn(2, 1, 1, 1, 16, dtype=torch.float64)
    scores = rotate(q.expand(1, 1, 64, 16), cos.double(), sin.double()) @ rotate(
        k.expand(1, 1, 64, 16), cos.double(), sin.double()
    ).transpose(-1, -2)
    for distance in (0, 3, 40):
        diagonal = torch.diagonal(scores[0, 0], offset=distance)
        assert torch.allclose(diagonal, diagonal[0].expand_as(diagonal), atol=1e-6)
    assert scores[0, 0, 0, 0] == pytest.approx(float(q.flatten() @ k.flatten()))


@pytest.mark.parametrize("tokens", [1, 7, attention._EXPLICIT_TOKENS, attention._EXPLICIT_TOKENS + 1])
def test_attention_is_that_of_torch(tokens: int) -> None:
    torch.manual_seed(0)
    q, k, v = (torch.randn(2, 3, tokens, 8, requires_grad=True) for _ in range(3))
    upstream = torch.randn(2, 3, tokens, 8)
    ours = attention.causal_attention(q, k, v)
    theirs = F.scaled_dot_product_attention(q, k, v, is_causal=True)
    assert torch.allclose(ours, theirs, atol=1e-6)
    gradients = [torch.autograd.grad(y, (q, k, v), upstream) for y in (ours, theirs)]
    assert all(torch.allclose(a, b, atol=1e-5) for a, b in zip(*gradients, strict=True))


def test_the_context_length_is_a_limit() -> None:
    model = model_of(SMALL)
    with pytest.raises(ValueError, match="25 tokens exceed the model's context length of 24"):
        model(torch.zeros(1, 25, dtype=torch.int64))


@pytest.mark.parametrize("mlp", ["relu2", "gelu", "swiglu"])
def test_flops_are_those_that_torch_counts(mlp: Literal["relu2", "gelu", "swiglu"]) -> None:
    config = replace(SMALL, mlp=mlp)
    model = GPT(config, VOCABULARY)
    # The counter does not know the CPU's fused attention.
    with FlopCounterMode(display=False) as counter, sdpa_kernel(SDPBackend.MATH):
        model(torch.zeros(3, 24, dtype=torch.int64)).sum().backward()
    assert counter.get_total_flops() == model.flops_per_token(24) * 3 * 24


def test_presets_have_their_published_size() -> None:
    with torch.device("meta"):
        sizes = {name: GPT(ModelConfig(**PRESETS[name]), 50_257).parameters_count() for name in PRESETS}
    # The counts of the released models; positions and biases, which are not here, come to less than 1 %.
    assert sizes["gpt2"] == pytest.approx(124e6, rel=0.01)
    assert sizes["gpt2-medium"] == pytest.approx(355e6, rel=0.01)
    assert sizes["gpt2-large"] == pytest.approx(774e6, rel=0.01)
    assert sizes["gpt2-xl"] == pytest.approx(1558e6, rel=0.01)


def test_initial_deviations_are_those_of_the_scheme() -> None:
    config = replace(SMALL, width=256, initialization="gpt2")
    torch.manual_seed(0)
    model = GPT(config, 500).requires_grad_(False)
    weights = model.state_dict()
    assert float(weights["blocks.0.attention.qkv.weight"].std()) == pytest.approx(0.02, rel=0.03)
    assert float(weights["blocks.0.mlp.output.weight"].std()) == pytest.approx(0.02 / 4**0.5, rel=0.03)
    small = GPT(replace(config, initialization="small"), 500).requires_grad_(False)
    weights = small.state_dict()
    assert float(weights["blocks.0.attention.qkv.weight"].std()) == pytest.approx(1 / 16, rel=0.03)
    assert not weights["blocks.0.mlp.output.weight"].any()
    # Nearly uniform predictions to begin with.
    logits = small(torch.randint(0, 500, (2, 24)))
    assert float(torch.logsumexp(logits, -1).mean()) == pytest.approx(6.21, abs=0.05)


def test_it_learns_a_text_by_heart() -> None:
    text = torch.tensor(list(b"in the beginning was the word, and the word was with God."))
    torch.manual_seed(0)
    model = GPT(ModelConfig(layers=2, heads=2, width=64, context_length=64), 128)
    optimizer = torch.optim.AdamW(model.parameters(), lr=3e-3)
    for _ in range(60):
        loss = torch.nn.functional.cross_entropy(model(text[None, :-1])[0], text[1:])
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    assert float(loss.detach()) < 0.05
    assert (model(text[None, :-1])[0].argmax(-1) == text[1:]).all()


@pytest.mark.parametrize("config", [SMALL, replace(SMALL, mlp="swiglu"), replace(SMALL, tied_embeddings=True)])
def test_every_parameter_gets_a_gradient(config: ModelConfig) -> None:
    model = model_of(config)
    model(torch.randint(0, VOCABULARY, (2, 24))).logsumexp(-1).sum().backward()
    assert all(p.grad is not None and p.grad.abs().sum() > 0 for p in model.parameters())
