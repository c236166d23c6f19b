"""Weights that are numbers."""

from __future__ import annotations

import torch
from torch import nn


def first_not_finite(model: nn.Module) -> str | None:
    """The name of the first tensor of a model that holds NaN or infinity; None where all are numbers."""
    for name, tensor in model.state_dict().items():
        if tensor.is_floating_point() and not bool(torch.isfinite(tensor).all()):
            return name
    return None
