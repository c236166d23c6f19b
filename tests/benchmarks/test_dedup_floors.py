"""Floors of what deduplication finds, on planted documents and, where they are at hand, on labelled ones."""

from __future__ import annotations

from pathlib import Path

import pytest

from benchmarks.dedup_quality import LABELLED, headrace, planted, scores
from benchmarks.duplicates import COPIES, TEMPLATES

LABELLED_FOLDER = Path(__file__).parents[2] / "../shared/data/dup"
at_hand = pytest.mark.skipif(not LABELLED_FOLDER.is_dir(), reason=f"no labelled documents in {LABELLED_FOLDER}")


@pytest.fixture(scope="module")
def found(tmp_path_factory: pytest.TempPathFactory) -> dict[bool, dict[str, float]]:
    """Scores with verification and without."""
    folder = tmp_path_factory.mktemp("planted")
    (labels,) = planted(folder / "corpus", 2000)
    return {
        verify: scores(
            labels, headrace(folder / "corpus" / "documents", folder / str(verify), workers=0, verify=verify)
        )
        for verify in (True, False)
    }


def test_verified_precision(found: dict[bool, dict[str, float]]) -> None:
    assert found[True]["precision"] >= 0.99
    assert found[False]["precision"] < 0.5, "the templates should have tempted"


def test_no_page_of_a_template_goes(found: dict[bool, dict[str, float]]) -> None:
    assert {found[True][f"taken for duplicates, {kind}"] for kind in TEMPLATES} == {0.0}


def test_verified_recall_is_that_of_plain_minhash(found: dict[bool, dict[str, float]]) -> None:
    assert found[True]["recall"] >= found[False]["recall"] - 0.01
    for kind in COPIES:  # 40 pairs of each kind: one may go astray
        assert found[True][f"recall, {kind}"] >= found[False][f"recall, {kind}"] - 0.026, kind


def test_recall_of_close_copies(found: dict[bool, dict[str, float]]) -> None:
    assert found[True]["recall, exact"] == 1
    for kind in ("edited 1%", "edited 2%", "truncated 95%", "embedded 105%"):
        assert found[True][f"recall, {kind}"] >= 0.95, kind


@at_hand
@pytest.mark.parametrize(
    ("name", "floors"),
    [
        ("gutenberg-editions", {"precision": 0.999, "recall": 0.999, "exact sets": 0.998}),
        ("mccormick_1000", {"precision": 1, "recall": 1, "exact sets": 1}),
    ],
)
def test_labelled(name: str, floors: dict[str, float], tmp_path: Path) -> None:
    labels, *_ = LABELLED[name](tmp_path / "corpus", LABELLED_FOLDER)
    result = scores(labels, headrace(tmp_path / "corpus" / "documents", tmp_path / "ours", workers=0))
    assert all(result[measure] >= floor for measure, floor in floors.items()), result
