"""The difference of two texts word by word, as one text with what went and what came; bounded in time and in size.

Long texts are first cut at anchors: short sequences of words that stand once in each of the two, in the same order in
both (the idea of Cohen's patience diff, there with lines). Only what lies between anchors is compared pair by pair.
"""

from __future__ import annotations

import difflib
import re
from bisect import bisect_left
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

# A word with the white space after it; each letter of a script without spaces is a word of its own.
_UNSPACED = "\u3040-\u30ff\u3400-\u4dbf\u4e00-\u9fff\uf900-\ufaff\uff66-\uff9f\u0e00-\u0eff\u1000-\u109f\u1780-\u17ff"
_WORD = re.compile(f"[{_UNSPACED}]\\s*|[^\\s{_UNSPACED}]+\\s*|\\s+")

CHARACTERS = 2_000_000
"""Of each text; what lies behind is not compared."""

CONTEXT = 12
"""Words of a common stretch that are shown at each of its ends."""

MOST_SHOWN = 600
LONGEST_CHANGE = 120
"""Words of one change that are shown; its middle is left out."""

LONGEST_WORD = 200
"""Characters of a word that are shown."""

_ANCHOR_WORDS = (8, 4, 2, 1)
_ANCHOR_ROUNDS = 6  # with sequences of one length
_MOST_PAIRS = 40_000  # of words between two anchors that are compared pair by pair
_MOST_PAIRS_IN_ALL = 1_000_000

_STEP = 256

Block = tuple[int, int, int]
Words = NDArray[np.uint32]


@dataclass(frozen=True)
class Piece:
    """A stretch of words: `same` in both texts, `gone` (the first's only), `new` (the second's only), or the `rest`.

    The text is empty where the stretch is not shown, as the rest of the comparison never is; `words` tells its length.
    """

    kind: str
    text: str
    words: int


def word_diff(first: str, second: str, context: int = CONTEXT, most_shown: int = MOST_SHOWN) -> list[Piece]:
    """Return the pieces that turn the first text into the second; white space alone makes no difference.

    Of a common stretch `context` words are shown at each end, and about `most_shown` words in all.
    """
    a, b = _words(first), _words(second)
    pieces: list[Piece] = []
    at_a = at_b = 0
    for start_a, start_b, words in [*_common(*_numbered(a, b)), (len(a), len(b), 0)]:
        gone, new = a[at_a:start_a], b[at_b:start_b]
        if gone and new and gone[-1].endswith("\n"):  # what replaces it ends the line
            gone[-1] = gone[-1][:-1] + " "
        pieces += [*_shown("gone", gone), *_shown("new", new)]
        at_a, at_b = start_a + words, start_b + words
        # With the white space of the second text, which is the one that stays; at its end there is none.
        common = [*b[start_b : at_b - 1], a[at_a - 1] if at_b == len(b) else b[at_b - 1]] if words else []
        pieces += _context(common, context, first=not pieces, last=at_a == len(a) and at_b == len(b))
    cut = max(len(first), len(second)) > CHARACTERS
    return _bounded(pieces, most_shown, cut)


def _words(text: str) -> list[str]:
    """The words of a text, each with the white space behind it: one space or one line break."""
    flat = re.sub(r"\s*\n\s*", "\n", re.sub(r"[^\S\n]+", " ", text[:CHARACTERS].strip()))
    return _WORD.findall(flat)


def _numbered(a: Sequence[str], b: Sequence[str]) -> tuple[Words, Words]:
    """The words of both as numbers, the same for the same word whatever white space is behind it."""
    numbers: dict[str, int] = {}
    first, second = (
        np.fromiter((numbers.setdefault(word.rstrip(), len(numbers)) for word in words), np.uint32, len(words))
        for words in (a, b)
    )
    return first, second


def _common(a: Words, b: Words) -> list[Block]:
    """The stretches that both have in common, in order, as (start in a, start in b, words)."""
    blocks: list[Block] = []
    left = _MOST_PAIRS_IN_ALL
    regions = [(0, len(a), 0, len(b), 0, 0)]
    while regions:
        from_a, to_a, from_b, to_b, level, done = regions.pop()
        head = _common_prefix(a[from_a:to_a], b[from_b:to_b])
        if head:
            blocks.append((from_a, from_b, head))
        from_a, from_b = from_a + head, from_b + head
        tail = _common_prefix(a[from_a:to_a][::-1], b[from_b:to_b][::-1])
        to_a, to_b = to_a - tail, to_b - tail
        if tail:
            blocks.append((to_a, to_b, tail))
        pairs = (to_a - from_a) * (to_b - from_b)
        if not pairs:
            continue
        if pairs <= _MOST_PAIRS:
            if pairs <= left:
                left -= pairs
                blocks += _compared(a, b, from_a, to_a, from_b, to_b)
            continue
        anchors = _anchors(a[from_a:to_a], b[from_b:to_b], _ANCHOR_WORDS[level])
        if not anchors or done == _ANCHOR_ROUNDS:
            level, done = level + 1, -1
            if level == len(_ANCHOR_WORDS):
                continue  # all of it counts as replaced
        between = []
        at_a, at_b = from_a, from_b
        for start_a, start_b, words in anchors:
            blocks.append((from_a + start_a, from_b + start_b, words))
            between.append((at_a, from_a + start_a, at_b, from_b + start_b, level, done + 1))
            at_a, at_b = from_a + start_a + words, from_b + start_b + words
        between.append((at_a, to_a, at_b, to_b, level, done + 1))
        regions += between[::-1]  # from the beginning on, which is shown
    return _without_chance(_joined(sorted(blocks)), len(a), len(b))


def _common_prefix(a: Words, b: Words) -> int:
    """Words at the beginning that are the same."""
    length = min(len(a), len(b))
    for start in range(0, length, _STEP):  # most differ early
        differ = a[start : min(start + _STEP, length)] != b[start : min(start + _STEP, length)]
        if differ.any():
            return start + int(differ.argmax())
    return length


def _compared(a: Words, b: Words, from_a: int, to_a: int, from_b: int, to_b: int) -> Iterator[Block]:
    matcher = difflib.SequenceMatcher(None, a[from_a:to_a].tolist(), b[from_b:to_b].tolist(), autojunk=False)
    for block in matcher.get_matching_blocks():
        if block.size:
            yield from_a + block.a, from_b + block.b, block.size


def _anchors(a: Words, b: Words, length: int) -> list[Block]:
    """The longest series of sequences of `length` words that stand once in each, in the same order; joined."""
    (places_a, hashes_a), (places_b, hashes_b) = _single(a, length), _single(b, length)
    _, of_a, of_b = np.intersect1d(hashes_a, hashes_b, assume_unique=True, return_indices=True)
    found_a, found_b = places_a[of_a], places_b[of_b]
    order = np.argsort(found_a)
    found_a, found_b = found_a[order], found_b[order]
    same = np.ones(len(found_a), np.bool_)  # two sequences may share a hash
    for word in range(length):
        same &= a[found_a + word] == b[found_b + word]
    found_a, found_b = found_a[same], found_b[same]
    chosen = _longest_ascending(found_b.tolist())
    return _joined([(int(found_a[at]), int(found_b[at]), 1) for at in chosen])


def _single(words: Words, length: int) -> tuple[NDArray[np.int64], NDArray[np.uint64]]:
    """Where a sequence of words stands that stands nowhere else in the text, and its hash."""
    hashes = np.zeros(max(0, len(words) - length + 1), np.uint64)
    for word in range(length):
        hashes = (hashes * np.uint64(0x9E3779B97F4A7C15)) ^ words[word : word + len(hashes)].astype(np.uint64)
    found, places, counts = np.unique(hashes, return_index=True, return_counts=True)
    return places[counts == 1], found[counts == 1]


def _longest_ascending(values: Sequence[int]) -> list[int]:
    """The indices of a longest ascending subsequence of distinct values (patience sorting)."""
    tops: list[int] = []
    holders: list[int] = []
    before: list[int] = []
    for index, value in enumerate(values):
        pile = bisect_left(tops, value)
        before.append(holders[pile - 1] if pile else -1)
        if pile == len(tops):
            tops.append(value)
            holders.append(index)
        else:
            tops[pile], holders[pile] = value, index
    chain = []
    at = holders[-1] if holders else -1
    while at >= 0:
        chain.append(at)
        at = before[at]
    return chain[::-1]


def _joined(blocks: Sequence[Block]) -> list[Block]:
    """Blocks in order, those that adjoin in both texts as one."""
    joined: list[Block] = []
    for start_a, start_b, words in blocks:
        if joined and joined[-1][0] + joined[-1][2] == start_a and joined[-1][1] + joined[-1][2] == start_b:
            joined[-1] = (*joined[-1][:2], joined[-1][2] + words)
        else:
            joined.append((start_a, start_b, words))
    return joined


def _without_chance(blocks: list[Block], end_a: int, end_b: int) -> list[Block]:
    """The blocks without single words and pairs amid long changes: they agree by chance and only break up the text."""
    kept: list[Block] = []
    for index, (start_a, start_b, words) in enumerate(blocks):
        last_a, last_b = (kept[-1][0] + kept[-1][2], kept[-1][1] + kept[-1][2]) if kept else (0, 0)
        next_a, next_b = blocks[index + 1][:2] if index + 1 < len(blocks) else (end_a, end_b)
        before = max(start_a - last_a, start_b - last_b)
        after = max(next_a - start_a, next_b - start_b) - words
        if words > 2 or min(before, after) < 4 * words:
            kept.append((start_a, start_b, words))
    return kept


def _piece(kind: str, words: Sequence[str]) -> list[Piece]:
    text = "".join(
        word if len(word) <= LONGEST_WORD else word[:LONGEST_WORD] + "…" + word[len(word.rstrip()) :] for word in words
    )
    return [Piece(kind, text, len(words))] if words else []


def _without_middle(kind: str, words: Sequence[str], head: int, tail: int) -> list[Piece]:
    end = len(words) - tail
    return [*_piece(kind, words[:head]), Piece(kind, "", end - head), *_piece(kind, words[end:])]


def _shown(kind: str, words: Sequence[str]) -> list[Piece]:
    """A change; of a long one the beginning and the end."""
    if len(words) <= LONGEST_CHANGE:
        return _piece(kind, words)
    return _without_middle(kind, words, LONGEST_CHANGE * 3 // 4, LONGEST_CHANGE // 4)


def _context(words: Sequence[str], context: int, first: bool, last: bool) -> list[Piece]:
    """A common stretch: of a long one the ends that lie beside a change, or how it begins where nothing differs."""
    head = 4 * context if first and last else 0 if first else context
    tail = 0 if last else context
    if len(words) <= head + tail + context:
        return _piece("same", words)
    return _without_middle("same", words, head, tail)


def _bounded(pieces: Sequence[Piece], most: int, cut: bool) -> list[Piece]:
    shown = 0
    result: list[Piece] = []
    for index, piece in enumerate(pieces):
        if piece.text:
            if shown + piece.words > most and result:
                return [*result, Piece("rest", "", sum(rest.words for rest in pieces[index:]))]
            shown += piece.words
        result.append(piece)
    return [*result, Piece("rest", "", 0)] if cut else result
