"""What the annotating stages are made of: an annotator measures a batch of documents and gives columns of signals."""

from abc import ABC, abstractmethod
from dataclasses import dataclass
from functools import cached_property
from typing import Any, Self

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from numpy.typing import NDArray

from pipeline.text.scan import word_hashes


@dataclass(frozen=True)
class Signal:
    """A column of the signals."""

    name: str
    type: pa.DataType
    description: str


@dataclass(frozen=True)
class Batch:
    """Documents to measure. What several annotators need is computed once."""

    texts: pa.LargeStringArray  # no nulls
    urls: pa.StringArray  # null where the document has none
    languages: NDArray[np.object_]  # (documents,) str: the code that the language model gives; None: not known

    @classmethod
    def of(cls, rows: pa.RecordBatch | pa.Table, languages: NDArray[np.object_] | None = None) -> Self:
        """The batch of rows of documents with the columns text and url; a null text is an empty one."""
        if languages is None:
            languages = np.full(rows.num_rows, None, np.object_)
        texts, urls = (_one_array(rows[name]) for name in ("text", "url"))
        return cls(texts.fill_null("") if texts.null_count else texts, urls, languages)  # type: ignore[arg-type]

    @property
    def text_bytes(self) -> int:
        """UTF-8 bytes of all texts."""
        return int(pc.sum(pc.binary_length(self.texts)).as_py() or 0)

    @cached_property
    def words(self) -> tuple[NDArray[np.int64], NDArray[np.uint64]]:
        """Offsets (documents + 1,) and hashes (words,) of the words, as `pipeline.text.scan.word_hashes` gives them."""
        return word_hashes(self.texts)


class Annotator(ABC):
    """Measures documents. Cheap to construct and to pickle: models and lists are loaded on first use, once a process.

    The same batch gives the same values on every run, whatever the batches are cut into.
    """

    @abstractmethod
    def signals(self) -> list[Signal]:
        """The columns that it adds, in their order."""

    @abstractmethod
    def identity(self) -> dict[str, Any]:
        """What its values follow from as JSON: settings, digests of model files in place of their paths, versions.

        Raises ValueError where a file is missing or of the wrong kind.
        """

    @abstractmethod
    def measure(self, batch: Batch) -> dict[str, pa.Array]:
        """One array of (documents,) for each signal, by its name."""


def _one_array(column: pa.Array | pa.ChunkedArray) -> pa.Array:
    return column.combine_chunks() if isinstance(column, pa.ChunkedArray) else column  # type: ignore[return-value]
