"""E-mail addresses: the common subset of RFC 5321 and RFC 1034 that is in use, in ASCII or full-width characters."""

from typing import Final

import numba
import numpy as np
from numpy.typing import NDArray

from pipeline.privacy.characters import ALNUM, LETTER, LOCAL, ascii_at, ascii_before, lower

LOCAL_LENGTH: Final = 64  # RFC 5321, 4.5.3.1.1
DOMAIN_LENGTH: Final = 253  # RFC 1035, 2.3.4, written without the root
LABEL_LENGTH: Final = 63
TOP_LEVEL_LENGTH: Final = 24  # the longest delegated one in letters

# Endings of file names that are no top-level domains: `logo@2x.png` is no address.
FILE_ENDINGS: Final = (
    "png jpg jpeg gif svg webp bmp ico css scss js jsx tsx html htm xhtml php json xml txt pdf jar exe dll gz tgz yml "
    "yaml toml csv tif tiff mpg mpeg avi wav ogg service timer socket mount target device"
)
# Names that belong to nobody (RFC 2606 and RFC 6762).
RESERVED_TOP_LEVEL: Final = "example invalid test local localhost"


def packed(name: str) -> int:
    """A name as a number: its lower-case letters in base 256, the last 8 of them."""
    value = 0
    for byte in name.encode():
        value = (value << 8 | byte) & 0xFFFFFFFFFFFFFFFF
    return value


def not_top_level() -> NDArray[np.uint64]:
    """The packed endings by which a name is no address of anybody."""
    return np.array(sorted(packed(name) for name in f"{FILE_ENDINGS} {RESERVED_TOP_LEVEL}".split()), np.uint64)


_EXAMPLE: Final = np.uint64(packed("example"))
_COM: Final = np.uint64(packed("com"))
_NET: Final = np.uint64(packed("net"))
_ORG: Final = np.uint64(packed("org"))
_PUNYCODE: Final = np.uint64(packed("xn--"))
_8: Final = np.uint64(8)


@numba.njit(nogil=True, cache=True)
def local_part(
    data: NDArray[np.uint8], start: np.int64, at: np.int64, flags: NDArray[np.uint8]
) -> tuple[np.int64, np.int64]:
    """Where the local part that ends at data[at] begins, and its characters: none, if it is too long or no word."""
    begin, size, after = at, np.int64(0), np.int64(0x2E)
    while size <= LOCAL_LENGTH:
        character, width = ascii_before(data, start, begin)
        if width == 0 or flags[character] & LOCAL == 0 or (character == 0x2E and after == 0x2E):
            break
        begin -= width
        size += 1
        after = character
    if size > LOCAL_LENGTH:
        return at, np.int64(0)
    while size:  # punctuation before the address: a quote, a bullet
        character, width = ascii_at(data, begin, at)
        if flags[character] & ALNUM or character == 0x5F:
            break
        begin += width
        size -= 1
    return begin, size


@numba.njit(nogil=True, cache=True)
def domain_end(
    data: NDArray[np.uint8], at: np.int64, end: np.int64, flags: NDArray[np.uint8], refused: NDArray[np.uint64]
) -> np.int64:
    """Where the domain name that begins at data[at] ends, or -1 where there is none, or one of nobody."""
    position, stop, size, labels = at, np.int64(-1), np.int64(0), np.int64(0)
    name, parent, head = np.uint64(0), np.uint64(0), np.uint64(0)
    letters, last = True, np.int64(0x2E)
    for _ in range(DOMAIN_LENGTH + 1):
        character, width = np.int64(0), np.int64(1)
        if position < end:
            character, width = ascii_at(data, position, end)
        if flags[character] & ALNUM or (character == 0x2D and size > 0):
            letters &= flags[character] & LETTER != 0
            name = (name << _8) | np.uint64(lower(character))
            size += 1
            if size == 4:
                head = name
        else:
            if size == 0 or size > LABEL_LENGTH or last == 0x2D:
                break
            if labels > 0 and size >= 2 and (head == _PUNYCODE or (letters and size <= TOP_LEVEL_LENGTH)):
                place = np.searchsorted(refused, name)
                stop = position
                if (place < len(refused) and refused[place] == name) or (
                    parent == _EXAMPLE and (name in (_COM, _NET, _ORG))
                ):
                    stop = np.int64(-1)
            if character != 0x2E:
                break
            labels += 1
            parent, name, head = name, np.uint64(0), np.uint64(0)
            letters, size = True, np.int64(0)
        last = character
        position += width
    return stop


@numba.njit(nogil=True, cache=True)
def email(
    data: NDArray[np.uint8],
    start: np.int64,
    at: np.int64,
    width: np.int64,
    end: np.int64,
    flags: NDArray[np.uint8],
    refused: NDArray[np.uint64],
) -> tuple[np.int64, np.int64]:
    """The address around the at sign of `width` bytes at data[at], as (begin, end); end is -1 where there is none.

    Not addresses: names reserved for examples (RFC 2606), file names, and `git@host:`, which is nobody's mailbox.
    """
    begin, size = local_part(data, start, at, flags)
    if size == 0:
        return begin, np.int64(-1)
    stop = domain_end(data, at + width, end, flags, refused)
    is_git = size == 3 and data[begin] == 0x67 and data[begin + 1] == 0x69 and data[begin + 2] == 0x74
    if is_git and 0 < stop < end and data[stop] in (0x3A, 0x2F):
        return begin, np.int64(-1)
    return begin, stop
