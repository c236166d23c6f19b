"""A checkpoint with a saved adapter becomes one of plain weights that says the same, or an error says why not."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file

from tests.training.evaluation.kinds import checkpoint
from tests.training.finetuning.tiny_tasks import finetune, one_thread, task
from training.adapters.merging import merge_checkpoint
from training.checkpoints import describe, load_model
from training.finetuning.predictor import FineTuned
from training.weights import weights_sha256

__all__ = ["one_thread"]


def tuned(folder: Path, method: str, **adapter: Any) -> Path:
    """A model with an adapter of a method beside its weights."""
    one = task(folder / "data", "classification", 32)
    how = {"method": method, "rank": 4, "bottleneck": 8, "prefix_tokens": 4, **adapter}
    finetune(checkpoint(folder, "bert"), folder / "out", one, adapter=how, learning_rate=2e-2, merge=False, epochs=1)
    return folder / "out" / "model"


@pytest.mark.parametrize("method", ["lora", "adalora", "bitfit"])
def test_what_is_merged_says_the_same(tmp_path: Path, method: str) -> None:
    source = tuned(tmp_path, method, targets=["all"])
    merged = merge_checkpoint(source, tmp_path / "plain")
    names = sorted(path.name for path in merged.iterdir())
    assert names == ["config.json", "head.safetensors", "model.safetensors", "tokenizer.json"]
    description = describe(merged)
    assert "adapter" not in description
    assert description["merged"] == {"method": method, "sha256": weights_sha256(source)}
    assert description["parent"] == describe(source)["parent"]
    before, after = (load_file(folder / "model.safetensors") for folder in (source, merged))
    assert before.keys() == after.keys()
    # BitFit changes weights that are there.
    assert any(not torch.equal(before[name], after[name]) for name in before) is (method != "bitfit")
    rows = [{"text": "saw the man"}, {"text": "king reads"}, {"text": "book"}]
    ours, theirs = (FineTuned(folder, threads=1).predict(rows) for folder in (merged, source))
    assert [one["label"] for one in ours] == [one["label"] for one in theirs]
    assert [one["probability"] for one in ours] == pytest.approx([one["probability"] for one in theirs], abs=1e-5)
    ids = torch.arange(12)[None]
    with torch.no_grad():
        states = [load_model(folder)[0].hidden(ids) for folder in (merged, source)]
    torch.testing.assert_close(*states, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("method", ["houlsby", "prefix"])
def test_what_has_no_plain_weights_is_refused_by_name(tmp_path: Path, method: str) -> None:
    source = tuned(tmp_path, method)
    with pytest.raises(ValueError, match=f"method {method} has no plain weights that do the same"):
        merge_checkpoint(source, tmp_path / "plain")
    assert not (tmp_path / "plain").exists()


def test_mistakes_are_named(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="has no adapter: its weights are plain already"):
        merge_checkpoint(checkpoint(tmp_path, "bert"), tmp_path / "plain")
    source = tuned(tmp_path / "tuned", "lora")
    (tmp_path / "taken").mkdir()
    (tmp_path / "taken" / "file").write_text("")
    with pytest.raises(ValueError, match="taken: is not empty; name a new folder"):
        merge_checkpoint(source, tmp_path / "taken")
    path = source / "adapter.safetensors"
    whole = load_file(path)
    save_file({name: torch.full_like(tensor, torch.nan) for name, tensor in whole.items()}, path)
    with pytest.raises(ValueError, match="hold NaN or infinity"):
        merge_checkpoint(source, tmp_path / "plain")
    assert not (tmp_path / "plain").exists()
    config = json.loads((source / "config.json").read_text())
    (source / "config.json").write_text(json.dumps({**config, "quantization": {"method": "weight_int8"}}))
    with pytest.raises(ValueError, match="its weights are integers"):
        merge_checkpoint(source, tmp_path / "plain")
