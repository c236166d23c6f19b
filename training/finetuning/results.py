"""The results of a fine-tuning: scores beside those of one who knows nothing, tables, a few lines for people."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from training.files import write_file
from training.finetuning.config import FinetuningConfig
from training.finetuning.judging import LoadedTask, judge
from training.finetuning.loop import Loop
from training.finetuning.network import Network

Scores = dict[str, dict[str, dict[str, float]]]
"""By task and split; `baseline/<split>` beside them."""


def judge_all(network: Network, tasks: Sequence[LoadedTask], artifacts: Path) -> Scores:
    """Judge the dev and test examples of all tasks; the predictions become JSON Lines files."""
    scores: Scores = {}
    for task in tasks:
        mine = scores.setdefault(task.name, {})
        for name, split in task.splits.items():
            if name == "train":
                continue
            judged = judge(network, task.kind, split)
            mine[name] = judged.metrics
            mine[f"baseline/{name}"] = task.kind.baseline(task.splits["train"].examples, split.examples)
            lines = (json.dumps(one, ensure_ascii=False) + "\n" for one in judged.predictions)
            write_file(artifacts / f"predictions-{task.name}-{name}.jsonl", "".join(lines))
    return scores


def describe_run(
    config: FinetuningConfig, loop: Loop, scores: Scores, tasks: Sequence[LoadedTask], facts: dict[str, Any]
) -> dict[str, Any]:
    """The document that becomes results.json."""
    start = facts["start"]
    return {
        "kind": "finetuning",
        "checkpoint": {
            "name": Path(facts["parent"]["checkpoint"]).name,
            "sha256": facts["parent"]["sha256"],
            "step": facts["parent"]["step"],
            "parameters": start["parameters"],
        },
        "method": config.adapter.method,
        "merged": facts["merged"],
        "precision": start["precision"],
        "parameters": {"all": start["parameters"], "trained": start["trained_parameters"]},
        "memory": facts["memory"],
        "steps": loop.step,
        "tokens": loop.tokens,
        "seconds": round(loop.seconds, 3),
        "best": loop.best,
        "metrics": _metrics(loop, scores),
        "tables": {"scores": _scores_table(scores, tasks), "history": _history_table(loop)},
        "lines": _lines(config, loop, scores, tasks, facts),
    }


def _metrics(loop: Loop, scores: Scores) -> dict[str, float]:
    flat: dict[str, float] = {}
    for task, splits in scores.items():
        main = _main(splits)
        for split, metrics in splits.items():
            for name, value in metrics.items():
                if not split.startswith("baseline/"):
                    flat[f"{task}/{split}/{name}"] = value
                if split == main:
                    flat[f"{task}/{name}"] = value
                elif split == f"baseline/{main}":
                    flat[f"{task}/baseline/{name}"] = value
    if loop.best is not None:
        flat["dev/score"] = loop.best["score"]
    return flat


def _main(splits: dict[str, dict[str, float]]) -> str:
    return "test" if "test" in splits else "dev"


def _scores_table(scores: Scores, tasks: Sequence[LoadedTask]) -> dict[str, Any]:
    counts = {(task.name, name): len(split.examples) for task in tasks for name, split in task.splits.items()}
    rows = [
        [task, split, name, value, splits[f"baseline/{split}"].get(name), counts[task, split]]
        for task, splits in scores.items()
        for split, metrics in splits.items()
        if not split.startswith("baseline/")
        for name, value in metrics.items()
    ]
    return {"columns": ["task", "split", "metric", "value", "baseline", "examples"], "rows": rows}


def _history_table(loop: Loop) -> dict[str, Any]:
    rows = [
        [entry["step"], entry["epoch"], task, name, value]
        for entry in loop.history
        for task, metrics in entry["metrics"].items()
        for name, value in metrics.items()
    ]
    return {"columns": ["step", "epoch", "task", "metric", "value"], "rows": rows}


def _lines(
    config: FinetuningConfig, loop: Loop, scores: Scores, tasks: Sequence[LoadedTask], facts: dict[str, Any]
) -> list[str]:
    lines = []
    for task in tasks:
        splits = scores[task.name]
        split = _main(splits)
        if split not in splits:
            continue
        base = splits[f"baseline/{split}"]
        shown = ", ".join(
            f"{name} {splits[split][name]:.4f}" + (f" (baseline {base[name]:.4f})" if name in base else "")
            for name in task.config.judged_by
        )
        lines.append(f"{task.name}: {shown} on {len(task.splits[split].examples):,} {split} examples")
    start = facts["start"]
    share = start["trained_parameters"] / start["parameters"]
    lines.append(
        f"{config.adapter.method}: {start['trained_parameters']:,} of {start['parameters']:,} parameters trained "
        f"({share:.2%}) in {loop.step:,} steps, {loop.seconds:.0f} s"
    )
    if loop.best is not None and config.keep == "best":
        lines.append(
            f"kept: the weights of step {loop.best['step']:,} of {loop.steps:,} (epoch {loop.best['epoch']:g})"
        )
    return lines
