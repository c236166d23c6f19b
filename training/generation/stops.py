"""Strings that end a text."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from tokenizers import Tokenizer


def until_stop(pieces: Iterator[str], stops: Sequence[str]) -> Iterator[str]:
    """Yield text up to the first of the stop strings; what may be the beginning of one waits for what follows."""
    held = ""
    for piece in pieces:
        held += piece
        places = [place for place in map(held.find, stops) if place >= 0]
        if places:
            if min(places):
                yield held[: min(places)]
            return
        ready = len(held) - _begun(held, stops)
        if ready:
            yield held[:ready]
            held = held[ready:]
    if held:
        yield held


def _begun(text: str, stops: Sequence[str]) -> int:
    """Length of the longest end of a text that a stop string begins with."""
    lengths = (n for stop in stops for n in range(min(len(stop) - 1, len(text)), 0, -1) if text.endswith(stop[:n]))
    return max(lengths, default=0)


class StopWatch:
    """Follows the tokens of one text until it holds a stop string."""

    def __init__(self, tokenizer: Tokenizer, stops: Sequence[str]) -> None:
        from tokenizers.decoders import DecodeStream

        self._tokenizer = tokenizer
        self._stops = stops
        self._keep = max(map(len, stops)) - 1
        self._decoder = DecodeStream(skip_special_tokens=True)
        self._end = ""

    def ends(self, token: int) -> bool:
        """Whether the text holds a stop string with this token."""
        piece = self._decoder.step(self._tokenizer, token)
        if not piece:
            return False
        text = self._end + piece
        self._end = text[len(text) - self._keep :] if self._keep and len(text) > self._keep else text * bool(self._keep)
        return any(stop in text for stop in self._stops)
