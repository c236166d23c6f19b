from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from pipeline.decontamination.benchmarks import BenchmarkConfig, items
from pipeline.decontamination.config import GPT3, Cut, DecontaminateConfig, Strict
from pipeline.decontamination.overlaps import Overlaps
from pipeline.decontamination.stage import MATCHES_SCHEMA, Decontaminate
from pipeline.documents import DOCUMENT_SCHEMA
from pipeline.execution import run_stage
from pipeline.stage import StageError
from pipeline.store import Committed, StageRef, Store
from tests.pipeline.decontamination import reference
from tests.pipeline.documents_stage import Documents, DocumentsConfig, content, run

QUIZ = [
    "Which river is the longest of all those that flow through the town of the seven mills and into the sea?",
    "Who wrote the letters that were found under the floor of the old post office when it was taken down?",
    "How many?",
]
CHINESE_QUIZ = ["下列哪一项不属于水轮机的主要组成部分，请从给出的四个选项中选出唯一正确的答案来", "什么"]
PROSE = "The mill stands at the second bend of the river, and people have come here for longer than anyone remembers. "
CHINESE = "这条河在流到镇子之前拐了两个弯，磨坊就在第二个弯那里。人们带着粮食来到这里，已经有很多年了。"
TEXTS = [
    PROSE * 5,
    PROSE * 5 + QUIZ[0].upper() + " " + PROSE * 5,
    QUIZ[1] + " It was a clerk.",
    CHINESE * 8 + CHINESE_QUIZ[0] + "。" + CHINESE * 8,
    "",
    (PROSE * 5 + QUIZ[1] + " ") * 11 + PROSE * 5,
    QUIZ[2] + " " + QUIZ[0][:32] + " " + PROSE,
]
TOUCHED = [1, 2, 3, 5]


def benchmarks(folder: Path) -> list[BenchmarkConfig]:
    folder.mkdir(parents=True, exist_ok=True)
    quiz, chinese = folder / "quiz.jsonl", folder / "zh.csv"
    quiz.write_text("".join(json.dumps({"id": f"q{n}", "text": text}) + "\n" for n, text in enumerate(QUIZ)))
    chinese.write_text("text\n" + "\n".join(CHINESE_QUIZ), encoding="utf-8")
    return [
        BenchmarkConfig(name="quiz", path=str(quiz), fields=["text"], id_field="id"),
        BenchmarkConfig(name="zh", path=str(chinese), fields=["text"]),
    ]


def config(root: Path, **values: Any) -> DecontaminateConfig:
    # The shortest items would make n 8 everywhere: the median tells 13 from 8.
    values = {"gpt3": GPT3(length_percentile=50), **values}
    return DecontaminateConfig(benchmarks=benchmarks(root / "benchmarks"), **values)


class Filtered(Documents):
    name = "filter"


class Masked(Documents):
    name = "privacy"


def documents(root: Path, *shards: list[str], of: type[Documents] = Filtered) -> dict[str, StageRef]:
    stage = of(DocumentsConfig(shards=[*shards]), {})
    run_stage(stage, Store.at(root), 0)
    return {stage.name: Store.at(root).ref(stage.name, stage.fingerprint())}


def rows(committed: Committed, kind: str) -> list[dict[str, Any]]:
    return [row for file in committed.files(kind) for row in file.table().to_pylist()]


def expected(
    root: Path, settled: DecontaminateConfig
) -> tuple[list[reference.Match], dict[int, list[tuple[int, int]]]]:
    entries = [item for benchmark in settled.benchmarks for item in items(benchmark)]
    matches, spans = reference.find(TEXTS, entries, settled)
    return matches, {n: [span[1:] for span in spans if span[0] == n] for n in {span[0] for span in spans}}


@pytest.mark.parametrize("rule", ["gpt3", "strict"])
def test_cut_keeps_what_the_plain_rule_keeps_and_the_ledger_says_what_went(tmp_path: Path, rule: str):
    settled = config(tmp_path, rule=rule, cut=Cut(window_characters=150))
    inputs = documents(tmp_path, TEXTS)
    _, committed = run(Decontaminate(settled, inputs), tmp_path)
    before = rows(inputs["filter"].committed(), "documents")
    matches, spans = expected(tmp_path, settled)
    assert sorted(spans) == TOUCHED
    lengths = reference.gram_words([item for benchmark in settled.benchmarks for item in items(benchmark)], settled)
    after = {number: reference.cut(TEXTS[number], found, settled.cut) for number, found in spans.items()}
    kept = {before[n]["id"]: after[n][1] if n in after else text for n, text in enumerate(TEXTS)}
    kept = {key: text for key, text in kept.items() if text is not None}
    assert {row["id"]: row["text"] for row in rows(committed, "documents")} == kept
    assert [row["id"] for row in rows(committed, "documents")] == [*kept]

    ledger = rows(committed, "ledger")
    assert [row["id"] for row in ledger] == [before[number]["id"] for number in TOUCHED]
    for row, number in zip(ledger, TOUCHED, strict=True):
        text = after[number][1]
        mine = [match for match in matches if match.document == number]
        longest = max(match.end - match.begin for match in mine)
        assert row["action"] == ("dropped" if text is None else "edited")
        assert (row["stage"], row["rule"], row["twin"]) == ("decontaminate", f"decontaminate.{rule}", None)
        assert row["value"] == longest
        first = next(match for match in mine if match.end - match.begin == longest)
        assert row["threshold"] == lengths[first.text]
        assert row["bytes"] == len(TEXTS[number].encode()) - len((text or "").encode())
        detail = json.loads(row["detail"])
        assert detail == {
            "benchmark": "zh" if number == 3 else "quiz",
            "item": {1: "q0", 2: "q1", 3: "zh.csv:0", 5: "q1"}[number],
            "begin": first.begin_byte,
            "end": first.end_byte,
            "matches": len(mine),
            "pieces": len(after[number][0]),
        }
    assert [row["action"] for row in ledger] == ["edited", "dropped", "edited", "dropped"]
    counts = committed.counts
    assert (counts["read"], counts["kept"], counts["dropped"], counts["edited"]) == (7, 5, 2, 2)
    assert counts["bytes_in"] == sum(len(text.encode()) for text in TEXTS)
    assert counts["bytes_out"] == sum(len(text.encode()) for text in kept.values())
    assert counts["bytes_in"] - counts["bytes_out"] == sum(row["bytes"] for row in ledger)


def test_matches_and_summary(tmp_path: Path):
    settled = config(tmp_path)
    inputs = documents(tmp_path, TEXTS[:3], [], TEXTS[3:])
    _, committed = run(Decontaminate(settled, inputs), tmp_path)
    before = rows(inputs["filter"].committed(), "documents")
    found, _ = expected(tmp_path, settled)
    assert all(file.table().schema.equals(MATCHES_SCHEMA) for file in committed.files("matches"))
    assert all(file.table().schema.equals(DOCUMENT_SCHEMA) for file in committed.files("documents"))
    entries = [item for benchmark in settled.benchmarks for item in items(benchmark)]
    assert rows(committed, "matches") == [
        {
            "id": before[match.document]["id"],
            "source": before[match.document]["source"],
            "benchmark": entries[match.text].benchmark,
            "item": entries[match.text].item_id,
            "begin": match.begin_byte,
            "end": match.end_byte,
            "words": match.end - match.begin,
            "item_coverage": match.covered / len(reference.words(entries[match.text].text)),
            "rule": "gpt3",
        }
        for match in found
    ]
    summary = committed.manifest["summary"]
    assert (summary["rule"], summary["action"]) == ("gpt3", "cut")
    quiz, chinese = summary["benchmarks"]["quiz"], summary["benchmarks"]["zh"]
    length = {text: len(reference.words(text)) for text in (QUIZ[0], QUIZ[1])}
    assert quiz == {
        "config": "quiz",
        "digest": settled.benchmarks[0].sources()[0].sha256,
        "rule": "gpt3",
        "action": "cut",
        "ngram_words": 13,
        "items": 3,
        "checked": 2,
        "unchecked": 1,
        "found": 2,
        "documents": 3,
        "words": length[QUIZ[0]] + 2 * length[QUIZ[1]],
    }
    assert (chinese["items"], chinese["unchecked"], chinese["found"], chinese["documents"]) == (2, 1, 1, 1)


def test_drop_and_annotate(tmp_path: Path):
    inputs = documents(tmp_path, TEXTS)
    _, dropped = run(Decontaminate(config(tmp_path, action="drop"), inputs), tmp_path)
    assert [row["text"] for row in rows(dropped, "documents")] == [TEXTS[0], TEXTS[4], TEXTS[6]]
    assert [row["action"] for row in rows(dropped, "ledger")] == ["dropped"] * 4
    assert [row["bytes"] for row in rows(dropped, "ledger")] == [len(TEXTS[n].encode()) for n in TOUCHED]
    assert "pieces" not in json.loads(rows(dropped, "ledger")[0]["detail"])
    _, noted = run(Decontaminate(config(tmp_path, action="annotate"), inputs), tmp_path)
    assert [row["text"] for row in rows(noted, "documents")] == TEXTS
    assert rows(noted, "ledger") == []
    assert rows(noted, "matches") == rows(dropped, "matches")
    assert noted.manifest["summary"]["benchmarks"]["quiz"]["action"] == "annotate"


def test_coverage_decides_in_the_strict_rule(tmp_path: Path):
    half = " ".join(QUIZ[0].split()[:11])
    inputs = documents(tmp_path, [PROSE + half, PROSE + QUIZ[0]])
    values: dict[str, Any] = {"rule": "strict", "action": "drop"}
    for coverage, kept, value in ((0.5, 0, 11 / 21), (0.7, 1, 1.0)):
        settled = config(tmp_path, strict=Strict(minimum_coverage=coverage), **values)
        _, committed = run(Decontaminate(settled, inputs), tmp_path)
        assert committed.counts["kept"] == kept
        assert rows(committed, "ledger")[0]["value"] == value
        assert {row["threshold"] for row in rows(committed, "ledger")} == {coverage}


def test_results_do_not_depend_on_batches_shards_or_workers(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    settled = config(tmp_path)
    whole = documents(tmp_path, TEXTS * 2)
    _, first = run(Decontaminate(settled, whole), tmp_path)
    monkeypatch.setattr("pipeline.decontamination.stage.batch_rows", lambda _: 3)
    _, again = run(Decontaminate(settled, whole), tmp_path / "other" / "..", 0)
    assert content(again) == content(first)
    store = tmp_path / "second"
    _, small = run(Decontaminate(settled, documents(store, TEXTS * 2)), store)
    for kind in ("documents", "ledger", "matches"):
        assert rows(small, kind) == rows(first, kind)
    monkeypatch.undo()
    third = tmp_path / "third"
    _, parallel = run(Decontaminate(settled, documents(third, TEXTS, TEXTS)), third, 2)
    assert [row["text"] for row in rows(parallel, "documents")] == [row["text"] for row in rows(first, "documents")]
    assert [row["detail"] for row in rows(parallel, "ledger")] == [row["detail"] for row in rows(first, "ledger")]


def test_frequent_ngrams_are_ignored_with_the_counts_of_the_corpus(tmp_path: Path):
    proverb = QUIZ[0]
    shards = [[f"{PROSE}{number}. {proverb}" for number in range(6)], [f"{number}. {proverb}" for number in range(5)]]
    rare = QUIZ[1]
    inputs = documents(tmp_path, shards[0], [*shards[1], rare])
    rule = GPT3(length_percentile=50, maximum_documents=10)
    settled = config(tmp_path, action="drop", gpt3=rule)
    counts, counted = run(Overlaps(settled, inputs), tmp_path)
    assert counted.counts["kept"] == 12
    _, committed = run(Decontaminate(settled, {**inputs, "overlaps": counts}), tmp_path)
    assert [json.loads(row["detail"])["item"] for row in rows(committed, "ledger")] == ["q1"]
    more = config(tmp_path, action="drop", gpt3=rule.model_copy(update={"maximum_documents": 11}))
    _, committed = run(Decontaminate(more, {**inputs, "overlaps": counts}), tmp_path)
    assert committed.counts["dropped"] == 12

    with pytest.raises(ValueError, match="needs the stage 'overlaps'"):
        Decontaminate(settled, inputs)
    with pytest.raises(ValueError, match="nothing else does"):
        Decontaminate(config(tmp_path), {**inputs, "overlaps": counts})
    other = documents(tmp_path, ["other"])
    with pytest.raises(ValueError, match="of other documents"):
        run(Decontaminate(settled, {**other, "overlaps": counts}), tmp_path)
    longer = config(tmp_path, gpt3=GPT3(maximum_documents=10))
    with pytest.raises(ValueError, match="of other benchmarks or lengths"):
        run(Decontaminate(longer, {**inputs, "overlaps": counts}), tmp_path)


def test_identity_follows_content_and_settings_in_use(tmp_path: Path):
    inputs = documents(tmp_path, TEXTS)
    base = Decontaminate(config(tmp_path), inputs).fingerprint()
    assert Decontaminate(config(tmp_path / "elsewhere"), inputs).fingerprint() == base
    assert Decontaminate(config(tmp_path, strict=Strict(words=9)), inputs).fingerprint() == base  # not in use
    changed: list[dict[str, Any]] = [
        {"rule": "strict"}, {"action": "drop"}, {"cut": Cut(window_characters=1)}, {"maximum_items": 5},
        {"gpt3": GPT3()}, {"unspaced_characters_per_word": 1.5},
    ]  # fmt: skip
    prints = {Decontaminate(config(tmp_path, **values), inputs).fingerprint() for values in changed}
    assert len(prints | {base}) == len(changed) + 1
    settled = config(tmp_path)
    Path(settled.benchmarks[0].path).write_text('{"id": 1, "text": "another"}')
    assert Decontaminate(settled, inputs).fingerprint() != base


def test_a_benchmark_that_changes_or_breaks_fails_before_any_work(tmp_path: Path):
    inputs = documents(tmp_path, TEXTS)
    settled = config(tmp_path, maximum_items=77)
    stage = Decontaminate(settled, inputs)
    stage.fingerprint()
    path = Path(settled.benchmarks[0].path)
    path.write_text('{"id": 1, "text": "another"}')
    with pytest.raises((ValueError, StageError), match="changed while the run used them"):
        run(stage, tmp_path)
    path.unlink()
    with pytest.raises(ValueError, match="benchmark 'quiz': no file at"):
        Decontaminate(settled, inputs).fingerprint()
