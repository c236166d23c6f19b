"""A recipe whose documents are compared with those of an earlier run, found by its name."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from flows.plan import Plan, make_plan
from pipeline.execution import run_stage
from tests.pipeline.dedup.corpora import Writer


def crawl(folder: Path, name: str, texts: list[str], **deduplicate: Any) -> dict[str, Any]:
    """A recipe over one file of texts."""
    path = folder / f"{name}.jsonl"
    path.write_text("".join(json.dumps({"text": text}) + "\n" for text in texts), encoding="utf-8")
    sources = [{"name": name, "format": "jsonl", "path": str(path)}]
    return {"name": name, "ingest": {"sources": sources}, "deduplicate": deduplicate}


def run(recipe: dict[str, Any], workspace: Path, last: str = "deduplicate") -> Plan:
    """Run the stages up to one, and leave the record that a run leaves."""
    plan = make_plan(recipe, str(workspace))
    plan.write_record()
    for name in [*plan.stages][: [*plan.stages].index(last) + 1]:
        run_stage(plan.stages[name], plan.store, 0)
    return plan


def kept(plan: Plan) -> list[str]:
    files = plan.refs["deduplicate"].committed().files("documents")
    return [text for file in files for text in file.table(["text"])["text"].to_pylist()]


@pytest.fixture(scope="module")
def texts() -> list[str]:
    writer = Writer(1)
    return [" ".join(writer.write(60)) for _ in range(6)]


def test_a_chain_of_recipes(tmp_path: Path, texts: list[str]):
    first = run(crawl(tmp_path, "first", texts[:3]), tmp_path)
    assert kept(first) == texts[:3]
    longer = f"{texts[0]} and a few words more"
    second = run(crawl(tmp_path, "second", [longer, texts[3], texts[1]], against={"recipe": "first"}), tmp_path)
    assert kept(second) == [texts[3]]  # what was kept before stays, though the longer one would be preferred
    third = crawl(tmp_path, "third", [texts[3], texts[2], texts[4]], against={"recipe": "second"})
    assert kept(run(third, tmp_path)) == [texts[4]]
    elsewhere = {**third, "deduplicate": {"against": {"recipe": "second", "workspace": str(tmp_path)}}}
    other = run(elsewhere, tmp_path / "other")
    assert kept(other) == [texts[4]]
    assert other.refs["duplicates"].fingerprint == make_plan(third, str(tmp_path)).refs["duplicates"].fingerprint


def test_the_newest_run_of_the_recipe_counts(tmp_path: Path, texts: list[str]):
    run(crawl(tmp_path, "first", texts[:1]), tmp_path)
    recipe = crawl(tmp_path, "second", texts[:2], against={"recipe": "first"})
    assert kept(run(recipe, tmp_path)) == texts[1:2]
    run(crawl(tmp_path, "first", texts[1:2]), tmp_path)
    assert kept(run(recipe, tmp_path)) == texts[:1]


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"against": {"recipe": "zeroth"}}, r"recipe 'zeroth' in .* has never run; runs there are of: begun, first"),
        ({"against": {"recipe": "begun"}}, "recipe 'begun' .*has not finished its stage 'duplicates'; run it first"),
        ({"against": {"recipe": "second"}}, "is this run itself"),
        ({"against": {"recipe": "first"}, "rows": 4}, "was made with .*rows 8.* have .*rows 4"),
        ({"against": {"recipe": "first"}, "within": "source"}, "within"),
        ({"against": {"recipe": "first", "path": "x"}}, "path"),
    ],
)
def test_what_cannot_be_compared_is_refused_before_any_work(
    tmp_path: Path, texts: list[str], settings: dict[str, Any], message: str
):
    run(crawl(tmp_path, "first", texts[:1]), tmp_path)
    run(crawl(tmp_path, "begun", texts[1:2]), tmp_path, last="ingest")
    with pytest.raises(ValueError, match=message):
        make_plan(crawl(tmp_path, "second", texts, **settings), str(tmp_path))
