from __future__ import annotations

import io
import random

import numpy as np
import pyarrow as pa
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from pipeline.perplexity import file
from pipeline.perplexity.model import _BLOCK, NgramModel, spread
from pipeline.text.arrow import large_strings
from pipeline.text.scan import word_hashes
from tests.pipeline.perplexity.corpora import prose, shuffled, train
from tests.pipeline.perplexity.reference import PlainKneserNey

WORDS = ("a", "b", "c", "dd", "ee", "字", "水")
UNSEEN = "unseen"

documents = st.lists(st.sampled_from(WORDS), max_size=25)
corpora = st.lists(documents, min_size=1, max_size=8).filter(any)


def text(words) -> str:
    return " ".join(words)


def word_scores(model: NgramModel, words) -> np.ndarray:
    return model.log_probabilities(word_hashes(pa.array([text(words)])))[1]


@settings(max_examples=80, deadline=None)
@given(
    corpora,
    st.lists(st.lists(st.sampled_from((*WORDS, UNSEEN)), min_size=1, max_size=12), min_size=1, max_size=2),
    st.integers(1, 5),
    st.integers(1, 3),
    st.sampled_from(((1,), (1, 2, 2, 2), (2, 2, 3))),
)
def test_equals_the_plain_statement_of_the_papers(corpus, scored, order, minimum_word_count, minimum_counts):
    values = {"minimum_word_count": minimum_word_count, "minimum_counts": minimum_counts}
    model = train([text(words) for words in corpus], order=order, **values)
    plain = PlainKneserNey(corpus, order, **values)
    for words in [*scored, *filter(None, corpus)]:
        found, expected = word_scores(model, words), plain.log_probabilities(words)
        assert np.exp(found) == pytest.approx(np.exp(expected), abs=1e-6)
        assert found == pytest.approx(expected, abs=1e-5)
        assert model.perplexity(pa.array([text(words)]))[0].as_py() == pytest.approx(plain.perplexity(words), rel=1e-5)


@pytest.fixture(scope="module")
def long_corpus() -> list[list[str]]:
    """Enough words for discounts of every order that are estimated and not the fallback."""
    chosen = random.Random(3)
    names = [f"w{number}" for number in range(500)]
    weights = [1 / (rank + 1) ** 1.2 for rank in range(500)]
    return [chosen.choices(names, weights, k=chosen.randrange(1, 200)) for _ in range(60)]


@pytest.mark.parametrize("minimum_counts", [(1,), (1, 2, 2, 2)])
def test_estimated_discounts_and_documents_of_several_blocks(long_corpus, minimum_counts):
    model = train([text(words) for words in long_corpus], minimum_counts=minimum_counts)
    plain = PlainKneserNey(long_corpus, 5, 2, minimum_counts)
    assert [0.5, 1.0, 1.5] not in model.facts.discounts[:3]
    assert model.facts.discounts == [pytest.approx(plain.discount[n][1:]) for n in range(1, 6)]
    long = [word for words in long_corpus for word in words][: 2 * _BLOCK + 7]
    for words in (long, long[: _BLOCK - 1], long[:_BLOCK], long[: _BLOCK + 1]):
        assert word_scores(model, words) == pytest.approx(plain.log_probabilities(words), abs=1e-5)


@pytest.mark.parametrize("minimum_word_count", [1, 2])
@pytest.mark.parametrize("minimum_counts", [(1,), (1, 2, 2, 2)])
def test_probabilities_of_the_vocabulary_sum_to_one(long_corpus, minimum_word_count, minimum_counts):
    corpus = [*long_corpus, ["rare"]]
    values = {"minimum_word_count": minimum_word_count, "minimum_counts": minimum_counts}
    model = train([text(words) for words in corpus], **values)
    plain = PlainKneserNey(corpus, 5, minimum_word_count, minimum_counts)
    vocabulary = sorted(plain.vocabulary)
    chosen = random.Random(1)
    for length in (0, 1, 2, 3, 4, 7):
        for _ in range(5):
            context = chosen.choices([*vocabulary, UNSEEN], k=length)
            if length > 2 and chosen.random() < 0.6:
                source = chosen.choice([words for words in corpus if len(words) > length])
                context = source[:length]
            ends = [*vocabulary, UNSEEN]
            scores = [word_scores(model, [*context, end])[length] for end in ends]
            # A document is never empty, so that </s> cannot be scored as its first word.
            ended = np.exp(word_scores(model, context)[-1]) if context else plain.probability("</s>", ("<s>",))
            assert np.exp(scores).sum() + ended == pytest.approx(1, abs=1e-5)


TEXTS = [prose(1, 40), "", "Дом стоит у реки. " * 4, "...", "水在渠里流。" * 9, "the", None, prose(2, 3), "x" * 5000]


def test_batches_chunks_and_slices_change_nothing():
    model = train([prose(seed, 30) for seed in range(10)])
    whole = model.perplexity(pa.array(TEXTS, pa.large_string()))
    assert [value is None for value in whole.to_pylist()] == [not text or text == "..." for text in TEXTS]
    single = [model.perplexity(pa.array([text], pa.string()))[0] for text in TEXTS]
    assert whole.to_pylist() == [value.as_py() for value in single]
    chunked = pa.chunked_array([TEXTS[:2], [], TEXTS[2:5], TEXTS[5:]], pa.large_string())
    assert model.perplexity(chunked).equals(whole)
    assert model.perplexity(pa.array(["before", *TEXTS], pa.string())[1:]).equals(whole)
    assert model.perplexity(pa.array([], pa.string())).to_pylist() == []


def test_lines_and_case_and_punctuation_do_not_matter():
    model = train([prose(seed, 30) for seed in range(10)])
    text = prose(77, 9)
    values = model.perplexity(pa.array([text, text.replace("\n", " "), text.upper(), text.replace(".", " !")]))
    assert len(set(values.to_pylist())) == 1


def test_prose_is_likelier_than_its_words_shuffled_and_than_another_language():
    model = train([prose(seed, 60) for seed in range(20)])
    for seed in range(100, 110):
        text = prose(seed, 12)
        plain, mixed, foreign = model.perplexity(pa.array([text, shuffled(text, seed), "水在渠里流" * 20])).to_pylist()
        assert 1 < plain < mixed / 2
        assert mixed < foreign


def test_how_documents_come_in_parts_does_not_change_the_model():
    texts = [prose(seed, 8) for seed in range(12)] + ["", "once"]
    whole, parts = io.BytesIO(), io.BytesIO()
    file.save(train(texts), whole)
    array = pa.array(texts, pa.string())
    file.save(NgramModel.train([word_hashes(array[:5]), word_hashes(array[5:6]), word_hashes(array[6:])]), parts)
    assert whole.getvalue() == parts.getvalue()


@settings(max_examples=100, deadline=None)
@given(st.lists(st.binary(max_size=60), min_size=1, max_size=6), st.binary(max_size=8))
def test_arbitrary_bytes_are_read_inside_their_document_only(raw, outside):
    data = np.frombuffer(outside + b"".join(raw) + outside, np.uint8)
    offsets = len(outside) + np.cumsum([0, *map(len, raw)])
    exact = [large_strings(np.array([0, len(one)]), np.frombuffer(one, np.uint8).copy()) for one in raw]
    found = FUZZED.perplexity(large_strings(offsets.astype(np.int64), data))
    assert found.to_pylist() == [FUZZED.perplexity(one)[0].as_py() for one in exact]
    assert all(value is None or 1 <= value < np.inf for value in found.to_pylist())


FUZZED = train([prose(seed, 10) for seed in range(4)] + ["水在渠里流"])


def test_hashes_that_are_the_tables_own_keys_are_words_like_others():
    special = np.arange(6, dtype=np.uint64)
    offsets = np.array([0, 60], np.int64)
    model = NgramModel.train([(offsets, np.tile(special, 10))], minimum_word_count=1)
    assert model.facts.ngrams[0] == 3 + 6
    in_order, _ = model.log_probabilities((np.array([0, 6]), special))
    backwards, _ = model.log_probabilities((np.array([0, 6]), special[::-1].copy()))
    assert in_order[0] > backwards[0] + 3


def test_a_long_document_without_spaces():
    model = train(["水在渠里流" * 5, "w" * 100])
    one, many = model.perplexity(pa.array(["w" * 3_000_000, "水" * 500_000])).to_pylist()
    assert one > 1
    assert many > 1


def test_short_documents_do_not_reach_the_order():
    model = train(["a b", "a"], order=5, minimum_word_count=1, minimum_counts=[1])
    plain = PlainKneserNey([["a", "b"], ["a"]], 5)
    assert len(model.facts.ngrams) == 4
    assert word_scores(model, ["a", "b", "a"]) == pytest.approx(plain.log_probabilities(["a", "b", "a"]), abs=1e-6)


def test_user_mistakes():
    with pytest.raises(ValueError, match="order is 0"):
        train(["a"], order=0)
    with pytest.raises(ValueError, match="no word to train on"):
        train(["", "..."])
    with pytest.raises(ValueError, match="minimum_counts"):
        train(["a"], minimum_counts=[2, 1])
    with pytest.raises(ValueError, match="at least 1"):
        spread([0], 3)
    assert spread([1, 2], 5) == [1, 2, 2, 2]
    assert spread([1, 2, 3, 4], 2) == [1]
    with pytest.raises(TypeError, match="int64"):
        train(["a b"]).perplexity(pa.array([1]))
