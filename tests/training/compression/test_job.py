"""Whole jobs on a tiny model: what they leave, that a stopped one ends the same, and what they refuse."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

from tests.training.evaluation.kinds import checkpoint, shards
from tests.training.small_models import one_thread  # noqa: F401
from training.checkpoints import describe, load_model
from training.checkpoints.files import file_digest, read_tensors, write_tensors
from training.compression import run
from training.compression.command import main
from training.compression.config import CompressionConfig
from training.compression.pruning_masks import prunable, zero_share
from training.config import Shard, TrainingConfig, from_dict, to_dict
from training.devices import resolve
from training.distributed import World
from training.evaluation.held_out import by_group, measure
from training.evaluation.judged import Judged

TUNING = {"steps": 6, "batch_size": 2, "log_every": 2, "checkpoint_every": 2}
STEPS: list[dict[str, Any]] = [
    {"prune": {"method": "magnitude", "share": 0.5, "gradual_every": 2}, "tuning": TUNING},
    {"prune": {"method": "heads", "share": 0.5}, "tuning": {**TUNING, "steps": 2}},
    {"distil": {"student": {"layers": 1}, "hidden": "cosine"}, "tuning": {**TUNING, "steps": 4}},
]


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return checkpoint(tmp_path_factory.mktemp("model"), "gpt")


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> list[dict[str, Any]]:
    return [to_dict(shard) for shard in shards(tmp_path_factory.mktemp("data"))]


def config(model: Path, output: Path, data: list[dict[str, Any]], steps: Any = STEPS, **more: Any) -> dict[str, Any]:
    job = {"checkpoint": str(model), "output": str(output), "data": data, "threads": 1, "device": "cpu"}
    return {"steps": steps, "speed_seconds": 0.05, "speed_batch": 2, **job, **more}


def test_a_job_from_a_model_to_a_smaller_one(model: Path, data: list[dict[str, Any]], tmp_path: Path) -> None:
    events: list[dict[str, Any]] = []
    results = run(config(model, tmp_path, data), events.append)
    assert results == json.loads((tmp_path / "results.json").read_text())
    assert sorted(path.name for path in tmp_path.iterdir() if path.name != ".lock") == [
        "metrics.jsonl",
        "model",
        "results.json",
    ]
    made, shape = load_model(tmp_path / "model")
    assert (shape.layers, shape.heads) == (1, 1)
    assert zero_share(made) > 0.25  # the zeros of what was left stay
    metrics, table = results["metrics"], results["tables"]["compression"]
    assert table["columns"][:6] == ["model", "bytes", "parameters", "nonzero", "loss", "perplexity"]
    assert [row[0] for row in table["rows"]] == ["before", "1 prune magnitude", "2 prune heads", "3 distil"]
    for name, path in (("before/", model), ("", tmp_path / "model")):
        loaded = load_model(path)[0]
        assert metrics[f"{name}bytes"] == (path / "model.safetensors").stat().st_size
        assert metrics[f"{name}parameters"] == sum(parameter.numel() for parameter in loaded.parameters())
        nonzero = sum(int((parameter != 0).sum()) for parameter in loaded.parameters())
        assert metrics[f"{name}nonzero"] == nonzero
        assert metrics[f"{name}read_tokens_per_second"] > 0
        assert metrics[f"{name}generated_tokens_per_second"] > 0
    assert metrics["ratio/bytes"] == pytest.approx(metrics["bytes"] / metrics["before/bytes"])
    lines = [json.loads(line) for line in (tmp_path / "metrics.jsonl").read_text().splitlines()]
    assert [line["step"] for line in lines] == [2, 4, 6, 8, 10, 12]
    assert {"train/loss", "train/soft", "train/hidden", "train/hard"} <= lines[-1]["metrics"].keys()
    assert {event["event"] for event in events} == {"start", "part", "progress", "evaluation", "finished"}
    assert len(results["lines"]) == 4


def test_the_loss_in_the_table_is_that_of_the_objective(
    model: Path, data: list[dict[str, Any]], tmp_path: Path
) -> None:
    results = run(config(model, tmp_path, data, [{"prune": {"share": 0.3}}], speed_seconds=0, perplexity_tokens=0))
    compute = resolve(TrainingConfig(device="cpu", precision="fp32", threads=1, compile="off"), World())
    held_out = [Shard(**one) for one in data if one["split"] == "validation"]
    for name, path in (("before/", model), ("", tmp_path / "model")):
        measured = measure(Judged(path, compute), held_out, [])
        overall = by_group(measured.shards, measured.metrics)["loss"]["overall"]["value"]
        assert results["metrics"][f"{name}loss"] == pytest.approx(overall, rel=1e-6)


def test_a_model_says_what_it_was_made_of(model: Path, data: list[dict[str, Any]], tmp_path: Path) -> None:
    run(config(model, tmp_path, data, [{"prune": {"method": "2:4"}}], speed_seconds=0))
    ours, theirs = describe(tmp_path / "model"), describe(model)
    assert ours["parent"] == {"checkpoint": str(model), "sha256": file_digest(model / "model.safetensors")}
    for name in ("objective", "special_tokens", "end_of_text", "step", "tokenizer_sha256", "vocabulary_size"):
        assert ours[name] == theirs[name]
    assert ours["compression"]["steps"][0]["prune"]["method"] == "2:4"
    for name, weight in prunable(load_model(tmp_path / "model")[0]).items():
        assert int((weight.reshape(-1, 4) != 0).sum(1).max()) <= 2, name


class Killed(Exception):
    pass


@pytest.fixture(scope="module")
def whole(model: Path, data: list[dict[str, Any]], tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The output of a job that nothing disturbed."""
    output = tmp_path_factory.mktemp("whole")
    run(config(model, output, data, speed_seconds=0))
    return output


@pytest.mark.parametrize(
    "where",
    [
        lambda event: event["event"] == "progress" and event["step"] == 6,
        lambda event: event["event"] == "part" and event["number"] == 2,
        lambda event: event["event"] == "progress" and event["step"] == 12,
        lambda event: event["event"] == "evaluation" and event["part"] == "3 distil",
    ],
)
def test_a_stopped_job_ends_as_an_undisturbed_one(
    model: Path,
    data: list[dict[str, Any]],
    whole: Path,
    tmp_path: Path,
    where: Callable[[dict[str, Any]], bool],
) -> None:
    def report(event: dict[str, Any]) -> None:
        if where(event):
            raise Killed

    with pytest.raises(Killed):
        run(config(model, tmp_path, data, speed_seconds=0), report)
    again = run(config(model, tmp_path, data, speed_seconds=0))
    assert again == json.loads((whole / "results.json").read_text())
    for name in ("model/model.safetensors", "model/config.json"):
        assert (tmp_path / name).read_bytes() == (whole / name).read_bytes()
    losses = [
        [
            (line["step"], line["metrics"]["train/loss"])
            for line in map(json.loads, (folder / "metrics.jsonl").read_text().splitlines())
        ]
        for folder in (tmp_path, whole)
    ]
    assert losses[0] == losses[1]


def test_another_job_in_the_same_folder_begins_anew(model: Path, data: list[dict[str, Any]], tmp_path: Path) -> None:
    def report(event: dict[str, Any]) -> None:
        if event["event"] == "progress" and event["step"] == 4:
            raise Killed

    with pytest.raises(Killed):
        run(config(model, tmp_path / "a", data, STEPS[:1], speed_seconds=0), report)
    other = [{**STEPS[0], "prune": {"method": "magnitude", "share": 0.2}}]
    results = run(config(model, tmp_path / "a", data, other, speed_seconds=0))
    fresh = run(config(model, tmp_path / "b", data, other, speed_seconds=0))
    assert results["metrics"] == fresh["metrics"]


@pytest.mark.parametrize(
    ("steps", "message"),
    [
        ([], "steps must hold at least one step"),
        ([{}], r"steps\[0\].a step is one of distil, prune and quantize, got none of them"),
        ([{"prune": {}, "distil": {}}], "got distil and prune"),
        ([{"prune": {"share": 1.5}}], r"steps\[0\].prune.share must lie in \[0, 0.999\], got 1.5"),
        ([{"prune": {"method": "rows"}}], r"steps\[0\].prune.method: expected one of magnitude, 2:4"),
        ([{"distil": {}}], "distil needs training: set tuning.steps"),
        ([{"distil": {"soft_weight": 0.0}, "tuning": TUNING}], "nothing of the teacher is learned"),
        ([{"quantize": {}}, {"prune": {}}], "quantize must be the last one"),
        ([{"prune": {}, "tuning": {"steps": 1, "sequence_length": 4096}}], r"sequence_length \(4096\) must not exceed"),
    ],
)
def test_wrong_settings_fail_before_any_work(
    model: Path, data: list[dict[str, Any]], tmp_path: Path, steps: list[Any], message: str
) -> None:
    with pytest.raises(ValueError, match=message):
        run(config(model, tmp_path, data, steps))


def test_a_share_that_removes_nothing_is_a_mistake(model: Path, data: list[dict[str, Any]], tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=r"prune.share 0.1 of the model's 2 layers is none"):
        run(config(model, tmp_path, data, [{"prune": {"method": "layers", "share": 0.1}}]))


def test_a_job_that_is_done_is_not_done_again(model: Path, data: list[dict[str, Any]], tmp_path: Path) -> None:
    events: list[str] = []
    job = config(model, tmp_path, data, [{"prune": {}}], speed_seconds=0)
    first = run(job)
    assert run(job, lambda event: events.append(event["event"])) == first
    assert events == ["finished"]


def test_what_needs_text_says_so(model: Path, tmp_path: Path) -> None:
    for step in ({"prune": {"method": "layers"}}, {"prune": {}, "tuning": {"steps": 2}}):
        with pytest.raises(ValueError, match=r"steps\[0\]: prune .* needs train shards in data"):
            run(config(model, tmp_path, [], [step]))
    results = run(config(model, tmp_path, [], [{"prune": {"method": "neurons", "importance": "magnitude"}}]))
    assert "perplexity" not in results["metrics"]
    assert results["metrics"]["ratio/parameters"] < 1


def test_models_that_cannot_be_compressed(model: Path, data: list[dict[str, Any]], tmp_path: Path) -> None:
    def copy(name: str, **changes: Any) -> Path:
        folder = tmp_path / name
        folder.mkdir()
        for path in model.iterdir():
            (folder / path.name).write_bytes(path.read_bytes())
        description = json.loads((folder / "config.json").read_text()) | changes
        (folder / "config.json").write_text(json.dumps(description))
        return folder

    broken = copy("broken")
    tensors = read_tensors(broken / "model.safetensors")
    tensors["blocks.1.mlp.input.weight"] = tensors["blocks.1.mlp.input.weight"].index_fill(
        0, torch.tensor([3]), torch.nan
    )
    tensors = {key: tensor.clone() for key, tensor in tensors.items()}  # not in the file that is written
    write_tensors(broken / "model.safetensors", tensors)
    bare = copy("bare")
    (bare / "tokenizer.json").unlink()
    for folder, message in (
        (broken, r"broken/model.safetensors: blocks.1.mlp.input.weight holds NaN or infinite numbers"),
        (bare, r"bare: has no tokenizer.json"),
        (copy("quantized", quantization={}), r"is quantized already"),
        (copy("adapted", adapter={}), r"its adapter is not merged"),
        (tmp_path / "nowhere", r"nowhere/config.json: cannot be read"),
    ):
        with pytest.raises(ValueError, match=message):
            run(config(folder, tmp_path / "output", data))


def test_the_command_tells_in_json_and_ends_with_2_for_a_mistake(
    model: Path, data: list[dict[str, Any]], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    good, bad = tmp_path / "good.json", tmp_path / "bad.json"
    good.write_text(json.dumps(config(model, tmp_path / "output", data, [{"prune": {}}])))
    bad.write_text(json.dumps(config(model, tmp_path / "output", data, [{"prune": {"share": "half"}}])))
    assert main(str(good)) == 0
    events = [json.loads(line) for line in capsys.readouterr().out.splitlines()]
    assert [event["event"] for event in events] == ["start", "evaluation", "part", "evaluation", "finished"]
    assert main(str(bad)) == 2
    (event,) = (json.loads(line) for line in capsys.readouterr().out.splitlines())
    assert event == {"event": "error", "message": "steps[0].prune.share: expected a number, got 'half'"}


def test_input_files_are_named() -> None:
    steps = [{"distil": {"teacher": "large"}, "tuning": {"steps": 1}}]
    settings = from_dict(CompressionConfig, {"steps": steps})
    assert settings.files() == ["large/config.json", "large/model.safetensors"]
