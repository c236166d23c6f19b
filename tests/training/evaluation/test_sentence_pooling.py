"""The vector of a text is made of the tokens as the checkpoint of a sentence encoder says, whatever the batch."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
import torch

from tests.training.huggingface.encoders import FIRST, SEPARATOR, encoder_checkpoint
from tests.training.huggingface.test_parity_bert import OURS as BERT
from tests.training.small_models import one_thread
from training.config import TrainingConfig
from training.devices import resolve
from training.distributed import World
from training.evaluation.embedding import embed, poolings
from training.evaluation.judged import Judged

__all__ = ["one_thread"]

TEXTS = ["The man saw the book.", "他昨天买了三本书", "The", "women see these books every day"]


def judged(folder: Path, pooling: dict[str, object] | None) -> Judged:
    checkpoint = encoder_checkpoint(folder, **BERT)
    path = checkpoint / "config.json"
    path.write_text(json.dumps({**json.loads(path.read_text()), "pooling": pooling}))
    compute = resolve(TrainingConfig(device="cpu", precision="fp32", threads=1, compile="off"), World())
    return Judged(checkpoint, compute)


@pytest.mark.parametrize("mode", ["first", "mean", "max", "mean_root", "weighted_mean", "last"])
@pytest.mark.parametrize("normalize", [True, False])
def test_every_pooling_is_its_formula(mode: str, normalize: bool, tmp_path: Path) -> None:
    model = judged(tmp_path, {"mode": mode, "normalize": normalize, "max_length": 8})
    assert poolings(model) == ("sentence",)
    found = embed(model, TEXTS, "sentence")
    for text, vector in zip(TEXTS, found, strict=True):
        ids = [FIRST, *model.tokenizer.encode(text).ids[:6], SEPARATOR]
        with torch.no_grad():
            hidden = model.model.hidden(torch.tensor([ids]))[0].numpy()
        weights = np.arange(1, len(ids) + 1)
        expected = {
            "first": hidden[0],
            "mean": hidden.mean(0),
            "max": hidden.max(0),
            "mean_root": hidden.sum(0) / np.sqrt(len(ids)),
            "weighted_mean": (hidden * weights[:, None]).sum(0) / weights.sum(),
            "last": hidden[-1],
        }[mode]
        expected = expected / np.linalg.norm(expected) if normalize else expected
        np.testing.assert_allclose(vector, expected, rtol=1e-4, atol=1e-5)


def test_without_a_known_pooling_there_is_none(tmp_path: Path) -> None:
    plain = judged(tmp_path / "plain", None)
    assert poolings(plain) == ("mean", "first")
    with pytest.raises(ValueError, match="its config.json has no `pooling`; it is no sentence encoder"):
        embed(plain, TEXTS, "sentence")
    odd = judged(tmp_path / "odd", {"mode": "median"})
    with pytest.raises(ValueError, match="pooling.mode 'median'; there are first, mean, max"):
        embed(odd, TEXTS, "sentence")
