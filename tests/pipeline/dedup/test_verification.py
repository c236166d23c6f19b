from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import pyarrow as pa
import pytest
from hypothesis import given
from hypothesis import strategies as st
from numpy.typing import NDArray

from pipeline.dedup.components import component_twins
from pipeline.dedup.evidence import Evidence, shingle_records
from pipeline.dedup.shingles import shingle_hashes
from pipeline.dedup.verification import NONE, Thresholds, Verified, estimated_similarity, verified_twins
from pipeline.text.scan import word_hashes
from tests.pipeline.dedup.corpora import Writer, compiling

Words = Sequence[str]


def evidence(texts: Sequence[Words], length: int = 5, layout: Sequence[int] | None = None) -> Evidence:
    """Documents in order of preference, their ranks ten apart, their records in the order `layout`."""
    layout = range(len(texts)) if layout is None else layout
    joined = pa.array([" ".join(texts[number]) for number in layout], pa.large_string())
    offsets, hashes = shingle_hashes(*word_hashes(joined), length)
    placed_starts, placed_distinct, records = shingle_records(offsets, hashes)
    records.flags.writeable = False  # as if it were mapped
    place = np.argsort(np.array(layout, np.int64))
    signatures = np.arange(len(texts) * 4, dtype=np.uint32).reshape(len(texts), 4)
    signatures.flags.writeable = False
    ranks = 10 * np.arange(len(texts), dtype=np.uint32)
    columns = placed_starts[place], np.diff(offsets)[place], placed_distinct[place], records
    return Evidence(length, ranks, *columns, np.arange(len(texts)), signatures)


def packed(*pairs: tuple[int, int]) -> NDArray[np.uint64]:
    return np.array(sorted(10 * member << 32 | 10 * other for member, other in pairs), np.uint64)


def grams(text: Words, length: int) -> list[tuple[str, ...]]:
    return [tuple(text[start : start + length]) for start in range(max(1, len(text) - length + 1))] if text else []


def measures(text: Words, twin: Words, length: int) -> tuple[float, float, float]:
    """Coverage, containment and Jaccard similarity as they are defined."""
    of_text, of_twin = grams(text, length), set(grams(twin, length))
    covered = {at + place for at, gram in enumerate(of_text) if gram in of_twin for place in range(len(gram))}
    common = set(of_text) & of_twin
    return len(covered) / len(text), len(common) / len(set(of_text)), len(common) / len(set(of_text) | of_twin)


def stated(
    texts: Sequence[Words], pairs: set[tuple[int, int]], length: int, thresholds: Thresholds
) -> tuple[list[int], list[tuple[float, float, float]]]:
    """Twins and measures by the definition."""
    twins: list[int] = []
    figures = []
    for member, text in enumerate(texts):
        candidates = {other if twins[other] == NONE else twins[other] for one, other in pairs if one == member}
        held = [(*measures(text, texts[other], length), -other) for other in candidates if text]
        held = [of_one for of_one in held if all(map(float.__ge__, of_one, map(float, thresholds)))]
        twins.append(-max(held)[3] if held else NONE)
        figures.append(max(held)[:3] if held else (0.0, 0.0, 0.0))
    return twins, figures


def assert_as_stated(
    found: Verified, texts: Sequence[Words], pairs: set[tuple[int, int]], length: int, thresholds: Thresholds
) -> None:
    twins, figures = stated(texts, pairs, length, thresholds)
    assert found.twins.tolist() == twins
    assert list(zip(*map(np.ndarray.tolist, found[1:]), strict=True)) == figures


TEXT = st.lists(st.sampled_from("abc"), max_size=9) | st.lists(st.sampled_from(["x", "y"]), min_size=8, max_size=40)
SHARE = st.sampled_from([0.0, 0.25, 1 / 3, 0.5, 0.6, 2 / 3, 0.8, 1.0])


@st.composite
def corpora(draw: st.DrawFn) -> tuple[list[Words], set[tuple[int, int]]]:
    """Texts that have much in common, and pairs (member, more preferred)."""
    bases = draw(st.lists(TEXT, min_size=1, max_size=3))
    texts: list[Words] = []
    for _ in range(draw(st.integers(1, 8))):
        text = list(draw(st.sampled_from(bases)))
        for place in draw(st.lists(st.integers(0, 39), max_size=3)):
            text[place : place + 1] = draw(st.lists(st.sampled_from("abxy"), max_size=2))
        texts.append(text)
    number = st.integers(0, len(texts) - 1)
    edges = draw(st.sets(st.tuples(number, number), max_size=28))
    return texts, {(max(edge), min(edge)) for edge in edges if edge[0] != edge[1]}


@compiling
@given(corpora(), st.integers(1, 6), st.builds(Thresholds, SHARE, SHARE, SHARE), st.randoms(use_true_random=False))
def test_twins_are_those_of_the_definition(corpus, length, thresholds, random):
    texts, pairs = corpus
    layout = list(range(len(texts)))
    random.shuffle(layout)
    found = verified_twins(evidence(texts, length, layout), [packed(*pairs)], thresholds)
    assert_as_stated(found, texts, pairs, length, thresholds)


@pytest.mark.parametrize("thresholds", [Thresholds(0.85, 0, 0), Thresholds(0.7, 0.5, 0.4), Thresholds(0.9, 0.8, 0)])
def test_twins_of_a_corpus_of_versions(thresholds: Thresholds):
    writer = Writer(3, 400)
    random = np.random.default_rng(3)
    texts: list[Words] = []
    for _ in range(30):
        versions = [writer.write(int(random.integers(20, 300)))]
        for _ in range(7):  # of the original or of another version, so that chains arise
            text = writer.edit(versions[random.integers(len(versions))], float(random.choice([0, 0.02, 0.06, 0.1])))
            cut = int(random.integers(1 + len(text) // 4))
            versions.append([*text[cut:], *writer.write(int(random.integers(20)))])
        texts += versions
    texts.sort(key=len, reverse=True)
    pairs = {(member, int(other)) for member in range(1, len(texts)) for other in random.integers(0, member, 40)}
    found = verified_twins(evidence(texts), [packed(*pairs)], thresholds)
    assert 20 < np.count_nonzero(found.twins != NONE) < 220
    assert_as_stated(found, texts, pairs, 5, thresholds)
    gone = np.flatnonzero(found.twins != NONE)
    assert (found.twins[found.twins[gone]] == NONE).all()
    assert all(measures(texts[one], texts[found.twins[one]], 5)[0] >= thresholds.coverage for one in gone)


def numbered(*spans: tuple[int, int]) -> list[str]:
    return [f"w{number}" for start, end in spans for number in range(start, end)]


COVERED = Thresholds(0.8, 0, 0)


def test_a_chain_of_pairs_removes_only_what_a_kept_document_covers():
    texts = [numbered((start, start + 100)) for start in (0, 15, 30, 45)]
    pairs = [packed((1, 0), (2, 1)), packed((3, 2))]  # in batches
    found = verified_twins(evidence(texts), pairs, COVERED)
    assert found.twins.tolist() == [NONE, 0, NONE, 2]  # a holds 70 % of c, but c 85 % of d
    assert found.coverage.tolist() == [0, 0.85, 0, 0.85]
    assert found.containment.tolist() == [0, 81 / 96, 0, 81 / 96]
    assert found.jaccard.tolist() == [0, 81 / 111, 0, 81 / 111]
    assert component_twins(evidence(texts), pairs).tolist() == [NONE, 0, 0, 0]


def test_the_twin_of_a_candidate_that_went_is_asked_in_its_place():
    texts = [numbered((start, 100)) for start in (0, 5, 10)]
    assert verified_twins(evidence(texts), [packed((1, 0), (2, 1))], COVERED).twins.tolist() == [NONE, 0, 0]


def test_the_twin_is_the_candidate_that_covers_most():
    less, most, similar = numbered((10, 300)), numbered((5, 300)), numbered((5, 100), (900, 950))
    texts = [less, most, numbered((5, 300)), similar, numbered((0, 100))]
    pairs = [(4, 0), (4, 1), (4, 2)]
    assert verified_twins(evidence(texts), [packed(*pairs)], COVERED).twins.tolist() == [NONE] * 4 + [1]
    found = verified_twins(evidence(texts), [packed(*pairs, (4, 3))], COVERED)
    assert found.twins[4] == 3  # covers as much, and has less besides
    assert found.coverage[4] == 0.95


def test_coverage_tells_scattered_edits_from_a_template():
    original = numbered((0, 200))
    edited = [f"new{place}" if place % 20 == 10 else word for place, word in enumerate(original)]
    page = [*original[:160], *(f"own{place}" for place in range(40))]
    found = verified_twins(evidence([original, edited, page]), [packed((1, 0), (2, 0))], Thresholds(0.85, 0, 0))
    assert found.twins.tolist() == [NONE, 0, NONE]
    assert found.coverage[1] == 0.95
    assert found.containment[1] == 1 - 50 / 196  # less than the 156 / 196 of the page


def test_thresholds_are_least_values():
    texts = [numbered((0, 100)), numbered((0, 85), (900, 915))]
    pairs = [packed((1, 0))]
    for reached in ((0.85, 0, 0), (0, 81 / 96, 0), (0, 0, 81 / 111), (0.85, 81 / 96, 81 / 111)):
        assert verified_twins(evidence(texts), pairs, Thresholds(*reached)).twins.tolist() == [NONE, 0]
        for place, value in enumerate(reached):
            more = list(reached)
            more[place] = np.nextafter(value, 1)
            if value:
                assert verified_twins(evidence(texts), pairs, Thresholds(*more)).twins.tolist() == [NONE, NONE]


def test_nothing_is_asked_for():
    texts = [["a"], ["b"], [], ["c"]]
    pairs = [packed((1, 0), (2, 0), (3, 2))]
    found = verified_twins(evidence(texts), pairs, Thresholds(0, 0, 0))
    assert found.twins.tolist() == [NONE, 0, NONE, 2]  # without words there is no share of them


def test_words_of_unspaced_scripts_are_characters():
    texts = [["我爱北京天安门广场上的鸽子"], ["我爱北京天安门广场上鸽子"]]
    found = verified_twins(evidence(texts), [packed((1, 0))], COVERED)
    assert found.twins.tolist() == [NONE, 0]
    assert found.coverage[1] == 10 / 12


MANY = 1_000_000


def test_one_word_a_million_times():
    long, short = ["a"] * MANY, ["a"] * 7
    other = [*["b"] * 50, *["a"] * MANY]
    pairs = [packed((1, 0), (2, 1), (3, 0), (4, 3))]
    found = verified_twins(evidence([other, long, short, ["b"] * 30, long]), pairs, COVERED)
    assert found.twins.tolist() == [NONE, 0, 0, 0, 0]
    assert found.coverage.tolist() == found.containment.tolist() == [0, 1, 1, 1, 1]
    assert found.jaccard.tolist() == [0, 1 / 6, 1 / 6, 1 / 6, 1 / 6]


def test_a_long_document_asked_by_thousands_of_short_ones():
    writer = Writer(5)
    long = writer.write(MANY)
    quotes = [long[start : start + 40] for start in range(0, MANY, 200)]
    others = [writer.write(40) for _ in range(len(quotes))]
    texts = [long, *quotes, *others]
    found = verified_twins(evidence(texts), [packed(*((number, 0) for number in range(1, len(texts))))], COVERED)
    assert (found.twins[1 : 1 + len(quotes)] == 0).all()
    assert (found.coverage[1 : 1 + len(quotes)] == 1).all()
    assert (found.twins[1 + len(quotes) :] == NONE).all()


def test_a_long_document_asks_short_ones():
    long = numbered((0, MANY))
    texts = [*(numbered((start, start + 40)) for start in range(0, MANY, 1000)), long]
    pairs = [packed(*((len(texts) - 1, number) for number in range(len(texts) - 1)))]
    assert (verified_twins(evidence(texts), pairs, COVERED).twins == NONE).all()
    found = verified_twins(evidence(texts[-20:]), [packed((19, 3), (19, 4))], Thresholds(30 / MANY, 0, 0))
    assert found.twins[-1] == 3
    assert found.coverage[-1] == 40 / MANY


@compiling
@given(st.lists(st.tuples(st.integers(0, 19), st.integers(0, 19)), max_size=25))
def test_components_are_those_of_a_search(edges: list[tuple[int, int]]):
    pairs = {(max(edge), min(edge)) for edge in edges if edge[0] != edge[1]}
    neighbours: dict[int, set[int]] = {node: set() for node in range(20)}
    for left, right in pairs:
        neighbours[left].add(right)
        neighbours[right].add(left)
    expected = []
    for node in range(20):
        seen, waiting = {node}, [node]
        while waiting:
            for other in neighbours[waiting.pop()] - seen:
                seen.add(other)
                waiting.append(other)
        expected.append(min(seen) if min(seen) != node else NONE)
    assert component_twins(evidence([["a"]] * 20), [packed(*pairs)]).tolist() == expected


def test_the_estimate_is_the_share_of_equal_values():
    documents = evidence([["a"], ["a"]])
    documents.signatures.flags.writeable = True
    documents.signatures[:] = [[1, 2, 3, 4], [1, 9, 3, 4]]
    assert estimated_similarity(documents, np.array([1]), np.array([0])).tolist() == [0.75]
