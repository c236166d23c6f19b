"""The simulation of a cluster against real runs: calibrated on one run with one worker, it predicts others unseen.

    python -m benchmarks.internet [--megabytes 24] [--repeats 3] [--folder DIR] [--json FILE]

Pages of real text (the quickstart corpus, in HTML) lie in WARC files. One run of all corpus stages over half of them
with one worker process gives the seconds of every unit; probes give the speed of a core while all are busy, and what
the first file at an address costs a process. From these alone the simulation predicts: two workers; twice the data; a
worker that is killed in the middle of `ingest`; files that come from a server on loopback which gives so many bytes a
second (how often a stage reads a file was counted at that server before, and is part of the model). Then each is run,
in a process of its own from an empty workspace.
Seconds count from the reading of the recipe to the last commit. The run that calibrates is predicted, too: what the fit
itself leaves over. One run that nobody counts goes before all, as kernels are compiled in the first.

A quiet machine is needed, of two cores at least: half a minute of anything else shows in the result.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import multiprocessing
import os
import shutil
import signal
import subprocess
import sys
import tempfile
import threading
import time
import zlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
from rich.console import Console

from benchmarks.rows import Row, parser, show
from benchmarks.throttle import ThrottledFiles
from flows.internet.cluster import Simulated, simulate
from flows.internet.measured import MeasuredRun, measure
from flows.internet.work import Cluster, StageWork
from flows.internet.workload import Input, Scale, works

FILE_BYTES = 900_000
"""About what one WARC file has, as it is stored."""
UNIT_BYTES = 1.6 * FILE_BYTES
"""A unit is one file: none is cut, no two are put together."""
PLAN_READS = 2.0
"""Times that planning reads a file at an address: is it a folder (fsspec lists its links)? And its digest."""
RETRY_SECONDS = 2.0
"""Between the death of a worker and the next try, as in flows.runner."""
ROOT = Path(__file__).parents[1]
_PAGE = """<!DOCTYPE html><html><head><title>{title}</title><style>body {{ margin: 2em }}</style></head><body>
<nav><ul><li><a href="/">Home</a></li><li><a href="/index">Index</a></li></ul></nav>
<main><h1>{title}</h1>{body}</main><footer><p>Contact</p><p>All rights reserved</p></footer></body></html>"""


@dataclass(frozen=True)
class Scenario:
    """A run that is to be predicted."""

    name: str
    folder: str
    workers: int
    kill_seconds: float | None = None  # after the beginning of `ingest`
    bytes_per_second: float | None = None


@dataclass(frozen=True)
class Outcome:
    """What a run took: seconds in all and of each stage, and the time before the first of them."""

    seconds: float
    plan_seconds: float
    stages: Mapping[str, float]
    deaths: int


def write_pages(folder: Path, megabytes: float) -> dict[str, int]:
    """Write WARC files of about `megabytes` of text to `half` and `whole`; `half` has every other file of `whole`."""
    from html import escape

    from benchmarks.corpora import quickstart
    from pipeline.quickstart.formats import Record, compress, write_records

    texts = sorted(quickstart(), key=lambda item: hashlib.sha256(item.text.encode()).digest())
    files: list[list[Record]] = [[]]
    size = packed = 0
    for number, item in enumerate(texts):
        size += len(item.text.encode())
        if size > megabytes * 1e6:
            break
        lines = [line for line in item.text.split("\n") if line.strip()]
        body = "".join(f"<p>{escape(line)}</p>\n" for line in lines)
        page = _PAGE.format(title=escape(lines[0][:60] if lines else "Page"), body=body).encode()
        url = f"https://pages.example/{number}.html"
        if packed > FILE_BYTES:
            files.append([])
            packed = 0
        packed += len(compress(".gz", page)) + 450  # its headers
        files[-1].append(Record(page, item.language or "", "", "2026-01-01", "", url))
    for name, chosen in (("whole", files), ("half", files[::2])):
        for number, records in enumerate(chosen):
            write_records(folder / name / f"{number:04d}.warc.gz", records)
    return {"files": len(files), "text_bytes": size}


def recipe_of(location: str) -> dict[str, Any]:
    """A recipe over WARC files in a folder or at an address; a unit is a file."""
    return {
        "name": "internet",
        "ingest": {
            "unit_bytes": int(UNIT_BYTES),
            "sources": [{"name": "pages", "format": "warc", "path": location}],
        },
        "filter": {"language": {"allowed": ["en", "zh", "ja", "ko", "ru", "de", "fr", "es", "pt", "it"]}},
        "privacy": {},
        "tokenizer": {"vocabulary_size": 2048, "sample_bytes": 1_000_000},
        "tokenize": {"unit_bytes": 1_000_000},
    }


def run_corpus(recipe: dict[str, Any], workspace: str, workers: int, kill_seconds: float | None) -> dict[str, Any]:
    """Run the corpus stages in this process's pool, and try a stage again where a worker died, as the flow does."""
    from flows.plan import make_plan
    from pipeline.execution import WorkerDied, run_stage, worker_pool
    from pipeline.stage import CORPUS_STAGES

    started = time.perf_counter()
    plan = make_plan(recipe, workspace)
    planned = time.perf_counter()
    stages, deaths = {}, 0

    def kill() -> None:
        os.kill(next(iter(worker_pool(workers)._processes)), signal.SIGKILL)

    for name in (name for name in CORPUS_STAGES if name in plan.stages):
        began = time.perf_counter()
        if name == "ingest" and kill_seconds is not None:
            threading.Timer(kill_seconds, kill).start()
        while True:
            try:
                run_stage(plan.stages[name], plan.store, workers)
                break
            except WorkerDied:
                deaths += 1
                time.sleep(RETRY_SECONDS)
        stages[name] = time.perf_counter() - began
    ended = time.perf_counter()
    return {"seconds": ended - started, "plan_seconds": planned - started, "stages": stages, "deaths": deaths}


def run_scenario(scenario: Scenario, folder: Path, workspace: Path) -> Outcome:
    """Carry out a scenario in a process of its own."""
    if scenario.bytes_per_second is None:
        return _started(recipe_of(str(folder / scenario.folder)), workspace, scenario)
    with ThrottledFiles(folder / scenario.folder, scenario.bytes_per_second) as address:
        paths = [f"{address}/{file.name}" for file in sorted((folder / scenario.folder).iterdir())]
        recipe = recipe_of("")
        recipe["ingest"]["sources"][0]["path"] = paths
        return _started(recipe, workspace, scenario)


def _started(recipe: dict[str, Any], workspace: Path, scenario: Scenario) -> Outcome:
    request = {
        "recipe": recipe,
        "workspace": str(workspace),
        "workers": scenario.workers,
        "kill_seconds": scenario.kill_seconds,
    }
    command = [sys.executable, "-m", "benchmarks.internet", "--work", json.dumps(request)]
    done = subprocess.run(
        command, cwd=ROOT, env={**os.environ, "PYTHONPATH": str(ROOT)}, stdout=subprocess.PIPE, text=True, check=True
    )
    return Outcome(**json.loads(done.stdout.splitlines()[-1]))


@dataclass(frozen=True)
class Calibration:
    """What one run and the probe tell, and all that the simulation knows."""

    run: MeasuredRun
    plan_seconds: float
    pool_seconds: float  # the first use of the pool
    driver_fixed: float
    driver_per_unit: float
    efficiency: float
    client_seconds: float  # the first file at an address, in each process


def calibrate(
    workspace: Path, recipe: dict[str, Any], outcome: Outcome, efficiency: float, client_seconds: float
) -> Calibration:
    """Fit the overheads of a run with one worker: what a stage takes beside its units, and each unit."""
    from scipy.optimize import nnls

    from flows.plan import make_plan

    run = measure(make_plan(recipe, str(workspace)), "warc")
    beside = {
        name: outcome.stages[name] - sum(unit.seconds for unit in stage.units) for name, stage in run.stages.items()
    }
    later = [name for name in run.stages if name != "ingest"]
    design = np.array([[1.0, float(len(run.stages[name].units))] for name in later])
    (fixed, per_unit), _ = nnls(design, np.array([max(0.0, beside[name]) for name in later]))
    pool = max(0.0, beside["ingest"] - fixed - per_unit * len(run.stages["ingest"].units))
    return Calibration(run, outcome.plan_seconds, pool, float(fixed), float(per_unit), efficiency, client_seconds)


def predict(known: Calibration, scenario: Scenario, sizes: Sequence[float], cores: int) -> tuple[float, Simulated]:
    """Seconds of a scenario over files of these sizes, and the simulation behind them."""
    ingest = known.run.stages["ingest"]
    grown = sum(sizes) / ingest.size
    given = Input(sizes, known.run.text_bytes * grown, known.run.documents * grown)
    scale = Scale(wall=True, driver_fixed=known.driver_fixed, driver_per_unit=known.driver_per_unit)
    stages = works(known.run, given, scale)
    stages[0] = replace(stages[0], driver_seconds=stages[0].driver_seconds + known.pool_seconds)
    before, rate = known.plan_seconds, float("inf")
    if scenario.bytes_per_second is not None:
        rate = scenario.bytes_per_second
        before += PLAN_READS * sum(sizes) / rate + known.client_seconds
        stages[0] = _from_storage(stages[0], sizes, rate, known.client_seconds)
    kills = () if scenario.kill_seconds is None else ((scenario.kill_seconds, 0),)
    cluster = Cluster(
        machines=1,
        cores=cores,
        workers=scenario.workers,
        busy_efficiency=known.efficiency,
        read_bytes_per_second=rate,
        restart_seconds=RETRY_SECONDS + known.pool_seconds,  # the pool starts anew
        kills=kills,
    )
    simulated = simulate(stages, cluster)
    return before + simulated.seconds, simulated


def _from_storage(stage: StageWork, sizes: Sequence[float], bytes_per_second: float, client: float) -> StageWork:
    units = tuple(replace(unit, read_bytes=size) for unit, size in zip(stage.units, sizes, strict=True))
    looked_at = sum(sizes) / bytes_per_second  # every file is read once to see where it may be cut
    driver, warm = stage.driver_seconds + looked_at, stage.warm_seconds + client
    return replace(stage, units=units, driver_seconds=driver, warm_seconds=warm)


def client_seconds(folder: Path, rounds: int = 3) -> float:
    """Seconds that a process takes longer over its first file at an address than over its second: it loads a client."""
    file = min(folder.iterdir(), key=lambda path: path.stat().st_size)
    with ThrottledFiles(folder, 1e9) as address:
        command = [sys.executable, "-c", _FIRST_FILE, f"{address}/{file.name}"]
        told = [subprocess.run(command, stdout=subprocess.PIPE, text=True, check=True).stdout for _ in range(rounds)]
    return max(0.0, sorted(float(line) for line in told)[rounds // 2])


_FIRST_FILE = """
import sys, time
import fsspec

def read():
    started = time.perf_counter()
    with fsspec.open(sys.argv[1]) as file:
        file.read()
    return time.perf_counter() - started

print(read() - read())
"""


def busy_efficiency(processes: int, rounds: int = 3) -> float:
    """Speed of a process while so many compute at once, over that of one alone: the best of some rounds of each."""
    with multiprocessing.get_context("spawn").Pool(processes) as pool:
        pool.map(_compute, range(processes), chunksize=1)  # the processes have started
        alone = min(pool.apply(_compute, (0,)) for _ in range(rounds))
        together = min(max(pool.map(_compute, range(processes), chunksize=1)) for _ in range(rounds))
    return min(1.0, alone / together)


def _compute(_number: int) -> float:
    """Half a second of what the stages do: unpack, read JSON, sort; seconds of the clock that it took."""
    chance = np.random.default_rng(0)
    numbers = chance.integers(0, 1 << 40, 600_000)
    rows = json.dumps([{"text": "word " * 40, "number": number} for number in range(4000)])
    packed = zlib.compress(rows.encode() * 4)
    started = time.perf_counter()
    for _ in range(4):
        np.sort(numbers)
        json.loads(zlib.decompress(packed)[: len(rows)])
        for _ in range(8):
            zlib.decompress(packed)
    return time.perf_counter() - started


def main() -> None:
    options = _arguments()
    if options.work:
        print(json.dumps(run_corpus(**json.loads(options.work))))
        return
    console = Console(stderr=True)
    folder = Path(tempfile.mkdtemp(dir=options.folder))
    try:
        told = write_pages(folder / "pages", options.megabytes)
        console.print(f"{told['files']} WARC files of {told['text_bytes'] / 1e6:.1f} MB of text", highlight=False)
        rows = compare(folder, options.repeats, console)
    finally:
        shutil.rmtree(folder, ignore_errors=True)
    show(rows, "Seconds predicted (ours) and measured (peer); calibrated on the first run alone", options.json)


def compare(folder: Path, repeats: int, console: Console) -> list[Row]:
    """Calibrate, predict, run, and put the figures side by side."""
    pages, cores = folder / "pages", len(os.sched_getaffinity(0))
    # Kernels are compiled and files are in the system's cache before the clock starts.
    run_scenario(Scenario("not counted", "whole", 2), pages, folder / "warm")
    shutil.rmtree(folder / "warm")
    first = Scenario("calibration: 1 worker, half of the data", "half", 1)
    base = _median([_once(first, pages, folder / f"base-{number}") for number in range(repeats)])
    efficiency, client = busy_efficiency(2), client_seconds(pages / "half")
    known = calibrate(folder / f"base-{base[0]}", recipe_of(str(pages / "half")), base[1], efficiency, client)
    sizes = {name: _sizes(pages / name) for name in ("half", "whole")}
    reading = base[1].stages["ingest"]
    # The server gives the files in the time that one worker needs for them: reading and computing both count.
    rate = sum(sizes["half"]) / (0.5 * reading)
    scenarios = [
        Scenario("2 workers", "half", 2),
        Scenario("1 worker, twice the data", "whole", 1),
        Scenario("2 workers, twice the data", "whole", 2),
        Scenario("2 workers, twice the data, one killed", "whole", 2, kill_seconds=0.6 * reading),
        Scenario("2 workers, reads throttled", "half", 2, bytes_per_second=rate),
        Scenario("1 worker, reads throttled", "half", 1, bytes_per_second=rate / 2),
    ]
    console.print(f"a core at {efficiency:.2f} of its speed while both are busy", highlight=False)
    rows = [
        Row("speed of a core while both are busy", "share", efficiency),
        Row("first file at an address, in each process", "s", client),
    ]
    errors = []
    for scenario in (first, *scenarios):
        seconds, simulated = predict(known, scenario, sizes[scenario.folder], cores)
        outcome = base[1]
        if scenario is not first:
            runs = [_once(scenario, pages, folder / f"run-{number}") for number in range(repeats)]
            outcome = _median(runs)[1]
            for number in range(repeats):
                shutil.rmtree(folder / f"run-{number}", ignore_errors=True)
            errors.append(abs(seconds / outcome.seconds - 1))
        note = "the fit" if scenario is first else f"{seconds / outcome.seconds - 1:+.1%}"
        if outcome.deaths:
            note += f", {outcome.deaths} death"
        console.print(f"{scenario.name}: {seconds:.1f} s predicted, {outcome.seconds:.1f} s measured", highlight=False)
        rows.append(Row(scenario.name, "s", seconds, outcome.seconds, "measured", "", note))
        read = simulated.stage("ingest").seconds
        rows.append(Row("  ingest of it", "s", read, outcome.stages["ingest"], "measured"))
    rows.append(Row("largest error of the runs not seen", "%", 100 * max(errors), 20.0, "wanted, at most"))
    return rows


def _once(scenario: Scenario, pages: Path, workspace: Path) -> tuple[int, Outcome]:
    return int(workspace.name.rpartition("-")[2]), run_scenario(scenario, pages, workspace)


def _median(runs: Sequence[tuple[int, Outcome]]) -> tuple[int, Outcome]:
    return sorted(runs, key=lambda run: run[1].seconds)[(len(runs) - 1) // 2]


def _sizes(folder: Path) -> list[float]:
    return [float(file.stat().st_size) for file in sorted(folder.iterdir())]


def _arguments() -> argparse.Namespace:
    options = parser(__doc__ or "")
    options.add_argument("--megabytes", type=float, default=24.0, help="text in all")
    options.add_argument("--repeats", type=int, default=3, help="runs of each, of which the median counts")
    options.add_argument("--folder", type=Path, help="where temporary files go")
    options.add_argument("--work", help=argparse.SUPPRESS)
    return options.parse_args()


if __name__ == "__main__":
    main()
