"""What goes on inside the model, block by block: gradients, weights, updates, activations, attention.

Shape suffixes: B sequences, T tokens, D residual width, H heads, F feed-forward.
"""

from __future__ import annotations

import math
from collections.abc import Iterable
from typing import Any

import torch
from torch import Tensor, nn

from training.callbacks import Callback, Row
from training.models import Model
from training.objectives import Batch
from training.optimizers.shards import local
from training.trainer import Trainer

MAX_TOKENS = 1024
"""Beginning of a sequence that activations and attention are measured on."""
MAX_SEQUENCES = 8
MAX_WEIGHTS = 1 << 26
"""Attention weights of one block held at once, which bounds the sequences: 256 MiB in float32."""
UPDATE_ELEMENTS = 1 << 16
"""Elements of each parameter that stand for it in the update-to-weight ratio."""


class Statistics(Callback):
    """Adds to the row, every `statistics_every` steps, for each block:

    `gradient_norm`: before clipping, and `weight_norm`: after the step, of all its parameters.
    `update_to_weight`: norm of the step's change over that of the weights, from evenly spaced elements.
    `activation_rms`: root mean square of the residual stream after the block.
    `attention_entropy`, `attention_entropy_min`: of the rows of attention weights in nats, mean over heads and
    positions, and mean over positions of the lowest head (0: each looks at one token; Zhai et al. 2023, section 3).
    `dead_units`: share of ReLU units that were positive nowhere (feed-forward relu and relu2 only).

    The names end in `/block-03`: the place in the order of the forward pass, from 0. Where blocks share weights, the
    figures of the weights stand at the first place of each. Activations and attention come from one forward pass of a
    few sequences of the batch, without dropout; it changes neither weights nor random numbers. They are those of
    the weights that are trained, not of their average (EMA). All processes take part.
    """

    name = "statistics"

    def __init__(self) -> None:
        self._gradient_norms: list[Tensor] = []
        self._weights_before: list[list[Tensor]] = []

    def on_gradients(self, trainer: Trainer) -> None:
        """Take the norms of the gradients, which the step will clip and forget, and a sample of the weights."""
        if not _due(trainer, trainer.step + 1):
            return
        blocks = trainer.model.blocks
        self._gradient_norms = [_norm(p.grad for p in block.parameters() if p.grad is not None) for block in blocks]
        self._weights_before = [[_sample(p).clone() for p in block.parameters()] for block in blocks]

    def on_step_end(self, trainer: Trainer, row: Row) -> None:
        """Fill the row when it is due."""
        if not _due(trainer, trainer.step):
            return
        model = trainer.model
        places = model.config.layers // model.config.blocks
        by_block = {
            "gradient_norm": torch.stack(self._gradient_norms).tolist(),
            "weight_norm": torch.stack([_norm(block.parameters()) for block in model.blocks]).tolist(),
            "update_to_weight": self._updates(trainer).tolist(),
        }
        self._gradient_norms, self._weights_before = [], []
        for name, values in by_block.items():
            row.update(_named(name, values, places))
        for name, values in measure(trainer).items():
            row.update(_named(name, values))

    def _updates(self, trainer: Trainer) -> Tensor:
        """Update-to-weight ratio of each block. Sums over processes: a sharded block has its parts in all of them."""
        sums = torch.zeros(len(self._weights_before), 2, device=trainer.compute.device)
        for block, before, total in zip(trainer.model.blocks, self._weights_before, sums, strict=True):
            for parameter, old in zip(block.parameters(), before, strict=True):
                now = _sample(parameter)
                stands_for = local(parameter.detach()).numel() / max(1, now.numel())
                total[0] += stands_for * (now - old).square().sum()
                total[1] += stands_for * now.square().sum()
        sums = trainer.world.sum(sums)
        return (sums[:, 0] / sums[:, 1]).sqrt()


def measure(trainer: Trainer) -> dict[str, list[float]]:
    """Activation and attention figures of each block in the order of the forward pass, means over all processes."""
    model, world = trainer.model, trainer.world
    layers: list[Any] = list(model.blocks)
    figures: list[Tensor] = []
    alive: list[Tensor] = []

    def attention(module: Any, arguments: tuple[Any, ...]) -> None:
        entropy_H = head_entropies(module.probabilities(*arguments))
        figures.append(torch.stack([entropy_H.mean(), entropy_H.min()]))

    def mlp(module: Any, arguments: tuple[Any, ...]) -> None:
        alive.append((module.input(arguments[0]) > 0).flatten(0, -2).any(0).float())

    def block(module: Any, arguments: tuple[Any, ...], output_BTD: Tensor) -> None:
        figures.append(output_BTD.float().square().mean().sqrt().reshape(1))

    hooks = []
    for part in layers:
        hooks += [part.attention.register_forward_pre_hook(attention), part.register_forward_hook(block)]
        if model.config.mlp in ("relu", "relu2"):
            hooks.append(part.mlp.register_forward_pre_hook(mlp))
    try:
        with trainer.inference(averaged=False), trainer.compute.autocast():
            if trainer.objective.likelihood:
                batch = few_sequences(trainer.batch, model.config.heads)
                model.hidden(batch["inputs"], batch.get("documents"))
            else:
                trainer.objective.loss(model, few_rows(trainer.batch, model.config.heads))
    finally:
        for hook in hooks:
            hook.remove()
    # Several objectives pass through the blocks in turn; the first one is measured.
    figures = figures[: 2 * passes(model)]
    entropies, lowest, rms = (world.sum(torch.cat(figures).float()) / world.size).view(-1, 3).T.tolist()
    measured = {"activation_rms": rms, "attention_entropy": entropies, "attention_entropy_min": lowest}
    if alive:
        # A unit is dead if it is so in all processes.
        measured["dead_units"] = (world.sum(torch.stack(alive)) == 0).float().mean(1).tolist()
    return measured


def few_sequences(batch: Batch, heads: int) -> Batch:
    """The beginnings of the first sequences of a batch: as many as keep the attention weights of a block small."""
    tokens = min(batch["inputs"].shape[1], MAX_TOKENS)
    sequences = max(1, min(MAX_SEQUENCES, MAX_WEIGHTS // (heads * tokens * tokens)))
    return {name: batch[name][:sequences, :tokens].contiguous() for name in ("inputs", "documents") if name in batch}


def few_rows(batch: Batch, heads: int) -> Batch:
    """The first rows of a batch, as `few_sequences` takes them, but whole: what is predicted lies anywhere in them."""
    tokens = max(tensor.shape[1] for tensor in batch.values() if tensor.ndim > 1)
    rows = max(1, min(MAX_SEQUENCES, MAX_WEIGHTS // (heads * tokens * tokens)))
    return {name: tensor[:rows] for name, tensor in batch.items()}


def passes(model: Model) -> int:
    """Blocks that one forward pass runs, those that stand for several layers as often."""
    places = model.config.layers // model.config.blocks
    return places * len(model.blocks)


def head_entropies(weights_BHTT: Tensor) -> Tensor:
    """Entropy in nats of the attention weights of a query, mean over sequences and positions: (H,) float32."""
    return torch.special.entr(weights_BHTT.float()).sum(-1).mean((0, 2))


def _due(trainer: Trainer, step: int) -> bool:
    every = trainer.run.training.statistics_every
    return bool(every) and (step % every == 0 or step == trainer.run.training.steps)


def _norm(tensors: Iterable[Tensor]) -> Tensor:
    """Norm of tensors as if they were one, a float32 scalar; over all processes where they are sharded."""
    norm = nn.utils.get_total_norm([tensor.detach() for tensor in tensors])
    # A DTensor; its class takes most of a second to import.
    whole: Tensor = norm.full_tensor() if hasattr(norm, "full_tensor") else norm
    return whole.float()


def _sample(parameter: Tensor) -> Tensor:
    """Evenly spaced elements of this process's part, UPDATE_ELEMENTS or up to twice as many, as a view."""
    flat = local(parameter.detach()).flatten()
    return flat[:: max(1, flat.numel() // UPDATE_ELEMENTS)]


def _named(name: str, values: list[float], places: int = 1) -> Row:
    return {
        f"statistics/{name}/block-{places * index:02d}": value
        for index, value in enumerate(values)
        if math.isfinite(value)
    }
