"""The search: one pass over the bytes of each text, by the bytes that may open a match.

A table of 256 entries says what a byte may open; ordinary prose costs a look-up a byte, and a detector is asked only
where an at sign, the first digit of a number, a colon, an equals sign or a rare byte of a token's prefix stands.
Each detector looks a bounded number of bytes back and ahead.

Of matches that overlap the one that begins first is taken, of these the longest, of these the kind that comes first in
`kinds.KINDS`.
"""

from dataclasses import dataclass
from functools import cache
from typing import Final, NamedTuple

import numba
import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from pipeline.privacy.calling_codes import calling_codes, chinese_mobile, trunk_groups
from pipeline.privacy.cards import credit_card, issuers
from pipeline.privacy.characters import (
    ALNUM,
    AT_ANCHOR,
    COLON_ANCHOR,
    DIGIT,
    DIGIT_ANCHOR,
    EQUALS_ANCHOR,
    FULL_WIDTH_ANCHOR,
    HEX,
    PLAIN,
    TOKEN_ANCHOR,
    VALUE,
    anchors,
    ascii_at,
    ascii_before,
    character_flags,
)
from pipeline.privacy.digits import END, SIZE, Number, make_number, opens_number, read_number, total_digits
from pipeline.privacy.email import email, not_top_level
from pipeline.privacy.iban import iban, iban_lengths
from pipeline.privacy.identities import codice_fiscale, italian_odd, national_id, nie, provinces, spanish_letters
from pipeline.privacy.kinds import CREDIT_CARD, EMAIL, IBAN, IP_ADDRESS, KINDS, NATIONAL_ID, PHONE, SECRET
from pipeline.privacy.network import ipv4, ipv6, special_ipv4
from pipeline.privacy.phones import named_groups, phone
from pipeline.privacy.secrets import (
    NAME_PAIR,
    TOKEN_PAIR,
    SecretTables,
    assignment,
    name_end,
    pairs,
    secret_tables,
    token,
    token_bytes,
    url_password,
)
from pipeline.privacy.words import (
    CARD_WORD,
    IDENTITY_WORD,
    OTHER_NUMBER_WORD,
    PHONE_WORD,
    WINDOW,
    WordTable,
    word_table,
    words_before,
)
from pipeline.text.arrow import utf8_view

# Increase when the search gives another result for the same text.
PRIVACY_SCAN_VERSION: Final = 1

ALL_KINDS: Final = (1 << len(KINDS)) - 1
_CLOSE: Final = 12  # bytes before a number: a word there for another kind of number outdoes one for telephones
_LONG: Final = 12  # digits in one run: longer than a telephone number
_SHORTEST_NUMBER: Final = 7  # digits: no number of fewer is looked for


class Tables(NamedTuple):
    """What the detectors know."""

    anchors: NDArray[np.uint8]
    flags: NDArray[np.uint8]
    words: WordTable
    refused: NDArray[np.uint64]
    special: NDArray[np.int64]
    issuers: NDArray[np.int64]
    ibans: NDArray[np.uint8]
    codes: NDArray[np.uint8]
    mobile: NDArray[np.uint8]
    trunk: NDArray[np.int64]
    regions: NDArray[np.uint8]
    spanish: NDArray[np.uint8]
    italian: NDArray[np.int64]
    secrets: SecretTables
    pairs: NDArray[np.uint8]


@cache
def tables() -> Tables:
    """The tables of all detectors."""
    return Tables(
        anchors(token_bytes()),
        character_flags(),
        word_table(),
        not_top_level(),
        special_ipv4(),
        issuers(),
        iban_lengths(),
        calling_codes(),
        chinese_mobile(),
        trunk_groups(),
        provinces(),
        spanish_letters(),
        italian_odd(),
        secret_tables(),
        pairs(),
    )


@dataclass(frozen=True)
class Findings:
    """Matches in the order of the documents, and in these by their place. All arrays are (matches,)."""

    documents: NDArray[np.int64]  # number of the text
    kinds: NDArray[np.uint8]  # code, a place in `kinds.KINDS`
    starts: NDArray[np.int64]  # in bytes from the beginning of the text
    ends: NDArray[np.int64]

    def __len__(self) -> int:
        return len(self.documents)

    def counts(self, documents: int) -> NDArray[np.int64]:
        """Matches by document and kind: (documents, kinds)."""
        flat = np.bincount(self.documents * len(KINDS) + self.kinds, minlength=documents * len(KINDS))
        return flat.reshape(documents, len(KINDS))


@numba.njit(nogil=True, cache=True)
def _add(
    found: NDArray[np.int64], count: np.int64, begin: np.int64, end: np.int64, kind: int | np.int64
) -> tuple[NDArray[np.int64], np.int64]:
    if end < 0:
        return found, count
    if count == len(found):
        grown = np.empty((2 * count, 4), np.int64)
        grown[:count] = found
        found = grown
    found[count, 1], found[count, 2], found[count, 3] = kind, begin, end
    return found, count + 1


@numba.njit(nogil=True, cache=True)
def _run_end(data: NDArray[np.uint8], at: np.int64, end: np.int64, flags: NDArray[np.uint8]) -> np.int64:
    while at < end:
        character, width = ascii_at(data, at, end)
        if flags[character] & DIGIT == 0:
            break
        at += width
    return at


@numba.njit(nogil=True, cache=True)
def _number_at(
    data: NDArray[np.uint8],
    start: np.int64,
    at: np.int64,
    end: np.int64,
    number: Number,
    t: Tables,
    public_only: bool,
    found: NDArray[np.int64],
    count: np.int64,
) -> tuple[NDArray[np.int64], np.int64, np.int64]:
    """Ask every detector of numbers at the first digit of a run; returns where the scan goes on, last."""
    flags = t.flags
    groups = read_number(data, at, end, flags, number)
    stop = number.groups[0, END]
    if number.groups[0, SIZE] > len(number.digits):
        return found, count, _run_end(data, stop, end, flags)
    before, _ = ascii_before(data, start, at)
    size = number.groups[0, SIZE]
    if flags[before] & ALNUM or before == 0x5F or (before == 0x2D and size == 7):
        if size == 7:
            begin, last = nie(data, start, at, end, flags, number, t.spanish)
            if last > 0:
                found, count = _add(found, count, begin, last, NATIONAL_ID)
                return found, count, last
        if flags[before] & ALNUM and size >= 2:
            begin, last = iban(data, start, at, end, flags, t.ibans)
            if last > 0:
                found, count = _add(found, count, begin, last, IBAN)
                return found, count, last
            if size == 2:
                begin, last = codice_fiscale(data, start, at, end, flags, t.italian)
                if last > 0:
                    found, count = _add(found, count, begin, last, NATIONAL_ID)
                    return found, count, last
        if before != 0x2D:
            return found, count, stop
    if size <= 3 and stop < end and (data[stop] == 0x2E or data[stop] == 0xEF):
        last = ipv4(data, start, at, end, flags, t.special, t.words, public_only)
        if last > 0:
            found, count = _add(found, count, at, last, IP_ADDRESS)
            return found, count, last
    if total_digits(number, groups) < _SHORTEST_NUMBER:
        return found, count, stop
    words = np.int64(0)
    if size >= _LONG or named_groups(number, groups) > 0:
        words = words_before(data, start, at, np.int64(WINDOW), t.words, flags)
    if words & PHONE_WORD and words_before(data, start, at, np.int64(_CLOSE), t.words, flags) & OTHER_NUMBER_WORD:
        words ^= PHONE_WORD
    kind = np.int64(PHONE)
    begin, last = phone(data, start, end, flags, number, groups, t.codes, t.mobile, t.trunk, words & PHONE_WORD != 0)
    if opens_number(data, start, at, flags):
        card = credit_card(data, end, flags, number, groups, t.issuers, words & CARD_WORD != 0)
        if card >= last and card > 0 and begin == at:
            kind, last = np.int64(CREDIT_CARD), card
        identity = national_id(data, end, flags, number, groups, t.regions, t.spanish, words & IDENTITY_WORD != 0)
        if identity >= last and identity > 0 and begin == at:
            kind, last = np.int64(NATIONAL_ID), identity
    if last > 0:
        found, count = _add(found, count, begin, last, kind)
        return found, count, max(stop, last)
    return found, count, stop


# Inlined: passing the tables on would cost more than the test.
@numba.njit(nogil=True, cache=True, inline="always")
def _is_likely(
    data: NDArray[np.uint8],
    start: np.int64,
    at: np.int64,
    width: np.int64,
    end: np.int64,
    flags: NDArray[np.uint8],
    pair_table: NDArray[np.uint8],
    anchor: np.uint8,
) -> bool | np.bool_:
    """Whether the neighbours of the byte data[at] allow a match: a cheap test before a detector is asked."""
    if at == start:
        return anchor in (COLON_ANCHOR, TOKEN_ANCHOR)
    before = data[at - 1]
    after = data[at + width] if at + width < end else np.uint8(0)
    if anchor == AT_ANCHOR:
        return (before >= 0x80 or flags[before] & VALUE != 0) and (after >= 0x80 or flags[after] & ALNUM != 0)
    if anchor == TOKEN_ANCHOR:
        return pair_table[before, data[at]] & TOKEN_PAIR != 0 or (data[at] == 0x2D and after == 0x2D and before != 0x2D)
    if anchor == COLON_ANCHOR and (after == 0x3A or (flags[before] & HEX and flags[after] & HEX)):
        return True
    left = name_end(data, start, at)
    return left - start > 1 and pair_table[data[left - 2], data[left - 1]] & NAME_PAIR != 0


@numba.njit(nogil=True, cache=True)
def _skip(data: NDArray[np.uint8], at: np.int64, end: np.int64, table: NDArray[np.uint8]) -> np.int64:
    """The first byte from `at` on that may open a match, or `end`."""
    position, last = np.uint64(at), np.uint64(end)  # unsigned: no test for negative indices
    while position + np.uint64(4) <= last:
        some = table[data[position]] | table[data[position + np.uint64(1)]]
        if some | table[data[position + np.uint64(2)]] | table[data[position + np.uint64(3)]]:
            break
        position += np.uint64(4)
    while position < last and table[data[position]] == PLAIN:
        position += np.uint64(1)
    return np.int64(position)


@numba.njit(nogil=True, cache=True)
def _scan(
    data: NDArray[np.uint8],
    start: np.int64,
    end: np.int64,
    number: Number,
    counts: NDArray[np.int64],
    t: Tables,
    public_only: bool,
    found: NDArray[np.int64],
    count: np.int64,
) -> tuple[NDArray[np.int64], np.int64]:
    """Append every match of one text to `found`, overlapping ones too."""
    flags, anchor_table, pair_table = t.flags, t.anchors, t.pairs
    at = start
    ipv6_from = start  # colons before it are of an address that was looked at
    while True:
        at = _skip(data, at, end, anchor_table)
        if at >= end:
            break
        anchor = anchor_table[data[at]]
        width = np.int64(1)
        if anchor == FULL_WIDTH_ANCHOR:
            character, width = ascii_at(data, at, end)
            if flags[character] & DIGIT:
                anchor = np.uint8(DIGIT_ANCHOR)
            elif character == 0x40:
                anchor = np.uint8(AT_ANCHOR)
            else:
                at += width
                continue
        if anchor == DIGIT_ANCHOR:
            found, count, at = _number_at(data, start, at, end, number, t, public_only, found, count)
            continue
        at += width
        if not _is_likely(data, start, at - width, width, end, flags, pair_table, anchor):
            continue
        at -= width
        if anchor == AT_ANCHOR:
            begin, stop = url_password(data, start, at, end, flags)
            if stop < 0:
                last, stop = email(data, start, at, width, end, flags, t.refused)
                found, count = _add(found, count, last, stop, EMAIL)
                stop = np.int64(-1)
        elif anchor in (COLON_ANCHOR, EQUALS_ANCHOR):
            if anchor == COLON_ANCHOR and at >= ipv6_from:
                begin, stop, ipv6_from = ipv6(data, start, at, end, flags, public_only)
                found, count = _add(found, count, begin, stop, IP_ADDRESS)
            begin, stop = assignment(data, start, at, end, flags, t.secrets, counts)
        else:
            begin, stop = token(data, start, at, end, flags, t.secrets, counts)
        found, count = _add(found, count, begin, stop, SECRET)
        at += width
        if stop > at and anchor != AT_ANCHOR:
            at = stop
    return found, count


@numba.njit(nogil=True, cache=True)
def _before(one: NDArray[np.int64], two: NDArray[np.int64]) -> bool | np.bool_:
    if one[2] != two[2]:
        return one[2] < two[2]
    if one[3] != two[3]:
        return one[3] > two[3]
    return one[1] < two[1]


@numba.njit(nogil=True, cache=True)
def _resolve(found: NDArray[np.int64], base: np.int64, count: np.int64, allowed: np.int64) -> np.int64:
    """Sort the matches from `base` on, drop those that overlap an earlier one, then the kinds not in `allowed`."""
    row = np.empty(4, np.int64)
    for place in range(base + 1, count):  # nearly sorted: a detector looks back a bounded number of bytes
        row[:] = found[place]
        at = place
        while at > base and _before(row, found[at - 1]):
            found[at] = found[at - 1]
            at -= 1
        found[at] = row
    kept, end = base, np.int64(-1)
    for place in range(base, count):
        if found[place, 2] < end:
            continue
        end = found[place, 3]
        if (allowed >> found[place, 1]) & 1:
            found[kept] = found[place]
            kept += 1
    return kept


@numba.njit(nogil=True, cache=True)
def _find(
    data: NDArray[np.uint8],
    starts: NDArray[np.int64],
    ends: NDArray[np.int64],
    allowed: NDArray[np.int64],
    number: Number,
    t: Tables,
    public_only: bool,
) -> NDArray[np.int64]:
    found, count = np.empty((256, 4), np.int64), np.int64(0)
    counts = np.zeros(256, np.int64)
    for document in range(len(starts)):
        if allowed[document] == 0:
            continue
        start, end = starts[document], ends[document]
        base = count
        found, count = _scan(data, start, end, number, counts, t, public_only, found, count)
        count = _resolve(found, base, count, allowed[document])
        for place in range(base, count):
            found[place, 0] = document
            found[place, 2] -= start
            found[place, 3] -= start
    return found[:count]


def search(texts: pa.Array, allowed: NDArray[np.int64], public_only: bool) -> Findings:
    """All matches in a string or large_string array; `allowed` (texts,) are the kinds to report, as bits of ALL_KINDS.

    A kind that is not reported still holds its span against others. Nulls are empty texts. Raises TypeError for an
    array of another type.
    """
    found = _find(*utf8_view(texts), allowed, make_number(), tables(), public_only)
    return Findings(found[:, 0].copy(), found[:, 1].astype(np.uint8), found[:, 2].copy(), found[:, 3].copy())
