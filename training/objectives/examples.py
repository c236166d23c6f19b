"""Rows of sentences that belong together, from a file: anchor, positive and perhaps negative (SimCSE, section 4).

Shape suffixes: B rows, T tokens, R rows of a pass through the file, E examples in a row, K sentences of an example, L
most tokens of one.
"""

from __future__ import annotations

import functools
import json
from collections.abc import Iterator, Sequence
from itertools import islice
from pathlib import Path
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from training.rows import PADDING, Form, Rows, Stretch

HELD_OUT = "held_out_"
"""Before the names of a row's arrays that are made from the examples kept for validation."""
_HELD_OUT_EVERY = 50
_KEYS = ("anchor", "positive", "negative")
_LINES = 10_000


class Table(NamedTuple):
    """Examples as ids."""

    ids_EKL: NDArray[np.int32]
    """[first] text [separator]; 0 behind the end of a sentence."""
    lengths_EK: NDArray[np.int64]
    """0 where an example has no negative."""


class Examples(Form):
    """A fixed number E of examples in each row, each sentence in a place of L tokens; padding behind what is shorter.

    `tokens` and `documents` (B, T), where each sentence is a document of its own, numbered from 1 in order of examples,
    padding 0; `firsts` (B, E, K), where they begin; and the same three with HELD_OUT before their names. A row takes
    no text from the corpus, only its number in the run: every R rows are a pass through the training examples in a new
    order. Of 50 examples one is kept for validation.

    Raises ValueError for a length without room for two examples, which would have no negatives in validation.
    """

    reads = 1

    def __init__(self, length: int, table: Table, padding: int, seed: int) -> None:
        count, kinds, longest = table.ids_EKL.shape
        self.length = self.stride = length
        self._padding, self._seed = padding, seed
        self._examples = length // (kinds * longest)
        if self._examples < 2:
            raise ValueError(
                f"training.sequence_length {length} has no room for two examples of {kinds} sentences of up to "
                f"{longest} tokens: set it to {2 * kinds * longest} at least, or lower contrastive.sentence_length"
            )
        held = np.arange(count) % min(_HELD_OUT_EVERY, count) == min(_HELD_OUT_EVERY, count) - 1
        self._train, self._held = (Table(*(part[chosen] for part in table)) for chosen in (~held, held))

    def rows(self, stretches: Sequence[Stretch], others: Sequence[Stretch]) -> Rows:
        """The row of each stretch, by its number in the run; of one of padding, a row without any."""
        numbers = [stretch.number for stretch in stretches]
        empty = np.array([stretch.tokens[0] == PADDING for stretch in stretches])
        drawn = [self._drawn(number) for number in numbers]
        fixed = [_part(np.arange(len(self._held.ids_EKL)), number, self._examples) for number in numbers]
        made = self._laid(self._train, drawn, empty)
        held = self._laid(self._held, fixed, empty)
        return {**made, **{f"{HELD_OUT}{name}": array for name, array in held.items()}}

    def _drawn(self, number: int) -> NDArray[np.int64]:
        count = len(self._train.ids_EKL)
        turn = number // max(1, count // self._examples)
        return _part(_order(self._seed, turn, count), number, self._examples)

    def _laid(self, table: Table, chosen: Sequence[NDArray[np.int64]], empty: NDArray[np.bool_]) -> Rows:
        """Rows of these examples; what is missing of E, and rows that are empty, hold none."""
        _, kinds, longest = table.ids_EKL.shape
        size, used = (len(chosen), self.length), self._examples * kinds * longest
        index_BE = np.stack([np.pad(part, (0, self._examples - len(part)), constant_values=-1) for part in chosen])
        present_BE = (index_BE >= 0) & ~empty[:, None]
        lengths_BEK = table.lengths_EK[index_BE] * present_BE[:, :, None]
        text_BEKL = np.arange(longest) < lengths_BEK[..., None]
        numbers_EK = 1 + np.arange(self._examples * kinds).reshape(self._examples, kinds)
        tokens, documents = np.full(size, self._padding, dtype=np.int64), np.zeros(size, dtype=np.int64)
        tokens[:, :used] = np.where(text_BEKL, table.ids_EKL[index_BE], self._padding).reshape(len(chosen), used)
        documents[:, :used] = (text_BEKL * numbers_EK[..., None]).reshape(len(chosen), used)
        firsts = np.broadcast_to((numbers_EK - 1) * longest, (len(chosen), *numbers_EK.shape)).copy()
        return {"tokens": tokens, "documents": documents, "firsts": firsts}


def _part(order: NDArray[np.int64], number: int, size: int) -> NDArray[np.int64]:
    """The n-th `size` of a list that starts anew at its end; what would not fill them is left out."""
    turns = max(1, len(order) // size)
    return order[number % turns * size :][:size]


@functools.lru_cache(maxsize=8)
def _order(seed: int, turn: int, count: int) -> NDArray[np.int64]:
    return np.random.default_rng([seed, turn]).permutation(count)


@functools.lru_cache(maxsize=2)
def read_examples(path: str, tokenizer_path: str, longest: int, first: int, separator: int) -> Table:
    """Examples of a JSON Lines file of {anchor, positive, negative}, the latter optional, by a run's tokenizer.

    Sentences are cut at `longest` tokens with `first` and `separator`. Read once. Raises ValueError naming the file,
    and the line of what is no example; and where it holds fewer than three.
    """
    from tokenizers import Tokenizer

    tokenizer = Tokenizer.from_file(tokenizer_path)
    tokenizer.no_truncation()
    tokenizer.no_padding()
    ids: list[list[list[int]]] = []
    examples = _lines(path)
    while lines := list(islice(examples, _LINES)):
        texts = [text for example in lines for text in example]
        found = iter(tokenizer.encode_batch([text or "" for text in texts], add_special_tokens=False))
        for example in lines:
            cut = [next(found).ids[: longest - 2] for _ in example]
            present = zip(cut, example, strict=True)
            ids.append([[first, *part, separator] if text is not None else [] for part, text in present])
    if len(ids) < 3:
        raise ValueError(f"{path}: holds {len(ids)} examples; at least three are needed, one of them for validation")
    kinds = 3 if any(example[2] for example in ids) else 2
    lengths_EK = np.array([[len(sentence) for sentence in example[:kinds]] for example in ids], dtype=np.int64)
    ids_EKL = np.zeros((*lengths_EK.shape, int(lengths_EK.max())), dtype=np.int32)
    ids_EKL[np.arange(ids_EKL.shape[2]) < lengths_EK[..., None]] = [
        token for example in ids for sentence in example[:kinds] for token in sentence
    ]
    return Table(ids_EKL, lengths_EK)


def _lines(path: str) -> Iterator[tuple[str, str, str | None]]:
    try:
        with Path(path).open(encoding="utf-8") as file:
            for number, line in enumerate(file, 1):
                if line.strip():
                    yield _example(line, f"{path}: line {number}")
    except OSError as error:
        raise ValueError(f"contrastive.examples {path}: cannot be read: {error.strerror}") from None
    except UnicodeDecodeError as error:
        raise ValueError(f"contrastive.examples {path}: not UTF-8: {error}") from None


def _example(line: str, where: str) -> tuple[str, str, str | None]:
    try:
        document = json.loads(line)
    except ValueError as error:
        raise ValueError(f"{where}: not valid JSON: {error}") from None
    found = [document.get(key) for key in _KEYS] if isinstance(document, dict) else [None]
    anchor, positive, negative = found if len(found) == 3 else (None, None, None)
    if not isinstance(anchor, str) or not isinstance(positive, str) or not isinstance(negative, str | None):
        raise ValueError(f"{where}: must be an object of texts: anchor, positive and, where there is one, negative")
    return anchor, positive, negative
