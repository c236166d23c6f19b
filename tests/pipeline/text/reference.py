"""Plain statements, over Python strings and one character at a time, of what the text kernels compute."""

import unicodedata

MULTIPLIER, SEED, FINAL, M64 = 0xBF58476D1CE4E5B9, 0x9E3779B97F4A7C15, 0x94D049BB133111EB, (1 << 64) - 1


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
    starts += ["HIRAGANA", "KATAKANA", "BOPOMOFO", "THAI", "LAO", "KHMER", "MYANMAR", "JAVANESE", "BALINESE", "TAI ", "NUSHU"]
    return any(name.startswith(start) for start in starts)


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
            and i + 1 < len(chars)
            and is_word_char(chars[i + 1])
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
