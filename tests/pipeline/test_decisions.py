from __future__ import annotations

import math
import threading

import pyarrow as pa
import pytest

from pipeline.decisions import check_decisions, columns_of, decide

SIGNALS = pa.table(
    {
        "id": ["a", "b", "c", "d"],
        "words": pa.array([10, 200, None, 50], pa.int64()),
        "language": ["en", "zh", "en", None],
        "language_score": [0.9, 0.4, 0.7, float("nan")],
    }
)


def test_a_condition_decides_on_each_document():
    (found,) = decide({"long": "words >= 50 OR language = 'zh'"}, SIGNALS)
    assert found.rule == "decisions.long"
    assert found.signal == "words, language"
    assert found.failed.tolist() == [True, False, False, False]
    assert [None if math.isnan(value) else value for value in found.values] == [0, 1, None, 1]
    assert found.source == "the recipe: words >= 50 OR language = 'zh'"


def test_conditions_stand_in_the_order_of_the_recipe():
    found = decide({"b": "words > 20", "a": "words > 5"}, SIGNALS)
    assert [one.rule for one in found] == ["decisions.b", "decisions.a"]


def test_a_condition_without_a_column_holds_for_all():
    (found,) = decide({"none": "1 = 2"}, SIGNALS)
    assert found.failed.all()


def test_no_document_is_decided_on_in_an_empty_shard():
    (found,) = decide({"long": "words > 5"}, SIGNALS.schema.empty_table())
    assert len(found.values) == 0


@pytest.mark.parametrize(
    ("condition", "message"),
    [
        ("words >", "is no SQL expression"),
        ("", "not true or false"),
        ("words > 3; DROP TABLE signals", "is no SQL expression"),
        ("words > 3 FROM signals", "is no SQL expression"),
        ("words > 3, language = 'en'", "not true or false"),
        ("words > (SELECT avg(words) FROM signals)", "a query inside the expression"),
        ("words > avg(words) OVER ()", "a window over documents"),
        ("words > max(words)", "the function max looks at more than one document"),
        ("random() < 0.5", "the function random may give another answer"),
        ("now() > '2020-01-01'", "the function now may give another answer"),
        ("read_text('/etc/hostname') IS NULL", "the function read_text looks at more"),
        ("wrds > 3", "no column 'wrds'; did you mean 'words'"),
        ("words", "is int64, not true or false"),
        ("words > 'many'", "Conversion Error"),
        ("nothing_like_it(words) > 1", "does not exist"),
    ],
)
def test_what_is_no_condition_on_one_document_is_refused(condition: str, message: str):
    with pytest.raises(ValueError, match=message) as caught:
        check_decisions({"mine": condition}, SIGNALS.schema)
    assert "decisions.mine" in str(caught.value)


def test_columns_of_a_condition():
    assert columns_of("x", "lower(language) IN ('en') AND words BETWEEN 1 AND words + language_score") == [
        "language",
        "words",
        "language_score",
    ]


def test_threads_may_decide_at_once():
    results: list[bool] = []

    def work(least: int) -> None:
        for _ in range(20):
            (found,) = decide({"long": f"words >= {least}"}, SIGNALS)
            results.append(bool(found.failed[0]) == (least > 10))

    threads = [threading.Thread(target=work, args=(least,)) for least in (5, 20, 100)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(results) == 60
    assert all(results)
