from __future__ import annotations

from dataclasses import replace

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from training.config import ModelConfig
from training.models.float8 import Float8Linear, quantized, use_float8
from training.models.transformer import Transformer

CONFIG = ModelConfig(layers=2, heads=2, width=64, context_length=32, bias="all", norm="layernorm")


def relative_error(ours: Tensor, exact: Tensor) -> float:
    ours, exact = ours.detach().double(), exact.detach().double()
    return float((ours - exact).norm() / exact.norm())


@pytest.mark.parametrize(("dtype", "step"), [(torch.float8_e4m3fn, 2**-4), (torch.float8_e5m2, 2**-3)])
def test_values_are_kept_to_half_a_step_of_the_format(dtype: torch.dtype, step: float) -> None:
    x = torch.randn(64, 64) * 1e-5
    values, scale = quantized(x, dtype)
    restored = values.float() * scale
    # Small values lie on the fixed grid of the subnormal numbers.
    grid = float(scale) * torch.finfo(dtype).smallest_normal * step
    assert ((restored - x).abs() <= torch.maximum(x.abs() * step, torch.tensor(grid))).all()
    assert float(restored.abs().max()) == pytest.approx(float(x.abs().max()), rel=1e-6)
    zeros, scale = quantized(torch.zeros(16, 16), dtype)
    assert not (zeros.float() * scale).any()


@pytest.mark.parametrize("bias", [False, True])
def test_products_and_gradients_are_those_of_float32_but_for_rounding(bias: bool) -> None:
    torch.manual_seed(0)
    linear = nn.Linear(128, 96, bias=bias)
    layer = Float8Linear.of(linear)
    assert layer.weight is linear.weight
    x = torch.randn(4, 20, 128, requires_grad=True)
    upstream = torch.randn(4, 20, 96)
    inputs = [x, *linear.parameters()]
    exact, ours = linear(x), layer(x)
    # A product of two e4m3 numbers is off by 2 ** -4 at most, by a quarter of it on the average; sums less.
    assert 1e-3 < relative_error(ours, exact) < 0.04
    for mine, theirs in zip(
        torch.autograd.grad(ours, inputs, upstream), torch.autograd.grad(exact, inputs, upstream), strict=True
    ):
        assert mine.dtype == theirs.dtype
        assert relative_error(mine, theirs) < 0.08


def test_the_blocks_of_a_model_multiply_in_float8_and_its_weights_stay() -> None:
    torch.manual_seed(0)
    model = Transformer(CONFIG, 50)
    before = {name: (parameter, parameter.clone()) for name, parameter in model.named_parameters()}
    assert use_float8(model) == 4 * CONFIG.layers
    assert use_float8(model) == 0
    assert type(model.head) is nn.Linear
    for name, parameter in model.named_parameters():
        assert parameter is before[name][0]
        assert torch.equal(parameter, before[name][1])
    assert list(model.state_dict()) == list(before)


def test_widths_that_the_kernels_cannot_take_stay_in_bf16() -> None:
    model = Transformer(replace(CONFIG, width=60, heads=3, mlp_width=72), 50)
    assert use_float8(model) == 0
    torch.manual_seed(0)
    linear = nn.Linear(32, 32)
    x = torch.randn(3, 5, 32)  # 15 rows
    assert torch.equal(Float8Linear.of(linear)(x), linear(x))


def losses(float8: bool, steps: int = 50, layers: int = 2, compiled: bool = False) -> list[float]:
    text = torch.tensor(list(b"in the beginning was the word, and the word was with God, and the word."))[:65]
    torch.manual_seed(0)
    model = Transformer(replace(CONFIG, layers=layers, context_length=64), 128)
    if float8:
        use_float8(model)
    optimizer = torch.optim.AdamW(model.parameters(), lr=3e-3)

    def loss_of(inputs: Tensor, targets: Tensor) -> Tensor:
        with torch.autocast("cpu", torch.bfloat16):
            return F.cross_entropy(model(inputs)[0].float(), targets)

    if compiled:
        loss_of = torch.compile(loss_of, fullgraph=True, dynamic=False, backend="aot_eager")
    values = []
    for _ in range(steps):
        loss = loss_of(text[None, :-1], text[1:])
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        values.append(float(loss.detach()))
    return values


def test_a_model_learns_a_text_by_heart_in_float8() -> None:
    exact, ours = losses(float8=False), losses(float8=True)
    assert ours != exact
    assert ours[:10] == pytest.approx(exact[:10], rel=0.03)
    assert ours[-1] < 0.05


def test_it_compiles_in_one_graph() -> None:
    eager, compiled = (losses(float8=True, steps=3, layers=1, compiled=compiled) for compiled in (False, True))
    assert compiled == pytest.approx(eager, rel=1e-3)
