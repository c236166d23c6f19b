"""Cutting matches out of documents: windows around them, and the pieces that are left."""

from __future__ import annotations

from typing import Final, NamedTuple

import numba
import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from pipeline.decontamination.config import Cut
from pipeline.decontamination.matching import Spans
from pipeline.text.arrow import utf8_view

SEPARATOR: Final = b"\n\n"
"""Stands between the pieces of a document: what was apart shall not read on."""


class Pieces(NamedTuple):
    """What is left of documents, a row for each piece, in order."""

    document: NDArray[np.int64]
    begin: NDArray[np.int64]  # byte of the document
    end: NDArray[np.int64]
    characters: NDArray[np.int64]


@numba.njit(nogil=True, cache=True, inline="always")
def _continues(byte: np.uint8) -> bool:
    return (byte & np.uint8(0xC0)) == np.uint8(0x80)


@numba.njit(nogil=True, cache=True)
def _back(data: NDArray[np.uint8], at: int, start: int, characters: int) -> int:
    """The position so many characters before `at`, not before `start`."""
    while at > start and characters > 0:
        at -= 1
        characters -= not _continues(data[at])
    return at


@numba.njit(nogil=True, cache=True)
def _forth(data: NDArray[np.uint8], at: int, end: int, characters: int) -> int:
    """The position so many characters behind `at`, not behind `end`."""
    while at < end and (characters > 0 or _continues(data[at])):
        characters -= not _continues(data[at])
        at += 1
    return at


@numba.njit(nogil=True, cache=True)
def _pieces(
    data: NDArray[np.uint8], starts: NDArray[np.int64], ends: NDArray[np.int64], document: NDArray[np.int64],
    begin: NDArray[np.int64], end: NDArray[np.int64], window: int,
) -> tuple[NDArray[np.int64], int]:  # fmt: skip
    rows = np.empty((2 * len(document) + 1, 4), np.int64)  # at most one before each span and one behind the last
    count = 0
    first = 0
    while first < len(document):
        here = document[first]
        clean = starts[here]  # all before this is either a piece or removed
        last = first
        while last <= len(document):
            inside = last < len(document) and document[last] == here
            upto = _back(data, starts[here] + begin[last], starts[here], window) if inside else ends[here]
            if upto > clean:
                characters = 0
                for at in range(clean, upto):
                    characters += not _continues(data[at])
                rows[count] = (here, clean - starts[here], upto - starts[here], characters)
                count += 1
            if not inside:
                break
            stop = end[last]
            last += 1
            while last < len(document) and document[last] == here and begin[last] <= stop:
                stop = max(stop, end[last])
                last += 1
            clean = max(clean, _forth(data, starts[here] + stop, ends[here], window))
        first = last
    return rows, count


def pieces_of(texts: pa.Array, spans: Spans, window_characters: int) -> Pieces:
    """What is left of the documents that have spans when these go with a window on both sides.

    `spans` are ordered by document and begin. Pieces are neither empty nor do they touch. A character is a code point.
    """
    view = utf8_view(texts)
    rows, count = _pieces(view.data, view.starts, view.ends, *spans, window_characters)
    return Pieces(*(np.ascontiguousarray(rows[:count, column]) for column in range(4)))


class Cuts(NamedTuple):
    """The documents that have spans, after the cut."""

    document: NDArray[np.int64]  # ascending
    pieces: NDArray[np.int64]  # into which each falls, short ones included
    dropped: NDArray[np.bool_]  # too many pieces, or nothing left
    texts: list[bytes | None]  # what stays of each; None where it is dropped


def cut(texts: pa.Array, spans: Spans, rule: Cut) -> Cuts:
    """Cut spans out of documents as the rule says; the pieces that stay are joined by SEPARATOR."""
    pieces = pieces_of(texts, spans, rule.window_characters)
    documents = np.unique(spans.document)
    bounds = np.searchsorted(pieces.document, np.append(documents, len(texts)))
    counts = np.diff(bounds)
    view = utf8_view(texts)
    data = memoryview(view.data)  # type: ignore[arg-type]
    kept: list[bytes | None] = []
    for number, document in enumerate(documents.tolist()):
        text = None
        if counts[number] <= rule.maximum_pieces:
            here = slice(bounds[number], bounds[number + 1])
            long_enough = pieces.characters[here] >= rule.minimum_piece_characters
            start = int(view.starts[document])
            text = SEPARATOR.join(
                bytes(data[start + begin : start + end])
                for begin, end in zip(
                    pieces.begin[here][long_enough].tolist(), pieces.end[here][long_enough].tolist(), strict=True
                )
            )
        kept.append(text or None)
    return Cuts(documents, counts, np.array([text is None for text in kept], bool), kept)
