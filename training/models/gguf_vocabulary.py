"""A tokenizer.json as the metadata of a GGUF file, which llama.cpp tokenizes by itself from.

It knows two kinds that Headrace has: byte-level BPE ("gpt2" there), with the name of an expression that cuts a text
into words, and SentencePiece's BPE ("llama" there), whose pieces have scores.
"""

from __future__ import annotations

import itertools
from pathlib import Path
from typing import TYPE_CHECKING, Any

from training.models.huggingface.settings import read_json
from training.models.huggingface.tokenizer import SpecialTokens

if TYPE_CHECKING:
    from gguf import GGUFWriter

_CONTRACTIONS = r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|"
_BEHIND = r"| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+"
_UPPER, _LOWER = r"[\p{Lu}\p{Lt}\p{Lm}\p{Lo}\p{M}]", r"[\p{Ll}\p{Lm}\p{Lo}\p{M}]"
_WORD = r"(?i:'s|'t|'re|'ve|'m|'ll|'d)?|"
EXPRESSIONS = {
    r"'(?:[sdmt]|ll|ve|re)| ?\p{L}+| ?\p{N}+| ?[^\s\p{L}\p{N}]+|\s+(?!\S)|\s+": "gpt-2",
    r"'s|'t|'re|'ve|'m|'ll|'d| ?\p{L}+| ?\p{N}+| ?[^\s\p{L}\p{N}]+|\s+(?!\S)|\s+": "gpt-2",
    # Not llama-bpe, which looks whole words up before it merges.
    rf"{_CONTRACTIONS}\p{{N}}{{1,3}}{_BEHIND}": "dbrx",
    rf"{_CONTRACTIONS}\p{{N}}{_BEHIND}": "qwen2",
    rf"[^\r\n\p{{L}}\p{{N}}]?{_UPPER}*{_LOWER}+{_WORD}[^\r\n\p{{L}}\p{{N}}]?{_UPPER}+{_LOWER}*{_WORD}"
    r"\p{N}{1,3}| ?[^\s\p{L}\p{N}]+[\r\n/]*|\s*[\r\n]+|\s+(?!\S)|\s+": "gpt-4o",
}
"""What llama.cpp calls the published expressions: GPT-2's, GPT-4's, Qwen 2's, GPT-4o's."""
_SPACE = "\u2581"
_NORMAL, _UNKNOWN, _CONTROL, _USER, _UNUSED, _BYTE = range(1, 7)


def write_vocabulary(writer: GGUFWriter, path: Path, vocabulary_size: int, special: SpecialTokens) -> None:
    """Write the tokens, their merges or scores, and the special ones.

    Ids of the model that the tokenizer lacks become unused tokens. Raises ValueError naming what of the tokenizer
    llama.cpp would do otherwise.
    """
    document = read_json(path)
    model = document.get("model") or {}
    if model.get("type") != "BPE":
        raise ValueError(f"{path}: GGUF cannot hold a tokenizer of type {model.get('type')}; it must be BPE")
    tokens, types = _tokens(document, path, vocabulary_size)
    if model.get("byte_fallback"):
        _write_pieces(writer, document, path, tokens, types)
    else:
        _write_byte_level(writer, document, path, tokens, types)
    for name, number in (("bos", special.begin), ("eos", special.end), ("pad", special.padding)):
        if number is not None:
            getattr(writer, f"add_{name}_token_id")(number)
    writer.add_add_bos_token(special.begin is not None)
    writer.add_add_eos_token(False)


def _tokens(document: dict[str, Any], path: Path, vocabulary_size: int) -> tuple[list[str], list[int]]:
    known: dict[int, tuple[str, int]] = {}
    for token, number in document["model"]["vocab"].items():
        known[number] = (token, _NORMAL)
    for entry in document.get("added_tokens") or []:
        known[entry["id"]] = (entry["content"], _CONTROL if entry.get("special") else _USER)
    if known and max(known) >= vocabulary_size:
        raise ValueError(f"{path}: its ids go up to {max(known)}, the model has {vocabulary_size} tokens")
    filled = [known.get(number, (f"[PAD{number}]", _UNUSED)) for number in range(vocabulary_size)]
    return [token for token, _ in filled], [kind for _, kind in filled]


def _write_byte_level(
    writer: GGUFWriter, document: dict[str, Any], path: Path, tokens: list[str], types: list[int]
) -> None:
    writer.add_tokenizer_model("gpt2")
    writer.add_tokenizer_pre(_expression(document, path))
    writer.add_token_list(tokens)
    writer.add_token_types(types)
    merges = document["model"]["merges"]
    writer.add_token_merges([pair if isinstance(pair, str) else " ".join(pair) for pair in merges])


def _expression(document: dict[str, Any], path: Path) -> str:
    """The name of the expression by which a byte-level tokenizer cuts."""
    normalizer = document.get("normalizer")
    if normalizer is not None and normalizer.get("type") != "NFC":  # NFC is what llama.cpp expects of its input
        raise ValueError(f"{path}: GGUF cannot hold the normalizer {normalizer.get('type')} of a byte-level tokenizer")
    cutter = document.get("pre_tokenizer") or {}
    parts = cutter.get("pretokenizers", [cutter])
    byte_level = [part for part in parts if part.get("type") == "ByteLevel"]
    splits = [part for part in parts if part.get("type") == "Split"]
    if len(byte_level) == 1 and len(byte_level) + len(splits) == len(parts) and not byte_level[0]["add_prefix_space"]:
        if not splits and byte_level[0].get("use_regex", True):
            return "gpt-2"
        expression = splits[0]["pattern"].get("Regex") if len(splits) == 1 else None
        if expression in EXPRESSIONS and not byte_level[0].get("use_regex", True):
            return EXPRESSIONS[expression]
    raise ValueError(
        f"{path}: GGUF has no name for how this tokenizer cuts a text into words; it knows GPT-2's, GPT-4's, Qwen 2's "
        "and GPT-4o's expression"
    )


def _write_pieces(
    writer: GGUFWriter, document: dict[str, Any], path: Path, tokens: list[str], types: list[int]
) -> None:
    normalizer = document.get("normalizer") or {}
    steps = normalizer.get("normalizers", [normalizer])
    kinds = [step.get("type") for step in steps]
    if kinds not in (["Prepend", "Replace"], ["Replace"]) or document.get("pre_tokenizer") is not None:
        raise ValueError(f"{path}: GGUF cannot hold this tokenizer: it must put {_SPACE} for each space, and no more")
    scores = _scores(document, path)
    unknown = document["model"].get("unk_token")
    for number, token in enumerate(tokens):
        if token == unknown:
            types[number] = _UNKNOWN
        elif types[number] == _NORMAL and len(token) == 6 and token.startswith("<0x") and token.endswith(">"):
            types[number] = _BYTE
    writer.add_tokenizer_model("llama")
    writer.add_tokenizer_pre("default")
    writer.add_token_list(tokens)
    writer.add_token_scores([scores.get(token, 0.0) for token in tokens])
    writer.add_token_types(types)
    if unknown in tokens:
        writer.add_unk_token_id(tokens.index(unknown))
    writer.add_add_space_prefix("Prepend" in kinds)


def _scores(document: dict[str, Any], path: Path) -> dict[str, float]:
    """A score for each piece that a merge makes: the earlier the merge, the higher.

    Scores say the same as merges only where all pairs that make a piece stand together in the list, and none of them is
    missing.
    """
    vocabulary, merges = document["model"]["vocab"], document["model"]["merges"]
    pairs = [tuple(pair.split(" ", 1)) if isinstance(pair, str) else tuple(pair) for pair in merges]
    wholes = list(dict.fromkeys(first + second for first, second in pairs))
    changes = sum("".join(a) != "".join(b) for a, b in itertools.pairwise(pairs))
    listed = set(pairs)
    lacking = [
        whole
        for whole in wholes
        for cut in range(1, len(whole))
        if whole[:cut] in vocabulary and whole[cut:] in vocabulary and (whole[:cut], whole[cut:]) not in listed
    ]
    if lacking or changes != max(0, len(wholes) - 1):
        raise ValueError(f"{path}: GGUF cannot hold this tokenizer: its merges are no SentencePiece scores")
    return {whole: -float(rank) for rank, whole in enumerate(wholes)}
