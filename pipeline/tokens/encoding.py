"""Encoding: texts to token ids with gigatoken, or a kernel for WordPiece, checked against Hugging Face tokenizers.

Text that spells a special token, such as "<|endoftext|>" in a document about tokenizers, is encoded as the ordinary
characters that it is: only the shard writer places special tokens.

gigatoken 0.10 and tokenizers 0.23 give the same ids for every character that Unicode 16 assigns. Those that Unicode 17
added are letters to the one and not yet to the other.
"""

from __future__ import annotations

import functools
import json
from abc import ABC, abstractmethod
from typing import ClassVar, Literal, NamedTuple

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from numpy.typing import NDArray
from tokenizers import Tokenizer

from pipeline.text.arrow import utf8_view
from pipeline.tokens.wordpiece_encoding import WordPiece

EncoderName = Literal["gigatoken", "tokenizers"]

_PROBE = "Naïve café, don't 1234567!\r\n\t語 हिन्दी 🇫🇷  <|endoftext|>\n\n end "


class Encoded(NamedTuple):
    """Token ids of a batch: document i has `ids[offsets[i]:offsets[i + 1]]`."""

    ids: NDArray[np.uint32]  # (tokens,)
    offsets: NDArray[np.int64]  # (documents + 1,), the first is 0

    def take(self, documents: NDArray[np.int64]) -> Encoded:
        """Return the documents at some positions."""
        parts = [self.ids[self.offsets[i] : self.offsets[i + 1]] for i in documents]
        offsets = np.cumsum([0, *(len(part) for part in parts)])
        return Encoded(np.concatenate([np.zeros(0, np.uint32), *parts]), offsets)


class EncodingMismatch(ValueError):
    """Two encoders gave different ids for the same text."""


class Encoder(ABC):
    """A function from texts to ids."""

    name: ClassVar[str]

    @abstractmethod
    def encode(self, texts: pa.Array) -> Encoded:
        """Encode an Arrow array of string or large_string; a null is an empty text."""


class GigatokenEncoder(Encoder):
    """gigatoken over the Arrow buffers, without a copy of the text.

    It runs on the calling thread: the stage's units are what is parallel. Words seen before come from a cache inside
    the instance, so keep one. Raises whatever gigatoken does where it cannot load.
    """

    name = "gigatoken"

    def __init__(self, tokenizer_json: bytes) -> None:
        import gigatoken

        content = json.loads(tokenizer_json)
        # gigatoken takes the text of an added token for the token; without the list it stays text. The vocabulary
        # still has the entry, but no merge leads to it.
        content["added_tokens"] = []
        self._tokenizer = gigatoken.Tokenizer.from_json(json.dumps(content, ensure_ascii=False))

    def encode(self, texts: pa.Array) -> Encoded:
        """Encode an Arrow array of string or large_string; a null is an empty text."""
        import awkward

        if len(texts) == 0:
            return Encoded(np.zeros(0, np.uint32), np.zeros(1, np.int64))
        view = utf8_view(texts)
        layout = awkward.contents.ListArray(
            awkward.index.Index64(view.starts),
            awkward.index.Index64(view.ends),
            awkward.contents.NumpyArray(view.data, parameters={"__array__": "char"}),
            parameters={"__array__": "string"},
        )
        rows = self._tokenizer.encode_batch(awkward.Array(layout), parallel=False).layout
        offsets = np.asarray(rows.offsets).astype(np.int64)
        ids = np.asarray(rows.content.data)[offsets[0] : offsets[-1]]
        return Encoded(ids.astype(np.uint32, copy=False), offsets - offsets[0])


class WordPieceEncoder(Encoder):
    """WordPiece over the Arrow buffers, on the calling thread. Keep one: it learns characters as they come."""

    name = "wordpiece"

    def __init__(self, tokenizer_json: bytes) -> None:
        self._wordpiece = WordPiece(tokenizer_json)

    def encode(self, texts: pa.Array) -> Encoded:
        """Encode an Arrow array of string or large_string; a null is an empty text."""
        pieces = self._wordpiece.encode(texts)
        return Encoded(pieces.ids, pieces.offsets)


class ReferenceEncoder(Encoder):
    """Hugging Face tokenizers: the check, and what is used where gigatoken cannot load."""

    name = "tokenizers"

    def __init__(self, tokenizer_json: bytes) -> None:
        self._tokenizer = Tokenizer.from_str(tokenizer_json.decode())
        self._tokenizer.encode_special_tokens = True  # "encode their text", as opposed to taking it for the token

    def encode(self, texts: pa.Array) -> Encoded:
        """Encode an Arrow array of string or large_string; a null is an empty text."""
        batch = pc.fill_null(texts, "").to_pylist()
        return encode_rows([row.ids for row in self._tokenizer.encode_batch_fast(batch, add_special_tokens=False)])


def encode_rows(rows: list[list[int]]) -> Encoded:
    """Return the ids of documents as one batch."""
    offsets = np.zeros(len(rows) + 1, np.int64)
    np.cumsum([len(row) for row in rows], out=offsets[1:])
    return Encoded(np.concatenate([np.zeros(0, np.uint32), *(np.array(r, np.uint32) for r in rows)]), offsets)


class Loaded(NamedTuple):
    """An encoder, the reference to check it against, and why it is not gigatoken where it is not."""

    encoder: Encoder
    reference: ReferenceEncoder
    fallback_reason: str | None


@functools.lru_cache(maxsize=2)
def load_encoder(tokenizer_json: bytes, prefer: EncoderName = "gigatoken") -> Loaded:
    """Load the preferred encoder, kept for this process; where gigatoken does not work here, tokenizers and the reason.

    Raises EncodingMismatch where gigatoken loads but disagrees with tokenizers on a probe.
    """
    reference = ReferenceEncoder(tokenizer_json)
    if prefer == "tokenizers":
        return Loaded(reference, reference, None)
    if json.loads(tokenizer_json)["model"]["type"] == "WordPiece":  # which gigatoken has not
        return Loaded(WordPieceEncoder(tokenizer_json), reference, None)
    probe = pa.array([_PROBE], pa.large_string())
    try:
        encoder = GigatokenEncoder(tokenizer_json)
        encoded = encoder.encode(probe)
    except Exception as error:  # any failure of the fast path: missing wheel, unknown CPU, unknown expression
        return Loaded(reference, reference, f"gigatoken: {type(error).__name__}: {error}")
    check_encoding(encoded, reference.encode(probe), ["probe"])
    return Loaded(encoder, reference, None)


def check_encoding(encoded: Encoded, expected: Encoded, names: list[str]) -> None:
    """Raise EncodingMismatch, naming the first document and token, unless both encodings are the same."""
    if np.array_equal(encoded.offsets, expected.offsets) and np.array_equal(encoded.ids, expected.ids):
        return
    for i, name in enumerate(names):
        got = encoded.ids[encoded.offsets[i] : encoded.offsets[i + 1]]
        want = expected.ids[expected.offsets[i] : expected.offsets[i + 1]]
        if not np.array_equal(got, want):
            common = min(len(got), len(want))
            differs = np.flatnonzero(got[:common] != want[:common])
            at = int(differs[0]) if len(differs) else common
            raise EncodingMismatch(
                f"the encoder and tokenizers encode document {name} differently from token {at} on: "
                f"{got[at : at + 5].tolist()} against {want[at : at + 5].tolist()} "
                f"({len(got)} and {len(want)} tokens); set the tokenize stage's encoder to tokenizers, and report it"
            )
    raise EncodingMismatch("the encoder and tokenizers encode a batch differently")
