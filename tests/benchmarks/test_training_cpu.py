"""The benchmark of training on a CPU, run in small; and that both sides train the same."""

from __future__ import annotations

import dataclasses
import time
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
import torch

from benchmarks.training_cpu import PUBLISHED_LOSS, Setting, quality_rows, step_rows
from benchmarks.training_data import by_character, drawn
from benchmarks.training_ours import Alternation, Shape, StepClock, fit, whole_validation
from benchmarks.training_peers import Checkout, nanogpt_folder, nanogpt_module, nanogpt_version, package_version, reason
from training.loader import ValidationLoader
from training.models.transformer import Transformer
from training.rows import PADDING, Windows

TEXT = "Wer reitet so spät durch Nacht und Wind?\nEs ist der Vater mit seinem Kind;\n" * 40
SMALL = Shape(layers=2, heads=2, width=16, context_length=16, batch_size=4)
NANOGPT = nanogpt_folder(None)

PEER = """
import sys, time
print("step 0: train loss 4.0, val loss 4.2", flush=True)
for at in range(0, 30, 10):
    print(f"iter {at}: loss 3.5, time 1.0ms, mfu 0%", flush=True)
    time.sleep(0.2)
print("step 30: train loss 3.0, val loss 3.25")
if "--wait" in sys.argv: time.sleep(60)
if "--fail" in sys.argv: raise ValueError("no such config")
"""


@pytest.fixture(autouse=True)
def one_thread(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    monkeypatch.setenv("OMP_NUM_THREADS", "1")
    yield
    torch.set_num_threads(threads)


@pytest.fixture
def setting(tmp_path: Path) -> Setting:
    shards, vocabulary = by_character(TEXT, tmp_path)
    return Setting(TEXT, shards, vocabulary, None, tmp_path, threads=1, shape=SMALL)


@pytest.fixture
def checkout(tmp_path: Path) -> Checkout:
    """A copy of something that prints like nanoGPT."""
    source = tmp_path / "source"
    for name in ("config", "data/shakespeare_char"):
        (source / name).mkdir(parents=True)
    (source / "train.py").write_text(PEER)
    return Checkout(source, tmp_path / "copy")


def test_ids_are_those_of_the_characters_in_order(setting: Setting) -> None:
    characters = sorted(set(TEXT))
    expected = [characters.index(character) for character in TEXT]
    found = np.concatenate([np.fromfile(shard.path, "<u2") for shard in setting.shards])
    assert found.tolist() == expected
    assert setting.shards[0].tokens == int(len(TEXT) * 0.9)
    assert sum(shard.text_bytes for shard in setting.shards) == len(TEXT.encode())
    assert setting.vocabulary == len(characters) + 1


def test_an_evaluation_covers_the_whole_split(setting: Setting) -> None:
    run = whole_validation(setting.run("run", "nanogpt", steps=1))
    (shard,) = run.shards("validation")
    windows = run.training.evaluation_batches * run.training.batch_size
    loader = ValidationLoader([shard], Windows(run.sequence_length), windows, run.end_of_text)
    targets = np.concatenate([batch.rows["tokens"][:, 1:].ravel() for batch in loader.batches(4)])
    assert targets[targets != PADDING].tolist() == np.fromfile(shard.path, "<u2").tolist()


def test_drawn_ids_are_in_range_and_in_documents(tmp_path: Path) -> None:
    (shard,) = drawn(tmp_path, 20_000, 500)
    ids = np.fromfile(shard.path, "<u2")
    assert len(ids) == shard.tokens == 20_000
    assert ids.max() < 500
    assert 5 < np.count_nonzero(ids == 0) < 100


def test_steps_without_nanogpt(setting: Setting) -> None:
    rows = step_rows(setting, 40)
    assert "nanoGPT is absent" in rows[0].note
    names = {row.name.split(",")[0] for row in rows[1:]}
    assert names == {"transformers" if package_version("transformers") else "step"}
    assert all(row.ours > 0 for row in rows[1:] if row.ours is not None)
    assert len(rows) == 5


def test_quality_without_nanogpt(setting: Setting) -> None:
    rows = quality_rows(setting, 20)
    losses = [row for row in rows if row.unit == "validation loss"]
    assert {row.peer for row in losses} == {PUBLISHED_LOSS}
    uniform = np.log(setting.vocabulary)
    assert all(0.5 < row.ours < uniform for row in losses if row.ours is not None)
    assert len(losses) == 2


def test_both_sides_are_timed_in_turn(setting: Setting) -> None:
    steps: list[float] = []
    clock = Alternation({"slow": lambda: time.sleep(0.01) or steps.append(1)}, steps=5, skipped=1)  # type: ignore[func-returns-value]
    trainer = fit(setting.run("run", "nanogpt", steps=20), [clock])
    assert trainer.step == len(steps) == 20
    assert {name: len(seconds) for name, seconds in clock.seconds.items()} == {"ours": 3, "slow": 3}
    assert min(clock.seconds["slow"]) >= 0.01


def test_the_clock_leaves_out_the_warm_up(setting: Setting) -> None:
    clock = StepClock(warmup=4, steps=3)
    fit(setting.run("run", "nanogpt", steps=14, log_every=3), [clock])
    assert len(clock.seconds) == 3
    assert 0 < clock.loss < 10


def test_what_the_peer_prints_is_understood(checkout: Checkout) -> None:
    printed = checkout.train()
    assert printed.validation == {0: 4.2, 30: 3.25}
    assert [at for at, _ in printed.clock] == [0, 10, 20]
    assert all(0.019 < seconds < 0.2 for seconds in printed.seconds_per_iteration(skip=0))
    with pytest.raises(ValueError, match="too few to time"):
        printed.seconds_per_iteration(skip=2)


def test_a_peer_that_fails_or_hangs_says_so(checkout: Checkout) -> None:
    with pytest.raises(RuntimeError, match="ValueError: no such config"):
        checkout.train("--fail")
    begin = time.perf_counter()
    with pytest.raises(RuntimeError, match="not done after"):
        checkout.train("--wait", seconds=2)
    assert time.perf_counter() - begin < 30


def test_reasons_are_the_errors() -> None:
    assert reason(["torch.OutOfMemoryError: CUDA out of memory.", "see the manual"]).startswith(
        "torch.OutOfMemoryError"
    )
    assert reason(["", "killed "]) == "killed"
    assert reason([]) == "it said nothing"


@pytest.mark.skipif(NANOGPT is None, reason="nanoGPT is not among the peers")
def test_parity_with_nanogpt() -> None:
    """The same weights give the same loss and the same gradients: it is the same model."""
    assert NANOGPT is not None
    assert nanogpt_version(NANOGPT)
    torch.manual_seed(0)
    ours = Transformer(SMALL.nanogpt_model(), 30)
    module = nanogpt_module(NANOGPT)
    theirs = module.GPT(module.GPTConfig(16, 30, 2, 2, 16, 0.0, False))
    names = {"wte": "embedding", "wpe": "position_embedding", "ln_f": "norm", "h": "blocks", "ln_1": "attention_norm"}
    names |= {"ln_2": "mlp_norm", "attn": "attention", "c_attn": "qkv", "c_fc": "input", "c_proj": "output"}
    for name, parameter in theirs.named_parameters():
        path = ".".join(names.get(part, part) for part in name.removeprefix("transformer.").split("."))
        ours.get_parameter(path).data.copy_(parameter)
    ids = torch.randint(30, (3, 17))
    losses = [
        theirs(ids[:, :-1], ids[:, 1:].contiguous())[1],
        torch.nn.functional.cross_entropy(ours(ids[:, :-1]).flatten(0, 1), ids[:, 1:].flatten()),
    ]
    torch.testing.assert_close(*losses)
    for loss in losses:
        loss.backward()
    norms = [
        sum(float(p.grad.square().sum()) for p in model.parameters() if p.grad is not None) for model in (theirs, ours)
    ]
    assert norms[0] == pytest.approx(norms[1], rel=1e-4)
    assert sum(p.numel() for p in theirs.parameters()) == ours.parameters_count()


@pytest.mark.skipif(NANOGPT is None, reason="nanoGPT is not among the peers")
def test_nanogpt_is_run_as_published(setting: Setting) -> None:
    rows = quality_rows(dataclasses.replace(setting, nanogpt=NANOGPT), 20)
    (compared,) = (row for row in rows if row.name.endswith("same model") and row.unit == "validation loss")
    assert compared.peer_name == "nanoGPT"
    assert compared.peer is not None
    assert 0.5 < compared.peer < np.log(setting.vocabulary)
    assert "own estimate" in compared.note
