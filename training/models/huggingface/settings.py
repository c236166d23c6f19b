"""The config.json of transformers, read with types: each error names the key, its value and what is allowed."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any


class Settings(Mapping[str, Any]):
    """The entries of a config.json. A key that is absent or null has the default of transformers."""

    def __init__(self, document: dict[str, Any], at: str = "") -> None:
        self._document = document
        self._at = at

    def __getitem__(self, key: str) -> Any:
        return self._document[key]

    def __iter__(self) -> Any:
        return iter(self._document)

    def __len__(self) -> int:
        return len(self._document)

    def integer(self, key: str, default: int | None = None) -> int:
        """A whole number of at least 1."""
        value = self._value(key, default)
        if isinstance(value, bool) or not isinstance(value, int) or value < 1:
            raise self.wrong(key, value, "a whole number of at least 1")
        return value

    def number(self, key: str, default: float | None = None) -> float:
        """A number, as float."""
        value = self._value(key, default)
        if isinstance(value, bool) or not isinstance(value, int | float):
            raise self.wrong(key, value, "a number")
        return float(value)

    def flag(self, key: str, default: bool) -> bool:
        """True or false."""
        value = self._value(key, default)
        if not isinstance(value, bool):
            raise self.wrong(key, value, "true or false")
        return value

    def one_of(self, key: str, allowed: Mapping[Any, Any], default: Any = None) -> Any:
        """What `allowed` holds for the value; every other value is refused."""
        value = self._value(key, default)
        if not isinstance(value, str | int | float | None) or value not in allowed:
            raise self.wrong(key, value, " or ".join(json.dumps(name) for name in allowed))
        return allowed[value]

    def section(self, key: str) -> Settings | None:
        """An object inside, or None where there is none or an empty one."""
        value = self._document.get(key)
        if value is not None and not isinstance(value, dict):
            raise self.wrong(key, value, "an object")
        return Settings(value, f"{self._at}{key}.") if value else None

    def wrong(self, key: str, value: Any, allowed: str) -> ValueError:
        """The error for a value that is not allowed."""
        shown = "nothing" if value is None else json.dumps(value)
        return ValueError(f"{self._at}{key}: {shown[:80]} is not supported; it must be {allowed}")

    def _value(self, key: str, default: Any) -> Any:
        value = self._document.get(key)
        return default if value is None else value


def read_json(path: Path) -> dict[str, Any]:
    """Read a JSON object; raises ValueError naming the file where there is none."""
    try:
        document = json.loads(path.read_bytes())
    except OSError as error:
        raise ValueError(f"{path}: cannot be read: {error.strerror}") from None
    except (ValueError, RecursionError) as error:
        raise ValueError(f"{path}: damaged: {error}") from None
    if not isinstance(document, dict):
        raise ValueError(f"{path}: damaged: not a JSON object")
    return document


def write_json(path: Path, document: dict[str, Any]) -> None:
    """Write a JSON object for people and programs."""
    path.write_text(json.dumps(document, indent=2, ensure_ascii=False, allow_nan=False) + "\n", encoding="utf-8")
