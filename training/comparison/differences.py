"""Differences of variants from a reference, with intervals over seeds and documents.

A difference in bits per byte varies for two reasons that have nothing to do with the variant: the seed of the training
and the choice of the held-out documents. Few seeds make a bootstrap over them too narrow (with three it sees at most
ten samples), so the seeds go through an analysis of variance, as in a randomised block design (Fisher 1935): the
residual of variant and seed over all variants is the error of one training, and Student's t keeps the intervals honest.
The documents are many and go through a bootstrap within their sources, whose shares are not chance. Both variances add
up (crossed random effects, as in Owen 2007, "The pigeonhole bootstrap"), with the degrees of freedom of Satterthwaite
(1946). Several comparisons share the error level evenly (Bonferroni), so that intervals and verdicts say the same.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from training.comparison.scores import Floats, Held, Scores, resampled, strata_of

OVERALL = ""
"""The group of all documents, where sources have their names."""
Verdict = Literal["better", "worse", "none", "chance", "too_few"]
"""Of a variant beside the reference: lower bits per byte; higher; no difference shown; one that is significant but no
larger than that of two equal variants; too few documents to say."""


@dataclass(frozen=True)
class Settings:
    """How sure a difference must be."""

    level: float = 0.95
    """That all intervals of a family (all variants; all variants and sources) hold at once."""
    resamples: int = 1000
    seed: int = 1
    documents: int = 8
    """Fewer held-out documents of a source say nothing about it."""


@dataclass(frozen=True)
class Difference:
    """A variant minus the reference, in bits per byte, over a group of documents."""

    variant: str
    group: str
    """A source, or "" for all documents; a metric of `compare_metrics`."""
    documents: int
    seeds: int
    """Pairs of trainings behind it."""
    value: float
    """Bits per byte of the variant, the mean over its seeds."""
    reference: float
    difference: float
    low: float
    high: float
    p: float
    """Corrected for the number of comparisons in the family."""
    seeds_error: float
    """Standard error of the difference that comes from the seeds; that from the documents."""
    documents_error: float
    freedom: float
    verdict: Verdict

    def as_json(self) -> dict[str, Any]:
        """As JSON values; what is no number is null."""
        return {
            name: None if isinstance(value, float) and not np.isfinite(value) else value
            for name, value in asdict(self).items()
        }


def compare(
    held: Held,
    variants: Mapping[str, Scores],
    reference: str,
    control: Scores | None = None,
    settings: Settings = Settings(),
) -> list[Difference]:
    """Compare every variant with the reference: over all documents, then over those of each source.

    Seeds are paired: only those that both have count. `control` is the reference under other seeds; a verdict must
    exceed what the two differ by over the same documents. Raises ValueError where there is no other variant, a variant
    shares fewer than two seeds with the reference, or a score is not finite.
    """
    others = [name for name in variants if name != reference]
    if not others:
        raise ValueError(f"nothing to compare with {reference!r}")
    for name in others:
        shared = _shared(variants[name], variants[reference])
        if len(shared) < 2:
            raise ValueError(
                f"variant {name!r} shares {len(shared)} finished seeds with {reference!r}; a difference needs two, to "
                "know what chance does"
            )
    for name, scores in variants.items():
        if not all(np.isfinite(nats).all() for nats in scores.nats.values()):
            raise ValueError(f"variant {name!r} has scores that are no numbers")
    sources = sorted(set(held.sources.tolist()))
    found = _family(held, variants, reference, others, [OVERALL], control, settings)
    return found + _family(held, variants, reference, others, sources, control, settings)


def same(held: Held, first: Scores, second: Scores, name: str, settings: Settings = Settings()) -> Difference:
    """Compare two equal variants, whose seeds have nothing to do with each other: second minus first, all documents.

    A two-sample comparison (pooled variance), at the level itself, not corrected: what it calls different is different
    by chance alone. Raises ValueError where either has fewer than two seeds.
    """
    if min(len(first.nats), len(second.nats)) < 2:
        raise ValueError(f"{name}: two equal variants need two finished seeds each")
    a, b = (np.array(list(scores.bits_per_byte(held).values())) for scores in (first, second))
    freedom = len(a) + len(b) - 2
    pooled = (((a - a.mean()) ** 2).sum() + ((b - b.mean()) ** 2).sum()) / freedom
    seeds_variance = float(pooled * (1 / len(a) + 1 / len(b)))
    means = np.stack([np.mean(list(scores.nats.values()), axis=0) for scores in (first, second)])
    documents_error, documents_freedom = _documents_error(means, held, np.arange(len(held.text_bytes)), settings)
    return _difference(
        (name, OVERALL, len(held.text_bytes), min(len(a), len(b))),
        (float(b.mean()), float(a.mean())),
        (seeds_variance, freedom, documents_error, documents_freedom),
        1,
        settings,
    )


def compare_metrics(
    values: Mapping[str, Mapping[str, Mapping[int, float]]],
    errors: Mapping[str, Mapping[str, float]],
    reference: str,
    lower_is_better: Callable[[str], bool],
    settings: Settings = Settings(),
    control: str | None = None,
) -> list[Difference]:
    """Compare every variant with the reference on metrics that are one number a training, such as a task's accuracy.

    `values` by metric, variant and seed; `errors` by metric and variant the standard error that comes from the items,
    taken as independent between variants, which makes intervals wide rather than narrow. `group` of a difference is the
    metric, and all metrics and variants are one family. A variant that shares fewer than two seeds with the reference
    is left out. `control` names the one that is the reference under other seeds; where both have two seeds, a verdict
    must exceed what it differs by on the same metric.
    """
    found = []
    pairs = [
        (metric, name)
        for metric, rows in values.items()
        for name in rows
        if name != reference and len(set(rows[name]) & set(rows.get(reference, {}))) > 1
    ]
    for metric, name in pairs:
        rows = values[metric]
        seeds = sorted(set(rows[name]) & set(rows[reference]))
        residual, freedom = _residual(list(rows.values()))
        items_error = float(np.hypot(errors[metric].get(name, 0.0), errors[metric].get(reference, 0.0)))
        mine, theirs = (float(np.mean([rows[one][seed] for seed in seeds])) for one in (name, reference))
        what, variances = (name, metric, 0, len(seeds)), (2 * residual / len(seeds), freedom, items_error, np.inf)
        chance = _apart(rows.get(control, {}), rows[reference]) if control is not None else 0.0
        is_lower = lower_is_better(metric)
        found.append(_difference(what, (mine, theirs), variances, len(pairs), settings, chance, is_lower))
    return found


def _family(
    held: Held,
    variants: Mapping[str, Scores],
    reference: str,
    others: Sequence[str],
    groups: Sequence[str],
    control: Scores | None,
    settings: Settings,
) -> list[Difference]:
    chosen = {group: held.of(group) if group != OVERALL else np.arange(len(held.text_bytes)) for group in groups}
    enough = {group for group in groups if len(chosen[group]) >= settings.documents or group == OVERALL}
    comparisons = max(1, len(others) * len(enough))
    found = []
    for group in groups:
        documents = chosen[group]
        bits = {name: scores.bits_per_byte(held, documents) for name, scores in variants.items()}
        residual, freedom = _residual(list(bits.values()))
        chance = 0.0 if control is None else _apart(control.bits_per_byte(held, documents), bits[reference])
        for name in others:
            seeds = _shared(variants[name], variants[reference])
            mine, theirs = (float(np.mean([bits[one][seed] for seed in seeds])) for one in (name, reference))
            means = np.stack([variants[one].matrix(seeds)[:, documents].mean(0) for one in (reference, name)])
            documents_error, documents_freedom = _documents_error(means, held, documents, settings)
            one = _difference(
                (name, group, len(documents), len(seeds)),
                (mine, theirs),
                (2 * residual / len(seeds), freedom, documents_error, documents_freedom),
                comparisons,
                settings,
                chance,
            )
            found.append(one if group in enough else _too_few(one))
    return found


def _residual(bits: Sequence[Mapping[int, float]]) -> tuple[float, int]:
    """Mean square of what variant and seed do not explain, and its degrees of freedom.

    Cells may be missing. A seed that only one variant has explains itself and adds nothing.
    """
    seeds = sorted({seed for row in bits for seed in row})
    cells = [(place, seeds.index(seed), value) for place, row in enumerate(bits) for seed, value in row.items()]
    design = np.zeros((len(cells), len(bits) + len(seeds)))
    for index, (variant, seed, _) in enumerate(cells):
        design[index, variant] = design[index, len(bits) + seed] = 1.0
    values = np.array([value for *_, value in cells])
    # Centred first: the residual of numbers near 2 that differ in the third digit.
    values = values - values.mean()
    solution, _, rank, _ = np.linalg.lstsq(design, values, rcond=None)
    freedom = len(cells) - int(rank)
    return float(((values - design @ solution) ** 2).sum() / freedom) if freedom else 0.0, freedom


def _apart(control: Mapping[int, float], reference: Mapping[int, float]) -> float:
    """By how much the means of two equal variants differ; 0 where either has fewer than two seeds."""
    if min(len(control), len(reference)) < 2:
        return 0.0
    return abs(float(np.mean(list(control.values()))) - float(np.mean(list(reference.values()))))


def _documents_error(means: Floats, held: Held, documents: NDArray[np.int64], settings: Settings) -> tuple[float, int]:
    """Standard error of the difference of two rows of nats (2, D) that comes from the choice of the documents.

    And its degrees of freedom: one less than documents for each source.
    """
    if len(documents) < 2:
        return 0.0, 0
    generator = np.random.default_rng(settings.seed)
    strata = strata_of(held.sources[documents], settings.documents)
    drawn = resampled(means, held.text_bytes[documents], settings.resamples, generator, strata)
    differences = drawn[:, 1] - drawn[:, 0]
    differences = differences[np.isfinite(differences)]  # documents without text alone have no bits per byte
    error = float(differences.std(ddof=1)) if len(differences) > 1 else 0.0
    return error, len(documents) - len(strata)


def _difference(
    what: tuple[str, str, int, int],
    means: tuple[float, float],
    errors: tuple[float, int, float, float],
    comparisons: int,
    settings: Settings,
    chance: float = 0.0,
    lower_is_better: bool = True,
) -> Difference:
    """`chance` is what two equal variants differ by in the same place."""
    from scipy import stats

    variant, group, documents, seeds = what
    seeds_variance, freedom_seeds, documents_error, freedom_documents = errors
    difference = means[0] - means[1]
    documents_variance = documents_error**2
    variance = seeds_variance + documents_variance
    spread = seeds_variance**2 / max(1, freedom_seeds) + documents_variance**2 / max(1, freedom_documents)
    freedom = variance**2 / spread if spread > 0 else float(max(1, freedom_seeds))
    error = float(np.sqrt(variance))
    half = float(stats.t.ppf(1 - (1 - settings.level) / (2 * comparisons), freedom)) * error
    # Without any error the trainings are the same ones: nothing is known of chance, and nothing differs.
    single = 2 * float(stats.t.sf(abs(difference) / error, freedom)) if error > 0 else float(difference == 0)
    verdict: Verdict = "none"
    if abs(difference) > half:
        verdict = "better" if (difference < 0) == lower_is_better else "worse"
        if abs(difference) <= chance:
            verdict = "chance"
    return Difference(
        variant,
        group,
        documents,
        seeds,
        means[0],
        means[1],
        difference,
        difference - half,
        difference + half,
        min(1.0, single * comparisons),
        float(np.sqrt(seeds_variance)),
        documents_error,
        freedom,
        verdict,
    )


def _too_few(one: Difference) -> Difference:
    unknown = {"low": np.nan, "high": np.nan, "p": np.nan, "verdict": "too_few"}
    return Difference(**{**asdict(one), **unknown})


def _shared(first: Scores, second: Scores) -> list[int]:
    return sorted(set(first.nats) & set(second.nats))
