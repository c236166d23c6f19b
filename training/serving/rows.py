"""Several texts that a model writes side by side: each of its passes reads the newest token of all of them.

A text joins after its prompt was read alone, and leaves when it has ended, while the others go on (continuous batching;
Yu et al. 2022, Orca, section 3). A pass reads all weights once, however many rows it has.

Shape suffixes: V vocabulary.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import torch
from torch import Tensor

from training.generation import Generator
from training.generation.drawing import next_token
from training.generation.sequences import Sequences, keeps_keys
from training.generation.stops import StopWatch
from training.serving.writing import Job


@dataclass
class _Row:
    """A text that goes on."""

    sequences: Sequences | None
    """Its own, until it joins the others."""
    token: int
    """Chosen, and not yet read."""
    logits_1V: Tensor | None = None
    """Of what follows the token, once that was read."""


class Rows:
    """The texts of one Generator; one thread uses it.

    Take a token from each of the `tokens` in turn, then `step`, and so on. A Generator with a draft, and a model that
    keeps no keys and values or has an encoder, writes its texts one by one all the same.
    """

    def __init__(self, generator: Generator) -> None:
        self._generator = generator
        self._together: Sequences | None = None
        self._rows: list[_Row] = []
        """Those of `_together`, in its order, then those that have yet to join."""

    @torch.inference_mode()
    def tokens(self, job: Job) -> Iterator[int]:
        """The ids that follow the job's prompt, as `Generator.token_ids` yields them; each waits for a `step`."""
        generator, settings, constraint = self._generator, job.settings, job.constraint
        if not settings.max_new_tokens:
            return
        if generator.draft is not None or not keeps_keys(generator.model) or generator.has_encoder:
            yield from generator.token_ids(job.prompt, settings, constraint)
            return
        random = torch.Generator().manual_seed(settings.seed)
        ends = {generator.end_of_text, *settings.stop_tokens}
        watch = StopWatch(generator.tokenizer, settings.stop) if settings.stop else None
        sequences = generator.sequences([job.prompt], settings.max_new_tokens)
        ids = list(sequences.ids[0])
        logits_1V = sequences.logits()[:, -1]
        row = _Row(sequences, -1)
        try:
            for written in range(1, settings.max_new_tokens + 1):
                if constraint is not None and constraint.finished:
                    return
                token = next_token(logits_1V, ids, settings, random, constraint)
                if token is None or token in ends:
                    return
                if constraint is not None:
                    constraint.advance(token)
                ids.append(token)
                last = written == settings.max_new_tokens or (watch is not None and watch.ends(token))
                if last:
                    self._leave(row)
                    yield token
                    return
                row.token = token
                if written == 1:
                    self._rows.append(row)
                yield token
                assert row.logits_1V is not None, "a step is missing"
                logits_1V = row.logits_1V
        finally:
            self._leave(row)

    @torch.inference_mode()
    def step(self) -> None:
        """Read the newest token of every text at once."""
        for row in self._rows:
            if row.sequences is not None:
                self._together = row.sequences if self._together is None else self._together.joined(row.sequences)
                row.sequences = None
        if self._together is None:
            return
        self._together.append([row.token for row in self._rows])
        logits_BV = self._together.logits()[:, -1]
        for place, row in enumerate(self._rows):
            row.logits_1V = logits_BV[place : place + 1]

    def clear(self) -> None:
        """Forget all texts, as after an error in `step`; none of them goes on."""
        self._together = None
        self._rows = []

    def _leave(self, row: _Row) -> None:
        # By identity: rows of equal values are others.
        place = next((place for place, one in enumerate(self._rows) if one is row), None)
        if place is None:
            return
        del self._rows[place]
        if row.sequences is None and self._together is not None:
            left = [other for other in range(len(self._together)) if other != place]
            if left:
                self._together.select(left)
            else:
                self._together = None
