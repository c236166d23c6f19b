"""The documents that stay after document-level deduplication, as the finders of repeated text read them."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import fsspec
import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from numpy.typing import NDArray

from pipeline.dedup.index import Column, Index
from pipeline.store import File


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
    """Of all shards, those that went included: ranks are below it."""

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


class KeptInShards(KeptDocuments):
    """The new documents of an index that no stage `duplicates` removed, read from the shards of `ingest`."""

    def __init__(self, index: Index, duplicates: File, scratch: Path) -> None:
        """`duplicates` is the file of the documents that went; `scratch` is for copies of remote files."""
        self.shards = len(index.new.documents)
        self.documents = index.new.size
        self._files = index.new.documents
        self._duplicates = duplicates
        self._ranks = Column.of([index.new], "order", "rank", np.uint32, scratch)
        self._start = np.uint32(index.new.start)
        self._starts = np.cumsum([index.new.start, *(file.rows for file in self._files)])

    def read(self, shard: int) -> Iterator[KeptBatch]:
        """Yield the documents of a shard that stay, one row group at a time."""
        gone = rows_of_shard(self._duplicates, shard, ["row"])["row"].to_numpy()
        with self._files[shard].parquet() as parquet:
            first = 0
            for group in range(parquet.num_row_groups):
                texts = parquet.read_row_group(group, ["text"], use_threads=False)["text"]
                keep = np.ones(len(texts), np.bool_)
                start, stop = np.searchsorted(gone, [first, first + len(texts)])
                keep[gone[start:stop] - first] = False
                rows = first + np.flatnonzero(keep)
                first += len(texts)
                if len(rows):
                    kept = pa.concat_arrays(texts.filter(pa.array(keep)).chunks)
                    # Documents of earlier runs are no matter here, so that ranks count the new ones alone.
                    yield KeptBatch(shard, rows, self._ranks[self._starts[shard] + rows] - self._start, kept)


def rows_of_shard(file: File, shard: int, columns: list[str] | None = None) -> pa.Table:
    """The rows over one shard of a file with a column `shard`, in order; other row groups are skipped."""
    filesystem, path = fsspec.core.url_to_fs(file.path)
    table = pq.read_table(path, filesystem=filesystem, columns=columns, filters=[("shard", "==", shard)])
    return table.combine_chunks()
