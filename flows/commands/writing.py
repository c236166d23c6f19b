"""Commands with which a model writes: once, in a dialogue, or for clients over HTTP."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Annotated

import typer
from rich.console import Console

from flows.commands.base import WORKSPACE, JsonOption, WorkspaceOption, app, errors, escape, print_json, say

WritingModelOption = Annotated[
    str | None,
    typer.Option(
        "--model",
        "-m",
        help="models:/<name>@best, a checkpoint folder or a folder of transformers; by default the workspace's best.",
    ),
]
DraftOption = Annotated[
    str | None, typer.Option(help="A small model of the same vocabulary that proposes tokens (speculative decoding).")
]
ServedDraftOption = Annotated[
    str | None,
    typer.Option(
        help="A small model of the same vocabulary that proposes tokens. Good for one client: with it the texts are "
        "written in turn, each by passes of its own, and not all in one pass."
    ),
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
    workspace: WorkspaceOption = WORKSPACE,
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
    with errors():
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
            print_json(facts)
        else:
            typer.echo()


@app.command()
def chat(
    model: WritingModelOption = None,
    workspace: WorkspaceOption = WORKSPACE,
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
    with errors():
        from flows.serving import chat_command, open_conversation, questions, read_grammar, read_settings

        settings = read_settings(tokens, temperature, top_k, top_p, min_p, stop, seed, overrides)
        grammar = read_grammar(regex, json_schema)
        conversation = open_conversation(model, workspace, settings, system, draft, grammar, device)
        notes = Console(stderr=True)
        chat_command(
            conversation,
            questions(sys.stdin),
            sys.stdout,
            lambda note: notes.print(f"[dim]{escape(note)}[/]", highlight=False, soft_wrap=True),
            as_json,
        )


@app.command()
def serve(
    model: WritingModelOption = None,
    workspace: WorkspaceOption = WORKSPACE,
    host: Annotated[str, typer.Option(help="Address to listen on; others than loopback open it to the network.")] = (
        "127.0.0.1"
    ),
    port: Annotated[int, typer.Option(min=0, max=65535, help="0: any that is free.")] = 8000,
    name: Annotated[str | None, typer.Option(help="What clients call the model; by default its own name.")] = None,
    draft: ServedDraftOption = None,
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
    with errors():
        from flows.serving import load_service, serve_command
        from training.serving import Limits

        limits = Limits(slots, queue, queue_seconds, request_seconds, max_tokens)
        serve_command(load_service(model, workspace, name, draft, device, limits), host, port, say)
