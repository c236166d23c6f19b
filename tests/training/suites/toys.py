"""Small task files, and checkpoints to put them to."""

from __future__ import annotations

import gzip
import io
import json
import tarfile
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import pytest
import torch
import yaml

from tests.training.small_models import TEXT, tiny_tokenizer
from training.checkpoints import TrainerState, save
from training.config import ModelConfig, TrainingConfig, from_dict
from training.devices import resolve
from training.distributed import World
from training.evaluation.judged import Judged
from training.models import build
from training.suites.cache import Cache
from training.suites.likelihood import Likelihood


@pytest.fixture(autouse=True)
def one_thread() -> Iterator[None]:
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)


SHAPES: dict[str, dict[str, Any]] = {
    "nano": {"bigram_buckets": 64},
    "gpt2": {"preset": "gpt2"},
    "llama": {"preset": "llama-tiny", "kv_heads": 2},
    "qwen3": {"preset": "qwen3-0.6b", "head_width": 8, "kv_heads": 2},
    "alibi window": {"positions": "alibi", "window": 5, "global_every": 2},
    "post norm, shared layers": {
        "norm_position": "post",
        "embedding_norm": True,
        "embedding_width": 16,
        "layer_groups": 1,
        "head": "transform",
        "positions": "learned",
        "token_types": 2,
    },
    "two bases, mup": {"window": 4, "global_every": 2, "rope_theta_windowed": 100.0, "initialization": "mup"},
}


def write_rows(path: Path, rows: Sequence[dict[str, Any]]) -> Path:
    """JSON Lines, compressed where the name says so."""
    path.parent.mkdir(parents=True, exist_ok=True)
    content = "".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows).encode()
    path.write_bytes(gzip.compress(content) if path.suffix == ".gz" else content)
    return path


def write_archive(path: Path, files: dict[str, str]) -> Path:
    """A tar archive of texts."""
    with tarfile.open(path, "w:gz") as archive:
        for name, text in files.items():
            entry = tarfile.TarInfo(name)
            entry.size = len(text.encode())
            archive.addfile(entry, io.BytesIO(text.encode()))
    return path


def write_yaml(path: Path, **fields: Any) -> str:
    path.write_text(yaml.safe_dump(fields, allow_unicode=True), encoding="utf-8")
    return str(path)


def quiz(count: int = 12) -> list[dict[str, Any]]:
    """Questions with three choices."""
    words = " ".join(TEXT * 3).split()
    return [
        {
            "question": " ".join(words[number : number + 4]),
            "options": [words[number + 4], f"{words[number + 1]} {words[number + 2]}", words[number]],
            "right": number % 3,
            "kind": "even" if number % 2 == 0 else "odd",
        }
        for number in range(count)
    ]


def write_checkpoint(folder: Path, seed: int = 0, step: int = 10, **shape: Any) -> Path:
    """A checkpoint of random weights whose predictions are far from uniform."""
    folder.mkdir(parents=True, exist_ok=True)
    tokenizer = tiny_tokenizer()
    tokenizer.save(str(folder / "tokenizer.json"))
    torch.manual_seed(seed)
    preset = {key: value for key, value in shape.items() if key == "preset"}
    sizes = {"layers": 4, "heads": 4, "width": 32, "context_length": 64, **shape}
    model = build(from_dict(ModelConfig, {**preset, **sizes}), tokenizer.get_vocab_size())
    with torch.no_grad():
        for parameter in model.parameters():
            if parameter.ndim == 2:
                parameter.normal_(std=0.3)
    facts = {"end_of_text": 0, "tokens": 100 * step}
    return save(folder / "checkpoints", model, TrainerState(step, {}, {}, {}), facts, folder / "tokenizer.json")


def judged(checkpoint: Path, precision: str = "fp32") -> Judged:
    settings = {"device": "cpu", "precision": precision, "threads": 1, "compile": "off"}
    return Judged(checkpoint, resolve(from_dict(TrainingConfig, settings), World()))


def likelihood(checkpoint: Path, **options: Any) -> Likelihood:
    """Answers requests, with a cache that nobody else has."""
    return Likelihood(judged(checkpoint), Cache(":memory:", "model", "fp32"), **options)
