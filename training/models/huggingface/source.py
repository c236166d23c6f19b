"""A checkpoint on its way out, with all that an exported model is made of, whatever the format."""

from __future__ import annotations

import contextlib
import os
import shutil
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from torch import Tensor

from training.checkpoints import CheckpointError, describe, load_model
from training.config import ModelConfig
from training.models.huggingface.counterparts import Counterpart
from training.models.huggingface.families import family_for
from training.models.huggingface.family import Family
from training.models.huggingface.settings import Settings
from training.models.huggingface.tokenizer import TOKENIZER, SpecialTokens, Vocabulary, write_tokenizer
from training.models.multipliers import with_multipliers
from training.models.sharing import shared_names


@dataclass(frozen=True)
class Source:
    """A checkpoint as a family of transformers holds it."""

    facts: dict[str, Any]
    """The checkpoint's config.json."""
    family: Family
    model: Any
    """The part that goes out."""
    config: ModelConfig
    """Of that part."""
    vocabulary_size: int
    tokenizer: Path | None
    special: SpecialTokens
    settings: dict[str, Any]
    """The config.json of transformers."""

    @classmethod
    def of(cls, checkpoint_dir: str | Path, family: str | None = None) -> Source:
        """Load a checkpoint; `family` is one of `FAMILIES`, by default the first that can hold the model.

        Raises ValueError where none can, naming every setting that stands in the way; where the weights are quantized
        or wait for an adapter; and CheckpointError (a ValueError) where the checkpoint is damaged.
        """
        folder = Path(checkpoint_dir)
        facts = describe(folder)
        for key, what in (("quantization", "quantized"), ("adapter", "not whole without its adapter")):
            if facts.get(key):
                parent = (facts.get("parent") or {}).get("checkpoint")
                more = f", such as its parent {parent}" if parent else ""
                raise ValueError(
                    f"{folder}: its weights are {what}, which other libraries cannot read; export a checkpoint of "
                    f"plain weights{more}"
                )
        whole, whole_config = load_model(folder)
        chosen = family_for(whole_config, family)
        model, config = chosen.part(whole, whole_config)
        tokenizer = folder / TOKENIZER if (folder / TOKENIZER).is_file() else None
        special = SpecialTokens.of(facts, None if tokenizer is None else Vocabulary(tokenizer))
        settings = _settings(chosen, config, whole.vocabulary_size, special)
        return cls(facts, chosen, model, config, whole.vocabulary_size, tokenizer, special, settings)

    @property
    def chat_template(self) -> str | None:
        """The Jinja template of its conversations."""
        template = self.facts.get("chat_template")
        return template if isinstance(template, str) else None

    @property
    def architecture(self) -> str:
        """The class of transformers."""
        return self.family.architecture(self.config)

    @property
    def parameters(self) -> int:
        """Trained numbers, what is tied or shared counted once."""
        return sum(parameter.numel() for parameter in self.model.parameters())

    @property
    def table(self) -> list[Counterpart]:
        """Which tensors of transformers stand for which parameters."""
        return self.family.counterparts(self.config, Settings(self.settings), self.vocabulary_size)

    @property
    def weights(self) -> dict[str, Tensor]:
        """The parameters, each once; what `mup` multiplies in the model becomes part of them."""
        further = shared_names(self.model)
        state = self.model.state_dict().items()
        weights = {name: tensor.detach().cpu() for name, tensor in state if name not in further}
        return with_multipliers(weights, self.config)

    def write_tokenizer(self, folder: Path) -> None:
        """Write tokenizer.json and tokenizer_config.json, where the checkpoint has a tokenizer, and the chat template
        where it has one."""
        if self.tokenizer is None:
            return
        if template := self.chat_template:
            (folder / "chat_template.jinja").write_text(template, encoding="utf-8")
        family = self.family
        types = self.config.token_types if family.reads_types else 0
        inputs = None if family.kind == "causal" else _inputs(types)
        write_tokenizer(
            self.tokenizer, folder, self.config.context_length, self.special, family.template, inputs, types
        )


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


def _inputs(token_types: int) -> list[str]:
    """The arguments of the model that a tokenizer makes; one type alone need not be said."""
    return ["input_ids", *(["token_type_ids"] if token_types > 1 else []), "attention_mask"]


def tensor_of(entry: Counterpart, weights: dict[str, Tensor], theirs: str) -> Tensor:
    """One of their tensors; what is optional and ours lacks is zero."""
    if entry.ours in weights:
        return entry.split(weights[entry.ours])[theirs]
    assert entry.optional or entry.ours.endswith(".bias"), entry.ours
    return torch.zeros(entry.shapes()[theirs])


@contextlib.contextmanager
def written(target: Path) -> Iterator[Path]:
    """A hidden folder that becomes `target` at the end, and is gone after an error.

    Raises ValueError where `target` is there and not empty, and CheckpointError where it cannot be written.
    """
    if target.is_file() or (target.is_dir() and any(target.iterdir())):
        raise ValueError(f"{target}: exists already and is not an empty folder; name another one")
    hidden = target.with_name(f".writing-{target.resolve().name}")
    try:
        target.parent.mkdir(parents=True, exist_ok=True)
        shutil.rmtree(hidden, ignore_errors=True)
        hidden.mkdir()
        yield hidden
        for path in [*hidden.rglob("*"), hidden]:
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
