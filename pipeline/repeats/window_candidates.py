"""Windows of words that may occur elsewhere, written to disk with their words and where those stand in the text."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from pathlib import Path

import numba
import numpy as np
from numpy.typing import NDArray

from pipeline.repeats.spill import Spill
from pipeline.repeats.window_matches import HASH, LOCATION, ORDER, mapped, unload
from pipeline.repeats.winnowing import RADIX, mixed
from pipeline.repeats.word_places import opening_byte, place_words
from pipeline.text.arrow import Utf8View

_0 = np.uint64(0)
_32 = np.uint64(32)
_REGIONS_AT_A_TIME = 1 << 12

DOCUMENT, FIRST_WORD, WORDS = range(3)
"""Columns of regions in memory."""

REGION_LOCATION, REGION_WORDS, REGION_ROW = range(3)
"""Columns of regions on disk."""


@numba.njit(nogil=True, cache=True)
def _regions(windows: NDArray[np.int64], offsets: NDArray[np.int64], tokens: int, regions: NDArray[np.int64]) -> int:
    count = 0
    document = 0
    for window in windows:
        if window >= offsets[document + 1]:
            while window >= offsets[document + 1]:
                document += 1
        elif count > 0 and regions[count - 1, DOCUMENT] == document:
            begin = regions[count - 1, FIRST_WORD]
            if window <= begin + regions[count - 1, WORDS]:
                regions[count - 1, WORDS] = window + tokens - begin
                continue
        regions[count, DOCUMENT] = document
        regions[count, FIRST_WORD] = window
        regions[count, WORDS] = tokens
        count += 1
    return count


def regions_of(windows: NDArray[np.int64], offsets: NDArray[np.int64], tokens: int) -> NDArray[np.int64]:
    """The stretches of words that windows cover, int64 (regions, 3): DOCUMENT, FIRST_WORD (of all), WORDS.

    windows: first words, ascending. Windows of a document that overlap or touch are one region.
    """
    regions = np.empty((len(windows), 3), np.int64)
    return regions[: _regions(windows, offsets, tokens, regions)]


@numba.njit(nogil=True, cache=True)
def _records(
    windows: NDArray[np.int64], offsets: NDArray[np.int64], words: NDArray[np.uint64], ranks: NDArray[np.uint32],
    tokens: int, regions: NDArray[np.int64], base: int, mask: np.uint64, records: NDArray[np.uint64],
) -> None:  # fmt: skip
    leaving = np.uint64(1)
    for _ in range(tokens):
        leaving *= RADIX
    region = 0
    location = base
    state = _0
    for row in range(len(windows)):
        window = windows[row]
        while window >= regions[region, FIRST_WORD] + regions[region, WORDS]:
            location += regions[region, WORDS] + 1
            region += 1
        if row > 0 and windows[row - 1] == window - 1:
            state = state * RADIX + words[window + tokens - 1] - words[window - 1] * leaving
        else:
            state = _0
            for word in range(window, window + tokens):
                state = state * RADIX + words[word]
        document = regions[region, DOCUMENT]
        records[row, HASH] = mixed(state) & mask
        records[row, ORDER] = np.uint64(ranks[document]) << _32 | np.uint64(window - offsets[document])
        records[row, LOCATION] = location + window - regions[region, FIRST_WORD]


@numba.njit(nogil=True, cache=True)
def _copy(words: NDArray[np.uint64], regions: NDArray[np.int64], copied: NDArray[np.uint64]) -> None:
    count = 0
    for region in range(len(regions)):
        for word in range(regions[region, FIRST_WORD], regions[region, FIRST_WORD] + regions[region, WORDS]):
            copied[count] = words[word]
            count += 1
        copied[count] = _0
        count += 1


@numba.njit(nogil=True, cache=True)
def _spans(
    regions: NDArray[np.int64], tokens: int, repeated: NDArray[np.uint8], places: NDArray[np.int64],
    spans: NDArray[np.int64],
) -> tuple[int, int]:  # fmt: skip
    count = 0
    cut_words = 0
    for region in range(len(regions)):
        base = regions[region, REGION_LOCATION]
        begin = -1
        end = 0
        for window in range(regions[region, REGION_WORDS] - tokens + 2):
            last = window > regions[region, REGION_WORDS] - tokens
            if not last and repeated[base + window] == 0:
                continue
            if begin >= 0 and (last or window > end):
                spans[count, 0] = regions[region, REGION_ROW]
                spans[count, 1] = opening_byte(places[base + begin])
                spans[count, 2] = opening_byte(places[base + end])
                cut_words += end - begin
                count += 1
                begin = -1
            if begin < 0:
                begin = window
            end = window + tokens
    return count, cut_words


class Candidates:
    """The words of regions, one file for all, and their windows as records for `match_windows`.

    A location is a place in the file of words. Behind each region is one word more, so that no two regions touch; its
    place is that of the word that follows in the text. Several threads may add, each a shard of its own.
    """

    def __init__(self, folder: Path, tokens: int, buffer_bytes: int, hash_bits: int = 64) -> None:
        folder.mkdir()
        self.words = folder / "words"
        self.repeated = folder / "repeated"
        self.locations = 0
        self.windows = Spill(folder / "windows", 3, buffer_bytes)
        self._folder = folder
        self._tokens = tokens
        self._mask = np.uint64((1 << hash_bits) - 1)
        self._lock = threading.Lock()
        self._places = folder / "places"
        self._words_file = open(self.words, "wb")  # noqa: SIM115
        self._places_file = open(self._places, "wb")  # noqa: SIM115

    def add(
        self,
        shard: int,
        rows: NDArray[np.int64],
        ranks: NDArray[np.uint32],
        view: Utf8View,
        offsets: NDArray[np.int64],
        words: NDArray[np.uint64],
        windows: NDArray[np.int64],
    ) -> None:
        """Add windows (their first words) of some texts of a shard; a shard's texts come in order.

        rows, ranks: (texts,); offsets and words are what `word_hashes` returns of the texts.
        """
        if not len(windows):
            return
        regions = regions_of(windows, offsets, self._tokens)
        copied = np.empty(int(regions[:, WORDS].sum()) + len(regions), np.uint64)
        _copy(words, regions, copied)
        places = place_words(view, offsets, regions)
        with self._lock:
            base = self.locations
            self.locations += len(copied)
            copied.tofile(self._words_file)
            places.tofile(self._places_file)
        records = np.empty((len(windows), 3), np.uint64)
        _records(windows, offsets, words, ranks, self._tokens, regions, base, self._mask, records)
        self.windows.append(records)
        sizes = regions[:, WORDS] + 1
        on_disk = np.stack([base + np.cumsum(sizes) - sizes, regions[:, WORDS], rows[regions[:, DOCUMENT]]], axis=1)
        with open(self._regions(shard), "ab") as file:
            on_disk.tofile(file)

    def close(self) -> None:
        """End the writing. No window is marked as repeated yet."""
        self._words_file.close()
        self._places_file.close()
        with open(self.repeated, "wb") as file:
            file.truncate(self.locations)

    def spans(self, shard: int) -> Iterator[tuple[NDArray[np.int64], int]]:
        """Yield spans of a shard that repeated windows cover, int64 (spans, 3): row, begin and end; and their words."""
        path = self._regions(shard)
        if not path.exists():
            return
        repeated, places = mapped(self.repeated), mapped(self._places)
        marks, where = np.frombuffer(repeated, np.uint8), np.frombuffer(places, np.int64)
        with open(path, "rb") as file:
            while len(regions := np.fromfile(file, np.int64, 3 * _REGIONS_AT_A_TIME).reshape(-1, 3)):
                spans = np.empty((int((regions[:, REGION_WORDS] // self._tokens).sum()), 3), np.int64)
                count, cut_words = _spans(regions, self._tokens, marks, where, spans)
                yield spans[:count], cut_words
                unload(repeated)
                unload(places)

    def _regions(self, shard: int) -> Path:
        return self._folder / f"regions-{shard}"
