"""Vectors of earlier batches from an average of the encoder, as further negatives (MoCo, He et al. 2020, section 3.2).

Shape suffixes: N vectors, D their width, Q places of the queue.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn

from training.optimizers.shards import check_alike, is_sharded

_ENCODER = "encoder/"


class MomentumEncoder:
    """An average of a model's weights: average = momentum * average + (1 - momentum) * weights (equation 2).

    It starts as the weights that the model has when it is made. float32, on their device. Raises ValueError for a model
    whose parameters are sharded.
    """

    def __init__(self, model: nn.Module, momentum: float) -> None:
        self._parameters: dict[str, Tensor] = dict(model.named_parameters())
        if any(is_sharded(parameter) for parameter in self._parameters.values()):
            raise ValueError("contrastive.queue needs the whole model in each process: set training.parallel: ddp")
        self._model, self._momentum = model, momentum
        self.averages = {
            name: parameter.detach().to(torch.float32, copy=True) for name, parameter in self._parameters.items()
        }

    @torch.no_grad()
    def update(self) -> None:
        """Take in the model's weights."""
        weights = [parameter.detach() for parameter in self._parameters.values()]
        torch._foreach_lerp_(list(self.averages.values()), weights, 1 - self._momentum)

    @contextmanager
    def applied(self) -> Iterator[None]:
        """Have the average in the model, in evaluation mode; its own weights, to the bit, and mode again at the end."""
        training = self._model.training
        self._swap()
        self._model.eval()
        try:
            yield
        finally:
            self._swap()
            self._model.train(training)

    @torch.no_grad()
    def _swap(self) -> None:
        for name, parameter in self._parameters.items():
            kept = parameter.clone()
            parameter.copy_(self.averages[name])
            self.averages[name].copy_(kept)


class VectorQueue:
    """The last `size` vectors that were put in; the oldest make room. All is on one device, without waiting for it."""

    def __init__(self, size: int, width: int, device: torch.device) -> None:
        self.size = size
        # One more place, for what is not to be kept.
        self._places = torch.zeros(size + 1, width, device=device)
        self._count = torch.zeros((), dtype=torch.int64, device=device)

    @property
    def vectors(self) -> Tensor:
        """(Q, D) float32; zeros where there is none yet."""
        return self._places[: self.size]

    @property
    def filled(self) -> Tensor:
        """Which places hold a vector (Q,) bool."""
        return torch.arange(self.size, device=self._count.device) < self._count

    def put(self, vectors_ND: Tensor, valid_N: Tensor) -> None:
        """Take in those vectors that are valid; of more than fit, the last ones."""
        order_N = valid_N.cumsum(0)
        kept_N = valid_N & (order_N > order_N[-1] - self.size)
        place_N = ((self._count + order_N - 1) % self.size).where(kept_N, self.size)
        self._places.index_copy_(0, place_N, vectors_ND.float())
        self._count += order_N[-1]

    def state_tensors(self) -> dict[str, Tensor]:
        """What is in it, and how many were ever put in."""
        return {"vectors": self.vectors, "count": self._count}

    def load_state_tensors(self, tensors: dict[str, Tensor]) -> None:
        """Take up a copy of what `state_tensors` returned; raises ValueError where it does not fit."""
        check_alike(self.state_tensors(), tensors, "queue")
        self._places[: self.size] = tensors["vectors"].to(self._places)
        self._count.copy_(tensors["count"])


class MomentumQueue:
    """A momentum encoder and the queue of its vectors, made when the model is first seen.

    As in ESimCSE (Wu et al. 2022, section 3.2) the vectors are those of the encoder without dropout.
    """

    def __init__(self, size: int, momentum: float) -> None:
        self._size, self._momentum = size, momentum
        self._made: tuple[MomentumEncoder, VectorQueue] | None = None
        self._coming: dict[str, Tensor] = {}

    @torch.compiler.disable
    def negatives(self, model: Any) -> tuple[Tensor, Tensor]:
        """The vectors (Q, D) in the queue, and which of its places hold one (Q,) bool."""
        _, queue = self._of(model)
        return queue.vectors, queue.filled

    def _of(self, model: Any) -> tuple[MomentumEncoder, VectorQueue]:
        if self._made is None:
            device = next(model.parameters()).device
            self._made = (
                MomentumEncoder(model, self._momentum),
                VectorQueue(self._size, model.config.width, device),
            )
        if self._coming:
            self._take_up(*self._made)
        return self._made

    def advance(self, model: Any, encode: Callable[[], tuple[Tensor, Tensor]]) -> None:
        """After an update: let the encoder follow, and put in what `encode` makes with it, vectors and which count."""
        encoder, queue = self._of(model)
        encoder.update()
        with torch.no_grad(), encoder.applied():
            vectors_ND, valid_N = encode()
        # A vector that is no number would stay for many steps.
        finite_N = vectors_ND.isfinite().all(1)
        queue.put(vectors_ND.masked_fill(~finite_N.unsqueeze(1), 0.0), valid_N & finite_N)

    def state_tensors(self) -> dict[str, Tensor]:
        """Both; nothing before the model was seen."""
        if self._made is None:
            return dict(self._coming)
        encoder, queue = self._made
        return {**{f"{_ENCODER}{name}": tensor for name, tensor in encoder.averages.items()}, **queue.state_tensors()}

    def load_state_tensors(self, tensors: dict[str, Tensor]) -> None:
        """Take up a copy of what `state_tensors` returned, at once or when the model is seen."""
        self._coming = {name: tensor.detach().clone() for name, tensor in tensors.items()}
        if self._made is not None and self._coming:
            self._take_up(*self._made)

    def _take_up(self, encoder: MomentumEncoder, queue: VectorQueue) -> None:
        coming, self._coming = self._coming, {}
        averages = {name.removeprefix(_ENCODER): coming.pop(name) for name in list(coming) if name.startswith(_ENCODER)}
        check_alike(encoder.averages, averages, "momentum encoder")
        for name, tensor in averages.items():
            encoder.averages[name].copy_(tensor)
        queue.load_state_tensors(coming)
