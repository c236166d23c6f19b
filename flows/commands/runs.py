"""Commands that run a recipe or a part of it, and that tell beforehand what it takes."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any

import typer
from rich.console import Console

from flows.commands.base import (
    EXIT_USAGE,
    WORKSPACE,
    JsonOption,
    RecipeArgument,
    SetOption,
    VerboseOption,
    WorkspaceOption,
    app,
    errors,
    follow,
    print_json,
    quieten_prefect,
    say,
)


@app.command()
def run(
    recipe: RecipeArgument = "quickstart",
    workspace: WorkspaceOption = WORKSPACE,
    overrides: SetOption = None,
    as_json: JsonOption = False,
    verbose: VerboseOption = False,
) -> None:
    """Run a recipe from its sources to a registered model.

    What is done already is never done again: after a crash or a kill, start the same command again.
    """
    with errors(verbose):
        from flows.plan import make_plan
        from flows.tracking import registered, summary

        plan = make_plan(recipe, str(workspace), overrides or [])
        if not plan.missing and registered(plan) and plan.is_recorded_at_its_prices():
            if as_json:
                print_json({"state": "nothing to do", **summary(plan)})
            else:
                say(f"Nothing to do: recipe {plan.recipe.name!r} is finished in {workspace}.")
                _closing(plan)
            return
        plan.write_record(state="starting")  # a workspace that cannot be written is told before anything starts
        _run_flow("pretrain", recipe, workspace, overrides, verbose, quiet=as_json)
        if as_json:
            print_json({"state": "finished", **summary(plan)})
        else:
            _closing(plan)


@app.command()
def stage(
    name: Annotated[
        str, typer.Argument(help="ingest, deduplicate, filter, tokenizer, tokenize, train, evaluate or register.")
    ],
    recipe: RecipeArgument = "quickstart",
    workspace: WorkspaceOption = WORKSPACE,
    overrides: SetOption = None,
    as_json: JsonOption = False,
    verbose: VerboseOption = False,
) -> None:
    """Run one stage alone, on the committed output of the one before."""
    with errors(verbose):
        from flows.plan import make_plan

        plan = make_plan(recipe, str(workspace), overrides or [])
        plan.write_record(state="partial")
        _run_flow(name, recipe, workspace, overrides, verbose, quiet=as_json)
        if as_json:
            print_json({"stage": name, "missing": plan.missing})


@app.command()
def classifier(
    recipe: Annotated[str, typer.Argument(help="Name of a classifier recipe (quality) or path of its YAML file.")] = (
        "quality"
    ),
    workspace: WorkspaceOption = WORKSPACE,
    overrides: SetOption = None,
    as_json: JsonOption = False,
    verbose: VerboseOption = False,
) -> None:
    """Train a fastText classifier from positive and negative documents, and judge it on held-out ones."""
    with errors(verbose):
        quieten_prefect(verbose)
        from flows.classifier import closing_lines, make_classifier_plan, summary, tracked, train_classifier

        plan = make_classifier_plan(recipe, str(workspace), overrides or [])
        if plan.missing or not tracked(plan):
            follow(lambda: train_classifier(recipe, str(workspace), overrides), quiet=as_json)
        facts = summary(plan)
        if as_json:
            print_json(facts)
        else:
            for line in closing_lines(facts):
                say(line)


@app.command()
def plan(
    recipe: RecipeArgument = "quickstart",
    overrides: SetOption = None,
    device: Annotated[
        str | None, typer.Option(help="h200, h100, a100, l40s, l4, cpu or a GPU's name; by default this machine's.")
    ] = None,
    devices: Annotated[int | None, typer.Option(min=1, help="How many; by default the recipe's processes.")] = None,
    price: Annotated[float | None, typer.Option(min=0.0, help="Of a device in an hour, in any currency.")] = None,
    mfu: Annotated[
        float | None, typer.Option(min=0.01, max=1.0, help="Share of the peak arithmetic reached; by default 0.40.")
    ] = None,
    measure: Annotated[bool, typer.Option("--measure", help="Time a few real steps on this machine.")] = False,
    workspace: Annotated[
        Path | None, typer.Option("--workspace", "-w", help="Tell, too, what each stage that it lacks will take.")
    ] = None,
    corpus: Annotated[
        bool, typer.Option("--corpus", help="Plan a crawl of the internet's size instead; RECIPE: common-crawl, spot.")
    ] = False,
    snapshots: Annotated[int | None, typer.Option(min=1, help="With --corpus: deduplicated together.")] = None,
    calibrate: Annotated[
        bool, typer.Option("--calibrate", help="With --corpus: run the quickstart's corpus here first, and measure.")
    ] = False,
    sources: Annotated[bool, typer.Option("--sources", help="With --corpus: every number and its source.")] = False,
    as_json: JsonOption = False,
) -> None:
    """Tell what training will take (memory, time, energy, cost) before it starts; exit code 2 where it cannot fit."""
    with errors():
        if corpus:
            from flows.internet.command import plan_command

            fits = plan_command(recipe, overrides or [], snapshots, workspace, calibrate, sources, as_json)
            if not fits:
                raise typer.Exit(EXIT_USAGE)
            return
        from flows.planning import plan_costs, plan_recipe, print_plan

        planned = plan_recipe(recipe, overrides or [], device, devices, price, mfu, measure)
        where = None if workspace is None else str(workspace)
        costs = plan_costs(recipe, overrides or [], planned, price, where, measured=measure and device is None)
        if as_json:
            print_json(planned.to_dict() | costs.to_dict())
        else:
            print_plan(Console(), planned, costs)
        if not planned.fits:
            raise typer.Exit(EXIT_USAGE)


def _run_flow(name: str, recipe: str, workspace: Path, overrides: list[str] | None, verbose: bool, quiet: bool) -> None:
    quieten_prefect(verbose)
    from flows.pretrain import STAGE_FLOWS, pretrain

    if name != "pretrain" and name not in STAGE_FLOWS:
        raise ValueError(f"there is no stage {name!r}; there are {', '.join(STAGE_FLOWS)}")
    target: Any = pretrain if name == "pretrain" else STAGE_FLOWS[name]
    follow(lambda: target(recipe, str(workspace), overrides), quiet)


def _closing(plan: Any) -> None:
    from flows.tracking import closing_lines

    for line in closing_lines(plan):
        say(line)
