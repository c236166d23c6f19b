"""The training process: its end follows its parent's, and its errors are told."""

from __future__ import annotations

import contextlib
import os
import random
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable
from pathlib import Path

import psutil
import pytest

from pipeline.classifiers.process import train_fasttext
from pipeline.stage import StageError
from tests.pipeline.classifiers.corpora import topic

ROOT = Path(__file__).parents[3]
SMALL = {"dim": 4, "bucket": 100, "wordNgrams": 2}


def wait_until(condition: Callable[[], bool], what: str) -> None:
    deadline = time.monotonic() + 60
    while not condition():
        assert time.monotonic() < deadline, f"waited for {what}"
        time.sleep(0.05)


@pytest.fixture
def lines(tmp_path: Path) -> Path:
    rng = random.Random(1)
    path = tmp_path / "train.txt"
    path.write_text("".join(f"__label__{number % 2} {topic(rng, number % 2 == 0)}\n" for number in range(300)))
    return path


@pytest.mark.parametrize("number", [signal.SIGKILL, signal.SIGINT])
def test_it_does_not_outlive_its_parent(lines: Path, tmp_path: Path, number: signal.Signals):
    code = (
        "import signal, sys; from pathlib import Path; from pipeline.classifiers.process import train_fasttext\n"
        "signal.signal(signal.SIGINT, signal.default_int_handler)\n"  # a shell's background job ignores it
        f"train_fasttext(Path(sys.argv[1]), Path(sys.argv[2]), {{**{SMALL!r}, 'epoch': 10_000_000}})"
    )
    command = [sys.executable, "-c", code, str(lines), str(tmp_path / "model.bin")]
    parent = subprocess.Popen(command, cwd=ROOT, stderr=subprocess.DEVNULL)
    try:
        wait_until(lambda: bool(psutil.Process(parent.pid).children()), "the training process")
        (child,) = psutil.Process(parent.pid).children()
        wait_until(lambda: child.cpu_times().user > 1.0, "the training to be under way")
        parent.send_signal(number)
        parent.wait(60)
        wait_until(lambda: not child.is_running() or child.status() == psutil.STATUS_ZOMBIE, "the child to end")
    finally:
        parent.kill()
    assert not (tmp_path / "model.bin").exists()


def trainers() -> list[int]:
    """The training processes that this process started; it may have other children."""
    pids = []
    for child in psutil.Process().children():
        with contextlib.suppress(psutil.ZombieProcess, psutil.NoSuchProcess):
            if "trainer.py" in " ".join(child.cmdline()):
                pids.append(child.pid)
    return pids


def test_a_process_that_is_killed_is_told(lines: Path, tmp_path: Path):
    def kill() -> None:
        wait_until(lambda: bool(trainers()), "the training process")
        for pid in trainers():
            os.kill(pid, signal.SIGKILL)

    killer = threading.Thread(target=kill)
    killer.start()
    with pytest.raises(StageError, match="training ended with signal 9, which may mean that memory ran out"):
        train_fasttext(lines, tmp_path / "model.bin", {**SMALL, "epoch": 10_000_000})
    killer.join()


def test_a_diverging_training_is_refused(lines: Path, tmp_path: Path):
    with pytest.raises(StageError, match=r"ended with exit code 1: .*(NaN|not all finite)"):
        train_fasttext(lines, tmp_path / "model.bin", {**SMALL, "lr": 1e30, "epoch": 50})
    assert not (tmp_path / "model.bin").exists()


def test_a_file_without_labels_is_told(tmp_path: Path):
    (tmp_path / "train.txt").write_text("no label here\n")
    with pytest.raises(StageError, match="ended with exit code 1: .*"):
        train_fasttext(tmp_path / "train.txt", tmp_path / "model.bin", SMALL)
