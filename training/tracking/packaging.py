"""A checkpoint as MLflow stores a model: a folder with an `MLmodel` file that says how to load and run it."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from training.config.generation import GenerationConfig

LOADER = "training.tracking.pyfunc"
CHECKPOINT = "checkpoint"
REFERENCE = "reference.json"
HEAD = "head.safetensors"
# What the model needs; the state of the optimizer stays with the training.
FILES = ("model.safetensors", "config.json", "tokenizer.json", HEAD, "adapter.safetensors")


def size_bytes(checkpoint_dir: Path) -> int:
    """Bytes of the files that a model folder takes over; raises FileNotFoundError where the weights are missing."""
    (checkpoint_dir / FILES[0]).stat()
    return sum((checkpoint_dir / name).stat().st_size for name in FILES if (checkpoint_dir / name).exists())


def build_model_folder(folder: Path, checkpoint_dir: Path, model_id: str, run_id: str, by_reference: bool) -> None:
    """Fill an empty folder with MLmodel and the checkpoint: links to its files, or a note of where it lies.

    Raises FileNotFoundError where the checkpoint or its weights are missing.
    """
    from mlflow.models import Model
    from mlflow.pyfunc import add_to_model

    source = checkpoint_dir.resolve()
    model = Model(run_id=run_id, model_id=model_id, signature=_signature((source / HEAD).is_file()))
    add_to_model(model, loader_module=LOADER, data=CHECKPOINT)
    target = folder / CHECKPOINT
    target.mkdir()
    (source / FILES[0]).stat()
    if by_reference:
        (target / REFERENCE).write_text(json.dumps({"path": str(source)}) + "\n", encoding="utf-8")
    else:
        for name in FILES:
            if (source / name).exists():
                (target / name).symlink_to(source / name)
    model.save(str(folder / "MLmodel"))


def _signature(has_head: bool) -> Any:
    """What goes in and comes out: a text and its continuation; of a fine-tuned model rows of whatever columns."""
    from mlflow.models import ModelSignature
    from mlflow.types import ColSpec, DataType, ParamSchema, ParamSpec, Schema

    if has_head:
        return ModelSignature(params=ParamSchema([ParamSpec("task", DataType.string, "")]))
    defaults = GenerationConfig()
    text = Schema([ColSpec(DataType.string)])
    parameters = ParamSchema(
        [
            ParamSpec("max_new_tokens", DataType.long, defaults.max_new_tokens),
            ParamSpec("temperature", DataType.double, defaults.temperature),
            ParamSpec("top_k", DataType.long, defaults.top_k),
            ParamSpec("top_p", DataType.double, defaults.top_p),
            ParamSpec("seed", DataType.long, defaults.seed),
        ]
    )
    return ModelSignature(text, text, parameters)


def checkpoint_folder(folder: str | Path) -> Path:
    """The checkpoint of a model folder (or its `checkpoint` folder): inside of it, or where its note points.

    Raises ValueError where there is none.
    """
    folder = Path(folder)
    if (folder / CHECKPOINT).is_dir():
        folder = folder / CHECKPOINT
    note = folder / REFERENCE
    if note.is_file():
        folder = Path(json.loads(note.read_text(encoding="utf-8"))["path"])
        if not (folder / FILES[0]).is_file():
            raise ValueError(f"{note}: points to {folder}, where there is no checkpoint any more")
    if not (folder / FILES[0]).is_file():
        raise ValueError(f"{folder}: holds no {FILES[0]}; it is not a model of Headrace")
    return folder
