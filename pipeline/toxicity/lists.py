"""Word lists in the format of LDNOOBW: a file for each language, named by its code, with a word or phrase on each line.

What becomes of an entry:
- it is a phrase, a sequence of whole normalised words of `pipeline.text.scan`, found in its composed and its decomposed
  spelling;
- without a word (an emoji) it is a string of bytes;
- it is left out, and said to be, where it would be found everywhere: an entry that is no more than a number ("13.") or
  one letter of a script without spaces (奶, which is in the words for milk), and one of ASCII punctuation alone.
"""

import hashlib
import re
import unicodedata
from collections.abc import Collection, Sequence
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path
from typing import Final

import numpy as np
import pyarrow as pa

from pipeline.text.scan import word_hashes
from pipeline.text.tables import CLASS_MASK, CLASS_SHIFT, TABLE, UNSPACED
from pipeline.toxicity.archives import read_files

LONGEST_PHRASE: Final = 64  # words: a longer line is no phrase, and the file no list
_MOST_BYTES: Final = 256 << 20
_NAME: Final = re.compile(r"(?P<code>[A-Za-z]{2,3}([-_][A-Za-z0-9]{1,8})*)(\.txt)?")
_EMOJI_STYLE: Final = "\ufe0f"
_SARA_AM, _SARA_AM_PARTS = "\u0e33", "\u0e4d\u0e32"  # look alike, and Unicode does not make them equivalent


@dataclass(frozen=True)
class WordList:
    """One list, ready to be compiled."""

    phrases: frozenset[tuple[int, ...]]  # hashes of the words of each
    symbols: frozenset[bytes]
    entries: int  # different lines of the file
    left_out: tuple[str, ...]  # entries that are not looked for
    sha256: str  # of the file


def read_lists(path: Path, allowed: dict[str, list[str]], bare_entries: bool) -> dict[str, WordList]:
    """The lists in a folder or archive, by their names, sorted.

    `allowed` are entries by list that are not looked for; `bare_entries` keeps numbers and single letters of scripts
    without spaces. Files whose names are no language codes (LICENSE, README.md) are no lists. Raises ValueError where
    there is no list, where one is not UTF-8 or has a line of more than LONGEST_PHRASE words, or where two files are the
    list of the same code.
    """
    found: dict[str, tuple[str, bytes]] = {}
    files = read_files(path, lambda name: _NAME.fullmatch(name.rpartition("/")[2]) is not None, _MOST_BYTES)
    depth = min((name.count("/") for name in files), default=0)
    for file, content in files.items():
        match = _NAME.fullmatch(file.rpartition("/")[2])
        if file.count("/") > depth or match is None:
            continue
        if other := found.get(match["code"]):
            raise ValueError(f"{path} holds two lists for {match['code']!r}, {other[0]} and {file}; remove one of them")
        found[match["code"]] = (file, content)
    if not found:
        raise ValueError(
            f"{path} holds no word list: none of its files is named by a language code, such as en or cmn_Hani.txt"
        )
    return {
        name: _word_list(f"{path}: {file}", content, allowed.get(name, []), bare_entries)
        for name, (file, content) in sorted(found.items())
    }


def _word_list(where: str, content: bytes, allowed: Collection[str], bare_entries: bool) -> WordList:
    try:
        text = content.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        raise ValueError(
            f"{where} is not UTF-8: byte {error.start} is 0x{content[error.start]:02x}; convert the file to UTF-8"
        ) from error
    entries = [*dict.fromkeys(filter(None, (line.strip() for line in text.split("\n"))))]
    spelled = _hash(entries)
    excluded = {words for words in _hash([*allowed]) if words}
    phrases: set[tuple[int, ...]] = set()
    symbols: set[bytes] = set()
    left_out = []
    for entry, words in zip(entries, spelled, strict=True):
        if len(words) > LONGEST_PHRASE:
            raise ValueError(
                f"{where} has a line of {len(words)} words, of which a phrase may have {LONGEST_PHRASE}; "
                "a list holds one word or phrase a line"
            )
        if words in excluded or entry in allowed or (words and not bare_entries and _is_bare(entry, words)):
            left_out.append(entry)
        elif words:
            phrases.add(words)
        elif symbol := _symbol(entry):
            symbols.add(symbol)
        else:
            left_out.append(entry)
    kept = [entry for entry, words in zip(entries, spelled, strict=True) if words in phrases]
    phrases.update(_hash([spelling for entry in kept for spelling in _spellings(entry)]))
    return WordList(
        frozenset(phrases), frozenset(symbols), len(entries), tuple(left_out), hashlib.sha256(content).hexdigest()
    )


def _hash(entries: Sequence[str]) -> list[tuple[int, ...]]:
    offsets, hashes = word_hashes(pa.array(entries, pa.large_string()))
    words = hashes.tolist()
    return [tuple(words[begin:end]) for begin, end in pairwise(offsets.tolist())]


def _spellings(entry: str) -> set[str]:
    forms = {entry, entry.replace(_SARA_AM_PARTS, _SARA_AM), entry.replace(_SARA_AM, _SARA_AM_PARTS)}
    return {unicodedata.normalize(form, spelling) for form in ("NFC", "NFD") for spelling in forms} - {entry}


def _is_bare(entry: str, words: tuple[int, ...]) -> bool:
    if len(words) > 1:
        return False
    classes = (TABLE[np.array([ord(character) for character in entry])] >> CLASS_SHIFT) & CLASS_MASK
    return bool((classes == UNSPACED).any()) or not any(character.isalpha() for character in entry)


def _symbol(entry: str) -> bytes:
    text = entry.strip(_EMOJI_STYLE)
    return b"" if text.isascii() else text.encode()
