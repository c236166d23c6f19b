"""What the text kernels know of each code point: its class in a word, case folding, script and traits.

Everything is derived at import from Python's own Unicode database, in about a tenth of a second, so there is no
generated file to keep. The database differs between Python releases: `UNICODE_VERSION` belongs into the identity of
whatever is computed from these tables.
"""

import unicodedata
from typing import Final

import numpy as np
from numpy.typing import NDArray

UNICODE_VERSION: Final = unicodedata.unidata_version

# Classes of a code point, as the word scan sees it.
SEPARATOR: Final = 0  # white space, punctuation, symbols, controls, unassigned: ends a word
WORD: Final = 1  # letters and numbers of scripts written with spaces: a run of them is a word
MARK: Final = 2  # combining marks: extend the word before them, of any script, and begin none
UNSPACED: Final = 3  # letters of scripts written without spaces: each is a word of its own
APOSTROPHE: Final = 4  # joins two runs of WORD, as in "don't"; anywhere else a separator
IGNORABLE: Final = 5  # format characters (soft hyphen, joiners, direction marks): as if they were not there

# What a code point does to the text around it; bits of TRAITS.
SPACE: Final = 1  # white space, as str.isspace
ALPHABETIC: Final = 2  # a letter, as str.isalpha
LOWER: Final = 4  # a lower-case letter
TERMINATOR: Final = 8  # may end a sentence, when white space and no lower-case letter follow
WIDE_TERMINATOR: Final = 16  # ends a sentence whatever follows: the scripts that use it put no space after it
CLOSER: Final = 32  # quotation marks and brackets that may stand between a terminator and the space
QUOTE: Final = 64  # those closers that end a quotation
BULLET: Final = 128  # marks a list item at the start of a line

_TERMINATORS: Final = ".!?\u2026\u203c\u2047\u2048\u2049\u0589\u061f\u06d4\u0964\u0965\u104a\u104b\u1362\u17d4\u17d5"
_WIDE_TERMINATORS: Final = "\u3002\uff01\uff1f\uff61\uff0e"
_QUOTES: Final = "\"'\u2019\u201d\u00bb\u203a\u300d\u300f\uff02\uff63"
_BRACKETS: Final = ")]}\u3009\u300b\u3011\u3015\uff09\uff3d\uff5d"
_BULLETS: Final = "-*\u2022\u2023\u2043\u2219\u00b7\u25a0\u25a1\u25aa\u25ab\u25b6\u25ba\u25cb\u25cf\u25e6\u30fb"

# One table entry: folded code point (21 bits), class (3 bits), script (8 bits).
CLASS_SHIFT: Final = 21
SCRIPT_SHIFT: Final = 24
FOLD_MASK: Final = 0x1FFFFF
CLASS_MASK: Final = 0x7

# Scripts by the first words of their characters' Unicode names (the Python database has no script property).
# The order is the number in the table and breaks ties of the dominant script.
SCRIPT_PREFIXES: Final[tuple[tuple[str, tuple[str, ...]], ...]] = (
    ("Common", ()),
    ("Latin", ("LATIN", "FULLWIDTH LATIN")),
    ("Han", ("CJK", "IDEOGRAPHIC", "HANGZHOU", "KANGXI")),
    ("Hiragana", ("HIRAGANA", "HENTAIGANA")),
    ("Katakana", ("KATAKANA", "HALFWIDTH KATAKANA")),
    ("Hangul", ("HANGUL", "HALFWIDTH HANGUL")),
    ("Cyrillic", ("CYRILLIC",)),
    ("Arabic", ("ARABIC",)),
    ("Greek", ("GREEK", "COPTIC")),
    ("Hebrew", ("HEBREW",)),
    ("Devanagari", ("DEVANAGARI", "VEDIC")),
    ("Bengali", ("BENGALI",)),
    ("Gurmukhi", ("GURMUKHI",)),
    ("Gujarati", ("GUJARATI",)),
    ("Oriya", ("ORIYA",)),
    ("Tamil", ("TAMIL",)),
    ("Telugu", ("TELUGU",)),
    ("Kannada", ("KANNADA",)),
    ("Malayalam", ("MALAYALAM",)),
    ("Sinhala", ("SINHALA",)),
    ("Thai", ("THAI",)),
    ("Lao", ("LAO",)),
    ("Khmer", ("KHMER",)),
    ("Myanmar", ("MYANMAR",)),
    ("Tibetan", ("TIBETAN",)),
    ("Georgian", ("GEORGIAN",)),
    ("Armenian", ("ARMENIAN",)),
    ("Ethiopic", ("ETHIOPIC",)),
    ("Mongolian", ("MONGOLIAN",)),
    ("Syriac", ("SYRIAC",)),
    ("Thaana", ("THAANA",)),
    ("Bopomofo", ("BOPOMOFO",)),
    ("Yi", ("YI",)),
    ("Cherokee", ("CHEROKEE",)),
    ("Canadian Aboriginal", ("CANADIAN",)),
    ("Javanese", ("JAVANESE",)),
    ("Balinese", ("BALINESE",)),
    ("Tai", ("TAI", "NEW TAI", "AHOM")),
    ("Tangut", ("TANGUT",)),
    ("Nushu", ("NUSHU",)),
    ("Khitan", ("KHITAN",)),
    ("Other", ()),
)
SCRIPTS: Final[tuple[str, ...]] = tuple(name for name, _ in SCRIPT_PREFIXES)

UNSPACED_SCRIPTS: Final = frozenset(
    (
        *("Han", "Hiragana", "Katakana", "Bopomofo", "Thai", "Lao", "Khmer", "Myanmar"),
        *("Javanese", "Balinese", "Tai", "Tangut", "Nushu", "Khitan"),
    )
)

_APOSTROPHES: Final = (0x27, 0x2019)
_ZERO_WIDTH_SPACE: Final = 0x200B  # a format character by category, a word boundary by purpose

# Assigned characters that matter live in planes 0 to 3 and in the tags of plane 14; the rest are unassigned or private.
_ASSIGNED: Final = (*range(0x40000), *range(0xE0000, 0xE1000))


# Ideographs and syllables whose names are made by rule: their script is known without 100,000 look-ups.
_NAMED_BY_RULE: Final = (
    (0x3400, 0x4DC0, "Han"),
    (0x4E00, 0xA000, "Han"),
    (0xAC00, 0xD7A4, "Hangul"),
    (0x17000, 0x18B00, "Tangut"),
    (0x18B00, 0x18D00, "Khitan"),
    (0x18D00, 0x18D80, "Tangut"),
    (0x20000, 0x32400, "Han"),
)
_SHARED_BY_SCRIPTS: Final = frozenset({"MODIFIER", "MATHEMATICAL", "ROMAN", "MICRO", "FEMININE", "MASCULINE"})


def _script_by_name(char: str, numbers: dict[str, int]) -> int:
    """Number of the script of a letter, from its Unicode name; Other where no prefix fits."""
    words = unicodedata.name(char, "").replace("-", " ").split(" ")
    if words[0] in _SHARED_BY_SCRIPTS:
        return 0
    number = numbers.get(words[0], numbers.get(" ".join(words[:2])))
    return len(SCRIPTS) - 1 if number is None else number


def _letter_scripts(letters: NDArray[np.int64]) -> NDArray[np.uint32]:
    """Script number of each of `letters` (code points)."""
    numbers = {prefix: number for number, (_, prefixes) in enumerate(SCRIPT_PREFIXES) for prefix in prefixes}
    scripts = np.full(len(letters), -1, np.int64)
    for start, stop, name in _NAMED_BY_RULE:
        scripts[(letters >= start) & (letters < stop)] = SCRIPTS.index(name)
    for at in np.flatnonzero(scripts < 0):
        scripts[at] = _script_by_name(chr(letters[at]), numbers)
    return scripts.astype(np.uint32)


def _fold(char: str) -> int:
    """Simple case folding: the folded or lower-case form where it is one character, else the character itself."""
    for folded in (char.casefold(), char.lower()):
        if len(folded) == 1:
            return ord(folded)
    return ord(char)


def _categories() -> tuple[NDArray[np.int64], NDArray[np.bytes_]]:
    """The code points that may be assigned, and the general category of each."""
    names = "".join(map(unicodedata.category, map(chr, _ASSIGNED)))
    return np.array(_ASSIGNED), np.frombuffer(names.encode(), "S2")


def _read_only(table: NDArray) -> NDArray:
    table.flags.writeable = False
    return table


def build_table(points: NDArray[np.int64], categories: NDArray[np.bytes_]) -> NDArray[np.uint32]:
    """The entries of all 0x110000 code points, uint32, read-only."""
    major = categories.astype("S1")
    letters = (major == b"L") | (categories == b"Nl")

    kind = np.full(len(points), SEPARATOR, np.uint32)
    kind[letters | (major == b"N")] = WORD
    kind[major == b"M"] = MARK
    kind[(categories == b"Cf") & (points != _ZERO_WIDTH_SPACE)] = IGNORABLE
    scripts = np.zeros(len(points), np.uint32)
    scripts[letters] = _letter_scripts(points[letters])
    kind[letters & np.isin(scripts, [SCRIPTS.index(name) for name in UNSPACED_SCRIPTS])] = UNSPACED

    folded = points.astype(np.uint32)
    cased = np.flatnonzero(np.isin(categories, (b"Lu", b"Ll", b"Lt", b"Nl")))
    folded[cased] = [_fold(chr(point)) for point in points[cased]]

    table = np.arange(0x110000, dtype=np.uint32)
    table[points] = folded | kind << CLASS_SHIFT | scripts << SCRIPT_SHIFT
    for point in _APOSTROPHES:
        table[point] = 0x27 | APOSTROPHE << CLASS_SHIFT
    return _read_only(table)


def build_traits(points: NDArray[np.int64], categories: NDArray[np.bytes_]) -> NDArray[np.uint8]:
    """The traits of all 0x110000 code points, uint8, read-only."""
    traits = np.zeros(0x110000, np.uint8)
    traits[points[categories.astype("S1") == b"L"]] = ALPHABETIC
    traits[points[categories == b"Ll"]] |= LOWER
    blanks = points[np.isin(categories, (b"Zs", b"Zl", b"Zp", b"Cc"))]
    traits[[point for point in blanks if chr(point).isspace()]] |= SPACE
    for trait, marks in (
        (TERMINATOR, _TERMINATORS + _WIDE_TERMINATORS),
        (WIDE_TERMINATOR, _WIDE_TERMINATORS),
        (CLOSER, _QUOTES + _BRACKETS),
        (QUOTE, _QUOTES),
        (BULLET, _BULLETS),
    ):
        traits[[*map(ord, marks)]] |= trait
    return _read_only(traits)


_POINTS, _CATEGORIES = _categories()
TABLE: Final = build_table(_POINTS, _CATEGORIES)
TRAITS: Final = build_traits(_POINTS, _CATEGORIES)
