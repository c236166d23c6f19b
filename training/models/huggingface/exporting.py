"""A checkpoint as a folder of transformers, that whatever reads Hugging Face models can load and serve."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from safetensors.torch import save_file
from torch import Tensor

from training.models.huggingface.counterparts import Counterpart, elements
from training.models.huggingface.families import auto_class
from training.models.huggingface.pooling import write_pooling
from training.models.huggingface.settings import write_json
from training.models.huggingface.source import Source, tensor_of, written
from training.models.huggingface.stored import INDEX, WEIGHTS
from training.models.model_card import Evidence, Form, model_card

SHARD_BYTES = 5_000_000_000
"""Largest file of weights, as transformers has it."""
_FLOAT_BYTES = 4


def export(
    checkpoint_dir: str | Path,
    folder: str | Path,
    family: str | None = None,
    shard_bytes: int = SHARD_BYTES,
    evidence: Evidence | None = None,
) -> Path:
    """Write a checkpoint as the folder of a model of transformers, and return it.

    It holds config.json, generation_config.json where the model writes text, the float32 weights (model.safetensors;
    several files and an index where they take more than `shard_bytes`), README.md (a model card, with the `evidence`
    that there is), and where the checkpoint has a tokenizer tokenizer.json and tokenizer_config.json; of a sentence
    encoder also the modules of sentence-transformers. `family` is one of `FAMILIES`; by default the first that can hold
    the model. The folder is whole or absent.

    Raises ValueError where no family can hold the model, naming every setting that stands in the way; where the folder
    is there and not empty; and CheckpointError (a ValueError) where the checkpoint is damaged or the disk full.
    """
    target = Path(folder)
    if shard_bytes < 1:
        raise ValueError(f"shard_bytes must be at least 1, got {shard_bytes}")
    with written(target) as hidden:
        source = Source.of(checkpoint_dir, family)
        write_json(hidden / "config.json", source.settings)
        if source.family.kind != "encoder":
            write_json(hidden / "generation_config.json", _generation(source))
        source.write_tokenizer(hidden)
        if pooling := source.facts.get("pooling"):
            write_pooling(hidden, pooling, source.config.width)
        card = model_card(target.resolve().name, source, _form(source), evidence)
        (hidden / "README.md").write_text(card, encoding="utf-8")
        _write_weights(hidden, source.table, source.weights, shard_bytes)
    return target


def _form(source: Source) -> Form:
    """How the folder is used."""
    auto = auto_class(source.architecture)
    code = _CODE.format(auto=auto)
    return Form("transformers", auto, f"as transformers' `{source.architecture}`. Weights are float32.", code)


_CODE = """\
from transformers import {auto}, AutoTokenizer

model = {auto}.from_pretrained("path/of/this/folder")
tokenizer = AutoTokenizer.from_pretrained("path/of/this/folder")
"""


def _generation(source: Source) -> dict[str, Any]:
    special = source.special
    ids = {"bos_token_id": special.begin, "eos_token_id": special.end, "pad_token_id": special.padding}
    if source.family.kind == "encoder_decoder":
        names = ("decoder_start_token_id", "eos_token_id", "pad_token_id")
        ids = {name: source.settings.get(name) for name in names}
    return {"do_sample": False, **{key: value for key, value in ids.items() if value is not None}}


def _write_weights(folder: Path, table: list[Counterpart], weights: dict[str, Tensor], shard_bytes: int) -> None:
    """Write safetensors, a file at a time: no more than one file's tensors are copied at once."""
    known = {entry.ours for entry in table}
    assert weights.keys() <= known, weights.keys() - known
    shards = _shards(table, shard_bytes)
    names = [WEIGHTS] if len(shards) == 1 else [_shard_name(number, len(shards)) for number in range(len(shards))]
    for file, shard in zip(names, shards, strict=True):
        # Half-used counterparts are split again for the next file; views cost nothing.
        tensors = {theirs: tensor_of(entry, weights, theirs).contiguous() for theirs, entry in shard.items()}
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


def _bytes(entry: Counterpart, theirs: str) -> int:
    return _FLOAT_BYTES * elements(entry.shapes()[theirs])


def _shard_name(number: int, count: int) -> str:
    return f"model-{number + 1:05d}-of-{count:05d}.safetensors"
