"""What one training run is: its data, its model, how long it trains, and what is done beside the steps."""

from __future__ import annotations

import dataclasses
import json
import math
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, ClassVar, Literal

from training.config.model import ModelConfig
from training.config.objective import ObjectiveConfig
from training.config.optimization import OptimizerConfig, ScheduleConfig
from training.config.reading import STRICT, at_least, from_dict, positive, within


@dataclass(frozen=True)
class Shard:
    """One flat little-endian token file; each document is followed by the end-of-text id."""

    __pydantic_config__: ClassVar[dict[str, Any]] = STRICT

    path: str
    split: Literal["train", "validation"]
    tokens: int
    """Token ids in the file, end-of-text ids included."""
    dtype: Literal["uint16", "uint32"] = "uint16"
    source: str = ""
    """Source of its documents; empty where sources are mixed (train)."""
    language: str = ""
    text_bytes: int = 0
    """UTF-8 bytes of the text behind the tokens; bits per byte divides by it."""
    documents: int = 0
    sha256: str = ""
    """Hex digest of the file; checked at the start unless `training.verify_digests` is off."""
    marks: str = ""
    """File of one uint8 for each token: 1 where a word begins, 2 where a sentence begins, 3 where both do; objectives
    that work along words and sentences need it."""
    marks_sha256: str = ""

    def __post_init__(self) -> None:
        at_least("tokens", self.tokens, 0)


@dataclass(frozen=True)
class SpecialTokens:
    """Ids of the tokenizer that objectives put between the corpus' tokens; None where it has none."""

    __pydantic_config__: ClassVar[dict[str, Any]] = STRICT

    padding: int | None = None
    mask: int | None = None
    first: int | None = None
    """Before each sequence (BERT's [CLS])."""
    separator: int | None = None
    """Behind each part of a sequence (BERT's [SEP])."""

    def __post_init__(self) -> None:
        for name, value in dataclasses.asdict(self).items():
            if value is not None:
                at_least(name, value, 0)


@dataclass(frozen=True)
class GuardConfig:
    """What is done when a run goes wrong on its own: steps that are no number, loss spikes, stalls."""

    __pydantic_config__: ClassVar[dict[str, Any]] = STRICT

    skipped_steps: int = 20
    """Steps in a row with a loss or gradient that is no number (NaN or infinite), each of which changes no weight,
    before the run gives up."""
    spike_score: float = 10.0
    """A loss this many standard deviations above the mean of the last `spike_window` ones is a spike; 0 looks for
    none."""
    spike_window: int = 128
    """Losses that mean and deviation are taken over; none is a spike before there are so many."""
    spike_steps: int = 3
    """Spikes in a row after which the run goes back to the last checkpoint before them and leaves out the batches that
    led there."""
    rollbacks: int = 3
    """How often a run may go back before it gives up."""
    stall_minutes: float = 30.0
    """Time without a step after which the stacks of all threads are written to stalls.log; 0 watches for none."""
    stall_ends: bool = False
    """End the process at a stall (exit code 76), so that whoever started it can start it anew."""

    def __post_init__(self) -> None:
        for name in ("skipped_steps", "rollbacks"):
            at_least(name, getattr(self, name), 0)
        at_least("spike_window", self.spike_window, 8)
        at_least("spike_steps", self.spike_steps, 1)
        within("spike_score", self.spike_score, 0.0, math.inf)
        within("stall_minutes", self.stall_minutes, 0.0, math.inf)


@dataclass(frozen=True)
class TrainingConfig:
    """How long, on what and with how much bookkeeping."""

    __pydantic_config__: ClassVar[dict[str, Any]] = STRICT

    steps: int = 1000
    batch_size: int = 16
    """Sequences in one optimiser step, over all processes."""
    sequence_length: int | None = None
    """Tokens in one sequence; by default the model's context length."""
    seed: int = 1
    gradient_clip: float = 1.0
    """Largest norm of the gradient; 0 leaves it as it is."""
    ema_decay: float | None = None
    """Keep an exponential moving average of the weights with this decay; it is what is evaluated and used."""
    log_every: int = 10
    """Steps between two lines of the journal."""
    evaluate_every: int = 100
    evaluation_batches: int = 16
    """Validation batches of one evaluation, spread over the validation shards by their size."""
    statistics_every: int = 0
    """Steps between two measurements of gradients, activations and attention by layer; 0: none."""
    samples_every: int = 0
    """Steps between two rounds of sample texts, written to samples.jsonl; 0: none."""
    sample_prompts: tuple[str, ...] = ("The", "中国")
    checkpoint_every: int = 200
    checkpoint_minutes: float | None = None
    """Write a checkpoint, too, when the last one is this old."""
    keep: int = 2
    """Newest checkpoints kept; the one of lowest validation loss stays too."""
    keep_every: int | None = None
    """Checkpoints of these multiples of steps stay for good."""
    device: Literal["auto", "cpu", "cuda"] = "auto"
    precision: Literal["auto", "fp32", "bf16", "fp8"] = "auto"
    """Arithmetic of the matrix products; weights and optimiser state are float32. fp8: the products of the blocks in
    float8, scaled by tensor, the rest in bf16. auto: bf16 on CUDA and on CPUs that multiply it, else fp32."""
    device_batch_size: int | Literal["auto"] | None = None
    """Sequences in one forward pass of one process; the rest of its share is accumulated. By default all at once; auto:
    the most that the device's memory holds."""
    recompute: Literal["none", "products", "blocks"] = "none"
    """Activation checkpointing (Chen et al. 2016): keep all activations for the backward pass; keep the results of the
    matrix products and of attention and compute the rest again; or keep the blocks' inputs alone."""
    recompute_every: int = 1
    """Apply `recompute` to every n-th block."""
    logits: Literal["auto", "whole", "chunks"] = "auto"
    """Whether the loss holds the logits of all positions at once or a chunk at a time. auto: whole on CUDA where they
    take less than an eighth of its memory."""
    parallel: Literal["ddp", "fsdp"] = "ddp"
    """With several processes: a whole model in each (DistributedDataParallel), or parameters, gradients and optimiser
    state in shards (FSDP2)."""
    deterministic: bool = False
    """Choose deterministic algorithms on CUDA, where the fastest ones may add up in any order, so that a resumed run
    ends with the same bits. A CPU run always does."""
    threads: int = 0
    """CPU threads; 0 takes one for each core that the process may use. The last bits of a CPU run depend on it."""
    compile: Literal["auto", "on", "off"] | bool = "auto"
    """torch.compile; auto: on CUDA only. True and false, as YAML reads on and off, become these words."""
    compile_mode: Literal["default", "reduce-overhead", "max-autotune-no-cudagraphs", "max-autotune"] = "default"
    """reduce-overhead and max-autotune replay CUDA graphs."""
    peak_flops: float | None = None
    """Peak FLOP/s of one device, for the MFU; by default known for some GPUs only."""
    price_per_device_hour: float | None = None
    """What a device costs in an hour, in any currency: plan and result say what the run comes to."""
    verify_digests: bool = True
    """Read every shard once at the start, to check its sha256 and its largest id."""
    guard: GuardConfig = field(default_factory=GuardConfig)

    EXECUTION: ClassVar[frozenset[str]] = frozenset(
        "checkpoint_minutes device device_batch_size recompute recompute_every logits parallel deterministic threads "
        "compile compile_mode peak_flops price_per_device_hour verify_digests guard".split()
    )
    """Fields that change neither the weights (but for their last bits) nor which files a run leaves."""

    def __post_init__(self) -> None:
        for name in (
            "steps",
            "batch_size",
            "log_every",
            "evaluate_every",
            "evaluation_batches",
            "checkpoint_every",
            "keep",
            "recompute_every",
        ):
            at_least(name, getattr(self, name), 1)
        for name in ("sequence_length", "device_batch_size", "keep_every"):
            value = getattr(self, name)
            if value is not None and value != "auto":
                at_least(name, value, 1)
        for name in ("seed", "threads", "statistics_every", "samples_every"):
            at_least(name, getattr(self, name), 0)
        within("gradient_clip", self.gradient_clip, 0.0, math.inf)
        if self.ema_decay is not None:
            within("ema_decay", self.ema_decay, 0.0, 0.9999999)
        if isinstance(self.compile, bool):
            object.__setattr__(self, "compile", "on" if self.compile else "off")
        for name in ("peak_flops", "price_per_device_hour", "checkpoint_minutes"):
            if getattr(self, name) is not None:
                positive(name, getattr(self, name))


@dataclass(frozen=True)
class TrainingRun:
    """All that `python -m training train CONFIG.json` needs."""

    __pydantic_config__: ClassVar[dict[str, Any]] = STRICT

    data: list[Shard]
    vocabulary_size: int
    end_of_text: int
    output_dir: str
    dataset_fingerprint: str = ""
    """Identity of the token shards; a checkpoint made from another one is refused."""
    tokenizer_path: str | None = None
    """tokenizer.json, copied into each checkpoint."""
    initial_checkpoint: str = ""
    """Folder of a checkpoint whose weights the run starts from, where names and shapes agree; empty: drawn anew."""
    initial_sha256: str = ""
    """Hex digest of its model.safetensors; another one there is refused."""
    examples_sha256: str = ""
    """Hex digest of the file of `objective.contrastive.examples`, or several with spaces between them."""
    tokenizer_sha256: str = ""
    """Hex digest of the tokenizer.json that made the shards; another one at tokenizer_path is refused."""
    special_tokens: SpecialTokens = field(default_factory=SpecialTokens)
    model: ModelConfig = field(default_factory=ModelConfig)
    objective: ObjectiveConfig = field(default_factory=ObjectiveConfig)
    optimizer: OptimizerConfig = field(default_factory=OptimizerConfig)
    schedule: ScheduleConfig = field(default_factory=ScheduleConfig)
    training: TrainingConfig = field(default_factory=TrainingConfig)

    def __post_init__(self) -> None:
        at_least("vocabulary_size", self.vocabulary_size, 1)
        if not 0 <= self.end_of_text < self.vocabulary_size:
            raise ValueError(
                f"end_of_text must lie in the vocabulary [0, {self.vocabulary_size}), got {self.end_of_text}"
            )
        check_fit(self.model, self.objective)
        if self.training.parallel == "fsdp" and any(one.contrastive.queue for one in self.objective.all):
            raise ValueError("contrastive.queue needs training.parallel: ddp, since its encoder is a copy of the model")
        if not self.output_dir:
            raise ValueError("output_dir must name a folder, got an empty string")
        if self.sequence_length > self.model.context_length:
            raise ValueError(
                f"training.sequence_length ({self.sequence_length}) must not exceed "
                f"model.context_length ({self.model.context_length})"
            )

    @property
    def sequence_length(self) -> int:
        """Tokens in one training sequence."""
        return self.training.sequence_length or self.model.context_length

    @property
    def model_vocabulary(self) -> int:
        """Ids that the model knows: the tokenizer's, and behind them those of the objective's own."""
        return self.vocabulary_size + self.objective.extra_tokens

    def shards(self, split: str) -> list[Shard]:
        """The shards of one split, in their given order."""
        return [shard for shard in self.data if shard.split == split]

    def identity(self) -> dict[str, Any]:
        """What decides the weights, as flat JSON: a checkpoint with another identity is refused.

        Places, devices, threads, the micro-batch and the bookkeeping intervals stay out.
        """
        training = self.training
        parts: dict[str, Any] = {
            "dataset_fingerprint": self.dataset_fingerprint,
            "data.train": [[shard.sha256, shard.tokens, shard.dtype] for shard in self.shards("train")],
            "objective.examples_sha256": self.examples_sha256,
            "data.marks": [shard.marks_sha256 for shard in self.shards("train")] if self.objective.marks else [],
            "vocabulary_size": self.vocabulary_size,
            "end_of_text": self.end_of_text,
            "initial_sha256": self.initial_sha256,
            "special_tokens": dataclasses.asdict(self.special_tokens),
            "training.steps": training.steps,
            "training.batch_size": training.batch_size,
            "training.sequence_length": self.sequence_length,
            "training.seed": training.seed,
            "training.gradient_clip": training.gradient_clip,
            "training.ema_decay": training.ema_decay,
        }
        for name in ("model", "objective", "optimizer", "schedule"):
            section = getattr(self, name)
            values = section.identity() if name == "model" else dataclasses.asdict(section)
            parts |= {f"{name}.{key}": value for key, value in values.items()}
        for contrastive in (parts["objective.contrastive"], *(one["contrastive"] for one in parts["objective.also"])):
            del contrastive["examples"]  # a place; the digest stands above
        return parts


_ARCHITECTURES = {
    "causal": "transformer",
    "masked": "transformer",
    "prefix": "transformer",
    "contrastive": "transformer",
    "replaced_token": "replaced_token",
    "permutation": "two_stream",
    "span_corruption": "encoder_decoder",
}


def check_fit(model: ModelConfig, objective: ObjectiveConfig) -> None:
    """Raise ValueError where a model cannot be trained on an objective, naming the field and what it must be."""
    for one in objective.all:
        needed = _ARCHITECTURES[one.name]
        if model.architecture != needed:
            raise ValueError(
                f"objective {one.name} needs model.architecture: {needed}, got {model.architecture} "
                f"({_presets(needed, one.name)})"
            )
        reads_words = one.name in ("causal", "masked", "prefix")
        if reads_words and model.head == "replaced_token":
            raise ValueError(f"objective {one.name} needs a vocabulary head: model.head must be linear or transform")
        if one.sentence_task != "none" and model.sentence_classes < 2:
            raise ValueError(
                f"sentence_task {one.sentence_task} needs model.pooler: true and model.sentence_classes: 2, got "
                f"{model.sentence_classes}"
            )
    if model.pooler and not any(one.sentence_task != "none" or one.name == "contrastive" for one in objective.all):
        raise ValueError(
            f"no part of the objective {objective.name} trains model.pooler and model.sentence_classes: set "
            "model.pooler: false and model.sentence_classes: 0, or objective.sentence_task"
        )
    if model.sentence_classes and all(one.sentence_task == "none" for one in objective.all):
        raise ValueError(
            f"no part of the objective {objective.name} trains model.sentence_classes: set it to 0, or "
            "objective.sentence_task"
        )
    if model.token_types == 1 and any(one.sentence_task != "none" for one in objective.all):
        raise ValueError("a sentence task tells its two parts apart: model.token_types must be 2 (or 0), got 1")
    # Each pass of a model with several objectives has the attention of its own; alone it is that of the config.
    main = objective.name
    if main == "causal" and model.attention != "causal":
        raise ValueError(f"objective causal needs model.attention: causal, got {model.attention}")
    if main in ("masked", "prefix", "contrastive", "replaced_token") and model.attention != "bidirectional":
        raise ValueError(
            f"objective {main} needs model.attention: bidirectional, got {model.attention} "
            f"({_presets('transformer', main)})"
        )


def _presets(architecture: str, objective: str) -> str:
    names = {
        "replaced_token": "electra-small, electra-base",
        "two_stream": "xlnet-base",
        "encoder_decoder": "t5-small",
        "transformer": "gpt2" if objective == "causal" else "bert-base, roberta-base, modernbert-base",
    }[architecture]
    return f"such as the presets {names}"


def load_run(path: str | Path) -> TrainingRun:
    """Read a TrainingRun from a JSON file; raises ValueError naming the file and the field."""
    try:
        document = json.loads(Path(path).read_text(encoding="utf-8"))
    except OSError as error:
        raise ValueError(f"{path}: cannot be read: {error.strerror}") from None
    except ValueError as error:
        raise ValueError(f"{path}: not valid JSON: {error}") from None
    try:
        return from_dict(TrainingRun, document)
    except ValueError as error:
        raise ValueError(f"{path}: {error}") from None
