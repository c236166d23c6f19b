"""The store: where a stage's output lies, when it counts as done, and how it is found again.

Identity is separate from execution. A stage's fingerprint hashes its name, its version, the configuration that affects
its content and the fingerprints of its inputs; paths, worker counts and machines never enter it. Output lies under
`<root>/<stage>/<fingerprint>/`. Files are written under a temporary name and renamed; `manifest.json` is written last
and commits the stage. Readers read committed stages only. This is the one resume mechanism: it works without a server,
on any engine, after any crash.
"""

from __future__ import annotations

import contextlib
import errno
import hashlib
import json
import os
import re
import shutil
import socket
import time
import uuid
from collections.abc import Callable, Iterator, Mapping
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

try:  # POSIX only; elsewhere two runs at one stage still do not corrupt it, they only repeat work
    import fcntl
except ImportError:  # pragma: no cover
    fcntl = None  # type: ignore[assignment]

import fsspec
import psutil
import pyarrow as pa
import pyarrow.parquet as pq

MANIFEST = "manifest.json"
EXECUTION = "execution.json"
UNITS = "units"
LOCK = ".lock"
TEMPORARY = ".tmp-"


class StoreError(RuntimeError):
    """The store cannot be used as asked; the message says what to do."""


class NotCommitted(StoreError):
    """A stage was asked for its output before it was committed."""


def canonical_json(value: Any) -> str:
    """Return JSON with sorted keys and no spaces: equal values give equal text. NaN is refused."""
    return json.dumps(value, sort_keys=True, separators=(",", ":"), ensure_ascii=False, allow_nan=False)


def fingerprint(name: str, version: int, identity: Any, inputs: Mapping[str, str]) -> str:
    """Return the identity of a stage's output: 20 hex digits over name, version, configuration and inputs."""
    content = {"stage": name, "version": version, "config": identity, "inputs": dict(inputs)}
    return hashlib.blake2b(canonical_json(content).encode(), digest_size=10).hexdigest()


def is_local(path: str) -> bool:
    """Return whether a path is on the local filesystem (no URL scheme, or file://)."""
    return "://" not in path or path.startswith("file://")


def file_sha256(path: str | Path) -> str:
    """Return the SHA-256 of a local file as hex."""
    with open(path, "rb") as stream:
        return hashlib.file_digest(stream, "sha256").hexdigest()


def write_bytes_atomically(path: str, data: bytes) -> None:
    """Write a small file so that a reader sees the old content or the new, never a part.

    Local files are fsynced under a temporary name and renamed; object stores show an object only when it is complete.
    """
    if not is_local(path):
        with fsspec.open(path, "wb") as stream:
            stream.write(data)
        return
    temporary = path + temporary_name()
    try:
        with open(temporary, "wb") as stream:
            stream.write(data)
            stream.flush()
            os.fsync(stream.fileno())
        os.replace(temporary, path)
    except BaseException:
        with contextlib.suppress(OSError):
            os.unlink(temporary)
        raise


def write_json(path: str, value: Any) -> None:
    """Write a value as indented JSON, atomically."""
    write_bytes_atomically(path, (json.dumps(value, indent=1, sort_keys=True, ensure_ascii=False) + "\n").encode())


def read_json(path: str) -> Any:
    """Read a JSON file from any filesystem."""
    with fsspec.open(path, "rb") as stream:
        return json.load(stream)


@dataclass(frozen=True)
class File:
    """A file of a committed stage. `attributes` are facts that a reader needs before opening it."""

    path: str
    kind: str
    unit: int
    rows: int
    bytes: int
    sha256: str
    attributes: dict[str, Any] = field(default_factory=dict)

    def parquet(self) -> pq.ParquetFile:
        """Open the file as Parquet, memory-mapped where it is local."""
        if is_local(self.path):
            return pq.ParquetFile(self.path, memory_map=True)
        return pq.ParquetFile(fsspec.open(self.path, "rb").open())

    def table(self, columns: list[str] | None = None) -> pa.Table:
        """Read the whole Parquet file, or some of its columns."""
        with self.parquet() as parquet:
            return parquet.read(columns=columns)


@dataclass(frozen=True)
class Committed:
    """The committed output of a stage, as its manifest describes it."""

    name: str
    fingerprint: str
    path: str
    manifest: dict[str, Any]

    def files(self, kind: str) -> list[File]:
        """Return the files of one kind in unit order, with absolute paths."""
        return [
            File(**{**entry, "path": f"{self.path}/{entry['path']}"})
            for entry in self.manifest["files"]
            if entry["kind"] == kind
        ]

    @property
    def counts(self) -> dict[str, int]:
        """Documents read, kept, dropped, edited and rejected, text bytes in and out, and the stage's own counters."""
        return self.manifest["counts"]

    def verify(self) -> list[str]:
        """Compare every file with its digest and return what is wrong, one sentence each."""
        problems = []
        for entry in self.manifest["files"]:
            path = f"{self.path}/{entry['path']}"
            if not Path(path).exists():
                problems.append(f"{path} is missing")
            elif file_sha256(path) != entry["sha256"]:
                problems.append(f"{path} does not match its digest")
        return problems


@dataclass(frozen=True)
class StageRef:
    """A stage's place in a store, whether it is committed yet or not."""

    name: str
    fingerprint: str
    path: str

    @property
    def is_committed(self) -> bool:
        """Whether the manifest is there."""
        filesystem, path = fsspec.core.url_to_fs(f"{self.path}/{MANIFEST}")
        return bool(filesystem.exists(path))

    def committed(self) -> Committed:
        """Read the manifest. Raises NotCommitted where the stage has not finished."""
        if not self.is_committed:
            raise NotCommitted(
                f"stage {self.name!r} has no committed output at {self.path}; run it first (headrace stage {self.name})"
            )
        return Committed(self.name, self.fingerprint, self.path, read_json(f"{self.path}/{MANIFEST}"))


@dataclass(frozen=True)
class Store:
    """A folder or URL that holds the outputs of stages."""

    root: str

    @classmethod
    def at(cls, root: str | Path) -> Store:
        """Open a store; a local root becomes absolute, a `file://` prefix goes."""
        text = str(root)
        if is_local(text):
            text = str(Path(text.removeprefix("file://")).resolve())
        return cls(text.rstrip("/"))

    def ref(self, name: str, stage_fingerprint: str) -> StageRef:
        """Return the place of a stage's output."""
        return StageRef(name, stage_fingerprint, f"{self.root}/{name}/{stage_fingerprint}")

    def prepare(self, ref: StageRef) -> None:
        """Make the stage's folder and clean it.

        Raises StoreError where the folder cannot be written.
        """
        if not is_local(ref.path):
            return
        try:
            Path(ref.path, UNITS).mkdir(parents=True, exist_ok=True)
            probe = Path(ref.path, temporary_name())
            probe.touch()
            probe.unlink()
        except OSError as error:
            raise unwritable(ref.path, error) from error
        self.clean(ref)

    def clean(self, ref: StageRef) -> None:
        """Remove what dead processes of this machine left half-written in a stage's folder."""
        if not is_local(ref.path):
            return
        for orphan in Path(ref.path).rglob(f"*{TEMPORARY}*"):
            if not _belongs_to_living_process(orphan):
                shutil.rmtree(orphan, ignore_errors=True) if orphan.is_dir() else orphan.unlink(missing_ok=True)

    @contextlib.contextmanager
    def exclusive(self, ref: StageRef, on_wait: Callable[[str], None] | None = None) -> Iterator[None]:
        """Hold the stage for one run at a time; another run waits and then finds the work done.

        The lock is the kernel's (flock) and goes with its process, however that ends. Non-local stores have none: there
        two runs repeat each other's work but, as every file is written whole and is the same, do not corrupt it.
        """
        if fcntl is None or not is_local(ref.path):
            yield
            return
        with open(Path(ref.path, LOCK), "a+") as stream:
            waited = False
            while True:
                try:
                    fcntl.flock(stream, fcntl.LOCK_EX | fcntl.LOCK_NB)
                    break
                except OSError as error:
                    if error.errno not in (errno.EAGAIN, errno.EACCES):
                        raise
                if not waited and on_wait is not None:
                    stream.seek(0)
                    holder = stream.read().strip() or "unknown"
                    on_wait(f"stage {ref.name!r} is being run by another process ({holder}); waiting for it")
                waited = True
                time.sleep(0.2)
            stream.truncate(0)
            stream.write(f"pid {os.getpid()} on {socket.gethostname()}")
            stream.flush()
            yield


def unwritable(path: str, error: OSError) -> StoreError:
    """Return the error to raise where the store cannot be written: full, read-only or not ours."""
    if error.errno == errno.ENOSPC:
        return StoreError(
            f"no space left on the disk of {path}; free some and start the same command again: "
            "finished units are kept, nothing half-written is believed"
        )
    return StoreError(
        f"cannot write to {path}: {error.strerror or error}; choose another --workspace or mend its rights"
    )


def temporary_name() -> str:
    """Return a fresh temporary name that tells which process of which machine it belongs to."""
    return f"{TEMPORARY}{socket.gethostname()}-{os.getpid()}-{uuid.uuid4().hex[:8]}"


_TEMPORARY_PATTERN = re.compile(re.escape(TEMPORARY) + r"(?P<host>.+)-(?P<pid>\d+)-[0-9a-f]{8}$")


def _belongs_to_living_process(path: Path) -> bool:
    match = _TEMPORARY_PATTERN.search(path.name)
    if match is None:
        return False
    if match["host"] != socket.gethostname():
        return True  # another machine's: it may live, and what it leaves is never read
    return psutil.pid_exists(int(match["pid"]))


def file_entry(file: File) -> dict[str, Any]:
    """Return a file as it stands in a manifest."""
    return asdict(file)
