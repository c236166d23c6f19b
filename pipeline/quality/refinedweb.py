"""RefinedWeb's rules for lines: what is left of menus, counters and buttons goes, or is cut out of the line.

Source: Penedo et al. 2023, "The RefinedWeb Dataset for Falcon LLM", section 3.1 and appendix G.2. The paper gives the
rules in words and examples; their numbers and lists are those of DCLM (Li et al. 2024, "DataComp-LM", appendix; its
repository, baselines/baselines_configs/dclm_baseline_refinedweb.yaml). Words are those of `pipeline.text.scan`. Two
differences from DCLM's code: a line is judged without the white space around it, and "Read more..." is that text (there
its full stops stand for any character).
"""

from typing import Annotated, ClassVar, Final, NamedTuple

import numba
import numpy as np
import pyarrow as pa
from numpy.typing import NDArray
from pydantic import AfterValidator, Field

from pipeline.quality.characters import DECIMAL, DIGIT_COUNT, UPPER_COUNT, WORDLIKE
from pipeline.quality.rules import RuleSet, threshold
from pipeline.stage import StageConfig
from pipeline.text.scan import decode, word_hashes
from pipeline.text.tables import SPACE

_SOURCE: Final = "Penedo et al. 2023, appendix G.2"
_DCLM: Final = f"{_SOURCE}, as reproduced by DCLM (Li et al. 2024)"

COUNTERS: Final = (
    *("likes", "shares", "comments", "retweets", "reposts", "quotes", "bookmarks", "upvotes", "downvotes"),
    *("downloads", "views", "followers"),
)

# What becomes of a line.
KEPT: Final = 0
REMOVED: Final = 1
CUT: Final = 2  # it stays without a phrase


def _phrase(phrase: str) -> str:
    if not phrase.strip() or phrase != phrase.strip() or "\n" in phrase:
        raise ValueError(f"{phrase!r} cannot be looked for in a line; give text without white space around it")
    return phrase


Int = int | np.int64
Phrase = Annotated[str, AfterValidator(_phrase)]


class RefinedWebLines(StageConfig):
    """Which lines RefinedWeb removes, and what it cuts out of short ones."""

    maximum_uppercase_fraction: float | None = Field(
        default=0.5,
        ge=0,
        le=1,
        allow_inf_nan=False,
        description=f"Most capitals of the characters of a line; null switches the rule off. Default 0.5: {_DCLM}",
    )
    numeric: bool = Field(default=True, description=f"Remove lines of nothing but digits. Source: {_SOURCE}")
    counters: tuple[Phrase, ...] = Field(
        default=COUNTERS,
        description="What is counted in lines that are a counter, such as `3 likes` or `1.2K views`; [] switches the "
        f"rule off. Default: {_DCLM}",
    )
    minimum_words: int | None = Field(
        default=2, ge=0, description=f"Fewest words of a line; null switches the rule off. Default 2: {_SOURCE}"
    )
    short_line_words: int = Field(
        default=10, ge=0, description=f"Most words of a line that phrases are cut out of. Default 10: {_SOURCE}"
    )
    prefixes: tuple[Phrase, ...] = Field(
        default=("sign-in",), description=f"What is cut from the start of short lines. Default: {_SOURCE}"
    )
    suffixes: tuple[Phrase, ...] = Field(
        default=("read more...",), description=f"What is cut from the end of short lines. Default: {_SOURCE}"
    )
    phrases: tuple[Phrase, ...] = Field(
        default=("items in cart",), description=f"What is cut out of short lines anywhere. Default: {_SOURCE}"
    )


class RefinedWeb(RuleSet):
    """RefinedWeb's rule for documents that lose much to its rules for lines, and whether those lines are removed."""

    prefix: ClassVar[str] = "refinedweb"

    maximum_removed_word_fraction: float | None = threshold(
        0.05, "maximum", "refinedweb_removed_word_fraction", f"{_SOURCE}: more than 5 % of the words"
    )
    minimum_kept_lines: float | None = threshold(
        1, "minimum", "refinedweb_kept_lines", f"{_DCLM}: a page without text is none"
    )
    remove_lines: bool = Field(
        default=True,
        description=f"Remove and cut the lines that `annotate.lines.refinedweb` names from the text. Source: {_SOURCE}",
    )


# Groups of phrases, in the order in which they are packed.
_COUNTERS: Final = 0
_PHRASES: Final = 1
_SUFFIXES: Final = 2
_PREFIXES: Final = 3


class Phrases(NamedTuple):
    """All phrases for the kernels, upper-case ASCII letters as lower-case ones."""

    data: NDArray[np.uint8]
    ends: NDArray[np.int64]  # (phrases + 1,) where each begins, and the end
    words: NDArray[np.int64]  # (phrases,)
    groups: NDArray[np.int64]  # (groups + 1,) number of the first phrase of each group


class RefinedWebNumbers(NamedTuple):
    """RefinedWebLines for the kernels; a rule that is off never bites."""

    maximum_uppercase_fraction: np.float64
    numeric: np.bool_
    minimum_words: np.int64
    short_line_words: np.int64
    phrases: Phrases


def refinedweb_numbers(config: RefinedWebLines) -> RefinedWebNumbers:
    """The rules for lines as numbers."""
    groups = (config.counters, config.phrases, config.suffixes, config.prefixes)
    phrases = [phrase for group in groups for phrase in group]
    encoded = [phrase.encode().lower() for phrase in phrases]  # bytes.lower is of ASCII
    uppercase = config.maximum_uppercase_fraction
    return RefinedWebNumbers(
        np.float64(2.0 if uppercase is None else uppercase),
        np.bool_(config.numeric),
        np.int64(config.minimum_words or 0),
        np.int64(config.short_line_words),
        Phrases(
            np.frombuffer(b"".join(encoded) or b"\0", np.uint8),
            np.cumsum([0, *map(len, encoded)], dtype=np.int64),
            np.diff(word_hashes(pa.array(phrases, pa.string()))[0]),
            np.cumsum([0, *map(len, groups)], dtype=np.int64),
        ),
    )


@numba.njit(nogil=True, cache=True)
def _matches(data: NDArray[np.uint8], at: Int, end: Int, phrases: Phrases, number: Int) -> np.int64:
    """Bytes of phrase `number` if it stands at data[at] and ends at `end` at the latest, else 0."""
    begin = phrases.ends[number]
    length = phrases.ends[number + 1] - begin
    if at < 0 or length > end - at:
        return np.int64(0)
    for place in range(length):
        byte = data[at + place]
        if np.uint8(65) <= byte <= np.uint8(90):
            byte += np.uint8(32)
        if byte != phrases.data[begin + place]:
            return np.int64(0)
    return length


@numba.njit(nogil=True, cache=True)
def _first_match(
    data: NDArray[np.uint8], at: np.int64, end: np.int64, phrases: Phrases, group: int
) -> tuple[np.int64, np.int64]:
    """Bytes and words of the first phrase of a group that stands at data[at]; 0 bytes where none does."""
    for number in range(phrases.groups[group], phrases.groups[group + 1]):
        length = _matches(data, at, end, phrases, number)
        if length:
            return length, phrases.words[number]
    return np.int64(0), np.int64(0)


@numba.njit(nogil=True, cache=True)
def _longest_end(
    data: NDArray[np.uint8], begin: np.int64, end: np.int64, phrases: Phrases
) -> tuple[np.int64, np.int64]:
    """Bytes and words of the longest suffix that ends data[begin:end]; 0 bytes where none does."""
    longest = words = np.int64(0)
    for number in range(phrases.groups[_SUFFIXES], phrases.groups[_SUFFIXES + 1]):
        length = phrases.ends[number + 1] - phrases.ends[number]
        if longest < length <= end - begin and _matches(data, end - length, end, phrases, number):
            longest, words = length, phrases.words[number]
    return longest, words


@numba.njit(nogil=True, cache=True)
def skip_space(data: NDArray[np.uint8], at: np.int64, end: np.int64, traits: NDArray[np.uint8], most: Int) -> np.int64:
    """The position after at most `most` characters of white space from data[at]."""
    while at < end and most > 0:
        point, after = decode(data, at, end)
        if not traits[point] & SPACE:
            break
        at = after
        most -= 1
    return at


@numba.njit(nogil=True, cache=True)
def last_start(data: NDArray[np.uint8], begin: np.int64, end: np.int64) -> np.int64:
    """Where the last character of data[begin:end] starts."""
    at = end - 1
    while at > begin and at > end - 4 and data[at] & 0xC0 == 0x80:
        at -= 1
    return at


@numba.njit(nogil=True, cache=True)
def trim(data: NDArray[np.uint8], begin: np.int64, end: np.int64, traits: NDArray[np.uint8]) -> np.int64:
    """The end of data[begin:end] without the white space there."""
    while end > begin:
        at = last_start(data, begin, end)
        point, after = decode(data, at, end)
        if after != end or not traits[point] & SPACE:
            break
        end = at
    return end


@numba.njit(nogil=True, cache=True)
def _is_counter(
    data: NDArray[np.uint8],
    at: np.int64,
    end: np.int64,
    points: NDArray[np.uint16],
    traits: NDArray[np.uint8],
    phrases: Phrases,
) -> bool:
    r"""Whether data[at:end] is a number, perhaps with K, M or B, and what it counts, and other marks around it.

    As the regular expression ^\W*\d[,.\d]*[kmb]?\s+(counters)\W*$ without regard to case.
    """
    at = _skip_marks(data, at, end, points)
    digits = at
    while at < end:
        point, after = decode(data, at, end)
        if not points[point] & DECIMAL and (at == digits or (point != 0x2C and point != 0x2E)):
            break
        at = after
    if at == digits:
        return False
    if at < end and (data[at] | 0x20 == 0x6B or data[at] | 0x20 == 0x6D or data[at] | 0x20 == 0x62):
        at += 1
    noun = skip_space(data, at, end, traits, end)
    if noun == at:
        return False
    for number in range(phrases.groups[_COUNTERS], phrases.groups[_COUNTERS + 1]):
        length = _matches(data, noun, end, phrases, number)
        if length and _skip_marks(data, noun + length, end, points) == end:
            return True
    return False


@numba.njit(nogil=True, cache=True)
def _skip_marks(data: NDArray[np.uint8], at: np.int64, end: np.int64, points: NDArray[np.uint16]) -> np.int64:
    """The position of the first character from data[at] that could belong to a word."""
    while at < end:
        point, after = decode(data, at, end)
        if points[point] & WORDLIKE:
            break
        at = after
    return at


@numba.njit(nogil=True, cache=True)
def _has_phrase(data: NDArray[np.uint8], first: np.int64, end: np.int64, phrases: Phrases) -> bool:
    """Whether there is anything to cut out of data[first:end]."""
    if _first_match(data, first, end, phrases, _PREFIXES)[0] or _longest_end(data, first, end, phrases)[0]:
        return True
    for number in range(phrases.groups[_PHRASES], phrases.groups[_PHRASES + 1]):
        initial = phrases.data[phrases.ends[number]]
        fold = np.uint8(0x20) if np.uint8(97) <= initial <= np.uint8(122) else np.uint8(0)
        last = end - (phrases.ends[number + 1] - phrases.ends[number])
        for at in range(first, last + 1):
            if data[at] | fold == initial and _matches(data, at, end, phrases, number):
                return True
    return False


@numba.njit(nogil=True, cache=True)
def _cut_anywhere(
    line: NDArray[np.uint8], end: np.int64, traits: NDArray[np.uint8], phrases: Phrases
) -> tuple[np.int64, np.int64]:
    """Cut the phrases out of line[:end], each with a white space before it; returns the new end and the words cut."""
    written = words = at = np.int64(0)
    while at < end:
        after = skip_space(line, at, end, traits, 1)
        length, lost = _first_match(line, after, end, phrases, _PHRASES)
        if not length:
            after = at
            length, lost = _first_match(line, after, end, phrases, _PHRASES)
        if length:
            at = after + length
            words += lost
        else:
            line[written] = line[at]
            written += 1
            at += 1
    return written, words


@numba.njit(nogil=True, cache=True)
def _cut_end(
    line: NDArray[np.uint8], end: np.int64, traits: NDArray[np.uint8], phrases: Phrases
) -> tuple[np.int64, np.int64]:
    """Cut the longest suffix that ends line[:end], with a white space before it."""
    length, words = _longest_end(line, np.int64(0), end, phrases)
    begin = end - length
    if 0 < begin < end:
        before = last_start(line, np.int64(0), begin)
        if skip_space(line, before, begin, traits, 1) == begin:
            begin = before
    return begin, words


@numba.njit(nogil=True, cache=True)
def cut_phrases(
    data: NDArray[np.uint8],
    first: np.int64,
    end: np.int64,
    traits: NDArray[np.uint8],
    phrases: Phrases,
    line: NDArray[np.uint8],
) -> tuple[np.int64, np.int64, np.int64]:
    """Write the short line data[first:end] into `line` and cut the phrases out: anywhere, at its end, at its start.

    Returns where the rest begins and ends in `line` (white space at its end goes), and the words cut.
    """
    for byte in range(end - first):
        line[byte] = data[first + byte]
    until, words = _cut_anywhere(line, end - first, traits, phrases)
    until, more = _cut_end(line, until, traits, phrases)
    begin, lost = _first_match(line, np.int64(0), until, phrases, _PREFIXES)
    if begin:
        begin = skip_space(line, begin, until, traits, 1)
    return begin, trim(line, begin, until, traits), words + more + lost


@numba.njit(nogil=True, cache=True)
def _judge_short(
    data: NDArray[np.uint8],
    first: np.int64,
    end: np.int64,
    words: np.int64,
    traits: NDArray[np.uint8],
    phrases: Phrases,
    line: NDArray[np.uint8],
) -> tuple[np.int64, np.int64, np.int64]:
    if not _has_phrase(data, first, end, phrases):
        return np.int64(KEPT), end - first, np.int64(0)
    begin, until, lost = cut_phrases(data, first, end, traits, phrases, line)
    if skip_space(line, begin, until, traits, until) == until:
        return np.int64(REMOVED), np.int64(0), words
    return np.int64(CUT), until - begin, lost


@numba.njit(nogil=True, cache=True, inline="always")
def judge_line(
    data: NDArray[np.uint8],
    first: np.int64,
    end: np.int64,
    characters: np.int64,
    words: np.int64,
    counts: NDArray[np.int64],
    points: NDArray[np.uint16],
    traits: NDArray[np.uint8],
    rules: RefinedWebNumbers,
    line: NDArray[np.uint8],
) -> tuple[np.int64, np.int64, np.int64]:
    """What becomes of the line data[first:end], without white space around it: its fate, bytes left, words lost.

    `counts` are its marks (`pipeline.quality.characters`); `line` is room for it.
    """
    if (
        words < rules.minimum_words
        or counts[UPPER_COUNT] > rules.maximum_uppercase_fraction * characters
        or (rules.numeric and counts[DIGIT_COUNT] == characters)
    ):
        return np.int64(REMOVED), np.int64(0), words
    letter = np.uint8(97) <= data[first] | np.uint8(0x20) <= np.uint8(122)
    if not letter and _is_counter(data, first, end, points, traits, rules.phrases):
        return np.int64(REMOVED), np.int64(0), words
    if words > rules.short_line_words:
        return np.int64(KEPT), end - first, np.int64(0)
    return _judge_short(data, first, end, words, traits, rules.phrases, line)
