"""Decisions: which documents are duplicates, of which twin, by which rule, on which measurements."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import numba
import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from pipeline.dedup.components import component_twins
from pipeline.dedup.config import DedupConfig
from pipeline.dedup.evidence import gather_evidence
from pipeline.dedup.index import BATCH_ROWS, Column, Index, SignatureTable, blocks, scratch_column
from pipeline.dedup.order import EXACT_COPY, NO_COPY, URL_COPY
from pipeline.dedup.verification import NONE, Thresholds, Verified, estimated_similarity, verified_twins
from pipeline.sql import quoted
from pipeline.store import File

EXACT, MINHASH, URL = "exact", "minhash", "url"
_RULES = pa.array([MINHASH, EXACT, URL])  # by NO_COPY, EXACT_COPY and URL_COPY

MEASURES = ("estimated", "coverage", "containment", "similarity")

DUPLICATES_SCHEMA = pa.schema(
    [
        pa.field("id", pa.string(), nullable=False),
        pa.field("source", pa.string(), nullable=False),
        pa.field("rule", pa.string(), nullable=False),
        pa.field("twin", pa.string(), nullable=False),
        *(pa.field(name, pa.float64()) for name in MEASURES),
        pa.field("shard", pa.int32(), nullable=False),
        pa.field("row", pa.int64(), nullable=False),
        pa.field("twin_ingest", pa.string(), nullable=False),
        pa.field("twin_shard", pa.int32(), nullable=False),
        pa.field("twin_row", pa.int64(), nullable=False),
    ]
)
"""One row for each document to remove, in document order. `rule` is `exact` (the same words), `url` (the same canonical
URL) or `minhash`; `twin` is the id of a document that stays, and so names the cluster. `estimated` is the agreement of
the signatures, `coverage` the share of the removed document's words in shingles that the twin has, `containment` the
share of its distinct shingles that the twin has, `similarity` the Jaccard similarity of the two sets; these three are
null without verification, and all are null for the rule `url`. `shard` and `row` are where the document lies in the
input; the twin may be in that of an earlier run, the `ingest` stage with the fingerprint `twin_ingest`. An exact copy
of a document that is itself removed has that one's twin, rule and figures."""

_32 = np.uint64(32)
_LOW = np.uint64(0xFFFFFFFF)


class Decisions:
    """What becomes of the new documents of an index.

    `kept` (documents,) is the rank of the document that stays for each new one, its own where it stays, by rank from
    the first new one on. It lies in a file of that name in the scratch folder. `compared` counts the documents in
    candidate pairs, known ones included.
    """

    def __init__(
        self, index: Index, candidates: Sequence[File], config: DedupConfig, scratch: Path, threads: int
    ) -> None:
        """Decide over all documents. `candidates` are files of pairs; temporary files go to `scratch`."""
        self._index, self._config, self._scratch = index, config, scratch
        self._threads = threads
        new = index.new
        self._copy = Column.of([new], "order", "copy", np.uint8, scratch)
        self._first = Column.of([new], "order", "first", np.uint32, scratch)
        self._measures = np.empty((len(MEASURES), 0))
        self._near = np.empty(0, np.uint32)
        self.compared = 0
        self.kept = scratch_column(scratch / "kept", new.size, np.uint32)
        for block in blocks(new.start, new.end):
            self.kept[block - np.uint32(new.start)] = block
        if new.size:
            self._decide(candidates)
            self._follow_copies()

    def _decide(self, candidates: Sequence[File]) -> None:
        pairs = _SortedPairs(self._index, candidates, self._config, self._scratch, self._threads)
        ranks = pairs.occurring
        self.compared = len(ranks)
        positions = Column.of(self._index.segments, "order", "position", np.uint32, self._scratch)
        evidence = gather_evidence(
            ranks,
            positions[ranks].astype(np.int64),
            self._index.documents(),
            self._index.signatures(),
            self._config,
            self._scratch,
            self._threads,
            with_sets=self._config.verify,
        )
        if self._config.verify:
            thresholds = Thresholds(self._config.coverage, self._config.containment, self._config.jaccard)
            found = verified_twins(evidence, pairs, thresholds)
        else:
            twins = component_twins(evidence, pairs)
            found = Verified(twins, *np.full((3, len(twins)), np.nan))
        near = np.flatnonzero(found.twins != NONE)
        estimated = estimated_similarity(evidence, near, found.twins[near])
        self._near = ranks[near]
        self._measures = np.stack([estimated, found.coverage[near], found.containment[near], found.jaccard[near]])
        self.kept[self._near - np.uint32(self._index.new.start)] = ranks[found.twins[near]]

    def _follow_copies(self) -> None:
        """A copy goes for what stays for the document that it is a copy of, which may be known."""
        start = self._index.new.start
        kept = Column.of(self._index.known, "duplicates", "kept", np.uint32, self._scratch).extended(start, self.kept)
        for block in blocks(self._index.new.start, self._index.new.end):
            copies = block[self._copy[block] != NO_COPY]
            self.kept[copies - np.uint32(start)] = kept[self._first[copies]]

    def tables(self) -> Iterator[pa.Table]:
        """Yield the duplicates as tables of DUPLICATES_SCHEMA."""
        if not len(self.kept):
            return
        with SignatureTable(self._index, self._scratch, self._config.memory_limit_mb, self._threads) as signatures:
            numbers = ", ".join(f"{name} DOUBLE" for name in MEASURES)
            columns = f"position UINTEGER, rule VARCHAR, {numbers}"
            signatures.run(f"CREATE TABLE decisions ({columns}, kept UINTEGER, leader UINTEGER)")
            for rows in self._rows():
                signatures.insert("decisions", rows)
            signatures.run(f"CREATE TABLE known_duplicates ({columns})")
            for segment in self._index.known:
                signatures.add_known_duplicates(segment, ("rule", *MEASURES))
            measures = ", ".join(f"if(known.position IS NULL, decisions.{name}, known.{name})" for name in MEASURES)
            for rows in signatures.stream(
                f"SELECT gone.id, gone.source, coalesce(known.rule, decisions.rule), stays.id, {measures}, "
                "gone.shard, gone.row, stays.ingest, stays.shard, stays.row "
                "FROM decisions JOIN fresh AS gone USING (position) "
                "JOIN signatures AS stays ON stays.position = decisions.kept "
                "LEFT JOIN known_duplicates AS known ON known.position = decisions.leader ORDER BY decisions.position"
            ):
                yield rows.rename_columns(DUPLICATES_SCHEMA.names).cast(DUPLICATES_SCHEMA)

    def _rows(self) -> Iterator[pa.Table]:
        """Positions, rules and measures of what goes, many documents at a time."""
        start = np.uint32(self._index.new.start)
        positions = Column.of(self._index.segments, "order", "position", np.uint32, self._scratch)
        for block in blocks(self._index.new.start, self._index.new.end):
            gone = block[self.kept[block - start] != block]
            copy, leader = self._copy[gone], self._first[gone]
            # An exact copy of a near duplicate goes as that one does; where that one is known, its row says how.
            exact, known = copy == EXACT_COPY, leader < start
            near = (copy != URL_COPY) & ~known
            near[near] = self.kept[leader[near] - start] != leader[near]
            measures = np.ones((len(MEASURES), len(gone)))
            measures[:, copy == URL_COPY] = np.nan
            measures[:, near] = self._measures[:, np.searchsorted(self._near, leader[near])]
            columns = {
                name: pa.array(values, from_pandas=True) for name, values in zip(MEASURES, measures, strict=True)
            }
            yield pa.table(
                {
                    "position": positions[gone],
                    "rule": _RULES.take(pa.array(np.where(near, NO_COPY, copy))),
                    **columns,  # NaN becomes null
                    "kept": positions[self.kept[gone - start]],
                    "leader": pa.array(positions[leader], mask=~(exact & known)),
                }
            )


@numba.njit(nogil=True, cache=True)
def _mark(bits: NDArray[np.uint8], ranks: NDArray[np.uint64]) -> None:
    for rank in ranks:
        bits[rank >> np.uint64(3)] |= np.uint8(1) << np.uint8(rank & np.uint64(7))


@dataclass
class _SortedPairs:
    """The distinct pairs of all bands in ascending order, in a file; a known document stands for its twin's."""

    index: Index
    candidates: Sequence[File]
    config: DedupConfig
    scratch: Path
    threads: int

    def __post_init__(self) -> None:
        bits = np.zeros(self.index.size // 8 + 1, np.uint8)
        self._path = self.scratch / "pairs.u64"
        with open(self._path, "wb") as stream:
            for pairs in self._distinct():
                _mark(bits, pairs >> _32)
                _mark(bits, pairs & _LOW)
                stream.write(pairs.data)
        self.occurring = _set_bits(bits)

    def _distinct(self) -> Iterator[NDArray[np.uint64]]:
        files = [file for file in self.candidates if file.rows]
        if not files:
            return
        limit = self.config.memory_limit_mb
        with SignatureTable(self.index, self.scratch, limit, self.threads) as table:
            source = f"read_parquet([{', '.join(quoted(file.path) for file in files)}])"
            if self.index.known:
                kept = Column.of(self.index.known, "duplicates", "kept", np.uint32, self.scratch)
                table.run("CREATE TABLE pairs (pair UBIGINT)")
                for rows in table.stream(f"SELECT pair FROM {source}"):
                    pairs = rows["pair"].to_numpy().copy()
                    known = (pairs & _LOW) < self.index.new.start
                    pairs[known] = (pairs[known] >> _32 << _32) | kept[(pairs[known] & _LOW).astype(np.uint32)]
                    table.insert("pairs", pa.table({"pair": pairs}))
                source = "pairs"
            for rows in table.stream(f"SELECT DISTINCT pair FROM {source} ORDER BY pair"):
                yield rows["pair"].to_numpy()

    def __iter__(self) -> Iterator[NDArray[np.uint64]]:
        """Yield the pairs in ascending order; all pairs of one member come together."""
        if self._path.stat().st_size == 0:  # cannot be mapped
            return
        pairs = np.memmap(self._path, np.uint64, "r")
        at = 0
        while at < len(pairs):
            end = min(at + BATCH_ROWS, len(pairs))
            if end < len(pairs):  # up to the first pair of the next member
                end = int(np.searchsorted(pairs, (pairs[end] >> _32) << _32))
            if end <= at:  # one member with more pairs than that
                end = int(np.searchsorted(pairs, ((pairs[at] >> _32) + np.uint64(1)) << _32))
            yield np.asarray(pairs[at:end])
            at = end


def _set_bits(bits: NDArray[np.uint8]) -> NDArray[np.uint32]:
    found = [np.empty(0, np.uint32)]
    for at in range(0, len(bits), BATCH_ROWS):
        part = np.flatnonzero(np.unpackbits(bits[at : at + BATCH_ROWS], bitorder="little"))
        found.append((part + 8 * at).astype(np.uint32))
    return np.concatenate(found)
