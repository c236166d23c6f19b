"""A dialogue with a model in this process: its history, and each answer as it is written."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Iterator

from training.chat import fit_history
from training.config.generation import GenerationConfig
from training.generation.constraints import Grammar
from training.serving.errors import ApiError
from training.serving.requests import ChatRequest
from training.serving.service import Service
from training.serving.writing import Finished, Writing


class Conversation:
    """What was said so far. Where the context is full, the oldest turns are no longer seen; the system's words are."""

    def __init__(
        self,
        service: Service,
        settings: GenerationConfig | None = None,
        system: str | None = None,
        grammar: Grammar | None = None,
    ) -> None:
        self._service = service
        self._settings = settings or GenerationConfig()
        self._grammar = grammar
        self._opening = [] if system is None else [{"role": "system", "content": system}]
        self.messages = list(self._opening)
        self.forgotten = 0
        """Messages that the last answer could not see."""
        self.last: Finished | None = None
        """How the last answer ended."""

    def clear(self) -> None:
        """Begin anew."""
        self.messages = list(self._opening)

    def say(self, text: str) -> Iterator[str]:
        """Yield the answer in pieces. One that is broken off stays in the history as far as it came.

        Raises ValueError where the question cannot be asked: too long, or with a special token of the tokenizer in it.
        """
        asked = [*self.messages, {"role": "user", "content": text}]
        service = self._service
        # An answer gets its tokens, but never more than half of the context at the expense of what was said.
        length = min(self._settings.max_new_tokens, service.context_length // 2)
        seen, self.forgotten = fit_history(
            service.template, asked, lambda rendered: len(service.chat_ids(rendered)), service.context_length - length
        )
        settings = dataclasses.replace(
            self._settings, max_new_tokens=length, seed=self._settings.seed + len(self.messages)
        )
        request = ChatRequest(
            model="",
            settings=settings,
            unlimited=False,
            seeded=True,
            choices=1,
            stream=True,
            include_usage=False,
            top_logprobs=None,
            grammar=self._grammar,
            messages=tuple({"role": message["role"], "content": message["content"]} for message in seen),
        )
        try:
            (job,) = service.chat_jobs(request)
        except ApiError as error:
            raise ValueError(error.message) from None
        tokens = service.generator.token_ids(job.prompt, job.settings, job.constraint)
        writing = Writing(service.generator, job, tokens, math.inf)
        pieces: list[str] = []
        try:
            for piece in writing.pieces():
                if piece:
                    pieces.append(piece)
                    yield piece
            self.last = writing.finished()
        finally:
            self.messages = [*asked, {"role": "assistant", "content": "".join(pieces)}]
