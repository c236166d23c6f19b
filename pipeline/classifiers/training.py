"""The classifier stage: positive and negative documents become a fastText model, judged on documents it has not seen.

Source of the method: Joulin et al. 2016, "Bag of Tricks for Efficient Text Classification"; as a filter of web text,
Li et al. 2024 (DCLM), section 4.4. The same documents give the same model, byte by byte, on the same build of fastText.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping, Sequence
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any, ClassVar, Final

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from pipeline.classifiers.config import SIDES, ClassifierConfig, Side
from pipeline.classifiers.documents import all_documents, chosen_documents
from pipeline.classifiers.metrics import curve, rank, summary
from pipeline.classifiers.process import train_fasttext
from pipeline.classifiers.selection import Selection, examples, write_examples
from pipeline.fasttext_model import FastTextModel
from pipeline.ingest import Ingest
from pipeline.stage import Stage, StageError, Unit, UnitOutput, UnitRecord
from pipeline.store import Committed, File, StageRef, file_sha256, is_local
from pipeline.text.arrow import utf8_view

_LABEL: Final = "__label__"
# What fastText reads as something else than a word: a label, and the end of the line with all that follows it.
_LABELS_IN_TEXT: Final = r"(^| )__label__[^ ]*"
_AFTER_THE_END: Final = r"(^| )</s>( .*)?$"

SCORES_SCHEMA: Final = pa.schema(
    [
        pa.field("id", pa.string(), nullable=False),
        pa.field("source", pa.string(), nullable=False),
        pa.field("positive", pa.bool_(), nullable=False),
        pa.field("score", pa.float64(), nullable=False),
    ]
)
"""A held-out document and the model's probability of the positive label."""


def sources_input(side: Side) -> str:
    """Name of the input that holds the documents which ingest has read for a class."""
    return f"{side}_sources"


def documents_input(side: Side) -> str:
    """Name of the input whose documents a condition chooses for a class."""
    return f"{side}_documents"


SIGNALS_INPUT: Final = "signals"


class TrainClassifier(Stage[ClassifierConfig]):
    """Trains a classifier and judges it.

    Inputs, as far as the configuration names them: `positive_sources` and `negative_sources` (ingest),
    `positive_documents` and `negative_documents` (the stage of their `documents`), `signals` (annotate). Outputs:
    `models` (the model, and its description as JSON beside it), `curve`, `held_out` and `metrics`.
    """

    name: ClassVar[str] = "classifier"
    version: ClassVar[int] = 1
    in_process: ClassVar[bool] = True

    def __init__(self, config: ClassifierConfig, inputs: Mapping[str, StageRef]) -> None:
        super().__init__(config, inputs)
        expected = {sources_input(side) for side in SIDES if config.side(side).sources}
        expected |= {documents_input(side) for side in SIDES if config.side(side).documents}
        if set(inputs) - {SIGNALS_INPUT} != expected:
            raise ValueError(f"the classifier stage needs the inputs {sorted(expected)}, it was given {sorted(inputs)}")

    def identity(self) -> dict[str, Any]:
        """The configuration without where its documents come from, which its inputs stand for."""
        reading = {"unit_bytes", "limits", "positive", "negative"}
        conditions = {side: chosen.where for side in SIDES if (chosen := self.config.side(side).documents)}
        return {
            **self.config.model_dump(mode="json", exclude=reading),
            "conditions": conditions,
            "normalisation": self.config.normalisation.identity(),
        }

    def units(self) -> list[Unit]:
        """One unit: the training looks at all documents."""
        return [Unit(0, self.config.name, {})]

    def process(self, unit: Unit, output: UnitOutput) -> None:
        """Gather the documents, train in a process of its own, then score the held-out ones with the stored model."""
        if not is_local(output.ref.path):
            raise StageError("training a classifier needs a local disk; use a local --workspace for this stage")
        work = output.scratch / "work"
        work.mkdir()
        read = write_examples(work / "examples.parquet", self._examples(output))
        with Selection(work / "examples.parquet", self.config, work) as selection:
            model, facts = self._train(selection, work)
            output.count(read=read)
            dropped = selection.dropped()
            output.ledger(dropped)
            output.count(dropped=dropped.num_rows)
            output.count(kept=sum(part.train + part.held_out for part in selection.counts().values()))
            scores = self._score(selection, model)
        self._write(output, model, scores, facts)

    def _examples(self, output: UnitOutput) -> Iterator[pa.Table]:
        for side in SIDES:
            for batch in self._documents(side):
                table = examples(batch, self.config.normalisation.apply(batch["text"]), side)
                output.count(bytes_in=pc.sum(pc.binary_length(batch["text"])).as_py() or 0)
                output.count(bytes_out=pc.sum(pc.binary_length(table["line"])).as_py() or 0)
                yield table

    def _documents(self, side: Side) -> Iterator[pa.RecordBatch]:
        wanted = self.config.side(side)
        if wanted.sources:
            yield from all_documents(self.inputs[sources_input(side)].committed())
        if wanted.documents:
            signals = self.inputs.get(SIGNALS_INPUT)
            documents = self.inputs[documents_input(side)].committed()
            yield from chosen_documents(wanted.documents, documents, signals.committed() if signals else None)

    def _train(self, selection: Selection, work: Path) -> tuple[Path, dict[str, Any]]:
        config = self.config
        text = work / "train.txt"
        words = write_training_text(text, selection.batches(held_out=False), config.labels)
        model = work / f"{config.name}{'.bin' if config.quantised is None else '.ftz'}"
        quantise = None if config.quantised is None else config.quantised.arguments()
        learnt = train_fasttext(text, model, config.fasttext.arguments(), quantise)
        counts = {side: vars(part) for side, part in selection.counts().items()}
        return model, {
            "documents": counts,
            "words": words,
            "vocabulary": learnt["words"],
            "training_text_sha256": file_sha256(text),
            "library": _library(),
        }

    def _score(self, selection: Selection, path: Path) -> pa.Table:
        model = FastTextModel(path)
        column = model.labels.index(self.config.positive_label)
        batches = []
        for batch in selection.batches(held_out=True):
            # A text in which the model knows nothing at all is not positive.
            scores = np.nan_to_num(np.clip(model.probabilities(batch["line"])[:, column], 0.0, 1.0), nan=0.0)
            columns = [batch["id"], batch["source"], batch["positive"], pa.array(scores)]
            batches.append(pa.table(columns, schema=SCORES_SCHEMA))
        return pa.concat_tables(batches)

    def _write(self, output: UnitOutput, model: Path, held_out: pa.Table, facts: dict[str, Any]) -> None:
        scores, positive = held_out["score"].to_numpy(), held_out["positive"].to_numpy()
        table = curve(rank(scores, positive), self.config.thresholds)
        metrics = {
            **summary(scores, positive),
            "documents": len(scores),
            "positive_fraction": float(np.mean(positive)),
        }
        description = {
            "labels": {"negative": self.config.negative_label, "positive": self.config.positive_label},
            "normalisation": self.config.normalisation.identity(),
            "model_sha256": file_sha256(model),
            "model_bytes": model.stat().st_size,
            "held_out": metrics,
            "thresholds": table.to_pylist(),
            "training": {**facts, "arguments": self.config.fasttext.arguments()},
        }
        told = json.dumps(description, indent=1, sort_keys=True, ensure_ascii=False, allow_nan=False) + "\n"
        side_file = model.with_name(f"{model.name}.json")
        side_file.write_text(told, encoding="utf-8")
        output.adopt("models", model, model.name, model=True)
        output.adopt("models", side_file, side_file.name, model=False)
        output.write("curve", table)
        output.write("held_out", held_out)
        with output.file("metrics", ".json", held_out=metrics, training=facts) as stream:
            stream.write(json.dumps(metrics, indent=1, sort_keys=True).encode() + b"\n")

    def summary(self, records: Sequence[UnitRecord]) -> dict[str, Any]:
        """The model's file, its held-out metrics and what it was trained on."""
        (metrics,) = [entry for entry in records[0].files if entry["kind"] == "metrics"]
        (model,) = [entry for entry in records[0].files if entry["attributes"].get("model")]
        return {"model": model["path"], **metrics["attributes"]}


def ingest_stage(config: ClassifierConfig, side: Side) -> Ingest | None:
    """The stage that reads the files of a class, or None where it has none."""
    ingest = config.ingest(side)
    return None if ingest is None else Ingest(ingest, {})


def model_file(classifier: Committed) -> File:
    """The model of a committed classifier stage; its description is the same path with .json behind it."""
    (model,) = [file for file in classifier.files("models") if file.attributes["model"]]
    return model


def training_lines(lines: pa.Array, positive: pa.Array, labels: tuple[str, str]) -> pa.LargeStringArray:
    """Lines for fastText's training: a label, the text, a newline.

    `labels` are those of negative and positive documents. What fastText does not take for a word when it applies a
    model is left out of the training too: labels, and everything from </s> on.
    """
    words = pc.replace_substring_regex(lines.cast(pa.large_string()), _AFTER_THE_END, "")
    words = pc.replace_substring_regex(words, _LABELS_IN_TEXT, "")
    heads = pc.if_else(positive, f"{_LABEL}{labels[1]} ", f"{_LABEL}{labels[0]} ").cast(pa.large_string())
    newline = pa.scalar("\n", pa.large_string())
    return pc.binary_join_element_wise(heads, words, newline, pa.scalar("", pa.large_string()))


def write_training_text(path: Path, batches: Iterator[pa.RecordBatch], labels: tuple[str, str]) -> int:
    """Write the file that fastText trains on from batches of line and positive; returns the number of its words."""
    spaces = 0
    with path.open("wb") as stream:
        for batch in batches:
            lines = training_lines(batch["line"], batch["positive"], labels)
            view = utf8_view(lines)
            stream.write(view.data[view.starts[0] : view.ends[-1]].data)
            spaces += pc.sum(pc.count_substring(lines, " ")).as_py()
    return spaces  # one space stands before each word


def _library() -> str:
    for name in ("fasttext-community", "fasttext"):
        try:
            return f"{name} {version(name)}"
        except PackageNotFoundError:
            continue
    return "fasttext"
