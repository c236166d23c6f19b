"""Any supervised fastText model as signals: DCLM's quality classifier, one trained by `headrace classifier`."""

import re
from functools import cached_property
from pathlib import Path
from typing import Any, Final

import numpy as np
import pyarrow as pa
from pydantic import Field

from pipeline.annotators import Annotator, Batch, Signal
from pipeline.classifiers.normalisation import Normalisation
from pipeline.fasttext_model import FastTextModel, load_model, model_sha256
from pipeline.stage import StageConfig

# Increase when the same text, model and settings give another value.
LINEAR_VERSION: Final = 1
MOST_LABELS: Final = 64

_NOT_IN_A_NAME: Final = re.compile(r"[^a-z0-9]+")


class FastTextClassifierConfig(StageConfig):
    """A fastText model and how it is applied."""

    name: str = Field(
        pattern=r"^[a-z][a-z0-9_]*$", description="Beginning of its columns: lower-case letters, digits, underscores."
    )
    path: str = Field(
        description=".bin or .ftz file of a supervised model. Its digest is part of the identity, its place is not."
    )
    labels: list[str] | None = Field(
        default=None,
        min_length=1,
        description="Labels (without __label__) that become columns; null: all of them, up to 64.",
    )
    limit_bytes: int | None = Field(
        default=None,
        ge=1,
        description="UTF-8 bytes at the start of a document that are read; null: all. A model that Headrace trained "
        "knows itself how it was trained (the .json file beside it), and refuses another setting.",
    )
    separate_unspaced: bool = Field(
        default=False,
        description="Put a space between letters of scripts without spaces, as the model was trained. As limit_bytes.",
    )


class FastTextClassifier(Annotator):
    """A fastText model's probabilities: `<name>_<label>_score` for each label, null for a text of white space."""

    def __init__(self, config: FastTextClassifierConfig) -> None:
        self.config = config

    @property
    def _path(self) -> Path:
        return Path(self.config.path).expanduser()

    @cached_property
    def _normalisation(self) -> Normalisation:
        given = Normalisation(self.config.limit_bytes, self.config.separate_unspaced)
        own = Normalisation.beside(self._path)
        if own is None:
            return given
        if given not in (Normalisation(), own):
            raise ValueError(
                f"the classifier {self.config.name!r} was trained with limit_bytes {own.limit_bytes} and "
                f"separate_unspaced {own.separate_unspaced} ({self._path}.json); leave both out"
            )
        return own

    def _labels(self, model: FastTextModel) -> list[str]:
        if self.config.labels is None:
            if len(model.labels) > MOST_LABELS:
                raise ValueError(
                    f"the classifier {self.config.name!r} has {len(model.labels)} labels; name up to {MOST_LABELS} of "
                    f"them as `labels`, such as {model.labels[0]!r}"
                )
            return sorted(model.labels)
        for label in self.config.labels:
            if label not in model.labels:
                raise ValueError(
                    f"the classifier {self.config.name!r} has no label {label!r}; it has {', '.join(model.labels[:20])}"
                )
        return self.config.labels

    def signals(self) -> list[Signal]:
        """One column a label, float64."""
        return [
            Signal(
                self._column(label),
                pa.float64(),
                f"probability of {label!r} that the classifier {self._path.name} gives",
            )
            for label in self._labels(load_model(self._path))
        ]

    def _column(self, label: str) -> str:
        return f"{self.config.name}_{_NOT_IN_A_NAME.sub('_', label.lower()).strip('_')}_score"

    def identity(self) -> dict[str, Any]:
        """The model's digest, the labels and how the text is read. Raises ValueError for a wrong or missing model."""
        return {
            "version": LINEAR_VERSION,
            "name": self.config.name,
            "model_sha256": model_sha256(self._path),
            "labels": self._labels(load_model(self._path)),
            "normalisation": self._normalisation.identity(),
        }

    def measure(self, batch: Batch) -> dict[str, pa.Array]:
        """The probabilities of a batch."""
        model = load_model(self._path)
        normalisation = self._normalisation
        # fastText's own reading of a line is that of the normalisation, unless something is cut off or taken apart.
        texts = batch.texts if normalisation == Normalisation() else normalisation.apply(batch.texts)
        found = np.clip(model.probabilities(texts), 0.0, 1.0)
        return {
            self._column(label): pa.array(found[:, model.labels.index(label)], pa.float64(), from_pandas=True)
            for label in self._labels(model)
        }
