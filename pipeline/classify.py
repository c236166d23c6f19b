"""The classify stage: scores of classifiers for every document, fastText's and neural ones.

It is a stage of its own so that another classifier costs its own pass and no other signal is computed again.
"""

from collections.abc import Mapping
from typing import Any, ClassVar, Self

import pyarrow as pa
from pydantic import Field, model_validator

from pipeline.annotate import batch_rows
from pipeline.annotators import Annotator, Batch
from pipeline.classifiers.linear import FastTextClassifier, FastTextClassifierConfig
from pipeline.classifiers.neural import NeuralClassifier, NeuralClassifierConfig
from pipeline.stage import Stage, StageConfig, Unit, UnitOutput
from pipeline.store import StageRef


class ClassifyConfig(StageConfig):
    """The classifiers to apply."""

    fasttext: list[FastTextClassifierConfig] = Field(default=[], description="fastText models, applied on the CPU.")
    neural: list[NeuralClassifierConfig] = Field(
        default=[], description="Hugging Face sequence classifiers in local folders, applied on a GPU if there is one."
    )

    @model_validator(mode="after")
    def _check(self) -> Self:
        names = [one.name for one in self.fasttext] + [one.name for one in self.neural]
        if not names:
            raise ValueError("there is no classifier; name one under fasttext or neural, or leave the section out")
        twice = sorted({name for name in names if names.count(name) > 1})
        if twice:
            raise ValueError(f"two classifiers have the name {twice[0]!r}; their columns would be the same")
        return self

    def annotators(self) -> list[Annotator]:
        """The classifiers, in the order of their columns."""
        linear = [FastTextClassifier(one) for one in self.fasttext]
        return [*linear, *(NeuralClassifier(one) for one in self.neural)]


class Classify(Stage[ClassifyConfig]):
    """One row of scores for each document, in the order and the shards of `deduplicate`.

    Raises ValueError where a model is missing, damaged or of the wrong kind, on the first use of its identity.
    """

    name: ClassVar[str] = "classify"
    version: ClassVar[int] = 1
    conserves = "deduplicate"

    def __init__(self, config: ClassifyConfig, inputs: Mapping[str, StageRef]) -> None:
        super().__init__(config, inputs)

    def identity(self) -> dict[str, Any]:
        """What the scores of each classifier follow from."""
        return {"classifiers": [annotator.identity() for annotator in self.config.annotators()]}

    def units(self) -> list[Unit]:
        """One unit for each shard of documents."""
        files = self.inputs["deduplicate"].committed().files("documents")
        return [
            Unit(number, f"shard {number}: {file.rows} documents", {"file": number}, file.bytes)
            for number, file in enumerate(files)
        ]

    def process(self, unit: Unit, output: UnitOutput) -> None:
        """Score the documents of one shard, a batch at a time."""
        file = self.inputs["deduplicate"].committed().files("documents")[unit.spec["file"]]
        annotators = self.config.annotators()
        found = [signal for annotator in annotators for signal in annotator.signals()]
        schema = pa.schema(
            [
                pa.field("id", pa.string(), nullable=False),
                *(pa.field(signal.name, signal.type, metadata={"description": signal.description}) for signal in found),
            ]
        )
        with output.parquet("signals", schema) as sink, file.parquet() as documents:
            for rows in documents.iter_batches(batch_rows(documents), columns=["id", "url", "text"]):
                batch = Batch.of(rows)
                scores = {name: column for one in annotators for name, column in one.measure(batch).items()}
                columns = [rows["id"], *(scores[signal.name] for signal in found)]
                sink.write(pa.table(columns, schema=schema))
                size = batch.text_bytes
                output.count(read=rows.num_rows, kept=rows.num_rows, bytes_in=size, bytes_out=size)
