from __future__ import annotations

import io
import json
import random
from pathlib import Path

import numpy as np
import pyarrow as pa
import pytest

from pipeline.perplexity.file import ALIGNMENT, MAGIC, digest, load, load_once, save
from pipeline.perplexity.model import NgramModel
from tests.pipeline.perplexity.corpora import prose, train

TEXTS = pa.array([prose(9, 5), "水在渠里流", ""])


@pytest.fixture(scope="module")
def model() -> NgramModel:
    return train([prose(seed, 20) for seed in range(5)])


@pytest.fixture
def path(model: NgramModel, tmp_path: Path) -> Path:
    with open(tmp_path / "en.ngrams", "wb") as stream:
        save(model, stream)
    return tmp_path / "en.ngrams"


def test_a_file_gives_the_model_back(model: NgramModel, path: Path):
    found = load(path)
    assert isinstance(found.slots, np.memmap)
    assert found.facts == model.facts
    assert np.array_equal(found.slots, model.slots)
    assert found.perplexity(TEXTS).equals(model.perplexity(TEXTS))
    again = io.BytesIO()
    save(found, again)
    assert again.getvalue() == path.read_bytes()
    assert load_once(path) is load_once(path)


def test_layout(path: Path, model: NgramModel):
    data = path.read_bytes()
    assert data.startswith(MAGIC)
    start = 16 + int.from_bytes(data[8:16], "little")
    assert start % ALIGNMENT == 0
    assert json.loads(data[16:start])["facts"]["words"] == model.facts.words
    assert data[start:] == model.slots.tobytes()


def test_every_cut_and_many_changed_bytes_are_told(path: Path, tmp_path: Path):
    data = path.read_bytes()
    chosen = random.Random(0)
    broken = tmp_path / "broken"
    for cut in [0, 1, 7, 8, 15, 16, 17, 100, *chosen.sample(range(len(data)), 30), len(data) - 1]:
        broken.write_bytes(data[:cut])
        with pytest.raises(ValueError, match="n-gram model"):
            load(broken)
    for at in [*range(16), *chosen.sample(range(len(data)), 60)]:
        changed = bytearray(data)
        changed[at] ^= 1 << chosen.randrange(8)
        broken.write_bytes(changed)
        with pytest.raises(ValueError, match="n-gram model"):
            load(broken)
    broken.write_bytes(data + b"x")
    with pytest.raises(ValueError, match="bytes instead of"):
        load(broken)


def with_header(data: bytes, **changes) -> bytes:
    start = 16 + int.from_bytes(data[8:16], "little")
    header = {**json.loads(data[16:start]), **changes}
    header.pop("sha256")
    encoded = json.dumps({**header, "sha256": digest(header, memoryview(data)[start:])}).encode()
    encoded += b" " * (-(16 + len(encoded)) % ALIGNMENT)
    return MAGIC + len(encoded).to_bytes(8, "little") + encoded + data[start:]


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"scan_version": 999}, "words of scan 999"),
        ({"unicode_version": "1.0"}, "Unicode 1.0"),
        ({"bases": [0, 5]}, "does not have the orders"),
        ({"bases": []}, "does not have the orders"),
        ({"bases": "no"}, "damaged"),
        ({"special": [0, 1, 10**9]}, "special words"),
        ({"facts": {}}, "damaged"),
        ({"table_bytes": None}, "cut off"),
    ],
)
def test_headers_that_do_not_fit(path: Path, changes, message):
    path.write_bytes(with_header(path.read_bytes(), **changes))
    with pytest.raises(ValueError, match=message):
        load(path)


def test_files_that_are_no_models(tmp_path: Path):
    with pytest.raises(ValueError, match="there is no n-gram model at"):
        load(tmp_path / "gone")
    with pytest.raises(ValueError, match="there is no n-gram model at"):
        load_once(tmp_path / "gone")
    (tmp_path / "text").write_text("\\data\\\nngram 1=3\n")
    with pytest.raises(ValueError, match="is not an n-gram model"):
        load(tmp_path / "text")
