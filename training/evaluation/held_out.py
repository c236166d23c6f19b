"""What an objective measures on all held-out text, and what models that know less reach on the very same targets.

Rows are made as in training and corrupted with the masks, orders or cuts of one seed, so that every evaluation of a
checkpoint sees the same. Every row of a shard counts, none by weight. The baselines:

unigram         each target from the frequencies of the training tokens, whatever stands around it; its accuracy is that
                of always saying the most frequent one. Ids that no text holds (sentinels, ends) are given their true
                share of the held-out targets.
copied          where a token to be told was not replaced by the mask, the token that stands there; elsewhere the most
                frequent one (masked objectives: a tenth of what is chosen stays as it is)
majority        the most frequent class of the held-out pairs
always_original no token was replaced
untrained       the same model with new random weights (contrastive learning)
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray

from training.config import Shard
from training.evaluation.batching import POSITIONS
from training.evaluation.judged import Judged
from training.evaluation.ngram import NgramModel
from training.loader import ValidationLoader, as_tensors, on_device
from training.models import build
from training.objectives import Batch
from training.objectives.cross_entropy import IGNORED

Floats = NDArray[np.float64]

_OF_TARGETS = {
    "causal": ("loss", None),
    "prefix": ("loss", None),
    "masked": ("masked_loss", "masked_accuracy"),
    "replaced_token": ("generator_loss", "generator_accuracy"),
    "permutation": ("loss", "permutation_accuracy"),
    "span_corruption": ("loss", "target_accuracy"),
}
"""The metrics of each objective that say how well it predicts its `targets`."""


class Measured(NamedTuple):
    """Sums and counts of a metric for each shard (S,) float64; their ratio is the metric."""

    sums: Floats
    counts: Floats


class HeldOut(NamedTuple):
    """What was measured on the shards, by the objective and by its baselines."""

    shards: list[Shard]
    metrics: dict[str, Measured]
    baselines: dict[str, dict[str, Measured]]
    """By metric, then by the baseline's name."""


def measure(judged: Judged, shards: Sequence[Shard], train: Sequence[NDArray[np.integer]]) -> HeldOut:
    """Measure the model and its baselines on all held-out rows; without `train` tokens there is no unigram baseline.

    Raises ValueError where a metric is not finite: the training has diverged.
    """
    loader = _loader(judged, shards)
    counters = _Counters(len(loader.shards), judged.model.vocabulary_size)
    metrics = _pass(judged, judged.model, loader, counters)
    for name, measured in metrics.items():
        if not np.isfinite(measured.sums).all():
            raise ValueError(f"{name} of the held-out text is not finite; the model's training has diverged")
    baselines: dict[str, dict[str, Measured]] = {}
    for prefix, one in _parts(judged):
        found = _of_labels(prefix, _label(judged, one), counters, metrics)
        if train and f"{prefix}targets" in counters.histograms and one in _OF_TARGETS:
            found |= _of_targets(prefix, one, counters, metrics, judged, train)
        baselines |= {f"{_label(judged, one)}{metric}": models for metric, models in found.items()}
    if judged.name == "contrastive":
        untrained = _pass(judged, untrained_model(judged.model, judged.seed), loader, None)
        for name, measured in untrained.items():
            baselines.setdefault(name, {})["untrained"] = measured
    return HeldOut(loader.shards, metrics, baselines)


def by_group(shards: Sequence[Shard], metrics: Mapping[str, Measured]) -> dict[str, Any]:
    """{metric: {"overall", "sources", "languages"}} of {"value", "count"}; with precision and recall also their F1.

    A group in which nothing was counted is left out.
    """
    groups = {
        "sources": np.array([shard.source for shard in shards]),
        "languages": np.array([shard.language for shard in shards]),
    }
    everything = np.ones(len(shards), dtype=bool)
    results: dict[str, Any] = {}
    for name, measured in metrics.items():
        overall = _facts(measured, everything)
        if overall is None:
            continue
        results[name] = {"overall": overall}
        for group, labels in groups.items():
            facts = {label: _facts(measured, labels == label) for label in sorted(set(labels.tolist()))}
            results[name][group] = {label: fact for label, fact in facts.items() if fact is not None}
    for name in [name for name in results if name.endswith("_recall")]:
        stem = name.removesuffix("_recall")
        results[f"{stem}_f1"] = _f1(results.get(f"{stem}_precision", {}), results[name])
    return results


def baselines_by_group(held_out: HeldOut) -> dict[str, Any]:
    """{metric: {baseline: {"overall", "sources", "languages"}}}."""
    results: dict[str, Any] = {}
    for metric, models in held_out.baselines.items():
        grouped = by_group(held_out.shards, models)
        if grouped:
            results[metric] = grouped
    return results


def unigram_log_probabilities(train: Sequence[NDArray[np.integer]], vocabulary: int) -> Floats:
    """Natural log of the probability of each token (V,), from the frequencies of the training tokens, smoothed."""
    return NgramModel(train, vocabulary, 1).log_probabilities(np.arange(vocabulary))


def _loader(judged: Judged, shards: Sequence[Shard]) -> ValidationLoader:
    form = judged.objective.form(judged.sequence_length)
    rows = sum(-(-shard.tokens // form.stride) for shard in shards)
    return ValidationLoader(shards, form, rows, judged.end_of_text)


class _Counters:
    """How often each target and each label stands in the held-out rows of each shard."""

    def __init__(self, shards: int, vocabulary: int) -> None:
        self._shards, self._vocabulary = shards, vocabulary
        self.histograms: dict[str, NDArray[np.int64]] = {}
        """By name of the tensor: `targets`, `labels`; `masked`, the targets that the mask hides; `kept`, the others
        that stand where they are to be told."""

    def add(self, batch: Batch, shard_of_row: NDArray[np.int64], mask: int | None) -> None:
        """Count what a batch asks for."""
        for name, tensor in batch.items():
            kind = name.rpartition("/")[2]
            if kind not in ("targets", "labels"):
                continue
            values = tensor.cpu().numpy().reshape(len(shard_of_row), -1)
            self._add(name, values, shard_of_row)
            positions = batch.get(name.removesuffix("targets") + "positions")
            if kind == "targets" and positions is not None and positions.ndim == 2:
                stands = batch[name.removesuffix("targets") + "inputs"].gather(1, positions).cpu().numpy()
                for what, chosen in (("masked", stands == mask), ("kept", (stands == values) & (stands != mask))):
                    self._add(name.removesuffix("targets") + what, np.where(chosen, values, IGNORED), shard_of_row)

    def _add(self, name: str, values: NDArray[np.int64], shard_of_row: NDArray[np.int64]) -> None:
        histogram = self.histograms.setdefault(name, np.zeros((self._shards, self._vocabulary), dtype=np.int64))
        asked = values != IGNORED
        for shard in np.unique(shard_of_row):
            mine = shard_of_row == shard
            histogram[shard] += np.bincount(values[mine][asked[mine]], minlength=self._vocabulary)


def _pass(judged: Judged, model: Any, loader: ValidationLoader, counters: _Counters | None) -> dict[str, Measured]:
    """All that the objective measures, by shard."""
    totals: dict[str, Measured] = {}
    size = max(1, POSITIONS.get(judged.device.type, 2048) // judged.sequence_length)
    for part in loader.batches(size):
        batch = judged.objective.prepare(on_device(as_tensors(part.rows), judged.device), training=False)
        with torch.inference_mode(), judged.compute.autocast():
            measures = judged.objective.evaluate(model, batch)
        for name, (sums_B, counts_B) in measures.items():
            total = totals.setdefault(name, Measured(*np.zeros((2, len(loader.shards)))))
            np.add.at(total.sums, part.shards, sums_B.double().cpu().numpy())
            np.add.at(total.counts, part.shards, counts_B.double().cpu().numpy())
        if counters is not None:
            counters.add(batch, part.shards, judged.special.mask)
    return totals


def _parts(judged: Judged) -> list[tuple[str, str]]:
    """What stands before the names of the tensors of each objective, and its name."""
    config = judged.objective_config
    return [(f"{index}/", one.name) for index, one in enumerate(config.all)] if config.also else [("", config.name)]


def _label(judged: Judged, objective: str) -> str:
    """What stands before the metrics of an objective: its name, where there are several."""
    return f"{objective}/" if judged.objective_config.also else ""


def _of_targets(
    prefix: str,
    objective: str,
    counters: _Counters,
    metrics: Mapping[str, Measured],
    judged: Judged,
    train: Sequence[NDArray[np.integer]],
) -> dict[str, dict[str, Measured]]:
    """The unigram model's loss and accuracy on the targets of one objective, and what copying comes to."""
    histogram_SV = counters.histograms[f"{prefix}targets"]
    log_V = _with_added_ids(unigram_log_probabilities(train, judged.model.vocabulary_size), histogram_SV, judged)
    counts_S = histogram_SV.sum(1).astype(np.float64)
    asked_V = np.where(histogram_SV.any(0), log_V, 0.0)  # minus infinity times no target would be no number
    loss, accuracy = _OF_TARGETS[objective]
    if f"{_label(judged, objective)}{loss}" not in metrics:
        loss = "loss"
    found = {loss: {"unigram": Measured(-(histogram_SV @ asked_V).astype(np.float64), counts_S)}}
    if accuracy is not None:
        most = int(log_V.argmax())
        found[accuracy] = {"unigram": Measured(histogram_SV[:, most].astype(np.float64), counts_S)}
        kept_SV = counters.histograms.get(f"{prefix}kept")
        if objective == "masked" and kept_SV is not None:
            told_S = kept_SV.sum(1) + counters.histograms[f"{prefix}masked"][:, most]
            found[accuracy]["copied"] = Measured(told_S.astype(np.float64), counts_S)
    return found


def _with_added_ids(log_V: Floats, histogram_SV: NDArray[np.int64], judged: Judged) -> Floats:
    """The unigram model with the ids that objectives put among the targets, at their share of the held-out ones."""
    added_V = np.zeros(len(log_V), dtype=bool)
    added_V[judged.tokenizer_vocabulary :] = True
    added_V[[judged.end_of_text, *(value for value in vars(judged.special).values() if value is not None)]] = True
    counts_V = histogram_SV.sum(0)
    share = float(counts_V[added_V].sum() / max(1, counts_V.sum()))
    with np.errstate(divide="ignore"):
        text_V = log_V - math.log(np.exp(log_V[~added_V]).sum()) + np.log1p(-share)
        return np.where(added_V, np.log(counts_V / max(1, counts_V.sum())), text_V)


def _of_labels(
    prefix: str, label: str, counters: _Counters, metrics: Mapping[str, Measured]
) -> dict[str, dict[str, Measured]]:
    """The most frequent class of a sentence task, and that nothing was replaced."""
    found: dict[str, dict[str, Measured]] = {}
    if f"{label}sentence_accuracy" in metrics and f"{prefix}labels" in counters.histograms:
        classes_SC = counters.histograms[f"{prefix}labels"].astype(np.float64)
        most = classes_SC[:, int(classes_SC.sum(0).argmax())]
        found["sentence_accuracy"] = {"majority": Measured(most, classes_SC.sum(1))}
    if f"{label}replaced_accuracy" in metrics:
        positions, replaced = (metrics[f"{label}replaced_{name}"].counts for name in ("accuracy", "recall"))
        found["replaced_accuracy"] = {"always_original": Measured(positions - replaced, positions)}
    return found


def untrained_model(model: Any, seed: int) -> Any:
    """A model of the same shape with random weights, in evaluation mode, on the same device."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        made = build(model.config, model.vocabulary_size)
    return made.to(next(model.parameters()).device).eval()


def _facts(measured: Measured, chosen: NDArray[np.bool_]) -> dict[str, float | int] | None:
    count = float(measured.counts[chosen].sum())
    return {"value": float(measured.sums[chosen].sum()) / count, "count": round(count)} if count else None


def _f1(precision: Mapping[str, Any], recall: Mapping[str, Any]) -> dict[str, Any]:
    """The harmonic mean of both, as often as recall is known; 0 where nothing was found."""

    def both(found: Mapping[str, Any] | None, wanted: Mapping[str, Any]) -> dict[str, Any]:
        p, r = (found or {}).get("value", 0.0), wanted["value"]
        return {"value": 2 * p * r / (p + r) if p + r else 0.0, "count": wanted["count"]}

    result: dict[str, Any] = {"overall": both(precision.get("overall"), recall["overall"])}
    for group in ("sources", "languages"):
        found = precision.get(group, {})
        result[group] = {label: both(found.get(label), facts) for label, facts in recall[group].items()}
    return result
