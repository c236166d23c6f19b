"""Jobs on a finished model: what they are known by, what they refuse, and real ones in their own processes."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import pytest
import yaml
from typer.testing import CliRunner, Result

from flows.cli import app
from flows.jobs import JobPlan, closing_lines, made_facts, make_job_plan, summary
from flows.jobs_models import find_model
from flows.jobs_recipe import COMPRESSION, FINETUNING, KINDS, SUITES, load_job_recipe
from flows.jobs_report import refresh_report
from flows.jobs_stage import JobRefused
from flows.recipe import RecipeError
from pipeline.catalog import query, refresh_scores
from pipeline.execution import run_stage
from pipeline.store import file_sha256
from tests.flows.conftest import ROOT
from tests.flows.job_workspace import STEPS, make_workspace, recipes, write_data
from training.checkpoints import describe, load_model
from training.weights import weights_sha256


@pytest.fixture(scope="module")
def workspace(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A workspace with a trained model, and the files of tasks in `data`."""
    root = make_workspace(tmp_path_factory.mktemp("jobs"))
    write_data(root / "data")
    return root


def plan_of(workspace: Path, kind: str, overrides: tuple[str, ...] = (), **changes: Any) -> JobPlan:
    data = workspace / "data"
    values = {**recipes(data)[kind], **changes}
    return make_job_plan(KINDS[kind], values, str(workspace), overrides, data=str(data))


def carry_out(plan: JobPlan) -> JobPlan:
    """Run a job without Prefect."""
    run_stage(plan.stage, plan.store, workers=0)
    plan.write_record(state="finished", **made_facts(plan))
    return plan


@pytest.fixture(scope="module")
def judged(workspace: Path) -> JobPlan:
    return carry_out(plan_of(workspace, "suites"))


@pytest.fixture(scope="module")
def finetuned(workspace: Path) -> JobPlan:
    return carry_out(plan_of(workspace, "finetuning"))


def headrace(*arguments: object) -> Result:
    return CliRunner().invoke(app, [str(argument) for argument in arguments], env={"COLUMNS": "200"})


def test_every_recipe_is_valid_and_deployed() -> None:
    deployments = yaml.safe_load((ROOT / "deploy" / "prefect.yaml").read_text())["deployments"]
    deployed = {(item["entrypoint"], item["parameters"]["recipe"]) for item in deployments}
    for kind in KINDS.values():
        names = [path.stem for path in kind.recipes.glob("*.yaml")]
        assert names
        for name in names:
            assert load_job_recipe(kind, name).name == name
            assert (f"flows/jobs.py:{kind.command}", name) in deployed


def test_all_checkpoints_are_judged_and_their_scores_stand_in_the_catalog(workspace: Path, judged: JobPlan) -> None:
    results = judged.results
    weights = {step: folder / "model.safetensors" for step, folder in zip(STEPS, _folders(judged), strict=True)}
    assert [one["checkpoint"]["step"] for one in results["checkpoints"]] == list(STEPS)
    refresh_scores(workspace)
    rows = query(workspace, "FROM scores WHERE main ORDER BY step").to_pylist()
    assert [(row["model"], row["suite"], row["step"], row["task"]) for row in rows] == [
        ("tiny", "quizzes", step, "quiz") for step in STEPS
    ]
    assert [row["weights_sha256"] for row in rows] == [file_sha256(weights[step]) for step in STEPS]
    assert [row["value"] for row in rows] == [one["metrics"]["quiz/accuracy"] for one in results["checkpoints"]]
    assert {row["contamination"] for row in rows} == {"the corpus was NOT cleaned of this set"}
    assert (workspace / "cache" / "suites.sqlite").is_file()  # for other suites with the same tasks


def _folders(plan: JobPlan) -> list[Path]:
    assert plan.model.run is not None
    return list(plan.model.run.checkpoints.values())


def test_a_model_is_made_that_knows_its_parent_and_loads(workspace: Path, finetuned: JobPlan) -> None:
    made = finetuned.made
    assert made is not None
    load_model(made)
    parent = file_sha256(_folders(finetuned)[-1] / "model.safetensors")
    assert describe(made)["parent"]["sha256"] == parent == finetuned.model.sha256
    assert finetuned.done.manifest["summary"]["model_sha256"] == weights_sha256(made)
    assert [file.path for file in finetuned.done.files("metrics")] == [f"{finetuned.ref.path}/metrics/metrics.jsonl"]
    found = find_model(str(made), str(workspace))
    assert (found.name, found.run is not None) == ("books", True)  # the job's name, the run of the model behind it
    assert found.sha256 != parent
    facts = summary(finetuned)
    assert facts["made"]["checkpoint"] == str(made)
    assert any("books: accuracy" in line for line in closing_lines(finetuned))


def test_a_job_that_was_killed_ends_the_same(workspace: Path, finetuned: JobPlan, tmp_path: Path) -> None:
    elsewhere = tmp_path / "again"
    shutil.copytree(workspace, elsewhere, ignore=shutil.ignore_patterns("finetuning", "jobs"))
    plan = plan_of(elsewhere, "finetuning")
    # Nothing that says where things lie is part of the identity.
    assert plan.ref.fingerprint == finetuned.ref.fingerprint
    half = Path(plan.ref.path, "work")
    shutil.copytree(Path(finetuned.ref.path, "work"), half)
    (half / "results.json").unlink()
    carry_out(plan)
    assert plan.results["metrics"] == finetuned.results["metrics"]


def test_the_identity_is_of_content(workspace: Path, tmp_path: Path) -> None:
    first = plan_of(workspace, "finetuning")
    assert plan_of(workspace, "finetuning", execution={"threads": 2}).ref.fingerprint == first.ref.fingerprint
    assert plan_of(workspace, "finetuning", name="other").ref.fingerprint == first.ref.fingerprint
    assert plan_of(workspace, "finetuning", ("finetuning.seed=3",)).ref.fingerprint != first.ref.fingerprint
    assert plan_of(workspace, "finetuning", ("finetuning.log_every=3",)).ref.fingerprint == first.ref.fingerprint
    copied = shutil.copytree(first.model.folder, tmp_path / "copied")
    moved = write_data(tmp_path / "moved")
    values = recipes(workspace / "data")["finetuning"]
    there = make_job_plan(FINETUNING, values, str(workspace), model=str(copied), data=str(moved))
    assert there.ref.fingerprint == first.ref.fingerprint
    (moved / "train.tsv").write_text("sentence\tlabel\nother\tyes\n")
    there = make_job_plan(FINETUNING, values, str(workspace), model=str(copied), data=str(moved))
    assert there.ref.fingerprint != first.ref.fingerprint
    config = json.loads((copied / "config.json").read_text())
    (copied / "config.json").write_text(json.dumps({**config, "pooling": "mean"}))
    other = make_job_plan(FINETUNING, values, str(workspace), model=str(copied), data=str(workspace / "data"))
    assert other.ref.fingerprint != first.ref.fingerprint


def test_compression_reads_the_corpus_of_the_model(workspace: Path, tmp_path: Path) -> None:
    plan = plan_of(workspace, "compression")
    assert plan.stage.inputs["tokenize"].is_committed
    shards = plan.stage.run_config(tmp_path / "store" / "a" / "b" / "work")["data"]
    assert [(shard["split"], Path(shard["path"]).is_file()) for shard in shards] == [
        ("train", True),
        ("validation", True),
    ]
    # Of a model from elsewhere it is that of the newest run with the same tokenizer.
    foreign = shutil.copytree(plan.model.folder, tmp_path / "foreign")
    from safetensors.torch import load_file, save_file

    weights = load_file(foreign / "model.safetensors")
    save_file({name: tensor * 2 for name, tensor in weights.items()}, foreign / "model.safetensors")
    values = recipes(workspace / "data")["compression"]
    other = make_job_plan(COMPRESSION, values, str(workspace), model=str(foreign))
    assert other.model.run is None
    assert other.stage.inputs["tokenize"] == plan.stage.inputs["tokenize"]
    config = json.loads((foreign / "config.json").read_text())
    (foreign / "config.json").write_text(json.dumps({**config, "tokenizer_sha256": "0"}))
    assert "tokenize" not in make_job_plan(COMPRESSION, values, str(workspace), model=str(foreign)).stage.inputs


def test_a_model_of_transformers_is_imported_once(workspace: Path, tmp_path: Path) -> None:
    from transformers import GPT2Config, GPT2LMHeadModel

    from tests.training.small_models import tiny_tokenizer

    theirs = tmp_path / "theirs"
    sizes = {"vocab_size": 400, "n_embd": 16, "n_layer": 1, "n_head": 2, "n_positions": 32}
    GPT2LMHeadModel(GPT2Config(**sizes, bos_token_id=0, eos_token_id=0)).save_pretrained(theirs)
    tiny_tokenizer().save(str(theirs / "tokenizer.json"))
    first = find_model(str(theirs), str(workspace))
    assert first.folder.is_relative_to(workspace / "imported")
    assert (first.name, first.run) == ("theirs", None)
    before = (first.folder / "model.safetensors").stat().st_mtime_ns
    again = find_model(str(theirs), str(workspace))
    assert (again.folder, again.digest) == (first.folder, first.digest)
    assert (again.folder / "model.safetensors").stat().st_mtime_ns == before


def test_the_scores_are_shown_side_by_side(workspace: Path, judged: JobPlan) -> None:
    shown = headrace("scores", "--workspace", workspace)
    assert shown.exit_code == 0, shown.output
    assert "step 10" in shown.stdout
    assert "quiz" in shown.stdout
    rows = json.loads(headrace("scores", "--workspace", workspace, "--every-metric", "--json").stdout)
    assert {row["metric"] for row in rows} >= {"accuracy", "accuracy_normalized", "brier"}
    asked = headrace("query", "SELECT max(step) AS step FROM scores", "--workspace", workspace, "--json")
    assert json.loads(asked.stdout) == [{"step": STEPS[-1]}]
    unknown = headrace("scores", "nothing", "--workspace", workspace)
    assert (unknown.exit_code, "tasks are: quiz" in unknown.stderr) == (2, True)


def test_the_report_of_the_training_shows_the_scores_over_its_steps(workspace: Path, judged: JobPlan) -> None:
    path = refresh_report(judged.model.run, str(workspace))
    assert path == workspace / "reports" / "tiny-0123.html"
    section = path.read_text(encoding="utf-8").partition('id="suites"')[2].partition("</section>")[0]
    for text in ("quiz", "Checkpoints judged: step 10, 20.", "Over training", "NOT cleaned of this set"):
        assert text in section
    value = judged.results["metrics"]["quiz/accuracy"]
    assert f"<b>{value:.3f}</b>" in section


@pytest.mark.parametrize(
    ("kind", "overrides", "message"),
    [
        ("finetuning", ("finetuning.epoch=3",), "finetuning.epoch: unknown key; did you mean 'epochs'"),
        (
            "finetuning",
            ("finetuning.tasks.0.train=no.tsv",),
            r"tasks.0.train: there is no file no.tsv; .*--data",
        ),
        ("finetuning", ("finetuning.tasks.0.kind=poetry",), r"finetuning.tasks.0.kind: .*'poetry'"),
        ("suites", ("suites.tasks=[nowhere]",), "unknown 'nowhere'"),
        ("suites", ("suites.root=away",), "suites.root: there is no file away/quiz.jsonl"),
        ("suites", ("model_name=x",), "model_name: unknown key"),
        ("finetuning", ("every_checkpoint=true",), "every_checkpoint: unknown key"),
        ("compression", ("compression.steps=[]",), "steps must hold at least one step"),
    ],
)
def test_a_wrong_recipe_fails_before_any_work(workspace: Path, kind: str, overrides: tuple[str, ...], message: str):
    with pytest.raises(ValueError, match=message):
        plan_of(workspace, kind, overrides)


def test_what_is_missing_is_named(workspace: Path, tmp_path: Path) -> None:
    with pytest.raises(RecipeError, match="there is no recipe 'colla': neither a file nor one of .*cola"):
        load_job_recipe(FINETUNING, "colla")
    values = recipes(workspace / "data")["suites"]
    with pytest.raises(ValueError, match="holds no trained model yet"):
        make_job_plan(SUITES, values, str(tmp_path), data=str(workspace / "data"))
    with pytest.raises(ValueError, match="is no checkpoint folder"):
        make_job_plan(SUITES, values, str(workspace), model=str(tmp_path), data=str(workspace / "data"))
    copied = shutil.copytree(find_model(None, str(workspace)).folder, tmp_path / "copied")
    (copied / "model.safetensors").write_bytes((copied / "model.safetensors").read_bytes()[:-4] + b"\x00\x00\xc0\x7f")
    with pytest.raises(ValueError, match="every_checkpoint: no training in this workspace wrote"):
        make_job_plan(SUITES, values, str(workspace), model=str(copied), data=str(workspace / "data"))
    with pytest.raises(ValueError, match="local --workspace"):
        make_job_plan(SUITES, values, "s3://bucket/workspace")
    empty = headrace("scores", "--workspace", tmp_path)
    assert (empty.exit_code, "run headrace suite first" in empty.stderr) == (2, True)


def test_what_the_process_refuses_is_said_in_its_words(workspace: Path) -> None:
    """The label is outside of the set that the recipe names, which only the process finds."""
    plan = plan_of(workspace, "finetuning", ('finetuning.tasks.0.labels=["yes", "maybe"]',))
    with pytest.raises(JobRefused, match="no") as raised:
        run_stage(plan.stage, plan.store, workers=0)
    assert isinstance(raised.value, ValueError)  # exit code 2 of the command line
    assert "dev.tsv" in str(raised.value) or "train.tsv" in str(raised.value)
    assert not plan.ref.is_committed


def test_the_flows_are_found_by_their_entry_points() -> None:
    """As a worker of Prefect finds them, with the parameters that a deployment gives."""
    from prefect.flows import load_flow_from_entrypoint

    for kind in KINDS.values():
        found = load_flow_from_entrypoint(f"flows/jobs.py:{kind.command}")
        assert found.name == kind.command
        assert list(found.parameters.properties) == ["recipe", "workspace", "overrides", "model", "data"]
        assert found.parameters.required == ["recipe"]
        assert found.description is not None
        assert "`recipe` is a name" in found.description
