"""A task as data: its file, what a prompt and its choices are made of, and how answers are counted."""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import Any, ClassVar, Literal

from training.config.reading import STRICT, at_least, within

Shape = Literal["choices", "contexts", "pairs", "continuation", "generation", "text"]
_NEEDED: dict[str, tuple[tuple[str, ...], ...]] = {
    "choices": (("prompt",), ("choices", "choices_field"), ("answer",)),
    "contexts": (("choices", "choices_field"), ("continuation",), ("answer",)),
    "pairs": (("good",), ("bad",)),
    "continuation": (("prompt",), ("continuation",)),
    "generation": (("prompt",), ("references",)),
    "text": (("text",),),
}
"""For each shape the fields that must be there, one of each tuple."""
MAIN_METRIC = {
    "choices": "accuracy",
    "contexts": "accuracy",
    "pairs": "accuracy",
    "continuation": "accuracy",
    "generation": "exact_match",
    "text": "bits_per_byte",
}
LIKELIHOOD = ("choices", "contexts", "pairs")
"""Shapes that any model with a score of texts can do; the others need one that reads from left to right."""
TEXT_METRICS = ("exact_match", "f1", "bleu", "chrf", "rouge1", "rouge2", "rougeL")


@dataclass(frozen=True)
class Derived:
    """A field made from another one before prompts are filled."""

    __pydantic_config__: ClassVar[dict[str, Any]] = STRICT

    name: str
    field: str
    values: tuple[str, ...] = ()
    """What the field may hold; each becomes the text of the same place in `texts`."""
    texts: tuple[str, ...] = ()
    remove_end: str = ""
    """Characters of which one, if it is there, is taken from the end of the text."""
    lower_first: bool = False
    """Make the first letter a small one."""

    def __post_init__(self) -> None:
        if len(self.values) != len(self.texts):
            raise ValueError(f"derive {self.name}: {len(self.values)} values but {len(self.texts)} texts")


@dataclass(frozen=True)
class Task:
    """One task. `{name}` in a template stands for a field of the row; `{{` and `}}` for braces."""

    __pydantic_config__: ClassVar[dict[str, Any]] = STRICT

    name: str
    form: Shape
    """choices: a prompt, several continuations (HellaSwag); contexts: several beginnings, one continuation (Winograd,
    Trinh & Le 2018); pairs: two whole texts (BLiMP); continuation: is the likeliest text the right one (LAMBADA);
    generation: text is written and compared; text: perplexity of whole texts."""
    file: str
    """JSON Lines, CSV, TSV or plain text, also as .gz; `archive.tar.gz#member` names a file of an archive. `*` stands
    for any part of a name; the field `_file` then tells the files apart (its name without the suffix)."""
    description: str = ""
    source: str = ""
    language: str = "en"
    metric: str = ""
    """The main one; by default accuracy, exact_match or bits_per_byte."""
    prompt: str = ""
    choices: tuple[str, ...] = ()
    """Templates of the choices (or contexts)."""
    choices_field: str = ""
    """A field that holds a list of them, in place of `choices`."""
    continuation: str = ""
    answer: str = ""
    """Field of the right choice: its place, or one of `labels`."""
    answer_base: int = 0
    """The place of the first choice."""
    labels: tuple[str, ...] = ()
    """What the field `answer` may hold, in the order of the choices."""
    references: str = ""
    """Field of the right text, or of a list of such."""
    good: str = ""
    bad: str = ""
    text: str = "text"
    """Field of the text; of plain text files the file is one."""
    group: str = ""
    """Field by which items are also counted on their own (`_file`: by file)."""
    derive: tuple[Derived, ...] = ()
    delimiter: str = " "
    """Between a prompt and what follows it."""
    shot_delimiter: str = "\n\n"
    """Behind each example in a prompt."""
    preamble: str = ""
    """Before the examples."""
    shots: int = 0
    shots_file: str = ""
    """Where examples come from; by default the task's own file, the item itself left out."""
    shots_order: Literal["random", "first"] = "random"
    """random: drawn for each item by the seed; first: the first ones of the file, the same for all."""
    shots_of_group: bool = False
    """Take examples of the item's own group only."""
    baseline: float | None = None
    """What guessing reaches, in [0, 1); by default one over the number of choices, 0 without choices."""
    metrics: tuple[str, ...] = ("exact_match",)
    """Of generated text: exact_match, f1 (of words, SQuAD's), bleu, chrf, rouge1, rouge2, rougeL."""
    normalize: tuple[Literal["lower", "punctuation", "articles", "whitespace"], ...] = ("whitespace",)
    """What exact_match does to both texts first; all four are SQuAD's normalisation."""
    extract: str = ""
    """Regular expression whose last match (its first group, if it has one) is the answer in a generated text."""
    stop: tuple[str, ...] = ("\n",)
    max_new_tokens: int = 64
    stride: int | None = None
    """Of `text`: tokens between the ends of two windows; by default the context length (disjoint windows)."""
    limit: int = 0
    """Most items; 0: all."""

    def __post_init__(self) -> None:
        if not re.fullmatch(r"[\w.-]+", self.name):
            raise ValueError(f"name must consist of letters, digits and _.-, got {self.name!r}")
        for options in _NEEDED[self.form]:
            if not any(getattr(self, option) for option in options):
                raise ValueError(f"{' or '.join(options)}: missing; a task of the form {self.form} needs it")
        for name in ("shots", "limit", "max_new_tokens"):
            at_least(name, getattr(self, name), 0)
        if self.stride is not None:
            at_least("stride", self.stride, 1)
        if self.baseline is not None:
            within("baseline", self.baseline, 0.0, 0.999999)
        for name in self.metrics:
            if name not in TEXT_METRICS:
                raise ValueError(f"metrics: expected some of {', '.join(TEXT_METRICS)}, got {name}")
        try:
            re.compile(self.extract)
        except re.error as error:
            raise ValueError(f"extract: no regular expression: {error}") from None

    @property
    def main_metric(self) -> str:
        """By which models are compared."""
        if self.form == "generation" and not self.metric:
            return self.metrics[0]
        return self.metric or MAIN_METRIC[self.form]


@dataclass(frozen=True)
class Entry:
    """A task of a group, with what differs there."""

    task: str
    name: str = ""
    """What the group calls it; by default the task's name, with the number of examples where that differs."""
    shots: int | None = None
    shots_order: Literal["random", "first"] | None = None
    shot_delimiter: str | None = None
    metric: str | None = None
    baseline: float | None = None

    @staticmethod
    def expand(value: Any) -> Any:
        """The name of a task alone stands for the task as it is."""
        return {"task": value} if isinstance(value, str) else value


@dataclass(frozen=True)
class Group:
    """Tasks that belong together, and perhaps a score over all of them."""

    name: str
    tasks: tuple[Entry, ...]
    description: str = ""
    source: str = ""
    centered: bool = False
    """Average (metric - baseline) / (1 - baseline), as DCLM's CORE does (Li et al. 2024, section 3.5); else the mean of
    the main metrics."""
    missing: tuple[str, ...] = ()
    """Tasks of the published group whose files are not at hand; the score leaves them out."""

    def __post_init__(self) -> None:
        if not self.tasks:
            raise ValueError("tasks: a group needs one at least")
