"""Signals as a committed `annotate` stage with languages that a test gives."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pyarrow as pa

from pipeline.stage import Stage, StageConfig, Unit, UnitOutput
from pipeline.store import StageRef
from pipeline.text.scan import word_hashes
from tests.pipeline.documents_stage import run


class SignalsConfig(StageConfig):
    languages: list[list[str]]
    reverse: bool = False  # as a defect: rows in another order than the documents


class Signals(Stage[SignalsConfig]):
    name = "annotate"
    version = 1
    conserves = "deduplicate"

    def units(self) -> list[Unit]:
        files = self.inputs["deduplicate"].committed().files("documents")
        return [Unit(i, f"shard {i}", {"shard": i}) for i in range(len(files))]

    def process(self, unit: Unit, output: UnitOutput) -> None:
        documents = self.inputs["deduplicate"].committed().files("documents")[unit.index].table()
        languages = pa.array(self.config.languages[unit.index], pa.string())
        words = pa.array(np.diff(word_hashes(documents["text"])[0]))
        columns = {"id": documents["id"], "source": documents["source"], "language": languages, "words": words}
        table = pa.table(columns)
        output.write("signals", table[::-1] if self.config.reverse else table)
        output.count(read=documents.num_rows, kept=documents.num_rows)


def commit_signals(root: Path, documents: StageRef, *languages: list[str], reverse: bool = False) -> StageRef:
    """Commit signals of documents and return the stage's place."""
    return run(Signals(SignalsConfig(languages=[*languages], reverse=reverse), {"deduplicate": documents}), root)[0]
