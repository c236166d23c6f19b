"""Where words begin: a flag for each byte of a batch of texts.

Words are those of `pipeline.text.scan`, but here every character belongs to one: each other character that is not white
space (punctuation, a symbol) is a word of its own. A run of Han characters is cut by a segmenter; in Japanese, a run of
Han characters and kana, a word begins where the script changes. Letters of the other scripts without spaces (Thai, Lao,
Khmer, Myanmar, ...) are a word each. A mark or a format character begins a word only after white space.
"""

from __future__ import annotations

import functools
from abc import ABC, abstractmethod
from importlib.metadata import PackageNotFoundError, version
from typing import Any, ClassVar, Final, Literal

import numba
import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from numpy.typing import NDArray

from pipeline.text.arrow import Utf8View
from pipeline.text.scan import AFTER_APOSTROPHE, ENDS, EXTENDS, NO_WORD, STATE_MASK, TRANSITIONS, decode
from pipeline.text.tables import (
    APOSTROPHE,
    CLASS_MASK,
    CLASS_SHIFT,
    IGNORABLE,
    MARK,
    SCRIPT_SHIFT,
    SCRIPTS,
    SEPARATOR,
    SPACE,
    TABLE,
    TRAITS,
    UNSPACED,
)

WORDS_VERSION: Final = 1
"""Increases when other words come out of the same text: it belongs into the identity of what is made from them."""

# Bits of a byte's flags.
WORD_START: Final = 1  # the first byte of a word
SENTENCE_START: Final = 2  # the first byte of a sentence; set by others
BLANK: Final = 4  # a byte of white space

_HAN: Final = SCRIPTS.index("Han")
_KANA: Final = (SCRIPTS.index("Hiragana"), SCRIPTS.index("Katakana"))
_NO_SCRIPT: Final = -1
_SHORTEST_HAN: Final = 4  # bytes: of a run that is more than one character, or one that is found to be one word
_SEGMENTED_TOGETHER: Final = 1 << 20  # bytes, about

SegmenterName = Literal["jieba", "characters"]


class SegmenterMissing(RuntimeError):
    """The segmenter cannot be loaded."""


class Segmenter(ABC):
    """Cuts runs of Han characters into words."""

    name: ClassVar[SegmenterName]

    @property
    @abstractmethod
    def identity(self) -> str:
        """What its words depend on."""

    @abstractmethod
    def word_bytes(self, runs: str) -> NDArray[np.int64]:
        """Return the UTF-8 length of each word of runs that stand a line each; a line feed is a word, too.

        Raises SegmenterMissing.
        """


class Jieba(Segmenter):
    """The words of jieba's dictionary, on the likeliest path by their frequencies, as jieba-rs finds them.

    Without jieba's hidden Markov model for words that its dictionary lacks: on the People's Daily of January 1998 this
    would take F1 from .834 to .806.
    """

    name = "jieba"

    @property
    def identity(self) -> str:
        """The version of the package, which has the dictionary in it."""
        try:
            return f"rjieba {version('rjieba')}"
        except PackageNotFoundError:
            return "rjieba"  # texts without Han characters do not need it

    def word_bytes(self, runs: str) -> NDArray[np.int64]:
        """Return the UTF-8 length of each word of runs that stand a line each; a line feed is a word, too."""
        words = pa.array(_rjieba().cut(runs, False), pa.large_string())
        return pc.binary_length(words).to_numpy()  # type: ignore[no-any-return]


class Characters(Segmenter):
    """Each character a word of its own."""

    name = "characters"

    @property
    def identity(self) -> str:
        """Its name."""
        return self.name

    def word_bytes(self, runs: str) -> NDArray[np.int64]:
        """Return the UTF-8 length of each character."""
        data = np.frombuffer(runs.encode(), np.uint8)
        starts = np.flatnonzero((data & 0xC0) != 0x80)
        return np.diff(np.append(starts, len(data)))


SEGMENTERS: Final[dict[SegmenterName, Segmenter]] = {one.name: one for one in (Jieba(), Characters())}


@functools.lru_cache(maxsize=1)
def _rjieba() -> Any:
    try:
        import rjieba
    except ImportError as error:
        raise SegmenterMissing(
            f"Chinese text is cut into words with rjieba, which cannot be loaded ({error}); install it "
            "(pip install rjieba) or set marks.segmenter to characters"
        ) from error
    return rjieba.Jieba()  # one that nobody else adds words to


@numba.njit(nogil=True, cache=True, inline="always")
def _mark_text(
    data: NDArray[np.uint8],
    start: np.int64,
    end: np.int64,
    base: np.int64,
    table: NDArray[np.uint32],
    traits: NDArray[np.uint8],
    transitions: NDArray[np.uint8],
    flags: NDArray[np.uint8],
    han: NDArray[np.int64],
    runs: np.int64,
) -> np.int64:
    """Flag the text data[start:end] in flags[start - base:end - base], add its runs to `han`, return their count."""
    state = np.int64(NO_WORD)
    blank = True  # before this character: white space, or nothing
    apostrophe = np.int64(0)  # where one is that may join two runs
    script = np.int64(_NO_SCRIPT)  # of the last character of a run of Han and kana
    run_start = start
    mixed = False
    at = start
    while at < end:
        point, after = decode(data, at, end)
        entry = np.int64(table[point])
        kind = (entry >> CLASS_SHIFT) & CLASS_MASK
        action = np.int64(transitions[state, kind])
        if state == AFTER_APOSTROPHE and action & ENDS:
            flags[apostrophe - base] |= WORD_START
        begins = action & EXTENDS and (state == NO_WORD or action & ENDS)
        state = action & STATE_MASK
        here = np.int64(_NO_SCRIPT)
        if kind == UNSPACED:
            here = entry >> SCRIPT_SHIFT
            if here != _HAN and here != _KANA[0] and here != _KANA[1]:
                here = np.int64(_NO_SCRIPT)
            else:
                begins = np.int64(here != script)
                if script == _NO_SCRIPT:
                    run_start = at
                    mixed = False
                mixed |= here != _HAN
        elif kind in (MARK, IGNORABLE) and not blank:
            here = script
        if script != _NO_SCRIPT and here == _NO_SCRIPT and not mixed and at - run_start >= _SHORTEST_HAN:
            han[runs, 0] = run_start
            han[runs, 1] = at
            runs += 1
        script = here
        if traits[point] & SPACE:
            for byte in range(at, after):
                flags[byte - base] = BLANK
            blank = True
        else:
            if kind == SEPARATOR or (kind == APOSTROPHE and state == NO_WORD) or blank:
                begins = np.int64(1)
            elif kind == APOSTROPHE:
                apostrophe = at
            if begins:
                flags[at - base] |= WORD_START
            blank = False
        at = after
    if state == AFTER_APOSTROPHE:
        flags[apostrophe - base] |= WORD_START
    if script != _NO_SCRIPT and not mixed and end - run_start >= _SHORTEST_HAN:
        han[runs, 0] = run_start
        han[runs, 1] = end
        runs += 1
    return runs


@numba.njit(nogil=True, cache=True)
def _mark_words(
    data: NDArray[np.uint8],
    starts: NDArray[np.int64],
    ends: NDArray[np.int64],
    base: np.int64,
    table: NDArray[np.uint32],
    traits: NDArray[np.uint8],
    transitions: NDArray[np.uint8],
    flags: NDArray[np.uint8],
    han: NDArray[np.int64],
) -> np.int64:
    runs = np.int64(0)
    for text in range(len(starts)):
        runs = _mark_text(data, starts[text], ends[text], base, table, traits, transitions, flags, han, runs)
    return runs


@numba.njit(nogil=True, cache=True)
def _join_runs(data: NDArray[np.uint8], runs: NDArray[np.int64], joined: NDArray[np.uint8]) -> None:
    """Write the runs one behind another, a line feed after each."""
    at = 0
    for run in range(len(runs)):
        for byte in range(runs[run, 0], runs[run, 1]):
            joined[at] = data[byte]
            at += 1
        joined[at] = 0x0A
        at += 1


@numba.njit(nogil=True, cache=True)
def _mark_segments(
    data: NDArray[np.uint8],
    runs: NDArray[np.int64],
    lengths: NDArray[np.int64],
    base: np.int64,
    table: NDArray[np.uint32],
    flags: NDArray[np.uint8],
) -> np.int64:
    """Flag the beginnings of the words in the runs, marks and format characters left out.

    Returns how many words were used, line feeds among them; -1 where a word reaches beyond its run.
    """
    word = np.int64(0)
    for run in range(len(runs)):
        at, end = runs[run]
        while at < end:
            if word == len(lengths):
                return np.int64(-1)
            point, _ = decode(data, at, end)
            kind = (np.int64(table[point]) >> CLASS_SHIFT) & CLASS_MASK
            if kind != MARK and kind != IGNORABLE:
                flags[at - base] |= WORD_START
            at += lengths[word]
            word += 1
        if at != end:
            return np.int64(-1)
        word += 1
    return word


def word_flags(view: Utf8View, segmenter: Segmenter) -> tuple[NDArray[np.uint8], int]:
    """Return WORD_START and BLANK of each byte (uint8), and where in `view.data` the first of them lies (`base`).

    The flags of text i are flags[view.starts[i] - base:view.ends[i] - base]. Raises SegmenterMissing where there are
    Chinese words to be found and no segmenter.
    """
    base = int(view.starts.min(initial=len(view.data)))
    flags = np.zeros(max(0, int(view.ends.max(initial=0)) - base), np.uint8)
    # A run has at least four bytes, and at least one that does not belong to it before the next.
    han = np.empty((int((view.ends - view.starts).sum()) // (_SHORTEST_HAN + 1) + len(view.starts) + 1, 2), np.int64)
    count = _mark_words(view.data, view.starts, view.ends, np.int64(base), TABLE, TRAITS, TRANSITIONS, flags, han)
    runs = han[:count]
    sizes = np.cumsum(runs[:, 1] - runs[:, 0] + 1)
    first = 0
    while first < count:
        before = int(sizes[first - 1]) if first else 0
        last = max(first + 1, int(np.searchsorted(sizes, before + _SEGMENTED_TOGETHER)))
        some = runs[first:last]
        joined = np.empty(int(sizes[last - 1]) - before, np.uint8)
        _join_runs(view.data, some, joined)
        lengths = segmenter.word_bytes(joined.tobytes().decode())
        used = _mark_segments(view.data, some, lengths, np.int64(base), TABLE, flags)
        if used != len(lengths):
            raise AssertionError(f"segmenter {segmenter.name} does not give back the text that it was given")
        first = last
    return flags, base
