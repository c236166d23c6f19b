"""Configuration of deduplication: what a signature is, and when a document counts as a duplicate."""

from __future__ import annotations

from typing import Any, Literal

from pydantic import Field, model_validator

from pipeline.stage import StageConfig

SIGNATURE_FIELDS = ("shingle_words", "bands", "rows", "seed")
"""What signatures depend on; the other fields only decide over them, so that another threshold costs no signatures."""

EXECUTION_FIELDS = ("memory_limit_mb",)
"""What changes nothing in the output."""


class DedupConfig(StageConfig):
    """Deduplication: one section of a recipe, of which each of the three stages takes its part."""

    shingle_words: int = Field(
        5,
        ge=1,
        le=64,
        description="Words in a shingle; a character of an unspaced script is one (FineWeb, arXiv:2406.17557: 5)",
    )
    bands: int = Field(14, ge=1, le=256, description="LSH bands, each looked up on its own (FineWeb: 14)")
    rows: int = Field(8, ge=1, le=64, description="MinHash values in a band, all of which must agree (FineWeb: 8)")
    seed: int = Field(1, ge=0, lt=2**32, description="Seed of the permutations (datasketch's default: 1)")

    exact: bool = Field(
        True,
        description="Find documents with the same words in the same order (case, white space and punctuation aside) "
        "by hash, before MinHash",
    )
    verify: bool = Field(
        True,
        description="Remove a document only when a document that stays contains enough of its shingles; false removes "
        "all but one of each connected component of the candidate pairs, as datatrove and text-dedup do",
    )
    containment: float = Field(
        0.8,
        gt=0,
        le=1,
        description="Least share of the removed document's distinct shingles that its kept twin must hold. Of two "
        "texts of one length 0.8 is a Jaccard similarity of 0.67, just below where 14 x 8 bands propose half of the "
        "pairs (0.69); a shorter text inside a longer one passes too, as nothing of it is lost",
    )
    jaccard: float = Field(
        0.0,
        ge=0,
        le=1,
        description="Least Jaccard similarity of the shingle sets, on top of containment; 0 asks for none, since "
        "containment alone bounds what is lost by a removal",
    )
    prefer: Literal["longest", "earliest"] = Field(
        "longest",
        description="Which of several duplicates stays: the longest (most shingles; then the earliest date), or the "
        "one of the earliest date (undated ones last; then the longest). Remaining ties go to the smallest id. A "
        "document is compared with more preferred ones only: with `earliest` a later, extended version stays, too",
    )
    representatives: int = Field(
        8,
        ge=2,
        le=256,
        description="With how many members of its bucket a document is paired: the most preferred one and its nearest "
        "predecessors in order of preference. This keeps the pairs linear in the size of a bucket",
    )
    memory_limit_mb: int = Field(
        1024, ge=128, description="What DuckDB may hold before it spills to disk; does not affect the result"
    )

    @model_validator(mode="after")
    def _bounded(self) -> DedupConfig:
        if self.permutations > 4096:
            raise ValueError(f"bands x rows = {self.permutations} permutations; at most 4096 are allowed")
        return self

    @property
    def permutations(self) -> int:
        """MinHash values in a signature."""
        return self.bands * self.rows

    def signature_identity(self) -> dict[str, Any]:
        """Return what the signatures depend on, as JSON."""
        return self.model_dump(mode="json", include=set(SIGNATURE_FIELDS))

    def decision_identity(self) -> dict[str, Any]:
        """Return what the decisions over given signatures depend on, as JSON."""
        return self.model_dump(mode="json", exclude={*SIGNATURE_FIELDS, *EXECUTION_FIELDS})
