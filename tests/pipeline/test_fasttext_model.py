"""Own inference against fastText itself, on lid.176 and on models trained here with every loss and kind of feature."""

from __future__ import annotations

import hashlib
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from pipeline.fasttext_model import FastTextModel, load_model, model_sha256
from tests.pipeline.fasttext_models import train_fasttext
from tests.pipeline.lid import LID, needs_lid
from tests.pipeline.text.strategies import arrays, texts

MODELS: dict[str, dict[str, Any]] = {
    "softmax": {"dim": 16, "loss": "softmax"},
    "word n-grams": {"dim": 10, "loss": "softmax", "wordNgrams": 3, "bucket": 500},
    "character n-grams": {"dim": 24, "loss": "hs", "minn": 1, "maxn": 4, "bucket": 777},
    "one versus all": {"dim": 8, "loss": "ova", "minn": 2, "maxn": 3, "bucket": 300, "wordNgrams": 2},
    "negative sampling": {"dim": 8, "loss": "ns"},
    "quantised": {"dim": 8, "loss": "softmax", "minn": 2, "maxn": 4, "bucket": 900, "quantise": {"qnorm": True}},
    "pruned": {
        **{"dim": 18, "loss": "hs", "minn": 2, "maxn": 3, "bucket": 900, "wordNgrams": 2},
        "quantise": {"cutoff": 300, "retrain": True, "dsub": 4},
    },
}


@pytest.fixture(scope="session")
def trained(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    folder = tmp_path_factory.mktemp("fasttext")
    return {
        name: train_fasttext(folder / f"{number}.bin", **values) for number, (name, values) in enumerate(MODELS.items())
    }


def theirs(path: Path | str, batch: list[str], top: int) -> list[dict[str, float]]:
    import fasttext

    model = fasttext.load_model(str(path))
    labels, scores = model.predict([line(text) for text in batch], k=top)
    return [
        {label.removeprefix("__label__"): float(score) for label, score in zip(names, values, strict=True)}
        for names, values in zip(labels, scores, strict=True)
    ]


def line(text: str) -> str:
    return "".join(" " if char <= " " or char == "\x7f" else char for char in text)


def ours(path: Path | str, batch: list[str], top: int) -> list[dict[str, float]]:
    model = load_model(path)
    best = model.best(pa.array(batch, pa.large_string()), top)
    assert (np.diff(np.nan_to_num(best.probabilities, nan=-1.0), axis=1) <= 0).all()
    return [
        {model.labels[label]: float(score) for label, score in zip(labels, scores, strict=True) if label >= 0}
        for labels, scores in zip(best.labels, best.probabilities, strict=True)
    ]


def assert_same(found: dict[str, float], expected: dict[str, float], text: str) -> None:
    if not line(text).strip(" "):
        assert found == {}  # fastText answers with what it would say of an unknown word
        return
    for label in found.keys() | expected.keys():
        # fastText leaves out what is below 1e-5, and goes a little above 1.
        assert found.get(label, 1e-5) == pytest.approx(min(1.0, expected.get(label, 1e-5)), abs=2e-5), (text, label)


WORDS = st.sampled_from(
    [
        "snow",
        "the",
        "sun",
        "雪",
        "море",
        "</s>",
        "__label__hot",
        "__label__x",
        "unknown",
        "a",
        "é",
        "\n",
        "\t",
        "🙂",
        "\0",
    ]
)


@pytest.mark.parametrize("name", [*MODELS])
@given(data=st.data())
@settings(max_examples=60, deadline=None)
def test_probabilities_are_those_of_fasttext(trained: dict[str, Path], name: str, data: st.DataObject):
    batch = data.draw(st.lists(st.one_of(st.lists(WORDS, max_size=12).map(" ".join), texts), min_size=1, max_size=4))
    for text, found, expected in zip(
        batch, ours(trained[name], batch, 3), theirs(trained[name], batch, 3), strict=True
    ):
        assert_same(found, expected, text)


@needs_lid
@given(st.lists(texts, min_size=1, max_size=5))
@settings(max_examples=100, deadline=None)
def test_languages_are_those_of_fasttext(batch: list[str]):
    assert LID is not None
    for text, found, expected in zip(batch, ours(LID, batch, 176), theirs(LID, batch, 176), strict=True):
        assert_same(found, expected, text)


@pytest.mark.parametrize("name", ["softmax", "pruned", "one versus all"])
def test_probabilities_of_every_label(trained: dict[str, Path], name: str):
    model = load_model(trained[name])
    found = model.probabilities(pa.array(["snow and ice", "", "sun"]))
    assert found.shape == (3, 3)
    assert model.labels[int(np.argmax(found[0]))] == "cold"
    if name != "one versus all":
        assert found[[0, 2]].sum(axis=1) == pytest.approx(1, abs=1e-4)


@given(arrays())
@settings(max_examples=40, deadline=None)
def test_any_array_gives_the_labels_of_its_texts(trained: dict[str, Path], array: pa.Array | pa.ChunkedArray):
    model = load_model(trained["word n-grams"])
    found = model.best(array, 2)
    for number, text in enumerate(array.to_pylist()):
        alone = model.best(pa.array([text or ""]), 2)
        assert np.array_equal(alone.labels[0], found.labels[number])
        assert np.array_equal(alone.probabilities[0], found.probabilities[number], equal_nan=True)


@given(st.lists(st.binary(max_size=40), min_size=1, max_size=5), st.sampled_from([*MODELS]))
@settings(max_examples=100, deadline=None)
def test_bytes_that_are_no_text_stay_in_bounds(trained: dict[str, Path], batch: list[bytes], name: str):
    model = load_model(trained[name])
    offsets = np.cumsum([0, *map(len, batch)], dtype=np.int64)

    def labels(after: bytes) -> np.ndarray:
        data = pa.py_buffer(b"".join(batch) + after)
        array = pa.Array.from_buffers(pa.large_string(), len(batch), [None, pa.py_buffer(offsets), data])
        return model.best(array, 3).labels

    assert np.array_equal(labels(b"\x80\xff snow"), labels(b"abc"))


def test_a_word_of_megabytes(trained: dict[str, Path]):
    model = load_model(trained["character n-grams"])
    found = model.best(pa.array(["snow" * 500_000]), 1)
    assert found.labels[0, 0] >= 0


@needs_lid
def test_the_digest_is_of_the_file():
    assert LID is not None
    assert model_sha256(LID) == hashlib.sha256(LID.read_bytes()).hexdigest()


@needs_lid
@pytest.mark.parametrize("size", [3, 8, 40, 90, 5000, 500_000, -1])
def test_a_model_that_was_cut_off_is_refused(tmp_path: Path, size: int):
    assert LID is not None
    path = tmp_path / "cut.ftz"
    path.write_bytes(LID.read_bytes()[:size])
    with pytest.raises(ValueError, match=r"cut\.ftz is a damaged fastText model of \d+ bytes"):
        FastTextModel(path)


@pytest.mark.parametrize("name", [*MODELS])
def test_models_that_were_cut_off_anywhere_are_refused(trained: dict[str, Path], tmp_path: Path, name: str):
    whole = trained[name].read_bytes()
    path = tmp_path / "cut.bin"
    for size in np.linspace(0, len(whole) - 1, 40).astype(int):
        path.write_bytes(whole[:size])
        with pytest.raises(ValueError, match="cut"):
            FastTextModel(path)
    path.write_bytes(whole + b"\0")
    with pytest.raises(ValueError, match="damaged"):
        FastTextModel(path)


@pytest.mark.parametrize("content", [b"this is not a model at all", bytes(100)])
def test_other_files_are_refused(tmp_path: Path, content: bytes):
    path = tmp_path / "model.bin"
    path.write_bytes(content)
    with pytest.raises(ValueError, match=r"model\.bin is not a fastText model"):
        load_model(path)
    with pytest.raises(ValueError, match="there is no fastText model at"):
        load_model(tmp_path / "nowhere.bin")


def test_a_model_of_word_vectors_is_refused(tmp_path: Path):
    import fasttext

    corpus = tmp_path / "corpus.txt"
    corpus.write_text("one two three four five\n" * 50)
    fasttext.train_unsupervised(str(corpus), thread=1, epoch=1, dim=4, minCount=1, verbose=0).save_model(
        str(tmp_path / "vectors.bin")
    )
    with pytest.raises(ValueError, match="word vectors, not a classifier"):
        FastTextModel(tmp_path / "vectors.bin")
