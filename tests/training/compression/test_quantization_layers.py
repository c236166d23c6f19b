"""Layers of integers against float64 products with the weights that the numbers stand for, worked out one by one."""

from __future__ import annotations

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor, nn

from tests.training.small_models import one_thread  # noqa: F401
from training.compression.quantization.arithmetic import group_scales, pack, range_scale, to_groups, unpack
from training.compression.quantization.config import QuantizationConfig
from training.compression.quantization.layers import DynamicLinear, GroupedLinear, StaticLinear, integer_product
from training.compression.quantization.simulation import SimulatedLinear, quantized

BF16 = 2.0**-8
"""Relative step of bfloat16, in which the kernels for few rows multiply."""


def linear(inputs: int = 64, outputs: int = 48, bias: bool = True, seed: int = 0) -> nn.Linear:
    torch.manual_seed(seed)
    return nn.Linear(inputs, outputs, bias=bias)


def grouped_by_hand(layer: GroupedLinear) -> np.ndarray:
    """The weights, from the stored numbers one by one."""
    scales = layer.scale_OG.float().numpy().astype(np.float64)
    stored = layer.integers.numpy()
    weights = np.zeros((layer.out_features, layer.in_features))
    for o in range(layer.out_features):
        for i in range(layer.in_features):
            if layer.bits == 4:
                byte = int(stored[o, i // 2])
                number = (byte // 16 if i % 2 else byte % 16) - 8
            else:
                number = int(stored[o, i])
            weights[o, i] = number * scales[o, i // layer.group]
    return weights


def error(found: Tensor, expected: Tensor) -> float:
    """Largest difference, relative to the largest number."""
    return float((found.double() - expected.double()).abs().max() / expected.double().abs().max())


@torch.no_grad()
@pytest.mark.parametrize("rows", [1, 5, 40, 100])
@pytest.mark.parametrize(
    ("bits", "group", "inputs"), [(4, 32, 64), (4, 16, 64), (4, 0, 64), (8, 32, 64), (8, 0, 64), (8, 32, 50)]
)
def test_groups(bits: int, group: int, inputs: int, rows: int) -> None:
    plain = linear(inputs)
    config = QuantizationConfig("weight_int4" if bits == 4 else "weight_int8", group_size=group)
    layer = quantized(plain, config)
    assert isinstance(layer, GroupedLinear)
    assert layer.integers.nbytes == plain.weight.numel() * bits // 8
    weights = torch.from_numpy(grouped_by_hand(layer))
    torch.testing.assert_close(layer.weight.double(), weights, rtol=1e-6, atol=0)
    x = torch.randn(rows, inputs)
    assert error(layer(x), F.linear(x.double(), weights, plain.bias.double())) < (2 * BF16 if rows <= 64 else 1e-5)
    # Half a step of the scale is the most that a weight can lie off, a whole one where -8 has no partner.
    steps = layer.scale_OG.float().abs().repeat_interleave(layer.group, 1)
    off = (plain.weight - layer.weight).abs() / steps
    assert float(off.max()) < (0.51 if bits == 8 else 0.2 * 8 + 1)


def test_four_bits_take_the_better_range() -> None:
    torch.manual_seed(0)
    weight = torch.randn(200, 64)
    scale = group_scales(weight, 4, 32)
    found = (to_groups(weight, scale, 4).float().unflatten(1, (2, 32)) * scale.float()[..., None]).flatten(1)
    groups = weight.unflatten(1, (2, 32))
    plain_scale = groups.abs().amax(2, keepdim=True) / 7
    plain = (torch.round(groups / plain_scale).clamp(-8, 7) * plain_scale).flatten(1)
    assert (found - weight).square().mean() < 0.85 * (plain - weight).square().mean()


@given(st.integers(1, 5), st.integers(1, 9), st.integers(0, 2**32 - 1))
@settings(max_examples=30, deadline=None)
def test_two_numbers_in_a_byte(rows: int, pairs: int, seed: int) -> None:
    numbers = torch.randint(-8, 8, (rows, 2 * pairs), generator=torch.Generator().manual_seed(seed), dtype=torch.int8)
    packed = pack(numbers)
    assert packed.nbytes * 2 == numbers.nbytes
    assert torch.equal(unpack(packed), numbers)


@torch.no_grad()
@pytest.mark.parametrize("bias", [True, False])
@pytest.mark.parametrize("rows", [1, 17, 300])
def test_dynamic(rows: int, bias: bool) -> None:
    plain = linear(bias=bias)
    layer = quantized(plain, QuantizationConfig())
    assert isinstance(layer, DynamicLinear)
    x = torch.randn(rows, 64) * torch.rand(rows, 1)
    x[0] = 0.0
    weight_scale = plain.weight.double().abs().amax(1, keepdim=True) / 127
    integers = torch.round(plain.weight.double() / weight_scale)
    scale = (x.double().abs().amax(1, keepdim=True) / 127).clamp(min=1e-30)
    expected = torch.round(x.double() / scale) @ integers.T * scale * weight_scale.T
    expected = expected if plain.bias is None else expected + plain.bias.double()
    assert torch.equal(layer.integers_OI.double(), integers)
    found = layer(x)
    assert error(found[1:], expected[1:]) < 1e-5 if rows > 1 else torch.isfinite(found).all()
    assert error(layer(x[None, 1:]), F.linear(x[None, 1:], plain.weight, plain.bias)) < 0.02 if rows > 1 else True


@torch.no_grad()
def test_long_inputs_are_scaled_in_pieces(monkeypatch: pytest.MonkeyPatch) -> None:
    layer = quantized(linear(), QuantizationConfig())
    x = torch.randn(70, 64)
    whole = layer(x)
    monkeypatch.setattr("training.compression.quantization.layers._CHUNK", 48 * 16)
    assert torch.equal(layer(x), whole)


@torch.no_grad()
@pytest.mark.parametrize("bias", [True, False])
def test_static(bias: bool) -> None:
    plain = linear(bias=bias)
    layer = quantized(plain, QuantizationConfig("static_int8"))
    assert isinstance(layer, StaticLinear)
    x = torch.randn(20, 64) + 0.5
    low, high = x.min() * 0.9, x.max()  # some are outside
    layer.set_range(low, high)
    scale = (float(high) - float(low)) / 255
    zero = round(-128 - float(low) / scale)
    rounded = (np.clip(np.round(x.double().numpy() / scale) + zero, -128, 127) - zero) * scale
    expected = F.linear(torch.from_numpy(rounded), layer.weight.double())
    expected = expected if plain.bias is None else expected + plain.bias.double()
    assert error(layer(x), expected) < 1e-4


@given(st.floats(-1e6, 1e6), st.floats(-1e6, 1e6))
def test_zero_is_met_exactly(first: float, second: float) -> None:
    low, high = sorted((first, second))
    scale, zero = range_scale(torch.tensor(low), torch.tensor(high))
    assert -128 <= zero <= 127
    assert zero == zero.round()
    top, bottom = (127 - float(zero)) * float(scale), (-128 - float(zero)) * float(scale)
    assert bottom - float(scale) <= min(low, 0.0)
    assert max(high, 0.0) <= top + float(scale)


def test_products_of_integers() -> None:
    x = torch.randint(-127, 128, (7, 30), dtype=torch.int8)
    weight = torch.randint(-127, 128, (9, 30), dtype=torch.int8)
    assert torch.equal(integer_product(x, weight), x.int() @ weight.int().T)


@torch.no_grad()
@pytest.mark.parametrize("method", ["dynamic_int8", "weight_int8", "weight_int4", "static_int8"])
def test_zeros_stay_zeros_and_bfloat16_stays(method: str) -> None:
    plain = linear()
    plain.weight[:, ::3] = 0.0
    layer = quantized(plain, QuantizationConfig(method))  # type: ignore[arg-type]
    if isinstance(layer, StaticLinear):
        layer.set_range(torch.tensor(-4.0), torch.tensor(4.0))
    assert not layer.weight[:, ::3].any()
    x = torch.randn(3, 64)
    with torch.autocast("cpu", torch.bfloat16):
        found = layer(x)
    assert found.dtype == torch.bfloat16
    assert error(found, plain(x)) < (0.2 if method == "weight_int4" else 0.05)
    assert layer(x.bfloat16()).dtype == torch.bfloat16


@pytest.mark.parametrize("method", ["dynamic_int8", "weight_int8", "weight_int4", "static_int8"])
def test_simulation_is_what_is_converted(method: str) -> None:
    plain = linear()
    simulated = SimulatedLinear.of(plain, QuantizationConfig(method))  # type: ignore[arg-type]
    assert simulated.weight is plain.weight
    x = torch.randn(4, 30, 64)
    simulated.train()(x)  # sees a range
    simulated.eval()
    with torch.no_grad():
        assert error(simulated.converted()(x), simulated(x)) < 1e-5
        assert error(simulated(x), plain(x)) > 1e-3


@pytest.mark.parametrize("method", ["dynamic_int8", "static_int8", "weight_int4"])
def test_gradients_pass_the_rounding(method: str) -> None:
    plain = linear()
    simulated = SimulatedLinear.of(plain, QuantizationConfig(method))  # type: ignore[arg-type]
    x = torch.randn(10, 64, requires_grad=True)
    simulated.train()(x.detach())
    simulated.eval()
    with torch.no_grad():
        weight = simulated.converted().weight
    outside = torch.zeros(10, 64, dtype=torch.bool)
    if method == "static_int8":
        simulated.high.fill_(1.0)
        scale, zero = range_scale(simulated.low, simulated.high)
        outside = (x.detach() > (127 - zero) * scale) | (x.detach() < (-128 - zero) * scale)
        assert outside.any()
    weights_OP = torch.randn(10, 48)
    (simulated(x) * weights_OP).sum().backward()
    assert x.grad is not None
    assert plain.weight.grad is not None
    assert plain.bias.grad is not None
    assert torch.equal(x.grad == 0, outside)
    torch.testing.assert_close(x.grad, (weights_OP @ weight).masked_fill(outside, 0.0))
    # The weight's gradient is that of the rounded activations.
    assert error(plain.weight.grad, weights_OP.T @ x.detach().clamp(max=1.0 if outside.any() else 99.0)) < 0.05
    torch.testing.assert_close(plain.bias.grad, weights_OP.sum(0))


def test_a_gradient_through_integers_is_that_of_their_weights() -> None:
    for method in ("dynamic_int8", "weight_int4"):
        layer = quantized(linear(), QuantizationConfig(method))  # type: ignore[arg-type]
        x = torch.randn(3, 64, requires_grad=True)
        layer(x).sum().backward()
        torch.testing.assert_close(x.grad, layer.weight.sum(0).expand(3, 64))
