"""A checkpoint whose adapter lies beside its weights, as one of plain weights that does the same."""

from __future__ import annotations

import shutil
from pathlib import Path

from training.adapters.adaptation import attach
from training.adapters.config import AdapterConfig
from training.checkpoints import CheckpointError, describe, load_weights
from training.checkpoints.files import write_json, write_tensors
from training.checkpoints.folders import abandon, begin, commit
from training.config import ModelConfig, from_dict
from training.models import build
from training.models.sharing import shared_names
from training.weights import weights_sha256

_AS_THEY_ARE = ("tokenizer.json", "head.safetensors")


def merge_checkpoint(checkpoint: str | Path, folder: str | Path) -> Path:
    """Write a checkpoint with a saved adapter (LoRA, AdaLoRA, BitFit) as one of plain weights; returns its folder.

    Heads, tokenizer, tasks and parent stay; config.json names under `merged` the method and the weights that it was
    made of. Raises ValueError for a checkpoint without an adapter, one that is quantized, a method that no plain
    weights do the same as, weights that are not finite, and a folder that holds something already.
    """
    source, target = Path(checkpoint), Path(folder)
    description = describe(source)
    if "adapter" not in description:
        raise ValueError(f"{source}: has no adapter: its weights are plain already")
    if "quantization" in description:
        raise ValueError(f"{source}: its weights are integers, which no adapter can be added to")
    method = from_dict(AdapterConfig, description["adapter"], f"{source / 'config.json'}: adapter").method
    if method in ("houlsby", "prefix"):
        raise ValueError(
            f"{source}: method {method} has no plain weights that do the same; the checkpoint is used as it is"
        )
    if target.exists() and (not target.is_dir() or any(target.iterdir())):
        raise ValueError(f"{target}: is not empty; name a new folder")
    model = build(from_dict(ModelConfig, description["model"], "model"), int(description["vocabulary_size"]))
    load_weights(model, source)
    attach(model, source).merge()
    doubled = shared_names(model)
    tensors = {name: tensor.contiguous() for name, tensor in model.state_dict().items() if name not in doubled}
    merged = {"method": method, "sha256": weights_sha256(source)}
    plain = {name: value for name, value in description.items() if name != "adapter"} | {"merged": merged}
    try:
        hidden = begin(target)
        for name in _AS_THEY_ARE:
            if (source / name).is_file():
                shutil.copyfile(source / name, hidden / name)
        write_tensors(hidden / "model.safetensors", tensors)
        write_json(hidden / "config.json", plain)
        commit(target)
    except OSError as error:
        abandon(target)
        raise CheckpointError(f"{target}: cannot be written ({error}); choose another, or free some space") from None
    return target
