"""What is done to make a trained model smaller or faster: steps in order, each with the training that heals it."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, ClassVar, Literal

from training.compression.quantization.config import QuantizationConfig
from training.config.optimization import OptimizerConfig, ScheduleConfig
from training.config.reading import STRICT, at_least, positive, within
from training.suites.config import SuiteConfig


@dataclass(frozen=True)
class TuningConfig:
    """How long a model is trained within a step, on the token shards that it was trained on before."""

    __pydantic_config__: ClassVar[dict[str, Any]] = STRICT

    steps: int = 0
    """Updates; 0 trains nothing."""
    batch_size: int = 16
    """Sequences in one update."""
    sequence_length: int | None = None
    """Tokens in one sequence; by default as many as in the model's training."""
    gradient_clip: float = 1.0
    """Largest norm of the gradient; 0 leaves it as it is."""
    log_every: int = 10
    """Updates between two lines of the journal."""
    checkpoint_every: int = 200
    """Updates between two states that a stopped job goes on from."""
    optimizer: OptimizerConfig = field(
        default_factory=lambda: OptimizerConfig(name="adamw", learning_rate=5e-4, bigram_learning_rate=0.05)
    )
    schedule: ScheduleConfig = field(default_factory=lambda: ScheduleConfig(name="linear", warmup_steps=10))

    def __post_init__(self) -> None:
        at_least("steps", self.steps, 0)
        for name in ("batch_size", "log_every", "checkpoint_every"):
            at_least(name, getattr(self, name), 1)
        if self.sequence_length is not None:
            at_least("sequence_length", self.sequence_length, 1)
        within("gradient_clip", self.gradient_clip, 0.0, 1e9)


@dataclass(frozen=True)
class StudentConfig:
    """The smaller trunk that learns; what is not set stays as it is in the model of the steps before."""

    __pydantic_config__: ClassVar[dict[str, Any]] = STRICT

    layers: int | None = None
    """Layers: evenly spaced ones of the model, the last one among them (Sanh et al. 2019, section 3; Jiao et al. 2020,
    section 3.2)."""
    heads: int | None = None
    """Query heads of each layer: the most important ones; key and value heads go along."""
    mlp_width: int | None = None
    """Hidden width of the feed-forward layers: the most important neurons."""
    width: int | None = None
    """Width of the residual stream: the channels with the largest activations (Muralidharan et al. 2024, section
    2.2)."""
    initial: Literal["teacher", "random"] = "teacher"
    """Start from these parts of the model, or from weights drawn anew."""

    def __post_init__(self) -> None:
        for name in ("layers", "heads", "mlp_width", "width"):
            if getattr(self, name) is not None:
                at_least(name, getattr(self, name), 1)


@dataclass(frozen=True)
class DistillationConfig:
    """A student learns from what a teacher computes on the same text (Hinton et al. 2015)."""

    __pydantic_config__: ClassVar[dict[str, Any]] = STRICT

    student: StudentConfig = field(default_factory=StudentConfig)
    teacher: str = ""
    """Folder of a checkpoint with the same tokenizer; empty: the model that the job began with."""
    temperature: float = 2.0
    """What the logits of both are divided by."""
    soft_weight: float = 1.0
    """Weight of the divergence of the student's distribution from the teacher's, times the temperature squared (Hinton
    et al. 2015, section 2)."""
    hard_weight: float = 0.5
    """Weight of the loss of the model's own objective."""
    hidden: Literal["none", "cosine", "mse"] = "none"
    """cosine: 1 - cosine of the last hidden states (DistilBERT, Sanh et al. 2019, section 2); mse: squared differences
    of the embeddings and of the states behind each layer and the teacher's layer that it stands for, through a matrix
    that is learned where widths differ (TinyBERT, Jiao et al. 2020, equations 8 and 9)."""
    hidden_weight: float = 1.0
    attention_weight: float = 0.0
    """Weight of the squared differences of the attention scores before the softmax, layer by layer (TinyBERT, equation
    7)."""

    def __post_init__(self) -> None:
        positive("temperature", self.temperature)
        for name in ("soft_weight", "hard_weight", "hidden_weight", "attention_weight"):
            within(name, getattr(self, name), 0.0, 1e9)
        hidden = self.hidden_weight if self.hidden != "none" else 0.0
        if not (self.soft_weight or hidden or self.attention_weight):
            raise ValueError("nothing of the teacher is learned: set soft_weight, hidden or attention_weight")


@dataclass(frozen=True)
class PruningConfig:
    """What is taken out of the blocks; embeddings and heads of the vocabulary stay whole."""

    __pydantic_config__: ClassVar[dict[str, Any]] = STRICT

    method: Literal["magnitude", "2:4", "heads", "neurons", "layers"] = "magnitude"
    """magnitude: weights nearest to zero become zero (Han et al. 2015); 2:4: the two smaller of each four in a row of a
    matrix do (Mishra et al. 2021, section 3); heads, neurons of the feed-forward layers, layers: the least important
    ones are removed, so that the model has fewer."""
    share: float = 0.5
    """Share of the weights, heads, neurons or layers that goes; always a half with 2:4. As many heads and neurons go
    from each layer; the neurons that stay are a multiple of 32 where there are so many."""
    scope: Literal["global", "layer"] = "global"
    """magnitude: whether the smallest weights of all matrices go together, or the same share of each matrix."""
    gradual: bool = True
    """magnitude: with training, zeros become more along a cubic curve (Zhu & Gupta 2017, equation 1); else all come
    before it."""
    gradual_end: float = 0.7
    """Share of the training at which all zeros are there."""
    gradual_every: int = 10
    """Updates of the weights between two updates of the zeros."""
    importance: Literal["gradient", "magnitude"] = "gradient"
    """Of heads and neurons. gradient: how much the loss of a text would change without one, to first order (Michel et
    al. 2019, equation 2; Molchanov et al. 2017, equation 7); magnitude: the norm of its weights. That of a layer is how
    far it turns the residual stream (Men et al. 2024, equation 1)."""
    calibration_batches: int = 8
    """Batches of the training data that importance is measured on."""

    def __post_init__(self) -> None:
        within("share", self.share, 0.0, 0.999)
        within("gradual_end", self.gradual_end, 0.0, 1.0)
        for name in ("gradual_every", "calibration_batches"):
            at_least(name, getattr(self, name), 1)

    @property
    def masks(self) -> bool:
        """Whether weights become zero where they are, and nothing is removed."""
        return self.method in ("magnitude", "2:4")


@dataclass(frozen=True)
class CompressionStep:
    """One of distil, prune and quantize, with its training."""

    __pydantic_config__: ClassVar[dict[str, Any]] = STRICT

    distil: DistillationConfig | None = None
    prune: PruningConfig | None = None
    quantize: QuantizationConfig | None = None
    tuning: TuningConfig = field(default_factory=TuningConfig)
    """The training of this step: of the student; while zeros become more, and with what was removed; with fake
    quantization."""

    def __post_init__(self) -> None:
        given = [name for name in ("distil", "prune", "quantize") if getattr(self, name) is not None]
        if len(given) != 1:
            raise ValueError(
                f"a step is one of distil, prune and quantize, got {' and '.join(given) or 'none of them'}"
            )
        if self.distil is not None and not self.tuning.steps:
            raise ValueError("distil needs training: set tuning.steps")

    @property
    def name(self) -> str:
        """What is done, in a word or two."""
        if self.prune is not None:
            return f"prune {self.prune.method}"
        return "distil" if self.distil is not None else "quantize"


@dataclass(frozen=True)
class CompressionConfig:
    """Steps that a model goes through, and what it is measured on before and after each."""

    __pydantic_config__: ClassVar[dict[str, Any]] = STRICT

    steps: tuple[CompressionStep, ...]
    seed: int = 1
    """Of the order of the text, of dropout, and of weights that are drawn anew."""
    precision: Literal["auto", "fp32", "bf16"] = "fp32"
    """Arithmetic of training and measuring; auto: bf16 where the device multiplies it."""
    perplexity_tokens: int = 200_000
    """Held-out tokens that the loss is measured on, spread over the shards by their size; 0: all."""
    calibration_batches: int = 8
    """Batches of the training data that a static quantization is calibrated on."""
    suite: SuiteConfig | None = None
    """Tasks whose scores stand in the table."""
    speed_seconds: float = 2.0
    """How long the speed of each model is measured, in each of two ways; 0 leaves it out."""
    speed_batch: int = 8
    """Sequences of one pass in the measurement of reading."""

    EXECUTION: ClassVar[tuple[str, ...]] = ("speed_seconds", "speed_batch")
    """Fields that do not change the model."""

    def __post_init__(self) -> None:
        if not self.steps:
            raise ValueError("steps must hold at least one step")
        for name in ("seed", "perplexity_tokens"):
            at_least(name, getattr(self, name), 0)
        for name in ("calibration_batches", "speed_batch"):
            at_least(name, getattr(self, name), 1)
        within("speed_seconds", self.speed_seconds, 0.0, 3600.0)
        if any(step.quantize is not None for step in self.steps[:-1]):
            raise ValueError("steps: quantize must be the last one, since what is quantized is not trained on")

    def files(self) -> list[str]:
        """The files that the result depends on: those of the teachers, and of the tasks."""
        teachers = [step.distil.teacher for step in self.steps if step.distil is not None and step.distil.teacher]
        names = ("config.json", "model.safetensors")
        found = [str(Path(folder, name)) for folder in dict.fromkeys(teachers) for name in names]
        return [*found, *(self.suite.files() if self.suite is not None else [])]
