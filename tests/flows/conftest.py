"""Real servers and real processes for the tests of the whole."""

from __future__ import annotations

import os
import socket
import subprocess
import sys
import time
import urllib.error
import urllib.request
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from tests.flows.tiny import recipe, write_corpus, write_recipe

ROOT = Path(__file__).parents[2]


def free_port() -> int:
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        return int(listener.getsockname()[1])


def wait_until(condition: Callable[[], bool], what: str, seconds: float = 120.0) -> None:
    deadline = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < deadline, f"waited {seconds:.0f} s for {what}"
        time.sleep(0.1)


def answers(url: str) -> bool:
    try:
        with urllib.request.urlopen(url, timeout=2):
            return True
    except (urllib.error.URLError, OSError):
        return False


@pytest.fixture(scope="session")
def prefect_environment(tmp_path_factory: pytest.TempPathFactory) -> Iterator[dict[str, str]]:
    """The environment of processes that talk to a Prefect server, started once for all tests, on loopback."""
    home = tmp_path_factory.mktemp("prefect")
    port = free_port()
    environment = {
        **{name: value for name, value in os.environ.items() if not name.startswith(("PREFECT_", "MLFLOW_"))},
        "PREFECT_HOME": str(home),
        "PREFECT_SERVER_ANALYTICS_ENABLED": "false",
        "DO_NOT_TRACK": "true",
        "PREFECT_SERVER_SERVICES_SCHEDULER_LOOP_SECONDS": "2",
        "PYTHONPATH": str(ROOT),
        "COLUMNS": "200",
    }
    with open(home / "server.log", "wb") as log:
        command = [sys.executable, "-m", "prefect", "server", "start", "--host", "127.0.0.1", "--port", str(port)]
        server = subprocess.Popen(command, env=environment, stdout=log, stderr=subprocess.STDOUT)
        environment["PREFECT_API_URL"] = f"http://127.0.0.1:{port}/api"
        try:
            wait_until(lambda: answers(f"{environment['PREFECT_API_URL']}/health"), "the Prefect server", 180)
            yield environment
        finally:
            server.terminate()
            server.wait(30)


Headrace = Callable[..., subprocess.CompletedProcess[str]]


@pytest.fixture
def headrace(prefect_environment: dict[str, str]) -> Headrace:
    """Runs the command line in a process of its own and returns what it printed."""

    def run(*arguments: str, **environment: str) -> subprocess.CompletedProcess[str]:
        return subprocess.run(
            [sys.executable, "-m", "flows.cli", *arguments],
            env={**prefect_environment, **environment},
            capture_output=True,
            text=True,
            timeout=280,
            check=False,
        )

    return run


@pytest.fixture(scope="session")
def tiny_recipe(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The file of the tiny recipe, with its corpus beside it."""
    folder = tmp_path_factory.mktemp("tiny")
    write_corpus(folder / "corpus")
    return write_recipe(folder / "tiny.yaml", recipe(folder / "corpus"))


@pytest.fixture(scope="session")
def finished(tiny_recipe: Path, prefect_environment: dict[str, str], tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A workspace in which the tiny recipe has run to its end, undisturbed. Tests must not change it."""
    workspace = tmp_path_factory.mktemp("finished") / "work space"
    done = subprocess.run(
        [sys.executable, "-m", "flows.cli", "run", str(tiny_recipe), "--workspace", str(workspace)],
        env=prefect_environment,
        capture_output=True,
        text=True,
        timeout=280,
        check=False,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    assert "154 of 158 documents kept" in done.stdout
    return workspace
