import io
import json
import math
from pathlib import Path

import numpy as np
import pytest

from tests.training.test_checkpoints import new_model, new_state
from training import checkpoints
from training.callbacks.checkpointing import best_of, prune
from training.callbacks.evaluation import summarize
from training.callbacks.journal import truncate
from training.config import Shard
from training.events import Reporter


def test_metrics_weigh_shards_by_their_size() -> None:
    shards = [
        Shard("a", "validation", 100, source="wiki", language="en", text_bytes=400),
        Shard("b", "validation", 300, source="wiki", language="zh", text_bytes=600),
        Shard("c", "validation", 50, source="web", language="en", text_bytes=0),
    ]
    # Mean losses of 2, 4 and 6 nats over ten predictions each.
    row = summarize(shards, np.array([20.0, 40.0, 60.0]), np.array([10.0, 10.0, 10.0]))
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
    silent = io.StringIO()
    Reporter(enabled=False, stream=silent)("start")
    assert silent.getvalue() == ""
