"""Weights, and activations, of fewer bits.

    config.py      QuantizationConfig
    arithmetic.py  floats to integers and back; two integers of four bits in a byte
    layers.py      linear layers that multiply by integers
    simulation.py  linear layers that train as if they did
    conversion.py  quantize, prepare_qat, convert, save, restore: whole models

The matrices of the blocks are quantized; embeddings, the head of the vocabulary, norms and biases stay float32.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from training.compression.quantization.config import QuantizationConfig

if TYPE_CHECKING:
    from training.compression.quantization.conversion import convert, prepare_qat, quantize, restore, save

__all__ = ["QuantizationConfig", "convert", "prepare_qat", "quantize", "restore", "save"]


def __getattr__(name: str) -> Any:
    # Late, so that a config can be read without torch.
    if name not in __all__:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    from training.compression.quantization import conversion

    return getattr(conversion, name)
