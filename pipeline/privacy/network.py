"""IPv4 and IPv6 addresses.

By default only addresses of somebody count: none of the blocks that IANA's special-purpose registries (RFC 6890) keep
private, for loopback, documentation and the like. Four numbers are a version, a network or a section and no address
- where a word such as `version` stands right before them;
- where they are part of a longer name (`libc-2.31.0.1`, `1.2.3.4-5`, `Chrome/114.0.0.0`);
- where they end with two zeros;
- where all four are below 32 and no word such as `IP` or `server` stands before.
"""

from typing import Final

import numba
import numpy as np
from numpy.typing import NDArray

from pipeline.privacy.characters import ALNUM, DIGIT, HEX, ascii_at, ascii_before, ends_token
from pipeline.privacy.words import ADDRESS_WORD, VERSION_WORD, WINDOW, WordTable, words_before

# IANA IPv4 Special-Purpose Address Registry (RFC 6890), multicast (RFC 5771): network, prefix length.
SPECIAL_IPV4: Final = (
    ("0.0.0.0", 8),
    ("10.0.0.0", 8),
    ("100.64.0.0", 10),
    ("127.0.0.0", 8),
    ("169.254.0.0", 16),
    ("172.16.0.0", 12),
    ("192.0.0.0", 24),
    ("192.0.2.0", 24),
    ("192.88.99.0", 24),
    ("192.168.0.0", 16),
    ("198.18.0.0", 15),
    ("198.51.100.0", 24),
    ("203.0.113.0", 24),
    ("224.0.0.0", 4),
    ("240.0.0.0", 4),
)
VERSION_WINDOW: Final = 12  # bytes between a version's word and its number
SMALL: Final = 32


def special_ipv4() -> NDArray[np.int64]:
    """SPECIAL_IPV4 as (networks, 2): the network's number, and the bits below its prefix."""
    rows = []
    for network, prefix in SPECIAL_IPV4:
        number = int.from_bytes(bytes(int(part) for part in network.split(".")), "big")
        rows.append((number >> (32 - prefix), 32 - prefix))
    return np.array(rows, np.int64)


@numba.njit(nogil=True, cache=True)
def _ipv4(
    data: NDArray[np.uint8], at: np.int64, end: np.int64, flags: NDArray[np.uint8]
) -> tuple[np.int64, np.int64, np.int64]:
    """Four dotted numbers at data[at]: where they end or -1, their value, the largest of them."""
    value, largest, position = np.int64(0), np.int64(0), at
    for part in range(4):
        number, digits = np.int64(0), np.int64(0)
        while position < end and digits < 4:
            character, width = ascii_at(data, position, end)
            if flags[character] & DIGIT == 0:
                break
            if digits > 0 and number == 0:
                return np.int64(-1), value, largest  # a leading zero
            number = number * 10 + character - 0x30
            digits += 1
            position += width
        if digits == 0 or number > 255 or digits > 3:
            return np.int64(-1), value, largest
        value = (value << 8) | number
        largest = max(largest, number)
        if part < 3:
            if position >= end:
                return np.int64(-1), value, largest
            character, width = ascii_at(data, position, end)
            if character != 0x2E:
                return np.int64(-1), value, largest
            position += width
    return position, value, largest


@numba.njit(nogil=True, cache=True)
def is_special_ipv4(value: np.int64, special: NDArray[np.int64]) -> bool | np.bool_:
    """Whether an address is in a block that is nobody's."""
    for row in range(len(special)):  # noqa: SIM110
        if value >> special[row, 1] == special[row, 0]:
            return True
    return False


@numba.njit(nogil=True, cache=True)
def ipv4(
    data: NDArray[np.uint8],
    start: np.int64,
    at: np.int64,
    end: np.int64,
    flags: NDArray[np.uint8],
    special: NDArray[np.int64],
    words: WordTable,
    public_only: bool,
) -> np.int64:
    """Where the IPv4 address ends that begins at the digit data[at], or -1."""
    stop, value, largest = _ipv4(data, at, end, flags)
    if stop < 0 or not ends_token(flags, data, stop, end):
        return np.int64(-1)
    before, width = ascii_before(data, start, at)
    if flags[before] & ALNUM or before == 0x5F or before == 0x2E:
        return np.int64(-1)
    if before == 0x2D:
        earlier, _ = ascii_before(data, start, at - width)
        if flags[earlier] & ALNUM and not (flags[earlier] & DIGIT and _after_address(data, start, at - width, flags)):
            return np.int64(-1)
    if stop + 1 < end:
        after, next_one = np.int64(data[stop]), np.int64(data[stop + 1])
        if after == 0x2E and next_one < 0x80 and flags[next_one] & ALNUM:
            return np.int64(-1)
        named = after in (0x2D, 0x2B, 0x7E) and next_one < 0x80 and flags[next_one] & ALNUM != 0
        if named and (after != 0x2D or _ipv4(data, stop + 1, end, flags)[0] < 0):
            return np.int64(-1)
    if before == 0x2F:
        earlier, _ = ascii_before(data, start, at - width)
        if flags[earlier] & ALNUM:
            return np.int64(-1)
    if value & 0xFFFF == 0 or (public_only and is_special_ipv4(value, special)):
        return np.int64(-1)
    if words_before(data, start, at, np.int64(VERSION_WINDOW), words, flags) & VERSION_WORD:
        return np.int64(-1)
    if largest < SMALL and not words_before(data, start, at, np.int64(WINDOW), words, flags) & ADDRESS_WORD:
        return np.int64(-1)
    return stop


@numba.njit(nogil=True, cache=True)
def _after_address(data: NDArray[np.uint8], start: np.int64, at: np.int64, flags: NDArray[np.uint8]) -> bool | np.bool_:
    """Whether four dotted numbers end at data[at]: the first address of a range."""
    begin = at
    while begin > start and at - begin < 15 and (flags[data[begin - 1]] & DIGIT or data[begin - 1] == 0x2E):
        begin -= 1
    return begin < at and _ipv4(data, begin, at, flags)[0] == at


@numba.njit(nogil=True, cache=True)
def _special_ipv6(first: np.int64, second: np.int64) -> bool | np.bool_:
    # IANA IPv6 Special-Purpose Address Registry: unspecified, loopback, mapped, translation, discard, protocol
    # assignments and documentation, segment routing, unique-local, link-local, multicast.
    return (
        first == 0
        or first == 0x64
        or first == 0x100
        or (first == 0x2001 and (second < 0x200 or second == 0xDB8))
        or (first == 0x3FFF and second < 0x1000)
        or first == 0x5F00
        or first & 0xFE00 == 0xFC00
        or first & 0xFFC0 == 0xFE80
        or first >= 0xFF00
    )


@numba.njit(nogil=True, cache=True)
def ipv6(
    data: NDArray[np.uint8],
    start: np.int64,
    at: np.int64,
    end: np.int64,
    flags: NDArray[np.uint8],
    public_only: bool,
) -> tuple[np.int64, np.int64, np.int64]:
    """The IPv6 address whose first colon is data[at]: (begin, end or -1, where the scan goes on).

    A shortened form (`::`) counts only as global unicast, 2000::/3: others are too like the code `abc::def`.
    """
    begin = at
    while begin > start and at - begin < 4 and flags[data[begin - 1]] & HEX:
        begin -= 1
    before, _ = ascii_before(data, start, begin)
    refused = begin, np.int64(-1), at + 1
    if flags[before] & ALNUM or before == 0x3A or before == 0x2E or before == 0x5F:
        return refused
    if begin == at and (at + 1 >= end or data[at + 1] != 0x3A):
        return refused
    position, groups, shortened = begin, np.int64(0), False
    first, second = np.int64(0), np.int64(0)
    stop = np.int64(-1)
    while groups < 8:
        size, value, group = np.int64(0), np.int64(0), position
        while position < end and size < 5 and flags[data[position]] & HEX:
            character = np.int64(data[position])
            value = value * 16 + (character - 0x30 if character < 0x3A else (character | 0x20) - 0x57)
            size += 1
            position += 1
        if size > 4:
            return refused
        if size > 0 and (groups >= 2 or shortened) and position < end and data[position] == 0x2E:
            tail, _, _ = _ipv4(data, group, end, flags)
            if tail >= 0 and (groups == 6 or (shortened and groups < 6)):
                groups += 2
                stop = position = tail
                break
        if size > 0:
            if groups == 0:
                first = value
            elif groups == 1 and not shortened:
                second = value
            groups += 1
            stop = position
        if position + 1 < end and data[position] == 0x3A and data[position + 1] == 0x3A:
            if shortened:
                return refused
            shortened = True
            position += 2
            stop = position
        elif (
            size > 0
            and groups < 8
            and position + 1 < end
            and data[position] == 0x3A
            and flags[data[position + 1]] & HEX
        ):
            position += 1
        else:
            break
    onward = max(at + 1, position)
    if shortened == (groups >= 8) or groups == 0:
        return begin, np.int64(-1), onward
    if not ends_token(flags, data, stop, end) or (stop < end and data[stop] == 0x3A):
        return begin, np.int64(-1), onward
    # Two groups around `::` are more often a range of numbers, or a name in code.
    if shortened and (groups < 3 or (public_only and first & 0xE000 != 0x2000)):
        return begin, np.int64(-1), onward
    if public_only and _special_ipv6(first, second):
        return begin, np.int64(-1), onward
    return begin, stop, onward
