"""A folder of transformers as a checkpoint, to generate with, to evaluate and to train on from."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from training.checkpoints import TrainerState, list_checkpoints, save
from training.config import ModelConfig
from training.models.huggingface.counterparts import Counterpart
from training.models.huggingface.families import family_of
from training.models.huggingface.family import Family
from training.models.huggingface.settings import Settings, read_json
from training.models.huggingface.stored import StoredTensors
from training.models.huggingface.tokenizer import TOKENIZER, Vocabulary
from training.models.transformer import Transformer

_SHOWN = 8


def import_model(folder: str | Path, checkpoints_dir: str | Path) -> Path:
    """Write a local model of transformers (GPT-2, Llama or Qwen3) as `checkpoints_dir`/step-00000000; return that.

    Reads config.json, safetensors of float32, float16, bfloat16 or float64 (one file, or several with their index),
    and tokenizer.json where there is one; weights become float32. No pickle and no code of the folder is run.

    Raises ValueError naming what is unknown, unsupported, missing, unexpected, wrongly shaped or damaged, and where
    `checkpoints_dir` holds a checkpoint already.
    """
    source, target = Path(folder), Path(checkpoints_dir)
    if existing := list_checkpoints(target):
        raise ValueError(f"{target}: holds {existing[-1].name} already; import it under another name")
    document = read_json(source / "config.json")
    try:
        settings = Settings(document)
        family = family_of(settings)
        if document.get("quantization_config"):
            raise ValueError("quantization_config: quantized weights are not supported")
        vocabulary_size = settings.integer("vocab_size")
    except ValueError as error:
        raise ValueError(f"{source / 'config.json'}: {error}") from None
    tokenizer = _tokenizer(source, vocabulary_size)
    description = {
        "imported": {"architecture": family.architecture, "folder": source.resolve().name},
        **_special_tokens(source, settings, vocabulary_size),
    }
    with StoredTensors(source) as stored:
        try:
            config = family.to_config(settings, stored)
            table = family.counterparts(config, settings, vocabulary_size)
        except ValueError as error:
            raise ValueError(f"{source / 'config.json'}: {error}") from None
        names = _actual_names(source, family, config, table, stored)
        model = _model(config, vocabulary_size, table, names, stored)
    return save(target, model, TrainerState(0, {}, {}, {}), description, tokenizer)


def _actual_names(
    folder: Path, family: Family, config: ModelConfig, table: list[Counterpart], stored: StoredTensors
) -> dict[str, str]:
    """The name in the file of each of their tensors; raises ValueError where what is there is not what must be."""
    bare = not any(name.startswith(family.prefix) for name in stored)
    expected = {name: shape for entry in table for name, shape in entry.shapes().items()}
    actual = {name: name.removeprefix(family.prefix) if bare else name for name in expected}
    problems = [f"missing {name}" for name in actual.values() if name not in stored]
    allowed = set(actual.values())
    problems += [
        f"unexpected {name}" for name in stored if name not in allowed and not _ignored(name, family, config, stored)
    ]
    problems += [
        f"{actual[name]} of shape {list(stored.shape(actual[name]))} instead of {list(shape)}"
        for name, shape in expected.items()
        if actual[name] in stored and stored.shape(actual[name]) != shape
    ]
    if problems:
        more = f"; and {len(problems) - _SHOWN} more" if len(problems) > _SHOWN else ""
        raise ValueError(f"{folder}: the weights do not fit config.json: {'; '.join(problems[:_SHOWN])}{more}")
    return actual


def _ignored(name: str, family: Family, config: ModelConfig, stored: StoredTensors) -> bool:
    """Whether a tensor that config.json has no place for changes nothing."""
    if family.ignored.fullmatch(name):
        return True
    if name != "lm_head.weight" or not config.tied_embeddings:
        return False
    embedding = next((other for other in stored if other.endswith(("wte.weight", "embed_tokens.weight"))), None)
    if embedding is None or torch.equal(stored.read(name), stored.read(embedding)):
        return True
    raise ValueError(
        "lm_head.weight: differs from the embedding, though config.json says tie_word_embeddings; set that to false"
    )


def _model(
    config: ModelConfig,
    vocabulary_size: int,
    table: list[Counterpart],
    names: dict[str, str],
    stored: StoredTensors,
) -> Transformer:
    with torch.device("meta"):  # takes no memory and draws no weights
        model = Transformer(config, vocabulary_size)
    entries = {entry.ours: entry for entry in table}
    weights: dict[str, Tensor] = {}
    for name, parameter in model.state_dict().items():
        if name in entries:
            assert entries[name].shape == parameter.shape, name
            weights[name] = entries[name].join([stored.read(names[theirs]) for theirs in entries[name].theirs])
        elif name == "head.weight":
            weights[name] = weights["embedding.weight"]
        else:
            assert name.endswith(".bias"), name
            weights[name] = torch.zeros(parameter.shape)
    model.load_state_dict(weights, assign=True)
    return model


def _tokenizer(folder: Path, vocabulary_size: int) -> Path | None:
    path = folder / TOKENIZER
    if not path.is_file():
        return None
    largest = Vocabulary(path).largest_id
    if largest >= vocabulary_size:
        raise ValueError(
            f"{path}: its ids go up to {largest}, the model has {vocabulary_size} tokens: a tokenizer of another model"
        )
    return path


def _special_tokens(folder: Path, settings: Settings, vocabulary_size: int) -> dict[str, int]:
    """Ids that end and begin a text, as far as they are known."""
    generation = folder / "generation_config.json"
    others = read_json(generation) if generation.is_file() else {}
    found: dict[str, int] = {}
    for ours, theirs in (("end_of_text", "eos_token_id"), ("begin_of_text", "bos_token_id")):
        value: Any = settings.get(theirs)
        value = others.get(theirs) if value is None else value
        # A model tuned for dialogue may have several ends; the first is that of a text.
        value = value[0] if isinstance(value, list) and value else value
        if value is None:
            continue
        if isinstance(value, bool) or not isinstance(value, int) or not 0 <= value < vocabulary_size:
            raise ValueError(f"{folder / 'config.json'}: {theirs}: {value!r} is no id below {vocabulary_size}")
        found[ours] = value
    return found
