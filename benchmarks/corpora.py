"""The texts that the benchmarks read: real documents, from ../shared/data where it is there, and from the quickstart.

The quickstart corpus is enough for every kind of text; the shared data makes the mixture wider.
"""

from __future__ import annotations

import gzip
import json
import re
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from functools import cache
from importlib.resources import files
from pathlib import Path
from typing import Any, Final

import pyarrow as pa
import yaml

from pipeline.quickstart import ensure
from pipeline.sources import IngestConfig, Record, plan_units, read_items, source_files
from pipeline.sources.config import HtmlConfig, Limits
from pipeline.sources.html import NotText, html_to_page
from pipeline.sources.records import clean_text

SHARED: Final = Path(__file__).parents[2] / "shared/data"
KINDS: Final = ("technical", "prose", "chinese", "multilingual")
_CHINESE: Final = ("histories-zh", "fewclue/iflytek", "fewclue/csl", "reviews-positive", "reviews-negative", "fastapi")
_KANA: Final = re.compile("[\u3041-\u3096]{2}")
_HANGUL: Final = re.compile("[\uac00-\ud7a3]{2}")
_NAMES: Final = {"Chinese": "zh", "English": "en", "Greek": "el", "Polish": "pl", "Russian": "ru", "zh_CN": "zh"}


@dataclass(frozen=True)
class Text:
    """A document, its language as an ISO 639-1 code where it is known, and what it comes from."""

    text: str
    language: str | None
    source: str


@cache
def quickstart() -> tuple[Text, ...]:
    """Every document of the quickstart corpus, as its recipe reads it. Fetches the corpus where it is not there yet."""
    ensure()
    recipe = yaml.safe_load(files("flows").joinpath("recipes/quickstart.yaml").read_text(encoding="utf-8"))
    config = IngestConfig.model_validate(recipe["ingest"])
    found = []
    for source in config.sources:
        for unit in plan_units(source, source_files(source), config.unit_bytes, config.limits):
            for item in read_items(unit.spec):
                if isinstance(item, Record) and item.text:
                    found.append(Text(item.text, _code(item.language), source.name))
    return tuple(found)


@cache
def shared() -> tuple[Text, ...]:
    """Documents of the shared data: web pages as they are, with menus and footers, books, manuals, reviews, news.

    Their line ends are what reading them into the corpus makes of them.
    """
    if not SHARED.is_dir():
        return ()
    found: list[Text] = []
    for row in _rows("web/article_extraction_benchmark.jsonl.gz"):
        found += _page(row["html"], "en", "web-articles")
    for row in _rows("web/daniel_5lang.jsonl.gz"):
        found += _page(row["html"], _NAMES[row["lang"]], "web-news")
    for row in _rows("dup/gutenberg-editions.docs.jsonl.gz"):
        found.append(Text(row["text"], "en", "books"))
    for row in _rows("dup/install-guide.docs.jsonl.gz"):
        found.append(Text(row["text"], _NAMES.get(row["lang"], row["lang"]), "install-guide"))
    for row in _rows("zh/classical_modern.jsonl.gz"):
        found.append(Text(row["text"], "zh", "histories-zh"))
    for row in _rows("zh/fewclue_texts.jsonl.gz"):
        if row["src"] != "fewclue/tnews":  # headlines
            found.append(Text(row["text"], "zh", row["src"]))
    with gzip.open(SHARED / "dup/mccormick_1000.train.gz", "rt", encoding="utf-8", errors="replace") as stream:
        found += [Text(line.split(" ", 1)[1].strip(), "en", "news") for line in stream]
    return tuple(replace(item, text=clean_text(item.text)) for item in found)


def sentences() -> dict[str, list[str]]:
    """Labelled sentences by language. Empty where the shared data is not there."""
    found: dict[str, list[str]] = {}
    if (SHARED / "lid/lingua_sentences_75lang.jsonl.gz").is_file():
        for row in _rows("lid/lingua_sentences_75lang.jsonl.gz"):
            found.setdefault(row["lang"], []).append(row["text"])
    return found


def texts(kind: str, megabytes: float) -> list[Text]:
    """Documents of a kind in KINDS, of this much UTF-8 in all: an even sample, or repeated where there are too few.

    technical: English documentation; prose: English books; chinese: histories, reviews and app descriptions;
    multilingual: documentation in tens of languages.
    """
    choose: dict[str, Callable[[Text], bool]] = {
        "technical": lambda item: item.language == "en" and item.source in ("docs", "install-guide", "mercurial-docs"),
        "prose": lambda item: item.language == "en" and item.source in ("books", "literature"),
        "chinese": lambda item: item.language == "zh" and item.source in _CHINESE,
        "multilingual": lambda item: item.source in ("fastapi", "mercurial-help", "install-guide", "web-news"),
    }
    chosen = [item for item in (*shared(), *_tagged()) if choose[kind](item)]
    if kind == "chinese" and shared():
        chosen = [item for item in chosen if not item.source.startswith("reviews")]
    wanted = int(megabytes * 1e6)
    total = sum(len(item.text.encode()) for item in chosen)
    found: list[Text] = []
    while total <= wanted:
        found += chosen
        wanted -= total
    share, due = wanted / total, 0.0
    for item in chosen:
        due += share
        if due >= 1:
            due -= 1
            found.append(item)
    return found


def mixed(documents: int, languages: Sequence[str], longest: int = 10_000) -> list[Text]:
    """About this many documents of mixed quality: each source gives the same share, or all that it has.

    Only documents of the languages; a document ends with the last line that begins within `longest` characters.
    """
    by_source: dict[str, list[Text]] = {}
    for item in (*shared(), *_tagged()):
        if item.language in languages:
            by_source.setdefault(item.source, []).append(item)
    left, chosen = documents, []
    for number, source in enumerate(sorted(by_source, key=lambda name: (len(by_source[name]), name))):
        items = by_source[source]
        share = min(len(items), -(-left // (len(by_source) - number)))
        left -= share
        chosen += [items[position * len(items) // share] for position in range(share)]
    return [replace(item, text=_cut(item.text, longest)) for item in chosen]


def arrow(documents: Sequence[Text]) -> pa.Array:
    """The texts as Arrow large strings."""
    return pa.array([item.text for item in documents], pa.large_string())


@cache
def _tagged() -> tuple[Text, ...]:
    """The quickstart's documents. The crawled manuals do not tell their language: English, Japanese or Korean."""
    return tuple(
        replace(item, language="ja" if _KANA.search(item.text) else "ko" if _HANGUL.search(item.text) else "en")
        if item.source in ("docs", "mercurial-docs")
        else item
        for item in quickstart()
    )


def _code(tag: str | None) -> str | None:
    return tag.split("-")[0].lower() if tag else None


def _cut(text: str, longest: int) -> str:
    if len(text) <= longest:
        return text
    return text[: text.rfind("\n", 0, longest) + 1 or longest]


def _page(html: str, language: str, source: str) -> Iterator[Text]:
    try:
        page = html_to_page(html.encode("utf-8", "replace"), "utf-8", HtmlConfig(main_content=False), Limits())
    except NotText:
        return
    if page.text:
        yield Text(page.text, language, source)


def _rows(name: str) -> Iterator[dict[str, Any]]:
    with gzip.open(SHARED / name, "rt", encoding="utf-8") as stream:
        yield from map(json.loads, stream)
