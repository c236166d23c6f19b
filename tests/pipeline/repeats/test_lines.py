"""Repeated lines, paragraphs and sentences, against plain statements of the same rules in Python."""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydantic import ValidationError

from pipeline.repeats.kept import KeptBatch, KeptInMemory
from pipeline.repeats.line_units import Units, find_units
from pipeline.repeats.lines import LineRule, LinesConfig, RepeatedLines, find_repeated_lines
from pipeline.repeats.occurrences import Occurrences
from pipeline.repeats.spans import SPANS_SCHEMA, cut_spans
from tests.pipeline.dedup.corpora import compiling

WORDS = ["ab", "AB", "Cd", "12", "34", "我", "们", "don't", "é"]
PIECES = [*WORDS, *WORDS, ".", "! ", "。", ", ", " ", " ", "\n", "\n", "\n\n", "\r\n", "\n \t\n", '"', ")"]
some_text = st.lists(st.sampled_from(PIECES), max_size=40).map("".join)
some_texts = st.lists(some_text, max_size=8)

Span = tuple[int, int]  # of characters


def batches(texts: Sequence[str], ranks: Sequence[int] | None = None, sizes: Sequence[int] = (3, 2)) -> KeptInMemory:
    """Texts in shards of these sizes, repeated, in batches of two."""
    ranks = range(len(texts)) if ranks is None else ranks
    made, at, shard = [], 0, 0
    while at < len(texts):
        size = sizes[shard % len(sizes)]
        numbers = np.arange(at, min(at + size, len(texts)))
        for start in range(0, len(numbers), 2):
            some = numbers[start : start + 2]
            column = pa.array([texts[number] for number in some], pa.large_string())
            made.append(KeptBatch(shard, 10 + some - at, np.array(ranks, np.uint32)[some], column))
        at, shard = at + size, shard + 1
    return KeptInMemory(made)


def found(
    kept: KeptInMemory, scratch: Path, rules: Sequence[LineRule], threads: int = 1, **options: Any
) -> tuple[dict[tuple[int, int], list[tuple[int, int, str]]], RepeatedLines]:
    """Spans by shard and row, checked for schema and order."""
    result = find_repeated_lines(kept, LinesConfig(rules=list(rules), **options), scratch, threads)
    spans: dict[tuple[int, int], list[tuple[int, int, str]]] = {}
    order = []
    for table in result.tables():
        assert table.schema == SPANS_SCHEMA
        for row in table.to_pylist():
            spans.setdefault((row["shard"], row["row"]), []).append((row["begin"], row["end"], row["rule"]))
            order.append((row["shard"], row["row"], row["begin"]))
    assert order == sorted(order)
    return spans, result


# The rules in plain Python, for the characters of PIECES.


def words(text: str, unify_digits: bool) -> tuple[str, ...]:
    text = re.sub(r"\d", "0", text) if unify_digits else text
    return tuple(word.lower() for word in re.findall(r"[我们]|[a-zA-Z0-9é]+(?:'[a-zA-Z0-9é]+)*", text))


def stripped(text: str, spans: Iterator[Span]) -> list[Span]:
    kept = []
    for begin, end in spans:
        while begin < end and text[begin].isspace():
            begin += 1
        while begin < end and text[end - 1].isspace():
            end -= 1
        if begin < end:
            kept.append((begin, end))
    return kept


def split(text: str, separator: str) -> Iterator[Span]:
    begin = 0
    for match in re.finditer(separator, text):
        yield begin, match.start()
        begin = match.end()
    yield begin, len(text)


def line_sentences(text: str, begin: int, end: int) -> Iterator[Span]:
    """Sentences of a line: a terminator ends one where white space and no lower-case letter follow, a wide one always.

    A sentence has a word; what has none belongs to the sentence after it.
    """
    start = begin
    for match in re.finditer(r'[.!。][.!。")]*', text[begin:end]):
        at = begin + match.end()
        if at <= start or not words(text[start:at], False):
            continue
        wide = "。" in match.group()
        rest = text[at:end]
        if wide or (rest[:1].isspace() and not rest.lstrip()[:1].islower()):
            yield start, at
            start = at
    if words(text[start:end], False):
        yield start, end


def plain_units(text: str, rule: LineRule) -> list[Span]:
    if rule.unit == "paragraph":
        spans = stripped(text, split(text, r"\n[^\S\n]*(?=\n)"))
    else:
        spans = stripped(text, split(text, "\n"))
    if rule.unit == "sentences":
        single = stripped(text, (span for line in spans for span in line_sentences(text, *line)))
        spans = [(single[at][0], single[at + rule.sentences - 1][1]) for at in range(len(single) - rule.sentences + 1)]
    return [span for span in spans if len(words(text[slice(*span)], False)) >= rule.minimum_words]


def plain_spans(texts: Sequence[str], ranks: Sequence[int], rule: LineRule) -> list[set[Span]]:
    """What goes of each text, before overlapping spans of sentences are joined."""
    places: dict[tuple[str, ...], list[tuple[int, int, int]]] = {}
    units = [plain_units(text, rule) for text in texts]
    for number, text in enumerate(texts):
        for place, span in enumerate(units[number]):
            key = words(text[slice(*span)], rule.unify_digits)
            places.setdefault(key, []).append((ranks[number], place, number))
    goes: list[set[Span]] = [set() for _ in texts]
    for occurrences in places.values():
        if len({rank for rank, _, _ in occurrences}) < rule.minimum_documents:
            continue
        for _, place, number in sorted(occurrences)[rule.keep == "first" :]:
            goes[number].add(units[number][place])
    return goes


def in_bytes(text: str, spans: set[Span], join: bool) -> list[Span]:
    united: list[Span] = []
    for begin, end in sorted(spans):
        if join and united and begin < united[-1][1]:
            united[-1] = (united[-1][0], end)
        else:
            united.append((begin, end))
    return [(len(text[:begin].encode()), len(text[:end].encode())) for begin, end in united]


def unit_texts(text: str, unit: str, sentences: int = 1, minimum_words: int = 1) -> list[str]:
    units = find_units(pa.array([text], pa.large_string()), unit, sentences, minimum_words, False)
    return [text.encode()[begin:end].decode() for begin, end in zip(units.begins, units.ends, strict=True)]


@compiling
@given(
    some_texts,
    st.randoms(use_true_random=False),
    st.builds(
        LineRule,
        unit=st.sampled_from(["line", "paragraph", "sentences"]),
        sentences=st.integers(1, 3),
        minimum_documents=st.integers(2, 3),
        keep=st.sampled_from(["first", "none"]),
        minimum_words=st.integers(1, 3),
        unify_digits=st.booleans(),
    ),
    st.sampled_from(["exact", "bloom"]),
)
def test_plain_statement(
    tmp_path_factory: pytest.TempPathFactory, texts: list[str], random: Any, rule: LineRule, method: str
) -> None:
    ranks = list(range(len(texts)))
    random.shuffle(ranks)
    kept = batches(texts, ranks)
    spans, result = found(kept, tmp_path_factory.mktemp("lines"), [rule], method=method, bloom_megabytes=4)
    wanted = plain_spans(texts, ranks, rule)
    for number, text in enumerate(texts):
        shard, row = 2 * (number // 5) + (number % 5 >= 3), 10 + (number % 5 - 3 * (number % 5 >= 3))
        expected = in_bytes(text, wanted[number], rule.unit == "sentences")
        assert spans.pop((shard, row), []) == [(begin, end, rule.name) for begin, end in expected], text
    assert not spans
    (facts,) = result.facts
    units = [{words(text[slice(*span)], rule.unify_digits): None for span in plain_units(text, rule)} for text in texts]
    assert facts["units"] == sum(len(plain_units(text, rule)) for text in texts)
    if method == "exact":
        every = [key for keys in units for key in keys]
        assert facts["distinct"] == len(set(every))
        assert facts["repeated"] == sum(every.count(key) >= rule.minimum_documents for key in set(every))
        assert facts["cut"] == sum(map(len, wanted))


@compiling
@given(some_texts)
def test_repeats_within_one_document(tmp_path_factory: pytest.TempPathFactory, texts: list[str]) -> None:
    rule = LineRule(unit="line", minimum_documents=1, minimum_words=1)
    for method in ("exact", "bloom"):
        spans, _ = found(batches(texts), tmp_path_factory.mktemp("lines"), [rule], method=method, bloom_megabytes=4)
        wanted = plain_spans(texts, range(len(texts)), rule)
        assert sum(map(len, spans.values())) == sum(map(len, wanted))


def test_units() -> None:
    assert unit_texts("  One two.\r\n\r\n***\nThree", "line") == ["One two.", "Three"]
    assert unit_texts("One\ntwo\n \t\nThree\n***", "paragraph") == ["One\ntwo", "Three\n***"]
    assert unit_texts('He said "Go." Then e.g. this. 5 left', "sentences") == [
        'He said "Go."',
        "Then e.g. this.",
        "5 left",
    ]
    assert unit_texts("我们去。“好！”他们来了\n天", "sentences") == ["我们去。", "“好！”", "他们来了", "天"]
    assert unit_texts("A b. C d. E f.", "sentences", 2) == ["A b. C d.", "C d. E f."]
    assert unit_texts("我们去\n我们 a\n我们", "line", minimum_words=3) == ["我们去", "我们 a"]
    assert unit_texts("", "line") == unit_texts("\n \n", "paragraph") == unit_texts("...", "sentences") == []


def test_hashes_of_units() -> None:
    def hashes(text: str, unify_digits: bool = False) -> list[int]:
        return find_units(pa.array([text], pa.large_string()), "line", 1, 1, unify_digits).hashes.tolist()

    assert len(set(hashes("The End.\nthe  end\r\nTHE – END!"))) == 1
    assert len(set(hashes("a bc\nab c\nabc\na b c\nc b a\nbc a"))) == 6
    assert len(set(hashes("1 Jan 2020\n2 Jan 2021\n٣ Jan ٢٠٢٢"))) == 3
    assert len(set(hashes("1 Jan 2020\n2 Jan 2021\n٣ Jan ٢٠٢٢", unify_digits=True))) == 1
    assert len(set(hashes("chapter Ⅳ\nchapter Ⅴ", unify_digits=True))) == 2  # numbers, not digits


def corpus(seed: int) -> list[str]:
    random = np.random.default_rng(seed)
    lines = [" ".join(f"w{word}" for word in random.integers(0, 60, 6)) for _ in range(150)]
    return ["\n".join(random.choice(lines, random.integers(0, 30))) for _ in range(60)]


RULES = [
    LineRule(unit="paragraph", minimum_words=1),
    LineRule(unit="line"),
    LineRule(unit="line", minimum_documents=9, keep="none"),
    LineRule(unit="sentences", sentences=2),
]


@pytest.mark.parametrize("method", ["exact", "bloom"])
def test_neither_shards_nor_threads_matter(tmp_path: Path, method: str) -> None:
    texts = corpus(1)
    ranks = np.random.default_rng(2).permutation(len(texts))

    def by_rank(order: np.ndarray, sizes: Sequence[int], threads: int) -> dict[int, Any]:
        kept = batches([texts[number] for number in order], ranks[order], sizes)
        scratch = tmp_path / f"{sizes}{threads}{order[0]}"
        scratch.mkdir()
        spans, result = found(kept, scratch, RULES, threads, method=method, bloom_megabytes=1)
        where = {
            (b.shard, int(row)): int(rank) for b in kept.batches for row, rank in zip(b.rows, b.ranks, strict=True)
        }
        return {"facts": result.facts, **{str(where[place]): cut for place, cut in spans.items()}}

    straight = np.arange(len(texts))
    one = by_rank(straight, (20,), 1)
    assert len(one) > 40
    assert one == by_rank(straight, (20,), 4)
    assert one == by_rank(straight[::-1], (7, 1, 3), 2)
    assert one == by_rank(np.random.default_rng(3).permutation(straight), (60,), 3)


def test_rules_side_by_side(tmp_path: Path) -> None:
    kept = batches(["One two three.\n\nHome", "One two three.\n\nHome", "x\n\nHome"])
    rules = [
        LineRule(unit="paragraph", minimum_words=3),
        LineRule(unit="line", minimum_words=3),
        LineRule(unit="line", minimum_words=1, minimum_documents=3, keep="none"),
        LineRule(unit="line", minimum_words=1),
    ]
    spans, result = found(kept, tmp_path, rules)
    line, paragraph = "repeated_lines", "repeated_paragraphs"
    assert spans == {  # the same span of two rules with one name is one row
        (0, 10): [(16, 20, line)],
        (0, 11): [(0, 14, line), (0, 14, paragraph), (16, 20, line)],
        (0, 12): [(3, 7, line)],
    }
    assert [facts["repeated"] for facts in result.facts] == [1, 1, 1, 2]


def test_cut_text_reads_on(tmp_path: Path) -> None:
    texts = [
        "Share this page!\nBody of one.\nShare this page!",
        "First here.\nShare this page!\n\n我们都在这里。\n\nEnd",
    ]
    texts += ["我们都在这里。\nOther end"]
    kept = batches(texts)
    names = ["repeated_lines"]
    result = find_repeated_lines(kept, LinesConfig(rules=[LineRule(minimum_words=3)]), tmp_path, 1)
    (table,) = result.tables()
    cut = cut_spans(pa.array(texts, pa.large_string()), np.array([10, 11, 12]), table, names)
    assert cut.texts.to_pylist() == [
        "Share this page!\nBody of one.",
        "First here.\n\n我们都在这里。\n\nEnd",
        "Other end",
    ]


def test_a_line_a_million_times(tmp_path: Path) -> None:
    texts = ["the very same line again\n" * 250_000] * 4
    for method in ("exact", "bloom"):
        kept = batches(texts, [2, 0, 1, 3])
        result = find_repeated_lines(kept, LinesConfig(rules=[LineRule()], method=method), tmp_path, 2)
        tables = list(result.tables())
        assert sum(map(len, tables)) == 999_999
        first = pa.concat_tables(tables).filter(pa.compute.equal(pa.concat_tables(tables)["row"], 11))
        assert len(first) == 249_999
        assert first["begin"][0].as_py() == 25  # the first line of the document of rank 0 stays
        assert result.facts[0]["units"] == 1_000_000


def test_nothing_to_read(tmp_path: Path) -> None:
    for method in ("exact", "bloom"):
        for kept in (KeptInMemory([]), batches(["", "", ""]), batches(["One line of five words."])):
            spans, result = found(kept, tmp_path, [LineRule(), LineRule(unit="sentences")], method=method)
            assert spans == {}
            assert result.facts[0]["units"] in (0, 1)
    assert list(tmp_path.iterdir()) == []


def units_of(hashes: np.ndarray) -> Units:
    """One document of these units, all different."""
    zeros = np.zeros(len(hashes), np.int64)
    return Units(np.array([0, len(hashes)]), zeros, zeros, hashes, np.zeros(len(hashes), np.bool_))


@pytest.mark.parametrize("same_partition", [False, True])
def test_more_units_than_the_table_holds(tmp_path: Path, same_partition: bool) -> None:
    random = np.random.default_rng(5)
    own = [random.integers(0, 2**54 if same_partition else 2**64, 60_000, np.uint64) for _ in range(4)]
    shared = own[0][:20_000]
    occurrences = Occurrences(tmp_path / "occurrences.u64", 2, True, 1 << 20, 1)  # a table for 49,152
    for shard, hashes in enumerate(own):
        hashes[:20_000] = shared
        random.shuffle(hashes)
        for start in range(0, len(hashes), 10_000):  # documents of other ranks in each shard
            rank = np.array([start // 10_000 * 4 + shard], np.uint32)
            occurrences.add(shard, units_of(hashes[start : start + 10_000]), rank)
        occurrences.end_shard(shard)
    runs = occurrences._runs()
    assert len(runs) == 1 if same_partition else len(runs) > 3
    tables = []
    decide_part = occurrences._decide_part
    occurrences._decide_part = lambda *some: tables.append(some[-1]) or decide_part(*some)  # type: ignore[method-assign]
    facts = occurrences.decide()
    assert max(tables) * 16 <= 1 << 20  # bytes: the memory that it was given
    assert facts == {"units": 240_000, "distinct": 180_000, "repeated": 20_000, "cut": 60_000}
    ranks = {}
    for shard, hashes in enumerate(own):
        goes = occurrences.repeated(shard, 0, units_of(hashes), np.zeros(1, np.uint32))
        for at in np.flatnonzero(np.isin(hashes, shared)):
            ranks.setdefault(hashes[at], []).append((at // 10_000 * 4 + shard, goes[at]))
        assert not goes[~np.isin(hashes, shared)].any()
    assert all([stays for _, stays in sorted(found)] == [False, True, True, True] for found in ranks.values())


def test_documents_are_counted_once(tmp_path: Path) -> None:
    for method in ("exact", "bloom"):
        rule = LineRule(minimum_words=1, minimum_documents=3, keep="none")
        spans, _ = found(batches(["a\na\na\nb", "a\nb", "b"]), tmp_path, [rule], method=method)
        assert sum(map(len, spans.values())) == 3  # b alone


def test_a_full_disk_is_an_error(tmp_path: Path) -> None:
    if not Path("/dev/full").exists():
        pytest.skip("no /dev/full on this system")
    (tmp_path / "occurrences-0.u64").symlink_to("/dev/full")
    with pytest.raises(OSError, match="No space left"):
        find_repeated_lines(batches(corpus(1)), LinesConfig(rules=[LineRule()]), tmp_path, 1)


def test_configuration() -> None:
    with pytest.raises(ValidationError, match="would cut every unit"):
        LineRule(keep="none", minimum_documents=1)
    with pytest.raises(ValidationError, match="says the same"):
        LinesConfig(rules=[LineRule(), LineRule(sentences=4)])
    with pytest.raises(ValidationError):
        LinesConfig(rules=[])
    one = LinesConfig(rules=[LineRule()])
    assert one.identity() == LinesConfig(rules=[LineRule()], memory_limit_mb=64, bloom_megabytes=1).identity()
    bloom = LinesConfig(rules=[LineRule()], method="bloom")
    assert bloom.identity() != LinesConfig(rules=[LineRule()], method="bloom", bloom_megabytes=1).identity()
    assert one.identity() != LinesConfig(rules=[LineRule(minimum_words=4)]).identity()
