"""Documents of two topics, generated, and the training of a small classifier on them."""

from __future__ import annotations

import json
import random
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from pipeline.classifiers.config import SIDES, ClassifierConfig
from pipeline.classifiers.training import TrainClassifier, ingest_stage, sources_input
from pipeline.execution import run_stage
from pipeline.store import Committed, StageRef, Store

_SHARED = [f"common{number}" for number in range(60)]
_KITCHEN = [f"{stem}{end}" for stem in ("flour", "oven", "butter", "salt", "dough") for end in ("", "s", "ing", "ed")]
_RIVER = [f"{stem}{end}" for stem in ("boat", "stream", "fish", "shore", "reed") for end in ("", "s", "ing", "ed")]
_CHINESE = ("面粉烤箱黄油食盐面团酵母糖霜", "小船河流鱼群岸边芦苇桥洞水草")
_CHINESE_SHARED = "的一是在有人我他这个们来到时大地为子中你说生国年着就那和要她出也得里后自以"


def topic(rng: random.Random, kitchen: bool, words: int = 30) -> str:
    """A document whose words tell its topic, one in five of them."""
    own = _KITCHEN if kitchen else _RIVER
    return " ".join(rng.choice(own if rng.random() < 0.2 else _SHARED) for _ in range(words))


def chinese_topic(rng: random.Random, kitchen: bool) -> str:
    """The same in Chinese characters, without a space."""
    own = _CHINESE[0 if kitchen else 1]
    return "".join(rng.choice(own if rng.random() < 0.25 else _CHINESE_SHARED) for _ in range(30))


def write_jsonl(path: Path, texts: Sequence[str]) -> Path:
    path.write_text("".join(json.dumps({"text": text}, ensure_ascii=False) + "\n" for text in texts), encoding="utf-8")
    return path


def write_topics(folder: Path, count: int = 300, make: Any = topic, seed: int = 1) -> dict[str, Path]:
    """One file for each class."""
    rng = random.Random(seed)
    folder.mkdir(parents=True, exist_ok=True)
    texts = {side: [make(rng, side == "positive") for _ in range(count)] for side in SIDES}
    return {side: write_jsonl(folder / f"{side}.jsonl", texts[side]) for side in SIDES}


def values(files: dict[str, Path], **changes: Any) -> dict[str, Any]:
    """A configuration whose training takes a tenth of a second."""
    return {
        "name": "kitchen",
        **{
            side: {"sources": [{"name": f"{side}-file", "format": "jsonl", "path": str(path)}]}
            for side, path in files.items()
        },
        "fasttext": {"dimension": 8, "buckets": 1000, "epochs": 10, "learning_rate": 0.5},
        **changes,
    }


def stage(root: Path, config: dict[str, Any], **more: StageRef) -> TrainClassifier:
    """Read the sources of both classes, and return the stage that trains on them."""
    loaded = ClassifierConfig.model_validate(config)
    store, inputs = Store.at(root), dict(more)
    for side in SIDES:
        ingest = ingest_stage(loaded, side)
        if ingest is not None:
            run_stage(ingest, store, 0)
            inputs[sources_input(side)] = store.ref(ingest.name, ingest.fingerprint())
    return TrainClassifier(loaded, inputs)


def train(root: Path, config: dict[str, Any], **more: StageRef) -> Committed:
    """Train a classifier to its commit."""
    return run_stage(stage(root, config, **more), Store.at(root), 0)
