from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from typing import Any, Literal

import pytest
import torch
from torch import Tensor
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.utils.flop_counter import FlopCounterMode

from training.config import PRESETS, ModelConfig, RopeScaling
from training.models.transformer import MLP, Attention, Block, Transformer

SMALL = ModelConfig(layers=2, heads=2, width=32, context_length=24)
VOCABULARY = 31

# Between them all that a config can say.
VARIANTS: dict[str, dict[str, Any]] = {
    "default": {},
    "gpt2": {
        **{"positions": "learned", "norm": "layernorm", "mlp": "gelu_tanh", "qk_norm": "none", "bias": "all"},
        **{"tied_embeddings": True},
    },
    "llama": {"mlp": "swiglu", "qk_norm": "none", "kv_heads": 1, "rope_scaling": RopeScaling("llama3")},
    "qwen3": {"mlp": "swiglu", "qk_norm": "gains", "heads": 4, "kv_heads": 2, "head_width": 16},
    "bert-like": {
        **{"positions": "learned", "norm": "layernorm", "norm_position": "post", "embedding_norm": True},
        **{"mlp": "gelu", "bias": "qkv"},
    },
    "alibi": {"positions": "alibi", "mlp": "relu", "rope_scaling": None, "heads": 4},
    "no-positions": {"positions": "none", "initialization": "mup", "mup_base_width": 16},
    "windows": {"window": 5, "layers": 4, "global_every": 4},
    "shared": {"layers": 6, "layer_groups": 2, "bigram_buckets": 40, "tied_embeddings": True},
}
variants = pytest.mark.parametrize("variant", VARIANTS)


@pytest.fixture(autouse=True)
def one_thread() -> Iterator[None]:
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)


def model_of(config: ModelConfig) -> Transformer:
    torch.manual_seed(0)
    model = Transformer(config, VOCABULARY).eval()
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(torch.randn_like(parameter) * 0.2)
    return model


def influence(model: Transformer, ids: Tensor, documents: Tensor | None = None) -> Tensor:
    """By how much the hidden state of token i (rows) changes as token j does: (T, T), of the first sequence."""
    with torch.no_grad():
        hidden = model.hidden(ids, documents)
        changed = []
        for j in range(ids.shape[1]):
            other = ids.clone()
            other[0, j] = (other[0, j] + 1) % VOCABULARY
            difference = (model.hidden(other, documents) - hidden).abs().amax(-1)
            assert (difference[1:] == 0).all()
            changed.append(difference[0])
    return torch.stack(changed, dim=1)


def random_ids(tokens: int = 24, batch: int = 2) -> Tensor:
    return torch.randint(0, VOCABULARY, (batch, tokens), generator=torch.Generator().manual_seed(1))


@variants
def test_each_token_sees_itself_and_all_before_it_and_none_after(variant: str) -> None:
    model = model_of(replace(SMALL, **VARIANTS[variant]))
    ids = random_ids()
    assert model(ids).shape == (2, 24, VOCABULARY)
    seen = influence(model, ids) > 1e-6
    expected = torch.ones(24, 24, dtype=torch.bool).tril()
    if variant == "windows":
        # Four tokens back in each of three layers; then one layer sees all, but of tokens that are no wider informed.
        assert torch.equal(seen, seen.tril())
        assert seen[23].all()
    else:
        assert torch.equal(seen, expected)


@variants
def test_bidirectional_tokens_see_all(variant: str) -> None:
    config = replace(SMALL, **{**VARIANTS[variant], "attention": "bidirectional", "bigram_buckets": 0})
    assert (influence(model_of(config), random_ids(tokens=12)) > 1e-6).all()


@pytest.mark.parametrize("attention", ["causal", "bidirectional"])
def test_windows_reach_as_far_as_their_layers(attention: Literal["causal", "bidirectional"]) -> None:
    config = replace(SMALL, window=4, layers=2, attention=attention)
    seen = influence(model_of(config), random_ids()) > 1e-7
    distance = torch.arange(24)[:, None] - torch.arange(24)
    near = distance.abs() <= 2 * 3
    assert torch.equal(seen, near & (distance >= 0) if attention == "causal" else near)
    assert [model_of(replace(config, layers=4, global_every=2)).sees_everything(layer) for layer in range(4)] == [
        *(False, True, False, True)
    ]


@variants
@pytest.mark.parametrize("attention", ["causal", "bidirectional"])
def test_a_document_is_what_it_would_be_alone(variant: str, attention: Literal["causal", "bidirectional"]) -> None:
    config = replace(SMALL, **VARIANTS[variant], attention=attention)
    model = model_of(config)
    ids = random_ids()
    documents = torch.tensor([[0] * 5 + [1] * 1 + [2] * 18, [4] * 12 + [5] * 12])
    with torch.no_grad():
        together = model.hidden(ids, documents)
        for sequence in range(2):
            for document in documents[sequence].unique():
                mine = documents[sequence] == document
                alone = model.hidden(ids[sequence, mine][None])[0]
                assert torch.allclose(together[sequence, mine], alone, atol=2e-5)
    seen = influence(model, ids, documents) > 0
    assert not seen[documents[0][:, None] != documents[0]].any()


@variants
def test_probabilities_are_the_weights_that_attention_uses(variant: str) -> None:
    model = model_of(replace(SMALL, **VARIANTS[variant]))
    documents = torch.arange(24).expand(2, 24) // 9
    calls: list[tuple[Attention, Tensor, Any, Tensor]] = []
    for block in model.blocks:
        assert isinstance(block, Block)
        block.attention.register_forward_hook(lambda module, inputs, output: calls.append((module, *inputs, output)))
    with torch.no_grad():
        model(random_ids(), documents)
        assert len(calls) == model.config.layers
        for attention, x, context, output in calls:
            weights = attention.probabilities(x, context)
            assert weights.dtype == torch.float32
            assert torch.allclose(weights.sum(-1), torch.ones(()))
            groups = attention.key_value_heads
            values = attention.qkv(x)[..., -groups * attention.head_width :].view(2, 24, groups, -1).transpose(1, 2)
            gathered = weights @ values.repeat_interleave(attention.heads // groups, dim=1)
            assert torch.allclose(attention.output(gathered.transpose(1, 2).flatten(2)), output, atol=1e-5)


@variants
def test_short_and_long_sequences_take_routes_that_agree(variant: str, monkeypatch: pytest.MonkeyPatch) -> None:
    model = model_of(replace(SMALL, **VARIANTS[variant]))
    ids, documents = random_ids(), torch.arange(24).expand(2, 24) // 9
    with torch.no_grad():
        short = [model.hidden(ids), model.hidden(ids, documents)]
        monkeypatch.setattr("training.models.attention.EXPLICIT_TOKENS", 0)
        long = [model.hidden(ids), model.hidden(ids, documents)]
    assert all(torch.allclose(a, b, atol=1e-5) for a, b in zip(short, long, strict=True))


@variants
def test_every_parameter_gets_a_gradient(variant: str) -> None:
    model = model_of(replace(SMALL, **VARIANTS[variant]))
    model(random_ids()).logsumexp(-1).sum().backward()
    for name, parameter in model.named_parameters():
        assert parameter.grad is not None, name
        assert parameter.grad.abs().sum() > 0, name


def test_it_compiles_in_one_graph() -> None:
    config = replace(SMALL, positions="learned", norm="layernorm", bias="all", window=7, global_every=2, kv_heads=1)
    model = model_of(replace(config, bigram_buckets=40))
    ids, documents = random_ids(), torch.arange(24).expand(2, 24) // 9
    compiled = torch.compile(model, fullgraph=True, dynamic=False, backend="aot_eager")
    results = []
    for function in (model, compiled):
        model.zero_grad()
        loss = function(ids, documents).logsumexp(-1).mean()
        loss.backward()
        results.append([loss.detach(), *(parameter.grad for parameter in model.parameters())])
    assert all(torch.allclose(a, b, atol=1e-6) for a, b in zip(*results, strict=True))


def test_the_context_length_is_a_limit() -> None:
    model = model_of(SMALL)
    with pytest.raises(ValueError, match="25 tokens exceed the model's context length of 24"):
        model(torch.zeros(1, 25, dtype=torch.int64))


def test_dropout_is_for_training_alone() -> None:
    model = model_of(replace(SMALL, dropout=0.5, attention_dropout=0.5))
    ids = random_ids()
    assert torch.equal(model(ids), model(ids))
    model.train()
    assert not torch.equal(model(ids), model(ids))


@pytest.mark.parametrize(("dropout", "attention_dropout"), [(0.5, 0.0), (0.0, 0.5)])
def test_each_dropout_does_something(dropout: float, attention_dropout: float) -> None:
    model = model_of(replace(SMALL, dropout=dropout, attention_dropout=attention_dropout)).train()
    assert not torch.equal(model(random_ids()), model(random_ids()))


@pytest.mark.parametrize(
    ("mlp", "activation"),
    [
        ("gelu", torch.nn.GELU()),
        ("gelu_tanh", torch.nn.GELU(approximate="tanh")),
        ("relu", torch.nn.ReLU()),
        ("relu2", lambda h: torch.nn.functional.relu(h) ** 2),
        ("swiglu", lambda h: torch.nn.functional.silu(h[..., :96]) * h[..., 96:]),
    ],
)
def test_activations_are_those_of_torch(mlp: Any, activation: Any) -> None:
    layer = MLP(replace(SMALL, mlp=mlp, mlp_width=96))
    x = 4 * torch.randn(2, 5, 32)
    assert torch.allclose(layer(x), layer.output(activation(layer.input(x))), atol=1e-7)


def test_layers_of_a_group_share_a_block() -> None:
    shared = model_of(replace(SMALL, layers=6, layer_groups=2))
    apart = model_of(replace(SMALL, layers=6))
    weights = {name: value for name, value in shared.state_dict().items() if not name.startswith("blocks.")}
    for layer in range(6):
        for name, value in shared.blocks[layer // 3].state_dict().items():
            weights[f"blocks.{layer}.{name}"] = value
    apart.load_state_dict(weights)
    assert torch.equal(shared(random_ids()), apart(random_ids()))
    blocks = sum(parameter.numel() for parameter in apart.blocks.parameters())
    assert apart.parameters_count() - shared.parameters_count() == blocks * 4 / 6


def test_mup_scales_what_the_head_reads() -> None:
    model = model_of(replace(SMALL, initialization="mup", mup_base_width=8))
    plain = Transformer(SMALL, VOCABULARY)
    plain.load_state_dict(model.state_dict())
    assert torch.equal(model.hidden(random_ids()), plain.hidden(random_ids()) / 4)


@pytest.mark.parametrize(
    "changes",
    [
        {"mlp": "relu2"},
        {"mlp": "gelu", "bias": "all", "norm": "layernorm"},
        {"mlp": "swiglu", "heads": 4, "head_width": 16},
        {"layers": 4, "layer_groups": 2, "tied_embeddings": True},
    ],
)
def test_flops_are_those_that_torch_counts(changes: dict[str, Any]) -> None:
    model = Transformer(replace(SMALL, **changes), VOCABULARY)
    # The counter does not know the CPU's fused attention.
    with FlopCounterMode(display=False) as counter, sdpa_kernel(SDPBackend.MATH):
        model(torch.zeros(3, 24, dtype=torch.int64)).sum().backward()
    assert counter.get_total_flops() == model.flops_per_token(24) * 3 * 24


@pytest.mark.parametrize(
    ("preset", "vocabulary", "parameters"),
    [
        ("gpt2", 50_257, 124_439_808),
        ("gpt2-medium", 50_257, 354_823_168),
        ("gpt2-large", 50_257, 774_030_080),
        ("gpt2-xl", 50_257, 1_557_611_200),
        ("llama-1b", 128_256, 1_235_814_400),
        ("llama-3b", 128_256, 3_212_749_824),
        ("llama-8b", 128_256, 8_030_261_248),
        ("qwen3-0.6b", 151_936, 596_049_920),
        ("qwen3-1.7b", 151_936, 1_720_574_976),
        ("qwen3-4b", 151_936, 4_022_468_096),
        ("qwen3-8b", 151_936, 8_190_735_360),
    ],
)
def test_presets_have_their_published_size(preset: str, vocabulary: int, parameters: int) -> None:
    with torch.device("meta"):
        model = Transformer(ModelConfig(**PRESETS[preset]), vocabulary)
    assert model.parameters_count() == parameters


def test_a_model_made_without_memory_can_be_filled_in() -> None:
    config = replace(SMALL, rope_scaling=RopeScaling("yarn"), bigram_buckets=10)
    with torch.device("meta"):
        model = Transformer(config, VOCABULARY)
    model.to_empty(device="cpu")
    model.reset_buffers()
    other = Transformer(config, VOCABULARY)
    for each in (model, other):
        torch.manual_seed(5)
        each.reset_parameters()
    assert torch.equal(model(random_ids()), other(random_ids()))


def test_it_learns_a_text_by_heart() -> None:
    text = torch.tensor(list(b"in the beginning was the word, and the word was with God."))
    torch.manual_seed(0)
    model = Transformer(ModelConfig(layers=2, heads=2, width=64, context_length=64), 128)
    optimizer = torch.optim.AdamW(model.parameters(), lr=3e-3)
    for _ in range(60):
        loss = torch.nn.functional.cross_entropy(model(text[None, :-1])[0], text[1:])
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    assert float(loss.detach()) < 0.05
    assert (model(text[None, :-1])[0].argmax(-1) == text[1:]).all()
