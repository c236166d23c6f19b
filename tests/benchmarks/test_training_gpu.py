"""The benchmark of training on a GPU, run whole in its small mode: its figures, and what it says without a peer."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from benchmarks import training_gpu
from benchmarks.rows import Row, read, table, write
from benchmarks.training_gpu import EXPECTED, PARTS
from benchmarks.training_measures import Work, run_of, windows_of
from benchmarks.training_peers import package_version

ROOT = Path(__file__).parents[2]


def rows_of(folder: Path, *arguments: str) -> list[dict[str, Any]]:
    """The rows of a call that must end well, without peers that happen to be there."""
    path = folder / "rows.json"
    environment = {**os.environ, "HEADRACE_PEERS": str(folder), "OMP_NUM_THREADS": "1", "GOMP_SPINCOUNT": "3000"}
    command = [sys.executable, "-m", "benchmarks.training_gpu", "--device", "cpu", "--tiny", "--json", str(path)]
    subprocess.run([*command, *arguments], cwd=ROOT, env=environment, check=True, capture_output=True, text=True)
    return json.loads(path.read_text())


@pytest.fixture(scope="module")
def rows(tmp_path_factory: pytest.TempPathFactory) -> list[dict[str, Any]]:
    # The encoders' parts are tested in tests/benchmarks/test_objectives.py, without processes of their own.
    parts = [part for part in PARTS if not part.startswith(("bert", "electra"))]
    return rows_of(tmp_path_factory.mktemp("gpu"), "--batches", "2", "--only", ",".join(parts))


def test_every_part_has_a_figure_or_says_why_not(rows: list[dict[str, Any]]) -> None:
    assert all(row["ours"] is not None or row["note"] for row in rows)
    failed = {row["name"]: row["note"] for row in rows if row["ours"] is None}
    assert set(failed) <= {"nanogpt", "shakespeare-nanogpt", "trainer"}, failed
    assert "nanoGPT is absent" in failed["nanogpt"]
    assert "nanoGPT is absent" in failed["shakespeare-nanogpt"]
    text = json.dumps(rows)
    for what in ("GEMM", "124M", "llama-style 350M", "1.5B", "fp8", "documents masked", "tiny-shakespeare"):
        assert what in text, what


def test_shares_of_the_peak_follow_from_the_speed(rows: list[dict[str, Any]]) -> None:
    figures = {row["name"]: row["ours"] for row in rows}
    name = "GPT-2 124M, T=1024, batch 2"
    # PaLM, appendix B, for two layers of width 32 at 32 tokens with a tied head of 64 ids: 6 N + 12 L T D.
    flops = 6 * (2 * 12 * 32 * 32 + 64 * 32) + 12 * 2 * 32 * 32
    expected = 100 * figures[name] * flops / (1e12 * figures["GEMM peak"])
    assert figures[f"{name}, of the GEMM peak"] == pytest.approx(expected, rel=0.02)


@pytest.mark.skipif(package_version("transformers") is None, reason="transformers is not installed")
def test_transformers_is_compared(rows: list[dict[str, Any]]) -> None:
    (row,) = (row for row in rows if row["peer_name"].startswith("transformers"))
    assert row["peer"] > 0
    assert row["ratio"] == row["ours"] / row["peer"]


def test_parts_are_left_out_when_the_time_is_up_and_rows_are_kept(tmp_path: Path) -> None:
    write([Row("earlier", "s", 1.0)], tmp_path / "rows.json")
    earlier, late = rows_of(tmp_path, "--only", "gpt2-xl", "--minutes", "0")
    assert earlier["name"] == "earlier"
    assert (late["name"], late["ours"]) == ("gpt2-xl", None)
    assert "not begun" in late["note"]


def test_a_setting_that_is_refused_is_a_row(tmp_path: Path) -> None:
    (row,) = rows_of(tmp_path, "--only", "llama-350m", "--set", "steps=0")
    assert row["ours"] is None
    assert "steps must be at least 1" in row["note"]


def test_all_sides_get_the_same_batch(tmp_path: Path) -> None:
    model = {"preset": "gpt2", "layers": 2, "heads": 2, "width": 32, "context_length": 16}
    work = Work(model, 64, device_batch=4, accumulated=2, device="cpu", precision="fp32", steps=2)
    run = run_of(work, [], tmp_path)
    assert run.training.batch_size * run.sequence_length == work.tokens
    assert run.training.batch_size == work.accumulated * run.training.device_batch_size
    assert run.training.steps == work.all_steps
    assert windows_of(work).shape[1] == run.sequence_length
    assert windows_of(work).max() < work.vocabulary


def test_rows_are_read_as_written_and_shown(tmp_path: Path) -> None:
    rows = [Row("a", "s", 2.0, 4.0, "peer", "1"), Row("b", "", note="a|b")]
    write(rows, tmp_path / "rows.json")
    assert read(tmp_path / "rows.json") == rows
    assert rows[0].ratio == 0.5
    assert rows[1].ratio is None
    lines = table(rows, "title").splitlines()
    assert lines[2].count("|") == lines[4].count("|") == lines[5].count("|") == 8
    assert len({len(line) for line in lines[2:]}) == 1


def test_every_part_is_described_and_has_a_time() -> None:
    assert all(f"\n    {part} " in (training_gpu.__doc__ or "") for part in PARTS)
    assert set(EXPECTED) == set(PARTS)
