"""What a training of a plan cost, whether it came to its end or not."""

from __future__ import annotations

import json
from pathlib import Path

from flows.plan import Plan
from pipeline.costs import cost_of, journal_facts


def training_cost(plan: Plan) -> dict[str, float]:
    """kilowatt_hours, carbon_grams, money and device_hours of a plan's training at the prices of its recipe.

    Of a committed one by its result, else by the last line of the journal that it left; empty where there is none.
    """
    ref = plan.refs["train"]
    if ref.is_committed:
        return cost_of(ref.committed().manifest["summary"], plan.recipe.prices)
    try:
        lines = Path(ref.path, "work", "metrics.jsonl").read_bytes().splitlines()
    except OSError:
        return {}
    for line in reversed(lines):
        try:
            return cost_of(journal_facts(json.loads(line)), plan.recipe.prices)
        except (ValueError, AttributeError, TypeError):  # cut short by a crash
            continue
    return {}
