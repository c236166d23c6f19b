"""AdaLoRA: a low-rank product with singular values, and a budget of how many of them stay (Zhang et al. 2023).

Shape suffixes: I features in, O features out, R rank.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn

from training.adapters.config import AdapterConfig
from training.adapters.low_rank import LowRank


class Triplets(LowRank):
    """What is added to a matrix (O, I): scale * up @ diag(values) @ down; one triplet for each of R (equation 3).

    `values` (R, 1) begin as zero, the vectors as normal numbers of deviation 0.02.
    """

    def __init__(self, width_in: int, width_out: int, rank: int, alpha: float, dropout: float) -> None:
        nn.Module.__init__(self)
        # The authors' code keeps the divisor as the rank falls, and adds this to it.
        self.scale = alpha / (rank + 1e-5)
        self.dropout = nn.Dropout(dropout)
        # Drawn and drawn again, for the reason given in low_rank.py.
        self.down = nn.Parameter(torch.randn(rank, width_in))
        self.values = nn.Parameter(torch.randn(rank, 1))
        self.up = nn.Parameter(torch.randn(width_out, rank))
        torch.randn(1)
        nn.init.zeros_(self.values)
        nn.init.normal_(self.down, std=0.02)
        nn.init.normal_(self.up, std=0.02)

    def reading(self) -> Tensor:
        """The matrix (R, I) that reads the input, its rows multiplied by the singular values."""
        return self.down * self.values


def orthogonality(triplets: list[Triplets]) -> Tensor:
    """How far the singular vectors are from orthonormal, the mean of the Frobenius norms (equation 4)."""
    total = torch.zeros((), device=triplets[0].down.device)
    for each in triplets:
        identity = torch.eye(each.down.shape[0], device=each.down.device)
        for gram in (each.down @ each.down.T, each.up.T @ each.up):
            total = total + torch.linalg.matrix_norm(gram - identity)
    return total / (2 * len(triplets))


class RankBudget:
    """Sets the singular values of the least important triplets to zero, as the budget falls (section 3.2 and 3.3).

    Importance is smoothed sensitivity |weight * gradient| times its uncertainty; a triplet's is that of its value plus
    the means of those of its two vectors. What is at zero is still trained, and may come back until the last steps.
    """

    def __init__(self, config: AdapterConfig, triplets: dict[str, Triplets]) -> None:
        self.config = config
        self.triplets = triplets
        self.initial = sum(each.values.numel() for each in triplets.values())
        self.target = config.target_rank * len(triplets)
        self.kept: dict[str, Tensor] = {}
        """Which triplets (R,) bool the last allocation left; empty before the first one."""
        self.sensitivity: dict[str, Tensor] = {}
        self.uncertainty: dict[str, Tensor] = {}

    def budget(self, step: int, total: int) -> int:
        """Triplets that may stay at a step of `total` (equation 12): cubic from tinit to total - tfinal."""
        first, last = self.config.tinit, total - self.config.tfinal
        if step <= first:
            return self.initial
        if step > last:
            return self.target
        return int((self.initial - self.target) * (1 - (step - first) / (last - first)) ** 3 + self.target)

    @torch.no_grad()
    def step(self, step: int, total: int) -> None:
        """Update importances and allocate the budget, after the optimiser's step and while gradients are there."""
        last = total - self.config.tfinal
        if step > last:
            self._mask()
            return
        if step < last:
            self._measure()
            if step <= self.config.tinit or step % self.config.delta_t:
                return
        self._allocate(self.budget(step, total))
        if step == last:  # nobody asks for them again
            self.sensitivity, self.uncertainty = {}, {}

    def tensors(self) -> dict[str, Tensor]:
        """State by name; `load` reads it back."""
        named = {"sensitivity": self.sensitivity, "uncertainty": self.uncertainty, "kept": self.kept}
        return {f"{kind}/{name}": tensor for kind, held in named.items() for name, tensor in held.items()}

    def load(self, tensors: dict[str, Tensor]) -> None:
        """Take up state that `tensors` gave."""
        for kind in ("sensitivity", "uncertainty", "kept"):
            prefix = f"{kind}/"
            held = {name: tensor for name, tensor in tensors.items() if name.startswith(prefix)}
            setattr(self, kind, {name.removeprefix(prefix): self._near(tensor) for name, tensor in held.items()})

    def ranks(self) -> dict[str, int]:
        """Singular values of each matrix that are not zero, by name."""
        return {name: int(each.values.count_nonzero()) for name, each in self.triplets.items()}

    def _near(self, tensor: Tensor) -> Tensor:
        return tensor.to(next(iter(self.triplets.values())).values.device, copy=True)

    def _measure(self) -> None:
        beta1, beta2 = self.config.beta1, self.config.beta2
        for name, parameter in self._parameters():
            gradient = parameter.grad
            now = torch.zeros_like(parameter) if gradient is None else (parameter * gradient).abs()
            # A gradient that is no number has changed no weight; it must not stay in the averages for ever.
            now = now.nan_to_num_(nan=0.0, posinf=0.0)
            if name not in self.sensitivity:
                self.sensitivity[name] = torch.zeros_like(parameter)
                self.uncertainty[name] = torch.zeros_like(parameter)
            self.sensitivity[name].mul_(beta1).add_(now, alpha=1 - beta1)
            distance = (now - self.sensitivity[name]).abs_()
            self.uncertainty[name].mul_(beta2).add_(distance, alpha=1 - beta2)

    def _allocate(self, budget: int) -> None:
        scores = {name: self._scores(name) for name in self.triplets}
        removed = self.initial - budget
        threshold = torch.cat(list(scores.values())).kthvalue(removed).values if removed else float("-inf")
        self.kept = {name: score > threshold for name, score in scores.items()}
        self._mask()

    def _mask(self) -> None:
        for name, kept in self.kept.items():
            self.triplets[name].values.masked_fill_(~kept[:, None], 0.0)

    def _scores(self, name: str) -> Tensor:
        """Importance (R,) of each triplet of a matrix (equations 7 and 8)."""
        down, values, up = (self._importance(f"{name}.{part}") for part in ("down", "values", "up"))
        return values.flatten() + (down.mean(1) + up.mean(0))

    def _importance(self, name: str) -> Tensor:
        return self.sensitivity[name] * self.uncertainty[name]

    def _parameters(self) -> list[tuple[str, nn.Parameter]]:
        parts = ("down", "values", "up")
        return [(f"{name}.{part}", getattr(each, part)) for name, each in self.triplets.items() for part in parts]
