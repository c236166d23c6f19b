"""What orchestration costs: the same stages as plain functions and as Prefect flows, each in a process of its own.

    python -m benchmarks.orchestration [--recipe quickstart] [--set train.training.steps=50] [--json FILE]
    python -m benchmarks.orchestration --trials 100

Both start from an empty workspace. The flow side includes the start of Prefect's temporary server, the tracking in
MLflow and the report, which the plain side does not have; it is timed with a fresh and with a used Prefect database.

With --trials a study of so many trainings of one step each is timed instead, from the start of its first trial to the
end of its last: what a trial costs beside its training. The peer is the same training as a process of its own
(`python -m training train`), which is what each trial would be without a worker.
"""

from __future__ import annotations

import os
import subprocess
import sys
import tempfile
import time
from importlib.metadata import version
from pathlib import Path

from benchmarks.rows import Row, parser, show
from benchmarks.trials import trial_rows

PLAIN = """
import sys
from flows.plan import make_plan
from pipeline.execution import run_stage
if __name__ == "__main__":
    recipe, workspace, *overrides = sys.argv[1:]
    plan = make_plan(recipe, workspace, overrides)
    for stage in plan.stages.values():
        run_stage(stage, plan.store)
"""


def timed(command: list[str], **environment: str) -> float:
    started = time.perf_counter()
    subprocess.run(command, check=True, stdout=subprocess.DEVNULL, env={**os.environ, **environment})
    return time.perf_counter() - started


def main() -> None:
    arguments = parser(__doc__ or "")
    arguments.add_argument("--recipe", default="quickstart")
    arguments.add_argument("--set", action="append", default=[], dest="overrides")
    arguments.add_argument("--trials", type=int, default=0, help="time a study of so many trials of one step")
    options = arguments.parse_args()
    if options.trials:
        rows = trial_rows(options.trials)
        show(rows, f"Orchestration of {options.trials} trials", options.json)
        return
    rows = []
    with tempfile.TemporaryDirectory() as folder:
        script = Path(folder, "plain.py")
        script.write_text(PLAIN)
        environment = {"PYTHONPATH": str(Path(__file__).parents[1]), "PREFECT_HOME": f"{folder}/prefect"}
        plain = timed(
            [sys.executable, str(script), options.recipe, f"{folder}/plain", *options.overrides], **environment
        )
        settings = [item for override in options.overrides for item in ("--set", override)]
        for name in ("fresh Prefect database", "used Prefect database"):
            command = [sys.executable, "-m", "flows.cli", "run", options.recipe, "--workspace", f"{folder}/{name}"]
            flow = timed([*command, *settings], **environment)
            rows.append(Row(f"whole run, {name}", "s", flow, plain, "plain functions", "this version"))
            rows.append(Row(f"overhead, {name}", "s", flow - plain, None, "prefect", version("prefect")))
            rows.append(Row(f"overhead, {name}", "% of the flow's time", 100 * (flow - plain) / flow))
    show(rows, f"Orchestration, recipe {options.recipe}", options.json)


if __name__ == "__main__":
    main()
