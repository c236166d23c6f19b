"""The order of preference of all new documents, and which of them are copies by their words or their URL."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from pipeline.decisions import columns_of, evaluate
from pipeline.dedup.buckets import buckets, mark_copies
from pipeline.dedup.config import DedupConfig
from pipeline.dedup.index import Column, Index, SignatureTable, blocks, scratch_column
from pipeline.dedup.urls import url_digests
from pipeline.sql import quoted

NO_COPY, EXACT_COPY, URL_COPY = np.uint8(0), np.uint8(1), np.uint8(2)

_CRITERIA = {
    "longest": "shingles DESC",
    "earliest": "date ASC NULLS LAST",
    "latest": "date DESC NULLS LAST",
    "quality": "nullif(quality, 'NaN') DESC NULLS LAST",  # DuckDB puts NaN above all numbers
}
_LAST = ["shingles DESC", "date ASC NULLS LAST", "id", "position"]


class Order:
    """What the stage `order` finds out of the documents of a run.

    `rank` and `scope` are by position, `position`, `first` and `copy` by rank, all of the new documents alone, from
    the first of them on. Each lies in a file of its name in the scratch folder, so that memory does not bound them.
    """

    def __init__(self, index: Index, config: DedupConfig, scratch: Path, threads: int) -> None:
        """Order the documents. Temporary files go to `scratch`."""
        size, start = index.new.size, index.new.start
        self.position = scratch_column(scratch / "position", size, np.uint32)
        self.rank = scratch_column(scratch / "rank", size, np.uint32)
        self.first = scratch_column(scratch / "first", size, np.uint32)
        self.copy = scratch_column(scratch / "copy", size, np.uint8)
        self.scope: NDArray[np.uint64] | None = None
        if config.within is not None:
            self.scope = scratch_column(scratch / "scope", size, np.uint64)
            _fill_scopes(index, config.within, self.scope)
        for block in blocks(start, index.new.end):
            self.first[block - np.uint32(start)] = block
        if not size:
            return
        with SignatureTable(index, scratch, config.memory_limit_mb, threads) as signatures:
            self._rank(signatures, config)
            ranks = Column.of(index.known, "order", "rank", np.uint32, scratch).extended(start, self.rank)
            copies = Column.of(index.known, "order", "copy", np.uint8, scratch).extended(start, self.copy)
            scopes = None
            if self.scope is not None:
                scopes = Column.of(index.known, "order", "scope", np.uint64, scratch).extended(start, self.scope)
            if config.urls:
                _add_urls(signatures)
                for bounds, members in buckets(signatures, "url", ranks, scopes, ("urls", "fresh_urls")):
                    nobody = np.zeros(len(members), np.bool_)
                    mark_copies(bounds, members, nobody, start, URL_COPY, self.first, self.copy)
            if config.exact:
                for bounds, members in buckets(signatures, "digest", ranks, scopes):
                    left_out = copies[members] == URL_COPY
                    mark_copies(bounds, members, left_out, start, EXACT_COPY, self.first, self.copy)
            if config.urls:
                self._settle_urls(signatures, config.exact, scratch)

    def _settle_urls(self, signatures: SignatureTable, exact: bool, scratch: Path) -> None:
        """Follow copies by URL to what their document is a copy of; those with the same words are exact copies."""
        index, start = signatures.index, signatures.index.new.start
        firsts = Column.of(index.known, "order", "first", np.uint32, scratch).extended(start, self.first)
        positions = Column.of(index.known, "order", "position", np.uint32, scratch).extended(start, self.position)
        signatures.run("CREATE TABLE url_copies (rank UINTEGER, position UINTEGER, stays UINTEGER)")
        for block in blocks(start, index.new.end):
            own = block - np.uint32(start)
            own = own[self.copy[own] == URL_COPY]
            self.first[own] = firsts[self.first[own]]
            columns = [own, self.position[own], positions[self.first[own]]]
            signatures.insert("url_copies", pa.table(columns, ["rank", "position", "stays"]))
        if exact:
            for rows in signatures.stream(
                "SELECT rank FROM url_copies JOIN fresh AS gone USING (position) "
                "JOIN signatures AS kept ON kept.position = stays WHERE gone.digest = kept.digest"
            ):
                self.copy[rows["rank"].to_numpy()] = EXACT_COPY

    def _rank(self, signatures: SignatureTable, config: DedupConfig) -> None:
        source = "fresh"
        if config.quality is not None:
            signatures.run("CREATE TABLE qualities (position BIGINT, quality DOUBLE)")
            for positions, values in _evaluated(signatures.index, "quality", config.quality):
                signatures.insert("qualities", pa.table([positions, values.cast(pa.float64())], ["position", "value"]))
            source = "fresh JOIN qualities USING (position)"
        places = ", ".join(f"({quoted(name)}, {place})" for place, name in enumerate(config.priority))
        if places:
            source += f" LEFT JOIN (VALUES {places}) AS priorities(source, priority) USING (source)"
        criteria = [_CRITERIA.get(name, "priority ASC NULLS LAST") for name in config.prefer]
        start = signatures.index.new.start
        filled = 0
        for table in signatures.stream(f"SELECT position FROM {source} ORDER BY {', '.join([*criteria, *_LAST])}"):
            self.position[filled : filled + len(table)] = table["position"].to_numpy()
            filled += len(table)
        assert filled == len(self.position)
        self.rank[self.position - np.uint32(start)] = np.arange(start, start + filled, dtype=np.uint32)


def _fill_scopes(index: Index, within: str, scopes: NDArray[np.uint64]) -> None:
    """Hash the value of `within` of each new document, by position from the first of them on."""
    hashed = f"md5_number_lower(coalesce(CAST(({within}\n) AS VARCHAR), ''))"
    for positions, values in _evaluated(index, "within", hashed):
        scopes[positions - index.new.start] = values.to_numpy()


def _evaluated(index: Index, name: str, expression: str) -> Iterator[tuple[NDArray[np.int64], pa.ChunkedArray]]:
    """The values of an expression over the new documents, with their positions."""
    columns = columns_of(name, expression) or ["id"]
    position = index.new.start
    for file in index.new.documents:
        with file.parquet() as parquet:
            for group in range(parquet.num_row_groups):
                documents = parquet.read_row_group(group, columns, use_threads=False)
                yield np.arange(position, position + len(documents)), evaluate(name, expression, documents)
                position += len(documents)


def _add_urls(signatures: SignatureTable) -> None:
    """Add a table `urls` of the digests of canonical URLs, for documents that have one, and its new part."""
    signatures.run("CREATE TABLE urls (position BIGINT, url BLOB)")
    position = 0
    for file in signatures.index.documents():
        with file.parquet() as parquet:
            for group in range(parquet.num_row_groups):
                digests, valid = url_digests(parquet.read_row_group(group, ["url"], use_threads=False)["url"])
                values = pa.FixedSizeBinaryArray.from_buffers(
                    pa.binary(16), len(digests), [None, pa.py_buffer(np.ascontiguousarray(digests))]
                )
                rows = pa.table([np.arange(position, position + len(digests)), values], ["position", "url"])
                signatures.insert("urls", rows.filter(pa.array(valid)))
                position += len(digests)
    start = signatures.index.new.start
    signatures.run(f"CREATE VIEW fresh_urls AS SELECT * FROM urls WHERE position >= {start}")
