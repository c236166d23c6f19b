"""MinHash signatures of whole batches, bit-identical to datasketch's scheme `affine32`."""

from collections.abc import Iterator
from functools import cache
from itertools import pairwise

import numba
import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from numpy.typing import NDArray

from pipeline.dedup.config import DedupConfig
from pipeline.dedup.exact import DIGEST_BYTES, content_digests
from pipeline.dedup.shingles import most_words, polynomials, shingle_hash
from pipeline.text.arrow import utf8_view
from pipeline.text.scan import word_hashes

EMPTY = np.uint32(0xFFFFFFFF)  # every value of the signature of no shingles

_BAND_SEED = np.uint64(0x2545F4914F6CDD1D)
_BAND_MULTIPLIER = np.uint64(0x9E3779B97F4A7C15)
_32 = np.uint64(32)
_UNROLLED = 8  # shingles that a permutation is applied to at a time
_LANES = 16  # 32-bit values in the widest registers
_PART_BYTES = 1 << 18


def permutations(count: int, seed: int) -> tuple[NDArray[np.uint32], NDArray[np.uint32]]:
    """Multipliers (odd) and increments of `count` permutations x -> a x + b modulo 2^32.

    They are those of datasketch.MinHash(count, seed, scheme="affine32"): drawn from NumPy's legacy generator, whose
    stream is frozen.
    """
    generator = np.random.RandomState(seed)
    multipliers = generator.randint(0, 1 << 31, count, dtype=np.uint32) * np.uint32(2) + np.uint32(1)
    increments = generator.randint(0, 1 << 32, count, dtype=np.uint32)
    return multipliers, increments


@numba.njit(nogil=True, cache=True, inline="always")
def _premix(value: np.uint32) -> np.uint32:
    # MurmurHash3's 32-bit finaliser, with which affine32 spreads its input
    value = np.uint32(value ^ (value >> np.uint32(16)))
    value = np.uint32(value * np.uint32(0x85EBCA6B))
    value = np.uint32(value ^ (value >> np.uint32(13)))
    value = np.uint32(value * np.uint32(0xC2B2AE35))
    return np.uint32(value ^ (value >> np.uint32(16)))


@numba.njit(nogil=True, cache=True)
def _premix_hashes(hashes: NDArray[np.uint32], values: NDArray[np.uint32]) -> None:
    for place in range(len(hashes)):
        values[place] = _premix(hashes[place])


@numba.njit(nogil=True, cache=True)
def _premix_states(states: NDArray[np.uint64], values: NDArray[np.uint32]) -> None:
    for place in range(len(states)):
        values[place] = _premix(np.uint32(shingle_hash(states[place])))


@numba.njit(nogil=True, cache=True)
def _minima(
    values: NDArray[np.uint32],
    count: int,
    multipliers: NDArray[np.uint32],
    increments: NDArray[np.uint32],
    minima: NDArray[np.uint32],
) -> None:
    """Minima of each permutation over values[:count]; `values` has room for 7 more.

    Eight values at a time: an eighth of the loads and stores of `minima`, which leaves arithmetic of whole registers.
    """
    for k in range(len(minima)):
        minima[k] = EMPTY
    for place in range(count, -(-count // _UNROLLED) * _UNROLLED):
        values[place] = values[0]  # a repeated value changes no minimum
    for at in range(0, count, _UNROLLED):
        v0, v1, v2, v3 = values[at], values[at + 1], values[at + 2], values[at + 3]
        v4, v5, v6, v7 = values[at + 4], values[at + 5], values[at + 6], values[at + 7]
        for k in range(len(minima)):
            a = multipliers[k]
            b = increments[k]
            m0 = min(np.uint32(a * v0 + b), np.uint32(a * v1 + b))
            m1 = min(np.uint32(a * v2 + b), np.uint32(a * v3 + b))
            m2 = min(np.uint32(a * v4 + b), np.uint32(a * v5 + b))
            m3 = min(np.uint32(a * v6 + b), np.uint32(a * v7 + b))
            minima[k] = min(minima[k], min(min(m0, m1), min(m2, m3)))


@numba.njit(nogil=True, cache=True)
def _minhash(
    offsets: NDArray[np.int64],
    hashes: NDArray[np.uint32],
    multipliers: NDArray[np.uint32],
    increments: NDArray[np.uint32],
    signatures: NDArray[np.uint32],
) -> None:
    values = np.empty(most_words(offsets) + _UNROLLED, np.uint32)
    minima = np.empty(len(multipliers), np.uint32)
    for document in range(len(signatures)):
        own = hashes[offsets[document] : offsets[document + 1]]
        _premix_hashes(own, values)
        _minima(values, len(own), multipliers, increments, minima)
        signatures[document] = minima[: signatures.shape[1]]


@numba.njit(nogil=True, cache=True)
def _word_signatures(
    offsets: NDArray[np.int64],
    words: NDArray[np.uint64],
    length: int,
    multipliers: NDArray[np.uint32],
    increments: NDArray[np.uint32],
    signatures: NDArray[np.uint32],
    shingles: NDArray[np.int64],
) -> None:
    most = most_words(offsets)
    first = np.empty(most, np.uint64)
    second = np.empty(most, np.uint64)
    values = np.empty(most + _UNROLLED, np.uint32)
    minima = np.empty(len(multipliers), np.uint32)
    for document in range(len(signatures)):
        own = words[offsets[document] : offsets[document + 1]]
        shingles[document] = max(len(own) - length + 1, min(1, len(own)))
        if len(own):
            _premix_states(polynomials(own, min(length, len(own)), first, second), values)
        _minima(values, shingles[document], multipliers, increments, minima)
        signatures[document] = minima[: signatures.shape[1]]


@cache
def _padded(count: int, seed: int) -> tuple[NDArray[np.uint32], NDArray[np.uint32]]:
    # to whole registers: without a remainder the compiled loop has only its fast part
    multipliers, increments = (np.zeros(-(-count // _LANES) * _LANES, np.uint32) for _ in range(2))
    multipliers[:count], increments[:count] = permutations(count, seed)
    return multipliers, increments


def minhash(offsets: NDArray[np.int64], hashes: NDArray[np.uint32], count: int, seed: int) -> NDArray[np.uint32]:
    """MinHash signatures (documents, count), uint32, of shingle hashes as `shingle_hashes` returns them.

    Equal to datasketch.MinHash(count, seed, hashfunc=identity, scheme="affine32") updated with the same hashes.
    """
    signatures = np.empty((len(offsets) - 1, count), np.uint32)
    _minhash(offsets, hashes, *_padded(count, seed), signatures)
    return signatures


@numba.njit(nogil=True, cache=True)
def _band_keys(signatures: NDArray[np.uint32], rows: int, keys: NDArray[np.uint64]) -> None:
    for document in range(len(signatures)):
        for band in range(keys.shape[0]):
            key = _BAND_SEED
            for row in range(band * rows, band * rows + rows):
                key = (key ^ np.uint64(signatures[document, row])) * _BAND_MULTIPLIER
                key ^= key >> _32
            keys[band, document] = key


def band_keys(signatures: NDArray[np.uint32], bands: int, rows: int) -> NDArray[np.uint64]:
    """64-bit keys (bands, documents): equal where two signatures agree in all rows of a band.

    Band i is the values from i x rows on; values beyond the last band count for none.
    """
    keys = np.empty((bands, len(signatures)), np.uint64)
    _band_keys(signatures, rows, keys)
    return keys


def band_column(band: int) -> str:
    """Name of the column that holds the keys of a band."""
    return f"band_{band:03d}"


def signature_schema(config: DedupConfig) -> pa.Schema:
    """Schema of signature shards; `signature` is the little-endian uint32 values, one after another.

    `digest` identifies the normalised content, `shingles` counts them with repetitions, and the keys of the bands are
    null for a document without shingles.
    """
    return pa.schema(
        [
            pa.field("id", pa.string(), nullable=False),
            pa.field("source", pa.string(), nullable=False),
            pa.field("date", pa.string()),
            pa.field("text_bytes", pa.int64(), nullable=False),
            pa.field("shingles", pa.int64(), nullable=False),
            pa.field("digest", pa.binary(DIGEST_BYTES), nullable=False),
            pa.field("signature", pa.binary(4 * config.permutations), nullable=False),
            *(pa.field(band_column(band), pa.uint64()) for band in range(config.bands)),
        ]
    )


def _binary(values: NDArray) -> pa.Array:
    width = values.shape[1] * values.itemsize
    return pa.FixedSizeBinaryArray.from_buffers(pa.binary(width), len(values), [None, pa.py_buffer(values)])


def _parts(texts: pa.Array) -> Iterator[slice]:
    """Rows of about _PART_BYTES of text, so that what is computed of them stays in the cache."""
    view = utf8_view(texts)
    parts = np.cumsum(view.ends - view.starts) // _PART_BYTES
    bounds = [0, *(np.flatnonzero(np.diff(parts)) + 1).tolist(), len(texts)]
    return (slice(*bound) for bound in pairwise(bounds))


def signature_table(documents: pa.Table, config: DedupConfig) -> pa.Table:
    """Signatures of documents (columns id, source, date, text), in the same order, as a table of `signature_schema`."""
    texts = documents["text"].combine_chunks()
    signatures = np.empty((len(texts), config.permutations), np.uint32)
    shingles = np.empty(len(texts), np.int64)
    digests = np.empty((len(texts), 2), np.uint64)
    affine = _padded(config.permutations, config.seed)
    for rows in _parts(texts):
        words = word_hashes(texts[rows])
        _word_signatures(*words, config.shingle_words, *affine, signatures[rows], shingles[rows])
        digests[rows] = content_digests(texts[rows], *words)
    keys = band_keys(signatures, config.bands, config.rows)
    columns = [
        documents["id"],
        documents["source"],
        documents["date"],
        pc.binary_length(texts).cast(pa.int64()),
        pa.array(shingles),
        _binary(digests),
        _binary(signatures),
        *(pa.array(key, mask=shingles == 0) for key in keys),
    ]
    return pa.table(columns, schema=signature_schema(config))
