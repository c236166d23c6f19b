"""Classification of texts by fastText's supervised models, compiled: any .bin or .ftz file, over Arrow buffers.

The features, their hashes and the losses are fastText's own (Bojanowski et al. 2017; Joulin et al. 2016, "Bag of Tricks
for Efficient Text Classification"), so the probabilities are those of its `predict` up to the rounding of float32.
A text is read as one line: every ASCII white space and control character separates words.
"""

import hashlib
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import Final, NamedTuple

import numba
import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from pipeline.fasttext_format import (
    HIERARCHICAL_SOFTMAX,
    LABEL_PREFIX,
    SOFTMAX,
    FastTextFile,
    read_fasttext,
)
from pipeline.text.arrow import utf8_views

_END_OF_LINE: Final = b"</s>"
_LEAST_LOG: Final = np.float32(np.log(1e-5))  # fastText adds 1e-5 to a probability before it takes the logarithm
_FNV_BASIS: Final = np.uint32(2166136261)
_FNV_PRIME: Final = np.uint32(16777619)
_SIGN: Final = np.uint32(0xFFFFFF00)  # fastText hashes bytes as signed
_NGRAM_FACTOR: Final = np.uint64(116049371)
_BLANK: Final = 0x20
_DELETE: Final = 0x7F
_BRACKET_OPEN: Final = 0x3C
_BRACKET_CLOSE: Final = 0x3E
_ROOM: Final = 4096  # rows that are looked up before they are added

_ABSENT: Final = -1
_LABEL: Final = -2


class Tables(NamedTuple):
    """A model for the kernels."""

    dimension: np.int64
    word_ngrams: np.int64
    minimum_n: np.int64
    maximum_n: np.int64
    buckets: np.int64
    words: np.int64
    end_of_line: np.int64  # its row, or ABSENT
    pruned: np.bool_
    loss: np.int64
    slots: NDArray[np.int32]  # (power of two,) entry of the dictionary + 1; 0: empty
    spelling: NDArray[np.uint8]  # all entries, one after another
    spelling_ends: NDArray[np.int64]  # (entries + 1,)
    rows: NDArray[np.int32]  # (entries,) row of a word, or LABEL
    present: NDArray[np.uint32]  # bitmap of the buckets that were not pruned: it fits where `bucket_rows` does not
    bucket_rows: NDArray[np.int32]  # (buckets,) row of a bucket; empty where none was pruned
    input: NDArray[np.float32]
    output: NDArray[np.float32]
    left: NDArray[np.int32]  # (2 * labels - 1,) children of the Huffman tree, the root last; leaves come first
    right: NDArray[np.int32]
    prefix: NDArray[np.uint8]  # of labels


class Workspace(NamedTuple):
    """What the kernels write to, used again for each text."""

    rows: NDArray[np.int64]
    piece: NDArray[np.float32]
    document: NDArray[np.float32]
    hidden: NDArray[np.float32]
    hashes: NDArray[np.int32]
    scores: NDArray[np.float32]  # (labels,)
    nodes: NDArray[np.int32]
    node_scores: NDArray[np.float32]


@numba.njit(nogil=True, cache=True, inline="always")
def separates(byte: np.uint8) -> bool | np.bool_:
    """Whether a byte stands between words: ASCII white space and controls."""
    return byte <= _BLANK or byte == _DELETE


@numba.njit(nogil=True, cache=True, inline="always")
def _hash(state: np.uint32, byte: np.uint8) -> np.uint32:
    extended = np.uint32(byte) | (_SIGN if byte >= 0x80 else np.uint32(0))
    return np.uint32((state ^ extended) * _FNV_PRIME)  # Numba widens products


@numba.njit(nogil=True, cache=True)
def _find(data: NDArray[np.uint8], start: np.int64, end: np.int64, word: np.uint32, tables: Tables) -> np.int64:
    """Entry of a word in the dictionary, or ABSENT."""
    mask = np.uint32(len(tables.slots) - 1)
    slot = np.uint32(word & mask)
    while tables.slots[slot] != 0:
        entry = np.int64(tables.slots[slot] - 1)
        begin = tables.spelling_ends[entry]
        if tables.spelling_ends[entry + 1] - begin == end - start:
            same = True
            for offset in range(end - start):
                if tables.spelling[begin + offset] != data[start + offset]:
                    same = False
                    break
            if same:
                return entry
        slot = np.uint32((slot + np.uint32(1)) & mask)
    return np.int64(_ABSENT)


@numba.njit(nogil=True, cache=True)
def _flush(space: Workspace, count: np.int64, vectors: NDArray[np.float32]) -> None:
    size = len(space.piece)
    blocks = size // 16
    for number in range(count):
        row = space.rows[number]
        for block in range(blocks):  # a fixed length, which is unrolled; lid.176 has one block
            for column in range(16):
                space.piece[16 * block + column] += vectors[row, 16 * block + column]
        for column in range(16 * blocks, size):
            space.piece[column] += vectors[row, column]


@numba.njit(nogil=True, cache=True, inline="always")
def _bucket_row(bucket: np.int64, tables: Tables) -> np.int64:
    if not tables.pruned:
        return tables.words + bucket
    if (tables.present[bucket >> 5] >> np.uint32(bucket & 31)) & np.uint32(1):
        return np.int64(tables.bucket_rows[bucket])
    return np.int64(_ABSENT)


@numba.njit(nogil=True, cache=True)
def _add_subwords(
    data: NDArray[np.uint8],
    start: np.int64,
    end: np.int64,
    tables: Tables,
    space: Workspace,
    pending: np.int64,
    total: np.int64,
) -> tuple[np.int64, np.int64]:
    """Look up the character n-grams of `<word>`; returns the rows that wait to be added, and all rows found so far."""
    reciprocal = np.uint64((np.int64(1) << 32) // tables.buckets)
    buckets = np.uint64(tables.buckets)
    first = start - 1
    while first < end:
        # A byte that continues a character starts no n-gram.
        if first >= start and (data[first] & 0xC0) == 0x80:
            first += 1
            continue
        state = _FNV_BASIS
        at = first
        length = np.int64(1)
        while at <= end and length <= tables.maximum_n:
            byte = np.uint8(_BRACKET_OPEN)
            if at == end:
                byte = np.uint8(_BRACKET_CLOSE)
            elif at >= start:
                byte = data[at]
            state = _hash(state, byte)
            at += 1
            while start <= at < end and (data[at] & 0xC0) == 0x80:
                state = _hash(state, data[at])
                at += 1
            # A bracket alone is no n-gram; one that stands after the word is never the first.
            if length >= tables.minimum_n and not (length == 1 and first < start):
                wide = np.uint64(state)
                bucket = wide - ((wide * reciprocal) >> np.uint64(32)) * buckets
                if bucket >= buckets:
                    bucket -= buckets
                row = _bucket_row(np.int64(bucket), tables)
                if row >= 0:
                    space.rows[pending] = row
                    pending += 1
                    total += 1
                    if pending == _ROOM:
                        _flush(space, pending, tables.input)
                        pending = np.int64(0)
            length += 1
        first += 1
    return pending, total


@numba.njit(nogil=True, cache=True)
def _is_label(data: NDArray[np.uint8], start: np.int64, end: np.int64, tables: Tables) -> bool:
    if end - start < len(tables.prefix):
        return False
    for offset in range(len(tables.prefix)):  # noqa: SIM110  Numba compiles no generator
        if data[start + offset] != tables.prefix[offset]:
            return False
    return True


@numba.njit(nogil=True, cache=True)
def _read(
    data: NDArray[np.uint8], start: np.int64, end: np.int64, tables: Tables, space: Workspace, hashes: np.int64
) -> tuple[np.int64, np.int64, bool, bool]:
    """Sum the rows of a piece's words into `space.piece`.

    Returns the rows summed, the word hashes so far, whether there was a word, and whether the line ended.
    """
    space.piece[:] = 0
    pending = total = np.int64(0)
    seen = False
    at = start
    while True:
        while at < end and separates(data[at]):
            at += 1
        if at >= end:
            break
        begin = at
        seen = True
        word = _FNV_BASIS
        while at < end and not separates(data[at]):
            word = _hash(word, data[at])
            at += 1
        entry = _find(data, begin, at, word, tables)
        row = np.int64(tables.rows[entry]) if entry >= 0 else np.int64(_ABSENT)
        if row == _LABEL or (row == _ABSENT and _is_label(data, begin, at, tables)):
            continue  # fastText takes what looks like a label out of the text
        if row >= 0:
            space.rows[pending] = row
            pending += 1
            total += 1
            if pending == _ROOM:
                _flush(space, pending, tables.input)
                pending = np.int64(0)
        if tables.word_ngrams > 1:
            space.hashes[hashes] = np.int32(word)
            hashes += 1
        if row >= 0 and row == tables.end_of_line:  # spelled out in the text
            _flush(space, pending, tables.input)
            return total, hashes, True, True
        if tables.maximum_n > 0:
            pending, total = _add_subwords(data, begin, at, tables, space, pending, total)
    _flush(space, pending, tables.input)
    return total, hashes, seen, False


@numba.njit(nogil=True, cache=True)
def _add_end(tables: Tables, space: Workspace, hashes: np.int64, end_hash: np.int32, ended: bool) -> np.int64:
    """Add the end of the line and the word n-grams to `space.document`; returns the rows added."""
    added = np.int64(0)
    if not ended:
        if tables.end_of_line >= 0:
            for column in range(len(space.document)):
                space.document[column] += tables.input[tables.end_of_line, column]
            added += 1
        if tables.word_ngrams > 1:
            space.hashes[hashes] = end_hash
            hashes += 1
    if tables.word_ngrams > 1 and tables.buckets > 0:
        for first in range(hashes):
            state = np.uint64(np.int64(space.hashes[first]))
            for last in range(first + 1, min(hashes, first + tables.word_ngrams)):
                state = state * _NGRAM_FACTOR + np.uint64(np.int64(space.hashes[last]))
                row = _bucket_row(np.int64(state % np.uint64(tables.buckets)), tables)
                if row >= 0:
                    for column in range(len(space.document)):
                        space.document[column] += tables.input[row, column]
                    added += 1
    return added


@numba.njit(nogil=True, cache=True, inline="always")
def _log(value: float) -> np.float32:
    return np.float32(np.log(value + 1e-5))


@numba.njit(nogil=True, cache=True)
def _dot(row: np.int64, space: Workspace, tables: Tables) -> np.float32:
    total = np.float32(0)
    for column in range(len(space.hidden)):
        total += tables.output[row, column] * space.hidden[column]
    return total


@numba.njit(nogil=True, cache=True)
def _score_labels(tables: Tables, space: Workspace) -> None:
    """Fill `space.scores` with the logarithm of every label's probability, from `space.hidden`."""
    labels = len(space.scores)
    if tables.loss == SOFTMAX:
        highest = np.float32(-np.inf)
        for label in range(labels):
            space.scores[label] = _dot(np.int64(label), space, tables)
            highest = max(highest, space.scores[label])
        total = np.float32(0)
        for label in range(labels):
            space.scores[label] = np.exp(space.scores[label] - highest)
            total += space.scores[label]
        for label in range(labels):
            space.scores[label] = _log(space.scores[label] / total)
    else:
        for label in range(labels):
            # fastText looks the sigmoid up in a table of 512 steps between -8 and 8.
            value = _dot(np.int64(label), space, tables)
            if value < -8:
                sigmoid = 0.0
            elif value > 8:
                sigmoid = 1.0
            else:
                step = np.int64((value + 8) * 512 / 16)
                sigmoid = 1.0 / (1.0 + np.exp(-(step * 16 / 512 - 8)))
            space.scores[label] = _log(sigmoid)


@numba.njit(nogil=True, cache=True)
def _insert(label: np.int64, score: np.float32, labels: NDArray[np.int32], scores: NDArray[np.float32]) -> None:
    """Put a label into its place among the best ones, which are sorted."""
    place = len(scores) - 1
    if not score > scores[place]:
        return
    while place > 0 and score > scores[place - 1]:
        scores[place] = scores[place - 1]
        labels[place] = labels[place - 1]
        place -= 1
    scores[place] = score
    labels[place] = label


@numba.njit(nogil=True, cache=True)
def _walk_tree(tables: Tables, space: Workspace, labels: NDArray[np.int32], scores: NDArray[np.float32]) -> None:
    """The best leaves of the Huffman tree; a branch that cannot reach them is not walked."""
    leaves = len(space.scores)
    space.nodes[0] = len(tables.left) - 1
    space.node_scores[0] = np.float32(0)
    depth = np.int64(1)
    while depth > 0:
        depth -= 1
        node, score = np.int64(space.nodes[depth]), space.node_scores[depth]
        if score < _LEAST_LOG or score <= scores[len(scores) - 1]:
            continue
        if node < leaves:
            _insert(node, score, labels, scores)
            continue
        right = 1.0 / (1.0 + np.exp(-np.float64(_dot(node - leaves, space, tables))))
        left_score, right_score = score + _log(1.0 - right), score + _log(right)
        # The likelier child is taken first.
        swap = np.int64(right_score > left_score)
        space.nodes[depth + swap] = tables.right[node]
        space.node_scores[depth + swap] = right_score
        space.nodes[depth + 1 - swap] = tables.left[node]
        space.node_scores[depth + 1 - swap] = left_score
        depth += 2


@numba.njit(nogil=True, cache=True)
def _best(
    vector: NDArray[np.float32],
    count: np.int64,
    tables: Tables,
    space: Workspace,
    labels: NDArray[np.int32],
    scores: NDArray[np.float32],
) -> None:
    """The best labels and their probabilities, best first; a label below 0 is none."""
    labels[:] = -1
    scores[:] = -np.inf
    if count > 0:
        scale = np.float32(1.0 / count)
        for column in range(len(vector)):
            space.hidden[column] = vector[column] * scale
        if tables.loss == HIERARCHICAL_SOFTMAX:
            _walk_tree(tables, space, labels, scores)
        else:
            _score_labels(tables, space)
            for label in range(len(space.scores)):
                _insert(np.int64(label), space.scores[label], labels, scores)
    for rank in range(len(scores)):
        scores[rank] = min(np.float32(1), np.exp(scores[rank])) if labels[rank] >= 0 else np.float32(np.nan)


@numba.njit(nogil=True, cache=True)
def _classify(
    data: NDArray[np.uint8],
    starts: NDArray[np.int64],
    ends: NDArray[np.int64],
    firsts: NDArray[np.int64],
    tables: Tables,
    end_hash: np.int32,
    space: Workspace,
    labels: NDArray[np.int32],
    scores: NDArray[np.float32],
    piece_labels: NDArray[np.int32],
    piece_scores: NDArray[np.float32],
) -> None:
    with_pieces = len(piece_labels) > 0
    for document in range(len(firsts) - 1):
        space.document[:] = 0
        count = hashes = np.int64(0)
        seen = ended = False
        for piece in range(firsts[document], firsts[document + 1]):
            found = np.int64(0)
            if not ended:
                found, hashes, words, ended = _read(data, starts[piece], ends[piece], tables, space, hashes)
                seen = seen or words
                for column in range(len(space.piece)):
                    space.document[column] += space.piece[column]
                count += found
            if with_pieces:
                _best(space.piece, found, tables, space, piece_labels[piece], piece_scores[piece])
        if seen:
            count += _add_end(tables, space, hashes, end_hash, ended)
        _best(space.document, count, tables, space, labels[document], scores[document])


@dataclass(frozen=True)
class Best:
    """The likeliest labels of texts, best first."""

    labels: NDArray[np.int32]  # (texts, top) numbers into `FastTextModel.labels`; -1: no more
    probabilities: NDArray[np.float32]  # (texts, top); NaN where there is no label


class FastTextModel:
    """A supervised fastText model. Matrices that are not quantised stay in the mapped file, shared between processes.

    Raises ValueError where the file is missing, damaged, or no supervised fastText model.
    """

    def __init__(self, path: str | Path) -> None:
        model = read_fasttext(path)
        if not all(label.startswith(LABEL_PREFIX.encode()) for label in model.labels):
            raise ValueError(f"{path}: the labels of a classifier begin with {LABEL_PREFIX}; these do not")
        self.path = Path(path)
        self.labels: tuple[str, ...] = tuple(
            label.decode("utf-8", "replace").removeprefix(LABEL_PREFIX) for label in model.labels
        )
        self._tables = _tables(model)
        self._end_hash = np.int32(np.uint32(_fnv(_END_OF_LINE)).astype(np.int32))

    def best(self, texts: pa.Array | pa.ChunkedArray, top: int = 1) -> Best:
        """The `top` likeliest labels of each text, read as one line.

        A text of nothing but white space has no labels. Raises TypeError where `texts` is neither string nor
        large_string.
        """
        parts = []
        for view in utf8_views(texts):
            firsts = np.arange(len(view.starts) + 1, dtype=np.int64)
            parts.append(self.best_of_pieces(view.data, view.starts, view.ends, firsts, top, False)[0])
        if len(parts) == 1:
            return parts[0]
        return Best(
            np.concatenate([np.zeros((0, top), np.int32), *(part.labels for part in parts)]),
            np.concatenate([np.zeros((0, top), np.float32), *(part.probabilities for part in parts)]),
        )

    def best_of_pieces(
        self,
        data: NDArray[np.uint8],
        starts: NDArray[np.int64],
        ends: NDArray[np.int64],
        firsts: NDArray[np.int64],
        top: int,
        with_pieces: bool,
    ) -> tuple[Best, Best]:
        """The `top` labels of each document, and the likeliest of each of its pieces (none without `with_pieces`).

        Document i is read from the pieces data[starts[j]:ends[j]], firsts[i] <= j < firsts[i + 1], in their order.
        """
        documents, pieces = len(firsts) - 1, len(starts) if with_pieces else 0
        labels = np.empty((documents, top), np.int32)
        scores = np.empty((documents, top), np.float32)
        piece_labels = np.empty((pieces, 1), np.int32)
        piece_scores = np.empty((pieces, 1), np.float32)
        space = self._workspace(starts, ends, firsts)
        _classify(
            data,
            starts,
            ends,
            firsts,
            self._tables,
            self._end_hash,
            space,
            labels,
            scores,
            piece_labels,
            piece_scores,
        )
        return Best(labels, scores), Best(piece_labels, piece_scores)

    def probabilities(self, texts: pa.Array | pa.ChunkedArray) -> NDArray[np.float64]:
        """The probability of every label for each text: (texts, labels), NaN where a text is nothing but white space.

        Labels below 1e-5 in a model with hierarchical softmax are 0, as fastText leaves them out.
        """
        best = self.best(texts, len(self.labels))
        known = best.labels[:, :1] >= 0
        found = np.where(known, 0.0, np.nan) * np.ones((1, len(self.labels)))
        rows, ranks = np.nonzero(best.labels >= 0)
        found[rows, best.labels[rows, ranks]] = best.probabilities[rows, ranks]
        return found

    def _workspace(self, starts: NDArray[np.int64], ends: NDArray[np.int64], firsts: NDArray[np.int64]) -> Workspace:
        sizes = np.concatenate([[0], np.cumsum(ends - starts)])
        longest = int((sizes[firsts[1:]] - sizes[firsts[:-1]]).max(initial=0)) if len(firsts) > 1 else 0
        most_words = longest // 2 + int((firsts[1:] - firsts[:-1]).max(initial=0)) + 2
        dimension, labels = int(self._tables.dimension), len(self.labels)
        return Workspace(
            np.empty(_ROOM, np.int64),
            np.empty(dimension, np.float32),
            np.empty(dimension, np.float32),
            np.empty(dimension, np.float32),
            np.empty(most_words if self._tables.word_ngrams > 1 else 1, np.int32),
            np.empty(labels, np.float32),
            np.empty(2 * labels + 2, np.int32),
            np.empty(2 * labels + 2, np.float32),
        )


def _fnv(word: bytes) -> int:
    state = 2166136261
    for byte in word:
        state = ((state ^ (byte if byte < 0x80 else byte | 0xFFFFFF00)) * 16777619) & 0xFFFFFFFF
    return state


@numba.njit(nogil=True, cache=True)
def _fill_slots(spelling: NDArray[np.uint8], ends: NDArray[np.int64], slots: NDArray[np.int32]) -> None:
    mask = np.uint32(len(slots) - 1)
    for entry in range(len(ends) - 1):
        word = _FNV_BASIS
        for at in range(ends[entry], ends[entry + 1]):
            word = _hash(word, spelling[at])
        slot = np.uint32(word & mask)
        while slots[slot] != 0:
            slot = np.uint32((slot + np.uint32(1)) & mask)
        slots[slot] = entry + 1


def _tables(model: FastTextFile) -> Tables:
    entries = [*model.words, *model.labels]
    spelling = np.frombuffer(b"".join(entries) + b"\0", np.uint8)
    spelling_ends = np.cumsum([0, *map(len, entries)], dtype=np.int64)
    slots = np.zeros(1 << max(4, (2 * len(entries)).bit_length()), np.int32)
    _fill_slots(spelling, spelling_ends, slots)
    rows = np.concatenate([np.arange(len(model.words)), np.full(len(model.labels), _LABEL)]).astype(np.int32)
    pruned = model.pruned is not None
    present = np.zeros((model.buckets >> 5) + 1 if pruned else 1, np.uint32)
    bucket_rows = np.zeros(model.buckets if pruned else 1, np.int32)
    if model.pruned:
        buckets = np.array([*model.pruned], np.int64)
        bucket_rows[buckets] = len(model.words) + np.array([*model.pruned.values()], np.int64)
        np.bitwise_or.at(present, buckets >> 5, np.uint32(1) << (buckets & 31).astype(np.uint32))
    left, right = _huffman_tree(model.label_counts)
    return Tables(
        np.int64(model.dimension),
        np.int64(model.word_ngrams),
        np.int64(model.minimum_n),
        np.int64(model.maximum_n if model.buckets else 0),
        np.int64(max(model.buckets, 1)),
        np.int64(len(model.words)),
        np.int64(model.words.index(_END_OF_LINE) if _END_OF_LINE in model.words else _ABSENT),
        np.bool_(pruned),
        np.int64(model.loss),
        slots,
        spelling,
        spelling_ends,
        rows,
        present,
        bucket_rows,
        model.input,
        model.output,
        left,
        right,
        np.frombuffer(LABEL_PREFIX.encode(), np.uint8),
    )


def _huffman_tree(counts: NDArray[np.int64]) -> tuple[NDArray[np.int32], NDArray[np.int32]]:
    """Children of each node: leaves are the labels, which fastText sorts by falling count; the root is the last."""
    leaves = len(counts)
    totals = [*counts.tolist(), *[10**15] * (leaves - 1)]
    left, right = np.full(2 * leaves - 1, -1, np.int32), np.full(2 * leaves - 1, -1, np.int32)
    leaf, node = leaves - 1, leaves
    for parent in range(leaves, 2 * leaves - 1):
        children = []
        for _ in range(2):
            if leaf >= 0 and (node >= len(totals) or totals[leaf] < totals[node]):
                children.append(leaf)
                leaf -= 1
            else:
                children.append(node)
                node += 1
        left[parent], right[parent] = children
        totals[parent] = totals[children[0]] + totals[children[1]]
    return left, right


def load_model(path: str | Path) -> FastTextModel:
    """The model in a file, loaded once a process. Raises ValueError as FastTextModel does."""
    return _load(str(path), _stamp(path))


def model_sha256(path: str | Path) -> str:
    """SHA-256 of a model file as hex, read once a process. Raises ValueError where the file is missing."""
    return _digest(str(path), _stamp(path))


def _stamp(path: str | Path) -> tuple[int, int]:
    try:
        status = Path(path).stat()
    except OSError as error:
        raise ValueError(f"there is no fastText model at {path} ({error.strerror})") from error
    return status.st_size, status.st_mtime_ns


@lru_cache(maxsize=8)
def _load(path: str, stamp: tuple[int, int]) -> FastTextModel:
    return FastTextModel(path)


@lru_cache(maxsize=32)
def _digest(path: str, stamp: tuple[int, int]) -> str:
    with open(path, "rb") as stream:
        return hashlib.file_digest(stream, "sha256").hexdigest()
