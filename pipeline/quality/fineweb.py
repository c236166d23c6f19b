"""FineWeb's own rules: lines that end like sentences, short lines, repeated lines, lists.

Source: Penedo et al. 2024, "The FineWeb Datasets", section 3.5, in the reading of their code (datatrove,
FineWebQualityFilter): a line is what stands between two line feeds, white space included, and blank lines do not count.
Here a carriage return before the line feed belongs to the line break; there it would hide every full stop of a text
with such line breaks.
"""

from dataclasses import replace
from typing import ClassVar, Final

import numpy as np
import pyarrow as pa
from pydantic import Field

from pipeline.quality.rules import Evaluation, RuleSet, threshold

_SOURCE: Final = "Penedo et al. 2024 (FineWeb), section 3.5"

SHORT_LINE_CHARACTERS: Final = 30
"""The longest line that is short."""

# Unicode 15's property Sentence_Terminal, with the Khmer marks U+17D4 to U+17DA: the set of datatrove.
_TERMINAL_RANGES: Final = (
    "21 2E 3F 589 61D-61F 6D4 700-702 7F9 837 839 83D-83E 964-965 104A-104B 1362 1367-1368 166E 1735-1736 "
    "17D4-17D6 17D9-17DA 1803 1809 1944-1945 1AA8-1AAB 1B5A-1B5B 1B5E-1B5F 1B7D-1B7E 1C3B-1C3C 1C7E-1C7F "
    "203C-203D 2047-2049 2E2E 2E3C 2E53-2E54 3002 A4FF A60E-A60F A6F3 A6F7 A876-A877 A8CE-A8CF A92F A9C8-A9C9 "
    "AA5D-AA5F AAF0-AAF1 ABEB FE52 FE56-FE57 FF01 FF0E FF1F FF61 10A56-10A57 10F55-10F59 10F86-10F89 "
    "11047-11048 110BE-110C1 11141-11143 111C5-111C6 111CD 111DE-111DF 11238-11239 1123B-1123C 112A9 "
    "1144B-1144C 115C2-115C3 115C9-115D7 11641-11642 1173C-1173E 11944 11946 11A42-11A43 11A9B-11A9C "
    "11C41-11C42 11EF7-11EF8 11F43-11F44 16A6E-16A6F 16AF5 16B37-16B38 16B44 16E98 1BC9F 1DA88"
)


def _characters(ranges: str) -> str:
    bounds = [[int(bound, 16) for bound in part.split("-")] for part in ranges.split()]
    return "".join(chr(point) for first, *last in bounds for point in range(first, (last or [first])[0] + 1))


TERMINAL_MARKS: Final = _characters(_TERMINAL_RANGES)


class FineWeb(RuleSet):
    """FineWeb's own rules, in the order of its code. They are of English: FineWeb-2 has those of other languages."""

    prefix: ClassVar[str] = "fineweb"

    minimum_terminal_line_fraction: float | None = threshold(0.12, "minimum", "fineweb_terminal_line_fraction", _SOURCE)
    maximum_short_line_fraction: float | None = threshold(0.67, "maximum", "fineweb_short_line_fraction", _SOURCE)
    maximum_duplicate_line_character_fraction: float | None = threshold(
        0.01, "maximum", "fineweb_duplicate_line_character_fraction", _SOURCE
    )
    maximum_newline_word_ratio: float | None = threshold(0.3, "maximum", "fineweb_newline_word_ratio", _SOURCE)
    pass_without_terminal_lines: bool = Field(
        default=False,
        description="Let texts pass minimum_terminal_line_fraction of which no line at all ends like a sentence, such "
        "as poems. Default false: as in FineWeb (line_punct_exclude_zero of datatrove)",
    )

    def evaluate(self, signals: pa.Table) -> list[Evaluation]:
        """Apply every rule; a fraction that may be 0 is not measured where it is."""
        found = super().evaluate(signals)
        if self.pass_without_terminal_lines:
            first = found[0]
            found[0] = replace(first, values=np.where(first.values == 0, np.nan, first.values))
        return found
