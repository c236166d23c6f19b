"""One evaluation of one checkpoint: held-out text beside n-gram models of the same tokens, minimal pairs, samples."""

from __future__ import annotations

import functools
import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

import numpy as np
from numpy.typing import NDArray

from training.checkpoints import describe, load_model
from training.config import Shard, TrainingConfig, from_dict
from training.devices import resolve
from training.distributed import World
from training.evaluation.minimal_pairs import Pair, evaluate_pairs, read_pairs
from training.evaluation.ngram import NgramModel
from training.evaluation.perplexity import read_shard, score_shards
from training.evaluation.scoring import token_log_probabilities
from training.evaluation.templates import LANGUAGES, template_pairs
from training.generation import DEFAULT_PROMPTS, Generator, as_dicts, begin_of_text_id, end_of_text_id, load_tokenizer
from training.loader import TrainLoader
from training.sampling import SamplingConfig

if TYPE_CHECKING:
    from tokenizers import Tokenizer

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
    precision: Literal["auto", "fp32", "bf16"] = "auto"
    """Arithmetic of the trunk, as in training: bf16 where the device is built for it. The head computes in float32."""
    threads: int = 0
    """CPU threads; 0 takes one for each core that the process may use."""
    stride: int | None = None
    """Tokens between the ends of two windows; by default the context length, so that each token is computed once, as in
    the trainer's validation. A smaller one gives every token more context: the loss is lower, the work as much more."""
    ngram_order: int = 3
    """Order of the interpolated n-gram model; 0 leaves the n-gram models out."""
    ngram_tokens: Literal["all", "trained"] = "all"
    """What the n-gram models count: all train tokens, which makes them the stronger, or only those that the checkpoint
    was trained on, each once."""
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

        checkpoint     name, step, trained_tokens (predictions it was trained on, repeats counted), parameters
        evaluation     context_length, stride, precision
        perplexity     model, unigram, <n>-gram: each {"overall", "sources", "languages"}, see score_shards
        ngram          order, counted (all or trained), counted_tokens, distinct n-grams by model
        minimal_pairs  "templates" and the name of each file: {"overall", "languages", "phenomena"}
        samples        prompt, continuation, tokens, finished
        metrics        the main numbers under flat names, for a tracker

    Raises ValueError for a wrong config, an unreadable checkpoint or shard, or validation data without a token.
    """
    settings = from_dict(EvaluationRun, dict(config))
    compute = resolve(
        TrainingConfig(device=settings.device, precision=settings.precision, threads=settings.threads, compile="off"),
        World(),
    )
    tokenizer = load_tokenizer(settings.checkpoint)
    end_of_text = end_of_text_id(settings.checkpoint, tokenizer)
    begin_of_text = begin_of_text_id(settings.checkpoint, end_of_text)
    model, _ = load_model(settings.checkpoint, compute.device)
    validation = settings.shards("validation")
    if not validation:
        raise ValueError("data: there is no validation shard with a token in it; nothing can be evaluated")
    description = describe(settings.checkpoint)
    stride = settings.stride or model.config.context_length
    results: dict[str, Any] = {
        "checkpoint": {
            "name": Path(settings.checkpoint).name,
            "step": description.get("step"),
            "trained_tokens": description.get("tokens"),
            "parameters": model.parameters_count(),
        },
        "evaluation": {
            "context_length": model.config.context_length,
            "stride": stride,
            "precision": compute.precision,
        },
        "perplexity": {},
    }
    parts = _Parts(report, 4 + (settings.ngram_order > 0))

    def scorer(ids: Sequence[NDArray[np.integer]]) -> list[NDArray[np.float32]]:
        return token_log_probabilities(
            model,
            ids,
            begin_of_text,
            document_mask=description.get("document_mask", False),
            stride=stride,
            arithmetic=compute.autocast,
        )

    results["perplexity"]["model"] = score_shards(validation, end_of_text, scorer)
    parts.done("perplexity", results["perplexity"]["model"]["overall"])

    if settings.ngram_order:
        results["ngram"] = _ngram_models(settings, model.vocabulary_size, end_of_text, results["perplexity"])
        parts.done("ngram", results["perplexity"][ngram_name(settings.ngram_order)]["overall"])

    results["minimal_pairs"] = {}
    generator = Generator(model, tokenizer, end_of_text, begin_of_text)
    for name, pairs in _pair_sets(settings).items():
        results["minimal_pairs"][name] = evaluate_pairs(pairs, functools.partial(_encode, tokenizer), scorer)
        parts.tell("minimal_pairs", {"set": name, **results["minimal_pairs"][name]["overall"]})
    parts.done("minimal_pairs", {})

    results["samples"] = as_dicts(generator.sample(settings.prompts, settings.sampling))
    parts.done("samples", {})

    results["metrics"] = flat_metrics(results)
    _write(Path(settings.output), results)
    parts.done("results", {})
    return results


def flat_metrics(results: Mapping[str, Any]) -> dict[str, float]:
    """The numbers of the results under the names that a tracker shows, in the manner of the trainer's validation.

    `evaluation/loss`, `evaluation/loss/source/<source>`, `evaluation/loss/baseline/unigram`,
    `evaluation/minimal_pairs/accuracy/<set>/<language>`.
    """
    metrics: dict[str, float | None] = {}
    for measure in ("loss", "perplexity", "bits_per_byte"):
        for model, scores in results["perplexity"].items():
            if model != "model":
                metrics[f"evaluation/{measure}/baseline/{model}"] = scores["overall"][measure]
                continue
            metrics[f"evaluation/{measure}"] = scores["overall"][measure]
            for group, label in (("sources", "source"), ("languages", "language")):
                for name, facts in scores[group].items():
                    metrics[f"evaluation/{measure}/{label}/{name}"] = facts[measure]
    for name, scores in results["minimal_pairs"].items():
        for measure in ("accuracy", "standard_error"):
            metrics[f"evaluation/minimal_pairs/{measure}/{name}"] = scores["overall"][measure]
            for language, facts in scores["languages"].items():
                metrics[f"evaluation/minimal_pairs/{measure}/{name}/{language}"] = facts[measure]
    return {name: value for name, value in metrics.items() if value is not None}


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
    if settings.ngram_tokens == "trained":
        segments = trained_segments(train, settings.checkpoint)
    facts: dict[str, Any] = {
        "order": settings.ngram_order,
        "counted": settings.ngram_tokens,
        "counted_tokens": sum(len(segment) for segment in segments),
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


def trained_segments(train: Sequence[Shard], checkpoint_dir: str | Path) -> list[NDArray[np.integer]]:
    """The stretches of the train shards, laid end to end, that a checkpoint has seen as input or target, each once.

    They follow from the seed, the batch and the step that its trainer.json names. Raises ValueError without one.
    """
    path = Path(checkpoint_dir) / "trainer.json"
    try:
        document = json.loads(path.read_text(encoding="utf-8"))
        identity, step = document["identity"], int(document["step"])
        length, batch = int(identity["training.sequence_length"]), int(identity["training.batch_size"])
        seed = int(identity["training.seed"])
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise ValueError(
            f"{path}: does not say what the model was trained on ({error!r}); set ngram_tokens to all"
        ) from None
    loader = TrainLoader(train, length, batch, seed)
    starts = loader.starts(np.arange(step * batch))
    stream = np.concatenate([read_shard(shard) for shard in train])
    places = 2 * len(stream) + 1  # a window may go on from the end of the tokens at their beginning
    begun = np.bincount(starts, minlength=places)
    ended = np.bincount(starts + length + 1, minlength=places)
    depth = np.cumsum(begun - ended)[:-1]
    seen = np.concatenate([[False], (depth[: len(stream)] + depth[len(stream) :]) > 0, [False]])
    edges = np.flatnonzero(seen[1:] != seen[:-1])
    return [stream[start:end] for start, end in edges.reshape(-1, 2)]


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


def _encode(tokenizer: Tokenizer, sentences: list[str]) -> list[NDArray[np.int64]]:
    encodings = tokenizer.encode_batch(sentences, add_special_tokens=False)
    return [np.array(encoding.ids, dtype=np.int64) for encoding in encodings]


def _write(path: Path, results: Mapping[str, Any]) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    part = path.with_name(f".{path.name}.part")
    part.write_text(json.dumps(results, ensure_ascii=False, indent=1, allow_nan=False) + "\n", encoding="utf-8")
    part.replace(path)
