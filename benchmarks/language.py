"""Language identification beside bare fastText `predict` over the same texts in a batch: speed and accuracy.

    python -m benchmarks.language [--megabytes 8] [--repeats 3] [--json FILE]

Process time of one core, the best of the repeats, after one run that is not counted. fastText is given a list of
Python strings with their line feeds already replaced, ours an Arrow array of the same texts; both give the likeliest
label. Short texts are labelled sentences of 75 languages, long ones are documentation. The accuracy on the sentences
is printed by language; long documents for it are made of sentences of one language, and read whole or in part.
"""

from __future__ import annotations

import random
import time
from collections.abc import Callable, Sequence
from importlib.metadata import version

import fasttext
import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from benchmarks.corpora import Text, sentences, texts
from benchmarks.rows import Row, parser, show
from pipeline.language import DEFAULT_BYTES, identify, load_model, model_path

WHOLE = 1 << 40
ALIASES = {"nb": "no"}  # Bokmål is no to lid.176
LONG_DOCUMENTS = 40  # for each language
LONG_BYTES = 12_000
PEER = ("fastText predict", version("fasttext-community"))


def best_seconds(repeats: int, work: Callable[[], object]) -> float:
    """Process time of the fastest run."""
    work()
    found = []
    for _ in range(repeats):
        started = time.process_time()
        work()
        found.append(time.process_time() - started)
    return min(found)


class Sides:
    """The same model, here and in fastText."""

    def __init__(self) -> None:
        path = model_path(None)
        self.model = load_model(path)
        self.peer = fasttext.load_model(str(path))
        self.labels = {label.removeprefix("__label__") for label in self.peer.get_labels()}

    def ours(self, batch: pa.Array, limit_bytes: int) -> NDArray[np.object_]:
        return identify(self.model, batch, 1, limit_bytes).codes[0]

    def theirs(self, lines: list[str]) -> NDArray[np.object_]:
        found = self.peer.predict(lines, k=1)[0]
        return np.array([labels[0].removeprefix("__label__") if labels else None for labels in found], np.object_)


def one_line(text: str) -> str:
    """The text as fastText takes it."""
    return text.replace("\n", " ")


def speed_rows(name: str, documents: Sequence[str], sides: Sides, repeats: int) -> list[Row]:
    """Documents and megabytes a second, with the documents whole and with the default limit."""
    lines = [one_line(text) for text in documents]
    batch = pa.array(lines, pa.large_string())
    megabytes = sum(len(line.encode()) for line in lines) / 1e6
    theirs = best_seconds(repeats, lambda: sides.peer.predict(lines, k=1))
    rows = []
    limits = {"whole": WHOLE}
    if megabytes * 1e6 / len(lines) > DEFAULT_BYTES:
        limits[f"{DEFAULT_BYTES} bytes read here, whole there"] = DEFAULT_BYTES
    for title, limit in limits.items():
        ours = best_seconds(repeats, lambda limit=limit: identify(sides.model, batch, 1, limit))  # type: ignore[misc]
        rows.append(Row(f"{name}, {title}", "documents/s", len(lines) / ours, len(lines) / theirs, *PEER))
        rows.append(Row(f"{name}, {title}", "MB/s", megabytes / ours, megabytes / theirs, *PEER))
    return rows


def long_documents(labelled: dict[str, list[str]]) -> list[Text]:
    """Documents of sentences of one language, in an order drawn with a fixed seed."""
    generator = random.Random(0)
    found = []
    for language, members in sorted(labelled.items()):
        for _ in range(LONG_DOCUMENTS):
            chosen, size = [], 0
            while size < LONG_BYTES:
                chosen.append(generator.choice(members))
                size += len(chosen[-1].encode()) + 1
            found.append(Text(" ".join(chosen), language, "joined sentences"))
    return found


def accuracy(expected: NDArray[np.object_], found: NDArray[np.object_]) -> dict[str, float]:
    """Percent of right answers by language."""
    return {language: 100 * float(np.mean(found[expected == language] == language)) for language in sorted({*expected})}


def accuracy_rows(labelled: dict[str, list[str]], sides: Sides) -> list[Row]:
    """Accuracy on sentences, micro, macro and by language, and on long documents read whole and in part."""
    pairs = [(language, one_line(text)) for language, members in labelled.items() for text in members]
    expected = np.array([language for language, _ in pairs], np.object_)
    lines = [line for _, line in pairs]
    ours, theirs = sides.ours(pa.array(lines, pa.large_string()), DEFAULT_BYTES), sides.theirs(lines)
    rows = [
        Row(f"sentences, micro, {len(labelled)} languages", "% right", *_right(expected, ours, theirs), *PEER),
        Row("sentences, same answer", "%", 100 * float(np.mean(ours == theirs)), None, *PEER),
    ]
    by_language = accuracy(expected, ours), accuracy(expected, theirs)
    macro = [float(np.mean([*side.values()])) for side in by_language]
    rows.append(Row("sentences, macro", "% right", macro[0], macro[1], *PEER))
    documents = long_documents(labelled)
    expected = np.array([item.language for item in documents], np.object_)
    lines = [one_line(item.text) for item in documents]
    batch, theirs = pa.array(lines, pa.large_string()), sides.theirs(lines)
    for title, limit in (
        ("whole", WHOLE),
        (f"{DEFAULT_BYTES} of {LONG_BYTES} bytes read here, all there", DEFAULT_BYTES),
    ):
        found = sides.ours(batch, limit)
        rows.append(Row(f"long documents, {title}", "% right", *_right(expected, found, theirs), *PEER))
    for language, value in by_language[0].items():
        rows.append(Row(f"sentences, {language}", "% right", value, by_language[1][language], *PEER))
    return rows


def _right(
    expected: NDArray[np.object_], ours: NDArray[np.object_], theirs: NDArray[np.object_]
) -> tuple[float, float]:
    return 100 * float(np.mean(ours == expected)), 100 * float(np.mean(theirs == expected))


def main() -> None:
    arguments = parser(__doc__ or "")
    arguments.add_argument("--megabytes", type=float, default=8.0, help="text of long documents")
    arguments.add_argument("--repeats", type=int, default=3)
    options = arguments.parse_args()
    sides = Sides()
    documents = [item.text for item in texts("multilingual", options.megabytes)]
    labelled: dict[str, list[str]] = {}
    for language, members in sentences().items():
        if ALIASES.get(language, language) in sides.labels:
            labelled[ALIASES.get(language, language)] = members
    short = [text for members in labelled.values() for text in members]
    if not short:
        print("the labelled sentences of the shared data are not there: lines for short texts, and no accuracy")
        short = [line for text in documents for line in text.split("\n") if len(line) > 20]
    rows = [
        *speed_rows("sentences", short, sides, options.repeats),
        *speed_rows("long documents", documents, sides, options.repeats),
    ]
    scores = accuracy_rows(labelled, sides) if labelled else []
    show([*rows, *scores], "Language identification: one core, process time", options.json)


if __name__ == "__main__":
    main()
