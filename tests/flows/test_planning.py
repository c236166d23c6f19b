"""`headrace plan` on recipes alone: no corpus, no tokenizer, no GPU."""

from __future__ import annotations

import json

from typer.testing import CliRunner

from flows.cli import app

SMALL = [
    *("--set", "train.model={preset: gpt2, layers: 2, heads: 2, width: 64, context_length: 64}"),
    *("--set", "train.optimizer.name=adamw"),
]


def test_a_plan_as_json() -> None:
    result = CliRunner().invoke(app, ["plan", "quickstart", "--device", "cpu", "--json", "--price", "2", *SMALL])
    assert result.exit_code == 0, result.output
    planned = json.loads(result.output)
    # The vocabulary comes from the recipe's tokenizer: 4,096 ids, tied.
    assert planned["parameters_by_part"]["embedding"] == (4096 + 64) * 64
    assert planned["tokens"] == planned["steps"] * planned["tokens_per_step"] == 1000 * 16 * 64
    assert planned["memory"]["total"] == sum(planned["memory"]["parts"].values())
    assert planned["hours"] is None


def test_a_plan_for_people_with_a_measured_step() -> None:
    result = CliRunner().invoke(app, ["plan", "quickstart", "--device", "cpu", "--measure", *SMALL])
    assert result.exit_code == 0, result.output
    assert "tokens/s (measured)" in " ".join(result.output.split())
    assert "optimiser state" in result.output


def test_what_cannot_fit_is_refused_with_exit_code_2() -> None:
    shape = "train.model={preset: llama-8b, context_length: 2048}"
    options = ["--device", "l4", "--set", shape, "--set", "train.training.batch_size=64"]
    options += ["--set", "train.training.compile=off"]
    result = CliRunner().invoke(app, ["plan", "quickstart", *options])
    assert result.exit_code == 2, result.output
    told = " ".join(result.output.split())
    assert "does not fit" in told
    assert "--set train.training.parallel=fsdp --devices" in told


def test_an_unknown_device_is_refused() -> None:
    result = CliRunner().invoke(app, ["plan", "quickstart", "--device", "abacus"])
    assert result.exit_code == 2
    assert "abacus" in result.output
