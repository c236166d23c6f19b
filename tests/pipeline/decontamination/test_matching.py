from __future__ import annotations

import random
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from pipeline.decontamination.benchmarks import BenchmarkConfig, Item, items
from pipeline.decontamination.config import GPT3, DecontaminateConfig, Strict
from pipeline.decontamination.cutting import cut, pieces_of
from pipeline.decontamination.index import Index, index_items
from pipeline.decontamination.matching import Matches, Spans, find, search
from pipeline.decontamination.ngrams import RADIX
from pipeline.text.scan import word_hashes
from tests.pipeline.decontamination import reference
from tests.pipeline.text.reference import words

BENCHMARK = BenchmarkConfig(name="any", path="unused", fields=["text"])
ENGLISH = (
    "A wheel that is driven by water from above turns more slowly than one driven from below, but it wastes less. "
    "Which of the two would a miller choose for a small stream that never runs dry in the summer?"
)
CHINESE = (
    "由上方来水推动的水轮比由下方推动的水轮转得慢，但是浪费的水更少。磨坊主会为夏天从不干涸的小溪选择哪一种水轮呢？"
)
MIXED = (
    "在Linux系统中使用grep命令搜索文件时，参数recursive表示递归搜索所有子目录下的文件，参数ignore case表示忽略大小写。"
)
FILLER = "The town has a market on Thursdays and a fair in autumn, when people come from all the villages around it. "


def config(**values: Any) -> DecontaminateConfig:
    return DecontaminateConfig(benchmarks=[BENCHMARK], **values)


def texts(*documents: str | bytes) -> pa.Array:
    raw = [document.encode() if isinstance(document, str) else document for document in documents]
    return pa.array(raw, pa.large_binary()).view(pa.large_string())


def rows(matches: Matches) -> list[reference.Match]:
    return [reference.Match(*row) for row in zip(*(column.tolist() for column in matches), strict=True)]


def spans_of(spans: Spans) -> list[tuple[int, int, int]]:
    return [*zip(*(column.tolist() for column in spans), strict=True)]


def index_of(*found: str, **values: Any) -> Index:
    return index_items([Item("any", str(number), text) for number, text in enumerate(found)], config(**values))


# Few words, so that they meet; those of one kind differ in case, form or script.
WORDS = st.sampled_from(["a", "B", "don't", "DON’T", "é", "e\u0301", "水", "轮", "한", "ก", "1", "x\u00ady"])
GAPS = st.sampled_from([" ", ", ", "\n", "。", "'", " - ", "🙂"])
PHRASES = st.lists(st.tuples(WORDS, GAPS), min_size=1, max_size=14).map(lambda p: "".join(w + g for w, g in p))
RULES = st.one_of(
    st.builds(
        lambda least, more, percentile, short: {
            "rule": "gpt3",
            "gpt3": GPT3(
                minimum_words=least, maximum_words=least + more, length_percentile=percentile, minimum_item_words=short
            ),
        },
        st.integers(3, 5), st.integers(0, 3), st.sampled_from([0, 5, 50, 100]), st.integers(3, 5),
    ),
    st.builds(
        lambda n, short, coverage: {
            "rule": "strict", "strict": Strict(words=n, minimum_item_words=short, minimum_coverage=coverage)
        },
        st.integers(3, 5), st.integers(3, 5), st.sampled_from([0, 0.5, 0.7, 1]),
    ),
)  # fmt: skip


@st.composite
def corpora(draw: st.DrawFn) -> tuple[list[str], list[Item]]:
    found = draw(st.lists(PHRASES, min_size=1, max_size=5))
    entries = [Item(draw(st.sampled_from("AB")), draw(st.sampled_from("123")), text) for text in found]
    pieces = st.one_of(PHRASES, st.sampled_from(found), st.sampled_from(found).map(lambda text: text[: len(text) // 2]))
    documents = draw(st.lists(st.lists(pieces, max_size=5).map(" ".join), max_size=3))
    return documents, entries


@settings(max_examples=120, deadline=None)
@given(corpora(), RULES, st.sampled_from([None, 1]))
def test_matches_are_those_of_the_rule_in_plain_python(
    corpus: tuple[list[str], list[Item]], rule: dict[str, Any], maximum_items: int | None
):
    documents, entries = corpus
    settled = config(maximum_items=maximum_items, **rule)
    index = index_items(entries, settled)
    matches, spans = find(texts(*documents), index, settled.minimum_coverage)
    expected, expected_spans = reference.find(documents, entries, settled)
    assert rows(matches) == expected
    assert set(spans_of(spans)) == expected_spans
    for document in documents:
        assert reference.words(document) == words(document)  # the two plain statements of words agree
    if maximum_items is None:
        assert index.gram_words.tolist() == reference.gram_words(entries, settled)


@settings(max_examples=60, deadline=None)
@given(corpora(), RULES)
def test_frequent_ngrams_are_ignored(corpus: tuple[list[str], list[Item]], rule: dict[str, Any]):
    documents, entries = corpus
    settled = config(**rule)
    index = index_items(entries, settled)
    hits = search(*word_hashes(texts(*documents)), index)
    counts = np.zeros(index.grams, np.int64)
    for _, gram in {*zip(hits.document.tolist(), hits.gram.tolist(), strict=True)}:
        counts[gram] += 1
    often: dict[tuple[str, ...], int] = {}
    for text, n in zip([item.text for item in entries], reference.gram_words(entries, settled), strict=True):
        for at in range(len(words(text)) - n + 1 if n else 0):
            gram_text = tuple(words(text)[at : at + n])
            often[gram_text] = sum(
                gram_text in {tuple(words(document)[i : i + n]) for i in range(len(words(document)))}
                for document in documents
            )
    assert sorted(count for count in often.values() if count) == sorted(counts[counts > 0].tolist())
    ignored = frozenset(gram for gram, count in often.items() if count > 1)
    matches, spans = find(texts(*documents), index, settled.minimum_coverage, counts > 1)
    expected, expected_spans = reference.find(documents, entries, settled, ignored)
    assert (rows(matches), set(spans_of(spans))) == (expected, expected_spans)


@pytest.mark.parametrize("item", [ENGLISH, CHINESE, MIXED])
@pytest.mark.parametrize("rule", ["gpt3", "strict"])
def test_a_planted_item_is_found_in_other_case_and_punctuation(item: str, rule: str):
    index = index_of(
        "Some other item, that nobody has ever put into any document of this world at all.", item, rule=rule
    )
    for change in (str, str.upper, lambda text: text.replace(" ", "\n").replace("，", ", ").replace(".", " !")):
        document = FILLER + change(item) + "\n" + FILLER
        matches, _ = find(texts(FILLER, document), index)
        (match,) = rows(matches)
        assert (match.document, match.text) == (1, 1)
        assert match.covered == match.end - match.begin == len(words(item))
        assert words(document.encode()[match.begin_byte : match.end_byte].decode()) == words(item)


@pytest.mark.parametrize(("item", "n"), [(ENGLISH, 13), (CHINESE, 21)])
def test_nothing_is_found_where_one_word_of_every_n_differs(item: str, n: int):
    index = index_of(item)
    assert index.gram_words.tolist() == [n]
    spans = reference.word_spans(item)
    raw = item.encode()
    for every, found in ((n, False), (n + 1, True)):
        changed = b""
        at = 0
        for number, word in enumerate(spans):
            changed += raw[at : word.begin] + (
                b" zebra " if number % every == every - 1 else raw[word.begin : word.end]
            )
            at = word.end
        matches, _ = find(texts(changed + raw[at:]), index)
        assert (len(matches.document) > 0) == found


def test_length_of_ngrams_follows_the_benchmark_and_the_script():
    def of(*found: str, **values: Any) -> list[int]:
        return index_of(*found, **values).gram_words.tolist()

    latin = [" ".join(f"w{number}" for number in range(length)) for length in range(30)]
    han = ["水" * length for length in range(40)]
    assert of(*[latin[20]] * 3) == [13, 13, 13]
    assert of(latin[10], *[latin[20]] * 19) == [10] + [10] * 19  # the 5th percentile of 20 is the first
    assert of(latin[10], *[latin[20]] * 20) == [10] + [13] * 20  # of 21 it is the second; the short one goes whole
    assert of(latin[4], latin[7], latin[8], *[latin[20]] * 57) == [0, 0, 8, *[8] * 57]
    assert of(han[39]) == [21]
    assert of(han[13]) == [13]  # 8.1 words
    assert of(han[12]) == [0]  # 7.5 words
    assert of(latin[16] + han[16]) == [16]  # 26 words of 32 letters: 13 * 32 / 26
    assert of(latin[20], latin[7], latin[4], han[30], rule="strict") == [8, 7, 0, 13]


def test_maximum_items_leaves_the_frame_of_questions_out():
    frame = "Read the passage below with great care and then choose the best of the four answers given: "
    questions = [frame + " ".join(f"q{number}w{word}" for word in range(20)) for number in range(4)]
    document = FILLER + frame + FILLER + questions[2]
    assert [row.text for row in rows(find(texts(document), index_of(*questions))[0])] == [0, 1, 2, 3]
    index = index_of(*questions, frame, maximum_items=3)
    assert index.gram_words.tolist() == [13, 13, 13, 13, 0]  # the last has no n-gram left
    (match,) = rows(find(texts(document), index)[0])
    assert match.text == 2
    assert match.covered == 20 + 12


def test_coverage_counts_words_wherever_they_stand_in_one_document():
    parts = [" ".join(f"p{part}w{word}" for word in range(10)) for part in range(4)]
    index = index_of(" ".join(parts), rule="strict")
    scattered = f"{parts[2]} and {parts[0]} and {parts[0]}"
    for coverage, documents in ((0.0, [0, 1]), (0.5, [0]), (0.51, [])):
        matches, spans = find(texts(scattered, parts[3]), index, coverage)
        assert matches.document.tolist() == documents
        assert set(spans.document.tolist()) == set(documents)
    (match,) = rows(find(texts(scattered), index)[0])
    assert (match.covered, match.begin, match.end) == (20, 0, 10)


def test_ngrams_do_not_cross_documents_or_alternatives():
    half = ENGLISH.split()
    index = index_of(ENGLISH)
    assert not len(find(texts(" ".join(half[:12]), " ".join(half[12:24])), index)[0].document)
    two = index_items([Item("any", "0", " ".join(half[:14])), Item("any", "0", " ".join(half[14:]))], config())
    assert not len(find(texts(" ".join(half[8:20])), two)[0].document)


def test_slices_nulls_and_strings():
    index = index_of(ENGLISH)
    documents = ["", ENGLISH, None, FILLER + ENGLISH, FILLER]
    whole = pa.array(documents, pa.large_string())
    assert [row.document for row in rows(find(whole, index)[0])] == [1, 3]
    assert rows(find(whole.slice(2), index)[0]) == rows(find(pa.array(documents[2:], pa.string()), index)[0])
    assert [row.document for row in rows(find(whole.slice(2), index)[0])] == [1]
    with pytest.raises(TypeError, match="large_string"):
        find(pa.array([1, 2]), index)


def test_an_index_without_ngrams_finds_nothing():
    index = index_of("too short", "水")
    assert index.grams == 0
    matches, spans = find(texts(ENGLISH, ""), index)
    assert len(matches.document) == len(spans.document) == 0


@settings(max_examples=200, deadline=None)
@given(st.lists(st.binary(max_size=60), min_size=1, max_size=4), st.data())
def test_arbitrary_bytes_are_safe_and_do_not_depend_on_neighbours(documents: list[bytes], data: st.DataObject):
    item = data.draw(st.sampled_from(documents)) + b" one two three four five \xe6\xb0\xb4\xe8\xbd\xae"
    settled = config(rule="strict", strict=Strict(words=3, minimum_item_words=3))
    index = index_items([Item("any", "0", item.decode("utf-8", "replace"))], settled)
    documents = [*documents, item]
    matches, spans = find(texts(*documents), index)
    pieces = pieces_of(texts(*documents), spans, 2)
    for number, document in enumerate(documents):
        alone, alone_spans = find(texts(document), index)
        here = [row._replace(document=0) for row in rows(matches) if row.document == number]
        assert rows(alone) == here
        for row in here:
            assert 0 <= row.begin_byte < row.end_byte <= len(document)
        mine = pieces.document == number
        alone_pieces = pieces_of(texts(document), alone_spans, 2)
        assert pieces.begin[mine].tolist() == alone_pieces.begin.tolist()
        assert all(
            0 <= begin < end <= len(document) for begin, end in zip(pieces.begin[mine], pieces.end[mine], strict=True)
        )


def test_large_documents_take_time_by_their_length():
    # Of one word; of the item again and again; of the item's first words again and again. Quadratic work never ends.
    index = index_of(ENGLISH, "again and again " * 10, "水" * 40)
    one_word, repeated = "x" * 20_000_000, (ENGLISH + " ") * 20_000
    again, water = "again and " * 300_000, "水" * 1_000_000
    matches, spans = find(texts(one_word, repeated, again, water), index)
    assert [(row.document, row.text) for row in rows(matches)] == [(1, 0), (3, 2)]
    assert matches.end[1] - matches.begin[1] == 1_000_000
    cuts = cut(texts(one_word, repeated, again, water), spans, config().cut)
    assert cuts.dropped.tolist() == [True, True]


def test_results_do_not_depend_on_the_seed_of_the_keys(monkeypatch: pytest.MonkeyPatch):
    entries = [Item("any", str(number), text) for number, text in enumerate([ENGLISH, CHINESE, MIXED, ENGLISH])]
    documents = texts(FILLER + CHINESE, ENGLISH + FILLER)
    first = index_items(entries, config())
    import pipeline.decontamination.index as module

    original = module._same_words
    refused: list[int] = []

    def collide_once(*arguments: Any) -> bool:
        refused.append(1)
        return len(refused) > 1 and bool(original(*arguments))

    monkeypatch.setattr(module, "_same_words", collide_once)
    second = index_items(entries, config())
    assert (first.tables.seed, second.tables.seed) == (0, 1)
    assert rows(find(documents, first)[0]) == rows(find(documents, second)[0])
    assert np.array_equal(first.tables.places, second.tables.places)


def test_a_collision_of_keys_is_no_match():
    index = index_of(ENGLISH, rule="strict")
    offsets, found = word_hashes(texts(ENGLISH))
    assert len(search(offsets, found, index).gram) == len(found) - 7
    assert index.tables.lengths.tolist() == [8]
    first = found[:8].copy()
    power = pow(int(RADIX), 7, 1 << 64)
    first[0] = (int(first[0]) + 1) % (1 << 64)
    first[7] = (int(first[7]) - power) % (1 << 64)  # the polynomial of the eight is what it was
    eight = np.array([0, 8])
    assert len(search(eight, found[:8].copy(), index).gram) == 1
    assert len(search(eight, first, index).gram) == 0


EVAL = Path(__file__).parents[3] / "../shared/data/eval"


@pytest.mark.skipif(not EVAL.is_dir(), reason="needs the evaluation sets of ../shared/data/eval")
def test_items_of_real_benchmarks_are_found():
    sets = [
        BenchmarkConfig(name="cmmlu", path=f"{EVAL}/cmmlu.tar.gz::test/a*.csv", fields=["Question", *"ABCD"],
                        split_by="$file"),
        BenchmarkConfig(name="arc", path=f"{EVAL}/core/arc_challenge.jsonl.gz", templates=["{query} {choices}"]),
    ]  # fmt: skip
    entries = [item for entry in sets for item in items(entry)]
    index = index_items(entries, DecontaminateConfig(benchmarks=sets))
    chosen = [number for number, n in enumerate(index.gram_words) if n]
    assert len(chosen) > 0.95 * len(entries)
    picked = random.Random(0).sample(chosen, 100)
    matches, _ = find(texts(*(f"{FILLER}{entries[number].text}\n{FILLER}" for number in picked)), index)
    found = {*zip(matches.document.tolist(), matches.text.tolist(), strict=True)}
    assert found >= {*enumerate(picked)}
