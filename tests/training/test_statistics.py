"""Statistics of a real run against plain loops over its weights, and both kinds of watching against a run without."""

from __future__ import annotations

import json
import math
from pathlib import Path
from typing import Any

import pytest
import torch
from tokenizers import Tokenizer, models, pre_tokenizers
from torch import Tensor

import training.run
from tests.training.tiny_run import VOCABULARY, changed, final_weights, journal, losses, make_run, start, write_config
from training.callbacks import Callback, Row
from training.callbacks.statistics import few_sequences, head_entropies
from training.config import TrainingRun
from training.trainer import Trainer

WATCHED = {"statistics_every": 4, "samples_every": 6, "sample_prompts": ("w7", "w9 w9")}


@pytest.fixture(autouse=True)
def quiet(capsys: pytest.CaptureFixture[str]) -> None:
    """Keep the progress lines of runs in this process out of the report."""


def with_tokenizer(run: TrainingRun, folder: Path, words: int = VOCABULARY) -> TrainingRun:
    vocabulary = {"<|endoftext|>": 0, **{f"w{index}": index for index in range(1, words)}}
    tokenizer = Tokenizer(models.WordLevel(vocabulary, unk_token="<|endoftext|>"))
    tokenizer.pre_tokenizer = pre_tokenizers.Whitespace()
    path = folder / "tokenizer.json"
    tokenizer.save(str(path))
    return changed(run, tokenizer_path=str(path))


def figures(run: TrainingRun) -> dict[int, dict[str, float]]:
    return {
        line["step"]: {key: value for key, value in line["metrics"].items() if key.startswith("statistics/")}
        for line in journal(run)
    }


def told(output: str, event: str) -> list[dict[str, Any]]:
    return [entry for line in output.splitlines() if (entry := json.loads(line))["event"] == event]


def samples(run: TrainingRun) -> list[dict[str, Any]]:
    lines = (Path(run.output_dir) / "samples.jsonl").read_text().splitlines()
    return [json.loads(line) for line in lines]


@pytest.fixture(scope="module")
def watched(tmp_path_factory: pytest.TempPathFactory) -> TrainingRun:
    folder = tmp_path_factory.mktemp("watched")
    run = with_tokenizer(make_run(folder, **WATCHED), folder)
    training.run.train(run)
    return run


def test_watching_changes_not_a_bit_of_the_run(watched: TrainingRun, tmp_path: Path) -> None:
    plain = changed(watched, "training", statistics_every=0, samples_every=0)
    plain = changed(plain, output_dir=str(tmp_path / "plain"))
    training.run.train(plain)
    assert final_weights(plain) == final_weights(watched)
    both = [
        [(step, {key: value for key, value in row.items() if not key.startswith("statistics/")}) for step, row in rows]
        for rows in (losses(plain), losses(watched))
    ]
    assert both[0] == both[1]
    assert not (Path(plain.output_dir) / "samples.jsonl").exists()


def test_names_and_ranges(watched: TrainingRun) -> None:
    rows = figures(watched)
    assert [step for step, row in rows.items() if row] == [4, 8, 12]
    row = rows[8]
    kinds = ("activation_rms", "attention_entropy", "attention_entropy_min", "dead_units", "gradient_norm")
    kinds += ("update_to_weight", "weight_norm")
    assert sorted(row) == sorted(f"statistics/{kind}/block-{block:02d}" for kind in kinds for block in range(2))
    uniform = sum(math.log(count) for count in range(1, 17)) / 16
    for block in ("block-00", "block-01"):
        entropy, lowest = (row[f"statistics/attention_entropy{kind}/{block}"] for kind in ("", "_min"))
        assert 0 < lowest <= entropy <= uniform + 1e-5
        assert 0 <= row[f"statistics/dead_units/{block}"] < 1
        assert 1e-5 < row[f"statistics/update_to_weight/{block}"] < 1


class PlainLoops(Callback):
    """The same figures, calculated the slow way."""

    name = "plain loops"

    def __init__(self) -> None:
        self.row: Row = {}
        self.found: Row = {}
        self.hooks = 0
        self._before: list[list[Tensor]] = []

    def on_gradients(self, trainer: Trainer) -> None:
        self._before = [[p.detach().clone() for p in block.parameters()] for block in trainer.model.blocks]
        for index, block in enumerate(trainer.model.blocks):
            total = sum(float(p.grad.double().square().sum()) for p in block.parameters() if p.grad is not None)
            self.row[f"statistics/gradient_norm/block-{index:02d}"] = math.sqrt(total)

    def on_step_end(self, trainer: Trainer, row: Row) -> None:
        self.found = dict(row)
        parts = list(trainer.model.modules())
        self.hooks = sum(len(part._forward_hooks) + len(part._forward_pre_hooks) for part in parts)
        model = trainer.model
        for index, block in enumerate(model.blocks):
            now = torch.cat([p.detach().flatten().double() for p in block.parameters()])
            change = now - torch.cat([p.flatten().double() for p in self._before[index]])
            self.row[f"statistics/weight_norm/block-{index:02d}"] = float(now.norm())
            self.row[f"statistics/update_to_weight/block-{index:02d}"] = float(change.norm() / now.norm())
        with trainer.inference():
            self._forward(trainer)

    def _forward(self, trainer: Trainer) -> None:
        model: Any = trainer.model
        seen: dict[str, Any] = {}
        for index, block in enumerate(model.blocks):
            block.register_forward_hook(lambda _, __, output, index=index: seen.update({f"x{index}": output}))
            block.attention.register_forward_hook(lambda _, args, __, index=index: seen.update({f"a{index}": args}))
            block.mlp.register_forward_hook(lambda _, args, __, index=index: seen.update({f"m{index}": args[0]}))
        model.hidden(trainer.batch["inputs"])
        for index, block in enumerate(model.blocks):
            weights = block.attention.probabilities(*seen[f"a{index}"]).double()
            by_head = [
                torch.tensor(
                    [-sum(float(w) * math.log(w) for w in row if w > 0) for row in weights[:, h].flatten(0, 1)]
                )
                for h in range(weights.shape[1])
            ]
            place = f"block-{index:02d}"
            means = [float(entropies.mean()) for entropies in by_head]
            self.row[f"statistics/attention_entropy/{place}"] = sum(means) / len(means)
            self.row[f"statistics/attention_entropy_min/{place}"] = min(means)
            self.row[f"statistics/activation_rms/{place}"] = float(seen[f"x{index}"].double().square().mean()) ** 0.5
            units = (seen[f"m{index}"] @ block.mlp.input.weight.T).flatten(0, 1)
            dead = [all(float(value) <= 0 for value in unit) for unit in units.T]
            self.row[f"statistics/dead_units/{place}"] = sum(dead) / len(dead)


def test_the_figures_are_those_of_plain_loops(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    run = make_run(tmp_path, steps=1, statistics_every=1, gradient_clip=0.1, checkpoint_every=1)
    run = changed(changed(run, "model", initialization="gpt2"), "schedule", warmup_steps=0)
    loops = PlainLoops()
    ours = training.run._callbacks
    monkeypatch.setattr(training.run, "_callbacks", lambda *arguments: [*ours(*arguments), loops])
    training.run.train(run)
    assert {name for name in loops.found if name.startswith("statistics/")} == set(loops.row)
    for name, value in loops.row.items():
        assert loops.found[name] == pytest.approx(value, rel=1e-4), name
    assert loops.hooks == 0


def test_entropy_of_known_weights() -> None:
    weights_BHTT = torch.zeros(2, 2, 3, 3)
    weights_BHTT[:, 0, :, 0] = 1.0
    weights_BHTT[:, 1] = 1 / 3
    assert head_entropies(weights_BHTT).tolist() == pytest.approx([0.0, math.log(3)])


def test_long_sequences_and_many_heads_are_cut() -> None:
    batch = {name: torch.zeros(64, 4096, dtype=torch.int64) for name in ("inputs", "targets", "documents")}
    shapes = [{name: tuple(part.shape) for name, part in few_sequences(batch, heads).items()} for heads in (1, 16, 96)]
    assert shapes == [{"inputs": (rows, 1024), "documents": (rows, 1024)} for rows in (8, 4, 1)]


def test_shared_blocks_swiglu_and_documents(tmp_path: Path) -> None:
    run = make_run(tmp_path, steps=2, statistics_every=2)
    run = changed(run, "model", layers=4, layer_groups=2, mlp="swiglu", norm_position="post", kv_heads=1)
    run = changed(run, "objective", document_mask=True)
    training.run.train(run)
    row = figures(run)[2]
    for kind, blocks in {"weight_norm": (0, 2), "gradient_norm": (0, 2), "activation_rms": (0, 1, 2, 3)}.items():
        names = sorted(name for name in row if name.startswith(f"statistics/{kind}/"))
        assert names == [f"statistics/{kind}/block-{block:02d}" for block in blocks]
    assert not any("dead_units" in name for name in row)


def test_samples_stand_in_their_file_once(watched: TrainingRun, tmp_path: Path) -> None:
    assert [(line["step"], line["prompt"]) for line in samples(watched)] == [
        (step, prompt) for step in (6, 12) for prompt in ("w7", "w9 w9")
    ]
    assert all(line["continuation"] for line in samples(watched))

    class Crash(Exception):
        pass

    class CrashAt11(Callback):
        def on_step_end(self, trainer: Trainer, row: Row) -> None:
            if trainer.step == 11:
                raise Crash

    run = changed(watched, output_dir=str(tmp_path / "output"))
    run = changed(run, "training", samples_every=2)
    reference = changed(run, output_dir=str(tmp_path / "reference"))
    training.run.train(reference)
    ours = training.run._callbacks
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(training.run, "_callbacks", lambda *arguments: [*ours(*arguments), CrashAt11()])
        with pytest.raises(Crash):
            training.run.train(run)
    assert samples(run)[-1]["step"] == 10  # after the checkpoint of step 8
    training.run.train(run)
    assert samples(run) == samples(reference)
    assert [line["step"] for line in samples(run)] == [step for step in (2, 4, 6, 8, 10, 12) for _ in range(2)]


@pytest.mark.parametrize(("words", "message"), [(None, "names no tokenizer_path"), (5000, "outside the model's")])
def test_without_the_right_tokenizer_there_is_one_warning(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], words: int | None, message: str
) -> None:
    run = make_run(tmp_path, steps=6, samples_every=2, sample_prompts=("w4999",))
    training.run.train(run if words is None else with_tokenizer(run, tmp_path, words))
    (warning,) = told(capsys.readouterr().out, "warning")
    assert message in warning["message"]


def test_two_processes_with_shards_see_what_one_sees(tmp_path: Path) -> None:
    one = with_tokenizer(make_run(tmp_path, steps=4, statistics_every=2, samples_every=2), tmp_path)
    one = changed(changed(one, "model", dropout=0.0), "training", ema_decay=0.9)
    two = changed(changed(one, "training", parallel="fsdp"), output_dir=str(tmp_path / "two"))
    launcher = ("-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2", "-m")
    with start(write_config(two, tmp_path / "two.json"), launcher=launcher) as process:
        output, error = process.communicate(timeout=120)
    assert process.returncode == 0, error
    training.run.train(one)
    ours, theirs = figures(one), figures(two)
    assert ours[4].keys() == theirs[4].keys()
    for step in (2, 4):
        for name, value in ours[step].items():
            # The root mean square and the lowest head of half the batch each are near those of all of it.
            loose = "activation_rms" in name or "entropy_min" in name
            assert theirs[step][name] == pytest.approx(value, rel=0.05 if loose else 1e-3), name
    assert [(line["step"], line["prompt"]) for line in samples(two)] == [
        (line["step"], line["prompt"]) for line in samples(one)
    ]
    assert len(told(output, "samples")) == 2
