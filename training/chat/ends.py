"""What ends an answer: tokens and strings that a chat template puts behind one."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from training.chat.template import ChatTemplate

if TYPE_CHECKING:
    from tokenizers import Tokenizer

_ANSWER, _QUESTION = "\ue001", "\ue002"


@dataclass(frozen=True)
class AnswerEnds:
    """Where to stop writing, besides the end of the text."""

    ids: tuple[int, ...] = ()
    strings: tuple[str, ...] = ()


def answer_ends(template: ChatTemplate, tokenizer: Tokenizer) -> AnswerEnds:
    """Find them by rendering a dialogue and looking at what stands behind its answer.

    A special token there (ChatML's `<|im_end|>`) ends an answer by its id. Plain words there (the default's `User:`)
    end it as a string: a model that was never tuned for dialogue writes the next question, too.
    """
    asked = {"role": "user", "content": _QUESTION}
    dialogue = [asked, {"role": "assistant", "content": _ANSWER}]
    try:
        tail = template.render(dialogue).rpartition(_ANSWER)[2]
        following = template.render([*dialogue, asked]).rpartition(_ANSWER)[2].partition(_QUESTION)[0]
    except ValueError:  # a template may allow no dialogue of this form
        return AnswerEnds()
    special = {token.content: number for number, token in tokenizer.get_added_tokens_decoder().items() if token.special}
    tail = tail.strip()
    ids = tuple(number for token, number in special.items() if tail.startswith(token))
    plain = tail.replace(template.end_of_text, "") if template.end_of_text else tail
    strings = [plain.strip()] if not ids and plain.strip() else []
    between = following.replace(template.end_of_text, "") if template.end_of_text else following
    if not plain.strip() and between.strip() and not any(token in between for token in special):
        strings.append(between.rstrip())
    return AnswerEnds(ids, tuple(strings))
