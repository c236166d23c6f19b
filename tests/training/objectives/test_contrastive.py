"""Contrastive losses against sentences encoded one by one, measures by hand, the queue against a deque."""

from __future__ import annotations

import json
from collections import deque
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from tests.training.small_models import tiny_tokenizer
from training.config import ContrastiveConfig, ModelConfig, ObjectiveConfig, SpecialTokens, expand_preset
from training.models.transformer import Transformer
from training.objectives.contrastive import ContrastiveObjective
from training.objectives.examples import HELD_OUT, Examples, read_examples
from training.objectives.objective import Batch, Setting
from training.objectives.queue import VectorQueue
from training.rows import SENTENCE, WORD, Stretch

VOCABULARY, LENGTH, TEMPERATURE = 80, 48, 0.2
SPECIAL = SpecialTokens(padding=0, mask=4, first=2, separator=3)
SETTING = Setting(VOCABULARY, end_of_text=1, special_tokens=SPECIAL, seed=7)


@pytest.fixture(autouse=True)
def one_thread() -> Iterator[None]:
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)


def small_model(dropout: float = 0.0, vocabulary: int = VOCABULARY, pooler: bool = True, seed: int = 0) -> Transformer:
    """Random weights with a spread that keeps the vectors of sentences apart."""
    preset = {"preset": "bert-tiny", "width": 32, "heads": 2, "layers": 2, "context_length": 128, "pooler": pooler}
    preset |= {"dropout": dropout, "attention_dropout": dropout, "sentence_classes": 0}
    torch.manual_seed(seed)
    model = Transformer(ModelConfig(**expand_preset(preset)), vocabulary)
    with torch.no_grad():
        for parameter in model.parameters():
            if parameter.ndim == 2:
                parameter.normal_(std=parameter.shape[1] ** -0.5)
    return model


def objective(setting: Setting = SETTING, **fields: Any) -> ContrastiveObjective:
    config = ContrastiveConfig(**{"temperature": TEMPERATURE, "sentence_length": 12, **fields})
    return ContrastiveObjective(ObjectiveConfig(name="contrastive", contrastive=config), setting)


def text_rows(task: ContrastiveObjective, count: int = 3, seed: int = 0, empty: bool = False) -> Batch:
    """Rows of random sentences, as the loader makes them; with `empty` one more of padding alone."""
    generator = np.random.default_rng(seed)
    form = task.form(LENGTH)
    stretches = []
    for row in range(count):
        marks = np.where(generator.random(form.reads) < 0.15, WORD | SENTENCE, WORD).astype(np.uint8)
        stretches.append(Stretch(generator.integers(5, VOCABULARY, form.reads), marks, 1000 * row, 0))
    if empty:
        stretches.append(Stretch(np.full(form.reads, -1), np.zeros(form.reads, np.uint8), 0, 0))
    return {name: torch.from_numpy(array) for name, array in form.rows(stretches, []).items()}


def write_examples(path: Path, count: int, negatives: bool = True) -> Path:
    words = "man woman child book door house night river stone bread".split()
    with path.open("w") as file:
        for index in range(count):
            said = [f"the {words[index % 10]} {words[index // 10 % 10]} {ending}" for ending in ("saw", "sees", "no")]
            row = {"anchor": said[0], "positive": said[1]}
            if negatives and index % 3:
                row["negative"] = said[2]
            file.write(json.dumps(row) + "\n")
    return path


@pytest.fixture
def example_setting(tmp_path: Path) -> tuple[Setting, str]:
    tokenizer = tiny_tokenizer()
    tokenizer.save(str(tmp_path / "tokenizer.json"))
    special = SpecialTokens(padding=1, mask=4, first=2, separator=3)
    size = tokenizer.get_vocab_size()
    setting = Setting(size, 0, special, 7, tokenizer_path=str(tmp_path / "tokenizer.json"))
    return setting, str(write_examples(tmp_path / "pairs.jsonl", 60))


def example_rows(task: ContrastiveObjective, numbers: list[int], length: int = 128) -> Batch:
    form = task.form(length)
    stretches = [Stretch(np.ones(1, dtype=np.int64), None, 0, 0, number) for number in numbers]
    return {name: torch.from_numpy(array) for name, array in form.rows(stretches, []).items()}


def sentences(batch: Batch) -> list[list[tuple[int, Tensor]]]:
    """The ids of each row's sentences with their numbers, read off the documents."""
    found = []
    for ids, documents in zip(batch["inputs"], batch["documents"], strict=True):
        numbers = sorted(set(documents.tolist()) - {0})
        found.append([(number - 1, ids[documents == number]) for number in numbers])
    return found


def encoded(model: Transformer, ids: Tensor, pooling: str = "first") -> Tensor:
    """The unit vector of one sentence by itself."""
    hidden = model.hidden(ids[None])[0]
    vector = hidden.mean(0) if pooling == "mean" else hidden[0]
    if model.pooler is not None and pooling == "first":
        vector = torch.tanh(model.pooler(vector))
    return vector / vector.norm()


def losses_by_hand(anchors: list[Tensor], positives: list[Tensor], others: list[Tensor]) -> Tensor:
    """Equations 1 and 5, one anchor after another."""
    losses = []
    for anchor, positive in zip(anchors, positives, strict=True):
        scores = [torch.exp(anchor @ other / TEMPERATURE) for other in (*positives, *others)]
        losses.append(-torch.log(torch.exp(anchor @ positive / TEMPERATURE) / torch.stack(scores).sum()))
    return torch.stack(losses)


@pytest.mark.parametrize("pooling", ["first", "mean"])
def test_loss_of_views_by_dropout_off(pooling: str) -> None:
    model, task = small_model().train(), objective(pooling=pooling)
    batch = task.prepare(text_rows(task, empty=True))
    first, second = task._views(model, batch)
    torch.testing.assert_close(first, second)
    vectors = [encoded(model, ids, pooling) for row in sentences(batch) for _, ids in row]
    assert len(vectors) == int(batch["present"].sum()) > 8
    loss = task.loss(model, batch)
    wanted = losses_by_hand(vectors, vectors, []).mean()
    torch.testing.assert_close(loss, wanted, rtol=1e-5, atol=1e-6)
    names, weights = zip(
        *((n, p) for n, p in model.named_parameters() if "blocks" in n or "embedding" in n), strict=True
    )
    found = torch.autograd.grad(loss, weights)
    expected = torch.autograd.grad(wanted, weights)
    for name, ours, theirs in zip(names, found, expected, strict=True):
        torch.testing.assert_close(ours, theirs, rtol=1e-3, atol=1e-5, msg=lambda text, name=name: f"{name}: {text}")


def test_views_differ_by_dropout() -> None:
    model, task = small_model(dropout=0.1).train(), objective()
    batch = task.prepare(text_rows(task))
    first, second = task._views(model, batch)
    present = batch["present"][:, :, 0]
    assert (first - second)[present].abs().amax(-1).min() > 1e-3
    model.eval()
    first, second = task._views(model, batch)
    assert first.equal(second)


def test_micro_batches_divide_by_their_share_of_the_batch() -> None:
    model, task = small_model(), objective()
    batch = task.prepare(text_rows(task, 4))
    halves = [{name: x[i : i + 2] for name, x in batch.items()} for i in (0, 2)]
    total = int(batch["present"].sum())
    for half in halves:
        vectors = [encoded(model, ids) for row in sentences(half) for _, ids in row]
        wanted = losses_by_hand(vectors, vectors, []).sum() / (total / 2)
        torch.testing.assert_close(task.loss(model, half), wanted, rtol=1e-5, atol=1e-6)


def test_loss_of_examples(example_setting: tuple[Setting, str]) -> None:
    setting, path = example_setting
    model, task = small_model(vocabulary=setting.vocabulary_size), objective(setting, examples=path)
    batch = task.prepare(example_rows(task, [0, 1, 2]))
    kinds: list[list[Tensor]] = [[], [], []]
    for row in sentences(batch):
        for number, ids in row:
            assert ids[0] == 2
            assert ids[-1] == 3
            kinds[number % 3].append(encoded(model, ids))
    anchors, positives, negatives = kinds
    assert len(anchors) == len(positives) > len(negatives) > 0
    torch.testing.assert_close(
        task.loss(model, batch), losses_by_hand(anchors, positives, negatives).mean(), rtol=1e-5, atol=1e-6
    )
    flops = model.flops_per_token(128, predicted=0.0)
    assert task.flops_per_token(model, 128) == flops
    assert objective().flops_per_token(model, 128) == 2 * flops


def test_a_pass_takes_each_example_once(example_setting: tuple[Setting, str]) -> None:
    setting, path = example_setting
    table = read_examples(path, str(setting.tokenizer_path), 12, 2, 3)
    form = Examples(128, table, padding=1, seed=3)

    def taken(numbers: range, prefix: str = "") -> list[bytes]:
        stretches = [Stretch(np.ones(1, dtype=np.int64), None, 0, 0, number) for number in numbers]
        rows = form.rows(stretches, [])
        size = table.ids_EKL.shape[2]
        texts = []
        for tokens, firsts in zip(rows[f"{prefix}tokens"], rows[f"{prefix}firsts"], strict=True):
            texts += [tokens[place : place + size].tobytes() for place in firsts[:, 0]]
        return texts

    per_row = 128 // (3 * table.ids_EKL.shape[2])
    passes = 59 // per_row  # 60 examples, one held out
    once = taken(range(passes))
    assert len(set(once)) == len(once) == passes * per_row
    again = taken(range(passes, 2 * passes))
    assert set(once) != set(again) or once != again
    assert taken(range(3, 5)) == once[3 * per_row : 5 * per_row]
    held = {text for text in taken(range(4), HELD_OUT) if text != np.full(table.ids_EKL.shape[2], 1).tobytes()}
    assert len(held) == 1
    assert not held & {*once, *again}
    empty = form.rows([Stretch(np.full(1, -1), None, 0, 0)], [])
    assert not empty["documents"].any()
    assert not empty[f"{HELD_OUT}documents"].any()


@pytest.mark.parametrize(
    ("line", "message"),
    [
        ('{"anchor": "a"}', "line 2: must be an object of texts"),
        ('{"anchor": "a", "positive": "b", "negative": 3}', "line 2: must be an object of texts"),
        ("[]", "line 2: must be an object of texts"),
        ("{", "line 2: not valid JSON"),
    ],
)
def test_a_broken_example_is_named(
    example_setting: tuple[Setting, str], tmp_path: Path, line: str, message: str
) -> None:
    path = tmp_path / "broken.jsonl"
    path.write_text('{"anchor": "a", "positive": "b"}\n' + line + "\n")
    with pytest.raises(ValueError, match=message):
        read_examples(str(path), str(example_setting[0].tokenizer_path), 12, 2, 3)


def test_what_examples_need(example_setting: tuple[Setting, str], tmp_path: Path) -> None:
    setting, path = example_setting
    with pytest.raises(ValueError, match="has no room for two examples"):
        objective(setting, examples=path).form(32)
    with pytest.raises(ValueError, match="tokenizer_path"):
        objective(examples=path).form(128)
    with pytest.raises(ValueError, match=r"none\.jsonl: cannot be read"):
        objective(setting, examples=str(tmp_path / "none.jsonl")).form(128)
    few = write_examples(tmp_path / "few.jsonl", 2)
    with pytest.raises(ValueError, match="holds 2 examples"):
        objective(setting, examples=str(few)).form(128)


def test_measures_of_examples(example_setting: tuple[Setting, str]) -> None:
    setting, _ = example_setting
    path = write_examples(Path(str(setting.tokenizer_path)).parent / "many.jsonl", 300)
    model = small_model(vocabulary=setting.vocabulary_size, dropout=0.1).eval()
    task = objective(setting, examples=str(path))
    batch = task.prepare(example_rows(task, [0, 1]), training=False)
    measures = task.evaluate(model, batch)
    for row, found in enumerate(sentences(batch)):
        by_kind = [[ids for number, ids in found if number % 3 == kind] for kind in range(3)]
        anchors, positives, negatives = ([encoded(model, ids) for ids in kind] for kind in by_kind)
        count = len(anchors)
        assert count == len(positives) > 1
        wanted = losses_by_hand(anchors, positives, negatives)
        assert float(measures["loss"][0][row]) == pytest.approx(float(wanted.detach().sum()), rel=1e-4)
        right = sum(
            int(torch.stack([anchor @ other for other in (*positives, *negatives)]).argmax() == index)
            for index, anchor in enumerate(anchors)
        )
        assert float(measures["contrastive_accuracy"][0][row]) == right
        plain = [[model.hidden(ids[None])[0, 0].detach().numpy() for ids in kind] for kind in by_kind[:2]]
        a, b = (np.stack([vector / np.linalg.norm(vector) for vector in kind]) for kind in plain)
        assert float(measures["alignment"][0][row]) == pytest.approx(float(np.square(a - b).sum()), rel=1e-3)
        pairs = [np.exp(-2 * np.square(a[i] - a[j]).sum()) for i in range(count) for j in range(i)]
        assert float(measures["uniformity"][0][row]) == pytest.approx(np.log(np.mean(pairs)), rel=1e-3)
        assert [int(counts[row]) for _, counts in measures.values()] == [count, count, count, 1]


def test_measures_of_text_are_the_same_each_time_and_leave_the_random_state() -> None:
    model, task = small_model(dropout=0.1).eval(), objective()
    batch = task.prepare(text_rows(task, empty=True), training=False)
    torch.manual_seed(5)
    state = torch.get_rng_state()
    once = task.evaluate(model, batch)
    assert torch.get_rng_state().equal(state)
    torch.manual_seed(6)
    again = task.evaluate(model, batch)
    assert not model.training
    for name, (total, count) in once.items():
        assert total.dtype == torch.float64
        assert total.isfinite().all()
        assert total.equal(again[name][0])
        assert int(count[-1]) == 0 == float(total[-1])
    assert (once["alignment"][0][:-1] > 0).all()
    still = objective().evaluate(small_model(dropout=0.0).eval(), batch)
    assert still["alignment"][0].abs().max() < 1e-9
    assert still["contrastive_accuracy"][0].equal(still["contrastive_accuracy"][1].double())


@settings(max_examples=50, deadline=None)
@given(
    size=st.integers(1, 6),
    batches=st.lists(st.lists(st.booleans(), min_size=1, max_size=9), min_size=1, max_size=5),
)
def test_queue_keeps_the_last_vectors(size: int, batches: list[list[bool]]) -> None:
    queue, wanted, number = VectorQueue(size, 2, torch.device("cpu")), deque[float](maxlen=size), 0
    for batch in batches:
        values = torch.arange(number, number + len(batch)).float()
        number += len(batch)
        queue.put(values[:, None].expand(-1, 2), torch.tensor(batch))
        wanted.extend(value for value, kept in zip(values.tolist(), batch, strict=True) if kept)
        assert sorted(queue.vectors[queue.filled][:, 0].tolist()) == sorted(wanted)
    copy = VectorQueue(size, 2, torch.device("cpu"))
    copy.load_state_tensors({name: tensor.clone() for name, tensor in queue.state_tensors().items()})
    assert copy.vectors.equal(queue.vectors)
    assert copy.filled.equal(queue.filled)


def test_queue_holds_the_averages_vectors_of_earlier_batches() -> None:
    model, task = small_model(dropout=0.1).train(), objective(queue=64, momentum=0.9)
    average = {name: parameter.detach().clone() for name, parameter in model.named_parameters()}
    keys: list[Tensor] = []
    for step in range(3):
        batch = task.prepare(text_rows(task, seed=step))
        model.eval()  # views without dropout, for the sum by hand
        vectors = [encoded(model, ids) for row in sentences(batch) for _, ids in row]
        wanted = losses_by_hand(vectors, vectors, keys).mean()
        torch.testing.assert_close(task.loss(model, batch), wanted, rtol=1e-5, atol=1e-6)
        model.train()
        with torch.no_grad():
            for parameter in model.parameters():
                parameter += 0.05 * torch.randn_like(parameter)
        weights = {name: parameter.detach().clone() for name, parameter in model.named_parameters()}
        task.prepare(text_rows(task, seed=99), training=False)  # validation in between is not queued
        task.after_step(model)
        assert model.training
        assert all(parameter.equal(weights[name]) for name, parameter in model.named_parameters())
        other = small_model()
        average = {name: 0.9 * average[name] + 0.1 * weights[name] for name in weights}
        other.load_state_dict(average, strict=False)
        other.eval()
        with torch.no_grad():
            keys += [encoded(other, ids) for row in sentences(batch) for _, ids in row]
    assert len(keys) < 64


def test_queue_survives_a_resume() -> None:
    def run(model: Transformer, task: ContrastiveObjective, steps: range) -> list[float]:
        losses = []
        for step in steps:
            torch.manual_seed(step)
            loss = task.loss(model, task.prepare(text_rows(task, 2, seed=step)))
            model.zero_grad()
            loss.backward()
            with torch.no_grad():
                for parameter in model.parameters():
                    if parameter.grad is not None:
                        parameter -= 0.1 * parameter.grad
            task.after_step(model)
            losses.append(float(loss.detach()))
        return losses

    model, task = small_model(dropout=0.1).train(), objective(queue=16)
    run(model, task, range(3))
    weights = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    state = {name: tensor.clone() for name, tensor in task.state_tensors().items()}
    going_on = run(model, task, range(3, 6))

    resumed, fresh = small_model(dropout=0.1, seed=1).train(), objective(queue=16)
    resumed.load_state_dict(weights)
    fresh.load_state_tensors(state)
    assert run(resumed, fresh, range(3, 6)) == going_on
    assert all(fresh.state_tensors()[name].equal(tensor) for name, tensor in task.state_tensors().items())

    forgetful = small_model(dropout=0.1).train()
    forgetful.load_state_dict(weights)
    assert run(forgetful, objective(queue=16), range(3, 6)) != going_on
    other = objective(queue=8)
    other.load_state_tensors(state)
    batch = other.prepare(text_rows(other))
    with pytest.raises(ValueError, match="queue 'vectors' has shape"):
        other.loss(resumed, batch)


def test_special_tokens_are_needed() -> None:
    with pytest.raises(ValueError, match=r"special_tokens\.first"):
        objective(Setting(VOCABULARY, 1, SpecialTokens(padding=0, separator=3)))
