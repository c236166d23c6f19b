"""Configuration of deduplication: what a signature is, and when a document counts as a duplicate."""

from __future__ import annotations

from typing import Any, Final, Literal

from pydantic import Field, model_validator

from pipeline.decisions import check_columns
from pipeline.documents import DOCUMENT_SCHEMA
from pipeline.repeats.lines import LinesConfig
from pipeline.repeats.substrings import SubstringsConfig
from pipeline.stage import StageConfig

SIGNATURE_FIELDS: Final = ("shingle_words", "permutations", "bands", "rows", "seed")
"""What signatures depend on."""

ORDER_FIELDS: Final = ("exact", "urls", "within", "prefer", "priority", "quality")
"""What the order of preference and the exact copies depend on."""

CANDIDATE_FIELDS: Final = ("bands", "within", "representatives")
"""What the candidate pairs depend on, given signatures and order."""

DECISION_FIELDS: Final = ("verify", "coverage", "containment", "jaccard")
"""What the decisions depend on, given the candidate pairs: another threshold costs no signatures and no pairs."""

Criterion = Literal["priority", "quality", "longest", "earliest", "latest"]


class Against(StageConfig):
    """A run whose documents are known: what it kept stays, and new documents are compared with it."""

    recipe: str = Field(min_length=1, description="Name of the recipe; its newest run counts")
    workspace: str | None = Field(default=None, description="Workspace of that run; null: the one of this run")


class DedupConfig(StageConfig):
    """Deduplication: one section of a recipe, of which each of its stages takes its part."""

    shingle_words: int = Field(
        default=5,
        ge=1,
        le=64,
        description="Words in a shingle; a character of an unspaced script is one (FineWeb, arXiv:2406.17557: 5)",
    )
    bands: int = Field(
        default=14, ge=1, le=256, description="LSH bands, each looked up on its own (FineWeb: 14). Not with threshold"
    )
    rows: int = Field(
        default=8,
        ge=1,
        le=64,
        description="MinHash values in a band, all of which must agree (FineWeb: 8). Not with threshold",
    )
    threshold: float | None = Field(
        default=None,
        gt=0,
        lt=1,
        description="Jaccard similarity that bands shall tell apart: bands and rows are then those of datasketch's "
        "optimiser for this many permutations, which minimises the sum of false positives and false negatives",
    )
    permutations: int = Field(
        default=112,
        ge=1,
        le=4096,
        description="MinHash values in a signature. With threshold: how many the optimiser may use; otherwise it is "
        "bands x rows, and need not be given",
    )
    seed: int = Field(default=1, ge=0, lt=2**32, description="Seed of the permutations (datasketch's default: 1)")

    exact: bool = Field(
        default=True,
        description="Find documents with the same words in the same order (case, white space and punctuation aside) "
        "by hash, before MinHash",
    )
    urls: bool = Field(
        default=False,
        description="Of documents with the same canonical URL keep the most preferred, whatever their texts",
    )
    within: str | None = Field(
        default=None,
        description="Compare only documents that agree in this SQL expression over their columns: source, language, "
        "metadata->>'$.dump' and so on. Null: all with all, across sources",
    )
    prefer: list[Criterion] = Field(
        default=["longest"],
        description="Which of several duplicates stays: the first of these criteria that tells them apart. longest: "
        "most shingles; earliest, latest: by date, undated ones last; priority: by source, as listed under priority; "
        "quality: the highest value of the expression quality. What is left is decided by length, earliest date and "
        "smallest id. A document is compared with more preferred ones only: with earliest a later, extended version "
        "stays, too",
    )
    priority: list[str] = Field(
        default=[], description="Sources, the most preferred first, for the criterion priority; others follow them"
    )
    quality: str | None = Field(
        default=None,
        description="SQL expression over a document's columns for the criterion quality, such as "
        "(metadata->>'$.score')::DOUBLE; null counts as the lowest",
    )
    against: Against | None = Field(
        default=None,
        description="An earlier run to compare with, which may itself have been compared with one: its documents are "
        "more preferred than all new ones and never removed again; of its texts only those are read that verification "
        "asks for",
    )
    representatives: int = Field(
        default=8,
        ge=2,
        le=256,
        description="With how many members of its bucket a document is paired: the most preferred one and its nearest "
        "predecessors in order of preference. This keeps the pairs linear in the size of a bucket",
    )
    verify: bool = Field(
        default=True,
        description="Remove a document only when a document that stays contains enough of it; false removes all but "
        "one of each connected component of the candidate pairs, as datatrove and text-dedup do",
    )
    coverage: float = Field(
        default=0.82,
        ge=0,
        le=1,
        description="Least share of the removed document's words that lie in shingles which its kept twin has, too. "
        "Edits at single places cost little of it (a tenth of the words: 18 %), other content costs its whole length; "
        "a text inside a longer one passes, as nothing of it is lost. 0.82 refuses less than one in a hundred of the "
        "edited copies that 14 x 8 bands propose, and keeps pages apart that share four fifths of a template",
    )
    containment: float = Field(
        default=0.5,
        ge=0,
        le=1,
        description="Least share of the removed document's distinct shingles that its kept twin holds; 0 asks for "
        "none. It guards texts in which one phrase, over and over, makes most of the words",
    )
    jaccard: float = Field(
        default=0.0,
        ge=0,
        le=1,
        description="Least Jaccard similarity of the two sets of shingles; 0 asks for none, since coverage alone "
        "bounds what is lost by a removal",
    )
    lines: LinesConfig | None = Field(
        default=None,
        description="Cut lines, paragraphs or sentences that stand in other documents of this run that stay; null: no",
    )
    substrings: SubstringsConfig | None = Field(
        default=None,
        description="Cut or count long spans of words that stand elsewhere in the documents of this run that stay; "
        "null: no",
    )
    memory_limit_mb: int = Field(
        default=512,
        ge=128,
        description="What DuckDB may hold in each worker before it spills to disk; does not affect the result",
    )

    @model_validator(mode="before")
    @classmethod
    def _bands_of_the_threshold(cls, given: Any) -> Any:
        numbers = ("bands", "rows", "permutations")
        if not isinstance(given, dict) or not all(isinstance(given.get(name, 1), int) for name in numbers):
            return given  # which is refused below
        if given.get("threshold") is None:
            permutations = given.get("bands", 14) * given.get("rows", 8)
            if given.get("permutations", permutations) != permutations:
                raise ValueError(
                    f"permutations is {given['permutations']}, but bands x rows is {permutations}; leave it out, or "
                    "give a threshold in place of bands and rows"
                )
            return {**given, "permutations": permutations}
        if not isinstance(given["threshold"], float) or not 0 < given["threshold"] < 1:
            return given
        if given.get("permutations", 1) > 4096:  # over which the optimiser would be busy for hours
            return given
        bands, rows = optimal_bands(given["threshold"], given.get("permutations", 112))
        for name, value in (("bands", bands), ("rows", rows)):
            if given.get(name, value) != value:
                raise ValueError(f"{name} follows from threshold; give one or the other")
        return {**given, "bands": bands, "rows": rows}

    @model_validator(mode="after")
    def _check(self) -> DedupConfig:
        if ("priority" in self.prefer) != bool(self.priority):
            raise ValueError("prefer: the criterion priority and the list of sources under priority need each other")
        if ("quality" in self.prefer) != (self.quality is not None):
            raise ValueError("prefer: the criterion quality and the expression under quality need each other")
        for name in ("prefer", "priority"):
            if len(set(getattr(self, name))) < len(getattr(self, name)):
                raise ValueError(f"{name} holds something twice: {getattr(self, name)}")
        for name in ("within", "quality"):
            if (expression := getattr(self, name)) is not None:
                check_columns(name, expression, DOCUMENT_SCHEMA, "documents")
        if self.verify and not (self.coverage or self.containment or self.jaccard):
            raise ValueError("verify asks for nothing: give coverage, containment or jaccard above 0, or verify: false")
        if self.against is not None and not self.verify:
            raise ValueError("verify: false merges components, which could remove what the run under against has kept")
        return self

    def part(self, fields: tuple[str, ...]) -> dict[str, Any]:
        """Some of the fields, as JSON: what a stage depends on."""
        return self.model_dump(mode="json", include=set(fields))


def optimal_bands(threshold: float, permutations: int) -> tuple[int, int]:
    """Bands and rows of at most so many permutations for a threshold, as datasketch.MinHashLSH chooses them."""
    if permutations < 2:
        raise ValueError(f"permutations is {permutations}; a threshold needs at least 2")
    from datasketch import MinHashLSH

    chosen = MinHashLSH(threshold=threshold, num_perm=permutations)
    return int(chosen.b), int(chosen.r)
