"""National identity numbers, with the check digits of each country.

Without a word before them count those whose form and check make a chance match unlikely: China (GB 11643-1999), Brazil
(CPF, with its punctuation), Italy (codice fiscale), Korea (with its dash), France (NIR, 15 digits), Spain (DNI, NIE),
and of the United States NNN-NN-NNNN, which has no check but impossible ranges.
Only after a word for them (`words.IDENTITY_WORD`): Polish PESEL (births since 1900), Dutch BSN, Indian Aadhaar, the old
Chinese card of 15 digits, and American numbers without dashes.
"""

from typing import Final

import numba
import numpy as np
from numpy.typing import NDArray

from pipeline.privacy.characters import DIGIT, LETTER, OTHER, ascii_at, ascii_before, ends_token, lower, opens_token
from pipeline.privacy.digits import (
    DASH,
    DOT,
    END,
    NOTHING,
    SEPARATOR,
    SIZE,
    SPACE,
    Number,
    closes_number,
    pattern,
    same_separator,
    total_digits,
)

# GB/T 2260: the first two digits, province or region; 83 is of the residence permit of Taiwan.
PROVINCES: Final = (
    "11 12 13 14 15 21 22 23 31 32 33 34 35 36 37 41 42 43 44 45 46 50 51 52 53 54 61 62 63 64 65 71 81 82 83"
)
# The letter of a Spanish number by its remainder of 23 (Real Decreto 1553/2005; Orden INT/2058/2008).
SPANISH_LETTERS: Final = "TRWAGMYFPDXBNJZSQVHLCKE"
# Letters that end a size or a literal of code, 12345678L: not a Spanish number without its word.
SUFFIXES: Final = "BDFGKLMT"
# Decreto ministeriale 23 December 1976: values of characters at odd places; 0 to 9 as A to J.
ITALIAN_ODD: Final = (1, 0, 5, 7, 9, 13, 15, 17, 19, 21, 2, 4, 18, 20, 11, 3, 6, 8, 12, 14, 16, 10, 22, 25, 24, 23)


def provinces() -> NDArray[np.uint8]:
    """Whether two digits are a Chinese province: (100,)."""
    table = np.zeros(100, np.uint8)
    table[[int(code) for code in PROVINCES.split()]] = 1
    return table


def spanish_letters() -> NDArray[np.uint8]:
    """SPANISH_LETTERS and SUFFIXES: (23 + 8,)."""
    return np.frombuffer((SPANISH_LETTERS + SUFFIXES).encode(), np.uint8)


def italian_odd() -> NDArray[np.int64]:
    """ITALIAN_ODD: (26,)."""
    return np.array(ITALIAN_ODD, np.int64)


@numba.njit(nogil=True, cache=True)
def _number(digits: NDArray[np.uint8], first: np.int64, size: np.int64) -> np.int64:
    value = np.int64(0)
    for place in range(first, first + size):
        value = value * 10 + digits[place]
    return value


@numba.njit(nogil=True, cache=True)
def is_day(year: np.int64, month: np.int64, day: np.int64) -> bool | np.bool_:
    """Whether a date is one of the Gregorian calendar."""
    if not 1 <= month <= 12 or day < 1:
        return False
    if month == 2:
        leap = year % 4 == 0 and (year % 100 != 0 or year % 400 == 0)
        return day <= (29 if leap else 28)
    return day <= (30 if month == 4 or month == 6 or month == 9 or month == 11 else 31)


@numba.njit(nogil=True, cache=True)
def is_chinese(digits: NDArray[np.uint8], check: np.int64, regions: NDArray[np.uint8]) -> bool | np.bool_:
    """GB 11643-1999 of 17 digits and a check value 0 to 10: region, date of birth, ISO 7064 MOD 11-2."""
    year = _number(digits, np.int64(6), np.int64(4))
    if regions[_number(digits, np.int64(0), np.int64(2))] == 0 or not 1850 <= year <= 2099:
        return False
    if not is_day(year, _number(digits, np.int64(10), np.int64(2)), _number(digits, np.int64(12), np.int64(2))):
        return False
    total = np.int64(0)
    for place in range(17):
        total = (total + digits[place]) * 2
    return (total + check) % 11 == 1


@numba.njit(nogil=True, cache=True)
def is_cpf(digits: NDArray[np.uint8]) -> bool | np.bool_:
    """Brazil's CPF of 11 digits: two check digits modulo 11; eleven equal digits are none."""
    equal = True
    for place in range(1, 11):
        equal &= digits[place] == digits[0]
    for size in range(9, 11):
        total = np.int64(0)
        for place in range(size):
            total += (size + 1 - place) * np.int64(digits[place])
        if total * 10 % 11 % 10 != digits[size]:
            return False
    return not equal


@numba.njit(nogil=True, cache=True)
def is_pesel(digits: NDArray[np.uint8]) -> bool | np.bool_:
    """Poland's PESEL of 11 digits: a date of 1900 to 2099 (20 is added to months from 2000 on), weights 1 3 7 9."""
    month = _number(digits, np.int64(2), np.int64(2))
    year = _number(digits, np.int64(0), np.int64(2)) + (2000 if month > 20 else 1900)
    if not is_day(year, month - 20 if month > 20 else month, _number(digits, np.int64(4), np.int64(2))):
        return False
    total = np.int64(digits[10])
    for place in range(10):
        turn = place & 3
        total += np.int64(digits[place]) * (1 if turn == 0 else 3 if turn == 1 else 7 if turn == 2 else 9)
    return total % 10 == 0


@numba.njit(nogil=True, cache=True)
def is_bsn(digits: NDArray[np.uint8]) -> bool | np.bool_:
    """The Dutch BSN of 9 digits: weights 9 to 2 and -1, modulo 11."""
    total = -np.int64(digits[8])
    for place in range(8):
        total += (9 - place) * np.int64(digits[place])
    return total % 11 == 0 and total != 0


@numba.njit(nogil=True, cache=True)
def is_korean(digits: NDArray[np.uint8]) -> bool | np.bool_:
    """Korea's resident registration number of 13 digits, of registrations until October 2020 (later have no check)."""
    century = np.int64(digits[6])
    if not 1 <= century <= 8:
        return False
    year = _number(digits, np.int64(0), np.int64(2)) + (1900 if (century - 1) % 4 < 2 else 2000)
    if not is_day(year, _number(digits, np.int64(2), np.int64(2)), _number(digits, np.int64(4), np.int64(2))):
        return False
    total = np.int64(0)
    for place in range(12):
        total += (place % 8 + 2) * np.int64(digits[place])
    return (11 - total % 11 + (2 if century in (5, 6, 7, 8) else 0)) % 10 == digits[12]


@numba.njit(nogil=True, cache=True)
def is_nir(digits: NDArray[np.uint8]) -> bool | np.bool_:
    """France's NIR of 15 digits: sex, month, and the key modulo 97. Corsica's letters are not looked for."""
    month = _number(digits, np.int64(3), np.int64(2))
    if not (digits[0] == 1 or digits[0] == 2) or not (1 <= month <= 12 or 20 <= month <= 42):
        return False
    return 97 - _number(digits, np.int64(0), np.int64(13)) % 97 == _number(digits, np.int64(13), np.int64(2))


@numba.njit(nogil=True, cache=True)
def is_aadhaar(digits: NDArray[np.uint8]) -> bool | np.bool_:
    """India's Aadhaar of 12 digits: Verhoeff's check over the dihedral group of order 10."""
    if digits[0] < 2:
        return False
    check = np.int64(0)
    for turn in range(12):
        digit = np.int64(digits[11 - turn])
        for _ in range(turn % 8):  # Verhoeff's permutation, applied `turn` times
            digit = _verhoeff_step(digit)
        check = _dihedral(check, digit)
    return check == 0


@numba.njit(nogil=True, cache=True)
def _verhoeff_step(digit: np.int64) -> np.int64:
    # 0 1 2 3 4 5 6 7 8 9 -> 1 5 7 6 2 8 3 0 9 4
    return (np.int64(0x4903826751) >> (4 * digit)) & 15


@numba.njit(nogil=True, cache=True)
def _dihedral(left: np.int64, right: np.int64) -> np.int64:
    if left < 5:
        return (left + right) % 5 + (5 if right >= 5 else 0)
    return (left - right) % 5 + (0 if right >= 5 else 5)


@numba.njit(nogil=True, cache=True)
def _is_american(number: Number) -> bool | np.bool_:
    area = _number(number.digits, np.int64(0), np.int64(3))
    group, serial = (
        _number(number.digits, np.int64(3), np.int64(2)),
        _number(number.digits, np.int64(5), np.int64(4)),
    )
    return area != 0 and area != 666 and area < 900 and group != 0 and serial != 0


@numba.njit(nogil=True, cache=True)
def _chinese(
    data: NDArray[np.uint8],
    end: np.int64,
    flags: NDArray[np.uint8],
    number: Number,
    count: np.int64,
    regions: NDArray[np.uint8],
) -> np.int64:
    """Where a Chinese number ends: 18 characters in one run, or 6-8-4 with spaces or dashes; -1 where it is none."""
    groups, size = np.int64(1), number.groups[0, SIZE]
    if count >= 3 and size == 6 and number.groups[1, SIZE] == 8:
        kind = same_separator(number, np.int64(3))
        if kind in (SPACE, DASH):
            groups, size = np.int64(3), total_digits(number, np.int64(3))
    stop = number.groups[groups - 1, END]
    if size == 18:
        right = closes_number(data, stop, end, flags) and is_chinese(
            number.digits, np.int64(number.digits[17]), regions
        )
        return stop if right else np.int64(-1)
    if size == 17 and stop < end:
        character, width = ascii_at(data, stop, end)
        if lower(character) == 0x78 and closes_number(data, stop + width, end, flags):
            return stop + width if is_chinese(number.digits, np.int64(10), regions) else np.int64(-1)
    return np.int64(-1)


@numba.njit(nogil=True, cache=True)
def national_id(
    data: NDArray[np.uint8],
    end: np.int64,
    flags: NDArray[np.uint8],
    number: Number,
    count: np.int64,
    regions: NDArray[np.uint8],
    spanish: NDArray[np.uint8],
    named: bool | np.bool_,
) -> np.int64:
    """Where the identity number ends that begins with the first group, or -1; `named`: its word stands before."""
    size, digits = number.groups[0, SIZE], number.digits
    if 6 <= size <= 18:
        stop = _chinese(data, end, flags, number, count, regions)
        if stop > 0:
            return stop
    stop = number.groups[0, END]
    right: bool | np.bool_ = False
    if size == 8 and stop < end:
        return _spanish(data, stop, end, flags, _number(digits, np.int64(0), np.int64(8)), spanish, named)
    groups = np.int64(1)
    if size == 11:
        right = named and is_pesel(digits)
    elif size == 15:
        birth = 1900 + _number(digits, np.int64(6), np.int64(2))
        month, day = _number(digits, np.int64(8), np.int64(2)), _number(digits, np.int64(10), np.int64(2))
        old = named and regions[_number(digits, np.int64(0), np.int64(2))] and is_day(birth, month, day)
        right = is_nir(digits) or old
    elif size == 12:
        right = named and is_aadhaar(digits)
    elif size == 9:
        right = named and (is_bsn(digits) or _is_american(number))
    else:
        kind = number.groups[0, SEPARATOR]
        if count >= 4 and pattern(number, np.int64(0), np.int64(4)) == 3332:
            groups = np.int64(4)
            right = kind == DOT and number.groups[1, SEPARATOR] == DOT and number.groups[2, SEPARATOR] == DASH
            right = right and is_cpf(digits)
        elif count >= 3 and pattern(number, np.int64(0), np.int64(3)) == 324:
            groups = np.int64(3)
            even = number.groups[1, SEPARATOR] == kind
            right = even and (kind == DASH or (kind == SPACE and named)) and _is_american(number)
        elif count >= 3 and pattern(number, np.int64(0), np.int64(3)) == 444:
            groups = np.int64(3)
            right = named and same_separator(number, groups) > 0 and is_aadhaar(digits)
        elif count >= 2 and pattern(number, np.int64(0), np.int64(2)) == 67:
            groups = np.int64(2)
            right = kind == DASH and is_korean(digits)
        elif count >= 6 and size == 1 and kind == SPACE and same_separator(number, np.int64(6)) == SPACE:
            groups = np.int64(7 if count >= 7 else 6)
            shape = pattern(number, np.int64(0), groups)
            right = (shape == 1222332 or shape == 122233) and total_digits(number, groups) == 15 and is_nir(digits)
    last = number.groups[groups - 1]
    if not right or last[SEPARATOR] == DASH or last[SEPARATOR] == DOT:
        return np.int64(-1)
    if last[SEPARATOR] == NOTHING and not closes_number(data, last[END], end, flags):
        return np.int64(-1)
    return last[END]


@numba.njit(nogil=True, cache=True)
def _spanish(
    data: NDArray[np.uint8],
    at: np.int64,
    end: np.int64,
    flags: NDArray[np.uint8],
    value: np.int64,
    spanish: NDArray[np.uint8],
    named: bool | np.bool_,
) -> np.int64:
    """Where the check letter of 8 digits ends that is at data[at], after a dash or none; -1 where it is none."""
    character, width = ascii_at(data, at, end)
    if character == 0x2D and at + width < end:
        at += width
        character, width = ascii_at(data, at, end)
    if character >= OTHER or not ends_token(flags, data, at + width, end):
        return np.int64(-1)
    if character != spanish[value % 23]:
        return np.int64(-1)
    if not named:
        for suffix in spanish[23:]:
            if character == suffix:
                return np.int64(-1)
    return at + width


@numba.njit(nogil=True, cache=True)
def nie(
    data: NDArray[np.uint8],
    start: np.int64,
    at: np.int64,
    end: np.int64,
    flags: NDArray[np.uint8],
    number: Number,
    spanish: NDArray[np.uint8],
) -> tuple[np.int64, np.int64]:
    """Spain's number of foreigners, X, Y or Z before 7 digits and a letter: (begin, end), end -1 where it is none."""
    begin = at
    character, width = ascii_before(data, start, begin)
    if character == 0x2D:
        begin -= width
        character, width = ascii_before(data, start, begin)
    begin -= width
    stop = number.groups[0, END]
    if not 0x58 <= character <= 0x5A or stop >= end or not opens_token(flags, data, start, begin):
        return begin, np.int64(-1)
    value = (character - 0x58) * 10000000 + _number(number.digits, np.int64(0), np.int64(7))
    return begin, _spanish(data, stop, end, flags, value, spanish, True)


@numba.njit(nogil=True, cache=True)
def codice_fiscale(
    data: NDArray[np.uint8],
    start: np.int64,
    at: np.int64,
    end: np.int64,
    flags: NDArray[np.uint8],
    odd: NDArray[np.int64],
) -> tuple[np.int64, np.int64]:
    """Italy's code of 16 characters whose first digit, the seventh character, is data[at]: (begin, end or -1).

    In ASCII, in one run. The letters that stand for digits in codes that would be double are not looked for.
    """
    begin, stop = at - 6, at + 10
    if begin < start or stop > end:
        return at, np.int64(-1)
    total = np.int64(0)
    for place in range(16):
        character = np.int64(data[begin + place])
        digit = place in (6, 7, 9, 10, 12, 13, 14)
        if flags[character] & (DIGIT if digit else LETTER) == 0 or character >= OTHER:
            return at, np.int64(-1)
        value = character - 0x30 if digit else lower(character) - 0x61
        if place == 15:
            if total % 26 != value:
                return at, np.int64(-1)
        else:
            total += value if place & 1 else odd[value]
    month = lower(np.int64(data[begin + 8])) - 0x61
    day = (np.int64(data[begin + 9]) - 0x30) * 10 + np.int64(data[begin + 10]) - 0x30
    # The months are the letters ABCDEHLMPRST; the day of women's births is 40 more.
    if not (0b11101001100010011111 >> month) & 1 or not (1 <= day <= 31 or 41 <= day <= 71):
        return at, np.int64(-1)
    if not opens_token(flags, data, start, begin) or not ends_token(flags, data, stop, end):
        return at, np.int64(-1)
    return begin, stop
