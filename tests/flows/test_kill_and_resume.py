"""kill -9 in every third stage (SIGTERM in one), the same command again: the same bytes as when nobody disturbs."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import psutil
import pytest

from flows.plan import STAGES, make_plan
from pipeline.store import file_sha256

pytestmark = pytest.mark.server

# What these hold follows from the recipe; times and places (journals, results, records of execution) do not.
IDENTICAL = (
    *("documents", "ledger", "signatures", "rank", "first", "pairs", "duplicates", "kept", "spans"),
    *("signals", "tokenizer", "tokens", "index"),
)


# Every stage works by the same mechanism; each kill costs a start of the whole command.
KILLED = [stage for index, stage in enumerate(STAGES) if index % 3 == 0 or stage in ("train", "evaluate")]
TERMINATED = "evaluate"


def content(store: Path) -> dict[str, str]:
    files = {
        str(path.relative_to(store)): file_sha256(path)
        for kind in IDENTICAL
        for path in store.glob(f"*/*/{kind}/*")
        if path.is_file()
    }
    weights = store.glob("train/*/checkpoints/*/*.safetensors")
    return files | {str(path.relative_to(store)): file_sha256(path) for path in weights}


def kill_in(stage: str, command: list[str], environment: dict[str, str], folder: Path, number: signal.Signals) -> None:
    """Start the command and send it a signal once the stage has begun its work; its whole process tree ends."""
    process = subprocess.Popen(command, env=environment, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE)
    deadline = time.monotonic() + 200

    def at_work() -> bool:
        if stage == "train":  # in the middle: after a checkpoint, before the end
            return any(folder.glob("work/checkpoints/step-00000010/trainer.json"))
        return any(folder.glob(".tmp-*")) or any(folder.glob("units/*.json"))

    while not at_work():
        assert process.poll() is None, f"the run ended before {stage}: {process.stderr.read().decode()}"  # type: ignore[union-attr]
        assert time.monotonic() < deadline, f"the run did not come to {stage}"
        time.sleep(0.002)
    os.kill(process.pid, number)
    children = psutil.Process(process.pid).children(recursive=True) if psutil.pid_exists(process.pid) else []
    assert process.wait(timeout=60) == (143 if number == signal.SIGTERM else -number)
    _, alive = psutil.wait_procs(children, timeout=30)
    assert not alive


@pytest.mark.timeout(1200)
def test_killed_in_stage_after_stage(
    finished: Path, tiny_recipe: Path, prefect_environment: dict[str, str], tmp_path: Path
):
    command = [sys.executable, "-m", "flows.cli", "run", str(tiny_recipe), "-w", str(tmp_path)]
    plan = make_plan(str(tiny_recipe), str(tmp_path))
    for stage in KILLED:
        number = signal.SIGTERM if stage == TERMINATED else signal.SIGKILL
        kill_in(stage, command, prefect_environment, Path(plan.refs[stage].path), number)
        done = [name for name in STAGES if plan.refs[name].is_committed]
        assert done == list(STAGES[: len(done)])
        assert len(done) in (STAGES.index(stage), STAGES.index(stage) + 1)
    last = subprocess.run(command, env=prefect_environment, capture_output=True, text=True, timeout=280, check=False)
    assert last.returncode == 0, last.stdout + last.stderr
    expected, found = content(finished / "store"), content(tmp_path / "store")
    assert len(expected) > 50
    assert found == expected
    assert not list((tmp_path / "store").rglob("*.tmp-*"))
    journal = next((tmp_path / "store" / "train").glob("*/metrics/metrics.jsonl")).read_text().splitlines()
    assert [json.loads(line)["step"] for line in journal] == [5, 10, 15, 20, 25, 30]
