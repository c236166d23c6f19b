"""The lists of URL categories as one table of keys, kept in the user's cache."""

import hashlib
import os
import tempfile
from collections.abc import Sequence
from functools import lru_cache
from pathlib import Path
from typing import Final

import numpy as np
from numpy.typing import NDArray

from pipeline.text.arrow import Utf8View
from pipeline.toxicity.archives import read_files
from pipeline.toxicity.urls import PATHS, Table, make_table, scan_urls

_VERSION: Final = 1  # changes when the keys would
_MOST_BYTES: Final = 4 << 30
_DOMAINS, _URLS = "domains", "urls"
_LINE_FEED: Final = 0x0A

Digests = tuple[tuple[str, str], ...]  # the SHA-256 of each list, by `<category>/<file>`


def read_files_of(path: Path, categories: Sequence[str]) -> dict[str, bytes]:
    """The contents of the lists of categories by `<category>/<file>`, sorted.

    Raises ValueError where a category has no list, or two of the same name, or the lists cannot be read.
    """
    wanted = {f"{category}/{file}" for category in categories for file in (_DOMAINS, _URLS)}
    found: dict[str, bytes] = {}
    for name, content in read_files(path, lambda name: _tail(name) in wanted, _MOST_BYTES).items():
        if _tail(name) in found:
            raise ValueError(
                f"{path} holds two files {_tail(name)}; give the path of the folder that holds one of them"
            )
        found[_tail(name)] = content
    for category in categories:
        if not any(name.startswith(f"{category}/") for name in found):
            raise ValueError(f"categories: {path} has no category {category!r}: a folder with `domains` or `urls`")
    return dict(sorted(found.items()))


def _tail(name: str) -> str:
    return "/".join(name.split("/")[-2:])


def digests(files: dict[str, bytes]) -> Digests:
    """The SHA-256 of each list."""
    return tuple((name, hashlib.sha256(content).hexdigest()) for name, content in sorted(files.items()))


@lru_cache(maxsize=4)
def load_table(path: Path, categories: tuple[str, ...], known: Digests) -> Table:
    """The table of the lists with these digests: category i is bit i. Once a process; memory-mapped from the cache.

    It is built from the lists where the cache lacks it. Raises ValueError where they have changed since.
    """
    file = _cache() / f"{hashlib.sha256(repr((_VERSION, categories, known)).encode()).hexdigest()}.npy"
    stored = _stored(file)
    if stored is None:
        files = read_files_of(path, categories)
        if digests(files) != known:
            raise ValueError(f"the lists in {path} have changed while they were in use; start again")
        stored = _store(file, _build(files, categories))
    return make_table(stored[0], stored[1])


def _cache() -> Path:
    return Path(os.environ.get("HEADRACE_CACHE") or Path.home() / ".cache" / "headrace") / "url_categories"


def _stored(file: Path) -> NDArray[np.uint64] | None:
    try:
        stored = np.asarray(np.load(file, mmap_mode="r", allow_pickle=False))
    except (OSError, ValueError, EOFError):  # not there, or damaged
        return None
    return stored if stored.ndim == 2 and len(stored) == 2 and stored.dtype == np.uint64 else None


def _store(file: Path, table: NDArray[np.uint64]) -> NDArray[np.uint64]:
    """Write the table for the other processes; where that fails, it stays in the memory of this one."""
    try:
        file.parent.mkdir(parents=True, exist_ok=True)
        descriptor, temporary = tempfile.mkstemp(dir=file.parent, suffix=".tmp")
        try:
            with open(descriptor, "wb") as stream:
                np.save(stream, table, allow_pickle=False)
            os.replace(temporary, file)
        except BaseException:
            os.unlink(temporary)
            raise
    except OSError:
        return table
    stored = _stored(file)
    return table if stored is None else stored


def _build(files: dict[str, bytes], categories: Sequence[str]) -> NDArray[np.uint64]:
    """The sorted keys (first row) and their masks (second row) of all lists."""
    parts = [np.zeros((2, 0), np.uint64)]
    for name, content in files.items():
        category, _, kind = name.rpartition("/")
        found = scan_urls(_lines(content))
        bit = np.uint64(1 << categories.index(category))
        if kind == _DOMAINS:
            parts.append(_rows(found.hosts[found.valid], bit))
        else:
            parts.append(_rows(found.paths[found.valid], bit))
            parts.append(_rows(found.hosts[found.valid], PATHS))
    keys, masks = np.concatenate(parts, axis=1)
    order = np.argsort(keys, kind="stable")
    keys, masks = keys[order], masks[order]
    firsts = np.flatnonzero(np.append(True, keys[1:] != keys[:-1])[: len(keys)])
    merged = np.bitwise_or.reduceat(masks, firsts) if len(keys) else masks
    return np.stack([keys[firsts], merged])


def _rows(keys: NDArray[np.uint64], mask: np.uint64) -> NDArray[np.uint64]:
    return np.stack([keys, np.full(len(keys), mask)])


def _lines(content: bytes) -> Utf8View:
    data = np.frombuffer(content, np.uint8)
    feeds = np.flatnonzero(data == _LINE_FEED)
    starts, ends = np.concatenate([[0], feeds + 1]), np.append(feeds, len(data))
    for array in (starts, ends):
        array.flags.writeable = False
    return Utf8View(data, starts, ends)
