"""Telephone numbers.

Without a word for telephones before them these count:
- international: +, a country calling code, 9 to 15 digits in all (ITU-T E.164), in one run from 10 digits on; 00 for +
  only in groups;
- North America: 3-3-4 in groups, area and exchange not beginning with 0 or 1 (the exchange may where a country code, a
  parenthesis or an extension says what it is), but 555-0100 to 555-0199, which are kept for fiction;
- China: mobile numbers of the segments in use, in one run or 3-4-4; landlines by the next rule;
- with the trunk prefix 0, in a grouping of a national plan (`calling_codes.TRUNK_GROUPS`);
- Brazil: (2) 4-4 and (2) 5-4, but page ranges after an issue number.
After such a word (`words.PHONE_WORD`): 7 to 12 digits in any groups, but dates and ranges of years.
Never: parts of words, decimals, amounts of money, percentages, paths of URLs, longer numbers.
"""

from typing import Final

import numba
import numpy as np
from numpy.typing import NDArray

from pipeline.privacy.characters import ALNUM, DIGIT, ascii_before, lower
from pipeline.privacy.digits import (
    BEGIN,
    CLOSING,
    DASH,
    DOT,
    END,
    FIRST,
    NOTHING,
    OPENING,
    SEPARATOR,
    SIZE,
    SLASH,
    SPACE,
    Number,
    closes_number,
    opens_number,
    pattern,
    same_separator,
    total_digits,
)

LONGEST: Final = 15  # E.164
SHORTEST_INTERNATIONAL: Final = 9
SHORTEST_IN_ONE_RUN: Final = 10
SHORTEST_NAMED: Final = 7
LONGEST_NAMED: Final = 12
LONGEST_EXTENSION: Final = 6


@numba.njit(nogil=True, cache=True)
def _value(number: Number, group: np.int64) -> np.int64:
    value = np.int64(0)
    first = number.groups[group, FIRST]
    for place in range(first, first + min(number.groups[group, SIZE], np.int64(9))):
        value = value * 10 + number.digits[place]
    return value


@numba.njit(nogil=True, cache=True)
def _extension(data: NDArray[np.uint8], at: np.int64, end: np.int64, flags: NDArray[np.uint8]) -> np.int64:
    """Where an extension at data[at] ends (x123, ext. 123, 转123); `at` where there is none."""
    position, spaces = at, 0
    while position < end and data[position] == 0x20 and spaces < 2:
        position += 1
        spaces += 1
    if position < end and lower(np.int64(data[position])) == 0x65:  # e of ext
        if position + 2 >= end or lower(np.int64(data[position + 2])) != 0x74:
            return at
        position += 1
        if lower(np.int64(data[position])) != 0x78:
            return at
        position += 1
        if position + 1 < end and data[position + 1] == 0x2E:
            position += 1
    elif position + 2 < end and data[position] == 0xE8 and data[position + 1] == 0xBD and data[position + 2] == 0xAC:
        position += 2  # 转
    elif position >= end or lower(np.int64(data[position])) != 0x78:
        return at
    position += 1
    if position < end and data[position] == 0x20:
        position += 1
    size = 0
    while position < end and size <= LONGEST_EXTENSION:
        if flags[data[position]] & DIGIT == 0:
            break
        position += 1
        size += 1
    if not 1 <= size <= LONGEST_EXTENSION or (position < end and flags[data[position]] & ALNUM):
        return at
    return position


@numba.njit(nogil=True, cache=True)
def _international(number: Number, count: np.int64, codes: NDArray[np.uint8], skipped: np.int64) -> np.int64:
    """Groups of a number whose first digits, after `skipped` of them, are a calling code: 0 where it is none."""
    if total_digits(number, count) > LONGEST + skipped + 1:
        while count > 0 and total_digits(number, count) > LONGEST + skipped + 1:
            count -= 1
        if count == 0:
            return np.int64(0)
    digits = total_digits(number, count)
    if digits < skipped + 7:
        return np.int64(0)
    lead = np.int64(0)
    for place in range(skipped, skipped + 3):
        lead = lead * 10 + number.digits[place]
    code = np.int64(codes[lead])
    if code == 0:
        return np.int64(0)
    for groups in range(count, 0, -1):
        size = total_digits(number, np.int64(groups)) - skipped
        for group in range(1, groups):
            if number.groups[group, SIZE] == 1 and number.groups[group - 1, SEPARATOR] == OPENING:
                size -= 1  # the trunk prefix, +44 (0)20 ...
        if code == 1:
            if size == 11 and number.digits[skipped + 1] >= 2:
                return np.int64(groups)
            continue
        if groups > 2 and number.groups[groups - 1, SIZE] == 1:
            continue  # the next number of the text
        if not SHORTEST_INTERNATIONAL <= size <= LONGEST:
            continue
        if groups == 1 and size < SHORTEST_IN_ONE_RUN:
            continue
        return np.int64(groups)
    return np.int64(0)


@numba.njit(nogil=True, cache=True)
def _north_american(number: Number, count: np.int64, parenthesis: bool | np.bool_, sure: bool | np.bool_) -> np.int64:
    """Groups of a number 3-3-4, after 1 or 001; 0 where it is none. `sure`: the exchange may begin with 0 or 1."""
    first = np.int64(0)
    if (number.groups[0, SIZE] == 1 and number.digits[0] == 1) or (
        number.groups[0, SIZE] == 3 and _value(number, np.int64(0)) == 1
    ):
        first = np.int64(1)
    if count < first + 3 or pattern(number, first, first + 3) != 334:
        return np.int64(0)
    sure = sure or parenthesis or first == 1
    one, two = number.groups[first, SEPARATOR], number.groups[first + 1, SEPARATOR]
    if two != SPACE and two != DASH and two != DOT:
        return np.int64(0)
    if one != two and one != CLOSING and not (one == SLASH and two == DASH) and not (one == SPACE and two == DASH):
        return np.int64(0)
    area, exchange = number.groups[first, FIRST], number.groups[first + 1, FIRST]
    if number.digits[area] < 2 or (number.digits[exchange] < 2 and not sure):
        return np.int64(0)
    line = _value(number, first + 2)
    if _value(number, first + 1) == 555 and 100 <= line <= 199:
        return np.int64(0)
    return first + 3


@numba.njit(nogil=True, cache=True)
def _chinese_mobile(number: Number, count: np.int64, mobile: NDArray[np.uint8]) -> np.int64:
    """Groups of a Chinese mobile number, after 86; 0 where it is none."""
    first, skipped = np.int64(0), np.int64(0)
    if number.digits[0] == 8 and number.digits[1] == 6:
        if number.groups[0, SIZE] == 2:
            first = np.int64(1)
            skipped = np.int64(2)
        elif number.groups[0, SIZE] == 13:
            skipped = np.int64(2)
    if total_digits(number, count) < skipped + 11:
        return np.int64(0)
    lead = (
        np.int64(number.digits[skipped]) * 100
        + np.int64(number.digits[skipped + 1]) * 10
        + np.int64(number.digits[skipped + 2])
    )
    if mobile[lead] == 0:
        return np.int64(0)
    if number.groups[first, SIZE] == 11 + (skipped if first == 0 else 0):
        return first + 1
    for size in range(2, 4):
        if count >= first + size:
            shape = pattern(number, first, first + size)
            kind = number.groups[first, SEPARATOR]
            last = number.groups[first + size - 2, SEPARATOR]
            if (shape == 344 or shape == 38 or shape == 74) and kind == last and (kind in (SPACE, DASH)):
                return first + size
    return np.int64(0)


@numba.njit(nogil=True, cache=True)
def _with_trunk_prefix(
    number: Number, count: np.int64, shapes: NDArray[np.int64], parenthesis: bool | np.bool_
) -> np.int64:
    """Groups of a national number that begins with 0; 0 where it is none."""
    if number.digits[0] != 0 or number.digits[1] == 0:
        return np.int64(0)
    for groups in range(min(count, np.int64(5)), 1, -1):
        shape = pattern(number, np.int64(0), np.int64(groups))
        place = np.searchsorted(shapes, shape)
        if place >= len(shapes) or shapes[place] != shape:
            continue
        kind = number.groups[0, SEPARATOR]
        rest = kind
        even = True
        for group in range(1, groups - 1):
            following = number.groups[group, SEPARATOR]
            if group == 1:
                rest = following
            even &= following == rest
        if not even or (rest == DOT and shape != 22222) or rest == OPENING or (rest == SLASH and groups > 2):
            continue
        if rest == CLOSING and not (groups == 2 and parenthesis):
            continue
        if kind in (rest, SLASH) or (kind == CLOSING and parenthesis) or (kind == DASH and rest == SPACE):
            return np.int64(groups)
    return np.int64(0)


@numba.njit(nogil=True, cache=True)
def _brazilian(number: Number, count: np.int64) -> np.int64:
    """Groups of (2) 4-4 or (2) 5-4; 0 where it is none, or a range of pages after an issue number."""
    if count < 3 or number.groups[0, SEPARATOR] != CLOSING or number.groups[1, SEPARATOR] != DASH:
        return np.int64(0)
    shape = pattern(number, np.int64(0), np.int64(3))
    one, two = _value(number, np.int64(1)), _value(number, np.int64(2))
    if (shape == 244 and not one < two <= one + 300) or (shape == 254 and number.digits[2] == 9):
        return np.int64(3) if number.digits[0] > 0 and number.digits[2] > 1 else np.int64(0)
    return np.int64(0)


@numba.njit(nogil=True, cache=True)
def _is_date(number: Number, groups: np.int64) -> bool | np.bool_:
    shape = pattern(number, np.int64(0), groups)
    if shape == 422 or shape == 413 or shape == 421 or shape == 412:
        return _value(number, np.int64(1)) <= 12 and _value(number, np.int64(2)) <= 31
    if shape == 224 or shape == 124 or shape == 214:
        return 1800 <= _value(number, np.int64(2)) <= 2199
    if shape == 44:
        return 1000 <= _value(number, np.int64(0)) <= 2199 and 1000 <= _value(number, np.int64(1)) <= 2199
    if groups == 1 and number.groups[0, SIZE] == 8:
        month, day = _value(number, np.int64(0)) // 100 % 100, _value(number, np.int64(0)) % 100
        return 1900 <= _value(number, np.int64(0)) // 10000 <= 2099 and 1 <= month <= 12 and 1 <= day <= 31
    return False


@numba.njit(nogil=True, cache=True)
def named_groups(number: Number, count: np.int64) -> np.int64:
    """Groups of a number that a word says to be one; 0 where there are too few or too many digits."""
    for groups in range(min(count, np.int64(6)), 0, -1):
        size = total_digits(number, np.int64(groups))
        if not SHORTEST_NAMED <= size <= LONGEST_NAMED or _is_date(number, np.int64(groups)):
            continue
        even = True
        for group in range(groups):
            even &= number.groups[group, SIZE] > 1 or group == 0
        if even:
            return np.int64(groups)
    return np.int64(0)


@numba.njit(nogil=True, cache=True)
def phone(
    data: NDArray[np.uint8],
    start: np.int64,
    end: np.int64,
    flags: NDArray[np.uint8],
    number: Number,
    count: np.int64,
    codes: NDArray[np.uint8],
    mobile: NDArray[np.uint8],
    shapes: NDArray[np.int64],
    named: bool | np.bool_,
) -> tuple[np.int64, np.int64]:
    """The telephone number that begins with the first group, as (begin, end); end is -1 where there is none.

    `named`: a word for telephones stands before.
    """
    begin, nothing = number.groups[0, BEGIN], np.int64(-1)
    if total_digits(number, count) < SHORTEST_NAMED:
        return begin, nothing
    before, width = ascii_before(data, start, begin)
    groups, parenthesis = np.int64(0), False
    if before == 0x2B:
        earlier, _ = ascii_before(data, start, begin - width)
        if flags[earlier] & ALNUM or earlier == 0x2B or earlier == 0x5F:
            return begin, nothing
        groups = _international(number, count, codes, np.int64(0))
        begin -= width
    else:
        if before == 0x28 and number.groups[0, SEPARATOR] == CLOSING:
            parenthesis = True
            begin -= width
        if not opens_number(data, start, begin, flags):
            return begin, nothing
        parenthesis = parenthesis and begin < number.groups[0, BEGIN]
        last = number.groups[min(count, np.int64(4)) - 1, END]
        sure = named or (count <= 4 and _extension(data, last, end, flags) > last)
        groups = _north_american(number, count, parenthesis, sure)
        if groups == 0:
            groups = _chinese_mobile(number, count, mobile)
        if groups == 0:
            groups = _with_trunk_prefix(number, count, shapes, parenthesis)
        if groups == 0 and parenthesis:
            groups = _brazilian(number, count)
        zeros = number.groups[0, SIZE] > 1 and number.digits[0] + number.digits[1] == 0
        if groups == 0 and count > 2 and zeros and number.groups[0, SEPARATOR] != DOT:
            groups = _international(number, count, codes, np.int64(2))
        if groups == 0 and named:
            groups = named_groups(number, count)
    if groups == 0:
        return begin, nothing
    stop = number.groups[groups - 1, END]
    extended = _extension(data, stop, end, flags)
    if extended > stop:
        return begin, extended
    following = number.groups[groups - 1, SEPARATOR]
    if following in (DASH, DOT) or (following == SLASH and number.groups[groups, SIZE] < SHORTEST_NAMED):
        return begin, nothing  # a part of a longer number
    kind = same_separator(number, groups)
    if following == SPACE and kind == SPACE and number.groups[groups, SIZE] == number.groups[groups - 1, SIZE]:
        return begin, nothing  # a row of a table, or the numbers of a lottery
    if following == NOTHING and not closes_number(data, stop, end, flags):
        return begin, nothing
    return begin, stop
