"""What the text kernels know of each code point: its class in a word, its simple case folding and its script.

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
    "Han Hiragana Katakana Bopomofo Thai Lao Khmer Myanmar Javanese Balinese Tai Tangut Nushu Khitan".split()
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


def build_table() -> NDArray[np.uint32]:
    """The entries of all 0x110000 code points, uint32, read-only."""
    points = np.array(_ASSIGNED)
    categories = np.array([*map(unicodedata.category, map(chr, _ASSIGNED))])
    major = categories.astype("U1")
    letters = (major == "L") | (categories == "Nl")

    kind = np.full(len(points), SEPARATOR, np.uint32)
    kind[letters | (major == "N")] = WORD
    kind[major == "M"] = MARK
    kind[(categories == "Cf") & (points != _ZERO_WIDTH_SPACE)] = IGNORABLE
    scripts = np.zeros(len(points), np.uint32)
    scripts[letters] = _letter_scripts(points[letters])
    kind[letters & np.isin(scripts, [SCRIPTS.index(name) for name in UNSPACED_SCRIPTS])] = UNSPACED

    folded = points.astype(np.uint32)
    cased = np.flatnonzero(np.isin(categories, ("Lu", "Ll", "Lt", "Nl")))
    folded[cased] = [_fold(chr(point)) for point in points[cased]]

    table = np.arange(0x110000, dtype=np.uint32)
    table[points] = folded | kind << CLASS_SHIFT | scripts << SCRIPT_SHIFT
    for point in _APOSTROPHES:
        table[point] = 0x27 | APOSTROPHE << CLASS_SHIFT
    table.flags.writeable = False
    return table


TABLE: Final = build_table()
