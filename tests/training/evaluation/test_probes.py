from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
import torch

from training.evaluation.choices import evaluate_choices, read_questions
from training.evaluation.probes import logistic_regression, probe, read_examples


def test_the_regression_finds_the_minimum() -> None:
    torch.manual_seed(0)
    features, classes = torch.randn(60, 3, dtype=torch.float64), torch.randint(3, (60,))
    logits = logistic_regression(features, classes, 3, 0.1)

    # At the minimum the mean of (probability - label) times the features is -strength times the weights.
    probabilities = torch.softmax(logits(features), 1) - torch.nn.functional.one_hot(classes, 3)
    bias = logits(torch.zeros(1, 3, dtype=torch.float64))
    weight = (logits(torch.eye(3, dtype=torch.float64)) - bias).T
    torch.testing.assert_close(probabilities.T @ features / 60, -0.1 * weight, atol=1e-5, rtol=0)
    torch.testing.assert_close(probabilities.mean(0), torch.zeros(3, dtype=torch.float64), atol=1e-5, rtol=0)


def _examples(path: Path) -> Path:
    rows = [
        {"text": f"{'ab'[label]}{number} {'xyz'[number % 3]}", "label": label}
        for number in range(150)
        for label in (0, 1)
    ]
    path.write_text("\n".join(map(json.dumps, rows)))
    return path


def test_a_probe_reads_what_is_there_and_nothing_from_noise(tmp_path: Path) -> None:
    examples = read_examples(_examples(tmp_path / "task.jsonl"))
    random = np.random.default_rng(0)
    found = probe(
        examples,
        {
            "tells": lambda texts: np.array([[ord(text[0]), 1.0] for text in texts]),
            "noise": lambda texts: random.normal(size=(len(texts), 2)),
        },
    )
    assert found["accuracy"]["tells"]["accuracy"] == 1.0
    assert found["accuracy"]["noise"]["accuracy"] < 0.75
    assert found["baselines"]["characters"]["accuracy"] == 1.0
    assert found["baselines"]["majority"]["accuracy"] < 0.7
    assert found["train"] + found["test"] == 300
    assert 30 < found["test"] < 90


def test_the_choice_of_the_test_texts_depends_on_nothing_else(tmp_path: Path) -> None:
    path = _examples(tmp_path / "task.jsonl")
    whole = read_examples(path)
    path.write_text("\n".join(reversed(path.read_text().splitlines())))
    assert read_examples(path) == whole
    assert read_examples(path, 100) == whole[:100]


@pytest.mark.parametrize(
    ("line", "message"),
    [
        ('{"text": "a"}', "line 1: label"),
        ("[1]", "line 1: expected a JSON object"),
        ('{"text": "a", "label": 1}', "too few"),
    ],
)
def test_wrong_examples_are_refused(tmp_path: Path, line: str, message: str) -> None:
    path = tmp_path / "task.jsonl"
    path.write_text(line)
    with pytest.raises(ValueError, match=message):
        read_examples(path)


def _letters(texts: list[str]) -> list[np.ndarray]:
    return [np.array([ord(letter) for letter in text]) for text in texts]


def test_choices_are_scored_by_their_own_tokens(tmp_path: Path) -> None:
    path = tmp_path / "choices.jsonl"
    rows = [
        {"prompt": "zz", "choices": ["bb", "a"], "answer": 1},
        {"prompt": "zz{}zz", "choices": ["cc", "a", "b"], "answer": 1},
        {"prompt": "", "choices": ["a", "b"], "answer": 1},
    ]
    path.write_text("\n".join(map(json.dumps, rows)))
    questions = read_questions(path)
    asked: list[tuple[str, int]] = []

    def scorer(sequences: list[np.ndarray], starts: list[int]) -> list[np.ndarray]:
        asked.extend(zip(["".join(map(chr, ids)) for ids in sequences], starts, strict=True))
        return [-(ids - ord("a") + 1.0) for ids in sequences]

    found = evaluate_choices(questions, _letters, scorer, room=100, cloze_sees_all=True)
    assert asked[:3] == [("zzbb", 2), ("zza", 2), ("zzcczz", 2)]
    assert found["sum"]["accuracy"] == pytest.approx(2 / 3)
    assert found["baselines"]["chance"] == pytest.approx((1 / 2 + 1 / 3 + 1 / 2) / 3)
    assert found["baselines"]["majority"] == 1.0
    asked.clear()
    evaluate_choices(questions, _letters, scorer, room=3, cloze_sees_all=True)
    assert asked[0] == ("zbb", 1)


def test_a_wrong_answer_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "choices.jsonl"
    path.write_text('{"prompt": "", "choices": ["a", "b"], "answer": 2}')
    with pytest.raises(ValueError, match="line 1: choices must be two or more texts"):
        read_questions(path)
