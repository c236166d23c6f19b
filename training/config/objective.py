"""What is learned."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any, ClassVar, Literal

from training.config.presets import expand_objective
from training.config.reading import STRICT, at_least, positive, within


@dataclass(frozen=True)
class MaskingConfig:
    """Which tokens are to be predicted from the others, and what stands in their place (BERT, section 3.1)."""

    __pydantic_config__: ClassVar[dict[str, Any]] = STRICT

    rate: float = 0.15
    """Share of the tokens that is chosen."""
    mask_share: float = 0.8
    """Share of the chosen ones that the mask token replaces."""
    random_share: float = 0.1
    """Share of the chosen ones that a random token replaces; the rest stay as they are."""
    unit: Literal["token", "word", "ngram", "span"] = "token"
    """What is chosen as a whole: a token; a word, as the corpus' marks have it (whole-word masking, BERT 2019, Cui et
    al. 2021 for Chinese); up to `longest` words in a row, n of them with a probability in proportion to 1 / n (ALBERT,
    section 3.1); a number of words from a geometric distribution with p = 0.2, up to `longest` (SpanBERT, section
    3.1)."""
    longest: int = 3
    """Most words of an n-gram or span."""
    copies: int | None = None
    """Static masking: so many masks of each text, used in turn from epoch to epoch (BERT: 10); by default a new one at
    each visit (RoBERTa, section 4.1)."""

    def __post_init__(self) -> None:
        within("rate", self.rate, 0.001, 0.9)
        within("mask_share", self.mask_share, 0.0, 1.0)
        within("random_share", self.random_share, 0.0, 1.0)
        if self.mask_share + self.random_share > 1 + 1e-9:
            raise ValueError(
                f"mask_share and random_share must not exceed 1 together, got {self.mask_share} and {self.random_share}"
            )
        at_least("longest", self.longest, 1)
        if self.copies is not None:
            at_least("copies", self.copies, 1)


@dataclass(frozen=True)
class PermutationConfig:
    """XLNet's order of prediction (Yang et al. 2019, sections 2.2 to 2.5)."""

    __pydantic_config__: ClassVar[dict[str, Any]] = STRICT

    predicted: float = 1 / 6
    """Share of the tokens, the last ones of the order, that are predicted: 1 / K (section 2.3; K = 6)."""
    longest: int = 5
    """Most tokens of the spans in which they are chosen (section A.5: 1 to 5, each with a probability in proportion to
    1 / length)."""
    memory_segments: int = 2
    """Segments in a row that a sequence is cut into: each is given the hidden states of the one before as memory,
    without a gradient (section 2.4); 1: no memory."""

    def __post_init__(self) -> None:
        within("predicted", self.predicted, 0.01, 1.0)
        at_least("longest", self.longest, 1)
        at_least("memory_segments", self.memory_segments, 1)


@dataclass(frozen=True)
class SpanCorruptionConfig:
    """Spans of the input that a sentinel stands for, to be told by the decoder (T5, section 3.1.4)."""

    __pydantic_config__: ClassVar[dict[str, Any]] = STRICT

    rate: float = 0.15
    """Share of the tokens that is taken out."""
    mean_length: float = 3.0
    """Mean length of a span in tokens."""
    sentinels: int = 100
    """Ids beyond the tokenizer's vocabulary that mark where spans were; the first one has the largest id, as in T5."""

    def __post_init__(self) -> None:
        within("rate", self.rate, 0.01, 0.9)
        within("mean_length", self.mean_length, 1.0, 1000.0)
        at_least("sentinels", self.sentinels, 1)


@dataclass(frozen=True)
class ReplacedTokenConfig:
    """ELECTRA's discriminator beside its generator (Clark et al. 2020, section 2 and equation 1)."""

    __pydantic_config__: ClassVar[dict[str, Any]] = STRICT

    weight: float = 50.0
    """Weight of the discriminator's loss; that of the generator's is 1."""
    temperature: float = 1.0
    """Of the generator's samples."""

    def __post_init__(self) -> None:
        positive("weight", self.weight)
        positive("temperature", self.temperature)


@dataclass(frozen=True)
class ContrastiveConfig:
    """SimCSE (Gao et al. 2021, sections 3 and 4): a sentence is to be nearer to itself than to the others."""

    __pydantic_config__: ClassVar[dict[str, Any]] = STRICT

    temperature: float = 0.05
    """What cosine similarities are divided by (section 2.1)."""
    pooling: Literal["first", "mean"] = "first"
    """The vector of a sentence: that of its first token (through the pooler, in training only, where the model has
    one), or the mean of its tokens."""
    sentence_length: int = 32
    """Most tokens of a sentence; longer ones are cut (section 6.1)."""
    examples: str | None = None
    """Supervised: a JSON Lines file of {anchor, positive, negative}, negative optional, instead of the corpus'
    sentences with themselves (section 4)."""
    queue: int = 0
    """Sentences of earlier batches kept as further negatives, from an average of the encoder (MoCo, He et al. 2020,
    section 3.2); 0: none."""
    momentum: float = 0.995
    """Decay of that average."""

    def __post_init__(self) -> None:
        positive("temperature", self.temperature)
        at_least("sentence_length", self.sentence_length, 3)
        at_least("queue", self.queue, 0)
        within("momentum", self.momentum, 0.0, 0.999999)


@dataclass(frozen=True)
class ObjectiveConfig:
    """Which task the model is trained on, or which several at once; presets name some."""

    __pydantic_config__: ClassVar[dict[str, Any]] = STRICT

    name: Literal["causal", "masked", "replaced_token", "permutation", "span_corruption", "prefix", "contrastive"] = (
        "causal"
    )
    """causal: each token from those before it (GPT); masked: chosen tokens from all others (BERT); replaced_token:
    which tokens a generator has replaced (ELECTRA); permutation: tokens in a random order (XLNet); span_corruption:
    what was taken out of the input (T5); prefix: the second part of a text from a first part that sees itself whole
    (UniLM); contrastive: embeddings of sentences (SimCSE)."""
    weight: float = 1.0
    """Weight of its loss beside those of `also`."""
    also: tuple[ObjectiveConfig, ...] = ()
    """Further objectives of the same model, each with batches of its own; the losses are added up by their weights."""
    sentence_task: Literal["none", "next_sentence", "sentence_order"] = "none"
    """With masked: whether the second part of a sequence follows the first (BERT, section 3.1), or which of two
    stretches in a row comes first (ALBERT, section 3.1)."""
    sentence_weight: float = 1.0
    """Weight of the sentence task's loss."""
    short_share: float = 0.1
    """With a sentence task: share of the pairs that are cut to a random length (BERT's short_seq_prob)."""
    document_mask: bool = False
    """causal and prefix: let no token see another document of its window; learned positions begin anew with each
    document. The sequences of other objectives never see each other."""
    label_smoothing: float = 0.0
    """Share of the target's probability that is spread over the vocabulary (Szegedy et al. 2016, section 7)."""
    z_loss: float = 0.0
    """Weight of the squared log-normaliser in the loss, which keeps logits small (PaLM, section 5; 1e-4 there)."""
    fill_in_the_middle: float = 0.0
    """causal: share of the documents whose middle is moved to their end, half of them prefix, suffix, middle and half
    suffix, prefix, middle (Bavarian et al. 2022, section 3; 0.5 there)."""
    masking: MaskingConfig = field(default_factory=MaskingConfig)
    permutation: PermutationConfig = field(default_factory=PermutationConfig)
    span_corruption: SpanCorruptionConfig = field(default_factory=SpanCorruptionConfig)
    replaced_token: ReplacedTokenConfig = field(default_factory=ReplacedTokenConfig)
    contrastive: ContrastiveConfig = field(default_factory=ContrastiveConfig)

    def __post_init__(self) -> None:
        for name in ("weight", "sentence_weight"):
            positive(name, getattr(self, name))
        within("short_share", self.short_share, 0.0, 1.0)
        within("label_smoothing", self.label_smoothing, 0.0, 0.99)
        within("z_loss", self.z_loss, 0.0, 1.0)
        within("fill_in_the_middle", self.fill_in_the_middle, 0.0, 1.0)
        if self.sentence_task != "none" and self.name != "masked":
            raise ValueError(f"sentence_task goes with the objective masked, got {self.name}")
        if len({one.name for one in self.all}) < len(self.all):
            raise ValueError(f"also: each objective may stand once, got {', '.join(one.name for one in self.all)}")
        if self.fill_in_the_middle and self.name != "causal":
            raise ValueError(f"fill_in_the_middle goes with the objective causal, got {self.name}")
        if any(other.also for other in self.also):
            raise ValueError("also: the objectives in it must not have an `also` of their own")

    @staticmethod
    def expand(value: Any) -> Any:
        """Replace the name of a preset by its fields."""
        return expand_objective(value)

    @property
    def all(self) -> tuple[ObjectiveConfig, ...]:
        """This objective and those beside it."""
        return (self, *self.also)

    @property
    def marks(self) -> bool:
        """Whether batches are made along the corpus' words or sentences."""
        return any(
            one.sentence_task != "none"
            or (one.name in ("masked", "replaced_token") and one.masking.unit != "token")
            or (one.name == "contrastive" and one.contrastive.examples is None)
            for one in self.all
        )

    @property
    def predicted(self) -> float:
        """About which share of the positions has logits over the vocabulary at once."""
        return max(
            one.masking.rate
            if one.name in ("masked", "replaced_token")
            else one.permutation.predicted
            if one.name == "permutation"
            else 1.0
            for one in self.all
        )

    @property
    def extra_tokens(self) -> int:
        """Ids that the model needs beyond the tokenizer's: three for fill-in-the-middle, the sentinels."""
        middles = 3 if any(one.name == "causal" and one.fill_in_the_middle for one in self.all) else 0
        sentinels = [one.span_corruption.sentinels for one in self.all if one.name == "span_corruption"]
        return middles + max(sentinels, default=0)
