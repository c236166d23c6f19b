"""The sample that a tokenizer is trained on: bounded in bytes, drawn by document id, levelled over strata."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from numpy.typing import NDArray

from pipeline.store import File
from pipeline.tokens.split import sample_order, split_of

UNKNOWN_LANGUAGE = "und"
"""The BCP 47 tag for an undetermined language, for documents that have none."""


@dataclass(frozen=True)
class Candidates:
    """The documents that may be sampled, in corpus order; every array has one entry a document."""

    shard: NDArray[np.int32]  # index into the input files
    row: NDArray[np.int64]  # row in its file
    bytes: NDArray[np.int64]  # UTF-8 length of the text
    order: NDArray[np.uint64]  # hash of the id
    stratum: NDArray[np.int32]  # index into names
    names: list[tuple[str, str]]  # (source, language), sorted


def quotas(available: NDArray[np.int64], budget: int, exponent: float) -> NDArray[np.int64]:
    """Share `budget` bytes over strata in proportion to `available ** exponent`, none above what it has.

    Exponent 1 keeps the corpus' proportions, 0 gives every stratum the same; what a small stratum cannot use goes to
    the others. All of it where the budget suffices.
    """
    if int(available.sum()) <= budget:
        return available.astype(np.int64)
    weights = np.where(available > 0, available.astype(np.float64) ** exponent, 0.0)
    granted = np.zeros(len(available), np.float64)
    is_open = available > 0
    while True:
        left = budget - granted[~is_open].sum()
        share = np.where(is_open, left * weights / weights[is_open].sum(), granted)
        full = is_open & (share >= available)
        granted = np.where(full, available, share)
        is_open &= ~full
        if not full.any():
            return np.floor(granted).astype(np.int64)


def taken_bytes(
    order: NDArray[np.uint64], sizes: NDArray[np.int64], stratum: NDArray[np.int32], quota: NDArray[np.int64]
) -> NDArray[np.int64]:
    """Return how many bytes of each document the sample takes: per stratum in the order of the hash, to its quota.

    The document at the limit is taken in part; those beyond it not at all (0).
    """
    by_stratum = np.lexsort((order, stratum))
    sorted_sizes, sorted_stratum = sizes[by_stratum], stratum[by_stratum]
    before = np.cumsum(sorted_sizes) - sorted_sizes
    firsts = np.searchsorted(sorted_stratum, np.arange(len(quota)))
    base = np.append(before, 0)[np.minimum(firsts, len(before))]
    taken = np.empty_like(sizes)
    taken[by_stratum] = np.clip(quota[sorted_stratum] - (before - base[sorted_stratum]), 0, sorted_sizes)
    return taken


def candidates(files: Sequence[File], validation_fraction: float, split_seed: int, sample_seed: int) -> Candidates:
    """Scan document files and return every document that is not held out for validation."""
    shards, rows, sizes, orders, strata = [], [], [], [], []
    for number, file in enumerate(files):
        first = 0
        with file.parquet() as parquet:
            for batch in parquet.iter_batches(columns=["id", "text", "source", "language"]):
                keep = ~split_of(batch["id"], validation_fraction, split_seed)
                shards.append(np.full(int(keep.sum()), number, np.int32))
                rows.append(first + np.flatnonzero(keep))
                sizes.append(pc.binary_length(batch["text"]).to_numpy(zero_copy_only=False)[keep])
                orders.append(sample_order(batch["id"], sample_seed)[keep])
                strata.append(strata_of(batch).filter(pa.array(keep)))
                first += batch.num_rows
    named = pa.chunked_array(strata, pa.string()).dictionary_encode().unify_dictionaries()
    codes, values = _codes_sorted(named)
    return Candidates(
        np.concatenate([np.zeros(0, np.int32), *shards]),
        np.concatenate([np.zeros(0, np.int64), *rows]),
        np.concatenate([np.zeros(0, np.int64), *sizes]).astype(np.int64),
        np.concatenate([np.zeros(0, np.uint64), *orders]),
        codes,
        [split_stratum(value) for value in values],
    )


def with_language(documents: pa.RecordBatch | pa.Table) -> pa.Array | pa.ChunkedArray:
    """Return the language of each document, `und` where it has none."""
    return pc.fill_null(documents["language"], UNKNOWN_LANGUAGE)


def strata_of(documents: pa.RecordBatch | pa.Table) -> pa.Array | pa.ChunkedArray:
    """Return the name of each document's stratum: `source NUL language`."""
    return pc.binary_join_element_wise(documents["source"], with_language(documents), "\0")


def split_stratum(name: str) -> tuple[str, str]:
    """Return (source, language) of a stratum's name."""
    source, _, language = name.rpartition("\0")
    return source, language


def sampled_texts(files: Sequence[File], found: Candidates, taken: NDArray[np.int64]) -> Iterator[str]:
    """Yield the texts of the sample in corpus order, each cut to the bytes taken (at a character's boundary)."""
    for number, file in enumerate(files):
        mine = np.flatnonzero((found.shard == number) & (taken > 0))
        if len(mine) == 0:
            continue
        wanted, limits = found.row[mine], taken[mine]
        whole = limits == found.bytes[mine]
        with file.parquet() as parquet:
            first = 0
            for group in range(parquet.num_row_groups):
                end = first + parquet.metadata.row_group(group).num_rows
                inside = slice(*np.searchsorted(wanted, [first, end]))
                if inside.start < inside.stop:
                    texts = parquet.read_row_group(group, columns=["text"])["text"]
                    picked = texts.take(pa.array(wanted[inside] - first)).to_pylist()
                    for text, is_whole, limit in zip(picked, whole[inside], limits[inside], strict=True):
                        yield text if is_whole else text.encode()[:limit].decode(errors="ignore")
                first = end


def _codes_sorted(named: pa.ChunkedArray) -> tuple[NDArray[np.int32], list[str]]:
    """Return dictionary codes whose order is that of the sorted values, so that it does not depend on the input's."""
    if named.num_chunks == 0:
        return np.zeros(0, np.int32), []
    values: list[str] = named.chunk(0).dictionary.to_pylist()
    by_value = sorted(range(len(values)), key=values.__getitem__)
    rank = np.empty(len(values), np.int32)
    rank[by_value] = np.arange(len(values), dtype=np.int32)
    codes = np.concatenate([chunk.indices.to_numpy(zero_copy_only=False) for chunk in named.chunks])
    return rank[codes], [values[i] for i in by_value]
