"""A whole judging: its numbers beside brute force, a stop in between, several checkpoints, other kinds of models."""

from __future__ import annotations

import gzip
import json
import math
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from tests.training.evaluation.kinds import checkpoint as checkpoint_of_kind
from tests.training.small_models import TEXT, write_shard
from tests.training.suites.toys import judged, one_thread, quiz, write_checkpoint, write_rows, write_yaml
from training.config import from_dict, to_dict
from training.evaluation.command import read_config
from training.suites import run
from training.suites.command import main
from training.suites.config import MemorizationConfig
from training.suites.memorization import sample

__all__ = ["one_thread"]


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_checkpoint(tmp_path_factory.mktemp("model"))


@pytest.fixture
def config(tmp_path: Path, checkpoint: Path) -> dict[str, Any]:
    write_rows(tmp_path / "quiz.jsonl", quiz(24))
    write_rows(
        tmp_path / "pairs.jsonl", [{"g": "The man saw.", "b": "The man see.", "k": str(n % 2)} for n in range(6)]
    )
    (tmp_path / "text.txt").write_text(TEXT[0] * 9, encoding="utf-8")
    write_rows(tmp_path / "ask.jsonl", [{"q": row["question"], "a": row["options"]} for row in quiz(7)])
    choices = {"form": "choices", "file": "quiz.jsonl", "prompt": "{question}", "choices_field": "options"}
    tasks = [
        write_yaml(tmp_path / "quiz.yaml", **choices, answer="right", group="kind", metric="accuracy_tokens"),
        write_yaml(tmp_path / "pairs.yaml", form="pairs", file="pairs.jsonl", good="g", bad="b", group="k"),
        write_yaml(tmp_path / "text.yaml", form="text", file="text.txt", stride=16),
        write_yaml(
            tmp_path / "ask.yaml",
            form="generation",
            file="ask.jsonl",
            prompt="{q}",
            references="a",
            metrics=["exact_match", "chrf"],
            max_new_tokens=8,
        ),
    ]
    group = write_yaml(tmp_path / "all.yaml", tasks=tasks, centered=False)
    return {
        "tasks": [group],
        "root": str(tmp_path),
        "precision": "fp32",
        "checkpoint": str(checkpoint),
        "output": str(tmp_path / "out"),
        "threads": 1,
        "device": "cpu",
    }


def test_numbers_beside_brute_force(config: dict[str, Any], checkpoint: Path):
    document = run(config)
    model = judged(checkpoint)

    def logs(text: str) -> list[float]:
        ids = [0, *model.tokenizer.encode(text, add_special_tokens=False).ids]
        with torch.inference_mode():
            table = model.model(torch.tensor([ids[:-1]]))[0].log_softmax(1)
        return [float(table[place, token]) for place, token in enumerate(ids[1:])]

    rights = []
    for row in quiz(24):
        prompt = len(logs(row["question"]))
        means = [float(np.mean(logs(f"{row['question']} {option}")[prompt:])) for option in row["options"]]
        rights.append(int(np.argmax(means)) == row["right"])
    assert document["metrics"]["quiz/accuracy_tokens"] == pytest.approx(np.mean(rights))
    won = sum(logs("The man saw.")) > sum(logs("The man see."))
    assert document["metrics"]["pairs/accuracy"] == float(won)

    ids = [0, *model.tokenizer.encode(TEXT[0] * 9, add_special_tokens=False).ids]
    total, done = 0.0, 0
    for end in [*range(64, len(ids) - 1, 16), len(ids) - 1]:
        begin = max(0, end - 64)
        with torch.inference_mode():
            table = model.model(torch.tensor([ids[begin:end]]))[0].log_softmax(1)
        total += sum(float(table[place - begin, ids[place + 1]]) for place in range(done, end))
        done = end
    assert document["metrics"]["text/perplexity"] == pytest.approx(math.exp(-total / (len(ids) - 1)), rel=1e-5)
    size = len(TEXT[0].encode()) * 9
    assert document["metrics"]["text/bits_per_byte"] == pytest.approx(-total / size / math.log(2), rel=1e-5)
    assert document["metrics"]["all/mean"] == pytest.approx(
        np.mean(
            [
                document["metrics"][name]
                for name in ("quiz/accuracy_tokens", "pairs/accuracy", "text/bits_per_byte", "ask/exact_match")
            ]
        )
    )
    (row,) = [row for row in document["tables"]["tasks"]["rows"] if row[:3] == ["quiz", "accuracy_tokens", True]]
    assert row[5] == pytest.approx(1 / 3)
    output = Path(config["output"])
    assert json.loads((output / "results.json").read_text()) == document
    records = gzip.decompress((output / "artifacts/items/quiz.jsonl.gz").read_bytes()).decode().splitlines()
    assert len(records) == 24
    assert [json.loads(line)["accuracy_tokens"] == json.loads(line)["gold"] for line in records] == rights


def test_prompts_that_lose_their_beginning_are_told_of(config: dict[str, Any], tmp_path: Path):
    long, short = "The man saw the book. " * 30, "The man"
    write_rows(tmp_path / "ask.jsonl", [{"q": text, "a": "x"} for text in (long, short, long)])
    told: list[dict[str, Any]] = []
    document = run({**config, "tasks": [str(tmp_path / "ask.yaml")]}, told.append)
    assert document["cut"] == {"ask": 2}
    assert any("ask: 2 prompts exceed the model's context" in str(event.get("message")) for event in told)


def test_a_stopped_judging_ends_with_the_same_bytes(config: dict[str, Any], tmp_path: Path):
    run({**config, "output": str(tmp_path / "whole")})

    class Stop(Exception):
        pass

    def stop(event: dict[str, Any]) -> None:
        if event["event"] == "progress" and event["step"] == 3:
            raise Stop

    with pytest.raises(Stop):
        run(config, stop)
    assert not (tmp_path / "out" / "results.json").exists()
    run(config)
    for name in ("results.json", "artifacts/items/quiz.jsonl.gz", "artifacts/items/ask.jsonl.gz"):
        assert (tmp_path / "out" / name).read_bytes() == (tmp_path / "whole" / name).read_bytes()


def test_checkpoints_in_one_table_by_step(config: dict[str, Any], checkpoint: Path, tmp_path: Path):
    earlier = write_checkpoint(tmp_path / "earlier", seed=3, step=5)
    marks = {"quiz": {"cleaned": False, "note": "left in the corpus"}}
    document = run({**config, "checkpoints": [str(earlier), str(checkpoint)], "contamination": marks})
    table = document["tables"]["checkpoints"]
    assert [row[1] for row in table["rows"]] == [5, 10]
    place = table["columns"].index("quiz/accuracy_tokens")
    alone = run({**config, "checkpoint": str(earlier), "output": str(tmp_path / "alone")})
    assert table["rows"][0][place] == alone["metrics"]["quiz/accuracy_tokens"]
    assert [one["checkpoint"]["step"] for one in document["checkpoints"]] == [5, 10]
    assert document["checkpoint"]["step"] == 10
    assert document["metrics"]["quiz/cleaned"] == 0.0
    assert {row[-1] for row in document["tables"]["tasks"]["rows"] if row[0] == "quiz"} == {"left in the corpus"}


def test_a_model_that_reads_both_sides_leaves_out_what_it_cannot_do(config: dict[str, Any], tmp_path: Path):
    events: list[dict[str, Any]] = []
    bert = checkpoint_of_kind(tmp_path / "bert", "bert")
    document = run({**config, "checkpoint": str(bert)}, events.append)
    assert set(document["skipped"]) == {"text", "ask"}
    assert document["checkpoint"]["score"] == "pseudo_log_likelihood"
    assert "quiz/accuracy_tokens" in document["metrics"]
    assert any(
        event["event"] == "warning" and "does not read from left to right" in event["message"] for event in events
    )


def test_memorised_text_is_told_from_other_text(config: dict[str, Any], checkpoint: Path, tmp_path: Path):
    """The 'training text' is what the model itself writes, so that all of it is written on word for word."""
    model = judged(checkpoint)
    ids = [0, 7]
    with torch.inference_mode():
        for _ in range(60):
            ids.append(int(model.model(torch.tensor([ids]))[0, -1, 1:].argmax()) + 1)
    shard = tmp_path / "train.bin"
    np.array(ids[1:], dtype="<u2").tofile(shard)
    train = {"path": str(shard), "split": "train", "tokens": len(ids) - 1, "dtype": "uint16"}
    other = to_dict(write_shard(tmp_path / "v.bin", [" ".join(TEXT * 3)] * 3, model.tokenizer, "validation"))
    probe = {"samples": 50, "prefix_tokens": [6, 500], "continuation_tokens": 55}
    given = {**config, "tasks": [], "memorization": probe, "data": [train, other]}
    with pytest.raises(ValueError, match="must fit into the context of 64"):
        run(given | {"memorization": {**probe, "prefix_tokens": [500]}})
    metrics = run(given)["metrics"]
    assert metrics["memorization/train/exact_6"] == 1.0
    assert metrics["memorization/train/longest_match_6"] == 55
    assert metrics["memorization/validation/exact_6"] == 0.0
    assert metrics["memorization/validation/matched_tokens_6"] < 5
    with pytest.raises(ValueError, match="there is no train shard"):
        run({**given, "data": [other]})


def test_stretches_lie_within_documents(tmp_path: Path):
    tokens = np.array([*range(1, 20), 0, *range(30, 50), 0], dtype="<u2")
    tokens.tofile(tmp_path / "s.bin")
    from training.config import Shard

    shards = [Shard(str(tmp_path / "s.bin"), "train", 3), Shard(str(tmp_path / "s.bin"), "train", len(tokens))]
    found = sample(shards[1:], 12, 100, 0, 1)
    assert sorted(row[0] for row in found.tolist()) == [*range(1, 9), *range(30, 39)]
    assert (np.diff(found, axis=1) == 1).all()


def test_wrong_settings_are_named(config: dict[str, Any], tmp_path: Path, capsys: pytest.CaptureFixture[str]):
    with pytest.raises(ValueError, match="unknown 'nothing'"):
        run({**config, "tasks": ["nothing"]})
    with pytest.raises(ValueError, match="shot: unknown"):
        run({**config, "shot": 1})
    with pytest.raises(ValueError, match="tasks: names none"):
        run({**config, "tasks": []})
    with pytest.raises(ValueError, match=r"prefix_tokens must be at least 1, got 0"):
        from_dict(MemorizationConfig, {"prefix_tokens": [0]})
    (tmp_path / "c.json").write_text(json.dumps({**config, "checkpoint": str(tmp_path / "none")}))
    assert main(str(tmp_path / "c.json")) == 2
    last = json.loads(capsys.readouterr().out.splitlines()[-1])
    assert last["event"] == "error"
    assert str(tmp_path / "none") in last["message"]
    assert read_config(tmp_path / "c.json")["root"] == str(tmp_path)


def test_a_checkpoint_without_tokenizer_is_named(config: dict[str, Any], tmp_path: Path):
    bare = write_checkpoint(tmp_path / "bare")
    (bare / "tokenizer.json").unlink()
    with pytest.raises(ValueError, match=r"tokenizer.json: missing; this checkpoint was trained without a tokenizer"):
        run({**config, "checkpoint": str(bare)})
