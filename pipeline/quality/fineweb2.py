"""FineWeb-2's rules: those of Gopher and FineWeb, with thresholds for 1,929 languages and scripts.

Source: Penedo et al. 2025, "FineWeb2: One Pipeline to Scale Them All", arXiv:2506.20920; the thresholds, in
fineweb2.tsv, are the facts of the configurations in its repository (huggingface/fineweb-2, configs/), in their names.
Languages are found by the codes of GlotLID (`cmn_Hani`), as there, and by those of lid.176 (`zh`) where that has the
language: of a language in several scripts it has the commonest. The stop words of FineWeb-2 are not here: that rule
counts those of `pipeline.quality.stopwords`, and is off for languages without a list.

The thresholds are of words that FineWeb-2's tokenizers find. For scripts without spaces, where each letter is a word
to the scan, they are translated as Gopher's are (`pipeline.quality.gopher`): 1.6 characters make a word.
"""

import csv
from functools import cache
from importlib.resources import files
from typing import ClassVar, Final

from pipeline.quality.rules import LanguageDefaults, RuleSet, threshold

_SOURCE: Final = "Penedo et al. 2025 (FineWeb-2)"
_ENGLISH: Final = f"English, as in FineWeb (Penedo et al. 2024); other languages by {_SOURCE}, configs/"
_UNSPACED: Final = frozenset(("Hani", "Jpan", "Thai", "Laoo", "Khmr", "Mymr"))
_CHARACTERS_PER_WORD: Final = 1.6

# Columns of the table and their thresholds. To datatrove 0 switches this rule off: marked by *.
_COLUMNS: Final = {
    "language_score": "minimum_language_score",
    "dup_line_frac": "maximum_duplicate_line_fraction*",
    "line_punct_thr": "minimum_terminal_line_fraction*",
    "new_line_ratio": "maximum_newline_word_ratio",
    "min_avg_word_length": "minimum_mean_word_length*",
    "max_avg_word_length": "maximum_mean_word_length*",
    "max_non_alpha_words_ratio": "minimum_alphabetic_token_fraction*",  # its name says the opposite of what it does
    **{f"top_{n}": f"maximum_top_{n}_gram_character_fraction" for n in (2, 3, 4)},
    **{f"dup_{n}": f"maximum_duplicate_{n}_gram_character_fraction" for n in range(5, 11)},
}
# The n-gram of characters that takes the threshold of an n-gram of words.
_WORDS_OF: Final = {"top_3": "top_2", "top_4": "top_2", "dup_8": "dup_5", "dup_9": "dup_5", "dup_10": "dup_6"}


def _thresholds(row: dict[str, str], unspaced: bool) -> dict[str, float | None]:
    found: dict[str, float | None] = {}
    for column, name in _COLUMNS.items():
        value: float | None = float(row[column])
        if unspaced and name.endswith("_gram_character_fraction"):
            value = float(row[_WORDS_OF[column]]) if column in _WORDS_OF else None
        if value is not None and ((name.endswith("*") and value <= 0) or ("fraction" in name and value > 1)):
            value = None  # a rule that is off, or that nothing can break
        found[name.removesuffix("*")] = value
    if unspaced:
        ratio = found["maximum_newline_word_ratio"]
        found["maximum_newline_word_ratio"] = None if ratio is None else round(ratio / _CHARACTERS_PER_WORD, 4)
        found |= {"minimum_words": 80, "maximum_words": 160_000}
        found |= {"minimum_mean_word_length": None, "maximum_mean_word_length": None}
    return found


@cache
def published_thresholds() -> LanguageDefaults:
    """FineWeb-2's thresholds by language code, both kinds of code."""
    found = {}
    with (files("pipeline.quality") / "fineweb2.tsv").open(encoding="utf-8") as stream:
        for row in csv.DictReader(stream, delimiter="\t"):
            script = row["language"].rpartition("_")[2]
            found[row["language"]] = _thresholds(row, script in _UNSPACED)
            if row["lid176"]:
                found[row["lid176"]] = found[row["language"]]
    return found


class FineWeb2(RuleSet):
    """FineWeb-2's rules, in the order of its code. The fields hold for languages that are not in its table."""

    prefix: ClassVar[str] = "fineweb2"

    minimum_language_score: float | None = threshold(0.65, "minimum", "language_score", _ENGLISH)
    maximum_duplicate_line_fraction: float | None = threshold(0.30, "maximum", "duplicate_line_fraction", _ENGLISH)
    maximum_top_2_gram_character_fraction: float | None = threshold(
        0.20, "maximum", "top_2_gram_character_fraction", _ENGLISH
    )
    maximum_top_3_gram_character_fraction: float | None = threshold(
        0.18, "maximum", "top_3_gram_character_fraction", _ENGLISH
    )
    maximum_top_4_gram_character_fraction: float | None = threshold(
        0.16, "maximum", "top_4_gram_character_fraction", _ENGLISH
    )
    maximum_duplicate_5_gram_character_fraction: float | None = threshold(
        0.15, "maximum", "duplicate_5_gram_character_fraction", _ENGLISH
    )
    maximum_duplicate_6_gram_character_fraction: float | None = threshold(
        0.14, "maximum", "duplicate_6_gram_character_fraction", _ENGLISH
    )
    maximum_duplicate_7_gram_character_fraction: float | None = threshold(
        0.13, "maximum", "duplicate_7_gram_character_fraction", _ENGLISH
    )
    maximum_duplicate_8_gram_character_fraction: float | None = threshold(
        0.12, "maximum", "duplicate_8_gram_character_fraction", _ENGLISH
    )
    maximum_duplicate_9_gram_character_fraction: float | None = threshold(
        0.11, "maximum", "duplicate_9_gram_character_fraction", _ENGLISH
    )
    maximum_duplicate_10_gram_character_fraction: float | None = threshold(
        0.10, "maximum", "duplicate_10_gram_character_fraction", _ENGLISH
    )
    minimum_terminal_line_fraction: float | None = threshold(
        0.12, "minimum", "fineweb_terminal_line_fraction", _ENGLISH
    )
    maximum_duplicate_line_character_fraction: float | None = threshold(
        0.1, "maximum", "fineweb_duplicate_line_character_fraction", f"{_SOURCE}, fineweb-2-pipeline.py"
    )
    maximum_newline_word_ratio: float | None = threshold(0.3, "maximum", "fineweb_newline_word_ratio", _ENGLISH)
    minimum_words: float | None = threshold(50, "minimum", "words", _SOURCE)
    maximum_words: float | None = threshold(100_000, "maximum", "words", _SOURCE)
    minimum_mean_word_length: float | None = threshold(3, "minimum", "mean_word_length", _ENGLISH)
    maximum_mean_word_length: float | None = threshold(10, "maximum", "mean_word_length", _ENGLISH)
    maximum_hash_to_word_ratio: float | None = threshold(0.1, "maximum", "hash_to_word_ratio", _SOURCE)
    maximum_ellipsis_to_word_ratio: float | None = threshold(0.1, "maximum", "ellipsis_to_word_ratio", _SOURCE)
    maximum_bullet_line_fraction: float | None = threshold(0.9, "maximum", "bullet_line_fraction", _SOURCE)
    maximum_ellipsis_line_fraction: float | None = threshold(0.3, "maximum", "ellipsis_line_fraction", _SOURCE)
    minimum_alphabetic_token_fraction: float | None = threshold(0.8, "minimum", "alphabetic_token_fraction", _ENGLISH)
    minimum_stop_words: float | None = threshold(2, "minimum", "stop_words", _SOURCE)

    @classmethod
    def language_defaults(cls) -> LanguageDefaults:
        """The table of FineWeb-2."""
        return published_thresholds()
