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
_FLAT = """area base br col embed hr img input link meta source track wbr param basefont bgsound frame keygen
p li dt dd td th tr thead tbody tfoot colgroup caption option optgroup rb rt rtc rp
html head body a button form nobr h1 h2 h3 h4 h5 h6"""
# Elements whose end tag ends what is open inside them, up to those that shield it.
# https://html.spec.whatwg.org/multipage/parsing.html#parsing-main-inbody
_BLOCKS = """address article aside blockquote center details dialog dir div dl fieldset figcaption figure footer
header hgroup listing main menu nav ol pre search section summary ul"""
_SHIELDS = "applet marquee object table template svg math"
_FORMATTING = "b big code em font i s small strike strong tt u"
_TEXT_ONLY = "script style textarea title xmp iframe noembed noframes"


def _packed(names: str) -> NDArray[np.uint64]:
    """Return names as sorted integers of their first eight characters."""
    return np.array(sorted({int.from_bytes(name.encode()[:8], "little") for name in names.split()}), dtype=np.uint64)


NAMES = tuple(_packed(names) for names in (_FLAT, _BLOCKS, _SHIELDS, _FORMATTING, _TEXT_ONLY, "svg math"))


def html_shape(page: bytes, deepest: int) -> tuple[int, int]:
    """Return an upper bound of the depth of nesting, and the most attributes of one tag.

    It counts no further than `deepest`. Elements whose end is implied (cells, list items, paragraphs) are not
    counted, so the true depth may be a few times the bound; elements that are left open are, so it may be far less.
    """
    stack = np.zeros(deepest, dtype=np.uint64)
    depth, attributes = _shape(np.frombuffer(page, dtype=np.uint8), stack, *NAMES)
    return int(depth), int(attributes)


@njit(nogil=True, cache=True)
def _contains(sorted_values: NDArray[np.uint64], value: np.uint64) -> bool:
    index = np.searchsorted(sorted_values, value)
    return bool(index < sorted_values.size and sorted_values[index] == value)


@njit(nogil=True, cache=True)
def _close(
    stack: NDArray[np.uint64],
    depth: int,
    name: np.uint64,
    blocks: NDArray[np.uint64],
    shields: NDArray[np.uint64],
    formatting: NDArray[np.uint64],
) -> int:
    """Return the depth behind an end tag. Where the parser might keep elements open, they are kept."""
    if depth and stack[depth - 1] == name:
        return depth - 1
    block = _contains(blocks, name)
    at = depth - 1
    while at >= 0 and stack[at] != name:
        if _contains(shields, stack[at]) or (not block and _contains(blocks, stack[at])):
            return depth
        at -= 1
    if at < 0:
        return depth
    kept = at
    for index in range(at + 1, depth):  # formatting goes on behind the end of the block in which it began
        if not block or _contains(formatting, stack[index]):
            stack[kept] = stack[index]
            kept += 1
    return kept


@njit(nogil=True, cache=True)
def _shape(
    page: NDArray[np.uint8],
    stack: NDArray[np.uint64],
    flat: NDArray[np.uint64],
    blocks: NDArray[np.uint64],
    shields: NDArray[np.uint64],
    formatting: NDArray[np.uint64],
    text_only: NDArray[np.uint64],
    foreign_roots: NDArray[np.uint64],
) -> tuple[int, int]:
    size = page.size
    depth = deepest = most = 0
    foreign = False  # behind <svg> or <math>, where such an element may hold others: then both ways are reckoned with
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
        name, length = np.uint64(0), 0
        while i < size and page[i] > 0x20 and page[i] != 0x2F and page[i] != 0x3E:
            letter = 0x61 <= (page[i] | 0x20) <= 0x7A
            if length == 0 and not letter:
                break
            if length < 8:
                name |= np.uint64(page[i] | 0x20 if letter else page[i]) << np.uint64(8 * length)
            length += 1
            i += 1
        if length == 0:
            continue
        if waiting_for != 0 and not (closing and name == waiting_for) and (closing or not foreign):
            continue
        if closing:
            waiting_for = np.uint64(0)
        attributes = 0
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
            depth = _close(stack, depth, name, blocks, shields, formatting)
            continue
        if _contains(text_only, name):
            waiting_for = name
        if waiting_for != 0 and not foreign:
            continue
        if depth < stack.size:
            stack[depth] = name
            depth += 1
            foreign = foreign or _contains(foreign_roots, name)
            deepest = max(deepest, depth)
    return deepest, most
