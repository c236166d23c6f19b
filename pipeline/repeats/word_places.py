"""Where words stand in the bytes of their text, with the marks that open them, in 64 bits each."""

from typing import Final

import numba
import numpy as np
from numpy.typing import NDArray

from pipeline.text.arrow import Utf8View
from pipeline.text.scan import ENDS, EXTENDS, IN_WORD, NO_WORD, STATE_MASK, TRANSITIONS, decode
from pipeline.text.tables import CLASS_MASK, CLASS_SHIFT, SPACE, TABLE, TRAITS

# A place: the first byte of a word, from the start of its text, and in the low bits how many bytes of marks open it,
# which is all between it and the line feed before it, or the white space where there is no line feed; 0 where they are
# more than 64 KiB.
_MARKS_BITS: Final = 16
_MARKS_MASK: Final = (1 << _MARKS_BITS) - 1

_LINE_FEED: Final = 0x0A
_NOWHERE: Final = np.int64(1 << 62)  # behind every byte


@numba.njit(nogil=True, cache=True, inline="always")
def _place(begin: np.int64, marks: np.int64) -> np.int64:
    return begin << _MARKS_BITS | (marks if 0 < marks <= _MARKS_MASK else 0)


@numba.njit(nogil=True, cache=True)
def _places_of_text(
    data: NDArray[np.uint8], start: np.int64, end: np.int64,
    table: NDArray[np.uint32], traits: NDArray[np.uint8], transitions: NDArray[np.uint8],
    needed: np.int64, places: NDArray[np.int64],
) -> None:  # fmt: skip
    """Places of the first `needed` words of data[start:end]; the one after the last word is the end of the text."""
    count = np.int64(0)
    state = np.int64(NO_WORD)
    open_word = np.int64(0)
    opening = start  # where the marks of the next word begin; _NOWHERE where nothing parts them from the last word
    fed = np.int64(1)  # whether a line feed stands between the two
    at = start
    while at < end and count < needed:
        lead = np.int64(data[at])
        kind = (np.int64(table[lead]) >> CLASS_SHIFT) & CLASS_MASK
        if lead < 0x80 and (kind | state) <= IN_WORD:
            # Letters and separators of ASCII, without a branch on which: where a word ends cannot be predicted.
            places[count] = _place(at - start, at - opening)
            count += kind & ~state
            state = open_word = kind
            at += 1
            feed = np.int64(lead == _LINE_FEED)
            opening = at if feed | (np.int64(traits[lead]) & ~fed) & SPACE else opening
            opening = _NOWHERE if kind else opening
            fed = (fed | feed) & ~kind
            continue
        point, after = decode(data, at, end)
        action = np.int64(transitions[state, (np.int64(table[point]) >> CLASS_SHIFT) & CLASS_MASK])
        state = action & STATE_MASK
        if action & ENDS:
            open_word = np.int64(0)
        if action & EXTENDS:
            if not open_word:
                open_word = np.int64(1)
                places[count] = _place(at - start, at - opening)
                count += 1
            opening = _NOWHERE
            fed = np.int64(0)
        elif point == _LINE_FEED:
            opening = after
            fed = np.int64(1)
        elif traits[point] & SPACE and not fed:
            opening = after
        at = after
    if count < needed:
        places[count] = (end - start) << _MARKS_BITS


@numba.njit(nogil=True, cache=True)
def _place_words(
    data: NDArray[np.uint8], starts: NDArray[np.int64], ends: NDArray[np.int64], offsets: NDArray[np.int64],
    table: NDArray[np.uint32], traits: NDArray[np.uint8], transitions: NDArray[np.uint8],
    regions: NDArray[np.int64], places: NDArray[np.int64],
) -> None:  # fmt: skip
    most = np.int64(0)
    for row in range(len(regions)):
        document = regions[row, 0]
        most = max(most, offsets[document + 1] - offsets[document])
    of_text = np.empty(most + 1, np.int64)
    count = 0
    row = 0
    while row < len(regions):
        document = regions[row, 0]
        last = row
        while last + 1 < len(regions) and regions[last + 1, 0] == document:
            last += 1
        needed = regions[last, 1] + regions[last, 2] - offsets[document] + 1
        _places_of_text(data, starts[document], ends[document], table, traits, transitions, needed, of_text)
        for region in range(row, last + 1):
            first = regions[region, 1] - offsets[document]
            for word in range(regions[region, 2] + 1):
                places[count] = of_text[first + word]
                count += 1
        row = last + 1


def place_words(view: Utf8View, offsets: NDArray[np.int64], regions: NDArray[np.int64]) -> NDArray[np.int64]:
    """The places of the words of regions, and after each region that of the next word or of the end of the text.

    offsets: (texts + 1,) words before each text; regions: int64 (regions, 3), ascending rows of text, first word (among
    the words of all texts) and words. One after another: int64 (words + regions,).
    """
    places = np.empty(int(regions[:, 2].sum()) + len(regions), np.int64)
    _place_words(view.data, view.starts, view.ends, offsets, TABLE, TRAITS, TRANSITIONS, regions, places)
    return places


@numba.njit(nogil=True, cache=True, inline="always")
def opening_byte(place: np.int64) -> np.int64:
    """The first byte of the word at a place, its opening marks included."""
    return (place >> _MARKS_BITS) - (place & _MARKS_MASK)
