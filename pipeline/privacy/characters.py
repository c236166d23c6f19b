"""Reading text as ASCII: full-width forms, dashes and spaces of Unicode are read as the ASCII character they stand for.

The mapping is NFKC's for U+FF01 to U+FF5E, U+00A0, U+2009, U+202F and U+3000; U+2010 to U+2013 and U+2212 are read as
a hyphen besides, since numbers are typeset with them. Everything else beyond ASCII is OTHER.
"""

from typing import Final

import numba
import numpy as np
from numpy.typing import NDArray

OTHER: Final = 0x80

# Flags of a character.
DIGIT: Final = 1
LETTER: Final = 2
ALNUM: Final = DIGIT | LETTER
LOCAL: Final = 4  # of the local part of an e-mail address
TOKEN: Final = 8  # base64url: letters, digits, - and _
HEX: Final = 16
UPPER: Final = 32  # upper-case letters and digits
VALUE: Final = 64  # of a quoted secret: printable, neither space nor quote

# What a byte may open, by which the scan passes over all others.
PLAIN: Final = 0
DIGIT_ANCHOR: Final = 1
AT_ANCHOR: Final = 2
COLON_ANCHOR: Final = 3
EQUALS_ANCHOR: Final = 4
TOKEN_ANCHOR: Final = 5
FULL_WIDTH_ANCHOR: Final = 6


def character_flags() -> NDArray[np.uint8]:
    """Flags of the 128 characters of ASCII, and none for OTHER: (256,) uint8."""
    flags = np.zeros(256, np.uint8)
    for code in range(0x80):
        character = chr(code)
        flags[code] = (
            DIGIT * character.isdigit()
            + LETTER * character.isalpha()
            + LOCAL * (character.isalnum() or character in "._%+-'")
            + TOKEN * (character.isalnum() or character in "-_")
            + HEX * (character in "0123456789abcdefABCDEF")
            + UPPER * (character.isdigit() or "A" <= character <= "Z")
            + VALUE * ("!" <= character <= "~" and character not in "\"'`")
        )
    return flags


def anchors(token_bytes: bytes) -> NDArray[np.uint8]:
    """What each byte may open: (256,) uint8; `token_bytes` are those by which prefixes of tokens are looked for."""
    table = np.zeros(256, np.uint8)
    table[[*token_bytes]] = TOKEN_ANCHOR
    table[[*b"0123456789"]] = DIGIT_ANCHOR
    table[ord("@")] = AT_ANCHOR
    table[ord(":")] = COLON_ANCHOR
    table[ord("=")] = EQUALS_ANCHOR
    table[0xEF] = FULL_WIDTH_ANCHOR
    return table


@numba.njit(nogil=True, cache=True)
def ascii_at(data: NDArray[np.uint8], at: np.int64, end: np.int64) -> tuple[np.int64, np.int64]:
    """The ASCII reading of the character at data[at], at < end, and its bytes; OTHER is one byte long."""
    lead = np.int64(data[at])
    if lead < 0x80:
        return lead, np.int64(1)
    if at + 2 < end and lead >= 0xE2:
        second, third = np.int64(data[at + 1]), np.int64(data[at + 2])
        if lead == 0xEF:
            if second == 0xBC and 0x81 <= third <= 0xBF:
                return third - 0x60, np.int64(3)
            if second == 0xBD and 0x80 <= third <= 0x9E:
                return third - 0x20, np.int64(3)
        elif lead == 0xE2:
            if (second == 0x80 and 0x90 <= third <= 0x93) or (second == 0x88 and third == 0x92):
                return np.int64(0x2D), np.int64(3)
            if second == 0x80 and (third == 0x89 or third == 0xAF):
                return np.int64(0x20), np.int64(3)
        elif lead == 0xE3 and second == 0x80 and third == 0x80:
            return np.int64(0x20), np.int64(3)
    if lead == 0xC2 and at + 1 < end and data[at + 1] == 0xA0:
        return np.int64(0x20), np.int64(2)
    return np.int64(OTHER), np.int64(1)


@numba.njit(nogil=True, cache=True)
def ascii_before(data: NDArray[np.uint8], start: np.int64, at: np.int64) -> tuple[np.int64, np.int64]:
    """The ASCII reading of the character that ends before data[at], and its bytes: (0, 0) at the start of the text."""
    if at <= start:
        return np.int64(0), np.int64(0)
    last = np.int64(data[at - 1])
    if last < 0x80:
        return last, np.int64(1)
    if at - 3 >= start:
        character, width = ascii_at(data, at - 3, at)
        if width == 3:
            return character, width
    if at - 2 >= start and data[at - 2] == 0xC2 and last == 0xA0:
        return np.int64(0x20), np.int64(2)
    return np.int64(OTHER), np.int64(1)


@numba.njit(nogil=True, cache=True)
def lower(character: np.int64) -> np.int64:
    """The lower-case letter of an ASCII letter; other characters unchanged."""
    return character + 32 if 0x41 <= character <= 0x5A else character


@numba.njit(nogil=True, cache=True)
def ends_token(flags: NDArray[np.uint8], data: NDArray[np.uint8], at: np.int64, end: np.int64) -> bool | np.bool_:
    """Whether a token may end at `at`: no letter, digit or underscore follows."""
    if at >= end:
        return True
    character, _ = ascii_at(data, at, end)
    return flags[character] & ALNUM == 0 and character != 0x5F


@numba.njit(nogil=True, cache=True)
def opens_token(flags: NDArray[np.uint8], data: NDArray[np.uint8], start: np.int64, at: np.int64) -> bool | np.bool_:
    """Whether a token may open at `at`: no letter, digit or underscore stands before."""
    character, _ = ascii_before(data, start, at)
    return flags[character] & ALNUM == 0 and character != 0x5F
