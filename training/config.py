"""What one training run is: stdlib dataclasses, checked on construction, read from JSON by `from_dict`.

The recipe embeds these classes in its pydantic tree as they are (`__pydantic_config__`); a machine that has only torch,
NumPy and safetensors reads the same JSON through `from_dict`. Nothing here imports torch.
"""

from __future__ import annotations

import dataclasses
import json
import math
import types
import typing
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, ClassVar, Literal, TypeVar

T = TypeVar("T")

_STRICT: dict[str, Any] = {"extra": "forbid", "use_attribute_docstrings": True}


@dataclass(frozen=True)
class Shard:
    """One flat little-endian token file; each document is followed by the end-of-text id."""

    __pydantic_config__: ClassVar[dict[str, Any]] = _STRICT

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

    def __post_init__(self) -> None:
        _at_least("tokens", self.tokens, 0)


@dataclass(frozen=True)
class ModelConfig:
    """Shape of the Transformer trunk; `PRESETS` names some. The defaults are the quickstart's model, `nano`."""

    __pydantic_config__: ClassVar[dict[str, Any]] = _STRICT

    layers: int = 6
    heads: int = 4
    width: int = 256
    """Width of the residual stream; a multiple of 2 * heads (rotary positions turn pairs)."""
    context_length: int = 256
    """Longest input in tokens."""
    mlp: Literal["gelu", "relu2", "swiglu"] = "relu2"
    """Activation of the feed-forward layer: GELU (GPT-2), squared ReLU (Primer), SwiGLU (Llama)."""
    mlp_width: int | None = None
    """Hidden width of the feed-forward layer; by default 4 * width, for SwiGLU 8/3 * width rounded up to 64."""
    qk_norm: bool = True
    """RMS-normalise queries and keys by head before the product (Henry et al. 2020); allows higher learning rates."""
    tied_embeddings: bool = False
    """Use the token embedding as the output matrix too."""
    bigram_buckets: int = 0
    """Rows of a hashed embedding of (previous token, token) pairs, added to the token embedding; 0 leaves it out. It
    gives a small model on a small budget what an n-gram model knows, for a look-up (Huang et al. 2025, Over-Tokenized
    Transformer, arXiv:2501.16975, section 3)."""
    rope_theta: float = 10_000.0
    """Base of the rotary position frequencies (RoFormer, section 3.4.3)."""
    norm_epsilon: float = 1e-6
    dropout: float = 0.0
    """Share of activations dropped after attention and feed-forward, in training only."""
    initialization: Literal["small", "gpt2"] = "small"
    """Named scheme of `training/models/initialization.py`."""

    def __post_init__(self) -> None:
        for name in ("layers", "heads", "width", "context_length"):
            _at_least(name, getattr(self, name), 1)
        if self.width % (2 * self.heads):
            raise ValueError(f"width must be a multiple of 2 * heads = {2 * self.heads}, got {self.width}")
        if self.mlp_width is not None:
            _at_least("mlp_width", self.mlp_width, 1)
        _within("dropout", self.dropout, 0.0, 0.99)
        _at_least("bigram_buckets", self.bigram_buckets, 0)
        _positive("rope_theta", self.rope_theta)
        _positive("norm_epsilon", self.norm_epsilon)

    @property
    def hidden_width(self) -> int:
        """Width of the feed-forward layer."""
        if self.mlp_width is not None:
            return self.mlp_width
        return 64 * math.ceil(8 * self.width / 3 / 64) if self.mlp == "swiglu" else 4 * self.width


PRESETS: dict[str, dict[str, Any]] = {
    "nano": {},
    # The shapes of GPT-2 (Radford et al. 2019, table 2) with this trunk's parts.
    "gpt2": {"layers": 12, "heads": 12, "width": 768, "context_length": 1024, "tied_embeddings": True},
    "gpt2-medium": {"layers": 24, "heads": 16, "width": 1024, "context_length": 1024, "tied_embeddings": True},
    "gpt2-large": {"layers": 36, "heads": 20, "width": 1280, "context_length": 1024, "tied_embeddings": True},
    "gpt2-xl": {"layers": 48, "heads": 25, "width": 1600, "context_length": 1024, "tied_embeddings": True},
}


def expand_preset(value: Any) -> Any:
    """Turn `"gpt2"` or `{"preset": "gpt2", "context_length": 512}` into the plain fields of a ModelConfig.

    Anything else passes through, so that it serves as a pydantic BeforeValidator. Raises ValueError for unknown names.
    """
    if isinstance(value, str):
        value = {"preset": value}
    if not isinstance(value, dict) or "preset" not in value:
        return value
    name = value["preset"]
    if name not in PRESETS:
        raise ValueError(f"preset: {name!r} is unknown; there are {', '.join(PRESETS)}")
    return {**PRESETS[name], **{key: setting for key, setting in value.items() if key != "preset"}}


@dataclass(frozen=True)
class ObjectiveConfig:
    """Which task the model is trained on."""

    __pydantic_config__: ClassVar[dict[str, Any]] = _STRICT

    name: Literal["causal"] = "causal"


@dataclass(frozen=True)
class OptimizerConfig:
    """AdamW for all parameters, or Muon for the matrices of the trunk and AdamW for the rest."""

    __pydantic_config__: ClassVar[dict[str, Any]] = _STRICT

    name: Literal["adamw", "muon"] = "muon"
    learning_rate: float = 3e-3
    """Peak learning rate of AdamW."""
    muon_learning_rate: float = 2e-2
    """Peak learning rate of Muon."""
    bigram_learning_rate: float = 0.3
    """Peak learning rate of the row-wise Adagrad that trains the hashed bigram embedding."""
    beta1: float = 0.9
    beta2: float = 0.95
    epsilon: float = 1e-8
    momentum: float = 0.95
    """Nesterov momentum of Muon."""
    weight_decay: float = 0.0
    """Decoupled decay of matrices; vectors and gains are never decayed."""

    def __post_init__(self) -> None:
        for name in ("learning_rate", "muon_learning_rate", "bigram_learning_rate", "epsilon"):
            _positive(name, getattr(self, name))
        for name in ("beta1", "beta2", "momentum"):
            _within(name, getattr(self, name), 0.0, 0.999999)
        _within("weight_decay", self.weight_decay, 0.0, math.inf)


@dataclass(frozen=True)
class ScheduleConfig:
    """Learning rate over the run, as a factor on its peak."""

    __pydantic_config__: ClassVar[dict[str, Any]] = _STRICT

    name: Literal["trapezoid", "cosine", "constant"] = "trapezoid"
    """After a linear warm-up: hold, then fall linearly (trapezoid, also called WSD); fall as a half cosine; or hold."""
    warmup_steps: int = 10
    decay_fraction: float = 0.6
    """Share of all steps over which the trapezoid falls."""
    floor: float = 0.0
    """Factor at the last step."""

    def __post_init__(self) -> None:
        _at_least("warmup_steps", self.warmup_steps, 0)
        _within("decay_fraction", self.decay_fraction, 0.0, 1.0)
        _within("floor", self.floor, 0.0, 1.0)


@dataclass(frozen=True)
class TrainingConfig:
    """How long, on what and with how much bookkeeping."""

    __pydantic_config__: ClassVar[dict[str, Any]] = _STRICT

    steps: int = 1000
    batch_size: int = 16
    """Sequences in one optimiser step, over all processes."""
    sequence_length: int | None = None
    """Tokens in one sequence; by default the model's context length."""
    seed: int = 1
    gradient_clip: float = 1.0
    """Largest norm of the gradient; 0 leaves it as it is."""
    log_every: int = 10
    """Steps between two lines of the journal."""
    evaluate_every: int = 100
    evaluation_batches: int = 16
    """Validation batches of one evaluation, spread over the validation shards by their size."""
    checkpoint_every: int = 200
    keep: int = 2
    """Newest checkpoints kept; the one of lowest validation loss stays too."""
    device: Literal["auto", "cpu", "cuda"] = "auto"
    precision: Literal["auto", "fp32", "bf16"] = "auto"
    """Arithmetic of the matrix products; weights and optimiser state are float32. auto: bf16 on CUDA, fp32 on a CPU."""
    device_batch_size: int | None = None
    """Sequences in one forward pass of one process; the rest of its share is accumulated. By default all at once."""
    threads: int = 0
    """CPU threads; 0 takes one for each core that the process may use. The last bits of a CPU run depend on it."""
    compile: Literal["auto", "on", "off"] = "auto"
    """torch.compile; auto: on CUDA only."""
    peak_flops: float | None = None
    """Peak FLOP/s of one device, for the MFU; by default known for some GPUs only."""
    verify_digests: bool = True
    """Read every shard once at the start, to check its sha256 and its largest id."""

    def __post_init__(self) -> None:
        for name in (
            "steps",
            "batch_size",
            "log_every",
            "evaluate_every",
            "evaluation_batches",
            "checkpoint_every",
            "keep",
        ):
            _at_least(name, getattr(self, name), 1)
        for name in ("sequence_length", "device_batch_size"):
            if getattr(self, name) is not None:
                _at_least(name, getattr(self, name), 1)
        for name in ("seed", "threads"):
            _at_least(name, getattr(self, name), 0)
        _within("gradient_clip", self.gradient_clip, 0.0, math.inf)
        if self.peak_flops is not None:
            _positive("peak_flops", self.peak_flops)


@dataclass(frozen=True)
class TrainingRun:
    """All that `python -m training train CONFIG.json` needs."""

    __pydantic_config__: ClassVar[dict[str, Any]] = _STRICT

    data: list[Shard]
    vocabulary_size: int
    end_of_text: int
    output_dir: str
    dataset_fingerprint: str = ""
    """Identity of the token shards; a checkpoint made from another one is refused."""
    tokenizer_path: str | None = None
    """tokenizer.json, copied into each checkpoint."""
    model: ModelConfig = field(default_factory=ModelConfig)
    objective: ObjectiveConfig = field(default_factory=ObjectiveConfig)
    optimizer: OptimizerConfig = field(default_factory=OptimizerConfig)
    schedule: ScheduleConfig = field(default_factory=ScheduleConfig)
    training: TrainingConfig = field(default_factory=TrainingConfig)

    def __post_init__(self) -> None:
        _at_least("vocabulary_size", self.vocabulary_size, 1)
        if not 0 <= self.end_of_text < self.vocabulary_size:
            raise ValueError(
                f"end_of_text must lie in the vocabulary [0, {self.vocabulary_size}), got {self.end_of_text}"
            )
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
            "vocabulary_size": self.vocabulary_size,
            "end_of_text": self.end_of_text,
            "training.steps": training.steps,
            "training.batch_size": training.batch_size,
            "training.sequence_length": self.sequence_length,
            "training.seed": training.seed,
            "training.gradient_clip": training.gradient_clip,
        }
        for name in ("model", "objective", "optimizer", "schedule"):
            parts |= {f"{name}.{key}": value for key, value in dataclasses.asdict(getattr(self, name)).items()}
        return parts


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


def to_dict(value: Any) -> dict[str, Any]:
    """The JSON form of a dataclass; `from_dict` reads it back."""
    return dataclasses.asdict(value)


def from_dict(cls: type[T], value: Any, at: str = "") -> T:
    """Build a dataclass of this module from plain JSON values.

    Raises ValueError naming the field (`training.batch_size`), its value and what is allowed, for a missing or unknown
    key, a wrong type or a value out of range. An integer serves as a float; nothing else is converted.
    """
    if cls is ModelConfig:
        value = _located(at, expand_preset, value)
    if not isinstance(value, dict):
        raise ValueError(f"{at or 'the configuration'}: expected an object, got {_shown(value)}")
    fields = {entry.name: entry for entry in dataclasses.fields(cls)}  # type: ignore[arg-type]
    hints = typing.get_type_hints(cls)
    for key in value:
        if key not in fields:
            raise ValueError(f"{_join(at, key)}: unknown; allowed are {', '.join(fields)}")
    arguments = {key: _convert(hints[key], item, _join(at, key)) for key, item in value.items()}
    for name, entry in fields.items():
        required = entry.default is dataclasses.MISSING and entry.default_factory is dataclasses.MISSING
        if required and name not in value:
            raise ValueError(f"{_join(at, name)}: missing")
    return _located(at, cls, **arguments)


def _convert(hint: Any, value: Any, at: str) -> Any:
    origin, arguments = typing.get_origin(hint), typing.get_args(hint)
    if origin in (types.UnionType, typing.Union):
        if value is None and type(None) in arguments:
            return None
        (hint,) = (argument for argument in arguments if argument is not type(None))
        return _convert(hint, value, at)
    if origin is Literal:
        if value not in arguments or isinstance(value, bool):
            raise ValueError(f"{at}: expected one of {', '.join(map(str, arguments))}, got {_shown(value)}")
        return value
    if origin is list:
        if not isinstance(value, list):
            raise ValueError(f"{at}: expected a list, got {_shown(value)}")
        return [_convert(arguments[0], item, f"{at}[{index}]") for index, item in enumerate(value)]
    if dataclasses.is_dataclass(hint):
        return from_dict(typing.cast(type, hint), value, at)
    accepted, name = _SCALARS[hint]
    if not isinstance(value, accepted) or (isinstance(value, bool) and hint is not bool):
        raise ValueError(f"{at}: expected {name}, got {_shown(value)}")
    return hint(value)


_SCALARS: dict[type, tuple[Any, str]] = {
    str: (str, "a string"),
    bool: (bool, "true or false"),
    int: (int, "an integer"),
    float: ((int, float), "a number"),
}


def _located(at: str, function: typing.Callable[..., Any], *arguments: Any, **keywords: Any) -> Any:
    try:
        return function(*arguments, **keywords)
    except ValueError as error:
        raise ValueError(_join(at, str(error))) from None


def _join(at: str, name: str) -> str:
    return f"{at}.{name}" if at else name


def _shown(value: Any) -> str:
    text = repr(value)
    return text if len(text) <= 80 else f"{text[:77]}..."


def _at_least(name: str, value: int, least: int) -> None:
    if value < least:
        raise ValueError(f"{name} must be at least {least}, got {value}")


def _positive(name: str, value: float) -> None:
    if not (math.isfinite(value) and value > 0):
        raise ValueError(f"{name} must be a positive number, got {value}")


def _within(name: str, value: float, low: float, high: float) -> None:
    if not low <= value <= high:
        raise ValueError(f"{name} must lie in [{low:g}, {high:g}], got {value}")
