"""The encoding rule: text whose bytes were read in the wrong encoding.

The threshold is Headrace's own: 5,000 passages of real Chinese text (`pipeline.quality.chinese`) have up to 0.016
garbled characters, most of them private use; the same read as GBK, Latin-1 or Windows-1252 have 0.38 and more.
"""

from typing import ClassVar

from pipeline.quality.rules import RuleSet, threshold


class Encoding(RuleSet):
    """Garbled characters (`pipeline.quality.characters`), in any language."""

    prefix: ClassVar[str] = "encoding"

    maximum_garbled_fraction: float | None = threshold(0.02, "maximum", "garbled_fraction", "Headrace's own")
