"""The documents that stay after document-level deduplication, as the finders of repeated text read them."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray


@dataclass(frozen=True)
class KeptBatch:
    """Some documents of one shard, in order."""

    shard: int
    rows: NDArray[np.int64]  # (documents,): where they lie in the shard, ascending
    ranks: NDArray[np.uint32]  # (documents,): place in the order of preference, 0 the most preferred
    texts: pa.LargeStringArray


class KeptDocuments(ABC):
    """All documents that stay. `read` may be called from several threads."""

    shards: int
    documents: int
    """Of all shards, those that went included: every rank is below it."""

    @abstractmethod
    def read(self, shard: int) -> Iterator[KeptBatch]:
        """Yield the documents of a shard, batch by batch."""


class KeptInMemory(KeptDocuments):
    """Batches that are there already."""

    def __init__(self, batches: Sequence[KeptBatch]) -> None:
        self.batches = batches
        self.shards = 1 + max((batch.shard for batch in batches), default=-1)
        self.documents = 1 + max((int(batch.ranks.max(initial=0)) for batch in batches), default=-1)

    def read(self, shard: int) -> Iterator[KeptBatch]:
        """Yield the batches of a shard."""
        return (batch for batch in self.batches if batch.shard == shard)
