"""Payment card numbers: an issuer's prefix, its lengths, one run of digits or the groups of the card, and the check
digit of ISO/IEC 7812-1, annex B (Luhn). After a word such as `card` any prefix and 12 to 19 digits will do."""

from typing import Final

import numba
import numpy as np
from numpy.typing import NDArray

from pipeline.privacy.digits import (
    DASH,
    END,
    MOST_DIGITS,
    SEPARATOR,
    SIZE,
    SPACE,
    Number,
    closes_number,
    pattern,
    same_separator,
    total_digits,
)

# First and last prefix, and the lengths that count without a word for cards before them: those in common use that are
# not also the lengths of bar codes (13) and of the ids of posts (17 and more). From the issuers' published ranges as
# collected in Wikipedia, "Payment card number" (2025); JCB's of 15 digits are of before 1989 and still in test sets.
ISSUERS: Final = (
    (4, 4, 16, 16),  # Visa
    (51, 55, 16, 16),  # Mastercard
    (2221, 2720, 16, 16),
    (34, 34, 15, 15),  # American Express
    (37, 37, 15, 15),
    (300, 305, 14, 14),  # Diners Club
    (3095, 3095, 14, 14),
    (36, 36, 14, 14),
    (38, 39, 14, 14),
    (6011, 6011, 16, 16),  # Discover
    (644, 659, 16, 16),
    (3528, 3589, 16, 16),  # JCB
    (1800, 1800, 15, 15),
    (2131, 2131, 15, 15),
    (62, 62, 16, 19),  # UnionPay: debit cards have 19 digits
    (60, 60, 16, 16),  # RuPay
    (81, 82, 16, 16),
    (508, 508, 16, 16),
    (2200, 2204, 16, 16),  # Mir
    (506099, 506198, 16, 16),  # Verve
    (9792, 9792, 16, 16),  # Troy
    (5018, 5018, 16, 16),  # Maestro
    (5020, 5020, 16, 16),
    (5038, 5038, 16, 16),
    (56, 58, 16, 16),
    (6304, 6304, 16, 16),
    (6759, 6763, 16, 16),
)
SHORTEST: Final = 12
LONGEST: Final = 19


def issuers() -> NDArray[np.int64]:
    """ISSUERS as (ranges, 5): first, last, the prefix's digits, shortest, longest."""
    return np.array([(first, last, len(str(first)), low, high) for first, last, low, high in ISSUERS], np.int64)


@numba.njit(nogil=True, cache=True)
def luhn(digits: NDArray[np.uint8], size: np.int64) -> bool | np.bool_:
    """Whether the check digit of the first `size` digits holds."""
    total = np.int64(0)
    for place in range(size):
        digit = np.int64(digits[size - 1 - place])
        if place & 1:
            digit *= 2
            if digit > 9:
                digit -= 9
        total += digit
    return total % 10 == 0


@numba.njit(nogil=True, cache=True)
def has_issuer(digits: NDArray[np.uint8], size: np.int64, table: NDArray[np.int64]) -> bool | np.bool_:
    """Whether an issuer has numbers of this prefix and length."""
    for row in range(len(table)):
        if not table[row, 3] <= size <= table[row, 4]:
            continue
        prefix = np.int64(0)
        for place in range(table[row, 2]):
            prefix = prefix * 10 + digits[place]
        if table[row, 0] <= prefix <= table[row, 1]:
            return True
    return False


@numba.njit(nogil=True, cache=True)
def credit_card(
    data: NDArray[np.uint8],
    end: np.int64,
    flags: NDArray[np.uint8],
    number: Number,
    count: np.int64,
    table: NDArray[np.int64],
    named: bool | np.bool_,
) -> np.int64:
    """Where the card number ends that begins with the first group, or -1; `named`: a word for cards stands before."""
    # Groups as they are printed: 4-4-4-4, with a rest of 3, American Express, Diners Club, UnionPay of 19 digits.
    groups = np.int64(1)
    if number.groups[0, SIZE] < SHORTEST:
        groups = np.int64(0)
        for few in range(5, 1, -1):
            if few > count or total_digits(number, np.int64(few)) > LONGEST:
                continue
            kind = same_separator(number, np.int64(few))
            shape = pattern(number, np.int64(0), np.int64(few))
            if (kind in (SPACE, DASH)) and (
                shape == 4444 or shape == 44443 or shape == 465 or shape == 464 or shape == 69
            ):
                groups = np.int64(few)
                break
        if groups == 0:
            return np.int64(-1)
    size = total_digits(number, groups)
    if not SHORTEST <= size <= LONGEST or size > MOST_DIGITS:
        return np.int64(-1)
    if not (named or has_issuer(number.digits, size, table)) or not luhn(number.digits, size):
        return np.int64(-1)
    last = number.groups[groups - 1]
    if last[SEPARATOR] == DASH or (
        last[SEPARATOR] == SPACE and same_separator(number, groups) == SPACE and number.groups[groups, SIZE] == 4
    ):
        return np.int64(-1)  # a part of a longer number
    return last[END] if closes_number(data, last[END], end, flags) else np.int64(-1)
