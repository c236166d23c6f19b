"""Commands that work on finished models: fine-tuning, suites of tasks, compression; and the scores of all."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer
from rich.console import Console

from flows.commands.base import (
    WORKSPACE,
    JsonOption,
    SetOption,
    VerboseOption,
    WorkspaceOption,
    app,
    errors,
    escape,
    follow,
    print_json,
    quieten_prefect,
    say,
)

ModelOption = Annotated[
    str | None,
    typer.Option(
        "--model",
        "-m",
        help="models:/<name>@best, a checkpoint folder or a folder of transformers; by default the recipe's, else the "
        "workspace's best.",
    ),
]
DataOption = Annotated[
    Path | None, typer.Option("--data", help="Folder that relative paths start from; by default the current one.")
]


def _add_job(command: str, kind: str, recipes: str, help_text: str) -> None:
    """Make the command of a kind of job; `recipes` is what its recipes are called."""

    def job(
        recipe: str,
        model: ModelOption = None,
        data: DataOption = None,
        workspace: WorkspaceOption = WORKSPACE,
        overrides: SetOption = None,
        as_json: JsonOption = False,
        verbose: VerboseOption = False,
    ) -> None:
        with errors(verbose):
            quieten_prefect(verbose)
            from flows.jobs import FLOWS, closing_lines, finished, make_job_plan, summary
            from flows.jobs_recipe import KINDS

            folder = None if data is None else str(data)
            plan = make_job_plan(KINDS[kind], recipe, str(workspace), overrides or [], model, folder)
            if not finished(plan):
                follow(lambda: FLOWS[kind](recipe, str(workspace), overrides, model, folder), quiet=as_json)
            if as_json:
                print_json(summary(plan))
            else:
                for line in closing_lines(plan):
                    say(escape(line))

    job.__annotations__["recipe"] = Annotated[str, typer.Argument(help=f"Name of {recipes} or path of its YAML file.")]
    app.command(command, help=help_text)(job)


_add_job(
    "finetune",
    "finetuning",
    "a recipe of fine-tuning (cola)",
    "Adapt a model to tasks, judge it, and register it as a model of its own.",
)
_add_job(
    "suite",
    "suites",
    "a suite of tasks (core)",
    "Judge a model by files of tasks; its scores stand beside those of other models (headrace scores).",
)
_add_job(
    "compress",
    "compression",
    "a recipe of compression (prune)",
    "Make a model smaller or faster (distil, prune, quantize), and register it as a model of its own.",
)


@app.command()
def scores(
    task: Annotated[str | None, typer.Argument(help="A task; by default all.")] = None,
    every_metric: Annotated[
        bool, typer.Option("--every-metric", help="Not only the metric that models are compared by.")
    ] = False,
    workspace: WorkspaceOption = WORKSPACE,
    as_json: JsonOption = False,
) -> None:
    """Show what the models of a workspace reached on tasks, side by side."""
    with errors():
        from flows.scores import print_scores, read_scores

        rows = read_scores(workspace, task, every_metric)
        if as_json:
            print_json(rows)
        else:
            print_scores(Console(), rows)
