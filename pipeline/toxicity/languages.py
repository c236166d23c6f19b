"""Which list belongs to a language, however the language's code is written.

The data is languages.tsv: each language of ISO 639-1 with its codes in ISO 639-2 and 639-3, and the languages that
ISO 639-3 counts into it where it is a macrolanguage (zh: cmn, yue, ...).
"""

from collections.abc import Iterable
from functools import cache
from pathlib import Path
from typing import NamedTuple


class _Codes(NamedTuple):
    short: dict[str, str]  # the two-letter code of a longer one
    macrolanguage: dict[str, str]  # the two-letter code of the macrolanguage that a language is counted into


@cache
def _codes() -> _Codes:
    rows = Path(__file__).with_name("languages.tsv").read_text(encoding="utf-8").splitlines()[1:]
    table = [row.split("\t") for row in rows]
    short = {code: short for short, codes, _ in table for code in codes.split()}
    macrolanguage = {code: large for large, _, members in table for code in members.split()}
    macrolanguage |= {short[code]: large for code, large in macrolanguage.items() if code in short}  # nob: nb
    return _Codes(short, macrolanguage)


def normalised(code: str) -> str:
    """A code in lower case with hyphens: `cmn_Hani` is `cmn-hani`."""
    return code.strip().lower().replace("_", "-")


def _language(code: str) -> str:
    subtag = code.partition("-")[0]
    return _codes().short.get(subtag, subtag)


def _macrolanguage(code: str) -> str | None:
    return _codes().macrolanguage.get(code.partition("-")[0])


def find_list(code: str, lists: Iterable[str]) -> str | None:
    """The name of the list for documents of a language, or None.

    Codes of lid.176 (`en`, `zh`), GlotLID (`eng_Latn`, `cmn_Hani`) and BCP 47 (`fr-CA`) are known, in `code` and in the
    names of the lists. Tried in this order: the same code; the code without its last subtags (RFC 4647, section 3.4);
    the list of the same language under another of its codes; the list of its macrolanguage. A list for a region, such
    as `fr-CA-u-sd-caqc`, is found by a code that names the region in the same way, and by no other.
    """
    by_name = {normalised(name): name for name in sorted(lists, reverse=True)}
    wanted = normalised(code)
    subtags = wanted.split("-")
    for length in range(len(subtags), 0, -1):
        if found := by_name.get("-".join(subtags[:length])):
            return found
    by_language = {_language(name): by_name[name] for name in sorted(by_name, reverse=True) if not _regional(name)}
    return by_language.get(_language(wanted)) or by_language.get(_macrolanguage(wanted) or "")


def _regional(name: str) -> bool:
    return any(len(subtag) != 4 for subtag in name.split("-")[1:])  # a script has four letters
