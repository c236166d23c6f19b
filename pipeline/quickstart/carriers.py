"""Carriers: which packages the quickstart corpus comes from and what is taken from each, as carriers.toml says."""

from __future__ import annotations

import hashlib
import json
import re
import tomllib
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

CARRIERS_FILE = Path(__file__).parent / "carriers.toml"


@dataclass(frozen=True)
class Take:
    """One kind of member of a carrier, and where in the corpus it goes; see the head of carriers.toml."""

    members: re.Pattern[str]
    read_as: str
    into: str
    name: str = ""
    url: str = ""
    language: str = ""
    licence: str = ""
    fields: Mapping[str, str] = field(default_factory=dict)


@dataclass(frozen=True)
class Carrier:
    """A pinned release of a package: one file, known by its SHA-256."""

    name: str
    release: str
    file: str
    sha256: str
    bytes: int
    licence: str
    date: str
    takes: tuple[Take, ...]

    def __str__(self) -> str:
        return f"{self.name} {self.release}"

    @property
    def is_wheel(self) -> bool:
        """Whether the file is a wheel; else it is an sdist."""
        return self.file.endswith(".whl")


@dataclass(frozen=True)
class CarrierSet:
    """All carriers, and a digest of everything that carriers.toml says."""

    carriers: tuple[Carrier, ...]
    digest: str


def load_carriers(path: Path = CARRIERS_FILE) -> CarrierSet:
    """Read a carriers file. Raises ValueError naming the file and the carrier that is incomplete."""
    try:
        values = tomllib.loads(path.read_text(encoding="utf-8"))
    except tomllib.TOMLDecodeError as error:
        raise ValueError(f"{path}: {error}") from None
    carriers = tuple(_carrier(path, entry) for entry in values["carrier"])
    canonical = json.dumps(values, sort_keys=True, ensure_ascii=False)
    return CarrierSet(carriers, hashlib.blake2b(canonical.encode(), digest_size=8).hexdigest())


def _carrier(path: Path, entry: dict[str, Any]) -> Carrier:
    entry = dict(entry)
    try:
        takes = tuple(_take(take, entry["licence"]) for take in entry.pop("take", ()))
        return Carrier(takes=takes, **entry)
    except (KeyError, TypeError, re.error) as error:
        raise ValueError(f"{path}: carrier {entry.get('name')!r}: {error}") from None


def _take(take: dict[str, Any], licence: str) -> Take:
    return Take(**{"licence": licence, **take, "members": re.compile(take["members"])})
