"""Minimal pairs from templates: `grammar/<language>.json` holds the words and the patterns, this file the product.

A lexicon class lists its forms and its words, the forms of a word separated by `|`:

    "person": {"forms": ["one", "many"], "words": ["child|children", "king|kings"]}

A template is a good and a bad sentence with slots `{variable:class.form}`. The same variable holds the same word in
both sentences, and two variables of one class never hold the same one. `{variable:class}` takes the first form.
"""

from __future__ import annotations

import json
import math
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from training.evaluation.minimal_pairs import Pair

_SLOT = re.compile(r"\{(\w+):(\w+)(?:\.(\w+))?\}")
_DATA = Path(__file__).parent / "grammar"
LANGUAGES = tuple(sorted(path.stem for path in _DATA.glob("*.json")))

Lexicon = dict[str, list[dict[str, str]]]


def template_pairs(languages: list[str], pairs_per_phenomenon: int) -> list[Pair]:
    """Pairs of each phenomenon of each language, the same on every run; fewer where the templates give no more.

    Raises ValueError for a language that has no templates.
    """
    for language in languages:
        if language not in LANGUAGES:
            raise ValueError(f"there are no templates for language {language!r}; there are {', '.join(LANGUAGES)}")
    return [
        pair
        for language in languages
        for pair in expand(json.loads((_DATA / f"{language}.json").read_text(encoding="utf-8")), pairs_per_phenomenon)
    ]


def expand(data: dict[str, Any], pairs_per_phenomenon: int) -> list[Pair]:
    """Pairs of one data file, `pairs_per_phenomenon` spread evenly over the templates of each phenomenon.

    Raises ValueError naming a slot whose class or form the lexicon lacks.
    """
    lexicon = {name: _words(name, entry) for name, entry in data["lexicon"].items()}
    pairs: list[Pair] = []
    for phenomenon in data["phenomena"]:
        found: dict[tuple[str, str], None] = {}
        templates = phenomenon["templates"]
        for index, template in enumerate(templates):
            wanted = len(found) + (pairs_per_phenomenon - len(found)) // (len(templates) - index)
            for sentences in _sentences(template["good"], template["bad"], lexicon):
                if len(found) >= wanted:
                    break
                found[sentences] = None
        pairs += [Pair(good, bad, phenomenon["name"], data["language"]) for good, bad in found]
    return pairs


def _words(name: str, entry: dict[str, list[str]]) -> list[dict[str, str]]:
    words = []
    for word in entry["words"]:
        forms = word.split("|")
        if len(forms) != len(entry["forms"]):
            raise ValueError(f"lexicon class {name}: {word!r} does not have the forms {', '.join(entry['forms'])}")
        words.append(dict(zip(entry["forms"], forms, strict=True)))
    return words


def _sentences(good: str, bad: str, lexicon: Lexicon) -> Iterator[tuple[str, str]]:
    """The pairs of one template in an order that leaps evenly through the product of its words."""
    variables: dict[str, str] = {}
    for variable, name, form in _SLOT.findall(good + bad):
        if name not in lexicon or (form and form not in lexicon[name][0]):
            raise ValueError(f"template {good!r}: the lexicon has no {name}{'.' if form else ''}{form}")
        if variables.setdefault(variable, name) != name:
            raise ValueError(f"template {good!r}: {variable} stands for {variables[variable]} and for {name}")
    sizes = [len(lexicon[name]) for name in variables.values()]
    total = math.prod(sizes)
    step = max(1, round(total * 0.6180339887))
    while math.gcd(step, total) != 1:
        step += 1
    for index in range(total):
        position = index * step % total
        chosen: dict[str, dict[str, str]] = {}
        taken: set[tuple[str, int]] = set()
        for (variable, name), size in zip(variables.items(), sizes, strict=True):
            position, word = divmod(position, size)
            chosen[variable] = lexicon[name][word]
            taken.add((name, word))
        if len(taken) == len(variables):
            yield _fill(good, chosen), _fill(bad, chosen)


def _fill(template: str, chosen: dict[str, dict[str, str]]) -> str:
    def replace(slot: re.Match[str]) -> str:
        forms = chosen[slot[1]]
        return forms[slot[3]] if slot[3] else next(iter(forms.values()))

    sentence = _SLOT.sub(replace, template)
    return sentence[0].upper() + sentence[1:]
