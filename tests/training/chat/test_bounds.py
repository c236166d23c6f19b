"""A chat template of anybody's takes neither memory nor turns without bound, and honest ones lose nothing."""

from __future__ import annotations

import json
import tracemalloc

import pytest

from training.chat import ChatTemplate
from training.chat.bounds import MOST_AT_ONCE, TooMuch, extent

QUESTION = [{"role": "user", "content": "Hello"}]
BIG = "{% set big = 'x' * 10000000 %}"
LIST = "{% set n = namespace(x=[]) %}"
HOSTILE = {
    "doubling": "{% set n = namespace(x='ab') %}{% for i in range(99) %}{% set n.x = n.x ~ n.x %}{% endfor %}",
    "adding": "{% set n = namespace(x='ab') %}{% for i in range(99) %}{% set n.x = n.x + n.x %}{% endfor %}",
    "adding lists": "{% set n = namespace(x=[1]) %}{% for i in range(99) %}{% set n.x = n.x + n.x %}{% endfor %}",
    "keeping": BIG + LIST + "{% for i in range(999) %}{% set n.x = n.x + [big ~ i] %}{% endfor %}",
    "slicing": BIG + LIST + "{% for i in range(999) %}{% set n.x = n.x + [big[i:]] %}{% endfor %}",
    "many at once": BIG + "{% set y = " + " ~ ".join(["big"] * 500) + " %}",
    "a literal": "{% set n = namespace(x=[]) %}{% for i in range(99999) %}{% set n.x = n.x + [["
    + "1, " * 1000
    + "]] %}{% endfor %}",
    "text": "{% for i in range(99999) %}" + "y" * 1000 + "{% endfor %}",
    "kept text": "{% set x %}{% for i in range(99999) %}" + "y" * 1000 + "{% endfor %}{% endset %}",
    "turns": "{% for i in range(99999) %}{% for j in range(99999) %}{% endfor %}{% endfor %}",
    "turns of generators": "{% for i in range(99999) | map('string') %}{% for j in range(9) %}{% endfor %}{% endfor %}",
    "calls": "{% macro m(n) %}{% if n %}{{ m(n - 1) }}{{ m(n - 1) }}{% endif %}{% endmacro %}{{ m(60) }}",
    "recursion": "{% macro m() %}{{ m() }}{% endmacro %}{{ m() }}",
    "recursive loops": "{% for a in [1] recursive %}{{ loop([1, 1]) }}{% endfor %}",
    "products": "{{ 'x' * 99999999999 }}",
    "lists of lists": "{% set x = ['y' * 1000000] * 1000000 %}{{ x | string }}",
    "written lists": "{% set x = ['y' * 1000000] * 100000 %}{{ x }}",
    "joined": "{% set x = ['y' * 1000000] * 100000 %}{{ x | join }}",
    "joined by a method": "{% set x = ['y'] * 100000 %}{{ ('z' * 1000000).join(x) }}",
    "as JSON": "{% set x = ['y' * 1000000] * 100000 %}{{ x | tojson }}",
    "JSON with an indent": "{{ [1] | tojson(indent=999999999) }}",
    "replaced": BIG + "{{ big | replace('x', big) }}",
    "replaced by a method": BIG + "{{ big.replace('x', big) }}",
    "indented": "{{ 'x' | indent(999999999, true) }}",
    "many at a time": BIG + "{% set x = ([big] * 100000) | map('upper') | list %}",
    "summed": "{% set x = ([[1] * 100000] * 100000) | sum(start=[]) %}",
    "taken apart": "{% set x = 'x' * 16000000 %}{{ x | list | length }}",
    "split": "{% set x = 'x' * 16000000 %}{{ x.split('x') | length }}",
    "justified": "{{ 'x'.ljust(9999999999) }}",
    "centred": "{{ 'x' | center(9999999999) }}",
    "formatted": "{{ '%9999999999d' % 1 }}",
    "formatted by a value": "{{ '%*d' % (9999999999, 1) }}",
    "formatted by a method": "{{ '{:>9999999999}'.format(1) }}",
    "formatted by a value of a method": "{{ '{:>{}}'.format(1, 9999999999) }}",
    "formatted often": BIG + "{{ ('{0}' * 1000).format(big) }}",
    "nested": "{{ " + "(" * 50_000 + "1" + ")" * 50_000 + " }}",
}


SLOW = ("calls", "lists of lists", "turns", "turns of generators")
"""Whose memory is not looked at, as that takes long."""


@pytest.mark.parametrize("attack", HOSTILE)
def test_what_takes_too_much_is_refused(attack: str) -> None:
    if attack in SLOW:
        with pytest.raises(ValueError, match="chat template"):
            ChatTemplate(HOSTILE[attack]).render(QUESTION)
        return
    tracemalloc.start()
    try:
        with pytest.raises(ValueError, match="chat template"):
            ChatTemplate(HOSTILE[attack]).render(QUESTION)
        assert tracemalloc.get_traced_memory()[1] < 400_000_000
    finally:
        tracemalloc.stop()


HONEST = """{%- set n = namespace(text='', tools=[]) -%}
{%- for message in messages[::-1] -%}{%- set n.text = message.content.split('</think>')[-1].lstrip('\\n') ~ n.text -%}
{%- endfor -%}
{%- macro shown(message, index=0) -%}
{{- '%s %d|' % (message.role, index) }}{{ '{} '.format(message.content) }}{%- endmacro -%}
{%- for message in messages -%}{{ shown(message, loop.index0) }}{{ messages[loop.index0:] | length }}
{{- message | tojson(indent=2) | indent(4) | replace('"', "'") }}{%- if not loop.last -%}, {%- endif -%}{%- endfor -%}
{{- messages | map(attribute='role') | unique | list | join(', ') }}{{ n.text * 2 }}{{ 7 % 4 }}{{ [1, 2] | sum }}
{{- messages | selectattr('role', 'equalto', 'user') | list | length }}{{ {'a': 1}.items() | list }}
{{- none }}{{ missing }}"""


def test_a_long_dialogue_is_written_as_ever() -> None:
    """By Jinja itself, without bounds; a megabyte of text goes through."""
    from jinja2 import Environment

    messages = [{"role": role, "content": f"<b>word {place}</b>\n"} for place in range(300) for role in ("user", "bot")]
    plain = Environment(trim_blocks=True, lstrip_blocks=True)
    plain.filters["tojson"] = to_json
    wanted = plain.from_string(HONEST).render(messages=messages)
    assert ChatTemplate(HONEST).render(messages) == wanted
    long = [{"role": "user", "content": "word " * 200_000}]
    assert len(ChatTemplate().render(long)) > 900_000


def to_json(value: object, indent: int | None = None) -> str:
    return json.dumps(value, ensure_ascii=False, indent=indent)


def test_counting_begins_anew_with_each_text() -> None:
    template = ChatTemplate("{{ 'x' * 9000000 }}")
    assert [len(template.render(QUESTION)) for _ in range(5)] == [9_000_000] * 5


def test_the_extent_of_a_list_that_holds_itself_often() -> None:
    deep: list[object] = ["x" * 1000]
    for _ in range(60):
        deep = [deep, deep]
    with pytest.raises(TooMuch):
        extent(deep)
    assert extent(["abc", {"key": 1}]) < 100 < MOST_AT_ONCE
