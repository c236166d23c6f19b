"""The tokenizer's files: tokenizer.json is the same on both sides, tokenizer_config.json names its special tokens."""

from __future__ import annotations

import shutil
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from training.models.huggingface.settings import read_json, write_json

TOKENIZER, TOKENIZER_CONFIG = "tokenizer.json", "tokenizer_config.json"
END_OF_TEXT = "<|endoftext|>"
_PADDING = ("<|pad|>", "<pad>", "[PAD]", "<|padding|>")


class Vocabulary:
    """The tokens of a tokenizer.json by id, read without the package tokenizers."""

    def __init__(self, path: Path) -> None:
        document = read_json(path)
        try:
            tokens = document["model"]["vocab"]
            pairs = tokens.items() if isinstance(tokens, dict) else [(entry[0], i) for i, entry in enumerate(tokens)]
            added = [(entry["content"], entry["id"]) for entry in document.get("added_tokens") or []]
            self.id_of: dict[str, int] = {str(token): int(number) for token, number in [*pairs, *added]}
        except (KeyError, IndexError, TypeError, ValueError, AttributeError) as error:
            raise ValueError(f"{path}: damaged: no vocabulary in it ({error!r})") from None
        self._token_of = {number: token for token, number in self.id_of.items()}

    @property
    def largest_id(self) -> int:
        """The largest id that a text can come to."""
        return max(self._token_of, default=-1)

    def token(self, number: int | None) -> str | None:
        """The token of an id."""
        return None if number is None else self._token_of.get(number)

    @property
    def padding(self) -> int | None:
        """The id that the tokenizer has for padding alone."""
        return next((self.id_of[token] for token in _PADDING if token in self.id_of), None)


@dataclass(frozen=True)
class SpecialTokens:
    """Ids with a meaning of their own; None where there is none."""

    begin: int | None
    end: int | None
    padding: int | None

    @classmethod
    def of(cls, facts: dict[str, Any], vocabulary: Vocabulary | None) -> SpecialTokens:
        """Those of a checkpoint, from its config.json and its tokenizer.

        In training the end-of-text token stands between two documents, so it begins a text, too, unless the checkpoint
        says otherwise; and it pads where the tokenizer has no token for that alone.
        """
        end = facts.get("end_of_text")
        if end is None and vocabulary is not None:
            end = vocabulary.id_of.get(END_OF_TEXT)
        padding = vocabulary.padding if vocabulary is not None else None
        return cls(facts.get("begin_of_text", end), end, end if padding is None else padding)


def write_tokenizer(source: Path, folder: Path, context_length: int, special: SpecialTokens) -> None:
    """Copy tokenizer.json and write tokenizer_config.json: AutoTokenizer gives the same ids without a network."""
    vocabulary = Vocabulary(source)
    shutil.copyfile(source, folder / TOKENIZER)
    document = {
        # The class of transformers that takes tokenizer.json as it is, under the name that old and new versions know.
        "tokenizer_class": "PreTrainedTokenizerFast",
        "model_max_length": context_length,
        "clean_up_tokenization_spaces": False,
        "bos_token": vocabulary.token(special.begin),
        "eos_token": vocabulary.token(special.end),
        "pad_token": vocabulary.token(special.padding),
    }
    write_json(folder / TOKENIZER_CONFIG, {key: value for key, value in document.items() if value is not None})
