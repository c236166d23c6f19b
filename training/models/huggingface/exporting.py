"""A checkpoint as a folder of transformers, that whatever reads Hugging Face models can load and serve."""

from __future__ import annotations

import contextlib
import os
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from safetensors.torch import save_file
from torch import Tensor, nn

from training.checkpoints import CheckpointError, describe, load_model
from training.config import ModelConfig
from training.models.huggingface.counterparts import Counterpart, elements
from training.models.huggingface.families import family_for
from training.models.huggingface.family import Family
from training.models.huggingface.model_card import model_card
from training.models.huggingface.settings import Settings, write_json
from training.models.huggingface.stored import INDEX, WEIGHTS
from training.models.huggingface.tokenizer import TOKENIZER, SpecialTokens, Vocabulary, write_tokenizer
from training.models.sharing import shared_names

SHARD_BYTES = 5_000_000_000
"""Largest file of weights, as transformers has it."""
_FLOAT_BYTES = 4


def export(
    checkpoint_dir: str | Path, folder: str | Path, family: str | None = None, shard_bytes: int = SHARD_BYTES
) -> Path:
    """Write a checkpoint as the folder of a model of transformers, and return it.

    It holds config.json, generation_config.json where the model writes text, the float32 weights (model.safetensors;
    several files and an index where they take more than `shard_bytes`), README.md, and where the checkpoint has a
    tokenizer tokenizer.json and tokenizer_config.json. `family` is one of `FAMILIES`; by default the first that can
    hold the model. The folder is whole or absent.

    Raises ValueError where no family can hold the model, naming every setting that stands in the way; where the folder
    is there and not empty; and CheckpointError (a ValueError) where the checkpoint is damaged or the disk full.
    """
    source, target = Path(checkpoint_dir), Path(folder)
    if shard_bytes < 1:
        raise ValueError(f"shard_bytes must be at least 1, got {shard_bytes}")
    with _written(target) as hidden:
        facts = describe(source)
        whole, whole_config = load_model(source)
        chosen = family_for(whole_config, family)
        model, config = chosen.part(whole, whole_config)
        tokenizer = source / TOKENIZER if (source / TOKENIZER).is_file() else None
        special = SpecialTokens.of(facts, None if tokenizer is None else Vocabulary(tokenizer))
        settings = _settings(chosen, config, whole.vocabulary_size, special)
        write_json(hidden / "config.json", settings)
        if chosen.kind != "encoder":
            write_json(hidden / "generation_config.json", _generation(chosen, settings, special))
        if tokenizer is not None:
            context_length, types = config.context_length, config.token_types if chosen.reads_types else 0
            inputs = None if chosen.kind == "causal" else _inputs(types)
            write_tokenizer(tokenizer, hidden, context_length, special, chosen.template, inputs, types)
        card = model_card(target.resolve().name, chosen, config, whole.vocabulary_size, _count(model), facts)
        (hidden / "README.md").write_text(card, encoding="utf-8")
        table = chosen.counterparts(config, Settings(settings), whole.vocabulary_size)
        _write_weights(hidden, table, _weights(model), shard_bytes)
    return target


def _settings(family: Family, config: ModelConfig, vocabulary_size: int, special: SpecialTokens) -> dict[str, Any]:
    return {
        "architectures": [family.architecture(config)],
        "model_type": family.model_type or family.name,
        "vocab_size": vocabulary_size,
        "tie_word_embeddings": config.tied_embeddings,
        "initializer_range": 0.02,
        "torch_dtype": "float32",
        "use_cache": True,
        **family.to_settings(config),
        **family.token_settings(config, special),
    }


def _generation(family: Family, settings: dict[str, Any], special: SpecialTokens) -> dict[str, Any]:
    ids = {"bos_token_id": special.begin, "eos_token_id": special.end, "pad_token_id": special.padding}
    if family.kind == "encoder_decoder":
        names = ("decoder_start_token_id", "eos_token_id", "pad_token_id")
        ids = {name: settings.get(name) for name in names}
    return {"do_sample": False, **{key: value for key, value in ids.items() if value is not None}}


def _inputs(token_types: int) -> list[str]:
    """The arguments of the model that a tokenizer makes; one type alone need not be said."""
    return ["input_ids", *(["token_type_ids"] if token_types > 1 else []), "attention_mask"]


def _count(model: nn.Module) -> int:
    return sum(parameter.numel() for parameter in model.parameters())


def _weights(model: nn.Module) -> dict[str, Tensor]:
    """The model's parameters, each once; the factor on what the head reads becomes part of the last norm."""
    further = shared_names(model)
    weights = {name: tensor.detach().cpu() for name, tensor in model.state_dict().items() if name not in further}
    factor = getattr(model, "output_multiplier", 1)
    if factor != 1:
        assert "norm.weight" in weights, "a family that has no last norm must refuse mup"
        for name in {"norm.weight", "norm.bias"} & weights.keys():
            weights[name] = weights[name] * factor
    return weights


def _write_weights(folder: Path, table: list[Counterpart], weights: dict[str, Tensor], shard_bytes: int) -> None:
    """Write safetensors, a file at a time: no more than one file's tensors are copied at once."""
    known = {entry.ours for entry in table}
    assert weights.keys() <= known, weights.keys() - known
    shards = _shards(table, shard_bytes)
    names = [WEIGHTS] if len(shards) == 1 else [_shard_name(number, len(shards)) for number in range(len(shards))]
    for file, shard in zip(names, shards, strict=True):
        # Half-used counterparts are split again for the next file; views cost nothing.
        tensors = {theirs: _tensor(entry, weights, theirs).contiguous() for theirs, entry in shard.items()}
        save_file(tensors, folder / file, metadata={"format": "pt"})
        (folder / file).chmod((folder / "config.json").stat().st_mode)  # the library leaves it to its owner alone
    if len(shards) > 1:
        total = sum(_bytes(entry, theirs) for shard in shards for theirs, entry in shard.items())
        weight_map = {theirs: file for file, shard in zip(names, shards, strict=True) for theirs in shard}
        write_json(folder / INDEX, {"metadata": {"total_size": total}, "weight_map": weight_map})


def _shards(table: list[Counterpart], shard_bytes: int) -> list[dict[str, Counterpart]]:
    """Their tensors in order, as many to a file as fit; one that is too large alone has a file of its own."""
    shards: list[dict[str, Counterpart]] = [{}]
    size = 0
    for entry in table:
        for theirs in entry.theirs:
            added = _bytes(entry, theirs)
            if shards[-1] and size + added > shard_bytes:
                shards.append({})
                size = 0
            shards[-1][theirs] = entry
            size += added
    return shards


def _tensor(entry: Counterpart, weights: dict[str, Tensor], theirs: str) -> Tensor:
    """One of their tensors; what is optional and ours lacks is zero."""
    if entry.ours in weights:
        return entry.split(weights[entry.ours])[theirs]
    assert entry.optional or entry.ours.endswith(".bias"), entry.ours
    return torch.zeros(entry.shapes()[theirs])


def _bytes(entry: Counterpart, theirs: str) -> int:
    return _FLOAT_BYTES * elements(entry.shapes()[theirs])


def _shard_name(number: int, count: int) -> str:
    return f"model-{number + 1:05d}-of-{count:05d}.safetensors"


@contextlib.contextmanager
def _written(target: Path) -> Iterator[Path]:
    """A hidden folder that becomes `target` at the end, and is gone after an error."""
    if target.is_file() or (target.is_dir() and any(target.iterdir())):
        raise ValueError(f"{target}: exists already and is not an empty folder; name another one")
    hidden = target.with_name(f".writing-{target.resolve().name}")
    try:
        target.parent.mkdir(parents=True, exist_ok=True)
        shutil.rmtree(hidden, ignore_errors=True)
        hidden.mkdir()
        yield hidden
        for path in [*hidden.iterdir(), hidden]:
            _sync(path)
        hidden.rename(target)
        _sync(target.parent)
    except (OSError, SafetensorError) as error:
        raise CheckpointError(f"{target}: cannot be written ({error}); nothing of it is left") from None
    finally:
        shutil.rmtree(hidden, ignore_errors=True)


def _sync(path: Path) -> None:
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
