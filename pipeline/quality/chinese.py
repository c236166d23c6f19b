"""Rules for Chinese text, simplified, traditional and Cantonese.

The length of a text and of its lines, and the share of Chinese characters, are those of ChineseWebText (Chen et al.
2023, arXiv:2311.01149, and the code of its EvalWeb). Its rule that drops traditional text is here, switched off. The
other thresholds are Headrace's own, from measurements of 5,000 passages of 400 characters: news headlines, abstracts
and descriptions of programs (FewCLUE), Classical Chinese with its translation, Tang poems, Hong Kong news; and of the
first of these read in the wrong encoding.

- rare_han_fraction: 0.031 in 99 of 100 passages of poems and 0.007 of all others; 0.16 and more as GBK.
- function_character_fraction: 0.05 and more in 99 of 100 passages of prose, 0.021 of poems; less than 0.01 as GBK.
- punctuation_fraction: 0.014 to 0.21 in all passages. Lists of keywords have none.
"""

from typing import ClassVar, Final

from pipeline.quality.rules import RuleSet, threshold

_EVALWEB: Final = "Chen et al. 2023 (ChineseWebText), preprocessing"
_OWN: Final = "Headrace's own"

CHINESE: Final = ("zh", "yue", "wuu", "cmn_Hani", "yue_Hani", "wuu_Hani", "hak_Hani")


class Chinese(RuleSet):
    """Rules for Chinese; documents in other languages pass."""

    prefix: ClassVar[str] = "chinese"
    languages = CHINESE

    minimum_characters: float | None = threshold(201, "minimum", "characters", f"{_EVALWEB}: more than 200")
    minimum_mean_line_length: float | None = threshold(10, "minimum", "mean_line_length", _EVALWEB)
    minimum_han_fraction: float | None = threshold(0.3, "minimum", "han_fraction", _EVALWEB)
    maximum_traditional_fraction: float | None = threshold(
        None, "maximum", "traditional_fraction", f"{_OWN}; {_EVALWEB} has 0 for a corpus of simplified text"
    )
    maximum_simplified_fraction: float | None = threshold(None, "maximum", "simplified_fraction", _OWN)
    maximum_rare_han_fraction: float | None = threshold(0.1, "maximum", "rare_han_fraction", _OWN)
    minimum_function_character_fraction: float | None = threshold(0.02, "minimum", "function_character_fraction", _OWN)
    minimum_punctuation_fraction: float | None = threshold(0.01, "minimum", "punctuation_fraction", _OWN)
    maximum_punctuation_fraction: float | None = threshold(0.3, "maximum", "punctuation_fraction", _OWN)
