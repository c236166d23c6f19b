"""The index of the n-grams of all evaluation items: one table for all benchmarks.

A text's n-grams have all one length (`lengths`), and the texts of an index have several. So the scan of documents looks
for the first words of n-grams, as many as the shortest has (the anchor): a bitmap that fits into a core's cache passes
few others by, a table tells which lengths begin so, and a second one knows the n-grams.
"""

from __future__ import annotations

import itertools
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Final, NamedTuple

import numba
import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from pipeline.decontamination.benchmarks import Item, items
from pipeline.decontamination.config import DecontaminateConfig
from pipeline.decontamination.lengths import Lengths, lengths_of
from pipeline.decontamination.ngrams import anchor_keys, fill_bitmap, fill_table, gram_keys
from pipeline.text.arrow import utf8_views
from pipeline.text.scan import decode, word_hashes
from pipeline.text.tables import CLASS_MASK, CLASS_SHIFT, TABLE, UNSPACED

_MINIMUM_BITMAP: Final = 16
_MAXIMUM_BITMAP: Final = 24  # 2 MiB
_BITS_PER_ANCHOR: Final = 8


class Tables(NamedTuple):
    """What the scan reads; all arrays are read-only."""

    seed: np.uint64
    lengths: NDArray[np.int64]  # distinct n, ascending: bit i of a mask is lengths[i]
    bitmap_shift: np.uint64
    bitmap: NDArray[np.uint8]  # bit `key >> bitmap_shift` of each anchor
    anchors: NDArray[np.uint64]  # open addressing by the low bits; 0 is empty
    masks: NDArray[np.uint64]  # lengths of the n-grams that begin with the anchor
    slots: NDArray[np.uint64]  # open addressing: keys of n-grams; 0 is empty
    grams: NDArray[np.int32]  # number of the n-gram in the slot
    places: NDArray[np.int64]  # (n-grams,) where the words of the n-gram stand
    sizes: NDArray[np.int64]  # (n-grams,) how many these are
    words: NDArray[np.uint64]  # words of all texts, one after the other


@dataclass(frozen=True)
class Index:
    """The texts of the items, and their n-grams. n-grams are numbered in the order in which they first occur."""

    tables: Tables
    benchmarks: list[str]  # names, in the order of the configuration
    text_benchmark: NDArray[np.int32]  # (texts,)
    text_item: list[str]  # (texts,) item ids
    offsets: NDArray[np.int64]  # (texts + 1,) into tables.words
    gram_words: NDArray[np.int64]  # (texts,) n of each text; 0: unchecked, it has no n-gram
    postings: NDArray[np.int64]  # (n-grams + 1,) into posting_places
    posting_places: NDArray[np.int64]  # places in tables.words at which each n-gram begins, ascending
    posting_texts: NDArray[np.int32]  # the text of each place
    benchmark_words: dict[str, int]  # n, in words, of each benchmark
    owners: dict[str, str]  # the entry of the configuration that made each benchmark

    @property
    def grams(self) -> int:
        """How many different n-grams there are."""
        return len(self.tables.places)


@numba.njit(nogil=True, cache=True)
def _unspaced_letters(
    data: NDArray[np.uint8], starts: NDArray[np.int64], ends: NDArray[np.int64], table: NDArray[np.uint32]
) -> NDArray[np.int64]:
    counts = np.zeros(len(starts), np.int64)
    for text in range(len(starts)):
        at = starts[text]
        while at < ends[text]:
            point, at = decode(data, at, ends[text])
            counts[text] += (np.int64(table[point]) >> CLASS_SHIFT) & CLASS_MASK == UNSPACED
    return counts


def build_index(config: DecontaminateConfig) -> Index:
    """The index of a configuration's benchmarks. Raises ValueError as `items` does, and for benchmarks of one name."""
    groups: dict[str, list[Item]] = {}
    owner: dict[str, str] = {}
    for benchmark in config.benchmarks:
        for item in items(benchmark):
            if owner.setdefault(item.benchmark, benchmark.name) != benchmark.name:
                raise ValueError(
                    f"benchmarks {owner[item.benchmark]!r} and {benchmark.name!r} both make {item.benchmark!r}; "
                    "give them other names"
                )
            groups.setdefault(item.benchmark, []).append(item)
    return index_items(itertools.chain.from_iterable(groups.values()), config, owner)


def index_items(entries: Iterable[Item], config: DecontaminateConfig, owners: dict[str, str] | None = None) -> Index:
    """The index of items by the rule of a configuration. `owners` names the entry that made each benchmark."""
    found = list(entries)
    texts = pa.array([item.text for item in found], pa.large_string())
    offsets, words = word_hashes(texts)
    unspaced = np.concatenate(
        [np.zeros(0, np.int64), *(_unspaced_letters(v.data, v.starts, v.ends, TABLE) for v in utf8_views(texts))]
    )
    names = list(dict.fromkeys(item.benchmark for item in found))
    numbers = {name: number for number, name in enumerate(names)}
    benchmark = np.array([numbers[item.benchmark] for item in found], np.int32)
    lengths = lengths_of(config, benchmark, np.diff(offsets), unspaced)
    for seed in range(1 << 30):  # another seed where two n-grams have one key: once in a million indexes
        made = _tables(np.uint64(seed), offsets, words, lengths, benchmark, [item.item_id for item in found], config)
        if made is not None:
            tables, postings, places, of_text = made
            return Index(
                tables,
                names,
                benchmark,
                [item.item_id for item in found],
                offsets,
                _with_grams(lengths.gram_words, of_text),
                postings,
                places,
                of_text,
                dict(zip(names, lengths.benchmark_words.tolist(), strict=True)),
                owners or {name: name for name in names},
            )
    raise AssertionError("no seed tells the n-grams apart")


def _with_grams(gram_words: NDArray[np.int64], posting_texts: NDArray[np.int32]) -> NDArray[np.int64]:
    """n of each text, 0 where none of its n-grams is in the index."""
    kept = np.zeros(len(gram_words), bool)
    kept[posting_texts] = True
    return np.where(kept, gram_words, 0)


def _tables(
    seed: np.uint64,
    offsets: NDArray[np.int64],
    words: NDArray[np.uint64],
    lengths: Lengths,
    benchmark: NDArray[np.int32],
    item_ids: list[str],
    config: DecontaminateConfig,
) -> tuple[Tables, NDArray[np.int64], NDArray[np.int64], NDArray[np.int32]] | None:
    """The tables, and the postings of the n-grams; None where two n-grams have the same key."""
    distinct = np.unique(lengths.gram_words[lengths.gram_words > 0])
    keys, places, of_text = gram_keys(offsets, words, lengths.gram_words, seed)
    order = np.argsort(keys, kind="stable")
    keys, places, of_text = keys[order], places[order], of_text[order]
    first = np.flatnonzero(np.concatenate([[True], keys[1:] != keys[:-1]])) if len(keys) else np.zeros(0, np.int64)
    bounds = np.append(first, len(keys))
    if not _same_words(bounds, places, lengths.gram_words[of_text], words):
        return None
    if config.maximum_items is not None:
        frame = _in_many_items(bounds, of_text, benchmark, item_ids, config.maximum_items)
        sizes = np.diff(bounds)
        keep = np.repeat(~frame, sizes)
        places, of_text, keys = places[keep], of_text[keep], keys[keep]
        first = np.concatenate([[0], np.cumsum(sizes[~frame])])[:-1]
        bounds = np.append(first, len(keys))
    rank = np.argsort(places[first], kind="stable")  # by first place: numbers that do not follow from the hash
    sizes = np.diff(bounds)[rank]
    postings = np.concatenate([np.zeros(1, np.int64), np.cumsum(sizes)])
    moved = np.repeat(bounds[:-1][rank] - postings[:-1], sizes) + np.arange(len(places))
    heads = places[first][rank]
    gram_n = lengths.gram_words[of_text[first][rank]]
    anchor = int(distinct[0]) if len(distinct) else 1
    anchor_of = anchor_keys(words, heads, anchor)
    bits = max(_MINIMUM_BITMAP, min(_MAXIMUM_BITMAP, (_BITS_PER_ANCHOR * max(1, len(heads)) - 1).bit_length()))
    anchors, masks = fill_table(anchor_of, np.uint64(1) << np.searchsorted(distinct, gram_n).astype(np.uint64), True)
    slots, grams = fill_table(keys[first][rank], np.arange(len(heads), dtype=np.uint64), False)
    distinct = distinct if len(distinct) else np.ones(1, np.int64)
    arrays = (
        fill_bitmap(anchor_of, bits),
        anchors,
        masks,
        slots,
        grams.astype(np.int32),
        heads,
        gram_n,
        words,
    )
    for array in (distinct, *arrays):
        array.flags.writeable = False
    return Tables(seed, distinct, np.uint64(64 - bits), *arrays), postings, places[moved], of_text[moved]


@numba.njit(nogil=True, cache=True)
def _same_words(
    bounds: NDArray[np.int64], places: NDArray[np.int64], sizes: NDArray[np.int64], words: NDArray[np.uint64]
) -> bool:
    """Whether the places of each key hold the same words."""
    for gram in range(len(bounds) - 1):
        head = bounds[gram]
        for place in range(head + 1, bounds[gram + 1]):
            if sizes[place] != sizes[head]:
                return False
            for word in range(sizes[head]):
                if words[places[place] + word] != words[places[head] + word]:
                    return False
    return True


def _in_many_items(
    bounds: NDArray[np.int64], of_text: NDArray[np.int32], benchmark: NDArray[np.int32], ids: list[str], most: int
) -> NDArray[np.bool_]:
    """Whether each n-gram is in more than `most` items of one benchmark."""
    numbers: dict[tuple[int, str], int] = {}
    item = np.array([numbers.setdefault(key, len(numbers)) for key in zip(benchmark.tolist(), ids, strict=True)])
    item_benchmark = np.array([number for number, _ in numbers], np.int64)
    gram = np.repeat(np.arange(len(bounds) - 1), np.diff(bounds))
    pairs = np.unique(gram * len(item_benchmark) + item[of_text])
    gram, item = np.divmod(pairs, len(item_benchmark))
    benchmarks = int(benchmark.max()) + 1
    groups, counts = np.unique(gram * benchmarks + item_benchmark[item], return_counts=True)
    many = np.zeros(len(bounds) - 1, bool)
    many[groups[counts > most] // benchmarks] = True
    return many
