from __future__ import annotations

import json
import random
from dataclasses import replace
from pathlib import Path

import pytest
from typer.testing import CliRunner

from flows.cli import app
from flows.internet.measured import MeasuredRun, MeasuredUnit, fit_rate, measure
from flows.internet.plan import calibrate, measured_run, plan_corpus
from flows.internet.recipe import load_corpus_recipe
from flows.internet.workload import Input, Scale, works
from flows.plan import make_plan
from flows.recipe import RecipeError
from pipeline.costs import account
from pipeline.execution import run_stage
from pipeline.stage import CORPUS_STAGES
from tests.flows import tiny

DROPPED = ("classify", "marks", "filter", "execution")


@pytest.fixture(scope="module")
def workspace(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A workspace with the corpus of a small run, and its record."""
    folder = tmp_path_factory.mktemp("internet")
    tiny.write_corpus(folder / "corpus", documents=24)
    recipe = {key: value for key, value in tiny.recipe(folder / "corpus").items() if key not in DROPPED}
    recipe["ingest"]["unit_bytes"] = 8_000
    recipe["deduplicate"] = {}
    recipe["perplexity_model"]["minimum_words"] = 10**9  # no language has so many: a stage without units
    plan = make_plan(recipe, str(folder / "workspace"))
    for name in (name for name in CORPUS_STAGES if name in plan.stages):
        run_stage(plan.stages[name], plan.store, workers=0)
    plan.write_record(state="partial")
    return folder / "workspace"


@pytest.fixture(scope="module")
def run(workspace: Path) -> MeasuredRun:
    return measured_run(load_corpus_recipe("common-crawl"), str(workspace))


def test_the_fit_finds_fixed_rate_and_warm_up() -> None:
    def unit(size: float, first: bool = False) -> MeasuredUnit:
        seconds = 0.2 + 3e-6 * size + (1.5 if first else 0.0)
        return MeasuredUnit(size, seconds, 2 * seconds, first, size)

    units = [unit(2e5, first=True), *(unit(size) for size in (1e5, 3e5, 5e5, 7e5))]
    rate = fit_rate(units, wall=True)
    assert (rate.fixed, rate.per_byte, rate.warm) == (
        pytest.approx(0.2),
        pytest.approx(3e-6),
        pytest.approx(1.5),
    )
    assert fit_rate(units).warm == pytest.approx(3.0)
    alone = fit_rate([unit(1e6, first=True)], wall=True)
    assert (alone.fixed, alone.warm) == (0.0, 0.0)
    assert alone.seconds(2e6) == pytest.approx(2 * (0.2 + 3.0 + 1.5))
    with pytest.raises(ValueError, match="no unit"):
        fit_rate([])


def test_units_of_one_size_tell_a_rate_that_larger_ones_are_charged_by() -> None:
    chance = random.Random(2)

    def unit(size: float, first: bool = False) -> MeasuredUnit:
        seconds = 1e-6 * size * chance.uniform(0.9, 1.1) + (0.5 if first else 0.0)
        return MeasuredUnit(size, seconds, seconds, first, size)

    units = [unit(32e6, first=True), *(unit(32e6) for _ in range(30)), MeasuredUnit(5e6, 20.0, 20.0, False, 5e6)]
    rate = fit_rate(units)
    assert rate.seconds(1024e6) == pytest.approx(1024.0, rel=0.05)


def test_candidates_count_the_text_once_and_are_charged_by_all_of_it(run: MeasuredRun) -> None:
    text = run.text_bytes
    units = tuple(MeasuredUnit(text if at == 0 else 0.0, 2.0, 2.0, at == 0, 0.0) for at in range(14))
    stages = {**run.stages, "candidates": replace(run.stages["candidates"], units=units)}
    given = Input([1e6], 100 * text, 100 * run.documents)
    work = next(work for work in works(replace(run, stages=stages), given, Scale()) if work.name == "candidates")
    assert 100 < work.total("core_seconds") / (14 * 2.0) < 300  # n log n


def test_a_run_tells_units_bytes_and_documents(run: MeasuredRun, workspace: Path) -> None:
    assert [*run.stages] == [name for name in CORPUS_STAGES if name in run.stages]
    ingest, tokenize = run.stages["ingest"], run.stages["tokenize"]
    assert len(ingest.units) > 4
    assert "none is of format warc" in run.sources
    assert sum(unit.first for unit in ingest.units) == 1
    assert run.documents == ingest.read
    assert tokenize.written_bytes > 2 * run.tokens  # two bytes a token, and an index
    files = [*(workspace / "store/signatures").rglob("signatures/*.parquet")]
    assert run.stages["signatures"].written_bytes >= sum(file.stat().st_size for file in files)


def test_the_same_input_is_the_same_work_and_twice_of_it_twice(run: MeasuredRun) -> None:
    sizes = [unit.size for unit in run.stages["ingest"].units]
    same = {work.name: work for work in works(run, Input(sizes, run.text_bytes, run.documents), Scale())}
    twice = Input([*sizes, *sizes], 2 * run.text_bytes, 2 * run.documents)
    for work in works(run, twice, Scale(request_bytes=1e6)):
        stage, before = run.stages[work.name], same[work.name]
        units = before.total("core_seconds") + before.warm_seconds * sum(unit.first for unit in stage.units)
        if len(stage.units) < 4 or work.name == "ingest":
            assert units == pytest.approx(stage.core_seconds, rel=0.5, abs=0.02)
        assert before.count == len(stage.units)
        if work.name == "tokenizer":
            assert work.total("core_seconds") == pytest.approx(before.total("core_seconds"))
        elif work.name == "deduplicate":
            assert work.total("core_seconds") == pytest.approx(2 * before.total("core_seconds"))
            assert work.count == 2 * before.count
            assert work.total("write_bytes") == pytest.approx(2 * stage.written_bytes)
        elif work.name == "order":
            assert 2.0 < work.total("core_seconds") / before.total("core_seconds") < 2.5
    with pytest.raises(ValueError, match="no units"):
        works(run, Input([], 1.0, 1.0), Scale())


def test_every_stage_has_as_many_units_as_its_run_and_one_without_units_is_left_out(run: MeasuredRun) -> None:
    made = {work.name: work.count for work in works(run, Input([1e6] * 50, 4e8, 1e5), Scale())}
    assert [*made] == [name for name in run.stages if name != "perplexity_model"]
    assert run.stages["perplexity_model"].units == ()
    shards = len(run.stages["ingest"].units)
    for name, stage in run.stages.items():
        if name not in ("perplexity_model", "candidates", "tokenize"):  # by languages, documents, bytes
            assert made[name] == (50 if len(stage.units) == shards else 1), name
    assert {"overlaps", "decontaminate", "privacy", "perplexity"} <= {*made}


def test_units_put_together_are_the_same_work(run: MeasuredRun) -> None:
    given = Input([1e6] * 1000, 4e9, 1e6)
    whole, fewer = works(run, given, Scale()), works(run, given, Scale(most_units=50))
    for one, other in zip(whole, fewer, strict=True):
        assert len(other.units) <= 50
        assert other.count == one.count
        assert other.total("core_seconds") == pytest.approx(one.total("core_seconds"))


def test_a_plan_names_the_binding_limit_and_what_does_not_fit(run: MeasuredRun, workspace: Path) -> None:
    small = ["simulated_units=300", "cluster.machines=4", "cluster.cores=8", "cluster.failure_hours=1e6"]
    small.append("cluster.variation=0")
    recipe = load_corpus_recipe("common-crawl", small)
    planned = plan_corpus(recipe, run, str(workspace))
    assert planned.does_not_fit == ()
    assert planned.hours >= max(stage.limit_hours for stage in planned.stages)
    assert planned.hours == pytest.approx(sum(stage.hours for stage in planned.stages))
    assert planned.core_hours >= sum(stage.core_hours for stage in planned.stages)
    assert planned.limits[0].seconds == max(share.seconds for share in planned.limits)
    assert planned.money["cores"] == pytest.approx(planned.hours * 32 * 0.04)
    assert planned.tokens == pytest.approx(2.64e9 * 4000 * 0.56 * 0.15 / 4.4)
    ten = plan_corpus(load_corpus_recipe("common-crawl", [*small, "snapshots=10"]), run, str(workspace))
    assert ten.pages == pytest.approx(2.64e10)
    assert planned.tokens < ten.tokens < 10 * planned.tokens  # snapshots share pages
    assert any("32 bits" in told for told in ten.does_not_fit)
    assert any(told.startswith("memory: a worker of order") for told in ten.does_not_fit)


def test_faster_cores_take_fewer_core_hours_and_less_energy(run: MeasuredRun, workspace: Path) -> None:
    small = ["simulated_units=200", "cluster.machines=4", "cluster.cores=8", "cluster.failure_hours=1e9"]
    small += ["cluster.throttle_every_hours=1e9", "cluster.variation=0"]
    one, twice = (
        plan_corpus(load_corpus_recipe("common-crawl", [*small, f"cluster.core_speed={speed}"]), run, str(workspace))
        for speed in (1, 2)
    )
    assert twice.core_hours == pytest.approx(one.core_hours / 2)
    for slow, fast in zip(one.stages, twice.stages, strict=True):
        assert fast.core_hours == pytest.approx(slow.core_hours / 2)
    for planned in (one, twice):
        facts = {"seconds": planned.hours * 3600, "cpu_seconds": planned.core_hours * 3600}
        facts["peak_memory_bytes"] = 4 * 128 * 2.0**30
        known = account(facts, load_corpus_recipe("common-crawl").costs)
        assert planned.kilowatt_hours == pytest.approx(known.kilowatt_hours)
        assert planned.carbon_grams == pytest.approx(known.carbon_grams)


def test_failures_cost_the_digests_no_more_than_the_files_in_flight(run: MeasuredRun, workspace: Path) -> None:
    small = ["simulated_units=2000", "cluster.machines=2", "cluster.cores=8"]
    recipe = load_corpus_recipe("spot", [*small, "crawl.pages=1e6", "crawl.content_tebibytes=85"])
    alone = replace(run, stages={name: replace(stage, units=()) for name, stage in run.stages.items()})
    planned = plan_corpus(recipe, alone, str(workspace))
    assert planned.failures > 2
    assert planned.stages[0].hours < 1.2 * planned.stages[0].limit_hours
    assert not planned.stopped
    assert planned.does_not_fit == ()


@pytest.mark.parametrize(
    ("setting", "limit"),
    [
        ("cluster.storage_read_gigabytes=0.01", "storage reads"),
        ("cluster.storage_requests=2", "storage requests"),
        ("cluster.storage_latency_seconds=5", "driver"),
        ("cluster.network_gigabits=0.05", "network"),
        ("cluster.core_speed=0.001", "cpu"),
    ],
)
def test_the_limit_that_is_made_tight_binds_first(run: MeasuredRun, workspace: Path, setting: str, limit: str) -> None:
    calm = ["simulated_units=200", "cluster.machines=2", "cluster.cores=4", "cluster.failure_hours=1e9"]
    recipe = load_corpus_recipe("common-crawl", [*calm, "cluster.throttle_every_hours=1e9", setting])
    ingest = run.stages["ingest"]
    units = tuple(replace(unit, core_seconds=2e-8 * unit.size) for unit in ingest.units)  # on any machine
    fast = replace(run, stages={**run.stages, "ingest": replace(ingest, units=units)})
    stage = next(stage for stage in plan_corpus(recipe, fast, str(workspace)).stages if stage.name == "ingest")
    assert stage.limit == limit


def test_little_memory_means_fewer_workers(run: MeasuredRun, workspace: Path) -> None:
    heavy = replace(run.stages["ingest"], memory_bytes=20e9)
    greedy = replace(run, stages={**run.stages, "ingest": heavy})
    said = ["simulated_units=200", "cluster.machines=2", "cluster.cores=8", "cluster.core_speed=0.01"]
    said += ["cluster.failure_hours=1e9", "cluster.throttle_every_hours=1e9"]
    planned = plan_corpus(load_corpus_recipe("common-crawl", said), greedy, str(workspace))
    assert planned.workers == 6  # 128 GiB
    assert planned.stages[1].limit == "memory"


def test_the_command_prints_json_and_names_what_is_wrong(workspace: Path, tmp_path: Path) -> None:
    runner = CliRunner()
    said = ["plan", "--corpus", "--set", "simulated_units=200", "--set", "cluster.failure_hours=1e9"]
    done = runner.invoke(app, [*said, "--workspace", str(workspace), "--json"])
    assert done.exit_code == 0, done.output
    told = json.loads(done.stdout)
    assert told["binds_first"] == told["limits"][0]["limit"]
    assert told["stages"][0]["name"] == "digests"
    ten = runner.invoke(app, [*said, "--snapshots", "10", "--workspace", str(workspace), "--sources"])
    assert ten.exit_code == 2
    assert "This does not fit" in ten.output
    assert "crawl.pages" in ten.output
    nothing = runner.invoke(app, [*said, "--workspace", str(tmp_path)])
    assert nothing.exit_code == 2
    assert "--calibrate" in nothing.stderr


def test_what_calibrates_is_found_by_the_next_plan(run: MeasuredRun, workspace: Path, tmp_path: Path) -> None:
    record = json.loads(next((workspace / "runs").glob("*.json")).read_text())
    (tmp_path / "store").symlink_to(workspace / "store")  # all stages are committed
    (tmp_path / "runs").mkdir()
    older = {"recipe": record["recipe"], "updated": record["updated"] + 1e9}
    (tmp_path / "runs" / "older.json").write_text(json.dumps(older))
    base = tiny.write_recipe(tmp_path / "base.yaml", record["given"])
    asked = load_corpus_recipe("common-crawl", [f"base={base}"])
    with pytest.raises(ValueError, match="--calibrate"):
        measured_run(load_corpus_recipe("common-crawl"), str(tmp_path))
    assert calibrate(asked, str(tmp_path)) == run
    assert measured_run(load_corpus_recipe("common-crawl"), str(tmp_path)) == run
    plan = make_plan(str(base), str(tmp_path))
    assert json.loads(Path(plan.record_path).read_text())["state"] == "partial"
    plan.write_record(state="finished")
    calibrate(asked, str(tmp_path))
    assert json.loads(Path(plan.record_path).read_text())["state"] == "finished"


def test_wrong_settings_and_an_unfinished_run_are_refused(workspace: Path) -> None:
    with pytest.raises(RecipeError, match=r"crawl\.pages.*greater than 0.*-1"):
        load_corpus_recipe("common-crawl", ["crawl.pages=-1"])
    with pytest.raises(RecipeError, match="machine.*did you mean 'machines'"):
        load_corpus_recipe("common-crawl", ["cluster.machine=3"])
    with pytest.raises(RecipeError, match="common-crawl, spot"):
        load_corpus_recipe("crawl")
    record = next((workspace / "runs").glob("*.json"))
    other = make_plan(json.loads(record.read_text())["given"], str(workspace), ["deduplicate.seed=2"])
    with pytest.raises(ValueError, match="has not finished: signatures"):
        measure(other)
