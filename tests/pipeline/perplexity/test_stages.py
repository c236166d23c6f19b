from __future__ import annotations

import pickle
from dataclasses import replace
from pathlib import Path
from typing import Any

import fsspec
import numpy as np
import pyarrow as pa
import pytest
from pydantic import ValidationError

from benchmarks.perplexity import write_arpa
from pipeline.perplexity.buckets import PerplexityRules
from pipeline.perplexity.file import load, save
from pipeline.perplexity.stages import (
    PERPLEXITY_SCHEMA,
    Perplexity,
    PerplexityConfig,
    PerplexityModel,
    PerplexityModelConfig,
    measure,
    sampled_rows,
)
from pipeline.stage import Stage, StageError
from pipeline.store import Committed, StageRef
from tests.pipeline.documents_stage import commit_documents, content, run
from tests.pipeline.perplexity.corpora import prose, shuffled, train
from tests.pipeline.perplexity.signals_stage import commit_signals

CHINESE = "水在渠里流。渠在山下。山在水边。人在渠边走。"
REFERENCE = [*(prose(seed, 30) for seed in range(12)), *[CHINESE * 3] * 4, "..."]
WEB = [prose(50, 9), shuffled(prose(51, 9), 1), "", CHINESE, "Дом стоит у реки.", prose(52, 9)]
MORE = [prose(seed, 6) for seed in range(60, 70)]
LANGUAGES = (
    ["en"] * 12 + ["zh"] * 4 + ["en"],
    ["en", "en", "und", "zh", "ru", "en"],
    [],
    ["en"] * 10,
)
SETTINGS: dict[str, Any] = {"sources": ["source-0"], "minimum_words": 100}


@pytest.fixture(scope="module")
def inputs(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, dict[str, StageRef]]:
    root = tmp_path_factory.mktemp("store")
    documents = commit_documents(root, REFERENCE, WEB, [], MORE)
    return root, {"deduplicate": documents, "annotate": commit_signals(root, documents, *LANGUAGES)}


def models(inputs: dict[str, StageRef], **values: Any) -> PerplexityModel:
    return PerplexityModel(PerplexityModelConfig(**values), inputs)


def measured(root: Path, inputs: dict[str, StageRef], model: Stage[Any], **values: Any) -> Committed:
    ref, _ = run(model, root)
    return run(Perplexity(PerplexityConfig(**values), {**inputs, "perplexity_model": ref}), root)[1]


def column(committed: Committed) -> list[list[float | None]]:
    return [file.table()["perplexity"].to_pylist() for file in committed.files("signals")]


def test_one_model_for_each_language_of_the_references(inputs, tmp_path: Path):
    root, refs = inputs
    _, committed = run(models(refs, **SETTINGS), root)
    files = committed.files("models")
    assert [file.attributes["language"] for file in files] == ["en", "zh"]
    expected = [train(REFERENCE[:12]), train(REFERENCE[12:16])]
    for file, model in zip(files, expected, strict=True):
        found = load(file.path)
        assert found.facts == model.facts
        assert np.array_equal(found.slots, model.slots)
        assert file.attributes["words"] == model.facts.words
        assert file.attributes["order"] == 5
    assert committed.counts["trained_documents"] == 16 + 1
    assert [*committed.manifest["summary"]["models"]] == ["en", "zh"]
    _, few = run(models(refs, **{**SETTINGS, "minimum_words": 1000}), root)
    assert [file.attributes["language"] for file in few.files("models")] == ["en"]


def test_signals_stand_row_by_row_beside_the_documents(inputs):
    root, refs = inputs
    committed = measured(root, refs, models(refs, **SETTINGS))
    files = committed.files("signals")
    assert [file.rows for file in files] == [17, 6, 0, 10]
    for file, documents in zip(files, refs["deduplicate"].committed().files("documents"), strict=True):
        assert file.table().schema.equals(PERPLEXITY_SCHEMA)
        assert file.table()["id"].equals(documents.table()["id"])
    english, chinese = train(REFERENCE[:12]), train(REFERENCE[12:16])
    web = column(committed)[1]
    assert web[0:2] == english.perplexity(pa.array(WEB[0:2])).to_pylist()
    assert web[2] is None
    assert web[3] == chinese.perplexity(pa.array([CHINESE]))[0].as_py()
    assert web[4] is None
    assert web[1] > 2 * web[0]
    assert column(committed)[0][-1] is None
    counts = committed.counts
    assert (counts["read"], counts["kept"], counts["measured"]) == (33, 33, 16 + 4 + 10)
    assert counts["bytes_in"] == sum(len(text.encode()) for text in [*REFERENCE, *WEB, *MORE])


def test_percentiles_leave_the_references_out(inputs):
    root, refs = inputs
    committed = measured(root, refs, models(refs, **SETTINGS))
    found = committed.manifest["summary"]["languages"]
    assert [*found] == ["en", "zh"]
    values = np.array([*(column(committed)[1][i] for i in (0, 1, 5)), *column(committed)[3]])
    assert (found["en"]["documents"], found["en"]["reference_documents"], found["en"]["counted"]) == (25, 12, 13)
    assert PerplexityRules().cuts(committed.manifest["summary"])["en"] == pytest.approx(
        (np.percentile(values, 33.3), np.percentile(values, 66.7))
    )
    everything = measured(root, refs, models(refs, **SETTINGS), exclude_references=False)
    assert column(everything) == column(committed)
    with_references = np.concatenate([column(committed)[0][:12], values])
    languages = everything.manifest["summary"]["languages"]
    assert languages["en"]["quantiles"][500] == pytest.approx(np.median(with_references))
    assert languages["en"]["counted"] == 25


def test_a_language_with_nothing_but_references_counts_them(tmp_path: Path):
    documents = commit_documents(tmp_path, REFERENCE[:12])
    refs = {"deduplicate": documents, "annotate": commit_signals(tmp_path, documents, ["en"] * 12)}
    committed = measured(tmp_path, refs, models(refs, **SETTINGS))
    assert committed.manifest["summary"]["languages"]["en"]["counted"] == 12


def test_workers_and_batches_change_nothing(inputs, tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    root, refs = inputs
    model = models(refs, **SETTINGS)
    ref, one = run(model, root)
    stage = Perplexity(PerplexityConfig(), {**refs, "perplexity_model": ref})
    _, first = run(stage, root)
    documents = commit_documents(tmp_path, REFERENCE, WEB, [], MORE)
    others = {"deduplicate": documents, "annotate": commit_signals(tmp_path, documents, *LANGUAGES)}
    other, two = run(pickle.loads(pickle.dumps(models(others, **SETTINGS))), tmp_path, workers=2)
    _, second = run(Perplexity(PerplexityConfig(), {**others, "perplexity_model": other}), tmp_path, workers=2)
    assert (content(one), content(first)) == (content(two), content(second))
    assert first.manifest["summary"] == second.manifest["summary"]
    monkeypatch.setattr("pipeline.annotate._BATCH_ROWS", 1)
    third = tmp_path / "third"
    documents = commit_documents(third, REFERENCE, WEB, [], MORE)
    others = {"deduplicate": documents, "annotate": commit_signals(third, documents, *LANGUAGES)}
    assert column(measured(third, others, models(others, **SETTINGS))) == column(first)


def test_the_sample_is_bounded_and_drawn_by_id(inputs):
    _, refs = inputs
    signals = refs["annotate"].committed().files("signals")

    def taken(maximum: int, seed: int = 0) -> list[list[int]]:
        return [rows.tolist() for rows in sampled_rows(signals, ["source-0", "source-3"], "en", maximum, seed)]

    words = {(0, row): count for row, count in enumerate(signals[0].table()["words"].to_pylist())}
    words |= {(3, row): count for row, count in enumerate(signals[3].table()["words"].to_pylist())}
    whole = taken(10**6)
    assert whole == [[*range(12), 16], [], [], [*range(10)]]
    previous: set[tuple[int, int]] = set()
    for maximum in (100, 500, 1000, 2000):
        rows = {(shard, row) for shard, found in enumerate(taken(maximum)) for row in found}
        assert sum(words[key] for key in rows) <= maximum
        assert len(rows) > len(previous)
        previous = rows
    assert taken(1000) != taken(1000, seed=1)
    assert taken(0) in ([[], [], [], []], [[16], [], [], []])


def test_given_models_take_the_place_of_training(inputs, tmp_path: Path):
    root, refs = inputs
    with open(tmp_path / "ru.ngrams", "wb") as stream:
        save(train(["дом стоит у реки"] * 3), stream)
    write_arpa([prose(1, 20).lower().replace(".", "")], tmp_path / "en.arpa", 3, 1, [1])
    given = {"ru": str(tmp_path / "ru.ngrams"), "en": str(tmp_path / "en.arpa")}
    model = models(refs, **SETTINGS, models=given)
    _, committed = run(model, root)
    assert [(file.attributes["language"], file.attributes["order"]) for file in committed.files("models")] == [
        ("en", 3),
        ("ru", 5),
        ("zh", 5),
    ]
    assert column(measured(root, refs, model))[1][4] is not None
    fingerprint = model.fingerprint()
    (tmp_path / "moved").mkdir()
    moved = {name: str(Path(path).rename(tmp_path / "moved" / Path(path).name)) for name, path in given.items()}
    again = models(refs, **SETTINGS, models=moved)
    assert again.fingerprint() == fingerprint
    assert str(tmp_path) not in str(again.identity())
    Path(moved["ru"]).write_bytes(Path(moved["ru"]).read_bytes()[:-1])
    assert again.fingerprint() != fingerprint
    with pytest.raises(StageError, match="language ru.*cut off"):
        run(again, root)


def test_no_sources_and_no_models_measure_nothing(inputs):
    root, refs = inputs
    committed = measured(root, refs, models(refs))
    assert committed.counts["measured"] == 0
    assert committed.manifest["summary"] == {"languages": {}}
    assert {value for values in column(committed) for value in values} == {None}


def test_what_changes_the_content_changes_the_identity(inputs):
    _, refs = inputs
    base: dict[str, Any] = {"sources": ["source-0"]}
    changes = [{}, {"order": 4}, {"minimum_counts": [1]}, {"maximum_words": 500}, {"sample_seed": 1}, {"sources": []}]
    assert len({models(refs, **{**base, **change}).fingerprint() for change in changes}) == len(changes)


def test_mistakes_are_named(inputs, tmp_path: Path):
    root, refs = inputs
    with pytest.raises(ValueError, match=r"no document is of source 'wiki'; the sources are: source-0, source-1"):
        models(refs, sources=["source-0", "wiki"]).units()
    with pytest.raises(ValueError, match="there is no n-gram model at"):
        models(refs, models={"en": str(tmp_path / "gone")}).fingerprint()
    with pytest.raises(StageError, match="maximum_words"):
        run(models(refs, **{**SETTINGS, "maximum_words": 5}), root)
    with pytest.raises(ValidationError, match="minimum_counts"):
        PerplexityModelConfig(minimum_counts=[3, 1])
    other = commit_documents(tmp_path, ["another document"])
    with pytest.raises(ValueError, match="of another deduplicate run"):
        models({**refs, "deduplicate": other}, **SETTINGS).units()
    trained, _ = run(models(refs, **SETTINGS), root)
    fresh = commit_signals(root, refs["deduplicate"], *[["en"] * len(names) for names in LANGUAGES])
    stage = Perplexity(PerplexityConfig(), {**refs, "annotate": fresh, "perplexity_model": trained})
    with pytest.raises(ValueError, match="of another annotate run"):
        stage.units()


def test_signals_in_another_order_are_refused(inputs, tmp_path: Path):
    documents = commit_documents(tmp_path, REFERENCE[:12])
    refs = {"deduplicate": documents, "annotate": commit_signals(tmp_path, documents, ["en"] * 12, reverse=True)}
    with pytest.raises(StageError, match="signals and documents do not match"):
        measured(tmp_path, refs, models(refs))


def test_models_of_a_remote_store_are_read(tmp_path: Path):
    model = train(REFERENCE[:12])
    with fsspec.open("memory://store/perplexity_model/00000.ngrams", "wb") as stream:
        save(model, stream)
    paths = {"en": "memory://store/perplexity_model/00000.ngrams"}
    texts = pa.array([WEB[0], WEB[0]])
    found = measure(texts, pa.array(["en", "zh"]), paths)
    assert found[0] == model.perplexity(texts)[0].as_py()
    assert np.isnan(found[1])


def test_a_damaged_model_names_its_file(inputs):
    root, refs = inputs
    ref, committed = run(models(refs, **SETTINGS, sample_seed=9), root)
    path = Path(committed.files("models")[0].path)
    path.write_bytes(path.read_bytes()[:-8] + b"\xff" * 8)
    stage = Perplexity(PerplexityConfig(), {**refs, "perplexity_model": replace(ref)})
    with pytest.raises(StageError, match="does not match its digest"):
        run(stage, root)
