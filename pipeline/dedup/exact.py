"""Exact duplicates: a 128-bit digest of a document's normalised words."""

import numba
import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from pipeline.text.arrow import utf8_view

DIGEST_BYTES = 16

FIRST = np.uint64(0x9E3779B97F4A7C15)
SECOND = np.uint64(0xC2B2AE3D27D4EB4F)
_FINAL = np.uint64(0xFF51AFD7ED558CCD)
_WORDLESS = np.uint64(0xA0761D6478BD642F)  # keeps digests of bytes apart from digests of words
_23 = np.uint64(23)
_29 = np.uint64(29)
_41 = np.uint64(41)


@numba.njit(nogil=True, cache=True, inline="always")
def digest_step(first: np.uint64, second: np.uint64, value: np.uint64) -> tuple[np.uint64, np.uint64]:
    """One step of a 128-bit digest: two unlike bijections of the state for every value."""
    first = (first ^ value) * FIRST
    second = (((second << _23) | (second >> _41)) + value) * SECOND
    return first ^ (first >> _29), second


@numba.njit(nogil=True, cache=True, inline="always")
def digest_finish(state: np.uint64, length: int) -> np.uint64:
    """The last step of either half; the second half is finished XORed with the first."""
    state = (state ^ np.uint64(length)) * _FINAL
    return state ^ (state >> _29)


@numba.njit(nogil=True, cache=True)
def _digests(
    offsets: NDArray[np.int64],
    words: NDArray[np.uint64],
    data: NDArray[np.uint8],
    starts: NDArray[np.int64],
    ends: NDArray[np.int64],
    digests: NDArray[np.uint64],
) -> None:
    for document in range(len(starts)):
        first = FIRST
        second = SECOND
        count = offsets[document + 1] - offsets[document]
        for word in range(offsets[document], offsets[document + 1]):
            first, second = digest_step(first, second, words[word])
        if count == 0:
            first = _WORDLESS
            for at in range(starts[document], ends[document]):
                byte = data[at]
                if byte > 32:  # all ASCII white space and controls are at most 32
                    first, second = digest_step(first, second, np.uint64(byte))
                    count += 1
        digests[document, 0] = digest_finish(first, count)
        digests[document, 1] = digest_finish(second ^ first, count)


def content_digests(texts: pa.Array, offsets: NDArray[np.int64], words: NDArray[np.uint64]) -> NDArray[np.uint64]:
    """128-bit digests (n, 2) of the words of each text: equal for the same words in the same order.

    Case, white space and punctuation therefore make no difference, as in CCNet (arXiv:1911.00359, 3.1). A text without
    any word is told from others by its bytes, white space aside. `offsets` and `words` are what `word_hashes` returns
    for `texts`. The digest is not keyed: it is no defence against texts made to collide.
    """
    view = utf8_view(texts)
    digests = np.empty((len(view.starts), 2), np.uint64)
    _digests(offsets, words, view.data, view.starts, view.ends, digests)
    return digests
