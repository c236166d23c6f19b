"""Numbers, sizes and names as people read them."""

from __future__ import annotations

import math
import re

LANGUAGES = {
    "ar": "Arabic", "bg": "Bulgarian", "bn": "Bengali", "ca": "Catalan", "cs": "Czech", "da": "Danish",
    "de": "German", "el": "Greek", "en": "English", "eo": "Esperanto", "es": "Spanish", "et": "Estonian",
    "eu": "Basque", "fa": "Persian", "fi": "Finnish", "fr": "French", "gl": "Galician", "he": "Hebrew",
    "hi": "Hindi", "hr": "Croatian", "hu": "Hungarian", "id": "Indonesian", "it": "Italian", "ja": "Japanese",
    "ka": "Georgian", "ko": "Korean", "la": "Latin", "lt": "Lithuanian", "lv": "Latvian", "ms": "Malay",
    "nl": "Dutch", "no": "Norwegian", "pl": "Polish", "pt": "Portuguese", "ro": "Romanian", "ru": "Russian",
    "sk": "Slovak", "sl": "Slovenian", "sr": "Serbian", "sv": "Swedish", "ta": "Tamil", "th": "Thai",
    "tr": "Turkish", "uk": "Ukrainian", "ur": "Urdu", "vi": "Vietnamese", "wuu": "Wu Chinese", "yue": "Cantonese",
    "zh": "Chinese",
}  # fmt: skip
"""English names of the languages that are met most; any other is shown by its code."""

NARROW_SPACE = "\u202f"
DASH = "\u2013"


def language_name(code: str | None) -> str:
    """Return a language's name, or its code where the name is not known; `zh-Hans` is Chinese too."""
    if not code:
        return "unknown"
    return LANGUAGES.get(code.partition("-")[0].partition("_")[0].lower(), code)


def count(value: float | None) -> str:
    """Return a whole number with separators: 12,345."""
    return DASH if value is None else f"{round(value):,}"


def short_count(value: float | None) -> str:
    """Return a number in three digits or so: 999, 12.3 k, 4.56 M."""
    if value is None:
        return DASH
    for size, unit in ((1e12, "T"), (1e9, "B"), (1e6, "M"), (1e3, "k")):
        if abs(value) >= size * 0.9995:
            return f"{_three_digits(value / size)}{NARROW_SPACE}{unit}"
    return f"{value:g}" if value == int(value) else _three_digits(value)


def axis(value: float) -> str:
    """Return a number on an axis: 0.5, 200, 10k, 1.5M."""
    for limit, unit in ((1e9, "B"), (1e6, "M"), (1e3, "k")):
        if abs(value) >= limit:
            return f"{value / limit:g}{unit}"
    return plain(value)


def size(value: float | None) -> str:
    """Return bytes in decimal units: 512 B, 8.1 kB, 23.4 MB."""
    if value is None:
        return DASH
    for limit, unit in ((1e12, "TB"), (1e9, "GB"), (1e6, "MB"), (1e3, "kB")):
        if abs(value) >= limit * 0.9995:
            return f"{_three_digits(value / limit)}{NARROW_SPACE}{unit}"
    return f"{value:.0f}{NARROW_SPACE}B"


def duration(seconds: float | None) -> str:
    """Return a time: 0.4 s, 12 s, 3 min 05 s, 2 h 10 min."""
    if seconds is None:
        return DASH
    if seconds < 9.95:
        return f"{seconds:.1f}{NARROW_SPACE}s"
    whole = round(seconds)
    if whole < 60:
        return f"{whole}{NARROW_SPACE}s"
    if whole < 3600:
        return f"{whole // 60}{NARROW_SPACE}min {whole % 60:02d}{NARROW_SPACE}s"
    return f"{whole // 3600}{NARROW_SPACE}h {whole % 3600 // 60:02d}{NARROW_SPACE}min"


def percent(part: float | None, whole: float | None = 1.0) -> str:
    """Return a share: 12 %, 3.4 %, <0.1 %."""
    if part is None or not whole:
        return DASH
    share = 100 * part / whole
    if 0 < share < 0.1:
        return f"<{NARROW_SPACE}0.1{NARROW_SPACE}%"
    if share in (0.0, 100.0) or 9.95 <= share <= 99.0:
        return f"{share:.0f}{NARROW_SPACE}%"
    if share > 99:
        return f"{min(share, 99.9):.1f}{NARROW_SPACE}%"
    return f"{share:.1f}{NARROW_SPACE}%"


def decimal(value: float | None, digits: int = 3) -> str:
    """Return a number with a fixed number of decimals; a dash where there is none."""
    return DASH if value is None or not math.isfinite(value) else f"{value:,.{digits}f}"


def plain(value: float | None) -> str:
    """Return a measured value or a threshold in as few digits as serve: 50, 0.3, 0.0123."""
    if value is None or not math.isfinite(value):
        return DASH
    if value == int(value):
        return f"{int(value):,}"
    return f"{value:.2f}".rstrip("0").rstrip(".") if abs(value) >= 1 else f"{value:.3g}"


def words(name: str) -> str:
    """Return an identifier as words: `near_duplicate` is near duplicate."""
    return re.sub(r"(\d)_gram", r"\1-gram", name).replace("_", " ").replace("/", " / ").strip()


def rule_name(rule: str) -> str:
    """Return a rule as people say it; the long names of Gopher's two sets are left out."""
    group, _, name = rule.rpartition(".")
    return f"{words(group)}: {words(name)}" if group and not group.startswith("gopher_") else words(name)


def enumeration(items: list[str]) -> str:
    """Return items in a sentence: a, b and c."""
    return items[0] if len(items) == 1 else ", ".join(items[:-1]) + " and " + items[-1] if items else ""


def _three_digits(value: float) -> str:
    return f"{value:.0f}" if abs(value) >= 99.95 else f"{value:.1f}" if abs(value) >= 9.995 else f"{value:.2f}"
