"""A number as it is written: groups of digits and what stands between them. All number detectors read this form."""

from typing import Final, NamedTuple

import numba
import numpy as np
from numpy.typing import NDArray

from pipeline.privacy.characters import ALNUM, DIGIT, LETTER, OTHER, ascii_at, ascii_before, ends_token

MOST_DIGITS: Final = 40
MOST_GROUPS: Final = 8

# Columns of a group.
BEGIN: Final = 0  # byte of its first digit
END: Final = 1  # byte after its last digit
SIZE: Final = 2  # its digits; MOST_DIGITS + 1 where it is longer than the room that is left
FIRST: Final = 3  # place of its first digit among the digits
SEPARATOR: Final = 4  # what follows before the next group
COLUMNS: Final = 5

# What stands between two groups.
NOTHING: Final = 0  # there is no next group
SPACE: Final = 1
DASH: Final = 2
DOT: Final = 3
SLASH: Final = 4
OPENING: Final = 5  # an opening parenthesis, with or without a space
CLOSING: Final = 6  # a closing one, with or without a space or a dash


class Number(NamedTuple):
    """Room for one number, used again and again."""

    digits: NDArray[np.uint8]  # (MOST_DIGITS,): 0 to 9
    groups: NDArray[np.int64]  # (MOST_GROUPS, COLUMNS)


def make_number() -> Number:
    """Room for one number."""
    return Number(np.zeros(MOST_DIGITS, np.uint8), np.zeros((MOST_GROUPS, COLUMNS), np.int64))


@numba.njit(nogil=True, cache=True)
def _separator(data: NDArray[np.uint8], at: np.int64, end: np.int64) -> tuple[np.int64, np.int64]:
    """What stands at data[at] between two groups, and where it ends: NOTHING where it joins no groups."""
    kind, position, spaces = np.int64(NOTHING), at, np.int64(0)
    for _ in range(3):
        if position >= end:
            break
        character, width = ascii_at(data, position, end)
        if character == 0x20 and spaces == 0:
            spaces = np.int64(1)
        elif character == 0x28 and kind == NOTHING:
            kind = np.int64(OPENING)
        elif character == 0x29 and kind == NOTHING and spaces == 0:
            kind = np.int64(CLOSING)
        elif character == 0x2D and kind == CLOSING and spaces == 0:
            spaces = np.int64(1)
        elif kind == NOTHING and spaces == 0 and (character == 0x2D or character == 0x2E or character == 0x2F):
            kind = np.int64(DASH if character == 0x2D else DOT if character == 0x2E else SLASH)
            return kind, position + width
        else:
            break
        position += width
    if kind == NOTHING and spaces:
        kind = np.int64(SPACE)
    return kind, position


@numba.njit(nogil=True, cache=True)
def read_number(
    data: NDArray[np.uint8], at: np.int64, end: np.int64, flags: NDArray[np.uint8], number: Number
) -> np.int64:
    """Read the groups from the digit data[at] on; returns how many. Looks at MOST_DIGITS digits and no further."""
    total, count, position = np.int64(0), np.int64(0), at
    while count < MOST_GROUPS:
        begin, size = position, np.int64(0)
        while position < end:
            character, width = ascii_at(data, position, end)
            if flags[character] & DIGIT == 0:
                break
            if total + size >= MOST_DIGITS:
                size = np.int64(MOST_DIGITS + 1)
                break
            number.digits[total + size] = character - 0x30
            size += 1
            position += width
        if size == 0:
            break
        group = number.groups[count]
        group[BEGIN], group[END], group[SIZE], group[FIRST] = begin, position, size, total
        group[SEPARATOR] = NOTHING
        count += 1
        if size > MOST_DIGITS:
            break
        total += size
        kind, after = _separator(data, position, end)
        if kind == NOTHING or after >= end:
            break
        character, _ = ascii_at(data, after, end)
        if flags[character] & DIGIT == 0:
            break
        group[SEPARATOR] = kind
        position = after
    return count


@numba.njit(nogil=True, cache=True)
def pattern(number: Number, begin: np.int64, end: np.int64) -> np.int64:
    """The sizes of groups begin to end as decimal digits, 334 for 3, 3 and 4; sizes above 9 count as 9."""
    value = np.int64(0)
    for group in range(begin, end):
        value = value * 10 + min(number.groups[group, SIZE], np.int64(9))
    return value


@numba.njit(nogil=True, cache=True)
def total_digits(number: Number, count: np.int64) -> np.int64:
    """Digits of the first `count` groups."""
    last = number.groups[count - 1]
    return last[FIRST] + last[SIZE]


@numba.njit(nogil=True, cache=True)
def same_separator(number: Number, count: np.int64) -> np.int64:
    """The separator between the first `count` groups where it is one, -1 where not, NOTHING for one group."""
    if count < 2:
        return np.int64(NOTHING)
    kind = number.groups[0, SEPARATOR]
    for group in range(1, count - 1):
        if number.groups[group, SEPARATOR] != kind:
            return np.int64(-1)
    return kind


@numba.njit(nogil=True, cache=True)
def _is_currency(data: NDArray[np.uint8], start: np.int64, at: np.int64) -> bool | np.bool_:
    # $ before, or the pound, yen and euro signs; full-width forms of these are rare and not looked for.
    if at <= start:
        return False
    last = data[at - 1]
    if last == 0x24:
        return True
    if at - 2 >= start and data[at - 2] == 0xC2 and (last == 0xA3 or last == 0xA5):
        return True
    return at - 3 >= start and data[at - 3] == 0xE2 and data[at - 2] == 0x82 and last == 0xAC


@numba.njit(nogil=True, cache=True)
def _short_run_before(
    data: NDArray[np.uint8], start: np.int64, at: np.int64, flags: NDArray[np.uint8]
) -> bool | np.bool_:
    # One to three digits end at `at`: a whole part, or a group of thousands.
    size = 0
    while at - size > start and size < 4 and flags[data[at - 1 - size]] & DIGIT:
        size += 1
    return 1 <= size <= 3


@numba.njit(nogil=True, cache=True)
def opens_number(data: NDArray[np.uint8], start: np.int64, at: np.int64, flags: NDArray[np.uint8]) -> bool | np.bool_:
    """Whether a number may open at `at`: it continues no word, decimal, amount, path of a URL or longer name."""
    character, width = ascii_before(data, start, at)
    if width == 0 or character == OTHER:
        return not _is_currency(data, start, at)
    if flags[character] & ALNUM or character == 0x5F or character == 0x24:
        return False
    if width > 1:
        return True
    earlier, _ = ascii_before(data, start, at - 1)
    if character == 0x2E:  # Tel.123, but not .123
        return flags[earlier] & LETTER != 0
    if character == 0x2C:
        return flags[earlier] & DIGIT == 0 or not _short_run_before(data, start, at - 1, flags)
    if character == 0x2D or character == 0x2F or character == 0x23 or character == 0x25:
        named = flags[earlier] & ALNUM != 0 or earlier == 0x2F or earlier == 0x5F or earlier == 0x2D
        long_number = character == 0x2F and flags[earlier] & DIGIT and not _short_run_before(data, start, at - 1, flags)
        return not named or long_number
    return True


@numba.njit(nogil=True, cache=True)
def closes_number(data: NDArray[np.uint8], at: np.int64, end: np.int64, flags: NDArray[np.uint8]) -> bool | np.bool_:
    """Whether a number may close at `at`: no letter, decimal, thousands, percent sign or longer name follows."""
    if at >= end:
        return True
    character, width = ascii_at(data, at, end)
    if flags[character] & ALNUM or character == 0x5F or character == 0x40 or character == 0x25:
        return False
    if width > 1 or at + 1 >= end:
        return True
    following = np.int64(data[at + 1])
    if following >= OTHER or flags[following] & ALNUM == 0:
        return True
    if character == 0x2C:
        size = 0
        while at + 1 + size < end and size < 4 and flags[data[at + 1 + size]] & DIGIT:
            size += 1
        return size == 0 or size > 3
    if character == 0x2E or character == 0x3A:
        return flags[following] & DIGIT == 0
    if character == 0x2F:  # a path
        return flags[following] & LETTER == 0
    if character == 0x2D:  # -Fax may follow, -12 or -a4 not
        size = 0
        while at + 1 + size < end and flags[data[at + 1 + size]] & ALNUM == LETTER:
            size += 1
        return size >= 3 and ends_token(flags, data, at + 1 + size, end)
    return True
