"""WordPiece over Arrow buffers: the ids of Hugging Face tokenizers, and the bytes that each token stands for.

What the normaliser and the pre-tokeniser make of a character is asked of tokenizers itself, once for each character
that comes up: a character is normalised alone, but for combining marks that stay and may change places with each other
(canonical ordering). Texts with one of these few, or with a character that this Python does not know yet, are left to
tokenizers.
"""

from __future__ import annotations

import json
import unicodedata
from typing import Final, NamedTuple

import numba
import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from numpy.typing import NDArray
from tokenizers import Encoding, Tokenizer

from pipeline.text.arrow import Utf8View, utf8_view
from pipeline.text.scan import decode

_POINTS: Final = 0x110000
_NOT_SEEN: Final = -2
_HARD: Final = -1
# What a normalised character is: its code point, and above that how the pre-tokeniser takes it.
_KIND_SHIFT: Final = 21
_POINT_MASK: Final = (1 << _KIND_SHIFT) - 1
_LETTER, _BLANK, _ALONE = range(3)
_ROOT: Final = 0  # of the pieces that begin a word
_INSIDE: Final = 1  # of those that go on
_EMPTY: Final = np.uint64(0xFFFF_FFFF_FFFF_FFFF)
_MULTIPLIER: Final = np.uint64(0x9E37_79B9_7F4A_7C15)
_21: Final = np.uint64(21)
_32: Final = np.uint64(32)


class Pieces(NamedTuple):
    """Tokens of a batch, and their bytes from the beginning of their document."""

    ids: NDArray[np.uint32]  # (tokens,)
    offsets: NDArray[np.int64]  # (documents + 1,)
    starts: NDArray[np.int64]  # (tokens,)
    ends: NDArray[np.int64]  # (tokens,)


class WordPiece:
    """An encoder of one tokenizer.json; it learns characters as they come, so keep it."""

    def __init__(self, tokenizer_json: bytes) -> None:
        self._tokenizer = Tokenizer.from_str(tokenizer_json.decode())
        self._tokenizer.encode_special_tokens = True  # "encode their text", as opposed to taking it for the token
        model = json.loads(tokenizer_json)["model"]
        self._unknown = int(model["vocab"][model["unk_token"]])
        self._longest = int(model["max_input_chars_per_word"])
        self._keys, self._nodes, self._tokens = _trie(model["vocab"], model["continuing_subword_prefix"])
        self._first = np.full(_POINTS, _NOT_SEEN, np.int32)  # of a character's normalised ones in _normalised
        self._count = np.zeros(_POINTS, np.uint8)
        self._normalised = np.zeros(1024, np.int32)
        self._used = 0

    def encode(self, texts: pa.Array) -> Pieces:
        """Encode an Arrow array of string or large_string; a null is an empty text."""
        view = utf8_view(texts)
        self._learn(view)
        sizes = view.ends - view.starts
        room = int(sizes.sum()) + 1  # no byte becomes more than one token
        ids = np.empty(room, np.uint32)
        places = np.empty((room, 2), np.int64)
        offsets = np.zeros(len(sizes) + 1, np.int64)
        hard = np.zeros(len(sizes), np.bool_)
        word = np.empty((self._longest, 3), np.int64)
        trie = (self._keys, self._nodes, self._tokens)
        characters = (self._first, self._count, self._normalised)
        count = _encode(*view, *characters, *trie, np.int64(self._unknown), word, ids, places, offsets, hard)
        found = Pieces(ids[:count].copy(), offsets, places[:count, 0].copy(), places[:count, 1].copy())
        return self._replace(found, texts, view, np.flatnonzero(hard)) if hard.any() else found

    def _learn(self, view: Utf8View) -> None:
        """Ask tokenizers about the characters that come up for the first time."""
        unseen = np.zeros(_POINTS, np.bool_)
        if not _find_unseen(*view, self._first, unseen):
            return
        for point in np.flatnonzero(unseen).tolist():
            made = self._normal(point)
            if made is None:
                self._first[point] = _HARD
                continue
            if self._used + len(made) > len(self._normalised):
                self._normalised = np.append(self._normalised, np.zeros_like(self._normalised))
            self._first[point], self._count[point] = self._used, len(made)
            self._normalised[self._used : self._used + len(made)] = made
            self._used += len(made)

    def _normal(self, point: int) -> list[int] | None:
        """What a character becomes; None where that depends on those beside it, or this Python does not know it."""
        character = chr(point)
        if unicodedata.category(character) in ("Cn", "Cs"):
            return None
        made = self._tokenizer.normalizer.normalize_str(character)
        if any(unicodedata.combining(one) for one in made) or len(made.replace(" ", "")) > len(character.encode()):
            return None
        return [ord(one) | self._kind(one) << _KIND_SHIFT for one in made]

    def _kind(self, character: str) -> int:
        pieces = self._tokenizer.pre_tokenizer.pre_tokenize_str(f"a{character}a")
        return {1: _LETTER, 2: _BLANK, 3: _ALONE}[len(pieces)]

    def _replace(self, found: Pieces, texts: pa.Array, view: Utf8View, documents: NDArray[np.int64]) -> Pieces:
        """Put the encoding of tokenizers in the place of that of some documents."""
        others = self._tokenizer.encode_batch(
            pc.fill_null(texts.take(pa.array(documents)), "").to_pylist(), add_special_tokens=False
        )
        instead = dict(zip(documents.tolist(), others, strict=True))
        rows = []
        for document, (begin, end) in enumerate(zip(found.offsets[:-1], found.offsets[1:], strict=True)):
            if document in instead:
                rows.append(_of_encoding(instead[document], view, document))
            else:
                rows.append((found.ids[begin:end], found.starts[begin:end], found.ends[begin:end]))
        ids, starts, ends = (np.concatenate(column) for column in zip(*rows, strict=True))
        return Pieces(ids, np.cumsum([0, *(len(row[0]) for row in rows)]), starts, ends)


def _of_encoding(
    encoding: Encoding, view: Utf8View, document: int
) -> tuple[NDArray[np.uint32], NDArray[np.int64], NDArray[np.int64]]:
    """Ids of an encoding, and its offsets, which are in characters, in bytes."""
    start, end = view.starts[document], view.ends[document]
    firsts = np.append(np.flatnonzero((view.data[start:end] & 0xC0) != 0x80), end - start)
    places = firsts[np.array(encoding.offsets, np.int64).reshape(-1, 2)]
    return np.array(encoding.ids, np.uint32), places[:, 0], places[:, 1]


def _trie(vocabulary: dict[str, int], prefix: str) -> tuple[NDArray[np.uint64], NDArray[np.int32], NDArray[np.int32]]:
    """Compile the vocabulary: a hash table from (node, character) to node, and the token that each node is, or -1."""
    edges: dict[tuple[int, int], int] = {}
    tokens = [-1, -1]
    for token, number in vocabulary.items():
        inside = token.startswith(prefix) and len(token) > len(prefix)
        node = _INSIDE if inside else _ROOT
        for character in token[len(prefix) :] if inside else token:
            edge = (node, ord(character))
            if edge not in edges:
                edges[edge] = len(tokens)
                tokens.append(-1)
            node = edges[edge]
        if node > _INSIDE:
            tokens[node] = number
    size = 1 << max(4, (2 * len(edges)).bit_length())
    keys, nodes = np.full(size, _EMPTY, np.uint64), np.zeros(size, np.int32)
    _fill(np.array([node << 21 | point for node, point in edges], np.uint64), np.array([*edges.values()]), keys, nodes)
    return keys, nodes, np.array(tokens, np.int32)


@numba.njit(nogil=True, cache=True, inline="always")
def _slot(keys: NDArray[np.uint64], key: np.uint64) -> np.uint64:
    mask = np.uint64(len(keys) - 1)
    mixed = key * _MULTIPLIER
    slot = (mixed ^ (mixed >> _32)) & mask
    while keys[slot] != key and keys[slot] != _EMPTY:
        slot = (slot + np.uint64(1)) & mask
    return slot


@numba.njit(nogil=True, cache=True)
def _fill(
    edges: NDArray[np.uint64], targets: NDArray[np.int64], keys: NDArray[np.uint64], nodes: NDArray[np.int32]
) -> None:
    for edge in range(len(edges)):
        slot = _slot(keys, edges[edge])
        keys[slot] = edges[edge]
        nodes[slot] = targets[edge]


@numba.njit(nogil=True, cache=True)
def _find_unseen(
    data: NDArray[np.uint8],
    starts: NDArray[np.int64],
    ends: NDArray[np.int64],
    first: NDArray[np.int32],
    unseen: NDArray[np.bool_],
) -> bool:
    found = False
    for text in range(len(starts)):
        at = starts[text]
        while at < ends[text]:
            point, at = decode(data, at, ends[text])
            if first[point] == _NOT_SEEN:
                unseen[point] = True
                found = True
    return found


@numba.njit(nogil=True, cache=True)
def _cut_word(
    word: NDArray[np.int64],
    length: np.int64,
    keys: NDArray[np.uint64],
    nodes: NDArray[np.int32],
    tokens: NDArray[np.int32],
    unknown: np.int64,
    end: np.int64,
    ids: NDArray[np.uint32],
    places: NDArray[np.int64],
    count: np.int64,
) -> np.int64:
    """Write the longest pieces of a word, first to last; `unknown` for all of it where there is none or it is too long.

    `word` (characters, 3) has the code point, and the beginning and end in bytes, of each; `end` is that of the last.
    """
    first = count
    at = np.int64(0)
    if length > len(word):
        at = np.int64(-1)
    while 0 <= at < length:
        node = np.int64(_INSIDE if at else _ROOT)
        matched = np.int64(-1)
        after = at
        ahead = at
        while ahead < length:
            slot = _slot(keys, np.uint64(node) << _21 | np.uint64(word[ahead, 0]))
            if keys[slot] == _EMPTY:
                break
            node = np.int64(nodes[slot])
            ahead += 1
            if tokens[node] >= 0:
                matched = np.int64(tokens[node])
                after = ahead
        if matched < 0:
            at = np.int64(-1)
            break
        ids[count] = matched
        places[count, 0] = word[at, 1]
        places[count, 1] = word[after - 1, 2]
        count += 1
        at = after
    if at < 0:
        count = first
        ids[count] = unknown
        places[count, 0] = word[0, 1]
        places[count, 1] = end
        count += 1
    return count


@numba.njit(nogil=True, cache=True)
def _encode(
    data: NDArray[np.uint8],
    starts: NDArray[np.int64],
    ends: NDArray[np.int64],
    first: NDArray[np.int32],
    made: NDArray[np.uint8],
    normalised: NDArray[np.int32],
    keys: NDArray[np.uint64],
    nodes: NDArray[np.int32],
    tokens: NDArray[np.int32],
    unknown: np.int64,
    word: NDArray[np.int64],
    ids: NDArray[np.uint32],
    places: NDArray[np.int64],
    offsets: NDArray[np.int64],
    hard: NDArray[np.bool_],
) -> np.int64:
    count = np.int64(0)
    for text in range(len(starts)):
        start, end = starts[text], ends[text]
        at = start
        length = np.int64(0)  # of the word so far, of which `word` has as many characters as it can
        word_end = np.int64(0)
        while at < end:
            point, after = decode(data, at, end)
            if first[point] < 0:
                hard[text] = True
                length = np.int64(0)
                break
            for one in range(first[point], first[point] + made[point]):
                character = np.int64(normalised[one])
                kind = character >> _KIND_SHIFT
                if kind != _LETTER and length:
                    count = _cut_word(word, length, keys, nodes, tokens, unknown, word_end, ids, places, count)
                    length = np.int64(0)
                if kind != _BLANK:
                    if length < len(word):
                        word[length, 0] = character & _POINT_MASK
                        word[length, 1] = at - start
                        word[length, 2] = after - start
                    length += 1
                    word_end = after - start
                if kind == _ALONE:
                    count = _cut_word(word, length, keys, nodes, tokens, unknown, word_end, ids, places, count)
                    length = np.int64(0)
            at = after
        if length:
            count = _cut_word(word, length, keys, nodes, tokens, unknown, word_end, ids, places, count)
        offsets[text + 1] = count
    return count
