from __future__ import annotations

import json
import os
import pickle
import shutil
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from pipeline.documents import DOCUMENT_SCHEMA, document_id
from pipeline.execution import run_stage
from pipeline.ingest import Ingest
from pipeline.ledger import LEDGER_SCHEMA
from pipeline.sources import IngestConfig, Limits, SourceConfig, read_unit
from pipeline.stage import StageError
from pipeline.store import Committed, Store, file_sha256
from tests.pipeline.sources.helpers import gz, html, http, warc_record, wiki_dump, wiki_page, zstd


@pytest.fixture(autouse=True)
def own_cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HEADRACE_CACHE", str(tmp_path / "cache"))


def corpus(root: Path) -> Path:
    """One source of each format, with something broken in each."""
    root.mkdir()
    pages = [wiki_page(f"T{n}", f"Artikel {n}. " * 30, redirect="T1" if n % 5 == 0 else None) for n in range(40)]
    (root / "wiki.xml").write_bytes(wiki_dump(pages))
    crawl = [gz(warc_record(http(html(f"page {n} " * 40)), f"http://a.test/{n}")) for n in range(40)]
    crawl[7] = crawl[7][:-9] + b"wrong!!!!"
    (root / "crawl.warc.gz").write_bytes(b"".join(crawl))
    lines = [json.dumps({"text": f"line {n} \ud800", "stars": n}) for n in range(300)]
    lines[5], lines[6] = "broken", '{"text": "  "}'
    (root / "rows.jsonl.zst").write_bytes(zstd("\n".join(lines).encode()))
    pq.write_table(pa.table({"text": [f"row {n}" for n in range(100)] + [None]}), root / "rows.parquet")
    (root / "text").mkdir()
    for number in range(30):
        (root / f"text/{number:02}.txt").write_text(f"file {number}" if number != 9 else "")
    (root / "text/bad.txt").write_bytes(b"\xff\xfe\xfd\xfc"[1:])
    return root


def config(root: Path, unit_bytes: int = 3000, **changes) -> IngestConfig:
    sources = (
        SourceConfig(name="wiki", format="wikipedia", path=str(root / "wiki.xml"), license="CC-BY-SA-4.0"),
        SourceConfig(name="crawl", format="warc", path=str(root / "*.warc.gz")),
        SourceConfig(name="lines", format="jsonl", path=str(root / "rows.jsonl.zst"), metadata_fields=("stars",)),
        SourceConfig(name="rows", format="parquet", path=str(root / "rows.parquet")),
        SourceConfig(name="texts", format="text", path=str(root / "text"), language="en"),
    )
    return IngestConfig(sources=sources, unit_bytes=unit_bytes, **changes)


def ingest(config: IngestConfig, store: Path, workers: int = 0) -> Committed:
    return run_stage(Ingest(config, {}), Store.at(store), workers)


def documents(committed: Committed) -> pa.Table:
    return pa.concat_tables(file.table() for file in committed.files("documents"))


def ledger(committed: Committed) -> list[dict]:
    return pa.concat_tables(file.table() for file in committed.files("ledger")).to_pylist()


def digests(committed: Committed) -> list[tuple[str, str]]:
    return [(file.kind, file.sha256) for kind in ("documents", "ledger") for file in committed.files(kind)]


def test_every_format_becomes_documents_and_ledger_rows(tmp_path: Path):
    committed = ingest(config(corpus(tmp_path / "in")), tmp_path / "store")
    table = documents(committed)
    assert table.schema.equals(DOCUMENT_SCHEMA)
    counts: dict[str, int] = {}
    for source in table["source"].to_pylist():
        counts[source] = counts.get(source, 0) + 1
    assert counts == {"wiki": 32, "crawl": 39, "lines": 298, "rows": 100, "texts": 29}
    for row in table.to_pylist():
        assert row["id"] == document_id(row["source"], row["locator"], row["text"].encode())
        assert row["text"] == row["text"].strip() != ""
    assert len(set(table["id"].to_pylist())) == table.num_rows
    rows = ledger(committed)
    assert sorted((row["source"], row["action"], row["rule"]) for row in rows) == sorted(
        [("wiki", "dropped", "redirect")] * 8
        + [
            ("crawl", "rejected", "broken_stream"),
            ("lines", "rejected", "broken_record"),
            ("lines", "dropped", "empty"),
            ("rows", "rejected", "missing_field"),
            ("texts", "rejected", "empty"),
            ("texts", "rejected", "undecodable_bytes"),
        ]
    )
    assert {row["stage"] for row in rows} == {"ingest"}
    for row in rows:
        assert (row["id"] is not None) == (row["action"] == "dropped")
    assert next(row["detail"] for row in rows if row["rule"] == "undecodable_bytes").startswith("bad.txt#0: no utf-8")
    text_bytes = sum(len(text.encode()) for text in table["text"].to_pylist())
    redirects = sum(row["bytes"] or 0 for row in rows)
    expected = {"read": 507, "kept": 498, "dropped": 9, "edited": 0, "rejected": 5}
    assert committed.counts == {**expected, "bytes_in": text_bytes + redirects, "bytes_out": text_bytes}


def test_one_shard_holds_one_source(tmp_path: Path):
    committed = ingest(config(corpus(tmp_path / "in")), tmp_path / "store")
    files = committed.files("documents")
    assert len(files) > 8
    for file in files:
        assert len(file.table()["source"].unique()) <= 1


def test_documents_do_not_depend_on_units_workers_or_place(tmp_path: Path):
    first = ingest(config(corpus(tmp_path / "in")), tmp_path / "one")
    parallel = ingest(config(tmp_path / "in"), tmp_path / "two", workers=2)
    assert digests(parallel) == digests(first)
    shutil.copytree(tmp_path / "in", tmp_path / "elsewhere/in")
    moved = ingest(config(tmp_path / "elsewhere/in"), tmp_path / "three")
    assert digests(moved) == digests(first)
    assert moved.fingerprint == first.fingerprint
    other = ingest(config(tmp_path / "in", unit_bytes=1 << 30), tmp_path / "four")
    assert other.fingerprint != first.fingerprint
    assert documents(other).equals(documents(first))
    assert len(other.files("documents")) == 5


def test_the_identity_is_content_and_not_place(tmp_path: Path):
    stage = Ingest(config(corpus(tmp_path / "in")), {})
    identity = stage.identity()
    assert str(tmp_path) not in json.dumps(identity)
    described = identity["sources"][0]["files"]
    expected = file_sha256(tmp_path / "in/wiki.xml")
    assert described == [{"name": "wiki.xml", "bytes": (tmp_path / "in/wiki.xml").stat().st_size, "sha256": expected}]
    same = Ingest(config(tmp_path / "in"), {})
    assert same.fingerprint() == stage.fingerprint()
    (tmp_path / "in/text/00.txt").write_text("file X")
    assert Ingest(config(tmp_path / "in"), {}).fingerprint() != stage.fingerprint() == same.fingerprint()
    limits = Limits(max_document_bytes=5)
    assert Ingest(config(tmp_path / "in", limits=limits), {}).fingerprint() != stage.fingerprint()


def test_units_are_named_for_people_and_carry_their_weight(tmp_path: Path):
    units = Ingest(config(corpus(tmp_path / "in")), {}).units()
    assert [unit.index for unit in units] == list(range(len(units)))
    names = [unit.name for unit in units]
    assert names[0].startswith("wiki wiki.xml [0:")
    assert names[-1] == "texts 00.txt and 30 more"
    assert not any(str(tmp_path) in name for name in names)
    size = sum(path.stat().st_size for path in (tmp_path / "in").rglob("*") if path.is_file())
    assert 0.9 * size < sum(unit.weight for unit in units) <= size
    json.dumps([unit.spec for unit in units])


def test_the_stage_travels_to_workers(tmp_path: Path):
    stage = Ingest(config(corpus(tmp_path / "in")), {})
    copy = pickle.loads(pickle.dumps(stage))
    assert copy.units() == stage.units()


def test_nothing_is_read_where_a_path_is_wrong(tmp_path: Path):
    source = SourceConfig(name="gone", format="text", path=str(tmp_path / "gone.txt"))
    with pytest.raises(ValueError, match=r"source 'gone': there is no file .*gone\.txt"):
        ingest(IngestConfig(sources=(source,)), tmp_path / "store")
    assert not list((tmp_path / "store").rglob("*.parquet"))


def test_a_file_that_changes_during_the_run_fails_it(tmp_path: Path):
    corpus(tmp_path / "in")
    for name in ("rows.parquet", "wiki.xml", "text/03.txt"):
        stage = Ingest(config(tmp_path / "in"), {})
        stage.fingerprint()
        file = tmp_path / "in" / name
        file.write_bytes(file.read_bytes() + b" ")
        with pytest.raises((StageError, ValueError), match=rf"{file.name}.* start the run again"):
            run_stage(stage, Store.at(tmp_path / "store"), 0)


def test_a_file_that_changes_behind_the_plan_fails_its_unit(tmp_path: Path):
    stage = Ingest(config(corpus(tmp_path / "in")), {})
    units = stage.units()
    file = tmp_path / "in/wiki.xml"
    status = file.stat()
    os.utime(file, ns=(status.st_atime_ns, status.st_mtime_ns + 10))
    with pytest.raises(ValueError, match="start the run again"):
        list(read_unit(units[0].spec))


def test_large_sources_are_streamed_in_batches(tmp_path: Path):
    file = tmp_path / "a.jsonl"
    file.write_bytes(b"".join(b'{"text": "%07d %s"}\n' % (n, b"x" * 990) for n in range(12_000)))
    source = SourceConfig(name="big", format="jsonl", path=str(file))
    committed = ingest(IngestConfig(sources=(source,)), tmp_path / "store")
    (shard,) = committed.files("documents")
    metadata = pq.read_metadata(shard.path)
    assert metadata.num_rows == 12_000
    assert metadata.num_row_groups >= 3
    assert [text[:7] for text in shard.table()["text"].to_pylist()] == [f"{n:07}" for n in range(12_000)]


def test_a_corpus_of_nothing_is_committed_as_such(tmp_path: Path):
    (tmp_path / "a.txt").write_text(" \n")
    source = SourceConfig(name="none", format="text", path=str(tmp_path / "a.txt"))
    committed = ingest(IngestConfig(sources=(source,)), tmp_path / "store")
    assert documents(committed).num_rows == 0
    assert [(row["action"], row["rule"]) for row in ledger(committed)] == [("dropped", "empty")]
    assert committed.files("ledger")[0].table().schema.equals(LEDGER_SCHEMA)
    assert committed.counts["read"] == committed.counts["dropped"] == 1
