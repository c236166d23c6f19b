"""Rotary positions in config.json: `rope_parameters` of transformers 5, `rope_theta` and `rope_scaling` before it."""

from __future__ import annotations

import math
from typing import Any

from torch import Tensor

from training.config import ModelConfig, RopeScaling
from training.models.huggingface.settings import Settings

_THETA = 10_000.0
_TYPES = ("default", "linear", "llama3", "yarn")


def to_settings(config: ModelConfig) -> dict[str, Any]:
    """The entries for rotary positions, in the words of both: readers know one or the other."""
    theta, scaling = config.rope_theta, None
    if config.rope_scaling is not None:
        if config.rope_scaling.name == "ntk":
            theta = ntk_theta(config)
        else:
            scaling = _scaling(config.rope_scaling)
    parameters = {"rope_theta": theta, **(scaling or {"rope_type": "default"})}
    return {"rope_theta": theta, "rope_scaling": scaling, "rope_parameters": parameters}


def ntk_theta(config: ModelConfig) -> float:
    """The base that NTK scaling comes to, which a model without scaling can simply have."""
    assert config.rope_scaling is not None
    width = config.width_of_head
    # A head of two dimensions has one frequency, 1, whatever the base is.
    return config.rope_theta * config.rope_scaling.factor ** (width / (width - 2)) if width > 2 else config.rope_theta


def to_config(settings: Settings, context_length: int) -> tuple[float, RopeScaling | None]:
    """The base and the scaling that a config.json names; raises ValueError naming what the trunk has not."""
    parameters = _parameters(settings)
    theta = parameters.number("rope_theta", settings.number("rope_theta", _THETA))
    for part in (settings, parameters):
        part.one_of("partial_rotary_factor", {1.0: None}, 1.0)
    kind = parameters.get("rope_type") or parameters.get("type") or "default"
    if kind not in _TYPES:
        raise parameters.wrong("rope_type", kind, ", ".join(_TYPES))
    if kind == "default":
        return theta, None
    original = settings.get("original_max_position_embeddings") or parameters.get("original_max_position_embeddings")
    if original is None:
        original = context_length
    elif isinstance(original, bool) or not isinstance(original, int):
        raise parameters.wrong("original_max_position_embeddings", original, "a whole number")
    if kind == "linear":
        return theta, RopeScaling("linear", parameters.number("factor"))
    if kind == "llama3":
        low, high = parameters.number("low_freq_factor"), parameters.number("high_freq_factor")
        return theta, RopeScaling("llama3", parameters.number("factor"), original, low, high)
    return theta, _yarn(parameters, original, context_length)


def pairs_to_halves(rows: Tensor, heads: int) -> Tensor:
    """Rows (heads * K, ...) of queries or keys whose positions turn neighbours (2i, 2i + 1), as those that turn (i,
    i + K / 2): the same products, with the rows of each head in another order."""
    return rows.unflatten(0, (heads, -1, 2)).transpose(1, 2).flatten(0, 2)


def halves_to_pairs(rows: Tensor, heads: int) -> Tensor:
    """The way back from `pairs_to_halves`."""
    return rows.unflatten(0, (heads, 2, -1)).transpose(1, 2).flatten(0, 2)


def _scaling(scaling: RopeScaling) -> dict[str, Any]:
    common = {"rope_type": scaling.name, "factor": scaling.factor}
    if scaling.name == "linear":
        return common
    common["original_max_position_embeddings"] = scaling.original_context_length
    if scaling.name == "yarn":
        return {**common, "beta_fast": scaling.beta_fast, "beta_slow": scaling.beta_slow}
    return {
        **common,
        "low_freq_factor": scaling.low_frequency_factor,
        "high_freq_factor": scaling.high_frequency_factor,
    }


def _parameters(settings: Settings) -> Settings:
    """The object that describes the scaling: the older name has precedence, as in transformers."""
    parameters = settings.section("rope_scaling") or settings.section("rope_parameters") or Settings({})
    # One object for each type of layers is fine where all say the same.
    nested = [value for value in parameters.values() if isinstance(value, dict)]
    if not nested:
        return parameters
    if len(nested) < len(parameters) or any(value != nested[0] for value in nested):
        raise ValueError("rope_parameters: layers that differ in their rotary positions are not supported")
    return Settings(nested[0], "rope_parameters.")


def _yarn(parameters: Settings, original: int, context_length: int) -> RopeScaling:
    factor = parameters.number("factor", context_length / original)
    usual = _temperature(factor, 1.0)
    given = parameters.get("attention_factor")
    if given is None and parameters.get("mscale") and parameters.get("mscale_all_dim"):
        given = _temperature(factor, parameters.number("mscale")) / _temperature(
            factor, parameters.number("mscale_all_dim")
        )
    if given is not None and not math.isclose(float(given), usual, rel_tol=1e-6):
        raise parameters.wrong("attention_factor", given, f"{usual:g}, which the factor {factor:g} comes to")
    parameters.one_of("truncate", {True: None}, True)
    return RopeScaling(
        "yarn",
        factor,
        original,
        beta_fast=parameters.number("beta_fast", 32.0),
        beta_slow=parameters.number("beta_slow", 1.0),
    )


def _temperature(factor: float, scale: float) -> float:
    """What queries and keys are multiplied by (YaRN, equation 22, as transformers has it)."""
    return 0.1 * scale * math.log(factor) + 1.0 if factor > 1 else 1.0
