"""How deep an HTML page nests and how many attributes its tags have, before a parser is trusted with it.

Parsers take quadratic time in both: with resiliparse 2.0.1, 10,000 nested elements take 1.7 s and 100,000 take 500 s to
extract, 100,000 attributes of one tag 46 s to parse.
"""

from __future__ import annotations

import numpy as np
from numba import njit
from numpy.typing import NDArray

# Elements that do not add up to depth: void ones, those whose end is implied, and those that close one of their kind.
# https://html.spec.whatwg.org/multipage/syntax.html#void-elements and #optional-tags
_FLAT = (
    "area base br col embed hr img input link meta source track wbr param basefont bgsound frame keygen "
    "p li dt dd td th tr thead tbody tfoot colgroup caption option optgroup rb rt rtc rp "
    "html head body a button form nobr h1 h2 h3 h4 h5 h6"
)
_TEXT_ONLY = ("script", "style", "textarea", "title", "xmp", "iframe", "noembed", "noframes")


def _packed(name: str) -> int:
    return int.from_bytes(name.encode()[:8], "little")


FLAT = np.array(sorted(_packed(name) for name in _FLAT.split()), dtype=np.uint64)
TEXT_ONLY = np.array(sorted(_packed(name) for name in _TEXT_ONLY), dtype=np.uint64)


def html_shape(page: bytes) -> tuple[int, int]:
    """Return an upper estimate of the depth of nesting, and the most attributes of one tag.

    Elements without an end tag count as open to the end, so the estimate may be far too high and is seldom too low.
    """
    depth, attributes = _shape(np.frombuffer(page, dtype=np.uint8), FLAT, TEXT_ONLY)
    return int(depth), int(attributes)


@njit(nogil=True, cache=True)
def _contains(sorted_values: NDArray[np.uint64], value: np.uint64) -> bool:
    index = np.searchsorted(sorted_values, value)
    return bool(index < sorted_values.size and sorted_values[index] == value)


@njit(nogil=True, cache=True)
def _shape(
    page: NDArray[np.uint8], flat: NDArray[np.uint64], text_only: NDArray[np.uint64]
) -> tuple[np.int64, np.int64]:
    size = page.size
    depth = deepest = most = np.int64(0)
    waiting_for = np.uint64(0)  # the name of the text-only element that is open
    i = 0
    while i < size:
        if page[i] != 0x3C:  # <
            i += 1
            continue
        i += 1
        if i + 2 < size and page[i] == 0x21 and page[i + 1] == 0x2D and page[i + 2] == 0x2D and waiting_for == 0:
            i += 3
            while i < size and not (page[i] == 0x3E and page[i - 1] == 0x2D and page[i - 2] == 0x2D):
                i += 1
            continue
        closing = i < size and page[i] == 0x2F
        if closing:
            i += 1
        name, shift = np.uint64(0), np.uint64(0)
        while i < size and (0x61 <= (page[i] | 0x20) <= 0x7A or (0x30 <= page[i] <= 0x39 and shift > 0)):
            if shift < 64:
                byte = page[i] | 0x20 if page[i] >= 0x41 else page[i]
                name |= np.uint64(byte) << shift
            shift += np.uint64(8)
            i += 1
        if shift == 0 or (waiting_for != 0 and not (closing and name == waiting_for)):
            continue
        waiting_for = np.uint64(0)
        attributes = np.int64(0)
        between = False
        while i < size and page[i] != 0x3E:  # to the tag's end, past quoted values
            c = page[i]
            if (c == 0x22 or c == 0x27) and page[i - 1] == 0x3D:
                i += 1
                while i < size and page[i] != c:
                    i += 1
                between = True
            elif c <= 0x20 or c == 0x2F:
                between = True
            elif between:
                attributes += 1
                between = False
            i += 1
        most = max(most, attributes)
        if _contains(flat, name):
            continue
        if closing:
            depth = max(np.int64(0), depth - 1)
        elif _contains(text_only, name):
            waiting_for = name
        else:
            depth += 1
            deepest = max(deepest, depth)
    return deepest, most
