"""A study of a few trainings of a tiny model, in this process or as a program: python -m tests.flows.studies.mini."""

from __future__ import annotations

import shutil
import sys
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

from prefect import flow

from flows.plan import make_plan
from flows.studies.recipe import StudyRecipe
from flows.studies.study import Study, Watch
from flows.studies.trial import Outcome, Trial
from pipeline.report.plots import Series, plot
from pipeline.report.study import Page, Section
from pipeline.stage import CORPUS_STAGES

OVERRIDES = ("train.training.steps=8", "train.training.evaluate_every=4", "train.training.log_every=2")


def take_corpus(recipe: Path, finished: Path, workspace: Path) -> None:
    """Have a workspace hold the corpus that another one has made; what is trained there stays apart."""
    plan = make_plan(str(recipe), str(finished))
    for name in CORPUS_STAGES:
        if name in plan.refs:
            target = workspace / "store" / name
            target.mkdir(parents=True, exist_ok=True)
            shutil.copytree(plan.refs[name].path, target / plan.refs[name].fingerprint, dirs_exist_ok=True)


def rates(*values: float, steps: int | None = None) -> list[Trial]:
    """A trial for each learning rate."""
    extra = () if steps is None else (f"train.training.steps={steps}",)
    return [
        Trial(f"rate-{value:g}", (f"train.optimizer.learning_rate={value}", *extra), {"rate": value})
        for value in values
    ]


def study_recipe(base: Path, **changes: Any) -> StudyRecipe:
    values: dict[str, Any] = {"name": "mini", "base": str(base), "overrides": list(OVERRIDES), "threads": 1}
    return StudyRecipe.model_validate(values | changes)


def run_study(
    recipe: StudyRecipe,
    workspace: Path,
    trials: Sequence[Trial],
    watch: Watch | None = None,
    look: Callable[[Study], None] = lambda study: None,
) -> list[Outcome]:
    """Run a study to its end inside a flow; `look` sees it when the trials are done."""

    @flow(name="mini", flow_run_name="mini")
    def mini() -> list[Outcome]:
        with Study("scaling", recipe, str(workspace)) as study:
            study.prepare()
            outcomes = study.run(trials, watch)
            look(study)
            study.finish(results_of(outcomes), page_of(outcomes))
        return outcomes

    return mini()


def results_of(outcomes: Sequence[Outcome]) -> Mapping[str, Any]:
    losses = [outcome.loss for outcome in outcomes if outcome.finished]
    table = {"columns": ["trial", "state"], "rows": [[outcome.trial.name, outcome.state] for outcome in outcomes]}
    return {"metrics": {"best": min(losses)}, "tables": {"states of trials": table}}


def page_of(outcomes: Sequence[Outcome]) -> Page:
    done = [outcome for outcome in outcomes if outcome.finished]
    svg = plot(
        [Series("runs", [outcome.tokens for outcome in done], [outcome.loss for outcome in done], kind="points")],
        "tokens",
        "loss",
    )
    return Page("Mini", [f"{len(done)} of {len(outcomes)} came to their end."], [Section("Loss", svg)], {"loss": svg})


if __name__ == "__main__":
    base, workspace, steps = sys.argv[1:]
    run_study(study_recipe(Path(base)), Path(workspace), [*rates(0.001), *rates(0.01, 0.02, steps=int(steps))])
