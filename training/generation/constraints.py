"""Text held to a regular expression or a JSON schema: which tokens may come next.

The grammar is followed by llguidance (an Earley parser over the bytes of the vocabulary's prefix tree), so a token may
cross the parts of a grammar, and the model's own way of cutting a text into tokens is not disturbed.

Shape suffix: V vocabulary of the model.
"""

from __future__ import annotations

import json
import threading
from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Literal

import numpy as np
from numpy.typing import NDArray

if TYPE_CHECKING:
    from tokenizers import Tokenizer

LARGEST_GRAMMAR = 1 << 16
"""Longest regular expression or schema, in characters: one from a stranger must not take the machine."""
_JSON = {"whitespace_flexible": False, "item_separator": ", ", "key_separator": ": "}
"""Written as Python's json does: a weak model that may write whitespace for ever will."""


@dataclass(frozen=True)
class Grammar:
    """What a text is to be: a `regex` that all of it matches, or a value of a JSON schema (as text)."""

    kind: Literal["regex", "json_schema"]
    source: str

    @classmethod
    def regex(cls, pattern: str) -> Grammar:
        """Rust's syntax of regular expressions without look-around; anchored at both ends."""
        return cls("regex", pattern)

    @classmethod
    def json_schema(cls, schema: Mapping[str, Any] | str | None = None) -> Grammar:
        """A JSON schema as an object or its text; by default any JSON object."""
        if schema is None:
            schema = {"type": "object"}
        return cls("json_schema", schema if isinstance(schema, str) else json.dumps(schema))


class Grammars:
    """Makes constraints for one tokenizer; the vocabulary's prefix tree is built at the first.

    Usable from several threads. `vocabulary_size` is the model's, which may be larger than the tokenizer's.
    """

    def __init__(self, tokenizer: Tokenizer, vocabulary_size: int, end_of_text: int) -> None:
        self._tokenizer = tokenizer
        self._vocabulary_size = vocabulary_size
        self._end_of_text = end_of_text
        self._lock = threading.Lock()
        self._tree: Any = None

    def constraint(self, grammar: Grammar) -> GrammarConstraint:
        """A constraint at the beginning of a text.

        Raises ValueError for a grammar that is wrong, too large or unsupported, for a tokenizer whose tokens do not
        stand for bytes, and where llguidance is not installed.
        """
        if len(grammar.source) > LARGEST_GRAMMAR:
            raise ValueError(f"{grammar.kind}: {len(grammar.source):,} characters; {LARGEST_GRAMMAR:,} are allowed")
        library, tree = _library(), self._prefix_tree()
        try:
            if grammar.kind == "regex":
                compiled = library.LLMatcher.grammar_from_regex(grammar.source)
            else:
                compiled = library.LLMatcher.grammar_from_json_schema(_schema(grammar.source), overrides=_JSON)
            matcher = library.LLMatcher(tree, compiled, log_level=0)
        except ValueError as error:
            raise ValueError(f"{grammar.kind}: {error}") from None
        if matcher.is_error():
            raise ValueError(f"{grammar.kind}: {_reason(matcher.get_error())}")
        return GrammarConstraint(matcher, self._vocabulary_size, self._end_of_text)

    def _prefix_tree(self) -> Any:
        with self._lock:
            if self._tree is None:
                size = max(self._vocabulary_size, self._tokenizer.get_vocab_size())
                try:
                    self._tree = _library().LLTokenizer(
                        self._tokenizer.to_str(), n_vocab=size, eos_token=self._end_of_text
                    )
                except ValueError as error:
                    raise ValueError(
                        f"constrained text needs a tokenizer of bytes (byte-level BPE, or byte fallback): {error}"
                    ) from None
            return self._tree


class GrammarConstraint:
    """How far a text has come in its grammar; the `Constraint` that a Generator takes."""

    def __init__(self, matcher: Any, vocabulary_size: int, end_of_text: int) -> None:
        self._matcher = matcher
        self._vocabulary_size = vocabulary_size
        self._end_of_text = end_of_text
        self.finished = bool(matcher.is_stopped())
        """Whether the text is whole and nothing may follow it."""

    def allowed(self) -> NDArray[np.bool_]:
        """Which tokens (V,) may come next; the end of the text where it is whole already.

        Raises ValueError where the grammar has grown over llguidance's limits.
        """
        bits = np.frombuffer(self._matcher.compute_bitmask(), dtype=np.uint8)
        self._check()
        allowed_V: NDArray[np.bool_] = np.unpackbits(bits, count=None, bitorder="little").astype(bool)
        return allowed_V[: self._vocabulary_size]

    def advance(self, token: int) -> None:
        """Take the next token; raises ValueError for one that is not allowed."""
        if token == self._end_of_text and self._matcher.is_accepting():
            return
        self._matcher.consume_token(token)
        self._check()
        self.finished = bool(self._matcher.is_stopped())

    def _check(self) -> None:
        if self._matcher.is_error():
            raise ValueError(f"the text cannot go on in its grammar: {_reason(self._matcher.get_error())}")


def _schema(source: str) -> dict[str, Any]:
    try:
        schema = json.loads(source)
    except ValueError as error:
        raise ValueError(f"not valid JSON: {error}") from None
    if isinstance(schema, bool):
        return {} if schema else {"not": {}}
    if not isinstance(schema, dict):
        raise ValueError("expected a JSON object")
    return schema


def _reason(message: str) -> str:
    """The line of an error that says what is wrong; the library draws the rest of the grammar around it."""
    lines = [line.strip() for line in message.splitlines() if line.strip()]
    told = [line.removeprefix("error: ") for line in lines if line.startswith("error: ")]
    return (told or lines or ["unknown error"])[0][:300]


def _library() -> Any:
    try:
        import llguidance
    except ImportError:
        raise ValueError("constrained text needs the package llguidance: pip install llguidance") from None
    return llguidance
