"""The numbers of an evaluation under the names that a tracker shows."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

_LABELS = (("sources", "source"), ("languages", "language"))


def flat_metrics(results: Mapping[str, Any]) -> dict[str, float]:
    """The main numbers of the results by name, in the manner of the trainer's validation.

    `evaluation/loss`, `evaluation/loss/source/<source>`, `evaluation/loss/baseline/unigram`,
    `evaluation/masked_accuracy/language/<language>`, `evaluation/pseudo_perplexity`,
    `evaluation/minimal_pairs/accuracy/<set>/<language>`, `evaluation/similarity/spearman/<set>/<pooling>`,
    `evaluation/probes/accuracy/<set>/<pooling>`, `evaluation/choices/accuracy/<set>`; behind these, too,
    `/baseline/<name>`. Where there is an objective beside a perplexity, `evaluation/loss` is the objective's.
    """
    named: dict[str, float | None] = {}
    for parts in (_perplexities, _objective, _minimal_pairs, _similarity, _probes, _choices):
        named.update(parts(results))
    return {f"evaluation/{name}": value for name, value in named.items() if value is not None}


def _perplexities(results: Mapping[str, Any]) -> Iterator[tuple[str, float | None]]:
    for section, prefix in (("perplexity", ""), ("pseudo_perplexity", "pseudo_")):
        for model, scores in results.get(section, {}).items():
            for measure in ("loss", "perplexity", "bits_per_byte"):
                if (prefix, measure) == ("", "loss") and "objective" in results:
                    continue
                yield from _grouped(f"{prefix}{measure}", model, scores, measure)


def _objective(results: Mapping[str, Any]) -> Iterator[tuple[str, float | None]]:
    for metric, scores in results.get("objective", {}).items():
        yield from _grouped(metric, "model", scores, "value")
    for metric, models in results.get("baselines", {}).items():
        for model, scores in models.items():
            yield from _grouped(metric, model, scores, "value")


def _grouped(name: str, model: str, scores: Mapping[str, Any], measure: str) -> Iterator[tuple[str, float | None]]:
    """A baseline's overall number, or the model's with those of its sources and languages."""
    if model != "model":
        yield f"{name}/baseline/{model}", scores["overall"][measure]
        return
    yield name, scores["overall"][measure]
    for group, label in _LABELS:
        for key, facts in scores[group].items():
            yield f"{name}/{label}/{key}", facts[measure]


def _minimal_pairs(results: Mapping[str, Any]) -> Iterator[tuple[str, float | None]]:
    for name, scores in results.get("minimal_pairs", {}).items():
        for measure in ("accuracy", "standard_error"):
            yield f"minimal_pairs/{measure}/{name}", scores["overall"][measure]
            for language, facts in scores["languages"].items():
                yield f"minimal_pairs/{measure}/{name}/{language}", facts[measure]


def _similarity(results: Mapping[str, Any]) -> Iterator[tuple[str, float | None]]:
    for name, encoders in results.get("similarity", {}).items():
        for encoder, facts in encoders.items():
            place = f"baseline/{encoder}" if encoder.startswith(("untrained", "bag_of_words")) else encoder
            for measure in ("spearman", "alignment", "uniformity"):
                yield f"similarity/{measure}/{name}/{place}", facts[measure]


def _probes(results: Mapping[str, Any]) -> Iterator[tuple[str, float | None]]:
    for name, found in results.get("probes", {}).items():
        for encoder, facts in found["accuracy"].items():
            yield f"probes/accuracy/{name}/{encoder}", facts["accuracy"]
        for baseline, facts in found["baselines"].items():
            yield f"probes/accuracy/{name}/baseline/{baseline}", facts["accuracy"]


def _choices(results: Mapping[str, Any]) -> Iterator[tuple[str, float | None]]:
    for name, found in results.get("choices", {}).items():
        yield f"choices/accuracy/{name}", found["sum"]["accuracy"]
        yield f"choices/accuracy_by_token/{name}", found["mean"]["accuracy"]
        for baseline, value in found["baselines"].items():
            yield f"choices/accuracy/{name}/baseline/{baseline}", value
