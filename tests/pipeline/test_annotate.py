from __future__ import annotations

import pickle
import shutil
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from pydantic import ValidationError

from pipeline.annotate import SIGNALS_SCHEMA, Annotate, AnnotateConfig, batch_rows
from pipeline.language import identify, load_model
from pipeline.quality.c4 import C4Lines
from pipeline.quality.lines import Lines, line_rules
from pipeline.quality.signals import SIGNALS, measure
from pipeline.stage import StageError
from tests.pipeline.documents_stage import commit_documents, content, run
from tests.pipeline.lid import LID, needs_lid

ENGLISH = "The quick brown fox jumps over the lazy dog, and it is not the first time that it does so.\n"
CHINESE = "今天天气很好，我们打算去公园散步。\n"
SHARDS = ([ENGLISH * 3, "", CHINESE * 2, "12 {} ### ..."], [], ["Menu\n" + ENGLISH, "\n\x00\n"])


def annotate(ref, **values) -> Annotate:
    return Annotate(AnnotateConfig(language_model=str(LID), **values), {"deduplicate": ref})


@needs_lid
def test_one_row_of_signals_for_each_document_in_order(tmp_path: Path):
    ref = commit_documents(tmp_path, *SHARDS)
    _, committed = run(annotate(ref), tmp_path)
    files = committed.files("signals")
    assert [file.rows for file in files] == [4, 0, 2]
    for file, documents, texts in zip(files, ref.committed().files("documents"), SHARDS, strict=True):
        table = file.table()
        assert table.schema.equals(SIGNALS_SCHEMA)
        assert table["id"].equals(documents.table()["id"])
        assert table["source"].equals(documents.table()["source"])
        found = identify(load_model(str(LID)), pa.array(texts, pa.string()), 3)
        assert table["language"].to_pylist() == [*found.codes[0]]
        assert table["language_score"].to_pylist() == [*found.scores[0]]
        assert table["second_language"].to_pylist() == [*found.codes[1]]
        expected = measure(pa.array(texts, pa.string()), [*found.codes[0]], line_rules(Lines()))
        assert table.select([signal.name for signal in SIGNALS]).to_pylist() == expected.to_pylist()
    first = files[0].table().to_pylist()
    assert [row["language"] for row in first[:3]] == ["en", "und", "zh"]
    assert first[1]["second_language_score"] is None
    assert first[2]["stop_words"] > 0
    assert first[1]["stop_words"] is None


@needs_lid
def test_counts_and_summary(tmp_path: Path):
    _, committed = run(annotate(commit_documents(tmp_path, *SHARDS)), tmp_path)
    size = sum(len(text.encode()) for shard in SHARDS for text in shard)
    counts = committed.counts
    assert (counts["read"], counts["kept"], counts["dropped"]) == (6, 6, 0)
    assert counts["bytes_in"] == counts["bytes_out"] == size
    by_language = committed.manifest["summary"]["documents_by_language"]
    assert sum(by_language.values()) == 6
    assert by_language["en"] >= 2
    assert [*by_language.values()] == sorted(by_language.values(), reverse=True)
    assert len(committed.manifest["summary"]["model_languages"]) == 176


@needs_lid
def test_workers_batches_and_the_models_place_change_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    ref = commit_documents(tmp_path, *SHARDS)
    _, one = run(annotate(ref), tmp_path)
    shutil.copyfile(str(LID), tmp_path / "elsewhere.ftz")
    moved = Annotate(AnnotateConfig(language_model=str(tmp_path / "elsewhere.ftz")), {"deduplicate": ref})
    assert moved.fingerprint() == one.fingerprint
    _, two = run(pickle.loads(pickle.dumps(moved)), tmp_path / "other", workers=2)
    assert content(two) == content(one)
    monkeypatch.setattr("pipeline.annotate._BATCH_ROWS", 1)
    _, three = run(annotate(ref), tmp_path / "third")
    rows = [[file.table().to_pylist() for file in done.files("signals")] for done in (one, three)]
    assert rows[0] == rows[1]


@needs_lid
def test_what_changes_the_content_changes_the_identity(tmp_path: Path):
    ref = commit_documents(tmp_path, ["a"])
    other = tmp_path / "other.ftz"
    other.write_bytes(Path(str(LID)).read_bytes().replace(b"__label__en\0", b"__label__xx\0"))
    stages = [
        annotate(ref),
        annotate(ref, language_bytes=100),
        annotate(ref, lines=Lines(c4=C4Lines(policy=False))),
        Annotate(AnnotateConfig(language_model=str(other)), {"deduplicate": ref}),
    ]
    assert len({stage.fingerprint() for stage in stages}) == 4
    assert str(tmp_path) not in str(stages[3].identity())


def test_a_missing_model_fails_before_any_work(tmp_path: Path):
    ref = commit_documents(tmp_path, ["a"])
    stage = Annotate(AnnotateConfig(language_model=str(tmp_path / "gone.ftz")), {"deduplicate": ref})
    with pytest.raises(ValueError, match="no language identification model"):
        stage.fingerprint()


def test_a_damaged_model_names_the_unit(tmp_path: Path):
    (tmp_path / "bad.ftz").write_bytes(b"bad" * 100)
    ref = commit_documents(tmp_path, ["a"])
    stage = Annotate(AnnotateConfig(language_model=str(tmp_path / "bad.ftz")), {"deduplicate": ref})
    with pytest.raises(StageError, match="not a fastText model"):
        run(stage, tmp_path)


def test_batches_hold_16_mebibytes_of_text(tmp_path: Path):
    def rows(*texts: str) -> int:
        pq.write_table(
            pa.table({"id": ["x"] * len(texts), "text": texts}), tmp_path / "t.parquet", use_dictionary=False
        )
        with pq.ParquetFile(tmp_path / "t.parquet") as parquet:
            return batch_rows(parquet)

    assert rows(*["short"] * 10) == 1024
    assert rows("x" * 4_000_000, "y" * 4_000_000) == 4
    assert rows("x" * 40_000_000) == 1
    assert rows() == 1


def test_config_errors():
    with pytest.raises(ValidationError, match="language_bytes"):
        AnnotateConfig(language_bytes=1)
    with pytest.raises(ValidationError, match="minimum_word"):
        AnnotateConfig(lines={"c4": {"minimum_word": 2}})


@needs_lid
def test_lists_of_words_and_urls_add_their_columns(tmp_path: Path):
    lists = tmp_path / "lists"
    lists.mkdir()
    (lists / "en").write_text("mill\n")
    categories = tmp_path / "categories/adult"
    categories.mkdir(parents=True)
    (categories / "domains").write_text("example.org\n")
    ref = commit_documents(tmp_path, ["The mill stands where the river bends, and the mill is old.", ""])
    stage = annotate(ref, word_lists={"path": str(lists)}, url_categories={"path": str(categories.parent)})
    _, committed = run(stage, tmp_path)
    first, second = committed.files("signals")[0].table().to_pylist()
    assert (first["bad_words"], first["url_categories"]) == (2, "adult")
    assert (second["bad_words"], second["url_categories"]) == (None, "adult")
    before = stage.fingerprint()
    (lists / "en").write_text("mill\nriver\n")
    assert annotate(ref, word_lists={"path": str(lists)}).fingerprint() != before
    with pytest.raises(ValueError, match="gone"):
        annotate(ref, word_lists={"path": str(tmp_path / "gone")}).fingerprint()
