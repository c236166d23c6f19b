"""Random models of both sides, and the comparison of a trunk with a model of transformers."""

from __future__ import annotations

import functools
import json
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
import transformers
from torch import Tensor, nn

from tests.training.small_models import tiny_tokenizer
from training.checkpoints import TrainerState, load_model, save
from training.config import ModelConfig
from training.models import Model, build
from training.models.huggingface import FAMILIES, export, import_model
from training.models.huggingface.settings import Settings
from training.models.transformer import Transformer

VOCABULARY = 400
"""At least as many as the tiny tokenizer has."""
LOGITS = {"rtol": 1e-5, "atol": 2e-5}
"""Logits here are up to about 10 in size: 2e-5 is 2 to 20 units in the last place of float32."""
LOSS = {"rtol": 1e-6, "atol": 0.0}
GRADIENT = 1e-5
"""Largest difference of a parameter's gradient, as a share of its largest element."""


def randomize(model: nn.Module, seed: int = 0) -> None:
    """Weights far from any initialisation, so that nothing is zero, one or equal to something else."""
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            noise = torch.randn(parameter.shape, generator=generator)
            if parameter.ndim == 1 and not name.endswith("bias"):
                parameter.copy_(1 + 0.2 * noise)
            else:
                # Small embeddings, or a tied model would only say again what it has just read.
                scale = 0.4 if parameter.shape[0] == VOCABULARY else 1.5
                parameter.copy_(0.1 * noise if parameter.ndim == 1 else noise * scale * parameter.shape[1] ** -0.5)


def tokens(length: int, batch: int = 2, seed: int = 0) -> Tensor:
    return torch.randint(VOCABULARY, (batch, length), generator=torch.Generator().manual_seed(seed))


def imported(model: Any, folder: Path, **settings: Any) -> Any:
    """The model that a model of transformers becomes, through files; `settings` change config.json on the way."""
    model.save_pretrained(folder / "theirs")
    change_settings(folder / "theirs", **settings)
    ours, _ = load_model(import_model(folder / "theirs", folder / "ours"))
    return ours


def change_settings(folder: Path, **settings: Any) -> None:
    """Set entries of config.json; None takes one out."""
    path = folder / "config.json"
    document = json.loads(path.read_text()) | settings
    path.write_text(json.dumps({key: value for key, value in document.items() if value is not None}))


def random_checkpoint(folder: Path, vocabulary_size: int = VOCABULARY, seed: int = 0, **config: Any) -> Path:
    """A checkpoint of random weights with its tokenizer; end-of-text is id 0."""
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "tokenizer.json").write_text(_tokenizer_json(), encoding="utf-8")
    model = build(ModelConfig(**config), vocabulary_size)
    randomize(model, seed)
    facts = {"end_of_text": 0, "tokens": 123_456, "metrics": {"validation/loss": 3.25}}
    return save(folder / "checkpoints", model, TrainerState(7, {}, {}, {}), facts, folder / "tokenizer.json")


@functools.cache
def _tokenizer_json() -> str:
    return str(tiny_tokenizer().to_str())


def exported(checkpoint: Path, folder: Path, auto: str = "AutoModelForCausalLM", **options: Any) -> Any:
    """The model that transformers reads from an export; every tensor must have its place."""
    export(checkpoint, folder, **options)
    model, info = getattr(transformers, auto).from_pretrained(folder, output_loading_info=True)
    assert not info["missing_keys"]
    assert not info["unexpected_keys"]
    assert not info["mismatched_keys"]
    return model.eval()


def compare(ours: Transformer, theirs: Any, ids: Tensor) -> None:
    """Assert that logits, loss and the gradient of every parameter are equal."""
    theirs = theirs.float().eval()
    ours.eval().zero_grad()
    theirs.zero_grad()
    output = theirs(ids, labels=ids, use_cache=False)
    logits = ours(ids)
    torch.testing.assert_close(logits, output.logits, **LOGITS)
    loss = F.cross_entropy(logits[:, :-1].flatten(0, 1), ids[:, 1:].flatten())
    torch.testing.assert_close(loss, output.loss, **LOSS)
    loss.backward()
    output.loss.backward()
    compare_gradients(ours, theirs, theirs.config.model_type)


def compare_gradients(ours: Model, theirs: Any, family: str, tolerance: float = GRADIENT) -> None:
    """Assert that the gradients of all parameters, which both sides hold, are equal."""
    found = dict(theirs.named_parameters())
    table = FAMILIES[family].counterparts(ours.config, Settings(theirs.config.to_dict()), ours.vocabulary_size)
    mine = dict(ours.named_parameters())
    for entry in table:
        parts = [found.pop(name) for name in entry.theirs]
        if entry.ours not in mine:
            assert not any(part.any() and part.grad is not None for part in parts), entry.ours
            continue
        gradient = entry.join([part.grad for part in parts])
        scale = gradient.abs().max()
        if gradient.numel() == 1:  # one sum, which may be near nought where its terms are not
            scale = scale.clamp(min=0.01)
        difference = (mine.pop(entry.ours).grad - gradient).abs().max() / scale
        assert difference < tolerance, (entry.ours, float(difference))
    assert not found
    assert not any(parameter.any() for parameter in mine.values()), list(mine)
