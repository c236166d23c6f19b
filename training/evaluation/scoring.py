"""Log-probabilities of tokens under a model, each token scored exactly once.

A sequence is predicted from the end-of-text id and its own earlier tokens. One longer than the context is cut into
windows of `context_length` tokens whose ends lie `stride` tokens apart; a window scores only the tokens that no window
before it scored, and uses the others as context. So after the first window each token sees at least
`context_length - stride` tokens before it. `stride == context_length` gives disjoint windows.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import NDArray
from torch import Tensor

from training.models.gpt import GPT

# Logits of one forward pass, as float32 numbers: 256 MiB on a CPU, where larger batches are no faster; 2 GiB on a GPU.
LOGITS_CPU = 2**26
LOGITS_GPU = 2**29


@dataclass(frozen=True)
class Window:
    """Targets [start, end) of one sequence; those from `scored` on count."""

    sequence: int
    start: int
    scored: int
    end: int


def plan_windows(length: int, context_length: int, stride: int, sequence: int = 0) -> list[Window]:
    """The windows over `length` targets: their scored parts follow each other from 0 to `length`.

    Raises ValueError unless 1 <= stride <= context_length.
    """
    if not 1 <= stride <= context_length:
        raise ValueError(f"stride must lie between 1 and the context length of {context_length}, got {stride}")
    ends = [*range(min(context_length, length), length, stride), length] if length else []
    starts = [0, *ends][: len(ends)]
    return [
        Window(sequence, max(0, end - context_length), scored, end) for scored, end in zip(starts, ends, strict=True)
    ]


def token_log_probabilities(
    model: GPT,
    sequences: Sequence[NDArray[np.integer]],
    end_of_text: int,
    *,
    context_length: int | None = None,
    stride: int | None = None,
    logits_limit: int | None = None,
) -> list[NDArray[np.float32]]:
    """Natural log of the probability of each token of each sequence (1-D ids), in arrays of the sequences' lengths.

    Sequences share batches with others of about their length, padded on the right, where a causal model cannot see it.
    context_length: by default the model's; stride: by default the context length (disjoint windows); logits_limit: the
    most logits of one forward pass. Raises ValueError for a stride or context length out of range.
    """
    longest = model.config.context_length
    context_length = longest if context_length is None else context_length
    if not 1 <= context_length <= longest:
        raise ValueError(f"context_length must lie between 1 and the model's {longest}, got {context_length}")
    stride = context_length if stride is None else stride
    streams = [np.concatenate([[end_of_text], np.asarray(ids, dtype=np.int64)]) for ids in sequences]
    windows = [
        window
        for index, stream in enumerate(streams)
        for window in plan_windows(len(stream) - 1, context_length, stride, index)
    ]
    results = [np.zeros(len(stream) - 1, dtype=np.float32) for stream in streams]
    device = next(model.parameters()).device
    limit = logits_limit or (LOGITS_GPU if device.type == "cuda" else LOGITS_CPU)
    was_training = model.training
    model.eval()
    try:
        for batch in _batches(windows, max(1, limit // model.vocabulary_size)):
            _score(model, batch, streams, results, end_of_text, device)
    finally:
        model.train(was_training)
    return results


def _batches(windows: list[Window], token_limit: int) -> Iterator[list[Window]]:
    """Groups of windows whose count times longest stays under the limit, so that little padding is computed."""
    batch: list[Window] = []
    for window in sorted(windows, key=lambda window: (window.start - window.end, window.sequence, window.start)):
        if batch and (len(batch) + 1) * (batch[0].end - batch[0].start) > token_limit:
            yield batch
            batch = []
        batch.append(window)
    if batch:
        yield batch


@torch.inference_mode()
def _score(
    model: GPT,
    batch: list[Window],
    streams: list[NDArray[np.int64]],
    results: list[NDArray[np.float32]],
    padding: int,
    device: torch.device,
) -> None:
    longest = batch[0].end - batch[0].start
    ids = np.full((len(batch), longest + 1), padding, dtype=np.int64)
    for row, window in enumerate(batch):
        ids[row, : window.end - window.start + 1] = streams[window.sequence][window.start : window.end + 1]
    ids_BT = torch.from_numpy(ids).to(device)
    scores_BT = target_log_probabilities(model, ids_BT[:, :-1], ids_BT[:, 1:]).cpu().numpy()
    for row, window in enumerate(batch):
        scored = slice(window.scored - window.start, window.end - window.start)
        results[window.sequence][window.scored : window.end] = scores_BT[row, scored]


def target_log_probabilities(model: GPT, inputs_BT: Tensor, targets_BT: Tensor) -> Tensor:
    """Natural log of the probability of each target (B, T), computed in float32 whatever the model's own arithmetic."""
    logits_BTV = model(inputs_BT).float()
    flat = F.cross_entropy(logits_BTV.flatten(0, 1), targets_BT.flatten(), reduction="none")
    return -flat.view_as(targets_BT)
