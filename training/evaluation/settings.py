"""What an evaluation is asked for."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Literal

from training.config import Shard
from training.config.generation import GenerationConfig
from training.evaluation.templates import LANGUAGES
from training.generation import DEFAULT_PROMPTS

TEMPLATES = "templates:"


@dataclass(frozen=True)
class EvaluationRun:
    """All that `python -m training.evaluation CONFIG.json` needs."""

    checkpoint: str
    """Checkpoint folder."""
    data: list[Shard]
    """Validation shards, one for each source and language, are scored; train shards feed the n-gram models."""
    output: str
    """The results.json to write."""
    device: Literal["auto", "cpu", "cuda"] = "auto"
    precision: Literal["auto", "fp32", "bf16"] = "auto"
    """Arithmetic of the trunk, as in training: bf16 where the device is built for it. The head computes in float32."""
    threads: int = 0
    """CPU threads; 0 takes one for each core that the process may use."""
    stride: int | None = None
    """Tokens between the ends of two windows; by default the context length, so that each token is computed once, as in
    the trainer's validation. A smaller one gives every token more context: the loss is lower, the work as much more."""
    ngram_order: int = 3
    """Order of the interpolated n-gram model; 0 leaves the n-gram models out."""
    ngram_tokens: Literal["all", "trained"] = "all"
    """What the n-gram models count: all train tokens, which makes them the stronger, or only those that the checkpoint
    was trained on, each once."""
    minimal_pairs: list[str] = field(default_factory=lambda: [f"{TEMPLATES}{language}" for language in LANGUAGES])
    """`templates:<language>` or a JSONL file of BLiMP's form."""
    pairs_per_phenomenon: int = 100
    """Pairs that each template makes, and the most that are taken of each phenomenon of a file; 0: all of a file."""
    prompts: list[str] = field(default_factory=lambda: list(DEFAULT_PROMPTS))
    """Beginnings of the sample generations, of models that continue a text."""
    sample_tokens: int = 60
    temperature: float = 0.8
    top_k: int = 50
    top_p: float = 1.0
    seed: int = 1
    """Of samples, masks, orders and cuts."""
    pseudo_sentences: int = 200
    """Held-out sentences of the pseudo-perplexity of models that predict a token from both sides; 0 leaves it out."""
    blanks: int = 8
    """Held-out sentences in which such a model, or one of span corruption, fills a blank."""
    similarity: list[str] = field(default_factory=list)
    """Files of sentence pairs that people scored, as STS-B's tables or JSON Lines of {sentence1, sentence2, score}."""
    probes: list[str] = field(default_factory=list)
    """JSON Lines of {text, label}: what a logistic regression reads from the frozen vectors."""
    choices: list[str] = field(default_factory=list)
    """JSON Lines of {prompt, choices, answer}: which choice the model finds likeliest."""
    task_examples: int = 2000
    """Most texts of a probe and questions of a file of choices; 0: all."""

    def __post_init__(self) -> None:
        for name in ("threads", "ngram_order", "pairs_per_phenomenon", "pseudo_sentences", "blanks", "task_examples"):
            if getattr(self, name) < 0:
                raise ValueError(f"{name} must be at least 0, got {getattr(self, name)}")
        if self.stride is not None and self.stride < 1:
            raise ValueError(f"stride must be at least 1, got {self.stride}")
        for name in self.minimal_pairs:
            language = name.removeprefix(TEMPLATES)
            if name.startswith(TEMPLATES) and language not in LANGUAGES:
                raise ValueError(f"minimal_pairs: no templates for {language!r}; there are {', '.join(LANGUAGES)}")
        _ = self.sampling

    @property
    def sampling(self) -> GenerationConfig:
        """How the samples are drawn."""
        return GenerationConfig(
            max_new_tokens=self.sample_tokens,
            temperature=self.temperature,
            top_k=self.top_k,
            top_p=self.top_p,
            seed=self.seed,
        )

    def shards(self, split: str) -> list[Shard]:
        """The shards of one split that hold tokens, in their given order."""
        return [shard for shard in self.data if shard.split == split and shard.tokens]
