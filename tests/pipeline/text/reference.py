"""Plain statements, over Python strings, of what the text kernels compute; nothing is shared with the kernels."""

from __future__ import annotations

import re
import unicodedata
from collections import Counter
from typing import Any

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
    """Characters of all occurrences of the commonest n-gram, the first of several, with spaces between its words."""
    gap = " " if 2 * sum(unspaced(word[0]) for word in found) < len(found) else ""
    grams = Counter(gap.join(found[i : i + n]) for i in range(len(found) - n + 1))
    return sum(len(gram) * count for gram, count in grams.most_common(1))


def runs(line: str) -> int:
    """Runs between white space, where each letter of an unspaced script counts."""
    return sum(max(1, sum(map(unspaced, run))) for run in line.split())


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
    if runs(line) < minimum_words or longest_run(line) > maximum_word_length:
        return False
    if javascript and has_phrase(line, "javascript"):
        return False
    if policy and any(has_phrase(line, phrase) for phrase in POLICY):
        return False
    closed = line.rstrip()[-1:] in list(TERMINATORS + WIDE + QUOTES) and not ends_in_ellipsis(line.rstrip())
    return closed or not terminal_punctuation


COUNTERS = "likes shares comments retweets reposts quotes bookmarks upvotes downvotes downloads views followers"


def any_case(phrases: tuple[str, ...]) -> str:
    """A regular expression for any of the phrases, without regard to the case of ASCII letters."""
    letters = [
        [f"[{c.lower()}{c.upper()}]" if c.isascii() and c.isalpha() else re.escape(c) for c in p] for p in phrases
    ]
    return "|".join(map("".join, letters))


def refine(
    line: str,
    maximum_uppercase_fraction: float | None = 0.5,
    numeric: bool = True,
    counters: tuple[str, ...] = tuple(COUNTERS.split()),
    minimum_words: int | None = 2,
    short_line_words: int = 10,
    prefixes: tuple[str, ...] = ("sign-in",),
    suffixes: tuple[str, ...] = ("read more...",),
    phrases: tuple[str, ...] = ("items in cart",),
) -> tuple[str | None, int]:
    """What the RefinedWeb line rules leave of a line, None where it goes; and the words that it loses."""
    content = line.strip()
    lost = len(words(content))
    most = 1 if maximum_uppercase_fraction is None else maximum_uppercase_fraction
    if sum(c.isupper() for c in content) > most * len(content):
        return None, lost
    if numeric and all(c.isdigit() for c in content):
        return None, lost
    if lost < (minimum_words or 0):
        return None, lost
    if counters and re.search(rf"^\W*\d[,.\d]*[kKmMbB]?\s+(?:{any_case(counters)})\W*$", content):
        return None, lost
    if lost > short_line_words:
        return line.rstrip(), 0
    rest, cut = content, 0
    margins = ((r"\s?", phrases, ""), (r"\s?", suffixes, r"\Z"), (r"\A", prefixes, ""))
    for (before, group, after), space in zip(margins, ("", "", r"\s?"), strict=True):
        if group:
            pattern = rf"{before}({any_case(group)}){space}{after}"
            cut += sum(len(words(match[1])) for match in re.finditer(pattern, rest))
            rest = re.sub(pattern, "", rest)
    if rest == content:
        return line.rstrip(), 0
    if not rest.strip():
        return None, lost
    return line[: len(line) - len(line.lstrip())] + rest.rstrip(), cut


def remove_lines(text: str, sets: tuple[str, ...] = ("c4",), refined: Any = None, **rules: Any) -> tuple[str, int, int]:
    """The text without the lines that the rules of the sets remove; how many they are, and how many others are cut."""
    kept, removed, cuts, gap = "", 0, 0, False
    for line in text.split("\n"):
        rest = refine(line, **(refined or {}))[0] if "refinedweb" in sets and line.strip() else line.rstrip()
        if not line.strip():
            gap = True
        elif rest is not None and ("c4" not in sets or keeps(line, **rules)):
            kept += ("\n\n" if gap else "\n") * bool(kept) + rest
            cuts += rest != line.rstrip()
            gap = False
        else:
            removed += 1
    return (kept, removed, cuts) if removed or cuts else (text, 0, 0)


def whole_lines(text: str) -> list[str]:
    """What stands between the line breaks, blank lines left out."""
    *closed, last = text.split("\n")
    return [line for line in [*(line.removesuffix("\r") for line in closed), last] if line.strip()]


# Sentence terminators of the scripts that the strategies write, and some more; U+2026 and U+104A have other properties.
SENTENCE_ENDS = ".!?։؟۔।॥၊။።។៕‼⁇⁈⁉。！？｡．"
CP1252 = "".join(bytes([byte]).decode("cp1252", "ignore") for byte in range(0x80, 0xC0))
FUNCTION = (
    "的了是在不和有这這那也就都而与與及为為以被把对對从從但或到着著之于於其个個们們我你他她它会會要能可上中来來去说說"
    "者乎矣焉哉曰乃则則兮嘅係喺咗唔啲佢冇嗰"
)


def encodes(char: str, codec: str) -> bool:
    try:
        return len(char.encode(codec)) == 2
    except UnicodeEncodeError:
        return False


def is_ideograph(char: str) -> bool:
    """By range, as a character that no codec or Unicode version knows is rare too."""
    blocks = ((0x3400, 0x4DC0), (0x4E00, 0xA000), (0xF900, 0xFB00), (0x20000, 0x33480))
    return any(start <= ord(char) < stop for start, stop in blocks)


def is_han(char: str) -> bool:
    name = unicodedata.name(char, "")
    return unspaced(char) and name.startswith(("CJK ", "IDEOGRAPHIC", "HANGZHOU", "KANGXI"))


def garbled(text: str) -> int:
    """Characters that only a wrong encoding leaves in a text."""
    alone = [
        unicodedata.category(c) in ("Co", "Cs")
        or c == "\ufffd"
        or (unicodedata.category(c) == "Cc" and not c.isspace())
        for c in text
    ]
    images = "[\x80-\xbf" + re.escape(CP1252) + "]"
    latin = rf"[\xc2-\xdf]{images}|[\xe0-\xef](?!\xa0»){images}{{2}}|[\xf0-\xf4](?!.?\xa0»){images}{{3}}"
    count = sum(alone) + sum(not alone[i] for m in re.finditer(latin, text) for i in range(m.start(), m.end()))
    count += sum(len(match[0]) for match in re.finditer("烫{3,}|屯{3,}", text))
    at = 0
    while at < len(text):  # two characters of three UTF-8 bytes, written as three characters of two GBK bytes
        three = text[at : at + 3]
        found = len(three) == 3 and all(encodes(char, "gbk") for char in three) and looks_like_utf8(three.encode("gbk"))
        count += 3 * found
        at += 3 if found else 1
    return count


def looks_like_utf8(data: bytes) -> bool:
    return all((0xE2 <= data[i] <= 0xEF) if i % 3 == 0 else (0x80 <= data[i] < 0xC0) for i in range(6))


def signals(text: str, stop_words: list[str] | None, refined: Any = None, **rules: Any) -> dict[str, float | None]:
    """Every numeric signal of `pipeline.quality.signals`."""
    found, these, parts = words(text), lines(text), paragraphs(text)
    chunks, n_chars = [run for run in text.split() if words(run)], max(1, len(text))
    line_repeats, paragraph_repeats = repeats(these), repeats(parts)
    kept = [line for line in text.split("\n") if line.strip() and keeps(line, **rules)]
    edited, removed, _ = remove_lines(text, **rules)
    left, gone, cuts = remove_lines(text, ("refinedweb",), refined)
    lost = sum(refine(line, **(refined or {}))[1] for line in text.split("\n") if line.strip())
    whole, feeds, han = whole_lines(text), text.count("\n"), max(1, sum(map(is_han, text)))
    ideographs = [(encodes(c, "gb2312"), encodes(c, "big5")) for c in text if is_ideograph(c)]
    ellipses = text.count("…") + sum(len(run) // 3 for run in re.findall(r"\.+", text))
    per_word, per_line = max(1, len(found)), max(1, len(these))
    marks = sum(unicodedata.category(c)[0] == "P" for c in text)
    marks -= len(re.findall(r"(?<=[A-Za-z0-9])[._'](?=[A-Za-z0-9])", text))
    return {
        "text_bytes": len(text.encode()),
        "characters": len(text),
        "words": len(found),
        "lines": len(these),
        "paragraphs": len(parts),
        "sentences": sum(map(sentences, these)),
        "mean_word_length": sum(map(len, found)) / per_word,
        "mean_line_length": len(text) / (feeds + 1),
        "hash_to_word_ratio": text.count("#") / per_word,
        "ellipsis_to_word_ratio": ellipses / per_word,
        "bullet_line_fraction": sum(line[0] in BULLETS for line in these) / per_line,
        "ellipsis_line_fraction": sum(map(ends_in_ellipsis, these)) / per_line,
        "alphabetic_word_fraction": sum(any(c.isalpha() for c in chunk) for chunk in chunks) / max(1, len(chunks)),
        "alphabetic_token_fraction": sum(any(c.isalpha() for c in word) for word in found) / max(1, len(found) + marks),
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
        "fineweb_terminal_line_fraction": sum(line[-1] in SENTENCE_ENDS for line in whole) / per_line,
        "fineweb_short_line_fraction": sum(len(line) <= 30 for line in whole) / per_line,
        "fineweb_duplicate_line_character_fraction": repeats(whole)[1] / max(1, len(text.replace("\n", ""))),
        "fineweb_newline_word_ratio": feeds / max(1, len(found) + sum(unicodedata.category(c)[0] == "P" for c in text)),
        "refinedweb_kept_lines": len(these) - gone,
        "refinedweb_removed_lines": gone,
        "refinedweb_cut_lines": cuts,
        "refinedweb_removed_bytes": len(text.encode()) - len(left.encode()),
        "refinedweb_removed_words": lost,
        "refinedweb_removed_word_fraction": min(1, lost / per_word),
        "han_fraction": sum(map(is_han, text)) / n_chars,
        "simplified_fraction": min(1, ideographs.count((True, False)) / han),
        "traditional_fraction": min(1, ideographs.count((False, True)) / han),
        "rare_han_fraction": min(1, ideographs.count((False, False)) / han),
        "function_character_fraction": sum(c in FUNCTION for c in text) / han,
        "punctuation_fraction": sum(unicodedata.category(c)[0] == "P" for c in text) / n_chars,
        "garbled_fraction": min(1, garbled(text) / n_chars),
    }
