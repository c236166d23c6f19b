"""How likely a model finds texts, whatever it was trained on: what minimal pairs and multiple choice go by."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Protocol

import numpy as np
import torch
from numpy.typing import NDArray

from training.evaluation.batching import POSITIONS, groups, padded
from training.evaluation.judged import Judged
from training.evaluation.pseudo_likelihood import Floats, pseudo_log_probabilities
from training.evaluation.scoring import token_log_probabilities


class TextScorer(Protocol):
    """Texts of ids -> a number for each token, whose sum says how likely the text is."""

    def __call__(self, sequences: Sequence[NDArray[np.integer]], starts: Sequence[int] | None = None) -> list[Floats]:
        """`starts`: the first token of each text that is asked for; what stands for those before it is undefined."""
        ...


SCORES = {
    "causal": "log_likelihood",
    "prefix": "log_likelihood",
    "masked": "pseudo_log_likelihood",
    "permutation": "pseudo_log_likelihood",
    "replaced_token": "discriminator",
}
"""What the objectives' models score texts by. A model of another objective scores none."""


def text_scorer(judged: Judged, stride: int | None = None) -> tuple[str, TextScorer] | None:
    """The name of what a model scores texts by, and the scorer; None where it cannot."""
    name = SCORES.get(judged.name)
    if name is None:
        return None
    if name == "pseudo_log_likelihood":
        return name, lambda sequences, starts=None: pseudo_log_probabilities(judged, sequences, starts)
    if name == "discriminator":
        return name, lambda sequences, starts=None: original_log_probabilities(judged, sequences)

    def forward(sequences: Sequence[NDArray[np.integer]], starts: Sequence[int] | None = None) -> list[Floats]:
        return token_log_probabilities(
            judged.model,
            sequences,
            judged.begin_of_text,
            document_mask=judged.description.get("document_mask", False),
            stride=stride or judged.context_length,
            arithmetic=judged.compute.autocast,
        )

    return name, forward


def original_log_probabilities(judged: Judged, sequences: Sequence[NDArray[np.integer]]) -> list[Floats]:
    """For each token of each text the log of the probability that the discriminator finds it original, in one pass.

    A text that exceeds the context is scored in pieces.
    """
    room = judged.context_length - judged.frame.tokens
    before = len(judged.frame.before)
    results = [np.zeros(len(ids), dtype=np.float32) for ids in sequences]
    pieces = [
        (index, begin, judged.frame.around(ids[begin : begin + room]))
        for index, ids in enumerate(sequences)
        for begin in range(0, len(ids), room)
    ]
    for group in groups([len(framed) for _, _, framed in pieces], POSITIONS.get(judged.device.type, 2048)):
        batch = padded([pieces[item][2] for item in group], judged.frame.padding, judged.device)
        with torch.inference_mode(), judged.compute.autocast():
            logits_BT = judged.model(batch.ids_BT, batch.documents_BT)
        logs_BT = torch.nn.functional.logsigmoid(-logits_BT.float()).cpu().numpy()
        for row, item in enumerate(group):
            index, begin, framed = pieces[item]
            tokens = len(framed) - judged.frame.tokens
            results[index][begin : begin + tokens] = logs_BT[row, before : before + tokens]
    return results
