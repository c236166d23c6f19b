"""Maximal update parametrisation: what is multiplied by how much as a model grows, so that its best rates stay.

With the initialisation `mup`, r = width / mup_base_width, l = layers / mup_base_layers (1 where that is not set), and
the exponent of depth a:

| multiplied | matrices of the blocks | gains and biases of the blocks | embeddings, head, last gains |
|---|---|---|---|
| rate of AdamW, Lion | 1/r l^(a-1) | l^(a-1) | 1 |
| rate of LAMB | 1/sqrt(r) l^(a-1) | l^(a-1) | 1 |
| rate of SGD | l^(2a-1) | r l^(2a-1) | r |
| rate of Muon | l^(a-1) | | |
| epsilon of AdamW, LAMB | 1/r l^-a | 1/r l^-a | 1/r |

Besides, what the head reads is divided by r, what a block adds to the stream by l^a, and the scores of attention by the
width of a head over the root of mup_base_head_width, where that is set. Sources: Yang et al. 2022 (Tensor Programs V),
table 8, for width with AdamW and SGD; Yang et al. 2023 (Tensor Programs VI), table 1, for depth with a = 1/2; Dey et
al. 2025 (CompleteP, arXiv:2505.01618), table 1, for other exponents and for epsilon. Lion's steps have one size as
Adam's. LAMB's are as long as the matrix, whose norm grows as sqrt(r) while that of Adam's step grows as r: the root of
r is left. Muon's orthogonal step, scaled by sqrt(rows / columns), has the spectral norm that any width asks for (Yang,
Simon & Bernstein 2023, A Spectral Condition for Feature Learning), so that only depth is left.

Holds where a model grows by heads of one width (keys and values with the queries) and a feed-forward layer in
proportion.
"""

from __future__ import annotations

import math
from typing import Literal, NamedTuple

from training.config import ModelConfig

Method = Literal["adamw", "sgd", "lion", "lamb", "muon"]


class Scale(NamedTuple):
    """Factors on the settings of an optimiser for some parameters."""

    rate: float = 1.0
    decay: float = 1.0
    """Weights shrink alike at every size: what the rate loses, decoupled decay gets; LAMB's is part of a step that is
    scaled as a whole, and keeps its share of it."""
    epsilon: float = 1.0


def branch(config: ModelConfig) -> float:
    """Factor on what each half of a block adds to the residual stream."""
    return _depth(config) ** -config.mup_depth_exponent


def query(config: ModelConfig) -> float:
    """Factor on queries, whose products with keys attention divides by the root of a head's width."""
    if config.initialization != "mup" or config.mup_base_head_width is None:
        return 1.0
    return math.sqrt(config.mup_base_head_width / config.width_of_head)


def output(config: ModelConfig) -> float:
    """Factor on what the vocabulary head reads."""
    return 1 / _width(config)


def scale(config: ModelConfig, method: Method, of_block: bool, matrix: bool) -> Scale:
    """Factors for the parameters of the blocks (`of_block`) or of what is around them, matrices or vectors."""
    r, layers, a = _width(config), _depth(config) if of_block else 1.0, config.mup_depth_exponent
    width, depth = 1.0, layers ** (a - 1)
    if method == "sgd":
        width, depth = 1.0 if of_block and matrix else r, layers ** (2 * a - 1)
    elif of_block and matrix:
        width = {"adamw": 1 / r, "lion": 1 / r, "lamb": r**-0.5, "muon": 1.0}[method]
    rate = width * depth
    return Scale(rate, 1 / width if method == "lamb" else 1 / rate, layers**-a / r)


def _width(config: ModelConfig) -> float:
    return config.width / config.mup_base_width if config.initialization == "mup" else 1.0


def _depth(config: ModelConfig) -> float:
    if config.initialization != "mup" or config.mup_base_layers is None:
        return 1.0
    return config.layers / config.mup_base_layers
