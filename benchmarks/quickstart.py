"""The main job, timed: whole, corpus and training, with its peak memory and what the model learned.

    python -m benchmarks.quickstart [--workspace DIR] [--json FILE]

Runs `headrace run quickstart` in an empty workspace and prints the wall time of the whole, of the corpus stages and of
the training, the largest sum of memory over all of its processes, and the validation loss beside those of a unigram and
an interpolated n-gram model of the same tokens.
"""

from __future__ import annotations

import json
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import psutil

from benchmarks.rows import Row, parser, show
from flows.plan import CORPUS_STAGES, make_plan
from pipeline.store import EXECUTION, read_json


def run_measured(command: list[str]) -> tuple[float, int]:
    """Run a command; return its wall time in seconds and its peak memory in bytes, its descendants included.

    Memory is the proportional set size, so that pages shared between processes count once.
    """
    started, peak = time.perf_counter(), 0
    process = subprocess.Popen(command)
    root = psutil.Process(process.pid)
    while process.poll() is None:
        total = 0
        for member in [root, *root.children(recursive=True)]:
            try:
                total += member.memory_full_info().pss
            except psutil.Error:
                continue
        peak = max(peak, total)
        time.sleep(2.0)  # reading the page tables of every process is not free
    if process.returncode:
        raise SystemExit(f"{' '.join(command)} ended with exit code {process.returncode}")
    return time.perf_counter() - started, peak


def main() -> None:
    arguments = parser(__doc__ or "")
    arguments.add_argument(
        "--workspace", type=Path, help="an empty folder to keep the run in; by default a temporary one"
    )
    options = arguments.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        workspace = str(options.workspace or Path(folder, "workspace"))
        wall, peak = run_measured([sys.executable, "-m", "flows.cli", "run", "quickstart", "--workspace", workspace])
        plan = make_plan("quickstart", workspace)
        seconds = {name: read_json(f"{ref.path}/{EXECUTION}")["wall_seconds"] for name, ref in plan.refs.items()}
        results = json.loads(Path(plan.refs["evaluate"].committed().files("results")[0].path).read_text())
    loss = {name: scores["overall"]["loss"] for name, scores in results["perplexity"].items()}
    rows = [
        Row("whole run", "s", wall),
        Row("corpus stages", "s", sum(seconds[name] for name in CORPUS_STAGES if name in seconds)),
        Row("training", "s", seconds["train"]),
        Row("evaluation", "s", seconds["evaluate"]),
        Row("peak memory", "GiB", peak / 2**30),
        *(
            Row("validation loss", "nats/token", loss["model"], value, name)
            for name, value in loss.items()
            if name != "model"
        ),
    ]
    show(rows, "Quickstart", options.json)


if __name__ == "__main__":
    main()
