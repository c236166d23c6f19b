"""A fine-tuned model, as MLflow loads it, says what the fine-tuning's own predictor says."""

from __future__ import annotations

from pathlib import Path

import mlflow
import pandas
import pytest

from tests.training.evaluation.kinds import checkpoint
from tests.training.finetuning.tiny_tasks import finetune, one_thread, task
from training.finetuning.predictor import FineTuned
from training.tracking.packaging import build_model_folder

__all__ = ["one_thread"]

TEXTS = ["reads the book reads", "man see saw man", "see"]


@pytest.mark.parametrize("by_reference", [True, False])
def test_a_fine_tuned_model_comes_back_from_mlflow(tmp_path: Path, by_reference: bool) -> None:
    tasks = [task(tmp_path, "classification", 16), task(tmp_path, "pair_classification", 16)]
    finetune(checkpoint(tmp_path / "bert", "bert"), tmp_path / "out", *tasks, epochs=1)
    made = tmp_path / "out" / "model"
    (tmp_path / "logged").mkdir()
    build_model_folder(tmp_path / "logged", made, "m-" + "0" * 32, "0" * 32, by_reference)
    loaded = mlflow.pyfunc.load_model(str(tmp_path / "logged"))
    own = FineTuned(made)
    one = {"task": "classification"}
    expected = own.predict([{"text": text} for text in TEXTS], "classification")
    assert loaded.predict(TEXTS, params=one) == expected
    assert loaded.predict(pandas.DataFrame({"text": TEXTS}), params=one) == expected
    rows = [{"text": text, "second": "saw a man"} for text in TEXTS]
    assert loaded.predict(rows, params={"task": "pair_classification"}) == own.predict(rows, "pair_classification")
    with pytest.raises(ValueError, match="task must be one of classification, pair_classification"):
        loaded.predict(TEXTS)
    with pytest.raises(ValueError, match="row 1: no column 'second'"):
        loaded.predict(TEXTS, params={"task": "pair_classification"})
