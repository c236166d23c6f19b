from __future__ import annotations

import gzip
import hashlib
import json
import subprocess
import sys
from pathlib import Path

import numpy as np
import pyarrow as pa
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from pipeline.language import first_words, load_model, model_path, model_sha256
from tests.pipeline.lid import LID, needs_lid
from tests.pipeline.text.strategies import arrays, texts

SENTENCES = Path(__file__).parents[2] / "../shared/data/lid/lingua_sentences_75lang.jsonl.gz"
SAMPLES = {
    "en": "The weather is fine today, and we are going to walk in the park.",
    "zh": "今天天气很好，我们打算去公园散步。",
    "es": "Hoy hace buen tiempo y vamos a pasear por el parque.",
    "ru": "Сегодня хорошая погода, и мы собираемся погулять в парке.",
    "ja": "今日は天気がいいので、公園を散歩するつもりです。",
    "ko": "오늘은 날씨가 좋아서 공원을 산책할 예정입니다.",
    "ar": "الطقس جميل اليوم وسوف نتمشى في الحديقة.",
}


def plain_first_words(text: str, limit: int) -> str:
    """One line without blanks at its ends, cut between two characters at `limit` bytes."""
    line, size = "", 0
    for char in text:
        blank = char <= " " or char == "\x7f"
        if blank and (not line or line.endswith(" ")):
            continue
        size += len(char.encode())
        if size > limit:
            break
        line += " " if blank else char
    return line.rstrip(" ")


@given(st.lists(texts, max_size=5), st.integers(1, 60))
@settings(max_examples=100, deadline=None)
def test_first_words(batch: list[str], limit: int):
    found = first_words(pa.array(batch, pa.large_string()), limit)
    found.validate(full=True)
    assert found.to_pylist() == [plain_first_words(text, limit) for text in batch]


@given(arrays())
@settings(max_examples=50, deadline=None)
def test_first_words_of_any_array(array: pa.Array | pa.ChunkedArray):
    expected = [plain_first_words(text or "", 10) for text in array.to_pylist()]
    assert first_words(array, 10).to_pylist() == expected


def test_first_words_of_broken_utf8_stay_in_bounds():
    for tail in (b"\xe4", b"\xf0\x9f\x98", b"\xc3", b"\xff"):
        offsets = pa.py_buffer(np.array([0, 2 + len(tail)], np.int64))
        array = pa.Array.from_buffers(pa.large_string(), 1, [None, offsets, pa.py_buffer(b"a " + tail + b"\x96zz")])
        assert first_words(array, 100).to_pylist() == ["a"]


@needs_lid
def test_languages_and_scores():
    found = load_model(str(LID)).identify(pa.array([*SAMPLES.values()]), top=2)
    assert found.codes[0].tolist() == [*SAMPLES]
    assert len(found.codes) == len(found.scores) == 2
    assert (found.scores[0] > 0.5).all()
    assert (found.scores[0] <= 1).all()
    assert (found.scores[1] < found.scores[0]).all()
    assert (found.codes[0] != found.codes[1]).all()


@needs_lid
def test_text_without_words_is_undetermined():
    found = load_model(str(LID)).identify(pa.array(["", "\n\t \x00", None, "hello"]), top=3)
    assert found.codes[0].tolist()[:3] == ["und"] * 3
    assert found.scores[0].tolist()[:3] == [0.0] * 3
    assert found.codes[1].tolist()[:3] == [None] * 3
    assert np.isnan(found.scores[2][:3]).all()
    assert found.codes[0][3] != "und"
    assert [len(rank) for rank in load_model(str(LID)).identify(pa.array([], pa.string())).codes] == [0, 0]


@needs_lid
def test_batches_do_not_change_an_answer_nor_does_another_process():
    model = load_model(str(LID))
    batch = pa.array([*SAMPLES.values()] * 3)
    whole = model.identify(batch)
    for number, text in enumerate(batch.to_pylist()):
        alone = model.identify(pa.array([text]))
        assert [rank[0] for rank in alone.codes] == [rank[number] for rank in whole.codes]
        assert [rank[0] for rank in alone.scores] == [rank[number] for rank in whole.scores]
    code = (
        "import sys, pyarrow as pa; from pipeline.language import load_model; "
        "print([s.hex() for s in load_model(sys.argv[1]).identify(pa.array(sys.argv[2:])).scores[0].tolist()])"
    )
    run = subprocess.run(
        [sys.executable, "-c", code, str(LID), *SAMPLES.values()], capture_output=True, text=True, check=True
    )
    assert run.stdout.strip() == str([score.hex() for score in whole.scores[0][:7].tolist()])
    assert run.stderr == ""


@needs_lid
def test_a_text_is_judged_by_its_first_bytes():
    text = SAMPLES["zh"] * 40 + SAMPLES["en"] * 4000
    model = load_model(str(LID))
    assert model.identify(pa.array([text]), limit_bytes=1000).codes[0][0] == "zh"
    assert model.identify(pa.array([text]), limit_bytes=1_000_000).codes[0][0] == "en"


@needs_lid
@pytest.mark.skipif(not SENTENCES.is_file(), reason="the sentences of lingua are not on this machine")
def test_accuracy_on_the_sentences_of_lingua():
    with gzip.open(SENTENCES, "rt", encoding="utf-8") as stream:
        rows = [json.loads(line) for line in stream]
    rows = [row for row in rows if row["lang"] in ("en", "zh", "es", "ru", "pt", "ja", "ko", "de", "fr")]
    found = load_model(str(LID)).identify(pa.array([row["text"] for row in rows]))
    assert np.mean([code == row["lang"] for code, row in zip(found.codes[0], rows, strict=True)]) > 0.95


@needs_lid
def test_the_digest_is_of_the_file():
    assert LID is not None
    assert model_sha256(LID) == hashlib.sha256(LID.read_bytes()).hexdigest()


@needs_lid
@pytest.mark.parametrize("size", [0, 3, 8, 40, 90, 5000, 500_000, -1])
def test_a_model_that_was_cut_off_is_refused(tmp_path: Path, size: int):
    assert LID is not None
    path = tmp_path / "cut.ftz"
    path.write_bytes(LID.read_bytes()[:size])
    with pytest.raises(ValueError, match=r"cut\.ftz is a damaged fastText model of \d+ bytes; download it again"):
        load_model(path)


@pytest.mark.parametrize("content", [b"this is not a model at all", bytes(100)])
def test_other_files_are_refused(tmp_path: Path, content: bytes):
    path = tmp_path / "model.bin"
    path.write_bytes(content)
    with pytest.raises(ValueError, match=r"model\.bin is not a fastText model"):
        load_model(path)


@needs_lid
def test_a_model_that_is_no_classifier_is_refused(tmp_path: Path):
    assert LID is not None
    path = tmp_path / "vectors.bin"
    path.write_bytes(LID.read_bytes().replace(b"__label__", b"__other__"))
    with pytest.raises(ValueError, match=r"vectors\.bin is a fastText model, but not a classifier of languages"):
        load_model(path)


def test_a_missing_model_is_named(tmp_path: Path):
    for use in (load_model, model_sha256):
        with pytest.raises(ValueError, match=r"no language identification model at .*gone\.ftz"):
            use(tmp_path / "gone.ftz")


def test_a_configured_path_is_taken(tmp_path: Path):
    assert model_path(str(tmp_path / "x.ftz")) == tmp_path / "x.ftz"
