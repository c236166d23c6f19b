"""The README.md of an exported model: what it is and where it comes from, from the checkpoint's own facts."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from training.models.transformer import Transformer

_HIDDEN = ("format", "model", "vocabulary_size", "files")
_METRICS = ("validation/loss", "validation/perplexity", "validation/bits_per_byte")


def model_card(name: str, architecture: str, model: Transformer, facts: dict[str, Any]) -> str:
    """Markdown with the front matter that model hubs read; `facts` is the checkpoint's config.json."""
    config = model.config
    rows = {
        "architecture": architecture,
        "parameters": f"{model.parameters_count():,}",
        "layers": config.layers,
        "width": config.width,
        "heads": f"{config.heads} (keys and values: {config.key_value_heads}), {config.width_of_head} wide",
        "context": f"{config.context_length:,} tokens",
        "vocabulary": f"{model.vocabulary_size:,} tokens",
        "dropout in training": f"{config.dropout:g} (attention: {config.attention_dropout:g})",
    }
    shown = {key: value for key, value in facts.items() if key not in _HIDDEN}
    if "metrics" in shown:
        shown["metrics"] = {name: value for name, value in shown["metrics"].items() if name in _METRICS}
    rows |= dict(_flattened(shown))
    table = "\n".join(f"| {_cell(key)} | {_cell(value)} |" for key, value in rows.items())
    prompts = "" if "imported" in facts else _PROMPTS
    return _CARD.format(name=_cell(name), table=table, architecture=architecture, prompts=prompts)


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
pipeline_tag: text-generation
tags:
- headrace
---
# {name}

A language model exported from Headrace as transformers' `{architecture}`. Weights are float32.

```python
from transformers import AutoModelForCausalLM, AutoTokenizer

model = AutoModelForCausalLM.from_pretrained("path/of/this/folder")
tokenizer = AutoTokenizer.from_pretrained("path/of/this/folder")
```

{prompts}| Fact | Value |
|---|---|
{table}
"""
