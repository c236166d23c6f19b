"""`clean_text` for a whole column: the texts that it would change are found in bulk, and only they go through it."""

from __future__ import annotations

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from pipeline.sources.records import clean_text
from pipeline.text.arrow import large_strings, utf8_view


def _white_space(length: int) -> NDArray[np.int32]:
    """The white space characters of so many bytes in UTF-8, each as one number."""
    encoded = (chr(code).encode() for code in range(0x1_0000) if chr(code).isspace())
    return np.array([int.from_bytes(code, "big") for code in encoded if len(code) == length], np.int32)


_WHITE_SPACE = {length: _white_space(length) for length in (1, 2, 3)}


def cleaned(texts: pa.LargeStringArray) -> pa.LargeStringArray:
    """Return `clean_text` of each text: the same array where nothing changes, else a copy. Nulls become empty.

    The texts must be valid UTF-8.
    """
    data, starts, ends = utf8_view(texts)
    changed = _has_outer_space(data, starts, ends) | _holds_replaced(data, starts, ends)
    if not changed.any():
        return texts.fill_null("") if texts.null_count else texts
    content = memoryview(data)  # type: ignore[arg-type]
    pieces: list[bytes | memoryview] = [
        content[start:end] for start, end in zip(starts.tolist(), ends.tolist(), strict=True)
    ]
    for index in np.flatnonzero(changed).tolist():
        pieces[index] = clean_text(str(pieces[index], "utf-8")).encode()
    offsets = np.zeros(len(pieces) + 1, np.int64)
    np.cumsum([len(piece) for piece in pieces], out=offsets[1:])
    return large_strings(offsets, np.frombuffer(b"".join(pieces), np.uint8))


def _has_outer_space(data: NDArray[np.uint8], starts: NDArray[np.int64], ends: NDArray[np.int64]) -> NDArray[np.bool_]:
    """Whether each text begins or ends with white space; for a shorter text than a character it may be said wrongly."""
    found = np.zeros(len(starts), np.bool_)
    if not len(data):
        return found
    for length, characters in _WHITE_SPACE.items():
        for begins in (starts, ends - length):
            codes = np.zeros(len(starts), np.int32)
            for offset in range(length):
                codes = codes << 8 | data[np.clip(begins + offset, 0, len(data) - 1)]
            found |= np.isin(codes, characters)
    return found & (starts < ends)


def _holds_replaced(data: NDArray[np.uint8], starts: NDArray[np.int64], ends: NDArray[np.int64]) -> NDArray[np.bool_]:
    """Whether each text holds a byte that is replaced."""
    found = np.zeros(len(starts), np.bool_)
    if not len(data):
        return found
    begin = int(starts[0])
    for byte in b"\r\0":
        places = begin + np.flatnonzero(data[begin : ends[-1]] == byte)
        of = np.searchsorted(ends, places, "right")
        found[of[starts[of] <= places]] = True
    return found
