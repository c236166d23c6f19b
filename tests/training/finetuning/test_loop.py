"""Order of the batches, resume, early stopping, learning rates by layer, weights of classes, packing."""

from __future__ import annotations

import json
from collections import Counter
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import transformers
from hypothesis import given, settings
from hypothesis import strategies as st
from safetensors.torch import load_file
from sklearn.utils.class_weight import compute_class_weight

from tests.training.evaluation.kinds import checkpoint, tokenizer_with_special_tokens
from tests.training.finetuning.tiny_tasks import finetune, one_thread, task
from tests.training.finetuning.tiny_tasks import settings as settings_of
from training.checkpoints import TrainerState, load_model, save
from training.config import ModelConfig, TrainingConfig, expand_preset, from_dict
from training.devices import resolve
from training.distributed import World
from training.finetuning import run
from training.finetuning.config import FinetuningConfig, TaskConfig
from training.finetuning.groups import build_optimizer, depth_of
from training.finetuning.judging import load_task
from training.finetuning.kinds import make
from training.finetuning.kinds.instruction import packed
from training.finetuning.kinds.kind import class_weights
from training.finetuning.network import Network
from training.finetuning.order import Order, TaskItems
from training.finetuning.sequences import Reader
from training.models import build
from training.models.huggingface import export

__all__ = ["one_thread"]


@settings(max_examples=30, deadline=None)
@given(st.lists(st.integers(1, 30), min_size=1, max_size=60), st.integers(1, 9), st.booleans(), st.integers(0, 3))
def test_each_pass_takes_every_item_once(lengths: list[int], size: int, by_length: bool, seed: int) -> None:
    order = Order([TaskItems(lengths)], size, 2.0, seed, by_length=by_length)
    assert order.steps == 2 * -(-len(lengths) // size)
    passes = [order.batch(step)[1] for step in range(order.steps)]
    for half in (passes[: order.steps_per_epoch], passes[order.steps_per_epoch :]):
        assert sorted(place for batch in half for place in batch) == list(range(len(lengths)))
    again = Order([TaskItems(lengths)], size, 2.0, seed, by_length=by_length)
    assert again.batch(order.steps - 1) == order.batch(order.steps - 1)


def test_batches_by_length_have_little_padding() -> None:
    lengths = np.random.default_rng(0).integers(1, 100, 1000).tolist()

    def padding(by_length: bool) -> float:
        order = Order([TaskItems(lengths)], 16, 1.0, 0, by_length=by_length)
        batches = [[lengths[place] for place in order.batch(step)[1]] for step in range(order.steps)]
        return sum(max(batch) * len(batch) for batch in batches) / sum(lengths)

    assert padding(True) < 1.1 < 1.5 < padding(False)


def test_tasks_are_drawn_by_size_temperature_and_weight() -> None:
    tasks = [TaskItems([1] * 8000), TaskItems([1] * 500, weight=2.0)]
    for temperature, wanted in ((1.0, 8000 / 9000), (2.0, 8000**0.5 / (8000**0.5 + 2 * 500**0.5))):
        order = Order(tasks, 4, 1.0, 0, temperature)
        assert order.shares[0] == pytest.approx(wanted)
        drawn = Counter(order.batch(step)[0] for step in range(order.steps))
        assert drawn[0] / order.steps == pytest.approx(wanted, abs=0.03)


class Killed(Exception):
    """What ends a run in the middle."""


@pytest.mark.parametrize("method", ["full", "adalora"])
def test_a_killed_run_goes_on_to_the_same_result(tmp_path: Path, method: str) -> None:
    model = checkpoint(tmp_path, "bert")
    tasks = [task(tmp_path / "data", kind, 40) for kind in ("classification", "regression")]
    further = {"adapter": {"method": method}, "checkpoint_every": 4, "log_every": 3, "epochs": 2}
    whole = finetune(model, tmp_path / "whole", *tasks, **further)
    config = settings_of(model, tmp_path / "cut", *tasks, **further)
    seen: list[str] = []

    def kill(step: int) -> Any:
        def report(event: dict[str, Any]) -> None:
            seen.append(event["event"])
            if event["event"] == "progress" and event["step"] == step:
                raise Killed

        return report

    for step in (6, 15):
        with pytest.raises(Killed):
            run(config, kill(step))
    cut = run(config, kill(-1))
    assert "resumed" in seen
    assert cut["metrics"] == whole["metrics"]
    assert cut["best"] == whole["best"]
    files = ("model.safetensors", "head.safetensors")
    for name in files:
        assert (tmp_path / "cut/model" / name).read_bytes() == (tmp_path / "whole/model" / name).read_bytes()
    journals = [(tmp_path / name / "metrics.jsonl").read_text().splitlines() for name in ("cut", "whole")]
    losses = [[json.loads(line)["metrics"].get("train/loss") for line in lines] for lines in journals]
    assert losses[0] == losses[1]
    seen.clear()
    assert run(config, kill(0))["metrics"] == whole["metrics"]
    assert not seen
    assert not list((tmp_path / "cut/state").iterdir())


def test_another_configuration_begins_anew(tmp_path: Path) -> None:
    model, one = checkpoint(tmp_path, "bert"), task(tmp_path / "data", "classification", 24)
    first = finetune(model, tmp_path / "out", one, epochs=1)
    second = finetune(model, tmp_path / "out", one, epochs=1, seed=2)
    assert first["identity"] != second["identity"]
    assert load_file(tmp_path / "out/model/head.safetensors")


def test_accumulated_parts_give_the_same_weights(tmp_path: Path) -> None:
    model = checkpoint(tmp_path, "bert")
    one = task(tmp_path / "data", "multiple_choice", 24)
    weights = []
    for name, most in (("a", 0), ("b", 4)):
        finetune(model, tmp_path / name, one, epochs=1, dropout=0.0, device_batch_size=most, learning_rate=1e-3)
        weights.append(load_file(tmp_path / name / "model/model.safetensors"))
    for name, tensor in weights[0].items():
        torch.testing.assert_close(tensor, weights[1][name], rtol=1e-3, atol=1e-4, msg=name)


def test_patience_ends_and_the_best_weights_stay(tmp_path: Path) -> None:
    model, one = checkpoint(tmp_path, "bert"), task(tmp_path / "data", "classification", 48)
    further = {"learning_rate": 0.5, "gradient_clip": 0.0, "evaluate_every": 2, "patience": 2, "epochs": 20}
    results = finetune(model, tmp_path / "out", one, **further)
    history = results["tables"]["history"]["rows"]
    scores = {step: value for step, _, _, name, value in history if name == "accuracy"}
    best = max(scores.values())
    assert results["steps"] == max(scores) < 120
    assert results["best"]["score"] == best == results["metrics"]["classification/dev/accuracy"]
    assert sum(step > results["best"]["step"] for step in scores) == 2


def network_of(folder: Path) -> Network:
    compute = resolve(TrainingConfig(device="cpu", threads=1, precision="fp32", compile="off"), World())
    network = Network(load_model(folder)[0], Reader(folder), compute, "first")
    network.add_head("t", 2, False, torch.Generator())
    return network


def test_rates_fall_from_layer_to_layer(tmp_path: Path) -> None:
    network = network_of(checkpoint(tmp_path, "bert"))
    one = {"name": "t", "kind": "classification", "train": "x"}
    plain = {"tasks": [one], "learning_rate": 1.0, "head_learning_rate": 3.0, "layer_decay": 0.5, "weight_decay": 0.1}
    optimizer = build_optimizer(from_dict(FinetuningConfig, plain), network)
    groups = [group for part in optimizer._parts for group in part.param_groups]
    found = {id(parameter): (group["lr"], group["weight_decay"]) for group in groups for parameter in group["params"]}
    layers = network.model.config.layers
    named = dict(network.named_parameters())
    assert len(found) == len(named)
    for name, wanted in {
        "heads.t.output.weight": (3.0, 0.1),
        "heads.t.output.bias": (3.0, 0.0),
        "model.pooler.weight": (1.0, 0.1),
        f"model.blocks.{layers - 1}.mlp.input.weight": (0.5, 0.1),
        "model.blocks.0.attention_norm.weight": (0.5**layers, 0.0),
        "model.embedding.weight": (0.5 ** (layers + 1), 0.1),
        "model.embedding_norm.bias": (0.5 ** (layers + 1), 0.0),
    }.items():
        assert found[id(named[name])] == pytest.approx(wanted), name
    assert depth_of("model.discriminator.blocks.3.mlp.input.weight", 12) == 4


def test_balanced_weights_are_scikit_learns() -> None:
    targets = [0, 0, 0, 1, 2, 2]
    one = {"name": "t", "kind": "classification", "train": "x", "class_weights": "balanced"}
    found = class_weights(from_dict(TaskConfig, one), targets, 3)
    np.testing.assert_allclose(found, compute_class_weight("balanced", classes=np.arange(3), y=targets), rtol=1e-6)


CONVERSATIONS = [
    [{"role": "user", "content": "the book"}, {"role": "assistant", "content": "The man saw."}],
    [
        {"role": "system", "content": "old"},
        {"role": "user", "content": "one"},
        {"role": "assistant", "content": "He reads."},
        {"role": "user", "content": "two"},
        {"role": "assistant", "content": "They see."},
    ],
]


def gpt2(folder: Path) -> Path:
    """A random checkpoint of a shape that transformers has, with learned positions."""
    tokenizer = tokenizer_with_special_tokens()
    tokenizer.save(str(folder / "tokenizer.json"))
    shape = expand_preset({"preset": "gpt2", "layers": 2, "heads": 2, "width": 32, "context_length": 64})
    torch.manual_seed(0)
    model = build(from_dict(ModelConfig, shape), tokenizer.get_vocab_size())
    state = TrainerState(1, {}, {}, {})
    return save(folder / "checkpoints", model, state, {"end_of_text": 0}, folder / "tokenizer.json")


def test_the_loss_is_on_answers_alone_and_packing_changes_nothing(tmp_path: Path) -> None:
    folder = gpt2(tmp_path)
    reader = Reader(folder)
    one = {"name": "t", "kind": "instruction", "train": "x", "columns": {"messages": "messages"}}
    kind: Any = make(from_dict(TaskConfig, one), reader)
    items = kind.items(CONVERSATIONS, training=False)
    text = [reader.tokenizer.decode([t for t in item.target if t != -100], skip_special_tokens=False) for item in items]
    assert [part.split("<|endoftext|>") for part in text] == [
        [" The man saw.", ""],
        [" He reads.", " They see.", ""],
    ]
    rows = packed(items * 2, 64)
    assert len(rows) < 4
    assert all(row.length <= 64 for row in rows)
    network = network_of(folder)
    with torch.no_grad():
        apart = sum(float(kind.loss(kind.scores(network, [item]), [item])) for item in items)
        together = float(kind.loss(kind.scores(network, rows), rows))
    assert together == pytest.approx(2 * apart, rel=1e-5)
    export(folder, tmp_path / "exported")
    theirs = transformers.AutoModelForCausalLM.from_pretrained(tmp_path / "exported")
    wanted = 0.0
    for item in items:
        ids = torch.from_numpy(item.sequences[0].ids)[None]
        labels = torch.full_like(ids, -100)
        labels[0, 1:] = torch.from_numpy(item.target[:-1])
        wanted += float(theirs(ids, labels=labels).loss) * int((labels != -100).sum())
    assert apart == pytest.approx(wanted, rel=1e-4)


def test_a_split_by_hash_stands_in_for_dev(tmp_path: Path) -> None:
    folder = checkpoint(tmp_path, "bert")
    one = task(tmp_path / "data", "classification", 60, max_train=20)
    del one["dev"]
    config = from_dict(FinetuningConfig, {"tasks": [one]})
    loaded = load_task(config.tasks[0], Reader(folder), config)
    train, dev = loaded.splits["train"].examples, loaded.splits["dev"].examples
    assert len(train) == 20
    assert 1 <= len(dev) <= 15
