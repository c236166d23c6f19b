"""HTML and SVG as nested calls that escape by default: text of the corpus can reach the page only as text."""

from __future__ import annotations

import html
import re
from collections.abc import Iterable

VOID = {"br", "hr", "meta", "col", "link", "img", "input", "wbr"}

# What a page must not be given even when escaped: control characters, the bidirectional overrides that can make text
# read as other than it is, and halves of surrogate pairs, which are not text and cannot be written as UTF-8.
_UNPRINTABLE = re.compile(
    "[\\x00-\\x08\\x0b-\\x1f\\x7f-\\x9f\\u200e\\u200f\\u202a-\\u202e\\u2066-\\u2069\\ud800-\\udfff\\ufffe\\uffff]"
)


class Markup(str):
    """Text that is markup already."""

    __slots__ = ()


Child = object
"""Markup is taken as it is, None and False vanish, an iterable is flattened, anything else is escaped."""


def clean(text: str) -> str:
    """Return text with what must not reach a page replaced by U+FFFD; line breaks become plain ones."""
    return _UNPRINTABLE.sub("\ufffd", text.replace("\r\n", "\n").replace("\r", "\n"))


def escape(value: object) -> Markup:
    """Return a value as text, safe between tags and inside a quoted attribute."""
    return Markup(html.escape(clean(str(value)), quote=True))


def join(children: Iterable[Child]) -> Markup:
    """Return children in a row."""
    return Markup("".join(_render(child) for child in children))


def el(tag: str, *children: Child, **attributes: object) -> Markup:
    """Return an element.

    `class_` and `for_` lose their underscore, other underscores become hyphens; an attribute that is None or False is
    left out, one that is True stands bare. Numbers are written short. An element must not be `script` or `style`:
    their content follows other rules (see `page`).
    """
    assert tag not in ("script", "style")
    parts = [tag]
    for name, value in attributes.items():
        if value is None or value is False:
            continue
        name = name.rstrip("_").replace("_", "-")
        parts.append(name if value is True else f'{name}="{escape(number(value))}"')
    head = "<" + " ".join(parts) + ">"
    return Markup(head) if tag in VOID else Markup(f"{head}{join(children)}</{tag}>")


def number(value: object) -> object:
    """Return a float as text with at most two decimals, as coordinates need; anything else as it is."""
    if not isinstance(value, float):
        return value
    text = f"{value:.2f}".rstrip("0").rstrip(".")
    return "0" if text == "-0" else text


def _render(child: Child) -> str:
    if isinstance(child, Markup):
        return child
    if child is None or child is False:
        return ""
    if isinstance(child, Iterable) and not isinstance(child, str | bytes):
        return join(child)
    return escape(child)
