"""The README.md of an exported model: what it is and where it comes from, from the checkpoint's own facts."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from training.config import ModelConfig
from training.models.huggingface.family import Family

_HIDDEN = ("format", "model", "vocabulary_size", "files")
_METRICS = ("validation/loss", "validation/perplexity", "validation/bits_per_byte")
_TAGS = {
    "AutoModelForCausalLM": "text-generation",
    "AutoModelForMaskedLM": "fill-mask",
    "AutoModelForSeq2SeqLM": "text2text-generation",
    "AutoModelForPreTraining": "feature-extraction",
}
"""What model hubs call the use of a model, by the Auto class that loads it."""
_KINDS = {"causal": "A language model", "encoder": "An encoder", "encoder_decoder": "An encoder and decoder"}


def model_card(
    name: str, family: Family, config: ModelConfig, vocabulary_size: int, parameters: int, facts: dict[str, Any]
) -> str:
    """Markdown with the front matter that model hubs read; `facts` is the checkpoint's config.json."""
    architecture = family.architecture(config)
    rows = {
        "architecture": architecture,
        "parameters": f"{parameters:,}",
        "layers": config.layers,
        "width": config.width,
        "heads": f"{config.heads} (keys and values: {config.key_value_heads}), {config.width_of_head} wide",
        "context": f"{config.context_length:,} tokens",
        "vocabulary": f"{vocabulary_size:,} tokens",
        "dropout in training": f"{config.dropout:g} (attention: {config.attention_dropout:g})",
    }
    shown = {key: value for key, value in facts.items() if key not in _HIDDEN}
    if "metrics" in shown:
        shown["metrics"] = {name: value for name, value in shown["metrics"].items() if name in _METRICS}
    rows |= dict(_flattened(shown))
    table = "\n".join(f"| {_cell(key)} | {_cell(value)} |" for key, value in rows.items())
    prompts = _PROMPTS if family.kind == "causal" and "imported" not in facts else ""
    auto = family.architectures[architecture]
    return _CARD.format(
        name=_cell(name),
        table=table,
        architecture=architecture,
        prompts=prompts,
        auto=auto,
        tag=_TAGS[auto],
        kind=_KINDS[family.kind],
    )


def _flattened(facts: dict[str, Any], at: str = "") -> Iterator[tuple[str, Any]]:
    for key, value in facts.items():
        if isinstance(value, dict):
            yield from _flattened(value, f"{at}{key}.")
        elif value is not None and not isinstance(value, list):
            yield f"{at}{key}", f"{value:.6g}" if isinstance(value, float) else value


def _cell(value: Any) -> str:
    return " ".join(str(value).split()).replace("|", "\\|")


_PROMPTS = """\
In training each document was followed by the end-of-text token, and so it stands before a text, too: begin a prompt
with `tokenizer.bos_token`.

"""
_CARD = """\
---
library_name: transformers
pipeline_tag: {tag}
tags:
- headrace
---
# {name}

{kind} exported from Headrace as transformers' `{architecture}`. Weights are float32.

```python
from transformers import {auto}, AutoTokenizer

model = {auto}.from_pretrained("path/of/this/folder")
tokenizer = AutoTokenizer.from_pretrained("path/of/this/folder")
```

{prompts}| Fact | Value |
|---|---|
{table}
"""
