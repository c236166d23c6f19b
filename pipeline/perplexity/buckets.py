"""CCNet's buckets: head, middle and tail of a language by perplexity, and the rules that decide by them.

Source: Wenzek et al. 2020 (CCNet), section 3.4: the corpus of each language is split into three even parts by
perplexity. (Its code cuts at percentiles 30 and 60 of a table: `percentile_head` and `percentile_tail`.)
"""

from collections.abc import Mapping, Sequence
from typing import Any, ClassVar, Final, Literal, Self

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from numpy.typing import NDArray
from pydantic import Field, model_validator

from pipeline.quality.rules import Evaluation, RuleSet, threshold

Bucket = Literal["head", "middle", "tail"]

STEPS: Final = 1000
"""The summary of a perplexity stage holds the percentiles 0, 0.1, ..., 100 of each language."""

_KEPT: Final[list[Bucket]] = ["head", "middle"]
_CCNET: Final = "Wenzek et al. 2020 (CCNet), section 3.4"


def buckets(
    perplexity: pa.Array | pa.ChunkedArray,
    languages: pa.Array | pa.ChunkedArray,
    cuts: Mapping[str, tuple[float, float]],
) -> pa.StringArray:
    """The bucket of each document, null where its perplexity is null or its language has no cuts.

    head is below the first cut of the language, middle below the second, tail the rest.
    """
    values = _chunk(perplexity).cast(pa.float64()).to_numpy(zero_copy_only=False)
    encoded = _chunk(languages).dictionary_encode()
    missing = (np.nan, np.nan)
    by_language = np.array([*(cuts.get(name, missing) for name in encoded.dictionary.to_pylist()), missing])
    codes = pc.fill_null(encoded.indices, len(by_language) - 1).to_numpy(zero_copy_only=False)
    head, tail = by_language[codes].T
    known = ~(np.isnan(values) | np.isnan(head))
    numbers = np.where(values < head, 0, np.where(values < tail, 1, 2))
    taken = pa.array(numbers, pa.int64(), mask=~known)
    return pa.array(["head", "middle", "tail"], pa.string()).take(taken)  # type: ignore[return-value]


def quantiles(perplexity: NDArray[np.float64]) -> list[float]:
    """Percentiles 0, 0.1, ..., 100 of finite perplexities, interpolated linearly; empty where there are none.

    Depends on the values alone, not on their order.
    """
    if len(perplexity) == 0:
        return []
    found = np.quantile(np.sort(perplexity), np.linspace(0, 1, STEPS + 1))
    return [float(value) for value in found]


def cut_points(summary: Mapping[str, Any], head: float, tail: float) -> dict[str, tuple[float, float]]:
    """The two cuts of each language at percentiles `head` and `tail`, of a perplexity stage's summary.

    A language without a document to take percentiles of has none.
    """
    return {
        language: (found["quantiles"][round(head * STEPS / 100)], found["quantiles"][round(tail * STEPS / 100)])
        for language, found in summary["languages"].items()
        if found["quantiles"]
    }


def _percentile(default: float, which: str) -> Any:
    return Field(
        default=default,
        ge=0,
        le=100,
        description=f"Percentile of a language's perplexities at which {which}, in steps of 0.1. Default {default}: "
        f"three even parts ({_CCNET}); CCNet's code takes 30 and 60. Documents of the reference sources do not count",
    )


class PerplexityRules(RuleSet):
    """Rules over a document's perplexity under the model of its language. Without a model a document passes."""

    prefix: ClassVar[str] = "perplexity"

    buckets: list[Bucket] | None = Field(
        default=_KEPT,
        min_length=1,
        description=f"Buckets that stay, of head, middle and tail; null: all. Default head and middle: {_CCNET} "
        "finds the tail the worst to train on",
    )
    head_percentile: float = _percentile(33.3, "the head ends")
    tail_percentile: float = _percentile(66.7, "the tail begins")
    maximum_perplexity: float | None = threshold(
        None, "maximum", "perplexity", "none is published: a value depends on the model"
    )

    @model_validator(mode="after")
    def _check_percentiles(self) -> Self:
        for name in ("head_percentile", "tail_percentile"):
            value = getattr(self, name)
            if abs(value * 10 - round(value * 10)) > 1e-9:
                raise ValueError(f"{name} is {value}; percentiles are known in steps of 0.1")
        if self.head_percentile > self.tail_percentile:
            raise ValueError(
                f"head_percentile ({self.head_percentile}) is above tail_percentile ({self.tail_percentile})"
            )
        return self

    def cuts(self, summary: Mapping[str, Any]) -> dict[str, tuple[float, float]]:
        """The cuts of each language at these percentiles, of a perplexity stage's summary."""
        return cut_points(summary, self.head_percentile, self.tail_percentile)

    def evaluate(self, signals: pa.Table) -> list[Evaluation]:
        """`perplexity.buckets` first: value 1 for a bucket that stays, 0 for another, NaN without a bucket.

        Reads the columns language, perplexity and perplexity_bucket. Raises ValueError where one is missing.
        """
        documents = signals.num_rows
        values, thresholds = np.full(documents, np.nan), np.full(documents, np.nan)
        if self.buckets is not None:
            if "perplexity_bucket" not in signals.column_names:
                raise ValueError("the signals have no column 'perplexity_bucket'; run the perplexity stage")
            values, thresholds = _membership(signals["perplexity_bucket"], self.buckets), np.ones(documents)
        rule = Evaluation("perplexity.buckets", "perplexity_bucket", "minimum", values, thresholds, _CCNET)
        return [rule, *super().evaluate(signals)]


def _membership(column: pa.ChunkedArray, allowed: Sequence[str]) -> NDArray[np.float64]:
    member = pc.is_in(column, value_set=pa.array([*allowed], pa.string())).cast(pa.float64())
    return pc.if_else(column.is_valid(), member, pa.scalar(None, pa.float64())).to_numpy()


def _chunk(column: pa.Array | pa.ChunkedArray) -> pa.Array:
    return column.combine_chunks() if isinstance(column, pa.ChunkedArray) else column  # type: ignore[return-value]
