"""Beam search as transformers defines it, and diverse beam search (Vijayakumar et al. 2018).

Shape suffixes: N prompts, b beams of a group, V vocabulary, C candidates (2 b, so that b can go on if b have ended).
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import NamedTuple

import torch
from torch import Tensor

from training.config.generation import GenerationConfig
from training.generation.drawing import adjusted, check_numbers
from training.generation.hypothesis import Hypothesis
from training.generation.sequences import Sequences

_NEVER = -1.0e9
"""What stands for minus infinity in a score, as in transformers: sums with it are compared there, too."""

Completes = Callable[[Sequence[int]], bool]
"""Whether the text of the ids that were written has ended."""


class _Chosen(NamedTuple):
    """What goes on: for each prompt and beam the score, the beam that it comes from and the new token, all (N, b)."""

    scores_Nb: Tensor
    beams_Nb: Tensor
    tokens_Nb: Tensor


class _Group:
    """The running and the finished beams of a group, for all prompts."""

    def __init__(self, prompts: int, beams: int, settings: GenerationConfig, device: torch.device) -> None:
        self._settings = settings
        self._beams = beams
        self.scores_Nb = torch.full((prompts, beams), _NEVER, device=device)
        self.scores_Nb[:, 0] = 0  # the beams are the same at first: only one of them is followed
        self._finished_scores_Nb = torch.full((prompts, beams), _NEVER, device=device)
        self._finished_Nb = torch.zeros(prompts, beams, dtype=torch.bool, device=device)
        self._found: list[list[Hypothesis | None]] = [[None] * beams for _ in range(prompts)]
        self._improvable_N1 = torch.ones(prompts, 1, dtype=torch.bool, device=device)
        self.done = False

    def step(self, scores_NbV: Tensor, written: list[list[list[int]]], ends: set[int], completes: Completes) -> _Chosen:
        """Take a token into each beam by the scores of this step; `written` holds the ids of each prompt's beams."""
        beams, vocabulary = self._beams, scores_NbV.shape[-1]
        length = len(written[0][0]) + 1
        total_NbV = scores_NbV + self.scores_Nb[..., None]
        top_NC, index_NC = torch.topk(total_NbV.flatten(1), 2 * beams)
        beams_NC, tokens_NC = index_NC // vocabulary, index_NC % vocabulary
        token_ended_NC = self._ended(beams_NC, tokens_NC, written, ends, completes)
        ended_NC = token_ended_NC | (length >= self._settings.max_new_tokens)
        self._finish(top_NC, beams_NC, tokens_NC, token_ended_NC, ended_NC, written, ends)
        running_NC = top_NC + ended_NC.float() * _NEVER
        self.scores_Nb, kept_Nb = torch.topk(running_NC, beams)
        self._judge(length, bool(ended_NC.all()))
        return _Chosen(self.scores_Nb, beams_NC.gather(1, kept_Nb), tokens_NC.gather(1, kept_Nb))

    def hypotheses(self, prompt: int) -> list[Hypothesis]:
        """The finished sequences of a prompt, the best first."""
        return [one for one in self._found[prompt] if one is not None]

    def _ended(
        self,
        beams_NC: Tensor,
        tokens_NC: Tensor,
        written: list[list[list[int]]],
        ends: set[int],
        completes: Completes,
    ) -> Tensor:
        """Whether a candidate has ended by its token or by a stop string, (N, C) bool."""
        ended = [
            [
                token in ends or completes([*written[prompt][beam], token])
                for beam, token in zip(beams, tokens, strict=True)
            ]
            for prompt, (beams, tokens) in enumerate(zip(beams_NC.tolist(), tokens_NC.tolist(), strict=True))
        ]
        return torch.tensor(ended, device=tokens_NC.device)

    def _finish(
        self,
        top_NC: Tensor,
        beams_NC: Tensor,
        tokens_NC: Tensor,
        token_ended_NC: Tensor,
        ended_NC: Tensor,
        written: list[list[list[int]]],
        ends: set[int],
    ) -> None:
        """Take those of the best b candidates that have ended among the finished ones."""
        beams = self._beams
        length = len(written[0][0]) + 1
        ended_NC = ended_NC & (torch.arange(2 * beams, device=top_NC.device) < beams)
        scores_NC = top_NC / length**self._settings.length_penalty
        full_N1 = self._finished_Nb.all(-1, keepdim=True) & (self._settings.early_stopping is True)
        # One after the other, as transformers adds them, so that what is beyond choice ties alike.
        for barred in (full_N1, ~self._improvable_N1, ~ended_NC):
            scores_NC = scores_NC + barred.float() * _NEVER
        merged = torch.cat([self._finished_scores_Nb, scores_NC], 1)
        self._finished_scores_Nb, kept_Nb = torch.topk(merged, beams)
        self._finished_Nb = torch.cat([self._finished_Nb, ended_NC], 1).gather(1, kept_Nb)
        for prompt, kept in enumerate(kept_Nb.tolist()):
            found = self._found[prompt]
            self._found[prompt] = [None] * beams
            for place, index in enumerate(kept):
                if not bool(self._finished_Nb[prompt, place]):
                    continue
                candidate = index - beams
                if candidate < 0:
                    self._found[prompt][place] = found[index]
                    continue
                token = int(tokens_NC[prompt, candidate])
                ids = written[prompt][int(beams_NC[prompt, candidate])] + ([] if token in ends else [token])
                score = float(self._finished_scores_Nb[prompt, place])
                self._found[prompt][place] = Hypothesis(ids, score, bool(token_ended_NC[prompt, candidate]))

    def _judge(self, length: int, all_ended: bool) -> None:
        """Decide whether the best running beam can still better the worst finished one."""
        settings = self._settings
        best = settings.max_new_tokens if settings.early_stopping == "never" and settings.length_penalty > 0 else length
        possible_N1 = self.scores_Nb[:, :1] / best**settings.length_penalty
        worst_N1 = self._finished_scores_Nb.min(1, keepdim=True).values
        worst_Nb = torch.where(self._finished_Nb, worst_N1, _NEVER)
        self._improvable_N1 = self._improvable_N1 & (possible_N1 > worst_Nb).any(-1, keepdim=True)
        full = bool(self._finished_Nb.all()) and settings.early_stopping is True
        self.done = not bool(self._improvable_N1.any()) or full or all_ended


def search(
    sequences: Sequences, settings: GenerationConfig, ends: set[int], completes: Completes
) -> list[list[Hypothesis]]:
    """For each row the finished continuations, the best first: at most `beams` of them."""
    prompts, groups = len(sequences), settings.beam_groups
    width = settings.beams // groups
    given = [len(ids) for ids in sequences.ids]
    scores_NV = _scores(sequences)
    sequences.select([row for row in range(prompts) for _ in range(settings.beams)])
    scores_NBV = scores_NV[:, None].expand(-1, settings.beams, -1)
    state = [_Group(prompts, width, settings, scores_NV.device) for _ in range(groups)]
    for step in range(settings.max_new_tokens):
        if step:
            scores_NBV = _scores(sequences).view(prompts, settings.beams, -1)
        written = [
            [ids[given[prompt] :] for ids in sequences.ids[prompt * settings.beams : (prompt + 1) * settings.beams]]
            for prompt in range(prompts)
        ]
        flat_BV = adjusted(scores_NBV.flatten(0, 1), sequences.ids, settings)
        scores_NBV = flat_BV.view(prompts, settings.beams, -1)
        parents_NB, tokens_NB = _step(state, scores_NBV, written, settings, ends, completes)
        if all(group.done for group in state):
            break
        offset_N1 = torch.arange(prompts, device=parents_NB.device)[:, None] * settings.beams
        sequences.select((parents_NB + offset_N1).flatten().tolist())
        sequences.append(tokens_NB.flatten().tolist())
    found = [[one for group in state for one in group.hypotheses(prompt)] for prompt in range(prompts)]
    return [sorted(hypotheses, key=lambda one: -one.score) for hypotheses in found]


def _scores(sequences: Sequences) -> Tensor:
    """Log-probabilities (B, V) float32 of what follows each row."""
    logits_BV = sequences.logits()[:, -1]
    check_numbers(logits_BV)
    return torch.log_softmax(logits_BV, dim=-1)


def _step(
    state: list[_Group],
    scores_NBV: Tensor,
    written: list[list[list[int]]],
    settings: GenerationConfig,
    ends: set[int],
    completes: Completes,
) -> tuple[Tensor, Tensor]:
    """For each beam of all groups the beam that it comes from and its token, (N, B) each.

    Each group sees what those before it chose in this step: `diversity_penalty` is taken off a token for each choice.
    """
    width = settings.beams // settings.beam_groups
    parents, tokens = [], []
    chosen_NV = torch.zeros_like(scores_NBV[:, 0])
    for place, group in enumerate(state):
        first = place * width
        own_NbV = scores_NBV[:, first : first + width] - settings.diversity_penalty * chosen_NV[:, None]
        ids = [beams[first : first + width] for beams in written]
        chosen = group.step(own_NbV, ids, ends, completes)
        chosen_NV.scatter_add_(1, chosen.tokens_Nb, torch.ones_like(chosen.scores_Nb))
        parents.append(chosen.beams_Nb + first)
        tokens.append(chosen.tokens_Nb)
    return torch.cat(parents, 1), torch.cat(tokens, 1)
