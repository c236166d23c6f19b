"""The shape of the Transformer trunk."""

from __future__ import annotations

import dataclasses
import math
from dataclasses import dataclass
from typing import Any, ClassVar, Literal

from training.config.presets import expand_preset
from training.config.reading import STRICT, at_least, positive, within


@dataclass(frozen=True)
class RopeScaling:
    """How rotary positions are stretched beyond the context that a model was trained on."""

    __pydantic_config__: ClassVar[dict[str, Any]] = STRICT

    name: Literal["linear", "ntk", "llama3", "yarn"]
    """linear: positions divided by the factor (Chen et al. 2023); ntk: the base raised so that the lowest frequency is
    divided by it (bloc97 2023); llama3: low frequencies divided, high ones kept (Llama 3.1); yarn: the same with a ramp
    over dimensions, and a temperature (Peng et al. 2023, section 3)."""
    factor: float = 8.0
    original_context_length: int = 8192
    """Tokens that the model had been trained on before stretching (llama3, yarn)."""
    low_frequency_factor: float = 1.0
    """llama3: wavelengths above original_context_length / this are divided by the factor."""
    high_frequency_factor: float = 4.0
    """llama3: wavelengths below original_context_length / this are kept."""
    beta_fast: float = 32.0
    """yarn: turns over the original context above which a dimension is kept."""
    beta_slow: float = 1.0
    """yarn: turns below which a dimension is divided by the factor."""

    def __post_init__(self) -> None:
        for name in ("factor", "low_frequency_factor", "high_frequency_factor", "beta_fast", "beta_slow"):
            positive(name, getattr(self, name))
        at_least("original_context_length", self.original_context_length, 1)
        if self.high_frequency_factor <= self.low_frequency_factor:
            raise ValueError(
                f"high_frequency_factor ({self.high_frequency_factor:g}) must exceed "
                f"low_frequency_factor ({self.low_frequency_factor:g})"
            )


@dataclass(frozen=True)
class ModelConfig:
    """Shape of the Transformer trunk; presets name some. The defaults are the quickstart's family, `nano`."""

    __pydantic_config__: ClassVar[dict[str, Any]] = STRICT

    architecture: Literal["transformer", "replaced_token", "two_stream", "encoder_decoder"] = "transformer"
    """transformer: one trunk; replaced_token: a trunk and a smaller generator that shares its embeddings (ELECTRA);
    two_stream: relative positions and two streams (XLNet); encoder_decoder: two trunks (T5)."""
    layers: int = 6
    """Layers, those of the encoder where there is a decoder, too."""
    decoder_layers: int | None = None
    """Layers of the decoder of an encoder_decoder; by default as many as `layers`."""
    generator_share: float = 0.25
    """Width, heads and feed-forward width of the generator of a replaced_token model, as a share of the trunk's (Clark
    et al. 2020, table 6)."""
    heads: int = 4
    """Query heads."""
    kv_heads: int | None = None
    """Key and value heads, a divisor of heads: fewer are grouped-query attention (Ainslie et al. 2023), 1 is
    multi-query (Shazeer 2019). By default as many as heads."""
    width: int = 256
    """Width of the residual stream."""
    head_width: int | None = None
    """Width of a head; by default width / heads."""
    embedding_width: int | None = None
    """Width of the embeddings where a matrix projects them to the stream (ALBERT's factorisation, Lan et al. 2020,
    section 3.1); by default that of the stream, without a projection."""
    token_types: int = 0
    """Rows of a learned embedding of the part of its sequence that a token belongs to (BERT: 2); 0 leaves it out."""
    context_length: int = 256
    """Longest input in tokens."""
    layer_groups: int | None = None
    """Distinct blocks; each stands for layers / layer_groups layers in a row that share its weights (ALBERT, Lan et al.
    2020, section 3.1; 1 shares all). By default every layer has its own."""
    attention: Literal["causal", "bidirectional"] = "causal"
    window: int | None = None
    """Sliding window: each token sees itself and the window - 1 tokens before it (both sides when bidirectional)."""
    global_every: int = 0
    """With a window: every n-th layer sees everything all the same; 0: none."""
    global_first: bool = False
    """Whether the first of each `global_every` layers is the one without a window (ModernBERT), and not the last."""
    positions: Literal["rotary", "learned", "alibi", "relative", "none"] = "rotary"
    """rotary: RoFormer (Su et al. 2021); learned: a vector for each place (GPT-2); alibi: a linear penalty on distance
    (Press et al. 2022); relative: those of the architecture two_stream (Transformer-XL) or encoder_decoder (T5)."""
    relative_buckets: int = 32
    """Distances that a T5 tells apart, by head (Raffel et al. 2020, section 2.1)."""
    relative_distance: int = 128
    """Distance from which on a T5 tells none apart."""
    rope_theta: float = 10_000.0
    """Base of the rotary position frequencies (RoFormer, section 3.4.3)."""
    rope_theta_windowed: float | None = None
    """Base in the layers with a window (ModernBERT: 10,000, and 160,000 elsewhere); by default `rope_theta`."""
    rope_scaling: RopeScaling | None = None
    norm: Literal["rmsnorm", "layernorm"] = "rmsnorm"
    norm_position: Literal["pre", "post"] = "pre"
    """pre: before each sublayer, and once at the end (GPT-2); post: after each addition (Vaswani et al. 2017)."""
    norm_epsilon: float = 1e-6
    embedding_norm: bool = False
    """Normalise the embeddings before the first block (BERT)."""
    first_norm: bool = True
    """Whether the first block normalises what its attention reads; ModernBERT's does not, as the embeddings are
    normalised."""
    mlp: Literal["gelu", "gelu_tanh", "relu", "relu2", "swiglu", "geglu", "geglu_tanh"] = "relu2"
    """Activation of the feed-forward layer: GELU, its tanh approximation (GPT-2), ReLU, squared ReLU (Primer), SwiGLU
    (Llama), GeGLU (ModernBERT; with the tanh approximation T5 1.1; Shazeer 2020)."""
    mlp_width: int | None = None
    """Hidden width of the feed-forward layer; by default 4 * width, for gated ones 8/3 * width rounded up to 64."""
    qk_norm: Literal["none", "plain", "gains"] = "plain"
    """RMS-normalise queries and keys by head before the product (Henry et al. 2020), without or with trained gains
    (Qwen3); allows higher learning rates."""
    bias: Literal["none", "qkv", "all"] = "none"
    """Which linear layers of the blocks have a bias (all: LayerNorms and the head's transform, too)."""
    head: Literal["linear", "transform", "replaced_token"] = "linear"
    """What reads the last layer: the vocabulary matrix; a dense layer, GELU and a norm before it
    (BERT's masked-word head); one logit a token, whether it was replaced (ELECTRA's discriminator)."""
    head_bias: bool = False
    """Whether the vocabulary head has a bias (BERT)."""
    pooler: bool = False
    """A dense tanh layer over the first token of each sequence, for what is said of the whole sequence (BERT)."""
    sentence_classes: int = 0
    """Classes of a linear head over the pooler's output (BERT's next sentence, ALBERT's sentence order: 2)."""
    tied_embeddings: bool = False
    """Use the token embedding as the output matrix too."""
    bigram_buckets: int = 0
    """Rows of a hashed embedding of (previous token, token) pairs, added to the token embedding; 0 leaves it out. It
    gives a small model on a small budget what an n-gram model knows, for a look-up (Huang et al. 2025, Over-Tokenized
    Transformer, arXiv:2501.16975, section 3)."""
    dropout: float = 0.0
    """Share of activations dropped after the embedding, attention and feed-forward, in training only."""
    attention_dropout: float = 0.0
    """Share of attention weights dropped, in training only."""
    initialization: Literal["small", "gpt2", "bert", "t5", "xavier", "he", "mup"] = "small"
    """Named scheme of `training/models/initialization.py`."""
    mup_base_width: int = 256
    """With the initialisation `mup`: the width at which the learning rates were tuned. Adam's rate for a matrix of the
    blocks, and what the head reads, are multiplied by this over the width (Yang et al. 2022, table 8); all rules are
    those of `training/mup.py`."""
    mup_base_layers: int | None = None
    """With `mup`: the layers at which the learning rates were tuned; what blocks add to the stream is scaled by the
    depth relative to them. By default depth scales nothing."""
    mup_depth_exponent: float = 1.0
    """With mup_base_layers: what a block adds is divided by (layers / mup_base_layers) to this power: 1 (CompleteP, Dey
    et al. 2025) or 0.5 (Yang et al. 2023)."""
    mup_base_head_width: int | None = None
    """With `mup`: the width of a head at which the learning rates were tuned; scores are divided by the width of a head
    over this one's root (Yang et al. 2022, definition 4.1). By default by the root of the width: keep it, then."""

    def __post_init__(self) -> None:
        for name in ("layers", "heads", "width", "context_length", "mup_base_width"):
            at_least(name, getattr(self, name), 1)
        for name in (
            "kv_heads",
            "head_width",
            "layer_groups",
            "window",
            "mlp_width",
            "embedding_width",
            "decoder_layers",
        ):
            if getattr(self, name) is not None:
                at_least(name, getattr(self, name), 1)
        for name in ("global_every", "bigram_buckets", "token_types", "sentence_classes"):
            at_least(name, getattr(self, name), 0)
        at_least("relative_buckets", self.relative_buckets, 4)
        at_least("relative_distance", self.relative_distance, self.relative_buckets)
        if self.head_width is None and self.width % self.heads:
            raise ValueError(f"width must be a multiple of heads = {self.heads}, got {self.width}; or set head_width")
        if self.positions == "rotary" and self.width_of_head % 2:
            raise ValueError(
                f"rotary positions turn pairs: the width of a head must be even, got {self.width_of_head} "
                f"(width {self.width}, heads {self.heads})"
            )
        if self.heads % self.key_value_heads:
            raise ValueError(f"kv_heads must divide heads = {self.heads}, got {self.kv_heads}")
        if self.layers % self.blocks:
            raise ValueError(f"layer_groups must divide layers = {self.layers}, got {self.layer_groups}")
        if self.rope_scaling is not None and self.positions != "rotary":
            raise ValueError(f"rope_scaling needs positions: rotary, got {self.positions}")
        if self.global_every and self.window is None:
            raise ValueError("global_every means nothing without a window")
        if self.sentence_classes and not self.pooler:
            raise ValueError("sentence_classes needs pooler: true, whose output it reads")
        if self.embedding_width is not None and self.bigram_buckets:
            raise ValueError("embedding_width and bigram_buckets do not go together")
        if self.embedding_width is not None and self.tied_embeddings and self.head == "linear":
            raise ValueError("with embedding_width a tied vocabulary matrix needs head: transform, to narrow to it")
        if (self.positions == "relative") != (self.architecture in ("two_stream", "encoder_decoder")):
            raise ValueError(
                "positions: relative belongs to the architectures two_stream and encoder_decoder, and they to it; got "
                f"positions {self.positions}, architecture {self.architecture}"
            )
        if self.decoder_layers is not None and self.architecture != "encoder_decoder":
            raise ValueError(f"decoder_layers needs architecture: encoder_decoder, got {self.architecture}")
        within("generator_share", self.generator_share, 0.01, 1.0)
        if self.rope_theta_windowed is not None:
            positive("rope_theta_windowed", self.rope_theta_windowed)
        within("dropout", self.dropout, 0.0, 0.99)
        within("attention_dropout", self.attention_dropout, 0.0, 0.99)
        positive("rope_theta", self.rope_theta)
        positive("norm_epsilon", self.norm_epsilon)
        self._check_mup()

    def _check_mup(self) -> None:
        """Refuse `mup` where its rules are not those of the model."""
        within("mup_depth_exponent", self.mup_depth_exponent, 0.5, 1.0)
        for name in ("mup_base_layers", "mup_base_head_width"):
            value = getattr(self, name)
            if value is None:
                continue
            at_least(name, value, 1)
            if self.initialization != "mup":
                raise ValueError(f"{name} needs initialization: mup, got {self.initialization}")
        if self.initialization != "mup":
            return
        for name, allowed in (("architecture", "transformer"), ("head", "linear"), ("pooler", False)):
            value = getattr(self, name)
            if value != allowed:
                raise ValueError(f"initialization: mup needs {name}: {str(allowed).lower()}, got {str(value).lower()}")
        if self.mup_base_layers is not None and self.norm_position == "post":
            raise ValueError("mup_base_layers needs norm_position: pre; after a norm, what a block adds has one size")

    @staticmethod
    def expand(value: Any) -> Any:
        """Replace the name of a preset by its fields."""
        return expand_preset(value)

    def identity(self) -> dict[str, Any]:
        """What decides the weights, by the name of the field: without what only `mup` reads where it is another."""
        values = dataclasses.asdict(self)
        if self.initialization != "mup":
            for name in ("mup_base_layers", "mup_depth_exponent", "mup_base_head_width"):
                del values[name]
        return values

    @property
    def hidden_width(self) -> int:
        """Width of the feed-forward layer."""
        if self.mlp_width is not None:
            return self.mlp_width
        return 64 * math.ceil(8 * self.width / 3 / 64) if self.gated else 4 * self.width

    @property
    def gated(self) -> bool:
        """Whether the feed-forward layer multiplies its values by a gate."""
        return self.mlp in ("swiglu", "geglu", "geglu_tanh")

    @property
    def width_of_embedding(self) -> int:
        """Width of the token embedding."""
        return self.width if self.embedding_width is None else self.embedding_width

    @property
    def width_of_head(self) -> int:
        """Width of one head."""
        return self.head_width if self.head_width is not None else self.width // self.heads

    @property
    def key_value_heads(self) -> int:
        """Key and value heads."""
        return self.kv_heads if self.kv_heads is not None else self.heads

    @property
    def blocks(self) -> int:
        """Distinct blocks."""
        return self.layer_groups if self.layer_groups is not None else self.layers
