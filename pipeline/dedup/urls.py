"""Canonical URLs: addresses that stand for the same page are written alike, and hashed to 128 bits.

The canonical form goes as far as RFC 3986, section 6.2, and then as far as crawlers go:
- white space at both ends goes, tabs and line breaks go everywhere (as browsers read URLs, WHATWG URL 4.4);
- scheme and host in lower case (6.2.2.1); `https` is written as `http`;
- percent-encoding (6.2.2.2): unreserved characters are decoded, hexadecimal digits are in upper case, and what no URL
  may hold (spaces, `"<>^{|}`, backslashes, backticks, characters beyond ASCII, a % without its digits) is encoded, in
  UTF-8 as RFC 3987, 3.1, maps an IRI. This holds for the host too, in which there is no other IDNA mapping: a host
  beyond ASCII and its punycode form stay two hosts;
- user information, the dots that a host ends in, an empty port, and the ports 80 and 443 of `http` go (6.2.3), and so
  does a leading `www.` where a domain with a dot is left;
- dot segments of the path are resolved (6.2.2.3); slashes and `index.html`, `index.htm`, `index.php` at its end go;
- `;jsessionid=...` goes from the path, and from the query what names a visit and not a page: `utm_*`, `gclid` and
  other identifiers of clicks, identifiers of sessions (TRACKING and TRACKING_PREFIXES, in any case);
- parameters of the query are sorted by their bytes; empty ones and an empty query go;
- the fragment goes, but where it begins with `!`: such a fragment names a page.
Doing so twice changes nothing.
"""

from collections.abc import Iterator
from typing import Final

import numba
import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from numpy.typing import NDArray

from pipeline.dedup.exact import FIRST, SECOND, digest_finish, digest_step
from pipeline.text.arrow import Utf8View, large_strings, utf8_views

# Increase when a URL gets another canonical form or digest.
URLS_VERSION: Final = 1

INDEX_NAMES: Final = ("index.html", "index.htm", "index.php")
TRACKING: Final = (
    "gclid gclsrc gbraid wbraid dclid fbclid msclkid yclid ysclid twclid ttclid igshid igsh mc_cid mc_eid _ga _gl "
    "_hsenc _hsmi mkt_tok vero_id phpsessid jsessionid"
).split()
TRACKING_PREFIXES: Final = ("utm_", "aspsessionid")

_ENCODED, _KEPT, _UNRESERVED = 0, 1, 2
_HEX: Final = np.frombuffer(b"0123456789ABCDEF", np.uint8)


def _kinds() -> NDArray[np.uint8]:
    kinds = np.full(256, _ENCODED, np.uint8)
    kinds[list(b":/?#[]@!$&'()*+,;=")] = _KEPT  # RFC 3986, 2.2
    kinds[list(b"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789-._~")] = _UNRESERVED
    return kinds


def _digits() -> NDArray[np.int8]:
    digits = np.full(256, -1, np.int8)
    for value, digit in enumerate("0123456789abcdef"):
        digits[ord(digit)] = digits[ord(digit.upper())] = value
    return digits


def _lower() -> NDArray[np.uint8]:
    lower = np.arange(256, dtype=np.uint8)
    lower[65:91] += 32
    return lower


def _packed(names: tuple[str, ...] | list[str]) -> tuple[NDArray[np.uint8], NDArray[np.int64]]:
    # names one after another, and where each begins
    return np.frombuffer("".join(names).encode(), np.uint8), np.cumsum([0, *map(len, names)])


_KIND: Final = _kinds()
_DIGIT: Final = _digits()
_LOWER: Final = _lower()
_NAMES, _NAME_BOUNDS = _packed(TRACKING)
_PREFIXES, _PREFIX_BOUNDS = _packed(TRACKING_PREFIXES)
_INDEXES, _INDEX_BOUNDS = _packed(INDEX_NAMES)
_SESSION: Final = np.frombuffer(b";jsessionid=", np.uint8)
_WWW: Final = np.frombuffer(b"www.", np.uint8)
_HTTP: Final = np.frombuffer(b"http", np.uint8)
_HTTPS: Final = np.frombuffer(b"https", np.uint8)

_PERCENT, _HASH, _AND, _SLASH, _COLON, _SEMICOLON, _EQUALS, _QUESTION, _AT, _DOT = (ord(mark) for mark in "%#&/:;=?@.")
_BANG, _OPEN, _CLOSE, _0, _9 = (ord(mark) for mark in "![]09")


@numba.njit(nogil=True, cache=True)
def _find(data: NDArray[np.uint8], begin: int, end: int, byte: int) -> int:
    while begin < end and data[begin] != byte:
        begin += 1
    return begin


@numba.njit(nogil=True, cache=True)
def _begins(data: NDArray[np.uint8], begin: int, end: int, prefix: NDArray[np.uint8]) -> bool:
    # ASCII letters of the data in any case; the prefix is in lower case
    if end - begin < len(prefix):
        return False
    same = True
    for at in range(len(prefix)):
        same &= _LOWER[data[begin + at]] == prefix[at]
    return same


@numba.njit(nogil=True, cache=True)
def _clean(data: NDArray[np.uint8], begin: int, end: int, url: NDArray[np.uint8]) -> int:
    """Copy a URL without white space at its ends, tabs and line breaks; its length."""
    while begin < end and data[begin] <= 32:
        begin += 1
    while begin < end and data[end - 1] <= 32:
        end -= 1
    length = 0
    for at in range(begin, end):
        byte = data[at]
        url[length] = byte
        length += byte != 9 and byte != 10 and byte != 13
    return length


@numba.njit(nogil=True, cache=True)
def _encode(byte: int, out: NDArray[np.uint8], at: int) -> int:
    out[at] = _PERCENT
    out[at + 1] = _HEX[byte >> 4]
    out[at + 2] = _HEX[byte & 15]
    return at + 3


@numba.njit(nogil=True, cache=True)
def _normalise(url: NDArray[np.uint8], begin: int, end: int, out: NDArray[np.uint8], at: int) -> int:
    """Write url[begin:end] to `out` from `at` with normalised percent-encoding; the end of what was written."""
    while begin < end:
        byte = int(url[begin])
        begin += 1
        if _KIND[byte] != _ENCODED:
            out[at] = byte
            at += 1
            continue
        if byte == _PERCENT and begin + 1 < end and _DIGIT[url[begin]] >= 0 and _DIGIT[url[begin + 1]] >= 0:
            byte = int(_DIGIT[url[begin]]) * 16 + int(_DIGIT[url[begin + 1]])
            begin += 2
            if _KIND[byte] == _UNRESERVED:
                out[at] = byte
                at += 1
                continue
        at = _encode(byte, out, at)
    return at


@numba.njit(nogil=True, cache=True)
def _scheme_end(url: NDArray[np.uint8], length: int) -> int:
    """Where `://` follows a scheme, or -1."""
    at = 0
    while at < length:
        byte = _LOWER[url[at]]
        letter = 97 <= byte <= 122
        if not (letter or (at > 0 and (_0 <= byte <= _9 or byte == 43 or byte == 45 or byte == _DOT))):
            break
        at += 1
    if at == 0 or at + 2 >= length or url[at] != _COLON or url[at + 1] != _SLASH or url[at + 2] != _SLASH:
        return -1
    return at


@numba.njit(nogil=True, cache=True)
def _scheme(url: NDArray[np.uint8], end: int, out: NDArray[np.uint8], at: int) -> int:
    if end == len(_HTTPS) and _begins(url, 0, end, _HTTPS):
        end -= 1
    for position in range(end):
        out[at + position] = _LOWER[url[position]]
    at += end
    out[at] = _COLON
    out[at + 1] = out[at + 2] = _SLASH
    return at + 3


@numba.njit(nogil=True, cache=True)
def _host(url: NDArray[np.uint8], begin: int, end: int, out: NDArray[np.uint8], at: int) -> int:
    """Write the host in url[begin:end]; `at` where none is left."""
    written = _normalise(url, begin, end, out, at)
    for position in range(at, written):
        # The letters of %C3 stay in upper case.
        if not (
            (position > at and out[position - 1] == _PERCENT) or (position > at + 1 and out[position - 2] == _PERCENT)
        ):
            out[position] = _LOWER[out[position]]
    while written > at and out[written - 1] == _DOT:
        written -= 1
    host = at
    while _begins(out, host, written, _WWW) and _find(out, host + 4, written, _DOT) < written:
        host += 4
    for position in range(host, written):
        out[at + position - host] = out[position]
    return at + written - host


@numba.njit(nogil=True, cache=True)
def _authority(url: NDArray[np.uint8], begin: int, end: int, web: bool, out: NDArray[np.uint8], at: int) -> int:
    """Write host and port; -1 where there is no host, or the port is no number."""
    for position in range(end - 1, begin - 1, -1):
        if url[position] == _AT:
            begin = position + 1
            break
    host_end = end
    if begin < end and url[begin] == _OPEN:
        host_end = _find(url, begin, end, _CLOSE) + 1
        if host_end > end:
            return -1
    else:
        host_end = _find(url, begin, end, _COLON)
    if host_end < end and url[host_end] != _COLON:
        return -1
    for position in range(host_end + 1, end):
        if not _0 <= url[position] <= _9:
            return -1
    written = _host(url, begin, host_end, out, at)
    if written == at:
        return -1
    digits = end - host_end - 1
    if digits <= 0:
        return written
    port = url[host_end + 1 : end]
    if web and digits == 2 and port[0] == 56 and port[1] == 48:  # 80
        return written
    if web and digits == 3 and port[0] == 52 and port[1] == 52 and port[2] == 51:  # 443
        return written
    for position in range(host_end, end):
        out[written] = url[position]
        written += 1
    return written


@numba.njit(nogil=True, cache=True)
def _drop_sessions(out: NDArray[np.uint8], begin: int, end: int) -> int:
    """Take `;jsessionid=...` out of a segment; its new end."""
    written = begin
    at = begin
    while at < end:
        if out[at] == _SEMICOLON and _begins(out, at, end, _SESSION):
            at = _find(out, at + 1, end, _SEMICOLON)
        else:
            out[written] = out[at]
            written += 1
            at += 1
    return written


@numba.njit(nogil=True, cache=True)
def _drop_segment(out: NDArray[np.uint8], begin: int, end: int) -> int:
    """The end without the last segment and the slash before it."""
    while end > begin:
        end -= 1
        if out[end] == _SLASH:
            break
    return end


@numba.njit(nogil=True, cache=True)
def _is_index(out: NDArray[np.uint8], begin: int, end: int) -> bool:
    for number in range(len(_INDEX_BOUNDS) - 1):
        name = _INDEXES[_INDEX_BOUNDS[number] : _INDEX_BOUNDS[number + 1]]
        if end - begin == len(name):
            same = True
            for at in range(len(name)):
                same &= out[begin + at] == name[at]
            if same:
                return True
    return False


@numba.njit(nogil=True, cache=True)
def _path(url: NDArray[np.uint8], begin: int, end: int, out: NDArray[np.uint8], at: int) -> int:
    """Write the path in url[begin:end], which is empty or begins with a slash."""
    written = at
    while begin < end:
        segment_end = _find(url, begin + 1, end, _SLASH)
        out[written] = _SLASH
        segment = written + 1
        last = _drop_sessions(out, segment, _normalise(url, begin + 1, segment_end, out, segment))
        begin = segment_end
        if last - segment == 1 and out[segment] == _DOT:
            last = written
        elif last - segment == 2 and out[segment] == _DOT and out[segment + 1] == _DOT:
            last = _drop_segment(out, at, written)
        written = last
    while written > at:
        slash = _drop_segment(out, at, written)
        if slash + 1 < written and not _is_index(out, slash + 1, written):
            break
        written = slash
    return written


@numba.njit(nogil=True, cache=True)
def _is_tracking(params: NDArray[np.uint8], begin: int, end: int) -> bool:
    key_end = _find(params, begin, end, _EQUALS)
    for number in range(len(_PREFIX_BOUNDS) - 1):
        if _begins(params, begin, key_end, _PREFIXES[_PREFIX_BOUNDS[number] : _PREFIX_BOUNDS[number + 1]]):
            return True
    for number in range(len(_NAME_BOUNDS) - 1):
        name = _NAMES[_NAME_BOUNDS[number] : _NAME_BOUNDS[number + 1]]
        if key_end - begin == len(name) and _begins(params, begin, key_end, name):
            return True
    return False


@numba.njit(nogil=True, cache=True)
def _less(params: NDArray[np.uint8], bounds: NDArray[np.int64], left: int, right: int) -> bool:
    at, other = bounds[left, 0], bounds[right, 0]
    end, other_end = bounds[left, 1], bounds[right, 1]
    while at < end and other < other_end:
        if params[at] != params[other]:
            return params[at] < params[other]
        at += 1
        other += 1
    return end - at < other_end - other


@numba.njit(nogil=True, cache=True)
def _swap(bounds: NDArray[np.int64], left: int, right: int) -> None:
    for side in range(2):
        bounds[left, side], bounds[right, side] = bounds[right, side], bounds[left, side]


@numba.njit(nogil=True, cache=True)
def _sink(params: NDArray[np.uint8], bounds: NDArray[np.int64], root: int, count: int) -> None:
    while 2 * root + 1 < count:
        child = 2 * root + 1
        if child + 1 < count and _less(params, bounds, child, child + 1):
            child += 1
        if not _less(params, bounds, root, child):
            return
        _swap(bounds, root, child)
        root = child


@numba.njit(nogil=True, cache=True)
def _sort(params: NDArray[np.uint8], bounds: NDArray[np.int64], count: int) -> None:
    """Heap sort: a URL may hold any number of parameters."""
    for root in range(count // 2 - 1, -1, -1):
        _sink(params, bounds, root, count)
    for last in range(count - 1, 0, -1):
        _swap(bounds, 0, last)
        _sink(params, bounds, 0, last)


@numba.njit(nogil=True, cache=True)
def _query(
    url: NDArray[np.uint8],
    begin: int,
    end: int,
    params: NDArray[np.uint8],
    bounds: NDArray[np.int64],
    out: NDArray[np.uint8],
    at: int,
) -> int:
    """Write the query in url[begin:end] with its question mark, or nothing."""
    count = 0
    written = 0
    while begin < end:
        param_end = _find(url, begin, end, _AND)
        param = written
        written = _normalise(url, begin, param_end, params, param)
        begin = param_end + 1
        if written == param or _is_tracking(params, param, written):
            written = param
            continue
        bounds[count, 0] = param
        bounds[count, 1] = written
        count += 1
    _sort(params, bounds, count)
    for number in range(count):
        out[at] = _AND if number else _QUESTION
        at += 1
        for position in range(bounds[number, 0], bounds[number, 1]):
            out[at] = params[position]
            at += 1
    return at


@numba.njit(nogil=True, cache=True)
def _canonical(
    url: NDArray[np.uint8],
    length: int,
    params: NDArray[np.uint8],
    bounds: NDArray[np.int64],
    out: NDArray[np.uint8],
    at: int,
) -> int:
    """Write the canonical form of url[:length] to `out` from `at`; its end, or -1 where it is no URL with a host."""
    scheme_end = _scheme_end(url, length)
    if scheme_end < 0:
        return -1
    scheme = at
    at = _scheme(url, scheme_end, out, scheme)
    web = at - scheme == len(_HTTP) + 3 and _begins(out, scheme, at, _HTTP)
    fragment = _find(url, scheme_end, length, _HASH)
    query = _find(url, scheme_end, fragment, _QUESTION)
    path = _find(url, scheme_end + 3, query, _SLASH)
    at = _authority(url, scheme_end + 3, path, web, out, at)
    if at < 0:
        return -1
    at = _path(url, path, query, out, at)
    at = _query(url, query + 1, fragment, params, bounds, out, at)
    if fragment + 2 < length and url[fragment + 1] == _BANG:
        at = _normalise(url, fragment, length, out, at)
    return at


@numba.njit(nogil=True, cache=True)
def _canonical_all(
    data: NDArray[np.uint8],
    starts: NDArray[np.int64],
    ends: NDArray[np.int64],
    offsets: NDArray[np.int64],
    valid: NDArray[np.bool_],
    out: NDArray[np.uint8],
) -> None:
    longest = np.int64(0)
    for row in range(len(starts)):
        longest = max(longest, ends[row] - starts[row])
    url = np.empty(longest, np.uint8)
    params = np.empty(3 * longest, np.uint8)
    bounds = np.empty((longest // 2 + 1, 2), np.int64)
    at = 0
    offsets[0] = 0
    for row in range(len(starts)):
        length = _clean(data, starts[row], ends[row], url)
        end = _canonical(url, length, params, bounds, out, at)
        valid[row] = end >= 0
        at = max(at, end)
        offsets[row + 1] = at


@numba.njit(nogil=True, cache=True)
def _digest_all(
    offsets: NDArray[np.int64], valid: NDArray[np.bool_], data: NDArray[np.uint8], digests: NDArray[np.uint64]
) -> None:
    for row in range(len(valid)):
        first = FIRST
        second = SECOND
        at = offsets[row]
        end = offsets[row + 1]
        if not valid[row]:
            digests[row, 0] = digests[row, 1] = 0
            continue
        length = end - at
        while at < end:
            value = np.uint64(0)
            for position in range(at, min(at + 8, end)):
                value = (value << np.uint64(8)) | np.uint64(data[position])
            first, second = digest_step(first, second, value)
            at += 8
        digests[row, 0] = digest_finish(first, length)
        digests[row, 1] = digest_finish(second ^ first, length)


_ROWS: Final = 4096  # canonicalised at a time, so that the forms stay in the cache


def _parts(view: Utf8View) -> Iterator[tuple[NDArray[np.int64], NDArray[np.bool_], NDArray[np.uint8]]]:
    """Offsets (rows + 1,), validity (rows,) and bytes of canonical forms, some rows at a time."""
    for row in range(0, len(view.starts), _ROWS):
        starts, ends = view.starts[row : row + _ROWS], view.ends[row : row + _ROWS]
        offsets = np.empty(len(starts) + 1, np.int64)
        valid = np.empty(len(starts), np.bool_)
        out = np.empty(3 * int((ends - starts).sum()) + 1, np.uint8)
        _canonical_all(view.data, starts, ends, offsets, valid, out)
        yield offsets, valid, out


def url_digests(urls: pa.Array | pa.ChunkedArray) -> tuple[NDArray[np.uint64], NDArray[np.bool_]]:
    """128-bit digests (n, 2) of canonical URLs, and whether each is a URL (n,): it has a scheme, `://` and a host.

    A null, and what is no such URL, has the digest 0. The digest is not keyed.
    Raises TypeError where `urls` is neither string nor large_string.
    """
    digests = np.empty((len(urls), 2), np.uint64)
    found = np.empty(len(urls), np.bool_)
    row = 0
    for view in utf8_views(urls):
        for offsets, valid, out in _parts(view):
            rows = slice(row, row + len(valid))
            _digest_all(offsets, valid, out, digests[rows])
            found[rows] = valid
            row += len(valid)
    return digests, found


def canonical_urls(urls: pa.Array | pa.ChunkedArray) -> pa.Array:
    """Canonical forms as large_string, in ASCII; null for a null, and for what is no URL with a host.

    Raises TypeError where `urls` is neither string nor large_string.
    """
    parts = [
        pc.if_else(pa.array(valid), large_strings(offsets, out), None)
        for view in utf8_views(urls)
        for offsets, valid, out in _parts(view)
    ]
    return pa.concat_arrays(parts) if parts else pa.array([], pa.large_string())
