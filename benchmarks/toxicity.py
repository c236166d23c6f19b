"""`python -m benchmarks.toxicity`: word lists and URL categories against plain Python on the same documents.

The lists are LDNOOBW's and the texts English and Chinese ones where ../shared/data has them; otherwise both are made
here. The peer for words is an alternation of Python's `re` over the lower-cased text, as in the C4 code (c4_utils.py of
TensorFlow Datasets); it stops at the first match, ours counts them all. The peer for URLs is urlsplit and a Python set
of domains, asked for each parent domain. Times are process time of one core, the best of three.
"""

from __future__ import annotations

import argparse
import gzip
import json
import os
import platform
import random
import re
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import TypeVar
from urllib.parse import urlsplit

import numpy as np
import pyarrow as pa

from benchmarks.rows import Row, parser, show
from pipeline.annotators import Batch
from pipeline.text.arrow import utf8_view
from pipeline.toxicity.archives import read_files
from pipeline.toxicity.url_categories import UrlCategories, UrlCategoriesConfig
from pipeline.toxicity.urls import scan_urls
from pipeline.toxicity.word_lists import WordLists, WordListsConfig

T = TypeVar("T")

_DATA = Path(__file__).parents[1] / "../shared/data"
_TEXTS = {"en": "text/gutenberg18.jsonl.gz", "zh": "zh/fewclue_texts.jsonl.gz"}
_LISTS = "filter/ldnoobw.tar.gz"
_MIB = 1 << 20
_DOCUMENT = 5_000  # characters: books are cut into documents of the length of a web page
_UNSPACED = ("ja", "th", "zh")
_BOUNDED = r"(?:\W|^)({})(?:\W|$)"


def main() -> None:
    args = _parser().parse_args()
    rows: list[Row] = []
    with tempfile.TemporaryDirectory() as scratch:
        os.environ["HEADRACE_CACHE"] = scratch  # the table of the made domains is of no use to anyone else
        lists = _lists(Path(scratch))
        for language in _TEXTS:
            rows += _word_rows(language, lists, _documents(language, int(args.megabytes * _MIB)))
        rows += _url_rows(Path(scratch), args.domains, args.urls)
    show(rows, f"Toxicity: {args.megabytes:g} MiB a language, {args.domains:,} domains, {args.urls:,} URLs", args.json)


def _parser() -> argparse.ArgumentParser:
    result = parser(__doc__ or "")
    result.add_argument("--megabytes", type=float, default=8, help="text of each language in MiB (default 8)")
    result.add_argument("--domains", type=int, default=1_000_000, help="domains in the list (default 1,000,000)")
    result.add_argument("--urls", type=int, default=100_000, help="URLs to look up (default 100,000)")
    return result


def _lists(scratch: Path) -> Path:
    if (_DATA / _LISTS).exists():
        return _DATA / _LISTS
    rng = random.Random(0)
    folder = scratch / "lists"
    folder.mkdir()
    entries = {"en": [_word(rng) for _ in range(400)], "zh": [_characters(rng, rng.randint(2, 4)) for _ in range(300)]}
    for language, words in entries.items():
        (folder / language).write_text("\n".join(words), encoding="utf-8")
    return folder


def _word(rng: random.Random) -> str:
    return "".join(rng.choices("etaoinshrdlucm", k=rng.randint(2, 9)))


def _characters(rng: random.Random, count: int) -> str:
    return "".join(chr(rng.randint(0x4E00, 0x5200)) for _ in range(count))


def _documents(language: str, most_bytes: int) -> list[str]:
    found: list[str] = []
    size = 0
    for text in _texts(language):
        for start in range(0, len(text), _DOCUMENT):
            found.append(text[start : start + _DOCUMENT])
            size += len(found[-1].encode())
            if size >= most_bytes:
                return found
    return found


def _texts(language: str) -> Iterator[str]:
    if (_DATA / _TEXTS[language]).exists():
        with gzip.open(_DATA / _TEXTS[language], "rt", encoding="utf-8") as lines:
            yield from (json.loads(line)["text"] for line in lines)
        return
    rng = random.Random(1)
    while True:
        yield " ".join(_word(rng) for _ in range(900)) if language == "en" else _characters(rng, 1_500)


def _word_rows(language: str, path: Path, documents: list[str]) -> list[Row]:
    texts = pa.array(documents, pa.large_string())
    megabytes = sum(len(text.encode()) for text in documents) / 1e6
    languages = np.full(len(documents), language, np.object_)
    urls = pa.nulls(len(documents), pa.string())
    ours = {bare: WordLists(WordListsConfig(path=str(path), bare_entries=bare)) for bare in (False, True)}
    seconds, found = _best(lambda: ours[False].measure(Batch(texts, urls, languages)))
    hashed = Batch(texts, urls, languages)
    hashed.words  # noqa: B018
    matching, _ = _best(lambda: ours[False].measure(hashed))
    pattern = _alternation(path, language)
    peer, peer_found = _best(lambda: [pattern.search(text.lower()) is not None for text in documents], 1)
    bare = ours[True].measure(hashed)
    name = ("re alternation", f"Python {platform.python_version()}")
    return [
        Row(f"words, {language}: text in, signals out", "MB/s", megabytes / seconds, megabytes / peer, *name),
        Row(f"words, {language}: words already hashed", "MB/s", megabytes / matching, megabytes / peer, *name),
        Row(f"words, {language}: documents flagged", "%", _flagged(found["bad_words"]), _percent(peer_found), *name),
        Row(f"words, {language}: with bare entries", "%", _flagged(bare["bad_words"]), _percent(peer_found), *name),
    ]


def _alternation(path: Path, language: str) -> re.Pattern[str]:
    files = read_files(path, lambda name: name.rpartition("/")[2] == language, _MIB)
    lines = next(iter(files.values())).decode().split("\n")
    words = {line.strip() for line in lines} - {""}
    words -= {word for allowed in WordListsConfig(path="x").allowed.values() for word in allowed}
    joined = "|".join(re.escape(word) for word in sorted(words))
    return re.compile(joined if language in _UNSPACED else _BOUNDED.format(joined))


def _url_rows(scratch: Path, domains: int, count: int) -> list[Row]:
    rng = random.Random(2)
    listed = [f"{rng.getrandbits(44):x}.{rng.choice(('com', 'net', 'co.uk', 'org'))}" for _ in range(domains)]
    folder = scratch / "ut1" / "adult"
    folder.mkdir(parents=True)
    (folder / "domains").write_text("\n".join(listed), encoding="utf-8")
    hosts = [rng.choice(listed) if n % 10 == 0 else f"site{n}.example{n % 997}.org" for n in range(count)]
    addresses = [f"https://www.{host}/path/to/page-{n}.html?id={n}" for n, host in enumerate(hosts)]
    scan_urls(utf8_view(pa.array(["a.org", "ü.org"], pa.string())))  # compiled, or loaded, before it is timed
    categories = UrlCategories(UrlCategoriesConfig(path=str(scratch / "ut1")))
    texts = pa.nulls(count, pa.large_string()).fill_null("")
    batch = Batch(texts, pa.array(addresses, pa.string()), np.full(count, "en", np.object_))
    started = time.process_time()
    categories.measure(batch)
    built = time.process_time() - started
    seconds, found = _best(lambda: categories.measure(batch))
    started = time.process_time()
    members = set(listed)
    peer_built = time.process_time() - started
    peer, peer_found = _best(lambda: [_walk(address, members) for address in addresses])
    assert [value == "adult" for value in found["url_categories"].to_pylist()] == peer_found
    name = ("urlsplit and a set", f"Python {platform.python_version()}")
    return [
        Row("URLs: look-up", "URLs/s", count / seconds, count / peer, *name),
        Row("URLs: list read, first use", "domains/s", domains / built, domains / peer_built, *name),
    ]


def _walk(address: str, members: set[str]) -> bool:
    labels = (urlsplit(address).hostname or "").split(".")
    return any(".".join(labels[n:]) in members for n in range(len(labels)))


def _best(work: Callable[[], T], times: int = 3) -> tuple[float, T]:
    """The least process time of a few runs after one that is not counted, and what the last one gave."""
    result = work()
    best = float("inf")
    for _ in range(times):
        started = time.process_time()
        result = work()
        best = min(best, time.process_time() - started)
    return best, result


def _flagged(bad_words: pa.Array) -> float:
    return _percent((bad_words.to_numpy() > 0).tolist())


def _percent(found: list[bool]) -> float:
    return 100 * sum(found) / max(1, len(found))


if __name__ == "__main__":
    main()
