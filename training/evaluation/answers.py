"""How an answer in words compares with a right one: SQuAD's exact match and F1 (Rajpurkar et al. 2016, section 6.1)."""

from __future__ import annotations

import re
import string
import unicodedata
from collections import Counter
from collections.abc import Sequence

STEPS = ("lower", "punctuation", "articles", "whitespace")
"""Of SQuAD's normalisation, in this order."""
_ARTICLES = re.compile(r"\b(a|an|the)\b")
UNSPACED = ("zh", "ja", "th", "lo", "km", "my")
"""Languages that are written without spaces between words."""


def normalized(text: str, steps: Sequence[str] = STEPS, every_script: bool = False) -> str:
    """A text in small letters, without punctuation, articles and needless spaces, as far as `steps` say.

    Punctuation is ASCII's, as in SQuAD's published script, or that of `every_script`.
    """
    if "lower" in steps:
        text = text.lower()
    if "punctuation" in steps:
        text = "".join(char for char in text if not _is_punctuation(char, every_script))
    if "articles" in steps:
        text = _ARTICLES.sub(" ", text)
    return " ".join(text.split()) if "whitespace" in steps else text


def words(text: str, language: str = "en") -> list[str]:
    """Words by spaces; characters in languages that are written without them."""
    return [char for char in text if not char.isspace()] if language in UNSPACED else text.split()


def overlap(prediction: Sequence[str], reference: Sequence[str]) -> float:
    """F1 of two texts as bags of words; where one of them has none, whether both have none."""
    if not prediction or not reference:
        return float(list(prediction) == list(reference))
    common = sum((Counter(prediction) & Counter(reference)).values())
    return 2.0 * common / (len(prediction) + len(reference))


def _is_punctuation(char: str, every_script: bool) -> bool:
    return char in string.punctuation or (every_script and unicodedata.category(char).startswith("P"))
