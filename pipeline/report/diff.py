"""The difference of two texts word by word, as one text with what went and what came, long common stretches cut."""

from __future__ import annotations

import difflib
import re
from dataclasses import dataclass

# A word with the white space after it; each letter of a script without spaces is a word of its own.
_UNSPACED = "\u3040-\u30ff\u3400-\u4dbf\u4e00-\u9fff\uf900-\ufaff\uff66-\uff9f\u0e00-\u0eff\u1000-\u109f\u1780-\u17ff"
_WORD = re.compile(f"[{_UNSPACED}]\\s*|[^\\s{_UNSPACED}]+\\s*|\\s+")

MOST_WORDS = 1200
CONTEXT = 12
MOST_SHOWN = 420


@dataclass(frozen=True)
class Piece:
    """A stretch: `same` in both, `gone` (the first's only), `new` (the second's only), `skipped` (same, not shown).

    The last one may be the `rest`, which is not shown either.
    """

    kind: str
    text: str
    words: int


def word_diff(first: str, second: str) -> list[Piece]:
    """Return the pieces that turn the first text into the second.

    Both are compared over their first 1,200 words; of a common stretch 12 words stay at each end, and after some 420
    words that are shown the rest is one skipped piece.
    """
    a, b = _words(first), _words(second)
    keys_a, keys_b = [word.rstrip() for word in a], [word.rstrip() for word in b]
    pieces: list[Piece] = []
    for kind, a_from, a_to, b_from, b_to in difflib.SequenceMatcher(None, keys_a, keys_b, autojunk=False).get_opcodes():
        if kind == "equal":
            pieces += _common(a[a_from:a_to], first=a_from == 0, last=a_to == len(a))
            continue
        if a_to > a_from:
            gone = _piece("gone", a[a_from:a_to])
            if b_to > b_from and gone.text.endswith("\n"):  # what replaces it ends the line
                gone = Piece(gone.kind, gone.text[:-1] + " ", gone.words)
            pieces.append(gone)
        if b_to > b_from:
            pieces.append(_piece("new", b[b_from:b_to]))
    return _bounded(pieces)


def _words(text: str) -> list[str]:
    """The first words of a text, each with the white space behind it: one space or one line break."""
    flat = re.sub(r"\s*\n\s*", "\n", re.sub(r"[^\S\n]+", " ", text.strip()))
    return _WORD.findall(flat)[:MOST_WORDS]


def _piece(kind: str, words: list[str]) -> Piece:
    return Piece(kind, "".join(words), len(words))


def _common(words: list[str], first: bool, last: bool) -> list[Piece]:
    head, tail = (0 if first else CONTEXT), (0 if last else CONTEXT)
    if first and last:
        head = CONTEXT * 4
    if len(words) <= head + tail + CONTEXT:
        return [_piece("same", words)]
    middle = words[head : len(words) - tail]
    pieces = [_piece("same", words[:head]), _piece("skipped", middle), _piece("same", words[len(words) - tail :])]
    return [piece for piece in pieces if piece.words]


def _bounded(pieces: list[Piece]) -> list[Piece]:
    shown = 0
    result: list[Piece] = []
    for index, piece in enumerate(pieces):
        if piece.kind != "skipped":
            if shown + piece.words > MOST_SHOWN and result:
                rest = sum(rest.words for rest in pieces[index:])
                return [*result, Piece("rest", "", rest)]
            shown += piece.words
        result.append(piece)
    return result
