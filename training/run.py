"""One run from its config to result.json: the parts are chosen and put together here."""

from __future__ import annotations

import contextlib
import fcntl
import json
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import IO, Any

from training import checkpoints, devices, objectives
from training.callbacks import Callback, journal, samples
from training.callbacks.checkpointing import Checkpointing, best_of
from training.callbacks.energy import Energy, meter_of
from training.callbacks.evaluation import Evaluation
from training.callbacks.guard import Guard
from training.callbacks.journal import Journal
from training.callbacks.progress import Progress
from training.callbacks.samples import Samples
from training.callbacks.statistics import Statistics
from training.callbacks.training_metrics import TrainingMetrics
from training.config import TrainingRun
from training.devices import Compute, peak_memory_bytes
from training.distributed import World
from training.events import Reporter
from training.files import write_file
from training.loader import ValidationLoader, check_shards
from training.trainer import Stopped, Trainer, setting_of
from training.watchdog import Watchdog

PATIENCE_SECONDS = 75.0
"""How long a training waits for another one in its folder: what is left of a run that was killed writes its checkpoint
and ends within the 60 s of grace that it has, and goes on only in this one."""
_LOOK_SECONDS = 0.2


def train(run: TrainingRun, on_trainer: Callable[[Trainer], None] = lambda trainer: None) -> dict[str, Any]:
    """Train a run to its end, from its newest checkpoint if there is one, and return the content of its result.json.

    In several processes (torchrun) each calls this; the main one writes. `on_trainer` gets the trainer before the first
    step, so that a signal handler can stop it. Raises ValueError for what the user must change, and as `Trainer.fit`
    does.
    """
    world = World.from_environment()
    compute = devices.resolve(run.training, world)
    report = Reporter(enabled=world.is_main)
    output_dir = Path(run.output_dir)
    result_path = output_dir / "result.json"
    with contextlib.ExitStack() as stack:
        if world.is_main:
            stack.enter_context(sole_owner(output_dir, PATIENCE_SECONDS, report))
            check_shards(run)
        stack.enter_context(world.joined(compute.device))
        guard = run.training.guard
        stalls = output_dir / ("stalls.log" if world.is_main else f"stalls-{world.rank}.log")
        watchdog = stack.enter_context(Watchdog(guard.stall_minutes, stalls, guard.stall_ends, report))
        energy = Energy(stack.enter_context(meter_of(compute.device, world)))
        trainer = Trainer(run, world, compute, report, _callbacks(run, world, output_dir, energy), watchdog)
        with watchdog.paused():
            trainer.resume()
        if trainer.step == run.training.steps and result_path.exists():
            document: dict[str, Any] = json.loads(result_path.read_text())
            report("finished", **document)
            return document
        if run.training.device_batch_size == "auto" and compute.device.type == "cuda" and world.size == 1:
            trainer.fit_device_batch()
        on_trainer(trainer)
        planned = _planned(run, world, compute, report) if compute.device.type == "cuda" else {}
        report(
            "start",
            parameters=trainer.model.parameters_count(),
            flops_per_token=trainer.flops_per_token,
            train_tokens=trainer.loader.tokens,
            run_tokens=run.training.steps * trainer.tokens_per_step,
            device=str(compute.device),
            precision=compute.precision,
            threads=compute.threads,
            processes=world.size,
            device_batch_size=trainer.device_batch_size,
            **planned,
        )
        try:
            trainer.fit()
        except Stopped:
            report("stopped", step=trainer.step, steps=run.training.steps)
            raise
        document = result(trainer) | energy.facts(trainer) | planned
        if world.is_main:
            write_file(result_path, json.dumps(document, indent=2) + "\n")
        report("finished", **document)
        return document


def _planned(run: TrainingRun, world: World, compute: Compute, report: Reporter) -> dict[str, Any]:
    """What `headrace plan` says of memory and time, to be seen beside what is measured; a guess must stop no run."""
    if not world.is_main:
        return {}
    from training.planning import plan
    from training.planning.devices import this_device

    try:
        planned = plan(run, this_device("cuda"), world.size)
    except Exception as error:
        report("warning", message=f"memory and time could not be planned: {error!r}")
        return {}
    if not planned.fits:
        report("warning", message=f"by plan this needs {planned.memory.total:,} bytes, more than the device has")
    facts: dict[str, Any] = {"planned_memory_bytes": planned.memory.total}
    return facts if planned.hours is None else facts | {"planned_seconds": round(3600 * planned.hours, 3)}


def _callbacks(run: TrainingRun, world: World, output_dir: Path, energy: Energy) -> list[Callback]:
    """In their order: what measures, what judges that, what writes the journal, and only then the checkpoint.

    `energy` stands behind all that computes, so that it counts that, too.
    """
    training = run.training
    windows = training.evaluation_batches * training.batch_size
    form = objectives.build(run.objective, setting_of(run)).form(run.sequence_length)
    validation = ValidationLoader(run.shards("validation"), form, windows, run.end_of_text)
    metrics = TrainingMetrics()
    return [
        metrics,
        Guard(training.guard, metrics),
        Statistics(),
        Evaluation(validation),
        Samples(output_dir / samples.FILE_NAME),
        energy,
        *([Journal(output_dir / journal.FILE_NAME), Progress()] if world.is_main else []),
        Checkpointing(output_dir / "checkpoints"),
    ]


def result(trainer: Trainer) -> dict[str, Any]:
    """What the run came to, from its last and its best checkpoint."""
    folder = Path(trainer.run.output_dir) / "checkpoints"
    last = checkpoints.list_checkpoints(folder)[-1]
    metrics = checkpoints.describe(last)["metrics"]
    best = best_of(folder) or last
    return {
        "step": trainer.step,
        "tokens": trainer.tokens,
        "seconds": round(trainer.seconds, 3),
        "metrics": metrics,
        "checkpoint": str(last),
        "best_checkpoint": str(best),
        "parameters": trainer.model.parameters_count(),
        "flops_per_token": trainer.flops_per_token,
        "skipped_steps": trainer.skipped_steps,
        "rollbacks": trainer.rollbacks,
        "peak_memory_bytes": peak_memory_bytes(trainer.compute.device),
        "device": str(trainer.compute.device),
        "precision": trainer.compute.precision,
        "threads": trainer.compute.threads,
        "processes": trainer.world.size,
    }


@contextlib.contextmanager
def sole_owner(
    output_dir: Path, patience_seconds: float = 0.0, report: Callable[..., None] = lambda event, **facts: None
) -> Iterator[None]:
    """Hold a folder for this process; `report` hears once that another one trains there and is waited for.

    Raises ValueError when that one has not ended after `patience_seconds`, or the folder cannot be written.
    """
    try:
        output_dir.mkdir(parents=True, exist_ok=True)
        file = (output_dir / ".lock").open("w")
    except OSError as error:
        raise ValueError(f"output_dir {output_dir}: cannot be written: {error.strerror}") from None
    with file:
        deadline = time.monotonic() + patience_seconds
        waits = False
        while not _locked(file):
            if time.monotonic() >= deadline:
                raise ValueError(f"output_dir {output_dir}: another process is training there; wait for it")
            if not waits:
                waits = True
                message = f"another process is training in {output_dir}; waiting up to {patience_seconds:.0f} s for it"
                report("warning", message=message, reason="waiting")
            time.sleep(_LOOK_SECONDS)
        yield


def _locked(file: IO[str]) -> bool:
    """Whether the lock of a file is this process's now."""
    try:
        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError:
        return False
    return True
