"""The main job: from raw text to a trained, evaluated and registered model, and each of its stages as a flow.

`pretrain` runs the stage flows one after another. Each of them runs alone, too, on the committed output of the one
before: `headrace stage filter quickstart`. What is committed is never done again.
"""

from __future__ import annotations

from typing import Any

from prefect import flow, get_run_logger
from prefect.artifacts import create_link_artifact, create_markdown_artifact

from flows import tracking, training_progress
from flows.engines import task_runner, without_heartbeat
from flows.naming import by_recipe
from flows.plan import Plan, make_plan
from flows.runner import artifact_key, run_stage, stage_table
from flows.training_stages import Train
from pipeline.catalog import build as build_catalog
from pipeline.stage import CORPUS_STAGES

RecipeLike = str | dict[str, Any]
DEDUPLICATION = CORPUS_STAGES[CORPUS_STAGES.index("signatures") : CORPUS_STAGES.index("annotate")]
CURATION = CORPUS_STAGES[CORPUS_STAGES.index("annotate") : CORPUS_STAGES.index("tokenizer")]


def _run(recipe: RecipeLike, workspace: str, overrides: list[str] | None, names: tuple[str, ...]) -> Plan:
    plan = make_plan(recipe, workspace, overrides or [])
    names = tuple(name for name in names if name in plan.stages)
    for name in names:
        run_stage(plan, name)
    build_catalog(plan.workspace, plan.refs, plan.known, plan.recipe.prices)
    stage_table(plan, names)
    return plan


@flow(name="ingest", flow_run_name="ingest")
def ingest(recipe: RecipeLike, workspace: str = "workspace", overrides: list[str] | None = None) -> None:
    """Read every source into document shards; what cannot be read goes to the ledger."""
    _run(recipe, workspace, overrides, ("ingest",))


@flow(name="deduplicate", flow_run_name="deduplicate")
def deduplicate(recipe: RecipeLike, workspace: str = "workspace", overrides: list[str] | None = None) -> None:
    """Drop exact and verified near-duplicates, naming the twin that stays."""
    _run(recipe, workspace, overrides, DEDUPLICATION)


@flow(name="filter", flow_run_name="filter")
def filter_documents(recipe: RecipeLike, workspace: str = "workspace", overrides: list[str] | None = None) -> None:
    """Measure language and quality, decide by the recipe's thresholds, mask personal data, cut evaluation sets out."""
    _run(recipe, workspace, overrides, CURATION)


@flow(name="tokenizer", flow_run_name="tokenizer")
def train_tokenizer(recipe: RecipeLike, workspace: str = "workspace", overrides: list[str] | None = None) -> None:
    """Train the tokenizer."""
    _run(recipe, workspace, overrides, ("tokenizer",))


@flow(name="tokenize", flow_run_name="tokenize")
def tokenize(recipe: RecipeLike, workspace: str = "workspace", overrides: list[str] | None = None) -> None:
    """Encode the documents into token shards, train and held-out, and mark words and sentences where that is asked."""
    _run(recipe, workspace, overrides, ("tokenize", "marks"))


@flow(name="train", flow_run_name="train")
def train(recipe: RecipeLike, workspace: str = "workspace", overrides: list[str] | None = None) -> None:
    """Pretrain the model; its metrics flow to MLflow while it runs."""
    plan = make_plan(recipe, workspace, overrides or [])
    key = artifact_key(plan.recipe.name, "training")
    with tracking.following(plan), training_progress.following(key):
        _run(recipe, workspace, overrides, ("train",))


@flow(name="evaluate", flow_run_name="evaluate")
def evaluate(recipe: RecipeLike, workspace: str = "workspace", overrides: list[str] | None = None) -> None:
    """Measure held-out perplexity and minimal pairs, beside n-gram models of the same tokens."""
    _run(recipe, workspace, overrides, ("evaluate",))


@flow(name="register", flow_run_name="register")
def register(recipe: RecipeLike, workspace: str = "workspace", overrides: list[str] | None = None) -> None:
    """Write the report, send everything to MLflow and register the best checkpoint."""
    plan = make_plan(recipe, workspace, overrides or [])
    report = tracking.write_report(plan)
    create_link_artifact(
        key=artifact_key(plan.recipe.name, "report"), link=f"file://{report}", link_text="Report of the run"
    )
    facts = tracking.register(plan, report)
    create_markdown_artifact(
        key=artifact_key(plan.recipe.name, "summary"), markdown=tracking.summary_markdown(plan, facts)
    )
    get_run_logger().info("registered models:/%s@%s", plan.recipe.model_name, plan.recipe.register_.alias)


STAGE_FLOWS = {
    "ingest": ingest,
    "deduplicate": deduplicate,
    "filter": filter_documents,
    "tokenizer": train_tokenizer,
    "tokenize": tokenize,
    "train": train,
    "evaluate": evaluate,
    "register": register,
}


@flow(name="pretrain", flow_run_name=by_recipe)
def pretrain(recipe: str = "quickstart", workspace: str = "workspace", overrides: list[str] | None = None) -> None:
    """Run a recipe from its sources to a registered model.

    `recipe` is a name or a YAML file, `workspace` the folder for everything that the run makes, `overrides` a list of
    `key=value` settings such as `train.training.steps=100`.
    """
    logger = get_run_logger()
    plan = make_plan(recipe, workspace, overrides or [])
    logger.info(
        "recipe %s in %s: stages to do: %s", plan.recipe.name, plan.workspace, ", ".join(plan.missing) or "none"
    )
    train_stage = plan.stages["train"]
    if isinstance(train_stage, Train) and "train" in plan.missing:
        train_stage.try_out()
    plan.write_record(state="running")
    # The recipe travels as values from here on: a file that changes in the meantime changes nothing.
    values = plan.recipe.given()
    try:
        with without_heartbeat():
            for stage_flow in STAGE_FLOWS.values():
                runner = task_runner(plan.recipe.execution.engine)
                stage_flow.with_options(task_runner=runner)(values, plan.workspace)
    except BaseException as error:
        plan.write_record(state="failed", error=f"{type(error).__name__}: {error}")
        raise
    plan.write_record(state="finished", registered=tracking.registered(plan))
