"""One evaluation of one checkpoint: held-out text beside n-gram models of the same tokens, minimal pairs, samples."""

from __future__ import annotations

import functools
import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

import numpy as np
import torch
from numpy.typing import NDArray

from training.checkpoints import describe, load_model
from training.config import Shard, from_dict
from training.evaluation.minimal_pairs import Pair, evaluate_pairs, read_pairs
from training.evaluation.ngram import NgramModel
from training.evaluation.perplexity import read_shard, score_shards
from training.evaluation.scoring import token_log_probabilities
from training.evaluation.templates import LANGUAGES, template_pairs
from training.generation import DEFAULT_PROMPTS, Generator, SamplingConfig, as_dicts, end_of_text_id, load_tokenizer

TEMPLATES = "templates:"
Report = Callable[[dict[str, Any]], None]


@dataclass(frozen=True)
class EvaluationRun:
    """All that `python -m training.evaluation CONFIG.json` needs."""

    checkpoint: str
    """Checkpoint folder."""
    data: list[Shard]
    """Validation shards, one for each source and language, are scored; train shards feed the n-gram models."""
    output: str
    """The results.json to write."""
    device: Literal["auto", "cpu", "cuda"] = "auto"
    threads: int = 0
    """CPU threads of `python -m training.evaluation`; 0 takes one for each core that the process may use."""
    stride: int | None = None
    """Tokens between the ends of two windows; by default half the context, so that no later token sees less of it."""
    ngram_order: int = 3
    """Order of the interpolated n-gram model; 0 leaves the n-gram models out."""
    train_windows: str | None = None
    """.npy file (windows, 2) of [start, length] into the train shards laid end to end: what the model was trained on.
    By default the n-gram models count every train token, which makes them the stronger."""
    minimal_pairs: list[str] = field(default_factory=lambda: [f"{TEMPLATES}{language}" for language in LANGUAGES])
    """`templates:<language>` or a JSONL file of BLiMP's form."""
    pairs_per_phenomenon: int = 100
    """Pairs that each template makes, and the most that are taken of each phenomenon of a file; 0: all of a file."""
    prompts: list[str] = field(default_factory=lambda: list(DEFAULT_PROMPTS))
    """Beginnings of the sample generations."""
    sample_tokens: int = 60
    temperature: float = 0.8
    top_k: int = 50
    top_p: float = 1.0
    seed: int = 1

    def __post_init__(self) -> None:
        for name, least in (("threads", 0), ("ngram_order", 0), ("pairs_per_phenomenon", 0)):
            if getattr(self, name) < least:
                raise ValueError(f"{name} must be at least {least}, got {getattr(self, name)}")
        if self.stride is not None and self.stride < 1:
            raise ValueError(f"stride must be at least 1, got {self.stride}")
        for name in self.minimal_pairs:
            language = name.removeprefix(TEMPLATES)
            if name.startswith(TEMPLATES) and language not in LANGUAGES:
                raise ValueError(f"minimal_pairs: no templates for {language!r}; there are {', '.join(LANGUAGES)}")
        _ = self.sampling

    @property
    def sampling(self) -> SamplingConfig:
        """How the samples are drawn."""
        return SamplingConfig(self.sample_tokens, self.temperature, self.top_k, self.top_p, self.seed)

    def shards(self, split: str) -> list[Shard]:
        """The shards of one split that hold tokens, in their given order."""
        return [shard for shard in self.data if shard.split == split and shard.tokens]


def run(config: Mapping[str, Any], report: Report = lambda event: None) -> dict[str, Any]:
    """Evaluate a checkpoint, write `config["output"]` and return the results.

    config: `EvaluationRun` as a dict. `report` is told of each part as it is done. The results:

        checkpoint     name, step, parameters
        evaluation     context_length, stride
        perplexity     model, unigram, <n>-gram: each {"overall", "sources", "languages"}, see score_shards
        ngram          order, counted_tokens, trained_tokens (positions the model was trained on), distinct n-grams
        minimal_pairs  "templates" and the name of each file: {"overall", "languages", "phenomena"}
        samples        prompt, continuation, tokens, finished
        metrics        the main numbers under flat names, for a tracker

    Raises ValueError for a wrong config, an unreadable checkpoint or shard, or validation data without a token.
    """
    settings = from_dict(EvaluationRun, dict(config))
    device = _device(settings.device)
    tokenizer = load_tokenizer(settings.checkpoint)
    end_of_text = end_of_text_id(settings.checkpoint, tokenizer)
    model, _ = load_model(settings.checkpoint, device)
    validation = settings.shards("validation")
    if not validation:
        raise ValueError("data: there is no validation shard with a token in it; nothing can be evaluated")
    step = describe(settings.checkpoint).get("step")
    results: dict[str, Any] = {
        "checkpoint": {
            "name": Path(settings.checkpoint).name,
            "step": step,
            "parameters": model.parameters_count(),
        }
    }
    parts = _Parts(report, 4 + (settings.ngram_order > 0))

    stride = settings.stride or max(1, model.config.context_length // 2)
    results["perplexity"] = {
        "model": score_shards(
            validation, end_of_text, lambda ids: token_log_probabilities(model, ids, end_of_text, stride=stride)
        )
    }
    results["evaluation"] = {"context_length": model.config.context_length, "stride": stride}
    parts.done("perplexity", results["perplexity"]["model"]["overall"])

    if settings.ngram_order:
        results["ngram"] = _ngram_models(settings, model.vocabulary_size, end_of_text, results["perplexity"])
        parts.done("ngram", results["perplexity"][ngram_name(settings.ngram_order)]["overall"])

    results["minimal_pairs"] = {}
    generator = Generator(model, tokenizer, end_of_text)
    for name, pairs in _pair_sets(settings).items():
        results["minimal_pairs"][name] = _score_pairs(generator, pairs)
        parts.tell("minimal_pairs", {"set": name, **results["minimal_pairs"][name]["overall"]})
    parts.done("minimal_pairs", {})

    results["samples"] = as_dicts(generator.sample(settings.prompts, settings.sampling))
    parts.done("samples", {})

    results["metrics"] = flat_metrics(results)
    _write(Path(settings.output), results)
    parts.done("results", {})
    return results


def flat_metrics(results: Mapping[str, Any]) -> dict[str, float]:
    """The numbers of the results as a tracker shows them: `evaluation/<model>/<group>/<measure>`."""
    metrics: dict[str, float] = {}

    def add(name: str, value: float | None) -> None:
        if value is not None:
            metrics[name] = value

    for model, scores in results["perplexity"].items():
        prefix = "evaluation" if model == "model" else f"evaluation/{model}"
        for measure in ("loss", "perplexity", "bits_per_byte"):
            add(f"{prefix}/{measure}", scores["overall"][measure])
            if model == "model":
                for group in ("sources", "languages"):
                    for name, facts in scores[group].items():
                        add(f"{prefix}/{group[:-1]}/{name}/{measure}", facts[measure])
    for name, scores in results["minimal_pairs"].items():
        add(f"evaluation/minimal_pairs/{name}/accuracy", scores["overall"]["accuracy"])
        add(f"evaluation/minimal_pairs/{name}/standard_error", scores["overall"]["standard_error"])
        for language, facts in scores["languages"].items():
            add(f"evaluation/minimal_pairs/{name}/{language}/accuracy", facts["accuracy"])
    return metrics


class _Parts:
    """Tells the listener what is done."""

    def __init__(self, report: Report, total: int) -> None:
        self.report = report
        self.total = total
        self.step = 0

    def tell(self, part: str, facts: Mapping[str, Any]) -> None:
        self.report({"event": "progress", "step": self.step, "steps": self.total, "part": part, **facts})

    def done(self, part: str, facts: Mapping[str, Any]) -> None:
        self.step += 1
        self.tell(part, facts)


def _ngram_models(
    settings: EvaluationRun, vocabulary: int, end_of_text: int, perplexity: dict[str, Any]
) -> dict[str, Any]:
    """Fit the unigram and the n-gram model, add their scores to `perplexity` and return what they were fitted on."""
    train = settings.shards("train")
    if not train:
        raise ValueError("data: the n-gram models need train shards; add them or set ngram_order to 0")
    segments: list[NDArray[np.integer]] = [read_shard(shard) for shard in train]
    trained = sum(len(segment) for segment in segments)
    if settings.train_windows is not None:
        segments, trained = cut_windows(segments, settings.train_windows)
    facts: dict[str, Any] = {
        "order": settings.ngram_order,
        "counted_tokens": sum(len(segment) for segment in segments),
        "trained_tokens": trained,
        "distinct": {},
    }
    for order in sorted({1, settings.ngram_order}):
        name = ngram_name(order)
        ngrams = NgramModel(segments, vocabulary, order)
        perplexity[name] = score_shards(
            settings.shards("validation"), end_of_text, functools.partial(_score_ngrams, ngrams, end_of_text)
        )
        facts["distinct"][name] = ngrams.ngrams[-1]
    return facts


def _score_ngrams(
    ngrams: NgramModel, end_of_text: int, ids: Sequence[NDArray[np.integer]]
) -> list[NDArray[np.float64]]:
    return [ngrams.log_probabilities(tokens, [end_of_text]) for tokens in ids]


def ngram_name(order: int) -> str:
    """What the results call an n-gram model."""
    return "unigram" if order == 1 else f"{order}-gram"


def cut_windows(
    shards: Sequence[NDArray[np.integer]], windows_path: str | Path
) -> tuple[list[NDArray[np.integer]], int]:
    """The tokens of the windows [start, length] over the shards laid end to end, and the sum of all lengths.

    A window that was trained on twice is counted once: its repetition tells a count model nothing new. Raises
    ValueError for a file that is no such list or a window that leaves the tokens.
    """
    try:
        windows = np.load(windows_path, allow_pickle=False)
    except (OSError, ValueError) as error:
        raise ValueError(f"{windows_path}: not a .npy file of windows: {error}") from None
    stream = np.concatenate(shards)
    if windows.ndim != 2 or windows.shape[1] != 2 or windows.dtype.kind not in "iu":
        raise ValueError(
            f"{windows_path}: expected integers of shape (windows, 2), got {windows.dtype} {windows.shape}"
        )
    windows = windows.astype(np.int64)
    if len(windows) and (windows.min() < 0 or windows.sum(axis=1).max() > len(stream)):
        raise ValueError(f"{windows_path}: a window lies outside the {len(stream)} train tokens")
    return [stream[start : start + length] for start, length in np.unique(windows, axis=0)], int(windows[:, 1].sum())


def _pair_sets(settings: EvaluationRun) -> dict[str, list[Pair]]:
    """The pairs by the name of their set; all own templates are one set."""
    limit = settings.pairs_per_phenomenon or None
    sets: dict[str, list[Pair]] = {}
    languages = [name.removeprefix(TEMPLATES) for name in settings.minimal_pairs if name.startswith(TEMPLATES)]
    if languages and limit:
        sets["templates"] = template_pairs(languages, limit)
    for name in settings.minimal_pairs:
        if not name.startswith(TEMPLATES):
            sets[Path(name).name.partition(".")[0]] = read_pairs(name, limit=limit)
    return sets


def _score_pairs(generator: Generator, pairs: Sequence[Pair]) -> dict[str, Any]:
    return evaluate_pairs(
        pairs,
        lambda sentences: [
            np.array(encoding.ids, dtype=np.int64)
            for encoding in generator.tokenizer.encode_batch(sentences, add_special_tokens=False)
        ],
        lambda ids: token_log_probabilities(generator.model, ids, generator.end_of_text),
    )


def _device(name: str) -> torch.device:
    if name == "auto":
        name = "cuda" if torch.cuda.is_available() else "cpu"
    if name == "cuda" and not torch.cuda.is_available():
        raise ValueError("device is cuda, but torch sees no CUDA device; set it to auto or cpu")
    return torch.device(name)


def _write(path: Path, results: Mapping[str, Any]) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    part = path.with_name(f".{path.name}.part")
    part.write_text(json.dumps(results, ensure_ascii=False, indent=1, allow_nan=False) + "\n", encoding="utf-8")
    part.replace(path)


__all__ = ["EvaluationRun", "cut_windows", "flat_metrics", "run"]
