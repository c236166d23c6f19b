"""The chat template of models that bring none."""

from __future__ import annotations

DEFAULT_TEMPLATE = """\
{%- for message in messages -%}
    {{- message['role'] | capitalize + ': ' + message['content'] | trim -}}
    {%- if message['role'] == 'assistant' -%}{{- eos_token -}}{%- endif -%}
    {{- '\\n\\n' -}}
{%- endfor -%}
{%- if add_generation_prompt -%}{{- 'Assistant:' -}}{%- endif -%}
"""
"""Turns in plain words, so that it needs no special tokens that a tokenizer lacks and a pretrained model has seen the
like. An answer ends with the end of the text, as a document does. `Assistant:` has no space behind it: byte-level
tokens hold the space before their word, so the answer brings its own.
"""
