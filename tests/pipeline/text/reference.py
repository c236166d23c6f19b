"""Plain statements, over Python strings, of what the text kernels compute; nothing is shared with the kernels."""

from __future__ import annotations

import re
import unicodedata
from collections import Counter

MULTIPLIER, SEED, FINAL, M64 = 0xBF58476D1CE4E5B9, 0x9E3779B97F4A7C15, 0x94D049BB133111EB, (1 << 64) - 1
TERMINATORS = ".!?…‼⁇⁈⁉։؟۔।॥၊။።។៕"
WIDE = "。！？｡．"
QUOTES = "\"'’”»›」』＂｣"
BRACKETS = ")]}〉》】〕）］｝"
BULLETS = "-*•‣⁃∙·■□▪▫▶►○●◦・"


def fold(char: str) -> str:
    if len(char.casefold()) == 1:
        return char.casefold()
    return char.lower() if len(char.lower()) == 1 else char


def unspaced(char: str) -> bool:
    """Letter of an unspaced script, by its name."""
    category = unicodedata.category(char)
    name = unicodedata.name(char, "")
    if category[0] != "L" and category != "Nl":
        return False
    if 0x17000 <= ord(char) < 0x18D80:
        return True
    starts = ["CJK ", "IDEOGRAPHIC", "HANGZHOU", "KANGXI", "HALFWIDTH KATAKANA", "HENTAIGANA", "NEW TAI LUE", "AHOM"]
    starts += ["HIRAGANA", "KATAKANA", "BOPOMOFO", "THAI", "LAO", "KHMER", "MYANMAR", "JAVANESE", "BALINESE", "TAI "]
    return any(name.startswith(start) for start in [*starts, "NUSHU", "TANGUT", "KHITAN"])


def is_word_char(char: str) -> bool:
    return unicodedata.category(char)[0] in "LN" and not unspaced(char)


def words(text: str) -> list[str]:
    """The normalised words of `text`."""
    chars = [c for c in text if unicodedata.category(c) != "Cf" or c == "\u200b"]
    chars = ["'" if c == "\u2019" else c for c in chars]
    found: list[str] = []
    open_word = False
    for i, char in enumerate(chars):
        if unspaced(char):
            found.append(fold(char))
            open_word = True
        elif is_word_char(char):
            if open_word and not unspaced(found[-1][0]):
                found[-1] += fold(char)
            else:
                found.append(fold(char))
            open_word = True
        elif unicodedata.category(char)[0] == "M" and open_word:
            found[-1] += char
        elif (
            char == "'"
            and open_word
            and not unspaced(found[-1][0])
            and is_word_char("".join(chars[i + 1 : i + 2]) or " ")
        ):
            found[-1] += "'"
        else:
            open_word = False
    return found


def word_hash(word: str) -> int:
    state = SEED
    for char in word:
        state = (state ^ ord(char)) * MULTIPLIER & M64
        state ^= state >> 32
    state = (state ^ state >> 29) * FINAL & M64
    return state ^ state >> 32


_ANY, _CLOSERS = re.escape(TERMINATORS + WIDE), re.escape(QUOTES + BRACKETS)
_NARROW = re.escape(TERMINATORS)
_BOUNDARY = re.compile(
    rf"[{_NARROW}][{_NARROW}{_CLOSERS}]*[{re.escape(WIDE)}][{_ANY}{_CLOSERS}\s]*"
    rf"|[{re.escape(WIDE)}][{_ANY}{_CLOSERS}\s]*"
    rf"|[{_NARROW}][{_NARROW}{_CLOSERS}]*\s+(?=(.?))"
)


def sentences(line: str) -> int:
    """Pieces with a word, of those that the boundaries cut a line into."""
    pieces, start = [], 0
    for match in _BOUNDARY.finditer(line):
        following = match[1]
        if following and unicodedata.category(following) == "Ll":
            continue
        pieces.append(line[start : match.end()])
        start = match.end()
    return sum(bool(words(piece)) for piece in [*pieces, line[start:]])


def lines(text: str) -> list[str]:
    return [line.strip() for line in text.split("\n") if line.strip()]


def paragraphs(text: str) -> list[str]:
    found: list[list[str]] = [[]]
    for line in text.split("\n"):
        if line.strip():
            found[-1].append(line.strip())
        elif found[-1]:
            found.append([])
    return ["\n".join(group) for group in found if group]


def repeats(items: list[str]) -> tuple[int, int]:
    again = [item for i, item in enumerate(items) if item in items[:i]]
    return len(again), sum(map(len, again))


def top_ngram(found: list[str], n: int) -> int:
    """Characters of all occurrences of the n-gram that occurs most often, at least twice; the longest of several."""
    counts = Counter(tuple(found[i : i + n]) for i in range(len(found) - n + 1))
    most = max(counts.values(), default=0)
    return 0 if most < 2 else max(most * len("".join(gram)) for gram, count in counts.items() if count == most)


def duplicate_ngrams(found: list[str], n: int) -> int:
    seen, total, i = set(), 0, 0
    while i + n <= len(found):
        gram = tuple(found[i : i + n])
        if gram in seen:
            total += len("".join(gram))
            i += n
        else:
            seen.add(gram)
            i += 1
    return total


def has_phrase(line: str, phrase: str) -> bool:
    return f" {phrase} " in f" {' '.join(words(line))} "


def longest_run(line: str) -> int:
    longest = run = 0
    for char in line:
        run = 0 if char.isspace() or unspaced(char) else run + 1
        longest = max(longest, run)
    return longest


def ends_in_ellipsis(line: str) -> bool:
    return line.endswith("...") or line.endswith("…")


POLICY = ("terms of use", "privacy policy", "cookie policy", "uses cookies", "use of cookies", "use cookies")


def keeps(
    line: str,
    minimum_words: int = 5,
    maximum_word_length: int = 1000,
    javascript: bool = True,
    policy: bool = True,
    terminal_punctuation: bool = False,
) -> bool:
    """Whether the C4 line rules keep a line."""
    if len(words(line)) < minimum_words or longest_run(line) > maximum_word_length:
        return False
    if javascript and has_phrase(line, "javascript"):
        return False
    if policy and any(has_phrase(line, phrase) for phrase in POLICY):
        return False
    closed = line.rstrip()[-1:] in list(TERMINATORS + WIDE + QUOTES) and not ends_in_ellipsis(line.rstrip())
    return closed or not terminal_punctuation


def remove_lines(text: str, **rules: object) -> tuple[str, int]:
    """The text without the lines that the C4 line rules remove, and how many they are."""
    kept, removed, gap = "", 0, False
    for line in text.split("\n"):
        if not line.strip():
            gap = True
        elif keeps(line, **rules):  # type: ignore[arg-type]
            kept += ("\n\n" if gap else "\n") * bool(kept) + line.rstrip()
            gap = False
        else:
            removed += 1
    return (kept, removed) if removed else (text, 0)


def signals(text: str, stop_words: list[str] | None, **rules: object) -> dict[str, float | None]:
    """Every numeric signal of `pipeline.quality.signals`."""
    found, these, parts = words(text), lines(text), paragraphs(text)
    chunks, n_chars = text.split(), max(1, len(text))
    line_repeats, paragraph_repeats = repeats(these), repeats(parts)
    kept = [line for line in text.split("\n") if line.strip() and keeps(line, **rules)]  # type: ignore[arg-type]
    edited, removed = remove_lines(text, **rules)
    ellipses = text.count("…") + sum(len(run) // 3 for run in re.findall(r"\.+", text))
    per_word, per_line = max(1, len(found)), max(1, len(these))
    return {
        "text_bytes": len(text.encode()),
        "characters": len(text),
        "words": len(found),
        "lines": len(these),
        "paragraphs": len(parts),
        "sentences": sum(map(sentences, these)),
        "mean_word_length": sum(map(len, found)) / per_word,
        "hash_to_word_ratio": text.count("#") / per_word,
        "ellipsis_to_word_ratio": ellipses / per_word,
        "bullet_line_fraction": sum(line[0] in BULLETS for line in these) / per_line,
        "ellipsis_line_fraction": sum(map(ends_in_ellipsis, these)) / per_line,
        "alphabetic_word_fraction": sum(any(c.isalpha() for c in chunk) for chunk in chunks) / max(1, len(chunks)),
        "stop_words": None if stop_words is None else len({*found} & {*stop_words}),
        "duplicate_line_fraction": line_repeats[0] / per_line,
        "duplicate_line_character_fraction": line_repeats[1] / n_chars,
        "duplicate_paragraph_fraction": paragraph_repeats[0] / max(1, len(parts)),
        "duplicate_paragraph_character_fraction": paragraph_repeats[1] / n_chars,
        **{f"top_{n}_gram_character_fraction": top_ngram(found, n) / n_chars for n in (2, 3, 4)},
        **{f"duplicate_{n}_gram_character_fraction": duplicate_ngrams(found, n) / n_chars for n in range(5, 11)},
        "curly_brackets": text.count("{"),
        "lorem_ipsum_lines": sum(has_phrase(line, "lorem ipsum") for line in these),
        "c4_kept_lines": len(kept),
        "c4_removed_lines": removed,
        "c4_removed_bytes": len(text.encode()) - len(edited.encode()),
        "c4_kept_sentences": sum(map(sentences, kept)),
    }
