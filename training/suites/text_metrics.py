"""How written texts compare with references: exact match and F1 as SQuAD defines them, BLEU, chrF, ROUGE."""

from __future__ import annotations

import functools
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np

from training.evaluation.answers import UNSPACED, normalized, overlap, words
from training.suites.statistics import bootstrap_error, bootstrap_error_of

_CORPUS_RESAMPLES = 100


def f1(prediction: str, reference: str, language: str = "en") -> float:
    """F1 of the words of two normalised texts (Rajpurkar et al. 2016, section 4)."""
    return overlap(*(words(normalized(text, every_script=True), language) for text in (prediction, reference)))


def score_texts(
    names: Sequence[str],
    predictions: Sequence[str],
    references: Sequence[Sequence[str]],
    *,
    language: str = "en",
    normalize: Sequence[str] = ("whitespace",),
    resamples: int = 0,
    seed: int = 1,
) -> tuple[dict[str, float], dict[str, float | None]]:
    """Scores of predictions by name (TEXT_METRICS of task.py), and their bootstrap standard errors.

    A prediction counts by its best reference; BLEU and chrF take all at once. All lie in [0, 1], BLEU and chrF in
    [0, 100] as sacrebleu gives them. Raises ValueError where sacrebleu or rouge-score is wanted and not installed.
    """
    scores: dict[str, float] = {}
    errors: dict[str, float | None] = {}
    for name in names:
        if name in ("bleu", "chrf"):
            statistic = _corpus_metric(name, predictions, references, language)
            scores[name] = statistic(np.arange(len(predictions)))
            errors[name] = bootstrap_error_of(statistic, len(predictions), min(resamples, _CORPUS_RESAMPLES), seed)
            continue
        one = _text_metric(name, language, normalize)
        pairs = zip(predictions, references, strict=True)
        values = [max(one(text, reference) for reference in known) for text, known in pairs]
        scores[name], errors[name] = float(np.mean(values)), bootstrap_error(values, resamples, seed)
    return scores, errors


def _text_metric(name: str, language: str, normalize: Sequence[str]) -> Callable[[str, str], float]:
    if name == "exact_match":
        same = functools.partial(normalized, steps=normalize, every_script=True)
        return lambda text, reference: float(same(text) == same(reference))
    if name == "f1":
        return lambda text, reference: f1(text, reference, language)
    try:
        from rouge_score.rouge_scorer import RougeScorer
    except ImportError:
        raise ValueError(f"{name} needs the package rouge-score: pip install rouge-score") from None
    scorer = RougeScorer([name], tokenizer=_Characters() if language in UNSPACED else None)
    return lambda text, reference: float(scorer.score(reference, text)[name].fmeasure)


class _Characters:
    """What rouge-score takes for a tokenizer: its own knows Latin letters alone."""

    def tokenize(self, text: str) -> list[str]:
        return words(text, "zh")


def _corpus_metric(
    name: str, predictions: Sequence[str], references: Sequence[Sequence[str]], language: str
) -> Callable[[Any], float]:
    try:
        from sacrebleu.metrics import BLEU, CHRF
    except ImportError:
        raise ValueError(f"{name} needs the package sacrebleu: pip install sacrebleu") from None
    tokenize = "zh" if language == "zh" else "char" if language in UNSPACED else "13a"
    metric: Any = BLEU(tokenize=tokenize) if name == "bleu" else CHRF()
    most = max(len(known) for known in references)
    streams = [[known[place] if place < len(known) else None for known in references] for place in range(most)]

    def statistic(places: Any) -> float:
        taken = [predictions[place] for place in places]
        return float(metric.corpus_score(taken, [[stream[place] for place in places] for stream in streams]).score)

    return statistic
