"""Language identification with a fastText model, lid.176 by default, over batches.

Source of the model and its labels: Joulin et al. 2016, "Bag of Tricks for Efficient Text Classification" and
"FastText.zip"; https://fasttext.cc/docs/en/language-identification.html.

A short document is read whole. Of a long one, evenly spread pieces are read: the beginning alone is often a menu or a
notice in another language. What the pieces say of themselves tells whether a document mixes languages.
"""

from dataclasses import dataclass
from pathlib import Path
from typing import Final

import numba
import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from pipeline.fasttext_model import FastTextModel, load_model, model_sha256, separates
from pipeline.text.arrow import utf8_views
from pipeline.text.scan import decode
from pipeline.text.tables import CLASS_MASK, CLASS_SHIFT, SCRIPT_SHIFT, SCRIPTS, TABLE, UNSPACED, WORD

__all__ = ["DEFAULT_BYTES", "UNDETERMINED", "Languages", "identify", "load_model", "model_path", "model_sha256"]

UNDETERMINED: Final = "und"  # ISO 639: text in which there is nothing to tell a language by
DEFAULT_BYTES: Final = 2048

PIECE_BYTES: Final = 256  # about three sentences: enough to tell a language by
CERTAIN: Final = 0.5  # a piece speaks another language only where the model thinks it likelier than all others together

# Scripts of the languages that are not written in Latin letters (alone). Codes are those of lid.176.
_LANGUAGES_OF_SCRIPTS: Final = {
    ("Cyrillic",): "ru uk mk bg be kk tt ky tg ba cv ce os sah krc av kv mhr mrj myv bxr xal tyv lez rue mn",
    ("Cyrillic", "Latin"): "sr sh uz",
    ("Han", "Bopomofo"): "zh wuu yue",
    ("Han", "Hiragana", "Katakana"): "ja",
    ("Hangul", "Han"): "ko",
    ("Arabic",): "ar fa ur arz ps ckb azb pnb ug sd mzn lrc",
    ("Arabic", "Latin"): "ku",
    ("Latin", "Cyrillic", "Arabic"): "az",
    ("Hebrew",): "he yi",
    ("Greek",): "el",
    ("Devanagari",): "hi mr ne sa new mai bh dty",
    ("Devanagari", "Latin"): "gom",
    ("Bengali",): "bn as bpy",
    ("Gurmukhi", "Arabic"): "pa",
    ("Gujarati",): "gu",
    ("Oriya",): "or",
    ("Tamil",): "ta",
    ("Telugu",): "te",
    ("Kannada",): "kn",
    ("Malayalam",): "ml",
    ("Sinhala",): "si",
    ("Thai",): "th",
    ("Lao",): "lo",
    ("Khmer",): "km",
    ("Myanmar",): "my",
    ("Tibetan",): "bo",
    ("Georgian",): "ka xmf",
    ("Armenian",): "hy",
    ("Ethiopic",): "am",
    ("Thaana",): "dv",
}
_SCRIPTS_OF: Final = {
    language: scripts for scripts, languages in _LANGUAGES_OF_SCRIPTS.items() for language in languages.split()
}
# ISO 15924 codes, as in the labels of GlotLID (cmn_Hani) and NLLB (zho_Hans).
_SCRIPTS_OF_CODE: Final = {
    "Latn": ("Latin",),
    "Cyrl": ("Cyrillic",),
    "Hani": ("Han", "Bopomofo"),
    "Hans": ("Han",),
    "Hant": ("Han", "Bopomofo"),
    "Jpan": ("Han", "Hiragana", "Katakana"),
    "Kore": ("Hangul", "Han"),
    "Hang": ("Hangul",),
    "Arab": ("Arabic",),
    "Hebr": ("Hebrew",),
    "Grek": ("Greek",),
    "Deva": ("Devanagari",),
    "Beng": ("Bengali",),
    "Guru": ("Gurmukhi",),
    "Gujr": ("Gujarati",),
    "Orya": ("Oriya",),
    "Taml": ("Tamil",),
    "Telu": ("Telugu",),
    "Knda": ("Kannada",),
    "Mlym": ("Malayalam",),
    "Sinh": ("Sinhala",),
    "Thai": ("Thai",),
    "Laoo": ("Lao",),
    "Khmr": ("Khmer",),
    "Mymr": ("Myanmar",),
    "Tibt": ("Tibetan",),
    "Geor": ("Georgian",),
    "Armn": ("Armenian",),
    "Ethi": ("Ethiopic",),
    "Thaa": ("Thaana",),
    "Mong": ("Mongolian",),
    "Syrc": ("Syriac",),
    "Yiii": ("Yi",),
    "Cher": ("Cherokee",),
    "Cans": ("Canadian Aboriginal",),
    "Java": ("Javanese",),
    "Bali": ("Balinese",),
}


def scripts_of(language: str) -> tuple[str, ...] | None:
    """The scripts in which a language is written; None where it is not known.

    `language` is a code of lid.176 (`zh`) or one that ends in a script (`cmn_Hani`, `zho_Hans`).
    """
    if "_" in language:
        return _SCRIPTS_OF_CODE.get(language.rpartition("_")[2])
    return _SCRIPTS_OF.get(language, ("Latin",))


@numba.njit(nogil=True, cache=True)
def _next_word(data: NDArray[np.uint8], at: np.int64, end: np.int64, most: np.int64) -> np.int64:
    """Where a piece may begin at or after `at`: after white space, or at a character where there is none near."""
    if at == 0 or separates(data[at - 1]):
        return at
    for near in range(at, min(end, at + most)):
        if separates(data[near]):
            return np.int64(near)
    while at < end and (data[at] & 0xC0) == 0x80:
        at += 1
    return at


@numba.njit(nogil=True, cache=True)
def _cut(
    data: NDArray[np.uint8],
    starts: NDArray[np.int64],
    ends: NDArray[np.int64],
    limit: np.int64,
    piece_starts: NDArray[np.int64],
    piece_ends: NDArray[np.int64],
    firsts: NDArray[np.int64],
) -> np.int64:
    pieces = np.int64(0)
    firsts[0] = 0
    count = max(np.int64(2), limit // PIECE_BYTES)  # pieces of a long document: the first begins it, the last ends it
    length = limit // count
    for document in range(len(starts)):
        at, end = starts[document], ends[document]
        size = end - at
        if size <= limit:
            # Whole, cut at white space only: the words, and so the answer, are those of the uncut text.
            while at < end:
                stop = min(end, at + PIECE_BYTES)
                while stop < end and not separates(data[stop]):
                    stop += 1
                piece_starts[pieces], piece_ends[pieces] = at, stop
                pieces += 1
                at = stop
        else:
            for number in range(count):
                begin = starts[document] + (size - length) * number // (count - 1)
                stop = begin + length
                if number > 0:
                    begin = _next_word(data, begin, stop, length // 2)
                stop = _next_word(data, stop, end, length // 2) if number < count - 1 else end
                if number > 0:
                    begin = max(begin, piece_ends[pieces - 1])
                piece_starts[pieces], piece_ends[pieces] = begin, max(begin, stop)
                pieces += 1
        firsts[document + 1] = pieces
    return pieces


def pieces(
    starts: NDArray[np.int64], ends: NDArray[np.int64], data: NDArray[np.uint8], limit_bytes: int
) -> tuple[NDArray[np.int64], NDArray[np.int64], NDArray[np.int64]]:
    """Which bytes of each document are read: starts and ends (pieces,), and each document's first piece (n + 1,).

    A document of up to `limit_bytes` is read whole, a longer one in evenly spread pieces of `limit_bytes` together,
    its beginning and end among them.
    """
    room = int((np.minimum(ends - starts, limit_bytes) // PIECE_BYTES + 2).sum())
    piece_starts, piece_ends = np.empty(room, np.int64), np.empty(room, np.int64)
    firsts = np.empty(len(starts) + 1, np.int64)
    count = _cut(data, starts, ends, np.int64(limit_bytes), piece_starts, piece_ends, firsts)
    return piece_starts[:count], piece_ends[:count], firsts


@numba.njit(nogil=True, cache=True)
def _count_scripts(
    data: NDArray[np.uint8],
    piece_starts: NDArray[np.int64],
    piece_ends: NDArray[np.int64],
    firsts: NDArray[np.int64],
    allowed: NDArray[np.uint64],
    table: NDArray[np.uint32],
    found: NDArray[np.float64],
) -> None:
    for document in range(len(firsts) - 1):
        letters = fitting = np.int64(0)
        for piece in range(firsts[document], firsts[document + 1]):
            at, end = piece_starts[piece], piece_ends[piece]
            while at < end:
                point, at = decode(data, at, end)
                entry = np.int64(table[point])
                kind = (entry >> CLASS_SHIFT) & CLASS_MASK
                script = entry >> SCRIPT_SHIFT
                if kind in (WORD, UNSPACED) and script > 0:
                    letters += 1
                    fitting += np.int64((allowed[document] >> np.uint64(script)) & np.uint64(1))
        found[document] = fitting / letters if letters > 0 else np.nan


@dataclass(frozen=True)
class Languages:
    """The likeliest languages of each text, the likeliest first, and two checks of the answer."""

    codes: list[NDArray[np.object_]]  # one array (texts,) of str for each rank; None where the model names no more
    scores: list[NDArray[np.float64]]  # probabilities by rank, 0 to 1; NaN where there is no code
    other_fraction: NDArray[np.float64]  # (texts,) share of the bytes read whose pieces are in another language
    script_fraction: NDArray[np.float64]  # (texts,) share of letters in a script of the language; NaN: not known


def identify(
    model: FastTextModel, texts: pa.Array | pa.ChunkedArray, top: int = 2, limit_bytes: int = DEFAULT_BYTES
) -> Languages:
    """The `top` likeliest languages of each text, judged by at most `limit_bytes` of it (see `pieces`).

    A text in which the model knows nothing, such as white space, is UNDETERMINED with score 0. Raises TypeError where
    `texts` is neither string nor large_string.
    """
    names = np.array([*model.labels, None], np.object_)
    masks = np.array([_mask(label) for label in model.labels] + [0], np.uint64)
    codes: list[list[NDArray]] = [[np.empty(0, np.object_)] for _ in range(top)]
    scores: list[list[NDArray]] = [[np.empty(0)] for _ in range(top)]
    others, scripts = [np.empty(0)], [np.empty(0)]
    for view in utf8_views(texts):
        begin, end, firsts = pieces(view.starts, view.ends, view.data, limit_bytes)
        best, of_pieces = model.best_of_pieces(view.data, begin, end, firsts, top, True)
        labels = best.labels
        for rank in range(top):
            codes[rank].append(names[labels[:, rank]])
            scores[rank].append(best.probabilities[:, rank].astype(np.float64))
        nothing = labels[:, 0] < 0
        codes[0][-1][nothing], scores[0][-1][nothing] = UNDETERMINED, 0.0
        others.append(_other_fraction(labels[:, 0], of_pieces.labels, of_pieces.probabilities, end - begin, firsts))
        allowed = masks[labels[:, 0]]
        found = np.empty(len(labels))
        _count_scripts(view.data, begin, end, firsts, allowed, TABLE, found)
        scripts.append(np.where(allowed == 0, np.nan, found))
    return Languages(
        [np.concatenate(rank) for rank in codes],
        [np.concatenate(rank) for rank in scores],
        np.concatenate(others),
        np.concatenate(scripts),
    )


def _mask(language: str) -> int:
    scripts = scripts_of(language)
    return sum(1 << SCRIPTS.index(script) for script in scripts) if scripts else 0


def _other_fraction(
    labels: NDArray[np.int32],
    piece_labels: NDArray[np.int32],
    piece_scores: NDArray[np.float32],
    sizes: NDArray[np.int64],
    firsts: NDArray[np.int64],
) -> NDArray[np.float64]:
    document = np.repeat(np.arange(len(labels)), np.diff(firsts))
    other = (piece_labels[:, 0] >= 0) & (piece_labels[:, 0] != labels[document]) & (piece_scores[:, 0] >= CERTAIN)
    size = np.bincount(document, sizes, len(labels))
    return np.bincount(document, sizes * other, len(labels)) / np.maximum(size, 1)


def model_path(configured: str | None) -> Path:
    """The configured model file, or the one that the quickstart brings. Raises ValueError where it is missing."""
    if configured is not None:
        path = Path(configured).expanduser()
        if not path.is_file():
            raise ValueError(
                f"there is no language identification model at {path}; "
                "give the path of lid.176.ftz as language_model, or leave it out to use the quickstart's"
            )
        return path
    from pipeline.quickstart import lid_model_path

    return Path(lid_model_path())
