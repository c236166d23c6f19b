"""The trials of a transfer study: sizes by parametrisations by rates by seeds."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from flows.recipe import RecipeError
from flows.studies.transfer.recipe import Parametrization, TransferRecipe
from flows.studies.trial import Trial
from training.config import ModelConfig


def trials_of(recipe: TransferRecipe, model: ModelConfig) -> list[Trial]:
    """All trainings, small sizes first; `model` is the base recipe's. Raises RecipeError for a size it cannot have."""
    return [
        _trial(recipe, [*shape, *settings], parametrization, size, factor, seed)
        for size in sorted(recipe.sizes)
        for shape in [list(shape_of(recipe, model, size))]
        for parametrization in recipe.parametrizations
        for settings in [list(_parametrized(recipe, model, parametrization))]
        for factor in sorted(recipe.factors)
        for seed in recipe.seeds
    ]


def shape_of(recipe: TransferRecipe, model: ModelConfig, size: int) -> Iterator[str]:
    """The settings of a size: heads of one width are added; keys and values, and the feed-forward, in proportion."""
    if recipe.axis == "depth":
        yield f"train.model.layers={size}"
        return
    for name in ("heads", "kv_heads"):
        count = getattr(model, name) or 0
        if count * size % model.width:
            raise RecipeError(
                f"sizes: {count} {name} at train.model.width {model.width} would be no whole number at {size}; the "
                "width of a head is kept"
            )
    yield f"train.model.width={size}"
    yield f"train.model.heads={model.heads * size // model.width}"
    if model.kv_heads is not None:
        yield f"train.model.kv_heads={model.kv_heads * size // model.width}"
    if model.mlp_width is not None:
        yield f"train.model.mlp_width={model.mlp_width * size // model.width}"


def _parametrized(recipe: TransferRecipe, model: ModelConfig, parametrization: Parametrization) -> Iterator[str]:
    if parametrization == "standard":
        yield f"train.model.initialization={recipe.standard}"
        return
    base = recipe.smallest if recipe.base_size is None else recipe.base_size
    yield "train.model.initialization=mup"
    yield f"train.model.mup_base_width={base if recipe.axis == 'width' else model.width}"
    if recipe.axis == "depth":
        yield f"train.model.mup_base_layers={base}"
        yield f"train.model.mup_depth_exponent={recipe.depth_exponent:g}"


def _trial(
    recipe: TransferRecipe, settings: Sequence[str], parametrization: str, size: int, factor: float, seed: int
) -> Trial:
    rates = {key: value * factor for key, value in recipe.rates.items()}
    return Trial(
        f"{parametrization}-{recipe.axis}-{size}-x{factor:g}-seed-{seed}".replace("+", ""),
        (*settings, *(f"{key}={_plain(rate)}" for key, rate in rates.items()), f"train.training.seed={seed}"),
        {
            "parametrization": parametrization,
            recipe.axis: size,
            "rate": next(iter(rates.values())),
            "factor": factor,
            "seed": seed,
        },
    )


def _plain(value: float) -> str:
    """A number as YAML reads it for one: without a point, 1e-05 would be text."""
    text = f"{value:.6g}"
    return text if "e" not in text or "." in text else text.replace("e", ".0e")
