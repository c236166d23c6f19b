"""How a sentence encoder makes one vector of a text: the modules of sentence-transformers around a model.

A folder of that library has `modules.json`, a list of what a text goes through, and a folder for each module. The
checkpoint's config.json keeps it as `"pooling": {"mode", "normalize", "max_length"}`.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from training.models.huggingface.settings import Settings, read_json, write_json

MODULES = "modules.json"
_LENGTH = "sentence_bert_config.json"
_PREFIX = "pooling_mode_"
MODES = {
    "cls_token": "first",
    "mean_tokens": "mean",
    "max_tokens": "max",
    "mean_sqrt_len_tokens": "mean_root",
    "weightedmean_tokens": "weighted_mean",
    "lasttoken": "last",
}
"""Their names and ours. All read every token of the sequence, the special ones, too. mean_root: the sum over the root
of the length; weighted_mean: the n-th token counts n times."""
_SHORT = {
    "cls": "cls_token",
    "mean": "mean_tokens",
    "max": "max_tokens",
    "mean_sqrt_len_tokens": "mean_sqrt_len_tokens",
}
_SHORT |= {"weightedmean": "weightedmean_tokens", "lasttoken": "lasttoken"}


def read_pooling(folder: Path) -> dict[str, Any] | None:
    """The pooling of a sentence encoder, or None where the folder is none.

    Raises ValueError naming the file for a module that has weights of its own or an unknown kind of pooling.
    """
    path = folder / MODULES
    if not path.is_file():
        return None
    found: dict[str, Any] = {"mode": None, "normalize": False}
    for place, module in enumerate(_modules(path)):
        kind = str(module.get("type", "")).rsplit(".", 1)[-1]
        if kind == "Transformer" and place == 0 and module.get("path") in ("", None):
            continue
        if kind == "Pooling" and found["mode"] is None:
            found["mode"] = _mode(folder / str(module.get("path")) / "config.json", folder)
        elif kind == "Normalize" and found["mode"] is not None:
            found["normalize"] = True
        else:
            raise ValueError(
                f"{path}: a module {kind or module!r} at place {place} is not supported; there may be a "
                "Transformer in the folder itself, then Pooling, then Normalize"
            )
    if found["mode"] is None:
        raise ValueError(f"{path}: has no Pooling, so that it says nothing of the vector of a text")
    if (folder / _LENGTH).is_file():
        settings = Settings(read_json(folder / _LENGTH))
        if settings.get("max_seq_length") is not None:
            found["max_length"] = settings.integer("max_seq_length")
    return found


def write_pooling(folder: Path, pooling: dict[str, Any], width: int) -> None:
    """Write the files of sentence-transformers for a model in `folder` whose last layer is `width` wide."""
    modules = [("", "Transformer"), ("1_Pooling", "Pooling")]
    modules += [("2_Normalize", "Normalize")] if pooling["normalize"] else []
    listed = [
        {"idx": place, "name": str(place), "path": path, "type": f"sentence_transformers.models.{kind}"}
        for place, (path, kind) in enumerate(modules)
    ]
    (folder / MODULES).write_text(json.dumps(listed, indent=2) + "\n", encoding="utf-8")
    modes = {f"{_PREFIX}{theirs}": ours == pooling["mode"] for theirs, ours in MODES.items()}
    for path, _ in modules[1:]:
        (folder / path).mkdir()
    write_json(folder / "1_Pooling" / "config.json", {"word_embedding_dimension": width, **modes})
    if pooling.get("max_length") is not None:
        write_json(folder / _LENGTH, {"max_seq_length": pooling["max_length"], "do_lower_case": False})


def _modules(path: Path) -> list[dict[str, Any]]:
    try:
        modules = json.loads(path.read_bytes())
    except (OSError, ValueError, RecursionError) as error:
        raise ValueError(f"{path}: damaged: {error}") from None
    if not isinstance(modules, list) or not all(isinstance(module, dict) for module in modules):
        raise ValueError(f"{path}: damaged: not a list of modules")
    return modules


def _mode(path: Path, folder: Path) -> str:
    if not path.resolve().is_relative_to(folder.resolve()):  # the name comes from a file
        raise ValueError(f"{folder / MODULES}: the path of Pooling leads out of the folder")
    document = read_json(path)
    named = [key.removeprefix(_PREFIX) for key, value in document.items() if key.startswith(_PREFIX) and value is True]
    if isinstance(document.get("pooling_mode"), str):
        named = [_SHORT.get(document["pooling_mode"], document["pooling_mode"])]
    if len(named) != 1 or named[0] not in MODES:
        raise ValueError(
            f"{path}: the pooling {', '.join(named) or 'none'} is not supported; it must be one of {', '.join(MODES)}"
        )
    return MODES[named[0]]
