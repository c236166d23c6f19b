"""Commands that carry models out to other libraries and in from them."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from flows.commands.base import WORKSPACE, JsonOption, WorkspaceOption, app, errors, print_facts


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
    workspace: WorkspaceOption = WORKSPACE,
    as_json: JsonOption = False,
) -> None:
    """Write a trained model for others: as a folder of transformers, as GGUF or ONNX, with tokenizer and model card."""
    with errors():
        from flows.models import export_command, export_lines

        if len(model_and_folder) > 2:
            raise ValueError(f"expected [MODEL] FOLDER, got {len(model_and_folder)} arguments")
        model = model_and_folder[0] if len(model_and_folder) == 2 else None
        folder = Path(model_and_folder[-1])
        facts = export_command(model, folder, workspace, family, shard_gigabytes, format, numbers)
        print_facts(facts, export_lines, as_json)


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
    workspace: WorkspaceOption = WORKSPACE,
    as_json: JsonOption = False,
) -> None:
    """Bring in a local model of transformers or llama2.c as a checkpoint, to use, to judge and to train on from."""
    with errors():
        from flows.models import import_command, import_lines

        print_facts(import_command(source, name, workspace, tokenizer), import_lines, as_json)


@app.command()
def merge(
    model: Annotated[str, typer.Argument(help="models:/<name>@best or a checkpoint folder, with an adapter.")],
    folder: Annotated[Path, typer.Argument(help="The checkpoint to write; a new folder.")],
    workspace: WorkspaceOption = WORKSPACE,
    as_json: JsonOption = False,
) -> None:
    """Write a model whose adapter lies beside its weights (LoRA, AdaLoRA, BitFit) as one of plain weights."""
    with errors():
        from flows.models import merge_command, merge_lines

        print_facts(merge_command(model, folder, workspace), merge_lines, as_json)
