"""Rows are made of the corpus: every sequence is a piece of one document, pairs are what their labels say."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.training.tiny_run import write_shard
from training.config import Shard
from training.loader import TrainLoader, ValidationLoader
from training.rows import (
    IGNORED,
    PADDING,
    SENTENCE,
    WORD,
    Form,
    Packed,
    Rows,
    Several,
    Stretch,
    Windows,
    example_rows,
)

END, FIRST, SEPARATOR, PAD = 0, 3, 4, 1
SPECIAL = {"first": FIRST, "separator": SEPARATOR, "padding": PAD, "end_of_text": END}


def corpus(documents: int, seed: int = 0, longest: int = 12) -> tuple[np.ndarray, np.ndarray]:
    """Tokens and marks of documents of 1 to 9 sentences; a token tells its document and sentence: 10 d + s."""
    generator = np.random.default_rng(seed)
    tokens: list[int] = []
    marks: list[int] = []
    for document in range(1, documents + 1):
        for sentence in range(int(generator.integers(1, 10))):
            length = int(generator.integers(1, longest))
            tokens += [10 * document + sentence] * length
            marks += [SENTENCE | WORD, *(generator.integers(0, 2, length - 1) * WORD).tolist()]
        tokens.append(END)
        marks.append(0)
    return np.array(tokens), np.array(marks, dtype=np.uint8)


def shards(folder: Path, documents: int = 60, **facts: Any) -> list[Shard]:
    tokens, marks = corpus(documents)
    (folder / "marks.bin").write_bytes(marks.tobytes())
    return [write_shard(folder / "tokens.bin", tokens, marks=str(folder / "marks.bin"), **facts)]


def packed(length: int, parts: Any, **changes: Any) -> Packed:
    return Packed(length, parts, **{**SPECIAL, **changes})


def sequences(rows: Rows) -> list[tuple[list[np.ndarray], int, np.ndarray]]:
    """Every sequence of the rows taken apart: its parts, its label, the places of its text."""
    found = []
    for row in range(len(rows["tokens"])):
        tokens, documents = rows["tokens"][row], rows["documents"][row]
        for number in range(1, int(documents.max(initial=0)) + 1):
            inside = np.flatnonzero(documents == number)
            assert np.array_equal(inside, np.arange(inside[0], inside[-1] + 1))
            assert rows["firsts"][row, number - 1] == inside[0]
            mine = tokens[inside]
            assert mine[0] == FIRST
            ends = np.flatnonzero(mine == SEPARATOR)
            assert ends[-1] == len(mine) - 1
            assert np.array_equal(rows["segments"][row, inside], (np.arange(len(mine)) > ends[0]).astype(int))
            places = rows["places"][row, inside]
            assert ((places == -1) == np.isin(mine, [FIRST, SEPARATOR])).all()
            parts = [part[part != FIRST] for part in np.split(mine, ends[:-1])]
            parts = [part[part != SEPARATOR] for part in parts]
            assert all(len(part) for part in parts)
            found.append((parts, int(rows["labels"][row, number - 1]), places))
        rest = documents == 0
        assert (tokens[rest] == PAD).all()
        assert (rows["places"][row, rest] == -1).all()
        assert (rows["labels"][row, int(documents.max(initial=0)) :] == IGNORED).all()
    return found


def is_running_text(part: np.ndarray) -> bool:
    """Sentences of one document in their order."""
    return len(set((part // 10).tolist())) == 1 and bool((np.diff(part) >= 0).all() and (np.diff(part) <= 1).all())


@pytest.mark.parametrize("length", [16, 40, 128])
def test_text_is_packed_whole_and_in_order(tmp_path: Path, length: int) -> None:
    (shard,) = shards(tmp_path)
    stream = np.fromfile(shard.path, dtype="<u2")
    loader = TrainLoader([shard], packed(length, "text"), 5, seed=1)
    rows = loader.batch(3)
    assert rows["tokens"].shape == (5, length)
    for parts, label, places in sequences(rows):
        assert len(parts) == 1
        assert is_running_text(parts[0])
        assert label == IGNORED
        text = places[places >= 0]
        assert np.array_equal(stream[text % len(stream)], parts[0])
    used = (rows["documents"] > 0).mean()
    assert used > (0.9 if length > 16 else 0.5)


def test_every_token_of_an_epoch_is_in_few_rows(tmp_path: Path) -> None:
    (shard,) = shards(tmp_path)
    loader = TrainLoader([shard], packed(64, "text"), 1, seed=1)
    seen = np.concatenate([loader.batch(step)["places"].ravel() for step in range(loader.windows)])
    counts = np.bincount(seen[seen >= 0] % shard.tokens, minlength=shard.tokens)
    stream = np.fromfile(shard.path, dtype="<u2")
    assert counts.max() <= 2  # the ring's last window may reach over its first
    # What special tokens displace, and rests too short for a sequence, is left to the next epoch's other windows.
    assert (counts[stream != END] > 0).mean() > 0.8


def test_pairs_follow_each_other_or_come_from_elsewhere(tmp_path: Path) -> None:
    loader = TrainLoader(shards(tmp_path), packed(64, "pairs", task="next_sentence"), 8, seed=1)
    labels, adjacent, alone = [], [], 0
    for step in range(40):
        for parts, label, _ in sequences(loader.batch(step)):
            if label == IGNORED:
                alone += 1
                continue
            (a, b) = parts
            labels.append(label)
            assert is_running_text(a)
            assert is_running_text(b)
            same = a[0] // 10 == b[0] // 10
            assert same == (label == 0)
            if label == 0:
                assert b[0] > a[-1]
                adjacent.append(b[0] - a[-1] == 1)
    share = np.mean(labels)
    # Half of the pairs of several sentences, and all of those that have but one, are random (BERT's published code).
    assert 0.5 < share < 0.75
    assert set(labels) == {0, 1}
    assert np.mean(adjacent) > 0.7  # the others are cut, for want of room
    assert alone < 0.02 * len(labels)  # a lone sentence, and the place that was drawn in the same document


def test_pairs_are_in_order_or_swapped(tmp_path: Path) -> None:
    loader = TrainLoader(shards(tmp_path), packed(64, "pairs", task="sentence_order"), 8, seed=1)
    labels = []
    for step in range(40):
        for parts, label, _ in sequences(loader.batch(step)):
            labels.append(label)
            if label == IGNORED:
                assert len(parts) == 1
                continue
            first, second = parts if label == 0 else parts[::-1]
            assert is_running_text(first)
            assert is_running_text(second)
            assert first[0] // 10 == second[0] // 10
            assert first[-1] <= second[0]
    known = [label for label in labels if label != IGNORED]
    assert abs(np.mean(known) - 0.5) < 3 * 0.5 / len(known) ** 0.5


def test_short_pairs_have_the_share_that_is_asked_for(tmp_path: Path) -> None:
    lengths = {}
    for share in (0.0, 1.0):
        form = packed(128, "pairs", task="sentence_order", short_share=share)
        loader = TrainLoader(shards(tmp_path), form, 8, seed=1)
        found = [sum(map(len, parts)) for step in range(10) for parts, _, _ in sequences(loader.batch(step))]
        lengths[share] = np.mean(found)
    assert lengths[1.0] < 0.8 * lengths[0.0]


def test_sentences_are_alone_and_cut(tmp_path: Path) -> None:
    loader = TrainLoader(shards(tmp_path), packed(64, "sentences", longest=8), 8, seed=1)
    found = [parts for step in range(10) for parts, _, _ in sequences(loader.batch(step))]
    assert all(len(parts) == 1 and len(set(parts[0].tolist())) == 1 for parts in found)
    assert max(len(parts[0]) for parts in found) == 6


def test_words_are_those_of_the_marks(tmp_path: Path) -> None:
    (shard,) = shards(tmp_path)
    marks = np.fromfile(shard.marks, dtype=np.uint8)
    rows = TrainLoader([shard], packed(64, "text"), 8, seed=1).batch(0)
    text = rows["places"] >= 0
    begins = np.zeros_like(text)
    begins[:, 1:] = rows["tokens"][:, :-1] == FIRST
    expected = (marks[rows["places"][text] % len(marks)] & WORD).astype(bool) | begins[text]
    assert np.array_equal(rows["words"][text], expected)
    assert rows["words"][~text].all()


@given(
    length=st.integers(8, 80),
    parts=st.sampled_from(["text", "pairs", "sentences"]),
    task=st.sampled_from(["next_sentence", "sentence_order"]),
    tokens=st.lists(st.sampled_from([END, 5, 6, 7, 8, 9]), min_size=0, max_size=100),
    every=st.integers(1, 30),
)
@settings(max_examples=150, deadline=None)
def test_whatever_the_text_rows_are_sound(length: int, parts: Any, task: Any, tokens: list[int], every: int) -> None:
    form = packed(length, parts, task=task if parts == "pairs" else "none")
    content = np.full(form.reads, PADDING, dtype=np.int64)
    content[: len(tokens)] = tokens[: form.reads]
    marks = (np.arange(form.reads) % every == 0).astype(np.uint8) * (SENTENCE | WORD)
    stretch = Stretch(content, marks, 1000, 2)
    rows = form.rows([stretch], [stretch._replace(start=9000)] if form.draws_others else [])
    found = sequences(rows)
    text = [token for token in tokens[: form.reads] if token != END]
    assert bool(found) == bool(text) or parts != "text"
    assert all(set(part.tolist()) <= set(text) for parts_, _, _ in found for part in parts_)


def test_rows_do_not_depend_on_processes_or_the_past(tmp_path: Path) -> None:
    form = Several((Windows(48), packed(48, "pairs", task="next_sentence"), packed(48, "sentences")))
    loader, again = (TrainLoader(shards(tmp_path), form, 12, seed=1) for _ in range(2))
    whole = loader.batch(5)
    for name, array in whole.items():
        shares = [again.batch(5, rank, 3)[name] for rank in range(3)]
        assert np.array_equal(np.concatenate(shares), array), name
    assert set(whole) > {"0/tokens", "1/documents", "2/firsts"}


def test_held_out_rows_cover_a_shard(tmp_path: Path) -> None:
    found = shards(tmp_path, split="validation")
    for form in (
        packed(64, "text"),
        packed(64, "pairs", task="next_sentence"),
        Several((Windows(64), packed(64, "text"))),
    ):
        loader = ValidationLoader(found, form, 10_000, END)
        first, second = ([part.rows for part in loader.batches(4)] for _ in range(2))
        assert sum(len(next(iter(rows.values()))) for rows in first) == len(loader) == -(-found[0].tokens // 64)
        for one, other in zip(first, second, strict=True):
            assert all(np.array_equal(one[name], other[name]) for name in one)
    inside = [
        sequences(rows)
        for part in ValidationLoader(found, packed(64, "text"), 10_000, END).batches(4)
        for rows in [part.rows]
    ]
    places = np.concatenate([places for each in inside for _, _, places in each])
    assert len(set(places[places >= 0].tolist())) > 0.85 * (np.fromfile(found[0].path, dtype="<u2") != END).sum()


@pytest.mark.parametrize("form", [Windows(32), packed(32, "text"), packed(32, "pairs", task="next_sentence")])
def test_an_example_has_the_shapes_of_a_batch(tmp_path: Path, form: Form) -> None:
    rows = TrainLoader(shards(tmp_path), form, 3, seed=0).batch(0)
    example = example_rows(form, 3)
    assert {name: (array.shape, array.dtype) for name, array in rows.items()} == {
        name: (array.shape, array.dtype) for name, array in example.items()
    }


def test_static_rows_come_again_after_as_many_epochs_as_copies(tmp_path: Path) -> None:
    for copies in (2, None):
        form = packed(32, "pairs", task="next_sentence", copies=copies)
        loader = TrainLoader(shards(tmp_path), form, 1, seed=1)
        epochs = [
            {
                (rows["places"].tobytes(), rows["tokens"].tobytes(), int(rows["visits"][0]))
                for step in range(epoch * loader.windows, (epoch + 1) * loader.windows)
                for rows in [loader.batch(step)]
            }
            for epoch in range(3)
        ]
        assert (epochs[0] == epochs[2]) == (copies == 2)
        assert not epochs[0] & epochs[1]


def test_held_out_shards_draw_apart(tmp_path: Path) -> None:
    """The same text in two shards makes other pairs in each."""
    twice = []
    for name in ("a", "b"):
        (tmp_path / name).mkdir()
        twice += shards(tmp_path / name, split="validation")
    loader = ValidationLoader(twice, packed(64, "pairs", task="next_sentence"), 10_000, END)
    rows = [part.rows for part in loader.batches(1)]
    half = len(rows) // 2
    pairs = list(zip(rows[:half], rows[half:], strict=True))
    differ = [not np.array_equal(one["labels"], other["labels"]) for one, other in pairs]
    assert np.mean(differ) > 0.5
