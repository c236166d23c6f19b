"""The settings of decontamination: benchmarks, the rule that says what a match is, and what follows from one."""

from __future__ import annotations

from collections import Counter
from typing import Any, Literal, Self

from pydantic import Field, model_validator

from pipeline.decontamination.benchmarks import BenchmarkConfig
from pipeline.stage import StageConfig

Rule = Literal["gpt3", "strict"]
Action = Literal["drop", "cut", "annotate"]

_GPT3 = "Brown et al. 2020 (arXiv:2005.14165), appendix C"
_TULU3 = "Lambert et al. 2024 (Tülu 3, arXiv:2411.15124), section 3.2"
_PALM = "Chowdhery et al. 2022 (PaLM, arXiv:2204.02311), section 8"


class GPT3(StageConfig):
    """GPT-3's rule: any n-gram of a text matches, n following from the lengths of the benchmark's texts."""

    length_percentile: float = Field(
        default=5.0,
        ge=0,
        le=100,
        description="n is this percentile (nearest rank) of the lengths in words of a benchmark's texts, within the "
        f"two bounds below. 5: {_GPT3}. Its first filter took 13 always: set both bounds so",
    )
    minimum_words: int = Field(default=8, ge=3, le=32, description=f"Lower bound of n. 8: {_GPT3}")
    maximum_words: int = Field(default=13, ge=3, le=32, description=f"Upper bound of n. 13: {_GPT3}")
    minimum_item_words: int = Field(
        default=8,
        ge=3,
        le=32,
        description="A text shorter than n is matched as a whole where it has so many words, else not at all, and "
        f"counted as unchecked. 8: the least n of {_GPT3}, which has no n-gram of such a text",
    )
    maximum_documents: int | None = Field(
        default=None,
        ge=1,
        description="n-grams in more documents than this are ignored: phrases of the culture, legal text. 10 in "
        f"{_GPT3}. It takes the counts of the stage `overlaps` as an input; null: no n-gram is ignored",
    )

    @model_validator(mode="after")
    def _check(self) -> Self:
        if self.minimum_words > self.maximum_words:
            raise ValueError(f"minimum_words {self.minimum_words} is above maximum_words {self.maximum_words}")
        return self


class Strict(StageConfig):
    """The stricter rule: 8-grams everywhere, or the share of a text that a document covers with them."""

    words: int = Field(default=8, ge=3, le=32, description=f"n. 8: {_PALM}, and {_TULU3}")
    minimum_item_words: int = Field(
        default=5,
        ge=3,
        le=32,
        description="A text shorter than n is matched as a whole where it has so many words, else counted as "
        "unchecked. 5: shorter ones are everyday phrases (our choice)",
    )
    minimum_coverage: float = Field(
        default=0.0,
        ge=0,
        le=1,
        description="A text matches where at least this share of its words lies in n-grams that the document has. 0: "
        f"any n-gram matches. 0.5: {_TULU3}; 0.7: {_PALM}, there as a share of the n-grams",
    )


class Cut(StageConfig):
    """How matches are cut out of a document (action `cut`)."""

    window_characters: int = Field(
        default=200, ge=0, description=f"Characters removed on both sides of a match. 200: {_GPT3}"
    )
    minimum_piece_characters: int = Field(
        default=200, ge=0, description=f"Shorter pieces between what is removed go too. 200: {_GPT3}"
    )
    maximum_pieces: int = Field(
        default=10,
        ge=1,
        description=f"A document that falls into more pieces, short ones included, is dropped. 10: {_GPT3}",
    )


class DecontaminateConfig(StageConfig):
    """Which evaluation sets a corpus is cleaned of, and how."""

    benchmarks: list[BenchmarkConfig] = Field(min_length=1, description="The evaluation sets")
    rule: Rule = Field(default="gpt3", description="What a match is")
    action: Action = Field(
        default="cut",
        description="What becomes of a document with a match. drop: it goes; cut: the match goes with a window around "
        "it; annotate: it stays whole, and the matches are written down",
    )
    gpt3: GPT3 = Field(default=GPT3(), description="Thresholds of the rule gpt3")
    strict: Strict = Field(default=Strict(), description="Thresholds of the rule strict")
    cut: Cut = Field(default=Cut(), description="Thresholds of the action cut")
    unspaced_characters_per_word: float = Field(
        default=1.6,
        ge=1,
        le=2,
        description="Letters of a script without spaces that count as one word: 8 words are 13 Chinese characters, 13 "
        "words 21. Default 1.6, as in the Gopher rules here",
    )
    maximum_items: int | None = Field(
        default=None,
        ge=1,
        description="n-grams in more items of one benchmark than this are taken for the frame of its questions and "
        "left out. Null, as published: all n-grams count",
    )

    @model_validator(mode="after")
    def _check(self) -> Self:
        twice = [name for name, count in Counter(entry.name for entry in self.benchmarks).items() if count > 1]
        if twice:
            raise ValueError(f"benchmarks: {', '.join(twice)} stand there more than once; give each its own name")
        return self

    @property
    def minimum_coverage(self) -> float:
        """Share of a text's words that makes a match; 0: any n-gram does."""
        return self.strict.minimum_coverage if self.rule == "strict" else 0.0

    @property
    def maximum_documents(self) -> int | None:
        """Documents that an n-gram may be in before it is ignored."""
        return self.gpt3.maximum_documents if self.rule == "gpt3" else None

    def index_identity(self) -> dict[str, Any]:
        """What the index follows from, as JSON, with the digests of the files. Raises ValueError as `items` does."""
        rule = {"gpt3": self.gpt3.model_dump(exclude={"maximum_documents"}), "strict": self.strict.model_dump()}
        return {
            "benchmarks": [benchmark.identity() for benchmark in self.benchmarks],
            "rule": self.rule,
            self.rule: {name: value for name, value in rule[self.rule].items() if name != "minimum_coverage"},
            "unspaced_characters_per_word": self.unspaced_characters_per_word,
            "maximum_items": self.maximum_items,
        }

    def decision_identity(self) -> dict[str, Any]:
        """What the decisions follow from beside the index, as JSON: settings that are not in use are left out."""
        identity: dict[str, Any] = {"action": self.action, "minimum_coverage": self.minimum_coverage}
        if self.maximum_documents is not None:
            identity["maximum_documents"] = self.maximum_documents
        if self.action == "cut":
            identity["cut"] = self.cut.model_dump()
        return identity
