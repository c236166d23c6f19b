"""One evaluation of one checkpoint: held-out text beside models that know less, grammar, tasks, samples."""

from __future__ import annotations

import functools
import json
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from training.config import Shard, TrainingConfig, from_dict
from training.continuing import CONTINUING, sees_prefix
from training.devices import resolve
from training.distributed import World
from training.evaluation import held_out
from training.evaluation.blanks import fill_spans, fill_words
from training.evaluation.choices import evaluate_choices, read_questions
from training.evaluation.embedding import bag_of_words, embed, poolings
from training.evaluation.judged import Judged
from training.evaluation.lines import set_name
from training.evaluation.metrics import flat_metrics
from training.evaluation.minimal_pairs import Pair, evaluate_pairs, read_pairs
from training.evaluation.ngram import NgramModel
from training.evaluation.perplexity import read_shard, score_shards
from training.evaluation.probes import Embed, probe, read_examples
from training.evaluation.pseudo_likelihood import predicts_both_sides, pseudo_log_probabilities
from training.evaluation.pseudo_perplexity import score_sentences
from training.evaluation.scoring import token_log_probabilities
from training.evaluation.settings import TEMPLATES, EvaluationRun
from training.evaluation.similarity import judge_similarity, read_scored_pairs
from training.evaluation.stretches import held_out_sentences
from training.evaluation.templates import template_pairs
from training.evaluation.text_scores import text_scorer
from training.generation import Generator, as_dicts
from training.loader import TrainLoader
from training.rows import Form, Windows

Report = Callable[[dict[str, Any]], None]


def run(config: Mapping[str, Any], report: Report = lambda event: None) -> dict[str, Any]:
    """Evaluate a checkpoint, write `config["output"]` and return the results.

    config: `EvaluationRun` as a dict. `report` is told of each part as it is done. The results:

        checkpoint     name, step, trained_tokens (predictions it was trained on, repeats counted), parameters
        evaluation     context_length, stride, precision; but for causal models alone also objective, sequence_length,
                       text_score (by what texts are scored, see text_scores.SCORES, or None)
        perplexity     where the model predicts from left to right: model, unigram, <n>-gram: each {"overall",
                       "sources", "languages"}, see score_shards
        ngram          order, counted (all or trained), counted_tokens, distinct n-grams by model
        minimal_pairs  "templates" and the name of each file: {"overall", "languages", "phenomena"}
        samples        prompt, continuation, tokens, finished; of blanks also answer and candidates
        metrics        the main numbers under flat names, for a tracker

    and, where the model was trained on more than prediction from left to right, or where they are asked for:

        objective          by metric of the objective: {"overall", "sources", "languages"} of {"value", "count"}
        baselines          by metric, by baseline (see held_out): the same
        pseudo_perplexity  model, unigram: see pseudo_perplexity.score_sentences
        similarity         by file, by encoder (poolings; bag_of_words, untrained_<pooling>): see judge_similarity
        probes, choices    by file: see probe, evaluate_choices

    Raises ValueError for a wrong config, an unreadable checkpoint or shard, or validation data without a token.
    """
    settings = from_dict(EvaluationRun, dict(config))
    compute = resolve(
        TrainingConfig(device=settings.device, precision=settings.precision, threads=settings.threads, compile="off"),
        World(),
    )
    evaluation = Evaluation(settings, Judged(settings.checkpoint, compute, settings.seed), report)
    results = evaluation.run()
    _write(Path(settings.output), results)
    evaluation.tell("results", {})
    return results


class Evaluation:
    """The parts of one evaluation, each of which adds to the results."""

    def __init__(self, settings: EvaluationRun, judged: Judged, report: Report) -> None:
        self._settings, self._judged, self._report = settings, judged, report
        self._validation = settings.shards("validation")
        if not self._validation:
            raise ValueError("data: there is no validation shard with a token in it; nothing can be evaluated")
        self._scored_by = text_scorer(judged, settings.stride)
        self._step, self._steps = 0, 0
        self._results: dict[str, Any] = {"checkpoint": self._checkpoint(), "evaluation": self._how()}

    def run(self) -> dict[str, Any]:
        """Do all parts and return the results."""
        settings, judged = self._settings, self._judged
        both_sides = predicts_both_sides(judged)
        parts: list[tuple[str, bool, Callable[[], Mapping[str, Any]]]] = [
            ("perplexity", judged.reads_forward, self._perplexity),
            ("ngram", judged.reads_forward and settings.ngram_order > 0, self._ngrams),
            ("objective", not self._causal_alone, self._objective),
            ("pseudo_perplexity", both_sides and settings.pseudo_sentences > 0, self._pseudo_perplexity),
            ("minimal_pairs", True, self._minimal_pairs),
            ("similarity", bool(settings.similarity), self._similarity),
            ("probes", bool(settings.probes), self._probes),
            ("choices", bool(settings.choices), self._choices),
            ("samples", True, self._samples),
        ]
        due = [(name, part) for name, wanted, part in parts if wanted]
        self._steps = len(due) + 1
        for name, part in due:
            self.tell(name, part())
        self._results["metrics"] = flat_metrics(self._results)
        return self._results

    def tell(self, part: str, facts: Mapping[str, Any], done: bool = True) -> None:
        """Report a part, or one of several of its results."""
        self._step += done
        self._report({"event": "progress", "step": self._step, "steps": self._steps, "part": part, **facts})

    @property
    def _causal_alone(self) -> bool:
        return self._judged.name == "causal" and not self._judged.objective_config.also

    def _checkpoint(self) -> dict[str, Any]:
        return {
            "name": Path(self._settings.checkpoint).name,
            "step": self._judged.description.get("step"),
            "trained_tokens": self._judged.description.get("tokens"),
            "parameters": self._judged.model.parameters_count(),
        }

    def _how(self) -> dict[str, Any]:
        judged = self._judged
        facts: dict[str, Any] = {"context_length": judged.context_length, "precision": judged.compute.precision}
        if judged.reads_forward:
            facts["stride"] = self._settings.stride or judged.context_length
        if not self._causal_alone:
            facts["objective"] = judged.name
            facts["sequence_length"] = judged.sequence_length
            facts["text_score"] = None if self._scored_by is None else self._scored_by[0]
        return facts

    def _perplexity(self) -> Mapping[str, Any]:
        judged = self._judged

        def scorer(ids: Sequence[NDArray[np.integer]]) -> list[NDArray[np.float32]]:
            return token_log_probabilities(
                judged.model,
                ids,
                judged.begin_of_text,
                document_mask=judged.description.get("document_mask", False),
                stride=self._settings.stride,
                arithmetic=judged.compute.autocast,
            )

        scores = score_shards(self._validation, judged.end_of_text, scorer)
        self._results["perplexity"] = {"model": scores}
        overall: dict[str, Any] = scores["overall"]
        return overall

    def _ngrams(self) -> Mapping[str, Any]:
        order, end_of_text = self._settings.ngram_order, self._judged.end_of_text
        perplexity = self._results["perplexity"]
        facts = self._counted(order)
        for one in sorted({1, order}):
            name = ngram_name(one)
            ngrams = NgramModel(self._segments, self._judged.model.vocabulary_size, one)
            scorer = functools.partial(_score_ngrams, ngrams, end_of_text)
            perplexity[name] = score_shards(self._validation, end_of_text, scorer)
            facts["distinct"][name] = ngrams.ngrams[-1]
        self._results["ngram"] = facts
        overall: dict[str, Any] = perplexity[ngram_name(order)]["overall"]
        return overall

    def _counted(self, order: int) -> dict[str, Any]:
        counted = sum(len(segment) for segment in self._segments)
        return {"order": order, "counted": self._settings.ngram_tokens, "counted_tokens": counted, "distinct": {}}

    @functools.cached_property
    def _segments(self) -> list[NDArray[np.integer]]:
        """What the count models count; nothing where there are to be none."""
        settings = self._settings
        if not settings.ngram_order:
            return []
        train = settings.shards("train")
        if not train:
            raise ValueError("data: the n-gram models need train shards; add them or set ngram_order to 0")
        if settings.ngram_tokens == "trained":
            form = None if self._causal_alone else self._judged.objective.form(self._judged.sequence_length)
            return trained_segments(train, settings.checkpoint, form)
        return [read_shard(shard) for shard in train]

    def _objective(self) -> Mapping[str, Any]:
        measured = held_out.measure(self._judged, self._validation, self._segments)
        self._results["objective"] = held_out.by_group(measured.shards, measured.metrics)
        self._results["baselines"] = held_out.baselines_by_group(measured)
        if self._segments:
            self._results.setdefault("ngram", self._counted(1))
        return {name: facts["overall"]["value"] for name, facts in self._results["objective"].items()}

    def _pseudo_perplexity(self) -> Mapping[str, Any]:
        judged, shards = self._judged, self._validation
        sentences = held_out_sentences(shards, judged.end_of_text, self._settings.pseudo_sentences)
        if not sentences:
            return {}
        scores = score_sentences(shards, sentences, functools.partial(pseudo_log_probabilities, judged))
        self._results["pseudo_perplexity"] = {"model": scores}
        if self._segments:
            logs_V = held_out.unigram_log_probabilities(self._segments, judged.model.vocabulary_size)
            unigram = score_sentences(shards, sentences, lambda ids: [logs_V[tokens] for tokens in ids])
            self._results["pseudo_perplexity"]["unigram"] = unigram
        overall: dict[str, Any] = scores["overall"]
        return overall

    def _minimal_pairs(self) -> Mapping[str, Any]:
        found: dict[str, Any] = {}
        self._results["minimal_pairs"] = found
        if self._scored_by is not None:
            for name, pairs in _pair_sets(self._settings).items():
                found[name] = evaluate_pairs(pairs, self._judged.encode, self._scored_by[1])
                self.tell("minimal_pairs", {"set": name, **found[name]["overall"]}, done=False)
        return {}

    def _similarity(self) -> Mapping[str, Any]:
        judged, seed = self._judged, self._settings.seed
        encoders: dict[str, Embed] = {
            pooling: functools.partial(embed, judged, pooling=pooling) for pooling in poolings(judged)
        }
        encoders["bag_of_words"] = functools.partial(bag_of_words, judged)
        untrained = held_out.untrained_model(judged.model, seed)
        for pooling in poolings(judged):
            encoders[f"untrained_{pooling}"] = functools.partial(embed, judged, pooling=pooling, model=untrained)
        self._results["similarity"] = {}
        for path in self._settings.similarity:
            pairs = read_scored_pairs(path)
            facts = {name: judge_similarity(pairs, encode) for name, encode in encoders.items()}
            self._results["similarity"][set_name(path)] = facts
            told: dict[str, Any] = {name: one["spearman"] for name, one in facts.items()}
            self.tell("similarity", {"set": set_name(path), **told}, done=False)
        return {}

    def _probes(self) -> Mapping[str, Any]:
        judged = self._judged
        encoders: dict[str, Embed] = {
            pooling: functools.partial(embed, judged, pooling=pooling) for pooling in poolings(judged)
        }
        self._results["probes"] = {}
        for path in self._settings.probes:
            facts = probe(read_examples(path, self._settings.task_examples or None), encoders)
            self._results["probes"][set_name(path)] = facts
            told = {name: one["accuracy"] for name, one in {**facts["accuracy"], **facts["baselines"]}.items()}
            self.tell("probes", {"set": set_name(path), **told}, done=False)
        return {}

    def _choices(self) -> Mapping[str, Any]:
        self._results["choices"] = {}
        if self._scored_by is None:
            return {}
        judged, (score, scorer) = self._judged, self._scored_by
        room = judged.context_length - judged.frame.tokens
        for path in self._settings.choices:
            questions = read_questions(path, self._settings.task_examples or None)
            facts = evaluate_choices(questions, judged.encode, scorer, room, score != "log_likelihood")
            self._results["choices"][set_name(path)] = facts
            told = {"accuracy": facts["sum"]["accuracy"], "chance": facts["baselines"]["chance"]}
            self.tell("choices", {"set": set_name(path), **told}, done=False)
        return {}

    def _samples(self) -> Mapping[str, Any]:
        settings, judged = self._settings, self._judged
        self._results["samples"] = []
        if judged.name in CONTINUING:
            prefix = sees_prefix(judged.objective_config)
            generator = Generator(judged.model, judged.tokenizer, judged.end_of_text, judged.begin_of_text, prefix)
            self._results["samples"] = as_dicts(generator.sample(settings.prompts, settings.sampling))
        elif settings.blanks and (predicts_both_sides(judged) or judged.name == "span_corruption"):
            sentences = held_out_sentences(self._validation, judged.end_of_text, settings.blanks)[: settings.blanks]
            if judged.name == "span_corruption":
                filled = fill_spans(judged, sentences, settings.seed, settings.sample_tokens)
            else:
                filled = fill_words(judged, sentences, settings.seed)
            self._results["samples"] = filled
        return {}


def _score_ngrams(
    ngrams: NgramModel, end_of_text: int, ids: Sequence[NDArray[np.integer]]
) -> list[NDArray[np.float64]]:
    return [ngrams.log_probabilities(tokens, [end_of_text]) for tokens in ids]


def ngram_name(order: int) -> str:
    """What the results call an n-gram model."""
    return "unigram" if order == 1 else f"{order}-gram"


def trained_segments(
    train: Sequence[Shard], checkpoint_dir: str | Path, form: Form | None = None
) -> list[NDArray[np.integer]]:
    """The stretches of the train shards, laid end to end, that a checkpoint has seen as input or target, each once.

    `form`: how rows were made of them, by default as windows of the sequence length. They follow from the seed, the
    batch and the step that the checkpoint's trainer.json names. Raises ValueError without one.
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
    form = form or Windows(length)
    loader = TrainLoader(train, form, batch, seed)
    starts = loader.starts(np.arange(step * batch))
    stream = np.concatenate([read_shard(shard) for shard in train])
    places = 2 * len(stream) + form.reads  # a window may go on from the end of the tokens at their beginning
    begun = np.bincount(starts, minlength=places)
    ended = np.bincount(starts + form.reads, minlength=places)
    depth = np.cumsum(begun - ended)[:-1]
    seen = np.concatenate([[False], (depth[: len(stream)] + depth[len(stream) : 2 * len(stream)]) > 0, [False]])
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
            sets[set_name(name)] = read_pairs(name, limit=limit)
    return sets


def _write(path: Path, results: Mapping[str, Any]) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    part = path.with_name(f".{path.name}.part")
    part.write_text(json.dumps(results, ensure_ascii=False, indent=1, allow_nan=False) + "\n", encoding="utf-8")
    part.replace(path)
