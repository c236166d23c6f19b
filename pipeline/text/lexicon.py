"""Words and phrases that the scan looks for, compiled into tables: a set of word hashes and an automaton of phrases."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from pipeline.text.scan import word_hashes

_MOST_CATEGORIES = 31


@dataclass(frozen=True)
class Lexicon:
    """Tables for the scan. A word is looked up by its hash; 0 in `codes` or `listed` means no such entry."""

    hashes: NDArray[np.uint64]  # (slots,) open addressing with linear probing; 0 is an empty slot
    codes: NDArray[np.int32]  # (slots,) code of the word in the phrases, from 1
    listed: NDArray[np.int32]  # (slots,) number of the word among the listed words, from 1
    automaton: NDArray[np.int32]  # (states, codes + 1) next state after a word of the code, Aho-Corasick
    categories: NDArray[np.int64]  # (states,) bits of the phrase categories that end in the state
    lists: NDArray[np.int32]  # (lists, longest) numbers of the listed words of each list, padded with 0
    list_names: tuple[str, ...]
    words: int  # listed words, over all lists


def build_lexicon(phrases: Mapping[str, Sequence[str]], lists: Mapping[str, Sequence[str]]) -> Lexicon:
    """Compile phrases by category, and lists of single words by name (such as stop words by language).

    A phrase is matched as a sequence of whole normalised words, whatever stands between them. Category i, in the order
    given, is bit i of `categories`. Raises ValueError for an empty phrase or a list entry that is not one word.
    """
    if len(phrases) > _MOST_CATEGORIES:
        raise ValueError(f"at most {_MOST_CATEGORIES} categories of phrases, got {len(phrases)}")
    hashed = _hash_phrases([phrase for members in (*phrases.values(), *lists.values()) for phrase in members])
    sequences = [(hashed[phrase], 1 << bit) for bit, members in enumerate(phrases.values()) for phrase in members]
    if any(not words for words, _ in sequences):
        raise ValueError("a phrase without a word cannot be looked for")
    code_of = {word: code for code, word in enumerate(dict.fromkeys(w for words, _ in sequences for w in words), 1)}
    listed_of: dict[int, int] = {}
    numbers = []
    for name, members in lists.items():
        row = []
        for member in members:
            found = hashed[member]
            if len(found) != 1:
                raise ValueError(f"list {name!r}: {member!r} is {len(found)} words to the scan, but must be one")
            row.append(listed_of.setdefault(found[0], len(listed_of) + 1))
        numbers.append(row)
    automaton, categories = _automaton([(tuple(code_of[w] for w in words), bit) for words, bit in sequences])
    hashes, slots = _hash_set([*dict.fromkeys([*code_of, *listed_of])])
    codes, listed = np.zeros(len(hashes), np.int32), np.zeros(len(hashes), np.int32)
    for word, slot in slots.items():
        codes[slot], listed[slot] = code_of.get(word, 0), listed_of.get(word, 0)
    padded = np.zeros((len(numbers), max(map(len, numbers), default=0)), np.int32)
    for row_number, row in enumerate(numbers):
        padded[row_number, : len(row)] = row
    return Lexicon(hashes, codes, listed, automaton, categories, padded, tuple(lists), len(listed_of))


def _hash_phrases(phrases: Sequence[str]) -> dict[str, tuple[int, ...]]:
    offsets, hashes = word_hashes(pa.array(phrases, pa.large_string()))
    words = hashes.tolist()
    return {phrase: tuple(words[offsets[n] : offsets[n + 1]]) for n, phrase in enumerate(phrases)}


def _hash_set(words: Sequence[int]) -> tuple[NDArray[np.uint64], dict[int, int]]:
    """Slots of at least four times the number of words, so that most look-ups end at the first probe."""
    size = 1 << max(4, (4 * len(words)).bit_length())
    table = np.zeros(size, np.uint64)
    slots = {}
    for word in words:
        slot = word & (size - 1)
        while table[slot]:
            slot = (slot + 1) & (size - 1)
        table[slot] = word
        slots[word] = slot
    return table, slots


def _automaton(sequences: Sequence[tuple[tuple[int, ...], int]]) -> tuple[NDArray[np.int32], NDArray[np.int64]]:
    """States are the prefixes of the sequences; a word leads to the longest of them that ends the words read."""
    prefixes = [*dict.fromkeys([(), *(words[:n] for words, _ in sequences for n in range(1, len(words) + 1))])]
    state_of = {prefix: state for state, prefix in enumerate(prefixes)}
    codes = max((code for words, _ in sequences for code in words), default=0) + 1
    automaton = np.zeros((len(prefixes), codes), np.int32)
    categories = np.zeros(len(prefixes), np.int64)
    for prefix, state in state_of.items():
        for words, bit in sequences:
            if prefix[-len(words) :] == words:
                categories[state] |= bit
        for code in range(1, codes):
            read = (*prefix, code)
            automaton[state, code] = next(state_of[read[n:]] for n in range(len(read) + 1) if read[n:] in state_of)
    return automaton, categories
