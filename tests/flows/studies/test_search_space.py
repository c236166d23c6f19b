"""The space of a search: its types, its check against the run recipe, and who proposes from it."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import pytest
import yaml
from hypothesis import example, given
from hypothesis import strategies as st
from optuna.trial import TrialState

from flows.plan import Plan, make_plan
from flows.recipe import RecipeError
from flows.studies.search import evolution
from flows.studies.search.check import check_space
from flows.studies.search.evolution import grid_points, propose
from flows.studies.search.recipe import SearchRecipe, load_search_recipe
from flows.studies.search.samplers import CMAES, make_pruner, make_sampler
from flows.studies.search.space import FloatRange, IntRange, override
from flows.studies.search.storage import OUTCOME, route_logs

RATE = {"type": "float", "low": 0.001, "high": 0.1, "log": True}
LAYERS = {"type": "int", "low": 1, "high": 4}


def search_of(space: dict[str, Any], **changes: Any) -> SearchRecipe:
    return load_search_recipe({"name": "some", "base": "quickstart", "space": space, "budget": {"trials": 9}} | changes)


@pytest.fixture(scope="module")
def plan(tmp_path_factory: pytest.TempPathFactory) -> Callable[[Sequence[str]], Plan]:
    """Wires up a small recipe with overrides, in an empty workspace."""
    folder = tmp_path_factory.mktemp("base")
    (folder / "one.jsonl").write_text('{"text": "The river runs to the mill."}\n')
    base = {
        "name": "base",
        "ingest": {"sources": [{"name": "one", "format": "jsonl", "path": str(folder / "one.jsonl")}]},
        "train": {"model": {"layers": 2, "heads": 2, "width": 32, "context_length": 64}},
    }
    return lambda overrides: make_plan(base, str(folder / "workspace"), overrides)


@pytest.mark.parametrize(
    ("space", "said"),
    [
        ({}, "at least 1 item"),
        ({"a": {"type": "float", "low": 2.0, "high": 1.0}}, r"low \(2\) must be below high \(1\)"),
        ({"a": {"type": "float", "low": 0.0, "high": 1.0, "log": True}}, "log needs a low above 0, not 0"),
        ({"a": {"type": "float", "low": 0.1, "high": 1.0, "log": True, "step": 0.1}}, "log and step"),
        ({"a": {"type": "float", "low": 0.0, "high": math.inf}}, "finite"),
        ({"a": {"type": "int", "low": 1, "high": 2, "step": 5}}, r"step \(5\) is larger than the range from low \(1\)"),
        ({"a": {"type": "float", "low": 0.0, "high": 0.3, "step": 0.4}}, r"step \(0.4\) is larger than the range"),
        ({"a": {"type": "int", "low": 1.5, "high": 4}}, "valid integer"),
        ({"a": {"type": "categorical", "choices": ["one"]}}, "at least 2 items"),
        ({"a": {"type": "categorical", "choices": [1, True]}}, "choices holds True twice, or a value that equals it"),
        ({"a": {"type": "normal", "mean": 0}}, "'float', 'int', 'categorical'"),
    ],
)
def test_space_that_is_none(space: dict[str, Any], said: str) -> None:
    with pytest.raises(RecipeError, match=said):
        search_of(space)


def test_recipe_that_contradicts_itself() -> None:
    with pytest.raises(RecipeError, match="name trials, device_hours or both"):
        search_of({"a": RATE}, budget={})
    with pytest.raises(RecipeError, match=r"budget.trials.*greater than or equal to 1"):
        search_of({"a": RATE}, budget={"trials": 0})
    with pytest.raises(RecipeError, match="cmaes adapts to ranges"):
        search_of({"a": {"type": "categorical", "choices": [1, 2]}}, sampler={"name": "cmaes"})


@given(
    st.one_of(
        st.none(), st.booleans(), st.integers(-(10**12), 10**12), st.text(max_size=20),
        st.floats(allow_nan=False, allow_infinity=False),
    )
)  # fmt: skip
@example("\xa0")
def test_settings_come_back_from_yaml_as_they_were(value: Any) -> None:
    """1e-05 would be read as text, "on" as true."""
    key, _, text = override("a.b", value).partition("=")
    found = yaml.safe_load(text)
    assert (key, found, type(found)) == ("a.b", value, type(value))


def test_space_that_fits(plan: Callable[[Sequence[str]], Plan]) -> None:
    space = {
        "train.optimizer.learning_rate": RATE,
        "train.model.layers": LAYERS,
        "train.optimizer.name": {"type": "categorical", "choices": ["adamw", "muon"]},
        "train.optimizer.decay_embeddings": {"type": "categorical", "choices": [True, False]},
        "train.training.ema_decay": {"type": "categorical", "choices": [None, 0.9]},
        "train.schedule.decay_fraction": {"type": "int", "low": 0, "high": 1},
    }
    check_space(search_of(space), plan)


@pytest.mark.parametrize(
    ("key", "dimension", "said"),
    [
        ("train.optimizer.learning_rat", RATE, "did you mean 'learning_rate'"),
        ("train.model.layers", {"type": "float", "low": 1.0, "high": 4.0}, "layers"),
        ("train.optimizer.name", LAYERS, "refuses .*train.optimizer.name=1"),
        ("train.optimizer.decay_embeddings", {"type": "int", "low": 0, "high": 1}, "takes 0 for False"),
        (
            "train.optimizer.beta2",
            {"type": "float", "low": 0.9, "high": 1.0},
            r"beta2=1.0:\n.*must lie in \[0, 0.999999\]",
        ),
        ("train.model.heads", {"type": "int", "low": 2, "high": 5}, "heads=5"),
        ("train.training.log_every", LAYERS, "does not change what is learned"),
        ("train.training.threads", LAYERS, "does not change the training"),
        ("evaluate.seed", LAYERS, "does not change the training"),
        ("tokenizer.vocabulary_size", {"type": "int", "low": 300, "high": 500}, "changes the corpus"),
        ("train.objective.name", {"type": "categorical", "choices": ["causal", "masked"]}, "what the loss measures"),
    ],
)
def test_space_that_contradicts_the_recipe(
    plan: Callable[[Sequence[str]], Plan], key: str, dimension: dict[str, Any], said: str
) -> None:
    with pytest.raises(RecipeError, match=said):
        check_space(search_of({"train.optimizer.muon_learning_rate": RATE, key: dimension}), plan)


def test_values_that_contradict_each_other_in_one_corner(plan: Callable[[Sequence[str]], Plan]) -> None:
    space = {
        "train.model.width": {"type": "categorical", "choices": [48, 64]},
        "train.model.heads": {"type": "categorical", "choices": [2, 4, 16]},
    }
    with pytest.raises(RecipeError, match=r"refuses train.model.width=48, train.model.heads=16:\n"):
        check_space(search_of(space), plan)


def test_many_dimensions_are_tried_in_part(plan: Callable[[Sequence[str]], Plan]) -> None:
    """Each value at least once, although not all combinations are."""
    keys = ("learning_rate", "muon_learning_rate", "bigram_learning_rate", "epsilon", "beta1", "beta2", "momentum")
    space: dict[str, Any] = {f"train.optimizer.{key}": {"type": "float", "low": 0.1, "high": 0.5} for key in keys}
    check_space(search_of(space), plan)
    space["train.optimizer.momentum"] = {"type": "categorical", "choices": [0.1, 0.5, 1.0]}
    with pytest.raises(RecipeError, match="momentum"):
        check_space(search_of(space), plan)


def test_grid_has_every_combination_once() -> None:
    space = {
        "rate": {"type": "float", "low": 0.001, "high": 1.0, "log": True, "points": 4},
        "layers": {"type": "int", "low": 1, "high": 2, "points": 4},
        "name": {"type": "categorical", "choices": ["a", "b"]},
        "part": {"type": "float", "low": 0.0, "high": 0.7, "step": 0.3, "points": 9},
    }
    recipe = search_of(space)
    points = grid_points(recipe.space)
    assert len(points) == len({tuple(point.values()) for point in points}) == 4 * 2 * 2 * 3
    assert [point["rate"] for point in points[::12]] == pytest.approx([0.001, 0.01, 0.1, 1.0])
    assert sorted({point["part"] for point in points}) == [0.0, 0.3, 0.6]  # type: ignore[type-var]


@given(st.integers(-50, 50), st.integers(1, 60), st.integers(1, 7), st.floats(-200, 200))
def test_nearest_lies_in_the_range_and_on_its_steps(low: int, span: int, step: int, value: float) -> None:
    step = min(step, span)
    whole = IntRange(type="int", low=low, high=low + span, step=step)
    allowed = range(low, low + span + 1, step)
    nearest = whole.nearest(value)
    assert nearest in allowed
    assert abs(nearest - value) <= min(abs(one - value) for one in allowed) + 1e-9
    real = FloatRange(type="float", low=low, high=low + span, step=step)
    assert real.nearest(value) in allowed


def _sphere(settings: dict[str, Any]) -> float:
    return float((math.log10(settings["rate"]) + 2.2) ** 2 + (settings["share"] - 0.7) ** 2 + (settings["n"] - 3) ** 2)


def _run(recipe: SearchRecipe, trials: int, sampler: Any) -> Any:
    import optuna

    route_logs()
    study = optuna.create_study(study_name="some", sampler=sampler, pruner=make_pruner(recipe.pruner, 90, 10))
    _go_on(study, recipe, trials)
    return study


def _go_on(study: Any, recipe: SearchRecipe, trials: int) -> None:
    distributions = {key: one.distribution() for key, one in recipe.space.items()}
    for _ in range(trials):
        one, state = study.ask(distributions), None
        for step in (10, 30, 90) if recipe.pruner is not None else ():
            one.report(_sphere(one.params) + 10 / step, step)
            if one.should_prune():
                state = TrialState.PRUNED
                break
        study.tell(one, None if state else _sphere(one.params), state)


SPHERE: dict[str, Any] = {
    "rate": {"type": "float", "low": 1e-4, "high": 1.0, "log": True},
    "share": {"type": "float", "low": 0.0, "high": 1.0},
    "n": {"type": "int", "low": 1, "high": 9},
}


def test_evolution_by_replay_finds_what_optunas_own_finds() -> None:
    """And keeps nothing in the storage but the trials themselves: no pickles."""
    import optuna

    recipe = search_of(SPHERE, sampler={"name": "cmaes"})
    ours = _run(recipe, 90, make_sampler(recipe.sampler, recipe.space, seed=3))
    theirs = _run(recipe, 90, optuna.samplers.CmaEsSampler(seed=3))
    chance = _run(recipe, 90, optuna.samplers.RandomSampler(seed=3))
    last = {name: np.mean([one.value for one in study.trials[-20:]]) for name, study in
            (("ours", ours), ("theirs", theirs), ("chance", chance))}  # fmt: skip
    assert last["ours"] < 0.1 * last["chance"]
    assert last["ours"] < 3 * last["theirs"] + 0.02
    assert ours.best_value < 0.01
    assert all(not one.system_attrs for one in ours.trials)


def test_evolution_stays_in_its_ranges_and_depends_on_nothing_but_the_trials() -> None:
    recipe = search_of(SPHERE)
    ranges: Any = recipe.space
    told = [({"rate": 1e-4, "share": 0.0, "n": 1}, float(index)) for index in range(20)]
    config = CMAES(name="cmaes", sigma=1.0)
    first = [propose(config, ranges, told, seed) for seed in range(50)]
    assert first == [propose(config, ranges, told, seed) for seed in range(50)]
    for point in first:
        rate, share, number = point["rate"], point["share"], point["n"]
        assert isinstance(rate, float)
        assert isinstance(share, float)
        assert isinstance(number, int)
        assert 1e-4 <= rate <= 1.0
        assert 0.0 <= share <= 1.0
        assert 1 <= number <= 9


@pytest.mark.parametrize(
    ("name", "pruner"),
    [("tpe", None), ("cmaes", None), ("random", None), ("grid", None), ("tpe", "hyperband"), ("cmaes", "hyperband")],
)
def test_sampler_made_anew_goes_on_as_the_old_one_would(name: str, pruner: str | None) -> None:
    """A process that was killed and its successor propose what one process alone proposes."""
    recipe = search_of(
        SPHERE | {"name": {"type": "categorical", "choices": ["a", "b"]}},
        sampler={"name": name} | ({"startup_trials": 5} if name == "tpe" else {}),
        pruner=None if pruner is None else {"name": pruner, "reduction": 2},
    )

    def sampler() -> Any:
        return make_sampler(recipe.sampler, recipe.space, seed=1)

    more = 5 if pruner is None else 20  # of one bracket there are few
    whole = _run(recipe, 7 + more, sampler())
    broken = _run(recipe, 7, sampler())
    for _ in range(more):  # a process for each
        broken.sampler, broken.pruner = sampler(), make_pruner(recipe.pruner, 90, 10)
        _go_on(broken, recipe, 1)
    assert [one.params for one in broken.trials] == [one.params for one in whole.trials]
    assert len({tuple(one.params.values()) for one in whole.trials}) == 7 + more


def test_evolution_is_told_of_all_brackets_and_of_what_diverged(monkeypatch: pytest.MonkeyPatch) -> None:
    import optuna

    recipe = search_of({"share": SPHERE["share"]}, sampler={"name": "cmaes"}, pruner={"name": "hyperband"})
    study = _run(recipe, 0, make_sampler(recipe.sampler, recipe.space, seed=1))
    distributions = {"share": recipe.space["share"].distribution()}
    for place in range(12):
        diverged, pruned = place % 3 == 1, place % 3 == 2
        study.add_trial(
            optuna.trial.create_trial(
                state=TrialState.PRUNED if diverged or pruned else TrialState.COMPLETE,
                value=None if diverged else float(place),
                params={"share": place / 12},
                distributions=distributions,
                user_attrs={OUTCOME: {"state": "diverged" if diverged else "pruned" if pruned else "finished"}},
            )
        )
    heard: list[Any] = []
    monkeypatch.setattr(evolution, "propose", lambda config, ranges, told, seed: heard.extend(told) or {"share": 0.5})
    study.ask(distributions)
    expected = [(place / 12, math.inf if place % 3 else float(place)) for place in range(12) if place % 3 != 2]
    assert [(settings["share"], loss) for settings, loss in heard] == expected
    # By rank alone: last is last.
    told = [({"rate": 0.1, "share": place / 8, "n": 3}, float(place)) for place in range(7)]
    ranges: Any = search_of(SPHERE).space
    worst = [propose(CMAES(name="cmaes"), ranges, [*told, (told[0][0], loss)], 1) for loss in (99.0, math.inf)]
    assert worst[0] == worst[1]


def test_pruners_count_in_steps() -> None:
    import optuna

    pruners = {
        name: search_of({"a": RATE}, pruner={"name": name}).pruner for name in ("median", "halving", "hyperband")
    }
    made = make_pruner(pruners["hyperband"], steps=900, evaluate_every=100)
    assert isinstance(made, optuna.pruners.HyperbandPruner)
    assert (made._min_resource, made._max_resource) == (100, 900)
    assert isinstance(make_pruner(pruners["halving"], 900, 100), optuna.pruners.SuccessiveHalvingPruner)
    assert make_pruner(pruners["median"], 900, 100)._n_warmup_steps == 270
    assert isinstance(make_pruner(None, 900, 100), optuna.pruners.NopPruner)
