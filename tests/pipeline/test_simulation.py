from __future__ import annotations

from pathlib import Path

import pytest

from pipeline.filter import Filter, FilterConfig
from pipeline.simulation import simulate
from pipeline.store import StageRef
from tests.pipeline.documents_stage import run
from tests.pipeline.lid import needs_lid
from tests.pipeline.test_filter import CHINESE, CONFIG, PROSE, TEXTS, annotated, rows

pytestmark = needs_lid


def changed(**values: object) -> FilterConfig:
    return FilterConfig.model_validate({**CONFIG.model_dump(exclude_unset=True), **values})


def decided(config: FilterConfig, inputs: dict[str, StageRef], root: Path) -> dict[str, str]:
    _, committed = run(Filter(config, inputs), root)
    return {row["id"]: row["rule"] for row in rows(committed, "ledger") if row["action"] == "dropped"}


def test_a_simulation_says_what_the_filter_would_do(tmp_path: Path):
    inputs = annotated(tmp_path, TEXTS[:6], TEXTS[6:], [PROSE + "More.\n", CHINESE + "还有。"])
    after = changed(
        language={"allowed": ["en", "es"], "minimum_score": 0.5},
        c4={"maximum_curly_brackets": None, "minimum_kept_sentences": 1},
        gopher_repetition=None,
    )
    before_run, after_run = decided(CONFIG, inputs, tmp_path / "a"), decided(after, inputs, tmp_path / "b")
    found = simulate(inputs, CONFIG, after, examples=100)
    documents = rows(inputs["deduplicate"].committed(), "documents")
    assert found.documents == len(documents)
    assert found.measured_documents == 0
    assert {one.id for one in found.newly_dropped} == after_run.keys() - before_run.keys()
    assert {one.id for one in found.newly_kept} == before_run.keys() - after_run.keys()
    assert {one.id: one.rule for one in found.newly_dropped}.items() <= after_run.items()
    assert {one.id: one.rule for one in found.newly_kept}.items() <= before_run.items()
    assert {"es", "zh"} <= {one.language for one in (*found.newly_dropped, *found.newly_kept)}
    for one in (*found.newly_dropped, *found.newly_kept):
        (document,) = [document for document in documents if document["id"] == one.id]
        assert (one.source, one.locator, one.url) == tuple(document[key] for key in ("source", "locator", "url"))
        assert one.excerpt == document["text"][:200]
    for counted, decisions in ((found.rules_before, before_run), (found.rules_after, after_run)):
        assert counted == {rule: [*decisions.values()].count(rule) for rule in set(decisions.values())}
    assert sum(change.documents for change in found.changes) == len(documents)
    for decisions, kept, size in (
        (before_run, "kept_before", "bytes_before"),
        (after_run, "kept_after", "bytes_after"),
    ):
        staying = [document for document in documents if document["id"] not in decisions]
        assert sum(getattr(change, kept) for change in found.changes) == len(staying)
        assert sum(getattr(change, size) for change in found.changes) == sum(
            len(document["text"].encode()) for document in staying
        )
    by_group = {(change.source, change.language): change for change in found.changes}
    assert by_group["source-2", "zh"].newly_dropped == 1
    assert by_group["source-0", "es"].newly_kept == 1


def test_examples_are_bounded_and_the_same_on_every_run(tmp_path: Path):
    inputs = annotated(tmp_path, [PROSE + f"Number {number} of many.\n" for number in range(12)], [PROSE])
    after = changed(decisions={"none": "words < 0"})
    found = simulate(inputs, CONFIG, after, examples=3)
    assert len(found.newly_dropped) == 3
    ids = [row["id"] for row in rows(inputs["deduplicate"].committed(), "documents")]
    assert [one.id for one in found.newly_dropped] == sorted(ids)[:3]
    assert simulate(inputs, CONFIG, after, examples=3).as_json() == found.as_json()
    assert simulate(inputs, CONFIG, after, examples=0).newly_dropped == []


def test_nothing_is_written(tmp_path: Path):
    inputs = annotated(tmp_path, TEXTS)
    before = sorted(tmp_path.rglob("*"))
    simulate(inputs, CONFIG, changed(decisions={"none": "words < 0"}))
    assert sorted(tmp_path.rglob("*")) == before


def test_a_configuration_that_the_signals_do_not_allow_is_refused(tmp_path: Path):
    inputs = annotated(tmp_path, TEXTS[:2])
    with pytest.raises(ValueError, match="knows no 'klingon'"):
        simulate(inputs, CONFIG, changed(language={"allowed": ["klingon"]}))
    with pytest.raises(ValueError, match="no column 'nothing'"):
        simulate(inputs, CONFIG, changed(decisions={"some": "nothing > 3"}))
