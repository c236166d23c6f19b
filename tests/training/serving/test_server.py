"""What a client may send that its own library would not, against the application itself."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path

import pytest
from starlette.testclient import TestClient

from tests.training.serving.served import small_service
from tests.training.small_models import one_thread
from training.serving import Engine, create_app
from training.serving.server import host_names

__all__ = ["one_thread"]


@pytest.fixture
def client(tmp_path: Path) -> Iterator[TestClient]:
    service = small_service(tmp_path)
    app = create_app(service, Engine(service.generator, service.limits), None, host_names("127.0.0.1"))
    with TestClient(app, base_url="http://127.0.0.1") as client:
        yield client


@pytest.mark.parametrize(
    ("path", "body"),
    [
        ("completions", r'{"prompt": "a\ud800b"}'),
        ("completions", r'{"prompt": "a", "model": "\udfff"}'),
        ("completions", r'{"\ud800": 1}'),
        ("chat/completions", r'{"messages": [{"role": "user", "content": "\ud83d"}]}'),
        ("completions", '{"prompt": "a", "temperature": 1' + "0" * 400 + "}"),
        ("completions", '{"tools": ' + "[" * 5000 + "]" * 5000 + "}"),
    ],
)
def test_what_is_no_request_is_refused_as_one(client: TestClient, path: str, body: str) -> None:
    answer = client.post(f"/v1/{path}", content=body, headers={"content-type": "application/json"})
    assert answer.status_code == 400
    assert answer.json()["error"]["type"] == "invalid_request_error"


def test_a_whole_surrogate_pair_is_text(client: TestClient) -> None:
    body = r'{"prompt": "\ud83d\ude00", "max_tokens": 1}'
    assert client.post("/v1/completions", content=body, headers={"content-type": "application/json"}).is_success


def test_loopback_answers_to_its_own_names_alone(client: TestClient) -> None:
    for host, status in (
        ("localhost:8000", 200),
        ("127.0.0.1", 200),
        ("[::1]:8000", 200),
        ("evil.example:8000", 400),
        ("", 400),
    ):
        assert client.get("/v1/models", headers={"host": host}).status_code == status, host


def test_an_echo_stands_before_the_answer_in_a_stream_too(client: TestClient) -> None:
    asked = {"prompt": ["The<|endoftext|>man", "他"], "echo": True, "temperature": 0, "max_tokens": 4}
    whole = client.post("/v1/completions", json=asked).json()
    assert whole["choices"][0]["text"].startswith("The<|endoftext|>man")
    texts = ["", ""]
    for line in client.post("/v1/completions", json={**asked, "stream": True}).text.splitlines():
        if line.startswith("data: {"):
            (choice,) = json.loads(line.removeprefix("data: "))["choices"]
            texts[choice["index"]] += choice["text"]
    assert texts == [choice["text"] for choice in whole["choices"]]


def test_a_grammar_that_blocked_ngrams_forbid_is_no_answer(client: TestClient) -> None:
    held = {"type": "regex", "regex": "a{30}"}
    for temperature in (0, 1):
        asked = {"prompt": "", "max_tokens": 40, "response_format": held, "temperature": temperature}
        answer = client.post("/v1/completions", json={**asked, "no_repeat_ngram_size": 1})
        assert answer.status_code == 500
        assert "no token may come next" in answer.json()["error"]["message"]
        assert client.post("/v1/completions", json=asked).json()["choices"][0]["text"] == "a" * 30
