"""What a fine-tuning is asked for: its tasks as data, how the weights are trained, and for how long."""

from __future__ import annotations

import dataclasses
import math
import re
from dataclasses import dataclass, field
from typing import Any, ClassVar, Literal

from training.adapters.config import AdapterConfig
from training.config.reading import STRICT, at_least, positive, within

Metric = Literal[
    "accuracy",
    "f1",
    "f1_macro",
    "matthews",
    "pearson",
    "spearman",
    "entity_f1",
    "exact_match",
    "answer_f1",
    "loss",
]
KINDS: dict[str, tuple[str, ...]] = {
    "classification": ("accuracy",),
    "pair_classification": ("accuracy",),
    "regression": ("pearson", "spearman"),
    "token_classification": ("entity_f1",),
    "multiple_choice": ("accuracy",),
    "question_answering": ("answer_f1",),
    "instruction": ("loss",),
}
"""The kinds of tasks, and the metrics that each is judged by where it does not say."""
METRICS: dict[str, tuple[str, ...]] = {
    "classification": ("accuracy", "f1", "f1_macro", "matthews"),
    "pair_classification": ("accuracy", "f1", "f1_macro", "matthews"),
    "regression": ("pearson", "spearman"),
    "token_classification": ("entity_f1", "accuracy"),
    "multiple_choice": ("accuracy",),
    "question_answering": ("exact_match", "answer_f1"),
    "instruction": ("loss", "accuracy"),
}
"""The metrics that each kind has."""
SPLITS = ("train", "dev", "test")
_NAME = re.compile(r"[A-Za-z0-9_-]+")


@dataclass(frozen=True)
class Columns:
    """Which columns of a row hold what. A value with braces is a template: `{premise} {question}`."""

    __pydantic_config__: ClassVar[dict[str, Any]] = STRICT

    text: str = "text"
    """The text, the first of a pair, the tokens of a tagged sentence, the question or premise of a multiple choice or
    of question answering, or the prompt of an instruction."""
    second: str = ""
    """The second text of a pair; the passage of question answering; the answer of an instruction."""
    label: str = "label"
    """The class or the number; the tags of a tagged sentence; the place of the right choice, from 0; the answers of
    question answering, as SQuAD has them."""
    choices: tuple[str, ...] = ()
    """A column or template for each choice, or one column that holds a list of them."""
    messages: str = ""
    """The conversation of an instruction, a list of {role, content}, instead of prompt and answer."""


@dataclass(frozen=True)
class Replacement:
    """A text that stands for a value of a column, before templates are filled in."""

    __pydantic_config__: ClassVar[dict[str, Any]] = STRICT

    column: str
    value: str
    by: str


@dataclass(frozen=True)
class TaskConfig:
    """One task: its files, what their columns mean, and what it is judged by."""

    __pydantic_config__: ClassVar[dict[str, Any]] = STRICT

    name: str
    """What results call it: letters, digits, `-` and `_`."""
    kind: Literal[
        "classification",
        "pair_classification",
        "regression",
        "token_classification",
        "multiple_choice",
        "question_answering",
        "instruction",
    ]
    train: str
    """File of the examples to train on, plain or .gz."""
    archive: str = ""
    """A tar archive, compressed or not, that train, dev and test are files of."""
    dev: str = ""
    """File of the examples that choose the best weights; without one a share of the training file does."""
    test: str = ""
    """File of examples that are only judged, once, at the end."""
    format: Literal["tsv", "csv", "jsonl", "txt", "conll", "squad"] = "tsv"
    """tsv: cells between tabs, quotes mean nothing; csv: commas and quotes; jsonl: an object a line; txt: cells between
    `separator`, the last one takes the rest of the line; conll: a token and its tag a line, an empty line behind each
    sentence; squad: the JSON of SQuAD 1.1 and 2.0 (Rajpurkar et al. 2016, 2018)."""
    names: tuple[str, ...] = ()
    """Names of the columns of a table whose first line is an example already; by default that line names them."""
    separator: str = " "
    """Of the format txt."""
    columns: Columns = field(default_factory=Columns)
    replacements: tuple[Replacement, ...] = ()
    labels: tuple[str, ...] = ()
    """Classes or tags, in the order of the head's outputs; by default those of the training file, sorted. f1 is that of
    the second of two."""
    metrics: tuple[Metric, ...] = ()
    """Metrics whose mean chooses the best weights (the GLUE score of the task); by default the kind's first ones."""
    dev_share: float = 0.1
    """Share of the training file, chosen by a hash of each row, that stands in for a missing `dev`; 0: none does."""
    class_weights: Literal["none", "balanced"] | tuple[float, ...] = "none"
    """Weights of the classes in the loss: all alike; inversely proportional to how often each occurs in training; or a
    number for each label."""
    weight: float = 1.0
    """How often the task is drawn, beside others, as a factor on its share."""
    max_train: int = 0
    """Most training examples, the first ones after shuffling; 0: all."""
    max_eval: int = 0
    """Most dev and test examples, the first ones; 0: all."""
    stride: int = 64
    """Tokens that the windows of a long passage share (question answering)."""
    max_answer: int = 30
    """Longest answer in tokens (question answering)."""

    def __post_init__(self) -> None:
        if not _NAME.fullmatch(self.name):
            raise ValueError(f"name must consist of letters, digits, - and _, got {self.name!r}")
        if not self.train:
            raise ValueError("train must name a file")
        for metric in self.metrics:
            if metric not in METRICS[self.kind]:
                raise ValueError(f"metrics: {self.kind} has {', '.join(METRICS[self.kind])}, got {metric}")
        for name in ("max_train", "max_eval", "stride"):
            at_least(name, getattr(self, name), 0)
        at_least("max_answer", self.max_answer, 1)
        within("dev_share", self.dev_share, 0.0, 0.9)
        positive("weight", self.weight)
        if len(set(self.labels)) < len(self.labels):
            raise ValueError(f"labels must differ, got {', '.join(self.labels)}")
        if isinstance(self.class_weights, tuple):
            if not self.labels or len(self.class_weights) != len(self.labels):
                raise ValueError(
                    f"class_weights must hold a number for each of labels ({len(self.labels)}), got "
                    f"{len(self.class_weights)}"
                )
            for weight in self.class_weights:
                within("class_weights", weight, 0.0, math.inf)
        if self.format == "squad" and self.kind != "question_answering":
            raise ValueError(f"format squad belongs to the kind question_answering, not to {self.kind}")
        needed = {"pair_classification": ("second",), "multiple_choice": ("choices",)}.get(self.kind, ())
        for name in needed:
            if not getattr(self.columns, name):
                raise ValueError(f"columns.{name} must be given for the kind {self.kind}")
        if self.kind == "question_answering" and self.format != "squad" and not self.columns.second:
            raise ValueError("columns.second must name the passage of question_answering")
        if self.kind == "instruction" and not (self.columns.messages or self.columns.second):
            raise ValueError("columns.messages, or columns.text and columns.second, must be given for instruction")

    @property
    def judged_by(self) -> tuple[str, ...]:
        """The metrics whose mean chooses the best weights."""
        return self.metrics or KINDS[self.kind]

    def files(self) -> dict[str, str]:
        """Its files by split; members of the archive, where there is one."""
        return {split: getattr(self, split) for split in SPLITS if getattr(self, split)}


@dataclass(frozen=True)
class FinetuningConfig:
    """A fine-tuning of one model on one task or on several at once."""

    __pydantic_config__: ClassVar[dict[str, Any]] = STRICT
    EXECUTION: ClassVar[tuple[str, ...]] = ("device", "threads", "device_batch_size", "log_every", "checkpoint_every")

    tasks: tuple[TaskConfig, ...]
    adapter: AdapterConfig = field(default_factory=AdapterConfig)
    """Which weights are trained: all, none but the heads, or those of an adapter."""
    merge: bool = True
    """Whether an adapter that can be is merged into plain weights at the end."""
    epochs: float = 3.0
    """Passes over the training examples; over those of all tasks together."""
    max_steps: int = 0
    """Most steps, whatever `epochs` says; 0: no limit."""
    batch_size: int = 32
    """Examples of a step; of instruction tuning rows of packed conversations."""
    max_length: int | None = None
    """Longest sequence in tokens, special ones included; by default the model's context length. Longer texts are cut,
    the longer one of a pair first (of a passage, windows are made)."""
    pack: bool = True
    """Whether the conversations of instruction tuning share rows of `max_length` tokens, each seeing itself alone."""
    group_by_length: bool = True
    """Whether batches are made of texts of similar length, so that there is little padding."""
    pooling: Literal["auto", "first", "mean", "last"] = "auto"
    """What stands for a whole text: its first token, the mean of its tokens, or its last one. auto: what a sentence
    encoder was trained with; else the first token of encoders that begin texts with a token of their own, the last one
    of models that read from left to right and of XLNet, the mean elsewhere (T5's encoder)."""
    learning_rate: float = 5e-5
    head_learning_rate: float | None = None
    """Of the new heads; by default `learning_rate`."""
    layer_decay: float = 1.0
    """Factor on the learning rate from each layer to the one below it (ELECTRA, Clark et al. 2020, appendix A.2)."""
    schedule: Literal["linear", "cosine", "constant"] = "linear"
    warmup: float = 0.1
    """Share of the steps over which the learning rate rises."""
    weight_decay: float = 0.01
    """Decoupled decay of matrices; vectors (biases and gains) are never decayed."""
    beta1: float = 0.9
    beta2: float = 0.999
    epsilon: float = 1e-8
    gradient_clip: float = 1.0
    label_smoothing: float = 0.0
    dropout: float | None = None
    """Dropout of the trunk and before the heads, attention weights included; by default as the model was trained, and
    0.1 before the heads."""
    sampling_temperature: float = 1.0
    """Tasks are drawn in proportion to their number of examples to the power of 1 / this, times `weight`: 1 by size, a
    large one all alike (Raffel et al. 2020, section 3.5.2)."""
    evaluate_every: int = 0
    """Steps between two evaluations on the dev examples; 0: at the end of each epoch."""
    patience: int = 0
    """Evaluations in a row without a better score after which training ends; 0: never."""
    keep: Literal["best", "last"] = "best"
    """Which weights are kept: those of the best dev score, or the last ones."""
    seed: int = 1
    precision: Literal["auto", "fp32", "bf16"] = "auto"
    """Arithmetic of the trunk's products: bf16 where the device is built for it. Heads compute in float32."""
    log_every: int = 10
    checkpoint_every: int = 0
    """Steps between two states to resume from; 0: at each evaluation alone."""
    device_batch_size: int = 0
    """Most sequences of a forward pass; the rest of a batch is accumulated. 0: all at once."""
    device: Literal["auto", "cpu", "cuda"] = "auto"
    threads: int = 0
    """CPU threads; 0 takes one for each core that the process may use."""

    def __post_init__(self) -> None:
        if not self.tasks:
            raise ValueError("tasks must name at least one task")
        names = [task.name for task in self.tasks]
        if len(set(names)) < len(names):
            raise ValueError(f"tasks must have different names, got {', '.join(names)}")
        for name in ("epochs", "learning_rate", "epsilon", "sampling_temperature"):
            positive(name, getattr(self, name))
        if self.head_learning_rate is not None:
            positive("head_learning_rate", self.head_learning_rate)
        for name in ("batch_size", "log_every"):
            at_least(name, getattr(self, name), 1)
        for name in ("max_steps", "evaluate_every", "patience", "checkpoint_every", "device_batch_size", "threads"):
            at_least(name, getattr(self, name), 0)
        if self.max_length is not None:
            at_least("max_length", self.max_length, 8)
        within("layer_decay", self.layer_decay, 0.01, 1.0)
        for name in ("warmup", "label_smoothing"):
            within(name, getattr(self, name), 0.0, 0.99)
        for name in ("beta1", "beta2"):
            within(name, getattr(self, name), 0.0, 0.999999)
        for name in ("weight_decay", "gradient_clip"):
            within(name, getattr(self, name), 0.0, math.inf)
        if self.dropout is not None:
            within("dropout", self.dropout, 0.0, 0.99)

    def files(self) -> list[str]:
        """All input files, each once, in the order of the tasks."""
        names = (path for task in self.tasks for path in ([task.archive] if task.archive else task.files().values()))
        return list(dict.fromkeys(names))

    def identity(self) -> dict[str, Any]:
        """What decides the result, as JSON."""
        return {key: value for key, value in dataclasses.asdict(self).items() if key not in self.EXECUTION}
