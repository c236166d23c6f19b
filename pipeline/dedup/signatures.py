"""MinHash signatures of whole batches, bit-identical to datasketch's scheme `affine32`."""

import numba
import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from numpy.typing import NDArray

from pipeline.dedup.config import DedupConfig
from pipeline.dedup.exact import DIGEST_BYTES, content_digests
from pipeline.dedup.shingles import shingle_hashes
from pipeline.text.scan import word_hashes

EMPTY = np.uint32(0xFFFFFFFF)  # every value of the signature of no shingles

_BAND_SEED = np.uint64(0x2545F4914F6CDD1D)
_BAND_MULTIPLIER = np.uint64(0x9E3779B97F4A7C15)
_32 = np.uint64(32)


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
def _minhash(
    offsets: NDArray[np.int64],
    hashes: NDArray[np.uint32],
    multipliers: NDArray[np.uint32],
    increments: NDArray[np.uint32],
    signatures: NDArray[np.uint32],
) -> None:
    for document in range(len(offsets) - 1):
        values = signatures[document]
        values[:] = EMPTY
        at = offsets[document]
        end = offsets[document + 1]
        while at + 4 <= end:  # four at a time: a quarter of the loads and stores of `values`
            h0, h1, h2, h3 = (
                _premix(hashes[at]),
                _premix(hashes[at + 1]),
                _premix(hashes[at + 2]),
                _premix(hashes[at + 3]),
            )
            for k in range(len(values)):
                a = multipliers[k]
                b = increments[k]
                low = min(np.uint32(a * h0 + b), np.uint32(a * h1 + b))
                high = min(np.uint32(a * h2 + b), np.uint32(a * h3 + b))
                values[k] = min(values[k], min(low, high))
            at += 4
        while at < end:
            h0 = _premix(hashes[at])
            for k in range(len(values)):
                values[k] = min(values[k], np.uint32(multipliers[k] * h0 + increments[k]))
            at += 1


def minhash(offsets: NDArray[np.int64], hashes: NDArray[np.uint32], count: int, seed: int) -> NDArray[np.uint32]:
    """MinHash signatures (documents, count), uint32, of shingle hashes as `shingle_hashes` returns them.

    Equal to datasketch.MinHash(count, seed, hashfunc=identity, scheme="affine32") updated with the same hashes.
    """
    signatures = np.empty((len(offsets) - 1, count), np.uint32)
    _minhash(offsets, hashes, *permutations(count, seed), signatures)
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


def band_keys(signatures: NDArray[np.uint32], bands: int) -> NDArray[np.uint64]:
    """64-bit keys (bands, documents): equal where two signatures agree in all rows of a band."""
    keys = np.empty((bands, len(signatures)), np.uint64)
    _band_keys(signatures, signatures.shape[1] // bands, keys)
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


def signature_table(documents: pa.Table, config: DedupConfig) -> pa.Table:
    """Signatures of documents (columns id, source, date, text), in the same order, as a table of `signature_schema`."""
    texts = documents["text"].combine_chunks()
    words = word_hashes(texts)
    offsets, hashes = shingle_hashes(*words, config.shingle_words)
    signatures = minhash(offsets, hashes, config.permutations, config.seed)
    shingles = np.diff(offsets)
    keys = band_keys(signatures, config.bands)
    columns = [
        documents["id"],
        documents["source"],
        documents["date"],
        pc.binary_length(texts).cast(pa.int64()),
        pa.array(shingles),
        _binary(content_digests(texts, *words)),
        _binary(signatures),
        *(pa.array(key, mask=shingles == 0) for key in keys),
    ]
    return pa.table(columns, schema=signature_schema(config))
