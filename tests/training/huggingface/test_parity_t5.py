"""Logits, loss and every gradient are those of T5ForConditionalGeneration: whole, padded and packed rows."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor
from transformers import AutoModelForSeq2SeqLM, AutoTokenizer, T5Config, T5ForConditionalGeneration

from tests.training.huggingface.parity import GRADIENT, LOGITS, LOSS, VOCABULARY, change_settings, randomize, tokens
from tests.training.small_models import tiny_tokenizer
from training.checkpoints import TrainerState, load_model, save
from training.config import ModelConfig
from training.models.encoder_decoder import EncoderDecoder
from training.models.huggingface import export, import_model
from training.models.huggingface.settings import Settings
from training.models.huggingface.t5 import T5
from training.objectives.cross_entropy import IGNORED

TINY = {"d_model": 32, "d_kv": 6, "d_ff": 56, "num_heads": 4, "num_layers": 2, "vocab_size": VOCABULARY}
TOKENS = {"pad_token_id": 1, "eos_token_id": 0, "decoder_start_token_id": 1}
# Few buckets, so that short texts reach all of them and the distances that share one.
DISTANCES = {"relative_attention_num_buckets": 8, "relative_attention_max_distance": 20}
V1_1 = {"feed_forward_proj": "gated-gelu", "tie_word_embeddings": False}
CASES: dict[str, dict[str, Any]] = {
    "1.0": {},
    "1.0-decoder-of-3": {"num_decoder_layers": 3, "d_kv": 8, "layer_norm_epsilon": 1e-3, **DISTANCES},
    "1.1": V1_1,
    "1.1-silu": {**V1_1, **DISTANCES, "feed_forward_proj": "gated-silu", "num_decoder_layers": 1},
}
OURS: dict[str, Any] = {
    "architecture": "encoder_decoder",
    "layers": 2,
    "heads": 4,
    "width": 32,
    "context_length": 48,
    "attention": "bidirectional",
    "positions": "relative",
    "mlp": "relu",
    "qk_norm": "none",
    "tied_embeddings": True,
    "dropout": 0.1,
    "attention_dropout": 0.1,
    "initialization": "t5",
}


def random_theirs(**changes: Any) -> Any:
    """A model of transformers; with scale_decoder_outputs false its head is its own, as in the published files."""
    model = T5ForConditionalGeneration(T5Config(**{**TINY, **TOKENS, **changes}))
    if not model.config.scale_decoder_outputs:
        model.lm_head.weight = torch.nn.Parameter(torch.empty(VOCABULARY, 32))
    randomize(model)
    calm_queries({name: p for name, p in model.named_parameters() if name.endswith("Attention.q.weight")}, TINY["d_kv"])
    return model.eval()


@torch.no_grad()
def calm_queries(queries: dict[str, Tensor], head_width: int) -> None:
    """Divide by sqrt(K) what T5 does not, or softmax is all but a maximum, and magnifies the last bits."""
    assert queries
    for query in queries.values():
        query *= head_width**-0.5


def imported(theirs: Any, folder: Path, **settings: Any) -> EncoderDecoder:
    theirs.save_pretrained(folder / "theirs")
    change_settings(folder / "theirs", **settings)
    ours, _ = load_model(import_model(folder / "theirs", folder / "ours"))
    assert isinstance(ours, EncoderDecoder)
    return ours.eval()


def check_gradients(ours: EncoderDecoder, theirs: Any) -> None:
    """Every gradient, both backward passes being done."""
    found = dict(theirs.named_parameters())
    mine = dict(ours.named_parameters())
    for entry in T5().counterparts(ours.config, Settings(theirs.config.to_dict()), ours.vocabulary_size):
        gradient = entry.join([found.pop(name).grad for name in entry.theirs])
        difference = (mine.pop(entry.ours).grad - gradient).abs().max() / gradient.abs().max()
        assert difference < GRADIENT, (entry.ours, float(difference))
    assert not mine
    assert not found


def compare(ours: EncoderDecoder, theirs: Any, inputs: Tensor, targets: Tensor) -> None:
    ours.zero_grad()
    theirs.zero_grad()
    output = theirs(input_ids=inputs, labels=targets, use_cache=False)
    start = theirs.config.decoder_start_token_id
    logits = ours(inputs, F.pad(targets, (1, -1), value=start))
    torch.testing.assert_close(logits, output.logits, **LOGITS)
    loss = F.cross_entropy(logits.flatten(0, 1), targets.flatten())
    torch.testing.assert_close(loss, output.loss, **LOSS)
    loss.backward()
    output.loss.backward()
    check_gradients(ours, theirs)


@pytest.mark.parametrize("changes", CASES.values(), ids=CASES)
def test_parity_t5_imported(changes: dict[str, Any], tmp_path: Path) -> None:
    theirs = random_theirs(**changes)
    ours = imported(theirs, tmp_path)
    assert ours.config.tied_embeddings == ("tie_word_embeddings" not in changes)
    compare(ours, theirs, tokens(40), tokens(30, seed=1))


def test_parity_t5_longer_than_what_is_multiplied_out(tmp_path: Path) -> None:
    theirs = random_theirs()
    ours = imported(theirs, tmp_path)
    compare(ours, theirs, tokens(300), tokens(270, seed=1))
    with torch.no_grad():
        output = theirs(input_ids=tokens(300), decoder_input_ids=tokens(270, seed=1), use_cache=False)
        torch.testing.assert_close(ours(tokens(300), tokens(270, seed=1)), output.logits, **LOGITS)


@pytest.mark.parametrize("changes", [CASES["1.0"], CASES["1.1"]], ids=["1.0", "1.1"])
def test_parity_t5_with_ragged_padding(changes: dict[str, Any], tmp_path: Path) -> None:
    theirs = random_theirs(**changes)
    ours = imported(theirs, tmp_path)
    inputs, targets = tokens(40, batch=3), tokens(30, batch=3, seed=1)
    padded = torch.arange(40) >= torch.tensor([40, 25, 7])[:, None]
    unasked = torch.arange(30) >= torch.tensor([11, 30, 3])[:, None]
    inputs, labels = inputs.masked_fill(padded, 1), targets.masked_fill(unasked, IGNORED)
    output = theirs(input_ids=inputs, attention_mask=(~padded).long(), labels=labels, use_cache=False)
    decoder_inputs = F.pad(labels.masked_fill(unasked, 1), (1, -1), value=1)
    logits = ours(inputs, decoder_inputs, (~padded).long(), (~unasked).long())
    torch.testing.assert_close(logits[~unasked], output.logits[~unasked], **LOGITS)
    loss = F.cross_entropy(logits.flatten(0, 1), labels.flatten())
    torch.testing.assert_close(loss, output.loss, **LOSS)
    loss.backward()
    output.loss.backward()
    check_gradients(ours, theirs)


@pytest.mark.parametrize("changes", [CASES["1.0"], CASES["1.1-silu"]], ids=["1.0", "1.1"])
def test_parity_t5_packed(changes: dict[str, Any], tmp_path: Path) -> None:
    """Three examples in one row are three rows of theirs; the padding behind them is finite, and has no gradient."""
    theirs = random_theirs(**changes)
    ours = imported(theirs, tmp_path)
    sizes = [(14, 9), (20, 5), (3, 12)]
    examples = [(tokens(s, 1, seed=i), tokens(t, 1, seed=9 + i)) for i, (s, t) in enumerate(sizes)]
    outputs = [theirs(input_ids=inputs, labels=labels, use_cache=False) for inputs, labels in examples]

    def packed(rows: list[Tensor], length: int) -> tuple[Tensor, Tensor]:
        ids = torch.cat([*rows, torch.ones(1, length - sum(row.shape[1] for row in rows), dtype=torch.int64)], 1)
        numbers = [torch.full_like(row, i + 1) for i, row in enumerate(rows)]
        return ids, F.pad(torch.cat(numbers, 1), (0, length - sum(row.shape[1] for row in rows)))

    inputs, documents = packed([inputs for inputs, _ in examples], 37)  # no padding on this side
    decoder_inputs, decoder_documents = packed([F.pad(t, (1, -1), value=1) for _, t in examples], 30)
    logits = ours(inputs, decoder_inputs, documents, decoder_documents)
    assert logits.isfinite().all()
    torch.testing.assert_close(logits[:, :26], torch.cat([output.logits for output in outputs], 1), **LOGITS)
    labels = torch.cat([labels for _, labels in examples], 1)
    loss = F.cross_entropy(logits[:, :26].flatten(0, 1), labels.flatten())
    total = sum(output.loss * size for output, (_, size) in zip(outputs, sizes, strict=True)) / 26
    torch.testing.assert_close(loss, total, **LOSS)
    loss.backward()
    total.backward()
    check_gradients(ours, theirs)


@pytest.mark.parametrize(
    "changes",
    [
        {},
        {"mlp": "geglu_tanh", "tied_embeddings": False, "decoder_layers": 1, "mlp_width": 40},
        {"head_width": 16, "relative_buckets": 10, "relative_distance": 30, "mlp": "swiglu"},
    ],
    ids=["1.0", "1.1", "other"],
)
def test_parity_t5_exported(changes: dict[str, Any], tmp_path: Path) -> None:
    (tmp_path / "tokenizer.json").write_text(tiny_tokenizer().to_str(), encoding="utf-8")
    ours = EncoderDecoder(ModelConfig(**{**OURS, **changes}), VOCABULARY)
    randomize(ours)
    inner = ours.config.heads * ours.config.width_of_head
    queries = {name: p[:inner] for name, p in ours.named_parameters() if name.endswith(("qkv.weight", "query.weight"))}
    calm_queries(queries, ours.config.width_of_head)
    facts = {"end_of_text": 0, "special_tokens": {"padding": 1}}
    state = TrainerState(7, {}, {}, {})
    checkpoint = save(tmp_path / "checkpoints", ours, state, facts, tmp_path / "tokenizer.json")
    folder = export(checkpoint, tmp_path / "theirs")
    theirs, info = AutoModelForSeq2SeqLM.from_pretrained(folder, output_loading_info=True)
    assert not any(info[key] for key in ("missing_keys", "unexpected_keys", "mismatched_keys"))
    assert isinstance(theirs, T5ForConditionalGeneration)
    assert (theirs.lm_head.weight is theirs.shared.weight) == ours.config.tied_embeddings
    compare(ours.eval(), theirs.eval(), tokens(48), tokens(20, seed=1))
    text = AutoTokenizer.from_pretrained(folder)("The man saw the book.")["input_ids"]
    assert text == [*tiny_tokenizer().encode("The man saw the book.").ids, 0]
    generated = theirs.generate(input_ids=torch.tensor([text]), max_new_tokens=4)
    assert generated[0, 0] == 1  # the decoder begins with what pads
    again = import_model(folder, tmp_path / "again")
    assert load_model(again)[1] == ours.config
    assert (again / "model.safetensors").read_bytes() == (checkpoint / "model.safetensors").read_bytes()


def test_a_head_that_is_not_there_is_named(tmp_path: Path) -> None:
    """Transformers 5 ties the head of a new 1.1 model, but does not scale what it reads."""
    model = T5ForConditionalGeneration(T5Config(**TINY, **TOKENS, **V1_1))
    model.save_pretrained(tmp_path / "theirs")
    with pytest.raises(ValueError, match=r"hold no lm_head\.weight"):
        import_model(tmp_path / "theirs", tmp_path / "ours")


def test_the_files_of_old_versions(tmp_path: Path) -> None:
    """They have tie_word_embeddings alone, and a table that nothing reads."""
    from safetensors.torch import load_file, save_file

    theirs = random_theirs(**V1_1)
    theirs.save_pretrained(tmp_path / "theirs")
    change_settings(tmp_path / "theirs", scale_decoder_outputs=None, tie_word_embeddings=False)
    path = tmp_path / "theirs" / "model.safetensors"
    unread = {"decoder.block.0.layer.1.EncDecAttention.relative_attention_bias.weight": torch.ones(32, 4)}
    save_file(load_file(path) | unread, path)
    ours, _ = load_model(import_model(tmp_path / "theirs", tmp_path / "ours"))
    compare(ours.eval(), theirs, tokens(40), tokens(30, seed=1))
