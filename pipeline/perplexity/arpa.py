"""Back-off models in the ARPA text format, as KenLM's lmplz and SRILM's ngram-count write them.

Their words must be those of the scan: lower case, without punctuation, Chinese and other unspaced scripts by character.
A word that the scan normalises (`The`) stands for the normalised one (`the`): of two that become one, the likelier
n-gram counts. A word that is none to the scan, or several (`,` or `e-mail`), never occurs in a text here: its n-grams
are left out, and the probability that they hold is lost, which raises perplexities.
"""

import math
import re
from dataclasses import dataclass
from pathlib import Path
from typing import Final

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from numpy.typing import NDArray

from pipeline.perplexity.counts import BEGIN, END, SPECIAL, UNKNOWN
from pipeline.perplexity.estimation import NEVER, Estimate, Grams
from pipeline.perplexity.model import NgramModel
from pipeline.text.scan import word_hashes

LEAST: Final = -100.0
"""log10 p of <unk> in a model that lacks it, as in KenLM; no probability is below."""

_SECTION: Final = re.compile(r"\\(\d+)-grams:")
_NAMES: Final = {"<unk>": UNKNOWN, "<UNK>": UNKNOWN, "<s>": BEGIN, "</s>": END}


@dataclass(frozen=True)
class _Section:
    """The n-grams of one order as they stand in the file."""

    words: list[pa.Array]  # n arrays (n-grams,) of large_string
    log_probability: NDArray[np.float64]  # log10
    log_backoff: NDArray[np.float64]  # log10; 0 where there is none


def from_arpa(path: str | Path) -> NgramModel:
    """Read a model. Takes some ten times the memory of the file.

    Raises ValueError where the file is missing or not ARPA, or an n-gram's beginning or end is not in the model.
    """
    try:
        text = Path(path).read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        raise ValueError(f"{path} cannot be read as an ARPA file ({error}); give the path of one in UTF-8") from error
    try:
        sections = _sections(text)
        vocabulary, numbers = _vocabulary(sections[0])
        orders = _orders(sections, numbers, len(vocabulary))
    except ValueError as error:  # ArrowInvalid among them
        raise ValueError(f"{path} is not a whole ARPA model: {error}") from error
    return NgramModel.of_estimate(Estimate(vocabulary, orders, []), len(orders), 0, 0)


def _sections(text: str) -> list[_Section]:
    lines = pc.split_pattern(pa.array([text], pa.large_string()), "\n").flatten()
    lines = pc.utf8_trim_whitespace(lines)
    lines = lines.filter(pc.not_equal(lines, ""))
    heads = np.flatnonzero(pc.starts_with(lines, "\\").to_numpy(zero_copy_only=False)).tolist()
    names = [lines[head].as_py() for head in heads]
    if not names or names[0] != "\\data\\" or names[-1] != "\\end\\":
        raise ValueError("it does not begin with \\data\\ and end with \\end\\")
    found = []
    for number, (name, begin, end) in enumerate(zip(names[1:-1], heads[1:-1], heads[2:], strict=True), start=1):
        match = _SECTION.fullmatch(name)
        if match is None or int(match[1]) != number:
            raise ValueError(f"{name} stands where \\{number}-grams: should")
        found.append(_section(lines.slice(begin + 1, end - begin - 1), number))
    if not found:
        raise ValueError("it has no n-grams")
    return found


def _section(lines: pa.Array, order: int) -> _Section:
    fields = pc.split_pattern(pc.replace_substring(lines, "\t", " "), " ")
    lengths = pc.list_value_length(fields).to_numpy()
    wrong = np.flatnonzero((lengths != order + 1) & (lengths != order + 2))
    if len(wrong):
        raise ValueError(f"a {order}-gram has {lengths[wrong[0]]} fields: {lines[int(wrong[0])].as_py()[:80]!r}")
    values = fields.flatten()
    starts = np.cumsum(lengths) - lengths
    backoff = np.zeros(len(lengths))
    has_backoff = lengths == order + 2
    backoff[has_backoff] = values.take(pa.array(starts[has_backoff] + order + 1)).cast(pa.float64()).to_numpy()
    probability = values.take(pa.array(starts)).cast(pa.float64()).to_numpy()
    if np.isnan(probability).any() or np.isnan(backoff).any() or (probability > 0).any():
        raise ValueError(f"a {order}-gram has no probability: its logarithm is above 0 or not a number")
    return _Section(
        [values.take(pa.array(starts + 1 + place)) for place in range(order)],
        np.maximum(probability, LEAST),
        np.clip(backoff, LEAST, -LEAST),
    )


def _vocabulary(section: _Section) -> tuple[NDArray[np.uint64], NDArray[np.int64]]:
    """Hash of each word number, and the word number of each 1-gram, -1 for one that no text has."""
    words = section.words[0]
    offsets, hashes = word_hashes(words)
    single = np.diff(offsets) == 1
    for name in _NAMES:
        single[pc.equal(words, name).to_numpy(zero_copy_only=False)] = False
    known, inverse = np.unique(hashes[offsets[:-1][single]], return_inverse=True)
    numbers = np.full(len(words), -1)
    numbers[single] = SPECIAL + inverse
    for name, number in _NAMES.items():
        numbers[pc.equal(words, name).to_numpy(zero_copy_only=False)] = number
    missing = [name for name, number in _NAMES.items() if number not in (UNKNOWN, *numbers)]
    if missing:
        raise ValueError(f"its 1-grams lack {' and '.join(missing)}")
    return np.concatenate([np.zeros(SPECIAL, np.uint64), known]), numbers


def _orders(sections: list[_Section], numbers: NDArray[np.int64], vocabulary: int) -> list[Grams]:
    first = sections[0]
    order = np.full(vocabulary, LEAST), np.zeros(vocabulary)
    for number, probability, backoff in zip(numbers, first.log_probability, first.log_backoff, strict=True):
        if number >= 0 and probability >= order[0][number]:
            order[0][number], order[1][number] = probability, backoff
    nothing = np.zeros(vocabulary, np.int64)
    grams = _grams(nothing, np.arange(vocabulary), *order)
    grams.log_probability[BEGIN] = NEVER
    orders, keys_of = [grams], [np.arange(vocabulary)]
    for n, section in enumerate(sections[1:], start=2):
        columns = [_numbered(words, first.words[0], numbers, n) for words in section.words]
        kept = np.all([column >= 0 for column in columns], axis=0)
        columns = [column[kept] for column in columns]
        context = _seek(columns[:-1], keys_of, vocabulary, n, "beginning")
        _seek(columns[1:], keys_of, vocabulary, n, "end")
        keys = context * vocabulary + columns[-1]
        likelier = np.lexsort((-section.log_probability[kept], keys))
        keys, at = np.unique(keys[likelier], return_index=True)
        at = likelier[at]
        if len(keys) == 0:
            break
        values = section.log_probability[kept][at], section.log_backoff[kept][at]
        orders.append(_grams(keys // vocabulary, keys % vocabulary, *values))
        keys_of.append(keys)
    return orders


def _numbered(words: pa.Array, vocabulary: pa.Array, numbers: NDArray[np.int64], order: int) -> NDArray[np.int64]:
    at = pc.index_in(words, value_set=vocabulary)
    if at.null_count:
        name = words.filter(pc.is_null(at))[0].as_py()
        raise ValueError(f"a {order}-gram has the word {name!r}, which is not among the 1-grams")
    return numbers[at.to_numpy()]


def _seek(
    columns: list[NDArray[np.int64]], keys_of: list[NDArray[np.int64]], vocabulary: int, order: int, part: str
) -> NDArray[np.int64]:
    """Numbers of the n-grams of these words among those of their order."""
    found = columns[0]
    for column, keys in zip(columns[1:], keys_of[1:], strict=False):
        wanted = found * vocabulary + column
        found = np.minimum(np.searchsorted(keys, wanted), len(keys) - 1)
        if (keys[found] != wanted).any():
            raise ValueError(
                f"the {part} of a {order}-gram is not among the n-grams of order {order - 1}; "
                "prune by counts (lmplz --prune), which leaves none out"
            )
    return found


def _grams(
    context: NDArray[np.int64],
    word: NDArray[np.int64],
    log_probability: NDArray[np.float64],
    log_backoff: NDArray[np.float64],
) -> Grams:
    scale = math.log(10)
    return Grams(
        context.astype(np.int32),
        word.astype(np.int32),
        (log_probability * scale).astype(np.float32),
        (log_backoff * scale).astype(np.float32),
    )
