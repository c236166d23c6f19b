"""What T5's two stacks see, how they are drawn and what they cost; `test_parity_t5` has the numbers."""

from __future__ import annotations

from collections import Counter
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.utils.flop_counter import FlopCounterMode
from transformers import T5Config, T5ForConditionalGeneration
from transformers.models.t5.modeling_t5 import T5Attention

from training.config import ModelConfig
from training.models import build
from training.models.encoder_decoder import Block, EncoderDecoder, relative_buckets
from training.models.huggingface.settings import Settings
from training.models.huggingface.t5 import T5

VOCABULARY = 50
T5_TINY: dict[str, Any] = {
    "architecture": "encoder_decoder",
    "layers": 2,
    "heads": 4,
    "width": 32,
    "context_length": 40,
    "attention": "bidirectional",
    "positions": "relative",
    "mlp": "relu",
    "qk_norm": "none",
    "tied_embeddings": True,
    "initialization": "t5",
}


def tiny(**changes: Any) -> EncoderDecoder:
    torch.manual_seed(0)
    model = build(ModelConfig(**{**T5_TINY, **changes}), VOCABULARY)
    assert isinstance(model, EncoderDecoder)
    return model.eval()


def ids(batch: int, length: int, seed: int = 0) -> Tensor:
    return torch.randint(VOCABULARY, (batch, length), generator=torch.Generator().manual_seed(seed))


@pytest.mark.parametrize("bidirectional", [True, False])
@pytest.mark.parametrize(("buckets", "longest"), [(32, 128), (8, 20), (10, 300)])
def test_buckets_are_those_of_transformers(bidirectional: bool, buckets: int, longest: int) -> None:
    distance = torch.arange(-600, 601)
    theirs = T5Attention._relative_position_bucket(distance, bidirectional, buckets, longest)
    assert torch.equal(relative_buckets(distance, bidirectional, buckets, longest), theirs)


def changed(before: Tensor, after: Tensor) -> Tensor:
    """Which positions (B, T) of hidden states are others."""
    return (before - after).abs().amax(-1) > 1e-6


@pytest.mark.parametrize("packed", [False, True])
def test_no_leak(packed: bool) -> None:
    """A token of the input changes all of its own example, one of the decoder's what comes after it there."""
    model = tiny(relative_buckets=8, relative_distance=16)
    inputs, decoder_inputs = ids(1, 12), ids(1, 9, seed=1)
    documents = torch.tensor([[1] * 5 + [2] * 4 + [3] * 3]) if packed else torch.ones(1, 12, dtype=torch.int64)
    decoder_documents = torch.tensor([[1] * 3 + [2] * 2 + [3] * 2 + [0] * 2]) if packed else torch.ones(1, 9).long()
    given = (documents, decoder_documents) if packed else (None, None)
    text = decoder_documents[0] > 0
    before = model.hidden(inputs, decoder_inputs, *given)
    assert before.isfinite().all()
    for place in range(12):
        other = inputs.clone()
        other[0, place] = (other[0, place] + 1) % VOCABULARY
        after = changed(before, model.hidden(other, decoder_inputs, *given))[0]
        assert torch.equal(after[text], (decoder_documents[0] == documents[0, place])[text])
    for place in range(9):
        other = decoder_inputs.clone()
        other[0, place] = (other[0, place] + 1) % VOCABULARY
        after = changed(before, model.hidden(inputs, other, *given))[0]
        own = decoder_documents[0] == decoder_documents[0, place]
        assert torch.equal(after, own & (torch.arange(9) >= place))


def test_weights_are_drawn_as_those_of_transformers() -> None:
    shape = {"d_model": 64, "d_kv": 16, "d_ff": 200, "num_heads": 8, "num_layers": 1, "vocab_size": 3000}
    theirs = dict(T5ForConditionalGeneration(T5Config(**shape, feed_forward_proj="gated-gelu")).named_parameters())
    changes = {"layers": 1, "heads": 8, "width": 64, "head_width": 16, "mlp": "geglu_tanh", "mlp_width": 200}
    torch.manual_seed(0)
    model = EncoderDecoder(ModelConfig(**{**T5_TINY, **changes}), 3000)
    mine = model.state_dict()
    for entry in T5().counterparts(model.config, Settings({}), 3000):
        parts = entry.split(mine[entry.ours])
        for name, part in parts.items():
            if part.ndim == 1:
                assert torch.equal(part, theirs[name])
                continue
            # Of n numbers the deviation has an error of 1 / sqrt(2 n) on each side: these are five sigma.
            assert abs(part.std() / theirs[name].std() - 1) < 5 * part.numel() ** -0.5, name
            assert abs(part.mean()) < 5 * part.std() * part.numel() ** -0.5, name
    untied = tiny(tied_embeddings=False, width=64)
    assert abs(untied.head.weight.std() * 8 - 1) < 5 * (2 * untied.head.weight.numel()) ** -0.5


def test_flops_are_what_torch_counts() -> None:
    model = tiny(decoder_layers=3, mlp="geglu_tanh", head_width=16)
    inputs, decoder_inputs = ids(1, 20), ids(1, 8)
    with FlopCounterMode(display=False) as counter:
        model(inputs, decoder_inputs).sum().backward()
    assert counter.get_total_flops() == model.flops(20, 8)
    assert model.flops_per_token(20, predicted=0.4) == model.flops(20, 8) // 20


@pytest.mark.parametrize("policy", ["products", "blocks"])
def test_recomputed_activations_change_nothing(policy: Any) -> None:
    model = tiny(dropout=0.2, attention_dropout=0.2).train()
    gradients = []
    for chosen in ("none", policy):
        model.set_recompute(chosen)
        model.zero_grad()
        torch.manual_seed(5)
        model(ids(2, 10), ids(2, 7)).square().mean().backward()
        gradients.append([parameter.grad for parameter in model.parameters()])
    for plain, again in zip(*gradients, strict=True):
        assert torch.equal(plain, again)


def test_dropout_is_where_transformers_has_it() -> None:
    shape = {"d_model": 32, "d_kv": 8, "d_ff": 128, "num_heads": 4, "num_layers": 2, "vocab_size": VOCABULARY}
    theirs = T5ForConditionalGeneration(T5Config(**shape, num_decoder_layers=3, decoder_start_token_id=0))
    dropped = []
    for model in (theirs, tiny(decoder_layers=3, dropout=0.1)):
        found: Counter[torch.Size] = Counter()
        for module in model.modules():
            if isinstance(module, nn.Dropout):
                assert module.p == 0.1
                module.register_forward_hook(lambda _, given, output, found=found: found.update([output.shape]))
        model(ids(1, 7), decoder_input_ids=ids(1, 6)) if model is theirs else model(ids(1, 7), ids(1, 6))
        dropped.append(found)
    assert dropped[0] == dropped[1]


def test_dropout_of_attention() -> None:
    """Without any weight left, attention adds nothing."""
    model = tiny(attention_dropout=0.5).train()
    torch.manual_seed(0)
    assert not torch.equal(model.hidden(ids(1, 6), ids(1, 5)), model.hidden(ids(1, 6), ids(1, 5)))
    for block in model.blocks:
        assert isinstance(block, Block)
        block.attention.dropout = 1.0
        if block.cross_attention is not None:
            block.cross_attention.dropout = 1.0
    first = model.hidden(ids(1, 6), ids(1, 5))
    other = ids(1, 5)
    other[0, 0] += 1
    torch.testing.assert_close(model.hidden(ids(1, 6, seed=3), other)[:, 1:], first[:, 1:])


def test_a_model_made_without_memory_is_the_same() -> None:
    model = tiny()
    with torch.device("meta"):
        again = EncoderDecoder(model.config, VOCABULARY)
    again.load_state_dict(model.state_dict(), assign=True)
    again.reset_buffers()
    assert torch.equal(again.eval()(ids(2, 9), ids(2, 8)), model(ids(2, 9), ids(2, 8)))


def test_bfloat16_is_near() -> None:
    model = tiny()
    exact = model.hidden(ids(2, 20), ids(2, 15))
    with torch.autocast("cpu", torch.bfloat16):
        rough = model.hidden(ids(2, 20), ids(2, 15))
    assert (rough.float() - exact).abs().max() < 0.05 * exact.abs().max()


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"mlp": "relu2", "qk_norm": "plain"}, "qk_norm must be none, got plain"),
        ({"initialization": "gpt2"}, "initialization must be t5"),
        ({"kv_heads": 2}, r"kv_heads must be 4 \(as many as heads\), got 2"),
        ({"layer_groups": 1, "token_types": 2}, "layer_groups must be None, got 1; token_types must be 0, got 2"),
    ],
)
def test_what_t5_has_not_is_refused(changes: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        tiny(**changes)


def test_texts_beyond_the_context_are_refused() -> None:
    with pytest.raises(ValueError, match="41 tokens exceed the model's context length of 40"):
        tiny().hidden(ids(1, 3), ids(1, 41))
