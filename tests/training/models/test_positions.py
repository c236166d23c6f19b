from __future__ import annotations

from typing import Any

import pytest
import torch
from transformers import LlamaConfig
from transformers.modeling_rope_utils import ROPE_INIT_FUNCTIONS
from transformers.models.bloom.modeling_bloom import build_alibi_tensor

from training.config import RopeScaling
from training.models.positions import (
    alibi_slopes,
    document_positions,
    rotary_frequencies,
    rotary_table,
    rotate,
    yarn_temperature,
)


def theirs(head_width: int, theta: float, name: str, context_length: int = 4096, **scaling: Any) -> tuple[Any, float]:
    parameters = {"rope_type": name, "rope_theta": theta, **scaling}
    config = LlamaConfig(
        hidden_size=4 * head_width,
        num_attention_heads=4,
        max_position_embeddings=context_length,
        rope_parameters=parameters,  # type: ignore[arg-type]
    )
    seconds = {"seq_len": int(context_length * 8)} if name == "dynamic" else {}
    return ROPE_INIT_FUNCTIONS[name](config, "cpu", **seconds)


@pytest.mark.parametrize("head_width", [8, 64, 128])
@pytest.mark.parametrize("theta", [10_000.0, 500_000.0])
def test_linear_and_ntk_frequencies_are_those_of_transformers(head_width: int, theta: float) -> None:
    linear, _ = theirs(head_width, theta, "linear", factor=4.0)
    assert torch.allclose(rotary_frequencies(head_width, theta, RopeScaling("linear", 4.0)).float(), linear)
    # Dynamic NTK at eight times its length is NTK with a factor of 8.
    ntk, _ = theirs(head_width, theta, "dynamic", factor=1.0)
    assert torch.allclose(rotary_frequencies(head_width, theta, RopeScaling("ntk", 8.0)).float(), ntk, rtol=1e-4)


@pytest.mark.parametrize("head_width", [8, 64, 128])
@pytest.mark.parametrize(("factor", "original", "low", "high"), [(8.0, 8192, 1.0, 4.0), (32.0, 512, 2.0, 16.0)])
def test_llama3_frequencies_are_those_of_transformers(
    head_width: int, factor: float, original: int, low: float, high: float
) -> None:
    expected, _ = theirs(
        head_width,
        500_000.0,
        "llama3",
        factor=factor,
        low_freq_factor=low,
        high_freq_factor=high,
        original_max_position_embeddings=original,
    )
    ours = RopeScaling("llama3", factor, original, low_frequency_factor=low, high_frequency_factor=high)
    assert torch.allclose(rotary_frequencies(head_width, 500_000.0, ours).float(), expected, rtol=1e-5)


@pytest.mark.parametrize("head_width", [8, 64, 128])
@pytest.mark.parametrize(("factor", "original", "fast", "slow"), [(8.0, 4096, 32.0, 1.0), (40.0, 512, 16.0, 0.5)])
def test_yarn_frequencies_and_temperature_are_those_of_transformers(
    head_width: int, factor: float, original: int, fast: float, slow: float
) -> None:
    expected, temperature = theirs(
        head_width,
        10_000.0,
        "yarn",
        factor=factor,
        beta_fast=fast,
        beta_slow=slow,
        original_max_position_embeddings=original,
    )
    ours = RopeScaling("yarn", factor, original, beta_fast=fast, beta_slow=slow)
    assert torch.allclose(rotary_frequencies(head_width, 10_000.0, ours).float(), expected, rtol=1e-5)
    assert yarn_temperature(ours) == pytest.approx(temperature)
    cos, sin = rotary_table(5, head_width, 10_000.0, ours)
    assert torch.allclose(cos**2 + sin**2, torch.tensor(temperature**2))


def test_rotary_products_depend_on_the_distance_only() -> None:
    cos, sin = (half.double() for half in rotary_table(64, 16, 100.0))
    q, k = torch.randn(2, 1, 1, 1, 16, dtype=torch.float64)
    scores = rotate(q.expand(1, 1, 64, 16), cos, sin) @ rotate(k.expand(1, 1, 64, 16), cos, sin).mT
    for distance in (0, 3, 40):
        diagonal = torch.diagonal(scores[0, 0], offset=distance)
        assert torch.allclose(diagonal, diagonal[0].expand_as(diagonal), atol=1e-6)
    assert scores[0, 0, 0, 0] == pytest.approx(float(q.flatten() @ k.flatten()))


def test_alibi_slopes_are_those_of_the_paper() -> None:
    assert alibi_slopes(8).tolist() == [2.0**-i for i in range(1, 9)]
    assert alibi_slopes(16).tolist() == pytest.approx([2.0 ** (-i / 2) for i in range(1, 17)])


@pytest.mark.parametrize("heads", [1, 2, 3, 5, 8, 12, 20, 25, 40])
def test_alibi_slopes_are_those_of_bloom(heads: int) -> None:
    bias = build_alibi_tensor(torch.ones(1, 2), heads, torch.float32)  # slope times position
    assert torch.allclose(alibi_slopes(heads), bias[:, 0, 1])


def test_positions_begin_anew_in_each_document() -> None:
    documents = torch.tensor([[0, 0, 0, 1, 2, 2, 2, 2], [5, 4, 4, 5, 5, 5, 6, 6]])
    assert document_positions(documents).tolist() == [[0, 1, 2, 0, 0, 1, 2, 3], [0, 0, 1, 0, 1, 2, 0, 1]]
