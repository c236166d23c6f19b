from __future__ import annotations

import hashlib
import json
import os
import subprocess
import sys
import unicodedata
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from tokenizers import Tokenizer

from pipeline.store import Store
from pipeline.tokens.encoding import load_encoder
from pipeline.tokens.stages import TokenizerConfig, TrainTokenizer
from pipeline.tokens.tokenizer import tokenizer_facts
from pipeline.tokens.wordpiece import WORDPIECE_SPECIAL_TOKENS, train_wordpiece
from pipeline.tokens.wordpiece_encoding import WordPiece
from tests.pipeline.tokens.corpus import committed_documents, make_documents
from tests.pipeline.tokens.test_stages import tokenize, train

TRAIN_AND_PRINT_DIGEST = """
import hashlib
from pipeline.tokens.wordpiece import train_wordpiece
from tests.pipeline.tokens.corpus import make_documents
data, _ = train_wordpiece((d["text"] for d in make_documents(100)), 700)
print(hashlib.sha256(data).hexdigest())
"""


@pytest.fixture(scope="module")
def texts() -> list[str]:
    return [document["text"] for document in make_documents(100)]


@pytest.fixture(scope="module")
def trained(texts: list[str]) -> bytes:
    return train_wordpiece(texts, 700)[0]


def test_the_bytes_do_not_depend_on_threads_or_hash_seed_or_order(texts: list[str]) -> None:
    here, facts = train_wordpiece(reversed(texts), 700)
    environment = {**os.environ, "PYTHONHASHSEED": "2", "RAYON_NUM_THREADS": "4"}
    environment["PYTHONPATH"] = str(Path(__file__).parents[3])
    done = subprocess.run(
        [sys.executable, "-c", TRAIN_AND_PRINT_DIGEST], env=environment, capture_output=True, text=True, check=True
    )
    assert done.stdout.strip() == hashlib.sha256(here).hexdigest() == facts.sha256


def test_special_tokens_have_the_ids_of_the_other_tokenizer_and_unk_the_next(trained: bytes) -> None:
    facts = tokenizer_facts(trained)
    assert list(facts.special_tokens.items()) == [(token, i) for i, token in enumerate(WORDPIECE_SPECIAL_TOKENS)]
    assert (facts.vocabulary_size, facts.end_of_text_id, facts.special_tokens["<|unk|>"]) == (700, 0, 5)
    vocabulary = json.loads(trained)["model"]["vocab"]
    assert sorted(vocabulary.values()) == list(range(700))


def test_the_ids_are_those_of_bert(texts: list[str], trained: bytes) -> None:
    transformers = pytest.importorskip("transformers")
    vocabulary = json.loads(trained)["model"]["vocab"]
    names = {"unk_token": "<|unk|>", "sep_token": "<|sep|>", "pad_token": "<|pad|>", "cls_token": "<|cls|>"}
    bert = transformers.BertTokenizerFast(vocab=vocabulary, do_lower_case=True, mask_token="<|mask|>", **names)
    encoder = load_encoder(trained).encoder
    some = [text.replace("<|endoftext|>", "") for text in texts] + ["Naïve CAFÉ, don't! 中文字 x\u00ady \u0000 z\ufffd"]
    encoded = encoder.encode(pa.array(some, pa.large_string()))
    for i, text in enumerate(some):
        assert encoded.ids[encoded.offsets[i] : encoded.offsets[i + 1]].tolist() == bert.encode(
            text, add_special_tokens=False
        )
    decoded = Tokenizer.from_str(trained.decode()).decode(encoded.ids[: encoded.offsets[1]].tolist())
    assert decoded == bert.decode(encoded.ids[: encoded.offsets[1]].tolist(), clean_up_tokenization_spaces=True)


def plain_ids(text: str, vocabulary: dict[str, int]) -> list[int]:
    """WordPiece as in BERT's tokenization.py: clean, split, then the longest match first."""
    cleaned = ""
    for char in text:
        if char in "\t\n\r" or unicodedata.category(char) == "Zs":
            cleaned += " "
        elif not (char in "\0\ufffd" or unicodedata.category(char)[0] == "C"):
            cleaned += f" {char} " if 0x4E00 <= ord(char) <= 0x9FFF else char
    folded = "".join(c for c in unicodedata.normalize("NFD", cleaned) if unicodedata.category(c) != "Mn").lower()
    spaced = "".join(f" {c} " if unicodedata.category(c)[0] == "P" or c in "$+<=>^`|~" else c for c in folded)
    ids: list[int] = []
    for word in spaced.split():
        found, at = [], 0
        while at < len(word):
            ends = [e for e in range(at + 1, len(word) + 1) if "##" * (at > 0) + word[at:e] in vocabulary]
            if not ends or len(word) > 100:
                found = [vocabulary["<|unk|>"]]
                break
            found.append(vocabulary["##" * (at > 0) + word[at : ends[-1]]])
            at = ends[-1]
        ids += found
    return ids


@settings(max_examples=150, deadline=None)
@given(
    st.one_of(
        st.text(st.sampled_from("aZéßıÀ的一是語हि5 \t\n\u00a0'’.,$|~_<>\u0301\u200d\u00ad🙂абвА"), max_size=60),
        st.lists(st.sampled_from(["<|endoftext|>", "<|unk|>", "##a", "x" * 101, "abc", " "]), max_size=8).map("".join),
    )
)
def test_the_ids_are_those_of_plain_wordpiece(trained: bytes, text: str) -> None:
    encoded = load_encoder(trained).encoder.encode(pa.array([text], pa.large_string()))
    assert encoded.ids.tolist() == plain_ids(text, json.loads(trained)["model"]["vocab"])


@settings(max_examples=200, deadline=None)
@given(
    texts=st.lists(
        st.one_of(
            st.text(max_size=30),
            st.text(
                st.sampled_from("aé한글각\u1100\u302e\u302a\U0001d165\u0344कि\u0378\U0003ffff ß字.İ\u0301"), max_size=12
            ),
        ),
        max_size=4,
    )
)
def test_ids_and_bytes_are_those_of_tokenizers(trained: bytes, texts: list[str]) -> None:
    pieces = WordPiece(trained).encode(pa.array(["before", *texts, None], pa.large_string())[1:])
    reference = Tokenizer.from_str(trained.decode())
    reference.encode_special_tokens = True
    assert pieces.offsets[-2] == pieces.offsets[-1] == len(pieces.ids)
    for i, text in enumerate(texts):
        mine = slice(pieces.offsets[i], pieces.offsets[i + 1])
        expected = reference.encode(text, add_special_tokens=False)
        assert pieces.ids[mine].tolist() == expected.ids
        for start, end, (first, last) in zip(pieces.starts[mine], pieces.ends[mine], expected.offsets, strict=True):
            assert start == len(text[:first].encode())
            assert end == len(text[:last].encode())


def test_marks_that_change_places_are_those_of_tokenizers() -> None:
    text = "a\u302e\U0001d165b"  # in canonical order the second mark comes before the first
    data, _ = train_wordpiece([f"{text} a \u302e \U0001d165 b"] * 3, 300, minimum_frequency=9)
    reference = Tokenizer.from_str(data.decode()).encode(text, add_special_tokens=False)
    assert WordPiece(data).encode(pa.array([text])).ids.tolist() == reference.ids
    assert reference.tokens == ["a", "##\U0001d165", "##\u302e", "##b"]


def test_gigatoken_is_not_asked_and_not_missed(trained: bytes) -> None:
    assert load_encoder(trained).fallback_reason is None


def test_case_and_accents_stay_where_they_are_wanted() -> None:
    kept, folded = (train_wordpiece(["Éa Éa Zo Zo"], 300, lowercase)[0] for lowercase in (False, True))
    assert "Éa" in json.loads(kept)["model"]["vocab"]
    assert {"ea", "zo"} <= {*json.loads(folded)["model"]["vocab"]}


def test_the_alphabet_leaves_half_of_the_vocabulary_to_words() -> None:
    rare = "".join(map(chr, range(0x4E00, 0x4E00 + 400)))
    data, facts = train_wordpiece([rare, "word word sword sword 中中中"], 300)
    vocabulary = json.loads(data)["model"]["vocab"]
    assert facts.vocabulary_size <= 300
    assert len([token for token in vocabulary if len(token.removeprefix("##")) == 1]) <= (300 - 6) // 2
    assert {"中", "word", "sword"} <= {*vocabulary}


def test_no_text_is_refused() -> None:
    for empty in ([], [" \n"]):
        with pytest.raises(ValueError, match="no text to train a tokenizer on"):
            train_wordpiece(empty, 300)


def test_stages_of_a_wordpiece_tokenizer(tmp_path: Path) -> None:
    documents: list[dict[str, Any]] = make_documents(60)
    store = Store.at(tmp_path)
    given = committed_documents(store, documents)
    config = TokenizerConfig(model="wordpiece", vocabulary_size=500, validation_fraction=0.2)
    tokenizer = train(store, given, config)
    tokenized = tokenize(store, given, tokenizer)
    assert tokenized.manifest["summary"]["tokenizer"]["special_tokens"]["<|unk|>"] == 5
    assert tokenized.manifest["summary"]["warnings"] == []
    reference = Tokenizer.from_file(tokenizer.files("tokenizer")[0].path)
    reference.encode_special_tokens = True
    texts = {document["id"]: document["text"] for document in documents}
    shards = {file.path: np.fromfile(file.path, "<u2") for file in tokenized.files("tokens")}
    for row in tokenized.files("index")[0].table().to_pylist():
        shard = shards[f"{tokenized.path}/{row['shard']}"]
        ids = shard[row["offset"] : row["offset"] + row["tokens"]]
        assert ids.tolist() == [*reference.encode(texts[row["id"]]).ids, 0]


def test_what_a_model_has_no_use_for_changes_nothing() -> None:
    def identity(**settings: Any) -> Any:
        return TrainTokenizer(TokenizerConfig(**settings), {}).identity()

    assert identity(lowercase=False) == identity()
    assert {*identity()} == {*TokenizerConfig.model_fields} - {"model", "lowercase"}  # as before there were others
    assert identity(model="wordpiece", pattern="gpt2") == identity(model="wordpiece")
    assert identity(model="wordpiece", lowercase=False) != identity(model="wordpiece") != identity()
