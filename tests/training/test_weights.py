"""What a model's weights are known by: all that could tell it from the one that it was made of."""

from __future__ import annotations

import hashlib
from pathlib import Path

import pytest

from training.weights import known_by, sha256_of, weights_sha256


def write(folder: Path, **contents: str) -> Path:
    folder.mkdir()
    for name, content in contents.items():
        (folder / f"{name}.safetensors").write_text(content)
    return folder


def test_a_plain_model_is_known_by_its_file(tmp_path: Path) -> None:
    folder = write(tmp_path / "a", model="weights")
    assert weights_sha256(folder) == hashlib.sha256(b"weights").hexdigest()


def test_an_adapter_or_a_head_makes_another_model_of_the_same_weights(tmp_path: Path) -> None:
    parts = (
        {"model": "weights"},
        {"model": "weights", "head": "one"},
        {"model": "weights", "head": "two"},
        {"model": "weights", "adapter": "one"},
        {"model": "weights", "adapter": "one", "head": "two"},
        {"model": "weights", "adapter": "two", "head": "one"},
    )
    folders = [write(tmp_path / str(number), **one) for number, one in enumerate(parts)]
    known = [weights_sha256(folder) for folder in folders]
    assert len(set(known)) == len(parts)
    for folder, expected in zip(folders, known, strict=True):
        (folder / "tokenizer.json").write_text("{}")
        assert known_by({path.name: sha256_of(path) for path in sorted(folder.iterdir(), reverse=True)}) == expected


def test_a_folder_without_weights_has_none(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError, match=r"model\.safetensors"):
        weights_sha256(write(tmp_path / "a", head="one"))
