"""A checkpoint that is judged: the model, and all that its folder tells of how it was trained."""

from __future__ import annotations

from collections.abc import Sequence
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray

from training import objectives
from training.checkpoints import describe, load_model
from training.config import ObjectiveConfig, SpecialTokens, from_dict
from training.devices import Compute
from training.generation import begin_of_text_id, end_of_text_id, load_tokenizer, objective_of

if TYPE_CHECKING:
    from tokenizers import Tokenizer

Ids = NDArray[np.int64]


class Frame(NamedTuple):
    """What stands around a text in a sequence of the model, and behind a short one in a batch."""

    before: tuple[int, ...]
    after: tuple[int, ...]
    padding: int

    def around(self, ids: Sequence[int] | NDArray[np.integer]) -> Ids:
        """The sequence of a text of ids."""
        return np.concatenate([self.before, np.asarray(ids, dtype=np.int64), self.after]).astype(np.int64)

    @property
    def tokens(self) -> int:
        """How many tokens it takes."""
        return len(self.before) + len(self.after)


class Judged:
    """The model of a checkpoint in evaluation mode.

    Attributes: model, description (of config.json), objective_config, tokenizer, end_of_text, begin_of_text, special,
    compute, seed (of masks, orders and cuts). Raises ValueError naming what the checkpoint lacks.
    """

    def __init__(self, checkpoint: str | Path, compute: Compute, seed: int = 1) -> None:
        self.checkpoint = Path(checkpoint)
        self.compute = compute
        self.seed = seed
        self.tokenizer: Tokenizer = load_tokenizer(checkpoint)
        self.end_of_text = end_of_text_id(checkpoint, self.tokenizer)
        self.begin_of_text = begin_of_text_id(checkpoint, self.end_of_text)
        self.model: Any = load_model(checkpoint, compute.device)[0]
        self.description = describe(checkpoint)
        self.objective_config: ObjectiveConfig = objective_of(self.description)
        self.special = from_dict(SpecialTokens, self.description.get("special_tokens") or {}, "special_tokens")

    @property
    def name(self) -> str:
        """The main objective."""
        return self.objective_config.name

    @property
    def device(self) -> torch.device:
        """Where the model is."""
        return self.compute.device

    @property
    def context_length(self) -> int:
        """Longest input in tokens."""
        length: int = self.model.config.context_length
        return length

    @property
    def sequence_length(self) -> int:
        """Tokens of a row in training; by default the context length."""
        return int(self.description.get("sequence_length") or self.context_length)

    @property
    def tokenizer_vocabulary(self) -> int:
        """Ids of the tokenizer; what the objective added lies behind."""
        known = self.description.get("tokenizer_vocabulary_size")
        return int(known or self.model.vocabulary_size - self.objective_config.extra_tokens)

    @cached_property
    def objective(self) -> objectives.Objective:
        """The objective that it was trained on, with masks, orders and cuts of this evaluation's seed."""
        setting = objectives.Setting(
            self.tokenizer_vocabulary,
            self.end_of_text,
            self.special,
            self.seed,
            tokenizer_path=str(self.checkpoint / "tokenizer.json"),
        )
        return objectives.build(self.objective_config, setting)

    @property
    def reads_forward(self) -> bool:
        """Whether it was trained to predict each token of a text from those before it, alone or among other tasks."""
        return any(one.name == "causal" for one in self.objective_config.all)

    @cached_property
    def frame(self) -> Frame:
        """As in training: special tokens around a text, the end of one before it and behind it, or either."""
        padding = self.end_of_text if self.special.padding is None else self.special.padding
        if self.name in ("causal", "prefix"):
            return Frame((self.begin_of_text,), (), padding)
        if self.name == "span_corruption":
            return Frame((), (self.end_of_text,), padding)
        if self.name == "permutation":
            return Frame((self.end_of_text,), (self.end_of_text,), padding)
        before, after = self.special.first, self.special.separator
        return Frame(() if before is None else (before,), () if after is None else (after,), padding)

    def encode(self, texts: Sequence[str]) -> list[Ids]:
        """The ids of texts, without any special ones."""
        encodings = self.tokenizer.encode_batch(list(texts), add_special_tokens=False)
        return [np.array(encoding.ids, dtype=np.int64) for encoding in encodings]
