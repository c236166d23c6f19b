"""Perplexity under 5-gram models: training and scoring, one core, in English and in Chinese.

    python -m benchmarks.perplexity [--megabytes N] [--json FILE]

Half of the documents is trained on, half is scored, in processor time. `score` is text in, perplexity out, on words in
lower case between single blanks, so that both sides cut the text alike, under the same unpruned model. Its peer is
KenLM (`kenlm.Model.score` for each document, the model from an ARPA file that this script writes) where `kenlm` is
installed here or among the peers (HEADRACE_PEERS, else .peers). Elsewhere it is the n-gram model of
`training.evaluation.ngram`: NumPy, over ids of words, whose making is not counted; it is the peer of `train` always.
`score as shipped` is the default configuration on the documents as they are.
"""

from __future__ import annotations

import itertools
import json
import math
import os
import re
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa

from benchmarks.rows import Row, parser, show
from pipeline.perplexity.counts import corpus_of, levels
from pipeline.perplexity.estimation import estimate
from pipeline.perplexity.model import NgramModel, spread
from pipeline.text.scan import word_hashes
from training.evaluation.ngram import NgramModel as NumpyModel

ORDER = 5
LONGEST = 8000  # characters of a document; longer ones are cut into several
KENLM = """
import json, sys, time
from importlib.metadata import version
import kenlm
model = kenlm.Model(sys.argv[1])
documents = [line.rstrip("\\n") for line in open(sys.argv[2], encoding="utf-8")]
started = time.process_time()
found = [10 ** (-model.score(text) / (text.count(" ") + 2)) for text in documents]
seconds = time.process_time() - started
json.dump({"seconds": seconds, "version": version("kenlm"), "perplexities": found}, sys.stdout)
"""


def write_arpa(texts: list[str], path: Path, order: int, minimum_word_count: int, minimum_counts: list[int]) -> None:
    """Train on texts of lower-case words between blanks and write the model as ARPA text."""
    words = word_hashes(pa.array(texts, pa.large_string()))
    corpus = corpus_of([words], minimum_word_count)
    found = estimate(corpus.vocabulary, levels(corpus, order), spread(minimum_counts, order))
    tokens = sorted({token for text in texts for token in text.split()})
    names = dict(zip(word_hashes(pa.array(tokens, pa.large_string()))[1].tolist(), tokens, strict=True))
    grams: list[list[str]] = [["<unk>", "<s>", "</s>", *(names[key] for key in corpus.vocabulary[3:].tolist())]]
    for kept in found.orders[1:]:
        pairs = zip(kept.context.tolist(), kept.word.tolist(), strict=True)
        grams.append([f"{grams[-1][context]} {grams[0][word]}" for context, word in pairs])
    lines = ["\\data\\", *(f"ngram {n}={len(section)}" for n, section in enumerate(grams, 1))]
    for n, (section, kept) in enumerate(zip(grams, found.orders, strict=True), 1):
        lines += ["", f"\\{n}-grams:"]
        values = zip(section, kept.log_probability.tolist(), kept.log_backoff.tolist(), strict=True)
        for gram, probability, backoff in values:
            line = f"{probability / math.log(10):.9f}\t{gram}"
            lines.append(line if n == len(grams) else f"{line}\t{backoff / math.log(10):.9f}")
    path.write_text("\n".join([*lines, "", "\\end\\", ""]), encoding="utf-8")


def timed(work: Callable[[], Any], repeats: int) -> tuple[float, Any]:
    """Least processor time of several runs, and the last result."""
    best, result = math.inf, None
    for _ in range(repeats):
        started = time.process_time()
        result = work()
        best = min(best, time.process_time() - started)
    return best, result


def kenlm_python() -> str | None:
    """An interpreter that has kenlm, or None."""
    for python in (sys.executable, Path(os.environ.get("HEADRACE_PEERS", ".peers"), "bin/python").absolute()):
        if (
            Path(python).exists()
            and subprocess.run([python, "-c", "import kenlm"], capture_output=True).returncode == 0
        ):
            return str(python)
    return None


def ask_kenlm(python: str, trained: list[str], scored: list[str]) -> dict[str, Any]:
    """KenLM's processor seconds, version and perplexities, under the model of the trained texts."""
    with tempfile.TemporaryDirectory() as folder:
        model, documents = Path(folder, "model.arpa"), Path(folder, "documents.txt")
        write_arpa(trained, model, ORDER, 2, [1])
        documents.write_text("\n".join(scored) + "\n", encoding="utf-8")
        answer = subprocess.run([python, "-c", KENLM, model, documents], capture_output=True, check=True)
        return json.loads(answer.stdout)


def numpy_ids(trained: list[str], scored: list[str]) -> tuple[list[np.ndarray], list[np.ndarray], int]:
    """The same words as ids for the NumPy model, each document between <s> and </s>."""
    offsets, hashes = word_hashes(pa.array([*trained, *scored], pa.large_string()))
    in_training = hashes[: offsets[len(trained)]]
    known, counts = np.unique(in_training, return_counts=True)
    known = known[counts >= 2]
    at = np.minimum(np.searchsorted(known, hashes), len(known) - 1)
    ids = np.where(known[at] == hashes, at + 3, 0)
    documents = [np.concatenate([[1], ids[a:b], [2]]) for a, b in itertools.pairwise(offsets)]
    return documents[: len(trained)], documents[len(trained) :], len(known) + 3


def compare(name: str, kind: str, word: str, megabytes: float) -> list[Row]:
    """The rows of one language."""
    from benchmarks.corpora import texts

    pieces = [
        item.text[at : at + LONGEST] for item in texts(kind, megabytes) for at in range(0, len(item.text), LONGEST)
    ]
    plain = [" ".join(re.findall(word, piece.lower())) for piece in pieces]
    plain = [piece for piece in plain if piece]
    trained, scored = plain[::2], plain[1::2]
    array, size = pa.array(scored, pa.large_string()), sum(len(text.encode()) for text in scored) / 1e6
    words = word_hashes(pa.array(trained, pa.large_string()))
    NgramModel.train([word_hashes(array[:2])]).perplexity(array[:2])  # compiles
    training, model = timed(lambda: NgramModel.train([words], ORDER, minimum_counts=[1]), 2)
    scoring, perplexities = timed(lambda: model.perplexity(array), 3)

    segments, asked, vocabulary = numpy_ids(trained, scored)
    numpy_training, numpy_model = timed(lambda: NumpyModel(segments, vocabulary, ORDER), 1)
    python = kenlm_python()
    if python:
        answer = ask_kenlm(python, trained, scored)
        difference = np.max(np.abs(np.array(answer["perplexities"]) / perplexities.to_numpy() - 1))
        assert difference < 1e-4, f"KenLM gives other perplexities: by a factor of {1 + difference}"
        peer = {"peer": size / answer["seconds"], "peer_name": "KenLM", "peer_version": answer["version"]}
    else:
        seconds, _ = timed(lambda: [numpy_model.log_probabilities(ids[1:], ids[:1]).sum() for ids in asked], 1)
        peer = {"peer": size / seconds, "peer_name": "own NumPy model over ids (no kenlm here)"}

    raw = pa.array(pieces[1::2], pa.large_string())
    raw_size = sum(len(text.encode()) for text in pieces[1::2]) / 1e6
    shipped = NgramModel.train([word_hashes(pa.array(pieces[::2], pa.large_string()))])
    as_shipped, _ = timed(lambda: shipped.perplexity(raw), 3)
    count = len(words[1])
    return [
        Row(f"train, {name}", "words/s", count / training, count / numpy_training, "own NumPy model over ids"),
        Row(f"score, {name}", "MB/s", size / scoring, **peer),
        Row(f"score as shipped, {name}", "MB/s", raw_size / as_shipped),
    ]


def main() -> None:
    arguments = parser(__doc__ or "")
    arguments.add_argument("--megabytes", type=float, default=8.0, help="text of each language, both halves together")
    options = arguments.parse_args()
    rows = [
        *compare("English", "prose", "[a-z]+", options.megabytes),
        *compare("Chinese", "chinese", "[\u4e00-\u9fff]", options.megabytes),
    ]
    show(rows, f"Perplexity, {ORDER}-grams, {options.megabytes:g} MB a language, one core", options.json)


if __name__ == "__main__":
    main()
