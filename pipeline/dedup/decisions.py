"""Decisions: which documents are duplicates, of which twin, by which rule, on which measurements."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from pipeline.dedup.bands import (
    SignatureTable,
    candidate_pairs,
    collect_pairs,
    exact_representatives,
    preference_order,
)
from pipeline.dedup.components import component_twins
from pipeline.dedup.config import DedupConfig
from pipeline.dedup.evidence import gather_evidence
from pipeline.dedup.verification import NONE, estimated_similarity, verified_twins
from pipeline.store import File

EXACT, MINHASH = "exact", "minhash"

DUPLICATES_SCHEMA = pa.schema(
    [
        pa.field("id", pa.string(), nullable=False),
        pa.field("source", pa.string(), nullable=False),
        pa.field("rule", pa.string(), nullable=False),
        pa.field("twin", pa.string(), nullable=False),
        pa.field("estimated", pa.float64(), nullable=False),
        pa.field("similarity", pa.float64()),
        pa.field("containment", pa.float64()),
        pa.field("cluster", pa.string(), nullable=False),
        pa.field("shard", pa.int64(), nullable=False),
        pa.field("row", pa.int64(), nullable=False),
    ]
)
"""One row for each document to remove, in document order. `rule` is `exact` (the same words) or `minhash`; `twin` is
the id of a document that stays, and `cluster` names the group by the one of its documents that stays: the same id.
`estimated` is the agreement of the signatures, `similarity` the Jaccard similarity of the shingle sets, `containment`
the share of the removed document's shingles that the twin holds; the latter two are null without verification.
`shard` and `row` are where the document lies in the input. An exact copy of a document that is itself removed has that
one's twin, rule and figures."""


def find_duplicates(
    documents: Sequence[File],
    signatures: Sequence[File],
    config: DedupConfig,
    scratch: Path,
    threads: int,
) -> Iterator[pa.Table]:
    """Yield the duplicates among documents as tables of DUPLICATES_SCHEMA.

    `documents` and `signatures` are shards with the same rows; temporary files go to `scratch`. The result does not
    depend on the order of the shards, but for `shard`, `row` and the order of the rows.
    """
    if not signatures:
        return
    with SignatureTable(signatures, scratch, config.memory_limit_mb, threads) as table:
        position, rank = preference_order(table, config.prefer)
        everyone = np.arange(len(rank), dtype=np.uint32)
        representative = exact_representatives(table, rank) if config.exact else everyone
        copies = representative != everyone
        occurs = collect_pairs(table, config.bands, rank, copies, config.representatives)
        ranks = np.flatnonzero(occurs).astype(np.uint32)
        evidence = gather_evidence(
            ranks, position, documents, signatures, config, scratch, threads, with_sets=config.verify
        )
        pairs = candidate_pairs(table)
        if config.verify:
            twins, containment, jaccard = verified_twins(evidence, pairs, config.containment, config.jaccard)
        else:
            twins = component_twins(evidence, pairs)
            containment = jaccard = np.full(len(twins), np.nan)
        near = np.flatnonzero(twins != NONE)
        measures = np.stack([estimated_similarity(evidence, near, twins[near]), jaccard[near], containment[near]])
        decisions = _decisions(representative, ranks[near], ranks[twins[near]], measures, position)
        table.run(
            "CREATE TABLE decisions (position UINTEGER, kept UINTEGER, rule VARCHAR, "
            "estimated DOUBLE, similarity DOUBLE, containment DOUBLE)"
        )
        table.insert("decisions", decisions)
        for rows in table.stream(
            "SELECT gone.id, gone.source, rule, stays.id AS twin, estimated, similarity, containment, "
            "stays.id AS cluster, gone.shard, gone.row "
            "FROM decisions JOIN signatures AS gone USING (position) "
            "JOIN signatures AS stays ON stays.position = decisions.kept ORDER BY decisions.position"
        ):
            yield rows.cast(DUPLICATES_SCHEMA)


def _decisions(
    representative: NDArray[np.uint32],
    gone: NDArray[np.uint32],
    stays: NDArray[np.uint32],
    measures: NDArray[np.float64],
    position: NDArray[np.uint32],
) -> pa.Table:
    """Join exact and near duplicates: positions, rules and measures of every document that goes.

    `representative` is by rank; near duplicates are given by the ranks `gone`, ascending, and `stays`, with `measures`
    (3, near duplicates).
    """
    everyone = np.arange(len(representative), dtype=np.uint32)
    kept = everyone.copy()
    kept[gone] = stays
    kept = kept[representative]  # representatives of copies are never copies, so one step is enough
    removed = np.flatnonzero(kept != everyone)
    leader = representative[removed]
    exact = kept[leader] == leader
    all_measures = np.ones((3, len(removed)))
    all_measures[:, ~exact] = measures[:, np.searchsorted(gone, leader[~exact])]
    columns = {"estimated": all_measures[0], "similarity": all_measures[1], "containment": all_measures[2]}
    return pa.table(
        {
            "position": position[removed],
            "kept": position[kept[removed]],
            "rule": pa.DictionaryArray.from_arrays(exact.astype(np.int8), [MINHASH, EXACT]).cast(pa.string()),
            **{name: pa.array(values, from_pandas=True) for name, values in columns.items()},  # NaN becomes null
        }
    )
