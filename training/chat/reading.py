"""Where the chat template of a model lies."""

from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING, Any

from training.chat.default import DEFAULT_TEMPLATE
from training.chat.template import ChatTemplate, compile_template

if TYPE_CHECKING:
    from tokenizers import Tokenizer

FIELD = "chat_template"
"""Of a checkpoint's config.json and of transformers' tokenizer_config.json."""
LARGEST_BYTES = 1 << 20


def load_template(checkpoint_dir: str | Path, tokenizer: Tokenizer | None = None) -> ChatTemplate:
    """The chat template of a checkpoint, the default one where it has none.

    It is `chat_template` of config.json, or in one of the files that `read_source` knows. Raises ValueError naming the
    file for one that is damaged, and where the checkpoint has no tokenizer.
    """
    from training.checkpoints import describe
    from training.generation import begin_of_text_id, end_of_text_id, load_tokenizer

    folder = Path(checkpoint_dir)
    tokenizer = tokenizer or load_tokenizer(folder)
    source = describe(folder).get(FIELD) or read_source(folder) or DEFAULT_TEMPLATE
    if not isinstance(source, str):
        raise ValueError(f"{folder / 'config.json'}: {FIELD}: expected the text of a template")
    end = end_of_text_id(folder, tokenizer)
    return template_of(source, tokenizer, begin_of_text_id(folder, end), end)


def template_of(source: str, tokenizer: Tokenizer, begin_of_text: int, end_of_text: int) -> ChatTemplate:
    """A template with the tokens that a tokenizer has for these ids."""
    return ChatTemplate(source, tokenizer.id_to_token(begin_of_text) or "", tokenizer.id_to_token(end_of_text) or "")


def read_source(folder: str | Path) -> str | None:
    """The chat template that transformers' files in a folder hold: chat_template.jinja, chat_template.json or
    tokenizer_config.json (of several the one called `default`); None where there is none.

    Raises ValueError naming the file for one that cannot be read, is over 1 MiB or no template.
    """
    folder = Path(folder)
    found: Any = None
    path = folder / "chat_template.jinja"
    if path.is_file():
        found = _read(path)
    for name in ("chat_template.json", "tokenizer_config.json"):
        if found is None and (folder / name).is_file():
            path = folder / name
            found = _chosen(_read_json(path).get(FIELD))
    if found is None:
        return None
    if not isinstance(found, str):
        raise ValueError(f"{path}: {FIELD}: expected the text of a template")
    try:
        compile_template(found)
    except ValueError as error:
        raise ValueError(f"{path}: {error}") from None
    return found


def _chosen(value: Any) -> Any:
    """The one called `default` of several templates."""
    if not isinstance(value, list):
        return value
    named = {entry.get("name"): entry.get("template") for entry in value if isinstance(entry, dict)}
    return named.get("default")


def _read(path: Path) -> str:
    if path.stat().st_size > LARGEST_BYTES:
        raise ValueError(f"{path}: larger than {LARGEST_BYTES:,} bytes")
    try:
        return path.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        raise ValueError(f"{path}: cannot be read: {error}") from None


def _read_json(path: Path) -> dict[str, Any]:
    try:
        document = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise ValueError(f"{path}: cannot be read: {error}") from None
    if not isinstance(document, dict):
        raise ValueError(f"{path}: expected a JSON object")
    return document
