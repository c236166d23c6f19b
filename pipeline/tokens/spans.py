"""Which bytes of its text each token stands for, and that they are the text's."""

from __future__ import annotations

import json
from abc import ABC, abstractmethod
from typing import Any, Final, NamedTuple

import numba
import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from pipeline.text.arrow import utf8_view
from pipeline.tokens.encoding import Encoded, EncodingMismatch, check_encoding
from pipeline.tokens.wordpiece_encoding import WordPiece


class TokensMismatch(ValueError):
    """Token ids are not those of a text."""


class Spans(NamedTuple):
    """The bytes of tokens, from the beginning of their document: token i stands for text[starts[i]:ends[i]]."""

    starts: NDArray[np.int64]  # (tokens,)
    ends: NDArray[np.int64]  # (tokens,)


class Aligner(ABC):
    """Finds the bytes of the tokens of documents."""

    @abstractmethod
    def spans(self, texts: pa.Array, encoded: Encoded) -> Spans:
        """Return the spans of all tokens of some documents.

        Raises TokensMismatch, naming the number of the document, where the ids are not those of its text.
        """


def load_aligner(tokenizer_json: bytes) -> Aligner:
    """Return the aligner of a tokenizer. Raises ValueError for a model that is neither byte-level BPE nor WordPiece."""
    content = json.loads(tokenizer_json)
    model = content["model"]["type"]
    if model == "WordPiece":
        return WordPieceAligner(tokenizer_json)
    decoder = content.get("decoder") or {}
    if model == "BPE" and decoder.get("type") == "ByteLevel":
        return ByteLevelAligner(content)
    raise ValueError(f"a tokenizer of model {model} says nothing of the bytes of its tokens; use bpe or wordpiece")


class ByteLevelAligner(Aligner):
    """Byte-level BPE: the bytes of a token are its characters, written in GPT-2's alphabet, and texts are their sum."""

    def __init__(self, content: dict[str, Any]) -> None:
        special = {token["id"] for token in content["added_tokens"]}
        vocabulary = {**content["model"]["vocab"]}
        size = max([*vocabulary.values(), *special]) + 1
        pieces = [b""] * size
        for token, number in vocabulary.items():
            if number not in special:
                pieces[number] = bytes(_BYTES[character] for character in token)
        self._data = np.frombuffer(b"".join(pieces), np.uint8)
        self._offsets = np.cumsum([0, *map(len, pieces)])

    def spans(self, texts: pa.Array, encoded: Encoded) -> Spans:
        """Return the running sums of the tokens' lengths, each token compared with the text."""
        view = utf8_view(texts)
        ends = np.empty(len(encoded.ids), np.int64)
        wrong = _sum_up(*view, encoded.ids, encoded.offsets, self._data, self._offsets, ends)
        if wrong >= 0:
            raise TokensMismatch(f"the tokens of document {wrong} of the batch do not spell its text")
        starts = np.empty_like(ends)
        starts[1:] = ends[:-1]
        firsts = encoded.offsets[:-1]
        starts[firsts[firsts < encoded.offsets[1:]]] = 0
        return Spans(starts, ends)


class WordPieceAligner(Aligner):
    """WordPiece: the texts are encoded again, and the ids must be the same. Some bytes belong to no token."""

    def __init__(self, tokenizer_json: bytes) -> None:
        self._wordpiece = WordPiece(tokenizer_json)

    def spans(self, texts: pa.Array, encoded: Encoded) -> Spans:
        """Return the bytes of the characters that each token is made of."""
        pieces = self._wordpiece.encode(texts)
        again = Encoded(pieces.ids, pieces.offsets)
        names = [f"{number} of the batch" for number in range(len(texts))]
        try:
            check_encoding(again, encoded, names)
        except EncodingMismatch as error:
            raise TokensMismatch(f"the tokens are not those of the texts: {error}") from error
        return Spans(pieces.starts, pieces.ends)


@numba.njit(nogil=True, cache=True)
def _sum_up(
    data: NDArray[np.uint8],
    starts: NDArray[np.int64],
    ends: NDArray[np.int64],
    ids: NDArray[np.uint32],
    offsets: NDArray[np.int64],
    token_data: NDArray[np.uint8],
    token_offsets: NDArray[np.int64],
    token_ends: NDArray[np.int64],
) -> np.int64:
    """Write the end of each token; return the first document whose tokens are not its text, -1 where there is none."""
    for document in range(len(starts)):
        at = starts[document]
        end = ends[document]
        for token in range(offsets[document], offsets[document + 1]):
            number = np.int64(ids[token])
            if number >= len(token_offsets) - 1:
                return np.int64(document)
            first = token_offsets[number]
            length = token_offsets[number + 1] - first
            if length == 0 or at + length > end:
                return np.int64(document)
            for byte in range(length):
                if data[at + byte] != token_data[first + byte]:
                    return np.int64(document)
            at += length
            token_ends[token] = at - starts[document]
        if at != end:
            return np.int64(document)
    return np.int64(-1)


def _alphabet() -> dict[str, int]:
    """GPT-2's characters for bytes: printable ones of Latin-1 stand for themselves, the others for U+0100 and on."""
    printable = [*range(0x21, 0x7F), *range(0xA1, 0xAD), *range(0xAE, 0x100)]
    others = [byte for byte in range(256) if byte not in printable]
    return {**{chr(byte): byte for byte in printable}, **{chr(0x100 + i): byte for i, byte in enumerate(others)}}


_BYTES: Final = _alphabet()
