"""Bounds on what a chat template makes while it is rendered, however little text it is: a template may be anybody's.

Jinja's sandbox keeps a template from Python's insides, not from the machine's memory: `x ~ x` in a loop doubles. Here
all that a template makes is counted, text by characters and lists by their items, and each turn of its loops and each
call of its macros. What could make much of little at once (`replace`, `join`, `*`, `%`, ...) is reckoned before.
"""

from __future__ import annotations

import contextlib
import functools
import re
from collections.abc import Callable, Iterator, Mapping
from contextvars import ContextVar
from typing import Any

MOST_MADE = 1 << 25
"""Characters, and a sixteenth as many items of lists, that a template may make in all."""
MOST_AT_ONCE = 1 << 24
"""Characters of any one text."""
MOST_PARTS = 1 << 20
"""Items that a text may be taken apart into."""
MOST_TURNS = 100_000
"""Turns of all loops, and calls of macros."""
FILTERS = frozenset(
    "abs attr capitalize count d default dictsort e escape first float groupby indent int items join last length list "
    "lower map max min reject rejectattr replace reverse round safe select selectattr sort string sum title tojson "
    "trim unique upper".split()
)
"""Those of Jinja's that a template may use."""
CHARGE, WRITE, CONCATENATE, TURN = "bounds charge", "bounds write", "bounds concatenate", "bounds turn"
"""Names of the filters that count; with a space in them, so that no template can name them."""
_ITEM = 16
_WIDE = re.compile(r"\d{5,}|\*|\{[^{}]*\{")
"""A width of a format that is large, or that a value names."""
_REFUSED = ("center", "encode", "expandtabs", "format_map", "ljust", "maketrans", "rjust", "translate", "zfill")


class TooMuch(ValueError):
    """A template makes more than it may."""


class _Meter:
    made = 0
    turns = 0


_METER: ContextVar[_Meter] = ContextVar("meter")


@contextlib.contextmanager
def metered() -> Iterator[None]:
    """Count from here on."""
    token = _METER.set(_Meter())
    try:
        yield
    finally:
        _METER.reset(token)


def charge(value: Any) -> Any:
    """Count a value that was made; gives it back. Raises TooMuch."""
    if isinstance(value, str):
        _count(len(value))
    elif isinstance(value, list | tuple | dict | set):
        _count(_ITEM * len(value))
    return value


def extent(value: Any, known: dict[int, int] | None = None) -> int:
    """Characters that a value written as text takes, about; raises TooMuch where they are over MOST_AT_ONCE."""
    if isinstance(value, str):
        return len(value)
    if not isinstance(value, list | tuple | dict | set):
        return 8
    known = {} if known is None else known
    if id(value) not in known:
        parts = [part for pair in value.items() for part in pair] if isinstance(value, dict) else value
        known[id(value)] = fitting(2 + sum(4 + extent(part, known) for part in parts))
    return known[id(value)]


def fitting(size: int) -> int:
    """A size that a single text may have; raises TooMuch."""
    if size > MOST_AT_ONCE:
        raise TooMuch(f"it makes a text of over {MOST_AT_ONCE:,} characters of little")
    return size


def check_operation(operator: str, left: Any, right: Any) -> None:
    """Raise TooMuch for a product, a power or a formatted text that is too large."""
    if operator == "%" and isinstance(left, str):
        _check_format(left, "%", right)
    elif operator in ("*", "**"):
        sizes = [_ITEM * len(one) if isinstance(one, list | tuple) else _size(one) for one in (left, right)]
        if (operator == "*" and sizes[0] * sizes[1] > MOST_AT_ONCE) or (
            operator == "**" and (sizes[0] > 10_000 or sizes[1] > 16)
        ):
            raise TooMuch(f"{operator} makes too much of its operands")


def check_call(function: Any, arguments: tuple[Any, ...], options: Mapping[str, Any]) -> None:
    """Raise TooMuch for a method of a text that makes too much of it."""
    # Jinja puts a function of its own around `format`.
    function = getattr(function, "__wrapped__", function)
    text, name = getattr(function, "__self__", None), getattr(function, "__name__", "")
    if not isinstance(text, str):
        return
    if name in _REFUSED:
        raise TooMuch(f"the method {name} is not for chat templates")
    if name == "format":
        _check_format(text, "{", [*arguments, *options.values()])
    elif name in ("split", "rsplit", "splitlines"):
        separator = arguments[0] if arguments and isinstance(arguments[0], str) else options.get("sep")
        _check_parts(text.count(separator) if separator else len(text) // 2)
    elif name in ("replace", "join"):
        check_filter(name, text, arguments if name == "replace" else (arguments[0] if arguments else (), text), {})


def check_filter(name: str, value: Any, arguments: tuple[Any, ...], options: Mapping[str, Any]) -> None:
    """Raise TooMuch for a filter, or a method of the same name, that makes too much of a value."""
    if name == "replace":
        old, new = (str(one) for one in (*arguments, *options.values(), "", "")[:2])
        text = str(value) if extent(value) else ""
        fitting(len(text) + text.count(old) * len(new))
    elif name == "join":
        # Of the filter (value, separator); of the method the separator is the text itself.
        parts, separator = arguments if isinstance(value, str) and len(arguments) == 2 else (value, arguments[:1])
        size = len(parts) if hasattr(parts, "__len__") else MOST_TURNS
        fitting(extent(parts) + size * extent(separator))
    elif name == "indent":
        width = arguments[0] if arguments else options.get("width", 4)
        fitting(extent(value) + str(value).count("\n") * _size(width) + _size(width))
    elif name == "tojson":
        fitting(6 * extent(value))
        if _size(options.get("indent") or 0) > 16:
            raise TooMuch("tojson with an indent over 16")
    elif name in ("string", "escape", "e"):
        extent(value)
    elif name == "sum" and not all(isinstance(one, int | float | str) for one in (*arguments, *options.values())):
        raise TooMuch("sum adds up numbers")
    elif name in ("list", "sort", "unique", "map", "select", "reject", "groupby") and isinstance(value, str):
        _check_parts(len(value))


def bounded_filter(name: str, function: Callable[..., Any]) -> Callable[..., Any]:
    """A filter that is reckoned before, and what it makes counted."""
    passes = hasattr(function, "jinja_pass_arg")

    @functools.wraps(function)  # with the mark of what Jinja passes
    def bounded(*arguments: Any, **options: Any) -> Any:
        given = arguments[1:] if passes else arguments
        check_filter(name, given[0] if given else "", given[1:], options)
        return charge(function(*arguments, **options))

    return bounded


def counting_filters() -> dict[str, Callable[..., Any]]:
    """The filters that `bounded_tree` puts into a template."""
    from jinja2 import pass_context

    def write(value: Any) -> Any:
        _count(extent(value))
        return value

    def concatenate(values: list[Any]) -> str:
        fitting(sum(extent(value) for value in values))
        return str(charge("".join(map(str, values))))

    def turn(weight: int) -> None:
        meter = _METER.get()
        meter.turns += 1
        if meter.turns > MOST_TURNS:
            raise TooMuch(f"its loops take over {MOST_TURNS:,} turns")
        _count(weight)

    known: dict[str, Callable[[Any], Any]] = {CHARGE: charge, WRITE: write, CONCATENATE: concatenate, TURN: turn}

    def marked(function: Callable[[Any], Any]) -> Callable[..., Any]:
        # One that is passed the context is never carried out while a template is compiled.
        return pass_context(lambda context, value: function(value))

    return {name: marked(function) for name, function in known.items()}


def bounded_tree(tree: Any) -> Any:
    """A parsed template in which all that makes something counts it."""
    from jinja2 import nodes
    from jinja2.visitor import NodeTransformer

    def filtered(node: Any, name: str) -> Any:
        return nodes.Filter(node, name, [], [], None, None).set_lineno(node.lineno)

    making = (nodes.Add, nodes.Mul, nodes.Mod, nodes.Call, nodes.List, nodes.Dict)
    looping = (nodes.For, nodes.Macro, nodes.CallBlock)

    class Counting(NodeTransformer):
        def generic_visit(self, node: Any, *arguments: Any, **options: Any) -> Any:
            node = super().generic_visit(node, *arguments, **options)
            if isinstance(node, nodes.Concat):
                return filtered(nodes.List(node.nodes).set_lineno(node.lineno), CONCATENATE)
            if isinstance(node, nodes.Output):
                plain = nodes.TemplateData
                node.nodes = [one if isinstance(one, plain) else filtered(one, WRITE) for one in node.nodes]
            elif isinstance(node, looping):
                weight = sum(len(data.data) for data in node.find_all(nodes.TemplateData))
                count = filtered(nodes.Const(weight).set_lineno(node.lineno), TURN)
                node.body.insert(0, nodes.ExprStmt(count).set_lineno(node.lineno))
            loads = isinstance(node, nodes.Tuple) and node.ctx == "load"
            sliced = isinstance(node, nodes.Getitem) and isinstance(node.arg, nodes.Slice)
            return filtered(node, CHARGE) if isinstance(node, making) or loads or sliced else node

    return Counting().visit(tree)


def _count(size: int) -> None:
    meter = _METER.get()
    meter.made += size
    if meter.made > MOST_MADE:
        raise TooMuch(f"it makes over {MOST_MADE:,} characters in all")


def _size(value: Any) -> int:
    return len(value) if hasattr(value, "__len__") else int(abs(value))


def _check_parts(count: int) -> None:
    if count > MOST_PARTS:
        raise TooMuch(f"it takes a text apart into over {MOST_PARTS:,} parts")


def _check_format(pattern: str, mark: str, values: Any) -> None:
    if _WIDE.search(pattern):
        raise TooMuch("a format with a large width")
    fitting(len(pattern) + pattern.count(mark) * (10_000 + extent(values)))
