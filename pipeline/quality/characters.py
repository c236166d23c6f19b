"""What the quality rules know of each code point: a table of marks, and the count of marks in a line.

The table is derived from Python's own Unicode database and codecs when it is first used. Chinese characters are told
apart by the two national sets of the time when simplified and traditional text had one each: GB 2312 (simplified, 1980)
and Big5 (traditional, 1984).

Garbled characters are
- the replacement character U+FFFD, private use, surrogates, and controls that are not white space;
- UTF-8 that was read as Latin-1 or Windows-1252: a letter U+00C2 to U+00F4 with as many characters after it as the byte
  of that number announces, each the image of a continuation byte ("Ã©", "â€™", "ï¼Œ"), but a no-break space and a
  closing guillemet, which French puts after any letter;
- UTF-8 that was read as GBK: three characters whose six bytes in GBK are two characters of three bytes in UTF-8
  ("涓枃鏂", and "锟斤拷", which is U+FFFD twice). In real Chinese text that is an accident;
- the characters 烫 or 屯 three times or more, which are uninitialised memory read as GBK.
"""

import unicodedata
from collections.abc import Callable
from functools import cache
from typing import Final, NamedTuple

import numba
import numpy as np
from numpy.typing import NDArray

from pipeline.quality.fineweb import TERMINAL_MARKS
from pipeline.text.scan import decode

UPPER: Final = 1  # as str.isupper
DIGIT: Final = 2  # as str.isdigit
DECIMAL: Final = 4  # as str.isdecimal, which is \d
WORDLIKE: Final = 8  # as str.isalnum, and _, which is \w
PUNCTUATION: Final = 16  # general category P
SIMPLIFIED: Final = 32  # ideograph in GB 2312 and not in Big5
TRADITIONAL: Final = 64  # ideograph in Big5 and not in GB 2312
RARE: Final = 128  # ideograph in neither
FUNCTION: Final = 256  # function character of Chinese
TERMINAL: Final = 512  # ends a sentence to FineWeb
GARBLED: Final = 1024  # by itself
CONTINUES: Final = 2048  # image of a UTF-8 continuation byte in Latin-1 or Windows-1252
_GBK_A: Final = 4096  # first, second and third character of UTF-8 that was read as GBK
_GBK_B: Final = 8192
_GBK_C: Final = 16384
_FILLER: Final = 32768

# Function characters of modern Chinese, simplified and traditional, and of literary Chinese and Cantonese.
FUNCTION_CHARACTERS: Final = (
    "的了是在不和有这這那也就都而与與及为為以被把对對从從但或到着著之于於其个個们們我你他她它会會要能可上中来來去说說"
    "者乎矣焉哉曰乃則则兮嘅係喺咗唔啲佢冇嗰"
)
_POINTS: Final = 0x110000
_ASSIGNED: Final = 0x33480  # above it: tags, variation selectors and private use
_IDEOGRAPHS: Final = ((0x3400, 0x4DC0), (0x4E00, 0xA000), (0xF900, 0xFB00), (0x20000, 0x33480))

_NO_BREAK_SPACE: Final = 0xA0
_CLOSING_GUILLEMET: Final = 0xBB

_FIELD_BITS: Final = 12
_FIELD: Final = (1 << _FIELD_BITS) - 1
_BLOCK: Final = _FIELD  # bytes whose counts fit the fields
_HIGH: Final = 4  # field of the bytes that are not ASCII


def _two_byte_characters(codec: str) -> dict[int, int]:
    """Each character of two bytes of a codec, as a code point, with its bytes as one number."""
    pairs = np.stack(np.meshgrid(np.arange(0x81, 0xFF), np.arange(0x40, 0xFF), indexing="ij"), -1).reshape(-1, 2)
    lines = np.concatenate([pairs, np.full((len(pairs), 1), 0x0A)], 1).astype(np.uint8).tobytes()
    decoded = lines.decode(codec, "ignore").split("\n")[:-1]
    numbers = (pairs[:, 0] << 8 | pairs[:, 1]).tolist()
    found = zip(decoded, numbers, strict=True)
    return {ord(text): number for text, number in found if len(text) == 1 and text > "\x7f"}


def _gbk_role(first: int, second: int) -> int:
    """The place that two bytes can have in two UTF-8 characters of three bytes each: lead, continuation, ..."""
    leads, continues = [0xE2 <= byte <= 0xEF for byte in (first, second)], [byte < 0xC0 for byte in (first, second)]
    if leads[0] and continues[1] and second >= 0x80:
        return _GBK_A
    if continues[0] and leads[1]:
        return _GBK_B
    return _GBK_C if continues[0] and continues[1] and second >= 0x80 else 0


def _by_method(points: int, method: Callable[[str], bool]) -> NDArray[np.uint16]:
    return np.fromiter(map(method, map(chr, range(points))), np.uint16, points)


@cache
def character_marks() -> NDArray[np.uint16]:
    """The marks of all 0x110000 code points, read-only. Takes some tenths of a second when first called."""
    marks = np.zeros(_POINTS, np.uint16)
    known = marks[:_ASSIGNED]
    for mark, method in ((UPPER, str.isupper), (DIGIT, str.isdigit), (DECIMAL, str.isdecimal), (WORDLIKE, str.isalnum)):
        known |= _by_method(_ASSIGNED, method) * np.uint16(mark)
    marks[ord("_")] |= WORDLIKE
    categories = np.frombuffer("".join(map(unicodedata.category, map(chr, range(_ASSIGNED)))).encode(), "S2")
    known[categories.astype("S1") == b"P"] |= PUNCTUATION
    controls = (categories == b"Cc") & (_by_method(_ASSIGNED, str.isspace) == 0)
    known[controls | np.isin(categories, (b"Co", b"Cs"))] |= GARBLED
    marks[0xF0000:] |= GARBLED  # private use to the end
    marks[0xFFFD] |= GARBLED
    ideographs, in_gb2312, in_big5 = (np.zeros(_POINTS, bool) for _ in range(3))
    for start, stop in _IDEOGRAPHS:
        ideographs[start:stop] = True
    in_gb2312[[*_two_byte_characters("gb2312")]] = True
    in_big5[[*_two_byte_characters("big5")]] = True
    marks[ideographs & in_gb2312 & ~in_big5] |= SIMPLIFIED
    marks[ideographs & ~in_gb2312 & in_big5] |= TRADITIONAL
    marks[ideographs & ~in_gb2312 & ~in_big5] |= RARE
    marks[[*map(ord, FUNCTION_CHARACTERS)]] |= FUNCTION
    marks[[*map(ord, TERMINAL_MARKS)]] |= TERMINAL
    images = bytes(range(0x80, 0xC0)).decode("cp1252", "ignore")
    marks[[*range(0x80, 0xC0), *map(ord, images)]] |= CONTINUES
    for point, number in _two_byte_characters("gbk").items():
        marks[point] |= _gbk_role(number >> 8, number & 0xFF)
    marks[[ord("烫"), ord("屯")]] |= _FILLER
    marks.flags.writeable = False
    return marks


@cache
def ascii_marks() -> NDArray[np.uint64]:
    """(256,) what each byte adds to the fields of a count: upper, digit, punctuation, garbled, not ASCII."""
    fields = [(character_marks()[:256] & mark != 0).astype(np.uint64) for mark in (UPPER, DIGIT, PUNCTUATION, GARBLED)]
    high = np.arange(256) >= 0x80
    for field in fields:
        field[high] = 0
    packed = sum(field << np.uint64(n * _FIELD_BITS) for n, field in enumerate([*fields, high.astype(np.uint64)]))
    packed.flags.writeable = False
    return packed


class Marks(NamedTuple):
    """The tables that the marks of a text are counted by."""

    points: NDArray[np.uint16]
    bytes: NDArray[np.uint64]


def make_marks() -> Marks:
    """The tables of `character_marks` and `ascii_marks`."""
    return Marks(character_marks(), ascii_marks())


# Entries of the counts of a line.
UPPER_COUNT: Final = 0
DIGIT_COUNT: Final = 1
PUNCTUATION_COUNT: Final = 2
GARBLED_COUNT: Final = 3
SIMPLIFIED_COUNT: Final = 4
TRADITIONAL_COUNT: Final = 5
RARE_COUNT: Final = 6
FUNCTION_COUNT: Final = 7
MARK_COUNTS: Final = 8


@numba.njit(nogil=True, cache=True)
def count_marks(
    data: NDArray[np.uint8], begin: np.int64, end: np.int64, marks: Marks, counts: NDArray[np.int64]
) -> None:
    """Count the marked characters of data[begin:end], a line or part of one, into `counts` (MARK_COUNTS)."""
    for count in range(MARK_COUNTS):
        counts[count] = 0
    weights = marks.bytes
    high = np.uint64(0)
    at = begin
    while at < end:
        stop = min(end, at + _BLOCK)
        packed = np.uint64(0)
        for byte in range(at, stop):
            packed += weights[data[byte]]
        for field in range(_HIGH):
            counts[field] += np.int64((packed >> np.uint64(field * _FIELD_BITS)) & np.uint64(_FIELD))
        high |= packed >> np.uint64(_HIGH * _FIELD_BITS)
        at = stop
    if high:
        _count_wide(data, begin, end, marks.points, counts)


@numba.njit(nogil=True, cache=True)
def _count_wide(
    data: NDArray[np.uint8], begin: np.int64, end: np.int64, points: NDArray[np.uint16], counts: NDArray[np.int64]
) -> None:
    """Add what is not ASCII to `counts`."""
    upper = digit = punctuation = garbled = simplified = traditional = rare = function = np.int64(0)
    missing = pending = np.int64(
        0
    )  # continuations to come; characters of the sequence, but those garbled by themselves
    gbk = np.int64(0)  # characters read of UTF-8 as GBK
    filler = fillers = np.int64(0)  # the character that is repeated, and how often so far
    previous = np.int64(0)
    at = begin
    while at < end:
        if data[at] < 0x80:
            missing = gbk = filler = np.int64(0)
            at += 1
            continue
        point, at = decode(data, at, end)
        mark = np.int64(points[point])
        upper += mark & UPPER
        digit += mark >> 1 & 1
        punctuation += mark >> 4 & 1
        simplified += mark >> 5 & 1
        traditional += mark >> 6 & 1
        rare += mark >> 7 & 1
        function += mark >> 8 & 1
        alone = mark >> 10 & 1
        garbled += alone
        leads = np.int64(0xC2) <= point <= np.int64(0xF4)
        if not (missing or gbk or filler or leads or mark & (_GBK_A | _FILLER)):
            continue
        if missing and mark & CONTINUES and not (previous == _NO_BREAK_SPACE and point == _CLOSING_GUILLEMET):
            missing -= 1
            pending += 1 - alone
            garbled += pending * (missing == 0)
        else:
            missing = (1 + (point >= 0xE0) + (point >= 0xF0)) * np.int64(leads)
            pending = np.int64(leads)
        previous = point
        if gbk == 2 and mark & _GBK_C:
            garbled += 3
            gbk = np.int64(0)
        else:
            gbk = np.int64(2) if gbk == 1 and mark & _GBK_B else np.int64(mark & _GBK_A != 0)
        if mark & _FILLER:
            fillers = fillers + 1 if point == filler else np.int64(1)
            garbled += 3 * (fillers == 3) + (fillers > 3)
            filler = point
        else:
            filler = np.int64(0)
    counts[UPPER_COUNT] += upper
    counts[DIGIT_COUNT] += digit
    counts[PUNCTUATION_COUNT] += punctuation
    counts[GARBLED_COUNT] += garbled
    counts[SIMPLIFIED_COUNT] += simplified
    counts[TRADITIONAL_COUNT] += traditional
    counts[RARE_COUNT] += rare
    counts[FUNCTION_COUNT] += function
