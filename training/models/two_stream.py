"""XLNet: Transformer-XL's relative positions and memory, and two streams (Yang et al. 2019, sections 2.2 to 2.5).

Shape suffixes: B sequences, T tokens (rows of the content stream), P targets (rows of the query stream), Q = T + P rows
of both, M tokens of memory, L = M + T keys, X = L + T distances, D residual width, H heads, K head width, V vocabulary.
"""

from __future__ import annotations

import functools
from typing import Any, NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.nn.attention import SDPBackend, sdpa_kernel

from training.config import ModelConfig
from training.models.recompute import Recompute, drops, recomputed
from training.models.transformer import MLP, draw, make_norm, product_dtype


class Memory(NamedTuple):
    """What the tokens before a sequence leave to it (Dai et al. 2019, section 3.2). No gradient goes through it."""

    states: tuple[Tensor, ...]
    """What each layer has read of them, (B, M, D)."""
    visible_BM: Tensor
    """bool; False for padding."""


class TwoStream(nn.Module):
    """XLNet with a vocabulary head.

    The content stream reads the tokens; the query stream knows of a target its place alone. Both have the same weights.
    Weights are float32 and drawn from torch's global CPU generator by the scheme `config.initialization`. The layers of
    attention have no biases but the three of the positions, whatever `config.bias` says; raises ValueError naming the
    fields of the config that XLNet does not know.

    Dropout is where the published code has it (on the table of positions, too, and behind the last layer), but for the
    one inside of the feed-forward layer, which the paper sets to 0 (table 8); the table's is drawn once for a batch.
    """

    distances_XD: Tensor

    def __init__(self, config: ModelConfig, vocabulary_size: int) -> None:
        super().__init__()
        _check(config)
        self.config = config
        self.vocabulary_size = vocabulary_size
        self.bigrams = None
        self._recompute: Recompute = "none"
        self._recompute_every = 1
        self.embedding = nn.Embedding(vocabulary_size, config.width)
        self.mask_embedding = nn.Parameter(torch.empty(config.width))
        self.dropout = nn.Dropout(config.dropout)
        self.blocks = nn.ModuleList(TwoStreamBlock(config) for _ in range(config.layers))
        self.head = nn.Linear(config.width, vocabulary_size, bias=config.head_bias)
        if config.tied_embeddings:
            self.head.weight = self.embedding.weight
        self.register_buffer("distances_XD", None, persistent=False)
        self.reset_buffers()
        self.reset_parameters()

    def forward(self, ids_BT: Tensor, documents_BT: Tensor | None = None, **given: Any) -> Tensor:
        """Logits (B, T, V) of `hidden`, whose arguments and errors it has."""
        logits_BTV: Tensor = self.head(self.hidden(ids_BT, documents_BT, **given))
        return logits_BTV

    def hidden(
        self,
        ids_BT: Tensor,
        documents_BT: Tensor | None = None,
        *,
        segments_BT: Tensor | None = None,
        memory: Memory | None = None,
    ) -> Tensor:
        """The content stream (B, T, D) behind the last layer, where every token sees all others: for fine-tuning.

        `ids_BT` (B, T) int64. `documents_BT` (B, T) int: tokens see each other where it is equal, and all see the
        memory. `segments_BT` (B, T) int: by whether two tokens are of the same segment attention tells them apart
        (section 2.5); those of the memory are of segment 0. Raises ValueError where the tokens or those of the memory
        exceed the context length, or where there are segments but `config.token_types` is 0.
        """
        if documents_BT is None:
            documents_BT = torch.zeros_like(ids_BT)
        seen_BTT = documents_BT[:, :, None] == documents_BT[:, None, :]
        shared = self._shared(seen_BTT, None, segments_BT, None, memory)
        x_BTD, _ = self._run(self._embedded(ids_BT), shared, memory)
        return x_BTD

    def streams(
        self,
        ids_BT: Tensor,
        order_BT: Tensor,
        targets_BP: Tensor,
        *,
        segments_BT: Tensor | None = None,
        padding_BT: Tensor | None = None,
        backward_B: Tensor | None = None,
        memory: Memory | None = None,
    ) -> tuple[Tensor, Memory]:
        """The query stream (B, P, D) of the targets, and what this sequence leaves to the next one as memory.

        `order_BT` (B, T), numbers of any kind: the factorisation order. A token sees those of the same or a lower
        number, a target those of a lower number than that of its place (equations 3 and 4); all see the memory. A
        target that sees nothing is told from its place alone. `targets_BP` (B, P) int64: places of the targets.
        `padding_BT` (B, T) bool: tokens that no other one sees. `backward_B` (B,) bool: the sequence, and its memory,
        are written from right to left (the published `bi_data`: distances change their sign). Segments and errors are
        those of `hidden`.
        """
        order_BP = order_BT.gather(1, targets_BP)
        seen_BTT = order_BT[:, None, :] <= order_BT[:, :, None]
        seen_BPT = order_BT[:, None, :] < order_BP[:, :, None]
        if padding_BT is not None:
            known_B1T = ~padding_BT[:, None, :]
            itself_TT = torch.eye(ids_BT.shape[1], dtype=torch.bool, device=ids_BT.device)
            seen_BTT, seen_BPT = (seen_BTT & known_B1T) | itself_TT, seen_BPT & known_B1T
        shared = self._shared(torch.cat([seen_BTT, seen_BPT], 1), targets_BP, segments_BT, backward_B, memory)
        x_BPD, states = self._run(self._embedded(ids_BT, targets_BP), shared, memory)
        visible_BT = torch.ones_like(ids_BT, dtype=torch.bool) if padding_BT is None else ~padding_BT
        return x_BPD, Memory(states, visible_BT)

    def readout(self, hidden_ND: Tensor) -> Tensor:
        """What the vocabulary matrix multiplies, of hidden states (..., D): they themselves."""
        return hidden_ND

    def set_recompute(self, policy: Recompute, every: int = 1) -> None:
        """Choose which activations of every n-th layer are computed again in the backward pass (`recompute.py`)."""
        self._recompute, self._recompute_every = policy, every

    def reset_buffers(self) -> None:
        """Compute the sinusoids of the distances, on the device of the embedding; after `to_empty` they are undefined.

        They go from twice the context length, of a token to the first of its memory, to minus the context length.
        """
        length, width = self.config.context_length, self.config.width
        with torch.device("cpu"):
            distance = torch.arange(2 * length, -length, -1, dtype=torch.float64)
            frequency = 10_000.0 ** (-torch.arange(0, width, 2, dtype=torch.float64) / width)
            angle = torch.outer(distance, frequency)
            table_XD = torch.cat([angle.sin(), angle.cos()], 1).float()
        self.distances_XD = table_XD.to(self.embedding.weight.device)

    @torch.no_grad()
    def reset_parameters(self) -> None:
        """Draw all weights anew, those of positions and segments like learned positions; gains are 1, other biases 0.

        `config.initialization` bert is the published one.
        """
        config = self.config
        for name, parameter in self.named_parameters():
            if parameter.ndim == 1:
                parameter.fill_(0.0 if name.endswith("bias") else 1.0)
        kind: Any = "head" if config.tied_embeddings else "embedding"
        draw(self.embedding.weight, kind, config)
        draw(self.mask_embedding[None], kind, config)
        for block in self.blocks:
            assert isinstance(block, TwoStreamBlock)
            attention, shape = block.attention, (config.heads, config.width_of_head)
            draw(attention.query.weight, "input", config)
            draw(attention.key_value.weight, "input", config, attention.parts)
            draw(attention.relative.weight, "input", config)
            draw(attention.output.weight, "output", config)
            for bias in (attention.content_bias, attention.position_bias, attention.segment_bias):
                if bias is not None:
                    draw(bias.view(shape), "position", config)
            if attention.segment_embedding is not None:
                draw(attention.segment_embedding, "position", config)
            draw(block.mlp.input.weight, "input", config, block.mlp.parts)
            draw(block.mlp.output.weight, "output", config)
        if not config.tied_embeddings:
            draw(self.head.weight, "head", config)

    def parameters_count(self) -> int:
        """Trained parameters; what is tied is counted once."""
        return sum(parameter.numel() for parameter in self.parameters())

    def flops_per_token(self, sequence_length: int, predicted: float = 1.0, memory: float = 0.0) -> int:
        """FLOPs of forward and backward of both streams for one token: 6 for each weight and row that it multiplies.

        `predicted`: targets for each token; `memory`: tokens of memory for each token. Queries, output and feed-forward
        have 1 + predicted rows a token (the last layer's `predicted` alone), keys and values 1 + memory (which gets no
        gradient); attention has three products (with keys, distances and values), of all keys, whatever the order
        allows. The projection of the distances, which a batch shares, is left out.
        """
        config = self.config
        width = config.heads * config.width_of_head
        rows = config.layers * (1 + predicted) - 1
        by_row = (3 if config.gated else 2) * config.width * config.hidden_width + 2 * config.width * width
        by_key = config.layers * (1 + memory * 2 / 3) * 2 * config.width * width
        attention = rows * 3 * sequence_length * (1 + memory) * width
        return round(6 * (predicted * self.head.weight.numel() + rows * by_row + by_key + attention))

    def _embedded(self, ids_BT: Tensor, targets_BP: Tensor | None = None) -> Tensor:
        """What the first layer reads: the tokens, and behind them for each target the same vector."""
        x_BQD: Tensor = self.embedding(ids_BT)
        if targets_BP is not None:
            x_BQD = torch.cat([x_BQD, self.mask_embedding.expand(*targets_BP.shape, -1).to(x_BQD.dtype)], 1)
        if x_BQD.device.type == "cuda":
            # There the stream moves through memory between kernels; in the dtype of the products it is half as much.
            x_BQD = x_BQD.to(product_dtype(x_BQD))
        dropped_BQD: Tensor = self.dropout(x_BQD)
        return dropped_BQD

    def _shared(
        self,
        seen_BQT: Tensor,
        targets_BP: Tensor | None,
        segments_BT: Tensor | None,
        backward_B: Tensor | None,
        memory: Memory | None,
    ) -> Shared:
        """What the blocks of one pass share, made from which rows see which tokens."""
        tokens = seen_BQT.shape[2]
        remembered = 0 if memory is None else memory.visible_BM.shape[1]
        limit = self.config.context_length
        if max(tokens, remembered) > limit:
            raise ValueError(f"{max(tokens, remembered)} tokens exceed the model's context length of {limit}")
        if segments_BT is not None and not self.config.token_types:
            raise ValueError("segments need a model with token_types: 2, this one has 0")
        if memory is not None:
            seen_BQT = torch.cat([memory.visible_BM[:, None].expand(-1, seen_BQT.shape[1], -1), seen_BQT], 2)
        sighted_BQ1 = seen_BQT.any(2, keepdim=True)
        dtype = product_dtype(self.embedding.weight)
        mask_BQL = torch.zeros(seen_BQT.shape, dtype=dtype, device=seen_BQT.device)
        mask_BQL = mask_BQL.masked_fill(~seen_BQT & sighted_BQ1, float("-inf"))
        keys = remembered + tokens
        table_1XD = self.distances_XD[None, 2 * limit - keys : 2 * limit + tokens]
        if backward_B is not None:
            sine_1XD, cosine_1XD = table_1XD.chunk(2, -1)
            table_1XD = torch.cat([table_1XD, torch.cat([-sine_1XD, cosine_1XD], -1)])
        return Shared(
            tokens,
            0,
            mask_BQL[:, None],
            sighted_BQ1,
            self.dropout(table_1XD.to(dtype)),
            backward_B,
            None if targets_BP is None else _offsets(targets_BP, tokens, keys),
            None if segments_BT is None else _same_segment(segments_BT, targets_BP, remembered),
        )

    def _run(self, x_BQD: Tensor, shared: Shared, memory: Memory | None) -> tuple[Tensor, tuple[Tensor, ...]]:
        """The last layer's output, of the query stream where there is one, and what each layer has read of content."""
        states = []
        last = self.config.layers - 1
        for layer, block in enumerate(self.blocks):
            states.append(x_BQD[:, : shared.tokens].detach())
            if layer == last and x_BQD.shape[1] > shared.tokens:
                # Nobody reads the content stream behind the last layer.
                shared = shared.of_targets()
            remembered = None if memory is None else memory.states[layer]
            policy = self._recompute if layer % self._recompute_every == 0 else "none"
            x_BQD = block(x_BQD, shared, remembered, policy)
        return self.dropout(x_BQD), tuple(states)


class Shared(NamedTuple):
    """What the blocks of one pass share."""

    tokens: int
    """Rows of the content stream, T; those of the query stream lie behind them."""
    first: int
    """First row that is computed; the ones before it are read as keys and values alone."""
    mask_B1QL: Tensor
    """Added to the scores: 0 or minus infinity; 0 all over for rows that see nothing."""
    sighted_BQ1: Tensor
    """bool: rows that see something; the others gather nothing."""
    distances_XD: Tensor
    """(1, X, D) sinusoids of the distances from L down to 1 - T; (2, X, D) with those of the opposite sign."""
    backward_B: Tensor | None
    """Which sequences take the opposite sign."""
    offsets_B1PL: Tensor | None
    """For each target and key the index of their distance."""
    same_B1QL: Tensor | None
    """bool: row and key are of the same segment; None: all are."""

    def of_targets(self) -> Shared:
        """For a layer that computes the query stream alone."""
        same_B1QL = None if self.same_B1QL is None else self.same_B1QL[:, :, self.tokens :]
        return self._replace(
            first=self.tokens,
            mask_B1QL=self.mask_B1QL[:, :, self.tokens :],
            sighted_BQ1=self.sighted_BQ1[:, self.tokens :],
            same_B1QL=same_B1QL,
        )


class TwoStreamBlock(nn.Module):
    """Attention, then feed-forward, each added to both streams (B, Q, D) and normalised."""

    def __init__(self, config: ModelConfig) -> None:
        super().__init__()
        self.attention = RelativeAttention(config)
        self.attention_norm = make_norm(config)
        self.mlp = MLP(config)
        self.mlp_norm = make_norm(config)
        self.dropout = nn.Dropout(config.dropout)

    def forward(
        self, x_BQD: Tensor, shared: Shared, memory_BMD: Tensor | None = None, recompute: Recompute = "none"
    ) -> Tensor:
        """The computed rows (B, Q - first, D) after this block; `recompute` as in `transformer.Block`."""
        run = functools.partial(self._run, shared=shared, memory_BMD=memory_BMD)
        random = self.training and (bool(self.attention.dropout) or drops(self))
        return recomputed(run, x_BQD, recompute if torch.is_grad_enabled() else "none", random)

    def _run(self, x_BQD: Tensor, shared: Shared, memory_BMD: Tensor | None) -> Tensor:
        content_BTD, x_BQD = x_BQD[:, : shared.tokens], x_BQD[:, shared.first :]
        x_BQD = self.attention_norm(x_BQD + self.dropout(self.attention(x_BQD, content_BTD, memory_BMD, shared)))
        x_BQD = self.mlp_norm(x_BQD + self.dropout(self.mlp(x_BQD)))
        return x_BQD


class RelativeAttention(nn.Module):
    """Attention by content, by distance and by segment (Dai et al. 2019, section 3.3; Yang et al. 2019, section 2.5).

    `key_value` holds the rows of keys and values in this order (`parts`), head by head. The biases (H K) are added to
    the query where it meets content (r_w in the published code), distances (r_r) and segments (r_s).
    """

    def __init__(self, config: ModelConfig) -> None:
        super().__init__()
        self.heads, self.head_width = config.heads, config.width_of_head
        self.dropout = config.attention_dropout
        inner = self.heads * self.head_width
        self.parts = [inner] * 2
        self.query = nn.Linear(config.width, inner, bias=False)
        self.key_value = nn.Linear(config.width, 2 * inner, bias=False)
        self.relative = nn.Linear(config.width, inner, bias=False)
        self.output = nn.Linear(inner, config.width, bias=False)
        self.content_bias = nn.Parameter(torch.zeros(inner))
        self.position_bias = nn.Parameter(torch.zeros(inner))
        self.segment_bias = nn.Parameter(torch.zeros(inner)) if config.token_types else None
        self.segment_embedding = nn.Parameter(torch.zeros(2, inner)) if config.token_types else None

    def forward(self, x_BQD: Tensor, content_BTD: Tensor, memory_BMD: Tensor | None, shared: Shared) -> Tensor:
        """What each row gathers (B, Q, D) from the tokens, and those of the memory, that it sees."""
        q_BHQK, k_BHLK, v_BHLK, bias_BHQL = self._operands(x_BQD, content_BTD, memory_BMD, shared)
        dropout = self.dropout if self.training else 0.0
        if x_BQD.device.type == "cuda":
            # The one fused kernel that gives the bias a gradient.
            with sdpa_kernel([SDPBackend.EFFICIENT_ATTENTION, SDPBackend.MATH]):
                y_BHQK = F.scaled_dot_product_attention(q_BHQK, k_BHLK, v_BHLK, bias_BHQL, dropout, scale=1.0)
        else:
            weights_NQL = torch.softmax(_scores(q_BHQK, k_BHLK, bias_BHQL), dim=-1)
            if dropout:
                weights_NQL = F.dropout(weights_NQL, dropout)
            y_BHQK = torch.bmm(weights_NQL, v_BHLK.flatten(0, 1)).view_as(q_BHQK)
        y_BQD: Tensor = self.output(y_BHQK.transpose(1, 2).flatten(2) * shared.sighted_BQ1)
        return y_BQD

    @torch.no_grad()
    def probabilities(self, x_BQD: Tensor, content_BTD: Tensor, memory_BMD: Tensor | None, shared: Shared) -> Tensor:
        """The attention weights (B, H, Q, L) float32 of rows on keys, without dropout."""
        q_BHQK, k_BHLK, _, bias_BHQL = self._operands(x_BQD, content_BTD, memory_BMD, shared)
        return torch.softmax(_scores(q_BHQK, k_BHLK, bias_BHQL).float(), dim=-1).view_as(bias_BHQL)

    def _operands(
        self, x_BQD: Tensor, content_BTD: Tensor, memory_BMD: Tensor | None, shared: Shared
    ) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        """Scaled queries, keys, values, and what is added to their scores: distance, segment, mask (B, H, Q, L)."""
        scale = self.head_width**-0.5
        q_BQN = self.query(x_BQD) * scale
        both_BLN = self.key_value(content_BTD)
        if memory_BMD is not None:
            # By itself, as nobody needs the gradient of what is remembered.
            both_BLN = torch.cat([self.key_value(memory_BMD), both_BLN], 1)
        k_BHLK, v_BHLK = (self._by_head(part) for part in both_BLN.chunk(2, -1))
        content_bias: Tensor = self.content_bias
        if self.segment_embedding is not None and self.segment_bias is not None and shared.same_B1QL is None:
            # In a single segment its scores are alike for all keys and change nothing. A gradient of zero all the same:
            # processes that add theirs up wait for that of every parameter.
            content_bias = content_bias + 0.0 * (self.segment_bias + self.segment_embedding.sum(0))
        q_BHQK = self._by_head(q_BQN + (content_bias * scale).to(q_BQN.dtype))
        at_BHQK = self._by_head(q_BQN + (self.position_bias * scale).to(q_BQN.dtype))
        scores_BHQX = at_BHQK @ self._distances(shared).mT
        bias_BHQL = _shifted(scores_BHQX, shared) + shared.mask_B1QL
        if shared.same_B1QL is not None:
            bias_BHQL = bias_BHQL + self._segments(q_BQN, shared.same_B1QL, scale)
        return q_BHQK, k_BHLK, v_BHLK, bias_BHQL.to(q_BHQK.dtype)

    def _distances(self, shared: Shared) -> Tensor:
        """Keys (B or 1, H, X, K) of the distances."""
        r_2XN: Tensor = self.relative(shared.distances_XD)
        if shared.backward_B is not None:
            # A choice by a product with 0 and 1: on a CPU several times as fast as `where`, above all its gradient.
            choice_B2 = torch.stack([~shared.backward_B, shared.backward_B], 1).to(r_2XN.dtype)
            r_2XN = (choice_B2 @ r_2XN.flatten(1)).unflatten(1, r_2XN.shape[1:])
        return self._by_head(r_2XN)

    def _segments(self, q_BQN: Tensor, same_B1QL: Tensor, scale: float) -> Tensor:
        """Scores (B, H, Q, L) of tokens of the same and of another segment."""
        assert self.segment_bias is not None
        assert self.segment_embedding is not None
        q_BHQK = self._by_head(q_BQN + (self.segment_bias * scale).to(q_BQN.dtype))
        both_H2K = self.segment_embedding.view(2, self.heads, self.head_width).transpose(0, 1)
        same_BHQ1, other_BHQ1 = (q_BHQK @ both_H2K.mT).split(1, -1)
        return torch.where(same_B1QL, same_BHQ1, other_BHQ1)

    def _by_head(self, x_BQN: Tensor) -> Tensor:
        return x_BQN.unflatten(-1, (self.heads, self.head_width)).transpose(1, 2)


def _scores(q_BHQK: Tensor, k_BHLK: Tensor, bias_BHQL: Tensor) -> Tensor:
    return torch.baddbmm(bias_BHQL.flatten(0, 1), q_BHQK.flatten(0, 1), k_BHLK.flatten(0, 1).mT)


def _offsets(targets_BP: Tensor, tokens: int, keys: int) -> Tensor:
    """Index (B, 1, P, L) of the distance from target p to key j in a table that begins with L: T - p + j."""
    return (tokens - targets_BP)[:, None, :, None] + torch.arange(keys, device=targets_BP.device)


def _same_segment(segments_BT: Tensor, targets_BP: Tensor | None, remembered: int) -> Tensor:
    """Whether rows and keys (B, 1, Q, L) are of the same segment; those of the memory are of segment 0."""
    rows_BQ = segments_BT
    if targets_BP is not None:
        rows_BQ = torch.cat([segments_BT, segments_BT.gather(1, targets_BP)], 1)
    keys_BL = F.pad(segments_BT, (remembered, 0))
    return (rows_BQ[:, :, None] == keys_BL[:, None, :])[:, None]


def _shifted(scores_BHQX: Tensor, shared: Shared) -> Tensor:
    """Scores (B, H, Q, L) by key from those by distance."""
    shifted: Tensor = _Shift.apply(  # type: ignore[no-untyped-call]
        scores_BHQX, shared.tokens - shared.first, shared.mask_B1QL.shape[-1], shared.offsets_B1PL
    )
    return shifted


class _Shift(torch.autograd.Function):
    """The relative shift (Dai et al. 2019, appendix B) of content rows, and the same for rows anywhere.

    Row i of the content has the distance to key j at index T - i + j: in memory that is a constant step from row to
    row, so a view does. Targets look it up; as each of their rows is a stretch of the scores, the gradient can be
    looked up, too, and need not be scattered (which on CUDA has no fixed order).
    """

    @staticmethod
    def forward(ctx: Any, scores_BHQX: Tensor, tokens: int, keys: int, offsets_B1PL: Tensor | None) -> Tensor:
        batch, heads, rows, _ = scores_BHQX.shape
        ctx.tokens, ctx.shape = tokens, scores_BHQX.shape
        ctx.save_for_backward(offsets_B1PL)
        shifted_BHQL = scores_BHQX.new_empty(batch, heads, rows, keys)
        if tokens:
            shifted_BHQL[:, :, :tokens] = _diagonals(scores_BHQX[:, :, :tokens], keys)
        if offsets_B1PL is not None:
            index = offsets_B1PL.expand(-1, heads, -1, -1)
            shifted_BHQL[:, :, tokens:] = scores_BHQX[:, :, tokens:].gather(3, index)
        return shifted_BHQL

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor, None, None, None]:
        (offsets_B1PL,) = ctx.saved_tensors
        gradient_BHQL, tokens = gradients[0], ctx.tokens
        keys = gradient_BHQL.shape[-1]
        scores_BHQX = gradient_BHQL.new_zeros(ctx.shape)
        if tokens:
            _diagonals(scores_BHQX[:, :, :tokens], keys).copy_(gradient_BHQL[:, :, :tokens])
        if offsets_B1PL is not None:
            place_B1PX = torch.arange(ctx.shape[-1], device=offsets_B1PL.device) - offsets_B1PL[..., :1]
            inside_B1PX = (place_B1PX >= 0) & (place_B1PX < keys)
            index = place_B1PX.clamp(0, keys - 1).expand(-1, ctx.shape[1], -1, -1)
            scores_BHQX[:, :, tokens:] = gradient_BHQL[:, :, tokens:].gather(3, index) * inside_B1PX
        return scores_BHQX, None, None, None


def _diagonals(scores_BHTX: Tensor, keys: int) -> Tensor:
    """A view (B, H, T, L): element (i, j) is that of row i at T - i + j."""
    tokens, distances = scores_BHTX.shape[2:]
    return scores_BHTX.flatten(2)[:, :, tokens:].unflatten(2, (tokens, distances - 1))[..., :keys]


def _check(config: ModelConfig) -> None:
    """Raise ValueError where a config asks for what XLNet has not."""
    needed: dict[str, list[Any]] = {
        "attention": ["bidirectional"],
        "positions": ["relative"],
        "window": [None],
        "kv_heads": [None, config.heads],
        "layer_groups": [None, config.layers],
        "embedding_width": [None, config.width],
        "token_types": [0, 2],
        "norm_position": ["post"],
        "embedding_norm": [False],
        "qk_norm": ["none"],
        "head": ["linear"],
        "pooler": [False],
        "bigram_buckets": [0],
        "initialization": ["small", "gpt2", "bert", "xavier", "he"],
    }
    wrong = [
        f"{name} is {getattr(config, name)}" for name, allowed in needed.items() if getattr(config, name) not in allowed
    ]
    if config.width % 2:
        wrong.append(f"width is {config.width}, an odd number")
    if wrong:
        raise ValueError(f"architecture two_stream cannot be built: {'; '.join(wrong)} (see the preset xlnet-base)")
