"""The two streams by themselves; `tests/training/huggingface/test_parity_xlnet.py` holds them to transformers."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import Any

import pytest
import torch
from torch import Tensor
from torch.profiler import ProfilerActivity, profile
from torch.utils.flop_counter import FlopCounterMode

from tests.training.alone import alone
from training.config import PRESETS, ModelConfig
from training.models.recompute import Recompute
from training.models.two_stream import Memory, TwoStream, _Shift

CONFIG = ModelConfig(
    **{
        **PRESETS["xlnet-tiny"],
        "width": 32,
        "context_length": 12,
        "layers": 3,
        "dropout": 0.0,
        "initialization": "xavier",
    }
)
VOCABULARY = 31
TOKENS = 9
IDS = torch.randint(VOCABULARY, (2, 2, TOKENS), generator=torch.Generator().manual_seed(0))
ORDER = torch.tensor([[-1, 5, -1, 2, 3, -1, 1, -1, 4]])
"""Of the tokens that are not predicted, all come first."""
ALL = torch.arange(TOKENS)[None]


def model_of(config: ModelConfig = CONFIG) -> TwoStream:
    torch.manual_seed(0)
    model = TwoStream(config, VOCABULARY).eval()
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(torch.randn_like(parameter) * 0.2)
    return model


def changed(run: Callable[[Tensor], Tensor], ids: Tensor) -> Tensor:
    """Whether the result for row i (rows) changes as token j of one sequence (1, T) does: (rows, T) bool."""
    tokens = ids.shape[1]
    ones = ids.repeat(tokens + 1, 1)
    ones[torch.arange(tokens), torch.arange(tokens)] += 1
    with torch.no_grad():
        results = run(ones % VOCABULARY)
    return ((results[:-1] - results[-1]).abs().amax(-1) > 1e-6).T


def remembered(model: TwoStream, ids: Tensor, padding: Tensor | None = None) -> Memory:
    order = torch.zeros_like(ids)
    return model.streams(ids, order, order[:, :1], padding_BT=padding)[1]


@pytest.mark.parametrize("with_memory", [False, True])
def test_a_row_sees_what_the_order_allows(with_memory: bool) -> None:
    model = model_of()
    rows = TOKENS + 1
    memory = remembered(model, IDS[1, :1].expand(rows, -1)) if with_memory else None

    def queries(ids: Tensor) -> Tensor:
        order, targets = ORDER.expand(rows, -1), ALL.expand(rows, -1)
        return model.streams(ids, order, targets, memory=memory)[0]

    def content(ids: Tensor) -> Tensor:
        order = ORDER.expand(rows, -1)
        return model.streams(ids, order, order[:, :1] * 0, memory=memory)[1].states[-1]

    before, at = ORDER[0][None, :], ORDER[0][:, None]
    assert torch.equal(changed(queries, IDS[0, :1]), before < at)
    assert torch.equal(changed(content, IDS[0, :1]), before <= at)


def test_a_permutation_without_ties() -> None:
    model = model_of()
    order = torch.randperm(TOKENS, generator=torch.Generator().manual_seed(5))

    def queries(ids: Tensor) -> Tensor:
        return model.streams(ids, order.expand(len(ids), -1), ALL.expand(len(ids), -1))[0]

    assert torch.equal(changed(queries, IDS[0, :1]), order[None, :] < order[:, None])


def test_memory_is_seen_by_all_but_for_its_padding() -> None:
    model = model_of()
    rows = TOKENS + 1
    padding = (torch.arange(TOKENS) >= 6).expand(rows, -1)

    def run(ids: Tensor) -> Tensor:
        memory = remembered(model, ids, padding)
        order, targets = ORDER.expand(rows, -1), ALL.expand(rows, -1)
        queries, further = model.streams(IDS[0, :1].expand(rows, -1), order, targets, memory=memory)
        return torch.cat([queries, further.states[-1]], 1)

    assert torch.equal(changed(run, IDS[1, :1]), ~padding[:1].expand(2 * TOKENS, -1))


def test_memory_has_no_gradient() -> None:
    model = model_of()
    embedded: list[Tensor] = []
    model.embedding.register_forward_hook(
        lambda *arguments: embedded.append(arguments[2]) or arguments[2].retain_grad()
    )
    memory = remembered(model, IDS[1])
    order, targets = ORDER.expand(2, -1), ALL.expand(2, -1)
    model.streams(IDS[0], order, targets, memory=memory)[0].square().sum().backward()
    assert embedded[0].grad is None
    assert embedded[1].grad is not None
    assert embedded[1].grad.any()


def test_padding_is_not_seen() -> None:
    model = model_of()
    padding = torch.zeros(1, TOKENS, dtype=torch.bool)
    padding[0, [0, 3]] = True

    def queries(ids: Tensor) -> Tensor:
        rows = len(ids)
        return model.streams(ids, ORDER.expand(rows, -1), ALL.expand(rows, -1), padding_BT=padding.expand(rows, -1))[0]

    expected = (ORDER[0][None, :] < ORDER[0][:, None]) & ~padding
    assert torch.equal(changed(queries, IDS[0, :1]), expected)


def test_documents_do_not_see_each_other() -> None:
    model = model_of()
    documents = torch.tensor([[1, 1, 1, 1, 2, 2, 2, 0, 0]])

    def content(ids: Tensor) -> Tensor:
        return model.hidden(ids, documents.expand(len(ids), -1))

    assert torch.equal(changed(content, IDS[0, :1]), documents[0][:, None] == documents[0][None, :])


def test_a_target_that_sees_nothing_knows_but_its_place() -> None:
    model = model_of()
    order, targets = ORDER.abs().expand(2, -1), torch.tensor([[0, 6], [2, 5]])
    hidden, _ = model.streams(IDS[0], order, targets)
    assert hidden.isfinite().all()
    # All of order 1, the lowest: alike in any sequence and at any place.
    torch.testing.assert_close(hidden, hidden[:1, :1].expand_as(hidden))


def test_backward_is_the_mirror_image() -> None:
    model = model_of()
    order = torch.randperm(TOKENS, generator=torch.Generator().manual_seed(3)).expand(2, -1)
    targets = torch.tensor([[2, 4, 8], [0, 1, 5]])
    segments = (torch.arange(TOKENS) > 4).long().expand(2, -1)
    expected, _ = model.streams(IDS[0], order, targets, segments_BT=segments)
    turned = [x.flip(1) for x in (IDS[0], order, segments)]
    mixed = torch.tensor([True, False])

    def choose(x: Tensor, y: Tensor) -> Tensor:
        return torch.where(mixed[:, None], x, y)

    ours, _ = model.streams(
        choose(turned[0], IDS[0]),
        choose(turned[1], order),
        choose(TOKENS - 1 - targets, targets),
        segments_BT=choose(turned[2], segments),
        backward_B=mixed,
    )
    torch.testing.assert_close(ours, expected)


def test_only_distances_matter() -> None:
    # The same text, once as memory and sequence and once, moved on by two tokens, behind two that nobody sees.
    model = model_of()
    ids = IDS[0]
    padding = torch.zeros(2, TOKENS, dtype=torch.bool)
    padding[:, :2] = True
    long = model.streams(ids, ORDER.expand(2, -1), torch.tensor([[3, 8]] * 2), padding_BT=padding)[0]
    short = model.streams(ids[:, 2:], ORDER[:, 2:].expand(2, -1), torch.tensor([[1, 6]] * 2))[0]
    torch.testing.assert_close(long, short)


@pytest.mark.parametrize("targets", [None, [[0, 3, 4], [4, 1, 0]]])
def test_the_shift_is_a_look_up(targets: list[list[int]] | None) -> None:
    batch, heads, tokens, keys = 2, 3, 5, 7
    rows = list(range(tokens)) if targets is None else []
    places = torch.tensor([rows + (targets[b] if targets else []) for b in range(batch)])
    scores = torch.randn(batch, heads, places.shape[1], keys + tokens, dtype=torch.float64, requires_grad=True)
    index = tokens - places[:, None, :, None] + torch.arange(keys)
    offsets = None if targets is None else index

    def shift(x: Tensor) -> Tensor:
        return _Shift.apply(x, len(rows), keys, offsets)  # type: ignore[no-any-return, no-untyped-call]

    assert torch.equal(shift(scores), scores.gather(3, index.expand(-1, heads, -1, -1)))
    assert torch.autograd.gradcheck(shift, scores)


def test_one_token() -> None:
    model = model_of()
    one = torch.zeros(2, 1, dtype=torch.int64)
    hidden, memory = model.streams(IDS[0, :, :1], one, one, memory=remembered(model, IDS[1]))
    assert hidden.isfinite().all()
    assert memory.states[0].shape == (2, 1, 32)


def loss_and_gradients(
    model: TwoStream, bf16: bool = False, wrapped: Callable[[Any], Any] = lambda function: function
) -> list[Tensor]:
    def loss(ids: Tensor, order: Tensor, targets: Tensor) -> Tensor:
        with torch.autocast("cpu", torch.bfloat16, enabled=bf16):
            memory, total = None, torch.zeros(())
            for part in ids:
                hidden, memory = model.streams(
                    part, order, targets, backward_B=order[:, 0] > 0, padding_BT=part == 0, memory=memory
                )
                total = total + model.head(hidden).float().logsumexp(-1).square().mean()
        return total

    torch.manual_seed(3)
    value = wrapped(loss)(IDS, ORDER.repeat(2, 1), torch.tensor([[1, 3, 4, 8]] * 2))
    value.backward()
    return [value.detach(), *(parameter.grad for parameter in model.parameters())]  # type: ignore[list-item]


@pytest.mark.parametrize("policy", ["products", "blocks"])
def test_recomputed_gradients_stay_the_same(policy: Recompute) -> None:
    config = replace(CONFIG, dropout=0.3, attention_dropout=0.2)
    expected = loss_and_gradients(model_of(config).train())
    model = model_of(config).train()
    model.set_recompute(policy, every=2)
    assert all(torch.equal(a, b) for a, b in zip(loss_and_gradients(model), expected, strict=True))


def kept_bytes() -> dict[str, int]:
    """Bytes allocated by a forward pass and not freed while its result lives, by policy."""
    kept = {}
    for policy in ("none", "products", "blocks"):
        model = model_of(replace(CONFIG, layers=4))
        model.set_recompute(policy)  # type: ignore[arg-type]
        with profile(activities=[ProfilerActivity.CPU], profile_memory=True) as memory:
            hidden, _ = model.streams(IDS[0], ORDER.repeat(2, 1), ALL.repeat(2, 1))
        assert hidden.requires_grad
        kept[policy] = sum(event.self_cpu_memory_usage for event in memory.key_averages())
    return kept


def test_less_is_kept() -> None:
    kept = alone(kept_bytes)
    assert kept["blocks"] < 0.7 * kept["products"] < 0.6 * kept["none"]


def test_it_compiles_in_one_graph() -> None:
    def compiled(function: Any) -> Any:
        return torch.compile(function, fullgraph=True, dynamic=False, backend="aot_eager")

    config = replace(CONFIG, layers=2)
    expected = loss_and_gradients(model_of(config))
    model = model_of(config)
    model.set_recompute("products")
    ours = loss_and_gradients(model, wrapped=compiled)
    assert all(torch.allclose(a, b, rtol=1e-4, atol=1e-5) for a, b in zip(ours, expected, strict=True))


def test_bfloat16_is_near() -> None:
    expected, ours = loss_and_gradients(model_of()), loss_and_gradients(model_of(), bf16=True)
    for a, b in zip(ours, expected, strict=True):
        assert (a - b).norm() <= 0.1 * b.norm() + 1e-6


def test_flops_are_those_that_are_computed() -> None:
    model = model_of(replace(CONFIG, token_types=0)).train()
    targets = torch.tensor([[1, 4, 8]] * 2)
    memory = remembered(model, IDS[1])
    with FlopCounterMode(display=False) as counter:
        hidden, _ = model.streams(IDS[0], ORDER.repeat(2, 1), targets, memory=memory)
        model.head(hidden).square().sum().backward()
    counted = counter.get_total_flops()
    # What is left out: the projection of the distances, and those that a row multiplies without need.
    distances, rows = 3 * TOKENS, [TOKENS + 3] * 2 + [3]
    left_out = 4 * 3 * distances * 32 * 32 + 6 * 2 * 32 * sum(rows) * (distances - 2 * TOKENS)
    expected = 2 * TOKENS * model.flops_per_token(TOKENS, predicted=3 / TOKENS, memory=1.0)
    assert counted - left_out == pytest.approx(expected, rel=1e-6)


def test_made_without_memory_and_filled_later() -> None:
    model = model_of()
    with torch.device("meta"):
        empty = TwoStream(CONFIG, VOCABULARY)
    empty.load_state_dict(model.state_dict(), assign=True)
    empty.head.weight = empty.embedding.weight
    empty.reset_buffers()
    assert torch.equal(empty.eval()(IDS[0]), model(IDS[0]))


def test_published_initialisation() -> None:
    torch.manual_seed(0)
    model = TwoStream(ModelConfig(**PRESETS["xlnet-tiny"]), 500)
    for name, parameter in model.state_dict().items():
        if name.endswith("norm.weight"):
            assert (parameter == 1).all()
        elif name.endswith(".bias"):
            assert not parameter.any(), name
        else:
            assert 0.012 < float(parameter.std()) < 0.024, name
            assert float(parameter.abs().max()) <= 0.04 + 1e-6


@pytest.mark.parametrize(
    "changes",
    [{"attention": "causal"}, {"norm_position": "pre"}, {"kv_heads": 1}, {"token_types": 3}, {"layer_groups": 1}],
)
def test_what_xlnet_has_not_is_refused(changes: dict[str, Any]) -> None:
    with pytest.raises(ValueError, match=next(iter(changes))):
        TwoStream(replace(CONFIG, **changes), VOCABULARY)


def test_wrong_inputs_are_refused() -> None:
    model = model_of(replace(CONFIG, token_types=0))
    with pytest.raises(ValueError, match="context length of 12"):
        model(torch.zeros(1, 13, dtype=torch.int64))
    with pytest.raises(ValueError, match="token_types"):
        model(IDS[0], segments_BT=torch.zeros_like(IDS[0]))
