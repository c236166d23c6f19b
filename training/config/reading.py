"""Dataclasses from plain JSON, with errors that name the field; and the checks that the dataclasses share."""

from __future__ import annotations

import dataclasses
import math
import types
import typing
from collections.abc import Callable
from typing import Any, Literal, TypeVar

T = TypeVar("T")

STRICT: dict[str, Any] = {"extra": "forbid", "use_attribute_docstrings": True}
"""What pydantic is told of each of these dataclasses when a recipe embeds them."""


def to_dict(value: Any) -> dict[str, Any]:
    """The JSON form of a dataclass; `from_dict` reads it back."""
    return dataclasses.asdict(value)


def from_dict(cls: type[T], value: Any, at: str = "") -> T:
    """Build a dataclass of this package from plain JSON values.

    A class with a static method `expand` has its value passed through that first. Raises ValueError naming the field
    (`training.batch_size`), its value and what is allowed, for a missing or unknown key, a wrong type or a value out of
    range. An integer serves as a float; nothing else is converted.
    """
    expand = getattr(cls, "expand", None)
    if expand is not None:
        value = _located(at, expand, value)
    if not isinstance(value, dict):
        raise ValueError(f"{at or 'the configuration'}: expected an object, got {_shown(value)}")
    fields = {entry.name: entry for entry in dataclasses.fields(cls)}  # type: ignore[arg-type]
    hints = typing.get_type_hints(cls)
    for key in value:
        if key not in fields:
            raise ValueError(f"{_join(at, key)}: unknown; allowed are {', '.join(fields)}")
    arguments = {key: _convert(hints[key], item, _join(at, key)) for key, item in value.items()}
    for name, entry in fields.items():
        required = entry.default is dataclasses.MISSING and entry.default_factory is dataclasses.MISSING
        if required and name not in value:
            raise ValueError(f"{_join(at, name)}: missing")
    return _located(at, cls, **arguments)


def _convert(hint: Any, value: Any, at: str) -> Any:
    origin, arguments = typing.get_origin(hint), typing.get_args(hint)
    if origin in (types.UnionType, typing.Union):
        return _convert_union(arguments, value, at)
    if origin is Literal:
        if value not in arguments or isinstance(value, bool):
            raise ValueError(f"{at}: expected one of {', '.join(map(str, arguments))}, got {_shown(value)}")
        return value
    if origin in (list, tuple):
        if not isinstance(value, list | tuple):
            raise ValueError(f"{at}: expected a list, got {_shown(value)}")
        return origin(_convert(arguments[0], item, f"{at}[{index}]") for index, item in enumerate(value))
    if dataclasses.is_dataclass(hint):
        return from_dict(typing.cast(type, hint), value, at)
    accepted, name = _SCALARS[hint]
    if not isinstance(value, accepted) or (isinstance(value, bool) and hint is not bool):
        raise ValueError(f"{at}: expected {name}, got {_shown(value)}")
    return hint(value)


def _convert_union(members: tuple[Any, ...], value: Any, at: str) -> Any:
    """The value as None or a member of a Literal where it is that; else as the one member that is left.

    Words beside true and false (a Literal with bool) are the names of a switch, and what is allowed is told by them.
    """
    if value is None and type(None) in members:
        return None
    others = [member for member in members if member is not type(None)]
    for member in others:
        if typing.get_origin(member) is Literal and value in typing.get_args(member):
            return value
    if bool in others and not isinstance(value, bool):
        return _convert(next(member for member in others if typing.get_origin(member) is Literal), value, at)
    (rest,) = (member for member in others if typing.get_origin(member) is not Literal)
    return _convert(rest, value, at)


_SCALARS: dict[type, tuple[Any, str]] = {
    str: (str, "a string"),
    bool: (bool, "true or false"),
    int: (int, "an integer"),
    float: ((int, float), "a number"),
}


def _located(at: str, function: Callable[..., Any], *arguments: Any, **keywords: Any) -> Any:
    try:
        return function(*arguments, **keywords)
    except ValueError as error:
        raise ValueError(_join(at, str(error))) from None


def _join(at: str, name: str) -> str:
    return f"{at}.{name}" if at else name


def _shown(value: Any) -> str:
    text = repr(value)
    return text if len(text) <= 80 else f"{text[:77]}..."


def at_least(name: str, value: int, least: int) -> None:
    """Raise ValueError where a setting is below its least value."""
    if value < least:
        raise ValueError(f"{name} must be at least {least}, got {value}")


def positive(name: str, value: float) -> None:
    """Raise ValueError where a setting is not a finite number above 0."""
    if not (math.isfinite(value) and value > 0):
        raise ValueError(f"{name} must be a positive number, got {value}")


def within(name: str, value: float, least: float, most: float) -> None:
    """Raise ValueError where a setting lies outside of [least, most]."""
    if not least <= value <= most:
        raise ValueError(f"{name} must lie in [{least:g}, {most:g}], got {value}")
