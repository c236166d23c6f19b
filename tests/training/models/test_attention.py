"""Every route against the plain formula, written with loops; FlexAttention runs by its own reference on a CPU."""

from __future__ import annotations

import math
from typing import get_args

import pytest
import torch
from torch import Tensor
from torch.nn.attention import flex_attention

from training.models import attention
from training.models.attention import EXPLICIT_TOKENS, Pattern, Route, attend, attention_weights, choose_route, prepare

B, H, T, K = 2, 4, 9, 16
DOCUMENTS = torch.tensor([[0, 0, 0, 0, 1, 1, 2, 2, 2], [7, 7, 3, 3, 3, 3, 3, 3, 9]])
SLOPES = torch.tensor([0.5, 0.25, 0.1, 0.02])
PATTERNS = {
    "causal": Pattern(),
    "bidirectional": Pattern(causal=False),
    "window": Pattern(window=3),
    "window both sides": Pattern(causal=False, window=2),
    "documents": Pattern(documents_BT=DOCUMENTS),
    "alibi": Pattern(slopes_H=SLOPES),
    "alibi both sides": Pattern(causal=False, slopes_H=SLOPES),
    "all": Pattern(window=4, documents_BT=DOCUMENTS, slopes_H=SLOPES),
}
CASES = [
    (name, route)
    for name, pattern in PATTERNS.items()
    for route in get_args(Route)
    if route != "fused" or pattern.plain
]


@pytest.fixture(autouse=True)
def backward_of_flex_attention_on_a_cpu(monkeypatch: pytest.MonkeyPatch) -> None:
    """Let FlexAttention's reference, whose gradients are right, run where its kernel could not."""
    monkeypatch.setattr(flex_attention, "_validate_device", lambda *tensors: None)


def by_hand(q: Tensor, k: Tensor, v: Tensor, pattern: Pattern) -> tuple[Tensor, Tensor]:
    """Outputs and weights, a query at a time."""
    outputs, weights = torch.zeros_like(q), torch.zeros(B, H, T, T, dtype=q.dtype)
    for b in range(B):
        for h in range(H):
            group = h // (H // k.shape[1])
            for i in range(T):
                seen = []
                for j in range(T):
                    distance = i - j if pattern.causal else abs(i - j)
                    near = pattern.window is None or distance < pattern.window
                    documents = pattern.documents_BT
                    if distance >= 0 and near and (documents is None or documents[b, i] == documents[b, j]):
                        seen.append(j)
                scores = torch.stack([q[b, h, i] @ k[b, group, j] / math.sqrt(K) for j in seen])
                if pattern.slopes_H is not None:
                    scores = scores - torch.stack([pattern.slopes_H[h] * abs(i - j) for j in seen])
                weights[b, h, i, seen] = torch.softmax(scores, 0)
                outputs[b, h, i] = weights[b, h, i].clone() @ v[b, group]
    return outputs, weights


def operands(groups: int) -> list[Tensor]:
    generator = torch.Generator().manual_seed(0)
    shapes = [(B, H, T, K), (B, groups, T, K), (B, groups, T, K)]
    return [torch.randn(shape, generator=generator, requires_grad=True) for shape in shapes]


@pytest.mark.filterwarnings("ignore:flex_attention called without torch.compile")
@pytest.mark.parametrize(("name", "route"), CASES)
@pytest.mark.parametrize("groups", [H, 2])
def test_every_route_is_the_plain_formula(name: str, route: Route, groups: int) -> None:
    pattern = PATTERNS[name]
    q, k, v = operands(groups)
    expected, _ = by_hand(q, k, v, pattern)
    context = prepare(pattern, route, B, T, H, q.device, q.dtype)
    ours = attend(q, k, v, context)
    assert torch.allclose(ours, expected, atol=1e-6)
    upstream = torch.randn(ours.shape, generator=torch.Generator().manual_seed(1))
    for gradient, other in zip(*(torch.autograd.grad(y, (q, k, v), upstream) for y in (ours, expected)), strict=True):
        assert torch.allclose(gradient, other, atol=1e-5)


@pytest.mark.parametrize("name", PATTERNS)
def test_weights_are_those_of_the_plain_formula(name: str) -> None:
    q, k, v = operands(2)
    assert torch.allclose(attention_weights(q, k, PATTERNS[name]), by_hand(q, k, v, PATTERNS[name])[1], atol=1e-6)


def test_one_key_head_serves_the_query_heads_of_its_group() -> None:
    q, k, v = operands(2)
    for route in ("multiplied", "fused"):
        context = prepare(Pattern(), route, B, T, H, q.device, q.dtype)  # type: ignore[arg-type]
        repeated = attend(q, *(x.repeat_interleave(2, dim=1) for x in (k, v)), context)
        assert torch.allclose(attend(q, k, v, context), repeated, atol=1e-6)


@pytest.mark.parametrize("route", ["multiplied", "fused", "masked"])
def test_dropped_weights_are_made_up_for_by_the_others(route: Route) -> None:
    ones = torch.ones(8, H, 64, K)
    context = prepare(Pattern(causal=False), route, 8, 64, H, ones.device, ones.dtype)
    torch.manual_seed(0)
    dropped = attend(ones, ones, ones, context, dropout=0.5)
    assert float(dropped.mean()) == pytest.approx(1, abs=0.02)
    assert float(dropped.std()) > 0.05


def test_routes_are_chosen_by_device_length_and_pattern() -> None:
    cpu, cuda = torch.device("cpu"), torch.device("cuda")
    long = EXPLICIT_TOKENS + 1
    assert choose_route(cpu, EXPLICIT_TOKENS, 64, plain=False, dropout=0.1) == "multiplied"
    assert choose_route(cpu, long, 64, plain=True, dropout=0.0) == "fused"
    assert choose_route(cpu, long, 64, plain=False, dropout=0.0) == "masked"
    assert choose_route(cuda, 64, 64, plain=True, dropout=0.1) == "fused"
    assert choose_route(cuda, 64, 64, plain=False, dropout=0.0) == "flex"
    assert choose_route(cuda, 64, 64, plain=False, dropout=0.1) == "masked"
    assert choose_route(cuda, 64, 8, plain=False, dropout=0.0) == "masked"


def test_empty_blocks_are_known_to_flex_attention() -> None:
    documents = torch.arange(4).repeat_interleave(128)[None]
    mask = attention.block_mask(Pattern(documents_BT=documents), 1, 512, documents.device)
    assert mask.sparsity() == 75.0
    assert attention.block_mask(Pattern(window=1), 1, 512, documents.device).sparsity() == 75.0
