"""What a model wrote after a prompt."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any


@dataclass(frozen=True)
class Hypothesis:
    """One continuation of a prompt, in ids."""

    ids: list[int]
    """Without the id that ended the text; with the tokens that completed a stop string."""
    score: float
    """Log-probability of the tokens, the end counted, divided by their number to the power `length_penalty`.

    Of beams it is that of the adjusted log-probabilities, as in transformers; else the model's own.
    """
    finished: bool
    """Whether the text ended, by its end or by a stop string, before the limit on tokens."""


@dataclass(frozen=True)
class Sample:
    """A prompt and what the model wrote after it."""

    prompt: str
    continuation: str
    tokens: int
    """Tokens generated, the end of the text not counted."""
    finished: bool
    """Whether the model ended the text itself, or a stop string did."""


def as_dicts(samples: Sequence[Sample]) -> list[dict[str, Any]]:
    """The JSON form of samples."""
    return [dataclasses.asdict(sample) for sample in samples]
