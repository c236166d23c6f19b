"""The main job from the command line, against a real Prefect server and a real MLflow store."""

from __future__ import annotations

import json
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest

from flows.plan import STAGES
from pipeline.catalog import query
from pipeline.store import StageRef
from tests.flows.conftest import Headrace
from tests.flows.tiny import EMAIL

pytestmark = pytest.mark.server


def api(environment: dict[str, str], route: str, body: dict[str, Any]) -> list[dict[str, Any]]:
    import urllib.request

    request = urllib.request.Request(
        f"{environment['PREFECT_API_URL']}/{route}",
        data=json.dumps(body).encode(),
        headers={"Content-Type": "application/json"},
    )
    with urllib.request.urlopen(request) as response:
        return json.load(response)


def artifacts(environment: dict[str, str], key: str) -> list[dict[str, Any]]:
    """Those of all runs on the server."""
    return api(environment, "artifacts/filter", {"artifacts": {"key": {"any_": [key]}}, "limit": 200})


def test_every_stage_is_committed_and_its_files_match_their_digests(finished: Path):
    manifests = sorted((finished / "store").glob("*/*/manifest.json"))
    assert {path.parent.parent.name for path in manifests} == set(STAGES)
    for path in manifests:
        ref = StageRef(path.parent.parent.name, path.parent.name, str(path.parent))
        assert ref.committed().verify() == []


def test_no_document_is_lost(finished: Path):
    rows = {row["stage"]: row for row in query(finished, "FROM funnel").to_pylist()}
    assert rows["ingest"]["read"] == 158
    assert rows["ingest"]["rejected"] == 2
    for stage in ("ingest", "deduplicate", "filter", "privacy", "decontaminate", "tokenize"):
        assert rows[stage]["read"] == rows[stage]["kept"] + rows[stage]["dropped"]
    assert rows["deduplicate"]["read"] == rows["ingest"]["kept"]
    assert rows["filter"]["read"] == rows["deduplicate"]["kept"]
    assert rows["privacy"]["read"] == rows["filter"]["kept"]
    assert rows["decontaminate"]["read"] == rows["privacy"]["kept"]
    assert rows["tokenize"]["read"] == rows["decontaminate"]["kept"]
    dropped = query(finished, "SELECT count(DISTINCT id) AS n FROM ledger WHERE action = 'dropped'").to_pylist()
    assert dropped[0]["n"] + rows["tokenize"]["kept"] == rows["ingest"]["read"]


def test_prefect_knows_every_stage_and_which_units_its_tasks_worked_on(
    finished: Path, prefect_environment: dict[str, str]
):
    flows = {flow["name"] for flow in api(prefect_environment, "flows/filter", {})}
    assert {"pretrain", "ingest", "deduplicate", "filter", "tokenizer", "tokenize", "train", "evaluate"} <= flows
    assert "tiny" in {run["name"] for run in api(prefect_environment, "flow_runs/filter", {})}  # by its recipe
    wanted = {"task_runs": {"name": {"like_": "ingest units"}}, "limit": 200}
    names = [run["name"] for run in api(prefect_environment, "task_runs/filter", wanted)]
    assert any(name.startswith("ingest units 0 to ") and "english" in name for name in names), names
    assert any(
        item["data"].startswith("[Report of the run](file://") for item in artifacts(prefect_environment, "tiny-report")
    )
    progress = artifacts(prefect_environment, "tiny-ingest")
    assert {item["type"] for item in progress} == {"progress"}
    assert 100.0 in [item["data"] for item in progress]  # of a run that was killed it is less
    tables = [json.loads(item["data"]) for item in artifacts(prefect_environment, "tiny-filter-counts")]
    curated = ["annotate", "classify", "perplexity_model", "perplexity", "filter", "privacy", "overlaps"]
    # Other tests run recipes of this name with fewer stages at the same server.
    whole = [table for table in tables if [row["stage"] for row in table] == [*curated, "decontaminate"]]
    assert any(table[4]["dropped"] == 2 for table in whole)


def test_mlflow_holds_the_run_its_dataset_metrics_checkpoints_and_the_model(finished: Path):
    from mlflow import MlflowClient

    client = MlflowClient(tracking_uri=f"sqlite:///{finished / 'mlflow.db'}")
    (experiment,) = [item for item in client.search_experiments() if item.name == "headrace"]
    (run,) = client.search_runs([experiment.experiment_id])
    assert run.info.status == "FINISHED"
    assert run.data.params["train.training.steps"] == "30"
    (dataset,) = run.inputs.dataset_inputs
    tokenize = next((finished / "store" / "tokenize").iterdir()).name
    assert dataset.dataset.digest.startswith(tokenize)
    assert json.loads(dataset.dataset.profile)["documents"] == 154
    steps = [metric.step for metric in client.get_metric_history(run.info.run_id, "train/loss")]
    assert steps == [5, 10, 15, 20, 25, 30]
    for name in ("train/learning_rate", "train/gradient_norm", "train/tokens_per_second", "evaluation/bits_per_byte"):
        assert client.get_metric_history(run.info.run_id, name), name
    models = client.search_logged_models([experiment.experiment_id])
    assert models
    version = client.get_model_version_by_alias("tiny", "best")
    best = next(model for model in models if model.model_id in version.source)
    assert any(metric.key == "validation/loss" for metric in best.metrics)
    names = {item.path for item in client.list_artifacts(run.info.run_id)}
    assert {"recipe.yaml", "lineage.json", "results.json", "samples"} <= names
    assert any(name.endswith(".html") for name in names)


def test_costs_are_in_the_catalog_in_mlflow_and_foreseen_for_what_is_to_be_done_again(
    finished: Path, tiny_recipe: Path
):
    from mlflow import MlflowClient

    from flows.costs.planned import forecasts
    from flows.plan import make_plan

    rows = query(finished, "FROM costs").to_pylist()
    assert [row["stage"] for row in rows] == list(STAGES)
    assert all(row["seconds"] > 0 and row["kilowatt_hours"] > 0 and row["forecast_seconds"] is None for row in rows)
    assert [row["stage"] for row in rows if row["device_hours"]] == ["train"]
    client = MlflowClient(tracking_uri=f"sqlite:///{finished / 'mlflow.db'}")
    (experiment,) = [item for item in client.search_experiments() if item.name == "headrace"]
    (run,) = client.search_runs([experiment.experiment_id])
    metrics = run.data.metrics
    assert metrics["cost/kilowatt_hours"] == pytest.approx(sum(row["kilowatt_hours"] for row in rows))
    assert metrics["cost/train/carbon_grams"] == pytest.approx(481 * rows[-2]["kilowatt_hours"])
    assert "cost/money" not in metrics  # the recipe names no price
    plan = make_plan(str(tiny_recipe), str(finished), ["filter.gopher_quality.minimum_words=60"])
    foreseen = forecasts(plan, None, plan.recipe.prices, measured=False)
    assert [stage.name for stage in foreseen] == plan.missing
    assert all(stage.cost is not None and stage.cost.kilowatt_hours > 0 for stage in foreseen)


def test_the_registered_model_loads_back_and_generates(finished: Path, prefect_environment: dict[str, str]):
    # In a process of its own: MLflow's tracking URI is global.
    script = "import mlflow; print(mlflow.pyfunc.load_model('models:/tiny@best').predict(['The river'])[0])"
    environment = {**prefect_environment, "MLFLOW_TRACKING_URI": f"sqlite:///{finished / 'mlflow.db'}"}
    done = subprocess.run(
        [sys.executable, "-c", script], env=environment, capture_output=True, text=True, timeout=120, check=False
    )
    assert done.returncode == 0, done.stderr
    assert done.stdout.strip()


def test_generate_is_the_same_for_the_same_seed(finished: Path, headrace: Headrace):
    arguments = ("generate", "The river", "--workspace", str(finished), "--tokens", "12", "--json")
    first, second = headrace(*arguments), headrace(*arguments, "--model", "models:/tiny@best")
    assert first.returncode == 0, first.stderr
    assert second.returncode == 0, second.stderr
    assert json.loads(first.stdout)["continuation"] == json.loads(second.stdout)["continuation"] != ""


def test_a_second_run_does_nothing_and_says_so(finished: Path, tiny_recipe: Path, headrace: Headrace):
    before = {path: path.stat().st_mtime_ns for path in finished.rglob("*") if path.is_file()}
    # A server that is down would fail the run if anything were to be done.
    again = headrace("run", str(tiny_recipe), "-w", str(finished), PREFECT_API_URL="http://127.0.0.1:9/api")
    assert again.returncode == 0, again.stderr
    assert "Nothing to do" in again.stdout
    assert before == {path: path.stat().st_mtime_ns for path in finished.rglob("*") if path.is_file()}
    as_json = headrace("run", str(tiny_recipe), "-w", str(finished), "--json")
    assert json.loads(as_json.stdout)["state"] == "nothing to do"


def test_a_changed_threshold_redoes_only_what_follows_it(finished: Path, tiny_recipe: Path, headrace: Headrace):
    from flows.plan import make_plan

    plan = make_plan(str(tiny_recipe), str(finished), ["filter.gopher_quality.minimum_words=60"])
    assert plan.missing == list(STAGES[STAGES.index("filter") :])


def test_personal_data_and_evaluation_items_are_gone(finished: Path):
    assert query(
        finished, "SELECT count(*) AS n FROM ingested WHERE contains(text, $$" + EMAIL + "$$)"
    ).to_pylist() == [{"n": 1}]
    (masked,) = query(finished, "SELECT * FROM ledger WHERE stage = 'privacy'").to_pylist()
    assert (masked["rule"], masked["detail"], masked["source"]) == ("privacy.masked", '{"email": 1}', "notes")
    (text,) = query(finished, f"SELECT text FROM documents WHERE id = '{masked['id']}'").to_pylist()
    assert EMAIL not in text["text"]
    assert "The writer answers letters to <EMAIL> within a week." in text["text"]
    for path in (finished / "store").glob("*/*/ledger/*.parquet"):
        assert EMAIL.encode() not in path.read_bytes()
    (quiz,) = query(finished, "FROM benchmarks WHERE benchmark = 'quiz'").to_pylist()
    assert (quiz["benchmark"], quiz["items"], quiz["found"], quiz["documents"]) == ("quiz", 2, 1, 1)
    (match,) = query(finished, "FROM contamination").to_pylist()
    (held,) = query(finished, f"SELECT text FROM ingested WHERE id = '{match['id']}'").to_pylist()
    (left,) = query(finished, f"SELECT text FROM documents WHERE id = '{match['id']}'").to_pylist()
    spotted = held["text"].encode()[match["begin"] : match["end"]].decode()
    assert spotted not in left["text"]
    assert len(left["text"]) > 200


def test_scores_are_marked_where_the_corpus_was_not_cleaned_of_their_set(finished: Path):
    from mlflow import MlflowClient

    client = MlflowClient(tracking_uri=f"sqlite:///{finished / 'mlflow.db'}")
    (experiment,) = [item for item in client.search_experiments() if item.name == "headrace"]
    (run,) = client.search_runs([experiment.experiment_id])
    assert run.data.tags["headrace.contamination.templates"].startswith("WARNING: the corpus was not cleaned of")
    assert run.data.tags["headrace.contamination.quiz_pairs"] == (
        "cleaned: 0 of 1 items that can be looked for were found (rule gpt3) and removed"
    )
    assert run.data.metrics["evaluation/cleaned/templates"] == 0
    assert run.data.metrics["evaluation/cleaned/quiz_pairs"] == 1
    assert "evaluation/minimal_pairs/accuracy/quiz_pairs" in run.data.metrics


def test_a_simulation_writes_nothing_and_needs_no_recipe(finished: Path, tiny_recipe: Path, headrace: Headrace):
    before = {path: path.stat().st_mtime_ns for path in finished.rglob("*") if path.is_file()}
    change = ("--set", "filter.gopher_quality.minimum_words=160", "-w", str(finished))
    found = json.loads(headrace("simulate", *change, "--json").stdout)
    assert found == json.loads(headrace("simulate", str(tiny_recipe), *change, "--json").stdout)
    assert found["measured_documents"] == 0
    assert found["documents"] == 156
    dropped = sum(change["newly_dropped"] for change in found["changes"])
    counted = query(
        finished,
        "SELECT count(*) AS n FROM signals WHERE words < 160 AND language NOT IN ('zh', 'und') "
        "AND id NOT IN (SELECT id FROM ledger WHERE stage = 'filter' AND action = 'dropped')",
    ).to_pylist()
    assert dropped == counted[0]["n"] > 0
    told = headrace("simulate", *change)
    assert told.returncode == 0, told.stderr
    assert "gopher_quality.minimum_words" in told.stdout
    assert "No document was measured again" in told.stdout
    assert before == {path: path.stat().st_mtime_ns for path in finished.rglob("*") if path.is_file()}
    wrong = headrace("simulate", "--set", "annotate.language_bytes=512", "-w", str(finished))
    assert wrong.returncode == 2
    assert "changes what the stage 'annotate' writes" in wrong.stderr.replace("\n", " ")


def test_funnel_query_and_explain(finished: Path, headrace: Headrace):
    workspace = ("-w", str(finished))
    funnel = json.loads(headrace("funnel", *workspace, "--json").stdout)
    assert {row["rule"] for row in funnel["rules"]} >= {"near_duplicate", "exact_duplicate", "broken_record"}
    rows = json.loads(headrace("query", "SELECT language, documents FROM languages", *workspace, "--json").stdout)
    assert {row["language"] for row in rows} >= {"en", "zh", "es"}
    (gone,) = query(finished, "SELECT id, twin FROM ledger WHERE rule = 'near_duplicate'").to_pylist()
    explained = json.loads(headrace("explain", gone["id"][:10], *workspace, "--json").stdout)
    assert explained["outcome"] == {"kept": False, "stage": "deduplicate", "rule": "near_duplicate"}
    assert explained["duplicate"]["twin"] == gone["twin"]
    shown = headrace("explain", gone["id"], *workspace)
    assert shown.returncode == 0, shown.stderr
    assert "dropped by deduplicate, rule near_duplicate" in shown.stdout
    kept = headrace("explain", "https://example.org/3", *workspace)
    assert "kept to the end" in kept.stdout
    assert "Every rule of the filter" in kept.stdout
    wrong = headrace("query", "SELECT nothing FROM nowhere", *workspace)
    assert wrong.returncode == 2
    assert "nowhere" in wrong.stderr


def test_a_stage_runs_alone_and_asks_for_its_input(tiny_recipe: Path, tmp_path: Path, headrace: Headrace):
    early = headrace("stage", "deduplicate", str(tiny_recipe), "-w", str(tmp_path))
    assert early.returncode == 2
    assert "stage 'ingest' has no committed output" in early.stderr
    first = headrace("stage", "ingest", str(tiny_recipe), "-w", str(tmp_path), "--json")
    assert first.returncode == 0, first.stderr
    assert json.loads(first.stdout)["missing"][0] == "signatures"
    unknown = headrace("stage", "ingst", str(tiny_recipe), "-w", str(tmp_path))
    assert unknown.returncode == 2
    assert "there is no stage 'ingst'" in unknown.stderr


def test_two_runs_at_once_share_the_work(tiny_recipe: Path, prefect_environment: dict[str, str], tmp_path: Path):
    command = [sys.executable, "-m", "flows.cli", "run", str(tiny_recipe), "-w", str(tmp_path), "--set", "name=twice"]
    settings = {"env": prefect_environment, "text": True, "stdout": subprocess.PIPE, "stderr": subprocess.STDOUT}
    runs = [subprocess.Popen(command, **settings) for _ in range(2)]  # type: ignore[call-overload]
    outputs = [run.communicate(timeout=280)[0] for run in runs]
    assert [run.returncode for run in runs] == [0, 0], "\n".join(outputs)
    from mlflow import MlflowClient

    client = MlflowClient(tracking_uri=f"sqlite:///{tmp_path / 'mlflow.db'}")
    assert len(client.search_model_versions("name='twice'")) == 1
    for manifest in (tmp_path / "store").glob("*/*/manifest.json"):
        ref = StageRef(manifest.parent.parent.name, manifest.parent.name, str(manifest.parent))
        assert ref.committed().verify() == []


def test_help_and_version_need_no_heavy_imports(headrace: Headrace):
    started = time.monotonic()
    shown = headrace("--help")
    assert shown.returncode == 0
    assert "Exit codes" in shown.stdout
    commands = ("run", "stage", "simulate", "classifier", "funnel", "query", "explain", "generate", "doctor")
    for command in commands:
        assert command in shown.stdout
    assert time.monotonic() - started < 120  # a hang, not a speed


def test_doctor_reports_a_dead_server(headrace: Headrace, finished: Path):
    fine = headrace("doctor", "-w", str(finished), "--verify", "--json")
    findings = {check["name"]: check for check in json.loads(fine.stdout)}
    assert findings["prefect server"]["state"] == "ok"
    assert sum(name.startswith(("ingest ", "train ")) for name in findings) == 2
    dead = headrace("doctor", "-w", str(finished), "--json", MLFLOW_TRACKING_URI="http://127.0.0.1:9")
    assert dead.returncode == 1
    findings = {check["name"]: check for check in json.loads(dead.stdout)}
    assert findings["mlflow"]["state"] == "problem"
