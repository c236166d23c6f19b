"""The Transformer trunk: all that `training.config.ModelConfig` can describe, with a vocabulary head.

Shape suffixes: B sequences, T tokens, D residual width, H query heads, G key and value heads, K head width,
F feed-forward, V vocabulary.
"""

from __future__ import annotations

import functools

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from training.config import ModelConfig
from training.models.attention import Context, Pattern, attend, attention_weights, choose_route, prepare
from training.models.initialization import SCHEMES, Kind, Matrix
from training.models.positions import alibi_slopes, document_positions, document_starts, rotary_table, rotate
from training.models.recompute import Recompute, recomputed


class Transformer(nn.Module):
    """A Transformer with a vocabulary head.

    Weights are float32 and drawn from torch's global CPU generator by the scheme `config.initialization`. Layer i runs
    block i // (layers / blocks).
    """

    cos_TK: Tensor | None
    sin_TK: Tensor | None
    slopes_H: Tensor | None

    def __init__(self, config: ModelConfig, vocabulary_size: int) -> None:
        super().__init__()
        self.config = config
        self.vocabulary_size = vocabulary_size
        self._recompute: Recompute = "none"
        self._recompute_every = 1
        self.embedding = nn.Embedding(vocabulary_size, config.width)
        learned = config.positions == "learned"
        self.position_embedding = nn.Embedding(config.context_length, config.width) if learned else None
        self.bigrams = BigramEmbedding(config.bigram_buckets, config.width) if config.bigram_buckets else None
        self.embedding_norm = make_norm(config) if config.embedding_norm else None
        self.dropout = nn.Dropout(config.dropout)
        self.blocks = nn.ModuleList(Block(config) for _ in range(config.blocks))
        self.norm = make_norm(config) if config.norm_position == "pre" else None
        self.head = nn.Linear(config.width, vocabulary_size, bias=False)
        if config.tied_embeddings:
            self.head.weight = self.embedding.weight
        for name in ("cos_TK", "sin_TK", "slopes_H"):
            self.register_buffer(name, None, persistent=False)
        self.reset_buffers()
        self.reset_parameters()

    def forward(self, ids_BT: Tensor, documents_BT: Tensor | None = None) -> Tensor:
        """Logits (B, T, V) of ids (B, T) int64; arguments and errors are those of `hidden`."""
        logits_BTV: Tensor = self.head(self.hidden(ids_BT, documents_BT))
        return logits_BTV

    def hidden(self, ids_BT: Tensor, documents_BT: Tensor | None = None) -> Tensor:
        """The residual stream (B, T, D) as the head reads it: normalised, and scaled with the initialisation mup.

        `documents_BT` (B, T) int says which document of its window each token belongs to: it sees no other one, and
        learned positions begin anew in each. Raises ValueError if T exceeds the context length.
        """
        config, tokens = self.config, ids_BT.shape[1]
        if tokens > config.context_length:
            raise ValueError(f"{tokens} tokens exceed the model's context length of {config.context_length}")
        x_BTD = self._embedded(ids_BT, documents_BT)
        everywhere = self.context(x_BTD, documents_BT)
        windowed = everywhere if config.window is None else self.context(x_BTD, documents_BT, config.window)
        for layer in range(config.layers):
            context = everywhere if self.sees_everything(layer) else windowed
            policy = self._recompute if layer % self._recompute_every == 0 else "none"
            x_BTD = self.blocks[layer * config.blocks // config.layers](x_BTD, context, policy)
        if self.norm is not None:
            x_BTD = self.norm(x_BTD)
        return x_BTD * self.output_multiplier if self.output_multiplier != 1 else x_BTD

    def context(self, x_BTD: Tensor, documents_BT: Tensor | None = None, window: int | None = None) -> Context:
        """What the attention of layers with this window (None: without one) needs beside the stream."""
        config, device = self.config, x_BTD.device
        batch, tokens = x_BTD.shape[:2]
        if window is not None and window >= tokens:
            window = None
        pattern = Pattern(config.attention == "causal", window, documents_BT, self.slopes_H)
        dropout = config.attention_dropout if self.training else 0.0
        route = choose_route(device, tokens, config.width_of_head, pattern.plain, dropout)
        context = prepare(pattern, route, batch, tokens, config.heads, device, _product_dtype(x_BTD))
        if self.cos_TK is None or self.sin_TK is None:
            return context
        return context._replace(cos_TK=self.cos_TK[:tokens], sin_TK=self.sin_TK[:tokens])

    def sees_everything(self, layer: int) -> bool:
        """Whether a layer (from 0) has no window."""
        config = self.config
        return config.window is None or (config.global_every > 0 and (layer + 1) % config.global_every == 0)

    @property
    def output_multiplier(self) -> float:
        """Factor on what the head reads: mup_base_width / width with the initialisation mup, else 1."""
        return self.config.mup_base_width / self.config.width if self.config.initialization == "mup" else 1.0

    def set_recompute(self, policy: Recompute, every: int = 1) -> None:
        """Choose which activations of every n-th layer are computed again in the backward pass (`recompute.py`)."""
        self._recompute, self._recompute_every = policy, every

    def reset_buffers(self) -> None:
        """Compute the position tables, on the device of the embedding; after `to_empty` they are undefined."""
        config, device = self.config, self.embedding.weight.device
        if config.positions == "rotary":
            with torch.device("cpu"):
                table = rotary_table(
                    config.context_length, config.width_of_head, config.rope_theta, config.rope_scaling
                )
            self.cos_TK, self.sin_TK = (half.to(device) for half in table)
        elif config.positions == "alibi":
            with torch.device("cpu"):
                slopes_H = alibi_slopes(config.heads)
            self.slopes_H = slopes_H.to(device)

    @torch.no_grad()
    def reset_parameters(self) -> None:
        """Draw all weights anew; gains are 1, biases 0, and the bigram embedding starts at 0."""
        for name, parameter in self.named_parameters():
            if parameter.ndim == 1:
                parameter.fill_(0.0 if name.endswith("bias") else 1.0)
        if self.bigrams is not None:
            self.bigrams.weight.zero_()
        _draw(self.embedding.weight, "head" if self.config.tied_embeddings else "embedding", self.config)
        if self.position_embedding is not None:
            _draw(self.position_embedding.weight, "position", self.config)
        for block in self.blocks:
            assert isinstance(block, Block)
            _draw(block.attention.qkv.weight, "input", self.config, block.attention.parts)
            _draw(block.attention.output.weight, "output", self.config)
            _draw(block.mlp.input.weight, "input", self.config, block.mlp.parts)
            _draw(block.mlp.output.weight, "output", self.config)
        if not self.config.tied_embeddings:
            _draw(self.head.weight, "head", self.config)

    def parameters_count(self) -> int:
        """Trained parameters; what is tied or shared is counted once."""
        return sum(parameter.numel() for parameter in self.parameters())

    def flops_per_token(self, sequence_length: int) -> int:
        """FLOPs of forward and backward for one token, as in PaLM, appendix B: 6 N + 12 L T H K.

        N counts the matrices that multiply (the head, but not the embeddings, which are look-ups), a shared one as
        often as it is used. Attention is counted in full: neither causality nor windows nor documents are taken off.
        """
        config = self.config
        matrices = sum(p.numel() for p in self.blocks.parameters() if p.ndim == 2) * config.layers // config.blocks
        attention = 12 * config.layers * sequence_length * config.heads * config.width_of_head
        return 6 * (self.head.weight.numel() + matrices) + attention

    def _embedded(self, ids_BT: Tensor, documents_BT: Tensor | None) -> Tensor:
        """The stream (B, T, D) that the first block reads."""
        x_BTD: Tensor = self.embedding(ids_BT)
        if self.bigrams is not None:
            both_BTD = x_BTD + self.bigrams(ids_BT, documents_BT)
            x_BTD = F.rms_norm(both_BTD, (self.config.width,), eps=self.config.norm_epsilon)
        if self.position_embedding is not None:
            places = torch.arange(ids_BT.shape[1], device=ids_BT.device)
            x_BTD = x_BTD + self.position_embedding(
                places if documents_BT is None else document_positions(documents_BT)
            )
        if self.embedding_norm is not None:
            x_BTD = self.embedding_norm(x_BTD)
        if x_BTD.device.type == "cuda":
            # There the stream moves through memory between kernels; in the dtype of the products it is half as much.
            x_BTD = x_BTD.to(_product_dtype(x_BTD))
        dropped_BTD: Tensor = self.dropout(x_BTD)
        return dropped_BTD


class BigramEmbedding(nn.Embedding):
    """A vector (D) for each hash of a token and the one before it; collisions are left to training to sort out."""

    def forward(self, ids_BT: Tensor, documents_BT: Tensor | None = None) -> Tensor:
        """Vectors (B, T, D); the first token of a sequence or a document counts as following id 0."""
        previous_BT = F.pad(ids_BT, (1, 0))[:, :-1]
        if documents_BT is not None:
            previous_BT = previous_BT.masked_fill(document_starts(documents_BT), 0)
        # Fibonacci hashing of the pair; int64 products wrap alike on every device, and the modulus is not negative.
        pair_BT = (previous_BT << 20) + ids_BT
        vectors_BTD: Tensor = super().forward(((pair_BT * 0x1E3779B97F4A7C15) >> 24) % self.num_embeddings)
        return vectors_BTD


class Block(nn.Module):
    """Attention, then feed-forward, each added to the stream (B, T, D)."""

    def __init__(self, config: ModelConfig) -> None:
        super().__init__()
        self.post = config.norm_position == "post"
        self.attention_norm = make_norm(config)
        self.attention = Attention(config)
        self.mlp_norm = make_norm(config)
        self.mlp = MLP(config)
        self.dropout = nn.Dropout(config.dropout)

    def forward(self, x_BTD: Tensor, context: Context, recompute: Recompute = "none") -> Tensor:
        """The stream (B, T, D) after this block; what `recompute` names is computed again in the backward pass."""
        # In here, not around the block, so that hooks on it (those of FSDP) run once.
        run = functools.partial(self._run, context=context)
        random = self.training and bool(self.dropout.p or self.attention.dropout)
        return recomputed(run, x_BTD, recompute if torch.is_grad_enabled() else "none", random)

    def _run(self, x_BTD: Tensor, context: Context) -> Tensor:
        if self.post:
            x_BTD = self.attention_norm(x_BTD + self.dropout(self.attention(x_BTD, context)))
            x_BTD = self.mlp_norm(x_BTD + self.dropout(self.mlp(x_BTD)))
        else:
            x_BTD = x_BTD + self.dropout(self.attention(self.attention_norm(x_BTD), context))
            x_BTD = x_BTD + self.dropout(self.mlp(self.mlp_norm(x_BTD)))
        return x_BTD


class Attention(nn.Module):
    """Self-attention; `qkv` holds the rows of queries, keys and values in this order, head by head."""

    def __init__(self, config: ModelConfig) -> None:
        super().__init__()
        self.heads, self.key_value_heads, self.head_width = config.heads, config.key_value_heads, config.width_of_head
        self.epsilon = config.norm_epsilon
        self.dropout = config.attention_dropout
        self.parts = [heads * self.head_width for heads in (self.heads, self.key_value_heads, self.key_value_heads)]
        self.qkv = nn.Linear(config.width, sum(self.parts), bias=config.bias != "none")
        self.output = nn.Linear(self.parts[0], config.width, bias=config.bias == "all")
        self.normalizes = config.qk_norm != "none"
        gains = config.qk_norm == "gains"
        self.query_norm = nn.RMSNorm(self.head_width, eps=config.norm_epsilon) if gains else None
        self.key_norm = nn.RMSNorm(self.head_width, eps=config.norm_epsilon) if gains else None

    def forward(self, x_BTD: Tensor, context: Context) -> Tensor:
        """What each position gathers (B, T, D) from those that it sees."""
        q_BHTK, k_BGTK, v_BGTK = self._projections(x_BTD, context)
        y_BHTK = attend(q_BHTK, k_BGTK, v_BGTK, context, self.dropout if self.training else 0.0)
        y_BTD: Tensor = self.output(y_BHTK.transpose(1, 2).flatten(2))
        return y_BTD

    @torch.no_grad()
    def probabilities(self, x_BTD: Tensor, context: Context) -> Tensor:
        """The attention weights (B, H, T, T) float32 of queries (rows) on keys, without dropout."""
        q_BHTK, k_BGTK, _ = self._projections(x_BTD, context)
        return attention_weights(q_BHTK, k_BGTK, context.pattern)

    def _projections(self, x_BTD: Tensor, context: Context) -> tuple[Tensor, Tensor, Tensor]:
        """Queries (B, H, T, K), keys and values (B, G, T, K), normalised and turned."""
        batch, tokens, _ = x_BTD.shape
        all_BTHK = self.qkv(x_BTD).view(batch, tokens, -1, self.head_width)
        heads = [self.heads, self.key_value_heads, self.key_value_heads]
        q_BHTK, k_BGTK, v_BGTK = (part.transpose(1, 2) for part in all_BTHK.split(heads, dim=2))
        if self.normalizes:
            q_BHTK = self._normalized(q_BHTK, self.query_norm)
            k_BGTK = self._normalized(k_BGTK, self.key_norm)
        if context.cos_TK is not None and context.sin_TK is not None:
            q_BHTK = rotate(q_BHTK, context.cos_TK, context.sin_TK)
            k_BGTK = rotate(k_BGTK, context.cos_TK, context.sin_TK)
        return q_BHTK, k_BGTK, v_BGTK

    def _normalized(self, x_BHTK: Tensor, norm: nn.Module | None) -> Tensor:
        if norm is None:
            return F.rms_norm(x_BHTK, (self.head_width,), eps=self.epsilon)
        # The gains are float32: their product goes back to the dtype of the values, as attention wants one for all.
        normalized_BHTK: Tensor = norm(x_BHTK)
        return normalized_BHTK.to(x_BHTK.dtype)


class MLP(nn.Module):
    """Feed-forward layer; SwiGLU holds its gate and its value in one input matrix (2F, D), in this order."""

    def __init__(self, config: ModelConfig) -> None:
        super().__init__()
        self.activation = config.mlp
        self.parts = [config.hidden_width] * (2 if config.mlp == "swiglu" else 1)
        self.input = nn.Linear(config.width, sum(self.parts), bias=config.bias == "all")
        self.output = nn.Linear(config.hidden_width, config.width, bias=config.bias == "all")

    def forward(self, x_BTD: Tensor) -> Tensor:
        """A function of each position alone (B, T, D)."""
        y_BTD: Tensor = self.output(self._activated(self.input(x_BTD)))
        return y_BTD

    def _activated(self, h_BTF: Tensor) -> Tensor:
        if self.activation == "swiglu":
            gate_BTF, value_BTF = h_BTF.chunk(2, dim=-1)
            return F.silu(gate_BTF) * value_BTF
        if self.activation in ("relu", "relu2"):
            h_BTF = F.relu(h_BTF)
            return h_BTF * h_BTF if self.activation == "relu2" else h_BTF
        return F.gelu(h_BTF, approximate="tanh" if self.activation == "gelu_tanh" else "none")


def make_norm(config: ModelConfig) -> nn.Module:
    """The normalisation of the residual stream; LayerNorm has a bias only with `bias: all`."""
    if config.norm == "layernorm":
        return nn.LayerNorm(config.width, eps=config.norm_epsilon, bias=config.bias == "all")
    return nn.RMSNorm(config.width, eps=config.norm_epsilon)


def _draw(weight: Tensor, kind: Kind, config: ModelConfig, parts: list[int] | None = None) -> None:
    """Draw a matrix, the parts that its rows hold each with a deviation of its own."""
    for rows in weight.split(parts) if parts else [weight]:
        fan_out, fan_in = rows.shape
        rows.normal_(
            std=SCHEMES[config.initialization](Matrix(kind, fan_in, fan_out, config.layers, config.mup_base_width))
        )


def _product_dtype(x: Tensor) -> torch.dtype:
    """The dtype of matrix products of `x`: that of autocast where it is on."""
    device = x.device.type
    return torch.get_autocast_dtype(device) if torch.is_autocast_enabled(device) else x.dtype
