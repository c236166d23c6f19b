"""The privacy stage: masks personal data and secrets in the documents that the filter kept, or drops the documents.

The ledger says how many of each kind were found, never which.
"""

import json
from collections.abc import Mapping, Sequence
from typing import Any, ClassVar, Final

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from numpy.typing import NDArray

from pipeline.annotate import batch_rows
from pipeline.documents import DOCUMENT_SCHEMA
from pipeline.privacy.config import PrivacyConfig
from pipeline.privacy.kinds import KINDS
from pipeline.privacy.masking import mask
from pipeline.privacy.scan import PRIVACY_SCAN_VERSION
from pipeline.stage import Stage, Unit, UnitOutput, UnitRecord
from pipeline.store import StageRef

MASKED_RULE: Final = "privacy.masked"
"""The ledger's rule of a document with masks: `value` is their number, `detail` counts them by kind as JSON, `bytes`
is by how much its text got shorter. It is negative where the masks are longer than what they hide, so that what
comes in less the bytes of the ledger is always what goes out."""
MAXIMUM_RULE: Final = "privacy.maximum_per_document"
_PREFIX: Final = "privacy_"


class Privacy(Stage[PrivacyConfig]):
    """Masks or drops by kind of personal data. Ids stay; the language, the metadata and the order too."""

    name: ClassVar[str] = "privacy"
    version: ClassVar[int] = 1
    conserves = "filter"

    def __init__(self, config: PrivacyConfig, inputs: Mapping[str, StageRef]) -> None:
        super().__init__(config, inputs)

    def identity(self) -> dict[str, Any]:
        """The configuration and the version of the search."""
        return {**self.config.model_dump(mode="json"), "privacy_scan_version": PRIVACY_SCAN_VERSION}

    def units(self) -> list[Unit]:
        """One unit for each shard of documents."""
        return [
            Unit(number, f"shard {number}: {file.rows} documents", {"file": number}, file.bytes)
            for number, file in enumerate(self.inputs["filter"].committed().files("documents"))
        ]

    def process(self, unit: Unit, output: UnitOutput) -> None:
        """Mask the documents of one shard, a batch at a time."""
        file = self.inputs["filter"].committed().files("documents")[unit.spec["file"]]
        with output.parquet("documents", DOCUMENT_SCHEMA) as sink, file.parquet() as parquet:
            for batch in parquet.iter_batches(batch_rows(parquet)):
                documents = pa.Table.from_batches([batch])
                texts, counts = mask(documents["text"], self.config, documents["language"])
                decision = decide(self.config, counts)
                kept, edited = decision < 0, (decision < 0) & (self._masked(counts).sum(axis=1) > 0)
                bytes_in = pc.binary_length(documents["text"]).to_numpy().astype(np.int64)
                bytes_out = pc.binary_length(texts).to_numpy(zero_copy_only=False).astype(np.int64)
                documents = documents.set_column(documents.schema.get_field_index("text"), "text", texts)
                sink.write(documents.select(DOCUMENT_SCHEMA.names).cast(DOCUMENT_SCHEMA).filter(pa.array(kept)))
                output.ledger(self._ledger(documents, counts, decision, edited, bytes_in, bytes_out))
                output.count(
                    read=len(kept),
                    kept=int(kept.sum()),
                    dropped=int((~kept).sum()),
                    edited=int(edited.sum()),
                    bytes_in=int(bytes_in.sum()),
                    bytes_out=int(bytes_out[kept].sum()),
                    **{_PREFIX + kind: int(count) for kind, count in zip(KINDS, counts.sum(axis=0), strict=True)},
                )

    def _masked(self, counts: NDArray[np.int64]) -> NDArray[np.int64]:
        """The columns of the kinds that are masked."""
        return counts[:, [self.config.policy(kind) == "mask" for kind in KINDS]]

    def _ledger(
        self,
        documents: pa.Table,
        counts: NDArray[np.int64],
        decision: NDArray[np.int64],
        edited: NDArray[np.bool_],
        bytes_in: NDArray[np.int64],
        bytes_out: NDArray[np.int64],
    ) -> pa.Table:
        """One row for each document that goes or is edited, in their order."""
        rows = np.flatnonzero((decision >= 0) | edited)
        rules = [f"privacy.{kind}" for kind in KINDS] + [MAXIMUM_RULE]
        maximum = np.nan if self.config.maximum_per_document is None else self.config.maximum_per_document
        columns: dict[str, list[Any]] = {name: [] for name in ("action", "rule", "value", "threshold", "bytes")}
        for row in rows:
            rule = int(decision[row])
            dropped, by_kind = rule >= 0, 0 <= rule < len(KINDS)
            number = counts[row, rule] if by_kind else counts[row].sum() if dropped else self._masked(counts)[row].sum()
            columns["action"].append("dropped" if dropped else "edited")
            columns["rule"].append(rules[rule] if dropped else MASKED_RULE)
            columns["value"].append(float(number))
            columns["threshold"].append(0.0 if by_kind else float(maximum) if dropped else None)
            columns["bytes"].append(int(bytes_in[row] - (0 if dropped else bytes_out[row])))
        details = [
            json.dumps({kind: int(count) for kind, count in zip(KINDS, counts[row], strict=True) if count})
            for row in rows
        ]
        picked = documents.select(["id", "source"]).take(rows)
        types = {"action": pa.string(), "rule": pa.string(), "value": pa.float64(), "threshold": pa.float64()}
        arrays = {name: pa.array(values, types.get(name, pa.int64())) for name, values in columns.items()}
        return pa.table(
            {"id": picked["id"], "source": picked["source"], **arrays, "detail": pa.array(details, pa.string())}
        )

    def summary(self, records: Sequence[UnitRecord]) -> dict[str, Any]:
        """Matches by kind, those of dropped documents included, and what is done with each kind."""
        return {
            "found_by_kind": {
                kind: sum(record.counts.get(_PREFIX + kind, 0) for record in records)
                for kind in KINDS
                if self.config.policy(kind) != "keep"
            },
            "policy": {kind: self.config.policy(kind) for kind in KINDS},
        }


def decide(config: PrivacyConfig, counts: NDArray[np.int64]) -> NDArray[np.int64]:
    """The rule by which each document goes: the code of the first kind that it must not have, the number of kinds for
    too many of all, -1 where it stays. `counts` is (documents, kinds); the answer (documents,)."""
    decision = np.full(len(counts), -1, np.int64)
    if config.maximum_per_document is not None:
        decision[counts.sum(axis=1) > config.maximum_per_document] = len(KINDS)
    for code in reversed(range(len(KINDS))):
        if config.policy(KINDS[code]) == "drop":
            decision[counts[:, code] > 0] = code
    return decision
