"""Diverse beams against the algorithm written out for one prompt (transformers 5 has none); stop strings."""

from __future__ import annotations

import pytest
import torch

from tests.training.generation.peers import PROMPTS, pair, settings
from tests.training.small_models import one_thread
from training.generation import Generator

__all__ = ["one_thread"]


def by_hand(generator: Generator, prompt: list[int], groups: int, width: int, penalty: float, steps: int) -> set:
    """Vijayakumar et al. 2018, algorithm 1, with lists: the running beams of all groups after some steps."""
    state = [[(0.0, [])] for _ in range(groups)]
    for _ in range(steps):
        taken: dict[int, int] = {}
        for place in range(groups):
            candidates = []
            for score, ids in state[place]:
                with torch.no_grad():
                    whole = torch.tensor([[generator.begin_of_text, *prompt, *ids]])
                    logs = torch.log_softmax(generator.model(whole)[0, -1], 0).tolist()
                for token, log in enumerate(logs):
                    candidates.append((score + log - penalty * taken.get(token, 0), [*ids, token]))
            state[place] = sorted(candidates, key=lambda one: -one[0])[:width]
            for _, ids in state[place]:
                taken[ids[-1]] = taken.get(ids[-1], 0) + 1
    return {(tuple(ids), round(score / steps, 3)) for group in state for score, ids in group}


@pytest.mark.parametrize(("groups", "width", "penalty"), [(3, 1, 0.8), (2, 2, 1.5), (2, 3, 0.3)])
def test_diverse_beams_are_those_of_the_algorithm(groups: int, width: int, penalty: float) -> None:
    ours, _ = pair("qwen3")
    endless = Generator(ours.model, ours.tokenizer, 10**9, ours.begin_of_text)
    fields = settings(beams=groups * width, beam_groups=groups, diversity_penalty=penalty, max_new_tokens=4)
    for prompt, found in zip(PROMPTS[:3], endless.batch(PROMPTS[:3], fields), strict=True):
        assert {(tuple(one.ids), round(one.score, 3)) for one in found} == by_hand(
            endless, prompt, groups, width, penalty, 4
        )
        scores = [one.score for one in found]
        assert scores == sorted(scores, reverse=True)


def test_groups_without_a_penalty_are_one_search_each() -> None:
    ours, _ = pair("llama")
    one = ours.batch(PROMPTS, settings(beams=2))
    two = ours.batch(PROMPTS, settings(beams=4, beam_groups=2))
    assert [[h.ids for h in found for _ in range(2)] for found in one] == [[h.ids for h in found] for found in two]


def test_a_stop_string_ends_a_beam_behind_it() -> None:
    ours, _ = pair("llama")
    prompt = PROMPTS[1]
    (plain, *_) = ours.batch([prompt], settings(beams=3))[0]
    text = ours.tokenizer.decode(plain.ids)
    stop = text[3:5]
    (best, *_) = ours.batch([prompt], settings(beams=3, stop=(stop,), length_penalty=0.0))[0]
    written = ours.tokenizer.decode(best.ids)
    assert all(
        stop not in ours.tokenizer.decode(one.ids[:-1]) for one in ours.batch([prompt], settings(stop=(stop,)))[0]
    )
    assert stop in written or best.finished or len(best.ids) == 24
