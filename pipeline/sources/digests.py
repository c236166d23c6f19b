"""SHA-256 of input files, with a small cache so that a run over known files does not read them again."""

from __future__ import annotations

import contextlib
import hashlib
import json
import os
import tempfile
import time
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor, as_completed
from pathlib import Path

try:  # POSIX only; elsewhere two processes may lose each other's entries, and then hash again
    import fcntl
except ImportError:  # pragma: no cover
    fcntl = None  # type: ignore[assignment]

from pipeline.sources.files import InputFile, open_input

RECENT_SECONDS = 2.0
MAX_ENTRIES = 200_000
REMEMBER_SECONDS = 30.0
"""What is read is remembered so often, so that a run that ends in the middle of many files loses little of them."""


def cache_path() -> Path:
    """Return the file with the known digests, below $HEADRACE_CACHE or ~/.cache/headrace."""
    return Path(os.environ.get("HEADRACE_CACHE") or Path.home() / ".cache" / "headrace") / "digests.json"


def sha256_of(files: Sequence[InputFile]) -> list[str]:
    """Return the SHA-256 of each file as hex, from the cache where path, size and stamp are known.

    A file without a stamp, or written in the last two seconds, is read and not remembered: it could change again
    within one tick of the clock that its stamp is from. Raises ValueError naming a file that cannot be read.
    """
    known = _load(cache_path())
    digests = [known.get(_key(file)) for file in files]
    missing = [index for index, digest in enumerate(digests) if digest is None]
    for index, digest in _fresh(files, missing):
        digests[index] = digest
    return [digest for digest in digests if digest is not None]


def _fresh(files: Sequence[InputFile], missing: Sequence[int]) -> Iterator[tuple[int, str]]:
    """Read files, several at once, and remember them on the way, those before an error, too."""
    entries: dict[str, str] = {}
    remembered = time.monotonic()
    pool = ThreadPoolExecutor(max_workers=min(8, os.cpu_count() or 1))  # hashlib releases the GIL
    try:
        reading = {pool.submit(_read, files[index]): index for index in missing}
        for done in as_completed(reading):
            index, digest = reading[done], done.result()
            if _settled(files[index]):
                entries[_key(files[index])] = digest
            if time.monotonic() - remembered > REMEMBER_SECONDS:
                _remember(entries)
                entries, remembered = {}, time.monotonic()
            yield index, digest
    finally:
        pool.shutdown(cancel_futures=True)
        _remember(entries)


def _key(file: InputFile) -> str:
    return f"{file.size}:{file.stamp}:{file.path}"


def _settled(file: InputFile) -> bool:
    if not file.stamp.isdecimal():
        return bool(file.stamp)
    return time.time() - int(file.stamp) / 1e9 > RECENT_SECONDS


def _read(file: InputFile) -> str:
    try:
        with open_input(file) as stream:
            digest = hashlib.sha256()
            while block := stream.read(1 << 20):
                digest.update(block)
            return digest.hexdigest()
    except OSError as error:
        raise ValueError(f"cannot read the input file {file.path}: {error}") from error


def _load(path: Path) -> dict[str, str]:
    try:
        entries = json.loads(path.read_bytes())
    except (OSError, ValueError):  # none yet, or not ours: digests are made again
        return {}
    if not isinstance(entries, dict):
        return {}
    return {key: value for key, value in entries.items() if isinstance(value, str) and len(value) == 64}


def _remember(entries: dict[str, str]) -> None:
    """Merge entries into the cache. A cache that cannot be written only costs time."""
    path = cache_path()
    if not entries:
        return
    with contextlib.suppress(OSError):
        path.parent.mkdir(parents=True, exist_ok=True)
        with _locked(path.with_suffix(".lock")):
            merged = {**_load(path), **entries}
            newest = dict(list(merged.items())[-MAX_ENTRIES:])
            descriptor, temporary = tempfile.mkstemp(prefix=".digests-", dir=path.parent)
            try:
                with open(descriptor, "w") as stream:
                    json.dump(newest, stream)
                os.replace(temporary, path)
            except OSError:
                os.unlink(temporary)
                raise


@contextlib.contextmanager
def _locked(path: Path) -> Iterator[None]:
    with open(path, "a") as stream:
        if fcntl is not None:
            fcntl.flock(stream, fcntl.LOCK_EX)
        yield
