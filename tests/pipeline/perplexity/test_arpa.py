from __future__ import annotations

import math
from pathlib import Path

import pyarrow as pa
import pytest

from benchmarks.perplexity import write_arpa
from pipeline.perplexity.arpa import from_arpa
from pipeline.text.scan import word_hashes
from tests.pipeline.perplexity.corpora import prose, train

SMALL = """\\data\\
ngram 1=7
ngram 2=5
ngram 3=1

\\1-grams:
-2.0\t<unk>
-99\t<s>\t-0.3
-1.0\t</s>
-0.5\tthe\t-0.2
-0.9\tThe\t-0.7
-0.8\tmill\t-0.1
-0.6\t,\t-0.4

\\2-grams:
-0.25\t<s> the\t-0.05
-0.35\tthe mill\t-0.15
-0.45\tmill </s>
-0.30\t, the\t0
-0.95\t<s> The

\\3-grams:
-0.15\t<s> the mill

\\end\\
"""


def scores(path: Path, text: str) -> list[float]:
    return (from_arpa(path).log_probabilities(word_hashes(pa.array([text])))[1] / math.log(10)).tolist()


@pytest.fixture
def path(tmp_path: Path) -> Path:
    (tmp_path / "small.arpa").write_text(SMALL)
    return tmp_path / "small.arpa"


def test_hand_made_model(path: Path):
    assert scores(path, "the mill") == pytest.approx([-0.25, -0.15, -0.15 - 0.45])
    assert scores(path, "The, MILL!") == pytest.approx([-0.25, -0.15, -0.15 - 0.45])
    # mill after <s>: back-off of <s>; the after mill: that of mill (<s> mill is unknown); </s> after the: that of the.
    assert scores(path, "mill the") == pytest.approx([-0.3 - 0.8, -0.1 - 0.5, -0.2 - 1.0])
    assert scores(path, "wheel") == pytest.approx([-0.3 - 2.0, -1.0])
    assert scores(path, "the wheel the mill") == pytest.approx([-0.25, -0.05 - 0.2 - 2.0, -0.5, -0.35, -0.15 - 0.45])
    facts = from_arpa(path).facts
    assert (facts.order, facts.ngrams) == (3, [5, 3, 1])


@pytest.mark.parametrize("minimum_counts", [[1], [1, 2, 2, 2]])
def test_a_model_written_as_arpa_gives_the_same_perplexities(tmp_path: Path, minimum_counts: list[int]):
    texts = [prose(seed, 20).lower().replace(".", "") for seed in range(6)]
    write_arpa(texts, tmp_path / "m.arpa", 5, 2, minimum_counts)
    array = pa.array([*texts, "unknown words follow", prose(99, 5), ""])
    expected = train(texts, minimum_counts=minimum_counts).perplexity(array)
    assert from_arpa(tmp_path / "m.arpa").perplexity(array).to_pylist() == [
        value if value is None else pytest.approx(value, rel=1e-5) for value in expected.to_pylist()
    ]


@pytest.mark.parametrize(
    ("old", "new", "message"),
    [
        ("\\data\\", "data", "does not begin"),
        ("\\end\\", "", "does not begin"),
        ("\\3-grams:", "\\4-grams:", "stands where"),
        ("-0.15\t<s> the mill", "-0.15\t<s> the", "a 3-gram has 3 fields"),
        ("-0.15\t<s> the mill", "x\t<s> the mill", "not a whole ARPA model"),
        ("-0.15\t<s> the mill", "0.15\t<s> the mill", "has no probability"),
        ("-0.15\t<s> the mill", "-0.15\t<s> the wheel", "not among the 1-grams"),
        ("-0.15\t<s> the mill", "-0.15\tmill the mill", "beginning of a 3-gram"),
        ("-0.15\t<s> the mill", "-0.15\t<s> the </s>", "end of a 3-gram"),
        ("-1.0\t</s>", "-1.0\tend", "1-grams lack </s>"),
    ],
)
def test_broken_files(path: Path, old: str, new: str, message: str):
    path.write_text(SMALL.replace(old, new))
    with pytest.raises(ValueError, match=message) as caught:
        from_arpa(path)
    assert str(path) in str(caught.value)


def test_files_that_cannot_be_read(tmp_path: Path):
    with pytest.raises(ValueError, match="cannot be read"):
        from_arpa(tmp_path / "gone.arpa")
    (tmp_path / "bytes.arpa").write_bytes(b"\\data\\\n\xff")
    with pytest.raises(ValueError, match="cannot be read"):
        from_arpa(tmp_path / "bytes.arpa")
