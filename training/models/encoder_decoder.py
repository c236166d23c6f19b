"""T5: an encoder and a decoder with relative position buckets (Raffel et al. 2020, section 2.1).

Shape suffixes: B rows, S tokens of the encoder, T tokens of the decoder (or of either, where both may be meant), R
distances, D residual width, H heads, K head width, P parts of a matrix, V vocabulary, N positions (in attention B H).
"""

from __future__ import annotations

import contextlib
import functools
import math
from typing import Any, NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.nn.attention import SDPBackend, sdpa_kernel

from training.config import ModelConfig
from training.models.attention import EXPLICIT_TOKENS, read
from training.models.cache import KeyValueCache, reading_bias
from training.models.recompute import Recompute, drops, recomputed
from training.models.transformer import MLP, make_norm, product_dtype

# cuDNN's and Flash's attention have no gradient of what is added to the scores.
_KERNELS_WITH_BIAS = [SDPBackend.EFFICIENT_ATTENTION, SDPBackend.MATH]
_KERNELS = [SDPBackend.CUDNN_ATTENTION, SDPBackend.FLASH_ATTENTION, *_KERNELS_WITH_BIAS]


class EncoderDecoder(nn.Module):
    """T5 with its vocabulary head: norms before the sublayers, no biases, scores that are not divided by sqrt(K).

    With `tied_embeddings` what the head reads is multiplied by D ** -0.5 (T5 1.0); without them it is not (T5 1.1).
    `blocks` holds those of the encoder (`layers`), then those of the decoder. Weights are float32 and drawn from
    torch's global CPU generator. Raises ValueError for settings of the trunk that a T5 has not.
    """

    encoder_buckets_R: Tensor
    decoder_buckets_R: Tensor

    def __init__(self, config: ModelConfig, vocabulary_size: int) -> None:
        super().__init__()
        _check(config)
        self.config = config
        self.vocabulary_size = vocabulary_size
        self.bigrams = None
        self._recompute: Recompute = "none"
        self._recompute_every = 1
        self.encoder_layers = config.layers
        self.decoder_layers = config.layers if config.decoder_layers is None else config.decoder_layers
        self.embedding = nn.Embedding(vocabulary_size, config.width)
        self.encoder_positions = nn.Embedding(config.relative_buckets, config.heads)
        self.decoder_positions = nn.Embedding(config.relative_buckets, config.heads)
        self.dropout = nn.Dropout(config.dropout)
        self.blocks = nn.ModuleList(
            [Block(config, decoder=False) for _ in range(self.encoder_layers)]
            + [Block(config, decoder=True) for _ in range(self.decoder_layers)]
        )
        self.encoder_norm = make_norm(config)
        self.norm = make_norm(config)
        self.head = nn.Linear(config.width, vocabulary_size, bias=False)
        if config.tied_embeddings:
            self.head.weight = self.embedding.weight
        for name in ("encoder_buckets_R", "decoder_buckets_R"):
            self.register_buffer(name, None, persistent=False)
        self.reset_buffers()
        self.reset_parameters()

    def forward(
        self,
        inputs_BS: Tensor,
        decoder_inputs_BT: Tensor,
        documents_BS: Tensor | None = None,
        decoder_documents_BT: Tensor | None = None,
    ) -> Tensor:
        """Logits (B, T, V) of the token behind each of the decoder's; arguments and errors are those of `hidden`."""
        hidden_BTD = self.hidden(inputs_BS, decoder_inputs_BT, documents_BS, decoder_documents_BT)
        logits_BTV: Tensor = self.head(self.readout(hidden_BTD))
        return logits_BTV

    def hidden(
        self,
        inputs_BS: Tensor,
        decoder_inputs_BT: Tensor,
        documents_BS: Tensor | None = None,
        decoder_documents_BT: Tensor | None = None,
    ) -> Tensor:
        """The decoder's stream (B, T, D) as the head reads it, of ids (B, S) and (B, T) int64.

        `documents_BS` and `decoder_documents_BT` (int, from 1; 0 is padding) say which example of its row a token
        belongs to: tokens of the decoder see those of their own on both sides, and those of padding what may be. Give
        both or none. Raises ValueError if S or T exceeds the context length.
        """
        assert (documents_BS is None) == (decoder_documents_BT is None)
        memory_BSD = self.encoded(inputs_BS, documents_BS)
        return self.decoded(decoder_inputs_BT, memory_BSD, documents_BS, decoder_documents_BT)

    def decoded(
        self,
        decoder_inputs_BT: Tensor,
        memory_BSD: Tensor,
        documents_BS: Tensor | None = None,
        decoder_documents_BT: Tensor | None = None,
        cache: KeyValueCache | None = None,
    ) -> Tensor:
        """The decoder's stream (B, T, D) as the head reads it, with the encoder's output; the rest as in `hidden`.

        With a `cache` the tokens follow those that its rows have read, and are kept in it, as are the keys and values
        of the encoder's output; its `advance` is left to the caller.
        """
        x_BTD = self._embedded(decoder_inputs_BT)
        tokens = x_BTD.shape[1]
        cross_bias = None
        if documents_BS is not None and decoder_documents_BT is not None:
            cross_bias = _unseen(_crossing(decoder_documents_BT, documents_BS), x_BTD.dtype)
        if cache is None or cache.empty:
            positions = self._position_bias(self.decoder_positions, self.decoder_buckets_R, x_BTD)
            causal_TT = torch.ones(tokens, tokens, dtype=torch.bool, device=x_BTD.device).tril()
            bias = positions + _unseen(_within(decoder_documents_BT, causal_TT), positions.dtype)
        else:
            bias = self._reading_bias(cache.places(tokens, x_BTD.device), cache.end(tokens)).to(product_dtype(x_BTD))
        context = Context(bias, memory_BSD, cross_bias, cache)
        x_BTD = self._run(self.encoder_layers, self.decoder_layers, x_BTD, context)
        x_BTD = self.dropout(self.norm(x_BTD))
        return x_BTD * self.config.width**-0.5 if self.config.tied_embeddings else x_BTD

    def encoded(self, inputs_BS: Tensor, documents_BS: Tensor | None = None) -> Tensor:
        """The encoder's output (B, S, D), normalised."""
        x_BSD = self._embedded(inputs_BS)
        bias = self._position_bias(self.encoder_positions, self.encoder_buckets_R, x_BSD)
        if documents_BS is not None:
            bias = bias + _unseen(_within(documents_BS), bias.dtype)
        x_BSD = self._run(0, self.encoder_layers, x_BSD, Context(bias))
        normalized_BSD: Tensor = self.dropout(self.encoder_norm(x_BSD))
        return normalized_BSD

    def readout(self, hidden_ND: Tensor) -> Tensor:
        """What the vocabulary matrix multiplies: the hidden states as they are."""
        return hidden_ND

    def set_recompute(self, policy: Recompute, every: int = 1) -> None:
        """Choose which activations of every n-th layer are computed again in the backward pass (`recompute.py`)."""
        self._recompute, self._recompute_every = policy, every

    def reset_buffers(self) -> None:
        """Compute the buckets of all distances, on the device of the embedding; after `to_empty` they are undefined."""
        config, device = self.config, self.embedding.weight.device
        with torch.device("cpu"):  # where a logarithm rounds as in the published model, on every device
            distance_R = torch.arange(1 - config.context_length, config.context_length)
            encoder_R, decoder_R = (
                relative_buckets(distance_R, bidirectional, config.relative_buckets, config.relative_distance)
                for bidirectional in (True, False)
            )
        self.encoder_buckets_R, self.decoder_buckets_R = encoder_R.to(device), decoder_R.to(device)

    @torch.no_grad()
    def reset_parameters(self) -> None:
        """Draw all weights anew, as Mesh TensorFlow does for T5: normal, with the deviations below; gains are 1.

        Embedding 1; queries (D K) ** -0.5, which stands for the division by sqrt(K); keys, values, what reads the
        stream, position tables and an untied head D ** -0.5; what writes to it fan-in ** -0.5.
        """
        config = self.config
        for parameter in self.parameters():
            if parameter.ndim == 1:
                parameter.fill_(1.0)
        narrow = config.width**-0.5
        inner = config.heads * config.width_of_head
        self.embedding.weight.normal_(std=1.0)
        for table in (self.encoder_positions, self.decoder_positions):
            table.weight.normal_(std=narrow)
        for block in self.blocks:
            assert isinstance(block, Block)
            queries, rest = block.attention.qkv.weight.split([inner, 2 * inner])
            matrices = [(queries, narrow * config.width_of_head**-0.5), (rest, narrow)]
            matrices.append((block.attention.output.weight, inner**-0.5))
            if block.cross_attention is not None:
                matrices.append((block.cross_attention.query.weight, narrow * config.width_of_head**-0.5))
                matrices.append((block.cross_attention.key_value.weight, narrow))
                matrices.append((block.cross_attention.output.weight, inner**-0.5))
            matrices.append((block.mlp.input.weight, narrow))
            matrices.append((block.mlp.output.weight, config.hidden_width**-0.5))
            for weight, deviation in matrices:
                weight.normal_(std=deviation)
        if not config.tied_embeddings:
            self.head.weight.normal_(std=narrow)

    def parameters_count(self) -> int:
        """Trained parameters; what is tied is counted once."""
        return sum(parameter.numel() for parameter in self.parameters())

    def flops(self, inputs: int, targets: int) -> int:
        """FLOPs of forward and backward for a row of `inputs` tokens of the encoder and `targets` of the decoder.

        As in PaLM, appendix B: 6 for each weight of a matrix and position that it multiplies, and 12 H K for each pair
        of positions of an attention layer, causality not taken off.
        """
        config = self.config
        encoder = sum(p.numel() for p in self.blocks[: self.encoder_layers].parameters() if p.ndim == 2)
        decoder = sum(p.numel() for p in self.blocks[self.encoder_layers :].parameters() if p.ndim == 2)
        # The keys and values of the cross-attention are those of the encoder's tokens.
        crossing = self.decoder_layers * 2 * config.heads * config.width_of_head * config.width
        products = inputs * (encoder + crossing) + targets * (decoder - crossing + self.head.weight.numel())
        pairs = self.encoder_layers * inputs * inputs + self.decoder_layers * targets * (targets + inputs)
        return 6 * products + 12 * pairs * config.heads * config.width_of_head

    def flops_per_token(self, sequence_length: int, predicted: float = 1.0) -> int:
        """`flops` of a row by token of the encoder, with `predicted` tokens of the decoder for each of them."""
        return self.flops(sequence_length, round(predicted * sequence_length)) // sequence_length

    def _embedded(self, ids_BT: Tensor) -> Tensor:
        if ids_BT.shape[1] > self.config.context_length:
            raise ValueError(
                f"{ids_BT.shape[1]} tokens exceed the model's context length of {self.config.context_length}"
            )
        x_BTD: Tensor = self.embedding(ids_BT)
        if x_BTD.device.type == "cuda":  # as in the trunk, the stream has the dtype of the products there
            x_BTD = x_BTD.to(product_dtype(x_BTD))
        dropped_BTD: Tensor = self.dropout(x_BTD)
        return dropped_BTD

    def _position_bias(self, table: nn.Embedding, buckets_R: Tensor, x_BTD: Tensor) -> Tensor:
        """What the distance of key and query adds to each score, (1, H, T, T), for all layers of a stack."""
        tokens, longest = x_BTD.shape[1], self.config.context_length
        values_HR = table(buckets_R[longest - tokens : longest + tokens - 1]).to(product_dtype(x_BTD)).T
        # Row i of the bias is a window of the values: that of its keys' distances j - i.
        return values_HR.unfold(1, tokens, 1).flip(1).unsqueeze(0)

    def _reading_bias(self, places: Tensor, slots: int) -> Tensor:
        """What the decoder's new tokens at `places` add to their scores on all slots of a cache: (B or 1, H, T, S)."""
        distance = torch.arange(slots, device=places.device) - places[..., None]
        buckets = self.decoder_buckets_R[distance + self.config.context_length - 1]
        values_BHTS = self.decoder_positions(buckets if places.ndim == 2 else buckets[None]).permute(0, 3, 1, 2)
        unseen = reading_bias(places, slots)
        return values_BHTS if unseen is None else values_BHTS + unseen

    def _run(self, first: int, count: int, x_BTD: Tensor, context: Context) -> Tensor:
        for layer in range(first, first + count):
            if context.cache is not None:
                context = context._replace(layer=layer)
            policy = self._recompute if layer % self._recompute_every == 0 else "none"
            x_BTD = self.blocks[layer](x_BTD, context, policy)
        return x_BTD


class Context(NamedTuple):
    """What the layers of a stack share in one forward pass; minus infinity is added where a token is not seen."""

    bias: Tensor
    """(B or 1, H, T, T), added to the scores of self-attention."""
    memory_BSD: Tensor | None = None
    """The encoder's output, for the decoder."""
    cross_bias: Tensor | None = None
    """(B, 1, T, S), added to the scores of cross-attention, or None where all is seen."""
    cache: KeyValueCache | None = None
    """Where the decoder's layers keep keys and values, and find those of the tokens before."""
    layer: int = 0


class Block(nn.Module):
    """Self-attention, in the decoder cross-attention, then feed-forward, each added to the stream (B, T, D)."""

    def __init__(self, config: ModelConfig, decoder: bool) -> None:
        super().__init__()
        self.attention_norm = make_norm(config)
        self.attention = SelfAttention(config)
        self.cross_norm = make_norm(config) if decoder else None
        self.cross_attention = CrossAttention(config) if decoder else None
        self.mlp_norm = make_norm(config)
        self.mlp = FeedForward(config)
        self.dropout = nn.Dropout(config.dropout)

    def forward(self, x_BTD: Tensor, context: Context, recompute: Recompute = "none") -> Tensor:
        """The stream (B, T, D) after this block; what `recompute` names is computed again in the backward pass."""
        run = functools.partial(self._run, context=context)
        random = self.training and (bool(self.attention.dropout) or drops(self))
        return recomputed(run, x_BTD, recompute if torch.is_grad_enabled() else "none", random)

    def _run(self, x_BTD: Tensor, context: Context) -> Tensor:
        x_BTD = x_BTD + self.dropout(self.attention(self.attention_norm(x_BTD), context))
        if self.cross_attention is not None and self.cross_norm is not None:
            x_BTD = x_BTD + self.dropout(self.cross_attention(self.cross_norm(x_BTD), context))
        return x_BTD + self.dropout(self.mlp(self.mlp_norm(x_BTD)))


class SelfAttention(nn.Module):
    """Attention of a stack to itself; `qkv` holds the rows of queries, keys and values in this order, head by head."""

    def __init__(self, config: ModelConfig) -> None:
        super().__init__()
        self.heads, self.head_width, self.dropout = config.heads, config.width_of_head, config.attention_dropout
        inner = self.heads * self.head_width
        self.parts = [inner] * 3
        self.qkv = nn.Linear(config.width, 3 * inner, bias=False)
        self.output = nn.Linear(inner, config.width, bias=False)

    def forward(self, x_BTD: Tensor, context: Context) -> Tensor:
        """What each position gathers (B, T, D) from those that it sees."""
        q_BHTK, k_BHTK, v_BHTK = _heads(self.qkv(x_BTD), 3, self.head_width)
        if context.cache is not None:
            k_BHTK, v_BHTK = context.cache.extend(context.layer, k_BHTK, v_BHTK)
            y_BHTK = read(q_BHTK, k_BHTK, v_BHTK, context.bias, 1.0)
        else:
            y_BHTK = attend(q_BHTK, k_BHTK, v_BHTK, context.bias, self.dropout if self.training else 0.0)
        y_BTD: Tensor = self.output(y_BHTK.transpose(1, 2).flatten(2))
        return y_BTD

    @torch.no_grad()
    def probabilities(self, x_BTD: Tensor, context: Context) -> Tensor:
        """The attention weights (B, H, T, T) float32 of queries (rows) on keys, without dropout."""
        q_BHTK, k_BHTK, _ = _heads(self.qkv(x_BTD), 3, self.head_width)
        with torch.autocast(x_BTD.device.type, enabled=False):
            return torch.softmax(q_BHTK.float() @ k_BHTK.float().mT + context.bias.float(), dim=-1)


class CrossAttention(nn.Module):
    """Attention of the decoder to the encoder's output, without positions; `key_value` holds [keys; values]."""

    def __init__(self, config: ModelConfig) -> None:
        super().__init__()
        self.head_width, self.dropout = config.width_of_head, config.attention_dropout
        inner = config.heads * self.head_width
        self.parts = [inner] * 2
        self.query = nn.Linear(config.width, inner, bias=False)
        self.key_value = nn.Linear(config.width, 2 * inner, bias=False)
        self.output = nn.Linear(inner, config.width, bias=False)

    def forward(self, x_BTD: Tensor, context: Context) -> Tensor:
        """What each position of the decoder gathers (B, T, D) from the encoder's."""
        (q_BHTK,) = _heads(self.query(x_BTD), 1, self.head_width)
        if context.cache is not None:
            k_BHSK, v_BHSK = context.cache.crossing(context.layer, functools.partial(self._memory, context))
            y_BHTK = read(q_BHTK, k_BHSK, v_BHSK, context.cross_bias, 1.0)
        else:
            k_BHSK, v_BHSK = self._memory(context)
            y_BHTK = attend(q_BHTK, k_BHSK, v_BHSK, context.cross_bias, self.dropout if self.training else 0.0)
        y_BTD: Tensor = self.output(y_BHTK.transpose(1, 2).flatten(2))
        return y_BTD

    def _memory(self, context: Context) -> tuple[Tensor, Tensor]:
        k_BHSK, v_BHSK = _heads(self.key_value(context.memory_BSD), 2, self.head_width)
        return k_BHSK, v_BHSK


class FeedForward(MLP):
    """The trunk's feed-forward layer with T5's dropout behind its activation."""

    def __init__(self, config: ModelConfig) -> None:
        super().__init__(config)
        self.dropout = nn.Dropout(config.dropout)

    def forward(self, x_BTD: Tensor) -> Tensor:
        """A function of each position alone (B, T, D)."""
        y_BTD: Tensor = self.output(self.dropout(self._activated(self.input(x_BTD))))
        return y_BTD


def attend(q_BHTK: Tensor, k_BHSK: Tensor, v_BHSK: Tensor, bias: Tensor | None, dropout: float = 0.0) -> Tensor:
    """softmax(q k' + bias) v, of shape (B, H, T, K); `dropout` is the share of attention weights that is dropped.

    On a CPU short rows are multiplied out, for the reason given in `attention.choose_route`; so is what has a gradient
    of the bias, as torch's fused kernel has none there (512 tokens in bfloat16 take half of the time, on one thread).
    """
    short = max(q_BHTK.shape[2], k_BHSK.shape[2]) <= EXPLICIT_TOKENS
    if q_BHTK.device.type == "cpu" and (short or (bias is not None and bias.requires_grad)):
        return _multiplied(q_BHTK, k_BHSK, v_BHSK, bias, dropout)
    with _preferred_kernels(q_BHTK.device, bias):
        return F.scaled_dot_product_attention(q_BHTK, k_BHSK, v_BHSK, attn_mask=bias, dropout_p=dropout, scale=1.0)


def _multiplied(q_BHTK: Tensor, k_BHSK: Tensor, v_BHSK: Tensor, bias: Tensor | None, dropout: float) -> Tensor:
    batch, heads, tokens, _ = q_BHTK.shape
    q_NTK, k_NSK, v_NSK = (x_BHTK.flatten(0, 1) for x_BHTK in (q_BHTK, k_BHSK, v_BHSK))
    added = q_NTK.new_zeros(1) if bias is None else bias.expand(batch, heads, tokens, -1).flatten(0, 1)
    # One product with its sum, which `recompute: products` does not keep; nor does it without a bias.
    weights_NTS = torch.softmax(torch.baddbmm(added, q_NTK, k_NSK.mT), dim=-1)
    return torch.bmm(F.dropout(weights_NTS, dropout) if dropout else weights_NTS, v_NSK).view_as(q_BHTK)


def relative_buckets(distance: Tensor, bidirectional: bool, buckets: int, longest: int) -> Tensor:
    """The bucket, from 0 to buckets - 1, of each distance (int64) from a query to its key (Raffel et al. 2020, 2.1).

    Half of the buckets are for exact distances, the others grow with the logarithm up to `longest`, from which on all
    share one. `bidirectional`: half of all buckets are for keys behind the query; else those count as distance 0.
    """
    offset = torch.zeros_like(distance)
    if bidirectional:
        buckets //= 2
        offset = buckets * (distance > 0)
        distance = distance.abs()
    else:
        distance = (-distance).clamp(min=0)
    exact = buckets // 2
    growth = torch.log(distance.clamp(min=1).float() / exact) / math.log(longest / exact) * (buckets - exact)
    far = (exact + growth.long()).clamp(max=buckets - 1)
    return offset + torch.where(distance < exact, distance, far)


def _heads(x_BTC: Tensor, parts: int, head_width: int) -> tuple[Tensor, ...]:
    """P parts (B, H, T, K) of what a matrix that holds them one below another has made, (B, T, C = P H K)."""
    batch, tokens, _ = x_BTC.shape
    x_BTPHK = x_BTC.view(batch, tokens, parts, -1, head_width)
    return tuple(part.transpose(1, 2) for part in x_BTPHK.unbind(2))


def _within(documents_BT: Tensor | None, seen_TT: Tensor | None = None) -> Tensor:
    """Which tokens (rows) see which of their own side: (B or 1, 1, T, T) bool."""
    if documents_BT is None:
        assert seen_TT is not None
        return seen_TT[None, None]
    same_BTT = documents_BT[:, :, None] == documents_BT[:, None, :]
    return (same_BTT if seen_TT is None else same_BTT & seen_TT).unsqueeze(1)


def _crossing(decoder_documents_BT: Tensor, documents_BS: Tensor) -> Tensor:
    """Which tokens of the decoder see which of the encoder: (B, 1, T, S) bool.

    Padding sees all: there may be none on the other side, and a softmax over nothing is no number.
    """
    query_BT1 = decoder_documents_BT[:, :, None]
    return ((query_BT1 == documents_BS[:, None, :]) | (query_BT1 == 0)).unsqueeze(1)


def _unseen(seen: Tensor, dtype: torch.dtype) -> Tensor:
    return torch.zeros(seen.shape, dtype=dtype, device=seen.device).masked_fill(~seen, float("-inf"))


def _preferred_kernels(device: torch.device, bias: Tensor | None) -> contextlib.AbstractContextManager[Any]:
    if device.type != "cuda":
        return contextlib.nullcontext()
    return sdpa_kernel(_KERNELS if bias is None else _KERNELS_WITH_BIAS, set_priority=True)


def _check(config: ModelConfig) -> None:
    """Raise ValueError where a setting is none of a T5's."""
    wanted: dict[str, Any] = {
        "layer_groups": None,
        "window": None,
        "embedding_width": None,
        "token_types": 0,
        "norm": "rmsnorm",
        "norm_position": "pre",
        "embedding_norm": False,
        "first_norm": True,
        "qk_norm": "none",
        "bias": "none",
        "head": "linear",
        "head_bias": False,
        "pooler": False,
        "bigram_buckets": 0,
        "initialization": "t5",
    }
    wrong = [
        f"{name} must be {value}, got {getattr(config, name)}"
        for name, value in wanted.items()
        if getattr(config, name) != value
    ]
    if config.key_value_heads != config.heads:
        wrong.append(f"kv_heads must be {config.heads} (as many as heads), got {config.kv_heads}")
    if wrong:
        raise ValueError(
            f"architecture encoder_decoder: {'; '.join(wrong)} (the presets t5-small and t5-base have it so)"
        )
