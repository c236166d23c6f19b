"""Optimisers by name, over the groups of parameters that each one suits."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor, nn

from training.config import OptimizerConfig
from training.models.gpt import GPT


class OptimizerSet:
    """Several torch optimisers that step as one, with learning rates that follow one factor.

    `parts` cover each parameter of `model` once; a group's learning rate on construction is its peak.
    """

    def __init__(self, model: nn.Module, parts: Sequence[torch.optim.Optimizer]) -> None:
        self._parts = parts
        self._names: dict[Tensor, str] = {parameter: name for name, parameter in model.named_parameters()}
        self._peaks = [[group["lr"] for group in part.param_groups] for part in parts]

    def step(self, factor: float) -> None:
        """Update every parameter at `factor` of its peak learning rate."""
        for part, peaks in zip(self._parts, self._peaks, strict=True):
            for group, peak in zip(part.param_groups, peaks, strict=True):
                group["lr"] = peak * factor
            part.step()

    def zero_grad(self) -> None:
        """Drop all gradients."""
        for part in self._parts:
            part.zero_grad(set_to_none=True)

    def state_tensors(self) -> dict[str, Tensor]:
        """The state of every parameter as `<parameter name>/<key>`."""
        return {
            f"{self._names[parameter]}/{key}": torch.as_tensor(value)
            for part in self._parts
            for parameter, state in part.state.items()
            for key, value in state.items()
        }

    def load_state_tensors(self, tensors: dict[str, Tensor]) -> None:
        """Take up what `state_tensors` returned."""
        states: dict[str, dict[str, Tensor]] = {}
        for path, tensor in tensors.items():
            name, key = path.rsplit("/", 1)
            states.setdefault(name, {})[key] = tensor
        for part in self._parts:
            for group in part.param_groups:
                for parameter in group["params"]:
                    state = states.get(self._names[parameter], {})
                    part.state[parameter] = {
                        key: tensor.to(parameter.device, copy=True) for key, tensor in state.items()
                    }


class Muon(torch.optim.Optimizer):
    """Momentum whose update is made orthogonal, for the matrices of the trunk (Jordan et al. 2024).

    Nesterov momentum; five Newton-Schulz steps of degree five; the update is scaled by sqrt(max(1, rows / columns)).
    `split` (a group's setting) cuts a matrix by rows into that many independent ones, such as query, key and value.
    `dtype` is that of the Newton-Schulz steps; bfloat16 is enough for them.
    """

    def __init__(
        self, groups: list[dict[str, Any]], lr: float, momentum: float, weight_decay: float, dtype: torch.dtype
    ) -> None:
        super().__init__(groups, {"lr": lr, "momentum": momentum, "weight_decay": weight_decay, "split": 1})
        self._dtype = dtype

    @torch.no_grad()
    def step(self, closure: None = None) -> None:  # type: ignore[override]
        """Update every matrix that has a gradient, those of one shape together: they are many and small."""
        stacks: dict[torch.Size, list[tuple[Tensor, dict[str, Any], Tensor]]] = {}
        for group in self.param_groups:
            for parameter in group["params"]:
                if parameter.grad is not None:
                    wide = _wide(self._direction(parameter, group))
                    stacks.setdefault(wide.shape[1:], []).append((parameter, group, wide))
        for entries in stacks.values():
            updates = orthogonalize(torch.cat([wide for _, _, wide in entries]))
            for (parameter, group, _), update in zip(entries, updates.split([len(e[2]) for e in entries]), strict=True):
                rows, columns = parameter.shape[0] // group["split"], parameter.shape[1]
                update = update.mT if rows > columns else update
                parameter.mul_(1 - group["lr"] * group["weight_decay"])
                parameter.add_(update.reshape_as(parameter), alpha=-group["lr"] * max(1.0, rows / columns) ** 0.5)

    def _direction(self, parameter: Tensor, group: dict[str, Any]) -> Tensor:
        """Momentum, looked ahead by one step: (split, rows, columns)."""
        assert parameter.grad is not None
        state = self.state[parameter]
        if not state:
            state["momentum"] = torch.zeros_like(parameter)
        momentum = state["momentum"].lerp_(parameter.grad, 1 - group["momentum"])
        direction = parameter.grad.lerp(momentum, group["momentum"])
        return direction.view(group["split"], -1, parameter.shape[1]).to(self._dtype)


class RowAdagrad(torch.optim.Optimizer):
    """Adagrad with one accumulator a row, for embeddings of which a step touches few rows.

    A row's step is its gradient over the root of the summed mean squares of its gradients (Duchi et al. 2011, with the
    diagonal averaged over the row). Rows without a gradient stay as they are; sparse gradients cost only their rows.
    """

    def __init__(self, parameters: list[Tensor], lr: float) -> None:
        super().__init__(parameters, {"lr": lr})

    @torch.no_grad()
    def step(self, closure: None = None) -> None:  # type: ignore[override]
        """Update the rows that have a gradient."""
        for group in self.param_groups:
            for parameter in group["params"]:
                if parameter.grad is None:
                    continue
                state = self.state[parameter]
                if not state:
                    state["squares"] = torch.zeros(len(parameter), device=parameter.device)
                if parameter.grad.is_sparse:
                    gradient = parameter.grad.coalesce()
                    rows, values = gradient.indices()[0], gradient.values()
                else:
                    rows, values = slice(None), parameter.grad
                squares = state["squares"][rows] + values.square().mean(1)
                state["squares"][rows] = squares
                parameter[rows] -= group["lr"] * values / (squares.sqrt() + 1e-10).unsqueeze(1)


def orthogonalize(matrices: Tensor, steps: int = 5) -> Tensor:
    """The nearly orthogonal factor of each matrix (batch, rows, columns): singular values end in about [0.7, 1.2].

    Newton-Schulz iteration with Jordan et al.'s coefficients, in the dtype of the matrices; fewest products where they
    are wide.
    """
    x = matrices / (matrices.norm(dim=(1, 2), keepdim=True) + 1e-7)
    for _ in range(steps):
        gram = x @ x.mT
        polynomial = torch.baddbmm(gram, gram, gram, beta=-4.7750, alpha=2.0315)
        x = torch.baddbmm(x, polynomial, x, beta=3.4445)
    return x


def _wide(matrices: Tensor) -> Tensor:
    return matrices.mT if matrices.shape[1] > matrices.shape[2] else matrices


def build(config: OptimizerConfig, model: GPT, dtype: torch.dtype = torch.float32) -> OptimizerSet:
    """The optimisers of a config for a model that computes in `dtype`: weight decay on matrices only."""
    matrices = {name: p for name, p in model.blocks.named_parameters(prefix="blocks") if p.ndim == 2}
    bigrams = [model.bigrams.weight] if model.bigrams is not None else []
    others = {name: p for name, p in model.named_parameters() if name not in {*matrices, "bigrams.weight"}}
    parts: list[torch.optim.Optimizer] = []
    if bigrams:
        parts.append(RowAdagrad(bigrams, config.bigram_learning_rate))
    if config.name == "muon":
        groups = [{"params": [p], "split": 3 if name.endswith("qkv.weight") else 1} for name, p in matrices.items()]
        parts.append(Muon(groups, config.muon_learning_rate, config.momentum, config.weight_decay, dtype))
    else:
        others |= matrices
    decayed = [p for p in others.values() if p.ndim == 2]
    plain = [p for p in others.values() if p.ndim != 2]
    adamw_groups = [{"params": decayed, "weight_decay": config.weight_decay}, {"params": plain, "weight_decay": 0.0}]
    betas = (config.beta1, config.beta2)
    parts.append(torch.optim.AdamW(adamw_groups, lr=config.learning_rate, betas=betas, eps=config.epsilon, fused=True))
    return OptimizerSet(model, parts)
