from __future__ import annotations

import gzip
import hashlib
import json
import math
from collections import Counter
from pathlib import Path

import numpy as np
import pytest

from tests.training.small_models import one_thread, tiny_model, tiny_tokenizer
from training.evaluation.minimal_pairs import Pair, accuracy_facts, evaluate_pairs, read_pairs, win
from training.evaluation.scoring import token_log_probabilities
from training.evaluation.templates import LANGUAGES, expand, template_pairs

__all__ = ["one_thread"]

BLIMP = Path(__file__).parents[2] / "../shared/data/eval/blimp_67x1000.jsonl.gz"


def test_templates_give_a_hundred_distinct_pairs_of_ten_phenomena_in_both_languages() -> None:
    pairs = template_pairs(list(LANGUAGES), 110)
    assert {pair.language for pair in pairs} == {"en", "zh"}
    sizes = Counter((pair.language, pair.phenomenon) for pair in pairs)
    assert min(sizes.values()) >= 100
    assert min(Counter(language for language, _ in sizes).values()) >= 10
    assert len(set(pairs)) == len(pairs)
    assert not any("{" in sentence or "|" in sentence for pair in pairs for sentence in (pair.good, pair.bad))


def test_no_sentence_is_good_in_one_pair_and_bad_in_another() -> None:
    pairs = template_pairs(list(LANGUAGES), 10_000)
    assert {pair.good for pair in pairs}.isdisjoint(pair.bad for pair in pairs)


def test_pairs_are_of_the_same_length_in_words_or_characters() -> None:
    for pair in template_pairs(list(LANGUAGES), 110):
        unit = str.split if pair.language == "en" else list
        lengths = len(unit(pair.good)), len(unit(pair.bad))  # type: ignore[operator]
        assert lengths[0] == lengths[1], pair


def test_the_words_of_a_template_are_used_evenly() -> None:
    pairs = [pair for pair in template_pairs(["en"], 112) if pair.phenomenon == "verb_object_order"]
    subjects = Counter(pair.good.split()[1] for pair in pairs)
    assert len(subjects) == 14
    assert max(subjects.values()) - min(subjects.values()) <= 1
    assert len({(pair.good.split()[1], pair.good.split()[2]) for pair in pairs}) > 60


def test_the_digest_of_the_pairs_stays_the_same() -> None:
    text = "\n".join(f"{pair.good}\t{pair.bad}" for pair in template_pairs(["en", "zh"], 20))
    assert (
        hashlib.sha256(text.encode()).hexdigest()[:16] == "72a58fddabb3c571"
    )  # else results of different versions do not compare


def test_expansion_keeps_variables_and_never_repeats_a_word() -> None:
    data = {
        "language": "xx",
        "lexicon": {"n": {"forms": ["one", "many"], "words": ["a|as", "b|bs", "c|cs"]}},
        "phenomena": [
            {"name": "p", "templates": [{"good": "{x:n} {y:n.many} {x:n.many}", "bad": "{x:n} {y:n} {x:n}"}]}
        ],
    }
    pairs = expand(data, 100)
    assert len(pairs) == 6
    assert Pair("A bs as", "A b a", "p", "xx") in pairs


def test_a_template_with_an_unknown_word_class_is_refused() -> None:
    data = {"language": "xx", "lexicon": {}, "phenomena": [{"name": "p", "templates": [{"good": "{x:n}", "bad": ""}]}]}
    with pytest.raises(ValueError, match=r"'\{x:n\}': the lexicon has no n"):
        expand(data, 1)


def test_an_unknown_language_is_refused() -> None:
    with pytest.raises(ValueError, match="no templates for language 'de'; there are en, zh"):
        template_pairs(["de"], 1)


def test_accuracy_counts_ties_half_and_carries_its_standard_error() -> None:
    totals = {"good": -1.0, "worse": -2.0, "tie": -1.0}
    pairs = [
        Pair("good", "worse", "p", "en"),
        Pair("worse", "good", "p", "en"),
        Pair("good", "tie", "q", "en"),
        Pair("good", "worse", "q", "zh"),
    ]
    names = list(totals)
    results = evaluate_pairs(
        pairs,
        lambda sentences: [np.array([names.index(sentence)]) for sentence in sentences],
        lambda ids: [np.array([totals[names[int(token[0])]]]) for token in ids],
    )
    assert results["overall"] == {
        "accuracy": 2.5 / 4,
        "standard_error": pytest.approx(math.sqrt(0.625 * 0.375 / 4)),
        "pairs": 4,
        "chance": 0.5,
    }
    assert {name: facts["accuracy"] for name, facts in results["phenomena"].items()} == {
        "en/p": 0.5,
        "en/q": 0.5,
        "zh/q": 1.0,
    }
    assert results["languages"]["en"]["pairs"] == 3
    assert win(-1.0, -1.0) == 0.5
    assert accuracy_facts(np.ones(3))["standard_error"] == 0


def test_a_sentence_scores_the_same_alone_and_in_a_batch() -> None:
    tokenizer = tiny_tokenizer()
    model = tiny_model(tokenizer.get_vocab_size(), context_length=24)
    pairs = template_pairs(["en", "zh"], 4)
    ids = [np.array(tokenizer.encode(sentence).ids) for pair in pairs for sentence in (pair.good, pair.bad)]
    assert len({len(tokens) for tokens in ids}) > 5
    assert max(map(len, ids)) > 24  # some need two windows
    together = token_log_probabilities(model, ids, 0)
    for tokens, scores in zip(ids, together, strict=True):
        (alone,) = token_log_probabilities(model, [tokens], 0)
        np.testing.assert_allclose(scores, alone, atol=2e-4)
        assert scores.shape == tokens.shape
        assert (scores < 0).all()


def test_a_file_of_blimps_form_is_read(tmp_path: Path) -> None:
    rows = [
        {"sentence_good": "A.", "sentence_bad": "B.", "UID": "u", "field": "syntax"},
        {"sentence_good": "C.", "sentence_bad": "D.", "language": "zh"},
        {"sentence_good": "E.", "sentence_bad": "F.", "UID": "u"},
    ]
    text = "\n".join(json.dumps(row) for row in rows) + "\n\n"
    path = tmp_path / "own.jsonl.gz"
    path.write_bytes(gzip.compress(text.encode()))
    assert read_pairs(path) == [Pair("A.", "B.", "u", "en"), Pair("C.", "D.", "own", "zh"), Pair("E.", "F.", "u", "en")]
    assert len(read_pairs(path, limit=1)) == 2


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b'{"sentence_good": "A", "sentence_bad": "B"}\n{"sentence_good": "A"}\n', "line 2: sentence_bad must be"),
        (b'{"sentence_good": "A", "sentence_bad": "B"}\n{"sent\n', "line 2: "),
        (b"[1]\n", "line 1: expected a JSON object"),
        (b'{"sentence_good": "A", "sentence_bad": "B"}\n\xff\xfe\n', "cannot be read after line"),
        (b"\n", "holds no pair"),
    ],
)
def test_a_broken_file_is_refused_with_its_line(tmp_path: Path, content: bytes, message: str) -> None:
    path = tmp_path / "broken.jsonl"
    path.write_bytes(content)
    with pytest.raises(ValueError, match=message):
        read_pairs(path)


def test_a_truncated_gzip_and_a_missing_file_are_refused(tmp_path: Path) -> None:
    path = tmp_path / "cut.jsonl.gz"
    row = json.dumps({"sentence_good": "A", "sentence_bad": "B"}) + "\n"
    path.write_bytes(gzip.compress((row * 500).encode())[:-12])
    with pytest.raises(ValueError, match=r"cut.jsonl.gz: cannot be read after line"):
        read_pairs(path)
    with pytest.raises(ValueError, match="cannot be read after line 0"):
        read_pairs(tmp_path / "absent.jsonl")


@pytest.mark.skipif(not BLIMP.exists(), reason="BLiMP is not at hand")
def test_blimp_itself_works() -> None:
    pairs = read_pairs(BLIMP, limit=2)
    assert len({pair.phenomenon for pair in pairs}) == 67
    tokenizer = tiny_tokenizer()
    model = tiny_model(tokenizer.get_vocab_size(), context_length=32)
    results = evaluate_pairs(
        pairs,
        lambda sentences: [np.array(encoding.ids) for encoding in tokenizer.encode_batch(sentences)],
        lambda ids: token_log_probabilities(model, ids, 0),
    )
    assert results["overall"]["pairs"] == len(pairs) == 134
    assert len(results["phenomena"]) == 67
