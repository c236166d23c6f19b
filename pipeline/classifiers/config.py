"""What the training of a classifier is told: its documents, the shape of the model, and how it is judged."""

from __future__ import annotations

from typing import Any, Final, Literal, Self

from pydantic import Field, field_validator, model_validator

from pipeline.classifiers.normalisation import Normalisation
from pipeline.sources import IngestConfig, Limits, SourceConfig
from pipeline.stage import StageConfig

Side = Literal["positive", "negative"]
SIDES: Final[tuple[Side, Side]] = ("negative", "positive")


class CommittedDocuments(StageConfig):
    """Documents that a run in the workspace has kept, chosen by their signals."""

    stage: Literal["ingest", "deduplicate", "filter"] = Field(
        default="deduplicate",
        description="Stage whose documents are meant. Default deduplicate: duplicates are gone, and what a filter "
        "would drop can still be chosen, as negatives for example.",
    )
    where: str = Field(
        default="true",
        min_length=1,
        description="Condition in DuckDB's SQL over the columns of the documents and, by their names, of the signals "
        "of annotate: language = 'en' AND words > 200.",
    )


class DocumentsConfig(StageConfig):
    """The documents of one class: from files, from the workspace, or from both."""

    sources: tuple[SourceConfig, ...] = Field(default=(), description="Files, read as the ingest stage reads them.")
    documents: CommittedDocuments | None = Field(
        default=None, description="Documents of the newest run in the workspace, chosen by a condition."
    )

    @model_validator(mode="after")
    def _not_empty(self) -> Self:
        if not self.sources and self.documents is None:
            raise ValueError("there are neither sources nor documents to take this class from")
        if self.sources:
            IngestConfig(sources=self.sources)  # the names must differ
        return self


class FastTextConfig(StageConfig):
    """The hyper-parameters of fastText's supervised training. They change what is learnt; none is only for speed."""

    word_ngrams: int = Field(
        default=2,
        ge=1,
        le=5,
        description="Longest run of words that is a feature. Default 2: bigrams, as in DCLM's classifier (Li et al. "
        "2024, section 4.4) and in Joulin et al. 2016; fastText's own default is 1.",
    )
    dimension: int = Field(default=100, ge=1, le=1000, description="Width of the vectors. Default 100: fastText's.")
    learning_rate: float = Field(
        default=0.1, gt=0, le=10, description="Default 0.1: fastText's for supervised training."
    )
    epochs: int = Field(default=5, ge=1, le=1000, description="Passes over the documents. Default 5: fastText's.")
    minimum_count: int = Field(
        default=1,
        ge=1,
        description="Words that are rarer are no features. Default 1: fastText's for supervised training.",
    )
    minimum_characters: int = Field(
        default=0, ge=0, description="Shortest run of characters that is a feature; 0, fastText's default: none are."
    )
    maximum_characters: int = Field(default=0, ge=0, le=10, description="Longest run of characters that is a feature.")
    buckets: int = Field(
        default=2_000_000,
        ge=1,
        le=1 << 30,
        description="Rows that word and character n-grams are hashed into. Default 2,000,000: fastText's. The model "
        "takes (words + buckets) x dimension x 4 bytes: 0.8 GB by default.",
    )
    loss: Literal["softmax", "ova", "hs"] = Field(
        default="softmax",
        description="Default softmax: fastText's. ova: one binary loss a label; hs: a tree of labels.",
    )
    seed: int = Field(
        default=0, ge=0, le=(1 << 31) - 1, description="Seed of the first weights. Default 0: fastText's."
    )

    @model_validator(mode="after")
    def _runs_of_characters(self) -> Self:
        if (self.minimum_characters == 0) != (self.maximum_characters == 0):
            raise ValueError("minimum_characters and maximum_characters go together: both 0, or both above")
        if self.minimum_characters > self.maximum_characters:
            raise ValueError(
                f"minimum_characters ({self.minimum_characters}) is above maximum_characters "
                f"({self.maximum_characters}): there would be no such feature"
            )
        return self

    def arguments(self) -> dict[str, Any]:
        """The arguments of fastText's `train_supervised`."""
        return {
            "wordNgrams": self.word_ngrams,
            "dim": self.dimension,
            "lr": self.learning_rate,
            "epoch": self.epochs,
            "minCount": self.minimum_count,
            "minn": self.minimum_characters,
            "maxn": self.maximum_characters,
            "bucket": self.buckets,
            "loss": self.loss,
            "seed": self.seed,
        }


class QuantisationConfig(StageConfig):
    """Product quantisation of the model, .bin to .ftz. Source: Joulin et al. 2016, "FastText.zip"."""

    features: int = Field(
        default=100_000,
        ge=256,
        description="Words and n-grams that stay, those of the largest norm. Default 100,000, as in fastText's script "
        "for the models of the paper; the product quantiser itself needs 256.",
    )
    retrain: bool = Field(default=True, description="Train again with what stays. Default true, as in that script.")
    separate_norms: bool = Field(default=True, description="Quantise the norms apart. Default true, as in that script.")

    def arguments(self) -> dict[str, Any]:
        """The arguments of fastText's `quantize`."""
        return {"cutoff": self.features, "retrain": self.retrain, "qnorm": self.separate_norms}


class ClassifierConfig(StageConfig):
    """A fastText classifier: its documents, what it reads of each, the model, and how it is judged."""

    name: str = Field(
        pattern=r"^[a-z][a-z0-9_]*$",
        description="Name of the classifier, of its file and of its column: lower-case letters, digits, underscores.",
    )
    positive_label: str = Field(default="positive", description="Label of positive documents in the model.")
    negative_label: str = Field(default="negative", description="Label of negative documents in the model.")
    positive: DocumentsConfig = Field(description="Documents of the kind that the score is high for.")
    negative: DocumentsConfig = Field(description="Documents of the kind that the score is low for.")
    limit_bytes: int | None = Field(
        default=None,
        ge=64,
        description="UTF-8 bytes at the start of a document that are read, in training and in application; null reads "
        "all, as fastText does.",
    )
    separate_unspaced: bool = Field(
        default=False,
        description="Write a space between the letters of scripts that are written without spaces (Chinese, Japanese, "
        "Thai and so on), so that each is a word. fastText knows no other words than those between spaces. "
        "Recorded beside the model: applying does the same.",
    )
    unit_bytes: int = Field(default=32 << 20, ge=1, description="Input bytes, as stored, of one work unit of reading.")
    limits: Limits = Field(default=Limits(), description="Bounds for hostile or broken input.")
    held_out: float = Field(
        default=0.1,
        gt=0,
        lt=1,
        description="Share of the documents that judge the model and do not train it, chosen by a hash of the text: "
        "always the same, and equal texts never stand on both sides. Default a tenth, as is usual.",
    )
    minimum_documents: int = Field(
        default=100, ge=2, description="Least documents of each class; with fewer the training is refused."
    )
    maximum_documents: int | None = Field(
        default=None,
        ge=2,
        description="Most documents of each class, held-out ones among them, chosen by hash; null takes all. DCLM "
        "trains with about 200,000 of each (Li et al. 2024, section 4.4).",
    )
    balance: Literal["none", "downsample"] = Field(
        default="downsample",
        description="downsample: take as many documents of the larger class as the smaller one has, chosen by hash, as "
        "DCLM does; none: take all. A score of 0.5 then lies at the classes' own ratio.",
    )
    fasttext: FastTextConfig = Field(default=FastTextConfig(), description="Hyper-parameters.")
    quantised: QuantisationConfig | None = Field(
        default=None, description="Write a small .ftz instead of the .bin; null does not."
    )
    thresholds: tuple[float, ...] = Field(
        default=(0.05, 0.1, 0.2, 0.3, 0.4, 0.5, 0.6, 0.7, 0.8, 0.9, 0.95, 0.99),
        min_length=1,
        description="Scores for the table of precision and recall.",
    )

    @field_validator("positive_label", "negative_label")
    @classmethod
    def _one_word(cls, value: str) -> str:
        if not value or not value.isprintable() or any(char.isspace() for char in value):
            raise ValueError(f"a label is one word without white space, {value!r} is not")
        return value

    @field_validator("thresholds")
    @classmethod
    def _probabilities(cls, value: tuple[float, ...]) -> tuple[float, ...]:
        if any(not 0 <= threshold <= 1 for threshold in value) or list(value) != sorted(set(value)):
            raise ValueError("thresholds are probabilities from 0 to 1, ascending, each once")
        return value

    @model_validator(mode="after")
    def _fits(self) -> Self:
        if self.positive_label == self.negative_label:
            raise ValueError(f"positive_label and negative_label are both {self.positive_label!r}; they must differ")
        if self.maximum_documents is not None and self.maximum_documents < self.minimum_documents:
            raise ValueError(
                f"maximum_documents ({self.maximum_documents}) is below minimum_documents ({self.minimum_documents})"
            )
        return self

    @property
    def normalisation(self) -> Normalisation:
        """How a document becomes the line that the classifier reads."""
        return Normalisation(self.limit_bytes, self.separate_unspaced)

    def ingest(self, side: Side) -> IngestConfig | None:
        """The configuration of the ingest stage that reads the files of one class, or None where it has none."""
        sources = self.side(side).sources
        return IngestConfig(sources=sources, unit_bytes=self.unit_bytes, limits=self.limits) if sources else None

    def side(self, side: Side) -> DocumentsConfig:
        """The documents of one class."""
        return self.positive if side == "positive" else self.negative

    @property
    def labels(self) -> tuple[str, str]:
        """The labels of negative and positive documents."""
        return self.negative_label, self.positive_label
