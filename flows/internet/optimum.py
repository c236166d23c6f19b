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


def scaling_fit(workspace: str) -> tuple[dict[str, float], str] | None:
    """The newest parametric fit L = E + A / N^alpha + B / D^beta that `headrace scaling` left in a workspace, if any.

    A result that holds none, or a broken one, is passed over: there may be others.
    """
    import fsspec

    from pipeline.store import read_json

    filesystem, folder = fsspec.core.url_to_fs(f"{workspace}/studies")
    found: list[tuple[float, dict[str, float], str]] = []
    for path in filesystem.glob(f"{folder}/*/results.json"):
        try:
            results = read_json(filesystem.unstrip_protocol(path))
        except (OSError, ValueError):
            continue
        fit = _fit_of(results)
        if fit is not None:
            name = path.rpartition("/")[0].rpartition("/")[2]
            found.append((float(filesystem.info(path).get("mtime") or 0.0), fit, name))
    if not found:
        return None
    _, fit, name = max(found, key=lambda item: (item[0], item[2]))
    return fit, name


def _fit_of(results: Any) -> dict[str, float] | None:
    if not isinstance(results, Mapping) or results.get("kind", "scaling") != "scaling":
        return None
    try:
        fit = results["analysis"]["laws"]["parametric"]
        values = {name: float(fit[name]) for name in _FIT}
    except (KeyError, TypeError, ValueError):  # nothing could be fitted, or not this law
        return None
    return values if all(value > 0 for value in values.values()) else None


def optimal_parameters(fit: Mapping[str, float], tokens: float) -> float:
    """The size for which so many tokens are the optimal number (Hoffmann et al. 2022, equation 4, solved for N).

    At the optimum of a budget both parts of the loss fall alike: alpha A / N^alpha = beta B / D^beta.
    """
    part = fit["beta"] * fit["B"] / tokens ** fit["beta"]
    return float((fit["alpha"] * fit["A"] / part) ** (1 / fit["alpha"]))


def optimum(tokens: float, config: OptimalConfig, fitted: tuple[dict[str, float], str] | None) -> Optimum:
    """Plan the training on all the tokens, once each.

    Raises ValueError for an unknown device, or one whose peak is not known.
    """
    from training.planning.devices import find_device

    loss = None
    if fitted is None:
        parameters = tokens / config.tokens_per_parameter
        basis = f"{config.tokens_per_parameter:g} tokens a parameter (Hoffmann et al. 2022)"
    else:
        fit, name = fitted
        parameters = optimal_parameters(fit, tokens)
        loss = fit["E"] + fit["A"] / parameters ** fit["alpha"] + fit["B"] / tokens ** fit["beta"]
        basis = f"fit of {name}, far beyond the sizes that it was made with"
    device = find_device(config.device)
    peak = device.peak("bf16")
    if peak is None:
        raise ValueError(f"training.device: the peak of {device.name} is not known; name h200, h100, a100, l40s or l4")
    flops = 6 * parameters * tokens
    hours = flops / (peak * config.mfu) / 3600
    return Optimum(tokens, parameters, flops, loss, device.name, config.devices, hours, hours / config.devices, basis)
