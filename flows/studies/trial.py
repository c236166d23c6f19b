"""A trial of a study, one training under its own settings, and what came of it."""

from __future__ import annotations

import math
import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Literal

State = Literal["finished", "diverged", "failed", "pruned"]
Parameter = float | int | str | bool

_NAME = re.compile(r"[a-z0-9][a-z0-9.-]{0,99}")


@dataclass(frozen=True)
class Trial:
    """A training of the study's base recipe with overrides of its own."""

    name: str
    """Lower case letters, digits, hyphens and dots; the only one of this name in the study."""
    overrides: tuple[str, ...] = ()
    """`key=value` settings of the run recipe, put behind those of the study."""
    parameters: Mapping[str, Parameter] = field(default_factory=dict)
    """What varies from trial to trial: parameters in MLflow, and a column of the catalog."""

    def __post_init__(self) -> None:
        if not _NAME.fullmatch(self.name):
            raise ValueError(
                f"trial {self.name!r}: a name has up to 100 lower case letters, digits, hyphens and dots, and begins "
                "with a letter or a digit"
            )


@dataclass(frozen=True)
class Point:
    """One held-out evaluation within a training."""

    step: int
    tokens: int
    """Trained on up to there."""
    flops: float
    """Of the training up to there: the trainer's FLOPs of a token (PaLM, appendix B) times the tokens."""
    loss: float
    """Held-out, in nats per token."""


@dataclass(frozen=True)
class Outcome:
    """What came of a trial."""

    trial: Trial
    state: State
    """diverged: the loss became no number, or the trainer gave up; pruned: stopped by the study."""
    error: str = ""
    """Why a trial did not finish."""
    loss: float = math.nan
    """Held-out, of the last evaluation, in nats per token; NaN where there was none."""
    curve: tuple[Point, ...] = ()
    parameters: int = 0
    """All that are trained; what is tied is counted once."""
    matrix_parameters: int = 0
    """Those in matrix products that tokens pass through: the blocks' and the vocabulary head's (tied or not), without
    look-ups in embeddings. It is the N of 6 N in the trainer's FLOPs of a token."""
    tokens: int = 0
    flops: float = 0.0
    seconds: float = 0.0
    """Of the training's steps alone, without start, evaluations and checkpoints, as far as its journal tells."""
    overhead: float = 0.0
    """Seconds of the trial beside the training process's own: orchestration, start of the model, commit. Waiting for
    the study's limit, or for another process at the same training, is none of it. 0 where the training was done
    before."""
    cost: Mapping[str, float] = field(default_factory=dict)
    """kilowatt_hours, carbon_grams, money, device_hours, as far as they are known."""
    fingerprint: str = ""
    """Of the training in the store."""
    checkpoint: str = ""
    """Folder of the last checkpoint; empty where there is none."""
    guard: Mapping[str, float] = field(default_factory=dict)
    """Settings of training.guard that a training which did not finish was watched under."""

    @property
    def finished(self) -> bool:
        """Whether the training came to its end."""
        return self.state == "finished"

    def as_json(self) -> dict[str, Any]:
        """The outcome as JSON values: what is no number becomes null."""
        return {
            "trial": self.trial.name,
            "overrides": list(self.trial.overrides),
            "parameters": dict(self.trial.parameters),
            "state": self.state,
            "error": self.error,
            "loss": _number(self.loss),
            "curve": [[point.step, point.tokens, point.flops, _number(point.loss)] for point in self.curve],
            "parameter_count": self.parameters,
            "matrix_parameters": self.matrix_parameters,
            "tokens": self.tokens,
            "flops": self.flops,
            "seconds": self.seconds,
            "overhead": self.overhead,
            "cost": dict(self.cost),
            "fingerprint": self.fingerprint,
            "checkpoint": self.checkpoint,
            "guard": dict(self.guard),
        }

    @classmethod
    def from_json(cls, values: Mapping[str, Any]) -> Outcome:
        """Read `as_json` back. Raises KeyError, TypeError or ValueError for anything else."""
        if values["state"] not in ("finished", "diverged", "failed", "pruned"):
            raise ValueError(f"state {values['state']!r}")
        return cls(
            Trial(values["trial"], tuple(values["overrides"]), dict(values["parameters"])),
            values["state"],
            str(values["error"]),
            _float(values["loss"]),
            tuple(
                Point(int(step), int(tokens), float(flops), _float(loss))
                for step, tokens, flops, loss in values["curve"]
            ),
            int(values["parameter_count"]),
            int(values["matrix_parameters"]),
            int(values["tokens"]),
            float(values["flops"]),
            float(values["seconds"]),
            float(values["overhead"]),
            {name: float(value) for name, value in values["cost"].items()},
            str(values["fingerprint"]),
            str(values["checkpoint"]),
            {name: float(value) for name, value in values.get("guard", {}).items()},
        )


def _point(step: Any, tokens: Any, flops: Any, loss: Any) -> Point:
    return Point(int(step), int(tokens), float(flops), _float(loss))


def _number(value: float) -> float | None:
    return value if math.isfinite(value) else None


def _float(value: Any) -> float:
    return math.nan if value is None else float(value)
