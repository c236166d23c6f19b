import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest
import torch
import torch.distributed as dist

from tests.training.tiny_run import changed, final_weights, make_run, write_config
from training.config import TrainingRun
from training.distributed import World, is_peer_lost, torchrun_command

ROOT = Path(__file__).parents[2]


def test_one_process_asks_no_one() -> None:
    world = World.from_environment()
    assert (world.size, world.is_main) == (1, True)
    with world.joined(torch.device("cpu")):
        assert not dist.is_initialized()
        assert world.agree(True)
        assert not world.agree(False)
        assert world.broadcast([1]) == [1]
        assert world.gather("a") == ["a"]
        assert world.sum(torch.ones(2)).tolist() == [1, 1]


def test_the_place_comes_from_the_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    for name, value in {"RANK": 5, "LOCAL_RANK": 1, "LOCAL_WORLD_SIZE": 4, "WORLD_SIZE": 8}.items():
        monkeypatch.setenv(name, str(value))
    assert World.from_environment() == World(5, 1, 4, 8)
    assert not World.from_environment().is_main


def test_launch_commands() -> None:
    assert torchrun_command("training", ["train", "c.json"]) == [sys.executable, "-m", "training", "train", "c.json"]
    torchrun = [sys.executable, "-m", "torch.distributed.run"]
    assert torchrun_command("training", ["train", "c"], 2, restarts=3) == [
        *torchrun,
        *("--standalone", "--nproc-per-node=2", "--max-restarts=3", "--module", "training", "train", "c"),
    ]
    several = torchrun_command("training", [], 8, nodes="1:4", rendezvous="head:29400", run_id="r")
    assert several[:2] == ["env", "TORCH_DISABLE_SHARE_RDZV_TCP_STORE=1"]
    assert several[5:9] == ["--nnodes=1:4", "--rdzv-backend=c10d", "--rdzv-endpoint=head:29400", "--rdzv-id=r"]
    with pytest.raises(ValueError, match="rendezvous must name the host:port"):
        torchrun_command("training", [], 8, nodes=2)
    with pytest.raises(ValueError, match="processes must be at least 1"):
        torchrun_command("training", [], 0)


def test_lost_peers_are_told_from_other_errors() -> None:
    assert is_peer_lost(RuntimeError("[../gloo/transport/tcp/pair.cc:547] Connection closed by peer [127.0.0.1]:1"))
    assert is_peer_lost(dist.DistNetworkError("the store is gone"))
    assert not is_peer_lost(RuntimeError("mat1 and mat2 shapes cannot be multiplied"))
    assert not is_peer_lost(ValueError("gloo timed out"))


_PEER = """
import os, sys, time, torch
from training.distributed import PeerLost, World
world = World.from_environment()
begin = time.monotonic()
try:
    with world.joined(torch.device("cpu"), timeout_minutes=float(sys.argv[1])):
        world.agree(True)
        if world.rank == 1 and sys.argv[2] == "dies":
            os._exit(9)
        if world.rank == 1:
            time.sleep(600)
        world.sum(torch.ones(1))
except PeerLost as error:
    print(error, flush=True)
"""


@pytest.mark.parametrize(("minutes", "fate"), [(10.0, "dies"), (0.05, "hangs")])
def test_a_lost_peer_is_told(minutes: float, fate: str) -> None:
    """The first process does not wait for ever for one that died or does not answer."""
    port = _free_port()
    processes = []
    for rank in (0, 1):
        place = {"RANK": rank, "LOCAL_RANK": rank, "WORLD_SIZE": 2, "LOCAL_WORLD_SIZE": 2, "MASTER_PORT": port}
        environment = {**os.environ, **{name: str(value) for name, value in place.items()}, "MASTER_ADDR": "127.0.0.1"}
        command = [sys.executable, "-c", _PEER, str(minutes), fate]
        streams: dict[str, Any] = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE, "text": True}
        processes.append(subprocess.Popen(command, cwd=ROOT, env=environment, **streams))
    try:
        output, errors = processes[0].communicate(timeout=120)
    finally:
        for process in processes:
            process.kill()
            process.communicate()
    assert output.startswith("process 0 of 2 lost the others ("), errors
    assert "Start the same command again, or let torchrun do it with --max-restarts" in output


def _free_port() -> int:
    import socket

    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port: int = probe.getsockname()[1]
    return port


def test_a_killed_worker_is_started_anew(tmp_path: Path) -> None:
    """kill -9 of one of two workers in mid-run: torchrun restarts both, and the weights are as if nothing had been."""
    run = changed(make_run(tmp_path, steps=24, checkpoint_every=6, log_every=2), "model", dropout=0.1)
    undisturbed = changed(run, output_dir=str(tmp_path / "undisturbed"))
    assert _train(undisturbed, tmp_path / "undisturbed.json", kill_after=None)[-1]["event"] == "finished"
    events = _train(run, tmp_path / "run.json", kill_after=6)
    kinds = [event["event"] for event in events]
    assert kinds.count("start") == 2
    resumed = next(event for event in events if event["event"] == "resumed")
    assert 6 <= resumed["step"] < 24
    assert kinds[-1] == "finished"
    assert final_weights(run) == final_weights(undisturbed)


def _train(run: TrainingRun, config: Path, kill_after: int | None) -> list[dict[str, Any]]:
    """Train in two processes that torchrun may restart once; kill the second when a checkpoint of a step is told."""
    command = torchrun_command("training", ["train", str(write_config(run, config))], 2, restarts=1)
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    events = []
    with config.with_suffix(".log").open("w+") as log:
        with subprocess.Popen(
            command, cwd=ROOT, env=environment, stdout=subprocess.PIPE, stderr=log, text=True
        ) as process:
            assert process.stdout is not None
            for line in process.stdout:
                events.append(json.loads(line))
                event = events[-1]
                if kill_after is not None and event["event"] == "checkpoint" and event["step"] >= kill_after:
                    kill_after = None
                    os.kill(_worker(process.pid, rank=1), signal.SIGKILL)
        log.seek(0)
        assert process.returncode == 0, log.read()[-3000:]
    return events


def _worker(parent: int, rank: int) -> int:
    """The process id of a worker of torchrun."""
    for _ in range(100):
        for path in Path("/proc").glob("[0-9]*"):
            try:
                mine = f"\nPPid:\t{parent}\n" in (path / "status").read_text()
                if mine and f"RANK={rank}" in (path / "environ").read_text().split("\0"):
                    return int(path.name)
            except OSError:
                continue
        time.sleep(0.1)
    raise AssertionError("no such worker")
