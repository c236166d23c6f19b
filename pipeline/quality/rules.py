"""Rules as data: a rule set is a config model whose fields are thresholds, each bound to the signal that it judges.

A rule's name is the path of its threshold in the filter's configuration, such as `gopher_quality.minimum_words`.
"""

import difflib
from collections.abc import Collection, Iterable, Mapping
from dataclasses import dataclass
from typing import Any, ClassVar, Literal, Self

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray
from pydantic import Field, model_validator

from pipeline.stage import StageConfig
from pipeline.store import fingerprint

Bound = Literal["minimum", "maximum"]
Overrides = dict[str, dict[str, float | None]]
LanguageDefaults = Mapping[str, Mapping[str, float | None]]


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


def did_you_mean(name: str, known: Iterable[str]) -> str:
    """The end of a sentence about an unknown name: the known ones that are near it, or nothing."""
    near = difflib.get_close_matches(name, [*known], n=3, cutoff=0.5)
    return f"; did you mean {' or '.join(map(repr, near))}?" if near else ""


class RuleSet(StageConfig):
    """Thresholds of one published set of rules, and what differs by language.

    The threshold that holds for a language is the recipe's for that language (`overrides`); else none where the recipe
    switches the rule off (null); else the set's own for that language (`language_defaults`); else the field's value.
    """

    prefix: ClassVar[str]
    languages: ClassVar[Collection[str] | None] = None
    """Codes of the languages that the set is for; for others its rules are off, unless `overrides` names them."""
    default_overrides: ClassVar[Overrides] = {}

    overrides: Overrides = Field(
        default={},
        description="Thresholds by language: {language: {threshold: value or null}}. They are laid over the "
        "default ones of that language; null switches a rule off.",
    )

    @classmethod
    def language_defaults(cls) -> LanguageDefaults:
        """The set's own thresholds by language: only those that differ from the fields' defaults."""
        return cls.default_overrides

    @classmethod
    def signal_of(cls) -> dict[str, str]:
        """The signal of each threshold, by the name of the threshold, in the order of the rules."""
        extras = {name: field.json_schema_extra for name, field in cls.model_fields.items()}
        return {
            name: str(extra["signal"]) for name, extra in extras.items() if isinstance(extra, dict) and "bound" in extra
        }

    @model_validator(mode="before")
    @classmethod
    def _check_names(cls, values: Any) -> Any:
        for name in values if isinstance(values, dict) else ():
            if name not in cls.model_fields:
                raise ValueError(f"{cls.prefix} has no rule or option {name!r}{did_you_mean(name, cls.model_fields)}")
        return values

    @model_validator(mode="after")
    def _check(self) -> Self:
        signals = self.signal_of()
        for language, values in self.overrides.items():
            for name, value in values.items():
                if name not in signals:
                    raise ValueError(
                        f"overrides.{language}: no threshold {name!r}{did_you_mean(name, signals)} "
                        f"Allowed: {', '.join(signals)}"
                    )
                limit = _most(signals[name]) or np.finfo(float).max
                if value is not None and not 0 <= value <= limit:
                    raise ValueError(f"overrides.{language}.{name} is {value}; it must be null, or from 0 to {limit:g}")
        self._check_order()
        return self

    def _check_order(self) -> None:
        """No minimum of a signal may be above its maximum, for any language."""
        by_bound = {
            bound: {signal: name for name, signal in self.signal_of().items() if name.startswith(bound)}
            for bound in ("minimum", "maximum")
        }
        pairs = [
            (name, by_bound["maximum"][signal])
            for signal, name in by_bound["minimum"].items()
            if signal in by_bound["maximum"]
        ]
        for language in ("", *self.language_defaults(), *self.overrides) if pairs else ():
            for lower, upper in pairs:
                least, most = self._threshold(lower, language), self._threshold(upper, language)
                if least is not None and most is not None and least > most:
                    where = f" for language {language!r}" if language else ""
                    raise ValueError(
                        f"{self.prefix}.{lower} ({least}) is above {self.prefix}.{upper} ({most}){where}: "
                        "every document would fail"
                    )

    def _threshold(self, name: str, language: str) -> float | None:
        own = self.overrides.get(language, {})
        if name in own:
            return own[name]
        value = getattr(self, name)
        if value is None and type(self).model_fields[name].default is not None:
            return None
        if language and self.languages is not None and language not in self.languages:
            return None
        return self.language_defaults().get(language, {}).get(name, value)

    def identity(self) -> dict[str, Any]:
        """What its decisions follow from, as JSON: the configuration, and a digest of the set's own thresholds."""
        defaults = {language: dict(values) for language, values in self.language_defaults().items()}
        return {**self.model_dump(mode="json"), "language_defaults": fingerprint(self.prefix, 1, defaults, {})}

    def rules(self, language: str = "") -> list[Rule]:
        """The rules in their order, with the thresholds that hold for a language."""
        found = []
        for name in self.signal_of():
            extra: Any = type(self).model_fields[name].json_schema_extra
            value = self._threshold(name, language)
            found.append(Rule(f"{self.prefix}.{name}", extra["signal"], extra["bound"], value, extra["source"]))
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
    column = table[name]
    array = column.chunk(0) if column.num_chunks == 1 else column.combine_chunks()
    if array.null_count or not pa.types.is_primitive(array.type):
        array = array.cast(pa.float64())
    return array.to_numpy(zero_copy_only=False).astype(np.float64, copy=False)


def first_failure(evaluations: list[Evaluation], documents: int) -> NDArray[np.int64]:
    """Number of the first rule that each document fails, or -1 where it fails none."""
    first = np.full(documents, -1, np.int64)
    for number, evaluation in enumerate(evaluations):
        first[(first < 0) & evaluation.failed] = number
    return first
