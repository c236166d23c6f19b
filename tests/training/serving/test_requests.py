from __future__ import annotations

import json
from typing import Any

import pytest

from training.generation.constraints import Grammar
from training.serving.errors import ApiError
from training.serving.requests import read_chat, read_completion

ASK = {"messages": [{"role": "user", "content": "Hi"}]}


def test_what_openai_documents_is_read() -> None:
    chat = read_chat(
        {
            "model": "tiny",
            "messages": [
                {"role": "developer", "content": "Be kind."},
                {"role": "user", "content": [{"type": "text", "text": "He"}, {"type": "text", "text": "y"}]},
            ],
            "max_completion_tokens": 7,
            "temperature": 0,
            "top_p": 0.5,
            "stop": "END",
            "seed": -1,
            "n": 2,
            "stream": True,
            "stream_options": {"include_usage": True},
            "frequency_penalty": 0.0,
            "user": "me",
            "logit_bias": None,
        }
    )
    assert chat.messages == ({"role": "system", "content": "Be kind."}, {"role": "user", "content": "Hey"})
    settings = chat.settings
    assert (settings.max_new_tokens, settings.temperature, settings.top_p, settings.top_k) == (7, 0.0, 0.5, 0)
    assert (settings.stop, settings.seed, chat.seeded) == (("END",), (1 << 63) - 1, True)
    assert (chat.choices, chat.stream, chat.include_usage, chat.unlimited) == (2, True, True, False)
    assert read_chat(ASK).unlimited
    assert read_chat(ASK).settings.temperature == 1.0
    completion = read_completion({"prompt": [[1, 2], []], "echo": True, "max_tokens": 0, "logprobs": 1})
    assert (completion.prompts, completion.echo, completion.top_logprobs) == (((1, 2), ()), True, 1)
    assert read_completion({"prompt": [3, 4]}).prompts == ((3, 4),)
    assert read_completion({"prompt": ["a", "b"]}).settings.max_new_tokens == 16


def test_grammars_are_read() -> None:
    schema = {"type": "object"}
    for asked, expected in (
        ({"type": "text"}, None),
        ({"type": "json_object"}, Grammar.json_schema()),
        ({"type": "json_schema", "json_schema": {"name": "x", "schema": schema}}, Grammar.json_schema(schema)),
        ({"type": "regex", "regex": "a+"}, Grammar.regex("a+")),
    ):
        assert read_chat({**ASK, "response_format": asked}).grammar == expected


@pytest.mark.parametrize(
    ("wrong", "param", "message"),
    [
        ({"messages": []}, "messages", "at least one message"),
        ({"messages": [{"role": "king", "content": "x"}]}, "messages[0].role", 'got "king"'),
        ({"messages": [{"role": "user"}]}, "messages[0].content", "expected a string"),
        ({"messages": [{"role": "user", "content": [{"type": "image_url"}]}]}, "messages[0].content", "type text"),
        ({"temperature": -1}, "temperature", "expected a number"),
        ({"temperature": float("nan")}, "temperature", "expected a number"),
        ({"temperature": float("inf")}, "temperature", "from 0 to 100"),
        ({"temperature": 10**400}, "temperature", "from 0 to 100"),
        ({"repetition_penalty": 1e-300}, "repetition_penalty", "from 0.01 to 100"),
        ({"temperature": True}, "temperature", "expected a number"),
        ({"max_tokens": 0}, "max_tokens", "expected an integer from 1"),
        ({"max_tokens": "many"}, "max_tokens", 'got "many"'),
        ({"n": 0}, "n", "expected an integer from 1"),
        ({"stop": ["a"] * 17}, "stop", "at most 16"),
        ({"stop": ""}, "stop", "1 to 256"),
        ({"stop": [1]}, "stop", "list of strings"),
        ({"stream": 1}, "stream", "true or false"),
        ({"stream_options": {}}, "stream_options", "only with stream"),
        ({"top_logprobs": 2}, "top_logprobs", "needs logprobs"),
        ({"response_format": {"type": "xml"}}, "response_format", "json_schema"),
        ({"response_format": {"type": "json_schema"}}, "response_format.json_schema.schema", "object"),
        ({"frequency_penalty": 0.5}, "frequency_penalty", "0.5 is not supported"),
        ({"tools": [{"type": "function"}]}, "tools", "not supported"),
        ({"logit_bias": {"5": 1}}, "logit_bias", "not supported"),
        ({"temprature": 1}, "temprature", "unrecognized request argument"),
    ],
)
def test_mistakes_are_named(wrong: dict[str, Any], param: str, message: str) -> None:
    with pytest.raises(ApiError) as error:
        read_chat({**ASK, **wrong})
    assert (error.value.status, error.value.param) == (400, param)
    assert message in error.value.message
    json.dumps(error.value.as_dict(), allow_nan=False)


@pytest.mark.parametrize("body", [None, [], "x", {"prompt": 5}, {"prompt": [1, "a"]}, {"prompt": []}, {"best_of": 3}])
def test_wrong_completions_are_refused(body: Any) -> None:
    with pytest.raises(ApiError):
        read_completion(body)
