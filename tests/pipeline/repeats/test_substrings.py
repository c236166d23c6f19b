"""Repeated substrings against a plain statement of the rule: windows as tuples of words in a dictionary."""

from __future__ import annotations

import re
from collections.abc import Sequence
from itertools import pairwise
from pathlib import Path

import numpy as np
import pyarrow as pa
import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydantic import ValidationError

from pipeline.repeats import substrings
from pipeline.repeats.kept import KeptBatch, KeptInMemory
from pipeline.repeats.spans import SPANS_SCHEMA, cut_spans
from pipeline.repeats.spill import Part, Spill
from pipeline.repeats.substrings import REPEATED_SUBSTRINGS, SubstringFacts, SubstringsConfig, find_repeated_substrings
from pipeline.repeats.winnowing import add_to_filter, empty_filter, windows_in_filter, winnow
from pipeline.repeats.word_places import opening_byte, place_words
from pipeline.text.arrow import utf8_view
from pipeline.text.scan import word_hashes
from tests.pipeline.dedup.corpora import Writer, compiling

WORD = re.compile(r"[a-z0-9]+|[\u4e00-\u9fff]")
"""The words of the texts that these tests write."""

Row = tuple[int, int, int, int]


def kept(shards: Sequence[Sequence[str]], ranks: Sequence[Sequence[int]] | None = None, rows: int = 3) -> KeptInMemory:
    """Shards of texts in batches of `rows`; every second row of a shard went before. Ranks as the texts come."""
    batches = []
    rank = 0
    for shard, texts in enumerate(shards):
        for begin in range(0, len(texts), rows):
            part = list(texts[begin : begin + rows])
            of_batch = range(rank, rank + len(part)) if ranks is None else ranks[shard][begin : begin + rows]
            rank += len(part)
            numbers = 2 * np.arange(begin, begin + len(part))
            batches.append(KeptBatch(shard, numbers, np.array(of_batch, np.uint32), pa.array(part, pa.large_string())))
    return KeptInMemory(batches)


def found(
    documents: KeptInMemory,
    folder: Path,
    tokens: int,
    threads: int = 1,
    facts: SubstringFacts | None = None,
    hash_bits: int = 64,
    **config: object,
) -> list[Row]:
    """The spans as rows of shard, row, begin and end, in the order of the tables."""
    settings = SubstringsConfig.model_validate({"tokens": tokens, **config})
    tables = list(find_repeated_substrings(documents, settings, folder, threads, facts, hash_bits))
    assert all(table.schema == SPANS_SCHEMA for table in tables)
    assert not any(folder.iterdir())
    spans = pa.concat_tables([SPANS_SCHEMA.empty_table(), *tables])
    assert set(spans["rule"].to_pylist()) <= {REPEATED_SUBSTRINGS}
    columns = (spans[name].to_pylist() for name in ("shard", "row", "begin", "end"))
    return list(zip(*columns, strict=True))


def repeated_words(texts: Sequence[str], tokens: int) -> list[set[int]]:
    """Of texts in their order of preference: the numbers of the words that repeated windows cover, of each."""
    first: dict[tuple[str, ...], tuple[int, int]] = {}
    cut = []
    for number, text in enumerate(texts):
        words = WORD.findall(text)
        covered: set[int] = set()
        for place in range(len(words) - tokens + 1):
            other, where = first.setdefault(tuple(words[place : place + tokens]), (number, place))
            if other != number or where <= place - tokens:
                covered.update(range(place, place + tokens))
        cut.append(covered)
    return cut


def opening(text: str, at: int) -> int:
    """Where the word at `at` opens with its marks: after a line feed, else white space, else right there."""
    before = text[:at]
    gap = re.search(r"[^a-z0-9\u4e00-\u9fff]*$", before)
    assert gap is not None
    marks = gap.group()
    if gap.start() == 0 and not re.search(r"\n", marks):
        return 0
    if "\n" in marks:
        return at - len(marks) + marks.rindex("\n") + 1
    return at - len(re.split(r"\s", marks)[-1]) if re.search(r"\s", marks) else at


def expected(shards: Sequence[Sequence[str]], tokens: int, ranks: Sequence[Sequence[int]] | None = None) -> list[Row]:
    """The spans that `kept` texts have."""
    documents = [(shard, 2 * number, text) for shard, texts in enumerate(shards) for number, text in enumerate(texts)]
    order = range(len(documents)) if ranks is None else [rank for of_shard in ranks for rank in of_shard]
    by_rank = dict(zip(order, documents, strict=True))
    preferred = sorted(by_rank)
    rows = []
    for rank, words in zip(preferred, repeated_words([by_rank[rank][2] for rank in preferred], tokens), strict=True):
        shard, row, text = by_rank[rank]
        begins = [opening(text, match.start()) for match in WORD.finditer(text)] + [len(text)]
        for word in sorted(words):
            if word - 1 not in words:
                end = next(after for after in range(word, len(begins)) if after not in words)
                rows.append((shard, row, len(text[: begins[word]].encode()), len(text[: begins[end]].encode())))
    return sorted(rows)


letters = st.sampled_from("ab字")
gaps = st.sampled_from([" ", " ", " ", ", ", "\n", ".\n\n- ", "\n- ", ' ("', "\u2003", "—", "。"])
texts = st.lists(st.tuples(letters, gaps), max_size=40).map(lambda pairs: "".join(map("".join, pairs)))


@compiling
@given(shards=st.lists(st.lists(texts, max_size=5), min_size=1, max_size=3), tokens=st.sampled_from([2, 3, 5, 8]))
def test_spans_are_those_of_the_plain_statement(
    shards: list[list[str]], tokens: int, tmp_path_factory: pytest.TempPathFactory
) -> None:
    folder = tmp_path_factory.mktemp("scratch")
    assert found(kept(shards), folder, tokens) == expected(shards, tokens)


def planted(seed: int, documents: int, tokens: int) -> list[str]:
    """Texts of which most hold pieces of others, of about `tokens` words."""
    writer = Writer(seed, vocabulary=500)
    written: list[list[str]] = []
    for _ in range(documents):
        text = writer.write(int(writer.random.integers(0, 6 * tokens)))
        for _ in range(int(writer.random.integers(0, 3))):
            if written:
                source = written[int(writer.random.integers(len(written)))]
                length = int(writer.random.integers(tokens - 3, 2 * tokens + 4))
                begin = int(writer.random.integers(0, max(1, len(source) - length + 1)))
                place = int(writer.random.integers(0, len(text) + 1))
                text[place:place] = source[begin : begin + length]
        written.append(text)
    return [" ".join(text) for text in written]


@pytest.mark.parametrize("tokens", [5, 8, 50])
def test_planted_pieces_of_other_documents(tokens: int, tmp_path: Path) -> None:
    texts = planted(tokens, 150, tokens)
    shards = [texts[:70], [], texts[70:]]
    facts = SubstringFacts()
    spans = found(kept(shards), tmp_path, tokens, facts=facts)
    assert spans == expected(shards, tokens)
    assert len(spans) > 50
    assert facts.tokens == sum(len(text.split()) for text in texts)
    assert facts.repeated_tokens == sum(map(len, repeated_words(texts, tokens)))
    assert facts.spans == len(spans)
    assert facts.refused == 0
    assert 0 < facts.repeated_anchors < facts.anchors < facts.tokens
    assert facts.proved < facts.candidates < facts.tokens


def test_the_order_of_shards_and_the_threads_change_nothing(tmp_path: Path) -> None:
    texts = planted(1, 120, 8)
    ranks = [int(rank) for rank in np.random.default_rng(2).permutation(len(texts))]
    shards, shard_ranks = [texts[part::4] for part in range(4)], [ranks[part::4] for part in range(4)]
    spans = found(kept(shards, shard_ranks), tmp_path, 8)
    assert spans == expected(shards, 8, shard_ranks)
    assert found(kept(shards, shard_ranks, rows=50), tmp_path, 8, threads=4) == spans
    order = [2, 0, 3, 1]
    permuted = found(kept([shards[i] for i in order], [shard_ranks[i] for i in order]), tmp_path, 8, threads=2)
    assert sorted((order[shard], *rest) for shard, *rest in permuted) == spans


def test_counting_finds_the_same_spans(tmp_path: Path) -> None:
    documents = kept([planted(3, 40, 8)])
    assert found(documents, tmp_path, 8, action="count") == found(documents, tmp_path, 8)


def test_one_word_many_times_keeps_its_first_window(tmp_path: Path) -> None:
    text = "ha " * 10_000
    assert found(kept([[text]]), tmp_path, 50) == [(0, 0, 3 * 50, len(text))]
    assert found(kept([["ha " * 99]]), tmp_path, 50) == []
    assert found(kept([["ha " * 100]]), tmp_path, 50) == [(0, 0, 150, 300)]


@pytest.mark.parametrize("period", [1, 2, 7, 49, 50, 51])
def test_periodic_text(period: int, tmp_path: Path) -> None:
    shards = [[" ".join(f"w{place % period}" for place in range(180))], ["start " + "w0 w1 " * 40]]
    assert found(kept(shards), tmp_path, 50) == expected(shards, 50)


def test_characters_of_unspaced_scripts_are_words(tmp_path: Path) -> None:
    random = np.random.default_rng(4)
    story = "".join(chr(0x4E00 + int(code)) for code in random.integers(0, 500, 200))
    shards = [[story[:100] + "。" + story[100:]], ["前言。" + story[20:90] + "」結語", story[80:129], story[80:130]]]
    spans = found(kept(shards), tmp_path, 50)
    assert spans == expected(shards, 50)
    assert [(shard, row) for shard, row, _, _ in spans] == [(1, 0), (1, 4)]


def test_documents_shorter_than_a_window_have_none(tmp_path: Path) -> None:
    facts = SubstringFacts()
    shards = [["", "one two three", "one two three"], ["..."], []]
    assert found(kept(shards), tmp_path, 4, facts=facts) == []
    assert (facts.tokens, facts.anchors) == (6, 0)
    assert found(kept([]), tmp_path, 4) == []


def test_boilerplate_stays_in_the_preferred_document(tmp_path: Path) -> None:
    notice = " ".join(f"notice{number}" for number in range(60))
    pages = [f"Page {number} begins.\n\n- {notice}\n- Item {number}" for number in range(2000)]
    facts = SubstringFacts()
    documents = kept([pages], [[*range(1, 2000), 0]], rows=1000)
    spans = found(documents, tmp_path, 50, facts=facts)
    assert [row for _, row, _, _ in spans] == list(range(0, 2 * 1999, 2))
    assert facts.proved == 13 * 1999  # each window but the first one with that alone: of `begins` to `Item`


def test_spans_read_on_after_the_cut(tmp_path: Path) -> None:
    story = " ".join(f"s{number}" for number in range(8))
    listed, quoted = f"Before it.\n- {story}.\n- After it", f'Say "{story}" or "not".'
    texts = [story, listed, quoted, f"{story}, said he", f"So: ({story})"]
    documents = kept([texts], rows=10)
    (batch,) = documents.batches
    spans = pa.concat_tables(find_repeated_substrings(documents, SubstringsConfig(tokens=8), tmp_path, 1))
    cut = cut_spans(batch.texts, batch.rows, spans, [REPEATED_SUBSTRINGS]).texts.to_pylist()
    assert cut == [story, "Before it.\n- After it", 'Say or "not".', "said he", "So:"]


@pytest.mark.parametrize("hash_bits", [0, 3, 8])
def test_collisions_are_refused_and_hide_nothing(hash_bits: int, tmp_path: Path) -> None:
    texts = [*planted(5, 60, 8), "a b " * 20]
    shards = [texts[:25], texts[25:]]
    facts, plain = SubstringFacts(), SubstringFacts()
    assert found(kept(shards), tmp_path, 8, facts=facts, hash_bits=hash_bits) == expected(shards, 8)
    assert found(kept(shards), tmp_path, 8, facts=plain) == expected(shards, 8)
    assert facts.refused > 200
    assert facts.proved == plain.proved


def test_little_memory_gives_the_same_spans(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    shards = [planted(seed, 80, 50) for seed in (6, 7, 6)]
    spans = found(kept(shards), tmp_path, 50)
    assert spans == expected(shards, 50)
    assert found(kept(shards), tmp_path, 50, threads=2, memory_limit_mb=64) == spans
    # A hundred kilobytes: files are divided more than once, slices are of single texts, the filter is too small.
    monkeypatch.setattr(substrings, "_MEGABYTE", 1600)
    monkeypatch.setattr(substrings, "_PART_BYTES", 512)
    assert found(kept(shards), tmp_path, 50, threads=2, memory_limit_mb=64) == spans


def test_records_of_one_value_are_not_divided_for_ever(tmp_path: Path) -> None:
    spill = Spill(tmp_path / "spill", 3, 1 << 10)
    records = np.arange(3000, dtype=np.uint64).reshape(-1, 3)
    records[:, 0] = 7 << 40
    for begin in range(0, 1000, 100):
        spill.append(records[begin : begin + 100])
    (part,) = spill.parts(lambda part: part.bytes < 1000)
    assert part.low <= 7 << 40 < part.low + part.size
    np.testing.assert_array_equal(np.concatenate(list(part.chunks())), records)
    part.delete()
    assert not [path for path in tmp_path.rglob("*") if path.is_file()]


@pytest.mark.parametrize("buffer_bytes", [1 << 8, 1 << 12, 1 << 20])
def test_records_come_back_by_leading_bits(buffer_bytes: int, tmp_path: Path) -> None:
    values = np.random.default_rng(8).integers(0, 1 << 63, 5000, dtype=np.uint64) << np.uint64(1)
    spill = Spill(tmp_path / "spill", 1, buffer_bytes)
    for begin in range(0, 5000, 333):
        spill.append(values[begin : begin + 333, None])
    assert spill.records == 5000
    back = []

    def fits(part: Part) -> bool:
        return part.bytes <= 400

    for part in spill.parts(fits):
        chunk = np.concatenate(list(part.chunks()))[:, 0]
        assert all(part.low <= value < part.low + part.size for value in chunk.tolist())
        assert fits(part)
        back.append(np.sort(chunk))
        part.delete()
    assert len(back) > 64
    np.testing.assert_array_equal(np.concatenate(back), np.sort(values))


@compiling
@given(
    sizes=st.lists(st.integers(0, 60), min_size=1, max_size=4),
    gram_words=st.integers(1, 6),
    grams=st.integers(1, 9),
    vocabulary=st.integers(1, 30),
    seed=st.integers(0, 1000),
)
def test_equal_windows_have_equal_anchors(
    sizes: list[int], gram_words: int, grams: int, vocabulary: int, seed: int
) -> None:
    offsets = np.cumsum([0, *sizes])
    words = np.random.default_rng(seed).integers(1, vocabulary + 1, offsets[-1]).astype(np.uint64)
    words *= np.uint64(0x9E3779B97F4A7C15)
    tokens = gram_words + grams - 1
    anchors = winnow(offsets, words, gram_words, grams)
    windows = [window for begin, end in pairwise(offsets) for window in range(begin, end - tokens + 1)]
    of_windows = np.repeat(anchors.hashes, anchors.ends - anchors.begins)
    covered = [w for b, e in zip(anchors.begins, anchors.ends, strict=True) for w in range(b, e)]
    assert covered == windows
    assert (anchors.ends - anchors.begins <= grams).all()
    by_words: dict[bytes, int] = {}
    for window, anchor in zip(windows, of_windows.tolist(), strict=True):
        assert by_words.setdefault(words[window : window + tokens].tobytes(), anchor) == anchor
    distinct_grams = {words[at : at + gram_words].tobytes() for w in windows for at in range(w, w + grams)}
    assert len(set(of_windows.tolist())) <= len(distinct_grams)


def test_winnowing_selects_few() -> None:
    words = np.random.default_rng(9).integers(1, 1 << 63, 200_000).astype(np.uint64)
    anchors = winnow(np.array([0, len(words)]), words, 35, 16)
    assert len(anchors.hashes) / len(words) == pytest.approx(2 / 17, rel=0.02)
    blocks = empty_filter(10_000, 1 << 30)
    add_to_filter(blocks, anchors.hashes[:10_000])
    windows = windows_in_filter(anchors, blocks)
    assert len(windows) >= anchors.ends[9_999]
    np.testing.assert_array_equal(windows[: anchors.ends[9_999]], np.arange(anchors.ends[9_999]))
    assert len(windows) - anchors.ends[9_999] < 0.01 * len(words)
    assert 8 * len(empty_filter(1 << 20, 1 << 12)) <= 1 << 12


@compiling
@given(text=st.text(alphabet="abAZ09'’ ,.-(\n\t字假あé\u0301\u00ad。", max_size=60))
def test_places_of_words(text: str) -> None:
    view = utf8_view(pa.array(["", text], pa.large_string()))
    offsets, words = word_hashes(pa.array(["", text], pa.large_string()))
    regions = np.array([[1, 0, len(words)]])
    opens = [opening_byte(place) for place in place_words(view, offsets, regions).tolist()]
    data = text.encode()
    assert opens[-1] == len(data)
    assert opens == sorted(opens)
    for number, (begin, end) in enumerate(pairwise(opens)):
        one = pa.array([data[begin:end].decode()], pa.large_string())
        np.testing.assert_array_equal(word_hashes(one)[1], words[number : number + 1])


def test_wrong_values_are_refused() -> None:
    with pytest.raises(ValidationError, match="tokens"):
        SubstringsConfig(tokens=1)
    with pytest.raises(ValidationError, match="memory_limit_mb"):
        SubstringsConfig(memory_limit_mb=8)
    assert SubstringsConfig(memory_limit_mb=64).identity() == SubstringsConfig().identity()
    assert SubstringsConfig(action="count").identity() == SubstringsConfig().identity()  # the spans are the same
    assert SubstringsConfig(tokens=40).identity() != SubstringsConfig().identity()
