"""Markup: the prose of documentation pages in Markdown and reStructuredText, one paragraph a line.

Code samples, directives and inline marks go. This is no renderer: it knows the constructs that the carriers use.
"""

from __future__ import annotations

import html
import re

_FENCE = re.compile(r"^[ \t]*(```+|~~~+).*?^[ \t]*\1[ \t]*$\n?", re.MULTILINE | re.DOTALL)
_FRONT_MATTER = re.compile(r"\A---\n.*?\n---\n", re.DOTALL)
_TAG = re.compile(r"<!--.*?-->|</?[a-zA-Z][^<>]*>", re.DOTALL)
_IMAGE = re.compile(r"!\[[^\]]*\]\([^)]*\)")
_LINK = re.compile(r"\[([^\]]*)\]\([^)]*\)(\{[^}]*\})?")
_ADMONITION = re.compile(r'^[ \t]*(?:!!!|\?\?\?\+?|===)[ \t]*\w*[ \t]*(?:"([^"\n]*)")?[ \t]*$', re.MULTILINE)
_HEADING = re.compile(r"^#+[ \t]+(.*?)[ \t]*(?:\{[^}]*\})?$", re.MULTILINE)
_INCLUDE = re.compile(r"\{[!*].*?[!*]\}", re.DOTALL)
_EMPHASIS = re.compile(r"\*\*|`|(?<![\w*])\*(?=\S)|(?<=\S)\*(?![\w*])")
_INDENT = re.compile(r"^[ \t]+|[ \t]+$", re.MULTILINE)
_BLANKS = re.compile(r"\n{3,}")


def markdown_to_text(source: str) -> str:
    """Return the text of a Markdown page; its paragraphs stand one a line already."""
    text = _FRONT_MATTER.sub("", source.replace("\r\n", "\n"))
    text = _FENCE.sub("", text)
    text = _INCLUDE.sub("", text)
    text = _LINK.sub(r"\1", _IMAGE.sub("", _TAG.sub("", text)))
    text = _ADMONITION.sub(lambda match: match[1] or "", text)
    text = _HEADING.sub(r"\1", text)
    text = html.unescape(_EMPHASIS.sub("", text))
    return _BLANKS.sub("\n\n", _INDENT.sub("", text)).strip()


_UNDERLINE = re.compile(r"""^([=\-~^"'`*+#.:_])\1{2,}[ \t]*$""")
_ROLE = re.compile(r":[a-zA-Z:+-]+:`([^`<]*?)(?:\s*<[^`>]*>)?`")
_REFERENCE = re.compile(r"`([^`<]+?)\s*<[^`>]*>`_{0,2}|`([^`]+)`_{1,2}(?!\w)")
_INLINE = re.compile(r"``|\*\*|`|(?<![\w*])\*(?=\S)|(?<=\S)\*(?![\w*])|\|(?=\S)|(?<=\S)\|")
_FOOTNOTE = re.compile(r"\s?\[[0-9#]+\]_")
_ITEM = re.compile(r"^\s*([*+-]|\d+\.|:[^:]+:|-{1,2}\w)\s")
_WIDE = "\u2e80-\u9fff\uf900-\ufaff\uff00-\uffef"
_WRAP_WIDE = re.compile(rf"(?<=[{_WIDE}])\n(?=[{_WIDE}])")  # scripts without spaces wrap without one


def rst_to_text(source: str) -> str:
    """Return the text of a reStructuredText page, its wrapped paragraphs joined to one line each."""
    paragraphs: list[str] = []
    literal_indent: int | None = None  # indent of the paragraph that announced a literal block
    for block in re.split(r"\n\s*\n", source.replace("\r\n", "\n").expandtabs()):
        lines = [line.rstrip() for line in block.strip("\n").split("\n")]
        indent = min((len(line) - len(line.lstrip()) for line in lines if line), default=0)
        if literal_indent is not None and indent > literal_indent:
            continue
        literal_indent = None
        if lines[0].lstrip().startswith(".."):
            literal_indent = indent
            continue
        announces = lines[-1].endswith("::")
        if announces:
            literal_indent = indent
            lines[-1] = lines[-1].removesuffix("::") + ("" if lines[-1].strip() == "::" else ":")
        paragraphs.extend(_join_lines([line for line in lines if not _UNDERLINE.match(line.lstrip())]))
    return "\n\n".join(filter(None, paragraphs))


def _join_lines(lines: list[str]) -> list[str]:
    joined: list[str] = []
    for line in lines:
        if joined and not _ITEM.match(line):
            joined[-1] += "\n" + line.strip()
        else:
            joined.append(line.strip())
    return [_plain(_WRAP_WIDE.sub("", paragraph).replace("\n", " ")) for paragraph in joined]


def _plain(text: str) -> str:
    text = _ROLE.sub(r"\1", text)
    text = _REFERENCE.sub(lambda match: match[1] or match[2], text)
    return _INLINE.sub("", _FOOTNOTE.sub("", text)).strip()
