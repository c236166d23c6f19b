"""The toxicity rules: how many bad words a document may hold, and which categories of URLs go."""

from typing import ClassVar, Final

import numpy as np
import pyarrow as pa
from pydantic import Field

from pipeline.quality.rules import Evaluation, Rule, RuleSet, threshold

_C4: Final = "Raffel et al. 2020, section 2.2: a page with any bad word goes"
_FRACTION: Final = "off; a milder rule in place of the first, for which no threshold is agreed on"
_URL: Final = "off; after Penedo et al. 2023 (RefinedWeb), appendix G.1, whose words are not published"
_CATEGORIES: Final = "Penedo et al. 2023 (RefinedWeb), appendix G.1"


class ToxicityRules(RuleSet):
    """Rules over the signals of the word lists and of the URL categories."""

    prefix: ClassVar[str] = "toxicity"

    blocked_categories: list[str] | None = Field(
        default=None,
        min_length=1,
        description="Categories whose documents go, such as [adult], of those that the annotator looks for; "
        f"null: none. Source of the rule: {_CATEGORIES}",
    )
    maximum_bad_words: float | None = threshold(0, "maximum", "bad_words", _C4)
    maximum_bad_word_fraction: float | None = threshold(None, "maximum", "bad_word_fraction", _FRACTION)
    maximum_url_bad_words: float | None = threshold(None, "maximum", "url_bad_words", _URL)

    def evaluate(self, signals: pa.Table) -> list[Evaluation]:
        """`toxicity.blocked_categories` first: value 1 for a URL of such a category, 0 for another, NaN for none.

        Signals may be missing whose rules are all off. Raises ValueError for another that is missing.
        """
        blocked = self._blocked(signals)
        for rule in self.rules():
            off = all(one.threshold is None for one in self._in_all_languages(rule.name))
            if off and rule.signal not in signals.column_names:
                signals = signals.append_column(rule.signal, pa.nulls(signals.num_rows, pa.float64()))
        return [blocked, *super().evaluate(signals)]

    def _in_all_languages(self, name: str) -> list[Rule]:
        return [rule for code in ("", *self.overrides) for rule in self.rules(code) if rule.name == name]

    def _blocked(self, signals: pa.Table) -> Evaluation:
        documents = signals.num_rows
        values, thresholds = np.full(documents, np.nan), np.full(documents, np.nan)
        if self.blocked_categories is not None:
            if "url_categories" not in signals.column_names:
                raise ValueError(
                    "the signals have no column 'url_categories'; run the annotate stage with URL categories"
                )
            found = signals["url_categories"].combine_chunks().dictionary_encode()
            blocked = set(self.blocked_categories)
            member = np.array([not blocked.isdisjoint(names.split(",")) for names in found.dictionary.to_pylist()])
            known = found.indices.is_valid().to_numpy(zero_copy_only=False)
            values[known] = member.astype(np.float64)[found.indices.drop_null().to_numpy()]
            thresholds[:] = 0
        return Evaluation("toxicity.blocked_categories", "url_categories", "maximum", values, thresholds, _CATEGORIES)
