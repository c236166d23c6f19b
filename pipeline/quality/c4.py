"""The C4 rules: which lines of a document go, and which documents.

Source: Raffel et al. 2020, "Exploring the Limits of Transfer Learning with a Unified Text-to-Text Transformer",
JMLR 21(140), section 2.2. Of their rules the list of bad words, the removal of citation markers, the language and the
deduplication of three-sentence spans are not here: language and duplicates have stages of their own.
"""

from dataclasses import replace
from typing import ClassVar, Final, NamedTuple

import numba
import numpy as np
from numpy.typing import NDArray
from pydantic import Field

from pipeline.quality.rules import Rule, RuleSet, threshold
from pipeline.stage import StageConfig
from pipeline.text.records import LINE_FLAGS, LINE_LONGEST, LINE_RUNS, PHRASE_SHIFT, TERMINATED

_SOURCE: Final = "Raffel et al. 2020, section 2.2"

# Phrases by category; the category's place is its bit in the flags of a line.
JAVASCRIPT: Final = "javascript"
POLICY: Final = "policy"
LOREM_IPSUM: Final = "lorem ipsum"
PHRASES: Final[dict[str, tuple[str, ...]]] = {
    JAVASCRIPT: ("javascript",),
    POLICY: ("terms of use", "privacy policy", "cookie policy", "uses cookies", "use of cookies", "use cookies"),
    LOREM_IPSUM: ("lorem ipsum",),
}
JAVASCRIPT_BIT: Final = 1 << (PHRASE_SHIFT + 0)
POLICY_BIT: Final = 1 << (PHRASE_SHIFT + 1)
LOREM_IPSUM_BIT: Final = 1 << (PHRASE_SHIFT + 2)


class C4Lines(StageConfig):
    """Which lines C4 removes. A document without a removed line stays as it is, byte for byte.

    Of the rules of the paper all but the one of terminal punctuation are on by default, as in FineWeb (Penedo et al.
    2024, section 3.4), whose authors found that this one removes much and helps little.
    """

    minimum_words: int | None = Field(
        default=5,
        ge=0,
        description="Fewest words of a line: runs between white space, as in the C4 code, and each letter of a script "
        f"without spaces; null switches the rule off. Default 5: {_SOURCE}",
    )
    maximum_word_length: int | None = Field(
        default=1000,
        ge=1,
        description="Longest run of characters without white space (in scripts without spaces: between two letters); "
        "null switches the rule off. Default 1000: the C4 code (c4_utils.py of TensorFlow Datasets)",
    )
    javascript: bool = Field(default=True, description=f"Remove lines with the word Javascript. Source: {_SOURCE}")
    policy: bool = Field(
        default=True,
        description="Remove lines that speak of privacy policies, terms of use or the use of cookies. "
        f"Source: {_SOURCE}; the phrases are those of the C4 code",
    )
    terminal_punctuation: bool = Field(
        default=False,
        description="Remove lines that do not end in a sentence terminator or a closing quotation mark, of any script. "
        f"Source: {_SOURCE}; off by default as in FineWeb (Penedo et al. 2024, section 3.4)",
    )


class C4(RuleSet):
    """C4's rules for documents, and whether the lines are removed that its rules for lines name.

    Which lines those are is measured by the annotate stage (`annotate.lines.c4`): their number, their bytes, and the
    sentences of the lines that stay.
    """

    prefix: ClassVar[str] = "c4"

    maximum_curly_brackets: float | None = threshold(0, "maximum", "curly_brackets", _SOURCE)
    maximum_lorem_ipsum_lines: float | None = threshold(0, "maximum", "lorem_ipsum_lines", _SOURCE)
    minimum_kept_lines: float | None = threshold(1, "minimum", "c4_kept_lines", f"{_SOURCE}: an empty page is no page")
    minimum_kept_sentences: float | None = threshold(3, "minimum", "c4_kept_sentences", _SOURCE)
    remove_lines: bool = Field(
        default=True, description=f"Remove the lines that `annotate.lines.c4` names from the text. Source: {_SOURCE}"
    )

    def rules(self, language: str = "") -> list[Rule]:
        """The rules in their order; where no lines are removed, they judge all lines."""
        rules = super().rules(language)
        if self.remove_lines:
            return rules
        whole = {"c4_kept_lines": "lines", "c4_kept_sentences": "sentences"}
        return [replace(rule, signal=whole.get(rule.signal, rule.signal)) for rule in rules]


class C4Numbers(NamedTuple):
    """C4Lines for the kernels; a rule that is off never bites."""

    minimum_words: np.int64
    maximum_word_length: np.int64
    removed_flags: np.int64  # a line with one of these flags goes
    required_flags: np.int64  # a line without all of these flags goes


def c4_numbers(config: C4Lines) -> C4Numbers:
    """The rules for lines as numbers."""
    return C4Numbers(
        np.int64(config.minimum_words or 0),
        np.int64(config.maximum_word_length or 1 << 62),
        np.int64(JAVASCRIPT_BIT * config.javascript | POLICY_BIT * config.policy),
        np.int64(TERMINATED * config.terminal_punctuation),
    )


@numba.njit(nogil=True, cache=True, inline="always")
def c4_removes(row: NDArray[np.int64], rules: C4Numbers) -> bool:
    """Whether the line of the record `row` (LINE_COLUMNS) goes."""
    flags = row[LINE_FLAGS]
    return (
        row[LINE_RUNS] < rules.minimum_words
        or row[LINE_LONGEST] > rules.maximum_word_length
        or flags & rules.removed_flags != 0
        or flags & rules.required_flags != rules.required_flags
    )
