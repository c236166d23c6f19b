"""Models out to the folders of Hugging Face's transformers, and in from there."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

IMPORTED = "imported"
"""Folder of a workspace for models from elsewhere: one folder a model, with a checkpoint in it."""


def export_command(
    model: str | None, folder: Path, workspace: Path, family: str | None, shard_gigabytes: float
) -> dict[str, Any]:
    """Write a model (`models:/...`, a checkpoint folder, by default the workspace's best) as a folder of transformers.

    Returns what was written. Raises ValueError for a model that transformers cannot hold, naming every setting that
    stands in the way, and for a folder that is not empty.
    """
    from flows.tracking import find_checkpoint
    from training.models.huggingface import auto_class, export

    checkpoint = find_checkpoint(model, str(workspace))
    written = export(checkpoint, folder, family, int(shard_gigabytes * 1e9))
    files = sorted(path for path in written.iterdir())
    settings = json.loads((written / "config.json").read_text(encoding="utf-8"))
    return {
        "checkpoint": str(checkpoint),
        "folder": str(written),
        "files": {path.name: path.stat().st_size for path in files},
        "architecture": settings["architectures"][0],
        "auto_class": auto_class(settings["architectures"][0]),
    }


def import_command(folder: Path, name: str | None, workspace: Path) -> dict[str, Any]:
    """Write a local model of transformers as a checkpoint under `workspace`/imported/`name`.

    `name` is by default the folder's. Returns what was written. Raises ValueError for a model that Headrace has not,
    for damaged files, and for a name that is taken.
    """
    from training.checkpoints import describe
    from training.models.huggingface import import_model

    name = name or folder.resolve().name
    if not name or Path(name).name != name:
        raise ValueError(f"--name {name!r}: must be the name of a folder, without a path")
    checkpoint = import_model(folder, workspace / IMPORTED / name)
    facts = describe(checkpoint)
    return {
        "folder": str(folder),
        "checkpoint": str(checkpoint),
        "architecture": facts["imported"]["architecture"],
        "writes_text": _writes_text(facts["model"]),
        "untrained": facts["imported"].get("untrained", []),
        "vocabulary_size": facts["vocabulary_size"],
        "tokenizer": (checkpoint / "tokenizer.json").is_file(),
        "end_of_text": facts.get("end_of_text"),
    }


def export_lines(facts: dict[str, Any]) -> list[str]:
    """What a person wants to read after an export."""
    total = sum(facts["files"].values())
    lines = [f"{facts['checkpoint']} -> {facts['folder']} ({total / 1e6:,.1f} MB)"]
    if "tokenizer.json" not in facts["files"]:
        lines.append("  without a tokenizer: the checkpoint has none")
    return [*lines, f"  load it with transformers: {facts['auto_class']}.from_pretrained({facts['folder']!r})"]


def import_lines(facts: dict[str, Any]) -> list[str]:
    """What a person wants to read after an import."""
    lines = [f"{facts['folder']} ({facts['architecture']}) -> {facts['checkpoint']}"]
    if facts["untrained"]:
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
