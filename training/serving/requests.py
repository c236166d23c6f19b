"""Requests of OpenAI's API, from JSON to dataclasses.

Read are the fields of the API reference for completions and chat completions that a language model can serve, and the
usual further ones for sampling (`top_k`, `min_p`, `typical_p`, `repetition_penalty`). A field that would change the
answer and is not served is refused by name, never passed over.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

from training.config.generation import GenerationConfig
from training.generation.constraints import Grammar
from training.serving.errors import ApiError, wrong

_WITHOUT_EFFECT = frozenset(
    "user metadata store service_tier safety_identifier prompt_cache_key parallel_tool_calls".split()
)
"""Taken and passed over: they change no answer."""
_NEUTRAL: dict[str, tuple[Any, ...]] = {
    "frequency_penalty": (0, None),
    "presence_penalty": (0, None),
    "logit_bias": (None, {}),
    "suffix": (None, ""),
    "tools": (None, []),
    "tool_choice": (None, "none", "auto"),
    "functions": (None, []),
    "function_call": (None, "none", "auto"),
    "modalities": (None, ["text"]),
    "audio": (None,),
    "prediction": (None,),
    "reasoning_effort": (None,),
    "verbosity": (None,),
    "web_search_options": (None,),
}
"""Served at these values alone."""
_SAMPLING: dict[str, tuple[float, float]] = {
    "temperature": (0.0, 100.0),
    "top_p": (0.0, 1.0),
    "min_p": (0.0, 1.0),
    "typical_p": (0.0, 1.0),
    "repetition_penalty": (0.01, 100.0),
}
_COMPLETION_TOKENS = 16
"""OpenAI's default for completions; that for chat is as many as there is room for."""
_STOPS = 16
_LONGEST_STOP = 256
_ROLES = ("system", "developer", "user", "assistant", "tool")


@dataclass(frozen=True)
class Request:
    """What both kinds of requests have in common."""

    model: str
    settings: GenerationConfig
    """Of the first choice, but for what the context holds."""
    unlimited: bool
    """Whether `max_new_tokens` was left open."""
    seeded: bool
    choices: int
    stream: bool
    include_usage: bool
    top_logprobs: int | None
    """How many of the likeliest tokens to name beside each; None: no log-probabilities."""
    grammar: Grammar | None


@dataclass(frozen=True)
class CompletionRequest(Request):
    """A request for `/v1/completions`."""

    prompts: tuple[str | tuple[int, ...], ...]
    echo: bool


@dataclass(frozen=True)
class ChatRequest(Request):
    """A request for `/v1/chat/completions`."""

    messages: tuple[dict[str, str], ...]


def read_completion(body: Any) -> CompletionRequest:
    """Read the body of a request for a completion; raises ApiError naming what is wrong."""
    fields = _Fields(body)
    prompts = _prompts(fields.take("prompt", ""))
    echo = fields.boolean("echo")
    best_of = fields.integer("best_of", 1, 1 << 20)
    top = fields.integer("logprobs", 0, 20)
    common = _common(fields, fields.integer("max_tokens", 0, 1 << 31, _COMPLETION_TOKENS), top)
    if best_of is not None and best_of != common["choices"]:
        raise wrong("best_of", "is served only where it is n")
    fields.refuse_others()
    return CompletionRequest(**common, prompts=prompts, echo=echo)


def read_chat(body: Any) -> ChatRequest:
    """Read the body of a request for a chat completion; raises ApiError naming what is wrong."""
    fields = _Fields(body)
    messages = _messages(fields.take("messages"))
    longest = fields.integer("max_tokens", 1, 1 << 31)
    newer = fields.integer("max_completion_tokens", 1, 1 << 31)
    wanted = fields.boolean("logprobs")
    top = fields.integer("top_logprobs", 0, 20)
    if top is not None and not wanted:
        raise wrong("top_logprobs", "needs logprobs to be true")
    limit = newer if newer is not None else longest
    common = _common(fields, limit, (top or 0) if wanted else None)
    fields.refuse_others()
    return ChatRequest(**common, messages=messages)


class _Fields:
    """The fields of a body; each is taken once, what is left is unknown."""

    def __init__(self, body: Any) -> None:
        if not isinstance(body, dict):
            raise ApiError(400, "the body must be a JSON object")
        self._left = dict(body)

    def take(self, name: str, default: Any = None) -> Any:
        value = self._left.pop(name, None)
        return default if value is None else value

    def boolean(self, name: str) -> bool:
        value = self.take(name, False)
        if not isinstance(value, bool):
            raise wrong(name, "expected true or false")
        return value

    def integer(self, name: str, low: int, high: int, default: int | None = None) -> int | None:
        value = self.take(name, default)
        if value is None:
            return None
        if isinstance(value, bool) or not isinstance(value, int) or not low <= value <= high:
            raise wrong(name, f"expected an integer from {low} to {high}, got {_shown(value)}")
        return value

    def number(self, name: str, low: float, high: float) -> float | None:
        value = self.take(name)
        if value is None:
            return None
        if isinstance(value, bool) or not isinstance(value, int | float) or not low <= value <= high:
            raise wrong(name, f"expected a number from {low:g} to {high:g}, got {_shown(value)}")
        return float(value)

    def refuse_others(self) -> None:
        for name, value in self._left.items():
            if name in _WITHOUT_EFFECT:
                continue
            if name not in _NEUTRAL:
                raise wrong(name, "unrecognized request argument", "unknown_parameter")
            if value not in _NEUTRAL[name]:
                raise wrong(name, f"{_shown(value)} is not supported by this server", "unsupported_parameter")


def _common(fields: _Fields, limit: int | None, top_logprobs: int | None) -> dict[str, Any]:
    model = fields.take("model", "")
    if not isinstance(model, str):
        raise wrong("model", "expected a string")
    stream = fields.boolean("stream")
    sampling: dict[str, Any] = {"temperature": 1.0, "top_k": fields.integer("top_k", 0, 1 << 31, 0)}
    for name, (low, high) in _SAMPLING.items():
        value = fields.number(name, low, high)
        if value is not None:
            sampling[name] = value
    seed = fields.integer("seed", -(1 << 63), (1 << 64) - 1)
    sampling["seed"] = (seed or 0) % (1 << 63)  # torch's generator takes no more
    sampling["stop"] = _stops(fields.take("stop", ()))
    sampling["no_repeat_ngram"] = fields.integer("no_repeat_ngram_size", 0, 1 << 20, 0)
    try:
        settings = GenerationConfig(max_new_tokens=limit or 0, **sampling)
    except ValueError as error:
        raise ApiError(400, str(error), param=str(error).partition(" ")[0]) from None
    return {
        "model": model,
        "settings": settings,
        "unlimited": limit is None,
        "seeded": seed is not None,
        "choices": fields.integer("n", 1, 1 << 20, 1),
        "stream": stream,
        "include_usage": _include_usage(fields.take("stream_options"), stream),
        "top_logprobs": top_logprobs,
        "grammar": _grammar(fields.take("response_format")),
    }


def _prompts(value: Any) -> tuple[str | tuple[int, ...], ...]:
    """A text, a list of texts, a list of ids or a list of lists of ids."""
    if isinstance(value, str):
        return (value,)
    if isinstance(value, list) and value:
        if all(isinstance(item, str) for item in value):
            return tuple(value)
        if _are_ids(value):
            return (tuple(value),)
        if all(isinstance(item, list) and _are_ids(item) for item in value):
            return tuple(tuple(item) for item in value)
    raise wrong("prompt", "expected a string, a list of strings, a list of token ids or a list of such lists")


def _are_ids(value: list[Any]) -> bool:
    return all(isinstance(item, int) and not isinstance(item, bool) for item in value)


def _messages(value: Any) -> tuple[dict[str, str], ...]:
    if not isinstance(value, list) or not value:
        raise wrong("messages", "expected a list of at least one message")
    return tuple(_message(item, f"messages[{index}]") for index, item in enumerate(value))


def _message(value: Any, at: str) -> dict[str, str]:
    if not isinstance(value, dict):
        raise wrong(at, "expected an object with role and content")
    role = value.get("role")
    if role not in _ROLES:
        raise wrong(f"{at}.role", f"expected one of {', '.join(_ROLES)}, got {_shown(role)}")
    if value.get("tool_calls") or value.get("function_call"):
        raise wrong(f"{at}.tool_calls", "is not supported by this server", "unsupported_parameter")
    content = value.get("content")
    if isinstance(content, list):
        for part in content:
            if not (isinstance(part, dict) and part.get("type") == "text" and isinstance(part.get("text"), str)):
                raise wrong(f"{at}.content", "this server reads parts of type text alone")
        content = "".join(part["text"] for part in content)
    if not isinstance(content, str):
        raise wrong(f"{at}.content", "expected a string or a list of text parts")
    # What OpenAI calls developer is what templates call system.
    return {"role": "system" if role == "developer" else role, "content": content}


def _stops(value: Any) -> tuple[str, ...]:
    stops = [value] if isinstance(value, str) else value
    if not isinstance(stops, list | tuple) or not all(isinstance(stop, str) for stop in stops):
        raise wrong("stop", "expected a string or a list of strings")
    if len(stops) > _STOPS or any(not 0 < len(stop) <= _LONGEST_STOP for stop in stops):
        raise wrong("stop", f"expected at most {_STOPS} strings of 1 to {_LONGEST_STOP} characters")
    return tuple(stops)


def _include_usage(value: Any, stream: bool) -> bool:
    if value is None:
        return False
    if not stream:
        raise wrong("stream_options", "is allowed only with stream")
    if not isinstance(value, dict) or not isinstance(value.get("include_usage", False), bool):
        raise wrong("stream_options", "expected an object with include_usage")
    return bool(value.get("include_usage", False))


def _grammar(value: Any) -> Grammar | None:
    """`response_format`: OpenAI's text, json_object and json_schema, and {"type": "regex", "regex": ...}."""
    if value is None:
        return None
    readers: dict[str, Callable[[Mapping[str, Any]], Grammar | None]] = {
        "text": lambda _: None,
        "json_object": lambda _: Grammar.json_schema(),
        "json_schema": _schema,
        "regex": _regex,
    }
    kind = value.get("type") if isinstance(value, dict) else None
    if not isinstance(kind, str) or kind not in readers:
        raise wrong("response_format", f"expected an object whose type is one of {', '.join(readers)}")
    return readers[kind](value)


def _schema(value: Mapping[str, Any]) -> Grammar:
    named = value.get("json_schema")
    schema = named.get("schema") if isinstance(named, dict) else None
    if not isinstance(schema, dict):
        raise wrong("response_format.json_schema.schema", "expected an object")
    return Grammar.json_schema(schema)


def _regex(value: Mapping[str, Any]) -> Grammar:
    if not isinstance(value.get("regex"), str):
        raise wrong("response_format.regex", "expected a string")
    return Grammar.regex(value["regex"])


def _shown(value: Any) -> str:
    text = json.dumps(value, ensure_ascii=False, default=repr)
    return text if len(text) <= 60 else text[:60] + "…"
