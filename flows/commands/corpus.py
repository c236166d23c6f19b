"""Commands that ask about the corpus, and about the machine and the workspace that it lies in."""

from __future__ import annotations

from typing import Annotated

import typer
from rich.console import Console
from rich.table import Table

from flows.commands.base import (
    EXIT_FAILED,
    WORKSPACE,
    JsonOption,
    WorkspaceOption,
    app,
    errors,
    print_json,
    print_rows,
)


@app.command()
def funnel(workspace: WorkspaceOption = WORKSPACE, as_json: JsonOption = False) -> None:
    """Show where documents went: in, kept and dropped at every stage, and which rule removed them."""
    with errors():
        from pipeline.catalog import query as run_query

        stages = run_query(workspace, "SELECT * FROM funnel").to_pylist()
        rules = run_query(workspace, "SELECT * FROM rules").to_pylist()
        if as_json:
            print_json({"stages": stages, "rules": rules})
            return
        print_rows(stages, "Documents by stage")
        print_rows(rules, "What each rule did, by source")


@app.command()
def simulate(
    recipe: Annotated[
        str | None, typer.Argument(help="Name or YAML file of a recipe; by default that of the workspace's newest run.")
    ] = None,
    workspace: WorkspaceOption = WORKSPACE,
    overrides: Annotated[
        list[str] | None,
        typer.Option("--set", help="The change, e.g. filter.gopher_quality.minimum_words=100; may repeat."),
    ] = None,
    examples: Annotated[int, typer.Option(min=0, help="Documents to show on each side.")] = 5,
    as_json: JsonOption = False,
) -> None:
    """Show what changed thresholds would keep and drop, from the signals of a run; nothing is written."""
    with errors():
        from flows.simulation import print_simulation, simulate_recipe

        if not overrides:
            raise ValueError("say what changes, such as --set filter.gopher_quality.minimum_words=100")
        outcome = simulate_recipe(recipe, str(workspace), overrides, examples)
        if as_json:
            print_json(outcome.as_json())
        else:
            print_simulation(Console(), outcome, workspace)


@app.command()
def query(
    sql: Annotated[str, typer.Argument(help='SQL over the views of corpus.duckdb, e.g. "FROM languages".')],
    workspace: WorkspaceOption = WORKSPACE,
    as_json: JsonOption = False,
) -> None:
    """Ask DuckDB about the corpus (views: documents, ledger, funnel, rules, languages, duplicates, tokens, ...)."""
    with errors():
        from pipeline.catalog import query as run_query

        rows = run_query(workspace, sql).to_pylist()
        if as_json:
            print_json(rows)
        else:
            print_rows(rows)


@app.command()
def explain(
    key: Annotated[str, typer.Argument(help="Document id (or its beginning), URL or locator.")],
    workspace: WorkspaceOption = WORKSPACE,
    as_json: JsonOption = False,
) -> None:
    """Tell everything about one document: each decision with value and threshold, its twin, its tokens."""
    with errors():
        from flows.explanation import print_explanation
        from pipeline.catalog import explain as explain_document

        facts = explain_document(workspace, key)
        if as_json:
            print_json(facts)
        else:
            print_explanation(Console(), facts)


@app.command()
def doctor(
    workspace: WorkspaceOption = WORKSPACE,
    verify: Annotated[bool, typer.Option(help="Read every stored file and compare its digest.")] = False,
    as_json: JsonOption = False,
) -> None:
    """Check versions, GPU, memory, disk, servers, the quickstart corpus and the workspace."""
    from flows.doctor import examine

    checks = examine(workspace, verify)
    if as_json:
        print_json([check.__dict__ for check in checks])
    else:
        table = Table(box=None, show_header=False)
        for check in checks:
            mark = {"ok": "[green]✓[/]", "note": "[yellow]·[/]", "problem": "[red]✗[/]"}[check.state]
            table.add_row(mark, check.name, check.finding)
        Console().print(table)
    if any(check.state == "problem" for check in checks):
        raise typer.Exit(EXIT_FAILED)
