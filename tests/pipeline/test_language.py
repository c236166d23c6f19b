from __future__ import annotations

import gzip
import json
import re
import subprocess
import sys
from pathlib import Path

import numpy as np
import pyarrow as pa
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from pipeline.language import Languages, identify, load_model, model_path, pieces, scripts_of
from pipeline.quality.gopher import GopherQuality
from pipeline.text.arrow import utf8_view
from pipeline.text.tables import SCRIPTS
from tests.pipeline.fasttext_models import train_fasttext
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


def languages(batch: pa.Array | pa.ChunkedArray | list[str | None], top: int = 2, limit: int = 2048) -> Languages:
    array = pa.array(batch, pa.large_string()) if isinstance(batch, list) else batch
    return identify(load_model(str(LID)), array, top, limit)


def cut(text: str, limit: int) -> list[bytes]:
    view = utf8_view(pa.array([text], pa.large_string()))
    starts, ends, firsts = pieces(view.starts, view.ends, view.data, limit)
    assert firsts.tolist() == [0, len(starts)]
    return [bytes(view.data[start:end]) for start, end in zip(starts, ends, strict=True)]


def words(text: bytes) -> list[bytes]:
    """What stands between white space and controls of ASCII, as fastText and `pipeline.fasttext_model` see it."""
    return [word for word in re.split(rb"[\x00-\x20\x7f]", text) if word]


@given(st.lists(texts, min_size=1, max_size=60).map(" ".join), st.sampled_from([64, 300, 600, 1 << 40]))
@settings(max_examples=150, deadline=None)
def test_pieces_hold_the_document_or_so_much_of_it(text: str, limit: int):
    found = cut(text, limit)
    raw = text.encode()
    if len(raw) <= limit:
        assert b"".join(found) == raw
        assert all(words(b"".join(found[:n])) + words(b"".join(found[n:])) == words(raw) for n in range(len(found)))
    else:
        assert sum(map(len, found)) <= 2 * limit
        at = 0
        for piece in found:
            at = raw.index(piece, at) + len(piece)
            piece.decode()  # no character is cut
        assert raw.startswith(found[0])
        assert raw.endswith(found[-1])


def test_a_long_document_is_read_from_its_beginning_to_its_end():
    text = " ".join(f"word{number:05}" for number in range(10_000))
    found = cut(text, 2048)
    assert len(found) == 8
    numbers = [int(piece.split()[0].removeprefix(b"word")) for piece in found]
    assert numbers[0] == 0
    assert np.allclose(np.diff(numbers), 10_000 / 7, rtol=0.05)
    assert b"word09999" in found[-1]


def test_pieces_of_broken_utf8_stay_in_bounds():
    for tail in (b"\xe4", b"\xf0\x9f\x98", b"\xc3", b"\xff", b"\x80" * 700):
        raw = b"a " + tail
        buffer = pa.py_buffer(raw + b"\x96zz")
        array = pa.Array.from_buffers(pa.large_string(), 1, [None, pa.py_buffer(np.array([0, len(raw)])), buffer])
        view = utf8_view(array)
        starts, ends, _ = pieces(view.starts, view.ends, view.data, 128)
        assert (starts >= 0).all()
        assert (ends <= len(raw)).all()
        assert (starts <= ends).all()


@needs_lid
@given(arrays())
@settings(max_examples=40, deadline=None)
def test_any_array_gives_the_languages_of_its_texts(array: pa.Array | pa.ChunkedArray):
    found = languages(array)
    for number, text in enumerate(array.to_pylist()):
        alone = languages([text])
        assert [rank[0] for rank in alone.codes] == [rank[number] for rank in found.codes]
        assert [rank[0].tobytes() for rank in alone.scores] == [rank[number].tobytes() for rank in found.scores]


@needs_lid
def test_languages_and_scores():
    found = languages([*SAMPLES.values()])
    assert found.codes[0].tolist() == [*SAMPLES]
    assert len(found.codes) == len(found.scores) == 2
    assert (found.scores[0] > 0.5).all()
    assert (found.scores[0] <= 1).all()
    second = found.scores[1][~np.isnan(found.scores[1])]
    assert (second < 0.5).all()
    assert (found.codes[0] != found.codes[1]).all()
    assert (found.other_fraction == 0).all()
    assert (found.script_fraction == 1).all()


@needs_lid
def test_text_without_words_is_undetermined():
    found = languages(["", "\n\t \x00", None, "hello"], top=3)
    assert found.codes[0].tolist()[:3] == ["und"] * 3
    assert found.scores[0].tolist()[:3] == [0.0] * 3
    assert found.codes[1].tolist()[:3] == [None] * 3
    assert np.isnan(found.scores[2][:3]).all()
    assert np.isnan(found.script_fraction[:3]).all()
    assert found.codes[0][3] != "und"
    assert [len(rank) for rank in languages(pa.array([], pa.string())).codes] == [0, 0]


@needs_lid
def test_another_process_gives_the_same_scores():
    code = (
        "import sys, pyarrow as pa; from pipeline.language import identify, load_model; "
        "print([s.hex() for s in identify(load_model(sys.argv[1]), pa.array(sys.argv[2:])).scores[0].tolist()])"
    )
    run = subprocess.run(
        [sys.executable, "-c", code, str(LID), *SAMPLES.values()], capture_output=True, text=True, check=True
    )
    assert run.stdout.strip() == str([score.hex() for score in languages([*SAMPLES.values()]).scores[0].tolist()])
    assert run.stderr == ""


@needs_lid
def test_a_document_that_mixes_languages_says_so():
    english, chinese = SAMPLES["en"] + "\n", SAMPLES["zh"] + "\n"
    found = languages([english * 60, english * 45 + chinese * 20, english * 2 + chinese * 90])
    assert found.codes[0].tolist() == ["en", "en", "zh"]
    assert found.other_fraction[0] == 0
    assert 0.1 < found.other_fraction[1] < 0.5
    assert found.other_fraction[2] < 0.15


@needs_lid
def test_the_script_contradicts_a_wrong_answer():
    # Letters of Gothic are unknown to the model, which takes the text for a language by its punctuation.
    found = languages(["𐌰𐍄𐍄𐌰 𐌿𐌽𐍃𐌰𐍂 𐌸𐌿 𐌹𐌽 𐌷𐌹𐌼𐌹𐌽𐌰𐌼 the", SAMPLES["ru"]])
    assert found.script_fraction[0] < 0.2
    assert found.script_fraction[1] == 1


@pytest.mark.parametrize(
    ("language", "scripts"),
    [
        ("en", ("Latin",)),
        ("zh", ("Han", "Bopomofo")),
        ("cmn_Hani", ("Han", "Bopomofo")),
        ("srp_Cyrl", ("Cyrillic",)),
        ("xxx_Zzzz", None),
    ],
)
def test_scripts_of_languages(language: str, scripts: tuple[str, ...] | None):
    assert scripts_of(language) == scripts


@needs_lid
def test_every_language_of_the_model_has_scripts_that_the_scan_knows():
    for label in load_model(str(LID)).labels:
        assert set(scripts_of(label) or ()) <= set(SCRIPTS)
        assert scripts_of(label)


@needs_lid
@pytest.mark.skipif(not SENTENCES.is_file(), reason="the sentences of lingua are not on this machine")
def test_accuracy_on_the_sentences_of_lingua():
    with gzip.open(SENTENCES, "rt", encoding="utf-8") as stream:
        rows = [json.loads(line) for line in stream]
    known = set(load_model(str(LID)).labels)
    rows = [row for row in rows if row["lang"] in known]
    found = languages([row["text"] for row in rows])
    right = np.array([code == row["lang"] for code, row in zip(found.codes[0], rows, strict=True)])
    assert right.mean() == pytest.approx(0.893, abs=0.001)  # what fastText itself gives
    assert right[found.script_fraction < 0.5].mean() < 0.7  # the script is evidence


def test_the_configured_model_is_taken(tmp_path: Path):
    (tmp_path / "some.bin").touch()
    assert model_path(str(tmp_path / "some.bin")) == tmp_path / "some.bin"
    with pytest.raises(ValueError, match="no language identification model"):
        model_path(str(tmp_path / "other.bin"))


def test_a_model_with_the_labels_of_glotlid(tmp_path: Path):
    path = train_fasttext(tmp_path / "model.bin", dim=8, loss="softmax")
    renamed = {b"cold": b"eng_Latn", b"hot": b"cmn_Hani", b"wet": b"rus_Cyrl"}
    content = path.read_bytes()
    for old, new in renamed.items():
        content = content.replace(b"__label__" + old + b"\0", b"__label__" + new + b"\0")
    path.write_bytes(content)
    found = identify(load_model(path), pa.array(["snow ice frost", "sun fire 火 夏 夏", "rain море море море"]))
    assert found.codes[0].tolist() == ["eng_Latn", "cmn_Hani", "rus_Cyrl"]
    assert found.script_fraction.tolist() == [1.0, pytest.approx(3 / 10), pytest.approx(12 / 16)]
    zh = GopherQuality().rules("cmn_Hani")
    assert {rule.name: rule.threshold for rule in zh}["gopher_quality.minimum_words"] == 80
