"""Sequences in trees, and the trunk over them, beside every sequence on its own."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.training.suites.toys import SHAPES, judged, likelihood, one_thread, write_checkpoint
from training.evaluation.scoring import token_log_probabilities
from training.suites.likelihood import Request
from training.suites.trees import plant

__all__ = ["one_thread"]

sequences = st.lists(st.lists(st.integers(0, 2), min_size=1, max_size=12), min_size=1, max_size=12)


@settings(max_examples=200, deadline=None)
@given(sequences, st.integers(4, 40))
def test_each_path_holds_its_sequence_and_sees_nothing_else(lists: list[list[int]], longest: int):
    found = {}
    for tree in plant(lists, longest):
        count = len(tree.tokens_N)
        assert count <= max(longest, *(len(lists[index]) for index in tree.members))
        seen = (np.arange(count)[:, None] >= np.arange(count)) & (np.arange(count)[:, None] < tree.ends_N)
        for index, path in zip(tree.members, tree.paths, strict=True):
            found[index] = tree.tokens_N[path].tolist()
            assert tree.depths_N[path].tolist() == list(range(len(path)))
            assert tree.parents_N[path].tolist() == [-1, *path[:-1].tolist()]
            for depth, node in enumerate(path):
                assert np.flatnonzero(seen[node]).tolist() == path[: depth + 1].tolist()
    assert found == dict(enumerate(lists))


def test_what_is_shared_lies_in_a_row_once():
    prompt = list(range(30))
    (tree,) = plant([[*prompt, 40], [*prompt, 41, 42], [*prompt, 43]])
    assert len(tree.tokens_N) == 34
    assert len(plant([[*prompt, 40], [*prompt, 41]], share=False)) == 2
    assert len(plant([[1, 2, 3, 4, 5], [1, 9, 9, 9, 9]])) == 2  # a fifth is too little


@pytest.mark.parametrize("name", list(SHAPES))
def test_answers_are_those_of_single_sequences(name: str, tmp_path: Path):
    checkpoint = write_checkpoint(tmp_path, **SHAPES[name])
    random = np.random.default_rng(0)
    prompts = [tuple(random.integers(1, 300, size).tolist()) for size in (20, 9, 0, 40)]
    requests = [
        Request(prompt, tuple(random.integers(1, 300, size).tolist())) for prompt in prompts for size in (1, 3, 7)
    ]
    answers = likelihood(checkpoint, positions=150).answers(requests, "a test")
    model = judged(checkpoint).model
    for request, answer in zip(requests, answers, strict=True):
        (logs,) = token_log_probabilities(model, [np.array([*request.context, *request.continuation])], 0)
        wanted = logs[len(request.context) :]
        assert answer.log_probability == pytest.approx(float(wanted.sum()), rel=2e-5)
        with torch.inference_mode():
            logits = model(torch.tensor([[0, *request.context, *request.continuation[:-1]]]))[0, len(request.context) :]
        greedy = logits.argmax(1).tolist()
        same = [mine == theirs for mine, theirs in zip(greedy, request.continuation, strict=True)]
        assert answer.matched == ([*same, False].index(False))
    alone = likelihood(checkpoint, positions=150, share=False).answers(requests, "a test")
    for one, other in zip(answers, alone, strict=True):
        assert one.log_probability == pytest.approx(other.log_probability, rel=2e-5)
