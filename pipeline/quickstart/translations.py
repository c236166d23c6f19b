"""Translations: the text of a gettext catalogue (.po), as documents of neighbouring messages."""

from __future__ import annotations

import json
import re

from pipeline.quickstart.markup import rst_to_text

MESSAGES_PER_DOCUMENT = 40
"""Messages stand in the order of the source, so neighbours belong together: the paragraphs of a help text, mostly."""

_ENTRY = re.compile(r"\n\s*\n")
_TRANSLATION = re.compile(r'^msgstr(?:\[0\])? ((?:".*"\n?)+)', re.MULTILINE)
_LEFT_OUT = re.compile(r"^#, .*fuzzy|^#~", re.MULTILINE)
_QUOTED = re.compile(r'".*"')


def documents_of_catalogue(catalogue: str) -> list[tuple[int, str]]:
    """Return (number, text) for each run of messages in which something is translated; a number is the run's.

    Entries that are marked as doubtful (fuzzy) or obsolete are left out; paragraphs stand one a line.
    """
    entries = _ENTRY.split(catalogue.replace("\r\n", "\n"))[1:]  # the first one is the catalogue's own header
    documents = []
    for number, start in enumerate(range(0, len(entries), MESSAGES_PER_DOCUMENT)):
        messages = (_translated(entry) for entry in entries[start : start + MESSAGES_PER_DOCUMENT])
        if text := "\n\n".join(filter(None, messages)):
            documents.append((number, text))
    return documents


def _translated(entry: str) -> str:
    translation = _TRANSLATION.search(entry)
    if not translation or _LEFT_OUT.search(entry):
        return ""
    return rst_to_text("".join(_unquote(quoted) for quoted in _QUOTED.findall(translation[1])))


def _unquote(quoted: str) -> str:
    """Decode a quoted string of a catalogue, whose escapes are those of C."""
    try:
        return str(json.loads(quoted))
    except json.JSONDecodeError:
        return quoted[1:-1]
