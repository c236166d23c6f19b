"""Commands that train many models to learn from all of them together: one for each kind of study."""

from __future__ import annotations

from typing import Annotated, Any

import typer

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


def _add_study(kind: str, help_text: str) -> None:
    """Make the command of a kind of study."""

    def study(
        recipe: str,
        workspace: WorkspaceOption = WORKSPACE,
        overrides: SetOption = None,
        as_json: JsonOption = False,
        verbose: VerboseOption = False,
    ) -> None:
        with errors(verbose):
            quieten_prefect(verbose)
            from flows.studies.command import closing_lines, study_flow, summary

            found: dict[str, Any] = {}
            follow(lambda: found.update(study_flow(kind)(recipe, str(workspace), overrides)), quiet=as_json)
            facts = summary(workspace, kind, found["fingerprint"])
            if as_json:
                print_json(facts)
            else:
                for line in closing_lines(facts):
                    say(escape(line))

    help_of_recipe = f"Name of a recipe of flows/recipes/{kind} or path of its YAML file."
    study.__annotations__["recipe"] = Annotated[str, typer.Argument(help=help_of_recipe)]
    app.command(kind, help=f"{help_text} What is trained already is never trained again.")(study)


_add_study(
    "scaling",
    "Train a ladder of sizes, fit scaling laws to it, and forecast the loss of a larger run.",
)
_add_study(
    "transfer",
    "Sweep the learning rate at several widths or depths: is the best rate of a small model that of a large one?",
)
_add_study(
    "ablation",
    "Train the same model on variants of the corpus, and say which decisions earned their place.",
)
_add_study(
    "search",
    "Search for the best settings within a budget.",
)
