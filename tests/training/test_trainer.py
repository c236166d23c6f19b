import json
import math
import os
import signal
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from tests.training.tiny_run import ROOT, changed, final_weights, journal, losses, make_run, start, write_config
from training import checkpoints
from training.__main__ import main
from training.callbacks.progress import Progress
from training.config import TrainingConfig, TrainingRun
from training.devices import resolve
from training.distributed import World
from training.run import sole_owner, train
from training.trainer import Trainer, _device_batch_size


@pytest.fixture(autouse=True)
def quiet(capsys: pytest.CaptureFixture[str]) -> None:
    """Keep the progress lines of runs in this process out of the report."""


def events(output: str) -> list[dict[str, Any]]:
    return [json.loads(line) for line in output.splitlines()]


def checkpoint_names(run: TrainingRun) -> list[str]:
    return [path.name for path in checkpoints.list_checkpoints(Path(run.output_dir) / "checkpoints")]


@pytest.fixture(scope="module")
def undisturbed(tmp_path_factory: pytest.TempPathFactory) -> TrainingRun:
    """A run that nothing interrupted."""
    run = make_run(tmp_path_factory.mktemp("undisturbed"))
    train(run)
    return run


def test_a_run_leaves_a_journal_checkpoints_and_a_result(undisturbed: TrainingRun) -> None:
    rows = {line["step"]: line for line in journal(undisturbed)}
    assert list(rows) == [3, 4, 6, 8, 9, 12]
    assert rows[6]["tokens"] == 6 * 4 * 16
    assert rows[12]["metrics"]["train/loss"] < rows[3]["metrics"]["train/loss"] < math.log(50) + 0.2
    assert "train/loss" not in rows[4]["metrics"]  # a checkpoint: evaluated, but no line of training is due
    for step in (4, 6, 8, 12):
        metrics = rows[step]["metrics"]
        assert metrics["validation/perplexity"] == pytest.approx(math.exp(metrics["validation/loss"]))
        assert {"validation/loss/source/wiki", "validation/bits_per_byte/language/zh"} <= metrics.keys()
    output = Path(undisturbed.output_dir)
    result = json.loads((output / "result.json").read_text())
    assert (result["step"], result["tokens"], result["processes"]) == (12, 768, 1)
    assert result["metrics"] == rows[12]["metrics"]
    assert checkpoint_names(undisturbed) == ["step-00000008", "step-00000012"]
    description = checkpoints.describe(Path(result["checkpoint"]))
    assert description["metrics"]["validation/loss"] == rows[12]["metrics"]["validation/loss"]
    model, _ = checkpoints.load_model(result["best_checkpoint"])
    assert sum(p.numel() for p in model.parameters()) == result["parameters"]


def test_a_finished_run_does_nothing(undisturbed: TrainingRun, capsys: pytest.CaptureFixture[str]) -> None:
    before = {path: path.stat().st_mtime_ns for path in Path(undisturbed.output_dir).rglob("*.json*")}
    assert train(undisturbed) == json.loads((Path(undisturbed.output_dir) / "result.json").read_text())
    assert [event["event"] for event in events(capsys.readouterr().out)] == ["resumed", "finished"]
    assert {path: path.stat().st_mtime_ns for path in Path(undisturbed.output_dir).rglob("*.json*")} == before


@pytest.mark.parametrize("step", [1, 5, 10])
def test_kill_and_resume_gives_the_same_bytes(undisturbed: TrainingRun, tmp_path: Path, step: int) -> None:
    """kill -9 after some line of progress, then the same command again."""
    run = changed(make_run(tmp_path, log_every=1), data=undisturbed.data)
    reference = changed(run, output_dir=str(tmp_path / "reference"))
    train(reference)
    config = write_config(run, tmp_path / "run.json")
    with start(config) as process:
        assert process.stdout is not None
        for line in process.stdout:
            event = json.loads(line)
            if event["event"] == "progress" and event["step"] >= step:
                process.kill()
                break
    assert process.wait() == -signal.SIGKILL
    assert not (Path(run.output_dir) / "result.json").exists()
    train(run)
    assert final_weights(run) == final_weights(reference)
    assert losses(run) == losses(reference)


def test_averages_go_on_over_a_resume(undisturbed: TrainingRun, tmp_path: Path) -> None:
    """The checkpoint at step 4 lies between the lines at 3 and 6: the loss of step 4 counts in the latter."""
    run = changed(undisturbed, output_dir=str(tmp_path / "output"))
    interrupt_after(run, 5)
    train(run)
    assert losses(run) == losses(undisturbed)
    assert final_weights(run) == final_weights(undisturbed)


@pytest.mark.parametrize("damage", ["truncated", "flipped"])
def test_a_damaged_checkpoint_falls_back_to_the_one_before(
    undisturbed: TrainingRun, tmp_path: Path, capsys: pytest.CaptureFixture[str], damage: str
) -> None:
    run = changed(undisturbed, output_dir=str(tmp_path / "output"))
    interrupt_after(run, 9)
    path = Path(run.output_dir, "checkpoints", "step-00000008", "model.safetensors")
    content = bytearray(path.read_bytes())
    content[-9] ^= 1
    path.write_bytes(content[:-100] if damage == "truncated" else content)
    capsys.readouterr()
    train(run)
    told = events(capsys.readouterr().out)
    assert told[0]["event"] == "warning"
    assert "step-00000008/model.safetensors" in told[0]["message"]
    assert (told[1]["event"], told[1]["step"]) == ("resumed", 4)
    assert final_weights(run) == final_weights(undisturbed)
    assert losses(run) == losses(undisturbed)


def interrupt_after(run: TrainingRun, step: int) -> None:
    """Stop a run in this process after some step, as a crash would."""

    class Crash(Exception):
        pass

    def crash(self: Progress, trainer: Trainer) -> None:
        if trainer.step == step:
            raise Crash

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(Progress, "on_step_start", crash)
        with pytest.raises(Crash):
            train(run)


@pytest.mark.parametrize(
    ("section", "change", "field"),
    [
        ("optimizer", {"learning_rate": 0.5}, r"optimizer\.learning_rate: 0\.01 -> 0\.5"),
        ("model", {"layers": 3}, r"model\.layers: 2 -> 3"),
        (None, {"dataset_fingerprint": "tokens-2"}, r"dataset_fingerprint: 'tokens-1' -> 'tokens-2'"),
    ],
)
def test_a_checkpoint_of_another_run_is_refused(
    undisturbed: TrainingRun, section: str | None, change: dict[str, Any], field: str
) -> None:
    with pytest.raises(ValueError, match=rf"step-00000012 belongs to another run: {field}\. Choose another output_dir"):
        train(changed(undisturbed, section, **change))


def assert_close(first: dict[str, Any], second: dict[str, Any]) -> None:
    """Equal losses and weights, up to the order of sums."""
    assert first["metrics"]["train/loss"] == pytest.approx(second["metrics"]["train/loss"], abs=1e-4)
    assert first["metrics"]["validation/loss"] == pytest.approx(second["metrics"]["validation/loss"], abs=1e-4)
    weights = [checkpoints.load_model(result["checkpoint"])[0].state_dict() for result in (first, second)]
    for name, ours in weights[0].items():
        assert float((ours - weights[1][name]).norm()) <= 1e-3 * float(ours.norm()), name


@pytest.mark.parametrize("device_batch_size", [1, 2])
def test_micro_batches_change_nothing_but_rounding(tmp_path: Path, device_batch_size: int) -> None:
    whole = changed(make_run(tmp_path, steps=3), "model", dropout=0.0)
    parts = changed(whole, "training", device_batch_size=device_batch_size)
    assert_close(train(whole), train(changed(parts, output_dir=str(tmp_path / "parts"))))


def test_two_processes_are_as_one(tmp_path: Path) -> None:
    one = changed(make_run(tmp_path, steps=4), "model", dropout=0.0)
    two = changed(one, output_dir=str(tmp_path / "two"))
    launcher = ("-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2", "-m")
    with start(write_config(two, tmp_path / "two.json"), launcher=launcher) as process:
        output, error = process.communicate()
    assert process.returncode == 0, error
    told = events(output)
    assert [event["event"] for event in told].count("finished") == 1
    result = told[-1]
    assert result["processes"] == 2
    assert_close(train(one), result)


def test_a_batch_that_does_not_divide_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=r"device_batch_size 3 does not divide the 4 sequences"):
        train(make_run(tmp_path, device_batch_size=3))
    with pytest.raises(ValueError, match=r"batch_size 4 does not divide among 3 processes"):
        _device_batch_size(make_run(tmp_path), World(size=3), resolve(TrainingConfig(device="cpu"), World()))


@pytest.mark.parametrize("steps", [12, 40])
def test_a_run_whose_loss_is_no_number_any_more_fails(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], steps: int
) -> None:
    """After more skipped steps in a row than allowed, and where the run ends with some, too."""
    run = make_run(tmp_path, steps=steps)
    run = changed(changed(run, "optimizer", name="adamw", learning_rate=1e30), "schedule", warmup_steps=0)
    for _ in range(2):  # the same command again fails again
        assert main(["train", str(write_config(run, tmp_path / "run.json"))]) == 1
        captured = capsys.readouterr()
        assert f"the loss became nan by step {min(steps, 22)}" in captured.err
        assert events(captured.out)[-1]["event"] == "error"
        assert not (Path(run.output_dir) / "result.json").exists()


def test_mistakes_exit_with_2_and_say_what_to_change(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["train", str(tmp_path / "nowhere.json")]) == 2
    assert "nowhere.json: cannot be read" in capsys.readouterr().err
    run = make_run(tmp_path, batch_size=4, device_batch_size=3)
    assert main(["train", str(write_config(run, tmp_path / "run.json"))]) == 2
    assert "device_batch_size 3" in capsys.readouterr().err
    blocked = changed(run, output_dir=str(tmp_path / "run.json" / "output"))
    assert main(["train", str(write_config(blocked, tmp_path / "blocked.json"))]) == 2
    assert "cannot be written" in capsys.readouterr().err


def test_two_runs_in_one_folder_are_refused(tmp_path: Path) -> None:
    with sole_owner(tmp_path), pytest.raises(ValueError, match="another process is training there"):
        sole_owner(tmp_path).__enter__()


@pytest.mark.parametrize("how", ["sigterm", "stdin", "both"])
def test_it_ends_when_told_to(tmp_path: Path, how: str) -> None:
    run = make_run(tmp_path, steps=100_000, log_every=1, checkpoint_every=10)
    config = write_config(run, tmp_path / "run.json")
    with start(config, "--watch-stdin", stdin=subprocess.PIPE) as process:
        assert process.stdout is not None
        assert process.stdin is not None
        for line in process.stdout:
            if json.loads(line)["event"] == "checkpoint":
                break
        if how != "stdin":
            os.kill(process.pid, signal.SIGTERM)
        if how != "sigterm":
            process.stdin.close()
        assert process.wait(timeout=60) == 75
    hidden = [path.name for path in (Path(run.output_dir) / "checkpoints").iterdir() if path.name.startswith(".")]
    assert all(name.startswith((".writing-", ".removing-")) for name in hidden)
    for path in checkpoints.list_checkpoints(Path(run.output_dir) / "checkpoints"):
        assert checkpoints.load_state(path).step == checkpoints.step_of(path)


def test_torch_numpy_and_safetensors_are_enough(tmp_path: Path) -> None:
    """Of the project's other packages none can be imported; what torch itself needs may be."""
    script = """
import importlib.metadata, re, sys

names = [re.match(r"[\\w-]+", entry)[0] for entry in importlib.metadata.requires("headrace")]
refused = {name.lower().replace("-", "_") for name in names} - {"torch", "numpy", "safetensors", "fsspec"}
refused |= {"yaml", "pandas", "flows", "pipeline"}
assert {"prefect", "mlflow", "pyarrow", "tokenizers"} <= refused
sys.modules.update(dict.fromkeys(refused))  # None: they cannot be imported
from training.__main__ import main
sys.exit(main(["train", sys.argv[1]]))
"""
    run = make_run(tmp_path, statistics_every=6, samples_every=6, ema_decay=0.9, device_batch_size="auto")
    config = write_config(run, tmp_path / "run.json")
    done = subprocess.run(
        [sys.executable, "-c", script, str(config)], cwd=ROOT, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr
    assert events(done.stdout)[-1]["event"] == "finished"
