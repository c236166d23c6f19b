"""The text as a fastText classifier reads it: one line, and letters of unspaced scripts apart where it was so trained.

fastText splits at white space and nowhere else, so a Chinese sentence is one word to it. A model that was trained with
`separate_unspaced` reads each letter of such a script as a word, and its word n-grams are n-grams of characters. What a
model was trained with stands in the JSON file beside it, and applying it reads that file.
"""

import json
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Final, Self

import numba
import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from pipeline.text.arrow import large_strings, utf8_views
from pipeline.text.scan import REPLACEMENT, decode
from pipeline.text.tables import CLASS_MASK, CLASS_SHIFT, IGNORABLE, MARK, TABLE, UNICODE_VERSION, UNSPACED

# Increase when the same text and settings give another line.
NORMALISATION_VERSION: Final = 1
WHOLE: Final = 1 << 62  # a limit that no document reaches

_BLANK: Final = 0x20
_DELETE: Final = 0x7F


@numba.njit(nogil=True, cache=True)
def _normalise(
    data: NDArray[np.uint8],
    starts: NDArray[np.int64],
    ends: NDArray[np.int64],
    limit: np.int64,
    separate: bool,
    table: NDArray[np.uint32],
    out: NDArray[np.uint8],
    offsets: NDArray[np.int64],
) -> None:
    at = np.int64(0)
    offsets[0] = 0
    for document in range(len(starts)):
        begin = at
        read = starts[document]
        end = min(ends[document], read + limit)
        blank = True  # nothing is written yet, or a space was last
        unspaced = False  # the last letter is one of an unspaced script
        while read < end:
            lead = data[read]
            if lead <= _BLANK or lead == _DELETE:
                if not blank:
                    out[at] = _BLANK
                    at += 1
                blank = True
                unspaced = False
                read += 1
                continue
            if lead < 0x80:
                if unspaced:
                    out[at] = _BLANK
                    at += 1
                    unspaced = False
                out[at] = lead
                at += 1
                read += 1
                blank = False
                continue
            if read + 1 + (lead >= 0xC0) + (lead >= 0xE0) + (lead >= 0xF0) > end:
                break  # the limit cuts this character
            after = read + 1
            point, behind = decode(data, read, end)
            while after < behind and data[after] & 0xC0 == 0x80:
                after += 1
            if after < behind:  # bytes that are no UTF-8 must not swallow a newline
                point = np.int64(REPLACEMENT)
            kind = (table[point] >> CLASS_SHIFT) & CLASS_MASK
            letter = separate and kind == UNSPACED
            extends = unspaced and kind in (MARK, IGNORABLE)
            if (letter and not blank) or (unspaced and not letter and not extends):
                out[at] = _BLANK
                at += 1
            while read < after:
                out[at] = data[read]
                at += 1
                read += 1
            blank = False
            unspaced = letter or extends
        if at > begin and blank:
            at -= 1
        offsets[document + 1] = at


def _room(lengths: NDArray[np.int64], separate: bool) -> int:
    # A letter of an unspaced script takes three bytes or more, and brings two spaces at most.
    return int((lengths + (2 * (lengths // 3) if separate else 0)).sum())


def normalise(
    texts: pa.Array | pa.ChunkedArray, limit_bytes: int | None, separate_unspaced: bool
) -> pa.LargeStringArray:
    """Each text as one line for fastText: runs of ASCII white space and controls become one space, none at the ends.

    `limit_bytes`: read that many bytes at most, cut between two characters; None reads all. `separate_unspaced`: put a
    space between two letters of scripts written without spaces and around runs of them; marks and format characters
    stay with their letter. Raises TypeError where `texts` is neither string nor large_string.
    """
    limit = WHOLE if limit_bytes is None else limit_bytes
    parts = [pa.array([], pa.large_string())]
    for view in utf8_views(texts):
        out = np.empty(_room(np.minimum(view.ends - view.starts, limit), separate_unspaced), np.uint8)
        offsets = np.empty(len(view.starts) + 1, np.int64)
        _normalise(*view, np.int64(limit), separate_unspaced, TABLE, out, offsets)
        parts.append(large_strings(offsets, out))
    return pa.concat_arrays(parts) if len(parts) != 2 else parts[1]  # type: ignore[return-value]


@dataclass(frozen=True)
class Normalisation:
    """How a model's input is made from a document."""

    limit_bytes: int | None = None
    separate_unspaced: bool = False

    def apply(self, texts: pa.Array | pa.ChunkedArray) -> pa.LargeStringArray:
        """One line for each text, as `normalise` makes it."""
        return normalise(texts, self.limit_bytes, self.separate_unspaced)

    def identity(self) -> dict[str, Any]:
        """What the lines follow from, as JSON."""
        unicode = {"unicode_version": UNICODE_VERSION} if self.separate_unspaced else {}
        return {**asdict(self), **unicode, "version": NORMALISATION_VERSION}

    @classmethod
    def beside(cls, model: str | Path) -> Self | None:
        """What the file `<model>.json` says, or None where there is none.

        Raises ValueError where the file is damaged, or asks for a normalisation that this version does not have.
        """
        path = side_file(model)
        try:
            described = json.loads(path.read_text(encoding="utf-8"))["normalisation"]
            version = described["version"]
            found = cls(described["limit_bytes"], bool(described["separate_unspaced"]))
        except FileNotFoundError:
            return None
        except (ValueError, KeyError, TypeError) as error:
            raise ValueError(f"{path} does not describe a classifier ({type(error).__name__}: {error})") from error
        if version != NORMALISATION_VERSION:
            raise ValueError(
                f"{path} asks for version {version} of the normalisation, this is version {NORMALISATION_VERSION}; "
                "train the classifier again"
            )
        return found


def side_file(model: str | Path) -> Path:
    """The JSON file that stands beside a model."""
    return Path(f"{model}.json")
