"""The tokenizer's files: tokenizer.json is the same on both sides but for what an encoder's adds around a text,
tokenizer_config.json names its special tokens."""

from __future__ import annotations

import shutil
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from training.models.huggingface.settings import read_json, write_json

TOKENIZER, TOKENIZER_CONFIG = "tokenizer.json", "tokenizer_config.json"
END_OF_TEXT = "<|endoftext|>"
_NAMES = {
    "padding": ("<|pad|>", "<pad>", "[PAD]", "<|padding|>"),
    "mask": ("<|mask|>", "<mask>", "[MASK]"),
    "first": ("<|cls|>", "<cls>", "[CLS]", "<s>"),
    "separator": ("<|sep|>", "<sep>", "[SEP]", "</s>"),
}
"""What special tokens are called; the first that a tokenizer has counts."""
_KEYS = {"padding": "pad_token", "mask": "mask_token", "first": "cls_token", "separator": "sep_token"}
"""Their names in tokenizer_config.json."""


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

    def special(self, name: str) -> int | None:
        """The id of the token for padding, mask, first or separator by what it is usually called."""
        return next((self.id_of[token] for token in _NAMES[name] if token in self.id_of), None)


def named_tokens(folder: Path) -> dict[str, int]:
    """Ids of the special tokens (padding, mask, first, separator) that the tokenizer's files in a folder name."""
    if not (folder / TOKENIZER).is_file():
        return {}
    vocabulary = Vocabulary(folder / TOKENIZER)
    config = read_json(folder / TOKENIZER_CONFIG) if (folder / TOKENIZER_CONFIG).is_file() else {}
    found: dict[str, int] = {}
    for name, key in _KEYS.items():
        token = config.get(key)
        token = token.get("content") if isinstance(token, dict) else token
        number = vocabulary.id_of.get(token) if isinstance(token, str) else vocabulary.special(name)
        if number is not None:
            found[name] = number
    return found


@dataclass(frozen=True)
class SpecialTokens:
    """Ids with a meaning of their own; None where there is none."""

    begin: int | None
    end: int | None
    own_padding: int | None
    """For padding alone."""
    mask: int | None = None
    first: int | None = None
    """Before each sequence of an encoder ([CLS])."""
    separator: int | None = None
    """Behind each part of a sequence of an encoder ([SEP])."""

    @property
    def padding(self) -> int | None:
        """What pads: the end of the text where there is no token for that alone."""
        return self.end if self.own_padding is None else self.own_padding

    @classmethod
    def of(cls, facts: dict[str, Any], vocabulary: Vocabulary | None) -> SpecialTokens:
        """Those of a checkpoint, from its config.json and its tokenizer.

        In training the end-of-text token stands between two documents, so it begins a text, too, unless the checkpoint
        says otherwise. The others are in `special_tokens` of config.json, or have one of their usual names.
        """
        end = facts.get("end_of_text")
        if end is None and vocabulary is not None:
            end = vocabulary.id_of.get(END_OF_TEXT)
        known: dict[str, int | None] = dict(facts.get("special_tokens") or {})
        for name in _NAMES:
            if known.get(name) is None:
                known[name] = None if vocabulary is None else vocabulary.special(name)
        return cls(
            facts.get("begin_of_text", end), end, known["padding"], known["mask"], known["first"], known["separator"]
        )


@dataclass(frozen=True)
class Template:
    """Special tokens around one text and around two: fields of SpecialTokens, and A and B for the texts."""

    single: tuple[str, ...] = ("first", "A", "separator")
    pair: tuple[str, ...] = ("first", "A", "separator", "B", "separator")

    def names(self) -> list[str]:
        """The special tokens in it."""
        return [name for name in dict.fromkeys((*self.single, *self.pair)) if name not in ("A", "B")]


ENCODER = Template()
"""What encoders are trained on: BERT's."""


def write_tokenizer(
    source: Path,
    folder: Path,
    context_length: int,
    special: SpecialTokens,
    template: Template | None = None,
    inputs: list[str] | None = None,
    token_types: int = 0,
) -> None:
    """Copy tokenizer.json and write tokenizer_config.json: AutoTokenizer gives the same ids without a network.

    With a `template` AutoTokenizer adds its special tokens to what it encodes, as the model was trained; a tokenizer
    that adds some already is left as it is. `inputs` are the arguments of the model that AutoTokenizer makes; with two
    `token_types` the second text is of the second one.
    """
    vocabulary = Vocabulary(source)
    if template is None or not _add_template(source, folder / TOKENIZER, template, special, vocabulary, token_types):
        shutil.copyfile(source, folder / TOKENIZER)
    document: dict[str, Any] = {
        # The class of transformers that takes tokenizer.json as it is, under the name that old and new versions know.
        "tokenizer_class": "PreTrainedTokenizerFast",
        "model_max_length": context_length,
        "clean_up_tokenization_spaces": False,
        "pad_token": vocabulary.token(special.padding),
    }
    if template is None or "first" not in template.names():
        document |= {"bos_token": vocabulary.token(special.begin), "eos_token": vocabulary.token(special.end)}
    if template is not None:
        document |= {_KEYS[name]: vocabulary.token(getattr(special, name)) for name in ("mask", "first", "separator")}
    if inputs is not None:
        document["model_input_names"] = inputs
    write_json(folder / TOKENIZER_CONFIG, {key: value for key, value in document.items() if value is not None})


def _add_template(
    source: Path, target: Path, template: Template, special: SpecialTokens, vocabulary: Vocabulary, token_types: int
) -> bool:
    """Write tokenizer.json with a post-processor that adds the template; False where it cannot or need not be."""
    tokens = {name: vocabulary.token(getattr(special, name)) for name in template.names()}
    document = read_json(source)
    existing = document.get("post_processor")
    if None in tokens.values() or (existing is not None and existing.get("type") != "ByteLevel"):
        return False
    added = {
        "type": "TemplateProcessing",
        "single": _pieces(template.single, tokens, token_types),
        "pair": _pieces(template.pair, tokens, token_types),
        "special_tokens": {
            token: {"id": token, "ids": [vocabulary.id_of[token]], "tokens": [token]}
            for token in tokens.values()
            if token is not None
        },
    }
    sequence = {"type": "Sequence", "processors": [existing, added]}
    document["post_processor"] = added if existing is None else sequence
    mask = vocabulary.token(special.mask)
    for entry in document.get("added_tokens") or []:
        if entry.get("content") == mask and "ByteLevel" in str(document.get("pre_tokenizer")):
            # A byte-level token holds the space before its word; so does the mask that stands for it.
            entry["lstrip"] = True
    write_json(target, document)
    return True


def _pieces(names: tuple[str, ...], tokens: dict[str, str | None], token_types: int) -> list[dict[str, Any]]:
    """The entries of a TemplateProcessing; from B on, all is of the second type where there are two."""
    pieces: list[dict[str, Any]] = []
    kind = 0
    for name in names:
        kind = 1 if name == "B" and token_types > 1 else kind
        piece = {"id": name if name in ("A", "B") else tokens[name], "type_id": kind}
        pieces.append({"Sequence" if name in ("A", "B") else "SpecialToken": piece})
    return pieces
