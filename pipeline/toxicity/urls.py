"""Keys of URLs: 64-bit hashes of the host, of each of its parent domains, and of each beginning of its path.

The host is what lies between scheme or user and port, path, query or fragment, in lower case, without `www.` and
without dots at its ends. It may stand without a scheme. A Unicode host is brought to its ASCII form (punycode), an IPv6
address to its shortest one. The path is in lower case with every byte beyond ASCII percent-encoded; it begins with "/",
holds the query, and ends before the fragment.

Keys are those of `pipeline.text.scan.mix` over the bytes of the host, from its end to its beginning, and then of the
path. Two different strings have the same key with a probability of 2^-64.
"""

import ipaddress
import unicodedata
from typing import Final, NamedTuple
from urllib.parse import unquote

import numba
import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from pipeline.text.arrow import Utf8View, utf8_view
from pipeline.text.scan import SEED, finish, mix

_DOT, _SLASH, _BACKSLASH, _COLON, _AT, _PERCENT = 0x2E, 0x2F, 0x5C, 0x3A, 0x40, 0x25
_QUESTION_MARK, _HASH_SIGN, _OPEN, _CLOSE, _STAR, _BLANK = 0x3F, 0x23, 0x5B, 0x5D, 0x2A, 0x20
_HOSTLESS, _PLAIN, _SPECIAL = 0, 1, 2  # special: the host must be brought into its plain form first
_LONGEST_HOST: Final = 3 * 255  # characters: each byte of a name of the DNS may be percent-encoded
_NOT_IN_HOSTS: Final = frozenset("/\\?#@:[]%<>")


class Table(NamedTuple):
    """What keys stand for, for the kernel.

    Keys are sorted, and `buckets` say where those of each value of the top bits lie. With n keys, a string that is not
    among them is taken for one with a probability of n / 2^64.
    """

    keys: NDArray[np.uint64]  # (keys,)
    masks: NDArray[np.uint64]  # (keys,) bits of the categories, and PATHS
    buckets: NDArray[np.int64]  # (2^bits + 1,)
    shift: np.uint64


PATHS: Final = np.uint64(1 << 63)  # the key is a host with paths in the table
MOST_CATEGORIES: Final = 63


def make_table(keys: NDArray[np.uint64], masks: NDArray[np.uint64]) -> Table:
    """The table of sorted keys."""
    bits = min(16, max(1, len(keys).bit_length() - 3))
    bounds = np.arange(1 << bits, dtype=np.uint64) << np.uint64(64 - bits)
    buckets = np.append(np.searchsorted(keys, bounds), len(keys)).astype(np.int64)
    for array in (keys, masks, buckets):
        array.flags.writeable = False
    return Table(keys, masks, buckets, np.uint64(64 - bits))


@numba.njit(nogil=True, cache=True, inline="always")
def _look_up(table: Table, key: np.uint64) -> np.uint64:
    bucket = key >> table.shift
    low = table.buckets[bucket]
    high = table.buckets[bucket + np.uint64(1)]
    while low < high:
        middle = (low + high) >> 1
        if table.keys[middle] < key:
            low = middle + 1
        else:
            high = middle
    if low < len(table.keys) and table.keys[low] == key:
        return table.masks[low]
    return np.uint64(0)


@numba.njit(nogil=True, cache=True, inline="always")
def _lower(byte: np.uint8) -> np.int64:
    return np.int64(byte) + 32 if 65 <= byte <= 90 else np.int64(byte)


@numba.njit(nogil=True, cache=True, inline="always")
def _hexadecimal(digit: np.int64) -> np.int64:
    return digit + (48 if digit < 10 else 87)


@numba.njit(nogil=True, cache=True, inline="always")
def _is_slash(byte: np.uint8) -> bool:
    return byte in (_SLASH, _BACKSLASH)


@numba.njit(nogil=True, cache=True)
def _authority(data: NDArray[np.uint8], start: np.int64, end: np.int64) -> tuple[np.int64, np.int64]:
    """Where user, host and port lie: after the scheme or two slashes, up to the path."""
    at = start
    while at < end and (97 <= _lower(data[at]) <= 122 or 0x2B <= data[at] <= 0x2E or 48 <= data[at] <= 57):
        at += 1
    if at > start and at + 2 < end and data[at] == _COLON and _is_slash(data[at + 1]) and _is_slash(data[at + 2]):
        start = at + 3
    elif start + 1 < end and _is_slash(data[start]) and _is_slash(data[start + 1]):
        start += 2
    stop = start
    while stop < end and not _is_slash(data[stop]) and data[stop] != _QUESTION_MARK and data[stop] != _HASH_SIGN:
        stop += 1
    return start, stop


@numba.njit(nogil=True, cache=True)
def _host(data: NDArray[np.uint8], start: np.int64, stop: np.int64) -> tuple[np.int64, np.int64, bool]:
    """Where the host lies in data[start:stop], and whether it is plain: ASCII, without escapes, no IPv6 address."""
    for at in range(start, stop):
        if data[at] == _AT:
            start = at + np.int64(1)
    plain = True
    colon = stop
    for at in range(start, stop):
        byte = data[at]
        if byte >= 0x80 or byte in (_PERCENT, _OPEN):
            plain = False
        elif byte == _CLOSE:
            colon = stop  # the colons before it belong to an address
        elif byte == _COLON:
            plain = plain and colon == stop
            colon = min(colon, np.int64(at))
    stop = colon
    while start < stop and data[stop - 1] == _DOT:
        stop -= 1
    while start < stop and (data[start] == _DOT or data[start] == _STAR):
        start += 1
    if stop - start > 4 and data[start + 3] == _DOT:
        www = True
        for at in range(start, start + 3):
            www = www and _lower(data[at]) == 0x77
        for at in range(start + 4, stop):
            if www and data[at] == _DOT:
                return start + 4, stop, plain
    return start, stop, plain


@numba.njit(nogil=True, cache=True)
def _has_parents(data: NDArray[np.uint8], start: np.int64, stop: np.int64) -> bool:
    """Whether the host is a name, and no IPv4 or IPv6 address."""
    for at in range(start, stop):
        if data[at] == _OPEN:
            return False
        if data[at] != _DOT and not 48 <= data[at] <= 57:
            return True
    return False


@numba.njit(nogil=True, cache=True)
def _walk(
    data: NDArray[np.uint8],
    start: np.int64,
    stop: np.int64,
    path: np.int64,
    end: np.int64,
    table: Table,
) -> tuple[np.uint64, np.uint64, np.uint64]:
    """Bits of all that the table holds of one URL, and the keys of its host and of its whole path."""
    bits = found = np.uint64(0)
    parents = _has_parents(data, start, stop)
    state = SEED
    for at in range(stop - 1, start - 1, -1):
        state = mix(state, _lower(data[at]))
        if at == start or (parents and data[at - 1] == _DOT):
            found = _look_up(table, finish(state))
            bits |= found & ~PATHS
    host = finish(state)
    if path == end or data[path] == _QUESTION_MARK or data[path] == _HASH_SIGN:
        state = mix(state, _SLASH)
        if found & PATHS:
            bits |= _look_up(table, finish(state))
    for at in range(path, end):
        byte = data[at]
        if byte == _HASH_SIGN:
            break
        if byte >= 0x80:
            state = mix(state, _PERCENT)
            state = mix(state, _hexadecimal(np.int64(byte) >> 4))
            state = mix(state, _hexadecimal(np.int64(byte) & 0xF))
        else:
            state = mix(state, _lower(byte))
        if found & PATHS:
            bits |= _look_up(table, finish(state))
    return bits & ~PATHS, host, finish(state)


@numba.njit(nogil=True, cache=True)
def _scan(
    data: NDArray[np.uint8],
    starts: NDArray[np.int64],
    ends: NDArray[np.int64],
    as_it_is: bool,
    table: Table,
    bits: NDArray[np.uint64],
    hosts: NDArray[np.uint64],
    paths: NDArray[np.uint64],
    kinds: NDArray[np.uint8],
) -> None:
    for url in range(len(starts)):
        start, end = starts[url], ends[url]
        while start < end and data[start] <= _BLANK:
            start += 1
        while start < end and data[end - 1] <= _BLANK:
            end -= 1
        authority, path = _authority(data, start, end)
        begin, stop, plain = _host(data, authority, path)
        bits[url] = hosts[url] = paths[url] = np.uint64(0)
        kinds[url] = _HOSTLESS
        if begin < stop:
            kinds[url] = _PLAIN if plain or as_it_is else _SPECIAL
        if kinds[url] == _PLAIN:
            bits[url], hosts[url], paths[url] = _walk(data, begin, stop, path, end, table)


class Keys(NamedTuple):
    """What a scan of URLs gives; 0 where there is no host."""

    bits: NDArray[np.uint64]  # (urls,) categories
    hosts: NDArray[np.uint64]  # (urls,) key of the host
    paths: NDArray[np.uint64]  # (urls,) key of the host with the whole path
    valid: NDArray[np.bool_]  # (urls,) whether there is a host


_EMPTY: Final = make_table(np.zeros(0, np.uint64), np.zeros(0, np.uint64))


def scan_urls(view: Utf8View, table: Table = _EMPTY) -> Keys:
    """The keys of URLs, and what they stand for in a table. The bytes need not be UTF-8."""
    found, kinds = _scanned(view, False, table)
    special = np.flatnonzero(kinds == _SPECIAL)
    if len(special):
        written = [plain_url(bytes(view.data[view.starts[url] : view.ends[url]])) for url in special]
        again, _ = _scanned(utf8_view(pa.array(written, pa.large_string())), True, table)
        for whole, part in zip(found, again, strict=True):
            whole[special] = part
    return found


def _scanned(view: Utf8View, as_it_is: bool, table: Table) -> tuple[Keys, NDArray[np.uint8]]:
    count = len(view.starts)
    bits, hosts, paths = (np.empty(count, np.uint64) for _ in range(3))
    kinds = np.empty(count, np.uint8)
    _scan(*view, as_it_is, table, bits, hosts, paths, kinds)
    return Keys(bits, hosts, paths, kinds == _PLAIN), kinds


def plain_url(url: bytes) -> str:
    """The URL with its host in ASCII, or nothing where that host cannot exist.

    Hosts are brought into their form by NFKC, lower case and punycode, which is what UTS 46 does to them but for rare
    letters; the path stays as it is, percent-encoded.
    """
    authority, path, end = _parts(url)
    rest = "".join(chr(byte) if byte < 0x80 else f"%{byte:02x}" for byte in url[path:end])
    host = url[authority:path].rpartition(b"@")[2].decode(errors="replace")
    plain = _address(host) or _name(host)
    return f"//{plain}{rest}" if plain else ""


def _parts(url: bytes) -> tuple[int, int, int]:
    data = np.frombuffer(url, np.uint8)
    start = len(url) - len(url.lstrip(bytes(range(_BLANK + 1))))
    end = len(url.rstrip(bytes(range(_BLANK + 1))))
    authority, path = _authority(data, np.int64(start), np.int64(end))
    return int(authority), int(path), end


def _address(host: str) -> str:
    text = host.partition("]")[0].removeprefix("[") if host.startswith("[") else host
    try:
        return f"[{ipaddress.IPv6Address(unquote(text).partition('%')[0]).compressed}]"
    except ValueError:
        return ""


def _name(host: str) -> str:
    if len(host) > _LONGEST_HOST:  # punycode takes quadratic time
        return ""
    text = unicodedata.normalize("NFKC", unquote(host.partition(":")[0])).lower().replace("\u3002", ".")
    text = "".join(character for character in text if unicodedata.category(character) != "Cf")
    if not text or "\ufffd" in text or not _NOT_IN_HOSTS.isdisjoint(text) or any(map(str.isspace, text)):
        return ""
    labels = [label if label.isascii() else f"xn--{label.encode('punycode').decode()}" for label in text.split(".")]
    return ".".join(labels)
