"""The model file: a header in JSON, then the table as it lies in memory, so that processes share one mapping of it.

Layout: 8 bytes MAGIC; the length of the header in bytes (uint64); the header, padded with blanks to a multiple of
ALIGNMENT; the table (uint64). All numbers are little-endian. Equal models are equal files.
"""

import hashlib
import json
import sys
from dataclasses import asdict
from functools import lru_cache
from pathlib import Path
from typing import Any, BinaryIO, Final, Protocol

import numpy as np
from numpy.typing import NDArray

from pipeline.perplexity.model import Facts, NgramModel
from pipeline.text.scan import SCAN_VERSION
from pipeline.text.tables import UNICODE_VERSION

MAGIC: Final = b"NGRAMS\x001"
ALIGNMENT: Final = 64
_PREFIX: Final = len(MAGIC) + 8
_CHUNK: Final = 1 << 24
_ADVICE: Final = "train it again, or give the path of a whole model file"


class Sink(Protocol):
    """What a model can be written to."""

    def write(self, data: Any) -> int:
        """Write bytes or any buffer."""


def save(model: NgramModel, sink: Sink) -> None:
    """Write a model."""
    assert sys.byteorder == "little"
    table = model.slots.data.cast("B")
    header = {
        "facts": asdict(model.facts),
        "bases": model.bases.tolist(),
        "special": model.special.tolist(),
        "scan_version": SCAN_VERSION,
        "unicode_version": UNICODE_VERSION,
        "table_bytes": len(table),
    }
    encoded = _json({**header, "sha256": digest(header, table)})
    encoded += b" " * (-(_PREFIX + len(encoded)) % ALIGNMENT)
    sink.write(MAGIC + len(encoded).to_bytes(8, "little") + encoded)
    for begin in range(0, len(table), _CHUNK):
        sink.write(table[begin : begin + _CHUNK])


def digest(header: dict[str, Any], table: memoryview) -> str:
    """SHA-256 as hex over a header without its digest, and the table."""
    found = hashlib.sha256(_json(header))
    found.update(table)
    return found.hexdigest()


def _json(header: dict[str, Any]) -> bytes:
    return json.dumps(header, sort_keys=True, separators=(",", ":")).encode()


def load(path: str | Path) -> NgramModel:
    """Map a model file into memory.

    Raises ValueError where the file is missing, is no model, is damaged, or holds words of another scan than this.
    """
    try:
        with open(path, "rb") as stream:
            header, start = _read_header(stream, path)
        size = Path(path).stat().st_size - start
        expected = header.pop("sha256")
        _check(header, size, path)
        table: NDArray[np.uint64] = np.memmap(path, np.dtype("<u8"), "r", start, (size // 8,))
    except OSError as error:
        raise ValueError(f"there is no n-gram model at {path} ({error.strerror}); {_ADVICE}") from error
    if digest(header, table.data.cast("B")) != expected:
        raise ValueError(f"{path}: the n-gram model does not match its digest: it is damaged; {_ADVICE}")
    try:
        return NgramModel(table, header["bases"], header["special"], Facts(**header["facts"]))
    except (ValueError, TypeError, KeyError) as error:
        raise ValueError(f"{path} is a damaged n-gram model ({error}); {_ADVICE}") from error


def load_once(path: str | Path) -> NgramModel:
    """The model in a file, loaded once a process. Raises ValueError as `load` does."""
    try:
        status = Path(path).stat()
    except OSError as error:
        raise ValueError(f"there is no n-gram model at {path} ({error.strerror}); {_ADVICE}") from error
    return _load_once(str(path), status.st_size, status.st_mtime_ns)


@lru_cache(maxsize=256)
def _load_once(path: str, size: int, modified: int) -> NgramModel:
    return load(path)


def _read_header(stream: BinaryIO, path: str | Path) -> tuple[dict[str, Any], int]:
    prefix = stream.read(_PREFIX)
    if prefix[: len(MAGIC)] != MAGIC:
        raise ValueError(f"{path} is not an n-gram model of this project; {_ADVICE}")
    length = int.from_bytes(prefix[len(MAGIC) :], "little")
    try:
        if not 0 < length < _CHUNK:
            raise ValueError(f"a header of {length} bytes")
        header = json.loads(stream.read(length))
        if not isinstance(header, dict) or not {"bases", "facts", "sha256", "special"} <= header.keys():
            raise ValueError("fields are missing")
    except (ValueError, RecursionError) as error:
        raise ValueError(f"{path} is a damaged n-gram model ({error}); {_ADVICE}") from error
    return header, _PREFIX + length


def _check(header: dict[str, Any], size: int, path: str | Path) -> None:
    if size != header.get("table_bytes") or size % 16 or size == 0:
        raise ValueError(
            f"{path}: the table of the n-gram model has {size} bytes instead of {header.get('table_bytes')}: "
            f"it was cut off; {_ADVICE}"
        )
    made = (header.get("scan_version"), header.get("unicode_version"))
    if made != (SCAN_VERSION, UNICODE_VERSION):
        raise ValueError(
            f"{path} is an n-gram model of the words of scan {made[0]} and Unicode {made[1]}, but these are "
            f"{SCAN_VERSION} and {UNICODE_VERSION}; {_ADVICE}"
        )
