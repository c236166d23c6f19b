import contextlib
import hashlib
import json
import os
import signal
import subprocess
import sys
import threading
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file

from training import checkpoints
from training.callbacks.checkpointing import Checkpointing, prune
from training.checkpoints import CheckpointError, CheckpointWriter, FormatError, TrainerState, files, folders
from training.config import ModelConfig, TrainingConfig
from training.distributed import World
from training.models.transformer import Transformer


def new_model(seed: int = 0, **changes: Any) -> Transformer:
    torch.manual_seed(seed)
    return Transformer(ModelConfig(**{"layers": 1, "heads": 2, "width": 16, "context_length": 8, **changes}), 20).eval()


def new_state(step: int = 3) -> TrainerState:
    return TrainerState(step, {"head.weight/exp_avg": torch.randn(20, 16)}, {"training.steps": 9}, {"seconds": 1.5})


@pytest.mark.parametrize("tied", [False, True])
def test_a_saved_model_computes_the_same(tmp_path: Path, tied: bool) -> None:
    model = new_model(tied_embeddings=tied)
    tokenizer = tmp_path / "tokenizer.json"
    tokenizer.write_text("{}")
    path = checkpoints.save(tmp_path / "all", model, new_state(), {"metrics": {"validation/loss": 2.5}}, tokenizer)
    loaded, config = checkpoints.load_model(path)
    ids = torch.randint(0, 20, (2, 8))
    assert path.name == "step-00000003"
    assert config == model.config
    assert not loaded.training
    assert torch.equal(loaded(ids), model(ids))
    assert (loaded.head.weight is loaded.embedding.weight) == tied
    description = checkpoints.describe(path)
    assert (description["vocabulary_size"], description["metrics"]) == (20, {"validation/loss": 2.5})
    assert description["tokenizer_sha256"] == "44136fa355b3678a1146ad16f7e8649e94fb4fc21fe77e8310c060f61caaff8a"
    assert (path / "tokenizer.json").read_text() == "{}"


def test_state_comes_back_exactly(tmp_path: Path) -> None:
    state = new_state()
    loaded = checkpoints.load_state(checkpoints.save(tmp_path, new_model(), state, {}))
    assert (loaded.step, loaded.identity, loaded.extra) == (3, state.identity, state.extra)
    assert torch.equal(loaded.tensors["head.weight/exp_avg"], state.tensors["head.weight/exp_avg"])


def test_equal_weights_make_equal_bytes(tmp_path: Path) -> None:
    paths = [checkpoints.save(tmp_path / name, new_model(), new_state(), {}) for name in ("a", "b")]
    assert len({(path / "model.safetensors").read_bytes() for path in paths}) == 1


@pytest.mark.parametrize("name", ["model.safetensors", "trainer.safetensors", "config.json", "trainer.json"])
@pytest.mark.parametrize("damage", ["truncated", "flipped", "missing"])
def test_damage_is_found(tmp_path: Path, name: str, damage: str) -> None:
    folder = checkpoints.save(tmp_path, new_model(), new_state(), {})
    path = folder / name
    content = bytearray(path.read_bytes())
    if damage == "missing":
        path.unlink()
    elif damage == "truncated":
        path.write_bytes(content[: len(content) // 2])
    else:
        content[0 if name == "trainer.json" else -5] ^= 255
        path.write_bytes(content)
    with pytest.raises(CheckpointError, match=name.replace(".", r"\.")):
        checkpoints.load_state(folder)


def test_a_damaged_model_is_refused_by_name(tmp_path: Path) -> None:
    folder = checkpoints.save(tmp_path, new_model(), new_state(), {})
    with pytest.raises(CheckpointError, match=r"does not fit the model"):
        checkpoints.load_weights(new_model(width=32), folder)
    (folder / "model.safetensors").write_bytes(b"x" * 100)
    with pytest.raises(CheckpointError, match=r"model\.safetensors: damaged"):
        checkpoints.load_model(folder)
    document = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps({**document, "format": 99}))
    with pytest.raises(CheckpointError, match=r"config\.json: format 99; this version reads format 2"):
        checkpoints.load_model(folder)
    (folder / "config.json").write_text(json.dumps({**document, "model": {"widht": 3}}))
    with pytest.raises(CheckpointError, match=r"config\.json: model\.widht: unknown"):
        checkpoints.load_model(folder)
    with pytest.raises(CheckpointError, match=r"config\.json: cannot be read: No such file"):
        checkpoints.load_model(tmp_path / "nowhere")


@pytest.mark.parametrize(
    ("module", "moment"), [(files, "write_range"), (files, "_write_all"), (folders, "sync"), (folders.Path, "rename")]
)
def test_a_crash_while_writing_leaves_no_checkpoint(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, module: Any, moment: str
) -> None:
    checkpoints.save(tmp_path, new_model(), new_state(3), {})
    before = sorted(path.name for path in tmp_path.iterdir())

    def killed(*arguments: Any) -> None:
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(module, moment, killed)
        with pytest.raises(KeyboardInterrupt):
            checkpoints.save(tmp_path, new_model(1), new_state(6), {})
    assert [path.name for path in checkpoints.list_checkpoints(tmp_path)] == ["step-00000003"]
    checkpoints.clean(tmp_path)
    assert sorted(path.name for path in tmp_path.iterdir()) == before
    # The next start writes the same step without minding what was left.
    assert checkpoints.load_state(checkpoints.save(tmp_path, new_model(1), new_state(6), {})).step == 6


def test_a_crash_while_removing_leaves_no_checkpoint(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    folder = checkpoints.save(tmp_path, new_model(), new_state(3), {})

    def killed(path: Path, **options: Any) -> None:
        if Path(path).exists():
            (Path(path) / "model.safetensors").unlink()
            raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(folders.shutil, "rmtree", killed)
        with pytest.raises(KeyboardInterrupt):
            checkpoints.remove(folder)
    assert checkpoints.list_checkpoints(tmp_path) == []
    checkpoints.clean(tmp_path)
    assert list(tmp_path.iterdir()) == []


_FULL_DISK = """
import resource, sys, torch
from tests.training.test_checkpoints import new_model, new_state
from training import checkpoints
checkpoints.save(sys.argv[1], new_model(), new_state(3), {})
resource.setrlimit(resource.RLIMIT_FSIZE, (4096, resource.RLIM_INFINITY))
try:
    checkpoints.save(sys.argv[1], new_model(), new_state(6), {})
except checkpoints.CheckpointError as error:
    print(error)
"""


def test_a_full_disk_is_told_and_leaves_the_checkpoint_before(tmp_path: Path) -> None:
    """A file size limit stands in for the full disk: both make a write fail in the middle."""
    root = Path(__file__).parents[2]
    done = subprocess.run(
        [sys.executable, "-c", _FULL_DISK, str(tmp_path)], cwd=root, capture_output=True, text=True, check=True
    )
    assert "step-00000006: cannot be written" in done.stdout
    assert "free some space" in done.stdout
    assert [path.name for path in tmp_path.iterdir()] == ["step-00000003"]
    assert checkpoints.load_state(tmp_path / "step-00000003").step == 3


def test_files_are_those_of_the_safetensors_library(tmp_path: Path) -> None:
    tensors = {
        "scalar": torch.tensor(3.5),
        "empty": torch.empty(0, 4),
        "odd": torch.arange(3, dtype=torch.int8),
        "wide": torch.arange(6, dtype=torch.int64).view(2, 3),
        "transposed": torch.randn(3, 5).T,
        **{str(dtype): torch.randn(5, 2).to(dtype) for dtype in files.TORCH_DTYPES.values()},
    }
    facts = files.write_tensors(tmp_path / "ours", tensors)
    loaded = load_file(tmp_path / "ours")
    assert loaded.keys() == tensors.keys()
    for name, tensor in tensors.items():
        assert (loaded[name].dtype, loaded[name].shape) == (tensor.dtype, tensor.shape)
        assert torch.equal(loaded[name].reshape(-1).view(torch.uint8), tensor.reshape(-1).view(torch.uint8))
    files.verify(tmp_path / "ours", facts)
    save_file({name: tensor.contiguous() for name, tensor in tensors.items()}, tmp_path / "theirs")
    assert files.read_header(tmp_path / "theirs") == files.read_header(tmp_path / "ours")


def test_an_average_is_what_is_used_and_the_weights_are_what_is_trained(tmp_path: Path) -> None:
    model = new_model(tied_embeddings=True)
    average = {name: parameter * 0.5 for name, parameter in model.named_parameters()}
    path = checkpoints.save(tmp_path, model, new_state(), {}, average=average)
    used, state = checkpoints.load_model(path)[0], checkpoints.load_state(path)
    assert all(torch.equal(parameter, average[name]) for name, parameter in used.named_parameters())
    assert state.tensors.keys() == {"head.weight/exp_avg"}
    assert all(torch.equal(state.weights[name], parameter) for name, parameter in model.named_parameters())


def test_the_newest_whole_checkpoint_is_found(tmp_path: Path) -> None:
    assert checkpoints.latest_whole(tmp_path / "none").path is None
    paths = [checkpoints.save(tmp_path, new_model(), new_state(step), {}) for step in (2, 4, 6)]
    (paths[2] / "model.safetensors").write_bytes(b"")
    found = checkpoints.latest_whole(tmp_path)
    assert found.path == paths[1]
    assert found.state is not None
    assert found.state.step == 4
    assert [path for path, _ in found.damaged] == [paths[2]]
    assert "model.safetensors: 0 bytes instead of" in found.damaged[0][1]
    assert checkpoints.newest_before(tmp_path, 3).path == paths[0]
    assert checkpoints.newest_before(tmp_path, 1).path is None
    checkpoints.set_aside([paths[2]])
    checkpoints.remove_after(tmp_path, 2)
    assert checkpoints.list_checkpoints(tmp_path) == [paths[0]]
    document = json.loads((paths[0] / "trainer.json").read_text())
    (paths[0] / "trainer.json").write_text(json.dumps({**document, "format": 1}))
    with pytest.raises(FormatError, match=r"format 1; this version reads format 2\. Choose another output_dir"):
        checkpoints.latest_whole(tmp_path)


def test_the_background_writes_what_was_there_at_the_start(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    may_write = threading.Event()
    monkeypatch.setattr(files, "write_range", lambda *a, write=files.write_range: may_write.wait() and write(*a))
    model, state = new_model(), new_state(6)
    state.extra["losses"] = [1.0]
    before = {name: parameter.detach().clone() for name, parameter in model.named_parameters()}
    writer = CheckpointWriter(tmp_path)
    writer.start(model, state, {})
    with torch.no_grad():
        for tensor in (*model.parameters(), *state.tensors.values()):
            tensor.zero_()
    state.extra["losses"].append(2.0)
    assert writer.poll() is None
    assert checkpoints.list_checkpoints(tmp_path) == []
    may_write.set()
    path = writer.wait()
    assert path is not None
    assert all(torch.equal(p, before[name]) for name, p in checkpoints.load_model(path)[0].named_parameters())
    assert checkpoints.load_state(path).tensors["head.weight/exp_avg"].any()
    assert checkpoints.load_state(path).extra["losses"] == [1.0]
    assert writer.wait() is None
    writer.close()


_KILLED = """
import os, signal, sys, time
from tests.training.test_checkpoints import new_model, new_state
from training import checkpoints
from training.checkpoints import files
writer = checkpoints.CheckpointWriter(sys.argv[1])
writer.start(new_model(), new_state(3), {})
writer.wait()
write, count = files.write_range, 0
def slowly(*arguments):
    global count
    count += 1
    if count == 3:
        print("writing", flush=True)
        time.sleep(60)
    return write(*arguments)
files.write_range = slowly
writer.start(new_model(1), new_state(6), {})
writer.wait()
"""


def test_kill_9_while_the_background_writes_leaves_the_checkpoint_before(tmp_path: Path) -> None:
    command = [sys.executable, "-c", _KILLED, str(tmp_path)]
    with subprocess.Popen(command, cwd=Path(__file__).parents[2], stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        assert process.stdout.readline() == "writing\n"
        os.kill(process.pid, signal.SIGKILL)
    assert sorted(path.name for path in tmp_path.iterdir()) == [".writing-step-00000006", "step-00000003"]
    assert checkpoints.latest_whole(tmp_path).path == tmp_path / "step-00000003"
    checkpoints.clean(tmp_path)
    assert [path.name for path in tmp_path.iterdir()] == ["step-00000003"]


class FakeClock:
    """Stands in for the clock of the checkpoints, which would make a test wait for minutes."""

    def __init__(self) -> None:
        self.now = 100.0

    def monotonic(self) -> float:
        return self.now


class Steps:
    """What of a trainer the checkpoints use, with a real model and real files."""

    def __init__(self, folder: Path, **training: Any) -> None:
        self.run = SimpleNamespace(training=TrainingConfig(**training), tokenizer_path=None)
        self.world, self.model, self.ema, self.step = World(), new_model(), None, 0
        self.told: list[tuple[str, Any]] = []
        self.callback = Checkpointing(folder)
        self.callback.on_start(self)  # type: ignore[arg-type]

    def report(self, event: str, **facts: Any) -> None:
        self.told.append((event, facts.get("step", facts.get("message"))))

    def waiting(self) -> contextlib.AbstractContextManager[None]:
        return contextlib.nullcontext()

    def due(self, every: int) -> bool:
        return self.step % every == 0 or self.step == self.run.training.steps

    def state(self) -> TrainerState:
        return new_state(self.step)

    def description(self, row: dict[str, float]) -> dict[str, Any]:
        return {"metrics": row}

    def to(self, step: int, **losses: float) -> "Steps":
        """Go to a step; `at_7=2.5` is the validation loss there. The writer is waited for, so that order is certain."""
        while self.step < step:
            self.step += 1
            row = {"validation/loss": losses[f"at_{self.step}"]} if f"at_{self.step}" in losses else {}
            self.callback.on_step_end(self, row)  # type: ignore[arg-type]
            self.callback.on_rollback(self)  # type: ignore[arg-type]
        return self


def steps_in(folder: Path) -> list[int]:
    return [checkpoints.step_of(path) for path in checkpoints.list_checkpoints(folder)]


def test_the_newest_the_best_and_every_so_many_stay(tmp_path: Path) -> None:
    trainer = Steps(tmp_path, steps=20, checkpoint_every=2, keep=2, keep_every=8)
    trainer.to(20, at_2=4.0, at_4=1.0, at_6=2.0)
    assert steps_in(tmp_path) == [4, 8, 16, 18, 20]
    assert trainer.told == [("checkpoint", step) for step in range(2, 21, 2)]
    prune(tmp_path, keep=1)
    assert steps_in(tmp_path) == [4, 20]


def test_a_checkpoint_is_written_when_the_last_is_old(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    clock = FakeClock()
    monkeypatch.setattr("training.callbacks.checkpointing.time", clock)
    trainer = Steps(tmp_path, steps=100, checkpoint_every=50, checkpoint_minutes=10, log_every=5, keep=9)
    trainer.to(10)
    clock.now += 600
    trainer.to(14)
    assert steps_in(tmp_path) == []
    trainer.to(22)
    assert steps_in(tmp_path) == [15]
    clock.now += 599
    trainer.to(49)
    assert steps_in(tmp_path) == [15]
    trainer.to(60)
    assert steps_in(tmp_path) == [15, 50]


def test_a_checkpoint_can_be_asked_for_at_any_step(tmp_path: Path) -> None:
    trainer = Steps(tmp_path, steps=100, checkpoint_every=4).to(7)
    trainer.callback.write_now(trainer)  # type: ignore[arg-type]
    assert trainer.told[-1] == ("checkpoint", 7)
    trainer.callback.write_now(trainer)  # type: ignore[arg-type]
    assert len(trainer.told) == 2
    assert steps_in(tmp_path) == [4, 7]


def test_a_full_disk_is_an_error_at_the_end_only(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    trainer = Steps(tmp_path, steps=8, checkpoint_every=2).to(2)

    def full(*arguments: Any) -> None:
        raise OSError(28, "No space left on device")

    with monkeypatch.context() as patch:
        patch.setattr(files, "write_range", full)
        trainer.to(5)
        event, message = trainer.told[-1]
        assert event == "warning"
        assert "step-00000004: cannot be written ([Errno 28] No space left on device); free some space" in message
        with pytest.raises(CheckpointError, match=r"step-00000005: cannot be written .* start the same command again"):
            trainer.callback.write_now(trainer)  # type: ignore[arg-type]
        assert [path.name for path in tmp_path.iterdir()] == ["step-00000002"]
        with pytest.raises(CheckpointError, match=r"step-00000008: cannot be written"):
            trainer.to(8)
    # There is room again: the same step can be written.
    trainer.callback.write_now(trainer)  # type: ignore[arg-type]
    assert steps_in(tmp_path) == [2, 8]


def test_differences_are_named() -> None:
    ours = {"a": 1, "b": [1, (2, 3)], "c": None}
    assert checkpoints.differences(ours, {"a": 1, "b": [1, [2, 3]], "c": None}) == []
    assert checkpoints.differences(ours, {"a": 2, "b": [1, [2, 3]], "d": 4}) == ["a: 2 -> 1", "d: 4 -> None"]


def test_weights_that_fit_are_what_a_run_starts_from(tmp_path: Path) -> None:
    other = {"positions": "learned", "tied_embeddings": True}
    pretrained, tuned = new_model(**other), new_model(**other, bias="all", context_length=16)
    folder = checkpoints.save(tmp_path, pretrained, TrainerState(3, {}, {}, {}), {})
    before = {name: tensor.clone() for name, tensor in tuned.state_dict().items()}
    found = checkpoints.load_initial(
        tuned, folder, hashlib.sha256((folder / "model.safetensors").read_bytes()).hexdigest()
    )
    for name, tensor in tuned.state_dict().items():
        if name in found["taken"] or name == "head.weight":
            assert torch.equal(tensor, pretrained.state_dict()[name]), name
        else:
            assert name in found["drawn"]
            assert torch.equal(tensor, before[name]), name
    assert "position_embedding.weight" in found["drawn"]
    assert "blocks.0.mlp.input.bias" in found["drawn"]
    assert found["left"] == ["position_embedding.weight"]
    assert tuned.head.weight is tuned.embedding.weight
    with pytest.raises(CheckpointError, match="another checkpoint lies there by now"):
        checkpoints.load_initial(tuned, folder, "0" * 64)
    with pytest.raises(ValueError, match="none of its tensors has the name and the shape"):
        checkpoints.load_initial(new_model(width=18, heads=3), folder)
