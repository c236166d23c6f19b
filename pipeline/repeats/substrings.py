"""Repeated substrings: spans of words that occur more than once in the corpus (ExactSubstr of Lee et al. 2022,
arXiv:2107.06499), found out of core by winnowing, each match proved word for word.

The corpus is its documents in their order of preference. A word is one of `pipeline.text.scan`; a window is `tokens`
consecutive words inside one document. A window is repeated where a window of the same words (64-bit hashes of each)
stands earlier: in a more preferred document, or in the same one and ending before it begins. Every word of a repeated
window is cut, no other word is. So what is cut depends neither on shards nor on threads or memory.

Windows that overlap each other do not count as repeats of one another: of one word 10,000 times the first 50 stay,
where it would shrink to a single one otherwise. The first occurrence of a window stays, but for words of it that belong
to another repeated window as well, whose first occurrence is elsewhere.

How: (1) one scan of the text finds which anchors (see `winnowing`) occur twice; (2) another one writes down the windows
that have such an anchor, with their words and where those stand; everything after it reads what was written only;
(3) windows are matched with the first one of their hash, and (4) compared with it word by word; those that turn out to
be different are matched among themselves once more, so that a collision of hashes hides nothing. All of it is linear
in the text, however often a window occurs.

Bytes: a span goes from the first word that is cut to the next one that stays, or to the end of the document. The marks
that open a word (a quotation mark, a bracket, the bullet of a list: all that stands between it and the line feed before
it, or the white space where there is no line feed) go or stay with it. What becomes of white space at the ends of a
span, `spans.cut_spans` decides.
"""

from __future__ import annotations

import tempfile
import threading
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, TypeVar

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray
from pydantic import Field

from pipeline.repeats.kept import KeptBatch, KeptDocuments
from pipeline.repeats.parallel import ordered_map
from pipeline.repeats.spans import SPANS_SCHEMA
from pipeline.repeats.spill import CHUNK_RECORDS, Part, Spill
from pipeline.repeats.window_candidates import Candidates
from pipeline.repeats.window_matches import Proof, match_windows
from pipeline.repeats.winnowing import RepeatedHashes, add_to_filter, empty_filter, windows_in_filter, winnow
from pipeline.stage import StageConfig
from pipeline.text.arrow import utf8_view
from pipeline.text.scan import word_hashes

T = TypeVar("T")

REPEATED_SUBSTRINGS = "repeated_substrings"
"""The rule in the spans."""

"""What changes nothing in the output."""

_MEGABYTE = 1 << 20
_SLICE_BYTES = 4 << 20  # of text at a time and thread, at most
_PART_BYTES = 1 << 19  # of records, counted or matched at a time
_BYTES_A_TEXT_BYTE = 64  # what a slice takes where each of its windows is a candidate


class SubstringsConfig(StageConfig):
    """Repeated substrings: how long a span must be, and what becomes of it."""

    tokens: int = Field(
        50,
        ge=2,
        le=10_000,
        description="Words in the shortest repeated span; a character of an unspaced script is one (Lee et al. 2022, "
        "arXiv:2107.06499: 50 tokens)",
    )
    action: Literal["cut", "count"] = Field(
        "cut", description="Cut repeated spans out of the documents, or only count them"
    )
    memory_limit_mb: int = Field(
        1024, ge=64, description="Memory of the search in MB, besides the batches that are read. Changes no result"
    )

    def identity(self) -> dict[str, Any]:
        """Return what the spans depend on."""
        return {"tokens": self.tokens}


@dataclass
class SubstringFacts:
    """What the search saw. Only `candidates` depends on the memory limit; the rest is the same in every run."""

    tokens: int = 0
    """Words of all documents."""
    repeated_tokens: int = 0
    """Words in repeated windows: those that are cut."""
    spans: int = 0
    anchors: int = 0
    repeated_anchors: int = 0
    """Distinct hashes of anchors that occur twice or more."""
    candidates: int = 0
    """Windows with a repeated anchor."""
    proved: int = 0
    """Windows that were compared with the first of their hash and are equal to it."""
    refused: int = 0
    """Comparisons of windows of one hash that differ."""


def find_repeated_substrings(
    kept: KeptDocuments,
    config: SubstringsConfig,
    scratch: Path,
    threads: int,
    facts: SubstringFacts | None = None,
    hash_bits: int = 64,
) -> Iterator[pa.Table]:
    """Yield the spans of repeated windows, tables of SPANS_SCHEMA, ordered by shard, row and begin.

    `scratch` is a folder for about 0.2 bytes for each byte of text, and 40 for each word that repeats or is repeated;
    all of it is gone in the end. A document is held in memory whole. `facts` are filled. `hash_bits` is for tests:
    windows are told apart by so many bits, which makes collisions.
    Raises OSError where the disk is full.
    """
    facts = SubstringFacts() if facts is None else facts
    scratch.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(prefix="substrings-", dir=scratch) as folder:
        search = _Search(kept, config, Path(folder), threads, facts)
        anchors = search.repeated_anchors()
        candidates = search.candidates(anchors, hash_bits)
        del anchors
        if candidates.locations:
            search.match(candidates)
            yield from search.spans(candidates)


def _fits_cache(part: Part) -> bool:
    """Whether a hash table of the part's records stays in a cache: twice as fast as one that does not."""
    return part.bytes <= _PART_BYTES


class _Search:
    """The steps of `find_repeated_substrings`, each bounded in memory."""

    def __init__(
        self, kept: KeptDocuments, config: SubstringsConfig, folder: Path, threads: int, facts: SubstringFacts
    ) -> None:
        self.kept = kept
        self.tokens = config.tokens
        # Longer grams tell more apart, fewer of them in a window make more anchors; 35 words and 16 grams of 50 tokens.
        self.grams = max(1, config.tokens // 3)
        self.gram_words = config.tokens - self.grams + 1
        self.folder = folder
        self.threads = threads
        self.memory = config.memory_limit_mb * _MEGABYTE
        self.buffer = self.memory // 24  # of two files at a time, each three times as large while it is written
        self.facts = facts
        self._lock = threading.Lock()

    def repeated_anchors(self) -> NDArray[np.uint64]:
        """Scan the text and return a filter that knows the anchors that occur twice or more."""
        anchors = Spill(self.folder / "anchors", 1, self.buffer)
        repeated = self.folder / "repeated-anchors"

        def scan(shard: int) -> None:
            for batch in self._slices(shard):
                offsets, words = word_hashes(batch.texts)
                hashes = winnow(offsets, words, self.gram_words, self.grams).hashes
                anchors.append(hashes[:, None].copy())
                self._count(tokens=len(words), anchors=len(hashes))

        def count(part: Part) -> None:
            hashes = RepeatedHashes()
            for chunk in part.chunks():
                hashes.add(chunk[:, 0])
            part.delete()
            found = hashes.repeated()
            with self._lock, open(repeated, "ab") as file:
                found.tofile(file)
                self.facts.repeated_anchors += len(found)

        self._each(scan, range(self.kept.shards))
        self._each(count, anchors.parts(_fits_cache))
        blocks = empty_filter(self.facts.repeated_anchors, self.memory // 4)
        if repeated.exists():
            with open(repeated, "rb") as file:
                while len(hashes := np.fromfile(file, np.uint64, CHUNK_RECORDS)):
                    add_to_filter(blocks, hashes)
            repeated.unlink()
        return blocks

    def candidates(self, repeated_anchors: NDArray[np.uint64], hash_bits: int) -> Candidates:
        """Scan the text again and write down the windows that have a repeated anchor."""
        candidates = Candidates(self.folder / "candidates", self.tokens, self.buffer, hash_bits)

        def scan(shard: int) -> None:
            for batch in self._slices(shard):
                offsets, words = word_hashes(batch.texts)
                windows = windows_in_filter(winnow(offsets, words, self.gram_words, self.grams), repeated_anchors)
                candidates.add(shard, batch.rows, batch.ranks, utf8_view(batch.texts), offsets, words, windows)
                self._count(candidates=len(windows))

        self._each(scan, range(self.kept.shards))
        candidates.close()
        return candidates

    def match(self, candidates: Candidates) -> None:
        """Match windows with the first of their hash, and again those that the proof refuses, until none is left."""
        shift = 64 - candidates.locations.bit_length()
        proof = Proof(candidates.words, candidates.repeated, candidates.locations, self.tokens, shift)
        share = self.memory // (8 * self.threads)
        unmatched = candidates.windows
        turn = 0
        while unmatched.records:
            windows = unmatched
            turn += 1
            matches = Spill(self.folder / f"matches-{turn}", 3, self.buffer)
            unmatched = Spill(self.folder / f"unmatched-{turn}", 3, self.buffer)

            def match(part: Part, matches: Spill = matches) -> None:
                match_windows(part, shift, matches)
                part.delete()

            def prove(part: Part, unmatched: Spill = unmatched) -> None:
                proof.prove(part, unmatched, share)
                part.delete()

            self._each(match, windows.parts(_fits_cache))
            self._each(prove, matches.parts(lambda part: proof.memory(part) <= share))
        self.facts.proved, self.facts.refused = proof.proved, proof.refused

    def spans(self, candidates: Candidates) -> Iterator[pa.Table]:
        """Yield the spans of repeated windows, shard after shard."""
        for shard in range(self.kept.shards):
            for spans, words in candidates.spans(shard):
                self._count(spans=len(spans), repeated_tokens=words)
                if len(spans):
                    columns = [np.full(len(spans), shard, np.int32), *(spans[:, column].copy() for column in range(3))]
                    rule = pa.array([REPEATED_SUBSTRINGS] * len(spans))
                    yield pa.table([*map(pa.array, columns), rule], schema=SPANS_SCHEMA)

    def _slices(self, shard: int) -> Iterator[KeptBatch]:
        """Yield the documents of a shard, of bounded size each but for single texts."""
        most_bytes = min(_SLICE_BYTES, self.memory // (_BYTES_A_TEXT_BYTE * self.threads))
        for batch in self.kept.read(shard):
            view = utf8_view(batch.texts)
            begin = 0
            while begin < len(batch.rows):
                end = int(np.searchsorted(view.ends, view.starts[begin] + most_bytes, side="right"))
                end = max(begin + 1, end)
                part = slice(begin, end)
                yield KeptBatch(shard, batch.rows[part], batch.ranks[part], batch.texts[part])
                begin = end

    def _each(self, work: Callable[[T], None], items: Iterable[T]) -> None:
        deque(ordered_map(work, items, self.threads), maxlen=0)

    def _count(self, **counts: int) -> None:
        with self._lock:
            for name, count in counts.items():
                setattr(self.facts, name, getattr(self.facts, name) + count)
