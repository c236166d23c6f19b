from __future__ import annotations

import json
import math
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from tests.training.small_models import one_thread, tiny_checkpoint, tiny_model, tiny_tokenizer, write_shard
from tests.training.tiny_run import make_run
from training.config import Shard, to_dict
from training.evaluation import main, run
from training.evaluation.evaluate import trained_segments
from training.evaluation.perplexity import score_shards
from training.evaluation.scoring import plan_windows, token_log_probabilities
from training.loader import TrainLoader
from training.models.transformer import Transformer
from training.rows import Windows

__all__ = ["one_thread"]

ENGLISH = ["The man saw the book.", "A woman reads these books every day, at home.", "They see."]
CHINESE = ["他昨天买了三本书。", "老师把门关上了。你们好吗？"]
RUSSIAN = ["Быстрая лисица прыгает."]


@given(st.integers(0, 60), st.integers(1, 12), st.data())
def test_every_target_is_scored_in_exactly_one_window(length: int, context_length: int, data: st.DataObject) -> None:
    stride = data.draw(st.integers(1, context_length))
    windows = plan_windows(length, context_length, stride)
    scored = [target for window in windows for target in range(window.scored, window.end)]
    assert scored == list(range(length))
    for window in windows:
        assert 0 <= window.start <= window.scored < window.end
        assert window.end - window.start <= context_length
        assert window.start == 0 or window.scored - window.start >= context_length - stride


def _slow_log_probabilities(
    model: Transformer, ids: np.ndarray, end_of_text: int, context: int, stride: int
) -> list[float]:
    """One forward pass for each token, with the context that its window gives it."""
    stream = [end_of_text, *ids.tolist()]
    logs = []
    for position in range(len(ids)):
        end = min(len(ids), context) if position < context else None
        if end is None:
            end = min(len(ids), context + stride * math.ceil((position + 1 - context) / stride))
        start = max(0, end - context)
        with torch.no_grad():
            logits = model(torch.tensor([stream[start : position + 1]]))[0, -1].double()
        logs.append(float(torch.log_softmax(logits, 0)[stream[position + 1]]))
    return logs


@pytest.mark.parametrize(("context", "stride"), [(16, 16), (16, 8), (16, 5), (7, 1)])
def test_windows_score_as_one_pass_for_each_token_does(context: int, stride: int) -> None:
    model = tiny_model(50)
    random = np.random.default_rng(0)
    sequences = [random.integers(0, 50, length).astype(np.uint16) for length in (45, 3, 16, 17, 1, 0, 32)]
    found = token_log_probabilities(model, sequences, 0, context_length=context, stride=stride, positions=50)
    for ids, logs in zip(sequences, found, strict=True):
        np.testing.assert_allclose(logs, _slow_log_probabilities(model, ids, 0, context, stride), atol=1e-4)


def test_a_document_mask_scores_each_document_as_if_it_stood_alone() -> None:
    model = tiny_model(50)
    documents = [np.array([5, 9, 3, 0]), np.array([7, 7, 12, 0]), np.array([4, 0])]
    (together,) = token_log_probabilities(model, [np.concatenate(documents)], 0, document_mask=True)
    alone = np.concatenate(token_log_probabilities(model, documents, 0))
    np.testing.assert_allclose(together, alone, atol=1e-5)
    (unmasked,) = token_log_probabilities(model, [np.concatenate(documents)], 0)
    assert np.abs(unmasked - alone).max() > 1e-2


def test_scoring_leaves_the_mode_of_the_model_as_it_was() -> None:
    model = tiny_model(50).train()
    token_log_probabilities(model, [np.array([1, 2])], 0)
    assert model.training


@pytest.mark.parametrize(("context", "stride"), [(17, None), (0, None), (8, 9), (8, 0)])
def test_windows_out_of_range_are_refused(context: int, stride: int | None) -> None:
    with pytest.raises(ValueError, match="must lie between 1 and"):
        token_log_probabilities(tiny_model(50), [np.array([1, 2])], 0, context_length=context, stride=stride)


@pytest.fixture(scope="module")
def shards(tmp_path_factory: pytest.TempPathFactory) -> list[Shard]:
    folder = tmp_path_factory.mktemp("shards")
    tokenizer = tiny_tokenizer()
    return [
        write_shard(folder / "train-0.bin", [*ENGLISH, *RUSSIAN, *CHINESE] * 3, tokenizer, "train"),
        write_shard(folder / "train-1.bin", ["The end.", *ENGLISH], tokenizer, "train"),
        write_shard(folder / "v-en.bin", ENGLISH, tokenizer, "validation", "wiki", "en"),
        write_shard(folder / "v-zh.bin", CHINESE, tokenizer, "validation", "wiki", "zh"),
        write_shard(folder / "v-zh-2.bin", CHINESE[:1], tokenizer, "validation", "web", "zh"),
        Shard(str(folder / "empty.bin"), "validation", 0, source="web", language="ru"),
    ]


def test_scores_by_source_and_language_follow_from_a_known_model(shards: list[Shard]) -> None:
    validation = shards[2:5]

    def scorer(ids: Any) -> list[np.ndarray]:
        # Two bits for a token of the text, three for the end of a document.
        return [np.where(np.asarray(tokens) == 0, -3 * math.log(2), -2 * math.log(2)) for tokens in ids]

    scores = score_shards(validation, 0, scorer)
    tokens = sum(shard.tokens for shard in validation)
    size = sum(shard.text_bytes for shard in validation)
    overall = scores["overall"]
    assert (overall["tokens"], overall["documents"], overall["text_bytes"]) == (tokens, 6, size)
    assert overall["loss"] == pytest.approx(math.log(2) * (2 * (tokens - 6) + 3 * 6) / tokens)
    assert overall["perplexity"] == pytest.approx(math.exp(overall["loss"]))
    assert overall["bits_per_byte"] == pytest.approx(2 * (tokens - 6) / size)
    assert list(scores["sources"]) == ["web", "wiki"]
    assert list(scores["languages"]) == ["en", "zh"]
    assert scores["languages"]["zh"]["tokens"] == shards[3].tokens + shards[4].tokens
    assert scores["sources"]["wiki"]["documents"] == 5
    assert scores["languages"]["en"]["bits_per_byte"] == pytest.approx(
        2 * (shards[2].tokens - 3) / sum(len(text.encode()) for text in ENGLISH)
    )


def test_a_shard_that_does_not_match_its_description_is_refused(shards: list[Shard], tmp_path: Path) -> None:
    def scorer(ids: Any) -> list[np.ndarray]:
        return [np.full(len(tokens), -1.0) for tokens in ids]

    with pytest.raises(ValueError, match="is missing; run the tokenize stage again"):
        score_shards([Shard(str(tmp_path / "no.bin"), "validation", 5)], 0, scorer)
    cut = tmp_path / "cut.bin"
    cut.write_bytes(Path(shards[2].path).read_bytes()[:-2])
    with pytest.raises(ValueError, match="bytes do not hold"):
        score_shards([Shard(str(cut), "validation", shards[2].tokens)], 0, scorer)
    with pytest.raises(ValueError, match="end-of-text ids \\(7\\) for 3 documents"):
        score_shards([shards[2]], 7, scorer)
    with pytest.raises(ValueError, match="diverged"):
        score_shards([shards[2]], 0, lambda ids: [np.full(len(tokens), np.nan) for tokens in ids])


@pytest.fixture(scope="module")
def config(shards: list[Shard], tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    folder = tmp_path_factory.mktemp("evaluation")
    return {
        "checkpoint": str(tiny_checkpoint(folder)),
        "data": [to_dict(shard) for shard in shards],
        "output": str(folder / "results.json"),
        "minimal_pairs": ["templates:zh"],
        "pairs_per_phenomenon": 5,
        "prompts": ["The", "中国"],
        "sample_tokens": 5,
        "threads": 1,
        "precision": "fp32",
    }


def test_a_whole_evaluation_is_written_and_the_same_again(config: dict[str, Any]) -> None:
    events: list[dict[str, Any]] = []
    results = run(config, events.append)
    written = Path(config["output"]).read_bytes()
    assert json.loads(written) == results
    assert run(config) == results
    assert Path(config["output"]).read_bytes() == written

    perplexity = results["perplexity"]
    assert list(perplexity) == ["model", "unigram", "3-gram"]
    tokens = perplexity["model"]["overall"]["tokens"]
    assert tokens == sum(shard["tokens"] for shard in config["data"] if shard["split"] == "validation")
    assert all(scores["overall"]["tokens"] == tokens for scores in perplexity.values())
    # The validation text stands in the train shards, which the tiny random model has never seen.
    losses = {name: scores["overall"]["loss"] for name, scores in perplexity.items()}
    assert losses["3-gram"] < losses["unigram"] < losses["model"]
    train_tokens = sum(shard["tokens"] for shard in config["data"] if shard["split"] == "train")
    assert results["ngram"]["counted_tokens"] == train_tokens
    assert results["minimal_pairs"]["templates"]["overall"]["pairs"] == 21 * 5
    assert [sample["prompt"] for sample in results["samples"]] == ["The", "中国"]
    assert results["metrics"]["evaluation/bits_per_byte/language/zh"] > 0
    assert results["metrics"]["evaluation/loss/baseline/unigram"] == losses["unigram"]
    assert results["metrics"]["evaluation/minimal_pairs/accuracy/templates/zh"] > 0
    assert [event["step"] for event in events][-1] == events[-1]["steps"]


def test_the_model_is_scored_as_by_hand(config: dict[str, Any], shards: list[Shard]) -> None:
    from training.checkpoints import load_model

    model, _ = load_model(config["checkpoint"])
    results = run({**config, "ngram_order": 0, "minimal_pairs": [], "prompts": [], "stride": 4})
    nats = 0.0
    for shard in shards[2:5]:
        nats -= sum(_slow_log_probabilities(model, np.fromfile(shard.path, "<u2"), 0, 16, 4))
    overall = results["perplexity"]["model"]["overall"]
    assert overall["loss"] == pytest.approx(nats / overall["tokens"], rel=1e-5)
    assert "ngram" not in results


def test_ngrams_may_count_only_what_the_model_was_trained_on(tmp_path: Path) -> None:
    wrapped = whole = False
    for seed, steps in [*((seed, 40) for seed in range(9)), (1, 1), (1, 200)]:
        run = make_run(tmp_path / "run", steps=steps, seed=seed)
        loader = TrainLoader(run.shards("train"), Windows(run.sequence_length), run.training.batch_size, seed)
        starts = loader.starts(np.arange(steps * run.training.batch_size)).tolist()
        stream = np.concatenate([np.fromfile(shard.path, "<u2") for shard in run.shards("train")])
        reach = [start + offset for start in starts for offset in range(run.sequence_length + 1)]
        seen = {place % len(stream) for place in reach}
        (tmp_path / "trainer.json").write_text(json.dumps({"step": steps, "identity": run.identity()}))
        segments = trained_segments(run.shards("train"), tmp_path)
        np.testing.assert_array_equal(np.concatenate(segments), [stream[place] for place in sorted(seen)])
        assert len(segments) == sum(place - 1 not in seen for place in seen)
        wrapped |= max(reach) >= len(stream)  # a window goes on from the last token at the first one
        whole |= len(seen) == len(stream)
    assert wrapped
    assert whole


def test_a_checkpoint_that_does_not_say_what_it_was_trained_on(config: dict[str, Any]) -> None:
    with pytest.raises(ValueError, match="does not say what the model was trained on .* set ngram_tokens to all"):
        run({**config, "ngram_tokens": "trained"})


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"minimal_pairs": ["templates:de"]}, "no templates for 'de'"),
        ({"minimal_pairs": ["nowhere.jsonl"]}, "nowhere.jsonl: cannot be read"),
        ({"temperature": -1.0}, "temperature must be 0"),
        ({"stride": 17}, "stride must lie between 1 and the context length of 16"),
        ({"device": "tpu"}, "device: expected one of auto, cpu, cuda"),
        ({"typo": 1}, "typo: unknown"),
        ({"data": []}, "no validation shard"),
        ({"checkpoint": "nowhere"}, "nowhere"),
    ],
)
def test_wrong_settings_are_refused(config: dict[str, Any], change: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        run({**config, **change})


def test_ngrams_without_train_shards_are_refused(config: dict[str, Any]) -> None:
    data = [shard for shard in config["data"] if shard["split"] == "validation"]
    with pytest.raises(ValueError, match="need train shards; add them or set ngram_order to 0"):
        run({**config, "data": data})


def test_the_command_tells_of_its_parts_and_of_its_errors(
    config: dict[str, Any], tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    path = tmp_path / "config.json"
    path.write_text(json.dumps({**config, "output": str(tmp_path / "results.json")}))
    assert main(str(path)) == 0
    events = [json.loads(line) for line in capfd.readouterr().out.splitlines()]
    assert {event["part"] for event in events} == {"perplexity", "ngram", "minimal_pairs", "samples", "results"}
    assert json.loads((tmp_path / "results.json").read_text()) == run(config)
    path.write_text("{")
    assert main(str(path)) == 2
    assert "not valid JSON" in capfd.readouterr().err
    assert main(str(tmp_path / "absent.json")) == 2
    assert "cannot be read" in capfd.readouterr().err


def test_the_process_ends_when_its_parent_goes_away(config: dict[str, Any], tmp_path: Path) -> None:
    path = tmp_path / "config.json"
    path.write_text(json.dumps({**config, "output": str(tmp_path / "results.json"), "sample_tokens": 1_000_000}))
    command = [sys.executable, "-m", "training.evaluation", str(path), "--watch-stdin"]
    process = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, cwd=Path(__file__).parents[2])
    assert process.stdin is not None
    assert process.stdout is not None
    assert json.loads(process.stdout.readline())["part"] == "perplexity"
    process.stdin.close()
    assert process.wait(timeout=30) == 143
    process.stdout.close()
    assert not (tmp_path / "results.json").exists()
