"""The report's section on suites: one row a score; what is known of contamination is said once where it is the same."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

from pipeline.report.facts import TaskScore
from pipeline.report.suites import suites_section

NOT_CLEANED = "the corpus was NOT cleaned of this set"


def section_of(*scores: TaskScore) -> str:
    facts: Any = SimpleNamespace(suites=scores)
    return str(suites_section(facts))


def test_a_run_that_was_not_judged_has_no_section() -> None:
    facts: Any = SimpleNamespace(suites=())
    assert suites_section(facts) is None


def test_the_newest_checkpoint_has_the_table_and_all_have_a_chart() -> None:
    early = TaskScore("copa", "accuracy", 100, 0.51, 0.05, 0.5, 100)
    late = TaskScore("copa", "accuracy", 1000, 0.64, 0.05, 0.5, 100)
    shown = section_of(late, early)
    assert "<b>0.640</b>" in shown
    assert "<b>0.510</b>" not in shown
    assert "accuracy 0.510 to 0.640" in shown
    assert "step 100, 1,000" in shown


def test_what_holds_for_all_sets_is_said_once() -> None:
    mean = TaskScore("core", "centered_mean", 10, 0.1)
    scores = [TaskScore(name, "accuracy", 10, 0.5, items=9, contamination=NOT_CLEANED) for name in ("copa", "piqa")]
    shown = section_of(mean, *scores)
    assert shown.count(NOT_CLEANED) == 1
    assert "Contamination" not in shown
    clean = TaskScore("arc", "accuracy", 10, 0.5, items=9, contamination="3 of 9 items were found")
    shown = section_of(mean, *scores, clean)
    assert shown.count(NOT_CLEANED) == 2
    assert "Contamination" in shown
