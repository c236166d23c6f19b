"""What a search varies: settings of the run recipe, each with the values that it may take."""

from __future__ import annotations

import math
from typing import Annotated, Any, Literal

import yaml
from pydantic import Field, StrictBool, StrictFloat, StrictInt, StrictStr, model_validator

from pipeline.stage import StageConfig

Value = StrictBool | StrictInt | StrictFloat | StrictStr | None
"""What a setting may be set to: a plain value of YAML."""

_GOLDEN = 0.381966
"""Share of the way at which a range is probed between its ends: no round number, so that whole ones are told apart."""


class _Range(StageConfig):
    log: bool = Field(False, description="Draw evenly by the logarithm.")
    points: int = Field(4, ge=2, description="Values of a grid, evenly spread, both ends among them.")

    def _check(self, low: float, high: float, step: float | None) -> None:
        if not low < high:
            raise ValueError(f"low ({low:g}) must be below high ({high:g})")
        if self.log and low <= 0:
            raise ValueError(f"log needs a low above 0, not {low:g}")
        if self.log and step is not None:
            raise ValueError("log and step cannot go together")
        if step is not None and step > high - low:
            raise ValueError(f"step ({step:g}) is larger than the range from low ({low:g}) to high ({high:g})")

    def _spread(self, low: float, high: float, share: float) -> float:
        """The value that lies `share` of the way from low to high."""
        if share in (0.0, 1.0):  # logarithms would not come back to the very ends
            return high if share else low
        if self.log:
            return math.exp(math.log(low) + share * (math.log(high) - math.log(low)))
        return low + share * (high - low)

    def _shares(self) -> list[float]:
        return [index / (self.points - 1) for index in range(self.points)]


class FloatRange(_Range):
    """Numbers from low to high."""

    type: Literal["float"]
    low: float = Field(allow_inf_nan=False)
    high: float = Field(allow_inf_nan=False)
    step: float | None = Field(None, gt=0, description="Only low, low + step, ...; null: any number.")

    @model_validator(mode="after")
    def _check_range(self) -> FloatRange:
        self._check(self.low, self.high, self.step)
        return self

    def grid(self) -> list[Value]:
        """The values of a grid."""
        return list(dict.fromkeys(self.nearest(self._spread(self.low, self.high, share)) for share in self._shares()))

    def probes(self) -> list[Value]:
        """Values that stand for the range when it is checked against the recipe: its ends, and one between."""
        between = self.nearest(self._spread(self.low, self.high, _GOLDEN))
        return list(dict.fromkeys((self.low, self.nearest(self.high), between)))

    def nearest(self, value: float) -> float:
        """The value of the range next to any number."""
        if self.step is None:
            return min(max(value, self.low), self.high)
        steps = math.floor((self.high - self.low) / self.step + 1e-9)
        place = self.low + min(max(round((value - self.low) / self.step), 0), steps) * self.step
        return float(f"{place:.12g}")  # 0.3, not 0.30000000000000004

    def distribution(self) -> Any:
        """The range as Optuna knows it."""
        from optuna.distributions import FloatDistribution

        return FloatDistribution(self.low, self.nearest(self.high), log=self.log, step=self.step)


class IntRange(_Range):
    """Whole numbers from low to high."""

    type: Literal["int"]
    low: StrictInt
    high: StrictInt
    step: int = Field(1, ge=1, description="Only low, low + step, ...")

    @model_validator(mode="after")
    def _check_range(self) -> IntRange:
        self._check(self.low, self.high, None if self.step == 1 else self.step)
        return self

    def grid(self) -> list[Value]:
        """The values of a grid."""
        return list(dict.fromkeys(self.nearest(self._spread(self.low, self.high, share)) for share in self._shares()))

    def probes(self) -> list[Value]:
        """Values that stand for the range when it is checked against the recipe: its ends, and the one above low."""
        return list(dict.fromkeys((self.low, self.nearest(self.high), self.nearest(self.low + self.step))))

    def nearest(self, value: float) -> int:
        """The value of the range next to any number."""
        steps = (self.high - self.low) // self.step
        return self.low + min(max(round((value - self.low) / self.step), 0), steps) * self.step

    def distribution(self) -> Any:
        """The range as Optuna knows it."""
        from optuna.distributions import IntDistribution

        return IntDistribution(self.low, self.nearest(self.high), log=self.log, step=self.step)


class Choice(StageConfig):
    """One of some values, without an order."""

    type: Literal["categorical"]
    choices: tuple[Value, ...] = Field(min_length=2)

    @model_validator(mode="after")
    def _check_choices(self) -> Choice:
        for index, choice in enumerate(self.choices):
            if isinstance(choice, float) and not math.isfinite(choice):
                raise ValueError(f"choices holds {choice}, which is no number")
            # Optuna finds a value by ==, by which 1, 1.0 and true are one.
            if choice in self.choices[:index]:
                raise ValueError(f"choices holds {choice!r} twice, or a value that equals it")
        return self

    def grid(self) -> list[Value]:
        """The values of a grid."""
        return list(self.choices)

    def probes(self) -> list[Value]:
        """All of them are checked against the recipe."""
        return list(self.choices)

    def distribution(self) -> Any:
        """The choices as Optuna knows them."""
        from optuna.distributions import CategoricalDistribution

        return CategoricalDistribution(self.choices)


Dimension = Annotated[FloatRange | IntRange | Choice, Field(discriminator="type")]
Space = dict[str, Dimension]
"""By the dotted setting of the run recipe, such as train.optimizer.learning_rate."""


def override(key: str, value: Value) -> str:
    """A setting as `headrace run --set` takes it; YAML reads the very same value back."""
    plain = isinstance(value, str) and value.isprintable()  # other spaces and line ends come back from escapes alone
    text = yaml.safe_dump(value, default_flow_style=True, allow_unicode=plain, width=math.inf)
    return f"{key}={text.removesuffix('...' + chr(10)).strip()}"
