"""One choice as it is written: from the tokens of a model to pieces of text and the reason why it ended."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal

from training.config.generation import GenerationConfig
from training.generation import Constraint, Generator
from training.serving.logprobs import Scored, score_tokens

if TYPE_CHECKING:
    from tokenizers import Tokenizer


@dataclass(frozen=True)
class Job:
    """What is to be written."""

    prompt: tuple[int, ...]
    settings: GenerationConfig
    constraint: Constraint | None = None
    """At its beginning; it is used up."""
    top_logprobs: int | None = None
    echo: bool = False
    """Whether log-probabilities are told of the prompt's tokens, too."""
    trim: bool = False
    """Leave out blanks before the first character: a template may leave the space before an answer to the model."""


@dataclass(frozen=True)
class Finished:
    """The end of a choice."""

    reason: Literal["stop", "length"]
    stopped_by: str | None
    """The stop string, or `time limit`."""
    tokens: int
    """Tokens written, the one that ended the text not counted."""
    scored: list[Scored] | None


class Writing:
    """A choice that is being written; `pieces()` is run through once, then `finished()` tells how it ended."""

    def __init__(
        self,
        generator: Generator,
        job: Job,
        tokens: Iterator[int],
        seconds: float,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._generator = generator
        self._job = job
        self._tokens = tokens
        self._clock = clock
        self._deadline = clock() + seconds
        self._ids: list[int] = []
        self._text = _Text(generator.tokenizer, job.settings.stop)
        self._late = False

    def pieces(self) -> Iterator[str]:
        """Yield what each token adds to the text: whole characters that belong to no stop string, often none."""
        started = not self._job.trim
        for piece in self._untrimmed():
            text = piece if started else piece.lstrip()
            started = started or bool(text)
            yield text

    def finished(self) -> Finished:
        """How it ended; log-probabilities take a pass of the model."""
        job, stop = self._job, self._text.stop
        scored = None
        if job.top_logprobs is not None:
            scored = score_tokens(self._generator, job.prompt, self._ids, job.top_logprobs, job.echo)
            if stop is not None:
                scored = [one for one in scored if not one.written or one.offset < self._text.given]
        reason: Literal["stop", "length"] = "stop"
        if self._late:
            stop, reason = "time limit", "length"
        elif stop is None and len(self._ids) >= job.settings.max_new_tokens:
            reason = "stop" if job.constraint is not None and job.constraint.finished else "length"
        return Finished(reason, stop, len(self._ids), scored)

    def _untrimmed(self) -> Iterator[str]:
        for token in self._tokens:
            self._ids.append(token)
            yield self._text.add(token)
            if self._text.stop is not None:
                return
            if self._clock() > self._deadline:
                self._late = True
                break
        yield self._text.rest(self._ids)


class _Text:
    """A text that grows by tokens; what may be the beginning of a stop string waits for what follows."""

    def __init__(self, tokenizer: Tokenizer, stops: tuple[str, ...]) -> None:
        from tokenizers.decoders import DecodeStream

        self._tokenizer = tokenizer
        self._stops = stops
        self._decoder = DecodeStream(skip_special_tokens=True)
        self._decoded = 0
        self._held = ""
        self.given = 0
        """Characters that were given out."""
        self.stop: str | None = None
        """The stop string that ended it."""

    def add(self, token: int) -> str:
        """What a token lets out."""
        return self._let_out(self._decoder.step(self._tokenizer, token) or "")

    def rest(self, ids: list[int]) -> str:
        """What no further token will change, but for bytes that are no whole character."""
        text: str = self._tokenizer.decode(ids, skip_special_tokens=True)
        out = self._let_out(text[self._decoded :].rstrip("\ufffd"))
        if self.stop is None:
            out, self._held = out + self._held, ""
        return out

    def _let_out(self, piece: str) -> str:
        self._decoded += len(piece)
        held = self._held + piece
        places = [(held.find(stop), stop) for stop in self._stops if stop in held]
        if places:
            ready, self.stop = min(places)
        else:
            begun = (n for stop in self._stops for n in range(1, len(stop)) if held.endswith(stop[:n]))
            ready = len(held) - max(begun, default=0)
        self._held = held[ready:]
        self.given += ready
        return held[:ready]
