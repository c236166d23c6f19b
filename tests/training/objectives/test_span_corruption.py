"""Span corruption against the published code's numbers, its rules written with loops, and its distribution."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.training.models.test_encoder_decoder import T5_TINY
from tests.training.small_models import one_thread
from training.config import ModelConfig, ObjectiveConfig, SpanCorruptionConfig, SpecialTokens
from training.models.encoder_decoder import EncoderDecoder
from training.objectives.cross_entropy import IGNORED
from training.objectives.objective import Batch, Setting
from training.objectives.span_corruption import Lengths, SpanCorruptionObjective
from training.rows import PADDING, Windows

__all__ = ["one_thread"]

END, PAD, VOCABULARY, SENTINELS = 0, 1, 60, 30


def objective(rate: float = 0.15, mean_length: float = 3.0, sentinels: int = SENTINELS) -> SpanCorruptionObjective:
    config = ObjectiveConfig("span_corruption", span_corruption=SpanCorruptionConfig(rate, mean_length, sentinels))
    return SpanCorruptionObjective(config, Setting(VOCABULARY, END, SpecialTokens(padding=PAD)))


def windows(count: int, text: int, seed: int = 0, lengths: list[int] | None = None) -> Batch:
    """Rows as the loader makes them; the text behind the first token has `lengths`."""
    generator = torch.Generator().manual_seed(seed)
    tokens = torch.randint(VOCABULARY, (count, text + 1), generator=generator)
    if lengths is not None:
        tokens.masked_fill_(torch.arange(text + 1) > torch.tensor(lengths)[:, None], PADDING)
    return {"tokens": tokens, "places": 1000 * torch.arange(count) + seed, "visits": torch.zeros(count).long()}


def cut(row: torch.Tensor, nothing: int) -> list[int]:
    """A row without what fills its end."""
    ids = row.tolist()
    while ids and ids[-1] == nothing:
        ids.pop()
    return ids


def by_sentinel(ids: list[int]) -> dict[int, list[int]]:
    """What follows each sentinel, in order."""
    spans: dict[int, list[int]] = {}
    last = -1
    for token in ids:
        if token >= VOCABULARY:
            last = token
            assert last not in spans
            spans[last] = []
        else:
            spans[last].append(token)
    return spans


def test_lengths_are_the_published_ones() -> None:
    """568 tokens make inputs of 512 and targets of 114 (Raffel et al. 2020, the published configuration)."""
    assert Lengths.fitting(512, 0.15, 3.0) == Lengths(568, 85, 28, 512, 114)
    assert objective(sentinels=100).form(512) == Windows(568)


@pytest.mark.parametrize(("rate", "mean_length"), [(0.15, 3.0), (0.5, 10.0), (0.3, 1.0), (0.9, 2.5)])
def test_the_text_is_the_longest_that_fits(rate: float, mean_length: float) -> None:
    for room in range(4, 200):
        lengths = Lengths.fitting(room, rate, mean_length)
        assert lengths.inputs <= room < Lengths.of(lengths.text + 1, rate, mean_length).inputs
        assert lengths.inputs + lengths.targets == lengths.text + 2 * lengths.spans + 2


@settings(max_examples=60, deadline=None)
@given(
    st.floats(0.05, 0.9),
    st.floats(1.0, 8.0),
    st.integers(6, 40),
    st.integers(0, 10_000),
    st.lists(st.integers(0, 1000), min_size=3, max_size=3),
)
def test_both_sides_give_back_the_window(
    rate: float, mean_length: float, room: int, seed: int, shares: list[int]
) -> None:
    task = objective(rate, mean_length, sentinels=60)
    top, text = VOCABULARY + 59, task.lengths(room).text
    lengths = [text, *(share * text // 1000 for share in shares)]
    rows = windows(4, text, seed, lengths)
    batch = task.prepare(rows, training=False)
    assert batch["inputs"].shape == (4, task.lengths(room).inputs)
    assert batch["targets"].shape == (4, task.lengths(room).targets)
    for row, length in enumerate(lengths):
        inputs = batch["inputs"][row][batch["documents"][row] == 1].tolist()
        targets = cut(batch["targets"][row], IGNORED)
        shifted = batch["decoder_inputs"][row]
        assert shifted[0] == PAD
        assert shifted[1 : 1 + len(targets)].tolist() == targets[: len(shifted) - 1]
        assert set(shifted[1 + len(targets) :].tolist()) <= {PAD}
        assert batch["decoder_documents"][row].sum() == len(targets)
        if not length:
            assert (inputs, targets) == ([END], [])
            continue
        assert (inputs.pop(), targets.pop()) == (END, END)
        spans = by_sentinel(targets)
        assert list(spans) == list(range(top, top - len(spans), -1))
        assert [token for token in inputs if token >= VOCABULARY] == list(spans)
        whole = [token for part in inputs for token in (spans[part] if part >= VOCABULARY else [part])]
        assert whole == rows["tokens"][row, 1 : length + 1].tolist()
        if length > 1:
            # As random_spans_noise_mask counts.
            noise = min(max(round(length * rate), 1), length - 1)
            assert sum(map(len, spans.values())) == noise
            assert len(spans) == min(max(round(noise / mean_length), 1), length - noise)
            assert all(spans.values())
            assert inputs[0] < VOCABULARY  # the first span stays


def test_spans_are_of_random_length() -> None:
    """The lengths of a random composition of n into k parts: P(first = l) = C(n - l - 1, k - 2) / C(n - 1, k - 1)."""
    task = objective(sentinels=100)
    rows = windows(4000, 568)
    batch = task.prepare(rows)
    assert set(batch) == {"inputs", "decoder_inputs", "targets"}
    assert (batch["targets"] != IGNORED).all()
    targets = batch["targets"].numpy()
    noise, spans = 85, 28
    starts = np.argwhere(targets >= VOCABULARY)[:, 1].reshape(4000, spans)
    ends = np.concatenate([starts[:, 1:], np.full((4000, 1), targets.shape[1] - 1)], 1)
    assert ((ends - starts - 1).sum(1) == noise).all()
    staying = np.argwhere(batch["inputs"].numpy() >= VOCABULARY + 72)[:, 1].reshape(4000, spans)
    kept = np.diff(staying, prepend=-1) - 1
    assert (kept.sum(1) == 568 - noise).all()
    for lengths, total in (((ends - starts - 1), noise), (kept, 568 - noise)):
        for place in (0, 13, 27):
            for length in (1, 2, 3, 6, 20):
                expected = math.comb(total - length - 1, spans - 2) / math.comb(total - 1, spans - 1)
                share = (lengths[:, place] == length).mean()
                assert abs(share - expected) < 4.5 * math.sqrt(max(expected, 1e-3) / 4000), (place, length)


def test_a_text_has_one_corruption_a_visit_however_it_is_batched() -> None:
    task, rows = objective(), windows(6, 70)
    whole, evaluated = task.prepare(rows), task.prepare(rows, training=False)
    for name in whole:
        parts = [task.prepare({key: tensor[i : i + 2] for key, tensor in rows.items()})[name] for i in (0, 2, 4)]
        assert torch.equal(torch.cat(parts), whole[name])
        assert torch.equal(evaluated[name], whole[name])
    again = task.prepare({**rows, "visits": rows["visits"] + 1})
    assert not torch.equal(again["inputs"], whole["inputs"])


def test_too_few_sentinels_and_too_little_room_are_refused() -> None:
    with pytest.raises(ValueError, match=r"sentinels: 28 spans of a sequence of 512 tokens need as many, got 27"):
        objective(sentinels=27).form(512)
    with pytest.raises(ValueError, match="too short for span corruption"):
        objective().form(2)


def test_evaluation_counts_what_the_logits_say() -> None:
    torch.manual_seed(0)
    model = EncoderDecoder(ModelConfig(**T5_TINY), VOCABULARY + SENTINELS).eval()
    task = objective()
    rows = windows(3, task.lengths(32).text, lengths=[34, 12, 0])
    batch = task.prepare(rows, training=False)
    measures = task.evaluate(model, batch)
    documents = (batch["documents"], batch["decoder_documents"])
    logits = model(batch["inputs"], batch["decoder_inputs"], *documents)
    losses = F.cross_entropy(logits.mT, batch["targets"], ignore_index=IGNORED, reduction="none").sum(1).double()
    right = (logits.argmax(-1) == batch["targets"]).sum(1).double()
    torch.testing.assert_close(measures["loss"][0], losses)
    torch.testing.assert_close(measures["target_accuracy"][0], right)
    for _, counts in measures.values():
        assert counts.tolist() == [8, 4, 0]
    # Alone and without padding the short text is the same.
    text = {name: tensor[1:2] for name, tensor in rows.items()} | {"tokens": rows["tokens"][1:2, :13]}
    alone = task.evaluate(model, task.prepare(text, training=False))
    torch.testing.assert_close(alone["loss"][0], measures["loss"][0][1:2])
    torch.testing.assert_close(task.loss(model, batch), (losses.sum() / 12).float())


def test_a_model_learns_to_fill_spans() -> None:
    """Texts of one token again and again: what is missing stands in the input."""
    torch.manual_seed(0)
    task = objective(mean_length=1.0)
    model = EncoderDecoder(ModelConfig(**{**T5_TINY, "layers": 1}), VOCABULARY + SENTINELS)
    optimizer = torch.optim.Adam(model.parameters(), 5e-3)
    text = task.lengths(24).text

    def batch(step: int) -> Batch:
        tokens = torch.randint(2, 10, (16, 1), generator=torch.Generator().manual_seed(step)).expand(16, text + 1)
        return task.prepare(
            {"tokens": tokens, "places": 16 * step + torch.arange(16), "visits": torch.zeros(16).long()}
        )

    for step in range(100):
        optimizer.zero_grad()
        task.loss(model, batch(step)).backward()
        optimizer.step()
    sums, counts = task.evaluate(model.eval(), batch(1000))["target_accuracy"]
    assert sums.sum() / counts.sum() > 0.9
