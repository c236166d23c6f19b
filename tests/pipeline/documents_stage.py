"""Documents as a committed `deduplicate` stage, for the tests of the stages that read one."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pyarrow as pa

from pipeline.documents import DOCUMENT_SCHEMA, document_id
from pipeline.execution import run_stage
from pipeline.stage import Stage, StageConfig, Unit, UnitOutput
from pipeline.store import Committed, StageRef, Store


class DocumentsConfig(StageConfig):
    shards: list[list[str]]


class Documents(Stage[DocumentsConfig]):
    """Commits texts as documents, one shard for each list."""

    name = "deduplicate"
    version = 1

    def units(self) -> list[Unit]:
        return [Unit(i, f"shard {i}", {"shard": i}) for i in range(len(self.config.shards))]

    def process(self, unit: Unit, output: UnitOutput) -> None:
        texts = self.config.shards[unit.spec["shard"]]
        source = f"source-{unit.index}"
        rows: list[dict[str, Any]] = [
            {
                "id": document_id(source, str(row), text.encode()),
                "text": text,
                "source": source,
                "locator": str(row),
                "url": f"https://example.org/{row}",
                "metadata": "{}",
            }
            for row, text in enumerate(texts)
        ]
        output.write("documents", pa.Table.from_pylist(rows, schema=DOCUMENT_SCHEMA))
        output.count(read=len(rows), kept=len(rows))


def commit_documents(root: Path, *shards: list[str]) -> StageRef:
    """Commit texts in a store and return the stage's place."""
    stage = Documents(DocumentsConfig(shards=[*shards]), {})
    run_stage(stage, Store.at(root), 0)
    return Store.at(root).ref("deduplicate", stage.fingerprint())


def run(stage: Stage[Any], root: Path, workers: int = 0) -> tuple[StageRef, Committed]:
    """Run a stage to its commit."""
    committed = run_stage(stage, Store.at(root), workers)
    return Store.at(root).ref(stage.name, stage.fingerprint()), committed


def content(committed: Committed) -> dict[str, str]:
    """Digest of every file."""
    return {entry["path"]: entry["sha256"] for entry in committed.manifest["files"]}
