"""The command line `headrace`."""

from __future__ import annotations

import contextlib
import json
import os
import signal
import sys
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
def finetune(
    recipe: Annotated[str, typer.Argument(help="Name of a recipe of fine-tuning (cola) or path of its YAML file.")],
    model: ModelOption = None,
    data: DataOption = None,
    workspace: WorkspaceOption = _WORKSPACE,
    overrides: SetOption = None,
    as_json: JsonOption = False,
    verbose: VerboseOption = False,
) -> None:
    """Adapt a model to tasks, judge it, and register it as a model of its own."""
    _run_job("finetuning", recipe, model, data, workspace, overrides, as_json, verbose)


@app.command()
def suite(
    recipe: Annotated[str, typer.Argument(help="Name of a suite of tasks (core) or path of its YAML file.")],
    model: ModelOption = None,
    data: DataOption = None,
    workspace: WorkspaceOption = _WORKSPACE,
    overrides: SetOption = None,
    as_json: JsonOption = False,
    verbose: VerboseOption = False,
) -> None:
    """Judge a model by files of tasks; its scores stand beside those of other models (headrace scores)."""
    _run_job("suites", recipe, model, data, workspace, overrides, as_json, verbose)


@app.command()
def compress(
    recipe: Annotated[str, typer.Argument(help="Name of a recipe of compression (prune) or path of its YAML file.")],
    model: ModelOption = None,
    data: DataOption = None,
    workspace: WorkspaceOption = _WORKSPACE,
    overrides: SetOption = None,
    as_json: JsonOption = False,
    verbose: VerboseOption = False,
) -> None:
    """Make a model smaller or faster (distil, prune, quantize), and register it as a model of its own."""
    _run_job("compression", recipe, model, data, workspace, overrides, as_json, verbose)


@app.command()
def scores(
    task: Annotated[str | None, typer.Argument(help="A task; by default all.")] = None,
    every_metric: Annotated[
        bool, typer.Option("--every-metric", help="Not only the metric that models are compared by.")
    ] = False,
    workspace: WorkspaceOption = _WORKSPACE,
    as_json: JsonOption = False,
) -> None:
    """Show what the models of a workspace reached on tasks, side by side."""
    with _errors():
        from flows.scores import print_scores, read_scores

        rows = read_scores(workspace, task, every_metric)
        if as_json:
            _print_json(rows)
        else:
            print_scores(Console(), rows)


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


WritingModelOption = Annotated[
    str | None,
    typer.Option("--model", "-m", help="models:/<name>@best, or a checkpoint folder; by default the workspace's best."),
]
DraftOption = Annotated[
    str | None, typer.Option(help="A small model of the same vocabulary that proposes tokens (speculative decoding).")
]
TokensOption = Annotated[int, typer.Option(min=1, help="Tokens to generate at most.")]
TemperatureOption = Annotated[float, typer.Option(min=0.0, help="0 is greedy.")]
TopKOption = Annotated[int, typer.Option(min=0, help="0: no limit.")]
TopPOption = Annotated[float, typer.Option(min=0.0, max=1.0)]
MinPOption = Annotated[float, typer.Option(min=0.0, max=1.0)]
StopOption = Annotated[list[str] | None, typer.Option(help="End where this text begins; may repeat.")]
SeedOption = Annotated[int, typer.Option(min=0)]
RegexOption = Annotated[str | None, typer.Option(help="Write only what this regular expression matches as a whole.")]
SchemaOption = Annotated[Path | None, typer.Option(help="Write only JSON of the schema in this file.")]
DeviceOption = Annotated[str, typer.Option(help="cpu, cuda, cuda:1, ...; auto: a GPU where there is one.")]
SettingsOption = Annotated[
    list[str] | None,
    typer.Option("--set", help="A further setting of generation, e.g. repetition_penalty=1.2; may repeat."),
]


@app.command()
def generate(
    prompt: Annotated[str, typer.Argument(help="Text to go on from.")],
    model: WritingModelOption = None,
    workspace: WorkspaceOption = _WORKSPACE,
    tokens: TokensOption = 100,
    temperature: TemperatureOption = 0.8,
    top_k: TopKOption = 50,
    top_p: TopPOption = 1.0,
    min_p: MinPOption = 0.0,
    beams: Annotated[int, typer.Option(min=1, help="Above 1: beam search, which draws nothing.")] = 1,
    stop: StopOption = None,
    seed: SeedOption = 1,
    regex: RegexOption = None,
    json_schema: SchemaOption = None,
    draft: DraftOption = None,
    device: DeviceOption = "auto",
    overrides: SettingsOption = None,
    as_json: JsonOption = False,
) -> None:
    """Generate text with a trained model, streaming."""
    with _errors():
        from flows.serving import generate_command, printable, read_grammar, read_settings

        settings = read_settings(tokens, temperature, top_k, top_p, min_p, stop, seed, overrides, beams)
        begun = False

        def tell(piece: str) -> None:
            nonlocal begun
            if not as_json:
                typer.echo(printable(piece if begun else prompt + piece), nl=False)
            begun = True

        grammar = read_grammar(regex, json_schema)
        facts = generate_command(prompt, model, workspace, settings, draft, grammar, device, tell)
        if as_json:
            _print_json(facts)
        else:
            typer.echo()


@app.command()
def chat(
    model: WritingModelOption = None,
    workspace: WorkspaceOption = _WORKSPACE,
    system: Annotated[str | None, typer.Option(help="What the model is told before the dialogue.")] = None,
    tokens: TokensOption = 500,
    temperature: TemperatureOption = 0.8,
    top_k: TopKOption = 50,
    top_p: TopPOption = 1.0,
    min_p: MinPOption = 0.0,
    stop: StopOption = None,
    seed: SeedOption = 1,
    regex: RegexOption = None,
    json_schema: SchemaOption = None,
    draft: DraftOption = None,
    device: DeviceOption = "auto",
    overrides: SettingsOption = None,
    as_json: JsonOption = False,
) -> None:
    """Talk with a model: one line a question, from the terminal or a pipe; /clear begins anew, /quit ends."""
    with _errors():
        from flows.serving import chat_command, open_conversation, questions, read_grammar, read_settings

        settings = read_settings(tokens, temperature, top_k, top_p, min_p, stop, seed, overrides)
        grammar = read_grammar(regex, json_schema)
        conversation = open_conversation(model, workspace, settings, system, draft, grammar, device)
        errors = Console(stderr=True)
        chat_command(
            conversation,
            questions(sys.stdin),
            sys.stdout,
            lambda note: errors.print(f"[dim]{_escape(note)}[/]", highlight=False, soft_wrap=True),
            as_json,
        )


@app.command()
def serve(
    model: WritingModelOption = None,
    workspace: WorkspaceOption = _WORKSPACE,
    host: Annotated[str, typer.Option(help="Address to listen on; others than loopback open it to the network.")] = (
        "127.0.0.1"
    ),
    port: Annotated[int, typer.Option(min=0, max=65535, help="0: any that is free.")] = 8000,
    name: Annotated[str | None, typer.Option(help="What clients call the model; by default its own name.")] = None,
    draft: DraftOption = None,
    device: DeviceOption = "auto",
    slots: Annotated[int, typer.Option(min=1, help="Texts that are written at a time.")] = 4,
    queue: Annotated[int, typer.Option(min=0, help="Texts that may wait.")] = 64,
    queue_seconds: Annotated[float, typer.Option(min=0.001, help="How long a text may wait.")] = 60.0,
    request_seconds: Annotated[float, typer.Option(min=0.001, help="How long a text may be written.")] = 300.0,
    max_tokens: Annotated[int, typer.Option(min=1, help="Longest text, in tokens.")] = 4096,
) -> None:
    """Serve a model to OpenAI's clients: /v1/completions, /v1/chat/completions, /v1/models.

    Clients must bear the key in the environment variable HEADRACE_API_KEY, where that is set.
    """
    with _errors():
        from flows.serving import load_service, serve_command
        from training.serving import Limits

        limits = Limits(slots, queue, queue_seconds, request_seconds, max_tokens)
        serve_command(load_service(model, workspace, name, draft, device, limits), host, port, _say)


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
    format: Annotated[str, typer.Option(help="transformers, gguf (llama.cpp), or onnx (encoders).")] = "transformers",
    numbers: Annotated[
        str | None, typer.Option(help="gguf: numbers of the matrices: f32, f16, q8_0 or q4_0; by default f16.")
    ] = None,
    workspace: WorkspaceOption = _WORKSPACE,
    as_json: JsonOption = False,
) -> None:
    """Write a trained model for others: as a folder of transformers, as GGUF or ONNX, with tokenizer and model card."""
    with _errors():
        from flows.models import export_command, export_lines

        if len(model_and_folder) > 2:
            raise ValueError(f"expected [MODEL] FOLDER, got {len(model_and_folder)} arguments")
        model = model_and_folder[0] if len(model_and_folder) == 2 else None
        folder = Path(model_and_folder[-1])
        facts = export_command(model, folder, workspace, family, shard_gigabytes, format, numbers)
        _print_facts(facts, export_lines, as_json)


@app.command("import")
def import_(
    source: Annotated[
        Path,
        typer.Argument(
            metavar="FOLDER",
            help="Folder of a model of transformers or sentence-transformers, with safetensors; or a llama2.c .bin.",
        ),
    ],
    name: Annotated[str | None, typer.Option(help="Name in the workspace; by default the folder's.")] = None,
    tokenizer: Annotated[Path | None, typer.Option(help="The tokenizer's .bin, of a model of llama2.c.")] = None,
    workspace: WorkspaceOption = _WORKSPACE,
    as_json: JsonOption = False,
) -> None:
    """Bring in a local model of transformers or llama2.c as a checkpoint, to use, to judge and to train on from."""
    with _errors():
        from flows.models import import_command, import_lines

        _print_facts(import_command(source, name, workspace, tokenizer), import_lines, as_json)


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


def _run_job(
    kind: str,
    recipe: str,
    model: str | None,
    data: Path | None,
    workspace: Path,
    overrides: list[str] | None,
    as_json: bool,
    verbose: bool,
) -> None:
    """Run a job on a finished model, unless it is done, and tell what came of it."""
    with _errors(verbose):
        _quieten_prefect(verbose)
        from flows.jobs import FLOWS, closing_lines, finished, make_job_plan, summary
        from flows.jobs_recipe import KINDS

        folder = None if data is None else str(data)
        plan = make_job_plan(KINDS[kind], recipe, str(workspace), overrides or [], model, folder)
        if not finished(plan):
            _follow(lambda: FLOWS[kind](recipe, str(workspace), overrides, model, folder), quiet=as_json)
        if as_json:
            _print_json(summary(plan))
        else:
            for line in closing_lines(plan):
                _say(_escape(line))


def _quieten_prefect(verbose: bool) -> None:
    # Prefect reads these when it is imported. Its console log is replaced by our progress; its API log stays.
    os.environ.setdefault("PREFECT_LOGGING_HANDLERS_CONSOLE_LEVEL", "INFO" if verbose else "CRITICAL")
    os.environ.setdefault("PREFECT_LOGGING_SERVER_LEVEL", "CRITICAL")


def _follow(run_flow: Callable[[], Any], quiet: bool) -> None:
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
    _fail("terminated; what is finished is kept, start the same command again to go on", EXIT_TERMINATED)


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
