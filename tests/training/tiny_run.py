"""A token set and a run small enough to train in a second."""

from __future__ import annotations

import dataclasses
import hashlib
import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np

from training.callbacks.energy import METERED
from training.callbacks.training_metrics import CLOCKED
from training.config import ModelConfig, OptimizerConfig, ScheduleConfig, Shard, TrainingConfig, TrainingRun, to_dict

ROOT = Path(__file__).parents[2]
VOCABULARY = 50
END_OF_TEXT = 0


def write_shard(path: Path, tokens: np.ndarray, **facts: Any) -> Shard:
    """Write tokens as a shard file and describe it."""
    content = tokens.astype("<u2").tobytes()
    path.write_bytes(content)
    facts = {"split": "train", "dtype": "uint16", **facts}
    return Shard(path=str(path), tokens=len(tokens), sha256=hashlib.sha256(content).hexdigest(), **facts)


def token_stream(length: int, seed: int) -> np.ndarray:
    """A noisy cycle: mostly the successor of the token before, so that there is something to learn."""
    generator = np.random.default_rng(seed)
    return np.cumsum(generator.choice([1, 1, 1, 7], size=length)) % (VOCABULARY - 1) + 1


def make_shards(folder: Path, train_tokens: int = 5000) -> list[Shard]:
    folder.mkdir(parents=True, exist_ok=True)
    half = train_tokens // 2
    return [
        write_shard(folder / "train-0.bin", token_stream(half, 1)),
        write_shard(folder / "train-1.bin", token_stream(train_tokens - half, 2)),
        *(
            write_shard(
                folder / f"validation-{source}-{language}.bin",
                token_stream(length, length),
                split="validation",
                source=source,
                language=language,
                text_bytes=3 * length,
            )
            for source, language, length in (("wiki", "en", 300), ("wiki", "zh", 200), ("web", "en", 100))
        ),
    ]


def make_run(folder: Path, **training: Any) -> TrainingRun:
    """A run on one thread: 12 steps, a checkpoint every 4."""
    settings = {
        "steps": 12,
        "batch_size": 4,
        "log_every": 3,
        "evaluate_every": 6,
        "evaluation_batches": 2,
        "checkpoint_every": 4,
        "threads": 1,
        "device": "cpu",
        "precision": "fp32",
    }
    return TrainingRun(
        data=make_shards(folder / "tokens"),
        vocabulary_size=VOCABULARY,
        end_of_text=END_OF_TEXT,
        output_dir=str(folder / "output"),
        dataset_fingerprint="tokens-1",
        model=ModelConfig(layers=2, heads=2, width=32, context_length=16, dropout=0.1, bigram_buckets=64),
        optimizer=OptimizerConfig(learning_rate=0.01),
        schedule=ScheduleConfig(warmup_steps=2),
        training=TrainingConfig(**{**settings, **training}),
    )


def write_config(run: TrainingRun, path: Path) -> Path:
    path.write_text(json.dumps(to_dict(run)))
    return path


def changed(run: TrainingRun, section: str | None = None, **changes: Any) -> TrainingRun:
    """A copy of a run with other fields, of the run itself or of one of its sections."""
    if section is None:
        return dataclasses.replace(run, **changes)
    return dataclasses.replace(run, **{section: dataclasses.replace(getattr(run, section), **changes)})


def start(config: Path, *options: str, launcher: tuple[str, ...] = (), **popen: Any) -> subprocess.Popen[str]:
    """Start the training process as a user would."""
    command = [sys.executable, *launcher, "-m", "training", "train", str(config), *options]
    if launcher:
        command = [sys.executable, *launcher, "training", "train", str(config), *options]
    streams = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE, "text": True}
    return subprocess.Popen(command, cwd=ROOT, env={**os.environ, "OMP_NUM_THREADS": "1"}, **{**streams, **popen})


def journal(run: TrainingRun) -> list[dict[str, Any]]:
    lines = (Path(run.output_dir) / "metrics.jsonl").read_text().splitlines()
    return [json.loads(line) for line in lines]


def losses(run: TrainingRun) -> list[tuple[int, dict[str, float]]]:
    """What the journal says of each step, without the clock."""
    return [
        (line["step"], {key: value for key, value in line["metrics"].items() if key not in CLOCKED | METERED})
        for line in journal(run)
    ]


def final_weights(run: TrainingRun) -> bytes:
    name = f"step-{run.training.steps:08d}"
    return (Path(run.output_dir) / "checkpoints" / name / "model.safetensors").read_bytes()
