"""The Transformer trunk as a causal language model: pre-norm, RMSNorm, rotary positions, QK-norm.

Shape suffixes: B sequences, T tokens, D residual width, H heads, K head width (D / H), F feed-forward, V vocabulary.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from training.config import ModelConfig
from training.models.attention import causal_attention
from training.models.initialization import SCHEMES, Kind


class GPT(nn.Module):
    """A decoder-only language model.

    Weights are float32 and drawn from torch's global CPU generator by the scheme `config.initialization`.
    """

    cos_TK: Tensor
    sin_TK: Tensor

    def __init__(self, config: ModelConfig, vocabulary_size: int) -> None:
        super().__init__()
        self.config = config
        self.vocabulary_size = vocabulary_size
        self.embedding = nn.Embedding(vocabulary_size, config.width)
        self.bigrams = BigramEmbedding(config.bigram_buckets, config.width) if config.bigram_buckets else None
        self.blocks = nn.ModuleList(Block(config) for _ in range(config.layers))
        self.norm = nn.RMSNorm(config.width, eps=config.norm_epsilon)
        self.head = nn.Linear(config.width, vocabulary_size, bias=False)
        if config.tied_embeddings:
            self.head.weight = self.embedding.weight
        cos_TK, sin_TK = rotary_table(config.context_length, config.width // config.heads, config.rope_theta)
        self.register_buffer("cos_TK", cos_TK, persistent=False)
        self.register_buffer("sin_TK", sin_TK, persistent=False)
        self.reset_parameters()

    def forward(self, ids_BT: Tensor) -> Tensor:
        """Next-token logits (B, T, V) of ids (B, T) int64; raises ValueError if T exceeds the context length."""
        logits_BTV: Tensor = self.head(self.hidden(ids_BT))
        return logits_BTV

    def hidden(self, ids_BT: Tensor) -> Tensor:
        """The normalised residual stream (B, T, D) that the head reads."""
        tokens = ids_BT.shape[1]
        if tokens > self.config.context_length:
            raise ValueError(f"{tokens} tokens exceed the model's context length of {self.config.context_length}")
        cos_TK, sin_TK = self.cos_TK[:tokens], self.sin_TK[:tokens]
        x_BTD = self.embedding(ids_BT)
        if self.bigrams is not None:
            x_BTD = F.rms_norm(x_BTD + self.bigrams(ids_BT), (self.config.width,), eps=self.config.norm_epsilon)
        for block in self.blocks:
            x_BTD = block(x_BTD, cos_TK, sin_TK)
        hidden_BTD: Tensor = self.norm(x_BTD)
        return hidden_BTD

    @torch.no_grad()
    def reset_parameters(self) -> None:
        """Draw all weights anew; gains are 1, and the bigram embedding starts at 0."""
        if self.bigrams is not None:
            self.bigrams.weight.zero_()
        deviation = SCHEMES[self.config.initialization]
        matrices: list[tuple[Kind, Tensor]] = [("embedding", self.embedding.weight)]
        for module in self.blocks:
            assert isinstance(module, Block)
            matrices += [("input", module.attention.qkv.weight), ("output", module.attention.output.weight)]
            matrices += [("input", module.mlp.input.weight), ("output", module.mlp.output.weight)]
        if not self.config.tied_embeddings:
            matrices.append(("head", self.head.weight))
        for kind, weight in matrices:
            weight.normal_(std=deviation(kind, weight.shape[1], self.config.layers))

    def parameters_count(self) -> int:
        """Trained parameters, a tied matrix counted once."""
        return sum(parameter.numel() for parameter in self.parameters())

    def flops_per_token(self, sequence_length: int) -> int:
        """FLOPs of forward and backward for one token, as in PaLM, appendix B: 6 N + 12 L T D.

        N counts the matrices that multiply (the head, but not the embedding, which is a look-up). Causal attention is
        counted in full.
        """
        multiplied = self.head.weight.numel() + sum(p.numel() for p in self.blocks.parameters() if p.ndim == 2)
        return 6 * multiplied + 12 * self.config.layers * sequence_length * self.config.width


class BigramEmbedding(nn.Embedding):
    """A vector (D) for each hash of a token and the one before it; collisions are left to training to sort out."""

    def forward(self, ids_BT: Tensor) -> Tensor:
        """Vectors (B, T, D); the first token of a sequence counts as following id 0."""
        previous_BT = F.pad(ids_BT, (1, 0))[:, :-1]
        # Fibonacci hashing of the pair; int64 products wrap alike on every device, and the modulus is not negative.
        pair_BT = (previous_BT << 20) + ids_BT
        vectors_BTD: Tensor = super().forward(((pair_BT * 0x1E3779B97F4A7C15) >> 24) % self.num_embeddings)
        return vectors_BTD


class Block(nn.Module):
    """Attention, then feed-forward, each added to the stream (B, T, D)."""

    def __init__(self, config: ModelConfig) -> None:
        super().__init__()
        self.attention_norm = nn.RMSNorm(config.width, eps=config.norm_epsilon)
        self.attention = Attention(config)
        self.mlp_norm = nn.RMSNorm(config.width, eps=config.norm_epsilon)
        self.mlp = MLP(config)
        self.dropout = nn.Dropout(config.dropout)

    def forward(self, x_BTD: Tensor, cos_TK: Tensor, sin_TK: Tensor) -> Tensor:
        """The stream (B, T, D) after this block."""
        x_BTD = x_BTD + self.dropout(self.attention(self.attention_norm(x_BTD), cos_TK, sin_TK))
        x_BTD = x_BTD + self.dropout(self.mlp(self.mlp_norm(x_BTD)))
        return x_BTD


class Attention(nn.Module):
    """Causal multi-head self-attention with rotary positions."""

    def __init__(self, config: ModelConfig) -> None:
        super().__init__()
        self.heads = config.heads
        self.qk_norm = config.qk_norm
        self.epsilon = config.norm_epsilon
        self.qkv = nn.Linear(config.width, 3 * config.width, bias=False)
        self.output = nn.Linear(config.width, config.width, bias=False)

    def forward(self, x_BTD: Tensor, cos_TK: Tensor, sin_TK: Tensor) -> Tensor:
        """What each position gathers (B, T, D) from itself and those before it."""
        batch, tokens, width = x_BTD.shape
        qkv_3BHTK = self.qkv(x_BTD).view(batch, tokens, 3, self.heads, width // self.heads).permute(2, 0, 3, 1, 4)
        q_BHTK, k_BHTK, v_BHTK = qkv_3BHTK.unbind(0)
        if self.qk_norm:
            q_BHTK = F.rms_norm(q_BHTK, (q_BHTK.shape[-1],), eps=self.epsilon)
            k_BHTK = F.rms_norm(k_BHTK, (k_BHTK.shape[-1],), eps=self.epsilon)
        q_BHTK, k_BHTK = rotate(q_BHTK, cos_TK, sin_TK), rotate(k_BHTK, cos_TK, sin_TK)
        y_BHTK = causal_attention(q_BHTK, k_BHTK, v_BHTK)
        y_BTD: Tensor = self.output(y_BHTK.transpose(1, 2).reshape(batch, tokens, width))
        return y_BTD


class MLP(nn.Module):
    """Feed-forward layer; SwiGLU holds its gate and its value in one input matrix (2F, D)."""

    def __init__(self, config: ModelConfig) -> None:
        super().__init__()
        self.activation = config.mlp
        gates = 2 if config.mlp == "swiglu" else 1
        self.input = nn.Linear(config.width, gates * config.hidden_width, bias=False)
        self.output = nn.Linear(config.hidden_width, config.width, bias=False)

    def forward(self, x_BTD: Tensor) -> Tensor:
        """A function of each position alone (B, T, D)."""
        h_BTF = self.input(x_BTD)
        if self.activation == "swiglu":
            gate_BTF, value_BTF = h_BTF.chunk(2, dim=-1)
            h_BTF = F.silu(gate_BTF) * value_BTF
        elif self.activation == "relu2":
            h_BTF = F.relu(h_BTF)
            h_BTF = h_BTF * h_BTF
        else:
            h_BTF = F.gelu(h_BTF)
        y_BTD: Tensor = self.output(h_BTF)
        return y_BTD


def rotary_table(context_length: int, head_width: int, theta: float) -> tuple[Tensor, Tensor]:
    """Cosine and sine (T, K / 2) float32 of position times frequency theta ** (-2 i / K) (RoFormer, equation 15)."""
    frequency = theta ** (-torch.arange(0, head_width, 2, dtype=torch.float64) / head_width)
    angle = torch.outer(torch.arange(context_length, dtype=torch.float64), frequency)
    return angle.cos().float(), angle.sin().float()


def rotate(x_BHTK: Tensor, cos_TK: Tensor, sin_TK: Tensor) -> Tensor:
    """Turn the pairs (i, i + K / 2) of each head by the angle of their position, in the halves layout of GPT-NeoX."""
    a, b = x_BHTK.chunk(2, dim=-1)
    cos_TK, sin_TK = cos_TK.to(x_BHTK.dtype), sin_TK.to(x_BHTK.dtype)
    return torch.cat((a * cos_TK - b * sin_TK, a * sin_TK + b * cos_TK), dim=-1)
