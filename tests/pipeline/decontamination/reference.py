"""The rules of decontamination in plain Python, for the tests."""

from __future__ import annotations

import unicodedata
from collections import defaultdict
from typing import NamedTuple

from pipeline.decontamination.benchmarks import Item
from pipeline.decontamination.config import Cut, DecontaminateConfig
from tests.pipeline.text.reference import fold, is_word_char, unspaced


class Word(NamedTuple):
    text: str
    begin: int  # byte
    end: int


def word_spans(text: str) -> list[Word]:
    found: list[Word] = []
    open_word = False
    at = 0
    for number, char in enumerate(text):
        begin, at = at, at + len(char.encode())
        category = unicodedata.category(char)
        if category == "Cf" and char != "\u200b":
            continue
        if unspaced(char):
            found.append(Word(fold(char), begin, at))
            open_word = True
        elif is_word_char(char):
            if open_word and not unspaced(found[-1].text[0]):
                found[-1] = Word(found[-1].text + fold(char), found[-1].begin, at)
            else:
                found.append(Word(fold(char), begin, at))
            open_word = True
        elif category[0] == "M" and open_word:
            found[-1] = Word(found[-1].text + char, found[-1].begin, at)
        elif char in "'\u2019" and open_word and not unspaced(found[-1].text[0]) and _letter_follows(text, number + 1):
            # the letter that follows puts the end of the word behind itself
            found[-1] = found[-1]._replace(text=found[-1].text + "'")
        else:
            open_word = False
    return found


def _letter_follows(text: str, at: int) -> bool:
    while at < len(text) and unicodedata.category(text[at]) == "Cf" and text[at] != "\u200b":
        at += 1
    return at < len(text) and is_word_char(text[at])


def words(text: str) -> list[str]:
    return [word.text for word in word_spans(text)]


def length_in_words(text: str, config: DecontaminateConfig) -> float:
    letters = sum(unspaced(word[0]) for word in words(text))
    return len(words(text)) - letters + letters / config.unspaced_characters_per_word


def gram_words(items: list[Item], config: DecontaminateConfig) -> list[int]:
    """n of each text, 0 where it is too short."""
    found = []
    for item in items:
        if config.rule == "gpt3":
            every = sorted(length_in_words(other.text, config) for other in items if other.benchmark == item.benchmark)
            rank = next(
                rank for rank in range(1, len(every) + 1) if 100 * rank >= config.gpt3.length_percentile * len(every)
            )
            n = min(max(int(every[rank - 1]), config.gpt3.minimum_words), config.gpt3.maximum_words)
            least = config.gpt3.minimum_item_words
        else:
            n, least = config.strict.words, config.strict.minimum_item_words
        length, count = length_in_words(item.text, config), len(words(item.text))
        if length < least:
            found.append(0)
        else:
            found.append(min(count, int(n * count / length + 0.5)))
    return found


class Match(NamedTuple):
    document: int
    text: int
    begin: int  # word
    end: int
    begin_byte: int
    end_byte: int
    covered: int


def find(
    documents: list[str],
    items: list[Item],
    config: DecontaminateConfig,
    ignored: frozenset[tuple[str, ...]] = frozenset(),
) -> tuple[list[Match], set[tuple[int, int, int]]]:
    """Matches, and (document, begin byte, end byte) of every n-gram of a matched text."""
    matches: list[Match] = []
    spans: set[tuple[int, int, int]] = set()
    lengths = gram_words(items, config)
    holders: dict[tuple[str, ...], dict[str, set[str]]] = defaultdict(lambda: defaultdict(set))
    for item, n in zip(items, lengths, strict=True):
        for gram in _grams(words(item.text), n):
            holders[gram][item.benchmark].add(item.item_id)
    most = config.maximum_items
    frame = {gram for gram, of in holders.items() if most is not None and any(len(ids) > most for ids in of.values())}
    for number, document in enumerate(documents):
        found = word_spans(document)
        for text, (item, n) in enumerate(zip(items, lengths, strict=True)):
            own = words(item.text)
            grams = set(_grams(own, n)) - frame - ignored
            places = [at for at, gram in enumerate(_grams([word.text for word in found], n)) if gram in grams]
            here = {gram for at, gram in enumerate(_grams([word.text for word in found], n)) if at in set(places)}
            covered = len({at + step for at, gram in enumerate(_grams(own, n)) if gram in here for step in range(n)})
            if not places or covered < config.minimum_coverage * len(own):
                continue
            run_begin, run_end = best = (places[0], places[0] + n)
            for place in places:
                if place > run_end:
                    run_begin = place
                run_end = place + n
                if run_end - run_begin > best[1] - best[0]:
                    best = (run_begin, run_end)
            matches.append(Match(number, text, *best, found[best[0]].begin, found[best[1] - 1].end, covered))
            spans |= {(number, found[place].begin, found[place + n - 1].end) for place in places}
    return matches, spans


def _grams(found: list[str], n: int) -> list[tuple[str, ...]]:
    return [tuple(found[at : at + n]) for at in range(len(found) - n + 1)] if n else []


def cut(text: str, spans: list[tuple[int, int]], rule: Cut) -> tuple[list[str], str | None]:
    """All pieces, and what stays of the text, None where it is dropped. Spans are of bytes."""
    gone = [False] * len(text)
    raw = text.encode()
    merged: list[list[int]] = []
    for begin, end in sorted(spans):
        if merged and begin <= merged[-1][1]:
            merged[-1][1] = max(merged[-1][1], end)
        else:
            merged.append([begin, end])
    for begin, end in merged:
        first, last = len(raw[:begin].decode()), len(raw[:end].decode())
        for at in range(max(0, first - rule.window_characters), min(len(text), last + rule.window_characters)):
            gone[at] = True
    pieces: list[str] = []
    for at, char in enumerate(text):
        if not gone[at]:
            if at == 0 or gone[at - 1]:
                pieces.append("")
            pieces[-1] += char
    if len(pieces) > rule.maximum_pieces:
        return pieces, None
    kept = [piece for piece in pieces if len(piece) >= rule.minimum_piece_characters]
    return pieces, "\n\n".join(kept) or None
