"""Houlsby adapters: a bottleneck behind each sublayer, before its residual connection (Houlsby et al. 2019, 2.1)."""

from __future__ import annotations

import torch.nn.functional as F
from torch import Tensor, nn

from training.adapters.sites import HostLinear


class BottleneckLinear(HostLinear):
    """A linear layer, and behind it y + up(gelu(down(y))): the last layer of a sublayer.

    Matrices are drawn from a normal distribution of deviation 1e-3 cut at two deviations, as in the published code, so
    that the sublayer begins as nearly what it was. The dropout of the sublayer comes behind the adapter.
    """

    def __init__(self, linear: nn.Linear, width: int) -> None:
        super().__init__(linear)
        self.down = nn.Linear(linear.out_features, width)
        self.up = nn.Linear(width, linear.out_features)
        for layer in (self.down, self.up):
            nn.init.trunc_normal_(layer.weight, std=1e-3, a=-2e-3, b=2e-3)
            nn.init.zeros_(layer.bias)

    def forward(self, x: Tensor) -> Tensor:
        """(..., O) of (..., I)."""
        y = F.linear(x, self.weight, self.bias)
        added: Tensor = self.up(F.gelu(self.down(y)))
        return y + added
