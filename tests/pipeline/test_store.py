from __future__ import annotations

import multiprocessing
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from pipeline.store import (
    NotCommitted,
    Store,
    StoreError,
    canonical_json,
    fingerprint,
    read_json,
    temporary_name,
    write_json,
)


def test_fingerprint_depends_on_every_part_and_not_on_key_order():
    base = fingerprint("stage", 1, {"a": 1, "b": [1, 2]}, {"x": "1", "y": "2"})
    assert base == fingerprint("stage", 1, {"b": [1, 2], "a": 1}, {"y": "2", "x": "1"})
    others = [
        fingerprint("other", 1, {"a": 1, "b": [1, 2]}, {"x": "1", "y": "2"}),
        fingerprint("stage", 2, {"a": 1, "b": [1, 2]}, {"x": "1", "y": "2"}),
        fingerprint("stage", 1, {"a": 1, "b": [2, 1]}, {"x": "1", "y": "2"}),
        fingerprint("stage", 1, {"a": 1, "b": [1, 2]}, {"x": "1", "y": "3"}),
    ]
    assert len({base, *others}) == 5


def test_canonical_json_refuses_nan():
    with pytest.raises(ValueError, match="JSON"):
        canonical_json({"threshold": float("nan")})


def test_uncommitted_stage_says_what_to_run(tmp_path: Path):
    ref = Store.at(tmp_path).ref("filter", "abc")
    with pytest.raises(NotCommitted, match="headrace stage filter"):
        ref.committed()


def test_write_json_leaves_the_old_file_when_it_fails(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    path = tmp_path / "value.json"
    write_json(str(path), {"value": 1})

    def full_disk(*_: object) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "fsync", full_disk)
    with pytest.raises(OSError, match="No space left"):
        write_json(str(path), {"value": 2})
    assert read_json(str(path)) == {"value": 1}
    assert [item.name for item in tmp_path.iterdir()] == ["value.json"]


def test_json_through_another_filesystem():
    write_json("memory://store/value.json", {"value": 1})
    assert read_json("memory://store/value.json") == {"value": 1}


def test_prepare_removes_orphans_of_dead_processes_only(tmp_path: Path):
    store = Store.at(tmp_path)
    ref = store.ref("toy", "abc")
    store.prepare(ref)
    dead = subprocess.Popen([sys.executable, "-c", ""])
    dead.wait()
    living = Path(ref.path, temporary_name())
    orphan = Path(ref.path, temporary_name().replace(f"-{os.getpid()}-", f"-{dead.pid}-"))
    for folder in (living, orphan):
        folder.mkdir()
        (folder / "half.parquet").write_bytes(b"half")
    store.prepare(ref)
    assert living.exists()
    assert not orphan.exists()


@pytest.mark.skipif(os.geteuid() == 0 and not Path("/proc").exists(), reason="root may write anywhere")
def test_a_workspace_that_cannot_be_written_is_a_clear_error(tmp_path: Path):
    (tmp_path / "file").write_text("not a folder")
    store = Store.at(tmp_path / "file" / "workspace")
    with pytest.raises(StoreError, match="cannot write to .*choose another --workspace"):
        store.prepare(store.ref("toy", "abc"))


def _hold(root: str, seconds: float) -> None:
    store = Store.at(root)
    ref = store.ref("toy", "abc")
    store.prepare(ref)
    with store.exclusive(ref):
        Path(root, "held").touch()
        time.sleep(seconds)


def test_lock_waits_for_the_holder_and_goes_with_its_death(tmp_path: Path):
    holder = multiprocessing.get_context("spawn").Process(target=_hold, args=(str(tmp_path), 60))
    holder.start()
    while not (tmp_path / "held").exists():
        time.sleep(0.01)
    messages: list[str] = []

    def kill_holder(message: str) -> None:
        messages.append(message)
        assert holder.pid is not None
        os.kill(holder.pid, signal.SIGKILL)

    store = Store.at(tmp_path)
    with store.exclusive(store.ref("toy", "abc"), kill_holder):
        pass
    holder.join()
    assert len(messages) == 1
    assert f"pid {holder.pid}" in messages[0]
