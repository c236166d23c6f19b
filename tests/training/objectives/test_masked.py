"""The masked loss against transformers, against its parts, and against a text that is to be learnt by heart."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from torch import Tensor
from transformers import BertConfig, BertForPreTraining

from tests.training.huggingface.parity import LOSS, compare_gradients, imported, randomize
from training import optimizers
from training.config import MaskingConfig, ModelConfig, ObjectiveConfig, OptimizerConfig, SpecialTokens, expand_preset
from training.loader import as_tensors
from training.models import build
from training.objectives.cross_entropy import IGNORED
from training.objectives.masked import MaskedObjective
from training.objectives.objective import Batch, Setting
from training.rows import SENTENCE, WORD, Packed, Stretch

END, SPECIAL = 1, SpecialTokens(padding=0, mask=4, first=2, separator=3)
ORDINARY = 5
"""The first id that is not special."""
PAIRS = ObjectiveConfig("masked", sentence_task="next_sentence", sentence_weight=0.5)
TEXT = ObjectiveConfig("masked", masking=MaskingConfig(rate=0.3))
WITHOUT_DROPOUT = {"dropout": 0.0, "attention_dropout": 0.0}
BERT = expand_preset({"preset": "bert-tiny", "width": 32, "context_length": 64, **WITHOUT_DROPOUT})


@pytest.fixture(autouse=True)
def one_thread() -> Iterator[None]:
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)


def corpus(documents: int = 12, sentences: int = 8, words: int = 10) -> tuple[np.ndarray, np.ndarray]:
    """Tokens and marks of documents, each of which has ten words of its own, in sentences that a full stop ends."""
    generator = np.random.default_rng(3)
    full_stop = ORDINARY
    tokens, marks = [], []
    for document in range(documents):
        own = ORDINARY + 1 + document * words + np.arange(words)
        for _ in range(sentences):
            sentence = [*generator.choice(own, size=generator.integers(4, 8)).tolist(), full_stop]
            tokens += sentence
            marks += [WORD | SENTENCE, *[WORD] * (len(sentence) - 1)]
        tokens.append(END)
        marks.append(0)
    return np.array(tokens), np.array(marks, dtype=np.uint8)


VOCABULARY = ORDINARY + 1 + 12 * 10
SETTING = Setting(VOCABULARY, END, SPECIAL, seed=5)


def make_rows(objective: MaskedObjective, count: int, length: int = 64, visit: int = 0) -> Batch:
    """Rows of the corpus as the loader would hand them over; the last is the short end of a held-out shard."""
    form = objective.form(length)
    tokens, marks = corpus()
    ring, ring_marks = np.tile(tokens, 4), np.tile(marks, 4)

    def stretch(start: int) -> Stretch:
        part = slice(start, start + form.reads)
        return Stretch(ring[part], ring_marks[part], start, visit)

    stretches = [stretch(row * form.stride) for row in range(count)]
    held = stretches[-1].tokens.copy()
    held[length // 3 :] = -1
    stretches[-1] = stretches[-1]._replace(tokens=held)
    others = [stretch(len(tokens) // 2 + row * form.stride) for row in range(count)]
    return as_tensors(form.rows(stretches, others if form.draws_others else []))


def random_model(**config: Any) -> Any:
    model = build(ModelConfig(**{**BERT, **config}), VOCABULARY)
    randomize(model)
    return model.eval()


def gradients(model: Any, loss: Tensor) -> dict[str, Tensor]:
    model.zero_grad()
    loss.backward()
    return {name: p.grad.clone() for name, p in model.named_parameters() if p.grad is not None}


def test_loss_and_gradients_are_those_of_bert_for_pretraining(tmp_path: Path) -> None:
    """On the same masked inputs, labels and segments, of sequences packed into rows and of padded ones."""
    torch.manual_seed(0)
    theirs = BertForPreTraining(
        BertConfig(
            vocab_size=VOCABULARY,
            hidden_size=32,
            num_hidden_layers=2,
            num_attention_heads=2,
            intermediate_size=128,
            max_position_embeddings=64,
        )
    ).eval()
    randomize(theirs)
    ours = imported(theirs, tmp_path)
    objective = MaskedObjective(dataclasses.replace(PAIRS, sentence_weight=1.0), SETTING)
    batch = objective.prepare(make_rows(objective, 6))
    alone = unpacked(batch)
    output = theirs(
        input_ids=alone["inputs"],
        attention_mask=(alone["documents"] > 0).long(),
        token_type_ids=alone["segments"],
        labels=labels_everywhere(alone),
        next_sentence_label=alone["labels"].flatten(),
    )
    ours.zero_grad()
    loss = objective.loss(ours, batch)
    torch.testing.assert_close(loss, output.loss, **LOSS)
    loss.backward()
    output.loss.backward()
    compare_gradients(ours, theirs, "bert")


def unpacked(batch: Batch) -> Batch:
    """The sequences of a batch, each in a row of its own with padding behind it."""
    rows: list[Batch] = []
    length = batch["inputs"].shape[1]
    for row in range(len(batch["inputs"])):
        documents = batch["documents"][row]
        for number in range(1, int(documents.max()) + 1):
            inside = (documents == number).nonzero().flatten()
            begin, end = int(inside[0]), int(inside[-1]) + 1
            padding = (0, length - (end - begin))
            positions, targets = batch["positions"][row], batch["targets"][row]
            mine = (targets != IGNORED) & (positions >= begin) & (positions < end)
            one = {
                "inputs": F.pad(batch["inputs"][row, begin:end], padding, value=0),
                "documents": F.pad(torch.ones(end - begin, dtype=torch.int64), padding),
                "positions": (positions - begin).where(mine, 0),
                "targets": targets.where(mine, IGNORED),
            }
            if "labels" in batch:
                assert int(batch["firsts"][row, number - 1]) == begin
                one |= {
                    "segments": F.pad(batch["segments"][row, begin:end], padding),
                    "firsts": torch.zeros(1, dtype=torch.int64),
                    "labels": batch["labels"][row, number - 1 : number],
                }
            rows.append(one)
    together = {name: torch.stack([row[name] for row in rows]) for name in rows[0]}
    for share, of in (("share", "targets"), ("sentence_share", "labels")):
        if of in together:
            count = (together[of] != IGNORED).sum()
            together[share] = (count / len(rows)).float().expand(len(rows))
    return together


def labels_everywhere(batch: Batch) -> Tensor:
    """Targets (B, T) at their places, IGNORED elsewhere."""
    labels = torch.full_like(batch["inputs"], IGNORED)
    for row, (positions, targets) in enumerate(zip(batch["positions"], batch["targets"], strict=True)):
        used = targets != IGNORED
        labels[row, positions[used]] = targets[used]
    return labels


@pytest.mark.parametrize("config", [PAIRS, TEXT])
def test_packed_rows_say_what_their_sequences_say_alone(config: ObjectiveConfig) -> None:
    objective = MaskedObjective(config, SETTING)
    batch = objective.prepare(make_rows(objective, 5))
    alone = unpacked(batch)
    assert len(alone["inputs"]) > len(batch["inputs"])
    model = random_model()
    ours, theirs = objective.loss(model, batch), objective.loss(model, alone)
    torch.testing.assert_close(ours, theirs, rtol=1e-6, atol=0.0)
    mine, others = gradients(model, ours), gradients(model, theirs)
    for name, gradient in mine.items():
        torch.testing.assert_close(gradient, others[name], rtol=1e-4, atol=1e-6 * float(gradient.abs().max() + 1))


@pytest.mark.parametrize("config", [PAIRS, TEXT])
@pytest.mark.parametrize("in_chunks", [True, False])
def test_the_mean_of_micro_batches_is_that_of_the_batch(config: ObjectiveConfig, in_chunks: bool) -> None:
    """Though their rows have different numbers of targets and of pairs."""
    config = dataclasses.replace(config, label_smoothing=0.1, z_loss=1e-3)
    objective = MaskedObjective(config, dataclasses.replace(SETTING, in_chunks=in_chunks))
    batch = objective.prepare(make_rows(objective, 6))
    assert len(set((batch["targets"] != IGNORED).sum(1).tolist())) > 1
    model = random_model()
    whole = objective.loss(model, batch)
    for size in (1, 2, 3):
        parts = [{name: tensor[first : first + size] for name, tensor in batch.items()} for first in range(0, 6, size)]
        mean = torch.stack([objective.loss(model, part) for part in parts]).mean()
        torch.testing.assert_close(mean, whole, rtol=2e-6, atol=0.0)
        mine, others = gradients(model, objective.loss(model, batch)), gradients(model, mean)
        for name, gradient in mine.items():
            torch.testing.assert_close(gradient, others[name], rtol=1e-4, atol=1e-6 * float(gradient.abs().max() + 1))


def test_a_batch_without_text_has_no_loss() -> None:
    objective = MaskedObjective(PAIRS, SETTING)
    rows = make_rows(objective, 2)
    rows["places"].fill_(-1)
    rows["labels"].fill_(IGNORED)
    model = random_model()
    loss = objective.loss(model, objective.prepare(rows))
    assert loss.item() == 0.0
    assert all(gradient.isfinite().all() and not gradient.any() for gradient in gradients(model, loss).values())


@torch.no_grad()
def test_measures_against_the_logits_of_all_positions() -> None:
    objective = MaskedObjective(PAIRS, SETTING)
    batch = objective.prepare(make_rows(objective, 6))
    model = random_model()
    found = objective.evaluate(model, batch)
    labels = labels_everywhere(batch)
    logits = model(batch["inputs"], batch["documents"], segments_BT=batch["segments"])
    hidden = model.hidden(batch["inputs"], batch["documents"], segments_BT=batch["segments"])
    masked_sum = sentence_sum = 0.0
    for row in range(6):
        used = labels[row] != IGNORED
        nats = F.cross_entropy(logits[row, used], labels[row, used], reduction="sum")
        hits = int((logits[row, used].argmax(1) == labels[row, used]).sum())
        sequences = int(batch["documents"][row].max())
        of_pairs = [
            (int(label), model.sentence_head(model.pooled(hidden[row, first])))
            for first, label in zip(batch["firsts"][row, :sequences], batch["labels"][row, :sequences], strict=True)
            if label != IGNORED
        ]
        pair_nats = float(sum(-scores.log_softmax(0)[label].item() for label, scores in of_pairs))
        right = sum(int(scores.argmax()) == label for label, scores in of_pairs)
        both = float(nats) + 0.5 * pair_nats / max(1, len(of_pairs)) * int(used.sum())
        for name, (total, count) in {
            "loss": (both, int(used.sum())),
            "masked_loss": (float(nats), int(used.sum())),
            "masked_accuracy": (hits, int(used.sum())),
            "sentence_loss": (pair_nats, len(of_pairs)),
            "sentence_accuracy": (right, len(of_pairs)),
        }.items():
            assert float(found[name][0][row]) == pytest.approx(total, rel=1e-5, abs=1e-6), name
            assert int(found[name][1][row]) == count, name
        masked_sum += float(nats)
        sentence_sum += pair_nats
    loss = masked_sum / int((labels != IGNORED).sum()) + 0.5 * sentence_sum / int((batch["labels"] != IGNORED).sum())
    assert float(objective.loss(model, batch)) == pytest.approx(loss, rel=1e-5)
    assert all(sums.dtype == torch.float64 and counts.dtype == torch.int64 for sums, counts in found.values())


def test_label_smoothing_and_z_loss() -> None:
    objective = MaskedObjective(dataclasses.replace(TEXT, label_smoothing=0.1, z_loss=1e-3), SETTING)
    batch = objective.prepare(make_rows(objective, 3))
    model = random_model()
    labels = labels_everywhere(batch)
    logits = model(batch["inputs"], batch["documents"])[labels != IGNORED]
    expected = F.cross_entropy(logits, labels[labels != IGNORED], label_smoothing=0.1)
    expected = expected + 1e-3 * logits.logsumexp(1).square().mean()
    torch.testing.assert_close(objective.loss(model, batch), expected, rtol=1e-5, atol=0.0)


def test_rows_are_asked_for_as_configured() -> None:
    config = dataclasses.replace(PAIRS, sentence_task="sentence_order", short_share=0.3)
    form = MaskedObjective(config, SETTING).form(96)
    assert form == Packed(96, "pairs", 2, 3, 0, END, SETTING.seed, "sentence_order", 0.3)
    assert MaskedObjective(TEXT, SETTING).form(96) == Packed(96, "text", 2, 3, 0, END, SETTING.seed)


@torch.no_grad()
def test_measures_without_a_sentence_task() -> None:
    objective = MaskedObjective(TEXT, SETTING)
    batch = objective.prepare(make_rows(objective, 3))
    assert "labels" not in batch
    model = random_model(pooler=False, sentence_classes=0)
    found = objective.evaluate(model, batch)
    assert set(found) == {"loss", "masked_accuracy"}
    loss = float(found["loss"][0].sum() / found["loss"][1].sum())
    assert loss == pytest.approx(float(objective.loss(model, batch)), rel=1e-5)


def test_attention_is_bidirectional_in_a_model_of_another_objective_too() -> None:
    """Such as that of UniLM, whose causal objectives it stands beside."""
    objective = MaskedObjective(TEXT, SETTING)
    batch = objective.prepare(make_rows(objective, 3))
    model = random_model(attention="causal")
    before = objective.evaluate(model, batch)["loss"][0]
    same = random_model(attention="bidirectional")
    same.load_state_dict(model.state_dict())
    torch.testing.assert_close(objective.evaluate(same, batch)["loss"][0], before)


def test_flops_count_the_head_where_it_is_used() -> None:
    model = random_model()
    objective = MaskedObjective(TEXT, SETTING)
    head = VOCABULARY * 32 + 32 * 32
    without = model.flops_per_token(64, predicted=0.0)
    assert objective.flops_per_token(model, 64) == without + 6 * head * 20 // 64  # ceil(0.3 * 64) of 64 positions


@pytest.mark.parametrize("missing", ["mask", "first", "separator", "padding"])
def test_a_tokenizer_without_a_special_token_is_refused(missing: str) -> None:
    special = dataclasses.replace(SPECIAL, **{missing: None})
    with pytest.raises(ValueError, match=f"special_tokens.{missing}"):
        MaskedObjective(TEXT, dataclasses.replace(SETTING, special_tokens=special))


def test_a_tiny_bert_learns_a_text_by_heart() -> None:
    """Masked accuracy above 0.98 and all pairs right, as the README of google-research/bert has it (0.985, 1.0).

    Of ten static masks of the text, with pairs of their own.
    """
    config, steps = ObjectiveConfig("masked", sentence_task="next_sentence", masking=MaskingConfig(copies=10)), 250
    objective = MaskedObjective(config, SETTING)
    batches = [objective.prepare(make_rows(objective, 10, visit=visit)) for visit in range(10)]
    torch.manual_seed(1)
    model = build(ModelConfig(**{**BERT, "width": 64}), VOCABULARY)
    optimizer = optimizers.build(OptimizerConfig("adamw", learning_rate=5e-3, beta2=0.98), model)
    for step in range(steps):
        objective.loss(model, batches[step % 10]).backward()
        optimizer.clip(1.0)
        optimizer.step(min(1.0, (step + 1) / 20, 2 * (1 - step / steps)), torch.tensor(False))
        optimizer.zero_grad()
    model.eval()
    measures = [objective.evaluate(model, batch) for batch in batches]
    found = {}
    for name in ("masked_accuracy", "sentence_accuracy"):
        sums, counts = (torch.cat([measure[name][part] for measure in measures]).sum() for part in (0, 1))
        assert counts > 150
        found[name] = float(sums / counts)
    assert found["masked_accuracy"] > 0.98
    assert found["sentence_accuracy"] == 1.0
