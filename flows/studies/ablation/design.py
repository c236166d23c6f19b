"""The design of an ablation: what its trainings have in common, in what they differ, and that nothing else does."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

from flows.plan import Plan
from flows.recipe import RecipeError
from flows.studies.ablation.recipe import CONTROL, REFERENCE, AblationRecipe, SeparationConfig
from flows.studies.trial import Trial

BENCHMARK = "held-out"
"""The name of the held-out documents among the evaluation sets that the corpora are cleaned of."""
Arms = Mapping[str, tuple[str, ...]]
"""The overrides of the run recipe by arm: reference, the variants in their order, and control, where there is one."""


def common_overrides(base: Plan, held_out: Plan, text: Path, separation: SeparationConfig) -> tuple[str, ...]:
    """What all arms share: the tokenizer and the held-out shards of one run, and a corpus cleaned of their `text`.

    Raises RecipeError where the base recipe's own decontamination leaves in what it finds.
    """
    benchmark = {"name": BENCHMARK, "path": str(text), "fields": ["text"], "id_field": "id"}
    reference = {"tokens": held_out.refs["tokenize"].fingerprint}
    shared = [f"reference={json.dumps(reference)}"]
    own = base.recipe.decontaminate
    if own is not None:
        if own.action == "annotate":
            raise RecipeError(
                "decontaminate.action: annotate leaves copies of held-out documents in training; an ablation needs cut "
                "or drop"
            )
        benchmarks = [*own.model_dump(mode="json")["benchmarks"], benchmark]
        return (*shared, f"decontaminate.benchmarks={json.dumps(benchmarks)}")
    section = {
        "benchmarks": [benchmark],
        "rule": "strict",
        "action": "cut",
        "strict": {"words": separation.words, "minimum_coverage": separation.coverage},
        "cut": {"window_characters": 0},
    }
    return (*shared, f"decontaminate={json.dumps(section)}")


def make_arms(recipe: AblationRecipe, common: tuple[str, ...]) -> Arms:
    """The arms of a study."""
    arms = {REFERENCE: common, **{one.name: (*common, *one.overrides) for one in recipe.variants}}
    return {**arms, CONTROL: common} if recipe.control else arms


def make_trials(recipe: AblationRecipe, arms: Arms) -> list[Trial]:
    """A training of each arm for each of its seeds, seed by seed, so that a study that is cut short has whole pairs."""
    trials = []
    for place, seed in enumerate(recipe.seeds):
        for arm, overrides in arms.items():
            own = recipe.control_seeds[place] if arm == CONTROL else seed
            trials.append(
                Trial(f"{arm}-{own}", (*overrides, f"train.training.seed={own}"), {"variant": arm, "seed": own})
            )
    return trials


def check_recipe(recipe: AblationRecipe, plan: Callable[[Sequence[str]], Plan]) -> None:
    """Check the variants against the run recipe before anything starts.

    `plan` wires up a run with overrides. Raises RecipeError where the recipe refuses a variant, a variant changes
    nothing that is trained, how much is trained, the tokenizer or the documents held out, and for an objective whose
    models give a text no probability.
    """
    reference = plan(())
    if not any(one.name == "causal" for one in reference.recipe.train.objective.all):
        raise RecipeError(
            f"base: its objective is {reference.recipe.train.objective.name}, and bits per byte of held-out documents "
            "need one that reads from left to right (causal)"
        )
    plan(recipe.held_out)
    for variant in recipe.variants:
        where = f"variants.{variant.name}"
        try:
            made = plan(variant.overrides)
        except ValueError as error:
            raise RecipeError(f"{where}: {error}") from None
        if made.refs["train"].fingerprint == reference.refs["train"].fingerprint:
            raise RecipeError(f"{where}: its overrides change nothing of the training: {', '.join(variant.overrides)}")
        if trained_tokens(made) != trained_tokens(reference):
            raise RecipeError(
                f"{where}: trains on {trained_tokens(made):,} tokens, the reference on {trained_tokens(reference):,}; "
                "an ablation compares trainings of equal length"
            )
        mine, theirs = (one.stages["tokenizer"].identity() for one in (made, reference))
        changed = sorted(name for name in mine if mine[name] != theirs.get(name))
        if changed:
            raise RecipeError(
                f"{where}: changes tokenizer.{changed[0]}, but all variants take one tokenizer and the same held-out "
                "documents; that decision is none of the corpus"
            )


def check_arm(name: str, plan: Plan) -> None:
    """Raise RecipeError where an arm's overrides took away what keeps held-out text out of its training."""
    section = plan.recipe.decontaminate
    benchmarks = [] if section is None else [one.name for one in section.benchmarks]
    if section is None or BENCHMARK not in benchmarks or section.action == "annotate":
        raise RecipeError(
            f"variants.{name}: its overrides of `decontaminate` leave copies of held-out documents in training; change "
            "a part of that section alone, and not its benchmarks or its action"
        )


def trained_tokens(plan: Plan) -> int:
    """Tokens that a run's training sees, repeats counted."""
    config = plan.recipe.train
    length = config.training.sequence_length or config.model.context_length
    return config.training.steps * config.training.batch_size * length
