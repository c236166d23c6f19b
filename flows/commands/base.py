"""What all commands share: the application, its common options, how they run flows, print and fail."""

from __future__ import annotations

import contextlib
import json
import os
import signal
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Annotated, Any

import typer
from rich.console import Console
from rich.table import Table

EXIT_FAILED, EXIT_USAGE, EXIT_TRACKING, EXIT_INTERRUPTED, EXIT_TERMINATED = 1, 2, 3, 130, 143

app = typer.Typer(
    name="headrace",
    help="From open text to a trained, explained language model.",
    epilog="Exit codes: 0 done, 1 the run failed, 2 wrong usage or recipe, 3 done but MLflow could not be reached "
    "(start the same command again to send what was kept), 130 interrupted, 143 terminated.",
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

WORKSPACE = Path("workspace")


@contextlib.contextmanager
def errors(verbose: bool = False) -> Iterator[None]:
    """Turn the errors that users can mend into one message and an exit code."""
    try:
        yield
    except (typer.Exit, typer.Abort):
        raise
    except KeyboardInterrupt:
        fail("interrupted; what is finished is kept, start the same command again to go on", EXIT_INTERRUPTED)
    except Exception as error:
        if verbose:
            raise
        kind = type(error).__name__
        if kind == "TrackingPending":
            fail(str(error), EXIT_TRACKING)
        usage = isinstance(error, ValueError) or kind in ("NotCommitted", "FileNotFoundError")
        known = kind in ("StageError", "StoreError", "ProcessFailed", "WorkerDied") or usage
        fail(str(error) if known else f"{kind}: {error}", EXIT_USAGE if usage else EXIT_FAILED)


def fail(message: str, code: int) -> None:
    """Say on standard error what is wrong, and end with an exit code."""
    Console(stderr=True).print(f"[red]headrace:[/] {escape(message)}", highlight=False, soft_wrap=True)
    raise typer.Exit(code)


def quieten_prefect(verbose: bool) -> None:
    """Keep Prefect's log from the terminal; before Prefect is imported."""
    # Prefect reads these when it is imported. Its console log is replaced by our progress; its API log stays.
    os.environ.setdefault("PREFECT_LOGGING_HANDLERS_CONSOLE_LEVEL", "INFO" if verbose else "CRITICAL")
    os.environ.setdefault("PREFECT_LOGGING_SERVER_LEVEL", "CRITICAL")


def follow(run_flow: Callable[[], Any], quiet: bool) -> None:
    """Run a flow with its progress in the terminal."""
    from flows.progress import listening
    from flows.terminal import TerminalProgress
    from pipeline.execution import shut_down_pools

    # Prefect answers SIGTERM first, ends the flow, and then sends it again to whoever answered it before.
    signal.signal(signal.SIGTERM, _terminated)
    try:
        with TerminalProgress(Console(stderr=quiet)) as progress, listening(progress):
            run_flow()
    finally:
        shut_down_pools()


def _terminated(number: int, frame: Any) -> None:
    fail("terminated; what is finished is kept, start the same command again to go on", EXIT_TERMINATED)


def say(line: str) -> None:
    """Print a line of rich markup."""
    Console().print(line, highlight=False, soft_wrap=True)


def print_json(value: Any) -> None:
    """Print a value for programs."""
    typer.echo(json.dumps(value, ensure_ascii=False, indent=1, default=str))


def print_facts(facts: dict[str, Any], lines: Callable[[dict[str, Any]], list[str]], as_json: bool) -> None:
    """Print facts for programs, or the lines that they make for people."""
    if as_json:
        print_json(facts)
    else:
        for line in lines(facts):
            say(escape(line))


def print_rows(rows: list[dict[str, Any]], title: str | None = None) -> None:
    """Print rows as a table."""
    if not rows:
        say("no rows" if title is None else f"{title}: no rows")
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


def escape(text: str) -> str:
    """Text with what rich would take for markup escaped."""
    from rich.markup import escape

    return escape(text)
