"""Rows of a batch, made from stretches of the corpus: windows as they lie, or sequences packed without padding.

A form is a pure function of the stretches that it is given and of the seed, so that a row depends on nothing but its
number. Arrays are int64 unless said, with the rows as their first dimension B; T tokens in a row, S sequences at most.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any, Literal, NamedTuple

import numpy as np
from numpy.typing import NDArray

PADDING = -1
"""Fills a stretch behind the end of the text; never a token id."""
IGNORED = -100
"""Label of what does not count."""
WORD, SENTENCE = 1, 2
"""Bits of the corpus' marks: a token begins a word, a sentence."""

Rows = dict[str, NDArray[Any]]
Ints = NDArray[np.int64]

_LEAST_ROOM = 12
"""Free tokens of a row below which no further sequence is begun."""


class Stretch(NamedTuple):
    """Tokens of the corpus in a row, and where they come from."""

    tokens: Ints
    """(reads,), PADDING behind the end of a held-out shard."""
    marks: NDArray[np.uint8] | None
    start: int
    """Position in the corpus of the first one."""
    visit: int
    """The epoch, modulo the copies of the form."""
    number: int = 0
    """Of the sample in the run, or of the row in a held-out set."""


class Form(ABC):
    """How rows are made.

    Attributes: stride (tokens of the corpus from the beginning of one row to that of the next), reads (tokens of the
    stretch that a row is made from), leads (tokens of it that lie before the row's own), draws_others (whether a row
    takes something from another place of the corpus, too), copies (after so many epochs the same rows come again, in
    another order; None: each epoch cuts the corpus anew).
    """

    stride: int
    reads: int
    leads: int = 0
    draws_others: bool = False
    copies: int | None = None

    @abstractmethod
    def rows(self, stretches: Sequence[Stretch], others: Sequence[Stretch]) -> Rows:
        """Make a row of each stretch; `others`, as many, lie elsewhere in the corpus (none where nothing is drawn)."""


@dataclass(frozen=True)
class Windows(Form):
    """Stretches as they are: `tokens` (B, length + 1), `places` (B,) of the first token, `visits` (B,)."""

    length: int
    leads = 1

    @property
    def stride(self) -> int:  # type: ignore[override]
        """The last token of a window is the first of the next."""
        return self.length

    @property
    def reads(self) -> int:  # type: ignore[override]
        """With the target of the last token."""
        return self.length + 1

    def rows(self, stretches: Sequence[Stretch], others: Sequence[Stretch]) -> Rows:
        """The tokens of the stretches."""
        return {
            "tokens": np.stack([stretch.tokens for stretch in stretches]),
            "places": np.array([stretch.start for stretch in stretches], dtype=np.int64),
            "visits": np.array([stretch.visit for stretch in stretches], dtype=np.int64),
        }


@dataclass(frozen=True)
class Packed(Form):
    """Sequences [first] text [separator], laid one behind another while they fit.

    `parts` says what a sequence is: `text` (running text of one document), `pairs` ([first] A [separator] B
    [separator], after `task`), `sentences` (a sentence, cut at `longest` tokens with the special ones).

    The rows: `tokens` (B, T), padding at the end; `documents` (B, T), the number of the sequence from 1, 0 for padding;
    `segments` (B, T), 1 for B and its separator; `places` (B, T), the position in the corpus, -1 for special tokens
    and padding; `visits` (B,); `words` (B, T) bool, begins a word (without marks: every token); `firsts` (B, S), where
    each sequence begins (0 for none); `labels` (B, S), the class of a pair or IGNORED.

    Pairs after BERT's published code (Devlin et al. 2019, section A.2): sentences in a row up to the target length,
    parted at random; for next_sentence (label 1: B is from another place) B is drawn anew in half of the cases, or
    where there is but one sentence; for sentence_order (label 1: swapped; ALBERT, Lan et al. 2020, section 3.1) a
    single sentence has no label. What is too long is cut on both ends of the longer part.
    """

    length: int
    parts: Literal["text", "pairs", "sentences"]
    first: int
    separator: int
    padding: int
    end_of_text: int
    seed: int = 1
    task: Literal["none", "next_sentence", "sentence_order"] = "none"
    short_share: float = 0.1
    """Share of the pairs whose target length is drawn at random."""
    longest: int = 32
    copies: int | None = None

    @property
    def stride(self) -> int:  # type: ignore[override]
        """Each row begins where a window of its length would."""
        return self.length

    @property
    def reads(self) -> int:  # type: ignore[override]
        """Pairs and sentences begin at the next sentence, and skip what is cut off."""
        return self.length if self.parts == "text" else 2 * self.length

    @property
    def draws_others(self) -> bool:  # type: ignore[override]
        """Whether B may come from elsewhere."""
        return self.task == "next_sentence"

    @property
    def most(self) -> int:
        """Sequences that a row has room for, S."""
        return max(1, self.length // (8 if self.parts == "sentences" else 16))

    def rows(self, stretches: Sequence[Stretch], others: Sequence[Stretch]) -> Rows:
        """Pack each stretch into a row."""
        size = (len(stretches), self.length)
        rows: Rows = {
            "tokens": np.full(size, self.padding, dtype=np.int64),
            "documents": np.zeros(size, dtype=np.int64),
            "segments": np.zeros(size, dtype=np.int64),
            "places": np.full(size, -1, dtype=np.int64),
            "visits": np.array([stretch.visit for stretch in stretches], dtype=np.int64),
            "words": np.ones(size, dtype=bool),
            "firsts": np.zeros((len(stretches), self.most), dtype=np.int64),
            "labels": np.full((len(stretches), self.most), IGNORED, dtype=np.int64),
        }
        for row, stretch in enumerate(stretches):
            other = others[row] if others else None
            used = 0
            for number, sequence in enumerate(self._sequences(stretch, other)):
                used = self._lay(rows, row, number, used, sequence)
        return rows

    def _lay(self, rows: Rows, row: int, number: int, begin: int, sequence: _Sequence) -> int:
        """Write a sequence at `begin` and return where it ends."""
        rows["firsts"][row, number] = begin
        rows["labels"][row, number] = sequence.label
        rows["tokens"][row, begin] = self.first
        end = begin + 1
        for segment, part in enumerate(sequence.parts):
            text = slice(end, end + len(part.tokens))
            rows["tokens"][row, text] = part.tokens
            rows["places"][row, text] = part.place + np.arange(len(part.tokens))
            if part.marks is not None:
                rows["words"][row, text] = part.marks & WORD
                rows["words"][row, text.start] = True
            rows["tokens"][row, text.stop] = self.separator
            rows["segments"][row, text.start : text.stop + 1] = segment
            end = text.stop + 1
        rows["documents"][row, begin:end] = number + 1
        return end

    def _sequences(self, stretch: Stretch, other: Stretch | None) -> Iterator[_Sequence]:
        text = _Text(stretch, self.end_of_text)
        make = {"text": self._running, "pairs": self._paired, "sentences": self._single}[self.parts]
        generator = np.random.default_rng([self.seed, stretch.visit, max(0, stretch.start)])
        drawn = None if other is None else _Text(other, self.end_of_text)
        begin, room = 0 if self.parts == "text" else text.next_sentence(0, limit=self.length), self.length
        for _ in range(self.most):
            begin = text.begin(begin)
            if begin >= text.length or room < min(_LEAST_ROOM, self.length):
                return
            sequence, begin = make(text, begin, room, generator, drawn)
            room -= 1 + sum(len(part.tokens) + 1 for part in sequence.parts)
            yield sequence

    def _running(self, text: _Text, begin: int, room: int, *_: Any) -> tuple[_Sequence, int]:
        end = min(text.document_end(begin), begin + room - 2)
        return _Sequence((text.part(begin, end),), IGNORED), end

    def _single(self, text: _Text, begin: int, room: int, *_: Any) -> tuple[_Sequence, int]:
        end = int(text.sentence_ends(begin, text.document_end(begin))[0])
        return _Sequence((text.part(begin, min(end, begin + min(room, self.longest) - 2)),), IGNORED), end

    def _paired(
        self, text: _Text, begin: int, room: int, generator: np.random.Generator, drawn: _Text | None
    ) -> tuple[_Sequence, int]:
        most = room - 3
        target = most
        if generator.random() < self.short_share:
            target = int(generator.integers(2, max(3, most + 1)))
        document_end = text.document_end(begin)
        ends = text.sentence_ends(begin, document_end)
        ends = ends[: 1 + int(np.searchsorted(ends, begin + target))]
        cut = int(ends[0]) if len(ends) == 1 else int(ends[generator.integers(len(ends) - 1)])
        end = int(ends[-1])
        alone = len(ends) == 1
        if self.task == "sentence_order":
            if alone:
                return _Sequence((text.part(begin, min(end, begin + most)),), IGNORED), end
            a, b = _shortened(text.part(begin, cut), text.part(cut, end), most, generator)
            swapped = bool(generator.random() < 0.5)
            return _Sequence((b, a) if swapped else (a, b), int(swapped)), end
        assert drawn is not None
        a = text.part(begin, cut)
        if alone or generator.random() < 0.5:
            elsewhere = drawn.random_part(text.around(begin, document_end), max(1, target - (cut - begin)), generator)
            if elsewhere is not None:
                return _Sequence(_shortened(a, elsewhere, most, generator), 1), cut
        if alone:  # and the place that was drawn lies in the same document
            return _Sequence((_cut(a, most, generator),), IGNORED), cut
        return _Sequence(_shortened(a, text.part(cut, end), most, generator), 0), end


class _Part(NamedTuple):
    tokens: Ints
    marks: NDArray[np.uint8] | None
    place: int


class _Sequence(NamedTuple):
    parts: tuple[_Part, ...]
    label: int


class _Text:
    """A stretch, and where its documents and sentences begin and end."""

    def __init__(self, stretch: Stretch, end_of_text: int) -> None:
        self._stretch = stretch
        padding = np.flatnonzero(stretch.tokens == PADDING)
        self.length = int(padding[0]) if len(padding) else len(stretch.tokens)
        self._ends = np.flatnonzero(stretch.tokens[: self.length] == end_of_text)
        self._end_of_text = end_of_text
        self._sentences = np.zeros(0, dtype=np.int64)
        if stretch.marks is not None:
            is_text = stretch.tokens[: self.length] != end_of_text
            self._sentences = np.flatnonzero(is_text & (stretch.marks[: self.length] & SENTENCE > 0))

    def begin(self, position: int) -> int:
        """The next position that holds text."""
        tokens = self._stretch.tokens
        while position < self.length and tokens[position] == self._end_of_text:
            position += 1
        return position

    def document_end(self, position: int) -> int:
        """Where the end-of-text id of the document lies, or the text ends."""
        index = int(np.searchsorted(self._ends, position))
        return int(self._ends[index]) if index < len(self._ends) else self.length

    def next_sentence(self, position: int, limit: int) -> int:
        """The next sentence from a position on, or the position where none begins before `limit`."""
        index = int(np.searchsorted(self._sentences, position))
        found = int(self._sentences[index]) if index < len(self._sentences) else limit
        return found if found < limit else position

    def sentence_ends(self, begin: int, document_end: int) -> Ints:
        """Ends of the sentences from `begin` to the end of its document; at least one."""
        low, high = np.searchsorted(self._sentences, [begin + 1, document_end])
        return np.append(self._sentences[low:high], document_end)

    def part(self, begin: int, end: int) -> _Part:
        """The tokens from `begin` to `end`."""
        stretch = self._stretch
        marks = None if stretch.marks is None else stretch.marks[begin:end]
        return _Part(stretch.tokens[begin:end], marks, stretch.start + begin)

    def around(self, begin: int, document_end: int) -> tuple[int, int]:
        """Positions in the corpus of a document, as far as they are known: its beginning may lie before the stretch."""
        index = int(np.searchsorted(self._ends, begin))
        first = int(self._ends[index - 1]) if index else -len(self._stretch.tokens)
        return self._stretch.start + first, self._stretch.start + document_end

    def random_part(self, without: tuple[int, int], target: int, generator: np.random.Generator) -> _Part | None:
        """Whole sentences of at least `target` tokens, or the rest of a document, outside of a range of the corpus."""
        places = self._stretch.start + self._sentences
        starts = self._sentences[(places < without[0]) | (places > without[1])]
        if not len(starts):
            return None
        begin = int(starts[generator.integers(len(starts))])
        ends = self.sentence_ends(begin, self.document_end(begin))
        return self.part(begin, int(ends[min(int(np.searchsorted(ends, begin + target)), len(ends) - 1)]))


def _shortened(a: _Part, b: _Part, most: int, generator: np.random.Generator) -> tuple[_Part, _Part]:
    """Two parts of at most `most` tokens together, the longer one cut first."""
    of_a, of_b = len(a.tokens), len(b.tokens)
    if of_a + of_b > most:
        half = most // 2
        of_a, of_b = max(most - of_b, min(of_a, most - half)), max(most - of_a, min(of_b, half))
    return _cut(a, of_a, generator), _cut(b, of_b, generator)


def _cut(part: _Part, length: int, generator: np.random.Generator) -> _Part:
    """`length` tokens of a part; each token too many goes at its beginning or its end with the same probability."""
    over = len(part.tokens) - length
    if over <= 0:
        return part
    front = int(generator.binomial(over, 0.5))
    kept = slice(front, front + length)
    return _Part(part.tokens[kept], None if part.marks is None else part.marks[kept], part.place + front)


@dataclass(frozen=True)
class Several(Form):
    """Rows of several forms from the same stretches; the arrays of the i-th are named `i/...`."""

    forms: tuple[Form, ...]

    @property
    def stride(self) -> int:  # type: ignore[override]
        """That of the first."""
        return self.forms[0].stride

    @property
    def reads(self) -> int:  # type: ignore[override]
        """The most of any."""
        return max(form.reads for form in self.forms)

    @property
    def leads(self) -> int:  # type: ignore[override]
        """The most of any."""
        return max(form.leads for form in self.forms)

    @property
    def draws_others(self) -> bool:  # type: ignore[override]
        """Whether any does."""
        return any(form.draws_others for form in self.forms)

    @property
    def copies(self) -> int | None:  # type: ignore[override]
        """The most of those that say so."""
        return max((form.copies for form in self.forms if form.copies is not None), default=None)

    def rows(self, stretches: Sequence[Stretch], others: Sequence[Stretch]) -> Rows:
        """All of them."""
        made: Rows = {}
        for index, form in enumerate(self.forms):
            mine = [_beginning(stretch, form.reads) for stretch in stretches]
            rows = form.rows(mine, others if form.draws_others else [])
            made |= {f"{index}/{name}": array for name, array in rows.items()}
        return made


def _beginning(stretch: Stretch, length: int) -> Stretch:
    marks = None if stretch.marks is None else stretch.marks[:length]
    return stretch._replace(tokens=stretch.tokens[:length], marks=marks)


def example_rows(form: Form, count: int) -> Rows:
    """Rows of the shapes of a real batch, of a text that says nothing: for what only asks what a step costs."""
    stretch = Stretch(np.ones(form.reads, dtype=np.int64), np.full(form.reads, WORD | SENTENCE, np.uint8), 0, 0)
    return form.rows([stretch] * count, [stretch._replace(start=10 * form.reads)] * count if form.draws_others else [])
