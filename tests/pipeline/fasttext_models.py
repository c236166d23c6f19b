"""Small fastText classifiers, trained for the tests."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

# A process of its own: fastText's training reads uninitialised memory, which MALLOC_PERTURB_ makes harmless.
_TRAIN = """
import sys, json, random, fasttext
path, settings = sys.argv[1], json.loads(sys.argv[2])
words = {
    "cold": "snow ice frost winter schnee 雪 冰 зима".split(), "hot": "sun fire summer desert sonne 火 夏 лето".split(),
    "wet": "rain river sea lake regen 雨 河 море".split(),
}
choose = random.Random(1)
with open(path + ".txt", "w", encoding="utf-8") as out:
    for _ in range(600):
        label = choose.choice([*words])
        out.write(f"__label__{label} " + " ".join(choose.choices(words[label] + ["the", "of", "and"], k=8)) + "\\n")
quantise = settings.pop("quantise", None)
model = fasttext.train_supervised(path + ".txt", thread=1, epoch=8, verbose=0, **settings)
if quantise is not None:
    model.quantize(input=path + ".txt", thread=1, verbose=0, **quantise)
model.save_model(path)
"""


def train_fasttext(path: Path, **settings: Any) -> Path:
    """Train a classifier of the labels cold, hot and wet with the settings of `fasttext.train_supervised`."""
    environment = {**os.environ, "MALLOC_PERTURB_": "255"}
    command = [sys.executable, "-c", _TRAIN, str(path), json.dumps(settings)]
    subprocess.run(command, check=True, capture_output=True, env=environment)
    return path
