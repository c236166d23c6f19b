"""Samples of models that do not continue a text: a word, or a span, of held-out sentences that the model fills in."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import NDArray

from training.evaluation.judged import Ids, Judged
from training.evaluation.pseudo_likelihood import probabilities
from training.evaluation.stretches import HeldOutSentence

CANDIDATES = 5
BLANK = "____"
_SPAN = 3


@dataclass(frozen=True)
class Filled:
    """A text with a blank, what stood there, and what the model puts there."""

    prompt: str
    answer: str
    continuation: str
    """In words: the likeliest token and its probability, or the span that was written."""
    tokens: int
    finished: bool
    candidates: tuple[dict[str, Any], ...] = ()
    """The likeliest tokens, {text, probability}, the likeliest first."""


def fill_words(judged: Judged, sentences: Sequence[HeldOutSentence], seed: int) -> list[dict[str, Any]]:
    """Mask a word of one token in each sentence, or the first token of one, and show the five likeliest tokens."""
    room = judged.context_length - judged.frame.tokens
    samples = []
    for number, sentence in enumerate(sentences):
        ids = sentence.tokens[:room]
        place = _choose(judged, ids, sentence.words[:room], np.random.default_rng([seed, number]))
        values, tokens = probabilities(judged, ids, place).topk(CANDIDATES)
        found = tuple(
            {"text": _decode(judged, [token]).strip() or judged.tokenizer.id_to_token(token), "probability": value}
            for token, value in zip(tokens.tolist(), values.tolist(), strict=True)
        )
        told = ", ".join(f"{item['text']} ({item['probability']:.2f})" for item in found)
        prompt = _with_blank(judged, ids, slice(place, place + 1))
        answer = _decode(judged, ids[place : place + 1]).strip()
        samples.append(_as_dict(Filled(prompt, answer, told, 1, True, found)))
    return samples


def fill_spans(judged: Judged, sentences: Sequence[HeldOutSentence], seed: int, longest: int) -> list[dict[str, Any]]:
    """Take a span of three tokens out of each sentence and let the decoder write it, greedily (T5)."""
    samples = []
    for number, sentence in enumerate(sentences):
        ids = sentence.tokens[: judged.context_length - 2]
        random = np.random.default_rng([seed, number])
        begin = int(random.integers(max(1, len(ids) - _SPAN)))
        span = slice(begin, min(begin + _SPAN, len(ids)))
        written, finished = write_span(judged, ids, span, longest)
        prompt, answer = _with_blank(judged, ids, span), _decode(judged, ids[span]).strip()
        samples.append(_as_dict(Filled(prompt, answer, _decode(judged, written), len(written), finished)))
    return samples


@torch.inference_mode()
def write_span(judged: Judged, ids: Ids, span: slice, longest: int) -> tuple[list[int], bool]:
    """What the decoder writes behind the first sentinel, which stands for the span, up to the next sentinel or the end.

    Returns the ids and whether it ended by itself.
    """
    first = judged.model.vocabulary_size - 1  # the first sentinel has the largest id
    framed = np.concatenate([ids[: span.start], [first], ids[span.stop :], judged.frame.after])
    inputs_BS = torch.from_numpy(framed.astype(np.int64))[None].to(judged.device)
    told = [judged.frame.padding, first]
    for _ in range(min(longest, judged.context_length - len(told))):
        with judged.compute.autocast():
            hidden_BTD = judged.model.hidden(inputs_BS, torch.tensor([told], device=judged.device))
            read_E = judged.model.readout(hidden_BTD[0, -1])
        token = int(F.linear(read_E.float(), judged.model.head.weight).argmax())
        if token == judged.end_of_text or token >= judged.tokenizer_vocabulary:
            return told[2:], True
        told.append(token)
    return told[2:], False


def _choose(judged: Judged, ids: Ids, words: NDArray[np.bool_], random: np.random.Generator) -> int:
    """A token that is a word of letters by itself, else one that begins a word, else any."""
    ends_word = np.append(words[1:], True)
    for wanted in (np.flatnonzero(words & ends_word), np.flatnonzero(words)):
        lettered = [place for place in wanted.tolist() if _decode(judged, ids[place : place + 1]).strip().isalpha()]
        if lettered:
            return int(random.choice(lettered))
    return int(random.integers(len(ids)))


def _with_blank(judged: Judged, ids: Ids, span: slice) -> str:
    left, right = _decode(judged, ids[: span.start]), _decode(judged, ids[span.stop :])
    hidden = _decode(judged, ids[span])
    gap = f" {BLANK}" if hidden.startswith(" ") and not left.endswith(" ") else BLANK
    return f"{left}{gap}{right}"


def _decode(judged: Judged, ids: Sequence[int] | Ids) -> str:
    text: str = judged.tokenizer.decode([int(token) for token in ids], skip_special_tokens=True)
    return text


def _as_dict(filled: Filled) -> dict[str, Any]:
    facts = asdict(filled)
    if not filled.candidates:
        del facts["candidates"]
    else:
        facts["candidates"] = list(filled.candidates)
    return facts
