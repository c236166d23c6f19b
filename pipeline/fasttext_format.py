"""The file format of fastText's supervised models (.bin and .ftz), read into arrays.

Source: the format that fastText 0.9 writes (Bojanowski et al. 2017; Joulin et al. 2016, "FastText.zip", for the
quantised one). fastText itself reads a file that was cut off without an error, and then never returns; here every
length is checked before it is trusted.
"""

import mmap
import struct
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

LABEL_PREFIX: Final = "__label__"

HIERARCHICAL_SOFTMAX: Final = 1
NEGATIVE_SAMPLING: Final = 2
SOFTMAX: Final = 3
ONE_VERSUS_ALL: Final = 4

_MAGIC: Final = 793712314
_VERSIONS: Final = (11, 12)
_SUPERVISED: Final = 3
_WORD_TYPE: Final = 0
_CENTROIDS: Final = 256
_MOST_DIMENSIONS: Final = 1 << 16


@dataclass(frozen=True)
class FastTextFile:
    """A supervised fastText model as arrays; matrices that are not quantised are views of the mapped file."""

    loss: int
    dimension: int
    word_ngrams: int  # longest word n-gram
    minimum_n: int  # shortest and longest character n-gram; 0: none
    maximum_n: int
    buckets: int  # hash buckets of n-grams
    words: list[bytes]  # in the order of their rows
    labels: list[bytes]
    label_counts: NDArray[np.int64]
    pruned: dict[int, int] | None  # the row of each n-gram bucket that was not pruned; None: all buckets have rows
    input: NDArray[np.float32]  # (words + buckets, dimension)
    output: NDArray[np.float32]  # (labels, dimension)


class _Reader:
    """Steps through a model file. Raises struct.error or IndexError where the file ends too soon."""

    def __init__(self, data: Any) -> None:
        self.data = data
        self.at = 0

    def take(self, layout: str) -> tuple[Any, ...]:
        values = struct.unpack_from(f"<{layout}", self.data, self.at)
        self.at += struct.calcsize(f"<{layout}")
        return values

    def array(self, dtype: type, count: int) -> NDArray[Any]:
        size = count * np.dtype(dtype).itemsize
        if count < 0 or self.at + size > len(self.data):
            raise IndexError
        values: NDArray[Any] = np.frombuffer(self.data, dtype, count, self.at)
        self.at += size
        return values

    def word(self) -> bytes:
        end = self.data.find(b"\0", self.at)
        if end < 0:
            raise IndexError
        word = bytes(self.data[self.at : end])
        self.at = end + 1
        return word


def read_fasttext(path: str | Path) -> FastTextFile:
    """Read a supervised fastText model.

    Raises ValueError where the file is missing, damaged, no fastText model, or one of word vectors.
    """
    path = Path(path)
    try:
        with open(path, "rb") as stream:
            size = path.stat().st_size
            data = mmap.mmap(stream.fileno(), 0, access=mmap.ACCESS_READ) if size else b""
    except OSError as error:
        raise ValueError(f"there is no fastText model at {path} ({error.strerror})") from error
    reader = _Reader(data)
    try:
        model = _read(reader, path)
        whole = reader.at == size
    except (struct.error, IndexError, OverflowError):
        whole = False
    if not whole:
        raise ValueError(f"{path} is a damaged fastText model of {size} bytes; download or train it again")
    return model


def _read(reader: _Reader, path: Path) -> FastTextFile:
    magic, version = reader.take("ii")
    if magic != _MAGIC or version not in _VERSIONS:
        raise ValueError(f"{path} is not a fastText model; give the path of a .bin or .ftz file, such as lid.176.ftz")
    dimension, _, _, _, _, word_ngrams, loss, kind, buckets, minimum_n, maximum_n, _ = reader.take("12i")
    reader.take("d")
    if kind != _SUPERVISED:
        raise ValueError(f"{path} is a fastText model of word vectors, not a classifier; give a supervised model")
    if not 0 < dimension <= _MOST_DIMENSIONS or buckets < 0 or loss not in (1, 2, 3, 4):
        raise IndexError
    if version == 11:  # before version 12 classifiers knew no character n-grams
        maximum_n = 0
    entries, word_count, label_count, _, pruned_size = reader.take("iiiqq")
    if entries != word_count + label_count or min(word_count, label_count) < 0 or label_count == 0:
        raise IndexError
    found: list[tuple[bytes, int, int]] = []
    for _ in range(entries):
        word = reader.word()
        count, entry_type = reader.take("qb")
        found.append((word, count, entry_type))
    pruned = None
    if pruned_size >= 0:
        pairs = reader.array(np.int32, 2 * pruned_size).reshape(-1, 2)
        pruned = dict(pairs.tolist())
    (quantised,) = reader.take("?")
    matrix = _read_matrix(reader, quantised)
    (output_quantised,) = reader.take("?")
    output = _read_matrix(reader, quantised and output_quantised)
    rows = word_count + (buckets if pruned is None else pruned_size)
    highest = max(pruned.values(), default=-1) if pruned else -1
    if matrix.shape[0] < word_count + highest + 1 or (pruned is None and maximum_n > 0 and matrix.shape[0] < rows):
        raise IndexError
    if matrix.shape[1] != dimension or output.shape != (label_count, dimension):
        raise IndexError
    labels = [word for word, _, entry_type in found if entry_type != _WORD_TYPE]
    counts = [count for _, count, entry_type in found if entry_type != _WORD_TYPE]
    words = [word for word, _, entry_type in found if entry_type == _WORD_TYPE]
    if len(labels) != label_count:
        raise IndexError
    return FastTextFile(
        loss,
        dimension,
        word_ngrams,
        minimum_n,
        maximum_n,
        buckets,
        words,
        labels,
        np.array(counts, np.int64),
        pruned,
        matrix,
        output,
    )


def _read_matrix(reader: _Reader, quantised: bool) -> NDArray[np.float32]:
    if not quantised:
        rows, columns = reader.take("qq")
        if not 0 <= columns <= _MOST_DIMENSIONS:
            raise IndexError
        return reader.array(np.float32, rows * columns).reshape(rows, columns)
    normalised, rows, columns, code_count = reader.take("?qqi")
    codes = reader.array(np.uint8, code_count)
    centroids, parts, width, last = _read_quantiser(reader)
    if rows * parts != code_count or not 0 < columns <= _MOST_DIMENSIONS or width * (parts - 1) + last != columns:
        raise IndexError
    matrix = np.empty((rows, columns), np.float32)
    codes = codes.reshape(rows, parts)
    for part in range(parts):
        size = last if part == parts - 1 else width
        start = part * _CENTROIDS * width
        table = centroids[start : start + _CENTROIDS * size].reshape(_CENTROIDS, size)
        matrix[:, part * width : part * width + size] = table[codes[:, part]]
    if normalised:
        norm_codes = reader.array(np.uint8, rows)
        norms, _, _, _ = _read_quantiser(reader)
        matrix *= norms[norm_codes][:, None]
    return matrix


def _read_quantiser(reader: _Reader) -> tuple[NDArray[np.float32], int, int, int]:
    dimension, parts, width, last = reader.take("iiii")
    if not (0 < dimension <= _MOST_DIMENSIONS and 0 < parts <= dimension and width > 0 and 0 < last <= width):
        raise IndexError
    return reader.array(np.float32, dimension * _CENTROIDS), parts, width, last
