"""Log-probabilities of tokens under a model, each token scored exactly once.

A sequence is predicted from the end-of-text id and its own earlier tokens. One longer than the context is cut into
windows of `context_length` tokens whose ends lie `stride` tokens apart; a window scores only the tokens that no window
before it scored, and uses the others as context. So after the first window each token sees at least
`context_length - stride` tokens before it. `stride == context_length` gives disjoint windows.
"""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray

from training.evaluation.batching import POSITIONS
from training.models.transformer import Transformer
from training.objectives.cross_entropy import IGNORED, token_losses


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
    model: Transformer,
    sequences: Sequence[NDArray[np.integer]],
    begin_of_text: int,
    *,
    document_mask: bool = False,
    context_length: int | None = None,
    stride: int | None = None,
    positions: int | None = None,
    arithmetic: Callable[[], contextlib.AbstractContextManager[object]] = contextlib.nullcontext,
) -> list[NDArray[np.float32]]:
    """Natural log of the probability of each token of each sequence (1-D ids), in arrays of the sequences' lengths.

    Sequences share batches with others of about their length, padded on the right, where a causal model cannot see it.
    document_mask: for a model trained with one, keep what `begin_of_text` separates apart. context_length: by default
    the model's. stride: by default the context length (disjoint windows). positions: the most of one forward pass. A
    bidirectional model is read from left to right all the same: one that is trained on that, too, among other tasks.
    arithmetic: the context in which the trunk computes (`Compute.autocast`), the head always in float32. Raises
    ValueError for a stride or context length out of range.
    """
    longest = model.config.context_length
    context_length = longest if context_length is None else context_length
    if not 1 <= context_length <= longest:
        raise ValueError(f"context_length must lie between 1 and the model's {longest}, got {context_length}")
    stride = context_length if stride is None else stride
    streams = [np.concatenate([[begin_of_text], np.asarray(ids, dtype=np.int64)]) for ids in sequences]
    windows = [
        window
        for index, stream in enumerate(streams)
        for window in plan_windows(len(stream) - 1, context_length, stride, index)
    ]
    results = [np.zeros(len(stream) - 1, dtype=np.float32) for stream in streams]
    device = next(model.parameters()).device
    limit = positions or POSITIONS.get(device.type, 2048)
    was_training = model.training
    model.eval()
    try:
        for batch in _batches(windows, limit):
            with arithmetic():
                _score(model, batch, streams, results, begin_of_text, document_mask, device)
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
    model: Transformer,
    batch: list[Window],
    streams: list[NDArray[np.int64]],
    results: list[NDArray[np.float32]],
    begin_of_text: int,
    document_mask: bool,
    device: torch.device,
) -> None:
    longest = batch[0].end - batch[0].start
    ids = np.full((len(batch), longest), begin_of_text, dtype=np.int64)
    targets = np.full((len(batch), longest), IGNORED, dtype=np.int64)
    for row, window in enumerate(batch):
        stream, length = streams[window.sequence], window.end - window.start
        ids[row, :length] = stream[window.start : window.end]
        targets[row, window.scored - window.start : length] = stream[window.scored + 1 : window.end + 1]
    ids_BT = torch.from_numpy(ids).to(device)
    documents_BT = (ids_BT == begin_of_text).cumsum(1) if document_mask else None
    causal = None if model.config.attention == "causal" else True
    assert model.head is not None
    read_NE = model.readout(model.hidden(ids_BT, documents_BT, causal=causal).flatten(0, 1))
    targets_N = torch.from_numpy(targets).flatten().to(device)
    losses = token_losses(read_NE, model.head.weight, targets_N, model.head.bias)
    scores = -losses.view(len(batch), longest).cpu().numpy()
    for row, window in enumerate(batch):
        results[window.sequence][window.scored : window.end] = scores[
            row, window.scored - window.start : window.end - window.start
        ]
