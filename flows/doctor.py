"""`headrace doctor`: what this machine has, and what is wrong with it or with a workspace."""

from __future__ import annotations

import importlib.metadata
import os
import platform
import shutil
import urllib.error
import urllib.request
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import psutil

_PACKAGES = (
    "prefect",
    "mlflow",
    "pyarrow",
    "duckdb",
    "datasketch",
    "fasttext-community",
    "numba",
    "torch",
    "tokenizers",
    "gigatoken",
)
_LEAST_DISK_BYTES = 2_000_000_000
_LEAST_MEMORY_BYTES = 4_000_000_000


@dataclass(frozen=True)
class Check:
    """One finding; a `problem` is something that stops a run."""

    name: str
    state: Literal["ok", "note", "problem"]
    finding: str


def examine(workspace: Path, verify: bool = False) -> list[Check]:
    """Look at versions, hardware, servers, the quickstart corpus and a workspace; `verify` reads every stored file."""
    checks = [_python(), *_packages(), _memory(), _disk(workspace), _gpu(), _prefect(), _mlflow(), _quickstart()]
    return [*checks, *_workspace(workspace, verify)]


def _python() -> Check:
    return Check("python", "ok", f"{platform.python_version()} on {platform.system()} {platform.machine()}")


def _packages() -> Iterator[Check]:
    for name in _PACKAGES:
        try:
            yield Check(name, "ok", importlib.metadata.version(name))
        except importlib.metadata.PackageNotFoundError:
            yield Check(name, "problem", "not installed; run make setup")


def _memory() -> Check:
    memory = psutil.virtual_memory()
    state: Literal["ok", "problem"] = "ok" if memory.available >= _LEAST_MEMORY_BYTES else "problem"
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count()
    return Check(
        "machine", state, f"{cores} cores, {memory.available / 1e9:.1f} of {memory.total / 1e9:.1f} GB memory free"
    )


def _disk(workspace: Path) -> Check:
    folder = workspace.absolute()
    while not folder.exists():
        folder = folder.parent
    free = shutil.disk_usage(folder).free
    if not os.access(folder, os.W_OK):
        return Check("disk", "problem", f"{folder} cannot be written; choose another --workspace")
    state: Literal["ok", "problem"] = "ok" if free >= _LEAST_DISK_BYTES else "problem"
    return Check("disk", state, f"{free / 1e9:.1f} GB free at {folder}")


def _gpu() -> Check:
    try:
        import torch
    except ImportError as error:
        return Check("gpu", "problem", f"torch cannot be imported: {error}")
    if not torch.cuda.is_available():
        return Check("gpu", "note", "none; training runs on the CPU")
    names = [torch.cuda.get_device_name(index) for index in range(torch.cuda.device_count())]
    return Check("gpu", "ok", f"{len(names)} x {names[0]}, CUDA {torch.version.cuda}")


def _prefect() -> Check:
    url = os.environ.get("PREFECT_API_URL")
    if not url:
        return Check("prefect server", "note", "none set (PREFECT_API_URL); a run starts its own for its duration")
    return _answers("prefect server", f"{url.rstrip('/')}/health", url)


def _mlflow() -> Check:
    uri = os.environ.get("MLFLOW_TRACKING_URI")
    if not uri:
        return Check("mlflow", "note", "no server set (MLFLOW_TRACKING_URI); runs go to mlflow.db in the workspace")
    if not uri.startswith("http"):
        return Check("mlflow", "ok", uri)
    return _answers("mlflow", f"{uri.rstrip('/')}/health", uri)


def _answers(name: str, health: str, url: str) -> Check:
    try:
        with urllib.request.urlopen(health, timeout=3):
            return Check(name, "ok", f"answers at {url}")
    except (urllib.error.URLError, OSError, ValueError) as error:
        return Check(name, "problem", f"{url} does not answer ({error}); start it or unset the variable")


def _quickstart() -> Check:
    from pipeline.quickstart import find

    found = find()
    if found is None:
        return Check("quickstart corpus", "note", "not there yet; `python -m pipeline.quickstart` fetches it")
    return Check("quickstart corpus", "ok", str(found.root))


def _workspace(workspace: Path, verify: bool) -> Iterator[Check]:
    manifests = sorted(workspace.glob("store/*/*/manifest.json"))
    if not manifests:
        yield Check("workspace", "note", f"{workspace} holds no committed stage yet")
        return
    size = sum(path.stat().st_size for path in workspace.rglob("*") if path.is_file())
    yield Check("workspace", "ok", f"{len(manifests)} committed stages, {size / 1e6:.0f} MB in {workspace}")
    if not verify:
        return
    from pipeline.store import StageRef

    for manifest in manifests:
        folder = manifest.parent
        ref = StageRef(folder.parent.name, folder.name, str(folder.resolve()))
        problems = ref.committed().verify()
        name = f"{ref.name} {ref.fingerprint}"
        if problems:
            hint = f"; remove {folder} and run again"
            yield Check(name, "problem", "; ".join(problems[:3]) + hint)
        else:
            yield Check(name, "ok", "every file matches its digest")
