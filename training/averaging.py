"""An exponential moving average of a model's weights."""

from __future__ import annotations

import math
from collections.abc import Iterator
from contextlib import contextmanager

import torch
from torch import Tensor, nn

from training.optimizers.shards import check_alike, like, local

_UPDATES = "updates"


class WeightAverage:
    """The mean of all weights that a model has had after an update, those of n updates ago with a weight of decay ** n.

    The weights sum to 1 from the first update on (Kingma & Ba 2015, Adam, section 7.2), so that the model's first,
    random weights have no part in it. float32, sharded as the parameters are, on their device. The model must be on its
    device, and sharded if it is to be.
    """

    def __init__(self, model: nn.Module, decay: float) -> None:
        self._model = model
        self._decay = decay
        self._logarithm = math.log(decay) if decay else -math.inf
        self._parameters: dict[str, Tensor] = dict(model.named_parameters())
        self._averages = {
            name: parameter.detach().to(torch.float32, copy=True) for name, parameter in self._parameters.items()
        }
        device = next(iter(self._parameters.values())).device
        self._updates = torch.zeros((), device=device)
        self._inside = False

    @torch.no_grad()
    def update(self, skip: Tensor | None = None) -> None:
        """Take in the model's weights; where `skip`, a boolean scalar on their device, is true, nothing changes."""
        assert not self._inside, "the average is in the model"
        keep = torch.ones_like(self._updates) if skip is None else 1.0 - skip.float()
        self._updates += keep
        # 1 - decay ** updates without the loss of digits that the difference would bring where decay is close to 1.
        total = -torch.expm1(self._updates.clamp(min=1.0) * self._logarithm)
        weight = ((1 - self._decay) / total).clamp(max=1.0) * keep
        averages = [local(average) for average in self._averages.values()]
        weights = [local(parameter) for parameter in self._parameters.values()]
        torch._foreach_lerp_(averages, weights, [weight] * len(averages))

    def state_tensors(self) -> dict[str, Tensor]:
        """The average of each parameter by its name (DTensors as such), and the number of updates as `updates`."""
        assert not self._inside, "the average is in the model"
        return {**self._averages, _UPDATES: self._updates}

    def load_state_tensors(self, tensors: dict[str, Tensor]) -> None:
        """Take up a copy of what `state_tensors` returned; whole tensors and DTensors serve parameters of either kind.

        Raises ValueError naming a tensor that is missing, left over, or of another shape.
        """
        check_alike(self.state_tensors(), tensors, "weight average")
        self._averages = {name: like(tensors[name], parameter) for name, parameter in self._parameters.items()}
        self._updates = like(tensors[_UPDATES], self._updates)

    @contextmanager
    def applied(self) -> Iterator[None]:
        """Have the average in the model, and the model's own weights, to the bit, again at the end.

        They change places, so that it takes no memory but that of the largest parameter.
        """
        assert not self._inside, "the average is in the model"
        self._inside = True
        self._swap()
        try:
            yield
        finally:
            self._swap()
            self._inside = False

    @torch.no_grad()
    def _swap(self) -> None:
        for name, parameter in self._parameters.items():
            weight, average = local(parameter), local(self._averages[name])
            kept = weight.clone()
            weight.copy_(average)
            average.copy_(kept)
        for module in self._model.modules():
            # FSDP2 keeps what it gathered for a forward pass without a backward one; it would be used again.
            reshard = getattr(module, "reshard", None)
            if reshard is not None:
                reshard()
