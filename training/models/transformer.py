"""The Transformer trunk: all that `training.config.ModelConfig` can describe, with a vocabulary head.

Shape suffixes: B sequences, T tokens, D residual width, E embedding width, H query heads, G key and value heads, K head
width, F feed-forward, V vocabulary, N positions.
"""

from __future__ import annotations

import functools
import math
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from training import mup
from training.config import ModelConfig
from training.models.attention import Context, Pattern, attend, attention_weights, choose_route, prepare
from training.models.cache import KeyValueCache, reading_bias
from training.models.initialization import SCHEMES, TRUNCATED, Kind, Matrix
from training.models.positions import alibi_slopes, document_positions, document_starts, rotary_table, rotate
from training.models.recompute import Recompute, drops, recomputed


class Transformer(nn.Module):
    """A Transformer with a head: of the vocabulary, or of replaced tokens (`ModelConfig.head`).

    Weights are float32 and drawn from torch's global CPU generator by the scheme `config.initialization`. Layer i runs
    block i // (layers / blocks).
    """

    cos_TK: Tensor | None
    sin_TK: Tensor | None
    windowed_cos_TK: Tensor | None
    windowed_sin_TK: Tensor | None
    slopes_H: Tensor | None

    def __init__(self, config: ModelConfig, vocabulary_size: int) -> None:
        super().__init__()
        self.config = config
        self.vocabulary_size = vocabulary_size
        self._recompute: Recompute = "none"
        self._recompute_every = 1
        width, narrow = config.width, config.width_of_embedding
        self.embedding = nn.Embedding(vocabulary_size, narrow)
        learned = config.positions == "learned"
        self.position_embedding = nn.Embedding(config.context_length, narrow) if learned else None
        self.type_embedding = nn.Embedding(config.token_types, narrow) if config.token_types else None
        self.bigrams = BigramEmbedding(config.bigram_buckets, config.width) if config.bigram_buckets else None
        self.embedding_norm = make_norm(config, narrow) if config.embedding_norm else None
        self.embedding_projection = nn.Linear(narrow, width) if config.embedding_width is not None else None
        self.dropout = nn.Dropout(config.dropout)
        self.blocks = nn.ModuleList(Block(config) for _ in range(config.blocks))
        if not config.first_norm:
            first = self.blocks[0]
            assert isinstance(first, Block)
            first.attention_norm = nn.Identity()
        self.norm = make_norm(config) if config.norm_position == "pre" else None
        self.transform = HeadTransform(config) if config.head == "transform" else None
        self.replaced_head = ReplacedHead(width) if config.head == "replaced_token" else None
        self.head: nn.Linear | None = None
        if config.head != "replaced_token":
            # What a tied head multiplies has the width of the embedding.
            reads = narrow if self.transform is not None or config.tied_embeddings else width
            self.head = nn.Linear(reads, vocabulary_size, bias=config.head_bias)
            if config.tied_embeddings:
                self.head.weight = self.embedding.weight
        self.pooler = nn.Linear(width, width) if config.pooler else None
        self.sentence_head = nn.Linear(width, config.sentence_classes) if config.sentence_classes else None
        for name in ("cos_TK", "sin_TK", "windowed_cos_TK", "windowed_sin_TK", "slopes_H"):
            self.register_buffer(name, None, persistent=False)
        self.reset_buffers()
        self.reset_parameters()

    def forward(self, ids_BT: Tensor, documents_BT: Tensor | None = None, **given: Any) -> Tensor:
        """Logits (B, T, V) of ids (B, T) int64; arguments and errors are those of `hidden`."""
        assert self.head is not None, "this model has no vocabulary head"
        logits_BTV: Tensor = self.head(self.readout(self.hidden(ids_BT, documents_BT, **given)))
        return logits_BTV

    def hidden(
        self,
        ids_BT: Tensor,
        documents_BT: Tensor | None = None,
        *,
        segments_BT: Tensor | None = None,
        prefix_BT: Tensor | None = None,
        causal: bool | None = None,
        cache: KeyValueCache | None = None,
        read: int | None = None,
    ) -> Tensor:
        """The residual stream (B, T, D) as the heads read it: normalised, and scaled with the initialisation mup.

        `read`: that of the first so many tokens alone, which are all that the last block computes.

        `documents_BT` (B, T) int says which document of its window each token belongs to: it sees no other one, and
        learned positions begin anew in each. `segments_BT` (B, T) int: token types, by default 0. `prefix_BT` (B, T)
        bool: tokens that all of their document see though attention is causal (UniLM, Dong et al. 2019, figure 1).
        `causal`: whether attention is causal in this pass, by default as `config.attention` has it. Raises ValueError
        if T exceeds the context length.

        With a `cache` the tokens follow those that its rows have read, and are kept in it; its `advance` is left to the
        caller. Attention must be causal then; a prefix is given in the first pass, and documents never.
        """
        config, tokens = self.config, ids_BT.shape[1]
        if tokens > config.context_length:
            raise ValueError(f"{tokens} tokens exceed the model's context length of {config.context_length}")
        places = None if cache is None or cache.empty else cache.places(tokens, ids_BT.device)
        x_BTD = self._embedded(ids_BT, documents_BT, segments_BT, cache, places)
        context_of = functools.partial(self.context, x_BTD, documents_BT, prefix_BT=prefix_BT, causal=causal)
        if cache is not None and places is not None:
            context_of = functools.partial(self._reading, places, cache.end(tokens))
        everywhere = context_of()
        windowed = everywhere if config.window is None else context_of(config.window)
        for layer in range(config.layers):
            context = everywhere if self.sees_everything(layer) else windowed
            if cache is not None:
                context = context._replace(cache=cache, layer=layer)
            if layer == config.layers - 1 and context.blocks is None:  # blocks of FlexAttention are of all queries
                context = context._replace(queries=read)
            policy = self._recompute if layer % self._recompute_every == 0 else "none"
            x_BTD = self.blocks[layer * config.blocks // config.layers](x_BTD, context, policy)
        if read is not None:
            x_BTD = x_BTD[:, :read]
        if self.norm is not None:
            x_BTD = self.norm(x_BTD)
        return x_BTD * self.output_multiplier if self.output_multiplier != 1 else x_BTD

    def readout(self, hidden_ND: Tensor) -> Tensor:
        """What the vocabulary matrix multiplies, of hidden states (..., D): they themselves, or their transform."""
        return hidden_ND if self.transform is None else self.transform(hidden_ND)

    def pooled(self, first_ND: Tensor) -> Tensor:
        """The vector (N, D) of whole sequences, from the hidden states of their first tokens."""
        assert self.pooler is not None, "this model has no pooler"
        return torch.tanh(self.pooler(first_ND))

    def replaced_logits(self, hidden_ND: Tensor) -> Tensor:
        """For hidden states (..., D) the logit (...) of the token there being a replaced one."""
        assert self.replaced_head is not None, "this model has no head for replaced tokens"
        logits_N: Tensor = self.replaced_head(hidden_ND)
        return logits_N

    def context(
        self,
        x_BTD: Tensor,
        documents_BT: Tensor | None = None,
        window: int | None = None,
        *,
        prefix_BT: Tensor | None = None,
        causal: bool | None = None,
    ) -> Context:
        """What the attention of layers with this window (None: without one) needs beside the stream."""
        config, device = self.config, x_BTD.device
        batch, tokens = x_BTD.shape[:2]
        cos_TK, sin_TK = self._rotary(window)
        if window is not None and window >= tokens:
            window = None
        is_causal = config.attention == "causal" if causal is None else causal
        pattern = Pattern(is_causal, window, documents_BT, self.slopes_H, prefix_BT if is_causal else None)
        dropout = config.attention_dropout if self.training else 0.0
        route = choose_route(device, tokens, config.width_of_head, pattern.plain, dropout)
        context = prepare(pattern, route, batch, tokens, config.heads, device, product_dtype(x_BTD))
        if cos_TK is None or sin_TK is None:
            return context
        return context._replace(cos_TK=cos_TK[:tokens], sin_TK=sin_TK[:tokens])

    def _reading(self, places: Tensor, slots: int, window: int | None = None) -> Context:
        """What the attention of layers with this window needs for tokens at `places`, (T,) or (B, T), of a cache."""
        cos_TK, sin_TK = self._rotary(window)
        bias = reading_bias(places, slots, window, self.slopes_H)
        context = Context(Pattern(window=window, slopes_H=self.slopes_H), "read", bias=bias)
        if cos_TK is None or sin_TK is None:
            return context
        turns = [half_TK[places] for half_TK in (cos_TK, sin_TK)]
        if places.ndim == 2:  # for all heads of a row
            turns = [half_BTK.unsqueeze(1) for half_BTK in turns]
        return context._replace(cos_TK=turns[0], sin_TK=turns[1])

    def _rotary(self, window: int | None) -> tuple[Tensor | None, Tensor | None]:
        """The rotary tables of layers with this window."""
        if window is not None and self.windowed_cos_TK is not None:
            return self.windowed_cos_TK, self.windowed_sin_TK
        return self.cos_TK, self.sin_TK

    def sees_everything(self, layer: int) -> bool:
        """Whether a layer (from 0) has no window."""
        config = self.config
        place = layer if config.global_first else layer + 1
        return config.window is None or (config.global_every > 0 and place % config.global_every == 0)

    @property
    def output_multiplier(self) -> float:
        """Factor on what the head reads: mup_base_width / width with the initialisation mup, else 1."""
        return mup.output(self.config)

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
            if config.rope_theta_windowed is not None and config.window is not None:
                with torch.device("cpu"):
                    table = rotary_table(
                        config.context_length, config.width_of_head, config.rope_theta_windowed, config.rope_scaling
                    )
                self.windowed_cos_TK, self.windowed_sin_TK = (half.to(device) for half in table)
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
        draw(self.embedding.weight, "head" if self.config.tied_embeddings else "embedding", self.config)
        for table in (self.position_embedding, self.type_embedding):
            if table is not None:
                draw(table.weight, "position", self.config)
        for block in self.blocks:
            assert isinstance(block, Block)
            draw(block.attention.qkv.weight, "input", self.config, block.attention.parts)
            draw(block.attention.output.weight, "output", self.config)
            draw(block.mlp.input.weight, "input", self.config, block.mlp.parts)
            draw(block.mlp.output.weight, "output", self.config)
        dense = [self.embedding_projection, self.pooler]
        dense += [part.dense for part in (self.transform, self.replaced_head) if part is not None]
        for layer in dense:
            if layer is not None:
                draw(layer.weight, "input", self.config)
        last = [self.sentence_head, None if self.replaced_head is None else self.replaced_head.output]
        for layer in [*last, None if self.config.tied_embeddings else self.head]:
            if layer is not None:
                draw(layer.weight, "head", self.config)

    def parameters_count(self) -> int:
        """Trained parameters; what is tied or shared is counted once."""
        return sum(parameter.numel() for parameter in self.parameters())

    def flops_per_token(self, sequence_length: int, predicted: float = 1.0) -> int:
        """FLOPs of forward and backward for one token, as in PaLM, appendix B: 6 N + 12 L T H K.

        N counts the matrices that multiply (the head, but not the embeddings, which are look-ups), a shared one as
        often as it is used; of the vocabulary head `predicted`, the share of the tokens that it reads. Attention is
        counted in full: neither causality nor windows nor documents are taken off.
        """
        config = self.config
        matrices = sum(p.numel() for p in self.blocks.parameters() if p.ndim == 2) * config.layers // config.blocks
        if self.embedding_projection is not None:
            matrices += self.embedding_projection.weight.numel()
        if self.replaced_head is not None:
            matrices += self.replaced_head.dense.weight.numel() + self.replaced_head.output.weight.numel()
        heads = [self.head, None if self.transform is None else self.transform.dense]
        read = sum(layer.weight.numel() for layer in heads if layer is not None)
        attention = 12 * config.layers * sequence_length * config.heads * config.width_of_head
        return round(6 * (predicted * read + matrices)) + attention

    def _embedded(
        self,
        ids_BT: Tensor,
        documents_BT: Tensor | None,
        segments_BT: Tensor | None,
        cache: KeyValueCache | None = None,
        places: Tensor | None = None,
    ) -> Tensor:
        """The stream (B, T, D) that the first block reads, of tokens at `places`, by default from 0 on."""
        x_BTE: Tensor = self.embedding(ids_BT)
        if self.bigrams is not None:
            previous_BT = None if cache is None else cache.previous(ids_BT)
            both_BTE = x_BTE + self.bigrams(ids_BT, documents_BT, previous_BT)
            x_BTE = F.rms_norm(both_BTE, (self.config.width,), eps=self.config.norm_epsilon)
        if self.type_embedding is not None:
            x_BTE = x_BTE + (self.type_embedding.weight[0] if segments_BT is None else self.type_embedding(segments_BT))
        if self.position_embedding is not None:
            if places is None:
                places = torch.arange(ids_BT.shape[1], device=ids_BT.device)
            x_BTE = x_BTE + self.position_embedding(
                places if documents_BT is None else document_positions(documents_BT)
            )
        if self.embedding_norm is not None:
            x_BTE = self.embedding_norm(x_BTE)
        if x_BTE.device.type == "cuda":
            # There the stream moves through memory between kernels; in the dtype of the products it is half as much.
            x_BTE = x_BTE.to(product_dtype(x_BTE))
        dropped_BTE: Tensor = self.dropout(x_BTE)
        return dropped_BTE if self.embedding_projection is None else self.embedding_projection(dropped_BTE)


class HeadTransform(nn.Module):
    """What stands before the vocabulary matrix of a masked-word head: dense, activation, norm (BERT's published code).

    Its width out is that of the embedding, which the matrix is tied to.
    """

    def __init__(self, config: ModelConfig) -> None:
        super().__init__()
        self.dense = nn.Linear(config.width, config.width_of_embedding, bias=config.bias == "all")
        self.norm = make_norm(config, config.width_of_embedding)
        self._approximate = "tanh" if config.mlp in ("gelu_tanh", "geglu_tanh") else "none"

    def forward(self, hidden_ND: Tensor) -> Tensor:
        """(..., E) of hidden states (..., D)."""
        y_NE: Tensor = self.norm(F.gelu(self.dense(hidden_ND), approximate=self._approximate))
        return y_NE


class ReplacedHead(nn.Module):
    """ELECTRA's discriminator head: dense, GELU, one logit (Clark et al. 2020, section 2; the published code)."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.dense = nn.Linear(width, width)
        self.output = nn.Linear(width, 1)

    def forward(self, hidden_ND: Tensor) -> Tensor:
        """Logits (...) of hidden states (..., D)."""
        logits_N: Tensor = self.output(F.gelu(self.dense(hidden_ND))).squeeze(-1)
        return logits_N


class BigramEmbedding(nn.Embedding):
    """A vector (D) for each hash of a token and the one before it; collisions are left to training to sort out."""

    def forward(self, ids_BT: Tensor, documents_BT: Tensor | None = None, previous_BT: Tensor | None = None) -> Tensor:
        """Vectors (B, T, D); the first token of a sequence or a document counts as following id 0.

        `previous_BT`: the ids before, where they are not those of the row.
        """
        if previous_BT is None:
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
        self.multiplier = mup.branch(config)
        self.attention_norm = make_norm(config)
        self.attention = Attention(config)
        self.mlp_norm = make_norm(config)
        self.mlp = MLP(config)
        self.dropout = nn.Dropout(config.dropout)

    def forward(self, x_BTD: Tensor, context: Context, recompute: Recompute = "none") -> Tensor:
        """The stream (B, T, D) after this block; what `recompute` names is computed again in the backward pass."""
        # In here, not around the block, so that hooks on it (those of FSDP) run once.
        run = functools.partial(self._run, context=context)
        random = self.training and (bool(self.attention.dropout) or drops(self))
        return recomputed(run, x_BTD, recompute if torch.is_grad_enabled() else "none", random)

    def _run(self, x_BTD: Tensor, context: Context) -> Tensor:
        asked_BTD = x_BTD if context.queries is None else x_BTD[:, : context.queries]
        if self.post:
            x_BTD = self.attention_norm(asked_BTD + self.dropout(self.attention(x_BTD, context)))
            x_BTD = self.mlp_norm(x_BTD + self.dropout(self.mlp(x_BTD)))
        else:
            x_BTD = self._added(asked_BTD, self.dropout(self.attention(self.attention_norm(x_BTD), context)))
            x_BTD = self._added(x_BTD, self.dropout(self.mlp(self.mlp_norm(x_BTD))))
        return x_BTD

    def _added(self, x_BTD: Tensor, y_BTD: Tensor) -> Tensor:
        return x_BTD + y_BTD if self.multiplier == 1 else torch.add(x_BTD, y_BTD, alpha=self.multiplier)


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
        self.query_multiplier = mup.query(config)
        self.normalizes = config.qk_norm != "none"
        gains = config.qk_norm == "gains"
        self.query_norm = nn.RMSNorm(self.head_width, eps=config.norm_epsilon) if gains else None
        self.key_norm = nn.RMSNorm(self.head_width, eps=config.norm_epsilon) if gains else None

    def forward(self, x_BTD: Tensor, context: Context) -> Tensor:
        """What each position that is asked for gathers (B, T, D) from those that it sees."""
        q_BHTK, k_BGTK, v_BGTK = self.projections(x_BTD, context)
        y_BHTK = attend(q_BHTK, k_BGTK, v_BGTK, context, self.dropout if self.training else 0.0)
        y_BTD: Tensor = self.output(y_BHTK.transpose(1, 2).flatten(2))
        return y_BTD

    @torch.no_grad()
    def probabilities(self, x_BTD: Tensor, context: Context) -> Tensor:
        """The attention weights (B, H, T, T) float32 of queries (rows) on keys, without dropout."""
        q_BHTK, k_BGTK, _ = self.projections(x_BTD, context)
        return attention_weights(q_BHTK, k_BGTK, context.pattern)

    def projections(self, x_BTD: Tensor, context: Context) -> tuple[Tensor, Tensor, Tensor]:
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
        if self.query_multiplier != 1:
            q_BHTK = q_BHTK * self.query_multiplier
        return q_BHTK, k_BGTK, v_BGTK

    def _normalized(self, x_BHTK: Tensor, norm: nn.Module | None) -> Tensor:
        if norm is None:
            return F.rms_norm(x_BHTK, (self.head_width,), eps=self.epsilon)
        # The gains are float32: their product goes back to the dtype of the values, as attention wants one for all.
        normalized_BHTK: Tensor = norm(x_BHTK)
        return normalized_BHTK.to(x_BHTK.dtype)


class MLP(nn.Module):
    """Feed-forward layer; a gated one holds its gate and its value in one input matrix (2F, D), in this order."""

    def __init__(self, config: ModelConfig) -> None:
        super().__init__()
        self.activation = config.mlp
        self.parts = [config.hidden_width] * (2 if config.gated else 1)
        self.input = nn.Linear(config.width, sum(self.parts), bias=config.bias == "all")
        self.output = nn.Linear(config.hidden_width, config.width, bias=config.bias == "all")

    def forward(self, x_BTD: Tensor) -> Tensor:
        """A function of each position alone (B, T, D)."""
        y_BTD: Tensor = self.output(self._activated(self.input(x_BTD)))
        return y_BTD

    def _activated(self, h_BTF: Tensor) -> Tensor:
        if len(self.parts) == 2:
            gate_BTF, value_BTF = h_BTF.chunk(2, dim=-1)
            return (F.silu(gate_BTF) if self.activation == "swiglu" else self._gelu(gate_BTF)) * value_BTF
        if self.activation in ("relu", "relu2"):
            h_BTF = F.relu(h_BTF)
            return h_BTF * h_BTF if self.activation == "relu2" else h_BTF
        return self._gelu(h_BTF)

    def _gelu(self, h_BTF: Tensor) -> Tensor:
        return F.gelu(h_BTF, approximate="tanh" if self.activation in ("gelu_tanh", "geglu_tanh") else "none")


def make_norm(config: ModelConfig, width: int | None = None) -> nn.Module:
    """The normalisation of the residual stream, or of another width; LayerNorm has a bias only with `bias: all`."""
    width = config.width if width is None else width
    if config.norm == "layernorm":
        return nn.LayerNorm(width, eps=config.norm_epsilon, bias=config.bias == "all")
    return nn.RMSNorm(width, eps=config.norm_epsilon)


def draw(weight: Tensor, kind: Kind, config: ModelConfig, parts: list[int] | None = None) -> None:
    """Draw a matrix, the parts that its rows hold each with a deviation of its own."""
    for rows in weight.split(parts) if parts else [weight]:
        fan_out, fan_in = rows.shape
        deviation = SCHEMES[config.initialization](Matrix(kind, fan_in, fan_out, config.layers, config.mup_base_width))
        if config.initialization in TRUNCATED:
            # By the inverse of the distribution function, without a look at the numbers that were drawn.
            edge = math.erf(math.sqrt(2))
            rows.uniform_(-edge, edge).erfinv_().mul_(math.sqrt(2) * deviation).clamp_(-2 * deviation, 2 * deviation)
        else:
            rows.normal_(std=deviation)


def product_dtype(x: Tensor) -> torch.dtype:
    """The dtype of matrix products of `x`: that of autocast where it is on."""
    device = x.device.type
    return torch.get_autocast_dtype(device) if torch.is_autocast_enabled(device) else x.dtype
