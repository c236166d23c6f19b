"""Flow runs are called by the recipe that they run, so that a list of them tells which is which."""

from __future__ import annotations

from pathlib import Path

from prefect.runtime import flow_run


def by_recipe() -> str:
    """The name of a flow run by its parameter `recipe`: a name, a YAML file or plain values."""
    recipe = flow_run.parameters.get("recipe", "")
    name = recipe.get("name") if isinstance(recipe, dict) else Path(recipe).stem
    return str(name or flow_run.flow_name)
