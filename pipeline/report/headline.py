"""The head of the report: the figures that matter, and what happened in a few sentences."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from pipeline.costs import total
from pipeline.costs.telling import sentence
from pipeline.report.costs import run_costs
from pipeline.report.facts import Amount, Curve, Facts
from pipeline.report.formats import count, decimal, duration, enumeration, percent, rule_name, short_count, size, words
from pipeline.report.markup import Child, Markup, el
from pipeline.report.scores import main_scores, objective_scores
from pipeline.stage import CORPUS_STAGES, DOCUMENT_STAGES


@dataclass(frozen=True)
class Totals:
    """Figures that several parts of the page use."""

    read: Amount
    kept: Amount
    last_text_stage: str
    tokens: int
    held_out_tokens: int
    seconds: float
    cpu_seconds: float
    peak_memory_bytes: int
    peak_stage: str


def totals(facts: Facts) -> Totals:
    """Add up the run."""
    read = sum(facts.corpus.read.values(), Amount())
    text_stages = [name for name in DOCUMENT_STAGES if facts.committed(name)]
    kept = read - facts.corpus.removed(*text_stages)
    executions = {name: stage.execution for name, stage in facts.stages.items() if stage.execution}
    peaks = {name: execution.get("peak_memory_bytes", 0) for name, execution in executions.items()}
    if facts.model.result.get("device") == "cpu":  # training runs in a process of its own
        peaks["train"] = max(peaks.get("train", 0), facts.model.result.get("peak_memory_bytes") or 0)
    peak = max(peaks, key=lambda name: peaks[name], default="")
    return Totals(
        read,
        kept,
        text_stages[-1] if text_stages else "",
        sum(row.tokens for row in facts.corpus.tokens),
        sum(row.tokens for row in facts.corpus.tokens if row.split == "validation"),
        sum(execution.get("wall_seconds", 0.0) for execution in executions.values()),
        sum(execution.get("cpu_seconds", 0.0) for execution in executions.values()),
        peaks.get(peak, 0),
        peak,
    )


@dataclass(frozen=True)
class Scores:
    """Held-out loss of the model and of the count models beside it; None where it is not known."""

    loss: float | None
    bits_per_byte: float | None
    perplexity: float | None
    baselines: dict[str, float]


def scores(facts: Facts) -> Scores:
    """Return the final scores: of the evaluation, or where there is none the last validation loss of training."""
    perplexity = facts.model.results.get("perplexity", {})
    overall = perplexity.get("model", {}).get("overall", {})
    baselines = {
        name: value["overall"]["loss"]
        for name, value in perplexity.items()
        if name != "model" and value.get("overall", {}).get("loss") is not None
    }
    measured = {score.name: score for score in objective_scores(facts.model.results)}
    if "loss" in measured:
        overall = {**overall, "loss": measured["loss"].value}
        baselines = dict(measured["loss"].baselines)
    ordered = dict(sorted(baselines.items(), key=lambda item: -item[1]))
    curves = facts.model.curves

    def final(name: str) -> float | None:
        curve = curves.get(f"validation/{name}")
        return overall.get(name, curve.values[-1] if curve else None)

    return Scores(final("loss"), final("bits_per_byte"), final("perplexity"), ordered)


def parameters(facts: Facts) -> int | None:
    """Return the number of parameters of the model."""
    found = facts.model.results.get("checkpoint", {}).get("parameters", facts.model.result.get("parameters"))
    return found if isinstance(found, int) else None


def figures(facts: Facts) -> Markup:
    """Return the strip of figures; what the run has not reached yet is left out."""
    sums, score = totals(facts), scores(facts)
    items: list[Markup] = []
    if facts.committed("ingest"):
        more = f"{percent(sums.kept.documents, sums.read.documents)} kept, from {len(facts.corpus.read)} sources"
        items.append(_figure("Documents", _to(count(sums.read.documents), count(sums.kept.documents)), more))
    tokenize = facts.committed("tokenize")
    if tokenize:
        vocabulary = tokenize.manifest["summary"].get("vocabulary_size") or _vocabulary(facts)
        text_bytes = sum(row.text_bytes for row in facts.corpus.tokens)
        per_token = f"{decimal(text_bytes / sums.tokens, 2)} bytes a token" if sums.tokens else ""
        more = ", ".join(
            part for part in (per_token, f"vocabulary of {count(vocabulary)}" if vocabulary else "") if part
        )
        items.append(_figure("Text to tokens", _to(size(sums.kept.bytes), short_count(sums.tokens)), more))
    elif facts.committed("ingest"):
        items.append(_figure("Text", _to(size(sums.read.bytes), size(sums.kept.bytes)), "in UTF-8"))
    if parameters(facts):
        items.append(_figure("Parameters", short_count(parameters(facts)), _shape(facts)))
    if score.loss is not None:
        unit = "" if objective_scores(facts.model.results) else "nats a token"
        against = ", ".join(f"{name} {decimal(value, 2)}" for name, value in score.baselines.items())
        items.append(_figure("Validation loss", decimal(score.loss, 3), against or unit))
    for measured in main_scores(facts.model.results):
        if measured.name != "loss" and not measured.name.endswith("perplexity"):
            more = ", ".join(f"{words(name)} {measured.shown(value)}" for name, value in measured.baselines.items())
            items.append(_figure(measured.title.capitalize(), measured.shown(), more))
    if score.bits_per_byte is not None:
        items.append(
            _figure("Bits per byte", decimal(score.bits_per_byte, 3), f"perplexity {decimal(score.perplexity, 1)}")
        )
    if sums.seconds:
        parts = [("corpus", CORPUS_STAGES), ("training", ("train",)), ("evaluation", ("evaluate",))]
        split = [(name, _seconds(facts, stages)) for name, stages in parts]
        more = ", ".join(f"{name} {duration(seconds)}" for name, seconds in split if seconds)
        items.append(_figure("Time", duration(sums.seconds), more))
    if sums.peak_memory_bytes:
        more = f"largest process, in {sums.peak_stage}"
        items.append(_figure("Peak memory", size(sums.peak_memory_bytes), more))
    if sums.cpu_seconds:
        hours = sums.cpu_seconds / 3600
        cost = (
            f"{decimal(hours, 2)}\u202fcore-hours" if hours >= 0.05 else f"{count(sums.cpu_seconds)}\u202fcore-seconds"
        )
        items.append(_figure("Cost", cost, _cost(facts)))
    return el("dl", items, class_=f"figures figures-{len(items)}")


def story(facts: Facts) -> Markup:
    """Return what happened and why, in two or three sentences."""
    return el("p", _corpus_sentence(facts), " ", _model_sentence(facts), class_="story")


def _corpus_sentence(facts: Facts) -> list[Child]:
    sums = totals(facts)
    if not sums.read.documents:
        return ["No stage of this run has finished yet; the report fills as they do."]
    taken: dict[str, int] = {}
    for removal in facts.corpus.removals:
        if removal.action == "dropped":
            taken[removal.rule] = taken.get(removal.rule, 0) + removal.documents
    largest = sorted(taken.items(), key=lambda item: (-item[1], item[0]))[:3]
    sentence: list[Child] = [
        "Of ",
        el("b", f"{count(sums.read.documents)} documents"),
        f" ({size(sums.read.bytes)} of text) from {len(facts.corpus.read)} "
        f"{'source' if len(facts.corpus.read) == 1 else 'sources'}, ",
        el("b", f"{count(sums.kept.documents)} were kept"),
        f" ({percent(sums.kept.documents, sums.read.documents)}).",
    ]
    if largest:
        named = [f"{rule_name(rule)} ({count(number)})" for rule, number in largest]
        what = "The rule that took most was " if len(named) == 1 else "The rules that took most were "
        sentence.append(f" {what}{enumeration(named)}.")
    else:
        sentence.append(" No rule removed any.")
    missing = [name for name, stage in facts.stages.items() if stage.committed is None]
    if missing:
        sentence.append(f" Not finished: {enumeration(missing)}.")
    return sentence


def _model_sentence(facts: Facts) -> list[Child]:
    score = scores(facts)
    if score.loss is None:
        return []
    seen = f" on {short_count(facts.model.tokens_seen)} tokens" if facts.model.tokens_seen else ""
    steps = max((curve.steps[-1] for curve in facts.model.curves.values()), default=0)
    sentence: list[Child] = [
        f"A model of {short_count(parameters(facts))} parameters" if parameters(facts) else "The model",
        f", trained for {count(steps)} steps{seen}," if steps else "",
        " reached a validation loss of ",
        el("b", decimal(score.loss, 2)),
    ]
    if score.baselines:
        gaps = [
            f"{decimal(abs(value - score.loss), 2)} {'below' if value >= score.loss else 'above'} "
            f"{_article(name)} {name} model"
            for name, value in score.baselines.items()
        ]
        counted = facts.model.results.get("ngram", {}).get("counted_tokens")
        sentence.append(f", {enumeration(gaps)}" + (f" of {short_count(counted)} training tokens" if counted else ""))
    sentence.append(f" ({decimal(score.bits_per_byte, 2)} bits per byte)." if score.bits_per_byte is not None else ".")
    advice = _advice(facts.model.curves)
    return [*sentence, f" {advice}" if advice else None]


def _advice(curves: dict[str, Curve]) -> str:
    """Say what the curves suggest: more training, or a training that has begun to learn by heart."""
    validation, train = curves.get("validation/loss"), curves.get("train/loss")
    if not validation or len(validation.values) < 4:
        return ""
    best = min(range(len(validation.values)), key=lambda index: validation.values[index])
    if validation.values[-1] > validation.values[best] * 1.01:
        return (
            f"The loss was lowest at step {count(validation.steps[best])} and rose again: it learnt its text by heart."
        )
    tail = train.values[-max(1, len(train.values) // 10) :] if train else []
    if tail and validation.values[-1] - sum(tail) / len(tail) > 0.35:
        return "It lies well above the training loss: more text would help more than more steps."
    quarter = validation.values[-1 - max(1, len(validation.values) // 4)]
    if quarter - validation.values[-1] > 0.02:
        return (
            f"The last quarter of training still took {decimal(quarter - validation.values[-1], 2)} off the loss: "
            "longer training would help."
        )
    return "The loss had levelled off by the end."


def _article(name: str) -> str:
    return "an" if name[:1] in "8aeio" else "a"


def _figure(label: str, value: Child, more: Child) -> Markup:
    return el("div", el("dt", label), el("dd", value, class_="value"), el("dd", more, class_="more") if more else None)


def _to(first: str, second: str) -> list[Child]:
    return [first, " ", el("span", "→", class_="to"), " ", second]


def _seconds(facts: Facts, stages: Sequence[str]) -> float:
    return sum(facts.stages[name].execution.get("wall_seconds", 0.0) for name in stages if name in facts.stages)


def _shape(facts: Facts) -> str:
    train = facts.committed("train")
    model = train.manifest["config"].get("model") if train else None
    if not isinstance(model, dict) or not {"layers", "width", "context_length"} <= set(model):
        return ""
    return f"{model['layers']} layers of {model['width']}, context of {model['context_length']}"


def _vocabulary(facts: Facts) -> Any:
    tokenizer = facts.committed("tokenizer")
    return tokenizer.manifest["summary"].get("vocabulary_size") if tokenizer else None


def _cost(facts: Facts) -> str:
    """Energy, carbon and money of the finished stages."""
    stages, settings = run_costs(facts)
    return sentence(total(stage.cost for stage in stages), settings) if stages else ""
