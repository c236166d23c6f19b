"""Answers of a model kept on disk, so that a judging that was stopped goes on where it was."""

from __future__ import annotations

import hashlib
import json
import sqlite3
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

_VERSION = 1
_AT_ONCE = 500
_FULL = 10_000_000
"""Entries of a cache from which on nothing is added."""


class Cache:
    """Answers by (model digest, arithmetic, request); a batch is written whole or not at all.

    Raises ValueError for a file that is no such cache.
    """

    def __init__(self, path: str | Path, model_digest: str, arithmetic: str) -> None:
        self._prefix = json.dumps([_VERSION, model_digest, arithmetic])
        try:
            Path(path).parent.mkdir(parents=True, exist_ok=True)
            self._database = sqlite3.connect(path, timeout=60)
            self._database.execute("PRAGMA journal_mode=WAL")
            self._database.execute("CREATE TABLE IF NOT EXISTS answers (request BLOB PRIMARY KEY, answer TEXT)")
            self._count = self._database.execute("SELECT count(*) FROM answers").fetchone()[0]
        except (sqlite3.Error, OSError) as error:
            raise ValueError(f"cache {path}: cannot be used ({error}); remove it or name another file") from None

    def key(self, kind: str, request: Any) -> bytes:
        """What a request is stored under; `request` is plain JSON."""
        text = f"{self._prefix}{kind}{json.dumps(request)}"
        return hashlib.blake2b(text.encode(), digest_size=20).digest()

    def find(self, keys: Sequence[bytes]) -> dict[bytes, Any]:
        """The answers that are there."""
        found: dict[bytes, Any] = {}
        for begin in range(0, len(keys), _AT_ONCE):
            part = list(keys[begin : begin + _AT_ONCE])
            marks = ",".join("?" * len(part))
            rows = self._database.execute(f"SELECT request, answer FROM answers WHERE request IN ({marks})", part)
            found.update((bytes(key), json.loads(answer)) for key, answer in rows)
        return found

    def add(self, answers: Mapping[bytes, Any] | Iterable[tuple[bytes, Any]]) -> None:
        """Keep answers (plain JSON)."""
        pairs = list(answers.items() if isinstance(answers, Mapping) else answers)
        if self._count + len(pairs) > _FULL:
            return
        with self._database:
            rows = [(key, json.dumps(answer)) for key, answer in pairs]
            self._database.executemany("INSERT OR REPLACE INTO answers VALUES (?, ?)", rows)
        self._count += len(pairs)

    def close(self) -> None:
        """Close the file."""
        self._database.close()
