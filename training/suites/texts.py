"""Perplexity of whole texts by a sliding window: every token once, from the begin-of-text id and what precedes it."""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np

from training.evaluation.judged import Judged
from training.evaluation.scoring import token_log_probabilities
from training.suites.cache import Cache
from training.suites.items import Item
from training.suites.likelihood import Told
from training.suites.measures import Measured, Resampling
from training.suites.statistics import bootstrap_error_of
from training.suites.task import Task

_TOGETHER = 16


def measure_perplexity(
    task: Task,
    items: Sequence[Item],
    judged: Judged,
    cache: Cache,
    how: Resampling,
    tell: Told = lambda done, of: None,
) -> Measured:
    """perplexity (of a token), word_perplexity, byte_perplexity and bits_per_byte over all texts of a task.

    Words are what spaces part, bytes those of UTF-8, as in lm-evaluation-harness; both are independent of the
    tokenizer. Raises ValueError for a text without a token, and for weights that give no finite number.
    """
    ids = judged.encode([item.answers[0] for item in items])
    sums = np.zeros(len(items))
    stride = min(task.stride or judged.context_length, judged.context_length)
    for begin in range(0, len(items), _TOGETHER):
        part = range(begin, min(begin + _TOGETHER, len(items)))
        keys = [cache.key("text", [ids[index].tolist(), stride]) for index in part]
        known = cache.find(keys)
        if len(known) < len(set(keys)):
            logs = token_log_probabilities(
                judged.model,
                [ids[index] for index in part],
                judged.begin_of_text,
                document_mask=judged.description.get("document_mask", False),
                stride=stride,
                arithmetic=judged.compute.autocast,
            )
            known = {key: float(log.astype(np.float64).sum()) for key, log in zip(keys, logs, strict=True)}
            if not np.isfinite(list(known.values())).all():
                raise ValueError(
                    f"{judged.checkpoint}: the model gives a text of {task.name} no finite probability; its weights "
                    "are damaged or its training has diverged"
                )
            cache.add(known)
        sums[begin : begin + len(part)] = [known[key] for key in keys]
        tell(part.stop, len(items))
    counts = {
        "perplexity": np.array([len(tokens) for tokens in ids]),
        "word_perplexity": np.array([len(item.answers[0].split()) for item in items]),
        "byte_perplexity": np.array([len(item.answers[0].encode()) for item in items]),
    }
    if not all(count.sum() for count in counts.values()):
        raise ValueError(f"{task.file}: holds no text")
    metrics = {name: math.exp(min(700.0, -sums.sum() / count.sum())) for name, count in counts.items()}
    sizes = counts["byte_perplexity"]
    metrics["bits_per_byte"] = float(-sums.sum() / sizes.sum() / math.log(2))
    error = bootstrap_error_of(
        lambda places: float(-sums[places].sum() / sizes[places].sum() / math.log(2)),
        len(items),
        how.resamples,
        how.seed,
    )
    records = [
        {"item": number, "log_probability": float(total), "tokens": len(tokens)}
        for number, (total, tokens) in enumerate(zip(sums, ids, strict=True))
    ]
    return Measured(metrics, {"bits_per_byte": error}, len(items), 0.0, records=records)
