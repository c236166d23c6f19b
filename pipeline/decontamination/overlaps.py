"""The overlaps stage: in how many documents each n-gram of the evaluation sets is, over the whole corpus.

GPT-3 ignores n-grams that more than ten documents have. That takes a count over all documents before the first is
decided on: a pass of its own, which `gpt3.maximum_documents` of the decontaminate stage asks for.
"""

from __future__ import annotations

from collections.abc import Mapping
from functools import cached_property, lru_cache
from typing import Any, ClassVar, Final

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from numpy.typing import NDArray

from pipeline.annotate import batch_rows
from pipeline.decontamination.config import DecontaminateConfig
from pipeline.decontamination.index import Index, build_index
from pipeline.decontamination.matching import search
from pipeline.stage import Stage, Unit, UnitOutput, document_input
from pipeline.store import StageRef, canonical_json
from pipeline.text.scan import SCAN_VERSION, word_hashes

OVERLAPS_SCHEMA: Final = pa.schema(
    [pa.field("gram", pa.int64(), nullable=False), pa.field("documents", pa.int64(), nullable=False)]
)
"""`gram` is the number of the n-gram in the index, which follows from the configuration alone."""


def index_for(config: DecontaminateConfig, identity: dict[str, Any]) -> Index:
    """The index of a configuration, built once a process. `identity` is its `index_identity()`, as it was planned."""
    return _index(config.model_dump_json(), canonical_json(identity))


@lru_cache(maxsize=1)
def _index(config: str, identity: str) -> Index:
    loaded = DecontaminateConfig.model_validate_json(config)
    if canonical_json(loaded.index_identity()) != identity:
        raise ValueError("the files of the benchmarks changed while the run used them; start the run again")
    return build_index(loaded)


def shard_units(source: StageRef) -> list[Unit]:
    """One unit for each shard of documents."""
    return [
        Unit(number, f"shard {number}: {file.rows} documents", {"file": number}, file.bytes)
        for number, file in enumerate(source.committed().files("documents"))
    ]


class Overlaps(Stage[DecontaminateConfig]):
    """Counts the documents of each n-gram. Raises ValueError where a benchmark's files are missing or broken."""

    name: ClassVar[str] = "overlaps"
    version: ClassVar[int] = 1

    def __init__(self, config: DecontaminateConfig, inputs: Mapping[str, StageRef]) -> None:
        super().__init__(config, inputs)
        self.source = document_input(inputs)

    @cached_property
    def index_identity(self) -> dict[str, Any]:
        """What the index follows from, read once."""
        return self.config.index_identity()

    def identity(self) -> dict[str, Any]:
        """What the index follows from: rules for what happens with a match change no count."""
        return {**self.index_identity, "scan_version": SCAN_VERSION}

    def units(self) -> list[Unit]:
        """One unit for each shard of documents."""
        return shard_units(self.inputs[self.source])

    def process(self, unit: Unit, output: UnitOutput) -> None:
        """Count over the documents of one shard, a batch at a time."""
        index = index_for(self.config, self.index_identity)
        counts = np.zeros(index.grams, np.int64)
        file = self.inputs[self.source].committed().files("documents")[unit.spec["file"]]
        with file.parquet() as parquet:
            for batch in parquet.iter_batches(batch_rows(parquet), columns=["text"]):
                hits = search(*word_hashes(batch["text"]), index)
                pairs = np.unique(hits.document * max(1, index.grams) + hits.gram)
                np.add.at(counts, pairs % max(1, index.grams), 1)
                size = int(pc.sum(pc.binary_length(batch["text"])).as_py() or 0)
                output.count(read=batch.num_rows, kept=batch.num_rows, bytes_in=size, bytes_out=size)
        found = np.flatnonzero(counts)
        output.write("overlaps", pa.table([found, counts[found]], schema=OVERLAPS_SCHEMA))


@lru_cache(maxsize=1)
def frequent(overlaps: StageRef, grams: int, maximum_documents: int) -> NDArray[np.bool_]:
    """(n-grams,) whether more than `maximum_documents` documents of the corpus have each."""
    counts = np.zeros(grams, np.int64)
    for file in overlaps.committed().files("overlaps"):
        table = file.table()
        counts[table["gram"].to_numpy()] += table["documents"].to_numpy()
    return counts > maximum_documents
