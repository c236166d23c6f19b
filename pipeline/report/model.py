"""The sections on training, evaluation and samples."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

from pipeline.report.charts import Line, Part, Reference, bar, interval, line_chart
from pipeline.report.facts import Curve, Facts
from pipeline.report.formats import axis, count, decimal, duration, language_name, percent, plain, short_count, words
from pipeline.report.headline import scores
from pipeline.report.markup import Child, Markup, el
from pipeline.report.scales import smooth
from pipeline.report.scores import Score, objective_scores, task_scores
from pipeline.report.tables import Cell, Column, absent, corpus_text, figure, section, table

SMALL = (
    ("learning_rate", "Learning rate", lambda value: f"{value:.2g}"),
    ("gradient_norm", "Gradient norm", plain),
    ("tokens_per_second", "Tokens per second", short_count),
    ("mfu", "Model FLOP utilisation", percent),
)
"""Small charts: how the metric's name ends or is written in it, its title, its numbers."""


def training_section(facts: Facts) -> Markup:
    """Return the loss curves beside the count models, and the small charts."""
    note = (
        "Nats a token. The thin line is each logged step, the line on it a moving average; the dots are held-out text. "
        "Dashed: models that only count n-grams of the same training tokens. The curve scores a sample of the "
        "held-out text, the evaluation all of it."
    )
    if facts.model.results.get("objective"):
        note = (
            "The loss of the objective. The thin line is each logged step, the line on it a moving average; the dots "
            "are held-out text. Dashed: what a model reaches that knows less. The curve scores a sample of the "
            "held-out text, the evaluation all of it."
        )
    curves = facts.model.curves
    if not facts.committed("train"):
        return section("training", "Training", None, absent("The train stage has not finished."))
    if "train/loss" not in curves and "validation/loss" not in curves:
        return section("training", "Training", None, absent("The training journal holds no loss."))
    small = [_small(name, curves[name], title, show) for name, title, show in _small_curves(curves)]
    return section(
        "training",
        "Training",
        note,
        _course(facts.model.result),
        figure([_loss(facts, narrow) for narrow in (False, True)]),
        el("div", small, class_="small-multiples") if small else None,
        _sources(curves),
    )


def _course(result: Mapping[str, Any]) -> Markup | None:
    """Say in a line what the training process told of itself."""
    tokens, seconds = result.get("tokens"), result.get("seconds")
    if not (tokens and seconds):
        return None
    threads = (
        f" on {count(result['threads'])} threads" if result.get("threads") and result.get("device") == "cpu" else ""
    )
    processes = f", {count(result['processes'])} processes" if (result.get("processes") or 1) > 1 else ""
    machine = f"{result.get('device', 'unknown device')} in {result.get('precision', 'unknown precision')}"
    speed = f"{count(tokens / seconds)} tokens a second with evaluation and checkpoints"
    return el("p", f"{short_count(tokens)} tokens in {duration(seconds)}, {speed}; {machine}{threads}{processes}.")


def _loss(facts: Facts, narrow: bool) -> Markup:
    train, validation = facts.model.curves.get("train/loss"), facts.model.curves.get("validation/loss")
    score = scores(facts)
    lines = []
    if train:
        smoothed = smooth(train.values, max(1, len(train.values) // 30))
        lines.append(Line(train.points, "raw"))
        points = [(float(step), value) for step, value in zip(train.steps, smoothed, strict=True)]
        lines.append(Line(points, "train", f"training {decimal(smoothed[-1], 2)}"))
    if validation:
        label = f"validation {decimal(validation.values[-1], 2)}"
        lines.append(Line(validation.points, "validation", label, marks=True))
    references = [Reference(value, f"{name} {decimal(value, 2)}") for name, value in score.baselines.items()]
    values = [value for line in lines for _, value in line.points] + [reference.value for reference in references]
    return line_chart(
        lines,
        references,
        width=360 if narrow else 860,
        height=300 if narrow else 380,
        label_width=104 if narrow else 122,
        y_format=lambda value: decimal(value, 1),
        x_format=count,
        x_label="step",
        low=min(values) - 0.04 * (max(values) - min(values)),
        class_="narrow" if narrow else "wide",
        title=f"Loss over steps: {', '.join(line.label for line in lines if line.label)}",
    )


def _small_curves(curves: Mapping[str, Curve]) -> list[tuple[str, str, Callable[[float], str]]]:
    found = []
    for end, title, show in SMALL:
        names = [name for name in curves if name.rpartition("/")[2] == end] or [name for name in curves if end in name]
        found += [(name, title if len(names) == 1 else f"{title}: {name}", show) for name in names]
    return found


def _small(name: str, curve: Curve, title: str, show: Callable[[float], str]) -> Markup:
    last = show(curve.values[-1])
    chart = line_chart(
        [Line(curve.points, "plain")],
        width=270,
        height=130,
        label_width=14,
        y_format=show,
        x_format=axis,
        low=0.0 if min(curve.values) >= 0 else None,
        title=f"{title} over steps",
    )
    caption = [
        el("b", title),
        el("span", f"from {show(curve.values[0])} to {last}, at most {show(max(curve.values))}", class_="sub"),
    ]
    return figure(chart, caption)


def _sources(curves: Mapping[str, Curve]) -> Markup | None:
    """Return small charts of the validation loss of each source, all on one scale."""
    prefix = "validation/loss/source/"
    names = [name for name in curves if name.startswith(prefix) and len(curves[name].values) > 1]
    if len(names) < 2:
        return None
    low = min(min(curves[name].values) for name in names)
    high = max(max(curves[name].values) for name in names)
    charts = []
    for name in names:
        curve = curves[name]
        chart = line_chart(
            [Line(curve.points, "plain")],
            width=270,
            height=130,
            label_width=14,
            y_format=lambda value: decimal(value, 1),
            low=low,
            high=high,
            title=f"Validation loss of {name.removeprefix(prefix)}",
        )
        said = el("span", f"{decimal(curve.values[0], 2)} to {decimal(curve.values[-1], 2)}", class_="sub")
        charts.append(figure(chart, [el("b", corpus_text(name.removeprefix(prefix))), said]))
    label = "Validation loss of each source, on one scale"
    return el("details", el("summary", label), el("div", charts, class_="small-multiples"))


def evaluation_section(facts: Facts) -> Markup:
    """Return held-out scores by source and language, minimal pairs and tasks."""
    note = (
        "Every held-out token, each scored once. Bits per byte do not depend on the tokenizer, so they compare across "
        "runs and models; lower is better."
    )
    results = facts.model.results
    if not results:
        return section("evaluation", "Evaluation", None, absent("The evaluate stage has not finished."))
    perplexity = results.get("perplexity", {})
    measured = objective_scores(results)
    if measured:
        note = (
            "What the model was trained on, asked of all held-out text with masks, orders and cuts that are the same "
            "in every evaluation. Baselines stand beside it: the frequencies of the training tokens (unigram), the "
            "most frequent class, no replaced token at all, the same model untrained."
        )
    return section(
        "evaluation",
        "Evaluation",
        note,
        _measured(measured),
        _measured_groups("By source", "Source", measured, "sources", lambda name: name),
        _measured_groups("By language", "Language", measured, "languages", language_name),
        el("h3", "From left to right") if measured and perplexity else None,
        _overall(perplexity),
        _groups("By source", "Source", perplexity, "sources", lambda name: name),
        _groups("By language", "Language", perplexity, "languages", language_name),
        _pseudo_perplexity(results.get("pseudo_perplexity", {})),
        [
            _minimal_pairs(name, scored, _CHOSEN_BY.get(results.get("evaluation", {}).get("text_score"), ""))
            for name, scored in results.get("minimal_pairs", {}).items()
        ],
        _tasks(results),
    )


_CHOSEN_BY = {
    "pseudo_log_likelihood": " Likely is what the model expects at each token, masked in turn.",
    "discriminator": " Likely is what its discriminator takes for original.",
}


def _measured(measured: Sequence[Score]) -> Markup | None:
    """Return the table of the objective's metrics and their baselines."""
    if not measured:
        return None
    rows: list[list[Child]] = []
    for score in measured:
        against = ", ".join(f"{words(name)} {score.shown(value)}" for name, value in score.baselines.items())
        counted = score.facts["overall"]["count"]
        rows.append(
            [
                score.title,
                Cell(el("b", score.shown()), score.value),
                Cell(against, next(iter(score.baselines.values()), None)),
                Cell(count(counted), counted),
                "lower is better" if score.lower_is_better else "higher is better",
            ]
        )
    columns = [
        Column("Metric", "name"),
        Column("This model", "number"),
        Column("Baselines", "number"),
        Column("Counted", "number", "Predictions, pairs or rows that the number is a mean of"),
        Column(""),
    ]
    return table(columns, rows)


def _measured_groups(
    title: str, head: str, measured: Sequence[Score], group: str, shown: Callable[[str], str]
) -> list[Markup] | None:
    """Return the table of one grouping: every metric of the objective."""
    keys = sorted({key for score in measured for key in score.facts.get(group, {})})
    if not keys:
        return None
    rows: list[list[Child]] = []
    for key in keys:
        row: list[Child] = [corpus_text(shown(key))]
        for score in measured:
            value = score.facts.get(group, {}).get(key, {}).get("value")
            row.append(Cell("" if value is None else score.shown(value), value))
        rows.append(row)
    columns = [Column(head, "name"), *(Column(score.title, "number") for score in measured)]
    return [el("h3", title), table(columns, rows)]


def _pseudo_perplexity(models: Mapping[str, Any]) -> list[Markup] | None:
    """Return the pseudo-perplexity of a sample of held-out sentences."""
    if not models:
        return None
    rows: list[list[Child]] = []
    for name, scored in models.items():
        overall = scored["overall"]
        bits, perplexity = overall.get("bits_per_byte"), overall["perplexity"]
        shown = el("b", "this model") if name == "model" else name
        rows.append([shown, Cell(decimal(perplexity, 1), perplexity), Cell(decimal(bits), bits)])
    columns = [Column("", "name"), Column("Pseudo-perplexity", "number"), Column("Bits per byte", "number")]
    overall = next(iter(models.values()))["overall"]
    text = (
        f"Each token of {count(overall.get('sentences'))} held-out sentences masked in turn "
        f"({count(overall.get('tokens'))} tokens). What follows a token helps to tell it, so that this is not the "
        "perplexity of a model that reads from left to right."
    )
    return [el("h3", "Pseudo-perplexity"), table(columns, rows, caption=text)]


def _tasks(results: Mapping[str, Any]) -> list[Markup] | None:
    """Return the table of sentence similarity, probes and multiple choice."""
    found = list(task_scores(results))
    if not found:
        return None
    rows: list[list[Child]] = []
    for name, score in found:
        against = ", ".join(f"{words(model)} {score.shown(value)}" for model, value in score.baselines.items())
        rows.append([corpus_text(name), score.title, Cell(el("b", score.shown()), score.value), against])
    columns = [Column("Set", "name"), Column("Metric"), Column("This model", "number"), Column("Baselines")]
    text = (
        "Without fine-tuning: rank correlation of the nearness of two sentences with human scores, what a logistic "
        "regression reads from frozen vectors, which of several continuations is likeliest."
    )
    return [el("h3", "Tasks"), table(columns, rows, caption=text)]


def _overall(perplexity: Mapping[str, Any]) -> Markup | None:
    if not perplexity:
        return None
    most = max((value["overall"]["bits_per_byte"] or 0.0 for value in perplexity.values()), default=0.0)
    rows: list[list[Child]] = []
    for name, value in perplexity.items():
        overall = value["overall"]
        bits, ours = overall["bits_per_byte"], name == "model"
        rows.append(
            [
                el("b", "this model") if ours else name,
                Cell(bar([Part(bits or 0.0, "kept" if ours else "other")], most), bits),
                Cell(decimal(bits), bits),
                Cell(decimal(overall["loss"]), overall["loss"]),
                Cell(decimal(overall["perplexity"], 1), overall["perplexity"]),
            ]
        )
    columns = [
        Column("", "name"),
        Column("", "chart"),
        Column("Bits per byte", "number"),
        Column("Loss", "number", "Nats a token"),
        Column("Perplexity", "number", "A token"),
    ]
    any_model = next(iter(perplexity.values()))["overall"]
    caption = f"On {count(any_model.get('tokens'))} held-out tokens of {count(any_model.get('documents'))} documents."
    return table(columns, rows, caption=caption)


def _groups(
    title: str, head: str, perplexity: Mapping[str, Any], group: str, shown: Callable[[str], str]
) -> list[Markup] | None:
    """Return the table of one grouping: the model's scores, and the bits per byte of the count models beside them."""
    ours = perplexity.get("model", {}).get(group, {})
    if not ours:
        return None
    others = [name for name in perplexity if name != "model"]

    def bits_of(model: str, key: str) -> float | None:
        return perplexity[model].get(group, {}).get(key, {}).get("bits_per_byte")

    most = 1.02 * max(bits_of(name, key) or 0.0 for name in perplexity for key in ours)  # the last mark is seen whole
    rows: list[list[Child]] = []
    for key, scored in sorted(ours.items(), key=lambda item: (-item[1].get("tokens", 0), item[0])):
        bits = scored.get("bits_per_byte")
        part = Part(bits or 0.0, "kept", f"this model {decimal(bits)}")
        marks = [
            Part(bits_of(name, key) or 0.0, "threshold", f"{name} {decimal(bits_of(name, key))}") for name in others
        ]
        rows.append(
            [
                corpus_text(shown(key)),
                Cell(count(scored.get("tokens")), scored.get("tokens")),
                Cell(decimal(scored.get("loss"), 2), scored.get("loss")),
                Cell(decimal(scored.get("perplexity"), 1), scored.get("perplexity")),
                Cell(el("b", decimal(bits, 2)), bits),
                *(Cell(decimal(bits_of(name, key), 2), bits_of(name, key)) for name in others),
                Cell(bar([part], most, marks), bits),
            ]
        )
    columns = [
        Column(head, "name"),
        Column("Tokens", "number"),
        Column("Loss", "number"),
        Column("Perplexity", "number"),
        Column("Bits per byte", "number"),
        *(Column(name, "number", f"Bits per byte of the {name} model") for name in others),
        Column("bits per byte, lines: count models" if others else "", "chart"),
    ]
    return [el("h3", title), table(columns, rows)]


def _minimal_pairs(name: str, scored: Mapping[str, Any], chosen_by: str = "") -> list[Markup]:
    """Return one set of minimal pairs: a table a language, each phenomenon with its 95 % interval against chance."""
    overall, languages, phenomena = scored["overall"], scored.get("languages", {}), scored.get("phenomena", {})
    text = (
        "Of two sentences that differ in one point of grammar the likelier one is the model's choice: right in "
        f"{decimal(overall['accuracy'], 3)} ± {decimal(overall['standard_error'], 3)} of {count(overall['pairs'])} "
        "pairs. The whiskers are 95 % intervals from 0 to 1; one that touches the line, chance, does not tell the "
        f"model from guessing.{chosen_by}"
    )
    tables = []
    for language, value in languages.items():
        rows = [_pair_row(el("b", language_name(language)), value)]
        own = {key: item for key, item in phenomena.items() if key.partition("/")[0] == language}
        for key, item in sorted(own.items(), key=lambda entry: (-entry[1]["accuracy"], entry[0])):
            rows.append(_pair_row(words(key.partition("/")[2]), item))
        columns = [Column("Phenomenon"), Column("Accuracy", "number"), Column("±", "number"), Column("", "chart")]
        tables.append(table(columns, rows))
    title = "Minimal pairs" if name == "templates" else f"Minimal pairs: {name}"
    return [el("h3", title), el("p", text), el("div", tables, class_="columns")]


def _pair_row(name: Child, scored: Mapping[str, Any]) -> list[Child]:
    accuracy, error = scored["accuracy"], scored["standard_error"]
    tip = f"{decimal(accuracy, 3)} ± {decimal(error, 3)} of {count(scored['pairs'])} pairs"
    chart = interval(accuracy, error, 0.0, 1.0, scored.get("chance", 0.5), tip)
    return [name, Cell(decimal(accuracy, 2), accuracy), Cell(decimal(error, 3), error), Cell(chart, accuracy)]


def samples_section(facts: Facts) -> Markup:
    """Return what the model wrote after each prompt, or in the blanks of held-out sentences."""
    samples: Sequence[Mapping[str, Any]] = facts.model.results.get("samples", [])
    note = "The prompt is shaded; what follows is the model's. Drawn with one seed, none picked out."
    if any("answer" in sample for sample in samples):
        note = "Held-out sentences, shaded, with a blank; what follows is what the model puts there. None picked out."
    if not samples:
        evaluated = facts.committed("evaluate") is not None
        reason = "There are none of this model." if evaluated else "The evaluate stage has not finished."
        return section("samples", "Samples", None, absent(reason))
    return section("samples", "Samples", note, el("div", [_sample(sample) for sample in samples], class_="samples"))


def _sample(sample: Mapping[str, Any]) -> Markup:
    ended = "ended by the model" if sample.get("finished") else "cut off"
    told: list[Child] = [f"{count(sample.get('tokens'))} tokens, {ended}"]
    if "answer" in sample:
        told = ["in the text: ", corpus_text(str(sample["answer"]))]
    return el(
        "blockquote",
        el(
            "div",
            el("span", str(sample.get("prompt", "")), class_="prompt"),
            " → " if "answer" in sample else "",
            str(sample.get("continuation", "")),
            class_="prose",
            dir="auto",
        ),
        el("footer", told),
    )
