"""The language rules: which languages stay, and how sure the classifier must be."""

from typing import ClassVar

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from pydantic import Field

from pipeline.quality.rules import Evaluation, RuleSet, threshold

_FINEWEB = "Penedo et al. 2024 (FineWeb), section 3.3"


class LanguageRules(RuleSet):
    """Rules over the document's likeliest language, its score, and the two checks of it."""

    prefix: ClassVar[str] = "language"

    allowed: list[str] | None = Field(
        default=None,
        min_length=1,
        description="Codes of the languages that stay, such as [en, zh]; null: all of them",
    )
    minimum_score: float | None = threshold(0.65, "minimum", "language_score", _FINEWEB)
    maximum_other_language_fraction: float | None = threshold(
        None, "maximum", "other_language_fraction", "none is published: documents that mix languages stay"
    )
    minimum_script_fraction: float | None = threshold(
        None, "minimum", "language_script_fraction", "none is published: letters of another script than the language's"
    )

    def evaluate(self, signals: pa.Table) -> list[Evaluation]:
        """`language.allowed` first: value 1 for an allowed language, 0 for another."""
        documents = signals.num_rows
        if self.allowed is None:
            values, thresholds = np.full(documents, np.nan), np.full(documents, np.nan)
        else:
            member = pc.is_in(signals["language"], value_set=pa.array(self.allowed, pa.string()))
            values, thresholds = member.to_numpy().astype(np.float64), np.ones(documents)
        allowed = Evaluation("language.allowed", "language", "minimum", values, thresholds, "the recipe")
        return [allowed, *super().evaluate(signals)]
