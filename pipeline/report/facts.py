"""What the report states, as plain values: the shapes between the files of a run and the page."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

from pipeline.stage import CORPUS_STAGES
from pipeline.store import Committed, StageRef

STAGE_NAMES = (*CORPUS_STAGES, "train", "evaluate")


@dataclass(frozen=True)
class StageFacts:
    """A stage of the run; `committed` is None where it has not finished."""

    ref: StageRef
    committed: Committed | None = None
    execution: dict[str, Any] = field(default_factory=dict)

    @property
    def name(self) -> str:
        """The stage's name."""
        return self.ref.name

    @property
    def fingerprint(self) -> str:
        """The identity of the stage's output."""
        return self.ref.fingerprint

    @property
    def counts(self) -> dict[str, int]:
        """The stage's counters; empty where it has not finished."""
        return self.committed.counts if self.committed else {}

    @property
    def bytes_written(self) -> int:
        """Bytes of all files that the stage committed."""
        return sum(entry["bytes"] for entry in self.committed.manifest["files"]) if self.committed else 0


@dataclass(frozen=True)
class Removal:
    """What one rule of one stage took from one source. `action` is dropped, edited or rejected."""

    stage: str
    action: str
    rule: str
    source: str
    documents: int
    bytes: int


@dataclass(frozen=True)
class Amount:
    """Documents and their text in UTF-8 bytes."""

    documents: int = 0
    bytes: int = 0

    def __add__(self, other: Amount) -> Amount:
        return Amount(self.documents + other.documents, self.bytes + other.bytes)

    def __sub__(self, other: Amount) -> Amount:
        return Amount(self.documents - other.documents, self.bytes - other.bytes)


@dataclass(frozen=True)
class Tokens:
    """Documents of one source, language and split in the token shards."""

    source: str
    language: str
    split: str
    documents: int
    tokens: int
    text_bytes: int


@dataclass(frozen=True)
class Language:
    """Documents of one language after deduplication: what stayed, what its language rule and what other rules took."""

    code: str
    kept: Amount
    dropped_by_language: Amount
    dropped_by_quality: Amount


@dataclass(frozen=True)
class Limit:
    """A rule over a signal. `by_language` holds the thresholds that differ from the general one; None: off there."""

    rule: str
    least: bool
    threshold: float | None
    by_language: dict[str, float | None] = field(default_factory=dict)


@dataclass(frozen=True)
class SignalFacts:
    """The distribution of a signal: documents by bin, those of them that fail a rule over it, and the rules."""

    signal: str
    description: str
    edges: Sequence[float]
    counts: Sequence[int]
    failing: Sequence[int]
    log: bool
    measured: int
    limits: Sequence[Limit]
    languages: dict[str, int]
    dropped_first: int


@dataclass(frozen=True)
class Cluster:
    """A group of duplicates: the document that stays, which may be known from an earlier run, and those that went."""

    twin: str
    known: bool
    source: str
    url: str
    excerpt: str
    language: str
    exact: int
    same_url: int
    near: int
    least_coverage: float | None
    least_similarity: float | None
    bytes_removed: int


@dataclass(frozen=True)
class Excerpt:
    """A document, or the beginning of one, as it can be shown."""

    id: str
    source: str
    url: str
    language: str
    text: str


@dataclass(frozen=True)
class Pair:
    """A removed document and its twin, with their texts, and the measures between them."""

    gone: Excerpt
    twin: Excerpt
    known: bool
    rule: str
    estimated: float | None
    coverage: float | None
    containment: float | None
    similarity: float | None


@dataclass(frozen=True)
class KnownDocuments:
    """What the run was compared with: earlier runs, their documents, and those that went because of them."""

    runs: int
    documents: int
    removed: int


@dataclass(frozen=True)
class Cut:
    """What a rule of deduplication cut out of documents that stay: spans of repeated text."""

    rule: str
    documents: int
    spans: int
    bytes: int


@dataclass(frozen=True)
class Example:
    """A document that a rule removed, near the rule's threshold."""

    stage: str
    rule: str
    value: float | None
    threshold: float | None
    detail: str
    document: Excerpt


@dataclass(frozen=True)
class Rejected:
    """Input that could not be read."""

    source: str
    rule: str
    detail: str


@dataclass(frozen=True)
class CorpusFacts:
    """Everything about the corpus. What belongs to a stage that is missing is empty or None."""

    read: dict[str, Amount] = field(default_factory=dict)
    removals: Sequence[Removal] = ()
    tokens: Sequence[Tokens] = ()
    languages: Sequence[Language] = ()
    signals: Sequence[SignalFacts] = ()
    clusters: Sequence[Cluster] = ()
    clusters_in_all: int = 0
    near_measures: dict[str, Sequence[float]] = field(default_factory=dict)
    """Of the near duplicates, or of a sample of them: coverage and similarity; only what was estimated if unverified"""
    known: KnownDocuments | None = None
    cuts: Sequence[Cut] = ()
    pair: Pair | None = None
    examples: Sequence[Example] = ()
    rejected: Sequence[Rejected] = ()
    privacy: Sequence[tuple[str, str, int, int]] = ()  # kind, action, documents, found
    benchmarks: Sequence[tuple[str, str, str, int, int, int, int, int]] = ()
    """name, rule, action, words of an n-gram, items, items checked, items found, documents that held one"""

    def removed(self, *stages: str, source: str | None = None) -> Amount:
        """What some stages dropped and edited away, from one source or from all; an edit takes bytes only."""
        return sum(
            (
                Amount(removal.documents if removal.action == "dropped" else 0, removal.bytes)
                for removal in self.removals
                if removal.action != "rejected"
                and removal.stage in stages
                and (source is None or removal.source == source)
            ),
            Amount(),
        )


@dataclass(frozen=True)
class Curve:
    """A metric over the steps of training."""

    steps: Sequence[int]
    values: Sequence[float]

    @property
    def points(self) -> list[tuple[float, float]]:
        """(step, value) pairs."""
        return [(float(step), value) for step, value in zip(self.steps, self.values, strict=True)]


@dataclass(frozen=True)
class ModelFacts:
    """Training and evaluation, as their files tell it; empty where there is none."""

    curves: dict[str, Curve] = field(default_factory=dict)
    tokens_seen: int | None = None
    result: dict[str, Any] = field(default_factory=dict)
    results: dict[str, Any] = field(default_factory=dict)


@dataclass(frozen=True)
class TaskScore:
    """What a checkpoint of the run reached on a task of a suite: by a metric that models are compared by, or in
    perplexity."""

    task: str
    metric: str
    step: int
    value: float
    standard_error: float | None = None
    baseline: float | None = None
    items: int | None = None
    contamination: str = ""


@dataclass(frozen=True)
class Facts:
    """All that a report is written from."""

    title: str
    recipe: dict[str, Any]
    stages: dict[str, StageFacts]
    corpus: CorpusFacts
    model: ModelFacts
    versions: dict[str, str]
    suites: Sequence[TaskScore] = ()
    """The oldest judging first."""

    def committed(self, name: str) -> Committed | None:
        """The output of a stage, or None where it has not finished."""
        stage = self.stages.get(name)
        return stage.committed if stage else None
