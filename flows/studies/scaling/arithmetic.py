"""What a run recipe's training costs, counted by the trainer's own models."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Sequence

from flows.recipe import Recipe
from flows.studies.scaling.ladder import Arithmetic, Count


def counter(recipe_of: Callable[[Sequence[str]], Recipe], vocabulary_size: int | None = None) -> Count:
    """Counts the arithmetic of sizes; `recipe_of` makes the run recipe of a size's overrides.

    The vocabulary is by default as large as the recipe's tokenizer is to become.

    Imports torch at the first use: the models are built without data, as `headrace plan` does.
    """

    def count(overrides: Sequence[str]) -> Arithmetic:
        from flows.planning import planned_run
        from training import objectives
        from training.config import SpecialTokens
        from training.planning.memory import sketch

        run = planned_run(recipe_of(overrides))
        if vocabulary_size is not None:
            run = dataclasses.replace(run, vocabulary_size=vocabulary_size)
        model, length = sketch(run), run.sequence_length
        task = objectives.build(run.objective, objectives.Setting(run.vocabulary_size, 0, SpecialTokens(*range(4))))
        shape = run.model
        # As flows.studies.outcomes counts it: of other architectures attention is not told apart.
        decoder = shape.architecture == "transformer"
        attention = 12 * shape.layers * length * shape.heads * shape.width_of_head if decoder else 0
        flops = task.flops_per_token(model, length)
        return Arithmetic(
            flops_per_token=float(flops),
            parameters=model.parameters_count(),
            matrix_parameters=round((flops - attention) / 6),
            tokens_per_step=run.training.batch_size * length,
        )

    return count
