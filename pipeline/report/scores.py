"""What an evaluation measured, each number beside what knows less: for the page, the terminal and the tracker."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any

from pipeline.report.formats import decimal, words

LOWER_IS_BETTER = ("loss", "perplexity", "bits_per_byte", "alignment", "uniformity")
"""How the names of such metrics end."""


@dataclass(frozen=True)
class Score:
    """A number of the model and those of its baselines."""

    name: str
    """Of the metric in the results, `masked_accuracy`; with several objectives behind the one it belongs to."""
    value: float
    baselines: Mapping[str, float] = field(default_factory=dict)
    facts: Mapping[str, Any] = field(default_factory=dict)
    """{"overall", "sources", "languages"} where it is known by group."""

    @property
    def title(self) -> str:
        """The name in words."""
        return words(self.name.replace("/", ": "))

    @property
    def lower_is_better(self) -> bool:
        """Whether a smaller number is the better one."""
        return self.name.endswith(LOWER_IS_BETTER)

    def shown(self, value: float | None = None) -> str:
        """A value of this metric as it is written; by default the model's."""
        return decimal(self.value if value is None else value, 1 if self.name.endswith("perplexity") else 3)

    def told(self) -> str:
        """The score and its baselines in a phrase."""
        against = ", ".join(f"{words(name)} {self.shown(value)}" for name, value in self.baselines.items())
        return f"{self.title} {self.shown()}" + (f" ({against})" if against else "")


def objective_scores(results: Mapping[str, Any]) -> list[Score]:
    """The metrics of the objective, the loss first; nothing for a model that only predicts from left to right."""
    measured, baselines = results.get("objective") or {}, results.get("baselines") or {}
    found = []
    for name in sorted(measured, key=lambda name: name != "loss"):
        against = {model: facts["overall"]["value"] for model, facts in baselines.get(name, {}).items()}
        found.append(Score(name, measured[name]["overall"]["value"], against, measured[name]))
    return found


def likelihood_scores(results: Mapping[str, Any], section: str) -> list[Score]:
    """Perplexity and bits per byte of the section `perplexity` or `pseudo_perplexity`, where they are known."""
    models = results.get(section) or {}
    prefix = "pseudo_" if section == "pseudo_perplexity" else ""
    found = []
    for measure in ("perplexity", "bits_per_byte"):
        values = {name: scores["overall"].get(measure) for name, scores in models.items()}
        if values.get("model") is not None:
            against = {name: value for name, value in values.items() if name != "model" and value is not None}
            found.append(Score(f"{prefix}{measure}", values["model"], against))
    return found


def task_scores(results: Mapping[str, Any]) -> Iterator[tuple[str, Score]]:
    """The name of each set of similarity, probes and choices, and the score of each encoder on it."""
    for name, encoders in (results.get("similarity") or {}).items():
        ours: dict[str, float] = {}
        others: dict[str, float] = {}
        for encoder, facts in encoders.items():
            known = others if encoder.startswith(("untrained", "bag_of_words")) else ours
            known[encoder] = facts["spearman"]
        for encoder, value in ours.items():
            other = [model for model in others if model in ("bag_of_words", f"untrained_{encoder}")]
            yield name, Score(f"spearman/{encoder}", value, {model: others[model] for model in other})
    for name, found in (results.get("probes") or {}).items():
        against = {model: facts["accuracy"] for model, facts in found["baselines"].items()}
        for encoder, facts in found["accuracy"].items():
            yield name, Score(f"probe_accuracy/{encoder}", facts["accuracy"], against)
    for name, found in (results.get("choices") or {}).items():
        yield name, Score("choice_accuracy", found["sum"]["accuracy"], found["baselines"])


def main_scores(results: Mapping[str, Any]) -> list[Score]:
    """What is said of a model that was trained on more than prediction from left to right, in a few numbers.

    The metrics that have a baseline but for losses that are part of the loss, and the (pseudo-)perplexity.
    """
    measured = objective_scores(results)
    found = [score for score in measured if score.name == "loss"]
    found += [score for score in measured if score.baselines and not score.name.endswith("loss")]
    for section in ("perplexity", "pseudo_perplexity"):
        found += likelihood_scores(results, section)[:1]
    return found
