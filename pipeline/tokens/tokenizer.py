"""The tokenizer: byte-level BPE in Hugging Face's tokenizer.json format, the same bytes for the same text."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterable
from dataclasses import asdict, dataclass
from typing import Any, Literal, get_args

from tokenizers import Regex, Tokenizer, decoders, models, pre_tokenizers, trainers

Pattern = Literal["gpt2", "cl100k", "qwen2", "o200k"]

PATTERNS: dict[str, str] = {
    "gpt2": r"'(?:[sdmt]|ll|ve|re)| ?\p{L}+| ?\p{N}+| ?[^\s\p{L}\p{N}]+|\s+(?!\S)|\s+",
    "cl100k": (
        r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}{1,3}| ?[^\s\p{L}\p{N}]+[\r\n]*|"
        r"\s*[\r\n]+|\s+(?!\S)|\s+"
    ),
    "qwen2": (
        r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}| ?[^\s\p{L}\p{N}]+[\r\n]*|"
        r"\s*[\r\n]+|\s+(?!\S)|\s+"
    ),
    "o200k": (
        r"[^\r\n\p{L}\p{N}]?[\p{Lu}\p{Lt}\p{Lm}\p{Lo}\p{M}]*[\p{Ll}\p{Lm}\p{Lo}\p{M}]+(?i:'s|'t|'re|'ve|'m|'ll|'d)?|"
        r"[^\r\n\p{L}\p{N}]?[\p{Lu}\p{Lt}\p{Lm}\p{Lo}\p{M}]+[\p{Ll}\p{Lm}\p{Lo}\p{M}]*(?i:'s|'t|'re|'ve|'m|'ll|'d)?|"
        r"\p{N}{1,3}| ?[^\s\p{L}\p{N}]+[\r\n/]*|\s*[\r\n]+|\s+(?!\S)|\s+"
    ),
}
"""Published pre-tokenisation expressions by name, in the spelling that gigatoken recognises: GPT-2's, GPT-4's
(tiktoken's cl100k_base), Qwen 2's (cl100k with single digits) and GPT-4o's (o200k_base, which alone of the four keeps
the combining marks of Indic and Thai script with their letters)."""
assert set(PATTERNS) == set(get_args(Pattern))

END_OF_TEXT = "<|endoftext|>"
SPECIAL_TOKENS = (END_OF_TEXT, "<|pad|>", "<|mask|>", "<|cls|>", "<|sep|>")
"""The special tokens, with the ids 0 to 4 in this order. The end-of-text token, id 0, closes every document; the others
are there for objectives that need them (masked, next-sentence), so that one tokenized corpus serves them all."""

SMALLEST_VOCABULARY = 256 + len(SPECIAL_TOKENS)


@dataclass(frozen=True)
class TokenizerFacts:
    """What a reader of token shards needs to know of the tokenizer."""

    sha256: str
    vocabulary_size: int
    end_of_text: str
    end_of_text_id: int
    special_tokens: dict[str, int]

    def as_json(self) -> dict[str, Any]:
        """Return the facts as JSON."""
        return asdict(self)


def train_tokenizer(
    texts: Iterable[str], vocabulary_size: int, pattern: Pattern, minimum_frequency: int = 2
) -> tuple[bytes, TokenizerFacts]:
    """Train byte-level BPE (Sennrich et al., 2016; on bytes as in GPT-2) and return tokenizer.json and its facts.

    No normaliser: decoding gives back the very bytes of the document. The result does not depend on thread counts, hash
    seeds or the order of the texts: the trainer breaks ties between pairs of equal count by their ids. The vocabulary
    is smaller than asked for where the texts do not have that many pairs of at least `minimum_frequency`.

    Raises ValueError where there is no text or the vocabulary has no room for the bytes and the special tokens.
    """
    if vocabulary_size < SMALLEST_VOCABULARY:
        raise ValueError(
            f"a vocabulary of {vocabulary_size} has no room for 256 bytes and {len(SPECIAL_TOKENS)} special tokens; "
            f"it needs at least {SMALLEST_VOCABULARY}"
        )
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.Sequence(
        [
            pre_tokenizers.Split(Regex(PATTERNS[pattern]), "isolated"),
            pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False),
        ]
    )
    tokenizer.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=vocabulary_size,
        min_frequency=minimum_frequency,
        special_tokens=list(SPECIAL_TOKENS),
        initial_alphabet=sorted(pre_tokenizers.ByteLevel.alphabet()),
        show_progress=False,
    )
    counted = _Counted(texts)
    tokenizer.train_from_iterator(counted, trainer)
    if counted.bytes == 0:
        raise no_text()
    data = tokenizer.to_str().encode()
    return data, tokenizer_facts(data)


def no_text() -> ValueError:
    """Return the error to raise where there is nothing to train on."""
    return ValueError("there is no text to train a tokenizer on; see `headrace funnel` for where the documents went")


def tokenizer_facts(tokenizer_json: bytes) -> TokenizerFacts:
    """Read the facts from tokenizer.json. Raises ValueError where it has no end-of-text token."""
    content = json.loads(tokenizer_json)
    special = {token["content"]: int(token["id"]) for token in content["added_tokens"] if token["special"]}
    if END_OF_TEXT not in special:
        raise ValueError(f"the tokenizer has no special token {END_OF_TEXT}; its special tokens: {sorted(special)}")
    ids = [*content["model"]["vocab"].values(), *special.values()]
    return TokenizerFacts(
        sha256=hashlib.sha256(tokenizer_json).hexdigest(),
        vocabulary_size=max(ids) + 1,
        end_of_text=END_OF_TEXT,
        end_of_text_id=special[END_OF_TEXT],
        special_tokens=dict(sorted(special.items(), key=lambda item: item[1])),
    )


class _Counted:
    """Iterate over texts and remember how many bytes went by."""

    def __init__(self, texts: Iterable[str]) -> None:
        self._texts = texts
        self.bytes = 0

    def __iter__(self) -> Any:
        for text in self._texts:
            self.bytes += len(text.encode())
            yield text
