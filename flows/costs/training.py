"""What a training of a plan cost, whether it came to its end or not."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from flows.plan import Plan
from pipeline.costs import cost_of, journal_facts


def training_cost(plan: Plan, start: Mapping[str, Any] | None = None) -> dict[str, float]:
    """kilowatt_hours, carbon_grams, money and device_hours of a plan's training at the prices of its recipe.

    Of a committed one by its result, else by the last line of the journal that it left, and the trainer's event
    `start`, which knows the devices; without that it counts as one on a CPU. Empty where there is no journal.
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
            return cost_of(journal_facts(json.loads(line), start), plan.recipe.prices)
        except (ValueError, AttributeError, TypeError):  # cut short by a crash
            continue
    return {}
