"""The Gopher rules: quality (the whole document, its words and lines) and repetition (lines, paragraphs and n-grams).

Source: Rae et al. 2021, "Scaling Language Models: Methods, Analysis & Insights from Training Gopher", arXiv:2112.11446,
appendix A.1.1 (quality) and table A1 (repetition).

The rules speak of words of English. Where a language is written without spaces, each letter is a word to the scan
(`pipeline.text.scan`), and the overrides below translate.
"""

from typing import ClassVar, Final

from pipeline.quality.rules import Overrides, RuleSet, threshold

_QUALITY: Final = "Rae et al. 2021, A.1.1"
_REPETITION: Final = "Rae et al. 2021, table A1"

# Codes of lid.176 and of GlotLID.
UNSPACED_LANGUAGES: Final = (
    *("zh", "ja", "yue", "wuu", "th", "lo", "km", "my"),
    *("cmn_Hani", "jpn_Jpan", "yue_Hani", "wuu_Hani", "tha_Thai", "lao_Laoo", "khm_Khmr", "mya_Mymr"),
)

# 1.6 characters make a word in Chinese text, so 50 words are 80 characters. A mean word length of 3 to 10 letters tells
# prose from gibberish only where words are spaced.
_UNSPACED_QUALITY: Final[dict[str, float | None]] = {
    "minimum_words": 80,
    "maximum_words": 160_000,
    "minimum_mean_word_length": None,
    "maximum_mean_word_length": None,
}

# A 2-gram of characters is no more than a word, and repeats as words do: it has no rule. 3 and 4 characters are about 2
# words, 8 to 10 characters about 5 and 6: they take the thresholds of those.
_UNSPACED_REPETITION: Final[dict[str, float | None]] = {
    "maximum_top_2_gram_character_fraction": None,
    "maximum_top_3_gram_character_fraction": 0.20,
    "maximum_top_4_gram_character_fraction": 0.20,
    "maximum_duplicate_5_gram_character_fraction": None,
    "maximum_duplicate_6_gram_character_fraction": None,
    "maximum_duplicate_7_gram_character_fraction": None,
    "maximum_duplicate_8_gram_character_fraction": 0.15,
    "maximum_duplicate_9_gram_character_fraction": 0.15,
    "maximum_duplicate_10_gram_character_fraction": 0.14,
}


class GopherQuality(RuleSet):
    """Gopher's quality rules, in the order of the paper."""

    prefix: ClassVar[str] = "gopher_quality"
    default_overrides: ClassVar[Overrides] = dict.fromkeys(UNSPACED_LANGUAGES, _UNSPACED_QUALITY)

    minimum_words: float | None = threshold(50, "minimum", "words", _QUALITY)
    maximum_words: float | None = threshold(100_000, "maximum", "words", _QUALITY)
    minimum_mean_word_length: float | None = threshold(3, "minimum", "mean_word_length", _QUALITY)
    maximum_mean_word_length: float | None = threshold(10, "maximum", "mean_word_length", _QUALITY)
    maximum_hash_to_word_ratio: float | None = threshold(0.1, "maximum", "hash_to_word_ratio", _QUALITY)
    maximum_ellipsis_to_word_ratio: float | None = threshold(0.1, "maximum", "ellipsis_to_word_ratio", _QUALITY)
    maximum_bullet_line_fraction: float | None = threshold(0.9, "maximum", "bullet_line_fraction", _QUALITY)
    maximum_ellipsis_line_fraction: float | None = threshold(0.3, "maximum", "ellipsis_line_fraction", _QUALITY)
    minimum_alphabetic_word_fraction: float | None = threshold(0.8, "minimum", "alphabetic_word_fraction", _QUALITY)
    minimum_stop_words: float | None = threshold(
        2, "minimum", "stop_words", f"{_QUALITY}; other languages by lists of their own (pipeline.quality.stopwords)"
    )


class GopherRepetition(RuleSet):
    """Gopher's repetition rules, in the order of the paper's table."""

    prefix: ClassVar[str] = "gopher_repetition"
    default_overrides: ClassVar[Overrides] = dict.fromkeys(UNSPACED_LANGUAGES, _UNSPACED_REPETITION)

    maximum_duplicate_line_fraction: float | None = threshold(0.30, "maximum", "duplicate_line_fraction", _REPETITION)
    maximum_duplicate_paragraph_fraction: float | None = threshold(
        0.30, "maximum", "duplicate_paragraph_fraction", _REPETITION
    )
    maximum_duplicate_line_character_fraction: float | None = threshold(
        0.20, "maximum", "duplicate_line_character_fraction", _REPETITION
    )
    maximum_duplicate_paragraph_character_fraction: float | None = threshold(
        0.20, "maximum", "duplicate_paragraph_character_fraction", _REPETITION
    )
    maximum_top_2_gram_character_fraction: float | None = threshold(
        0.20, "maximum", "top_2_gram_character_fraction", _REPETITION
    )
    maximum_top_3_gram_character_fraction: float | None = threshold(
        0.18, "maximum", "top_3_gram_character_fraction", _REPETITION
    )
    maximum_top_4_gram_character_fraction: float | None = threshold(
        0.16, "maximum", "top_4_gram_character_fraction", _REPETITION
    )
    maximum_duplicate_5_gram_character_fraction: float | None = threshold(
        0.15, "maximum", "duplicate_5_gram_character_fraction", _REPETITION
    )
    maximum_duplicate_6_gram_character_fraction: float | None = threshold(
        0.14, "maximum", "duplicate_6_gram_character_fraction", _REPETITION
    )
    maximum_duplicate_7_gram_character_fraction: float | None = threshold(
        0.13, "maximum", "duplicate_7_gram_character_fraction", _REPETITION
    )
    maximum_duplicate_8_gram_character_fraction: float | None = threshold(
        0.12, "maximum", "duplicate_8_gram_character_fraction", _REPETITION
    )
    maximum_duplicate_9_gram_character_fraction: float | None = threshold(
        0.11, "maximum", "duplicate_9_gram_character_fraction", _REPETITION
    )
    maximum_duplicate_10_gram_character_fraction: float | None = threshold(
        0.10, "maximum", "duplicate_10_gram_character_fraction", _REPETITION
    )
