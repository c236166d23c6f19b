"""Prefix language modelling against its definition written with loops."""

from __future__ import annotations

import itertools
import math
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.training.objectives.test_causal import END, VOCABULARY, rows, tiny, windows
from tests.training.small_models import one_thread
from training.config import ObjectiveConfig
from training.objectives.cross_entropy import IGNORED
from training.objectives.objective import Setting
from training.objectives.prefix import PrefixObjective
from training.rows import PADDING

__all__ = ["one_thread"]


def objective(**changes: Any) -> PrefixObjective:
    return PrefixObjective(ObjectiveConfig("prefix", **changes), Setting(VOCABULARY, END))


@settings(max_examples=60, deadline=None)
@given(st.integers(0, 10_000), st.integers(1, 40), st.sampled_from([0.0, 0.1, 0.5]), st.booleans())
def test_what_follows_the_prefix_is_predicted(seed: int, length: int, ends: float, document_mask: bool) -> None:
    tokens = windows(3, length, ends, seed)
    tokens[1, length // 2 + 1 :], tokens[2] = PADDING, PADDING
    batch = objective(document_mask=document_mask).prepare(rows(tokens, seed))
    for row, old in enumerate(tokens.tolist()):
        inputs = [token for token in old[:-1] if token != PADDING]
        targets = [target for target in old[1:] if target != PADDING]
        begins = [t for t in range(len(inputs)) if not t or (document_mask and inputs[t] == END)]
        prefix, expected = [False] * length, [IGNORED] * length
        for begin, end in itertools.pairwise([*begins, len(inputs)]):
            end = min(end, len(targets))
            cut = begin + int(batch["prefix"][row, begin:end].sum())
            assert begin + (end > begin) <= cut <= end  # at least a token, and at most all
            prefix[begin:cut] = [True] * (cut - begin)
            # A token behind the prefix is a target; so is the next document's beginning, or that of the next window.
            for place in range(max(cut - 1, begin), end):
                expected[place] = targets[place]
        assert batch["prefix"][row].tolist() == prefix
        assert batch["targets"][row].tolist() == expected
    assert ("documents" in batch) == document_mask
    torch.testing.assert_close(batch["share"], torch.full((3,), float((batch["targets"] != IGNORED).sum()) / 3))


def test_cuts_are_uniform() -> None:
    count = 8000
    tokens = windows(count, 20, 0.0)
    tokens[:, 12] = END
    whole = objective().prepare(rows(tokens))["prefix"]
    parts = objective(document_mask=True).prepare(rows(tokens))["prefix"]
    for prefix, length in ((whole, 20), (parts[:, :12], 12), (parts[:, 12:], 8)):
        for size in range(1, length + 1):
            share = float((prefix.sum(1) == size).float().mean())
            assert abs(share - 1 / length) < 4.5 * math.sqrt(1 / length / count), size


@pytest.mark.parametrize("attention", ["bidirectional", "causal"])
@pytest.mark.parametrize("packed", [False, True])
def test_no_leak(attention: str, packed: bool) -> None:
    """A token of the prefix changes all of its document, any other what comes after it: never its own prediction."""
    task, model = objective(document_mask=packed), tiny(attention=attention)
    tokens = torch.tensor([[5, 6, 7, 8, 9, END, 3, 4, 5, 6, 7, 8]])
    document = [int(packed and t >= 5) for t in range(11)]
    seen = set()
    for visit in range(8):
        given_rows = rows(tokens) | {"visits": torch.tensor([visit])}
        batch = task.prepare(given_rows)
        prefix = batch["prefix"][0].tolist()
        before = task._read(model, batch)
        for place in (0, 1, 2, 3, 4, 6, 7, 8, 9, 10):
            other = tokens.clone()
            other[0, place] += 20
            after = (task._read(model, task.prepare({**given_rows, "tokens": other})) - before).abs().amax(-1) > 1e-6
            reaches = [(t >= place or prefix[place]) and document[t] == document[place] for t in range(11)]
            assert after.tolist() == reaches
            predicts = place - 1
            if predicts >= 0 and batch["targets"][0, predicts] != IGNORED and document[predicts] == document[place]:
                assert not after[predicts]
                seen.add(place)
    assert len(seen) > 5


def test_the_mean_of_micro_batches_is_that_of_the_batch() -> None:
    task, model = objective(document_mask=True), tiny(attention="bidirectional")
    batch = task.prepare(rows(windows(6, 30)))
    documents = {"prefix_BT": batch["prefix"], "causal": True}
    logits = model(batch["inputs"], batch["documents"], **documents)
    expected = F.cross_entropy(logits.flatten(0, 1), batch["targets"].flatten(), ignore_index=IGNORED)
    torch.testing.assert_close(task.loss(model, batch), expected)
    parts = [{name: tensor[first : first + 2] for name, tensor in batch.items()} for first in (0, 2, 4)]
    losses = torch.stack([task.loss(model, part) for part in parts])
    assert losses.std() > 0
    torch.testing.assert_close(losses.mean(), expected)
    sums, counts = task.evaluate(model, batch)["loss"]
    torch.testing.assert_close(sums.sum() / counts.sum(), expected.double())
    assert not task.likelihood
