"""How the weights are updated."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any, ClassVar, Literal

from training.config.reading import STRICT, at_least, positive, within


@dataclass(frozen=True)
class OptimizerConfig:
    """One optimiser for all parameters, or Muon for the matrices of the trunk and AdamW for the rest."""

    __pydantic_config__: ClassVar[dict[str, Any]] = STRICT

    name: Literal["adamw", "sgd", "lion", "lamb", "muon"] = "muon"
    """AdamW (Loshchilov & Hutter 2019), SGD with Nesterov momentum, Lion (Chen et al. 2023), LAMB (You et al.
    2020), Muon (Jordan et al. 2024)."""
    learning_rate: float = 3e-3
    """Peak learning rate of all that Muon does not train."""
    muon_learning_rate: float = 2e-2
    """Peak learning rate of Muon."""
    bigram_learning_rate: float = 0.3
    """Peak learning rate of the row-wise Adagrad that trains the hashed bigram embedding."""
    beta1: float = 0.9
    beta2: float = 0.95
    epsilon: float = 1e-8
    momentum: float = 0.95
    """Nesterov momentum of Muon and SGD."""
    weight_decay: float = 0.0
    """Decoupled decay of matrices; vectors and gains are never decayed."""
    decay_embeddings: bool = True
    """Whether weight decay takes in the embeddings."""

    def __post_init__(self) -> None:
        for name in ("learning_rate", "muon_learning_rate", "bigram_learning_rate", "epsilon"):
            positive(name, getattr(self, name))
        for name in ("beta1", "beta2", "momentum"):
            within(name, getattr(self, name), 0.0, 0.999999)
        within("weight_decay", self.weight_decay, 0.0, math.inf)


@dataclass(frozen=True)
class ScheduleConfig:
    """Learning rate over the run, as a factor on its peak."""

    __pydantic_config__: ClassVar[dict[str, Any]] = STRICT

    name: Literal["wsd", "cosine", "linear", "inverse_sqrt", "constant"] = "wsd"
    """After a linear warm-up: hold, then fall linearly (wsd: warm-up, stable, decay); fall as a half cosine; fall
    linearly; fall with the root of the step (Vaswani et al. 2017, equation 3); or hold."""
    warmup_steps: int = 10
    decay_fraction: float = 0.6
    """Share of all steps over which wsd falls."""
    floor: float = 0.0
    """Factor at the last step."""

    def __post_init__(self) -> None:
        at_least("warmup_steps", self.warmup_steps, 0)
        within("decay_fraction", self.decay_fraction, 0.0, 1.0)
        within("floor", self.floor, 0.0, 1.0)
