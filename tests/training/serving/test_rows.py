"""Texts that join and leave one another are those that the model writes alone."""

from __future__ import annotations

from typing import Any

import pytest
import torch

from tests.training.small_models import one_thread, tiny_tokenizer
from training.config import ModelConfig
from training.config.generation import GenerationConfig
from training.generation import Generator
from training.generation.constraints import Grammar, Grammars
from training.models import build
from training.serving.rows import Rows
from training.serving.writing import Job

__all__ = ["one_thread"]

KINDS: dict[str, dict[str, Any]] = {
    "rotary": {},
    "learned": {"positions": "learned", "norm": "layernorm", "bias": "all", "tied_embeddings": True},
    "alibi": {"positions": "alibi", "kv_heads": 1},
    "window": {"window": 8, "global_every": 2},
    "bigrams": {"bigram_buckets": 64},
    "prefix": {"attention": "bidirectional"},
}
JOBS = (
    # prompt, tokens, joins before this round, settings
    ("The man saw the book.", 20, 0, {"temperature": 1.0, "seed": 3}),
    ("他", 6, 2, {"temperature": 0.0, "no_repeat_ngram": 2}),
    ("", 25, 2, {"temperature": 0.7, "seed": 9, "repetition_penalty": 1.3}),
    ("The women see these books every day. 你们好吗？", 12, 5, {"temperature": 1.0, "stop_tokens": (17, 80)}),
    ("a", 1, 9, {"temperature": 0.0}),
    ("book", 12, 11, {"temperature": 1.0, "seed": 2}),
)


def small_generator(kind: str) -> Generator:
    tokenizer = tiny_tokenizer()
    torch.manual_seed(2)
    config = ModelConfig(layers=2, heads=2, width=32, context_length=64, **KINDS[kind])
    model = build(config, tokenizer.get_vocab_size()).eval()
    with torch.no_grad():
        for parameter in model.parameters():
            if parameter.ndim == 2:
                parameter.copy_(torch.randn_like(parameter) * 0.3)
    return Generator(model, tokenizer, 0, prefix=kind == "prefix")


def job_of(generator: Generator, prompt: str, tokens: int, **settings: Any) -> Job:
    return Job(tuple(generator.encode(prompt)), GenerationConfig(max_new_tokens=tokens, **settings))


def written(rows: Rows, jobs: list[tuple[int, Job]], leaves: dict[int, int]) -> list[list[int]]:
    """Run all jobs, each from its round on; `leaves` says in which round one is given up."""
    ids: list[list[int]] = [[] for _ in jobs]
    running: dict[int, Any] = {}
    waiting = dict(enumerate(jobs))
    turn = 0
    while running or waiting:
        for number in [number for number, (start, _) in waiting.items() if start <= turn]:
            running[number] = rows.tokens(waiting.pop(number)[1])
        for number in list(running):
            if leaves.get(number) == turn:
                running.pop(number).close()
                continue
            token = next(running[number], None)
            if token is None:
                del running[number]
            else:
                ids[number].append(token)
        rows.step()
        turn += 1
    return ids


@pytest.mark.parametrize("kind", KINDS)
def test_texts_together_are_the_texts_alone(kind: str) -> None:
    generator = small_generator(kind)
    jobs = [(start, job_of(generator, prompt, tokens, **more)) for prompt, tokens, start, more in JOBS]
    alone = [list(generator.token_ids(job.prompt, job.settings)) for _, job in jobs]
    assert sum(map(len, alone)) > 50
    rows = Rows(generator)
    assert written(rows, jobs, {}) == alone
    given_up = written(rows, jobs, {0: 4, 5: 13})
    assert given_up[1:5] == alone[1:5]
    assert given_up[0] == alone[0][:4]
    assert rows._rows == []
    assert rows._together is None


def test_grammars_and_stops_hold_their_own_text_alone() -> None:
    generator = small_generator("rotary")
    grammars = Grammars(generator.tokenizer, generator.model.vocabulary_size, 0)
    free = job_of(generator, "The man", 20, seed=4)
    whole = list(generator.token_ids(free.prompt, free.settings))
    stop = next(text for text in map(generator.tokenizer.decode, [[token] for token in whole[3:]]) if text.isalpha())
    stopped = job_of(generator, "The man", 20, seed=4, stop=(stop,))
    settings = GenerationConfig(max_new_tokens=20, seed=1)
    held = Job((5, 6), settings, grammars.constraint(Grammar.regex("(yes|no)+!")))
    ids = written(Rows(generator), [(0, free), (0, stopped), (1, held)], {})
    assert ids[0] == whole
    assert ids[1] == whole[: len(ids[1])]
    assert stop in generator.tokenizer.decode(ids[1])
    assert stop not in generator.tokenizer.decode(ids[1][:-1])
    expected = generator.token_ids((5, 6), settings, grammars.constraint(Grammar.regex("(yes|no)+!")))
    assert ids[2] == list(expected)


def test_a_draft_writes_texts_one_by_one() -> None:
    generator = small_generator("rotary")
    job = job_of(generator, "The man", 12, temperature=0.0)
    expected = list(generator.token_ids(job.prompt, job.settings))
    generator.draft = small_generator("alibi")
    assert written(Rows(generator), [(0, job), (1, job)], {}) == [expected, expected]
