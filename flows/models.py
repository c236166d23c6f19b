"""Models out to the formats that others read, and in from where others wrote them."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

IMPORTED = "imported"
"""Folder of a workspace for models from elsewhere: one folder a model, with a checkpoint in it."""
FORMATS = ("transformers", "gguf", "onnx")


def export_command(
    model: str | None,
    folder: Path,
    workspace: Path,
    family: str | None,
    shard_gigabytes: float,
    format: str = "transformers",
    numbers: str | None = None,
) -> dict[str, Any]:
    """Write a model (`models:/...`, a checkpoint folder, by default the workspace's best) as a folder of a format.

    Returns what was written. Raises ValueError for a model that the format cannot hold, naming every setting that
    stands in the way, for a folder that is not empty, and for an option of another format.
    """
    from flows.evidence import evidence_of
    from flows.tracking import find_checkpoint
    from training.models.gguf import export_gguf
    from training.models.huggingface import export
    from training.models.onnx import export_onnx

    if format not in FORMATS:
        raise ValueError(f"--format {format!r}: must be {', '.join(FORMATS)}")
    if numbers is not None and format != "gguf":
        raise ValueError(f"--numbers belongs to --format gguf; {format} is written in float32")
    checkpoint = find_checkpoint(model, str(workspace))
    evidence = evidence_of(model, checkpoint, workspace)
    if format == "gguf":
        written = export_gguf(checkpoint, folder, numbers or "f16", family, evidence)
    elif format == "onnx":
        written = export_onnx(checkpoint, folder, family, evidence)
    else:
        written = export(checkpoint, folder, family, int(shard_gigabytes * 1e9), evidence)
    files = sorted(path for path in folder.rglob("*") if path.is_file())
    facts = {
        "checkpoint": str(checkpoint),
        "format": format,
        "folder": str(folder),
        "files": {str(path.relative_to(folder)): path.stat().st_size for path in files},
    }
    return facts | (_loading(folder) if format == "transformers" else {"model": str(written)})


def _loading(folder: Path) -> dict[str, Any]:
    """Which classes of transformers an export is for."""
    from training.models.huggingface import auto_class

    architecture = json.loads((folder / "config.json").read_text(encoding="utf-8"))["architectures"][0]
    return {"architecture": architecture, "auto_class": auto_class(architecture)}


def import_command(source: Path, name: str | None, workspace: Path, tokenizer: Path | None = None) -> dict[str, Any]:
    """Write a local model as a checkpoint under `workspace`/imported/`name`: a folder of transformers or of
    sentence-transformers, or a .bin of llama2.c with its `tokenizer`.

    `name` is by default the folder's or the file's. Returns what was written. Raises ValueError for a model that
    Headrace has not, for damaged files, and for a name that is taken.
    """
    from training.checkpoints import describe
    from training.models.huggingface import import_model
    from training.models.llama2c import import_llama2c

    name = name or (source.stem if source.is_file() else source.resolve().name)
    if not name or Path(name).name != name:
        raise ValueError(f"--name {name!r}: must be the name of a folder, without a path")
    if source.is_file():
        checkpoint = import_llama2c(source, workspace / IMPORTED / name, tokenizer)
    elif tokenizer is not None:
        raise ValueError("--tokenizer belongs to a .bin of llama2.c; a folder holds its own")
    else:
        checkpoint = import_model(source, workspace / IMPORTED / name)
    facts = describe(checkpoint)
    return {
        "folder": str(source),
        "checkpoint": str(checkpoint),
        "architecture": facts["imported"]["architecture"],
        "writes_text": _writes_text(facts["model"]),
        "untrained": facts["imported"].get("untrained", []),
        "vocabulary_size": facts["vocabulary_size"],
        "tokenizer": (checkpoint / "tokenizer.json").is_file(),
        "end_of_text": facts.get("end_of_text"),
        "pooling": facts.get("pooling"),
    }


def merge_command(model: str, folder: Path, workspace: Path) -> dict[str, Any]:
    """Write a model whose adapter lies beside its weights as a checkpoint of plain weights.

    Returns what was written. Raises ValueError for a model without an adapter, for a method that has no such weights,
    and for a folder that is not empty.
    """
    from flows.tracking import find_checkpoint
    from training.adapters.merging import merge_checkpoint
    from training.checkpoints import describe

    checkpoint = find_checkpoint(model, str(workspace))
    merged = merge_checkpoint(checkpoint, folder)
    files = sorted(path for path in merged.iterdir() if path.is_file())
    return {
        "checkpoint": str(checkpoint),
        "folder": str(merged),
        "method": describe(merged)["merged"]["method"],
        "files": {path.name: path.stat().st_size for path in files},
    }


def merge_lines(facts: dict[str, Any]) -> list[str]:
    """What a person wants to read after a merge."""
    total = sum(facts["files"].values())
    return [f"{facts['checkpoint']} ({facts['method']}) -> {facts['folder']} ({total / 1e6:,.1f} MB of plain weights)"]


def export_lines(facts: dict[str, Any]) -> list[str]:
    """What a person wants to read after an export."""
    total = sum(facts["files"].values())
    lines = [f"{facts['checkpoint']} -> {facts['folder']} ({total / 1e6:,.1f} MB)"]
    if facts["format"] == "gguf":
        return [*lines, f"  llama-cli -m {facts['model']} -p 'The river'"]
    if "tokenizer.json" not in facts["files"]:
        lines.append("  without a tokenizer: the checkpoint has none")
    if facts["format"] == "onnx":
        return [*lines, f"  load it with onnxruntime: InferenceSession({facts['model']!r})"]
    return [*lines, f"  load it with transformers: {facts['auto_class']}.from_pretrained({facts['folder']!r})"]


def import_lines(facts: dict[str, Any]) -> list[str]:
    """What a person wants to read after an import."""
    lines = [f"{facts['folder']} ({facts['architecture']}) -> {facts['checkpoint']}"]
    if facts["pooling"]:
        lines.append(f"  a sentence encoder: the vector of a text is {facts['pooling']['mode']} of its tokens")
    elif facts["untrained"]:
        lines.append(f"  the files have no head: newly drawn are {', '.join(facts['untrained'])}")
    if not facts["tokenizer"]:
        return [*lines, "  without a tokenizer: the folder has no tokenizer.json, so the model cannot read text"]
    if not facts["writes_text"]:
        return [*lines, "  it does not go on with a text, so it is nothing for `headrace generate`"]
    return [*lines, f"  headrace generate 'The river' --model {facts['checkpoint']}"]


def _writes_text(model: dict[str, Any]) -> bool:
    """Whether a model, by its config, can go on with a text."""
    causal = model.get("attention", "causal") == "causal"
    return causal and model.get("architecture", "transformer") == "transformer"
