from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import psutil
import pytest

from pipeline.execution import run_stage
from pipeline.ledger import LEDGER_SCHEMA, ledger_table
from pipeline.stage import Stage, StageError, UnitRecord
from pipeline.store import Committed, Store, file_sha256
from tests.pipeline.toy_stages import Doubled, Numbers, NumbersConfig


def content(folder: str | Path) -> dict[str, str]:
    """Digests of everything that a stage's identity determines."""
    skip = {"units", "execution.json", ".lock"}
    return {
        str(path.relative_to(folder)): file_sha256(path)
        for path in sorted(Path(folder).rglob("*"))
        if path.is_file() and path.relative_to(folder).parts[0] not in skip
    }


def run(stage: Stage[Any], root: Path, workers: int = 0) -> tuple[Committed, list[UnitRecord]]:
    seen: list[UnitRecord] = []
    return run_stage(stage, Store.at(root), workers, lambda record, *_: seen.append(record)), seen


def test_a_stage_commits_files_counts_and_ledger(tmp_path: Path):
    committed, seen = run(Numbers(NumbersConfig(), {}), tmp_path)
    assert len(seen) == 4
    assert committed.counts["read"] == 40
    assert committed.counts["dropped"] == 14
    values = [value for file in committed.files("documents") for value in file.table()["value"].to_pylist()]
    assert values == [value for value in range(40) if value % 3]
    ledger = committed.files("ledger")[0].table()
    assert ledger.schema.equals(LEDGER_SCHEMA)
    assert ledger["stage"].unique().to_pylist() == ["numbers"]
    assert committed.files("blob")[1].attributes == {"start": 10, "length": 10}
    assert committed.verify() == []
    Path(committed.files("blob")[1].path).write_bytes(b"other")
    assert committed.verify() == [f"{committed.files('blob')[1].path} does not match its digest"]


def test_workers_do_not_change_a_byte(tmp_path: Path):
    one, _ = run(Numbers(NumbersConfig(units=6), {}), tmp_path / "one", workers=0)
    two, _ = run(Numbers(NumbersConfig(units=6), {}), tmp_path / "two", workers=2)
    assert content(one.path) == content(two.path)


def test_a_committed_stage_is_not_run_again(tmp_path: Path):
    run(Numbers(NumbersConfig(), {}), tmp_path)
    _, seen = run(Numbers(NumbersConfig(), {}), tmp_path)
    assert seen == []


def test_another_config_is_another_output(tmp_path: Path):
    first, _ = run(Numbers(NumbersConfig(), {}), tmp_path)
    second, seen = run(Numbers(NumbersConfig(drop_multiples_of=5), {}), tmp_path)
    assert first.path != second.path
    assert len(seen) == 4


def test_a_failed_unit_costs_only_itself(tmp_path: Path):
    failing = Numbers(NumbersConfig(), {})
    failing.behaviour = {"fail": 2}
    with pytest.raises(StageError, match="unit 'numbers 2': RuntimeError: asked to fail"):
        run(failing, tmp_path)
    committed, seen = run(Numbers(NumbersConfig(), {}), tmp_path)
    assert [record.unit for record in seen] == [2, 3]
    assert committed.counts["read"] == 40


def test_a_lost_or_truncated_file_is_made_again(tmp_path: Path):
    failing = Numbers(NumbersConfig(), {})
    failing.behaviour = {"fail": 3}
    with pytest.raises(StageError):
        run(failing, tmp_path)
    folder = failing.fingerprint()
    (tmp_path / "numbers" / folder / "documents" / "00000.parquet").unlink()
    (tmp_path / "numbers" / folder / "blob" / "00001.bin").write_bytes(b"x")
    (tmp_path / "numbers" / folder / "units" / "00002.json").write_text("{")
    _, seen = run(Numbers(NumbersConfig(), {}), tmp_path)
    assert [record.unit for record in seen] == [0, 1, 2, 3]


def test_a_killed_worker_is_named_and_the_rest_is_kept(tmp_path: Path):
    dying = Numbers(NumbersConfig(), {})
    dying.behaviour = {"die": 3}
    with pytest.raises(StageError, match=r"worker process died.*numbers 3"):
        run(dying, tmp_path, workers=1)
    committed, seen = run(Numbers(NumbersConfig(), {}), tmp_path, workers=1)
    assert 3 in [record.unit for record in seen]
    assert committed.counts["read"] == 40


def test_documents_that_get_lost_fail_the_stage(tmp_path: Path):
    losing = Numbers(NumbersConfig(), {})
    losing.behaviour = {"lose": 1}
    with pytest.raises(StageError, match="documents got lost"):
        run(losing, tmp_path)


def test_a_forgotten_shard_fails_the_commit(tmp_path: Path):
    store = Store.at(tmp_path)
    numbers = Numbers(NumbersConfig(), {})
    run_stage(numbers, store, 0)
    doubled = Doubled(NumbersConfig(), {"numbers": store.ref("numbers", numbers.fingerprint())})
    doubled.forget_last = True
    with pytest.raises(StageError, match="read 20 documents but 'numbers' kept 26"):
        run_stage(doubled, store, 0)


def test_ledger_rows_are_checked():
    with pytest.raises(ValueError, match="unknown actions"):
        ledger_table("stage", [{"id": "1", "source": "s", "action": "lost", "rule": "r"}])


KILLED = """
import sys
sys.path.insert(0, {root!r})
from tests.pipeline.toy_stages import Numbers, NumbersConfig
from pipeline.execution import run_stage
from pipeline.store import Store
if __name__ == "__main__":
    stage = Numbers(NumbersConfig(units=6), {{}})
    stage.behaviour = {{"sleep": 4}}
    run_stage(stage, Store.at({workspace!r}), 2)
"""


def test_kill_nine_and_resume_is_byte_identical(tmp_path: Path):
    script = tmp_path / "killed.py"
    script.write_text(KILLED.format(root=str(Path(__file__).parents[2]), workspace=str(tmp_path / "killed")))
    process = subprocess.Popen([sys.executable, str(script)])
    stage = Numbers(NumbersConfig(units=6), {})
    records = tmp_path / "killed" / "numbers" / stage.fingerprint() / "units"
    while len(list(records.glob("*.json"))) < 5:
        assert process.poll() is None
        time.sleep(0.02)
    workers = [child.pid for child in psutil.Process(process.pid).children(recursive=True)]
    assert workers
    os.kill(process.pid, signal.SIGKILL)
    process.wait()
    deadline = time.time() + 10
    while time.time() < deadline and any(map(psutil.pid_exists, workers)):
        time.sleep(0.05)
    assert not any(map(psutil.pid_exists, workers)), "workers outlived their parent"
    resumed, seen = run(stage, tmp_path / "killed")
    assert [record.unit for record in seen] == [4]
    undisturbed, _ = run(stage, tmp_path / "undisturbed")
    assert content(resumed.path) == content(undisturbed.path)
    assert not list(Path(resumed.path).glob(".tmp-*"))
