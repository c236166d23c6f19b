"""The command line `headrace`."""

from __future__ import annotations

import contextlib
import json
import os
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Annotated, Any

import typer
from rich.console import Console
from rich.table import Table

EXIT_FAILED, EXIT_USAGE, EXIT_TRACKING, EXIT_INTERRUPTED = 1, 2, 3, 130

app = typer.Typer(
    name="headrace",
    help="From open text to a trained, explained language model.",
    epilog="Exit codes: 0 done, 1 the run failed, 2 wrong usage or recipe, 3 done but MLflow could not be reached "
    "(start the same command again to send what was kept), 130 interrupted.",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
    rich_markup_mode="rich",
)

RecipeArgument = Annotated[str, typer.Argument(help="Name of a recipe (quickstart) or path of its YAML file.")]
WorkspaceOption = Annotated[Path, typer.Option("--workspace", "-w", help="Folder that holds all that a run makes.")]
SetOption = Annotated[
    list[str] | None, typer.Option("--set", help="Override a setting, e.g. train.training.steps=100; may repeat.")
]
JsonOption = Annotated[bool, typer.Option("--json", help="Print JSON for programs.")]
VerboseOption = Annotated[bool, typer.Option("--verbose", "-v", help="Show Prefect's own log and full tracebacks.")]

_WORKSPACE = Path("workspace")


@app.command()
def run(
    recipe: RecipeArgument = "quickstart",
    workspace: WorkspaceOption = _WORKSPACE,
    overrides: SetOption = None,
    as_json: JsonOption = False,
    verbose: VerboseOption = False,
) -> None:
    """Run a recipe from its sources to a registered model.

    What is done already is never done again: after a crash or a kill, start the same command again.
    """
    with _errors(verbose):
        from flows.plan import make_plan
        from flows.tracking import registered, summary

        plan = make_plan(recipe, str(workspace), overrides or [])
        if not plan.missing and registered(plan):
            if as_json:
                _print_json({"state": "nothing to do", **summary(plan)})
            else:
                _say(f"Nothing to do: recipe {plan.recipe.name!r} is finished in {workspace}.")
                _closing(plan)
            return
        plan.write_record(state="starting")  # a workspace that cannot be written is told before anything starts
        _run_flow("pretrain", recipe, workspace, overrides, verbose, quiet=as_json)
        if as_json:
            _print_json({"state": "finished", **summary(plan)})
        else:
            _closing(plan)


@app.command()
def stage(
    name: Annotated[
        str, typer.Argument(help="ingest, deduplicate, filter, tokenizer, tokenize, train, evaluate or register.")
    ],
    recipe: RecipeArgument = "quickstart",
    workspace: WorkspaceOption = _WORKSPACE,
    overrides: SetOption = None,
    as_json: JsonOption = False,
    verbose: VerboseOption = False,
) -> None:
    """Run one stage alone, on the committed output of the one before."""
    with _errors(verbose):
        from flows.plan import make_plan

        plan = make_plan(recipe, str(workspace), overrides or [])
        plan.write_record(state="partial")
        _run_flow(name, recipe, workspace, overrides, verbose, quiet=as_json)
        if as_json:
            _print_json({"stage": name, "missing": plan.missing})


@app.command()
def classifier(
    recipe: Annotated[str, typer.Argument(help="Name of a classifier recipe (quality) or path of its YAML file.")] = (
        "quality"
    ),
    workspace: WorkspaceOption = _WORKSPACE,
    overrides: SetOption = None,
    as_json: JsonOption = False,
    verbose: VerboseOption = False,
) -> None:
    """Train a fastText classifier from positive and negative documents, and judge it on held-out ones."""
    with _errors(verbose):
        _quieten_prefect(verbose)
        from flows.classifier import closing_lines, make_classifier_plan, summary, tracked, train_classifier

        plan = make_classifier_plan(recipe, str(workspace), overrides or [])
        if plan.missing or not tracked(plan):
            _follow(lambda: train_classifier(recipe, str(workspace), overrides), quiet=as_json)
        facts = summary(plan)
        if as_json:
            _print_json(facts)
        else:
            for line in closing_lines(facts):
                _say(line)


@app.command()
def funnel(workspace: WorkspaceOption = _WORKSPACE, as_json: JsonOption = False) -> None:
    """Show where documents went: in, kept and dropped at every stage, and which rule removed them."""
    with _errors():
        from pipeline.catalog import query as run_query

        stages = run_query(workspace, "SELECT * FROM funnel").to_pylist()
        rules = run_query(workspace, "SELECT * FROM rules").to_pylist()
        if as_json:
            _print_json({"stages": stages, "rules": rules})
            return
        _print_rows(stages, "Documents by stage")
        _print_rows(rules, "What each rule did, by source")


@app.command()
def simulate(
    recipe: Annotated[
        str | None, typer.Argument(help="Name or YAML file of a recipe; by default that of the workspace's newest run.")
    ] = None,
    workspace: WorkspaceOption = _WORKSPACE,
    overrides: Annotated[
        list[str] | None,
        typer.Option("--set", help="The change, e.g. filter.gopher_quality.minimum_words=100; may repeat."),
    ] = None,
    examples: Annotated[int, typer.Option(min=0, help="Documents to show on each side.")] = 5,
    as_json: JsonOption = False,
) -> None:
    """Show what changed thresholds would keep and drop, from the signals of a run; nothing is written."""
    with _errors():
        from flows.simulation import print_simulation, simulate_recipe

        if not overrides:
            raise ValueError("say what changes, such as --set filter.gopher_quality.minimum_words=100")
        outcome = simulate_recipe(recipe, str(workspace), overrides, examples)
        if as_json:
            _print_json(outcome.as_json())
        else:
            print_simulation(Console(), outcome, workspace)


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
    as_json: JsonOption = False,
) -> None:
    """Tell what training will take (memory, time, cost) before it starts; exit code 2 where it cannot fit."""
    with _errors():
        from flows.planning import plan_recipe, print_plan

        planned = plan_recipe(recipe, overrides or [], device, devices, price, mfu, measure)
        if as_json:
            _print_json(planned.to_dict())
        else:
            print_plan(Console(), planned)
        if not planned.fits:
            raise typer.Exit(EXIT_USAGE)


@app.command()
def query(
    sql: Annotated[str, typer.Argument(help='SQL over the views of corpus.duckdb, e.g. "FROM languages".')],
    workspace: WorkspaceOption = _WORKSPACE,
    as_json: JsonOption = False,
) -> None:
    """Ask DuckDB about the corpus (views: documents, ledger, funnel, rules, languages, duplicates, tokens, ...)."""
    with _errors():
        from pipeline.catalog import query as run_query

        rows = run_query(workspace, sql).to_pylist()
        if as_json:
            _print_json(rows)
        else:
            _print_rows(rows)


@app.command()
def explain(
    key: Annotated[str, typer.Argument(help="Document id (or its beginning), URL or locator.")],
    workspace: WorkspaceOption = _WORKSPACE,
    as_json: JsonOption = False,
) -> None:
    """Tell everything about one document: each decision with value and threshold, its twin, its tokens."""
    with _errors():
        from flows.explanation import print_explanation
        from pipeline.catalog import explain as explain_document

        facts = explain_document(workspace, key)
        if as_json:
            _print_json(facts)
        else:
            print_explanation(Console(), facts)


@app.command()
def generate(
    prompt: Annotated[str, typer.Argument(help="Text to go on from.")],
    model: Annotated[
        str | None, typer.Option(help="models:/<name>@best, or a checkpoint folder; by default the workspace's best.")
    ] = None,
    workspace: WorkspaceOption = _WORKSPACE,
    tokens: Annotated[int, typer.Option(min=1, help="Tokens to generate at most.")] = 100,
    temperature: Annotated[float, typer.Option(min=0.0, help="0 is greedy.")] = 0.8,
    top_k: Annotated[int, typer.Option(min=0, help="0: no limit.")] = 50,
    top_p: Annotated[float, typer.Option(min=0.0, max=1.0)] = 1.0,
    seed: Annotated[int, typer.Option(min=0)] = 1,
    as_json: JsonOption = False,
) -> None:
    """Generate text with a trained model, streaming."""
    with _errors():
        from flows.tracking import find_checkpoint
        from training.generation import Generator, SamplingConfig

        folder = find_checkpoint(model, str(workspace))
        settings = SamplingConfig(max_new_tokens=tokens, temperature=temperature, top_k=top_k, top_p=top_p, seed=seed)
        generator = Generator.load(folder)
        pieces = []
        for piece in generator.stream(prompt, settings):
            pieces.append(piece)
            if not as_json:
                if len(pieces) == 1:
                    typer.echo(prompt, nl=False)
                typer.echo(piece, nl=False)
        if as_json:
            _print_json({"model": str(folder), "prompt": prompt, "continuation": "".join(pieces)})
        else:
            typer.echo()


@app.command()
def export(
    model_and_folder: Annotated[
        list[str],
        typer.Argument(
            metavar="[MODEL] FOLDER",
            help="models:/<name>@best or a checkpoint folder (default: the workspace's best), and the folder to write.",
        ),
    ],
    family: Annotated[
        str | None,
        typer.Option(help="gpt2, llama, qwen3, bert, roberta, ... ; by default the first that can hold the model."),
    ] = None,
    shard_gigabytes: Annotated[float, typer.Option(min=0.001, help="Largest file of weights, in GB.")] = 5.0,
    workspace: WorkspaceOption = _WORKSPACE,
    as_json: JsonOption = False,
) -> None:
    """Write a trained model as a folder of Hugging Face's transformers: config, safetensors, tokenizer."""
    with _errors():
        from flows.models import export_command, export_lines

        if len(model_and_folder) > 2:
            raise ValueError(f"expected [MODEL] FOLDER, got {len(model_and_folder)} arguments")
        model = model_and_folder[0] if len(model_and_folder) == 2 else None
        facts = export_command(model, Path(model_and_folder[-1]), workspace, family, shard_gigabytes)
        _print_facts(facts, export_lines, as_json)


@app.command("import")
def import_(
    folder: Annotated[Path, typer.Argument(help="Folder of a model of transformers, with safetensors.")],
    name: Annotated[str | None, typer.Option(help="Name in the workspace; by default the folder's.")] = None,
    workspace: WorkspaceOption = _WORKSPACE,
    as_json: JsonOption = False,
) -> None:
    """Bring in a local model of Hugging Face's transformers as a checkpoint, to use, to judge and to train on from."""
    with _errors():
        from flows.models import import_command, import_lines

        _print_facts(import_command(folder, name, workspace), import_lines, as_json)


@app.command()
def doctor(
    workspace: WorkspaceOption = _WORKSPACE,
    verify: Annotated[bool, typer.Option(help="Read every stored file and compare its digest.")] = False,
    as_json: JsonOption = False,
) -> None:
    """Check versions, GPU, memory, disk, servers, the quickstart corpus and the workspace."""
    from flows.doctor import examine

    checks = examine(workspace, verify)
    if as_json:
        _print_json([check.__dict__ for check in checks])
    else:
        table = Table(box=None, show_header=False)
        for check in checks:
            mark = {"ok": "[green]✓[/]", "note": "[yellow]·[/]", "problem": "[red]✗[/]"}[check.state]
            table.add_row(mark, check.name, check.finding)
        Console().print(table)
    if any(check.state == "problem" for check in checks):
        raise typer.Exit(EXIT_FAILED)


def _run_flow(name: str, recipe: str, workspace: Path, overrides: list[str] | None, verbose: bool, quiet: bool) -> None:
    _quieten_prefect(verbose)
    from flows.pretrain import STAGE_FLOWS, pretrain

    if name != "pretrain" and name not in STAGE_FLOWS:
        raise ValueError(f"there is no stage {name!r}; there are {', '.join(STAGE_FLOWS)}")
    target: Any = pretrain if name == "pretrain" else STAGE_FLOWS[name]
    _follow(lambda: target(recipe, str(workspace), overrides), quiet)


def _quieten_prefect(verbose: bool) -> None:
    # Prefect reads these when it is imported. Its console log is replaced by our progress; its API log stays.
    os.environ.setdefault("PREFECT_LOGGING_HANDLERS_CONSOLE_LEVEL", "INFO" if verbose else "CRITICAL")
    os.environ.setdefault("PREFECT_LOGGING_SERVER_LEVEL", "CRITICAL")


def _follow(run_flow: Callable[[], Any], quiet: bool) -> None:
    """Run a flow with its progress in the terminal."""
    from flows.progress import listening
    from flows.terminal import TerminalProgress
    from pipeline.execution import shut_down_pools

    try:
        with TerminalProgress(Console(stderr=quiet)) as progress, listening(progress):
            run_flow()
    finally:
        shut_down_pools()


def _closing(plan: Any) -> None:
    from flows.tracking import closing_lines

    for line in closing_lines(plan):
        _say(line)


def _print_facts(facts: dict[str, Any], lines: Callable[[dict[str, Any]], list[str]], as_json: bool) -> None:
    if as_json:
        _print_json(facts)
    else:
        for line in lines(facts):
            _say(_escape(line))


def _say(line: str) -> None:
    Console().print(line, highlight=False, soft_wrap=True)


def _print_json(value: Any) -> None:
    typer.echo(json.dumps(value, ensure_ascii=False, indent=1, default=str))


def _print_rows(rows: list[dict[str, Any]], title: str | None = None) -> None:
    if not rows:
        _say("no rows" if title is None else f"{title}: no rows")
        return
    table = Table(title=title, title_justify="left", header_style="bold")
    for name, value in rows[0].items():
        numeric = isinstance(value, int | float) and not isinstance(value, bool)
        table.add_column(name, justify="right" if numeric else "left", overflow="fold")
    for row in rows:
        table.add_row(*(_cell(value) for value in row.values()))
    Console().print(table)


def _cell(value: Any) -> str:
    from rich.markup import escape

    if value is None:
        return ""
    if isinstance(value, float):
        return f"{value:,.4g}" if abs(value) < 1000 else f"{value:,.0f}"
    if isinstance(value, int) and not isinstance(value, bool):
        return f"{value:,}"
    text = str(value)
    return escape(text if len(text) <= 400 else text[:400] + "…")


@contextlib.contextmanager
def _errors(verbose: bool = False) -> Iterator[None]:
    """Turn the errors that users can mend into one message and an exit code."""
    try:
        yield
    except (typer.Exit, typer.Abort):
        raise
    except KeyboardInterrupt:
        _fail("interrupted; what is finished is kept, start the same command again to go on", EXIT_INTERRUPTED)
    except Exception as error:
        if verbose:
            raise
        kind = type(error).__name__
        if kind == "TrackingPending":
            _fail(str(error), EXIT_TRACKING)
        usage = isinstance(error, ValueError) or kind in ("NotCommitted", "FileNotFoundError")
        known = kind in ("StageError", "StoreError", "ProcessFailed", "WorkerDied") or usage
        _fail(str(error) if known else f"{kind}: {error}", EXIT_USAGE if usage else EXIT_FAILED)


def _fail(message: str, code: int) -> None:
    Console(stderr=True).print(f"[red]headrace:[/] {_escape(message)}", highlight=False, soft_wrap=True)
    raise typer.Exit(code)


def _escape(text: str) -> str:
    from rich.markup import escape

    return escape(text)


def main() -> None:
    """Entry point of the console script."""
    sys.exit(app())


if __name__ == "__main__":
    main()
