"""Rules as data: a rule set is a config model whose fields are thresholds, each bound to the signal that it judges.

A rule's name is the path of its threshold in the filter's configuration, such as `gopher_quality.minimum_words`.
"""

from dataclasses import dataclass
from typing import Any, ClassVar, Literal, Self

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray
from pydantic import Field, model_validator

from pipeline.stage import StageConfig

Bound = Literal["minimum", "maximum"]
Overrides = dict[str, dict[str, float | None]]


@dataclass(frozen=True)
class Rule:
    """A document fails where its signal is below the minimum, or above the maximum. A null signal never fails."""

    name: str
    signal: str
    bound: Bound
    threshold: float | None  # None: the rule is off
    source: str


@dataclass(frozen=True)
class Evaluation:
    """One rule applied to many documents."""

    rule: str
    signal: str
    bound: Bound
    values: NDArray[np.float64]  # (documents,) NaN: not measured, the rule does not apply
    thresholds: NDArray[np.float64]  # (documents,) NaN: the rule is off for the document's language
    source: str

    @property
    def failed(self) -> NDArray[np.bool_]:
        """Which documents break the rule; a value equal to its threshold does not."""
        if self.bound == "minimum":
            return self.values < self.thresholds
        return self.values > self.thresholds


def threshold(default: float | None, bound: Bound, signal: str, source: str) -> Any:
    """A field of a rule set: the published threshold of a signal, with its source. None switches the rule off."""
    return Field(
        default=default,
        ge=0,
        le=_most(signal),
        allow_inf_nan=False,
        description=f"{bound} of {signal}; null switches the rule off. Default {default}: {source}",
        json_schema_extra={"signal": signal, "bound": bound, "source": source},
    )


def _most(signal: str) -> float | None:
    return 1 if signal.endswith(("_fraction", "_score")) else None


class RuleSet(StageConfig):
    """Thresholds of one published set of rules, and what differs by language."""

    prefix: ClassVar[str]
    default_overrides: ClassVar[Overrides] = {}

    overrides: Overrides = Field(
        default={},
        description="Thresholds by language: {language: {threshold: value or null}}. They are laid over the "
        "default ones of that language; null switches a rule off.",
    )

    @model_validator(mode="before")
    @classmethod
    def _add_default_overrides(cls, values: Any) -> Any:
        if isinstance(values, dict) and isinstance(values.get("overrides", {}), dict):
            merged = {**cls.default_overrides, **values.get("overrides", {})}
            for language, given in merged.items():
                if isinstance(given, dict):
                    merged[language] = {**cls.default_overrides.get(language, {}), **given}
            return {**values, "overrides": merged}
        return values

    @model_validator(mode="after")
    def _check(self) -> Self:
        most = {rule.name.removeprefix(f"{self.prefix}."): _most(rule.signal) for rule in self.rules()}
        for language, values in self.overrides.items():
            for name, value in values.items():
                if name not in most:
                    raise ValueError(f"overrides.{language}: no threshold {name!r}; allowed: {', '.join(most)}")
                limit = most[name] or np.finfo(float).max
                if value is not None and not 0 <= value <= limit:
                    raise ValueError(f"overrides.{language}.{name} is {value}; it must be null, or from 0 to {limit:g}")
        for language in ("", *self.overrides):
            limits = {(rule.bound, rule.signal): rule for rule in self.rules(language)}
            for (bound, signal), rule in limits.items():
                upper = limits.get(("maximum", signal)) if bound == "minimum" else None
                if upper and None not in (rule.threshold, upper.threshold) and rule.threshold > upper.threshold:  # type: ignore[operator]
                    where = f" for language {language!r}" if language else ""
                    raise ValueError(
                        f"{rule.name} ({rule.threshold}) is above {upper.name} ({upper.threshold}){where}: "
                        "every document would fail"
                    )
        return self

    def rules(self, language: str = "") -> list[Rule]:
        """The rules in their order, with the thresholds that hold for a language."""
        override = self.overrides.get(language, {})
        found = []
        for name, field in type(self).model_fields.items():
            extra = field.json_schema_extra
            if isinstance(extra, dict) and "bound" in extra:
                value = override.get(name, getattr(self, name))
                found.append(Rule(f"{self.prefix}.{name}", extra["signal"], extra["bound"], value, extra["source"]))  # type: ignore[arg-type]
        return found

    def evaluate(self, signals: pa.Table) -> list[Evaluation]:
        """Apply every rule to every document of a signals table, whose column `language` picks the thresholds."""
        languages = signals["language"].combine_chunks().dictionary_encode()
        codes = languages.indices.to_numpy(zero_copy_only=False)
        by_language = [self.rules(language or "") for language in languages.dictionary.to_pylist()]
        return [
            Evaluation(
                rule.name,
                rule.signal,
                rule.bound,
                float_column(signals, rule.signal),
                _pick([rules[number].threshold for rules in by_language], codes),
                rule.source,
            )
            for number, rule in enumerate(self.rules())
        ]


def _pick(thresholds: list[float | None], codes: NDArray) -> NDArray[np.float64]:
    choices = np.array([np.nan if value is None else value for value in thresholds] or [np.nan], np.float64)
    return choices[codes]


def float_column(table: pa.Table, name: str) -> NDArray[np.float64]:
    """A numeric column as float64, nulls as NaN. Raises ValueError where the table lacks it."""
    if name not in table.column_names:
        raise ValueError(f"the signals have no column {name!r}; run the annotate stage again")
    return table[name].combine_chunks().cast(pa.float64()).to_numpy(zero_copy_only=False)


def first_failure(evaluations: list[Evaluation], documents: int) -> NDArray[np.int64]:
    """Number of the first rule that each document fails, or -1 where it fails none."""
    first = np.full(documents, -1, np.int64)
    for number, evaluation in enumerate(evaluations):
        first[(first < 0) & evaluation.failed] = number
    return first
