"""Templates of prompts: `{field}` stands for a field of the row; nothing else is looked up and nothing is run."""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any

_PLACE = re.compile(r"\{\{|\}\}|\{([^{}]*)\}")


def fill(template: str, row: Mapping[str, Any], where: str) -> str:
    """A template with the row's fields in it; raises ValueError naming the place, the field and those that there are.

    `where` names the file and row for the error.
    """

    def value(match: re.Match[str]) -> str:
        if match[0] in ("{{", "}}"):
            return match[0][0]
        return str(field(row, match[1], where))

    return _PLACE.sub(value, template)


def field(row: Mapping[str, Any], name: str, where: str) -> Any:
    """A field of a row; raises ValueError where it is missing or empty of a value."""
    if row.get(name) is None:
        raise ValueError(f"{where}: has no field {name}; there are {', '.join(map(str, row))}")
    return row[name]


def shown(value: Any) -> str:
    """A value for an error, cut short."""
    text = repr(value)
    return text if len(text) <= 80 else f"{text[:77]}..."
