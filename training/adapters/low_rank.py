"""LoRA: a product of two thin matrices beside a matrix (Hu et al. 2022, section 4.1).

Shape suffixes: N rows, I features in, O features out, R rank.
"""

from __future__ import annotations

import math

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from training.adapters.sites import HostLinear


class LowRank(nn.Module):
    """What is added to a matrix (O, I): scale * up @ down. It begins as zero.

    `down` (R, I) is drawn as torch draws linear layers (the authors' code does so, too), `up` (O, R) is zero.
    """

    def __init__(self, width_in: int, width_out: int, rank: int, scale: float, dropout: float) -> None:
        super().__init__()
        self.scale = scale
        self.dropout = nn.Dropout(dropout)
        # Two layers, drawn and drawn again: in the order in which peft draws, one seed gives both the same adapter.
        down = nn.Linear(width_in, rank, bias=False)
        nn.Linear(rank, width_out, bias=False)
        nn.init.kaiming_uniform_(down.weight, a=math.sqrt(5))
        self.down = down.weight
        self.up = nn.Parameter(torch.zeros(width_out, rank))

    def reading(self) -> Tensor:
        """The matrix (R, I) that reads the input."""
        return self.down


class LowRankLinear(HostLinear):
    """A linear layer with a low-rank product beside some of its rows: y = x W' + b + scale * dropout(x) down' up'."""

    def __init__(self, linear: nn.Linear, spans: dict[str, tuple[int, int]], adapters: dict[str, LowRank]) -> None:
        super().__init__(linear)
        self.spans = spans
        self.adapters = nn.ModuleDict(adapters)

    def forward(self, x: Tensor) -> Tensor:
        """(..., O) of (..., I)."""
        y = F.linear(x, self.weight, self.bias)
        x_NI, y_NO = x.reshape(-1, self.in_features), y.view(-1, self.out_features)
        up_OR = self._writing()
        # In the dtype of the products; with several matrices side by side two products serve them all.
        return torch.addmm(y_NO, self._read(x_NI).to(y.dtype), up_OR.T.to(y.dtype), alpha=self._scale).view_as(y)

    def delta(self) -> Tensor:
        """What the product adds to the weight (O, I), in float32."""
        reading_RI = torch.cat([adapter.reading().detach().float() for adapter in self._adapters])
        return self._scale * (self._writing().detach().float() @ reading_RI)

    @property
    def _adapters(self) -> list[LowRank]:
        return list(self.adapters.values())  # type: ignore[arg-type]

    @property
    def _scale(self) -> float:
        return self._adapters[0].scale

    def _read(self, x_NI: Tensor) -> Tensor:
        """What all the thin matrices read, side by side (N, R); each drops shares of its own."""
        adapters = self._adapters
        if self.training and adapters[0].dropout.p:
            return torch.cat([F.linear(adapter.dropout(x_NI), adapter.reading()) for adapter in adapters], -1)
        if len(adapters) == 1:
            return F.linear(x_NI, adapters[0].reading())
        return F.linear(x_NI, torch.cat([adapter.reading() for adapter in adapters]))

    def _writing(self) -> Tensor:
        """The matrix (O, R) that writes the rows of each adapter, and nothing to the other rows."""
        blocks = []
        for (begin, end), adapter in zip(self.spans.values(), self._adapters, strict=True):
            blocks.append(F.pad(adapter.up, (0, 0, begin, self.out_features - end)))
        return blocks[0] if len(blocks) == 1 else torch.cat(blocks, -1)
