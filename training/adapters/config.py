"""Which parameters of a model are trained, and what is put beside them."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any, ClassVar, Literal

from training.config.reading import STRICT, at_least, positive, within

Method = Literal["full", "frozen", "bitfit", "lora", "adalora", "houlsby", "prefix"]
Target = Literal[
    "query",
    "key",
    "value",
    "attention_output",
    "gate",
    "up",
    "down",
    "relative",
    "qkv",
    "key_value",
    "mlp_input",
    "all",
]


@dataclass(frozen=True)
class AdapterConfig:
    """How a model is adapted to a task; a head of the task is trained whatever the method."""

    __pydantic_config__: ClassVar[dict[str, Any]] = STRICT

    method: Method = "full"
    """full: all weights; frozen: none; bitfit: the biases (Ben Zaken et al. 2022); lora: a product of two thin matrices
    beside a matrix (Hu et al. 2022); adalora: the same with singular values, of which a budget leaves the important
    ones (Zhang et al. 2023); houlsby: a bottleneck behind each sublayer, and the norms (Houlsby et al. 2019); prefix:
    keys and values before those of the tokens in each layer (Li & Liang 2021)."""
    rank: int = 8
    """lora: rows of the thin matrix."""
    alpha: float = 16.0
    """lora, adalora: the product is multiplied by alpha / rank (adalora: / initial_rank)."""
    dropout: float = 0.0
    """lora, adalora: share of what the thin matrix reads that is dropped, in training only."""
    targets: tuple[Target, ...] = ("query", "value")
    """lora, adalora: which matrices of each block. up, gate and down are those of the feed-forward layer, relative that
    of XLNet's distances; all: every one of these. Queries, keys and values lie in one matrix: qkv (mlp_input for gate
    and up, key_value in cross-attention and XLNet) puts one product beside all of it, as peft does with GPT-2's
    c_attn."""
    initial_rank: int = 12
    """adalora: rank before any singular value is set to zero."""
    target_rank: int = 8
    """adalora: mean rank at the end."""
    tinit: int = 0
    """adalora: steps before the budget begins to fall."""
    tfinal: int = 0
    """adalora: last steps, in which it does not change any more."""
    delta_t: int = 1
    """adalora: steps between two allocations of the budget."""
    beta1: float = 0.85
    """adalora: of the average of the sensitivity (Zhang et al. 2023, equation 9)."""
    beta2: float = 0.85
    """adalora: of the average of its uncertainty (equation 10)."""
    orthogonal_weight: float = 0.5
    """adalora: weight of the loss that keeps the singular vectors orthogonal."""
    bottleneck: int = 64
    """houlsby: width of the bottleneck."""
    prefix_tokens: int = 20
    """prefix: keys and values of each head and layer. Positions of the text are counted behind them."""

    def __post_init__(self) -> None:
        for name in ("rank", "initial_rank", "target_rank", "delta_t", "bottleneck", "prefix_tokens"):
            at_least(name, getattr(self, name), 1)
        for name in ("tinit", "tfinal"):
            at_least(name, getattr(self, name), 0)
        for name in ("beta1", "beta2"):
            within(name, getattr(self, name), 1e-6, 0.999999)
        positive("alpha", self.alpha)
        within("dropout", self.dropout, 0.0, 0.99)
        within("orthogonal_weight", self.orthogonal_weight, 0.0, math.inf)
        if self.method == "adalora" and self.target_rank > self.initial_rank:
            raise ValueError(f"target_rank must not exceed initial_rank = {self.initial_rank}, got {self.target_rank}")
        if not self.targets:
            raise ValueError("targets must name a matrix of the blocks, such as query; got none")
        doubled = {"qkv": ("query", "key", "value"), "key_value": ("key", "value"), "mlp_input": ("gate", "up")}
        for whole, parts in doubled.items():
            both = [part for part in parts if whole in self.targets and {part, "all"} & set(self.targets)]
            if both:
                raise ValueError(f"targets: {whole} holds {both[0]}; name one of the two")

    def check_steps(self, total: int) -> None:
        """Raise ValueError where a training of so many steps leaves AdaLoRA's budget no time to fall."""
        if self.method == "adalora" and self.tinit >= total - self.tfinal:
            raise ValueError(
                f"tinit ({self.tinit}) and tfinal ({self.tfinal}) leave nothing of {total} steps for the budget to "
                "fall: choose smaller ones, or train for longer"
            )
