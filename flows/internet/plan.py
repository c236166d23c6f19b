"""The plan for a corpus: what each stage takes on the cluster, what binds, whether it fits, and the training."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any

from flows.internet.cluster import Simulated, simulate
from flows.internet.limits import Share as LimitShare
from flows.internet.limits import binding, bounds, ranking
from flows.internet.measured import MeasuredRun, measure
from flows.internet.optimum import Optimum, optimum, scaling_fit
from flows.internet.recipe import GIB, TIB, ClusterConfig, CorpusRecipe
from flows.internet.work import Cluster, StageWork, UnitWork
from flows.internet.workload import Input, Scale, share_of_text, works
from flows.plan import make_plan, read_records
from pipeline.costs import account
from pipeline.stage import CORPUS_STAGES

DRIVER_REQUESTS_PER_UNIT = 8
"""One after another, for each unit: is there a record (plan)? Read it; is each of its files there in full (commit)?"""
MOST_DOCUMENTS = 1 << 32
"""Documents of one deduplication: it numbers them with 32 bits."""
HASH_BYTES_PER_SECOND = 1.5e9
"""SHA-256 of one core with the processor's instructions for it; the inputs' digests are taken by eight threads."""
HASH_THREADS = 8


@dataclass(frozen=True)
class StagePlan:
    """A stage of the larger corpus."""

    name: str
    units: int
    core_hours: float
    memory_bytes: float
    """Of a worker."""
    read_bytes: float
    written_bytes: float
    requests: float
    hours: float
    """Simulated."""
    limit: str
    limit_hours: float
    """What the binding limit alone would take."""


@dataclass(frozen=True)
class CorpusPlan:
    """All that `headrace plan --corpus` tells."""

    name: str
    snapshots: int
    measured_on: str
    pages: float
    text_bytes: float
    tokens: float
    stages: tuple[StagePlan, ...]
    hours: float
    core_hours: float
    rented_core_hours: float
    lost_core_hours: float
    failures: int
    stopped: int
    workers: int
    """Of a machine."""
    read_bytes: float
    written_bytes: float
    kilowatt_hours: float
    carbon_grams: float
    money: Mapping[str, float]
    currency: str
    limits: tuple[LimitShare, ...]
    does_not_fit: tuple[str, ...]
    training: Optimum
    training_money: float | None

    @property
    def total_money(self) -> float:
        """Of the corpus alone."""
        return sum(self.money.values())

    def to_dict(self) -> dict[str, Any]:
        """Everything as JSON values."""
        return asdict(self) | {"total_money": self.total_money, "binds_first": self.limits[0].limit}


def measured_run(recipe: CorpusRecipe, workspace: str) -> MeasuredRun:
    """Read the rates of the run that a recipe names, or of the newest in the workspace whose corpus is whole.

    Raises ValueError where there is none.
    """
    if recipe.base is not None:
        return measure(make_plan(recipe.base, workspace, recipe.overrides), recipe.crawl.format)
    for record in reversed(read_records(workspace)):
        if "given" not in record:
            continue  # of an older version
        try:
            plan = make_plan(record["given"], workspace, recipe.overrides)
        except ValueError:
            continue  # its sources are gone, or it is of another version
        if all(plan.refs[name].is_committed for name in CORPUS_STAGES if name in plan.refs):
            return measure(plan, recipe.crawl.format)
    raise ValueError(
        f"{workspace} holds no run whose corpus is whole, so nothing tells how fast this machine is; run headrace run "
        "quickstart, or measure with --calibrate"
    )


def calibrate(recipe: CorpusRecipe, workspace: str, workers: int = 1) -> MeasuredRun:
    """Run the corpus stages of the base recipe (quickstart) in the workspace, as far as they are missing, and measure.

    One worker at a time: then no unit waits for another. A run that has no record gets one, by which the next plan
    finds it.
    """
    from pipeline.execution import run_stage

    plan = make_plan(recipe.base or "quickstart", workspace, recipe.overrides)
    for name in (name for name in CORPUS_STAGES if name in plan.stages):
        run_stage(plan.stages[name], plan.store, workers)
    # The record of a run that went further stays: it tells how that ended.
    if not any(record.get("identity") == plan.identity and "given" in record for record in read_records(workspace)):
        plan.write_record(state="partial")
    return measure(plan, recipe.crawl.format)


def plan_corpus(recipe: CorpusRecipe, run: MeasuredRun, workspace: str) -> CorpusPlan:
    """Plan a corpus by a run's rates.

    Raises ValueError for a device that is unknown.
    """
    given, scale = _input(recipe, run), _scale(recipe)
    stages = [_digests(recipe, given), *works(run, given, scale)]
    workers, memory_told = _workers(recipe.cluster, stages)
    cluster = _cluster(recipe.cluster, workers)
    simulated = simulate(stages, cluster, recipe.seed)
    found = {stage.name: bounds(stage, cluster, workers) for stage in stages}
    limits = {name: binding(times) for name, times in found.items()}
    planned = tuple(
        _stage_plan(stage, cluster, time.seconds, limits[stage.name], found[stage.name][limits[stage.name]])
        for stage, time in zip(stages, simulated.stages, strict=True)
    )
    tokens = _tokens(recipe, run, given)
    trained = optimum(tokens, recipe.training, scaling_fit(workspace))
    price = recipe.costs.price_per_device_hour
    return CorpusPlan(
        name=recipe.name,
        snapshots=recipe.snapshots,
        measured_on=f"run {run.recipe}, ingest on {run.sources}",
        pages=given.documents,
        text_bytes=given.text_bytes,
        tokens=tokens,
        stages=planned,
        hours=simulated.seconds / 3600,
        workers=workers,
        limits=tuple(ranking(stages, simulated, limits)),
        does_not_fit=(*memory_told, *_misfits(recipe, planned, given, simulated)),
        training=trained,
        training_money=None if price is None else price * trained.device_hours,
        **_bill(recipe, planned, simulated),
    )


def _input(recipe: CorpusRecipe, run: MeasuredRun) -> Input:
    crawl, snapshots = recipe.crawl, recipe.snapshots
    stored = crawl.stored_tebibytes * TIB * snapshots
    unit = recipe.cluster.unit_mebibytes * (1 << 20)
    count = max(1, math.ceil(stored / unit))
    pages = crawl.pages * snapshots
    kept = crawl.kept_deduplicated
    if kept is not None:
        kept *= snapshots**-crawl.kept_together_exponent
    return Input(
        unit_bytes=[stored / count] * count,
        text_bytes=pages * crawl.text_bytes_per_page,
        documents=pages,
        cost=crawl.content_tebibytes / crawl.stored_tebibytes / run.expansion,
        kept_deduplicated=kept,
        kept_filtered=crawl.kept_filtered,
    )


def _scale(recipe: CorpusRecipe) -> Scale:
    cluster = recipe.cluster
    return Scale(
        wide_cores=cluster.cores,
        most_units=recipe.simulated_units,
        request_bytes=cluster.request_mebibytes * (1 << 20),
        driver_fixed=1.0,
        driver_per_unit=DRIVER_REQUESTS_PER_UNIT * cluster.storage_latency_seconds,
    )


def _digests(recipe: CorpusRecipe, given: Input) -> StageWork:
    """What comes before all stages: one process reads every input file for its SHA-256, which identifies the run."""
    # Digests are remembered as files are read, so that a machine that fails costs the files in flight: about one part.
    parts = min(recipe.simulated_units, len(given.unit_bytes))
    size = float(sum(given.unit_bytes)) / parts
    part = UnitWork(
        core_seconds=size / HASH_BYTES_PER_SECOND,
        cores=float(min(HASH_THREADS, recipe.cluster.cores)),
        requests=size / (recipe.cluster.request_mebibytes * (1 << 20)),
        read_bytes=size,
        connections=HASH_THREADS,
    )
    return StageWork("digests", (part,) * parts, unit_count=1)


def _workers(cluster: ClusterConfig, stages: Sequence[StageWork]) -> tuple[int, list[str]]:
    """Workers of a machine: one for each core, or as many as have room in its memory; and what has none at all."""
    memory = cluster.memory_gibibytes * GIB
    each = max((stage.memory_bytes for stage in stages if stage.count > 1), default=0.0)
    workers = min(cluster.cores, int(memory / each) if each else cluster.cores)
    told = [
        f"memory: a worker of {stage.name} needs {stage.memory_bytes / 1e9:,.0f} GB, a machine has "
        f"{memory / 1e9:,.0f} GB"
        for stage in stages
        if stage.memory_bytes > memory
    ]
    return max(1, workers), told


def _cluster(config: ClusterConfig, workers: int) -> Cluster:
    return Cluster(
        machines=config.machines,
        cores=config.cores,
        workers=workers,
        core_speed=config.core_speed,
        busy_efficiency=config.busy_efficiency,
        read_bytes_per_second=config.storage_read_gigabytes * 1e9,
        write_bytes_per_second=config.storage_write_gigabytes * 1e9,
        requests_per_second=config.storage_requests,
        connection_bytes_per_second=config.connection_megabytes * 1e6,
        machine_bytes_per_second=config.network_gigabits * 1e9 / 8,
        start_seconds=config.start_seconds,
        failure_hours=config.failure_hours,
        restart_seconds=config.restart_seconds,
        retries=config.retries,
        straggler_share=config.straggler_share,
        straggler_factor=config.straggler_factor,
        variation=config.variation,
        throttle_every_hours=config.throttle_every_hours,
        throttle_minutes=config.throttle_minutes,
        throttle_factor=config.throttle_factor,
    )


def _stage_plan(stage: StageWork, cluster: Cluster, seconds: float, limit: str, limit_seconds: float) -> StagePlan:
    return StagePlan(
        name=stage.name,
        units=stage.count,
        core_hours=stage.total("core_seconds") / cluster.core_speed / 3600,
        memory_bytes=stage.memory_bytes,
        read_bytes=stage.total("read_bytes"),
        written_bytes=stage.total("write_bytes"),
        requests=stage.total("requests"),
        hours=seconds / 3600,
        limit=limit,
        limit_hours=limit_seconds / 3600,
    )


def _tokens(recipe: CorpusRecipe, run: MeasuredRun, given: Input) -> float:
    text = given.text_bytes * share_of_text(run, "tokenize", given)
    measured = run.stages["tokenize"].bytes_in / max(1.0, run.tokens)
    return text / (recipe.crawl.bytes_per_token or measured)


def _misfits(recipe: CorpusRecipe, stages: Sequence[StagePlan], given: Input, simulated: Simulated) -> list[str]:
    told = []
    if simulated.endless:
        told.append(
            f"failures: a unit of {simulated.endless} takes so long that machines fail before it ends; "
            "the time is that without further failures"
        )
    written, room = sum(stage.written_bytes for stage in stages), recipe.cluster.storage_tebibytes * TIB
    if written > room:
        told.append(f"disk: the stages write {written / 1e12:,.0f} TB, there is room for {room / 1e12:,.0f} TB")
    if given.documents > MOST_DOCUMENTS:
        told.append(
            f"deduplication: it numbers documents with 32 bits, {MOST_DOCUMENTS / 1e9:.1f} billion, and here are "
            f"{given.documents / 1e9:.1f} billion; cut the corpus by language or by host and deduplicate each part"
        )
    return told


def _bill(recipe: CorpusRecipe, stages: Sequence[StagePlan], simulated: Simulated) -> dict[str, Any]:
    """Hours, bytes, energy and money. Machines are paid for while they wait, too; energy is that of busy cores."""
    cluster, costs = recipe.cluster, recipe.costs
    busy = simulated.core_seconds / cluster.core_speed  # the simulation counts those of the machine that was measured
    hours = simulated.seconds / 3600
    rented = hours * cluster.machines * cluster.cores
    read = sum(stage.read_bytes for stage in stages)
    written = sum(stage.written_bytes for stage in stages)
    crawl = recipe.crawl.stored_tebibytes * TIB * recipe.snapshots
    facts = {
        "seconds": simulated.seconds,
        "cpu_seconds": busy,
        "peak_memory_bytes": cluster.machines * cluster.memory_gibibytes * GIB,
    }
    cost = account(facts, costs)
    money = {
        "cores": rented * (costs.price_per_core_hour or 0.0),
        "energy": cost.kilowatt_hours * (costs.price_per_kwh or 0.0),
        "storage": written / 1e12 * recipe.price_per_terabyte_month * hours / 730,
        "network": 2 * crawl / 1e12 * recipe.price_per_terabyte_moved,  # for the digests, and to be read
    }
    return {
        "core_hours": busy / 3600,
        "rented_core_hours": rented,
        "lost_core_hours": simulated.lost_core_seconds / cluster.core_speed / 3600,
        "failures": simulated.failures,
        "stopped": simulated.stopped,
        "read_bytes": read,
        "written_bytes": written,
        "kilowatt_hours": cost.kilowatt_hours,
        "carbon_grams": cost.carbon_grams,
        "money": {name: value for name, value in money.items() if value},
        "currency": costs.currency,
    }
