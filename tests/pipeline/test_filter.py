from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pyarrow as pa
import pytest
from pydantic import ValidationError

from pipeline.annotate import Annotate, AnnotateConfig
from pipeline.documents import DOCUMENT_SCHEMA
from pipeline.filter import Filter, FilterConfig, evaluate, verdicts
from pipeline.quality.c4 import C4, C4Lines
from pipeline.quality.gopher import GopherQuality
from pipeline.quality.language import LanguageRules
from pipeline.quality.lines import Lines
from pipeline.quality.refinedweb import RefinedWeb
from pipeline.stage import StageError
from pipeline.store import StageRef
from tests.pipeline.documents_stage import commit_documents, content, run
from tests.pipeline.lid import LID, needs_lid
from tests.pipeline.text import reference

pytestmark = needs_lid

PROSE = (
    "The river bends twice before it reaches the town, and the mill stands at the second bend. "
    "People have come here with their grain for longer than anyone can remember. "
    "In spring the water is high and the wheel turns fast; by August it hardly moves. "
    "That is when the miller repairs his gear, reads the papers, and waits to hear of rain.\n"
)
CHINESE = (
    "这条河在流到镇子之前拐了两个弯，磨坊就在第二个弯那里。人们带着粮食来到这里，已经有很多年了。"
    "春天水位很高，轮子转得很快；到了八月，它几乎不动。那时候磨坊主会修理他的机器，看看报纸，等待下雨的消息。"
    "没有人知道磨坊是谁建造的，老人们说它比教堂还要古老。\n"
)
SPANISH = "El río da dos vueltas antes de llegar al pueblo, y el molino está en la segunda. " * 8
C4_LINES = "c4_lines"
CASES = [
    (PROSE, None),
    (PROSE + "Menu\n" + "We use cookies to make this page much better for you.\n", C4_LINES),
    (CHINESE, None),
    (SPANISH, "language.allowed"),
    ("", "language.allowed"),
    ("The mill is at the bend of the river.", "gopher_quality.minimum_words"),
    (PROSE + "# " * 60, "gopher_quality.maximum_hash_to_word_ratio"),
    (PROSE + (PROSE[:88] + "\n") * 5, "gopher_repetition.maximum_duplicate_line_fraction"),
    (PROSE + "Call the function like this: f = {a: 1}\n", "c4.maximum_curly_brackets"),
    (PROSE + "Lorem ipsum dolor sit amet.\n", "c4.maximum_lorem_ipsum_lines"),
    ("\n".join(PROSE.replace(". ", " ").split(" ")), "c4.minimum_kept_lines"),
    (PROSE.replace(". ", " and ").replace("; ", " and "), "c4.minimum_kept_sentences"),
]
TEXTS = [text for text, _ in CASES]
RULES = [rule for _, rule in CASES]
CONFIG = FilterConfig(language=LanguageRules(allowed=["en", "zh"], minimum_score=0.5))


def annotated(root: Path, *shards: list[str], **values: Any) -> dict[str, StageRef]:
    documents = commit_documents(root, *shards)
    stage = Annotate(AnnotateConfig(language_model=str(LID), **values), {"deduplicate": documents})
    return {"deduplicate": documents, "annotate": run(stage, root)[0]}


def rows(committed, kind: str) -> list[dict[str, Any]]:
    return [row for file in committed.files(kind) for row in file.table().to_pylist()]


def test_each_document_goes_by_the_rule_made_for_it(tmp_path: Path):
    inputs = annotated(tmp_path, TEXTS[:5], [], TEXTS[5:])
    _, committed = run(Filter(CONFIG, inputs), tmp_path)
    before = rows(inputs["deduplicate"].committed(), "documents")
    signals = {row["id"]: row for row in rows(inputs["annotate"].committed(), "signals")}
    ledger = rows(committed, "ledger")
    decided = {row["id"]: row["rule"] for row in ledger}
    assert [decided.get(document["id"]) for document in before] == RULES
    for row in ledger:
        document = next(document for document in before if document["id"] == row["id"])
        assert row["source"] == document["source"]
        assert row["stage"] == "filter"
        assert row["detail"] == (signals[row["id"]]["language"] if row["rule"] == "language.allowed" else None)
        if row["action"] == "dropped":
            assert row["bytes"] == len(document["text"].encode())
            below = row["value"] < row["threshold"]
            assert below == ("minimum" in row["rule"] or row["rule"] == "language.allowed")
            if row["rule"].startswith(("gopher", "c4")):
                signal = row["rule"].partition(".")[2].removeprefix("minimum_").removeprefix("maximum_")
                assert row["value"] == signals[row["id"]][signal if signal in signals[row["id"]] else f"c4_{signal}"]
        else:
            assert (row["rule"], row["value"], row["threshold"]) == (C4_LINES, 2, None)
            assert row["bytes"] == len(document["text"].encode()) - len(
                reference.remove_lines(document["text"])[0].encode()
            )


def test_kept_documents_are_edited_and_get_their_language(tmp_path: Path):
    inputs = annotated(tmp_path, TEXTS)
    _, committed = run(Filter(CONFIG, inputs), tmp_path)
    before = inputs["deduplicate"].committed().files("documents")[0].table().to_pylist()
    table = committed.files("documents")[0].table()
    assert table.schema.equals(DOCUMENT_SCHEMA)
    for document, row in zip([before[0], before[1], before[2]], table.to_pylist(), strict=True):
        assert row == {
            **document,
            "text": reference.remove_lines(document["text"])[0],
            "language": "zh" if document["text"] == CHINESE else "en",
        }
    counts = committed.counts
    assert (counts["read"], counts["kept"], counts["dropped"], counts["edited"]) == (12, 3, 9, 1)
    assert counts["bytes_in"] == sum(len(text.encode()) for text in TEXTS)
    assert counts["bytes_out"] == sum(len(text.encode()) for text in table["text"].to_pylist())


def test_sets_and_rules_can_be_switched_off(tmp_path: Path):
    inputs = annotated(tmp_path, TEXTS)
    nothing = FilterConfig(language=None, gopher_quality=None, gopher_repetition=None, c4=None)
    _, committed = run(Filter(nothing, inputs), tmp_path)
    kept = committed.files("documents")[0].table()
    assert kept["text"].to_pylist() == TEXTS
    assert kept["language"].to_pylist()[4] == "und"
    assert committed.files("ledger")[0].rows == 0
    with pytest.raises(ValueError, match="nothing to evaluate"):
        verdicts(nothing, inputs["annotate"].committed().files("signals")[0].table())

    only = FilterConfig(
        language=None,
        gopher_quality=GopherQuality(minimum_words=None, minimum_stop_words=None),
        gopher_repetition=None,
        c4=C4(remove_lines=False, maximum_curly_brackets=None, minimum_kept_sentences=None),
    )
    _, committed = run(Filter(only, inputs), tmp_path)
    dropped = {row["rule"] for row in rows(committed, "ledger")}
    assert dropped == {
        "gopher_quality.minimum_mean_word_length",  # the empty document
        "gopher_quality.maximum_hash_to_word_ratio",
        "c4.maximum_lorem_ipsum_lines",
    }
    assert TEXTS[1] in [row["text"] for row in rows(committed, "documents")]


def test_line_rules_are_those_of_annotate(tmp_path: Path):
    inputs = annotated(tmp_path, [TEXTS[1]], lines=Lines(c4=C4Lines(policy=False)))
    _, committed = run(Filter(CONFIG, inputs), tmp_path)
    assert committed.counts["edited"] == 1
    assert "use cookies" in committed.files("documents")[0].table()["text"].to_pylist()[0]


def test_all_rules_are_evaluated_not_only_the_first(tmp_path: Path):
    signals = annotated(tmp_path, TEXTS)["annotate"].committed().files("signals")[0].table()
    found = evaluate(CONFIG, signals)
    order = [item.rule.partition(".")[0] for item in found]
    assert [*dict.fromkeys(order)] == ["language", "gopher_quality", "gopher_repetition", "c4"]
    table = verdicts(CONFIG, signals)
    assert table.num_rows == len(found) * len(TEXTS)
    of_menu = table.filter(pa.array([id_ == signals["id"][4].as_py() for id_ in table["id"].to_pylist()])).to_pylist()
    failed = [row["rule"] for row in of_menu if row["verdict"] == "fail"]
    assert failed[0] == "language.allowed"
    assert {"language.minimum_score", "gopher_quality.minimum_words", "c4.minimum_kept_lines"} < {*failed}
    assert [row["rule"] for row in of_menu if row["decisive"]] == ["language.allowed"]
    of_chinese = {row["rule"]: row for row in table.to_pylist() if row["id"] == signals["id"][2].as_py()}
    assert of_chinese["gopher_quality.minimum_mean_word_length"]["verdict"] == "off"
    assert of_chinese["gopher_quality.minimum_words"]["threshold"] == 80
    assert {row["verdict"] for row in of_chinese.values()} == {"pass", "off"}
    unmeasured = {row["rule"]: row["verdict"] for row in of_menu}
    assert unmeasured["gopher_quality.minimum_stop_words"] == "not measured"


def test_workers_and_batches_change_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    inputs = annotated(tmp_path, TEXTS[:6], TEXTS[6:])
    _, one = run(Filter(CONFIG, inputs), tmp_path / "one")
    _, two = run(Filter(CONFIG, inputs), tmp_path / "two", workers=2)
    assert content(one) == content(two)
    monkeypatch.setattr("pipeline.annotate._BATCH_ROWS", 1)
    _, three = run(Filter(CONFIG, inputs), tmp_path / "three")
    for kind in ("documents", "ledger"):
        assert rows(one, kind) == rows(three, kind)
    assert one.manifest["counts"] == three.manifest["counts"]


def test_a_corpus_from_which_nothing_stays(tmp_path: Path):
    inputs = annotated(tmp_path, ["", "a"])
    _, committed = run(Filter(FilterConfig(), inputs), tmp_path)
    assert committed.counts["kept"] == 0
    assert committed.files("documents")[0].table().schema.equals(DOCUMENT_SCHEMA)
    inputs = annotated(tmp_path / "empty")
    _, committed = run(Filter(FilterConfig(), inputs), tmp_path / "empty")
    assert committed.counts["read"] == 0


def test_an_unknown_language_is_refused_with_what_is_near(tmp_path: Path):
    inputs = annotated(tmp_path, ["a"])
    config = FilterConfig(language=LanguageRules(allowed=["en", "zhh"]))
    with pytest.raises(ValueError, match="knows no 'zhh'; did you mean 'zh"):
        Filter(config, inputs).units()


def test_signals_of_other_documents_are_refused(tmp_path: Path):
    inputs = annotated(tmp_path, ["a"])
    inputs["deduplicate"] = commit_documents(tmp_path, ["b"])
    with pytest.raises(ValueError, match="another deduplicate run"):
        Filter(CONFIG, inputs).units()


def test_signals_in_another_order_fail_the_unit(tmp_path: Path):
    inputs = annotated(tmp_path, [PROSE, CHINESE])
    file = inputs["annotate"].committed().files("signals")[0]
    table = file.table()
    Path(file.path).unlink()
    import pyarrow.parquet as pq

    pq.write_table(table.take([1, 0]), file.path)
    with pytest.raises(StageError, match="do not match; run the annotate stage again"):
        run(Filter(CONFIG, inputs), tmp_path)


def test_decisions_of_the_recipe_come_last_and_tell_what_they_saw(tmp_path: Path):
    inputs = annotated(tmp_path, [PROSE, PROSE + CHINESE, CHINESE, "a b"])
    config = FilterConfig(
        language=None,
        gopher_quality=None,
        gopher_repetition=None,
        c4=None,
        decisions={"english": "language = 'en' AND language_score > 0.5", "whole": "words > 20 OR lines IS NULL"},
    )
    _, committed = run(Filter(config, inputs), tmp_path)
    ledger = rows(committed, "ledger")
    assert {row["rule"] for row in ledger} == {"decisions.english"}
    chinese = next(row for row in ledger if row["bytes"] == len(CHINESE.encode()))
    assert (chinese["value"], chinese["threshold"]) == (0.0, 1.0)
    assert json.loads(chinese["detail"])["language"] == "zh"
    assert committed.counts["kept"] == 4 - len(ledger)


def test_a_decision_on_a_signal_that_does_not_exist_fails_before_any_work(tmp_path: Path):
    inputs = annotated(tmp_path, [PROSE])
    with pytest.raises(ValueError, match="no column 'wrods'; did you mean 'words'"):
        Filter(FilterConfig(decisions={"long": "wrods > 3"}), inputs).units()
    with pytest.raises(ValidationError, match="may give another answer"):
        FilterConfig(decisions={"some": "random() < 0.5"})
    with pytest.raises(ValidationError, match="decisions"):
        FilterConfig(decisions={"Bad name": "words > 3"})


@pytest.mark.parametrize("name", ["toxicity", "perplexity"])
def test_a_rule_whose_signal_was_not_measured_fails_before_any_work(tmp_path: Path, name: str):
    inputs = annotated(tmp_path, [PROSE])
    with pytest.raises(ValueError, match="the signals have no column"):
        Filter(FilterConfig.model_validate({name: {}}), inputs).units()


def test_all_sets_of_rules_can_be_on(tmp_path: Path):
    inputs = annotated(tmp_path, TEXTS[:6], TEXTS[6:])
    config = FilterConfig.model_validate(
        {name: {} for name in ("fineweb", "fineweb2", "refinedweb", "encoding", "chinese")}
    )
    _, committed = run(Filter(config, inputs), tmp_path)
    assert committed.counts["read"] == len(TEXTS)
    signals = inputs["annotate"].committed().files("signals")[0].table()
    names = [item.rule.partition(".")[0] for item in evaluate(config, signals)]
    assert [*dict.fromkeys(names)] == [
        *("language", "gopher_quality", "gopher_repetition", "c4", "fineweb", "fineweb2"),
        *("refinedweb", "encoding", "chinese"),
    ]


def test_two_sets_of_rules_for_lines_are_counted_apart(tmp_path: Path):
    text = PROSE * 4 + "Menu\n12345\nSHOP ALL OUR NEW ARRIVALS AND OFFERS\n"
    inputs = annotated(tmp_path, [text, PROSE])
    config = FilterConfig(language=None, gopher_quality=None, gopher_repetition=None, c4=C4(), refinedweb=RefinedWeb())
    _, committed = run(Filter(config, inputs), tmp_path)
    ledger = {row["rule"]: row for row in rows(committed, "ledger")}
    assert {rule: row["value"] for rule, row in ledger.items()} == {"c4_lines": 2, "refinedweb_lines": 1}
    assert committed.counts["edited"] == 1
    kept = {row["id"]: row["text"] for row in rows(committed, "documents")}
    left = kept[ledger["c4_lines"]["id"]]
    assert "SHOP" not in left
    assert "Menu" not in left
    removed = sum(row["bytes"] for row in ledger.values())
    assert removed == len(text.encode()) - len(left.encode())
    assert committed.counts["bytes_in"] - committed.counts["bytes_out"] == removed


def test_a_changed_threshold_measures_no_document_again(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    inputs = annotated(tmp_path, TEXTS[:6], TEXTS[6:])
    run(Filter(CONFIG, inputs), tmp_path)

    def measured(*_: Any) -> None:
        raise AssertionError("a document was measured again")

    for place in ("pipeline.annotate.measure", "pipeline.annotate.identify", "pipeline.quality.signals.measure"):
        monkeypatch.setattr(place, measured)
    changed = CONFIG.model_copy(update={"gopher_quality": GopherQuality(minimum_words=5)})
    ref, committed = run(Filter(changed, inputs), tmp_path)
    assert ref.fingerprint != Filter(CONFIG, inputs).fingerprint()
    assert committed.counts["read"] == len(TEXTS)
    assert "gopher_quality.minimum_words" not in {row["rule"] for row in rows(committed, "ledger")}


def test_a_category_that_was_not_looked_for_is_refused(tmp_path: Path):
    inputs = annotated(tmp_path, [PROSE])
    config = FilterConfig.model_validate({"toxicity": {"blocked_categories": ["adult"], "maximum_bad_words": None}})
    with pytest.raises(ValueError, match="does not look for 'adult'; it looks for: none"):
        Filter(config, inputs).units()


def test_mixed_documents_and_foreign_scripts_can_go(tmp_path: Path):
    inputs = annotated(tmp_path, [PROSE * 4, PROSE * 3 + CHINESE * 3])
    config = FilterConfig.model_validate(
        {
            **dict.fromkeys(("gopher_quality", "gopher_repetition", "c4")),
            "language": {"minimum_score": None, "maximum_other_language_fraction": 0.2},
        }
    )
    _, committed = run(Filter(config, inputs), tmp_path)
    (row,) = rows(committed, "ledger")
    assert row["rule"] == "language.maximum_other_language_fraction"
    assert 0.2 < row["value"] < 0.8
    script = FilterConfig.model_validate(
        {
            **dict.fromkeys(("gopher_quality", "gopher_repetition", "c4")),
            "language": {"minimum_score": None, "minimum_script_fraction": 0.9},
        }
    )
    _, committed = run(Filter(script, inputs), tmp_path)
    assert [row["rule"] for row in rows(committed, "ledger")] == ["language.minimum_script_fraction"]
