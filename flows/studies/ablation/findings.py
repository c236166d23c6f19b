"""What an ablation found: the numbers of its trainings put together, and a verdict in a sentence for each decision."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from numpy.typing import NDArray

from flows.studies.ablation.recipe import CONTROL, REFERENCE, AblationRecipe
from flows.studies.trial import Trial
from training.comparison import Difference, Held, Scores, Settings, compare, same


@dataclass(frozen=True)
class Findings:
    """The differences of all variants from the reference, and whether they may be believed."""

    overall: list[Difference]
    sources: list[Difference]
    control: Difference | None
    unheard: dict[str, str]
    """Variants that nothing can be said about, and why."""
    excluded: dict[str, str]
    """Trials that are left out, and why."""
    suite: list[Difference] = field(default_factory=list)

    @property
    def trusted(self) -> bool | None:
        """Whether two equal variants did not differ; None where that was not tried."""
        return None if self.control is None else self.control.verdict == "none"


def find(
    recipe: AblationRecipe,
    held: Held,
    trials: Sequence[Trial],
    scores: Mapping[str, NDArray[Any]],
    excluded: Mapping[str, str],
) -> Findings:
    """Compare the variants on the held-out documents; `scores` by trial: nats of each document's text (D,)."""
    arms: dict[str, Scores] = {
        arm: Scores(
            {
                int(trial.parameters["seed"]): scores[trial.name]
                for trial in trials
                if trial.parameters["variant"] == arm and trial.name in scores
            }
        )
        for arm in (REFERENCE, *(variant.name for variant in recipe.variants), CONTROL)
    }
    settings = settings_of(recipe)
    reference, again = arms[REFERENCE], arms.pop(CONTROL)
    control = None
    if min(len(reference.nats), len(again.nats)) > 1:
        control = same(held, reference, again, CONTROL, settings)
    unheard = {
        name: f"{len(set(one.nats) & set(reference.nats))} of {len(recipe.seeds)} pairs of trainings finished"
        for name, one in arms.items()
        if name != REFERENCE and len(set(one.nats) & set(reference.nats)) < 2
    }
    heard = {name: one for name, one in arms.items() if name not in unheard}
    differences = compare(held, heard, REFERENCE, again, settings) if len(heard) > 1 else []
    return Findings(
        [one for one in differences if not one.group],
        [one for one in differences if one.group],
        control,
        unheard,
        dict(excluded),
    )


def settings_of(recipe: AblationRecipe) -> Settings:
    """How sure a difference must be."""
    return Settings(recipe.level, recipe.resamples, documents=recipe.minimum_documents)


def lines(recipe: AblationRecipe, findings: Findings) -> list[str]:
    """The findings in sentences, the trust in them first."""
    found = [_trust(recipe, findings)]
    by_name = {one.variant: one for one in findings.overall}
    for variant in recipe.variants:
        if variant.name in by_name:
            found.append(_verdict(recipe, variant.tests, by_name[variant.name], findings.trusted))
        else:
            found.append(f"{variant.tests}: nothing can be said, {findings.unheard[variant.name]}.")
    for one in findings.suite:
        if one.verdict in ("better", "worse") and one.variant != CONTROL:
            found.append(f"{one.variant} is {one.verdict} on {one.group}: {_numbers(one, recipe.level, '')}.")
    found += [f"Left out: {name}, {reason.splitlines()[0]}." for name, reason in findings.excluded.items()]
    return found


def _trust(recipe: AblationRecipe, findings: Findings) -> str:
    control = findings.control
    if control is None:
        why = "its trainings did not finish" if recipe.control else "the recipe has none"
        return f"Not checked by a negative control ({why}): chance may be larger than it looks."
    numbers = _numbers(control, recipe.level)
    if findings.trusted:
        return f"The negative control holds: the reference does not differ from itself under other seeds ({numbers})."
    return (
        f"NOT TO BE TRUSTED: the reference differs from itself under other seeds ({numbers}), so no difference below "
        "proves anything. Take more seeds, longer trainings, or more held-out documents."
    )


def _verdict(recipe: AblationRecipe, decision: str, one: Difference, trusted: bool | None) -> str:
    numbers = _numbers(one, recipe.level)
    doubt = " (not to be trusted)" if trusted is False else ""
    if one.verdict == "worse":
        return f"{decision} earned its place{doubt}: {one.variant} costs {numbers}."
    if one.verdict == "better":
        return f"{decision} did not earn its place{doubt}: {one.variant} is better, {numbers}."
    if one.verdict == "chance":
        return f"{decision}: {one.variant} differs by {numbers}, no more than two equal variants do."
    smallest = (one.high - one.low) / 2
    return f"{decision}: no difference shown, {numbers}; one of {smallest:.4f} would have been."


def _numbers(one: Difference, level: float, unit: str = " bits per byte") -> str:
    return f"{one.difference:+.4f}{unit}, {level:.0%} interval {one.low:+.4f} to {one.high:+.4f}, p {one.p:.2g}"


def results(findings: Findings, trained: Mapping[str, Mapping[str, int]], tokens: int) -> dict[str, Any]:
    """The findings as JSON: metrics and tables as MLflow and Prefect take them, and all differences."""
    metrics: dict[str, float] = {}
    for one in findings.overall:
        metrics |= {
            f"bits_per_byte/{one.variant}": one.value,
            f"difference/{one.variant}": one.difference,
            f"p/{one.variant}": one.p,
        }
    if findings.overall:
        metrics[f"bits_per_byte/{REFERENCE}"] = findings.overall[0].reference
    if findings.control is not None:
        metrics |= {"control/difference": findings.control.difference, "control/p": findings.control.p}
        metrics["trusted"] = float(bool(findings.trusted))
    control = [] if findings.control is None else [findings.control]
    tables = {
        "differences": table([*findings.overall, *control], "documents"),
        "sources": table(findings.sources, "source"),
        "suite": table(findings.suite, "metric"),
        "training parts": {
            "columns": ["variant", "documents", "tokens", "epochs"],
            "rows": [
                [name, facts["documents"], facts["tokens"], round(tokens / facts["tokens"], 3)]
                for name, facts in trained.items()
            ],
        },
    }
    return {
        "metrics": metrics,
        "tables": {name: one for name, one in tables.items() if one["rows"]},
        "trusted": findings.trusted,
        "control": None if findings.control is None else findings.control.as_json(),
        "differences": [one.as_json() for one in (*findings.overall, *findings.sources)],
        "suite": [one.as_json() for one in findings.suite],
        "unheard": findings.unheard,
        "excluded": findings.excluded,
        "trained_tokens": tokens,
    }


def table(differences: Sequence[Difference], group: str) -> dict[str, Any]:
    """Differences as a table; `group` names the column of what they are over."""
    columns = ["variant", group, "value", "reference", "difference", "low", "high", "p", "verdict"]
    rows = []
    for one in differences:
        values = one.as_json()
        over = one.documents if group == "documents" else one.group
        rows.append([one.variant, over, *(values[name] for name in columns[2:])])
    return {"columns": columns, "rows": rows}
