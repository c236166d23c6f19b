"""A folder of transformers as a checkpoint, to generate with, to evaluate and to train on from."""

from __future__ import annotations

import contextlib
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from training.chat.reading import read_source
from training.checkpoints import TrainerState, list_checkpoints, save
from training.config import ModelConfig
from training.models import Model, build
from training.models.huggingface.counterparts import Counterpart
from training.models.huggingface.families import architecture_of, family_of
from training.models.huggingface.family import Family
from training.models.huggingface.pooling import read_pooling
from training.models.huggingface.settings import Settings, read_json, write_json
from training.models.huggingface.stored import StoredTensors
from training.models.huggingface.tokenizer import TOKENIZER, Vocabulary, named_tokens
from training.models.sharing import share, shared_names

_SHOWN = 8


def import_model(folder: str | Path, checkpoints_dir: str | Path) -> Path:
    """Write a local model of transformers as `checkpoints_dir`/step-00000000; return that.

    Reads config.json, safetensors of float32, float16, bfloat16 or float64 (one file, or several with their index),
    and tokenizer.json where there is one; weights become float32. No pickle and no code of the folder is run. Where the
    files are those of a bare encoder (such as BertModel's), the head is drawn anew, always alike, and the checkpoint's
    config.json names its parameters under `imported.untrained`. Of a folder of sentence-transformers it keeps how the
    vector of a text is made, under `pooling`.

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
    imported: dict[str, Any] = {"architecture": architecture_of(settings), "folder": source.resolve().name}
    description = {"imported": imported, **_special_tokens(source, family, settings, vocabulary_size)}
    if pooling := read_pooling(source):
        description["pooling"] = pooling
    if family.kind == "causal" and (template := read_source(source)):
        description["chat_template"] = template
    with StoredTensors(source) as stored:
        stored.rename(family.old_names)
        try:
            config = family.to_config(settings, stored)
            table = family.counterparts(config, settings, vocabulary_size)
        except ValueError as error:
            raise ValueError(f"{source / 'config.json'}: {error}") from None
        # Before the model is built: shapes that no file could have never take any memory.
        names = _actual_names(source, family, config, table, stored)
        with torch.device("meta"):  # takes no memory and draws no weights
            model = build(config, vocabulary_size)
        if untrained := _fill(model, table, names, stored, settings):
            imported["untrained"] = untrained
    if family.kind == "encoder":
        description["objective"] = "replaced_token" if config.head == "replaced_token" else "masked"
    with _bare_tokenizer(tokenizer) as path:
        return save(target, model, TrainerState(0, {}, {}, {}), description, path)


def _actual_names(
    folder: Path, family: Family, config: ModelConfig, table: list[Counterpart], stored: StoredTensors
) -> dict[str, str]:
    """The name in the file of each of their tensors, without those to be drawn; raises ValueError where what is there
    is not what must be."""
    bare = not any(name.startswith(family.prefix) for name in stored)
    expected = {name: shape for entry in table for name, shape in entry.shapes().items()}
    actual = {name: name.removeprefix(family.prefix) if bare else name for name in expected}
    head = {name for name in expected if family.optional.fullmatch(name)}
    dispensable = set() if any(actual[name] in stored for name in head) else head
    dispensable |= {name for entry in table if entry.optional for name in entry.theirs}
    for name in dispensable:
        if actual[name] not in stored:
            del actual[name]
    problems = [f"missing {name}" for name in actual.values() if name not in stored]
    allowed = set(actual.values())
    problems += [
        f"unexpected {stored.stored_as(name)}"
        for name in stored
        if name not in allowed and not _ignored(name, family, config, actual, stored)
    ]
    problems += [
        f"{stored.stored_as(name)} of shape {list(stored.shape(name))} instead of {list(expected[full])}"
        for full, name in actual.items()
        if name in stored and stored.shape(name) != expected[full]
    ]
    if problems:
        more = f"; and {len(problems) - _SHOWN} more" if len(problems) > _SHOWN else ""
        raise ValueError(f"{folder}: the weights do not fit config.json: {'; '.join(problems[:_SHOWN])}{more}")
    return actual


def _ignored(name: str, family: Family, config: ModelConfig, actual: dict[str, str], stored: StoredTensors) -> bool:
    """Whether a tensor that config.json has no place for changes nothing."""
    if family.ignored.fullmatch(name):
        return True
    if name not in family.tied or not config.tied_embeddings:
        return False
    original = actual.get(family.tied[name])
    if original is None or original not in stored or torch.equal(stored.read(name), stored.read(original)):
        return True
    raise ValueError(f"{name}: differs from {original}, though config.json says tie_word_embeddings; set that to false")


def _fill(
    model: Model, table: list[Counterpart], names: dict[str, str], stored: StoredTensors, settings: Settings
) -> list[str]:
    """Give a model on the meta device its weights; returns the names of those that the files lack and are drawn."""
    entries = {entry.ours: entry for entry in table}
    further = shared_names(model)
    generator = torch.Generator().manual_seed(0)
    weights: dict[str, Tensor] = {}
    untrained: list[str] = []
    for name, parameter in model.state_dict().items():
        entry = entries.get(name)
        if name in further:
            continue
        if entry is None:
            assert name.endswith(".bias"), name
            weights[name] = torch.zeros(parameter.shape)
        elif any(theirs not in names for theirs in entry.theirs):
            untrained.append(name)
            weights[name] = _drawn(name, parameter.shape, settings.number("initializer_range", 0.02), generator)
        else:
            assert entry.shape == parameter.shape, name
            weights[name] = entry.join([stored.read(names[theirs]) for theirs in entry.theirs])
    model.load_state_dict(weights | {name: weights[first] for name, first in further.items()}, assign=True)
    share(model, further)
    return untrained


def _drawn(name: str, shape: torch.Size, deviation: float, generator: torch.Generator) -> Tensor:
    """A parameter of a head as transformers begins with it: biases 0, gains 1, matrices normal."""
    if len(shape) == 1:
        return torch.zeros(shape) if name.endswith(".bias") else torch.ones(shape)
    return torch.empty(shape).normal_(std=deviation, generator=generator)


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


@contextlib.contextmanager
def _bare_tokenizer(path: Path | None) -> Iterator[Path | None]:
    """The tokenizer without what cuts or pads every text: that is the model's affair here, and differs by use."""
    document = {} if path is None else read_json(path)
    if document.get("truncation") is None and document.get("padding") is None:
        yield path
        return
    with tempfile.TemporaryDirectory() as folder:
        write_json(Path(folder, TOKENIZER), {**document, "truncation": None, "padding": None})
        yield Path(folder, TOKENIZER)


def _special_tokens(folder: Path, family: Family, settings: Settings, vocabulary_size: int) -> dict[str, Any]:
    """Ids that end and begin a text and, of models that are not causal, the others, as far as they are known."""
    generation = folder / "generation_config.json"
    others = read_json(generation) if generation.is_file() else {}
    found: dict[str, Any] = {}
    for ours, theirs in (("end_of_text", "eos_token_id"), ("begin_of_text", "bos_token_id"), ("", "pad_token_id")):
        value: Any = settings.get(theirs)
        value = others.get(theirs) if value is None else value
        # A model tuned for dialogue may have several ends; the first is that of a text.
        value = value[0] if isinstance(value, list) and value else value
        if value is None or (not ours and family.kind == "causal"):
            continue
        if isinstance(value, bool) or not isinstance(value, int) or not 0 <= value < vocabulary_size:
            raise ValueError(f"{folder / 'config.json'}: {theirs}: {value!r} is no id below {vocabulary_size}")
        found[ours or "padding"] = value
    if family.kind == "causal":
        return found
    padding = {"padding": found.pop("padding")} if "padding" in found else {}
    special = {**named_tokens(folder), **padding}
    if family.kind == "encoder" and special.get("separator") is not None:
        found.setdefault("end_of_text", special["separator"])
    return {**found, "special_tokens": special} if special else found
