"""The compute-optimal training on so many tokens: by a fit of `headrace scaling`, or by tokens a parameter."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from flows.internet.recipe import OptimalConfig

_FIT = ("E", "A", "B", "alpha", "beta")


@dataclass(frozen=True)
class Optimum:
    """A model and what its training takes; FLOPs are 6 x parameters x tokens."""

    tokens: float
    parameters: float
    flops: float
    loss: float | None
    device: str
    devices: int
    device_hours: float
    hours: float
    basis: str


@dataclass(frozen=True)
class Fit:
    """The law L = E + A / N^alpha + B / D^beta of a study, and the most tokens of a run that it was fitted to."""

    law: Mapping[str, float]
    tokens: float
    study: str


def scaling_fit(workspace: str) -> Fit | None:
    """The newest parametric fit L = E + A / N^alpha + B / D^beta that `headrace scaling` left in a workspace, if any.

    A result that holds none, or a broken one, is passed over: there may be others.
    """
    import fsspec

    from pipeline.store import read_json

    filesystem, folder = fsspec.core.url_to_fs(f"{workspace}/studies")
    found: list[tuple[float, Fit]] = []
    for path in filesystem.glob(f"{folder}/*/results.json"):
        try:
            results = read_json(filesystem.unstrip_protocol(path))
        except (OSError, ValueError):
            continue
        fit = _fit_of(results, path.rpartition("/")[0].rpartition("/")[2])
        if fit is not None:
            found.append((float(filesystem.info(path).get("mtime") or 0.0), fit))
    return max(found, key=lambda item: (item[0], item[1].study))[1] if found else None


def _fit_of(results: Any, study: str) -> Fit | None:
    if not isinstance(results, Mapping) or results.get("kind", "scaling") != "scaling":
        return None
    try:
        law = results["analysis"]["laws"]["parametric"]
        values = {name: float(law[name]) for name in _FIT}
        tokens = max(float(run["tokens"]) for run in results["analysis"]["runs"])
    except (KeyError, TypeError, ValueError):  # nothing could be fitted, or not this law
        return None
    return Fit(values, tokens, study) if all(value > 0 for value in values.values()) else None


def optimal_parameters(law: Mapping[str, float], tokens: float) -> float:
    """The size for which so many tokens are the optimal number (Hoffmann et al. 2022, equation 4, solved for N).

    At the optimum of a budget both parts of the loss fall alike: alpha A / N^alpha = beta B / D^beta.
    """
    part = law["beta"] * law["B"] / tokens ** law["beta"]
    return float((law["alpha"] * law["A"] / part) ** (1 / law["alpha"]))


def optimum(tokens: float, config: OptimalConfig, fit: Fit | None) -> Optimum:
    """Plan the training on all the tokens, once each: by the fit where it is not carried too far, and says so.

    Raises ValueError for an unknown device, or one whose peak is not known.
    """
    from training.planning.devices import find_device

    loss = None
    if fit is None or tokens > config.furthest * fit.tokens:
        parameters = tokens / config.tokens_per_parameter
        basis = f"{config.tokens_per_parameter:g} tokens a parameter (Hoffmann et al. 2022)"
        if fit is not None:
            basis += f"; the fit of {fit.study} ends at {fit.tokens:.3g} tokens"
    else:
        law = fit.law
        parameters = optimal_parameters(law, tokens)
        loss = law["E"] + law["A"] / parameters ** law["alpha"] + law["B"] / tokens ** law["beta"]
        basis = f"fit of {fit.study}, carried to {tokens / fit.tokens:.3g} times its tokens"
    device = find_device(config.device)
    peak = device.peak("bf16")
    if peak is None:
        raise ValueError(f"training.device: the peak of {device.name} is not known; name h200, h100, a100, l40s or l4")
    flops = 6 * parameters * tokens
    hours = flops / (peak * config.mfu) / 3600
    return Optimum(tokens, parameters, flops, loss, device.name, config.devices, hours, hours / config.devices, basis)
