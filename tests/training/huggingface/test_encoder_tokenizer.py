"""What an exported encoder's tokenizer adds around a text, and transformers' fill-mask pipeline over it."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from tokenizers import Tokenizer, models, normalizers, pre_tokenizers, processors
from transformers import AutoTokenizer, pipeline

from tests.training.huggingface.encoders import (
    FIRST,
    MASK,
    PADDING,
    SEPARATOR,
    encoder_checkpoint,
    tokenizer,
)
from tests.training.huggingface.parity import VOCABULARY
from tests.training.huggingface.test_parity_albert import OURS as ALBERT
from tests.training.huggingface.test_parity_bert import OURS as BERT
from tests.training.huggingface.test_parity_electra import GENERATOR
from tests.training.huggingface.test_parity_modernbert import OURS as MODERNBERT
from tests.training.huggingface.test_parity_roberta import OURS as ROBERTA
from training.checkpoints import TrainerState, describe, load_model, save
from training.config import ModelConfig
from training.models.huggingface import export, import_model
from training.models.transformer import Transformer

FAMILIES = {
    "bert": BERT,
    "roberta": ROBERTA,
    "albert": ALBERT,
    "electra-generator": GENERATOR,
    "modernbert": MODERNBERT,
}


@pytest.mark.parametrize("family", FAMILIES)
def test_a_text_stands_between_the_special_tokens(family: str, tmp_path: Path) -> None:
    folder = export(encoder_checkpoint(tmp_path, **FAMILIES[family]), tmp_path / "theirs", family)
    theirs, ours = AutoTokenizer.from_pretrained(folder), tokenizer()
    first, second = ours.encode("The man saw").ids, ours.encode(" 他昨天买了 👩‍👩‍👧").ids
    assert theirs("The man saw")["input_ids"] == [FIRST, *first, SEPARATOR]
    pair = theirs("The man saw", " 他昨天买了 👩‍👩‍👧")
    assert pair["input_ids"] == [FIRST, *first, SEPARATOR, *second, SEPARATOR]
    if family in ("roberta", "modernbert"):
        assert "token_type_ids" not in pair
    else:
        assert pair["token_type_ids"] == [0] * (len(first) + 2) + [1] * (len(second) + 1)
    batch = theirs(["The man saw", "The"], padding=True)
    assert batch["input_ids"][1][-1] == PADDING
    assert batch["attention_mask"][1][-1] == 0
    assert (theirs.mask_token_id, theirs.cls_token_id, theirs.sep_token_id) == (MASK, FIRST, SEPARATOR)
    assert (theirs.eos_token_id, theirs.model_max_length) == (None, 64)
    # The mask stands for a token that holds the space before it.
    assert theirs("The <|mask|> saw")["input_ids"] == [FIRST, first[0], MASK, first[2], SEPARATOR]
    config = json.loads((folder / "config.json").read_text())
    assert config["pad_token_id"] == PADDING
    assert not (folder / "generation_config.json").exists()


@pytest.mark.parametrize("family", FAMILIES)
def test_the_fill_mask_pipeline_has_our_predictions(family: str, tmp_path: Path) -> None:
    checkpoint = encoder_checkpoint(tmp_path, **FAMILIES[family])
    folder = export(checkpoint, tmp_path / "theirs", family)
    card = (folder / "README.md").read_text()
    auto, tag = ("PreTraining", "feature-extraction") if family in ("bert", "albert") else ("MaskedLM", "fill-mask")
    assert f"AutoModelFor{auto}.from_pretrained" in card
    assert f"pipeline_tag: {tag}\n" in card
    model, _ = load_model(checkpoint)
    first, middle, last = (tokenizer().encode(text).ids for text in ("The", " saw the", "."))
    ids = [FIRST, *first, MASK, *middle, MASK, *last, SEPARATOR]
    probabilities = model(torch.tensor([ids]))[0].softmax(-1)
    found = pipeline("fill-mask", model=str(folder))("The <|mask|> saw the <|mask|>.", top_k=3)
    for place, answers in zip((1 + len(first), len(ids) - 2 - len(last)), found, strict=True):
        best = probabilities[place].topk(3)
        assert [answer["token"] for answer in answers] == best.indices.tolist()
        assert [answer["score"] for answer in answers] == pytest.approx(best.values.tolist(), rel=1e-4)


def test_a_trained_bert_fills_the_gap(tmp_path: Path) -> None:
    torch.manual_seed(0)
    (tmp_path / "tokenizer.json").write_text(tokenizer().to_str())
    model = Transformer(ModelConfig(**{**BERT, "dropout": 0.0, "attention_dropout": 0.0}), VOCABULARY)
    text = torch.tensor([FIRST, *tokenizer().encode("The man saw the book.").ids, SEPARATOR])
    places = torch.arange(1, len(text) - 1)
    masked = text.repeat(len(places), 1)
    masked[torch.arange(len(places)), places] = MASK
    optimizer = torch.optim.AdamW(model.parameters(), lr=5e-3)
    for _ in range(60):
        optimizer.zero_grad()
        logits = model(masked)[torch.arange(len(places)), places]
        F.cross_entropy(logits, text[places]).backward()
        optimizer.step()
    special = {"padding": PADDING, "mask": MASK, "first": FIRST, "separator": SEPARATOR}
    facts = {"end_of_text": 0, "special_tokens": special}
    checkpoint = save(tmp_path / "run", model, TrainerState(60, {}, {}, {}), facts, tmp_path / "tokenizer.json")
    fill = pipeline("fill-mask", model=str(export(checkpoint, tmp_path / "theirs")))
    for gap, word in (("The <|mask|> saw the book.", " man"), ("The man saw the <|mask|>.", " book")):
        assert fill(gap)[0]["token_str"] == word
        assert fill(gap)[0]["score"] > 0.5


def word_piece() -> Tokenizer:
    words = ["[UNK]", "[PAD]", "[CLS]", "[SEP]", "[MASK]", "the", "man", "saw", "book", "##s", ".", "书"]
    made = Tokenizer(models.WordPiece({word: number for number, word in enumerate(words)}, unk_token="[UNK]"))
    made.normalizer = normalizers.BertNormalizer(lowercase=True)
    made.pre_tokenizer = pre_tokenizers.BertPreTokenizer()
    made.add_special_tokens(words[:5])
    return made


@pytest.mark.parametrize("with_processor", [False, True])
def test_a_word_piece_tokenizer_with_its_usual_names(with_processor: bool, tmp_path: Path) -> None:
    """The special tokens are found by name; a post-processor that is there already stays as it is."""
    made = word_piece()
    if with_processor:
        made.post_processor = processors.BertProcessing(("[SEP]", 3), ("[CLS]", 2))
    path = tmp_path / "tokenizer.json"
    path.write_text(made.to_str())
    model = Transformer(ModelConfig(**BERT), 12)
    folder = export(save(tmp_path / "run", model, TrainerState(1, {}, {}, {}), {}, path), tmp_path / "theirs")
    assert (json.loads((folder / "tokenizer.json").read_text()) == json.loads(path.read_text())) == with_processor
    theirs = AutoTokenizer.from_pretrained(folder)
    encoded = theirs("The man [MASK]", "the books. 书")
    assert encoded["input_ids"] == [2, 5, 6, 4, 3, 5, 8, 9, 10, 11, 3]
    assert encoded["token_type_ids"] == [0] * 5 + [1] * 6
    assert (theirs.pad_token_id, theirs.mask_token) == (1, "[MASK]")
    assert len(pipeline("fill-mask", model=str(folder))("The man [MASK]", top_k=12)) == 12
    # What comes back names them, by whatever name.
    facts = describe(import_model(folder, tmp_path / "again"))
    assert facts["special_tokens"] == {"padding": 1, "mask": 4, "first": 2, "separator": 3}


def test_special_tokens_of_an_import_are_those_that_its_files_name(tmp_path: Path) -> None:
    made = word_piece()
    made.add_special_tokens(["<hole>"])
    folder = export(encoder_checkpoint(tmp_path, **BERT), tmp_path / "theirs")
    (folder / "tokenizer.json").write_text(made.to_str())
    (folder / "tokenizer_config.json").write_text(json.dumps({"mask_token": {"content": "<hole>"}}))
    settings: dict[str, Any] = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps({**settings, "pad_token_id": 7}))
    facts = describe(import_model(folder, tmp_path / "again"))
    assert facts["special_tokens"] == {"padding": 7, "mask": 12, "first": 2, "separator": 3}
    (folder / "config.json").write_text(json.dumps({**settings, "pad_token_id": VOCABULARY}))
    with pytest.raises(ValueError, match=f"pad_token_id: {VOCABULARY} is no id below {VOCABULARY}"):
        import_model(folder, tmp_path / "third")


def test_without_special_tokens_none_are_added(tmp_path: Path) -> None:
    made = Tokenizer(models.WordPiece({"[UNK]": 0, "the": 1}, unk_token="[UNK]"))
    made.pre_tokenizer = pre_tokenizers.Whitespace()
    (tmp_path / "tokenizer.json").write_text(made.to_str())
    model = Transformer(ModelConfig(**BERT), 12)
    checkpoint = save(tmp_path / "run", model, TrainerState(1, {}, {}, {}), {}, tmp_path / "tokenizer.json")
    folder = export(checkpoint, tmp_path / "theirs")
    assert AutoTokenizer.from_pretrained(folder)("the the")["input_ids"] == [1, 1]
