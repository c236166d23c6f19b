import json
from pathlib import Path
from typing import Any

import pytest
from pydantic import BaseModel, TypeAdapter, ValidationError

from tests.training.tiny_run import changed, make_run
from training.config import (
    PRESETS,
    ModelConfig,
    TrainingConfig,
    TrainingRun,
    expand_preset,
    from_dict,
    load_run,
    to_dict,
)

SMALLEST: dict[str, Any] = {"data": [], "vocabulary_size": 10, "end_of_text": 0, "output_dir": "out"}


def test_a_run_survives_json(tmp_path: Path) -> None:
    run = make_run(tmp_path)
    assert from_dict(TrainingRun, json.loads(json.dumps(to_dict(run)))) == run


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"vocabulary_size": "10"}, r"vocabulary_size: expected an integer, got '10'"),
        ({"vocabulary_size": True}, r"vocabulary_size: expected an integer, got True"),
        ({"stepps": 3}, r"stepps: unknown; allowed are data, vocabulary_size"),
        ({"training": {"stepps": 3}}, r"training\.stepps: unknown"),
        ({"training": {"steps": 0}}, r"training\.steps must be at least 1, got 0"),
        ({"training": []}, r"training: expected an object, got \[\]"),
        ({"training": {"device": "tpu"}}, r"training\.device: expected one of auto, cpu, cuda, got 'tpu'"),
        ({"training": {"sequence_length": "x"}}, r"training\.sequence_length: expected an integer, got 'x'"),
        ({"model": {"width": 100, "heads": 3}}, r"model\.width must be a multiple of heads = 3, got 100"),
        ({"model": {"preset": "gpt9"}}, r"model\.preset: 'gpt9' is unknown; there are nano, gpt2"),
        ({"optimizer": {"learning_rate": -1}}, r"optimizer\.learning_rate must be a positive number, got -1"),
        ({"optimizer": {"beta1": 1.5}}, r"optimizer\.beta1 must lie in \[0, 0\.999999\], got 1\.5"),
        ({"objective": {"name": "diffusion"}}, r"objective\.name: expected one of causal, masked, .*, got 'diffusion'"),
        (
            {"objective": "bert"},
            "sentence_task next_sentence needs model.pooler: true",
        ),
        ({"model": "bert-tiny", "objective": "roberta"}, "trains model.pooler .* set model.pooler: false"),
        ({"model": "bert-tiny", "objective": "electra"}, "needs model.architecture: replaced_token, got transformer"),
        (
            {"data": [{"path": "a", "split": "test", "tokens": 1}]},
            r"data\[0\]\.split: expected one of train, validation",
        ),
        ({"data": [{"path": "a", "split": "train"}]}, r"data\[0\]\.tokens: missing"),
        ({"end_of_text": 10}, r"end_of_text must lie in the vocabulary \[0, 10\), got 10"),
        ({"training": {"sequence_length": 4096}}, r"training\.sequence_length \(4096\) must not exceed model\.context"),
    ],
)
def test_errors_name_the_field(change: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        from_dict(TrainingRun, SMALLEST | change)


def test_a_missing_field_and_unreadable_files_are_named(tmp_path: Path) -> None:
    path = tmp_path / "run.json"
    with pytest.raises(ValueError, match=r"run\.json: cannot be read: No such file"):
        load_run(path)
    path.write_text("{")
    with pytest.raises(ValueError, match=r"run\.json: not valid JSON"):
        load_run(path)
    path.write_text("{}")
    with pytest.raises(ValueError, match=r"run\.json: data: missing"):
        load_run(path)


def test_presets_fill_in_what_is_not_given() -> None:
    run = from_dict(TrainingRun, SMALLEST | {"model": {"preset": "gpt2", "context_length": 512}})
    assert (run.model.layers, run.model.width, run.model.context_length) == (12, 768, 512)
    for name in PRESETS:
        assert from_dict(ModelConfig, name) == from_dict(ModelConfig, expand_preset(name))


def test_pydantic_takes_the_dataclasses_as_they_are() -> None:
    class Recipe(BaseModel):
        training: TrainingConfig

    assert Recipe.model_validate({"training": {"steps": 7}}).training == TrainingConfig(steps=7)
    with pytest.raises(ValidationError, match=r"training\.stepps"):
        Recipe.model_validate({"training": {"stepps": 7}})
    with pytest.raises(ValidationError, match=r"steps must be at least 1"):
        Recipe.model_validate({"training": {"steps": 0}})
    properties = TypeAdapter(TrainingConfig).json_schema()["properties"]
    assert properties["batch_size"]["description"].startswith("Sequences in one optimiser step")


@pytest.mark.parametrize(("told", "meant"), [(False, "off"), (True, "on"), ("off", "off"), ("auto", "auto")])
def test_a_switch_may_be_what_yaml_makes_of_on_and_off(told: object, meant: str) -> None:
    assert from_dict(TrainingConfig, {"compile": told}).compile == meant
    assert TypeAdapter(TrainingConfig).validate_python({"compile": told}).compile == meant


def test_a_switch_refuses_other_words() -> None:
    with pytest.raises(ValueError, match=r"compile: expected one of auto, on, off, got 'maybe'"):
        from_dict(TrainingConfig, {"compile": "maybe"})
    with pytest.raises(ValidationError, match="compile"):
        TypeAdapter(TrainingConfig).validate_python({"compile": "maybe"})


def test_identity_holds_what_decides_the_weights_and_nothing_else(tmp_path: Path) -> None:
    run = make_run(tmp_path)
    same = [
        changed(run, output_dir="elsewhere"),
        changed(run, "training", device_batch_size=2, threads=2, log_every=1, checkpoint_every=3, keep=9),
    ]
    other = [
        changed(run, "training", steps=13),
        changed(run, "training", seed=2),
        changed(run, "optimizer", weight_decay=0.1),
        changed(run, "model", qk_norm="none"),
        changed(run, dataset_fingerprint="tokens-2"),
    ]
    assert all(each.identity() == run.identity() for each in same)
    assert all(each.identity() != run.identity() for each in other)
