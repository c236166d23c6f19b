"""The README.md of a model that leaves: what it is, what it was made of and from, and what it measures.

All of it comes from facts: the checkpoint's config.json, and the `Evidence` that whoever exports has at hand. Model
cards as such: Mitchell et al. 2019, whose sections these follow as far as there is something to say.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, NamedTuple

if TYPE_CHECKING:
    from training.models.huggingface.source import Source

_HIDDEN = (
    "format",
    "model",
    "vocabulary_size",
    "files",
    "metrics",
    "parent",
    "imported",
    "special_tokens",
    "task",
    "pooling",
    "chat_template",
)
"""Facts that other parts of the card tell, or that only a program wants."""
_METRICS = ("validation/loss", "validation/perplexity", "validation/bits_per_byte")
_TAGS = {
    "AutoModelForCausalLM": "text-generation",
    "AutoModelForMaskedLM": "fill-mask",
    "AutoModelForSeq2SeqLM": "text2text-generation",
    "AutoModelForPreTraining": "feature-extraction",
}
"""What model hubs call the use of a model, by the Auto class that loads it."""
_KINDS = {"causal": "A language model", "encoder": "An encoder", "encoder_decoder": "An encoder and decoder"}
_LANGUAGES = 20
"""Languages that are named; the others are summed."""


class Form(NamedTuple):
    """What the model is written as, and how it is used."""

    library: str
    """What model hubs call it: transformers, gguf or onnx."""
    auto: str
    """The Auto class of transformers."""
    told: str
    """Continues "exported from Headrace "."""
    code: str
    """Python that loads it."""


@dataclass(frozen=True)
class Evidence:
    """What is known of a model beyond its checkpoint; each part may be missing."""

    recipe: str | None = None
    description: str | None = None
    """What the recipe says of itself."""
    model: str | None = None
    """What the model is called where it is registered, such as models:/quickstart@best."""
    funnel: Sequence[Mapping[str, Any]] = ()
    """Rows of stage, read, kept, dropped, in the order of the stages."""
    corpus: Sequence[Mapping[str, Any]] = ()
    """Rows of source, license (None: unknown), language, documents, tokens: what the model was trained on."""
    results: Sequence[Mapping[str, Any]] = ()
    """Rows of metric, value, and where they are known baseline (a text) and note."""
    stages: Mapping[str, str] = field(default_factory=dict)
    """Fingerprints of the stages that made the model and its corpus."""
    steps: Sequence[str] = ()
    """What was done to the model that these facts begin with, the first first: "fine-tuned on cola", ..."""


def model_card(name: str, source: Source, form: Form, evidence: Evidence | None = None) -> str:
    """Markdown with the front matter that model hubs read."""
    told = evidence or Evidence()
    sections = [
        _front(source, form, told),
        f"# {_cell(name)}\n\n{_opening(source, form, told)}\n",
        f"## Use\n\n```python\n{form.code}```\n\n{_prompts(source)}".rstrip() + "\n",
        _shape(source),
        _training(source),
        _data(told),
        _results(source, told),
        _origin(source, told),
        _limits(source, form, told),
    ]
    return "\n".join(section for section in sections if section)


def _front(source: Source, form: Form, told: Evidence) -> str:
    tag = "sentence-similarity" if source.facts.get("pooling") else _TAGS[form.auto]
    lines = [f"library_name: {form.library}", f"pipeline_tag: {tag}"]
    languages = _languages(told)
    if languages:
        lines += ["language:", *(f"- {language}" for language in languages[:_LANGUAGES])]
    return "\n".join(["---", *lines, "tags:", "- headrace", "---"])


def _opening(source: Source, form: Form, told: Evidence) -> str:
    kind = "A sentence encoder" if source.facts.get("pooling") else _KINDS[source.family.kind]
    lines = [f"{kind} exported from Headrace {form.told}"]
    if told.description:
        lines.append(_cell(told.description))
    return "\n\n".join(lines)


def _prompts(source: Source) -> str:
    if source.family.kind != "causal" or "imported" in source.facts:
        return ""
    return (
        "In training each document was followed by the end-of-text token, and so it stands before a text, too: begin a "
        "prompt\nwith `tokenizer.bos_token`."
    )


def _shape(source: Source) -> str:
    config = source.config
    rows = {
        "architecture": source.architecture,
        "parameters": f"{source.parameters:,}",
        "layers": config.layers,
        "width": config.width,
        "heads": f"{config.heads} (keys and values: {config.key_value_heads}), {config.width_of_head} wide",
        "context": f"{config.context_length:,} tokens",
        "vocabulary": f"{source.vocabulary_size:,} tokens",
        "dropout in training": f"{config.dropout:g} (attention: {config.attention_dropout:g})",
    }
    if pooling := source.facts.get("pooling"):
        rows["vector of a text"] = f"{pooling['mode']}" + (", of length 1" if pooling.get("normalize") else "")
    if task := source.facts.get("task"):
        rows["task"] = f"{task.get('name', '')} ({task.get('kind', '')})" if isinstance(task, dict) else task
    return _section("Shape", _table(("Fact", "Value"), rows.items()))


def _training(source: Source) -> str:
    facts = {key: value for key, value in source.facts.items() if key not in _HIDDEN}
    metrics = source.facts.get("metrics")
    if isinstance(metrics, dict):
        facts["metrics"] = {name: metrics[name] for name in _METRICS if name in metrics}
    rows = list(_flattened(facts))
    return _section("Training", _table(("Fact", "Value"), rows)) if rows else ""


def _data(told: Evidence) -> str:
    if not told.corpus and not told.funnel:
        return ""
    parts = []
    if told.funnel:
        rows = [[row["stage"], *(_number(row[key]) for key in ("read", "kept", "dropped"))] for row in told.funnel]
        parts.append(
            "Documents, from the sources to the tokens:\n\n" + _table(("Stage", "Read", "Kept", "Dropped"), rows)
        )
    if told.corpus:
        sources: dict[str, list[Any]] = {}
        for row in told.corpus:
            entry = sources.setdefault(row["source"], [row.get("license") or "unknown", 0, 0])
            entry[1] += row["documents"]
            entry[2] += row["tokens"]
        rows = [
            [name, licence, _number(documents), _number(tokens)]
            for name, (licence, documents, tokens) in sorted(sources.items(), key=lambda item: -item[1][2])
        ]
        parts.append("What it was trained on:\n\n" + _table(("Source", "Licence", "Documents", "Tokens"), rows))
        parts.append("Tokens by language: " + ", ".join(_shares(told)) + ".\n")
    return _section("Data", "\n".join(parts))


def _results(source: Source, told: Evidence) -> str:
    if not told.results:
        return ""
    rows = [
        [row["metric"], _number(row["value"]), row.get("baseline") or "", row.get("note") or ""] for row in told.results
    ]
    return _section("Results", _table(("Metric", "Value", "Compared with", "Note"), rows))


def _origin(source: Source, told: Evidence) -> str:
    rows: list[tuple[str, Any]] = []
    if told.model:
        rows.append(("model", told.model))
    if told.recipe:
        rows.append(("recipe", told.recipe))
    rows += list(_flattened({key: source.facts[key] for key in ("imported", "parent") if key in source.facts}))
    rows += [(f"step {number}", step) for number, step in enumerate(told.steps, 1)]
    rows += [(f"stage {name}", f"`{fingerprint}`") for name, fingerprint in told.stages.items()]
    return _section("Where it comes from", _table(("Fact", "Value"), rows)) if rows else ""


def _limits(source: Source, form: Form, told: Evidence) -> str:
    lines = [f"It reads {source.config.context_length:,} tokens at most; no more was ever seen in training."]
    if untrained := (source.facts.get("imported") or {}).get("untrained"):
        lines.append(f"Never trained, and drawn at random: {', '.join(untrained)}.")
    if form.library != "onnx" and source.facts.get("task") and source.family.kind == "encoder":
        lines.append("The heads of its tasks are not part of this folder; an export as ONNX has them.")
    if told.corpus:
        unknown = sorted({row["source"] for row in told.corpus if not row.get("license")})
        lines += [f"Licence unknown: {', '.join(unknown)}."] if unknown else []
        lines.append("It repeats what its sources hold, errors and views included; nobody has tuned it to be safe.")
    dirty = [row["metric"] for row in told.results if "NOT cleaned" in str(row.get("note"))]
    if dirty:
        lines.append(f"The corpus was not searched for the texts of these results: {', '.join(dirty)}.")
    return _section("Limits", "".join(f"- {_cell(line)}\n" for line in lines))


def _languages(told: Evidence) -> list[str]:
    tokens: dict[str, int] = {}
    for row in told.corpus:
        if row.get("language") not in (None, "", "unknown"):
            tokens[row["language"]] = tokens.get(row["language"], 0) + row["tokens"]
    return sorted(tokens, key=lambda language: -tokens[language])


def _shares(told: Evidence) -> Iterator[str]:
    """The share of each language, those beyond the first ones together."""
    tokens: dict[str, int] = {}
    for row in told.corpus:
        language = row.get("language") or "unknown"
        tokens[language] = tokens.get(language, 0) + row["tokens"]
    total = max(1, sum(tokens.values()))
    ordered = sorted(tokens.items(), key=lambda item: -item[1])
    for language, count in ordered[:_LANGUAGES]:
        yield f"{language} {count / total:.1%}"
    if rest := sum(count for _, count in ordered[_LANGUAGES:]):
        yield f"{len(ordered) - _LANGUAGES} others {rest / total:.1%}"


def _flattened(facts: Mapping[str, Any], at: str = "") -> Iterator[tuple[str, Any]]:
    for key, value in facts.items():
        if isinstance(value, dict):
            yield from _flattened(value, f"{at}{key}.")
        elif value is not None and not isinstance(value, list):
            yield f"{at}{key}", f"{value:.6g}" if isinstance(value, float) else value


def _section(title: str, body: str) -> str:
    return f"## {title}\n\n{body.rstrip()}\n"


def _table(head: Sequence[str], rows: Any) -> str:
    lines = ["| " + " | ".join(head) + " |", "|" + "---|" * len(head)]
    lines += ["| " + " | ".join(_cell(value) for value in row) + " |" for row in rows]
    return "\n".join(lines) + "\n"


def _number(value: Any) -> str:
    if isinstance(value, int) and not isinstance(value, bool):
        return f"{value:,}"
    return f"{value:.4g}" if isinstance(value, float) else str(value)


def _cell(value: Any) -> str:
    return " ".join(str(value).split()).replace("|", "\\|")
