from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pyarrow as pa
import pytest
from pydantic import ValidationError

from pipeline.annotators import Batch
from pipeline.classifiers.linear import FastTextClassifier, FastTextClassifierConfig
from pipeline.classifiers.normalisation import Normalisation, side_file
from pipeline.classify import Classify, ClassifyConfig
from pipeline.fasttext_model import load_model
from pipeline.signals import Signals, SignalsError
from tests.pipeline.documents_stage import commit_documents, content, run
from tests.pipeline.fasttext_models import train_fasttext
from tests.pipeline.lid import needs_lid
from tests.pipeline.test_filter import annotated

TEXTS = ["snow and ice of the winter", "", "sun and fire\nin the desert", "雪 冰", " \n", "river, rain and sea"]


@pytest.fixture(scope="session")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return train_fasttext(
        tmp_path_factory.mktemp("model") / "weather.bin", dim=8, loss="softmax", wordNgrams=2, bucket=90
    )


def classify(ref, model: Path, **values: Any) -> Classify:
    config = {"name": "weather", "path": str(model), **values}
    return Classify(ClassifyConfig.model_validate({"fasttext": [config]}), {"deduplicate": ref})


def test_one_row_of_scores_for_each_document_in_order(tmp_path: Path, model: Path):
    ref = commit_documents(tmp_path, TEXTS[:4], [], TEXTS[4:])
    _, committed = run(classify(ref, model), tmp_path)
    assert [file.rows for file in committed.files("signals")] == [4, 0, 2]
    expected = load_model(model).probabilities(pa.array(TEXTS, pa.large_string()))
    rows = [row for file in committed.files("signals") for row in file.table().to_pylist()]
    ids = [id_ for file in ref.committed().files("documents") for id_ in file.table()["id"].to_pylist()]
    assert [row["id"] for row in rows] == ids
    for row, scores in zip(rows, expected, strict=True):
        found = [row[f"weather_{label}_score"] for label in load_model(model).labels]
        if row["weather_cold_score"] is None:
            assert found == [None] * 3
        else:
            assert found == pytest.approx(scores.clip(0, 1))
    best = [max(("cold", "hot", "wet"), key=lambda label: row[f"weather_{label}_score"] or 0) for row in rows]
    assert [best[number] for number in (0, 2, 3, 5)] == ["cold", "hot", "cold", "wet"]
    assert [number for number, row in enumerate(rows) if row["weather_hot_score"] is None] == [1, 4]
    assert committed.counts["bytes_in"] == sum(len(text.encode()) for text in TEXTS)
    _, two = run(classify(ref, model), tmp_path / "two", workers=2)
    assert content(two) == content(committed)


def test_labels_can_be_chosen(tmp_path: Path, model: Path):
    ref = commit_documents(tmp_path, TEXTS)
    _, committed = run(classify(ref, model, labels=["wet"]), tmp_path)
    assert committed.files("signals")[0].table().column_names == ["id", "weather_wet_score"]
    with pytest.raises(ValueError, match="has no label 'dry'; it has"):
        classify(ref, model, labels=["dry"]).fingerprint()


def test_identity_is_of_the_models_content(tmp_path: Path, model: Path):
    ref = commit_documents(tmp_path, ["a"])
    moved = tmp_path / "moved.bin"
    moved.write_bytes(model.read_bytes())
    assert classify(ref, moved).fingerprint() == classify(ref, model).fingerprint()
    assert classify(ref, model, limit_bytes=10).fingerprint() != classify(ref, model).fingerprint()
    other = train_fasttext(tmp_path / "other.bin", dim=9)
    assert classify(ref, other).fingerprint() != classify(ref, model).fingerprint()
    with pytest.raises(ValueError, match="no fastText model at"):
        classify(ref, tmp_path / "gone.bin").fingerprint()
    (tmp_path / "bad.bin").write_bytes(b"x" * 100)
    with pytest.raises(ValueError, match="is not a fastText model"):
        classify(ref, tmp_path / "bad.bin").fingerprint()


def test_a_model_is_applied_as_it_was_trained(tmp_path: Path, model: Path):
    own = tmp_path / "own.bin"
    own.write_bytes(model.read_bytes())
    normalisation = Normalisation(limit_bytes=None, separate_unspaced=True)
    side_file(own).write_text(json.dumps({"normalisation": normalisation.identity()}))
    text = pa.array(["雪冰雪"], pa.large_string())
    batch = Batch.of(pa.table({"text": text, "url": pa.nulls(1, pa.string())}))
    given = FastTextClassifier(FastTextClassifierConfig(name="a", path=str(own)))
    asked = FastTextClassifier(FastTextClassifierConfig(name="a", path=str(model), separate_unspaced=True))
    plain = FastTextClassifier(FastTextClassifierConfig(name="a", path=str(model)))
    assert given.measure(batch) == asked.measure(batch) != plain.measure(batch)
    contrary = FastTextClassifier(FastTextClassifierConfig(name="a", path=str(own), limit_bytes=3))
    with pytest.raises(ValueError, match="was trained with limit_bytes None and separate_unspaced True"):
        contrary.identity()


def test_config_errors(model: Path):
    with pytest.raises(ValidationError, match="there is no classifier"):
        ClassifyConfig()
    one = {"name": "a", "path": str(model)}
    with pytest.raises(ValidationError, match="two classifiers have the name 'a'"):
        ClassifyConfig.model_validate({"fasttext": [one, one]})
    with pytest.raises(ValidationError, match="name"):
        FastTextClassifierConfig(name="Not a column", path=str(model))


@needs_lid
def test_signals_of_all_stages_are_one_table(tmp_path: Path, model: Path):
    inputs = annotated(tmp_path, TEXTS[:4], [], TEXTS[4:])
    ref, _ = run(classify(inputs["deduplicate"], model, labels=["hot"]), tmp_path)
    stages = {name: stage.committed() for name, stage in {**inputs, "classify": ref}.items()}
    signals = Signals(stages)
    assert signals.schema.names[-1] == "weather_hot_score"
    assert [signals.table(shard).num_rows for shard in range(signals.shards)] == [4, 0, 2]
    assert signals.table(0).schema.names == signals.schema.names
    other = commit_documents(tmp_path, ["b"])
    foreign, _ = run(classify(other, model), tmp_path)
    with pytest.raises(SignalsError, match="measured different documents"):
        Signals({**stages, "classify": foreign.committed()})
