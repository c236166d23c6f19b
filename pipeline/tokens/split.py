"""The held-out split: which documents are validation, as a pure function of their ids."""

from __future__ import annotations

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from pipeline.text.arrow import utf8_views

_NIBBLES = np.full(256, 255, np.uint8)
_NIBBLES[np.frombuffer(b"0123456789abcdef", np.uint8)] = np.arange(16)
_NIBBLES[np.frombuffer(b"ABCDEF", np.uint8)] = np.arange(10, 16)

_SPLIT_STREAM = 0x5EED_0001
_SAMPLE_STREAM = 0x5EED_0002


def id_bits(ids: pa.Array | pa.ChunkedArray) -> NDArray[np.uint64]:
    """Return the first 64 bits of each document id (a string of at least 16 hex digits).

    Raises ValueError for an id that is not hexadecimal, too short or null.
    """
    parts = [np.zeros(0, np.uint64)]
    for view in utf8_views(ids):
        if np.any(view.ends - view.starts < 16):
            raise ValueError("a document id has fewer than 16 hex digits; ids are 32 hex digits (pipeline.documents)")
        nibbles = _NIBBLES[view.data[view.starts[:, None] + np.arange(16)]]
        if np.any(nibbles == 255):
            raise ValueError("a document id is not hexadecimal; ids are 32 hex digits (pipeline.documents)")
        octets = (nibbles[:, 0::2] << 4) | nibbles[:, 1::2]
        parts.append(np.ascontiguousarray(octets).view(">u8").reshape(-1).astype(np.uint64))
    return np.concatenate(parts)


def mix(bits: NDArray[np.uint64], seed: int, stream: int) -> NDArray[np.uint64]:
    """Hash 64-bit values under a seed: a different seed or stream gives an independent order of the documents.

    The finaliser of SplitMix64 (Steele, Lea and Flood, 2014), once over the seed and once over the values.
    """
    key = _finalise(np.array([(seed ^ (stream << 32)) & 0xFFFF_FFFF_FFFF_FFFF], np.uint64))
    return _finalise(bits ^ key)


def split_of(ids: pa.Array | pa.ChunkedArray, validation_fraction: float, seed: int) -> NDArray[np.bool_]:
    """Return for each document id whether it is held out for validation (otherwise it is trained on).

    Depends on nothing but the id, the fraction and the seed, so that a document stays on its side in every stage and
    when the corpus grows; a larger fraction only adds to the held-out documents.
    """
    if not 0.0 <= validation_fraction < 1.0:
        raise ValueError(f"validation_fraction must be at least 0 and below 1, not {validation_fraction}")
    return mix(id_bits(ids), seed, _SPLIT_STREAM) < np.uint64(int(validation_fraction * 2.0**64))


def sample_order(ids: pa.Array | pa.ChunkedArray, seed: int) -> NDArray[np.uint64]:
    """Return a hash for each document id, independent of its split, to draw a random sample by."""
    return mix(id_bits(ids), seed, _SAMPLE_STREAM)


def _finalise(x: NDArray[np.uint64]) -> NDArray[np.uint64]:
    with np.errstate(over="ignore"):
        x = x + np.uint64(0x9E37_79B9_7F4A_7C15)
        x = (x ^ (x >> np.uint64(30))) * np.uint64(0xBF58_476D_1CE4_E5B9)
        x = (x ^ (x >> np.uint64(27))) * np.uint64(0x94D0_49BB_1331_11EB)
        return x ^ (x >> np.uint64(31))
