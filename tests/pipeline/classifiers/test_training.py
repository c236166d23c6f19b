"""Training on generated topics: what it learns, that it is the same each time, and what it refuses."""

from __future__ import annotations

import json
import random
from pathlib import Path
from typing import Any

import fasttext
import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from pydantic import ValidationError

from pipeline.classifiers.config import ClassifierConfig
from pipeline.classifiers.normalisation import Normalisation, side_file
from pipeline.classifiers.training import TrainClassifier, model_file, training_lines
from pipeline.fasttext_model import FastTextModel
from pipeline.stage import StageError
from pipeline.store import file_sha256
from tests.pipeline.classifiers.corpora import (
    chinese_topic,
    stage,
    topic,
    train,
    values,
    write_jsonl,
    write_topics,
)
from tests.pipeline.documents_stage import commit_documents, content


@pytest.fixture(scope="module")
def files(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    return write_topics(tmp_path_factory.mktemp("topics"))


@pytest.fixture(scope="module")
def trained(files: dict[str, Path], tmp_path_factory: pytest.TempPathFactory):
    return train(tmp_path_factory.mktemp("store"), values(files))


def predict(path: str, lines: list[str]) -> np.ndarray:
    """The probability of the positive label by fastText itself."""
    found = fasttext.load_model(path).predict(lines, k=2)
    return np.array(
        [
            dict(zip(labels, scores, strict=True))["__label__positive"]
            for labels, scores in zip(found[0], found[1], strict=True)
        ]
    )


def test_it_learns_the_topics_and_says_how_well(trained):
    held_out = trained.manifest["summary"]["held_out"]
    assert held_out["documents"] > 30
    assert held_out["roc_auc"] > 0.98
    assert held_out["f1"] > 0.9
    parts = trained.manifest["summary"]["training"]["documents"]
    assert sum(sum(part.values()) for part in parts.values()) == trained.counts["kept"]
    rng = random.Random(99)
    fresh = [topic(rng, kitchen=number % 2 == 0) for number in range(100)]
    hits = (predict(model_file(trained).path, fresh) > 0.5) == (np.arange(100) % 2 == 0)
    assert hits.mean() > 0.9


def test_every_file_is_there_and_matches_its_digest(trained):
    assert trained.verify() == []
    path = Path(model_file(trained).path)
    assert path.name == "kitchen.bin"
    described = json.loads(side_file(path).read_text())
    assert described["model_sha256"] == file_sha256(path)
    assert described["labels"] == {"negative": "negative", "positive": "positive"}
    assert described["held_out"] == trained.manifest["summary"]["held_out"]
    assert described["held_out"] == json.loads(Path(trained.files("metrics")[0].path).read_text())
    assert [row["threshold"] for row in described["thresholds"]] == sorted(
        ClassifierConfig.model_fields["thresholds"].default
    )
    assert Normalisation.beside(path) == Normalisation()


def test_the_held_out_scores_are_those_of_fasttext_on_documents_that_did_not_train(trained, files: dict[str, Path]):
    scores = trained.files("held_out")[0].table()
    (curve,) = trained.files("curve")
    at_half = next(row for row in curve.table().to_pylist() if row["threshold"] == 0.5)
    found, positive = scores["score"].to_numpy(), scores["positive"].to_numpy()
    assert at_half["recall"] == pytest.approx((found[positive] >= 0.5).mean())
    texts = {}
    for ingest in (Path(trained.path).parents[1] / "ingest").iterdir():
        for shard in ingest.glob("documents/*.parquet"):
            table = pq.read_table(shard, columns=["id", "text"])
            texts |= dict(zip(table["id"].to_pylist(), table["text"].to_pylist(), strict=True))
    lines = [texts[key] for key in scores["id"].to_pylist()]
    assert np.allclose(predict(model_file(trained).path, lines), found, atol=1e-4)
    assert trained.manifest["summary"]["training"]["words"] == 30 * (len(texts) - len(lines))


def test_the_same_documents_give_the_same_bytes(trained, files: dict[str, Path], tmp_path: Path):
    expected = content(trained)
    for attempt in range(3):
        assert content(train(tmp_path / str(attempt), values(files))) == expected
    # Another order and another cut of the same documents: other ids, the same model.
    shuffled = {}
    for side, path in files.items():
        lines = path.read_text().splitlines(keepends=True)
        random.Random(5).shuffle(lines)
        shuffled[side] = tmp_path / path.name
        shuffled[side].write_text("".join(lines))
    other = train(tmp_path / "shuffled", values(shuffled, unit_bytes=5000))
    assert model_file(other).sha256 == model_file(trained).sha256
    assert other.files("curve")[0].sha256 == trained.files("curve")[0].sha256
    assert other.fingerprint != trained.fingerprint
    few = [
        train(tmp_path / f"few-{number}", values(given, maximum_documents=150))
        for number, given in enumerate((files, shuffled))
    ]
    assert model_file(few[0]).sha256 == model_file(few[1]).sha256 != model_file(trained).sha256


def test_a_second_run_does_nothing(files: dict[str, Path], tmp_path: Path):
    first = train(tmp_path, values(files))
    before = {path: path.stat().st_mtime_ns for path in tmp_path.rglob("*") if path.is_file()}
    assert train(tmp_path, values(files)).manifest == first.manifest
    assert before == {path: path.stat().st_mtime_ns for path in tmp_path.rglob("*") if path.is_file()}
    assert not list(Path(first.path).glob("**/*train.txt"))  # what only the training needed is gone


def test_characters_of_unspaced_scripts_become_words_where_asked(tmp_path: Path):
    files = write_topics(tmp_path, 300, chinese_topic)
    blind = train(tmp_path / "blind", values(files))
    seeing = train(tmp_path / "seeing", values(files, separate_unspaced=True))
    assert blind.manifest["summary"]["held_out"]["roc_auc"] < 0.7  # each document is one unknown word
    assert seeing.manifest["summary"]["held_out"]["roc_auc"] > 0.97
    used = Normalisation.beside(model_file(seeing).path)
    assert used == Normalisation(None, True)
    model = FastTextModel(model_file(seeing).path)
    rng = random.Random(8)
    fresh = used.apply(pa.array([chinese_topic(rng, number % 2 == 0) for number in range(60)]))
    found = model.probabilities(fresh)[:, model.labels.index("positive")]
    assert ((found > 0.5) == (np.arange(60) % 2 == 0)).mean() > 0.9


def test_a_quantised_model_is_small_and_the_same_each_time(files: dict[str, Path], tmp_path: Path):
    config = values(files, quantised={"features": 256, "retrain": True})
    config["fasttext"] = {**config["fasttext"], "buckets": 5_000}
    first, second = train(tmp_path / "a", config), train(tmp_path / "b", config)
    assert Path(model_file(first).path).name == "kitchen.ftz"
    assert content(first) == content(second)
    assert model_file(first).bytes < 5_000 * 8 * 4 / 5
    assert first.manifest["summary"]["held_out"]["roc_auc"] > 0.95


def test_copies_contradictions_and_empty_texts_go_with_a_reason(files: dict[str, Path], tmp_path: Path):
    rng = random.Random(3)
    positive = [topic(rng, True) for _ in range(150)]
    negative = [topic(rng, False) for _ in range(200)]
    both = "this stands on both sides"
    sources = {
        "positive": write_jsonl(
            tmp_path / "positive.jsonl", [*positive, positive[0], positive[0] + "\n", both, "\x01"]
        ),
        "negative": write_jsonl(tmp_path / "negative.jsonl", [*negative, both, both]),
    }
    done = train(tmp_path / "store", values(sources))
    rules: dict[str, int] = {}
    for row in done.files("ledger")[0].table().to_pylist():
        rules[row["rule"]] = rules.get(row["rule"], 0) + 1
        assert row["action"] == "dropped"
        assert (row["twin"] is not None) == (row["rule"] == "duplicate")
    assert rules == {"empty": 1, "duplicate": 2, "both_classes": 3, "not_sampled": 50}
    assert done.counts["read"] == 356
    assert done.counts["kept"] == 300
    everything = train(tmp_path / "store", values(sources, balance="none"))
    assert everything.counts["kept"] == 350
    few = train(tmp_path / "store", values(sources, maximum_documents=120))
    assert few.counts["kept"] == 240


def test_the_held_out_share_is_kept(files: dict[str, Path], tmp_path: Path):
    parts = train(tmp_path, values(files, held_out=0.4)).manifest["summary"]["training"]["documents"]
    for part in parts.values():
        assert part["held_out"] / (part["train"] + part["held_out"]) == pytest.approx(0.4, abs=0.09)


def test_text_cannot_pass_for_a_label_or_end_the_line(tmp_path: Path):
    lines = pa.array(
        ["a __label__evil b", "__label__positive", "a </s> b", "</s> x", "x</s> y", "__label__a __label__b c"]
    )
    told = training_lines(lines, pa.array([True, False, True, False, True, False]), ("bad", "good")).to_pylist()
    assert told == [
        "__label__good a b\n",
        "__label__bad \n",
        "__label__good a\n",
        "__label__bad \n",
        "__label__good x</s> y\n",
        "__label__bad  c\n",
    ]
    rng = random.Random(2)
    hostile = ("__label__negative ", "</s> ", "__label__other ", "")
    files = {
        side: write_jsonl(
            tmp_path / f"{side}.jsonl", [rng.choice(hostile) + topic(rng, side == "positive") for _ in range(300)]
        )
        for side in ("negative", "positive")
    }
    done = train(tmp_path / "store", values(files))
    model = FastTextModel(model_file(done).path)
    assert set(model.labels) == {"negative", "positive"}


def test_documents_of_the_workspace_by_a_condition(files: dict[str, Path], tmp_path: Path):
    rng = random.Random(4)
    kitchen = [topic(rng, True, 50) for _ in range(200)]
    river = [topic(rng, False, 50) for _ in range(150)]
    ref = commit_documents(tmp_path, kitchen, river)
    config = {
        "name": "kitchen",
        "positive": {"documents": {"where": "source = 'source-0' AND length(text) > 10"}},
        "negative": {"documents": {"where": "source = 'source-1'"}},
        "fasttext": {"dimension": 8, "buckets": 1000, "epochs": 10, "learning_rate": 0.5},
        "balance": "none",
    }
    both = {"positive_documents": ref, "negative_documents": ref}
    done = train(tmp_path, config, **both)
    assert done.counts["read"] == 350
    assert done.manifest["summary"]["held_out"]["roc_auc"] > 0.98
    config["positive"] = {"documents": {"where": "no_such_column > 3"}}
    with pytest.raises(StageError, match=r"'no_such_column > 3' over deduplicate's documents fails"):
        train(tmp_path, config, **both)
    with pytest.raises(ValueError, match=r"needs the inputs \['negative_documents', 'positive_documents'\]"):
        TrainClassifier(ClassifierConfig.model_validate(config), {"positive_documents": ref})


@pytest.mark.parametrize(
    ("texts", "message"),
    [
        ({"positive": []}, r"0 of 0 positive documents can be used, minimum_documents is 100"),
        ({"negative": ["", " "]}, r"0 of 0 negative documents"),
        ({"negative": ["\x01"] * 200}, r"0 of 200 negative documents .*\(without any text: 200\)"),
        ({"negative": ["same text"] * 200}, r"1 of 200 negative documents .*\(with the text of another: 199\)"),
    ],
)
def test_too_few_documents_are_refused(
    files: dict[str, Path], texts: dict[str, list[str]], message: str, tmp_path: Path
):
    changed = {side: write_jsonl(tmp_path / f"{side}.jsonl", lines) for side, lines in texts.items()}
    with pytest.raises(StageError, match=message):
        train(tmp_path / "store", values({**files, **changed}))
    assert not list((tmp_path / "store" / "classifier").glob("*/manifest.json"))


def test_the_same_documents_on_both_sides_are_refused(files: dict[str, Path], tmp_path: Path):
    same = {"positive": files["positive"], "negative": files["positive"]}
    with pytest.raises(StageError, match=r"\(with a text that stands in both classes: 300\)"):
        train(tmp_path, values(same))


def test_a_share_that_leaves_a_part_empty_is_refused(files: dict[str, Path], tmp_path: Path):
    with pytest.raises(StageError, match="would train and 0 judge the model with held_out = 1e-09"):
        train(tmp_path, values(files, held_out=1e-9))


def test_a_training_that_fails_says_what_fasttext_said(files: dict[str, Path], tmp_path: Path):
    config = values(files)
    config["quantised"] = {"features": 256}
    config["fasttext"] = {"dimension": 8, "buckets": 1, "word_ngrams": 1, "epochs": 1}  # too small for 256 centroids
    with pytest.raises(StageError, match=r"training ended with exit code 1: (.|\n)*Matrix too small for quantization"):
        train(tmp_path, config)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"positive": {}}, "neither sources nor documents"),
        ({"positive_label": "same", "negative_label": "same"}, "they must differ"),
        ({"positive_label": "two words"}, "one word without white space"),
        ({"held_out": 0}, "greater than 0"),
        ({"held_out": 1.0}, "less than 1"),
        ({"minimum_documents": 50, "maximum_documents": 10}, "is below minimum_documents"),
        ({"thresholds": [0.5, 0.1]}, "ascending"),
        ({"thresholds": [0.5, 1.5]}, "from 0 to 1"),
        ({"fasttext": {"minimum_characters": 3}}, "go together"),
        ({"fasttext": {"minimum_characters": 3, "maximum_characters": 2}}, "no such feature"),
        ({"fasttext": {"epoch": 3}}, "Extra inputs"),
        ({"name": "Über"}, "should match pattern"),
    ],
)
def test_a_contradictory_configuration_is_refused(files: dict[str, Path], changes: dict[str, Any], message: str):
    with pytest.raises(ValidationError, match=message):
        ClassifierConfig.model_validate(values(files, **changes))


def test_the_fingerprint_follows_what_reaches_the_model(files: dict[str, Path], tmp_path: Path):
    def fingerprint(**changes: Any) -> str:
        return stage(tmp_path, values(files, **changes)).fingerprint()

    assert fingerprint() == fingerprint()
    seen = {
        fingerprint(**changes) for changes in ({}, {"held_out": 0.2}, {"limit_bytes": 100}, {"separate_unspaced": True})
    }
    assert len(seen) == 4
    moved = write_topics(tmp_path / "elsewhere")
    assert stage(tmp_path, values(moved)).fingerprint() == fingerprint()
