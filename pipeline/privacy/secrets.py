"""API keys, tokens, private keys and passwords.

Three forms: what begins with the prefix of a provider; a private key in PEM; and a value that looks random behind a
name such as `password` or `api_key` and `=` or `:`. Of the last, and of `scheme://user:password@host`, only the value
is the match, so that the text around it stays readable.
"""

from typing import Final, NamedTuple

import numba
import numpy as np
from numpy.typing import NDArray

from pipeline.privacy.characters import ALNUM, DIGIT, LETTER, TOKEN, UPPER, VALUE, ascii_before, lower

DOTS: Final = 1  # besides base64url, dots may be part of the token
# Prefix, place (from 1 on) of the rare byte by which it is found, flag of what follows, shortest, longest, whether dots
# belong to it. Formats: GitHub, "About authentication to GitHub" and the change log of 2021-04-05; GitLab, "Token
# overview"; AWS IAM, "Unique identifiers"; Slack, "Token types"; Google Cloud, "API keys"; Stripe, "API keys"; npm,
# PyPI (a macaroon) and Hugging Face (34 letters) documentation; SendGrid, DigitalOcean, Shopify, Docker likewise.
PREFIXES: Final = (
    ("AKIA", 1, UPPER, 16, 16, 0),
    ("ASIA", 1, UPPER, 16, 16, 0),
    ("ghp_", 3, ALNUM, 36, 251, 0),
    ("gho_", 3, ALNUM, 36, 251, 0),
    ("ghu_", 3, ALNUM, 36, 251, 0),
    ("ghs_", 3, ALNUM, 36, 251, 0),
    ("ghr_", 3, ALNUM, 36, 251, 0),
    ("github_pat_", 6, TOKEN, 36, 255, 0),
    ("glpat-", 5, TOKEN, 20, 255, 0),
    ("gldt-", 4, TOKEN, 20, 255, 0),
    ("glrt-", 4, TOKEN, 20, 255, 0),
    ("xoxa-", 4, TOKEN, 10, 255, 0),
    ("xoxb-", 4, TOKEN, 10, 255, 0),
    ("xoxe-", 4, TOKEN, 10, 255, 0),
    ("xoxp-", 4, TOKEN, 10, 255, 0),
    ("xoxr-", 4, TOKEN, 10, 255, 0),
    ("xoxs-", 4, TOKEN, 10, 255, 0),
    ("xapp-", 4, TOKEN, 10, 255, 0),
    ("AIza", 2, TOKEN, 35, 35, 0),
    ("sk-", 2, TOKEN, 20, 255, 0),  # OpenAI, Anthropic (sk-ant-) and those that copied them
    ("sk_live_", 2, ALNUM, 16, 251, 0),
    ("sk_test_", 2, ALNUM, 16, 251, 0),
    ("rk_live_", 2, ALNUM, 16, 251, 0),
    ("rk_test_", 2, ALNUM, 16, 251, 0),
    ("npm_", 3, ALNUM, 36, 36, 0),
    ("pypi-", 4, TOKEN, 50, 1024, 0),
    ("hf_", 2, ALNUM, 30, 40, 0),
    ("SG.", 1, TOKEN, 66, 66, DOTS),
    ("dop_v1_", 3, ALNUM, 64, 64, 0),
    ("shpat_", 5, ALNUM, 32, 32, 0),
    ("dckr_pat_", 4, TOKEN, 27, 40, 0),
)
# The last part of the name of a value that is secret, without underscores and dashes, in lower case.
NAMES: Final = (
    "password passwd passphrase pwd secret secretkey clientsecret apikey apitoken accesskey accesstoken authtoken "
    "token privatekey secretaccesskey credential credentials authkey encryptionkey signingkey accesskeysecret bearer"
)
LONGEST_NAME: Final = 40
SHORTEST_QUOTED: Final = 8
SHORTEST_BARE: Final = 16
LONGEST_VALUE: Final = 256
# Shannon's entropy, bits a character: English words have 2.5 to 3.2 at these lengths, random hexadecimal 3.3 to 4.
QUOTED_ENTROPY: Final = 3.0
BARE_ENTROPY: Final = 3.3
TOKEN_ENTROPY: Final = 3.0
LONGEST_PEM: Final = 1 << 16


class SecretTables(NamedTuple):
    """PREFIXES and NAMES as bytes."""

    text: NDArray[np.uint8]  # of all prefixes
    offsets: NDArray[np.int64]  # (prefixes + 1,)
    rules: NDArray[np.int64]  # (prefixes, 5): place of the rare byte, flag, shortest, longest, dots
    first: NDArray[np.int64]  # (257,): prefixes by their rare byte
    names: NDArray[np.uint8]
    name_offsets: NDArray[np.int64]  # (names + 1,)


def secret_tables() -> SecretTables:
    """The tables of this module."""
    prefixes = sorted(PREFIXES, key=lambda rule: (rule[0][rule[1]], rule[0]))
    names = sorted(NAMES.split(), key=lambda name: (-len(name), name))
    return SecretTables(
        np.frombuffer("".join(rule[0] for rule in prefixes).encode(), np.uint8),
        np.cumsum([0, *(len(rule[0]) for rule in prefixes)]),
        np.array([rule[1:] for rule in prefixes], np.int64),
        np.searchsorted([ord(rule[0][rule[1]]) for rule in prefixes], np.arange(257)).astype(np.int64),
        np.frombuffer("".join(names).encode(), np.uint8),
        np.cumsum([0, *(len(name) for name in names)]),
    )


TOKEN_PAIR: Final = 1
NAME_PAIR: Final = 2


def pairs() -> NDArray[np.uint8]:
    """What two neighbouring bytes may be, (256, 256): the rare byte of a prefix and the one before it, TOKEN_PAIR; the
    last two letters of a name of NAMES, NAME_PAIR."""
    table = np.zeros((256, 256), np.uint8)
    for prefix, place, *_ in (*PREFIXES, ("eyJ", 2)):
        table[ord(prefix[place - 1]), ord(prefix[place])] |= TOKEN_PAIR
    for name in NAMES.split():
        for first in (name[-2], name[-2].upper()):
            for second in (name[-1], name[-1].upper()):
                table[ord(first), ord(second)] |= NAME_PAIR
    return table


def token_bytes() -> bytes:
    """The rare bytes by which tokens are found: of PREFIXES, of a JWT (eyJ) and of PEM (a dash)."""
    return bytes(sorted({ord(prefix[place]) for prefix, place, *_ in PREFIXES} | {*b"J-"}))


@numba.njit(nogil=True, cache=True)
def _says(data: NDArray[np.uint8], at: np.int64, end: np.int64, text: NDArray[np.uint8] | bytes) -> bool | np.bool_:
    if at < 0 or at + len(text) > end:
        return False
    for place in range(len(text)):  # noqa: SIM110
        if data[at + place] != text[place]:
            return False
    return True


@numba.njit(nogil=True, cache=True)
def entropy(data: NDArray[np.uint8], begin: np.int64, end: np.int64, counts: NDArray[np.int64]) -> float:
    """Shannon's entropy of data[begin:end] in bits a byte; `counts` (256,) are zero before and after."""
    size = end - begin
    for position in range(begin, end):
        counts[data[position]] += 1
    total = 0.0
    for position in range(begin, end):
        count = counts[data[position]]
        if count:
            total -= count / size * np.log2(count / size)
            counts[data[position]] = 0
    return total


@numba.njit(nogil=True, cache=True)
def _run(
    data: NDArray[np.uint8], at: np.int64, end: np.int64, flags: NDArray[np.uint8], flag: np.int64, most: np.int64
) -> np.int64:
    while at < end and most > 0 and flags[data[at]] & flag:
        at += 1
        most -= 1
    return at


@numba.njit(nogil=True, cache=True)
def _mixed(data: NDArray[np.uint8], begin: np.int64, end: np.int64, flags: NDArray[np.uint8]) -> bool | np.bool_:
    """Whether both letters and digits are in data[begin:end]."""
    seen = np.int64(0)
    for position in range(begin, end):
        seen |= np.int64(flags[data[position]])
    return seen & DIGIT != 0 and seen & LETTER != 0


@numba.njit(nogil=True, cache=True)
def _stands_alone(data: NDArray[np.uint8], start: np.int64, at: np.int64, flags: NDArray[np.uint8]) -> bool | np.bool_:
    return at == start or flags[data[at - 1]] & TOKEN == 0


@numba.njit(nogil=True, cache=True)
def _prefixed(
    data: NDArray[np.uint8],
    start: np.int64,
    at: np.int64,
    end: np.int64,
    flags: NDArray[np.uint8],
    tables: SecretTables,
    counts: NDArray[np.int64],
) -> tuple[np.int64, np.int64]:
    for rule in range(tables.first[data[at]], tables.first[data[at] + 1]):
        place, flag, shortest, longest, dots = tables.rules[rule]
        begin = at - place
        text = tables.text[tables.offsets[rule] : tables.offsets[rule + 1]]
        if begin < start or not _says(data, begin, end, text) or not _stands_alone(data, start, begin, flags):
            continue
        body = begin + len(text)
        stop = _run(data, body, end, flags, flag, longest + 1)
        while dots and stop < end and data[stop] == 0x2E and stop - body <= longest:
            stop = _run(data, stop + 1, end, flags, flag, longest + 1)
        while stop > body and flags[data[stop - 1]] & ALNUM == 0:
            stop -= 1
        if not shortest <= stop - body <= longest or (stop < end and flags[data[stop]] & ALNUM):
            continue
        if _mixed(data, body, stop, flags) and entropy(data, body, stop, counts) >= TOKEN_ENTROPY:
            return begin, stop
    return at, np.int64(-1)


@numba.njit(nogil=True, cache=True)
def _jwt(
    data: NDArray[np.uint8], start: np.int64, at: np.int64, end: np.int64, flags: NDArray[np.uint8]
) -> tuple[np.int64, np.int64]:
    """A JSON Web Token (RFC 7519) by the J of its eyJ: two parts of JSON in base64url, and a signature or none."""
    begin = at - 2
    if begin < start or data[begin] != 0x65 or data[begin + 1] != 0x79 or not _stands_alone(data, start, begin, flags):
        return at, np.int64(-1)
    stop = _run(data, begin, end, flags, np.int64(TOKEN), np.int64(4096))
    if stop - begin < 12 or stop + 4 > end or data[stop] != 0x2E or data[stop + 1] != 0x65 or data[stop + 2] != 0x79:
        return at, np.int64(-1)
    second = _run(data, stop + 1, end, flags, np.int64(TOKEN), np.int64(16384))
    if second - stop < 8:
        return at, np.int64(-1)
    if second < end and data[second] == 0x2E:
        return begin, max(second, _run(data, second + 1, end, flags, np.int64(TOKEN), np.int64(4096)))
    return begin, second


@numba.njit(nogil=True, cache=True)
def _pem(data: NDArray[np.uint8], start: np.int64, at: np.int64, end: np.int64) -> tuple[np.int64, np.int64]:
    """A private key in PEM (RFC 7468) by the first of its dashes; one whose end is cut off goes on as far as base64."""
    if (at > start and data[at - 1] == 0x2D) or not _says(data, at, end, b"-----BEGIN "):
        return at, np.int64(-1)
    position = at + 11
    while position < end and position < at + 48 and (0x41 <= data[position] <= 0x5A or data[position] == 0x20):
        position += 1
    if not _says(data, position - 11, end, b"PRIVATE KEY") or not _says(data, position, end, b"-----"):
        return at, np.int64(-1)
    position += 5
    limit = min(end, at + LONGEST_PEM)
    stop = position
    while position < limit:
        byte = data[position]
        if byte == 0x2D and _says(data, position, limit, b"-----END "):
            position += 9
            while position < limit and (0x41 <= data[position] <= 0x5A or data[position] == 0x20):
                position += 1
            return at, position + 5 if _says(data, position, end, b"-----") else position
        # Base64, line ends (also written as \n), and the headers of encrypted keys.
        if not (0x2B <= byte <= 0x3D or 0x41 <= byte <= 0x5C or 0x61 <= byte <= 0x7A or byte in (0x0A, 0x0D, 0x20)):
            break
        position += 1
        if byte != 0x20 and byte != 0x0A and byte != 0x0D:
            stop = position
    return at, stop


@numba.njit(nogil=True, cache=True)
def token(
    data: NDArray[np.uint8],
    start: np.int64,
    at: np.int64,
    end: np.int64,
    flags: NDArray[np.uint8],
    tables: SecretTables,
    counts: NDArray[np.int64],
) -> tuple[np.int64, np.int64]:
    """The token whose rare byte is data[at], as (begin, end); end is -1 where there is none."""
    if data[at] == 0x2D and at + 1 < end and data[at + 1] == 0x2D:
        return _pem(data, start, at, end)
    if data[at] == 0x4A:
        return _jwt(data, start, at, end, flags)
    return _prefixed(data, start, at, end, flags, tables, counts)


@numba.njit(nogil=True, cache=True, inline="always")
def name_end(data: NDArray[np.uint8], start: np.int64, at: np.int64) -> np.int64:
    """Where the name before the `=` or `:` at data[at] ends: before spaces, the colon of `:=`, and a quote."""
    left = at
    while left > start and at - left < 3 and (data[left - 1] == 0x20 or data[left - 1] == 0x3A):
        left -= 1
    if left > start and (data[left - 1] == 0x22 or data[left - 1] == 0x27):
        left -= 1
    return left


@numba.njit(nogil=True, cache=True)
def _is_secret_name(
    data: NDArray[np.uint8], start: np.int64, at: np.int64, flags: NDArray[np.uint8], tables: SecretTables
) -> bool | np.bool_:
    """Whether the name that ends at data[at] ends with one of NAMES, as whole words of it: db_password, apiToken."""
    begin = at
    while begin > start and at - begin < LONGEST_NAME and flags[data[begin - 1]] & TOKEN:
        begin -= 1
    if at - begin < 3:
        return False
    for name in range(len(tables.name_offsets) - 1):
        place, position = tables.name_offsets[name + 1], at
        while place > tables.name_offsets[name] and position > begin:
            byte = np.int64(data[position - 1])
            if byte != 0x2D and byte != 0x5F:
                if lower(byte) != tables.names[place - 1]:
                    break
                place -= 1
            position -= 1
        if place == tables.name_offsets[name]:
            head = np.int64(data[position])
            before = np.int64(data[position - 1]) if position > begin else np.int64(0x5F)
            new_word = flags[before] & ALNUM == 0 or (0x41 <= head <= 0x5A and before >= 0x61)
            if new_word:
                return True
    return False


@numba.njit(nogil=True, cache=True)
def _is_placeholder(data: NDArray[np.uint8], begin: np.int64, end: np.int64) -> bool | np.bool_:
    """Whether a value stands for one that the reader is to put in: <key>, ${KEY}, {{ key }}, your-key, xxxx, ****."""
    for place in range(begin, end):
        position = np.int64(place)
        byte = data[position]
        if byte in (0x3C, 0x3E, 0x7B, 0x7D, 0x2A) or (
            byte == 0x24 and position + 1 < end and data[position + 1] == 0x28
        ):
            return True
        letter = byte | 0x20
        if (
            (letter == 0x79 and _says_folded(data, position, end, b"your"))
            or (letter == 0x65 and _says_folded(data, position, end, b"example"))
            or (letter == 0x78 and _says_folded(data, position, end, b"xxxx"))
            or (letter == 0x63 and _says_folded(data, position, end, b"change"))
            or (letter == 0x70 and _says_folded(data, position, end, b"placeholder"))
        ):
            return True
    return False


@numba.njit(nogil=True, cache=True)
def _says_folded(data: NDArray[np.uint8], at: np.int64, end: np.int64, text: bytes) -> bool | np.bool_:
    if at + len(text) > end:
        return False
    for place in range(len(text)):  # noqa: SIM110
        if lower(np.int64(data[at + place])) != text[place]:
            return False
    return True


@numba.njit(nogil=True, cache=True)
def assignment(
    data: NDArray[np.uint8],
    start: np.int64,
    at: np.int64,
    end: np.int64,
    flags: NDArray[np.uint8],
    tables: SecretTables,
    counts: NDArray[np.int64],
) -> tuple[np.int64, np.int64]:
    """The value behind the `=` or `:` at data[at] where its name is one of a secret and it looks random, or (at, -1).

    In quotes from 8 characters on; without, from 16 on, of letters, digits and + / = _ - only, to a space or the end.
    """
    nothing = at, np.int64(-1)
    left = name_end(data, start, at)
    if left == start or not _is_secret_name(data, start, left, flags, tables):
        return nothing
    right = at + 1
    while right < end and right - at < 4 and (data[right] in (0x20, 0x3D, 0x3E, 0x09)):
        right += 1
    if right >= end:
        return nothing
    quote = data[right]
    if quote == 0x22 or quote == 0x27 or quote == 0x60:
        begin = right + 1
        stop = _run(data, begin, end, flags, np.int64(VALUE), np.int64(LONGEST_VALUE))
        if stop >= end or data[stop] != quote or stop - begin < SHORTEST_QUOTED:
            return nothing
        least = QUOTED_ENTROPY if stop - begin >= 12 else 2.5
    else:
        begin = stop = right
        while (
            stop < end
            and stop - begin < LONGEST_VALUE
            and (flags[data[stop]] & TOKEN or data[stop] in (0x2B, 0x2F, 0x3D))
        ):
            stop += 1
        closed = stop >= end or data[stop] in (0x20, 0x0A, 0x0D, 0x09, 0x26, 0x2C, 0x3B, 0x22, 0x27)
        if not closed or stop - begin < SHORTEST_BARE:
            return nothing
        least = BARE_ENTROPY
    if not _mixed(data, begin, stop, flags) or _is_placeholder(data, begin, stop):
        return nothing
    return (begin, stop) if entropy(data, begin, stop, counts) >= least else nothing


@numba.njit(nogil=True, cache=True)
def url_password(
    data: NDArray[np.uint8], start: np.int64, at: np.int64, end: np.int64, flags: NDArray[np.uint8]
) -> tuple[np.int64, np.int64]:
    """The password before the at sign data[at] in scheme://user:password@host (RFC 3986, 3.2.1), or (at, -1)."""
    nothing = at, np.int64(-1)
    if at + 1 >= end or flags[data[at + 1]] & ALNUM == 0:
        return nothing
    begin = at
    while begin > start and at - begin < 128 and flags[data[begin - 1]] & VALUE:
        if data[begin - 1] == 0x3A or data[begin - 1] == 0x2F or data[begin - 1] == 0x40:
            break
        begin -= 1
    if begin in (start, at) or data[begin - 1] != 58 or _is_placeholder(data, begin, at):
        return nothing
    user = begin - 1
    while user > start and begin - user < 64 and flags[data[user - 1]] & VALUE and data[user - 1] != 0x2F:
        user -= 1
    before, _ = ascii_before(data, start, user)
    if before != 0x2F or user - 3 < start or data[user - 2] != 0x2F or data[user - 3] != 0x3A:
        return nothing
    return begin, at
