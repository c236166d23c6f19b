"""fastText classifiers: applying one, and training one, against the fastText package on the same texts in one process.

    python -m benchmarks.classifiers [--megabytes N] [--json FILE]

Two corpora of the quickstart, each with two classes: Chinese reviews (short; letters set apart) and English, literature
against licences, in documents of up to 4 KB. Where the quickstart is not set up, two generated topics. Applying is
measured from Arrow text to probabilities, one core, process time; fastText gets its lines ready-made. Training is
measured with the process that it runs in.
"""

from __future__ import annotations

import gzip
import json
import random
import tempfile
import time
from collections.abc import Callable
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

import fasttext
import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from benchmarks.rows import Row, parser, show
from pipeline.annotators import Batch
from pipeline.classifiers.config import FastTextConfig
from pipeline.classifiers.linear import FastTextClassifier, FastTextClassifierConfig
from pipeline.classifiers.normalisation import Normalisation
from pipeline.classifiers.process import train_fasttext
from pipeline.classifiers.training import write_training_text
from pipeline.quickstart import find
from pipeline.stage import cpu_seconds

DOCUMENT_BYTES = 4000
ARGUMENTS = FastTextConfig(dimension=16, buckets=200_000, epochs=5).arguments()


def corpora() -> dict[str, tuple[list[str], list[str], Normalisation]]:
    """Negative documents, positive documents and how they are read, by name."""
    quickstart = find()
    if quickstart is None:
        rng = random.Random(1)
        words = [f"w{number}" for number in range(20_000)]
        make = [[" ".join(rng.choices(words[at : at + 15_000], k=600)) for _ in range(500)] for at in (0, 5_000)]
        return {"generated": (make[0], make[1], Normalisation())}
    root = quickstart.root
    reviews = [json.loads(line)["text"] for line in _lines(root / "jsonl" / "reviews.jsonl.gz")]
    licences = [json.loads(line)["text"] for line in _lines(root / "jsonl" / "licences.jsonl.gz")]
    literature = [path.read_text(encoding="utf-8") for path in sorted((root / "text" / "literature").glob("*.txt"))]
    return {
        "reviews zh": (_lines(root / "text" / "reviews.txt"), reviews, Normalisation(None, True)),
        "literature en": (_pieces(licences), _pieces(literature), Normalisation()),
    }


def _lines(path: Path) -> list[str]:
    text = gzip.decompress(path.read_bytes()) if path.suffix == ".gz" else path.read_bytes()
    return [line for line in text.decode().split("\n") if line]


def _pieces(texts: list[str]) -> list[str]:
    return [text[at : at + DOCUMENT_BYTES] for text in texts for at in range(0, len(text), DOCUMENT_BYTES)]


def best_seconds(work: Callable[[], Any], runs: int = 3) -> float:
    """Least process time of some runs."""
    seconds = []
    for _ in range(runs):
        started = time.process_time()
        work()
        seconds.append(time.process_time() - started)
    return min(seconds)


def fasttext_version() -> tuple[str, str]:
    """Name and version of the distribution that brings fastText."""
    for name in ("fasttext-community", "fasttext"):
        try:
            return name, version(name)
        except PackageNotFoundError:
            continue
    return "fasttext", ""


def rows_of(name: str, negative: list[str], positive: list[str], reading: Normalisation, megabytes: float) -> list[Row]:
    """Train on one corpus, both ways, and apply the model to it, both ways."""
    peer_name, peer_version = fasttext_version()
    texts = pa.array([*negative, *positive], pa.large_string())
    order = np.random.default_rng(1).permutation(len(texts))
    sizes = np.cumsum(pc.binary_length(texts).to_numpy()[order])
    chosen = order[: max(100, int(np.searchsorted(sizes, megabytes * 1e6)))]
    texts = texts.take(pa.array(chosen))
    total_bytes = pc.sum(pc.binary_length(texts)).as_py()
    with tempfile.TemporaryDirectory() as folder:
        text, model_path = Path(folder, "train.txt"), Path(folder, "model.bin")
        batch = pa.RecordBatch.from_arrays(
            [reading.apply(texts), pa.array(chosen >= len(negative))], names=["line", "positive"]
        )
        write_training_text(text, iter([batch]), ("negative", "positive"))
        started = cpu_seconds()
        train_fasttext(text, model_path, ARGUMENTS)
        training = cpu_seconds() - started
        peer_training = best_seconds(
            lambda: fasttext.train_supervised(input=str(text), thread=1, verbose=0, **ARGUMENTS), 1
        )
        peer = fasttext.load_model(str(model_path))
        config = FastTextClassifierConfig(
            name="topic", path=str(model_path), limit_bytes=None, separate_unspaced=reading.separate_unspaced
        )
        apply, unread = FastTextClassifier(config), pa.nulls(len(texts), pa.string())
        batch_of_texts = Batch(texts, unread, np.full(len(texts), "und", np.object_))
        lines = reading.apply(texts).to_pylist()
        found = apply.measure(batch_of_texts)  # compiles, too
        labels, scores = peer.predict(lines, k=-1)
        theirs_positive = [
            dict(zip(*pair, strict=True))["__label__positive"] for pair in zip(labels, scores, strict=True)
        ]
        assert np.allclose(found["topic_positive_score"].to_numpy(), theirs_positive, atol=1e-3), name
        ours = best_seconds(lambda: apply.measure(batch_of_texts))
        theirs = best_seconds(lambda: peer.predict(lines, k=-1))
        normalising = best_seconds(lambda: reading.apply(texts))
    peers = peer_name, peer_version
    return [
        Row(f"{name}: apply", "documents/s", len(texts) / ours, len(texts) / theirs, *peers),
        Row(f"{name}: apply", "MB/s", total_bytes / ours / 1e6, total_bytes / theirs / 1e6, *peers),
        Row(f"{name}: normalise", "MB/s", total_bytes / normalising / 1e6),
        Row(f"{name}: train", "s", training, peer_training, *peers),
    ]


def main() -> None:
    arguments = parser(__doc__ or "")
    arguments.add_argument("--megabytes", type=float, default=4.0, help="text of each corpus (default: 4)")
    options = arguments.parse_args()
    rows = [row for name, given in corpora().items() for row in rows_of(name, *given, options.megabytes)]
    show(rows, "Classifiers: one core, process time", options.json)


if __name__ == "__main__":
    main()
