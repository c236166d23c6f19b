"""The search of documents for the n-grams of an index, and what it finds: hits, matches of texts, spans of bytes."""

from __future__ import annotations

from typing import Final, NamedTuple

import numba
import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from pipeline.decontamination.index import Index, Tables
from pipeline.decontamination.ngrams import RADIX, find_slot, gram_key, mixed
from pipeline.text.arrow import Utf8View, utf8_view
from pipeline.text.scan import ENDS, EXTENDS, NO_WORD, STATE_MASK, TRANSITIONS, decode, word_hashes
from pipeline.text.tables import CLASS_MASK, CLASS_SHIFT, TABLE

_BLOCK: Final = 4096
_0: Final = np.uint64(0)
_1: Final = np.uint64(1)


class Hits(NamedTuple):
    """n-grams of the index in documents, in the order of the documents and their words."""

    document: NDArray[np.int64]
    word: NDArray[np.int64]  # number of the n-gram's first word in the document
    gram: NDArray[np.int64]


class Matches(NamedTuple):
    """What documents have of the texts of items: a row for each document and text, ordered by both."""

    document: NDArray[np.int64]
    text: NDArray[np.int64]
    begin: NDArray[np.int64]  # the longest run of words covered by the text's n-grams, the first of equals: from
    end: NDArray[np.int64]  # this word of the document up to this one
    begin_byte: NDArray[np.int64]
    end_byte: NDArray[np.int64]
    covered: NDArray[np.int64]  # words of the text that lie in n-grams that the document has, wherever


class Spans(NamedTuple):
    """The n-grams of matched texts where they stand in the documents, as bytes; they may overlap."""

    document: NDArray[np.int64]
    begin: NDArray[np.int64]
    end: NDArray[np.int64]


@numba.njit(nogil=True, cache=True)
def _candidates(
    words: NDArray[np.uint64],
    first: int,
    last: int,
    tables: Tables,
    at: NDArray[np.int64],
    keys: NDArray[np.uint64],
) -> np.int64:
    """Places from `first` to before `last` at which, by the bitmap, an anchor may begin, and their keys."""
    anchor = tables.lengths[0]
    leaving = _1
    state = _0
    for word in range(first, first + anchor - 1):
        leaving *= RADIX
        state = state * RADIX + words[word]
    count = np.int64(0)
    for place in range(first, last):
        state = state * RADIX + words[place + anchor - 1]
        key = mixed(state)
        bit = key >> tables.bitmap_shift
        at[count] = place
        keys[count] = key
        count += (np.int64(tables.bitmap[bit >> np.uint64(3)]) >> np.int64(bit & np.uint64(7))) & 1  # without a branch
        state -= words[place] * leaving
    return count


@numba.njit(nogil=True, cache=True)
def _longer(array: NDArray[np.int64]) -> NDArray[np.int64]:
    longer = np.empty(2 * len(array), np.int64)
    longer[: len(array)] = array
    return longer


@numba.njit(nogil=True, cache=True)
def _search(
    offsets: NDArray[np.int64], words: NDArray[np.uint64], tables: Tables, ignored: NDArray[np.bool_]
) -> tuple[NDArray[np.int64], NDArray[np.int64], NDArray[np.int64]]:
    documents = np.empty(64, np.int64)
    starts = np.empty(64, np.int64)
    grams = np.empty(64, np.int64)
    count = 0
    anchor = tables.lengths[0]
    at = np.empty(_BLOCK + 1, np.int64)
    keys = np.empty(_BLOCK + 1, np.uint64)
    document = 0
    last = len(words) - anchor + 1
    for first in range(0, last, _BLOCK):
        found = _candidates(words, first, min(first + _BLOCK, last), tables, at, keys)
        kept = 0
        for number in range(found):  # apart from the next loop, so that many cache misses are under way at once
            slot = find_slot(tables.anchors, keys[number])
            at[kept] = at[number]
            keys[kept] = slot
            kept += tables.anchors[slot] != _0
        for number in range(kept):
            place = at[number]
            while offsets[document + 1] <= place:
                document += 1
            begins = tables.masks[keys[number]]
            state = _0
            word = place
            for bit in range(len(tables.lengths)):
                end = place + tables.lengths[bit]
                if end > offsets[document + 1]:
                    break
                if (begins >> np.uint64(bit)) & _1 == _0:
                    continue
                while word < end:
                    state = state * RADIX + words[word]
                    word += 1
                slot = find_slot(tables.slots, gram_key(state, tables.lengths[bit], tables.seed))
                if tables.slots[slot] == _0:
                    continue
                gram = tables.grams[slot]
                if ignored[gram] or tables.sizes[gram] != end - place:
                    continue
                same = True
                for step in range(end - place):
                    same &= words[place + step] == tables.words[tables.places[gram] + step]
                if same:
                    if count == len(grams):
                        documents, starts, grams = _longer(documents), _longer(starts), _longer(grams)
                    documents[count] = document
                    starts[count] = place - offsets[document]
                    grams[count] = gram
                    count += 1
    return documents[:count], starts[:count], grams[:count]


def search(
    offsets: NDArray[np.int64], words: NDArray[np.uint64], index: Index, ignored: NDArray[np.bool_] | None = None
) -> Hits:
    """Every place of every n-gram of the index in documents, whose words are what `word_hashes` gives.

    ignored: (n-grams,) those to pass by. A hit is verified word by word.
    """
    passed = np.zeros(index.grams, bool) if ignored is None else ignored
    return Hits(*_search(offsets, words, index.tables, passed))


class _Scratch(NamedTuple):
    """What `_collect` knows of the document at hand; 0 stamps are of none."""

    gram: NDArray[np.int32]  # (n-grams,) stamp of the last document that had it; likewise the next three
    word: NDArray[np.int32]  # (words of texts,)
    text: NDArray[np.int32]  # (texts,)
    matched: NDArray[np.int32]  # (texts,)
    touched: NDArray[np.int64]  # texts of the document's n-grams
    covered: NDArray[np.int64]  # (texts,) words
    run: NDArray[np.int64]  # (texts, 2) the run of words that the last hit belongs to
    best: NDArray[np.int64]  # (texts, 2) the longest


def _scratch(index: Index) -> _Scratch:
    texts = len(index.offsets) - 1
    zeros = [np.zeros(size, np.int32) for size in (index.grams, index.offsets[-1], texts, texts)]  # touched when used
    return _Scratch(*zeros, *(np.empty(shape, np.int64) for shape in (texts, texts, (texts, 2), (texts, 2))))


@numba.njit(nogil=True, cache=True)
def _collect(
    document: NDArray[np.int64],
    start: NDArray[np.int64],
    gram: NDArray[np.int64],
    sizes: NDArray[np.int64],
    postings: NDArray[np.int64],
    places: NDArray[np.int64],
    texts: NDArray[np.int32],
    offsets: NDArray[np.int64],
    minimum_coverage: float,
    scratch: _Scratch,
) -> tuple[NDArray[np.int64], NDArray[np.bool_]]:
    """Rows (document, text, begin, end, covered) of the texts that match, and which hits are of one of them."""
    covered, run, best = scratch.covered, scratch.run, scratch.best
    of_match = np.zeros(len(gram), np.bool_)
    rows = np.empty((64, 5), np.int64)
    count = 0
    first = 0
    while first < len(gram):
        here = document[first]
        stamp = here + 1
        last = first
        some = 0
        while last < len(gram) and document[last] == here:
            number = gram[last]
            size = sizes[number]
            begin = start[last]
            new = scratch.gram[number] != stamp
            scratch.gram[number] = stamp
            for posting in range(postings[number], postings[number + 1]):
                text = texts[posting]
                if scratch.text[text] != stamp:
                    scratch.text[text] = stamp
                    scratch.touched[some] = text
                    some += 1
                    covered[text] = 0
                    run[text] = begin
                    best[text] = begin
                if new:
                    for word in range(places[posting], places[posting] + size):
                        covered[text] += scratch.word[word] != stamp
                        scratch.word[word] = stamp
                if begin > run[text, 1]:
                    run[text, 0] = begin
                run[text, 1] = max(run[text, 1], begin + size)
                if run[text, 1] - run[text, 0] > best[text, 1] - best[text, 0]:
                    best[text] = run[text]
            last += 1
        for text in np.sort(scratch.touched[:some]):
            if covered[text] >= minimum_coverage * (offsets[text + 1] - offsets[text]):
                scratch.matched[text] = stamp
                if count == len(rows):
                    longer = np.empty((2 * count, 5), np.int64)
                    longer[:count] = rows
                    rows = longer
                rows[count, 0] = here
                rows[count, 1] = text
                rows[count, 2] = best[text, 0]
                rows[count, 3] = best[text, 1]
                rows[count, 4] = covered[text]
                count += 1
        for hit in range(first, last):
            for posting in range(postings[gram[hit]], postings[gram[hit] + 1]):
                if scratch.matched[texts[posting]] == stamp:
                    of_match[hit] = True
                    break
        first = last
    return rows[:count], of_match


@numba.njit(nogil=True, cache=True)
def _word_bytes(
    data: NDArray[np.uint8], start: np.int64, end: np.int64, table: NDArray[np.uint32], transitions: NDArray[np.uint8],
    begins: NDArray[np.int64], ends: NDArray[np.int64],
) -> None:  # fmt: skip
    """First byte of each word of data[start:end], and the one behind its last, as `word_hashes` counts the words."""
    count = -1
    state = np.int64(NO_WORD)
    open_word = False
    at = start
    while at < end:
        point, after = decode(data, at, end)
        action = np.int64(transitions[state, (np.int64(table[point]) >> CLASS_SHIFT) & CLASS_MASK])
        state = action & STATE_MASK
        if action & ENDS:
            open_word = False
        if action & EXTENDS:
            if not open_word:
                open_word = True
                count += 1
                begins[count] = at
            ends[count] = after
        at = after


@numba.njit(nogil=True, cache=True)
def _bytes(
    data: NDArray[np.uint8], starts: NDArray[np.int64], ends: NDArray[np.int64], offsets: NDArray[np.int64],
    document: NDArray[np.int64], begin: NDArray[np.int64], end: NDArray[np.int64],
    table: NDArray[np.uint32], transitions: NDArray[np.uint8],
) -> tuple[NDArray[np.int64], NDArray[np.int64]]:  # fmt: skip
    """Ranges of words as ranges of bytes from the start of their document; `document` ascends."""
    most = np.int64(0)
    for row in document:
        most = max(most, offsets[row + 1] - offsets[row])
    word_begins = np.empty(most, np.int64)
    word_ends = np.empty(most, np.int64)
    begin_byte = np.empty(len(document), np.int64)
    end_byte = np.empty(len(document), np.int64)
    for row in range(len(document)):
        here = document[row]
        if row == 0 or document[row - 1] != here:
            _word_bytes(data, starts[here], ends[here], table, transitions, word_begins, word_ends)
        begin_byte[row] = word_begins[begin[row]] - starts[here]
        end_byte[row] = word_ends[end[row] - 1] - starts[here]
    return begin_byte, end_byte


def find(
    texts: pa.Array, index: Index, minimum_coverage: float = 0.0, ignored: NDArray[np.bool_] | None = None
) -> tuple[Matches, Spans]:
    """The texts of items that documents repeat, and where their n-grams stand.

    texts: (documents,) string or large_string; nulls are empty. A text of an item matches where at least
    `minimum_coverage` of its words lies in n-grams that the document has (0: any n-gram). ignored: see `search`.
    """
    view = utf8_view(texts)
    offsets, words = word_hashes(texts)
    hits = search(offsets, words, index, ignored)
    rows, of_match = np.zeros((0, 5), np.int64), np.zeros(0, bool)
    if len(hits.gram):
        rows, of_match = _collect(
            *hits,
            index.tables.sizes,
            index.postings,
            index.posting_places,
            index.posting_texts,
            index.offsets,
            minimum_coverage,
            _scratch(index),
        )
    document, text, begin, end, covered = (np.ascontiguousarray(rows[:, column]) for column in range(5))
    kept = Hits(*(part[of_match] for part in hits))
    kept_ends = kept.word + index.tables.sizes[kept.gram]
    matches = Matches(document, text, begin, end, *_as_bytes(view, offsets, document, begin, end), covered)
    return matches, Spans(kept.document, *_as_bytes(view, offsets, kept.document, kept.word, kept_ends))


def _as_bytes(
    view: Utf8View,
    offsets: NDArray[np.int64],
    document: NDArray[np.int64],
    begin: NDArray[np.int64],
    end: NDArray[np.int64],
) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    return _bytes(view.data, view.starts, view.ends, offsets, document, begin, end, TABLE, TRANSITIONS)
