"""Language identification with a fastText model, lid.176 by default, over batches.

Source of the model and its labels: Joulin et al. 2016, "Bag of Tricks for Efficient Text Classification" and
"FastText.zip"; https://fasttext.cc/docs/en/language-identification.html.
"""

import hashlib
import struct
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import Any, Final

import numba
import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from pipeline.text.arrow import large_strings, utf8_views

UNDETERMINED: Final = "und"  # ISO 639: text in which there is nothing to tell a language by
DEFAULT_BYTES: Final = 2048

_LABEL: Final = "__label__"
_MAGIC: Final = 793712314
_VERSIONS: Final = (11, 12)
_BLANK: Final = 0x20


@numba.njit(nogil=True, cache=True)
def _first_words(
    data: NDArray[np.uint8],
    starts: NDArray[np.int64],
    ends: NDArray[np.int64],
    limit: np.int64,
    out: NDArray[np.uint8],
    offsets: NDArray[np.int64],
) -> None:
    at = np.int64(0)
    offsets[0] = 0
    for document in range(len(starts)):
        begin = at
        read = starts[document]
        end = ends[document]
        blank = True  # the last byte written is a space, or none is
        while read < end:
            lead = data[read]
            length = 1 + (lead >= 0xC0) + (lead >= 0xE0) + (lead >= 0xF0)
            if at - begin + length > limit or read + length > end:
                break
            if lead <= _BLANK or lead == 0x7F:
                if not blank:
                    out[at] = _BLANK
                    at += 1
                blank = True
                read += 1
                continue
            for _ in range(length):
                out[at] = data[read]
                at += 1
                read += 1
            blank = False
        if at > begin and blank:
            at -= 1
        offsets[document + 1] = at


def first_words(texts: pa.Array | pa.ChunkedArray, limit_bytes: int) -> pa.LargeStringArray:
    """The start of each text in at most `limit_bytes`, as one line.

    Runs of ASCII white space and controls become one space. The cut is between two characters. Raises TypeError where
    `texts` is neither string nor large_string.
    """
    parts = [pa.array([], pa.large_string())]
    for view in utf8_views(texts):
        out = np.empty(int(np.minimum(view.ends - view.starts, limit_bytes).sum()), np.uint8)
        offsets = np.empty(len(view.starts) + 1, np.int64)
        _first_words(*view, np.int64(limit_bytes), out, offsets)
        parts.append(large_strings(offsets, out))
    return pa.concat_arrays(parts)  # type: ignore[return-value]


@dataclass(frozen=True)
class Languages:
    """The likeliest languages of each text, the likeliest first."""

    codes: list[NDArray[np.object_]]  # one array (texts,) of str for each rank; None where the model names no more
    scores: list[NDArray[np.float64]]  # probabilities by rank, 0 to 1; NaN where there is no code


class LanguageModel:
    """A fastText classifier of languages. Predictions are the same on every run: they use no randomness or threads.

    Raises ValueError where the file is missing or is not a whole fastText model.
    """

    def __init__(self, path: str | Path) -> None:
        import fasttext

        _check_model(Path(path))
        self._model = fasttext.load_model(str(path))
        labels = self._model.get_labels()
        if not labels or not all(label.startswith(_LABEL) for label in labels):
            raise ValueError(
                f"{path} is a fastText model, but not a classifier of languages: its labels do not begin "
                f"with {_LABEL}; give the path of lid.176.ftz or lid.176.bin"
            )
        self.labels: tuple[str, ...] = tuple(sorted(label.removeprefix(_LABEL) for label in labels))

    def identify(self, texts: pa.Array | pa.ChunkedArray, top: int = 2, limit_bytes: int = DEFAULT_BYTES) -> Languages:
        """The `top` likeliest languages of each text, judged by its first `limit_bytes`.

        A text of nothing but white space is UNDETERMINED with score 0.
        """
        lines = first_words(texts, limit_bytes).to_pylist()
        found = self._model.predict(lines, k=top) if lines else ([], [])
        codes = np.full((top, len(lines)), None, np.object_)
        scores = np.full((top, len(lines)), np.nan)
        names = {label: label.removeprefix(_LABEL) for label in self._model.get_labels()}
        for text, (labels, probabilities) in enumerate(zip(*found, strict=True)):
            if lines[text]:
                codes[: len(labels), text] = [names[label] for label in labels]
                scores[: len(labels), text] = probabilities
            else:
                codes[0, text], scores[0, text] = UNDETERMINED, 0.0
        return Languages([*codes], [*np.clip(scores, 0.0, 1.0)])  # fastText's sums go a little above 1


def model_path(configured: str | None) -> Path:
    """The configured model file, or the one that the quickstart brings."""
    if configured is not None:
        return Path(configured).expanduser()
    from pipeline.quickstart import lid_model_path

    return Path(lid_model_path())


def load_model(path: str | Path) -> LanguageModel:
    """The model in a file, loaded once a process."""
    return _load(str(path), _stamp(path))


def model_sha256(path: str | Path) -> str:
    """SHA-256 of a model file as hex, read once a process. Raises ValueError where the file is missing."""
    return _digest(str(path), _stamp(path))


def _stamp(path: str | Path) -> tuple[int, int]:
    try:
        status = Path(path).stat()
    except OSError as error:
        raise ValueError(
            f"there is no language identification model at {path} ({error.strerror}); "
            "give the path of lid.176.ftz as language_model, or leave it out to use the quickstart's"
        ) from error
    return status.st_size, status.st_mtime_ns


@lru_cache(maxsize=2)
def _load(path: str, stamp: tuple[int, int]) -> LanguageModel:
    return LanguageModel(path)


@lru_cache(maxsize=8)
def _digest(path: str, stamp: tuple[int, int]) -> str:
    with open(path, "rb") as stream:
        return hashlib.file_digest(stream, "sha256").hexdigest()


class _Reader:
    """Steps through a model file. Raises struct.error or IndexError where the file ends too soon."""

    def __init__(self, data: memoryview | bytes) -> None:
        self.data = data
        self.at = 0

    def take(self, layout: str) -> tuple[Any, ...]:
        values = struct.unpack_from(f"<{layout}", self.data, self.at)
        self.at += struct.calcsize(f"<{layout}")
        return values

    def skip(self, count: int) -> None:
        if count < 0 or self.at + count > len(self.data):
            raise IndexError
        self.at += count


def _check_model(path: Path) -> None:
    """Raise ValueError unless the file has the length that its own headers give.

    fastText reads a file that was cut off without an error, and then never returns.
    """
    _stamp(path)
    data = path.read_bytes()
    reader = _Reader(data)
    try:
        magic, version = reader.take("ii")
        if magic != _MAGIC or version not in _VERSIONS:
            raise ValueError(f"{path} is not a fastText model; give the path of lid.176.ftz or lid.176.bin")
        reader.skip(56)  # training arguments: 12 integers and a double
        entries, _, _, _, pruned = reader.take("iiiqq")
        for _ in range(entries):
            reader.skip(data.find(0, reader.at) + 1 + 9 - reader.at)  # a word and its zero, a count, a type
        reader.skip(8 * max(0, pruned))
        (quantized,) = reader.take("?")
        _skip_matrix(reader, quantized)
        (output_quantized,) = reader.take("?")
        _skip_matrix(reader, quantized and output_quantized)
        whole = reader.at == len(data)
    except (struct.error, IndexError):
        whole = False
    if not whole:
        raise ValueError(f"{path} is a damaged fastText model of {len(data)} bytes; download it again")


def _skip_matrix(reader: _Reader, quantized: bool) -> None:
    if not quantized:
        rows, columns = reader.take("qq")
        reader.skip(4 * rows * columns)
        return
    normalised, rows, _, codes = reader.take("?qqi")
    reader.skip(codes)
    _skip_quantizer(reader)
    if normalised:
        reader.skip(rows)
        _skip_quantizer(reader)


def _skip_quantizer(reader: _Reader) -> None:
    dimension, _, _, _ = reader.take("iiii")
    reader.skip(4 * 256 * dimension)  # centroids
