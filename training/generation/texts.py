"""The text side of a checkpoint: its tokenizer, the ids around a text, and what it was trained on."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

from training.checkpoints import describe
from training.config import ObjectiveConfig, from_dict

if TYPE_CHECKING:
    from tokenizers import Tokenizer

END_OF_TEXT = "<|endoftext|>"


def objective_of(description: dict[str, Any]) -> ObjectiveConfig:
    """What the model of a checkpoint was trained on, from its config.json; causal where that does not say.

    Raises ValueError naming a wrong field.
    """
    found = description.get("objective") or "causal"
    return from_dict(ObjectiveConfig, {"name": found} if isinstance(found, str) else found, "objective")


def load_tokenizer(checkpoint_dir: str | Path) -> Tokenizer:
    """Read the tokenizer of a checkpoint; raises ValueError where it has none or a damaged one."""
    path = Path(checkpoint_dir) / "tokenizer.json"
    if not path.is_file():
        raise ValueError(f"{path}: missing; this checkpoint was trained without a tokenizer and cannot read text")
    return read_tokenizer(path)


def read_tokenizer(path: str | Path) -> Tokenizer:
    """Read a tokenizer.json; raises ValueError where it is damaged, or the package tokenizers is not installed."""
    try:
        from tokenizers import Tokenizer
    except ImportError:
        raise ValueError("text needs the package tokenizers: pip install tokenizers") from None
    try:
        return Tokenizer.from_file(str(path))
    except Exception as error:  # the library raises bare Exception
        raise ValueError(f"{path}: damaged: {error}") from None


def end_of_text_id(checkpoint_dir: str | Path, tokenizer: Tokenizer | None = None) -> int:
    """The id that ends a document: `end_of_text` of config.json, else the tokenizer's `<|endoftext|>`.

    Raises ValueError where neither is there.
    """
    description: dict[str, Any] = describe(checkpoint_dir)
    known = description.get("end_of_text")
    if known is None:
        known = (tokenizer or load_tokenizer(checkpoint_dir)).token_to_id(END_OF_TEXT)
    if known is None:
        raise ValueError(f"{checkpoint_dir}: neither config.json nor the tokenizer names an end-of-text id")
    return int(known)


def begin_of_text_id(checkpoint_dir: str | Path, end_of_text: int) -> int:
    """The id that every text starts with: `begin_of_text` of an imported model's config.json, else `end_of_text`."""
    return int(describe(checkpoint_dir).get("begin_of_text", end_of_text))
