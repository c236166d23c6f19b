import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch

from training import checkpoints
from training.checkpoints import CheckpointError, TrainerState
from training.config import ModelConfig
from training.models.gpt import GPT


def new_model(seed: int = 0, **changes: Any) -> GPT:
    torch.manual_seed(seed)
    return GPT(ModelConfig(**{"layers": 1, "heads": 2, "width": 16, "context_length": 8, **changes}), 20).eval()


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
    with pytest.raises(CheckpointError, match=r"config\.json: format 99; this version reads format 1"):
        checkpoints.load_model(folder)
    (folder / "config.json").write_text(json.dumps({**document, "model": {"widht": 3}}))
    with pytest.raises(CheckpointError, match=r"config\.json: model\.widht: unknown"):
        checkpoints.load_model(folder)
    with pytest.raises(CheckpointError, match=r"config\.json: cannot be read: No such file"):
        checkpoints.load_model(tmp_path / "nowhere")


@pytest.mark.parametrize("moment", ["save_file", "_write_json", "_sync"])
def test_a_crash_while_writing_leaves_no_checkpoint(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, moment: str
) -> None:
    checkpoints.save(tmp_path, new_model(), new_state(3), {})
    before = sorted(path.name for path in tmp_path.iterdir())

    def killed(*arguments: Any) -> None:
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(checkpoints, moment, killed)
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
        patch.setattr(checkpoints.shutil, "rmtree", killed)
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
    assert "start the same command again" in done.stdout
    assert [path.name for path in tmp_path.iterdir()] == ["step-00000003"]
    assert checkpoints.load_state(tmp_path / "step-00000003").step == 3


def test_differences_are_named() -> None:
    ours = {"a": 1, "b": [1, (2, 3)], "c": None}
    assert checkpoints.differences(ours, {"a": 1, "b": [1, [2, 3]], "c": None}) == []
    assert checkpoints.differences(ours, {"a": 2, "b": [1, [2, 3]], "d": 4}) == ["a: 2 -> 1", "d: 4 -> None"]
