"""How a model is quantized."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, ClassVar, Literal

from training.config.reading import STRICT, at_least, within


@dataclass(frozen=True)
class QuantizationConfig:
    """The numbers that stand for the weights of the blocks, and for their activations."""

    __pydantic_config__: ClassVar[dict[str, Any]] = STRICT

    method: Literal["dynamic_int8", "weight_int8", "weight_int4", "static_int8"] = "dynamic_int8"
    """dynamic_int8: weights with a scale by output channel, activations with one by token, found as they come;
    weight_int8, weight_int4: weights alone, with a scale by group; static_int8: as dynamic_int8, with one range for all
    activations of a layer, by what a calibration has seen."""
    group_size: int = 32
    """Weights in a row that share a scale (weight_int8, weight_int4); 0, or a row that is no multiple of it: the row is
    one group. weight_int8 is fastest with 0, weight_int4 with 32, 64, 128 or 256."""
    observer: Literal["minmax", "percentile"] = "minmax"
    """static_int8: the range of an activation, from its extremes or from all but the outermost of its values. In
    training with fake quantization it is the moving average of the extremes (Jacob et al. 2018, section 3.1)."""
    percentile: float = 99.9
    """Share of the values in percent that `observer: percentile` covers."""

    def __post_init__(self) -> None:
        at_least("group_size", self.group_size, 0)
        within("percentile", self.percentile, 50.0, 100.0)

    @property
    def by_group(self) -> bool:
        """Whether only weights are quantized, by groups."""
        return self.method in ("weight_int8", "weight_int4")

    @property
    def bits(self) -> int:
        """Of a weight."""
        return 4 if self.method == "weight_int4" else 8
