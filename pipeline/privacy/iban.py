"""International bank account numbers (ISO 13616-1): the country's length, and the check of ISO 7064, MOD 97-10."""

from typing import Final

import numba
import numpy as np
from numpy.typing import NDArray

from pipeline.privacy.characters import ALNUM, DIGIT, LETTER, ascii_at, ascii_before, ends_token, lower, opens_token

# SWIFT, IBAN Registry, release 99: characters of each country's number.
LENGTHS: Final = (
    "AD24 AE23 AL28 AT20 AZ28 BA20 BE16 BG22 BH22 BI27 BR29 BY28 CH21 CR22 CY28 CZ24 DE22 DJ27 DK18 DO28 EE20 EG29 "
    "ES24 FI18 FK18 FO18 FR27 GB22 GE22 GI23 GL18 GR27 GT28 HN28 HR21 HU28 IE22 IL23 IQ23 IS26 IT27 JO30 KW30 KZ20 "
    "LB28 LC32 LI21 LT20 LU20 LV21 LY25 MC27 MD24 ME22 MK19 MN20 MR27 MT31 MU30 NI28 NL18 NO15 OM23 PK24 PL28 PS29 "
    "PT25 QA29 RO24 RS22 RU33 SA24 SC31 SD18 SE24 SI19 SK24 SM27 SO23 ST25 SV28 TL23 TN24 TR26 UA29 VA22 VG24 XK20 "
    "YE30"
)


def iban_lengths() -> NDArray[np.uint8]:
    """LENGTHS by country: (26 * 26,), 0 where there is none."""
    table = np.zeros(26 * 26, np.uint8)
    for entry in LENGTHS.split():
        table[(ord(entry[0]) - 65) * 26 + ord(entry[1]) - 65] = int(entry[2:])
    return table


@numba.njit(nogil=True, cache=True)
def iban(
    data: NDArray[np.uint8],
    start: np.int64,
    at: np.int64,
    end: np.int64,
    flags: NDArray[np.uint8],
    lengths: NDArray[np.uint8],
) -> tuple[np.int64, np.int64]:
    """The number whose first check digit is data[at], as (begin, end); end is -1 where there is none.

    Written in one run, or in groups of four with single spaces or dashes between.
    """
    country, begin = np.int64(0), at
    for place in range(2):
        character, width = ascii_before(data, start, begin)
        if flags[character] & LETTER == 0:
            return at, np.int64(-1)
        begin -= width
        country += (lower(character) - 0x61) * (26 if place else 1)
    length = np.int64(lengths[country])
    if length == 0 or not opens_token(flags, data, start, begin):
        return at, np.int64(-1)
    position, size, remainder = begin, np.int64(0), np.int64(0)
    head, grouped = np.int64(0), np.int64(0)
    while size < length:
        if position >= end:
            return at, np.int64(-1)
        character, width = ascii_at(data, position, end)
        if size == 4 and (character == 0x20 or character == 0x2D):
            grouped = character
        if size >= 4 and size % 4 == 0 and grouped:
            if character != grouped or position + width >= end:
                return at, np.int64(-1)
            position += width
            character, width = ascii_at(data, position, end)
        if flags[character] & ALNUM == 0:
            return at, np.int64(-1)
        if 2 <= size < 4 and flags[character] & DIGIT == 0:
            return at, np.int64(-1)
        value = character - 0x30 if flags[character] & DIGIT else lower(character) - 0x57
        if size < 4:
            head = head * (100 if value > 9 else 10) + value
        else:
            remainder = (remainder * (100 if value > 9 else 10) + value) % 97
        size += 1
        position += width
    # The country and the check digits count as if they stood at the end: two letters and two digits, 10^6.
    if (remainder * 1000000 + head) % 97 != 1 or not ends_token(flags, data, position, end):
        return at, np.int64(-1)
    return begin, position
