"""Two samplers that keep nothing but the trials themselves in the storage: CMA-ES by replay, and a grid by number.

Optuna's own CMA-ES pickles its state into the storage, and whoever may write there could then run code in every worker;
here the state is built again from the finished trials for each proposal. Optuna's own grid keeps its plan in the
storage and stops an optimisation loop that is not run here.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

from flows.studies.search.space import Choice, FloatRange, IntRange, Space, Value
from flows.studies.search.storage import OUTCOME

if TYPE_CHECKING:
    from flows.studies.search.samplers import CMAES


def grid_points(space: Space) -> list[dict[str, Value]]:
    """Every combination of the space's grids, in the order of their trials."""
    return [
        dict(zip(space, values, strict=True)) for values in itertools.product(*(one.grid() for one in space.values()))
    ]


def make_grid(space: Space) -> Any:
    """A sampler that gives trial `number` the point of that number: workers share the grid without a word."""
    from optuna.samplers import BaseSampler

    points = grid_points(space)

    class GridByNumber(BaseSampler):
        def infer_relative_search_space(self, study: Any, trial: Any) -> dict[str, Any]:
            return {}

        def sample_relative(self, study: Any, trial: Any, search_space: dict[str, Any]) -> dict[str, Any]:
            return {}

        def sample_independent(self, study: Any, trial: Any, param_name: str, param_distribution: Any) -> Any:
            return points[trial.number % len(points)][param_name]

    return GridByNumber()


def make_evolution(config: CMAES, space: Space, seed: int) -> Any:
    """CMA-ES over the ranges of a space, each scaled to [0, 1] by its logarithm where the space says so.

    The finished and the diverged trials, in the order of their numbers, are the generations. A diverged one counts as
    worse than all that finished: CMA-ES knows losses by their rank alone. As it may be told of any points, it does not
    matter that a pruned or failed one is missing.
    """
    from optuna.samplers import RandomSampler
    from optuna.trial import TrialState

    ranges = {key: one for key, one in space.items() if not isinstance(one, Choice)}

    class EvolutionByReplay(RandomSampler):
        """Proposes the ranges' values from the search distribution, and the choices at random."""

        def infer_relative_search_space(self, study: Any, trial: Any) -> dict[str, Any]:
            return {key: one.distribution() for key, one in ranges.items()}

        def sample_relative(self, study: Any, trial: Any, search_space: dict[str, Any]) -> dict[str, Any]:
            # Of the storage itself: Hyperband hands over a study that shows the trials of one bracket, and all of them
            # until its process has pruned for the first time, which would make a restart draw other settings.
            ended = study._storage.get_all_trials(
                study._study_id, deepcopy=False, states=(TrialState.COMPLETE, TrialState.PRUNED)
            )
            losses = [(one, _loss(one)) for one in sorted(ended, key=lambda one: one.number)]
            told = [(one.params, loss) for one, loss in losses if loss is not None]
            if not ranges or len(told) < config.startup_trials:
                return {}
            return propose(config, ranges, told, seed)

    return EvolutionByReplay(seed=seed)


def _loss(one: Any) -> float | None:
    """The loss that a trial of the storage is told with; None where it says nothing of its settings."""
    if one.state.name == "COMPLETE":
        return float(one.value)
    return math.inf if one.user_attrs.get(OUTCOME, {}).get("state") == "diverged" else None


def propose(
    config: CMAES,
    ranges: Mapping[str, FloatRange | IntRange],
    told: Sequence[tuple[Mapping[str, Any], float]],
    seed: int,
) -> dict[str, Value]:
    """The next settings, after trials with these settings had these losses; an infinite one ranks last."""
    import cmaes
    import numpy as np

    size = len(ranges)
    optimizer = cmaes.CMA(
        mean=np.full(size, 0.5),
        sigma=config.sigma,
        bounds=np.tile([0.0, 1.0], (size, 1)),
        seed=seed,
        population_size=config.population or max(5, 4 + math.floor(3 * math.log(size))),
    )
    generation = optimizer.population_size
    points = [(np.array([_scaled(one, settings[key]) for key, one in ranges.items()]), loss) for settings, loss in told]
    for start in range(0, len(points) - generation + 1, generation):
        optimizer.tell(points[start : start + generation])
    return {key: _value(one, float(place)) for (key, one), place in zip(ranges.items(), optimizer.ask(), strict=True)}


def _scaled(one: FloatRange | IntRange, value: float) -> float:
    low, high = _bounds(one)
    return ((math.log(value) if one.log else value) - low) / (high - low)


def _value(one: FloatRange | IntRange, place: float) -> Value:
    low, high = _bounds(one)
    value = low + place * (high - low)
    return one.nearest(math.exp(value) if one.log else value)


def _bounds(one: FloatRange | IntRange) -> tuple[float, float]:
    """What 0 and 1 stand for; a whole number stands for all that is rounded to it."""
    half = 0.5 if isinstance(one, IntRange) else 0.0
    low, high = one.low - half, one.high + half
    return (math.log(low), math.log(high)) if one.log else (low, high)
