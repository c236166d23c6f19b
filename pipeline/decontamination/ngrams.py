"""Hashes of word n-grams, and the tables that find them: polynomials over word hashes, mixed before use."""

from typing import Final

import numba
import numpy as np
from numpy.typing import NDArray

RADIX: Final = np.uint64(0x9FB21C651E98DF25)  # odd, of mixed bits
_FINAL: Final = np.uint64(0xD6E8FEB86659FD93)
_LENGTH: Final = np.uint64(0xA0761D6478BD642F)
_32: Final = np.uint64(32)
_29: Final = np.uint64(29)
_0: Final = np.uint64(0)
_1: Final = np.uint64(1)


@numba.njit(nogil=True, cache=True, inline="always")
def mixed(state: np.uint64) -> np.uint64:
    """The key of a polynomial, never 0."""
    state = (state ^ (state >> _32)) * _FINAL
    state = state ^ (state >> _29)
    return state + np.uint64(state == _0)


@numba.njit(nogil=True, cache=True, inline="always")
def gram_key(state: np.uint64, length: np.int64, seed: np.uint64) -> np.uint64:
    """The key of an n-gram: of its polynomial, its length and the seed of the index."""
    return mixed(state ^ ((np.uint64(length) + seed * np.uint64(64)) * _LENGTH))


@numba.njit(nogil=True, cache=True)
def gram_keys(
    offsets: NDArray[np.int64], words: NDArray[np.uint64], lengths: NDArray[np.int64], seed: np.uint64
) -> tuple[NDArray[np.uint64], NDArray[np.int64], NDArray[np.int32]]:
    """Key, place and text of every n-gram of texts, whose n are `lengths` (0: the text has none), in text order."""
    count = 0
    for text in range(len(lengths)):
        if lengths[text] > 0:
            count += offsets[text + 1] - offsets[text] - lengths[text] + 1
    keys = np.empty(count, np.uint64)
    places = np.empty(count, np.int64)
    texts = np.empty(count, np.int32)
    count = 0
    for text in range(len(lengths)):
        length = lengths[text]
        if length == 0:
            continue
        leaving = _1
        for _ in range(length):
            leaving *= RADIX
        state = _0
        for word in range(offsets[text], offsets[text + 1]):
            state = state * RADIX + words[word]
            if word >= offsets[text] + length:
                state -= words[word - length] * leaving
            if word >= offsets[text] + length - 1:
                keys[count] = gram_key(state, length, seed)
                places[count] = word - length + 1
                texts[count] = text
                count += 1
    return keys, places, texts


@numba.njit(nogil=True, cache=True)
def anchor_keys(words: NDArray[np.uint64], places: NDArray[np.int64], length: int) -> NDArray[np.uint64]:
    """Keys of the `length` words at each place."""
    keys = np.empty(len(places), np.uint64)
    for number in range(len(places)):
        state = _0
        for word in range(places[number], places[number] + length):
            state = state * RADIX + words[word]
        keys[number] = mixed(state)
    return keys


@numba.njit(nogil=True, cache=True)
def fill_bitmap(keys: NDArray[np.uint64], bits: int) -> NDArray[np.uint8]:
    """2 ** bits bits, set at the upper bits of each key."""
    bitmap = np.zeros(1 << (bits - 3), np.uint8)
    for key in keys:
        bit = key >> np.uint64(64 - bits)
        bitmap[bit >> np.uint64(3)] |= np.uint8(1) << np.uint8(bit & np.uint64(7))
    return bitmap


@numba.njit(nogil=True, cache=True)
def fill_table(
    keys: NDArray[np.uint64], values: NDArray[np.uint64], unite: bool
) -> tuple[NDArray[np.uint64], NDArray[np.uint64]]:
    """An open-addressing table at most half full: slots of keys (0 is empty) and of values.

    Values of one key are united bit by bit where asked, else the last one stays.
    """
    size = 16
    while size < 2 * len(keys):
        size *= 2
    slots = np.zeros(size, np.uint64)
    held = np.zeros(size, np.uint64)
    for number in range(len(keys)):
        slot = find_slot(slots, keys[number])
        slots[slot] = keys[number]
        held[slot] = held[slot] | values[number] if unite else values[number]
    return slots, held


@numba.njit(nogil=True, cache=True, inline="always")
def find_slot(slots: NDArray[np.uint64], key: np.uint64) -> np.int64:
    """Slot of a key, or that of the empty slot where it would stand."""
    mask = np.uint64(len(slots) - 1)
    slot = key & mask
    while slots[slot] != key and slots[slot] != _0:
        slot = (slot + _1) & mask
    return np.int64(slot)
