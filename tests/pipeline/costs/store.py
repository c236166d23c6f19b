"""A store whose stages are written in a moment: a source, a stage over it, a tokenizer's shards, a training."""

from __future__ import annotations

import json
import platform
from pathlib import Path
from typing import Any

from pipeline.store import StageRef, Store

MODEL = {"layers": 2, "width": 8, "context_length": 16}
EXECUTED = {
    "wall_seconds": 10.0,
    "cpu_seconds": 18.0,
    "peak_memory_bytes": 2_000_000_000,
    "units_of_earlier_runs": 0,
    "host": platform.node(),
}


def commit(
    store: Store,
    name: str,
    fingerprint: str,
    inputs: dict[str, str] | None = None,
    config: dict[str, Any] | None = None,
    size: int = 0,
    execution: dict[str, Any] | None = None,
    **more: Any,
) -> StageRef:
    """Commit an output of `size` bytes; `execution` changes what its record says."""
    ref = store.ref(name, fingerprint)
    Path(ref.path).mkdir(parents=True, exist_ok=True)
    files = [{"path": "d", "kind": "documents", "unit": 0, "rows": 1, "bytes": size, "sha256": "", "attributes": {}}]
    manifest = {
        **{"stage": name, "version": 1, "fingerprint": fingerprint, "units": 1},
        **{"counts": {}, "summary": {}, "config": config or {}, "inputs": inputs or {}, "files": files},
        **more,
    }
    Path(ref.path, "execution.json").write_text(json.dumps(EXECUTED | (execution or {})))
    Path(ref.path, "manifest.json").write_text(json.dumps(manifest))
    return ref


def sources(size: int) -> dict[str, Any]:
    """The identity of an ingest stage over files of `size` bytes."""
    return {"sources": [{"name": "a", "files": [{"bytes": size // 2}, {"bytes": size - size // 2}]}]}


def training(steps: int, width: int = 8, objective: str = "causal") -> dict[str, Any]:
    """The identity of a training."""
    return {
        "model": MODEL | {"width": width},
        "objective": {"name": objective},
        "training": {"steps": steps, "batch_size": 4, "sequence_length": None},
    }


def trained(store: Store, fingerprint: str, config: dict[str, Any], result: dict[str, Any], **more: Any) -> StageRef:
    """Commit a training over the shards `tokens`, which it commits where they are missing."""
    if not store.ref("tokenize", "tokens").is_committed:
        commit(store, "tokenize", "tokens", summary={"tokenizer": {"vocabulary_size": 100}})
    entry = {"path": "r", "kind": "result", "unit": 0, "rows": 0, "bytes": 1, "sha256": "", "attributes": result}
    return commit(store, "train", fingerprint, {"tokenize": "tokens"}, config, files=[entry], **more)
