"""The newest part of a dialogue that a model's context holds."""

from __future__ import annotations

from collections.abc import Callable, Sequence

from training.chat.template import ChatTemplate, Message


def fit_history(
    template: ChatTemplate, messages: Sequence[Message], count: Callable[[str], int], room: int
) -> tuple[list[Message], int]:
    """Leave out the oldest turns, but never what comes before the first question, until the dialogue fits.

    `count` tells the tokens of a text, `room` how many there may be. Returns the messages that are left and how many
    went. Raises ValueError where even the last question alone takes more.
    """
    first = next((index for index, message in enumerate(messages) if message["role"] == "user"), 0)
    opening, turns = list(messages[:first]), list(messages[first:])
    # A dialogue goes on with a question: most templates refuse one that begins with an answer.
    starts = [index for index, message in enumerate(turns) if message["role"] == "user"] or [0]
    for start in starts:
        kept = [*opening, *turns[start:]]
        tokens = count(template.render(kept, answer=True))
        if tokens <= room:
            return kept, start
    raise ValueError(f"the last question takes {tokens} tokens with all around it; the model has room for {room}")
