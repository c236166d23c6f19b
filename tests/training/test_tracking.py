from __future__ import annotations

import json
import logging
import os
import shutil
import signal
import socket
import subprocess
import sys
import threading
import time
import urllib.request
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.training.small_models import one_thread, tiny_checkpoint
from tests.training.tiny_run import make_run
from training.config.generation import GenerationConfig
from training.generation import Generator
from training.run import train
from training.tracking import Location, Sender, find_location, resolve_model
from training.tracking.journal import Position, points, read_lines
from training.tracking.state import State, load_state, save_state
from training.tracking.tracker import Tracker, flatten, metric_name

__all__ = ["one_thread"]

RECIPE = {"name": "toy", "train": {"model": {"width": 32, "layers": 2}, "steps": 100}, "sources": [{"path": "a"}]}


@pytest.fixture(scope="session")
def empty_database(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """An MLflow database without a run; to make one takes seconds, to copy it none."""
    folder = tmp_path_factory.mktemp("mlflow")
    Tracker(find_location(folder, {})).client.search_experiments()
    return folder / "mlflow.db"


@pytest.fixture
def location(tmp_path: Path, empty_database: Path) -> Location:
    workspace = tmp_path / "a workspace"
    workspace.mkdir()
    shutil.copy(empty_database, workspace / "mlflow.db")
    return find_location(workspace, {})


@pytest.fixture(scope="session")
def checkpoints(tmp_path_factory: pytest.TempPathFactory) -> dict[int, Path]:
    folder = tmp_path_factory.mktemp("checkpoints")
    return {step: tiny_checkpoint(folder, step, seed=step, metrics=validation(step)) for step in (10, 20)}


def validation(step: int) -> dict[str, float]:
    return {"validation/loss": 6 - step / 100, "validation/loss/source/wiki": 4.5}


def journal_line(step: int, **metrics: float) -> bytes:
    row = {"step": step, "tokens": step * 64, "time": step / 2, "metrics": metrics}
    return json.dumps(row).encode() + b"\n"


def write_journal(path: Path, steps: range, speed: float = 1000.0) -> None:
    with path.open("ab") as file:
        for step in steps:
            measured = validation(step) if step % 10 == 0 else {}
            file.write(
                journal_line(step, **{"train/loss": 5 - step / 100, "train/tokens_per_second": speed}, **measured)
            )


def sent_metrics(location: Location, run_id: str) -> Counter[tuple[str, int]]:
    """How often the tracker has each metric of each step."""
    client = Tracker(location).client
    names = client.get_run(run_id).data.metrics
    return Counter((name, metric.step) for name in names for metric in client.get_metric_history(run_id, name))


def expected_metrics(steps: range) -> Counter[tuple[str, int]]:
    names = Counter[tuple[str, int]]()
    for step in steps:
        names.update([("train/loss", step), ("train/tokens_per_second", step), ("tokens", step)])
        if step % 10 == 0:
            names.update((name, step) for name in validation(step))
    return names


def start(sender: Sender, wait_seconds: float = 60.0) -> str | None:
    return sender.start_run(
        "pretrain", "toy run", RECIPE, fingerprint="f00d", tags={"note": "x"}, wait_seconds=wait_seconds
    )


def tell_everything(sender: Sender, checkpoints: dict[int, Path], report: Path) -> None:
    sender.log_dataset("corpus", "ab" * 32, "store/tokenize", documents=10, text_bytes=999, tokens=640)
    for step, folder in checkpoints.items():
        sender.log_checkpoint(folder, step)
    sender.log_metrics({"evaluation/loss": 4.25, "evaluation/minimal_pairs/accuracy": 0.5}, 20, checkpoint_step=20)
    sender.log_samples([{"prompt": "The", "continuation": " end", "tokens": 1}], 20)
    sender.log_artifact(report, "report")
    sender.register_best("toy", 20)
    sender.finish()


@pytest.fixture
def report(tmp_path: Path) -> Path:
    path = tmp_path / "report.html"
    path.write_text("<html>one</html>")
    return path


def test_a_whole_run_arrives(location: Location, tmp_path: Path, checkpoints: dict[int, Path], report: Path) -> None:
    journal = tmp_path / "metrics.jsonl"
    write_journal(journal, range(1, 26))
    with Sender(tmp_path / "tracking", location, journal) as sender:
        run_id = start(sender)
        assert run_id is not None
        tell_everything(sender, checkpoints, report)
        assert sender.flush()
        assert sender.failures == {}
        assert sender.is_done()

    client = Tracker(location).client
    run = client.get_run(run_id)
    assert run.info.status == "FINISHED"
    assert run.info.run_name == "toy run"
    assert run.data.params["train.model.width"] == "32"
    assert run.data.params["sources.0.path"] == "a"
    assert run.data.tags["headrace.fingerprint"] == "f00d"
    assert run.data.tags["note"] == "x"
    (dataset,) = run.inputs.dataset_inputs
    assert (dataset.dataset.name, dataset.dataset.digest) == ("corpus", "ab" * 18)
    assert json.loads(dataset.dataset.profile)["documents"] == 10
    assert json.loads(dataset.dataset.source)["fingerprint"] == "ab" * 32

    # Metrics that hang on checkpoints are, for the run, the journal's own: every one is there once.
    expected = expected_metrics(range(1, 26))
    expected.update([("evaluation/loss", 20), ("evaluation/minimal_pairs/accuracy", 20)])
    assert sent_metrics(location, run_id) == expected
    (loss,) = [metric for metric in client.get_metric_history(run_id, "train/loss") if metric.step == 7]
    assert (loss.value, loss.timestamp) == (4.93, run.info.start_time + 3500)

    models = {output.step: client.get_logged_model(output.model_id) for output in run.outputs.model_outputs}
    assert sorted(models) == [10, 20]
    assert {str(model.status) for model in models.values()} == {"READY"}
    assert models[10].model_type == "checkpoint"
    assert models[10].params["model.width"] == "32"
    hanging = {metric.key: metric for metric in models[20].metrics}
    assert {name: metric.value for name, metric in hanging.items()} == {
        "validation/loss": 5.8,
        "validation/loss/source/wiki": 4.5,
        "evaluation/loss": 4.25,
        "evaluation/minimal_pairs/accuracy": 0.5,
    }
    assert hanging["validation/loss"].dataset_name == "corpus"

    artifacts = {entry.path for folder in ("", "samples", "report") for entry in client.list_artifacts(run_id, folder)}
    assert {"recipe.yaml", "samples/step-00000020.md", "samples/step-00000020.json", "report/report.html"} <= artifacts
    version = client.get_model_version_by_alias("toy", "best")
    assert version.source == models[20].artifact_location
    assert json.loads(models[20].tags["mlflow.modelVersions"]) == [{"name": "toy", "version": 1}]
    assert version.run_id == run_id


def test_the_registered_model_generates(
    location: Location, tmp_path: Path, checkpoints: dict[int, Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    with Sender(tmp_path / "tracking", location) as sender:
        start(sender)
        sender.log_checkpoint(checkpoints[10], 10)
        sender.log_checkpoint(checkpoints[20], 20, by_reference=True)
        sender.register_best("toy", 10)
        sender.register_best("toy", 20, alias="newest")
        assert sender.flush()
        assert sender.result("register toy best") == "1"
        models = {step: sender.result(f"checkpoint {step}") for step in (10, 20)}

    expected = {
        step: Generator.load(folder).generate("The man", GenerationConfig(6, temperature=0.9))
        for step, folder in checkpoints.items()
    }
    assert expected[10] != expected[20]
    for uri, step in (("models:/toy@best", 10), ("models:/toy@newest", 20), ("models:/toy/1", 10)):
        folder = resolve_model(uri, location.tracking_uri)
        assert Generator.load(folder).generate("The man", GenerationConfig(6, temperature=0.9)) == expected[step]
    assert resolve_model("models:/toy@best", location.tracking_uri) != checkpoints[10]
    assert resolve_model(f"models:/{models[20]}", location.tracking_uri) == checkpoints[20]
    copied = resolve_model("models:/toy@best", location.tracking_uri)
    assert sorted(path.name for path in copied.iterdir()) == ["config.json", "model.safetensors", "tokenizer.json"]

    import mlflow

    monkeypatch.setenv("MLFLOW_TRACKING_URI", location.tracking_uri)
    mlflow.set_tracking_uri(location.tracking_uri)
    for alias, step in (("best", 10), ("newest", 20)):
        model = mlflow.pyfunc.load_model(f"models:/toy@{alias}")
        assert model.predict(["The man"], params={"max_new_tokens": 6, "temperature": 0.9}) == [expected[step]]
    assert len(model.predict("The")) == 1


def test_a_model_that_is_not_there_is_named_with_what_is(
    location: Location, tmp_path: Path, checkpoints: dict[int, Path]
) -> None:
    with pytest.raises(ValueError, match="registered models are: none"):
        resolve_model("models:/toy@best", location.tracking_uri)
    with Sender(tmp_path / "tracking", location) as sender:
        start(sender)
        sender.log_checkpoint(checkpoints[10], 10)
        sender.register_best("toy", 10)
        assert sender.flush()
    with pytest.raises(ValueError, match="toy has the aliases: best"):
        resolve_model("models:/toy@worst", location.tracking_uri)
    with pytest.raises(ValueError, match="registered models are: toy"):
        resolve_model("models:/toi@best", location.tracking_uri)
    with pytest.raises(ValueError, match="is no model: expected models:/<name>@<alias>"):
        resolve_model("toy", location.tracking_uri)


def counts(location: Location, run_id: str) -> dict[str, Any]:
    """What the tracker holds, by count."""
    client = Tracker(location).client
    experiments = [experiment.experiment_id for experiment in client.search_experiments()]
    return {
        "runs": len(client.search_runs(experiments)),
        "models": len(client.search_logged_models(experiments)),
        "versions": len(client.search_model_versions("name = 'toy'")),
        "datasets": len(client.get_run(run_id).inputs.dataset_inputs),
        "outputs": len(client.get_run(run_id).outputs.model_outputs),
        "metrics": sent_metrics(location, run_id),
    }


def test_telling_everything_again_makes_nothing_twice(
    location: Location, tmp_path: Path, checkpoints: dict[int, Path], report: Path
) -> None:
    journal = tmp_path / "metrics.jsonl"
    write_journal(journal, range(1, 21))
    folder = tmp_path / "tracking"
    seen = []
    for attempt in range(3):
        if attempt == 2:
            (folder / "state.json").unlink()  # even without its memory it finds what it made
        with Sender(folder, location, journal) as sender:
            run_id = start(sender)
            assert run_id is not None
            tell_everything(sender, checkpoints, report)
            assert sender.flush()
            assert sender.failures == {}
        seen.append((run_id, counts(location, run_id)))
    assert seen[0] == seen[1] == seen[2]
    assert seen[0][1] | {"metrics": None} == {
        "runs": 1,
        "models": 2,
        "versions": 1,
        "datasets": 1,
        "outputs": 2,
        "metrics": None,
    }


class Killed(BaseException):
    """What a test raises where a process would have been killed."""


WRITES = (
    "create_run",
    "create_logged_model",
    "log_model_artifacts",
    "log_outputs",
    "create_model_version",
    "log_batch",
)


@pytest.mark.parametrize("call", WRITES)
def test_a_kill_right_after_any_write_doubles_and_loses_nothing(
    call: str,
    location: Location,
    tmp_path: Path,
    checkpoints: dict[int, Path],
    report: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """The tracker has carried the write out, the state does not know of it: the worst moment."""
    from mlflow import MlflowClient

    journal = tmp_path / "metrics.jsonl"
    write_journal(journal, range(1, 21))
    folder = tmp_path / "tracking"
    real = getattr(MlflowClient, call)
    kills = 0

    def write_then_die(self: Any, *arguments: Any, **keywords: Any) -> Any:
        nonlocal kills
        result = real(self, *arguments, **keywords)
        if kills < 5 and (call != "log_batch" or "metrics" in keywords):
            kills += 1
            raise Killed
        return result

    monkeypatch.setattr(MlflowClient, call, write_then_die)
    for _ in range(8):
        sender = Sender(folder, location, journal)
        # Straight through, without the thread: a kill ends it wherever it is.
        monkeypatch.setattr(sender, "flush", lambda timeout_seconds=0.0, sender=sender: sender._attempt())
        try:
            start(sender)
            tell_everything(sender, checkpoints, report)
            assert sender.flush()
            break
        except Killed:
            # The resumed training repeats its last steps, with another throughput.
            lines = journal.read_bytes().splitlines(keepends=True)
            journal.write_bytes(b"".join(line for line in lines if json.loads(line)["step"] <= 12))
            write_journal(journal, range(13, 21), speed=900.0 + kills)
    assert kills > 0
    run_id = sender.run_id
    assert run_id is not None
    found = counts(location, run_id)
    expected = expected_metrics(range(1, 21))
    expected.update([("evaluation/loss", 20), ("evaluation/minimal_pairs/accuracy", 20)])
    assert found.pop("metrics") == expected
    assert found == {"runs": 1, "models": 2, "versions": 1, "datasets": 1, "outputs": 2}


def test_a_journal_cut_back_for_a_resume_is_not_sent_twice(location: Location, tmp_path: Path) -> None:
    journal = tmp_path / "metrics.jsonl"
    write_journal(journal, range(1, 58))
    with Sender(tmp_path / "tracking", location, journal) as sender:
        run_id = start(sender)
        assert run_id is not None
    lines = journal.read_bytes().splitlines(keepends=True)
    journal.write_bytes(b"".join(lines[:40]))
    write_journal(journal, range(41, 71), speed=77.0)  # the same steps again, at another speed
    with Sender(tmp_path / "tracking", location, journal) as sender:
        assert start(sender) == run_id
        assert sender.flush()
    assert sent_metrics(location, run_id) == expected_metrics(range(1, 71))


def test_a_line_that_is_still_being_written_waits(location: Location, tmp_path: Path) -> None:
    journal = tmp_path / "metrics.jsonl"
    line = journal_line(2, **{"train/loss": 1.0})
    journal.write_bytes(journal_line(1, **{"train/loss": 2.0}) + line[:20])
    with Sender(tmp_path / "tracking", location, journal) as sender:
        run_id = start(sender)
        assert run_id is not None
        assert sender.flush()
        assert sent_metrics(location, run_id)[("train/loss", 2)] == 0
        with journal.open("ab") as file:
            file.write(line[20:])
        assert sender.flush()
    assert sent_metrics(location, run_id)[("train/loss", 2)] == 1


def test_the_thread_sends_by_itself_while_training_goes_on(location: Location, tmp_path: Path) -> None:
    journal = tmp_path / "metrics.jsonl"
    with Sender(tmp_path / "tracking", location, journal, interval_seconds=0.05) as sender:
        run_id = start(sender)
        assert run_id is not None
        for first in range(1, 31, 10):
            write_journal(journal, range(first, first + 10))
            deadline = time.monotonic() + 20
            while not sender.is_done():
                assert time.monotonic() < deadline
                time.sleep(0.02)
            assert sent_metrics(location, run_id) == expected_metrics(range(1, first + 10))


def test_what_is_refused_is_named_and_holds_nothing_up(
    location: Location, tmp_path: Path, checkpoints: dict[int, Path], caplog: pytest.LogCaptureFixture
) -> None:
    with Sender(tmp_path / "tracking", location) as sender:
        start(sender)
        sender.log_checkpoint(tmp_path / "deleted", 5)
        sender.register_best("toy", 5)
        sender.log_checkpoint(checkpoints[10], 10)
        assert sender.flush()
        assert "No such file" in sender.failures["checkpoint 5"]
        assert "log_checkpoint comes first" in sender.failures["register toy best"]
        assert sender.result("checkpoint 10") is not None
        shutil.copytree(checkpoints[10], tmp_path / "deleted")
        sender.log_checkpoint(tmp_path / "deleted", 5)  # asked again, it is done
        assert sender.flush()
        assert list(sender.failures) == ["register toy best"]
    assert "checkpoint 5 was refused" in caplog.text
    with pytest.raises(FileNotFoundError):
        sender.log_artifact(tmp_path / "nothing.html")


def test_a_run_deleted_from_the_tracker_is_sent_again(
    location: Location, tmp_path: Path, checkpoints: dict[int, Path], report: Path
) -> None:
    journal = tmp_path / "metrics.jsonl"
    write_journal(journal, range(1, 21))
    with Sender(tmp_path / "tracking", location, journal) as sender:
        first = start(sender)
        assert first is not None
        tell_everything(sender, checkpoints, report)
    Tracker(location).client.delete_run(first)
    with Sender(tmp_path / "tracking", location, journal) as sender:
        second = start(sender)
        assert second is not None
        assert second != first
        assert sender.flush()
    metrics = sent_metrics(location, second)
    assert set(metrics) >= set(expected_metrics(range(1, 21)))
    assert set(metrics.values()) == {1}
    assert len(Tracker(location).client.get_run(second).outputs.model_outputs) == 2


def test_another_tracker_gets_everything(
    location: Location, tmp_path: Path, empty_database: Path, checkpoints: dict[int, Path], report: Path
) -> None:
    journal = tmp_path / "metrics.jsonl"
    write_journal(journal, range(1, 21))
    with Sender(tmp_path / "tracking", location, journal) as sender:
        assert start(sender)
        tell_everything(sender, checkpoints, report)
    (tmp_path / "other").mkdir()
    shutil.copy(empty_database, tmp_path / "other/mlflow.db")
    other = find_location(tmp_path / "other", {})
    with Sender(tmp_path / "tracking", other, journal) as sender:
        assert not sender.is_done()
        assert sender.flush()
        run_id = sender.run_id
    assert run_id is not None
    assert counts(other, run_id)["models"] == 2
    assert set(sent_metrics(other, run_id)) >= set(expected_metrics(range(1, 21)))


def test_an_artifact_is_sent_again_only_when_it_changed(location: Location, tmp_path: Path, report: Path) -> None:
    with Sender(tmp_path / "tracking", location) as sender:
        run_id = start(sender)
        sender.log_artifact(report)
        sender.log_artifact(report)
        report.write_text("<html>two</html>")
        sender.log_artifact(report)
        assert sender.flush()
    client = Tracker(location).client
    assert Path(client.download_artifacts(run_id, "report.html")).read_text() == "<html>two</html>"
    lines = (tmp_path / "tracking/outbox.jsonl").read_text().splitlines()
    assert sum(json.loads(line)["kind"] == "log_artifact" for line in lines) == 2


def free_port() -> int:
    with socket.socket() as server:
        server.bind(("127.0.0.1", 0))
        return int(server.getsockname()[1])


def test_a_tracker_that_is_down_stops_and_slows_nothing(
    tmp_path: Path, checkpoints: dict[int, Path], report: Path, caplog: pytest.LogCaptureFixture
) -> None:
    journal = tmp_path / "metrics.jsonl"
    write_journal(journal, range(1, 21))
    down = Location(f"http://127.0.0.1:{free_port()}")
    sender = Sender(tmp_path / "tracking", down, journal, interval_seconds=0.05, first_retry_seconds=0.1)
    with caplog.at_level(logging.INFO):
        sender.start()
        assert start(sender, wait_seconds=0.2) is None
        began = time.monotonic()
        tell_everything(sender, checkpoints, report)
        assert time.monotonic() - began < 1.0
        assert not sender.flush(20.0)
        assert not sender.close(0.5)
    assert caplog.text.count("cannot be reached") == 1
    assert "not everything reached" in caplog.text
    assert not sender.is_done()


def test_a_kill_while_the_database_is_made_leaves_none_that_is_half_made(tmp_path: Path) -> None:
    code = (
        "import sys; from pathlib import Path; from training.tracking.location import Location; "
        "from training.tracking.tracker import Tracker; "
        "Tracker(Location(f'sqlite:///{sys.argv[1]}', Path(sys.argv[2])))"
    )
    database = tmp_path / "mlflow.db"
    command = [sys.executable, "-c", code, str(database), str(tmp_path / "mlruns")]
    process = subprocess.Popen(command)
    deadline = time.monotonic() + 120
    while not any(path.stat().st_size > 100_000 for path in tmp_path.glob(".mlflow.db.*/mlflow.db")):
        assert time.monotonic() < deadline
        assert process.poll() is None, "it was made before it could be killed"
        time.sleep(0.001)
    process.kill()
    process.wait()
    assert not database.exists()
    assert Tracker(Location(f"sqlite:///{database}", tmp_path / "mlruns")).open_run("e", "n", "f", {}).run_id
    assert database.exists()


def test_a_database_in_an_unwritable_place_is_an_outage(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    blocked = tmp_path / "file"
    blocked.write_text("not a folder")
    sender = Sender(tmp_path / "tracking", Location(f"sqlite:///{blocked}/mlflow.db", blocked))
    assert start(sender, wait_seconds=20.0) is None
    sender.close(0.1)
    assert "cannot be reached" in caplog.text


class Server:
    """A real MLflow server on loopback that can be killed and started again on the same port."""

    def __init__(self, folder: Path, database: Path) -> None:
        self.folder = folder
        self.port = free_port()
        self.process: subprocess.Popen[bytes] | None = None
        shutil.copy(database, folder / "server.db")

    @property
    def location(self) -> Location:
        return Location(f"http://127.0.0.1:{self.port}")

    def start(self) -> None:
        command = [sys.executable, "-m", "mlflow", "server", "--host", "127.0.0.1", "--port", str(self.port)]
        command += ["--workers", "1", "--backend-store-uri", f"sqlite:///{self.folder}/server.db"]
        command += ["--artifacts-destination", str(self.folder / "artifacts")]
        settings = {"MLFLOW_SERVER_ENABLE_JOB_EXECUTION": "false", "MLFLOW_DISABLE_TELEMETRY": "true"}
        log = (self.folder / "server.log").open("ab")
        self.process = subprocess.Popen(
            command, env={**os.environ, **settings}, stdout=log, stderr=log, start_new_session=True, cwd=self.folder
        )
        deadline = time.monotonic() + 90
        while True:
            try:
                with urllib.request.urlopen(f"http://127.0.0.1:{self.port}/health", timeout=2):
                    return
            except OSError:
                assert self.process.poll() is None, (self.folder / "server.log").read_text()
                assert time.monotonic() < deadline, (self.folder / "server.log").read_text()
                time.sleep(0.2)

    def kill(self) -> None:
        if self.process is not None:
            os.killpg(self.process.pid, signal.SIGKILL)
            self.process.wait()
            self.process = None


@pytest.fixture
def server(tmp_path: Path, empty_database: Path) -> Iterator[Server]:
    folder = tmp_path / "server"
    folder.mkdir()
    server = Server(folder, empty_database)
    yield server
    server.kill()


@pytest.mark.server
def test_a_server_started_late_killed_and_restarted_gets_every_metric_once(
    server: Server, tmp_path: Path, checkpoints: dict[int, Path], report: Path
) -> None:
    journal = tmp_path / "metrics.jsonl"
    folder = tmp_path / "tracking"
    stop = threading.Event()

    def train() -> None:
        step = 1
        while not stop.is_set():
            write_journal(journal, range(step, step + 1))
            step += 1
            time.sleep(0.02)

    training = threading.Thread(target=train)
    sender = Sender(folder, server.location, journal, interval_seconds=0.05, first_retry_seconds=0.2)
    with sender:
        training.start()
        try:
            assert start(sender, wait_seconds=0.1) is None  # nobody listens yet
            tell_everything(sender, checkpoints, report)
            server.start()
            assert sender.flush(60)
            run_id = sender.run_id
            assert run_id is not None
            time.sleep(0.5)
            server.kill()  # in the middle of batches
            time.sleep(0.5)
            assert not sender.flush(20)
            server.start()
        finally:
            stop.set()
            training.join()
        sender.close(60)
    assert Sender(folder, server.location, journal).is_done()
    with journal.open("rb") as lines:
        last = max(json.loads(line)["step"] for line in lines)
    assert last > 100
    expected = expected_metrics(range(1, last + 1))
    expected.update([("evaluation/loss", 20), ("evaluation/minimal_pairs/accuracy", 20)])
    assert sent_metrics(server.location, run_id) == expected
    found = counts(server.location, run_id)
    found.pop("metrics")
    assert found == {"runs": 1, "models": 2, "versions": 1, "datasets": 1, "outputs": 2}
    folder = resolve_model("models:/toy@best", server.location.tracking_uri, tmp_path / "download")
    assert (folder / "model.safetensors").read_bytes() == (checkpoints[20] / "model.safetensors").read_bytes()


def test_the_location_comes_from_the_environment_or_the_workspace(tmp_path: Path) -> None:
    assert find_location(tmp_path, {}) == Location(f"sqlite:///{tmp_path}/mlflow.db", tmp_path / "mlruns")
    assert find_location(tmp_path, {"MLFLOW_TRACKING_URI": "http://127.0.0.1:5000"}) == Location(
        "http://127.0.0.1:5000"
    )
    own = find_location(tmp_path, {"MLFLOW_TRACKING_URI": "sqlite:////data/own.db"})
    assert own == Location("sqlite:////data/own.db", tmp_path / "mlruns")
    assert find_location(".", {}).tracking_uri == f"sqlite:///{Path.cwd()}/mlflow.db"


@settings(max_examples=40, deadline=None)
@given(
    st.lists(st.sampled_from([b'{"step": 1}', b'{"step": 22, "metrics": {}}', b"", b"broken", b"[1]"]), max_size=12),
    st.data(),
)
def test_lines_come_once_in_order_however_the_file_grows(
    tmp_path_factory: pytest.TempPathFactory, lines: list[bytes], data: st.DataObject
) -> None:
    path = tmp_path_factory.getbasetemp() / "growing.jsonl"
    content = b"".join(line + b"\n" for line in lines)
    found: list[dict[str, Any]] = []
    position = Position()
    limit = data.draw(st.integers(1, 40))
    for written in [*sorted(data.draw(st.lists(st.integers(0, len(content)), max_size=4))), len(content)]:
        path.write_bytes(content[:written])
        while True:
            rows, after = read_lines(path, position, limit)
            found += rows
            if after == position:
                break
            position = after
    assert found == [json.loads(line) for line in lines if line.startswith(b"{")]


def test_a_file_written_anew_is_read_from_its_beginning(tmp_path: Path) -> None:
    path = tmp_path / "metrics.jsonl"
    path.write_bytes(b'{"a": 1}\n{"a": 2}\n')
    rows, position = read_lines(path, Position())
    assert [row["a"] for row in rows] == [1, 2]
    path.write_bytes(b'{"a": 1}\n{"b": 2}\n{"c": 3}\n')
    rows, position = read_lines(path, position)
    assert len(rows) == 3
    path.write_bytes(b'{"a": 1}\n')
    rows, position = read_lines(path, position)
    assert rows == [{"a": 1}]
    path.unlink()
    assert read_lines(path, position) == ([], position)


def test_points_take_numbers_only(caplog: pytest.LogCaptureFixture) -> None:
    row = {"step": 3, "tokens": 64, "time": 1.5, "metrics": {"a": 1, "b": "x", "c": None, "d": True, "e": 10**400}}
    assert [(point.name, point.value, point.step, point.timestamp_milliseconds) for point in points(row, 1000)] == [
        ("a", 1.0, 3, 2500),
        ("tokens", 64.0, 3, 2500),
    ]
    assert points({"metrics": {"a": 1}}, 0) == []
    (nan,) = points({"step": 1, "time": 0, "metrics": {"loss": float("nan")}}, 0)
    assert nan.value != nan.value


def test_settings_become_flat_parameters_within_the_limits() -> None:
    flat = flatten({"a": {"b": 1, "c": [1, 2]}, "d": [{"e": None}], "f": "x" * 7000, "g": {}, "h?": True})
    assert flat == {
        "a.b": "1",
        "a.c": "[1, 2]",
        "d.0.e": "null",
        "f": "x" * 5999 + "…",
        "g": "{}",
        "h_": "true",
    }
    assert metric_name("validation/loss/wiki (en)") == "validation/loss/wiki _en_"


def test_a_damaged_state_is_a_new_one(tmp_path: Path) -> None:
    path = tmp_path / "state.json"
    state = State(run_id="r", sent={"a": 3})
    save_state(path, state)
    assert load_state(path) == state
    path.write_text(path.read_text()[:-5])
    assert load_state(path) == State()
    path.write_text('{"format": 99}')
    assert load_state(path) == State()


def test_a_journal_that_moved_goes_on_where_it_was(location: Location, tmp_path: Path) -> None:
    journal = tmp_path / "metrics.jsonl"
    write_journal(journal, range(1, 11))
    with Sender(tmp_path / "tracking", location, journal) as sender:
        run_id = start(sender)
        assert run_id is not None
    write_journal(journal, range(11, 21))
    moved = journal.rename(tmp_path / "committed.jsonl")
    with Sender(tmp_path / "tracking", location, journal) as sender:
        assert sender.is_done()  # there is nothing at the old place
    with Sender(tmp_path / "tracking", location, moved) as sender:
        assert not sender.is_done()
        assert sender.flush()
    assert sent_metrics(location, run_id) == expected_metrics(range(1, 21))


def test_a_closed_sender_closes_again_at_once_and_can_go_on(location: Location, tmp_path: Path) -> None:
    with Sender(tmp_path / "tracking", location) as sender:
        assert start(sender) is not None
        assert sender.close()
        began = time.monotonic()
        assert sender.close()
        assert time.monotonic() - began < 0.5
        sender.log_samples([{"prompt": "a", "continuation": "b"}], 1)
        assert not sender.is_done()
        assert sender.flush()


def test_what_the_trainer_writes_arrives(location: Location, tmp_path: Path) -> None:
    run = make_run(tmp_path / "run")
    result = train(run)
    output = Path(run.output_dir)
    rows = [json.loads(line) for line in (output / "metrics.jsonl").read_text().splitlines()]
    with Sender(tmp_path / "tracking", location, output / "metrics.jsonl") as sender:
        run_id = start(sender)
        assert run_id is not None
        sender.log_checkpoint(result["best_checkpoint"], 12)
        assert sender.flush()
        assert sender.failures == {}
        model_id = sender.result("checkpoint 12")
    expected = Counter((name, row["step"]) for row in rows for name in [*row["metrics"], "tokens"])
    assert len(rows) >= 4
    assert sent_metrics(location, run_id) == expected
    client = Tracker(location).client
    hanging = {metric.key: metric.value for metric in client.get_logged_model(model_id).metrics}
    last = rows[-1]["metrics"]
    assert hanging == {name: last[name] for name in last if name.startswith("validation/")}
    assert {"validation/loss", "validation/bits_per_byte/source/wiki", "validation/loss/language/zh"} <= set(hanging)
