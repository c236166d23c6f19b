import io
import json
import math
import time
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from tests.training.test_checkpoints import new_model, new_state
from tests.training.test_trainer import events
from tests.training.tiny_run import journal, make_run
from training import checkpoints
from training.callbacks.checkpointing import best_of, prune
from training.callbacks.evaluation import Measured, summarize
from training.callbacks.journal import StepLines, truncate
from training.callbacks.training_metrics import CLOCKED
from training.config import Shard
from training.events import Reporter, duration
from training.loader import BatchReader
from training.run import train


def test_metrics_weigh_shards_by_their_size() -> None:
    shards = [
        Shard("a", "validation", 100, source="wiki", language="en", text_bytes=400),
        Shard("b", "validation", 300, source="wiki", language="zh", text_bytes=600),
        Shard("c", "validation", 50, source="web", language="en", text_bytes=0),
    ]
    # Mean losses of 2, 4 and 6 nats over ten predictions each.
    row = summarize(shards, {"loss": Measured(np.array([20.0, 40.0, 60.0]), np.array([10.0, 10.0, 10.0]))})
    assert row["validation/loss"] == pytest.approx((100 * 2 + 300 * 4 + 50 * 6) / 450)
    assert row["validation/perplexity"] == pytest.approx(math.exp(row["validation/loss"]))
    assert row["validation/loss/source/wiki"] == pytest.approx((100 * 2 + 300 * 4) / 400)
    assert row["validation/bits_per_byte/source/wiki"] == pytest.approx(1400 / math.log(2) / 1000)
    assert row["validation/loss/language/en"] == pytest.approx((100 * 2 + 50 * 6) / 150)
    assert "validation/bits_per_byte" not in row  # the bytes of one shard are unknown


def test_the_journal_is_cut_back_to_a_step(tmp_path: Path) -> None:
    path = tmp_path / "metrics.jsonl"
    lines = [json.dumps({"step": step}) + "\n" for step in (5, 10, 15)]
    path.write_text("".join(lines) + '{"step": 2')
    truncate(path, 20)
    assert path.read_text() == "".join(lines)
    truncate(path, 10)
    assert path.read_text() == "".join(lines[:2])
    truncate(path, 0)
    assert path.read_text() == ""
    truncate(tmp_path / "new.jsonl", 0)
    assert (tmp_path / "new.jsonl").read_text() == ""


def test_a_file_of_lines_is_cut_back_whenever_the_run_goes_back(tmp_path: Path) -> None:
    lines = StepLines(tmp_path / "lines.jsonl")
    lines.open(0)
    lines.append({"step": 2, "text": "纸\u2028"}, {"step": 2, "text": "b"})
    lines.append({"step": 4})
    lines.open(3)
    lines.append({"step": 4, "again": True})
    lines.close()
    written = [json.loads(line) for line in (tmp_path / "lines.jsonl").read_bytes().split(b"\n") if line]
    assert written == [{"step": 2, "text": "纸\u2028"}, {"step": 2, "text": "b"}, {"step": 4, "again": True}]


def test_what_the_steps_cost_is_measured(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    run = make_run(tmp_path, price_per_device_hour=36.0, peak_flops=1e9)
    result = train(run)
    rows = [line for line in journal(run) if "train/loss" in line["metrics"]]
    progress = [event for event in events(capsys.readouterr().out) if event["event"] == "progress"]
    assert [line["step"] for line in rows] == [event["step"] for event in progress] == [3, 6, 9, 12]
    for line, event in zip(rows, progress, strict=True):
        metrics = line["metrics"]
        assert metrics.keys() >= CLOCKED
        speed = metrics["train/tokens_per_second"]
        assert metrics["train/mfu"] == pytest.approx(speed * result["flops_per_token"] / 1e9)
        assert line["tokens"] == line["step"] * 64
        assert metrics["train/cost"] == pytest.approx(36.0 * line["time"] / 3600, abs=0.001)
        assert 0 <= metrics["train/data_wait_share"] <= 1
        assert metrics["train/memory_bytes"] > 1e7
        for fact in ("loss", "tokens_per_second", "mfu", "memory_bytes", "data_wait_share", "skipped_steps", "cost"):
            assert event[fact] == metrics[f"train/{fact}"]


def test_the_share_of_waiting_is_that_of_the_steps_since_the_last_line(tmp_path: Path) -> None:
    run = make_run(tmp_path, steps=6, log_every=3)
    take = BatchReader.take

    def slow(self: BatchReader, step: int) -> Any:
        time.sleep(0.5 if step < 3 else 0.0)
        return take(self, step)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(BatchReader, "take", slow)
        train(run)
    first, second = (line["metrics"] for line in journal(run) if "train/loss" in line["metrics"])
    assert first["train/data_wait_share"] > max(0.1, second["train/data_wait_share"])


def test_the_newest_and_the_best_checkpoint_stay(tmp_path: Path) -> None:
    assert best_of(tmp_path) is None
    for step, loss in ((1, 3.0), (2, 1.0), (3, 2.0), (4, None), (5, 1.0)):
        metrics = {} if loss is None else {"validation/loss": loss}
        checkpoints.save(tmp_path, new_model(), new_state(step), {"metrics": metrics})
        prune(tmp_path, keep=2)
    assert [checkpoints.step_of(path) for path in checkpoints.list_checkpoints(tmp_path)] == [2, 4, 5]
    assert best_of(tmp_path) == tmp_path / "step-00000002"


def test_events_are_json_lines_unless_a_person_reads() -> None:
    stream = io.StringIO()
    Reporter(stream=stream)("evaluation", step=3, metrics={"validation/loss": float("nan")})
    assert json.loads(stream.getvalue()) == {"event": "evaluation", "step": 3, "metrics": {"validation/loss": "nan"}}
    terminal = io.StringIO()
    terminal.isatty = lambda: True  # type: ignore[method-assign]
    report = Reporter(stream=terminal)
    report("progress", step=3, steps=10, loss=2.5, tokens_per_second=1234.5, remaining_seconds=7.0)
    assert terminal.getvalue() == "step 3/10  loss 2.5000  1,234 tokens/s  7 s left\n"
    report(
        "progress",
        step=3,
        steps=10,
        loss=2.5,
        tokens_per_second=1234.5,
        mfu=0.4312,
        memory_bytes=71.6e9,
        data_wait_share=0.034,
        skipped_steps=2.0,
        cost=1234.5,
        remaining_seconds=7000.0,
    )
    assert terminal.getvalue().splitlines()[1] == (
        "step 3/10  loss 2.5000  1,234 tokens/s  MFU 43.1%  71.6 GB  data wait 3%  2 steps skipped  cost 1,234.50  "
        "117 min left"
    )
    report("progress", step=4, steps=10, tokens_per_second=9.0, data_wait_share=0.01, remaining_seconds=1.0)
    assert terminal.getvalue().splitlines()[2] == "step 4/10  9 tokens/s  1 s left"
    report("samples", step=5, samples=[{"prompt": "The", "continuation": " end\nof"}])
    assert terminal.getvalue().splitlines()[3:] == ["step 5  samples", "    The| end of"]
    silent = io.StringIO()
    Reporter(enabled=False, stream=silent)("start")
    assert silent.getvalue() == ""


@pytest.mark.parametrize(
    ("seconds", "text"),
    [
        (0.4, "0 s"),
        (119.4, "119 s"),
        (125, "2 min"),
        (7199, "2 h 00 min"),
        (11_100, "3 h 05 min"),
        (190_000, "2 d 5 h"),
    ],
)
def test_durations_are_for_people(seconds: float, text: str) -> None:
    assert duration(seconds) == text
