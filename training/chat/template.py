"""Rendering a chat template, and finding the answers in what was rendered."""

from __future__ import annotations

import functools
import json
import secrets
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from training.chat import bounds
from training.chat.default import DEFAULT_TEMPLATE

_REFUSALS = (TypeError, ValueError, ArithmeticError, LookupError, AttributeError, RecursionError)
Message = Mapping[str, Any]
"""`role` (system, user, assistant, ...) and `content`, both strings."""


@dataclass(frozen=True)
class ChatTemplate:
    """A Jinja template with the tokens that it may name; `source` is what transformers calls `chat_template`."""

    source: str = DEFAULT_TEMPLATE
    begin_of_text: str = ""
    """What the template reads as `bos_token`."""
    end_of_text: str = ""
    """What the template reads as `eos_token`."""

    def __post_init__(self) -> None:
        compile_template(self.source)

    def render(self, messages: Sequence[Message], answer: bool = False) -> str:
        """The text of a dialogue; with `answer` up to where the model's next answer begins.

        The same text as transformers' `apply_chat_template(..., tokenize=False, add_generation_prompt=answer)`. Raises
        ValueError for messages without role or content, and for those that the template refuses.
        """
        return self._render(messages, answer, {})

    def answers(self, messages: Sequence[Message]) -> tuple[str, list[tuple[int, int]]]:
        """The text of a dialogue, and where in it the assistant's answers lie as (first, end) characters.

        An answer includes the token that ends it, so that a model learns to end. A template with `{% generation %}`
        blocks says itself what is an answer, as transformers' `return_assistant_tokens_mask` takes it; in another an
        answer is what it adds to the text that asks for one. Raises ValueError where the template rewrites earlier
        turns once there are later ones: then the dialogue shows no text that the model would really be asked with.
        """
        if "generation" in compile_template(self.source).tags:
            spans: list[tuple[int, int]] = []
            return self._render(messages, False, {"_spans": spans}), spans
        text = self.render(messages)
        spans = []
        for index, message in enumerate(messages):
            if message["role"] == "assistant":
                spans.append(self._answer(messages, index, text))
        return text, spans

    def _answer(self, messages: Sequence[Message], index: int, text: str) -> tuple[int, int]:
        asked = self.render(messages[:index], answer=True) if index else ""
        answered = self.render(messages[: index + 1])
        if not (answered.startswith(asked) and text.startswith(answered.rstrip())):
            raise ValueError(
                f"messages[{index}]: the chat template renders this dialogue otherwise than as its turns one after the "
                "other, so the answers in it cannot be told; give it {% generation %} blocks, or one answer a dialogue"
            )
        return len(asked), max(len(asked), len(answered.rstrip()))

    def _render(self, messages: Sequence[Message], answer: bool, extra: dict[str, Any]) -> str:
        from jinja2 import TemplateError

        check_messages(messages)
        try:
            return compile_template(self.source).render(
                # A template sees plain values alone, never an object with methods.
                messages=json.loads(json.dumps([dict(message) for message in messages])),
                add_generation_prompt=answer,
                bos_token=self.begin_of_text,
                eos_token=self.end_of_text,
                **extra,
            )
        except (*_REFUSALS, TemplateError) as error:
            raise ValueError(f"the chat template refuses these messages: {error}") from None


def render(messages: Sequence[Message], template: ChatTemplate | None = None, answer: bool = False) -> str:
    """`ChatTemplate.render` with the default template where none is given."""
    return (template or ChatTemplate()).render(messages, answer)


def check_messages(messages: Sequence[Message]) -> None:
    """Raise ValueError naming the first thing that is wrong with a list of messages."""
    if isinstance(messages, str | bytes | Mapping) or not isinstance(messages, Sequence):
        raise ValueError("messages: expected a list of objects with role and content")
    if not messages:
        raise ValueError("messages: empty; a dialogue has at least one")
    for index, message in enumerate(messages):
        if not isinstance(message, Mapping):
            raise ValueError(f"messages[{index}]: expected an object with role and content")
        for name in ("role", "content"):
            if not isinstance(message.get(name), str):
                raise ValueError(f"messages[{index}].{name}: expected a string")
        if not message["role"]:
            raise ValueError(f"messages[{index}].role: empty")


class Compiled:
    """A template ready to render."""

    def __init__(self, template: Any, tags: set[str]) -> None:
        self._template = template
        self.tags = tags

    def render(self, **values: Any) -> str:
        """The text; where `_spans` is given, the places of the generation blocks are appended to it."""
        spans: list[tuple[int, int]] | None = values.pop("_spans", None)
        if spans is None:
            return self._text(values)
        mark = secrets.token_hex(16)  # nothing that a message could hold
        marked = self._text({**values, "_mark": mark})
        text = ""
        for number, part in enumerate(marked.split(mark)):
            if number % 2:
                spans.append((len(text), len(text) + len(part)))
            text += part
        return text

    def _text(self, values: Mapping[str, Any]) -> str:
        pieces, length = [], 0
        with bounds.metered():
            for piece in self._template.generate(**values):
                length = bounds.fitting(length + len(piece))
                pieces.append(piece)
        return "".join(pieces)


@functools.lru_cache(maxsize=64)
def compile_template(source: str) -> Compiled:
    """Compile a template in a sandbox; raises ValueError for one that is not Jinja, or where jinja2 is missing."""
    try:
        from jinja2 import TemplateSyntaxError
    except ImportError:
        raise ValueError("chat templates need the package jinja2: pip install jinja2") from None
    try:
        return Compiled(_environment().from_string(source), _tags(source))
    except TemplateSyntaxError as error:
        raise ValueError(f"the chat template is not valid, line {error.lineno}: {error.message}") from None
    except (RecursionError, MemoryError, SyntaxError) as error:  # of Python's own compiler
        raise ValueError(f"the chat template is not valid: its parts are nested too deeply: {error}") from None


def _tags(source: str) -> set[str]:
    """Names of the blocks (`for`, `if`, `generation`, ...) of a template."""
    found, inside = set(), False
    for _, kind, value in _environment().lex(source):
        if kind == "block_begin":
            inside = True
        elif inside and kind == "name":
            found.add(value)
            inside = False
    return found


@functools.cache
def _environment() -> Any:
    """Jinja as transformers sets it up for chat templates: the same whitespace, filters and functions.

    The sandbox lets a template reach no attribute that Python uses inside, call nothing unsafe and change no value
    given to it, so that the template of a model from elsewhere can do nothing but write text; how much, `bounds` says.
    """
    from jinja2 import nodes
    from jinja2.exceptions import SecurityError, TemplateError
    from jinja2.ext import Extension, loopcontrols
    from jinja2.sandbox import ImmutableSandboxedEnvironment
    from jinja2.utils import Namespace

    class Generation(Extension):
        """`{% generation %} ... {% endgeneration %}` around what the model writes."""

        tags = {"generation"}  # noqa: RUF012

        def parse(self, parser: Any) -> Any:
            """Put the marks, where they are asked for, around the block's content."""
            line = next(parser.stream).lineno
            body = parser.parse_statements(("name:endgeneration",), drop_needle=True)
            mark = nodes.Output(
                [nodes.Filter(nodes.Name("_mark", "load"), "default", [nodes.Const("")], [], None, None)]
            )
            return [mark.set_lineno(line), *body, mark.set_lineno(line)]

    class Names(Namespace):
        """A template's own variables; without names of Python's insides."""

        def __setitem__(self, name: str, value: Any) -> None:
            if str(name).startswith("_"):
                raise SecurityError(f"a namespace takes no name that begins with an underscore, got {name!r}")
            super().__setitem__(name, value)

    class Sandbox(ImmutableSandboxedEnvironment):
        """With bounds on what a template makes."""

        intercepted_binops = frozenset(["*", "**", "%"])

        def call_binop(self, context: Any, operator: str, left: Any, right: Any) -> Any:
            """Compute a product, a power or a formatted text where it stays small."""
            bounds.check_operation(operator, left, right)
            return super().call_binop(context, operator, left, right)

        def call(__self, __context: Any, __function: Any, *arguments: Any, **options: Any) -> Any:
            """Call what is safe and makes not too much."""
            bounds.check_call(__function, arguments, options)
            return super().call(__context, __function, *arguments, **options)

        def _parse(self, source: str, name: str | None, filename: str | None) -> Any:
            return bounds.bounded_tree(super()._parse(source, name, filename))

    def refuse(message: str) -> None:
        raise TemplateError(str(message))

    def now(pattern: str) -> str:
        from datetime import datetime

        return datetime.now().strftime(pattern[:1000])

    def to_json(value: Any, ensure_ascii: bool = False, indent: int | None = None, **options: Any) -> str:
        return json.dumps(value, ensure_ascii=ensure_ascii, indent=indent, **options)

    # Nothing is computed while a template is compiled, where nobody counts.
    environment = Sandbox(trim_blocks=True, lstrip_blocks=True, extensions=[Generation, loopcontrols], optimized=False)
    known = {name: filter for name, filter in environment.filters.items() if name in bounds.FILTERS}
    known["tojson"] = to_json
    environment.filters = {name: bounds.bounded_filter(name, filter) for name, filter in known.items()}
    environment.filters |= bounds.counting_filters()
    for name in ("lipsum", "cycler", "joiner", "dict"):
        environment.globals.pop(name)
    environment.globals |= {"raise_exception": refuse, "strftime_now": now, "namespace": Names}
    return environment
