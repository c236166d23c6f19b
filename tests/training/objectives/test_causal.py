"""Causal language modelling and fill-in-the-middle, against their definitions written with loops."""

from __future__ import annotations

import math
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from tests.training.small_models import one_thread
from training.config import ModelConfig, ObjectiveConfig
from training.models.transformer import Transformer
from training.objectives.causal import CausalObjective
from training.objectives.objective import Batch, Setting
from training.rows import PADDING, Windows

__all__ = ["one_thread"]

END, VOCABULARY = 0, 40
PREFIX, MIDDLE, SUFFIX = VOCABULARY, VOCABULARY + 1, VOCABULARY + 2
GPT: dict[str, Any] = {"layers": 2, "heads": 2, "width": 16, "context_length": 64, "mlp": "gelu"}


def objective(**changes: Any) -> CausalObjective:
    return CausalObjective(ObjectiveConfig("causal", **changes), Setting(VOCABULARY, END))


def tiny(**changes: Any) -> Transformer:
    torch.manual_seed(0)
    model = Transformer(ModelConfig(**{**GPT, **changes}), VOCABULARY + 3)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.copy_(torch.randn_like(parameter) * 0.3 + (parameter.ndim == 1))
    return model.eval()


def rows(tokens: Tensor, seed: int = 0) -> Batch:
    places = 1000 * torch.arange(len(tokens)) + seed
    return {"tokens": tokens, "places": places, "visits": torch.zeros(len(tokens)).long()}


def windows(count: int, length: int, ends: float = 0.1, seed: int = 0) -> Tensor:
    generator = torch.Generator().manual_seed(seed)
    tokens = torch.randint(1, VOCABULARY, (count, length + 1), generator=generator)
    return tokens.masked_fill(torch.rand(tokens.shape, generator=generator) < ends, END)


def test_rows_are_windows() -> None:
    assert objective().form(64) == Windows(64)


@pytest.mark.parametrize("attention", ["causal", "bidirectional"])
@pytest.mark.parametrize("packed", [False, True])
def test_no_leak(attention: str, packed: bool) -> None:
    """Each token changes what is predicted from it on, in its own document alone; whatever the model's attention."""
    task, model = objective(document_mask=packed), tiny(attention=attention)
    tokens = torch.tensor([[5, 6, 7, END, 8, 9, END, END, 3, 4, 5, 6]])
    document = [0, 0, 0, 1, 1, 1, 2, 3, 3, 3, 3] if packed else [0] * 11
    batch = task.prepare(rows(tokens))
    before = task._read(model, batch)
    for place in range(11):
        if tokens[0, place] == END:
            continue
        other = tokens.clone()
        other[0, place] += 20
        after = (task._read(model, task.prepare(rows(other))) - before).abs().amax(-1) > 1e-6
        assert after.tolist() == [t >= place and document[t] == document[place] for t in range(11)]


@pytest.mark.parametrize("head", [{}, {"head": "transform", "head_bias": True, "tied_embeddings": True}])
@pytest.mark.parametrize("in_chunks", [True, False])
def test_loss_and_evaluation_are_those_of_the_logits(head: dict[str, Any], in_chunks: bool) -> None:
    model = tiny(**head, norm="layernorm", bias="all")
    config = ObjectiveConfig("causal", fill_in_the_middle=0.9)
    task = CausalObjective(config, Setting(VOCABULARY, END, in_chunks=in_chunks))
    tokens = windows(3, 12)
    tokens[1, 8:], tokens[2] = PADDING, PADDING
    batch = task.prepare(rows(tokens), training=False)
    logits = model(tokens[:, :-1].clamp(min=0))
    losses = F.cross_entropy(logits.mT, tokens[:, 1:], ignore_index=PADDING, reduction="none").sum(1)
    sums, counts = task.evaluate(model, batch)["loss"]
    torch.testing.assert_close(sums, losses.double())
    assert counts.tolist() == [12, 7, 0]
    assert task.likelihood
    torch.testing.assert_close(task.loss(model, batch), losses.sum() / 19)


def documents_of(row: list[int]) -> list[tuple[int, int]]:
    """Begin and end of the stretches between end-of-text ids."""
    found, begin = [], 0
    for place, token in enumerate([*row, END]):
        if token in (END, PADDING):
            if place > begin:
                found.append((begin, place))
            begin = place + 1
    return found


def put_back(text: list[int]) -> tuple[str, int, int, list[int]] | None:
    """Order, cuts and text of a rearranged document, by the paper's formats; None where it is as it was."""
    if PREFIX not in text:
        assert MIDDLE not in text
        assert SUFFIX not in text
        return None
    assert sorted(token for token in text if token >= VOCABULARY) == [PREFIX, MIDDLE, SUFFIX]
    assert text[0] == PREFIX
    suffix, middle = text.index(SUFFIX), text.index(MIDDLE)
    assert suffix < middle
    if suffix == 1:  # SPM, variant 2: prefix and middle are one
        return "spm", -1, len(text) - middle - 1, text[middle + 1 :] + text[2:middle]
    prefix, rest, hole = text[1:suffix], text[suffix + 1 : middle], text[middle + 1 :]
    return "psm", len(prefix), len(prefix) + len(hole), prefix + hole + rest


@settings(max_examples=60, deadline=None)
@given(st.integers(0, 10_000), st.integers(1, 60), st.sampled_from([0.05, 0.3, 1.0]), st.floats(0.1, 1.0))
def test_the_middle_can_be_put_back(seed: int, length: int, ends: float, rate: float) -> None:
    task = objective(fill_in_the_middle=rate, document_mask=True)
    tokens = windows(4, length, ends, seed)
    tokens[1, length // 2 :] = PADDING
    given_rows = rows(tokens, seed)
    batch = task.prepare(given_rows)
    plain = task.prepare(given_rows, training=False)
    assert torch.equal(batch["documents"], plain["documents"])
    whole = torch.cat([batch["inputs"][:, :1], batch["targets"]], 1).tolist()
    before = torch.cat([plain["inputs"][:, :1], plain["targets"]], 1).tolist()
    for row, old in zip(whole, before, strict=True):
        assert [token == END for token in row] == [token == END for token in old]
        for begin, end in documents_of([PADDING if token < 0 else token for token in old]):
            found = put_back(row[begin:end])
            # Its last three tokens make room for the ids.
            assert (row[begin:end] if found is None else found[3]) == old[begin : end - 3 * (found is not None)]
            assert found is None or end - begin > 3


def test_shares_and_cuts_of_the_middle() -> None:
    task = objective(fill_in_the_middle=0.5)
    tokens = windows(6000, 24, 0.0)
    tokens[:, 10] = END
    batch = task.prepare(rows(tokens))
    found = [put_back(batch["inputs"][row, :10].tolist()) for row in range(6000)]
    found += [put_back([*batch["inputs"][row, 11:].tolist(), int(batch["targets"][row, -1])]) for row in range(6000)]

    def near(count: int, total: int, share: float) -> bool:
        return abs(count - total * share) < 4.5 * math.sqrt(total * share * (1 - share))

    assert near(sum(one is not None for one in found), 12_000, 0.5)
    # Two cuts among the 8 places of 7 tokens: the smaller one at a with probability (2 (7 - a) + 1) / 64. At 0 there is
    # no prefix, and both orders are the same.
    short = [one for one in found[:6000] if one is not None]
    cuts = [one for one in short if one[0] == "psm"]
    assert near(len(cuts), len(short), 0.5 * 49 / 64)
    for a in range(1, 8):
        assert near(sum(one[1] == a for one in cuts), len(cuts), (2 * (7 - a) + 1) / 49)
    assert near(sum(one[2] == 7 for one in cuts), len(cuts), 13 / 49)
    # Where a window begins in a document, whether that is chosen does not depend on the batch.
    part = task.prepare({name: tensor[7:9] for name, tensor in rows(tokens).items()})
    assert torch.equal(part["inputs"], batch["inputs"][7:9])
