"""The decontaminate stage: documents that repeat items of evaluation sets are dropped, cut, or noted.

It reads the documents of `filter` or `privacy` and writes those that stay, in the same shards and order, and a row of
`matches` for each document and text of an item that it repeats. Its summary says for each benchmark how clean the
corpus is of it.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from functools import cached_property
from typing import Any, ClassVar, Final

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from numpy.typing import NDArray

from pipeline.annotate import batch_rows
from pipeline.decontamination.config import DecontaminateConfig
from pipeline.decontamination.cutting import Cuts, cut
from pipeline.decontamination.index import Index
from pipeline.decontamination.matching import Matches, Spans, find
from pipeline.decontamination.overlaps import frequent, index_for, shard_units
from pipeline.decontamination.report import benchmark_report
from pipeline.documents import DOCUMENT_SCHEMA
from pipeline.stage import Stage, Unit, UnitOutput, UnitRecord, document_input
from pipeline.store import StageRef
from pipeline.text.scan import SCAN_VERSION

MATCHES_SCHEMA: Final = pa.schema(
    [  # type: ignore[arg-type]
        pa.field("id", pa.string(), nullable=False),
        pa.field("source", pa.string(), nullable=False),
        pa.field("benchmark", pa.string(), nullable=False),
        pa.field("item", pa.string(), nullable=False),
        pa.field("begin", pa.int64(), nullable=False),
        pa.field("end", pa.int64(), nullable=False),
        pa.field("words", pa.int64(), nullable=False),
        pa.field("item_coverage", pa.float64(), nullable=False),
        pa.field("rule", pa.string(), nullable=False),
    ]
)
"""`begin` and `end` are bytes of the document as it was read, around the longest run of words that n-grams of the item
cover, and `words` is its length; `item_coverage` is the share of the item's words that lie in n-grams of the document.
An item with alternative texts has a row for each that matches."""


class Decontaminate(Stage[DecontaminateConfig]):
    """Cleans documents of the items of evaluation sets.

    Inputs: `filter` or `privacy`, and `overlaps` (of the same documents and benchmarks) where the rule ignores frequent
    n-grams. Raises ValueError where that is not so, and where a benchmark's files are missing or broken.
    """

    name: ClassVar[str] = "decontaminate"
    version: ClassVar[int] = 1

    def __init__(self, config: DecontaminateConfig, inputs: Mapping[str, StageRef]) -> None:
        super().__init__(config, inputs)
        self.conserves = self.source = document_input(inputs)
        if (config.maximum_documents is None) == ("overlaps" in inputs):
            raise ValueError(
                "gpt3.maximum_documents ignores frequent n-grams, so it needs the stage 'overlaps' as an input, and "
                "nothing else does; run that stage first, or set maximum_documents to null"
            )

    @cached_property
    def index_identity(self) -> dict[str, Any]:
        """What the index follows from, read once."""
        return self.config.index_identity()

    def identity(self) -> dict[str, Any]:
        """The settings that are in use, with the digests of the benchmarks' files for their paths."""
        return {**self.index_identity, **self.config.decision_identity(), "scan_version": SCAN_VERSION}

    def units(self) -> list[Unit]:
        """One unit for each shard of documents. Builds the index, so that a broken benchmark fails before any work."""
        index_for(self.config, self.index_identity)
        if "overlaps" in self.inputs:
            counted = self.inputs["overlaps"].committed().manifest
            if counted["inputs"].get(self.source) != self.inputs[self.source].fingerprint:
                raise ValueError("the overlaps are of other documents; run the overlaps stage on these")
            if counted["config"] != {**self.index_identity, "scan_version": SCAN_VERSION}:
                raise ValueError("the overlaps are of other benchmarks or lengths; run the overlaps stage with these")
        return shard_units(self.inputs[self.source])

    def _ignored(self, index: Index) -> NDArray[np.bool_] | None:
        if self.config.maximum_documents is None:
            return None
        return frequent(self.inputs["overlaps"], index.grams, self.config.maximum_documents)

    def process(self, unit: Unit, output: UnitOutput) -> None:
        """Decontaminate the documents of one shard, a batch at a time."""
        index = index_for(self.config, self.index_identity)
        ignored = self._ignored(index)
        file = self.inputs[self.source].committed().files("documents")[unit.spec["file"]]
        with (
            output.parquet("documents", DOCUMENT_SCHEMA) as sink,
            output.parquet("matches", MATCHES_SCHEMA) as noted,
            file.parquet() as parquet,
        ):
            for batch in parquet.iter_batches(batch_rows(parquet)):
                documents = pa.Table.from_batches([batch]).combine_chunks()
                text = batch["text"]
                matches, spans = find(text, index, self.config.minimum_coverage, ignored)
                noted.write(_matches_table(batch, matches, index, self.config.rule))
                staying, decisions = _decide(documents, text, spans, self.config)
                sink.write(staying)
                output.ledger(_ledger(batch, matches, decisions, index, self.config))
                size = int(pc.sum(pc.binary_length(text)).as_py() or 0)
                dropped = int(decisions.dropped.sum())
                output.count(
                    read=batch.num_rows,
                    kept=staying.num_rows,
                    dropped=dropped,
                    edited=len(decisions.document) - dropped,
                    bytes_in=size,
                    bytes_out=int(pc.sum(pc.binary_length(staying["text"])).as_py() or 0),
                )

    def summary(self, records: Sequence[UnitRecord]) -> dict[str, Any]:
        """Rule, action, and what was found of each benchmark (`benchmark_report`)."""
        source = self.inputs[self.source]
        root = source.path.removesuffix(f"/{source.name}/{source.fingerprint}")
        folder = f"{root}/{self.name}/{self.fingerprint()}"
        index = index_for(self.config, self.index_identity)
        files = [
            f"{folder}/{entry['path']}" for record in records for entry in record.files if entry["kind"] == "matches"
        ]
        return {
            "rule": self.config.rule,
            "action": self.config.action,
            "ngrams": index.grams,
            "benchmarks": benchmark_report(self.config, self.index_identity, index, files),
        }


def _matches_table(batch: pa.RecordBatch, matches: Matches, index: Index, rule: str) -> pa.Table:
    length = np.diff(index.offsets)[matches.text]
    rows = pa.array(matches.document)
    columns = [
        batch["id"].take(rows),
        batch["source"].take(rows),
        pa.array(index.benchmarks, pa.string()).take(pa.array(index.text_benchmark[matches.text])),
        pa.array([index.text_item[text] for text in matches.text.tolist()], pa.string()),
        pa.array(matches.begin_byte),
        pa.array(matches.end_byte),
        pa.array(matches.end - matches.begin),
        pa.array(matches.covered / np.maximum(length, 1)),
        pa.repeat(pa.scalar(rule, pa.string()), len(rows)),
    ]
    return pa.table(columns, schema=MATCHES_SCHEMA)


def _decide(documents: pa.Table, text: pa.Array, spans: Spans, config: DecontaminateConfig) -> tuple[pa.Table, Cuts]:
    """The documents that stay, and what was decided on those that do not stay as they were."""
    nothing = np.zeros(0, np.int64)
    if config.action == "annotate" or not len(spans.document):
        return documents.select(DOCUMENT_SCHEMA.names).cast(DOCUMENT_SCHEMA), Cuts(nothing, nothing, nothing > 0, [])
    if config.action == "cut":
        decisions = cut(text, spans, config.cut)
        edited = np.zeros(len(text), bool)
        edited[decisions.document[~decisions.dropped]] = True
        texts = pa.array([kept for kept in decisions.texts if kept is not None], pa.large_binary())
        new = pc.replace_with_mask(text.cast(pa.large_string()), pa.array(edited), texts.view(pa.large_string()))
        documents = documents.set_column(documents.schema.get_field_index("text"), "text", new)
    else:
        gone = np.unique(spans.document)
        decisions = Cuts(gone, np.ones(len(gone), np.int64), np.ones(len(gone), bool), [None] * len(gone))
    stays = np.ones(len(text), bool)
    stays[decisions.document[decisions.dropped]] = False
    return documents.filter(pa.array(stays)).select(DOCUMENT_SCHEMA.names).cast(DOCUMENT_SCHEMA), decisions


def _ledger(
    batch: pa.RecordBatch, matches: Matches, decisions: Cuts, index: Index, config: DecontaminateConfig
) -> list[dict[str, Any]]:
    """One row for each document that goes or is cut, in the order of the documents."""
    sizes = pc.binary_length(batch["text"]).to_numpy(zero_copy_only=False)
    bounds = np.searchsorted(matches.document, np.append(decisions.document, batch.num_rows))
    rows = []
    for number, document in enumerate(decisions.document.tolist()):
        # The longest match of the document; of equals the one that covers most of its item, then the first.
        here = slice(bounds[number], bounds[number + 1])
        text = matches.text[here]
        words = matches.end[here] - matches.begin[here]
        coverage = matches.covered[here] / (index.offsets[text + 1] - index.offsets[text])
        best = int(np.lexsort((text, -coverage, -words))[0])
        kept = decisions.texts[number]
        by_coverage = config.minimum_coverage > 0
        detail = {
            "benchmark": index.benchmarks[index.text_benchmark[text[best]]],
            "item": index.text_item[text[best]],
            "begin": int(matches.begin_byte[here][best]),
            "end": int(matches.end_byte[here][best]),
            "matches": len(text),
        }
        if config.action == "cut":
            detail["pieces"] = int(decisions.pieces[number])
        rows.append(
            {
                "id": batch["id"][document].as_py(),
                "source": batch["source"][document].as_py(),
                "action": "edited" if kept is not None else "dropped",
                "rule": f"decontaminate.{config.rule}",
                "value": float(coverage[best] if by_coverage else words[best]),
                "threshold": config.minimum_coverage if by_coverage else float(index.gram_words[text[best]]),
                "bytes": int(sizes[document]) - len(kept or b""),
                "detail": json.dumps(detail, ensure_ascii=False, sort_keys=True),
            }
        )
    return rows
