"""Marks: which tokens begin a word and which begin a sentence, beside the token shards, which stay as they are.

A marks file has one uint8 for each token of its shard, in the same order, and nothing else: bit 1 (value 1) where a
word begins, bit 2 (value 2) where a sentence begins, 0 for end-of-text tokens. The first token of a document begins
both. Words are those of `pipeline.text.words`, sentences those of `pipeline.text.sentences`.

A token belongs to the word of its first character that is not white space; one of white space alone is a word of its
own, with those of its kind after it. A token with the beginning of a sentence in it begins that sentence, even where
the end of another stands before ("。我" may be one token).
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any, Final

import fsspec
import numba
import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from numpy.typing import NDArray
from pydantic import Field

from pipeline.stage import Stage, StageConfig, StageError, Unit, UnitOutput, UnitRecord, document_input
from pipeline.store import Committed, File, StageRef
from pipeline.text.arrow import Utf8View, utf8_view
from pipeline.text.sentences import SENTENCES_VERSION, sentence_starts_of
from pipeline.text.tables import UNICODE_VERSION
from pipeline.text.words import (
    BLANK,
    SEGMENTERS,
    SENTENCE_START,
    WORD_START,
    WORDS_VERSION,
    Segmenter,
    SegmenterName,
    word_flags,
)
from pipeline.tokens.encoding import Encoded
from pipeline.tokens.shards import INDEX_SCHEMA, SUFFIX
from pipeline.tokens.spans import Spans, TokensMismatch, load_aligner
from pipeline.tokens.stages import TokenizeConfig, TrainedTokenizer, document_groups

BEGINS_WORD: Final = 1
BEGINS_SENTENCE: Final = 2
BATCH_ROWS: Final = 512
KIND: Final = "marks"


class MarksConfig(StageConfig):
    """How words are found; the stage is made for objectives that work along words or sentences."""

    segmenter: SegmenterName = Field(
        "jieba",
        description="What a Chinese word is: jieba's, or characters. Text without Han characters is the same to both.",
    )


class Marks(Stage[MarksConfig]):
    """Mark the tokens of the token shards that begin a word or a sentence."""

    name = "marks"
    version = 1

    def __init__(self, config: MarksConfig, inputs: Mapping[str, StageRef]) -> None:
        super().__init__(config, inputs)
        self.conserves: str = document_input(inputs)

    def identity(self) -> dict[str, Any]:
        """Return what the marks depend on."""
        return {
            "segmenter": SEGMENTERS[self.config.segmenter].identity,
            "words": WORDS_VERSION,
            "sentences": SENTENCES_VERSION,
            "unicode": UNICODE_VERSION,
        }

    def units(self) -> list[Unit]:
        """Return the units of the tokenize stage. Raises StageError where it did not read these documents."""
        tokens = self.inputs["tokenize"].committed()
        for name in (self.conserves, "tokenizer"):
            if tokens.manifest["inputs"].get(name) != self.inputs[name].fingerprint:
                raise StageError(
                    f"stage 'marks': the token shards at {tokens.path} were not made from {name} "
                    f"{self.inputs[name].fingerprint}; run the tokenize stage of this recipe first"
                )
        return document_groups(
            self.inputs[self.conserves].committed().files("documents"),
            TokenizeConfig.model_validate(tokens.manifest["config"]).unit_bytes,
        )

    def process(self, unit: Unit, output: UnitOutput) -> None:
        """Write the marks of the unit's shards."""
        files = self.inputs[self.conserves].committed().files("documents")[unit.spec["begin"] : unit.spec["end"]]
        shards = UnitShards(self.inputs["tokenize"].committed(), unit.index)
        tokenizer = TrainedTokenizer.of(self.inputs["tokenizer"].committed())
        aligner = load_aligner(tokenizer.json)
        segmenter = SEGMENTERS[self.config.segmenter]
        marks = np.zeros(len(shards.tokens), np.uint8)
        for batch in _batches(files):
            places = shards.places(batch)
            encoded = shards.encoded(places)
            view = utf8_view(batch["text"])
            try:
                spans = aligner.spans(batch["text"], encoded)
            except TokensMismatch as error:
                raise StageError(f"stage 'marks', unit {unit.name!r}: {error}; remove {shards.path}") from error
            flags, base = text_flags(view, segmenter)
            found = mark_tokens(view, flags, base, encoded.offsets, spans)
            marks[shards.positions(places)] = found
            size = pc.sum(pc.binary_length(batch["text"])).as_py() or 0
            output.count(read=batch.num_rows, kept=batch.num_rows, bytes_in=size, bytes_out=size)
        shards.check_all_seen()
        for file, begin, end in shards.files():
            self._write(output, file, shards.path, marks[begin:end])

    def _write(self, output: UnitOutput, file: File, folder: str, marks: NDArray[np.uint8]) -> None:
        shard = file.path.removeprefix(f"{folder}/")
        facts = {
            "tokens": len(marks),
            "words": int(np.count_nonzero(marks & BEGINS_WORD)),
            "sentences": int(np.count_nonzero(marks & BEGINS_SENTENCE)),
        }
        with output.file(KIND, SUFFIX, shard=shard, split=file.attributes["split"], **facts) as stream:
            stream.write(marks.data)
            stream.rows = file.rows
        output.count(**facts)

    def summary(self, records: Sequence[UnitRecord]) -> dict[str, Any]:
        """Return the tokens, words and sentences, and the shards that they are of."""
        names = ("tokens", "words", "sentences")
        return {
            "tokenize": self.inputs["tokenize"].fingerprint,
            **{name: sum(record.counts.get(name, 0) for record in records) for name in names},
        }


def marks_of(marks: Committed) -> dict[str, File]:
    """Return the marks file of each token shard, by the shard's path inside the tokenize stage's folder.

    That path is the one in the index, such as tokens/00000.bin: of a token file of the committed tokenize stage it is
    `file.path.removeprefix(f"{tokenize.path}/")`.
    """
    return {file.attributes["shard"]: file for file in marks.files(KIND)}


class UnitShards:
    """The token shards of one unit of a committed tokenize stage, one behind another, with their index."""

    def __init__(self, tokenize: Committed, unit: int) -> None:
        self.path = tokenize.path
        self._files = [file for file in tokenize.files("tokens") if file.unit == unit]
        parts = [_read_tokens(file) for file in self._files]
        self.tokens = np.concatenate([np.zeros(0, np.uint16), *parts])
        self._bases = np.cumsum([0, *map(len, parts)])
        index = pa.concat_tables(
            [INDEX_SCHEMA.empty_table(), *(file.table() for file in tokenize.files("index") if file.unit == unit)]
        )
        names = pa.array([file.path.removeprefix(f"{self.path}/") for file in self._files], pa.string())
        shard = pc.index_in(index["shard"], value_set=names).to_numpy()
        self._ids = index["id"].combine_chunks()
        self._starts = self._bases[shard] + index["offset"].to_numpy()
        self._lengths = index["tokens"].to_numpy() - 1  # without the end-of-text token
        self._text_bytes = index["text_bytes"].to_numpy()
        self._seen = np.zeros(len(self._ids), np.int64)
        if (self._lengths + 1).sum() != len(self.tokens):
            raise StageError(f"the index of unit {unit} of {self.path} does not add up to its token shards")

    def places(self, batch: pa.RecordBatch) -> NDArray[np.int64]:
        """Return the rows of the index that are a batch's documents.

        Raises StageError where one is not there, or has a text of another length.
        """
        found = pc.index_in(batch["id"], value_set=self._ids)
        if found.null_count:
            missing = batch["id"].filter(pc.is_null(found))[0]
            raise StageError(f"document {missing} is not in the token shards at {self.path}")
        rows = found.to_numpy(zero_copy_only=False).astype(np.int64)
        lengths = pc.fill_null(pc.binary_length(batch["text"]), 0).to_numpy(zero_copy_only=False)
        differs = np.flatnonzero(self._text_bytes[rows] != lengths)
        if len(differs):
            at = int(differs[0])
            raise StageError(
                f"document {batch['id'][at]} has {lengths[at]} bytes, but had {self._text_bytes[rows[at]]} when the "
                f"token shards at {self.path} were made"
            )
        np.add.at(self._seen, rows, 1)
        return rows

    def positions(self, rows: NDArray[np.int64]) -> NDArray[np.int64]:
        """Return where the tokens of some documents lie, end-of-text tokens left out, in the order of the rows."""
        lengths = self._lengths[rows]
        shifts = self._starts[rows] - (np.cumsum(lengths) - lengths)
        return np.arange(lengths.sum()) + np.repeat(shifts, lengths)

    def encoded(self, rows: NDArray[np.int64]) -> Encoded:
        """Return the tokens of some documents, end-of-text tokens left out."""
        offsets = np.concatenate([np.zeros(1, np.int64), np.cumsum(self._lengths[rows])])
        return Encoded(self.tokens[self.positions(rows)].astype(np.uint32), offsets)

    def check_all_seen(self) -> None:
        """Raise StageError unless each document of the shards has been asked for once."""
        wrong = np.flatnonzero(self._seen != 1)
        if len(wrong):
            times = int(self._seen[wrong[0]])
            raise StageError(
                f"document {self._ids[int(wrong[0])]} of the token shards at {self.path} is {times} times among the "
                "documents"
            )

    def files(self) -> Iterator[tuple[File, int, int]]:
        """Yield each shard, and where its tokens begin and end in `tokens`."""
        yield from zip(self._files, self._bases[:-1].tolist(), self._bases[1:].tolist(), strict=True)


def _read_tokens(file: File) -> NDArray[Any]:
    with fsspec.open(file.path, "rb") as stream:
        return np.frombuffer(stream.read(), np.dtype(file.attributes["dtype"]).newbyteorder("<"))


def _batches(files: Sequence[File]) -> Iterator[pa.RecordBatch]:
    for file in files:
        with file.parquet() as parquet:
            yield from parquet.iter_batches(BATCH_ROWS, columns=["id", "text"])


def text_flags(view: Utf8View, segmenter: Segmenter) -> tuple[NDArray[np.uint8], int]:
    """Return the flags of each byte (WORD_START, SENTENCE_START, BLANK) and where in `view.data` the first lies.

    The flags of text i are flags[view.starts[i] - base:view.ends[i] - base].
    """
    flags, base = word_flags(view, segmenter)
    offsets, starts = sentence_starts_of(view)
    flags[starts + np.repeat(view.starts - base, np.diff(offsets))] |= SENTENCE_START
    return flags, base


def mark_tokens(
    view: Utf8View, flags: NDArray[np.uint8], base: int, offsets: NDArray[np.int64], spans: Spans
) -> NDArray[np.uint8]:
    """Return the marks (tokens,) of the tokens of texts, given the flags of their bytes (`text_flags`).

    `offsets` (texts + 1,) says whose tokens are whose.
    """
    marks = np.empty(len(spans.starts), np.uint8)
    _mark_tokens(flags, view.starts - base, offsets, spans.starts, spans.ends, marks)
    return marks


@numba.njit(nogil=True, cache=True)
def _mark_tokens(
    flags: NDArray[np.uint8],
    texts: NDArray[np.int64],
    offsets: NDArray[np.int64],
    starts: NDArray[np.int64],
    ends: NDArray[np.int64],
    marks: NDArray[np.uint8],
) -> None:
    for document in range(len(texts)):
        text = texts[document]
        before = np.int64(0)  # where the last token ended
        was_blank = False
        for token in range(offsets[document], offsets[document + 1]):
            start, end = starts[token], ends[token]
            mark = np.uint8(0)
            for byte in range(before, end):  # what belongs to no token goes with the next
                if flags[text + byte] & SENTENCE_START:
                    mark = np.uint8(BEGINS_SENTENCE)
            first = start
            while first < end and flags[text + first] & BLANK:
                first += 1
            is_blank = first == end
            if (not was_blank) if is_blank else (start >= before and flags[text + first] & WORD_START):
                mark |= np.uint8(BEGINS_WORD)
            marks[token] = mark
            was_blank = is_blank
            before = max(before, end)
        if offsets[document] < offsets[document + 1]:
            marks[offsets[document]] = BEGINS_WORD | BEGINS_SENTENCE
