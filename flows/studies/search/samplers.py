"""Who proposes the next settings, and who stops a trial early: Optuna's samplers and pruners, from the recipe.

A sampler is made anew for each trial, from the search's seed and the trial's number, and all that it knows of earlier
trials comes from the storage: so a search that was killed goes on with the settings that it would have drawn anyway,
and workers that share a storage draw different ones.
"""

from __future__ import annotations

import hashlib
from typing import Annotated, Any, Literal

from pydantic import Field

from flows.studies.search.space import Space
from pipeline.stage import StageConfig


class TPE(StageConfig):
    """Tree-structured Parzen estimator (Bergstra et al. 2011), with joint densities of all settings."""

    name: Literal["tpe"]
    startup_trials: int = Field(10, ge=1, description="Trials that are drawn at random before the estimator decides.")


class CMAES(StageConfig):
    """Covariance matrix adaptation (Hansen & Ostermeier 2001); choices without an order are drawn at random."""

    name: Literal["cmaes"]
    startup_trials: int = Field(1, ge=1, description="Trials that are drawn at random first.")
    sigma: float = Field(1 / 6, gt=0, le=1, description="First standard deviation, as a share of each range.")
    population: int | None = Field(
        None, ge=5, description="Trials of a generation; by default 4 + 3 ln(settings), as Hansen (2016) advises."
    )


class Random(StageConfig):
    """Each trial for itself (Bergstra & Bengio 2012)."""

    name: Literal["random"]


class Grid(StageConfig):
    """Every combination once, the last setting of the space varying fastest."""

    name: Literal["grid"]


Sampler = Annotated[TPE | CMAES | Random | Grid, Field(discriminator="name")]


class Median(StageConfig):
    """Stops a trial whose best loss so far is above the median of the others' at its step (Golovin et al. 2017)."""

    name: Literal["median"]
    startup_trials: int = Field(5, ge=1, description="Trials that run to their end first.")
    warmup_share: float = Field(0.3, ge=0, lt=1, description="Share of a trial's steps in which it is never stopped.")


class Halving(StageConfig):
    """Asynchronous successive halving (Li et al. 2018): of the trials at a rung, one in so many goes on."""

    name: Literal["halving"]
    minimum_steps: int | None = Field(None, ge=1, description="First rung; by default the first evaluation.")
    reduction: int = Field(3, ge=2, description="One trial in so many goes on, to a rung so many times as far.")


class Hyperband(StageConfig):
    """Successive halving with several first rungs at a time (Li et al. 2017), each trial in one of them."""

    name: Literal["hyperband"]
    minimum_steps: int | None = Field(None, ge=1, description="Lowest first rung; by default the first evaluation.")
    reduction: int = Field(3, ge=2, description="One trial in so many goes on, to a rung so many times as far.")


Pruner = Annotated[Median | Halving | Hyperband, Field(discriminator="name")]


def make_sampler(config: Sampler, space: Space, seed: int) -> Any:
    """The Optuna sampler of a search: one for each trial, by its number."""
    from optuna.samplers import BaseSampler

    class ByNumber(BaseSampler):
        def __init__(self) -> None:
            self._made: tuple[int, Any] = (-1, None)

        def _of(self, trial: Any) -> Any:
            if self._made[0] != trial.number:
                self._made = (trial.number, _sampler_of(config, space, seed, trial.number))
            return self._made[1]

        def infer_relative_search_space(self, study: Any, trial: Any) -> dict[str, Any]:
            return dict(self._of(trial).infer_relative_search_space(study, trial))

        def sample_relative(self, study: Any, trial: Any, search_space: dict[str, Any]) -> dict[str, Any]:
            return dict(self._of(trial).sample_relative(study, trial, search_space))

        def sample_independent(self, study: Any, trial: Any, param_name: str, param_distribution: Any) -> Any:
            return self._of(trial).sample_independent(study, trial, param_name, param_distribution)

    return ByNumber()


def _sampler_of(config: Sampler, space: Space, seed: int, number: int) -> Any:
    """The sampler that proposes the settings of trial `number`."""
    import optuna

    drawn = int.from_bytes(hashlib.blake2b(f"{seed} {number}".encode(), digest_size=4).digest(), "big")
    if isinstance(config, TPE):
        # A constant liar keeps workers that run at a time from the same settings.
        return optuna.samplers.TPESampler(
            n_startup_trials=config.startup_trials, multivariate=True, constant_liar=True, seed=drawn
        )
    if isinstance(config, CMAES):
        from flows.studies.search.evolution import make_evolution

        return make_evolution(config, space, drawn)
    if isinstance(config, Grid):
        from flows.studies.search.evolution import make_grid

        return make_grid(space)
    return optuna.samplers.RandomSampler(seed=drawn)


def make_pruner(config: Pruner | None, steps: int, evaluate_every: int) -> Any:
    """The Optuna pruner for trials of at most `steps` steps; resources are steps of the training."""
    import optuna

    if config is None:
        return optuna.pruners.NopPruner()
    if isinstance(config, Median):
        return optuna.pruners.MedianPruner(
            n_startup_trials=config.startup_trials, n_warmup_steps=int(config.warmup_share * steps)
        )
    least = min(config.minimum_steps or evaluate_every, steps)
    if isinstance(config, Hyperband):
        return optuna.pruners.HyperbandPruner(min_resource=least, max_resource=steps, reduction_factor=config.reduction)
    return optuna.pruners.SuccessiveHalvingPruner(min_resource=least, reduction_factor=config.reduction)
