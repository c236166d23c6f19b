from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import replace
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from training.config import PRESETS, ModelConfig
from training.config.objective import ObjectiveConfig, PermutationConfig
from training.models.two_stream import TwoStream
from training.objectives import Setting, build
from training.objectives.permutation import PermutationObjective, spans
from training.rows import IGNORED, PADDING

VOCABULARY, END, LENGTH = 40, 0, 24


@pytest.fixture(autouse=True)
def one_thread() -> Iterator[None]:
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)


def objective_of(end: int = END, **changes: Any) -> PermutationObjective:
    config = ObjectiveConfig(name="permutation", permutation=PermutationConfig(**changes))
    made = build(config, Setting(VOCABULARY, end, seed=3))
    assert isinstance(made, PermutationObjective)
    return made


def model_of(length: int = LENGTH, **changes: Any) -> TwoStream:
    torch.manual_seed(0)
    config = ModelConfig(**{**PRESETS["xlnet-tiny"], "width": 32, "context_length": length, "dropout": 0.0, **changes})
    model = TwoStream(config, VOCABULARY).eval()
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(torch.randn_like(parameter) * 0.1)
    return model


def rows_of(count: int, padded: int = 0, visit: int = 0, length: int = LENGTH) -> dict[str, Tensor]:
    """Windows; the last one ends in padding."""
    tokens = torch.randint(1, VOCABULARY, (count, length + 1), generator=torch.Generator().manual_seed(7))
    if padded:
        tokens[-1, -padded:] = PADDING
    places = torch.arange(count) * length + 1000
    return {"tokens": tokens, "places": places, "visits": torch.full((count,), visit)}


def part(batch: dict[str, Tensor], rows: slice) -> dict[str, Tensor]:
    return {name: tensor[rows] for name, tensor in batch.items()}


@settings(deadline=None)
@given(st.integers(1, 60), st.integers(1, 60), st.integers(1, 7), st.integers(0, 1000), st.booleans())
def test_spans_are_distinct_places_in_order(size: int, count: int, longest: int, seed: int, extreme: bool) -> None:
    count = min(size, count)
    noise = torch.rand(2, 3, 4, count, generator=torch.Generator().manual_seed(seed))
    if extreme:
        noise = (noise > 0.5) * (1 - 2**-24)
    chosen = spans(noise[0], noise[1], size, longest)
    assert chosen.shape == (3, 4, count)
    assert int(chosen.min()) >= 0
    assert int(chosen.max()) < size
    assert bool((chosen.diff(dim=-1) > 0).all())


def test_spans_have_the_lengths_and_places_of_the_paper() -> None:
    rows, size, count = 4000, 600, 100
    noise = torch.rand(2, rows, count, generator=torch.Generator().manual_seed(0))
    chosen = spans(noise[0], noise[1], size, longest=3)
    share = torch.zeros(rows, size).scatter(1, chosen, 1.0).mean(0)
    # One in six everywhere; borders of stretches lie at multiples of six, and a span seldom touches the border of its.
    assert float((share.view(-1, 6).mean(1) - 1 / 6).abs().max()) < 5 * math.sqrt(1 / 6 * 5 / 6 / 6 / rows)
    assert 0.1 < float(share.min()) < float(share.max()) < 0.2
    # Alone in its stretch, a span is the run that one sees where the next one does not touch it: with six tokens to one
    # few do. A run of four or more is two spans, and so are some of the shorter ones.
    starts = torch.ones(rows, count, dtype=torch.bool)
    starts[:, 1:] = chosen.diff(dim=1) > 1
    runs = torch.diff(starts.flatten().nonzero()[:, 0])
    one, two, three = (float((runs == length).float().mean()) for length in (1, 2, 3))
    assert one == pytest.approx(6 / 11, abs=0.04)
    assert two == pytest.approx(3 / 11, abs=0.03)
    assert three == pytest.approx(2 / 11, abs=0.03)


def test_the_batch_is_a_function_of_text_and_epoch() -> None:
    objective = objective_of()
    rows = rows_of(8)
    whole = objective.prepare(rows)
    for cut in (slice(0, 3), slice(5, 8)):
        some = objective.prepare(part(rows, cut))
        for name in set(whole) - {"share"}:
            assert torch.equal(some[name], whole[name][cut]), name
    again = objective.prepare({**rows, "visits": rows["visits"] + 1})
    assert not torch.equal(again["positions"], whole["positions"])
    assert not torch.equal(again["order"], whole["order"])
    assert whole["backward"].any()
    assert not whole["backward"].all()


@pytest.mark.parametrize("segments", [1, 2, 3])
def test_targets_are_the_tokens_at_their_places(segments: int) -> None:
    objective = objective_of(memory_segments=segments)
    rows = rows_of(6, padded=10)
    batch = objective.prepare(rows)
    size = LENGTH // segments
    count = round(size / 6)
    assert batch["positions"].shape == batch["targets"].shape == (6, segments, count)
    tokens = rows["tokens"][:, :LENGTH]
    turned = torch.where(batch["backward"][:, None], tokens.flip(1), tokens).view(6, segments, size)
    assert torch.equal(batch["padding"], (turned == PADDING).flatten(1))
    assert torch.equal(batch["inputs"], turned.flatten(1).masked_fill(batch["padding"], END))
    assert batch["backward"].any() == (segments > 1)
    expected = turned.gather(2, batch["positions"])
    assert torch.equal(batch["targets"], expected.masked_fill(expected == PADDING, IGNORED))
    # Exactly the targets have a place in the order; all others come before.
    chosen = torch.zeros(6, segments, size, dtype=torch.bool).scatter(2, batch["positions"], True)
    assert torch.equal(batch["order"] >= 0, chosen)
    assert (batch["order"][~chosen] == -1).all()
    assert float(batch["share"].sum()) == pytest.approx(int((batch["targets"] != IGNORED).sum()))


def test_orders_are_uniform() -> None:
    batch = objective_of(memory_segments=1, predicted=0.25).prepare(rows_of(4000, length=12))
    ranks = batch["order"].gather(2, batch["positions"])[:, 0].argsort(1)
    counts = torch.bincount((ranks * torch.tensor([9, 3, 1])).sum(1), minlength=27)
    counts = counts[counts > 0]
    assert len(counts) == 6  # of three targets
    assert float((counts - 4000 / 6).abs().max()) < 4 * math.sqrt(4000 / 6)


def changed_targets(model: TwoStream, objective: PermutationObjective, row: int) -> tuple[Tensor, Tensor]:
    """Whether the hidden state of each target of a row changes with each of its tokens; and the batch of that row."""
    batch = part(objective.prepare(rows_of(row + 1)), slice(row, row + 1))
    many = {name: tensor.repeat(LENGTH + 1, *[1] * (tensor.ndim - 1)) for name, tensor in batch.items()}
    place = torch.arange(LENGTH)
    many["inputs"][place, place] = many["inputs"][place, place] % (VOCABULARY - 1) + 1
    with torch.no_grad():
        hidden = objective._hidden(model, many).view(LENGTH + 1, -1, 32)
    return ((hidden[:-1] - hidden[-1]).abs().amax(2) > 1e-6).T, batch


@pytest.mark.parametrize("row", range(4))
def test_no_target_sees_what_its_order_forbids(row: int) -> None:
    # Two thirds are predicted, so that the order among the targets matters.
    objective = objective_of(predicted=2 / 3)
    changed, batch = changed_targets(model_of(), objective, row)
    order, positions = batch["order"][0], batch["positions"][0]
    size = LENGTH // 2
    for number, seen in enumerate(changed):
        segment, index = divmod(number, positions.shape[1])
        allowed = torch.zeros(LENGTH, dtype=torch.bool)
        allowed[: segment * size] = True  # the memory, as a row of two segments has but one
        mine = order[segment][positions[segment, index]]
        allowed[segment * size : (segment + 1) * size] = order[segment] < mine
        assert torch.equal(seen, allowed)


def test_micro_batches_make_the_loss_of_the_batch() -> None:
    model, objective = model_of(), objective_of()
    batch = objective.prepare(rows_of(6, padded=15))
    whole = objective.loss(model, batch)
    parts = [objective.loss(model, part(batch, slice(i, i + 2))) for i in (0, 2, 4)]
    torch.testing.assert_close(torch.stack(parts).mean(), whole)
    assert whole.requires_grad


def test_loss_and_measures_are_those_of_plain_logits() -> None:
    model = model_of()
    with torch.no_grad():
        model.head.bias.copy_(torch.randn(VOCABULARY))
    objective = objective_of()
    batch = objective.prepare(rows_of(5, padded=9), training=False)
    memory, logits = None, []
    for segment in range(2):
        span = slice(segment * LENGTH // 2, (segment + 1) * LENGTH // 2)
        hidden, memory = model.streams(
            batch["inputs"][:, span],
            batch["order"][:, segment],
            batch["positions"][:, segment],
            padding_BT=batch["padding"][:, span],
            backward_B=batch["backward"],
            memory=memory,
        )
        logits.append(model.head(hidden))
    targets = batch["targets"]
    losses = F.cross_entropy(
        torch.stack(logits, 1).permute(0, 3, 1, 2), targets, ignore_index=IGNORED, reduction="none"
    )
    measures = objective.evaluate(model, batch)
    torch.testing.assert_close(measures["loss"][0].float(), losses.sum((1, 2)))
    assert torch.equal(measures["loss"][1], (targets != IGNORED).sum((1, 2)))
    hits = (torch.stack(logits, 1).argmax(-1) == targets).sum((1, 2))
    assert torch.equal(measures["permutation_accuracy"][0].long(), hits)
    torch.testing.assert_close(objective.loss(model, batch), losses.sum() / (targets != IGNORED).sum())


def test_what_stands_in_for_padding_changes_nothing() -> None:
    model = model_of()
    for padded in (5, 14, LENGTH):
        rows = rows_of(6, padded=padded)
        rows["tokens"][:] = rows["tokens"][-1]  # in both directions
        losses = []
        for end in (0, 17):
            objective = objective_of(end)
            losses.append(objective.evaluate(model, objective.prepare(rows))["loss"][0])
        assert losses[0].isfinite().all()
        torch.testing.assert_close(losses[0], losses[1])


def test_lengths_that_cannot_be_cut_are_refused() -> None:
    assert objective_of(memory_segments=3).form(24).reads == 25
    with pytest.raises(ValueError, match="memory_segments must divide the sequence length of 25"):
        objective_of(memory_segments=3).form(25)


def test_flops_grow_with_what_is_predicted() -> None:
    model = model_of()
    sixth, half = (objective_of(predicted=share).flops_per_token(model, LENGTH) for share in (1 / 6, 1 / 2))
    # Two rows of the query stream for one and three for another; all of the content stream.
    assert sixth < half < 1.5 * sixth
    alone = objective_of(memory_segments=1).flops_per_token(model, LENGTH)
    assert alone == model.flops_per_token(LENGTH, predicted=4 / 24)


def noisy_cycle(count: int, generator: torch.Generator) -> Tensor:
    """Each token is the one before it plus one, modulo 8; one in ten is drawn at random."""
    clean = (torch.randint(8, (count, 1), generator=generator) + torch.arange(LENGTH + 1)) % 8
    noise = torch.randint(8, clean.shape, generator=generator)
    return torch.where(torch.rand(clean.shape, generator=generator) < 0.1, noise, clean) + 1


def test_a_tiny_model_learns_a_noisy_cycle() -> None:
    generator = torch.Generator().manual_seed(0)
    torch.manual_seed(0)
    config = ModelConfig(**{**PRESETS["xlnet-tiny"], "width": 32, "context_length": LENGTH, "dropout": 0.0})
    model = TwoStream(replace(config, initialization="xavier"), 10)
    objective = objective_of()
    optimizer = torch.optim.AdamW(model.parameters(), 3e-3)

    def batch(step: int, count: int = 16) -> dict[str, Tensor]:
        places = (step * count + torch.arange(count)) * LENGTH
        rows = {"tokens": noisy_cycle(count, generator), "places": places, "visits": torch.zeros_like(places)}
        return objective.prepare(rows)

    for step in range(250):
        optimizer.zero_grad()
        objective.loss(model, batch(step)).backward()
        optimizer.step()
    total, count = objective.evaluate(model.eval(), batch(1000, 64))["loss"]
    # A unigram model has ln 8 = 2.08; one that knows the cycle 0.47, the entropy of the noise.
    assert float(total.sum() / count.sum()) < 0.8
