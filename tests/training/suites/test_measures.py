"""Scores from answers: by hand, by formula, and beside other packages."""

from __future__ import annotations

import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from training.suites.items import Item
from training.suites.judge import Verdict
from training.suites.library import resolve
from training.suites.likelihood import Answer
from training.suites.measures import Measured, Resampling, measure_choices, measure_continuations
from training.suites.report import results
from training.suites.statistics import bootstrap_error, bootstrap_error_of, calibration
from training.suites.task import Task
from training.suites.text_metrics import score_texts
from training.suites.writing import extracted

CHOICES = Task("t", "choices", "f", prompt="x", choices=("a", "b"), answer="y")


def item(answers: list[str], gold: int, group: str = "") -> Item:
    return Item(tuple(("", answer) for answer in answers), tuple(answers), gold, group=group)


def test_four_readings_of_the_likeliest():
    items = [item(["ab", "abcdefgh", "书书书"], 0)]
    answers = [[Answer(-4.0, 1, 0), Answer(-8.0, 4, 0), Answer(-4.5, 3, 0)]]
    found = measure_choices(CHOICES, items, answers, Resampling(0))
    # Sums -4, -8, -4.5; by characters -2, -1, -1.5; by bytes -2, -1, -0.5; by tokens -4, -2, -1.5.
    assert found.records[0] == {
        "item": 0,
        "gold": 0,
        "accuracy": 0,
        "accuracy_normalized": 1,
        "accuracy_bytes": 2,
        "accuracy_tokens": 2,
        "log_probabilities": [-4.0, -8.0, -4.5],
    }
    assert found.metrics["accuracy"] == 1.0
    shares = np.exp([-4.0, -8.0, -4.5]) / np.exp([-4.0, -8.0, -4.5]).sum()
    assert found.metrics["calibration_error"] == pytest.approx(1 - shares[0])
    assert found.metrics["brier"] == pytest.approx((1 - shares[0]) ** 2 + shares[1] ** 2 + shares[2] ** 2)
    assert found.baseline == pytest.approx(1 / 3)


def test_a_model_that_cannot_tell_wins_half_of_the_pairs():
    pairs = Task("p", "pairs", "f", good="g", bad="b", group="kind")
    items = [item(["a", "b"], 0, kind) for kind in ("x", "x", "y")]
    answers = [[Answer(-1.0, 1, 0), Answer(score, 1, 0)] for score in (-1.0, -2.0, 0.0)]
    found = measure_choices(pairs, items, answers, Resampling(0))
    assert found.metrics["accuracy"] == pytest.approx(0.5)
    assert found.groups == [["x", "accuracy", 0.75, 2], ["y", "accuracy", 0.0, 1]]
    assert found.metrics["accuracy_group_mean"] == pytest.approx(0.375)


def test_continuations():
    task = Task("c", "continuation", "f", prompt="x", continuation="y")
    answers = [[Answer(-2.0, 3, 3)], [Answer(-4.0, 3, 2)]]
    found = measure_continuations(task, [item(["a"], 0)] * 2, answers, Resampling(0))
    assert found.metrics == {"accuracy": 0.5, "perplexity": pytest.approx(math.exp(3.0))}


@given(st.lists(st.tuples(st.floats(0.01, 1.0), st.booleans()), min_size=1, max_size=60), st.integers(1, 15))
def test_calibration_error_is_guos(pairs: list[tuple[float, bool]], bins: int):
    error, rows = calibration([c for c, _ in pairs], [float(r) for _, r in pairs], bins)
    total = 0.0
    for number in range(bins):
        # The bins of equation 2: (m / M, (m + 1) / M].
        mine = [(c, r) for c, r in pairs if number < c * bins <= number + 1]
        if mine:
            total += abs(sum(r for _, r in mine) - sum(c for c, _ in mine)) / len(pairs)
    assert error == pytest.approx(total, abs=1e-12)
    assert sum(row["count"] for row in rows) == len(pairs)


def test_bootstrap_errors_are_near_the_formula():
    values = (np.random.default_rng(0).random(500) < 0.3).astype(float)
    formula = values.std(ddof=1) / math.sqrt(len(values))
    assert bootstrap_error(values, 2000, 1) == pytest.approx(formula, rel=0.06)
    assert bootstrap_error(values, 2000, 1) == bootstrap_error(values, 2000, 1)
    mean = bootstrap_error_of(lambda places: float(values[places].mean()), 500, 1000, 1)
    assert mean == pytest.approx(formula, rel=0.1)
    assert bootstrap_error(values, 0, 1) is None


def test_core_is_the_mean_of_what_lies_above_guessing():
    resolved = resolve(["core"])
    names = [task.name for task in resolved.tasks]
    scores = dict(zip(names, np.random.default_rng(1).random(len(names)), strict=True))
    measured = {
        task.name: Measured({task.main_metric: scores[task.name]}, {task.main_metric: 0.01}, 10, 0.9)
        for task in resolved.tasks
    }
    known = {"name": "m", "step": 5, "sha256": "", "trained_tokens": 1}
    document = results([Verdict(known, measured)], resolved.tasks, resolved, {})
    # DCLM's table of metadata, column "Random baseline", in per cent.
    guessing = dict.fromkeys(names, 0.0)
    guessing |= dict.fromkeys(
        ("core_hellaswag_zeroshot", "core_hellaswag", "core_arc_easy", "core_arc_challenge"), 25.0
    )
    guessing |= dict.fromkeys(("core_openbook_qa", "core_agi_eval_lsat_ar"), 25.0)
    guessing |= dict.fromkeys(("core_copa", "core_piqa", "core_winograd", "core_winogrande"), 50.0)
    guessing["core_commonsense_qa"] = 40.3
    wanted = np.mean([(scores[name] - 0.01 * guessing[name]) / (1 - 0.01 * guessing[name]) for name in names])
    assert document["metrics"]["core/centered_mean"] == pytest.approx(wanted)
    groups = document["tables"]["groups"]
    (row,) = groups["rows"]
    errors = [0.01 / (1 - 0.01 * guessing[name]) for name in names]
    wanted_error = np.sqrt(np.square(errors).sum()) / len(names)
    assert row[groups["columns"].index("standard_error")] == pytest.approx(wanted_error)
    assert "17 of 22 tasks; missing: bigbench_qa_wikidata" in document["lines"][0]


def test_texts_beside_references():
    written = ["The cat sat, on the mat.", "a dog", ""]
    references = [["the cat sat on a mat"], ["no", "A dog!"], ["x"]]
    steps = ("lower", "punctuation", "articles", "whitespace")
    scores, errors = score_texts(
        ("exact_match", "f1", "bleu", "chrf", "rougeL"), written, references, normalize=steps, resamples=20
    )
    assert scores["exact_match"] == pytest.approx(2 / 3)
    assert scores["f1"] == pytest.approx(2 / 3)
    assert score_texts(["f1"], ["red big dog"], [["a big cat"]])[0]["f1"] == pytest.approx(2 / 5)
    assert 0 < scores["rougeL"] < 1
    assert all(error is not None and error > 0 for error in errors.values())
    import sacrebleu

    one = ["the cat sat on the mat today"], [["the cat sat on a mat today"]]
    assert score_texts(["bleu"], *one)[0]["bleu"] == pytest.approx(sacrebleu.corpus_bleu(one[0], one[1]).score)
    chinese = score_texts(["rouge1", "f1"], ["我看书"], [["我买书"]], language="zh")[0]
    assert chinese == {"rouge1": pytest.approx(2 / 3), "f1": pytest.approx(2 / 3)}


def test_the_last_match_is_the_answer():
    assert extracted("so 3, then #### 12 and #### 14.", r"#### (\d+)") == "14"
    assert extracted("no number", r"\d+") == "no number"


def test_a_confidence_on_a_border_lies_in_the_lower_bin():
    _, rows = calibration([0.5, 1.0, 0.25], [1.0, 1.0, 0.0], 4)
    assert [row["count"] for row in rows] == [1, 1, 0, 1]
