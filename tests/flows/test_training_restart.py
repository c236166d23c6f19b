"""A training that stopped to go on later is started again by the stage that waits for it."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest

from flows.process import ProcessFailed, ProcessStopped
from flows.progress import listening
from flows.training_stages import Train, TrainConfig

SCRIPT = """
import pathlib, sys
starts = pathlib.Path(sys.argv[1])
starts.write_text(starts.read_text() + "x")
sys.exit(int(sys.argv[2]) if len(starts.read_text()) <= int(sys.argv[3]) else 0)
"""


def starts(folder: Path, restarts: int, code: int, failures: int) -> int:
    """How often the stage starts a process that ends with `code` its first `failures` times."""
    counter = folder / "starts"
    counter.write_text("")
    stage = Train(TrainConfig(restarts=restarts), {})
    try:
        stage._run([sys.executable, "-c", SCRIPT, str(counter), str(code), str(failures)])
    finally:
        count = len(counter.read_text())
    return count


@pytest.mark.parametrize("code", [75, 76])
def test_it_is_started_again_and_told(tmp_path: Path, code: int) -> None:
    told: list[str] = []
    with listening(lambda event: told.append(event.get("line", ""))):
        assert starts(tmp_path, restarts=3, code=code, failures=2) == 3
    assert sum("started again" in line for line in told) == 2


def test_not_for_ever(tmp_path: Path) -> None:
    with pytest.raises(ProcessStopped):
        starts(tmp_path, restarts=1, code=75, failures=5)
    assert (tmp_path / "starts").read_text() == "xx"


def test_a_failure_is_none_of_that(tmp_path: Path) -> None:
    with pytest.raises(ProcessFailed, match="exit code 2"):
        starts(tmp_path, restarts=3, code=2, failures=1)
    assert (tmp_path / "starts").read_text() == "x"


def test_what_the_training_warns_of_reaches_the_terminal(tmp_path: Path) -> None:
    told: list[str] = []
    script = 'print(\'{"event": "warning", "message": "step 7 is no number"}\')'
    with listening(lambda event: told.append(event.get("line", ""))):
        Train(TrainConfig(), {})._run([sys.executable, "-c", script])
    assert "warning: step 7 is no number" in told
