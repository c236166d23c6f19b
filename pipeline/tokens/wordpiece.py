"""WordPiece as BERT has it, in Hugging Face's tokenizer.json format, the same bytes for the same text."""

from __future__ import annotations

import json
from collections.abc import Iterable, Sequence
from typing import Final

import numpy as np
from numpy.typing import NDArray
from tokenizers import Tokenizer, decoders, models, normalizers, pre_tokenizers, trainers

from pipeline.tokens.tokenizer import SPECIAL_TOKENS, TokenizerFacts, no_text, tokenizer_facts

UNKNOWN: Final = "<|unk|>"
WORDPIECE_SPECIAL_TOKENS: Final = (*SPECIAL_TOKENS, UNKNOWN)
"""Those of every tokenizer, with the same ids, and the one for words that the vocabulary cannot spell, id 5."""
CONTINUING: Final = "##"
LONGEST_WORD: Final = 100  # characters; longer ones are unknown, as in BERT

_POINTS: Final = 0x110000
_BLANK, _ALONE, _LETTER, _NOT_SEEN = range(4)  # white space, punctuation, anything else


def train_wordpiece(
    texts: Iterable[str], vocabulary_size: int, lowercase: bool = True, minimum_frequency: int = 2
) -> tuple[bytes, TokenizerFacts]:
    """Train WordPiece (Wu et al., 2016, section 4.1; Devlin et al., 2019) and return tokenizer.json and its facts.

    Text is normalised as for BERT: control characters go, white space becomes spaces, each Chinese character stands
    alone and, with `lowercase`, letters lose case and accents. It is cut at white space and punctuation. Merges are by
    frequency, as Hugging Face trains WordPiece. The rarer characters have no place where the alphabet would take more
    than half of the vocabulary: words with one of them become UNKNOWN.

    The result does not depend on thread counts, hash seeds or the order of the texts. The vocabulary is smaller than
    asked for where the texts do not have that many pairs of at least `minimum_frequency`. Raises ValueError where there
    is no text.
    """
    kept = list(texts)  # read twice
    tokenizer = Tokenizer(models.WordPiece(unk_token=UNKNOWN, max_input_chars_per_word=LONGEST_WORD))  # type: ignore[call-arg]
    tokenizer.normalizer = normalizers.BertNormalizer(lowercase=lowercase)
    tokenizer.pre_tokenizer = pre_tokenizers.BertPreTokenizer()
    tokenizer.decoder = decoders.WordPiece(prefix=CONTINUING)
    symbols = _alphabet(kept, tokenizer, (vocabulary_size - len(WORDPIECE_SPECIAL_TOKENS)) // 2)
    # The trainer numbers the alphabet as its hash map has it, another time in another order, and breaks ties of merges
    # by these numbers. What is special to it gets its number first and in order.
    trainer = trainers.WordPieceTrainer(
        vocab_size=vocabulary_size,
        min_frequency=minimum_frequency,
        special_tokens=[*WORDPIECE_SPECIAL_TOKENS, *symbols],  # type: ignore[list-item]
        limit_alphabet=0,
        continuing_subword_prefix=CONTINUING,
        show_progress=False,
    )
    tokenizer.train_from_iterator(kept, trainer)
    content = json.loads(tokenizer.to_str())
    content["added_tokens"] = content["added_tokens"][: len(WORDPIECE_SPECIAL_TOKENS)]
    data = Tokenizer.from_str(json.dumps(content)).to_str().encode()
    return data, tokenizer_facts(data)


def _alphabet(texts: Sequence[str], tokenizer: Tokenizer, most: int) -> list[str]:
    """Return the commonest characters, alone and, where one stands inside of a word, with CONTINUING before it.

    Raises ValueError where the texts have no character.
    """
    first, inside = np.zeros(_POINTS, np.int64), np.zeros(_POINTS, np.int64)
    classes = np.full(_POINTS, _NOT_SEEN, np.uint8)
    for text in texts:
        points = np.frombuffer(tokenizer.normalizer.normalize_str(text).encode("utf-32-le"), "<u4")
        for point in np.unique(points[classes[points] == _NOT_SEEN]).tolist():
            classes[point] = _class_of(chr(point), tokenizer)
        kinds = classes[points]
        goes_on = kinds == _LETTER
        goes_on[:1] = False
        goes_on[1:] &= kinds[:-1] == _LETTER
        for counts, mask in ((inside, goes_on), (first, (kinds != _BLANK) & ~goes_on)):
            seen, times = np.unique(points[mask], return_counts=True)
            counts[seen] += times
    return _commonest(first, inside, most)


def _class_of(character: str, tokenizer: Tokenizer) -> int:
    """How the pre-tokeniser cuts around a character, asked of it."""
    pieces = [piece for piece, _ in tokenizer.pre_tokenizer.pre_tokenize_str(f"a{character}a")]
    return {1: _LETTER, 2: _BLANK, 3: _ALONE}[len(pieces)]


def _commonest(first: NDArray[np.int64], inside: NDArray[np.int64], most: int) -> list[str]:
    points = np.flatnonzero(first + inside)
    if len(points) == 0:
        raise no_text()
    points = points[np.lexsort((points, -(first + inside)[points]))]
    # The trainer knows an inner character by the bare one, so that each takes one place, or two.
    places = np.cumsum(1 + (inside[points] > 0))
    points = np.sort(points[: max(1, int(np.searchsorted(places, most, "right")))])
    alone = [chr(point) for point in points.tolist()]
    return [*alone, *(CONTINUING + chr(point) for point in points[inside[points] > 0].tolist())]
