"""By what a finished model is known again, wherever it lies. Without torch."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Mapping
from pathlib import Path

FILES = ("model.safetensors", "adapter.safetensors", "head.safetensors")
"""What a checkpoint's weights lie in."""


def sha256_of(path: Path) -> str:
    """The sha256 of a file."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def weights_sha256(checkpoint_dir: Path, digest: Callable[[Path], str] = sha256_of) -> str:
    """What a checkpoint's weights are known by; raises FileNotFoundError where there is no model.safetensors."""
    first, *others = FILES
    return known_by(
        {first: digest(checkpoint_dir / first)}
        | {name: digest(checkpoint_dir / name) for name in others if (checkpoint_dir / name).is_file()}
    )


def known_by(digests: Mapping[str, str]) -> str:
    """The same from the sha256 of the files by name: that of model.safetensors where there is nothing beside it.

    An adapter or the heads of tasks can be all that tells a model from the one that it was made of.
    """
    mine = {name: digests[name] for name in FILES if name in digests}
    if len(mine) == 1:
        return mine[FILES[0]]
    return hashlib.sha256("".join(f"{name} {value}\n" for name, value in mine.items()).encode()).hexdigest()
