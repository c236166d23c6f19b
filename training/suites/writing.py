"""Generation tasks: the model writes, and what it wrote is compared with references."""

from __future__ import annotations

import re
from collections.abc import Sequence
from typing import Any, NamedTuple

from training.config.generation import GenerationConfig
from training.continuing import continues_text, sees_prefix
from training.evaluation.judged import Judged
from training.generation import Generator
from training.generation.stops import until_stop
from training.suites.cache import Cache
from training.suites.items import Item
from training.suites.likelihood import Told
from training.suites.measures import Measured, Resampling
from training.suites.task import Task
from training.suites.text_metrics import score_texts

_TOGETHER = 32
"""Prompts that are continued at once."""


class Written(NamedTuple):
    """What a model wrote."""

    texts: list[str]
    cut: int
    """Prompts that lost their beginning."""


def write_answers(
    task: Task, items: Sequence[Item], judged: Judged, cache: Cache, tell: Told = lambda done, of: None
) -> Written:
    """What a model writes after each prompt, greedily, up to a stop string or `max_new_tokens`.

    A prompt that leaves no room loses its beginning. Raises ValueError where the model continues no text, or its
    context is too short for the answers alone.
    """
    if not continues_text(judged.objective_config):
        raise ValueError(f"{task.name}: a model trained on the objective {judged.name} continues no text")
    room = judged.context_length - 1 - task.max_new_tokens
    if room < 1:
        raise ValueError(
            f"{task.name}: max_new_tokens {task.max_new_tokens} leaves no room for a prompt in a context of "
            f"{judged.context_length} tokens; lower it"
        )
    prefix = sees_prefix(judged.objective_config)
    generator = Generator(judged.model, judged.tokenizer, judged.end_of_text, judged.begin_of_text, prefix)
    settings = GenerationConfig(max_new_tokens=task.max_new_tokens, temperature=0.0, stop=task.stop)
    whole = judged.encode([item.options[0][0] for item in items])
    prompts = [ids[-room:].tolist() for ids in whole]
    order = sorted(range(len(prompts)), key=lambda index: (-len(prompts[index]), index))
    texts = [""] * len(prompts)
    for begin in range(0, len(order), _TOGETHER):
        batch = order[begin : begin + _TOGETHER]
        keys = [cache.key("written", [prompts[index], task.max_new_tokens, task.stop]) for index in batch]
        known = cache.find(keys)
        if len(known) < len(set(keys)):
            written = generator.batch([prompts[index] for index in batch], settings)
            known = dict(zip(keys, (hypotheses[0].ids for hypotheses in written), strict=True))
            cache.add(known)
        for index, key in zip(batch, keys, strict=True):
            texts[index] = "".join(until_stop(generator.decode(known[key]), task.stop))
        tell(begin + len(batch), len(order))
    return Written(texts, sum(len(ids) > room for ids in whole))


def extracted(text: str, pattern: str) -> str:
    """The last match of a pattern, its first group where it has one; the whole text without a pattern or a match."""
    found: list[Any] = list(re.finditer(pattern, text)) if pattern else []
    if not found:
        return text
    match = found[-1]
    return str(match[1] if match.re.groups else match[0])


def measure_texts(task: Task, items: Sequence[Item], texts: Sequence[str], how: Resampling) -> Measured:
    """The task's metrics of what was written."""
    answers = [extracted(text, task.extract).strip() for text in texts]
    metrics, errors = score_texts(
        task.metrics,
        answers,
        [item.references for item in items],
        language=task.language,
        normalize=task.normalize,
        resamples=how.resamples,
        seed=how.seed,
    )
    records = [
        {"item": number, "written": text, "answer": answer, "references": list(item.references)}
        for number, (item, text, answer) in enumerate(zip(items, texts, answers, strict=True))
    ]
    return Measured(metrics, errors, len(items), 0.0, records=records)
