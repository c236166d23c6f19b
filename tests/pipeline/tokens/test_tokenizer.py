from __future__ import annotations

import hashlib
import json
import os
import subprocess
import sys
from collections import Counter
from pathlib import Path

import pytest
from tokenizers import Tokenizer
from tokenizers.pre_tokenizers import ByteLevel

from pipeline.tokens.tokenizer import PATTERNS, SPECIAL_TOKENS, tokenizer_facts, train_tokenizer
from tests.pipeline.tokens.corpus import make_documents

TRAIN_AND_PRINT_DIGEST = """
import hashlib
from pipeline.tokens.tokenizer import train_tokenizer
from tests.pipeline.tokens.corpus import make_documents
data, _ = train_tokenizer((d["text"] for d in make_documents(200)), 900, "o200k")
print(hashlib.sha256(data).hexdigest())
"""


@pytest.fixture(scope="module")
def texts() -> list[str]:
    return [document["text"] for document in make_documents(200)]


def test_the_bytes_do_not_depend_on_process_threads_or_hash_seed(texts: list[str]) -> None:
    root = Path(__file__).parents[3]
    digests = set()
    for seed, threads in (("1", "1"), ("2", "4")):
        environment = {**os.environ, "PYTHONHASHSEED": seed, "RAYON_NUM_THREADS": threads, "PYTHONPATH": str(root)}
        done = subprocess.run(
            [sys.executable, "-c", TRAIN_AND_PRINT_DIGEST], env=environment, capture_output=True, text=True, check=True
        )
        digests.add(done.stdout.strip())
    here, facts = train_tokenizer(reversed(texts), 900, "o200k")  # nor on the order of the texts
    assert digests == {hashlib.sha256(here).hexdigest()} == {facts.sha256}


def plain_bpe(words: Counter[str], alphabet: list[str], merges: int, minimum: int) -> list[tuple[str, str]]:
    """BPE as in Sennrich et al. 2016, algorithm 1; of pairs of equal count the one with the lower ids."""
    ids = {symbol: i for i, symbol in enumerate(alphabet)}
    split = {word: list(word) for word in words}
    learnt = []
    for _ in range(merges):
        pairs: Counter[tuple[str, str]] = Counter()
        for word, count in words.items():
            for pair in zip(split[word], split[word][1:], strict=False):
                pairs[pair] += count
        if not pairs:
            break
        best = min(pairs, key=lambda pair: (-pairs[pair], ids[pair[0]], ids[pair[1]]))
        if pairs[best] < minimum:
            break
        learnt.append(best)
        ids.setdefault("".join(best), len(ids))
        for word, symbols in split.items():
            merged: list[str] = []
            for symbol in symbols:
                if merged and (merged[-1], symbol) == best:
                    merged[-1] += symbol
                else:
                    merged.append(symbol)
            split[word] = merged
    return learnt


def test_merges_against_plain_bpe(texts: list[str]) -> None:
    data, facts = train_tokenizer(texts[:20], 500, "gpt2")
    content = json.loads(data)
    pieces = Tokenizer.from_str(data.decode()).pre_tokenizer
    words = Counter(piece for text in texts[:20] for piece, _ in pieces.pre_tokenize_str(text))
    expected = plain_bpe(words, sorted(ByteLevel.alphabet()), 500 - 256 - len(SPECIAL_TOKENS), 2)
    assert [tuple(merge) for merge in content["model"]["merges"]] == expected
    assert facts.vocabulary_size == 500


def test_special_tokens_have_the_documented_ids(texts: list[str]) -> None:
    data, facts = train_tokenizer(texts[:20], 300, "o200k")
    assert facts.special_tokens == {
        "<|endoftext|>": 0,
        "<|pad|>": 1,
        "<|mask|>": 2,
        "<|cls|>": 3,
        "<|sep|>": 4,
    }
    assert (facts.end_of_text, facts.end_of_text_id) == ("<|endoftext|>", 0)
    assert facts == tokenizer_facts(data)
    assert Tokenizer.from_str(data.decode()).token_to_id("<|mask|>") == 2


@pytest.mark.parametrize("pattern", list(PATTERNS))
def test_decoding_gives_back_every_byte(texts: list[str], pattern: str) -> None:
    data, _ = train_tokenizer(texts, 600, pattern)  # type: ignore[arg-type]
    tokenizer = Tokenizer.from_str(data.decode())
    tokenizer.encode_special_tokens = True
    for text in [*texts[:20], "", "e\u0301 \u00e9 \ufb01 \u200d \U0001f468\u200d\U0001f469", " \r\n\x00\x7f"]:
        assert tokenizer.decode(tokenizer.encode(text).ids, skip_special_tokens=False) == text


def test_a_small_text_gives_a_smaller_vocabulary() -> None:
    _, facts = train_tokenizer(["ab ab xyz"], 1000, "o200k")
    assert facts.vocabulary_size == 256 + len(SPECIAL_TOKENS) + 1  # "ab"
    _, facts = train_tokenizer(["ab ab xyz"], 1000, "o200k", minimum_frequency=1)
    assert facts.vocabulary_size == 256 + len(SPECIAL_TOKENS) + 5  # and " ab", "xy", "xyz", " xyz"


def test_no_text_is_refused() -> None:
    with pytest.raises(ValueError, match="no text to train a tokenizer on"):
        train_tokenizer([], 300, "o200k")


def test_a_vocabulary_without_room_is_refused() -> None:
    with pytest.raises(ValueError, match="needs at least 261"):
        train_tokenizer(["text"], 260, "o200k")


def test_a_tokenizer_without_end_of_text_is_refused(texts: list[str]) -> None:
    data, _ = train_tokenizer(texts[:5], 300, "gpt2")
    content = json.loads(data)
    content["added_tokens"] = []
    with pytest.raises(ValueError, match="no special token"):
        tokenizer_facts(json.dumps(content).encode())
