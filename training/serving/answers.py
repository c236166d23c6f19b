"""Answers in the form of OpenAI's API: whole, and in chunks of a stream."""

from __future__ import annotations

import secrets
import time
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any, Literal

from training.serving.logprobs import Scored
from training.serving.writing import Finished, Job


@dataclass
class Choice:
    """A choice as far as it has come."""

    job: Job
    prompt_text: str = ""
    """What stands before it in the answer (`echo`)."""
    pieces: list[str] = field(default_factory=list)
    finished: Finished | None = None


@dataclass(frozen=True)
class Form:
    """What all parts of one answer share."""

    kind: Literal["completion", "chat"]
    model: str
    identity: str = field(default_factory=lambda: secrets.token_hex(12))
    created: int = field(default_factory=lambda: int(time.time()))

    def whole(self, choices: Sequence[Choice]) -> dict[str, Any]:
        """The answer to a request that does not stream."""
        kind = "chat.completion" if self.kind == "chat" else "text_completion"
        entries = [self._whole_choice(index, choice) for index, choice in enumerate(choices)]
        return {**self._head(kind), "choices": entries, "usage": usage(choices)}

    def chunk(self, index: int, text: str | None, finished: Finished | None = None, **more: Any) -> dict[str, Any]:
        """A part of a streamed answer: a piece of text, or the end of a choice."""
        entry: dict[str, Any] = {"index": index, "logprobs": None, **_ending(finished)}
        if self.kind == "chat":
            entry["delta"] = ({} if text is None else {"content": text}) | more
        else:
            entry["text"] = text or ""
        return {**self._head(self._chunk_kind), "choices": [entry]}

    def usage_chunk(self, choices: Sequence[Choice]) -> dict[str, Any]:
        """The last part of a streamed answer where the client asked for it."""
        return {**self._head(self._chunk_kind), "choices": [], "usage": usage(choices)}

    @property
    def _chunk_kind(self) -> str:
        return "chat.completion.chunk" if self.kind == "chat" else "text_completion"

    def _head(self, kind: str) -> dict[str, Any]:
        prefix = "chatcmpl" if self.kind == "chat" else "cmpl"
        return {"id": f"{prefix}-{self.identity}", "object": kind, "created": self.created, "model": self.model}

    def _whole_choice(self, index: int, choice: Choice) -> dict[str, Any]:
        assert choice.finished is not None
        text = "".join(choice.pieces)
        entry: dict[str, Any] = {"index": index, **_ending(choice.finished)}
        scored = choice.finished.scored
        if self.kind == "chat":
            entry["message"] = {"role": "assistant", "content": text, "refusal": None}
            entry["logprobs"] = None if scored is None else {"content": [_chat_logprob(one) for one in scored]}
        else:
            entry["text"] = choice.prompt_text + text
            before = len(choice.prompt_text)
            entry["logprobs"] = None if scored is None else _completion_logprobs(scored, before)
        return entry


def usage(choices: Sequence[Choice]) -> dict[str, int]:
    """Tokens read and written; a prompt with several choices counts once."""
    prompts = {id(choice.job.prompt): len(choice.job.prompt) for choice in choices}
    written = sum(choice.finished.tokens for choice in choices if choice.finished is not None)
    read = sum(prompts.values())
    return {"prompt_tokens": read, "completion_tokens": written, "total_tokens": read + written}


def _ending(finished: Finished | None) -> dict[str, Any]:
    if finished is None:
        return {"finish_reason": None}
    # `stop_reason` is what the usual open servers add: which stop string it was, or that the time was over.
    return {"finish_reason": finished.reason, "stop_reason": finished.stopped_by}


def _chat_logprob(one: Scored) -> dict[str, Any]:
    return {
        **_token(one.text, one.logprob),
        "top_logprobs": [_token(text, value) for text, value in one.top],
    }


def _token(text: str, logprob: float) -> dict[str, Any]:
    return {"token": text, "logprob": logprob, "bytes": None if "\ufffd" in text else list(text.encode())}


def _completion_logprobs(scored: Sequence[Scored], before: int) -> dict[str, Any]:
    return {
        "tokens": [one.text for one in scored],
        "token_logprobs": [one.logprob for one in scored],
        "top_logprobs": [dict(one.top) for one in scored],
        "text_offset": [one.offset + (before if one.written else 0) for one in scored],
    }
