"""Documents with planted duplicates of known kinds, and pages of templates that are none, as Parquet with the truth.

    python -m benchmarks.duplicates FOLDER [--documents 10000] [--median-words 300] [--seed 1]

Words are drawn from a vocabulary of random words by Zipf's law, so that no two documents share more than chance; their
lengths follow the frequency, as in English (about six bytes a word with what separates it). Documents have log-normal
lengths. A part of them are copies of an earlier document, each document being copied once at most:

    exact           the same words
    edited N%       N % of the words replaced, removed or preceded by a new one, a third each, at random places
    truncated N%    the first N % of the words
    embedded N%     the document, new words before and after it, N % of its words together

Another part are pages of templates, many pages each: `templated N%` shares N % of its words with each other page of its
template (a head, a middle and a foot), the rest being its own. They count as different documents.

FOLDER/documents/*.parquet has id, text, source, url and date; FOLDER/truth.parquet has a row for each document that is
no original: id, kind, twin (of which it is the copy, or null) and template (its number, or null).
"""

from __future__ import annotations

import argparse
import math
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path

import numba
import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq
from numpy.typing import NDArray

Words = NDArray[np.uint16]

EDITED = (1, 2, 5, 10, 20, 40)
TRUNCATED = (95, 80, 50)
EMBEDDED = (105, 120, 150)
TEMPLATED = (50, 60, 70, 80)
ORIGINAL = "original"
COPIES = (
    "exact",
    *(f"edited {share}%" for share in EDITED),
    *(f"truncated {share}%" for share in TRUNCATED),
    *(f"embedded {share}%" for share in EMBEDDED),
)
TEMPLATES = tuple(f"templated {share}%" for share in TEMPLATED)
KINDS = (ORIGINAL, *COPIES, *TEMPLATES)

VOCABULARY = 50_000
SHORTEST, LONGEST = 20, 20_000  # words of an original
BYTES_A_WORD = 6.0
BLOCK_WORDS = 8_000_000  # made and written at once
SEPARATORS = (b" ", b", ", b". ", b".\n\n")
SEPARATOR_SHARES = (0.89, 0.05, 0.05, 0.01)
LETTERS = "etaoinshrdlucmfwypvbgkjqxz"
TRUTH_SCHEMA = pa.schema(
    [
        pa.field("id", pa.string(), nullable=False),
        pa.field("kind", pa.string(), nullable=False),
        pa.field("twin", pa.string()),
        pa.field("template", pa.int64()),
    ]
)


@dataclass(frozen=True)
class CorpusPlan:
    """What to make. `copies` and `templated` are shares of the documents; `pages` is how many a template has."""

    documents: int
    median_words: int = 300
    sigma: float = 0.8  # of the logarithm of the length
    copies: float = 0.2
    templated: float = 0.1
    pages: int = 100
    files: int = 2
    seed: int = 1

    @staticmethod
    def of_size(megabytes: float, **changes: float) -> CorpusPlan:
        """A plan for about this much text."""
        like = CorpusPlan(0, **changes)  # type: ignore[arg-type]
        mean = like.median_words * math.exp(like.sigma**2 / 2) * BYTES_A_WORD
        files = max(2, round(megabytes / 256))
        return CorpusPlan(round(megabytes * 1e6 / mean), **{"files": files, **changes})  # type: ignore[arg-type]


@dataclass(frozen=True)
class Corpus:
    """Where a corpus lies, and how large it is."""

    folder: Path
    documents: int
    text_bytes: int

    @property
    def documents_folder(self) -> Path:
        return self.folder / "documents"

    def truth(self) -> pa.Table:
        """A row for each document that is no original: id, kind, twin, template."""
        return pq.read_table(self.folder / "truth.parquet")


@dataclass(frozen=True)
class Layout:
    """What stands where: `kind` indexes KINDS; `twin` is a copy's original, `template` a page's template, else -1."""

    kind: NDArray[np.int8]
    twin: NDArray[np.int64]
    template: NDArray[np.int64]
    copied: NDArray[np.bool_] = field(init=False)

    def __post_init__(self) -> None:
        copied = np.zeros(len(self.kind), np.bool_)
        copied[self.twin[self.twin >= 0]] = True
        object.__setattr__(self, "copied", copied)


def lay_out(plan: CorpusPlan) -> Layout:
    """Place originals, copies (after what they copy) and pages of templates at random."""
    rng = np.random.default_rng([plan.seed, 0])
    copies, pages = int(plan.documents * plan.copies), int(plan.documents * plan.templated)
    if 2 * copies + pages > plan.documents:
        raise ValueError("each document is copied once at most: 2 * copies + templated must not exceed 1")
    kind = np.zeros(plan.documents, np.int8)
    twin, template = np.full(plan.documents, -1), np.full(plan.documents, -1)
    places = rng.permutation(plan.documents)
    pairs = np.sort(places[: 2 * copies].reshape(-1, 2), axis=1)
    kind[pairs[:, 1]] = 1 + np.arange(copies) % len(COPIES)
    twin[pairs[:, 1]] = pairs[:, 0]
    templated = places[2 * copies : 2 * copies + pages]
    template[templated] = np.arange(pages) // plan.pages
    kind[templated] = 1 + len(COPIES) + template[templated] % len(TEMPLATES)
    return Layout(kind, twin, template)


@dataclass(frozen=True)
class Vocabulary:
    """Words as bytes, by rank of frequency, and a table from uniform numbers to words that are drawn by Zipf's law."""

    starts: NDArray[np.int64]
    letters: NDArray[np.uint8]
    table: Words

    @staticmethod
    def make(rng: np.random.Generator, size: int = VOCABULARY) -> Vocabulary:
        words: dict[str, None] = {}
        chances = 1 / np.arange(2.0, 2 + len(LETTERS))
        while len(words) < size:
            mean = 1.0 + 0.75 * math.log(2 + len(words))  # frequent words are short
            length = max(1, min(16, round(rng.normal(mean, 1.3))))
            words["".join(rng.choice([*LETTERS], length, p=chances / chances.sum()))] = None
        frequencies = 1 / np.arange(1, size + 1)
        cumulative = np.cumsum(frequencies / frequencies.sum())
        table = np.searchsorted(cumulative, (np.arange(1 << 22) + 0.5) / (1 << 22)).astype(np.uint16)
        lengths = [len(word) for word in words]
        return Vocabulary(np.cumsum([0, *lengths]), np.frombuffer("".join(words).encode(), np.uint8), table)

    def draw(self, rng: np.random.Generator, count: int) -> Words:
        """So many words."""
        return self.table[rng.integers(0, len(self.table), count, np.uint32)]


def edited(words: Words, share: float, rng: np.random.Generator, vocabulary: Vocabulary) -> Words:
    """A share of the words replaced, removed or preceded by a new word, a third each."""
    places = np.sort(rng.choice(len(words), max(1, round(share * len(words))), replace=False))
    action = rng.integers(0, 3, len(places))
    changed = words.copy()
    new = vocabulary.draw(rng, len(places))
    changed[places[action == 0]] = new[action == 0]
    repeats = np.ones(len(words), np.int64)
    repeats[places[action == 1]] = 0
    inserted = places[action == 2]
    repeats[inserted] = 2
    result = np.repeat(changed, repeats)
    result[(np.cumsum(repeats) - repeats)[inserted]] = new[action == 2]
    return result


def copy_of(words: Words, kind: str, rng: np.random.Generator, vocabulary: Vocabulary) -> Words:
    """A copy of a document of one of the kinds COPIES."""
    name, _, number = kind.partition(" ")
    share = int(number.rstrip("%") or 100) / 100
    if name == "edited":
        return edited(words, share, rng, vocabulary)
    if name == "truncated":
        return words[: max(1, round(share * len(words)))]
    if name == "embedded":
        added = vocabulary.draw(rng, max(1, round((share - 1) * len(words))))
        cut = rng.integers(0, len(added) + 1)
        return np.concatenate([added[:cut], words, added[cut:]])
    return words


def page_of(number: int, plan: CorpusPlan, rng: np.random.Generator, vocabulary: Vocabulary) -> Words:
    """A page of a template: head, own words, middle, own words, foot. All pages of a template are of one length."""
    own_rng = np.random.default_rng([plan.seed, 1, number])
    words = int(own_rng.integers(plan.median_words // 2, 2 * plan.median_words + 1))
    shared = words * TEMPLATED[number % len(TEMPLATED)] // 100
    template = vocabulary.draw(own_rng, shared)
    own = vocabulary.draw(rng, words - shared)
    middle, cuts = len(own) // 2, (int(shared * 0.4), int(shared * 0.6))
    return np.concatenate(
        [template[: cuts[0]], own[:middle], template[slice(*cuts)], own[middle:], template[cuts[1] :]]
    )


@numba.njit(nogil=True, cache=True)
def spell(
    words: Words,
    separators: NDArray[np.uint8],
    ends: NDArray[np.int64],
    starts: NDArray[np.int64],
    letters: NDArray[np.uint8],
    marks: NDArray[np.uint8],
    mark_starts: NDArray[np.int64],
) -> tuple[NDArray[np.uint8], NDArray[np.int64]]:
    """The text of documents, and where each ends: words joined by separators, sentences begun with a capital letter.

    `ends` (documents,) bounds their words; the last separator of a document is its full stop.
    """  # fmt: skip
    size = 0
    for at in range(len(words)):
        separator = separators[at]
        size += starts[words[at] + 1] - starts[words[at]] + mark_starts[separator + 1] - mark_starts[separator]
    text = np.empty(size, np.uint8)
    bounds = np.empty(len(ends), np.int64)
    to = at = 0
    for document in range(len(ends)):
        capital = True
        while at < ends[document]:
            word, separator = words[at], separators[at]
            begin = to
            for letter in range(starts[word], starts[word + 1]):
                text[to] = letters[letter]
                to += 1
            if capital:
                text[begin] -= 32
            capital = separator >= 2
            at += 1
            last = at == ends[document]
            if last:
                text[to] = 46
                to += 1
            else:
                for letter in range(mark_starts[separator], mark_starts[separator + 1]):
                    text[to] = marks[letter]
                    to += 1
        bounds[document] = to
    return text[:to], bounds


def texts_of(documents: list[Words], rng: np.random.Generator, vocabulary: Vocabulary) -> pa.LargeStringArray:
    """The documents spelled."""
    words = np.concatenate(documents)
    ends = np.cumsum([len(document) for document in documents])
    separators = rng.choice(len(SEPARATORS), len(words), p=SEPARATOR_SHARES).astype(np.uint8)
    separators[ends - 1] = len(SEPARATORS) - 1  # room for the full stop
    marks = np.frombuffer(b"".join(SEPARATORS), np.uint8)
    mark_starts = np.cumsum([0, *map(len, SEPARATORS)])
    text, bounds = spell(words, separators, ends, vocabulary.starts, vocabulary.letters, marks, mark_starts)
    offsets = np.concatenate([[0], bounds])
    buffers = [None, pa.py_buffer(offsets), pa.py_buffer(text)]
    return pa.LargeStringArray.from_buffers(len(documents), *buffers[1:])


def documents_of(plan: CorpusPlan, layout: Layout, vocabulary: Vocabulary) -> Iterator[tuple[int, pa.LargeStringArray]]:
    """Yield the documents in blocks, each with the number of its first document."""
    pending: dict[int, Words] = {}  # originals whose copy is still to come
    size = max(1, round(BLOCK_WORDS / (plan.median_words * math.exp(plan.sigma**2 / 2))))
    for first in range(0, plan.documents, size):
        rng = np.random.default_rng([plan.seed, 2, first])
        block = range(first, min(first + size, plan.documents))
        lengths = rng.lognormal(math.log(plan.median_words), plan.sigma, len(block))
        lengths = np.clip(lengths, SHORTEST, LONGEST).astype(np.int64)
        lengths[layout.kind[block.start : block.stop] > 0] = 0
        bounds = np.concatenate([[0], np.cumsum(lengths)])
        drawn = vocabulary.draw(rng, int(bounds[-1]))
        documents = []
        for at, number in enumerate(block):
            kind = layout.kind[number]
            if kind == 0:
                words = drawn[bounds[at] : bounds[at + 1]]
                if layout.copied[number]:
                    pending[number] = words.copy()
            elif layout.twin[number] >= 0:
                words = copy_of(pending.pop(int(layout.twin[number])), KINDS[kind], rng, vocabulary)
            else:
                words = page_of(int(layout.template[number]), plan, rng, vocabulary)
            documents.append(words)
        yield first, texts_of(documents, rng, vocabulary)


def ids_of(numbers: NDArray[np.int64]) -> pa.Array:
    """The ids of documents by number."""
    return pc.binary_join_element_wise("d", pc.utf8_lpad(pa.array(numbers).cast(pa.string()), 9, "0"), "")


def columns_of(first: int, texts: pa.LargeStringArray) -> pa.Table:
    """The documents of a block with what a source gives beside the text."""
    ids = ids_of(np.arange(first, first + len(texts)))
    hosts = pa.array(np.arange(first, first + len(texts)) % 997).cast(pa.string())
    days = pa.array((18_000 + np.arange(first, first + len(texts)) * 7919 % 2_000).astype(np.int32))
    return pa.table(
        {
            "id": ids,
            "text": texts,
            "source": pa.repeat("planted", len(texts)),
            "url": pc.binary_join_element_wise("https://host", hosts, ".example/", ids, ""),
            "date": days.cast(pa.date32()).cast(pa.string()),
        }
    )


def truth_of(layout: Layout) -> pa.Table:
    """The rows of truth.parquet."""
    numbers = np.flatnonzero(layout.kind)
    twin, template = layout.twin[numbers], layout.template[numbers]
    return pa.table(
        {
            "id": ids_of(numbers),
            "kind": pa.array(KINDS).take(pa.array(layout.kind[numbers])),
            "twin": pc.if_else(pa.array(twin >= 0), ids_of(np.maximum(twin, 0)), None),
            "template": pa.array(template, mask=template < 0),
        },
        schema=TRUTH_SCHEMA,
    )


def write_corpus(folder: Path, plan: CorpusPlan) -> Corpus:
    """Make a corpus; the same plan gives the same bytes."""
    vocabulary = Vocabulary.make(np.random.default_rng([plan.seed, 3]))
    layout = lay_out(plan)
    (folder / "documents").mkdir(parents=True)
    text_bytes = file = 0
    writer: pq.ParquetWriter | None = None
    for first, texts in documents_of(plan, layout, vocabulary):
        text_bytes += pc.sum(pc.binary_length(texts)).as_py()
        table = columns_of(first, texts)
        at = 0
        while at < len(table):  # a block may lie in several files
            end = -(-(file + 1) * plan.documents // plan.files)
            part = table.slice(at, end - first - at)
            if writer is None:
                writer = pq.ParquetWriter(
                    folder / "documents" / f"{file:05d}.parquet", table.schema, compression="zstd"
                )
            writer.write_table(part, row_group_size=max(1, int(8e6 * len(texts) / texts.nbytes)))
            at += len(part)
            if first + at == end:
                writer.close()
                writer, file = None, file + 1
    pq.write_table(truth_of(layout), folder / "truth.parquet")
    return Corpus(folder, plan.documents, text_bytes)


def main() -> None:
    options = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    options.add_argument("folder", type=Path)
    options.add_argument("--documents", type=int, default=10_000)
    options.add_argument("--median-words", type=int, default=300)
    options.add_argument("--copies", type=float, default=0.2, help="share of the documents")
    options.add_argument("--templated", type=float, default=0.1, help="share of the documents")
    options.add_argument("--files", type=int, default=2)
    options.add_argument("--seed", type=int, default=1)
    given = vars(options.parse_args())
    corpus = write_corpus(given.pop("folder"), CorpusPlan(**given))
    print(f"{corpus.documents:,} documents, {corpus.text_bytes / 1e6:,.1f} MB of text in {corpus.folder}")


if __name__ == "__main__":
    main()
