from __future__ import annotations

import json
import random
import shutil
import subprocess
import sys
from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import duckdb
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from pipeline.annotate import SIGNALS_SCHEMA, Annotate, AnnotateConfig
from pipeline.catalog import CATALOG, CatalogError, build, connect, explain, query
from pipeline.dedup.config import DedupConfig
from pipeline.dedup.decisions import DUPLICATES_SCHEMA
from pipeline.dedup.stages import Candidates, Deduplicate, Duplicates, PreferenceOrder, Signatures
from pipeline.documents import DOCUMENT_SCHEMA
from pipeline.execution import run_stage
from pipeline.filter import Filter, FilterConfig
from pipeline.ingest import Ingest
from pipeline.ledger import LEDGER_SCHEMA
from pipeline.privacy.config import PrivacyConfig
from pipeline.privacy.stage import Privacy
from pipeline.quality.lines import line_rules
from pipeline.quality.signals import measure
from pipeline.repeats.stages import Lines
from pipeline.sources import IngestConfig, SourceConfig
from pipeline.stage import Stage, Unit, UnitOutput, UnitRecord
from pipeline.store import Committed, StageRef, Store
from pipeline.tokens.stages import Tokenize, TokenizeConfig, TokenizerConfig, TrainTokenizer

WORKSPACE = 'it\'s a [workspace] of "mine", 100 %*'

_COMMON = """the of and to in that with have be for as was by it on are this from which all their will there when one
can her has more if no so out about who them some could time then other into than only its over also new very after
where water channel wheel mill river stone gate field house work year city people story garden window morning teacher
letter mountain paper summer market village bridge forest animal doctor engine silver winter basket captain island
kitchen carries stands turns builds grows brings holds leaves reaches follows crosses opens keeps finds makes gives"""
_WORDS = _COMMON.split()


def prose(number: int, sentences: int = 16) -> str:
    """Sentences that the rules have nothing against, other ones for each number."""
    chance = random.Random(number)
    made = [" ".join(chance.choices(_WORDS, k=chance.randint(8, 14))).capitalize() + "." for _ in range(sentences)]
    return "\n".join(" ".join(made[i : i + 2]) for i in range(0, sentences, 2))


class DeclaredLanguage(Annotate):
    """Annotate with the language that the source declares, so that no language model is needed."""

    def identity(self) -> dict[str, Any]:
        return {**self.config.model_dump(mode="json", exclude={"language_model"}), "annotators": []}

    def process(self, unit: Unit, output: UnitOutput) -> None:
        documents = self.inputs["deduplicate"].committed().files("documents")[unit.spec["file"]].table()
        documents = documents.combine_chunks()
        languages = documents["language"].to_pylist()
        measured = measure(documents["text"].combine_chunks(), languages, line_rules(self.config.lines))
        facts = {
            "id": documents["id"],
            "source": documents["source"],
            "language": documents["language"],
            "language_score": pa.array([0.9] * len(languages)),
            "other_language_fraction": pa.array([0.0] * len(languages)),
            **{name: measured[name] for name in measured.schema.names},
        }
        columns = [facts.get(field.name, pa.nulls(len(languages), field.type)) for field in SIGNALS_SCHEMA]
        output.write("signals", pa.table(columns, schema=SIGNALS_SCHEMA))
        output.count(read=len(languages), kept=len(languages))

    def summary(self, records: Sequence[UnitRecord]) -> dict[str, Any]:
        return {"model_languages": ["en", "zh"]}


class Run:
    """A corpus of two sources on its way through the real stages; `refs` are all of them from the start."""

    def __init__(self, workspace: Path) -> None:
        self.workspace = workspace
        self.store = Store.at(workspace / "store")
        self.stages: dict[str, Stage] = {}
        self.refs: dict[str, StageRef] = {}
        inputs = workspace / "input"
        inputs.mkdir(parents=True)
        self.texts = write_sources(inputs)
        docs = SourceConfig(name="docs", format="jsonl", path=(str(inputs / "docs.jsonl"),), language_field="language")
        pages = SourceConfig(name="pages", format="jsonl", path=(str(inputs / "pages.jsonl"),), language="en")
        self.deduplicated(DedupConfig(), docs, pages)
        self.add(DeclaredLanguage, AnnotateConfig(), "deduplicate")
        self.add(Filter, FilterConfig.model_validate({"language": {"allowed": ["en"]}}), "deduplicate", "annotate")
        self.add(TrainTokenizer, TokenizerConfig(vocabulary_size=400, validation_fraction=0.5), "filter")
        self.add(Tokenize, TokenizeConfig(), "filter", "tokenizer")

    def deduplicated(self, config: DedupConfig, *sources: SourceConfig, **known: StageRef) -> None:
        self.add(Ingest, IngestConfig(sources=sources))
        self.add(Signatures, config, "ingest")
        self.add(PreferenceOrder, config, "ingest", "signatures", **known)
        self.add(Candidates, config, "ingest", "signatures", "order", **known)
        self.add(Duplicates, config, "ingest", "signatures", "order", "candidates", **known)
        lines = ("lines",) if config.lines else ()
        for _ in lines:
            self.add(Lines, config, "ingest", "signatures", "order", "duplicates", **known)
        self.add(Deduplicate, config, "ingest", "duplicates", *lines)

    def add(self, stage_class: type[Stage], config: Any, *inputs: str, **others: StageRef) -> None:
        stage = stage_class(config, {**{name: self.refs[name] for name in inputs}, **others})
        self.stages[stage.name] = stage
        self.refs[stage.name] = self.store.ref(stage.name, stage.fingerprint())

    def commit(self, *names: str) -> None:
        for name in names or self.stages:
            run_stage(self.stages[name], self.store, workers=0)

    def rows(self, sql: str) -> list[dict[str, Any]]:
        return query(self.workspace, sql).to_pylist()

    def id_of(self, name: str) -> str:
        (row,) = [row for row in self.rows("FROM ingested") if row["text"] == self.texts[name]]
        return row["id"]


class LaterRun(Run):
    """New documents against those of an earlier run, as far as deduplication: the file `docs` again, and `news`."""

    def __init__(self, workspace: Path, earlier: Run) -> None:
        self.workspace = workspace
        self.store = Store.at(workspace / "store")
        self.stages = {}
        self.refs = {}
        self.known = earlier.refs["duplicates"]
        self.texts = {
            "near known": earlier.texts["good 3"].replace("water", "wine") + "\nThe news adds a sentence of its own.",
            "exact known": earlier.texts["good 5"].upper(),
            "same URL": prose(40),
            "fresh": prose(41),
            "near fresh": prose(41)[:-40],
        }
        urls = {"same URL": "http://www.example.org:80/zh#top"}
        rows = [{"text": text, "url": urls.get(name, f"https://news/{name}")} for name, text in self.texts.items()]
        folder = workspace / "input"
        folder.mkdir(parents=True)
        (folder / "news.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
        path = str(earlier.workspace / "input" / "docs.jsonl")
        docs = SourceConfig(name="docs", format="jsonl", path=(path,), language_field="language")
        news = SourceConfig(name="news", format="jsonl", path=(str(folder / "news.jsonl"),), language="en")
        self.deduplicated(DedupConfig(urls=True), docs, news, known=self.known)


def write_sources(folder: Path) -> dict[str, str]:
    """Write two JSONL files; return the texts by name. Of `pages` one record is broken and one is empty."""
    texts = {f"good {n}": prose(n) for n in range(8)}
    texts["near copy"] = texts["good 1"] + "\nAnd one more sentence stands at the very end of this copy of the text."
    texts["copy"] = texts["good 2"].upper()  # the same words: an exact duplicate to the normalised digest
    texts["short"] = "Too short."
    texts["edited"] = prose(20) + "\nHome | About\n" + prose(21)
    texts["chinese"] = "水车从河里引水到田里。" * 30
    docs = [{"text": texts[f"good {n}"], "url": f"https://example.org/{n}", "language": "en"} for n in range(6)]
    docs.append({"text": texts["chinese"], "url": "https://example.org/zh", "language": "zh"})
    pages = [{"text": texts[name], "url": f"https://example.com/{name}"} for name in texts if name not in ("chinese",)]
    pages = [page for page in pages if page["text"] not in {doc["text"] for doc in docs}]
    lines = [json.dumps(page) for page in pages]
    lines[2:2] = ['{"text": broken', json.dumps({"text": "", "url": "https://example.com/empty"})]
    (folder / "docs.jsonl").write_text("\n".join(json.dumps(doc) for doc in docs) + "\n")
    (folder / "pages.jsonl").write_text("\n".join(lines) + "\n")
    return texts


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Run:
    run = Run(tmp_path_factory.mktemp("catalog") / WORKSPACE)
    run.commit()
    build(run.workspace, run.refs)
    return run


@pytest.fixture(scope="module")
def later(tmp_path_factory: pytest.TempPathFactory, run: Run) -> LaterRun:
    later = LaterRun(tmp_path_factory.mktemp("later"), run)
    later.commit()
    build(later.workspace, later.refs, later.known)
    return later


def columns(run: Run) -> dict[str, list[tuple[str, str]]]:
    rows = run.rows(
        "SELECT table_name, column_name, data_type FROM duckdb_columns() WHERE NOT internal ORDER BY column_index"
    )
    found: dict[str, list[tuple[str, str]]] = {}
    for row in rows:
        found.setdefault(row["table_name"], []).append((row["column_name"], row["data_type"]))
    return found


def test_every_view_has_the_same_columns_before_and_after_the_run(tmp_path: Path, run: Run, later: LaterRun) -> None:
    fresh = Run(tmp_path / WORKSPACE)
    build(fresh.workspace, fresh.refs)
    assert set(columns(fresh)) >= {
        *("documents", "ingested", "ledger", "funnel", "funnel_by_source", "rules", "languages", "duplicates"),
        *("clusters", "known_documents", "signals", "shards", "tokens", "token_index", "stages"),
    }
    for view in columns(fresh):
        assert len(fresh.rows(f"FROM {view}")) == (len(fresh.refs) if view == "stages" else 0)
    assert columns(fresh) == columns(run)
    build(fresh.workspace, {})  # a run of which nothing is known yet
    assert columns(fresh) == columns(run) == columns(later)


def test_it_grows_with_the_run(tmp_path: Path) -> None:
    run = Run(tmp_path / "workspace")
    read = []
    for name in ("ingest", "signatures", "order", "candidates", "duplicates", "deduplicate", "annotate", "filter"):
        run.commit(name)
        build(run.workspace, run.refs)
        read.append([row["stage"] for row in run.rows("FROM funnel")])
        assert run.rows("SELECT count(*) AS n FROM documents")[0]["n"] == (9 if name == "filter" else 0)
    assert read[0] == ["ingest"]
    assert read[-1] == ["ingest", "deduplicate", "filter"]
    without_index = run.rows("FROM languages")
    run.commit()
    build(run.workspace, {name: ref.committed() for name, ref in run.refs.items()})  # Committed does as well
    with_index = run.rows("FROM languages")
    assert without_index == [{**row, "tokens": None} for row in with_index]
    assert with_index[0]["tokens"] > 0


def test_documents_are_those_that_the_filter_kept(run: Run) -> None:
    name_of = {text: name for name, text in run.texts.items()}
    kept = {name_of.get(row["text"], "edited") for row in run.rows("FROM documents")}
    near, exact = {"good 1", "near copy"}, {"good 2", "copy"}  # of which one stays, whichever it is
    assert kept - near - exact == {"good 0", "good 3", "good 4", "good 5", "good 6", "good 7", "edited"}
    assert len(kept & near) == len(kept & exact) == 1
    assert [row for row in run.rows("FROM documents") if row["text_bytes"] != len(row["text"].encode())] == []
    assert list(run.rows("SELECT DISTINCT language FROM documents")) == [{"language": "en"}]


def test_a_path_is_a_name_and_not_a_pattern(run: Run) -> None:
    matching = run.workspace.parent / WORKSPACE.replace("[workspace]", "w").replace("*", "x")
    shutil.copytree(run.workspace, matching)
    for path in [*matching.glob("store/ingest/*/documents/*"), *matching.glob("store/filter/*/documents/*")]:
        pq.write_table(pq.read_table(path).slice(0, 1), path)
    assert run.rows("SELECT count(*) AS n FROM documents") == [{"n": 9}]
    assert run.rows("SELECT count(*) AS n FROM ingested") == [{"n": len(run.texts)}]


def test_the_funnel_is_that_of_the_manifests(run: Run) -> None:
    for row in run.rows("FROM funnel"):
        counts = run.refs[row["stage"]].committed().counts
        assert {name: row[name] for name in row if name not in ("step", "stage")} == {
            name: counts[name] for name in ("read", "kept", "dropped", "rejected", "edited", "bytes_in", "bytes_out")
        }
    assert [row["stage"] for row in run.rows("FROM funnel")] == ["ingest", "deduplicate", "filter", "tokenize"]


def test_the_sources_add_up_to_the_funnel(run: Run) -> None:
    names = ("read", "kept", "dropped", "rejected", "edited", "bytes_in", "bytes_out")
    sums = ", ".join(f"sum({name})::BIGINT AS {name}" for name in names)
    by_source = run.rows(f"SELECT step, stage, {sums} FROM funnel_by_source GROUP BY step, stage ORDER BY step")
    assert by_source == run.rows(f"SELECT step, stage, {', '.join(names)} FROM funnel ORDER BY step")
    (last,) = run.rows("FROM funnel_by_source WHERE stage = 'tokenize' AND source = 'pages'")
    (kept,) = run.rows("SELECT count(*) AS n, sum(text_bytes)::BIGINT AS b FROM documents WHERE source = 'pages'")
    assert (last["kept"], last["bytes_out"]) == (kept["n"], kept["b"])


def test_funnel_by_source_reads_the_text_where_there_are_no_signatures(run: Run) -> None:
    whole = run.rows("FROM funnel_by_source WHERE stage = 'ingest'")
    other = {name: ref for name, ref in run.refs.items() if name != "signatures"}
    try:
        build(run.workspace, other)
        assert run.rows("SELECT * REPLACE (step AS step) FROM funnel_by_source WHERE stage = 'ingest'") == whole
    finally:
        build(run.workspace, run.refs)


def test_rules_count_the_ledger(run: Run) -> None:
    ledger = run.rows("FROM ledger")
    assert {row["action"] for row in ledger} == {"dropped", "edited", "rejected"}
    expected: Counter = Counter()
    for row in ledger:
        expected[row["stage"], row["rule"], row["source"], row["action"]] += 1
    rules = run.rows("FROM rules")
    assert {(r["stage"], r["rule"], r["source"], r["action"]): r["documents"] for r in rules} == expected
    assert sum(r["bytes"] for r in rules) == sum(row["bytes"] or 0 for row in ledger)


def written_duplicates(run: Run) -> list[dict[str, Any]]:
    (file,) = run.refs["duplicates"].committed().files("duplicates")
    return file.table().to_pylist()


def test_duplicates_are_those_of_the_stage(run: Run, later: LaterRun) -> None:
    for each, rules in ((run, {"exact", "minhash"}), (later, {"exact", "minhash", "url"})):
        own = each.refs["ingest"].fingerprint
        duplicates = each.rows(f"SELECT {', '.join(DUPLICATES_SCHEMA.names)} FROM duplicates ORDER BY shard, row")
        assert duplicates == written_duplicates(each)
        assert {row["rule"] for row in duplicates} == rules
        assert {row["id"] for row in duplicates} == {
            row["id"] for row in each.rows("FROM ledger WHERE stage = 'deduplicate'")
        }
        places = {(row["id"], row["ingest"]): row for row in each.rows("FROM ingested UNION ALL FROM known_documents")}
        for row in each.rows("FROM duplicates"):
            gone, stays = places[row["id"], own], places[row["twin"], row["twin_ingest"]]
            for name in ("source", "locator", "url"):
                assert (row[name], row[f"twin_{name}"]) == (gone[name], stays[name])
            assert row["twin_known"] == (row["twin_ingest"] != own)
    assert {row["twin_known"] for row in run.rows("FROM duplicates")} == {False}
    assert {row["twin_known"] for row in later.rows("FROM duplicates")} == {False, True}
    assert any(row["id"] == row["twin"] for row in later.rows("FROM duplicates"))  # the same record, read twice


def test_known_documents_are_those_that_the_earlier_run_read(run: Run, later: LaterRun) -> None:
    columns = ", ".join(DOCUMENT_SCHEMA.names)
    assert later.rows(f"SELECT {columns}, ingest FROM known_documents ORDER BY id") == run.rows(
        f"SELECT {columns}, '{run.refs['ingest'].fingerprint}' AS ingest FROM ingested ORDER BY id"
    )
    assert run.rows("FROM known_documents") == []


def test_clusters_count_each_rule(run: Run, later: LaterRun) -> None:
    for each in (run, later):
        sizes = {row["id"]: row["text_bytes"] for row in each.rows("FROM ingested")}
        duplicates = each.rows("FROM duplicates")
        clusters = each.rows("FROM clusters")
        twins = {(row["twin"], row["twin_ingest"]) for row in duplicates}
        assert {(cluster["twin"], cluster["ingest"]) for cluster in clusters} == twins
        assert len(clusters) == len(twins)
        for cluster in clusters:
            twin = (cluster["twin"], cluster["ingest"])
            mine = [row for row in duplicates if (row["twin"], row["twin_ingest"]) == twin]
            assert cluster["size"] == len(mine) + 1
            assert cluster["bytes"] == sum(sizes[row["id"]] for row in mine)
            counted = Counter(row["rule"] for row in mine)
            assert [cluster[name] for name in ("exact", "same_url", "near")] == [
                counted[rule] for rule in ("exact", "url", "minhash")
            ]
            for name in ("coverage", "similarity"):
                values = [row[name] for row in mine if row[name] is not None]
                assert cluster[f"lowest_{name}"] == min(values, default=None)
            assert cluster["known"] == (cluster["ingest"] != each.refs["ingest"].fingerprint)
            for name in ("source", "locator", "url"):
                assert cluster[name] == mine[0][f"twin_{name}"]
        assert len({cluster["known"] for cluster in clusters}) == (1 if each is run else 2)
    assert max(cluster["size"] for cluster in later.rows("FROM clusters")) == 3


def test_tokens_and_shards_are_those_on_disk(run: Run) -> None:
    shards = run.rows("FROM shards")
    assert {shard["split"] for shard in shards} == {"train", "validation"}
    for shard in shards:
        assert Path(shard["path"]).stat().st_size == shard["bytes"] == 2 * shard["tokens"]
    totals = run.rows("SELECT split, sum(tokens)::BIGINT AS tokens FROM tokens GROUP BY split ORDER BY split")
    assert totals == run.rows("SELECT split, sum(tokens)::BIGINT AS tokens FROM shards GROUP BY split ORDER BY split")
    paths = {row["path"] for row in run.rows("SELECT DISTINCT path FROM token_index")}
    assert paths == {shard["path"] for shard in shards}


def test_stages_tell_identity_size_and_cost(run: Run) -> None:
    rows = run.rows("FROM stages ORDER BY step")
    assert [row["stage"] for row in rows] == list(run.refs)
    for row in rows:
        committed = run.refs[row["stage"]].committed()
        assert (row["fingerprint"], row["path"]) == (committed.fingerprint, committed.path)
        assert row["bytes"] == sum(file["bytes"] for file in committed.manifest["files"])
        assert row["committed"]
        assert row["wall_seconds"] >= 0


def test_it_holds_views_only_and_each_says_what_it_shows(run: Run) -> None:
    assert run.rows("FROM duckdb_tables() WHERE NOT internal") == []
    views = run.rows("SELECT view_name, comment FROM duckdb_views() WHERE NOT internal")
    assert all(view["comment"] for view in views)
    assert (run.workspace / CATALOG).stat().st_size < 1 << 20


def test_who_has_the_old_one_open_keeps_it_while_a_new_one_is_built(run: Run) -> None:
    reader = "import duckdb, sys; c = duckdb.connect(sys.argv[1], read_only=sys.argv[2] == 'ro')\n"
    reader += "print(c.sql('SELECT count(*) FROM documents').fetchall()[0][0], flush=True); sys.stdin.readline()\n"
    reader += "print(c.sql('SELECT count(*) FROM documents').fetchall()[0][0], flush=True)"
    path = str(run.workspace / CATALOG)
    for mode in ("ro", "rw"):  # DuckDB's own shell opens it for writing
        with subprocess.Popen(
            [sys.executable, "-c", reader, path, mode], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
        ) as process:
            assert process.stdout is not None
            assert process.stdout.readline() == "9\n"
            build(run.workspace, {})
            assert run.rows("SELECT count(*) AS n FROM documents") == [{"n": 0}]
            build(run.workspace, run.refs)
            assert process.communicate("\n", timeout=30)[0] == "9\n"
        assert process.returncode == 0
    assert [entry.name for entry in run.workspace.iterdir() if CATALOG in entry.name] == [CATALOG]


def test_a_query_cannot_change_the_catalog_and_wrong_sql_is_a_clear_error(run: Run, tmp_path: Path) -> None:
    for sql in ("CREATE TABLE t (a INT)", "DROP VIEW documents", "SELECT * FROM nowhere", "SELEC 1"):
        with pytest.raises(CatalogError):
            query(run.workspace, sql)
    assert query(run.workspace, "SELECT 1 AS one").to_pylist() == [{"one": 1}]
    with pytest.raises(CatalogError, match="no catalog at .*headrace run"):
        query(tmp_path, "SELECT 1")
    with pytest.raises(CatalogError, match="no catalog"), connect(tmp_path):
        pass


def test_files_that_are_gone_are_a_clear_error(tmp_path: Path) -> None:
    run = Run(tmp_path / "workspace")
    run.commit("ingest")
    build(run.workspace, run.refs)
    Path(run.refs["ingest"].committed().files("documents")[0].path).unlink()
    with pytest.raises(CatalogError, match="gone or moved; start the run again"):
        run.rows("FROM documents UNION ALL FROM ingested")


def test_explain_a_kept_document(run: Run) -> None:
    document_id = run.id_of("good 3")
    facts = explain(run.workspace, document_id)
    assert facts["document"]["url"] == "https://example.org/3"
    assert facts["document"]["text_bytes"] == len(run.texts["good 3"].encode())
    assert run.texts["good 3"].startswith(facts["document"]["excerpt"])
    assert facts["outcome"] == {"kept": True, "stage": "tokenize", "rule": None}
    assert [(row["stage"], row["action"]) for row in facts["decisions"]] == [
        (stage, "kept") for stage in ("ingest", "deduplicate", "filter", "tokenize")
    ]
    assert facts["signals"]["words"] > 50
    assert {rule["verdict"] for rule in facts["rules"]} <= {"pass", "off", "not measured"}
    assert len(facts["rules"]) > 20
    (shard,) = run.rows(f"FROM shards WHERE path = '{facts['tokens']['path'].replace(chr(39), chr(39) * 2)}'")
    assert shard["split"] == facts["tokens"]["split"]
    json.dumps(facts)  # plain values


def changed(diff: list[dict[str, Any]], kind: str) -> str:
    return "".join(piece["text"] for piece in diff if piece["kind"] == kind)


def test_explain_a_duplicate_and_its_twin(run: Run) -> None:
    document_id, twin = run.id_of("good 1"), run.id_of("near copy")
    facts = explain(run.workspace, document_id)
    decision = facts["decisions"][-1]
    assert (decision["stage"], decision["action"], decision["twin"]) == ("deduplicate", "dropped", twin)
    assert facts["outcome"] == {"kept": False, "stage": "deduplicate", "rule": decision["rule"]}
    duplicate = facts["duplicate"]
    (written,) = [row for row in written_duplicates(run) if row["id"] == document_id]
    assert {name: duplicate[name] for name in written} == written
    assert 0.8 < duplicate["similarity"] < duplicate["coverage"] == 1.0
    assert duplicate["reason"].startswith("100.0% of its words lie in shingles that the twin has, too")
    assert f"at least {DedupConfig().coverage:g} was asked" in duplicate["reason"]
    assert duplicate["twin_outcome"] == {"kept": True, "stage": "tokenize", "rule": None}
    assert changed(duplicate["diff"], "new") == run.texts["near copy"].splitlines()[-1]
    assert changed(duplicate["diff"], "gone") == ""
    assert (facts["known"], facts["signals"], facts["tokens"], facts["rules"]) == (False, None, None, [])
    of_twin = explain(run.workspace, twin)
    assert of_twin["duplicate"] is None
    assert (of_twin["copies_count"], of_twin["copies"][0]["id"]) == (1, document_id)


def test_explain_an_exact_duplicate(run: Run) -> None:
    ((row,),) = [[row for row in written_duplicates(run) if row["rule"] == "exact"]]
    facts = explain(run.workspace, row["id"])
    assert "same words in the same order" in facts["duplicate"]["reason"]
    one, other = (changed(facts["duplicate"]["diff"], kind) for kind in ("gone", "new"))
    assert one != other  # in case alone
    assert one.lower().split() == other.lower().split()


def test_explain_a_duplicate_of_a_known_document(run: Run, later: LaterRun) -> None:
    facts = explain(later.workspace, later.id_of("near known"))
    duplicate = facts["duplicate"]
    assert (duplicate["twin"], duplicate["twin_known"]) == (run.id_of("good 3"), True)
    assert duplicate["twin_ingest"] == run.refs["ingest"].fingerprint
    assert duplicate["twin_url"] == "https://example.org/3"
    assert duplicate["twin_outcome"] is None
    assert changed(duplicate["diff"], "gone").endswith("The news adds a sentence of its own.")
    replaced = run.texts["good 3"].count("water")
    assert changed(duplicate["diff"], "new").count("water") == replaced > 0
    known = explain(later.workspace, "https://example.org/3")["document"]  # which both runs have: that of this one
    assert known["ingest"] == later.refs["ingest"].fingerprint
    json.dumps(facts)


def test_explain_a_document_that_both_runs_read(run: Run, later: LaterRun) -> None:
    document_id = run.id_of("good 4")
    facts = explain(later.workspace, document_id)
    assert facts["document"]["ingest"] == later.refs["ingest"].fingerprint
    assert (facts["duplicate"]["twin"], facts["duplicate"]["twin_known"]) == (document_id, True)
    assert {piece["kind"] for piece in facts["duplicate"]["diff"]} == {"same"}
    assert facts["copies_count"] == 0  # it is no copy of itself


def test_explain_a_duplicate_by_url(later: LaterRun) -> None:
    facts = explain(later.workspace, later.id_of("same URL"))
    duplicate = facts["duplicate"]
    assert facts["outcome"]["rule"] == "url_duplicate"
    assert "same canonical URL" in duplicate["reason"]
    assert duplicate["twin_url"] == "https://example.org/zh"
    assert [duplicate[name] for name in ("estimated", "coverage", "containment", "similarity")] == [None] * 4
    assert "水" in changed(duplicate["diff"], "new")


def test_explain_a_known_document(run: Run, later: LaterRun) -> None:
    near = run.id_of("near copy")  # `docs` holds what it is a copy of, and `pages` holds it
    facts = explain(later.workspace, near)
    assert facts["known"]
    assert facts["document"]["ingest"] == run.refs["ingest"].fingerprint
    assert (facts["outcome"], facts["decisions"], facts["duplicate"], facts["edits"]) == (None, [], None, [])
    assert [row["id"] for row in facts["copies"]] == [run.id_of("good 1")]
    assert facts["copies"][0]["rule"] == "minhash"  # the same record again goes as it went before


def test_explain_what_the_filter_dropped(run: Run) -> None:
    facts = explain(run.workspace, run.id_of("short"))
    decision = facts["decisions"][-1]
    failed = [rule for rule in facts["rules"] if rule["verdict"] == "fail"]
    assert decision["stage"] == "filter"
    assert [rule["rule"] for rule in failed if rule["decisive"]] == [decision["rule"]]
    (decisive,) = [rule for rule in failed if rule["decisive"]]
    assert (decisive["value"], decisive["threshold"]) == (decision["value"], decision["threshold"])
    assert len(failed) > 1
    chinese = explain(run.workspace, "https://example.org/zh")
    assert chinese["outcome"]["rule"] == "language.allowed"


def test_explain_an_edited_document(run: Run) -> None:
    facts = explain(run.workspace, run.id_of("edited"))
    assert [row["action"] for row in facts["decisions"]] == ["kept", "kept", "edited", "kept"]
    assert facts["outcome"]["kept"]
    (edit,) = facts["edits"]
    assert edit["stage"] == "filter"
    assert edit["rules"] == [row["rule"] for row in facts["decisions"] if row["action"] == "edited"]
    assert changed(edit["diff"], "gone") == "Home | About\n"
    assert changed(edit["diff"], "new") == ""


def test_explain_a_document_that_several_stages_edited(tmp_path: Path) -> None:
    run = Run(tmp_path / "workspace")
    run.stages, run.refs = {}, {}
    banner = "All rights to these pages are reserved by the people of the mill."
    edited = (
        prose(50) + f"\n{banner}\nHome | About\nWrite to ada.lovelace@analytical-engine.co.uk about the water wheel.\n"
    )
    path = run.workspace / "input" / "edited.jsonl"
    longer = prose(52, 60) + f"\n{banner}"
    pages = [{"text": edited + prose(51), "url": "https://example.org/edited"}, {"text": longer, "url": None}]
    path.write_text("".join(json.dumps(page) + "\n" for page in pages))
    source = SourceConfig(name="pages", format="jsonl", path=(str(path),), language="en")
    run.deduplicated(DedupConfig.model_validate({"lines": {"rules": [{"unit": "line"}]}}), source)
    run.add(DeclaredLanguage, AnnotateConfig(), "deduplicate")
    run.add(Filter, FilterConfig.model_validate({"language": {"allowed": ["en"]}}), "deduplicate", "annotate")
    run.add(Privacy, PrivacyConfig(), "filter")
    run.commit()
    build(run.workspace, run.refs)
    facts = explain(run.workspace, "https://example.org/edited")
    assert facts["outcome"]["kept"]
    cut, filtered, masked = facts["edits"]
    assert [edit["stage"] for edit in facts["edits"]] == ["deduplicate", "filter", "privacy"]
    assert cut["rules"] == ["repeated_lines"]
    assert changed(cut["diff"], "gone") == f"{banner}\n"
    assert changed(filtered["diff"], "gone") == "Home | About\n"
    assert changed(masked["diff"], "gone").strip() == "ada.lovelace@analytical-engine.co.uk"
    assert "EMAIL" in changed(masked["diff"], "new")


def test_explain_takes_an_id_its_beginning_a_url_or_a_locator(run: Run) -> None:
    document_id = run.id_of("good 4")
    (row,) = run.rows(f"FROM ingested WHERE id = '{document_id}'")
    keys = (document_id, document_id[:12], row["url"], f"{row['source']} {row['locator']}")
    assert {explain(run.workspace, key)["document"]["id"] for key in keys} == {document_id}


def test_explain_what_ingest_dropped(run: Run) -> None:
    (row,) = run.rows("FROM ledger WHERE stage = 'ingest' AND action = 'dropped'")
    for key in (row["id"], row["detail"].split(": ")[0]):
        facts = explain(run.workspace, key)
        assert facts["document"] == {"id": row["id"], "source": "pages"}
        assert facts["outcome"] == {"kept": False, "stage": "ingest", "rule": row["rule"]}


def test_explain_an_unknown_or_ambiguous_key(run: Run) -> None:
    for key in ("f" * 32, "nothing", "%", ""):
        with pytest.raises(CatalogError, match="no document has"):
            explain(run.workspace, key)
    (rejected,) = run.rows("FROM ledger WHERE action = 'rejected'")
    with pytest.raises(CatalogError, match="could not be read"):
        explain(run.workspace, rejected["detail"].split(": ")[0])


def test_an_ambiguous_key_lists_the_documents(tmp_path: Path) -> None:
    folder = tmp_path / "input"
    folder.mkdir()
    rows = [json.dumps({"text": prose(n), "url": "https://example.org/same"}) for n in range(7)]
    (folder / "a.jsonl").write_text("\n".join(rows) + "\n")
    source = SourceConfig(name="a", format="jsonl", path=(str(folder),))
    ingest = Ingest(IngestConfig(sources=(source,)), {})
    store = Store.at(tmp_path / "store")
    build(tmp_path, {"ingest": run_stage(ingest, store, workers=0)})
    with pytest.raises(CatalogError, match="more than one document") as caught:
        explain(tmp_path, "https://example.org/same")
    listed = str(caught.value).splitlines()[1:]
    ids = [row["id"] for row in query(tmp_path, "SELECT id FROM ingested").to_pylist()]
    assert len(listed) == 6
    assert listed[-1].strip() == "..."
    assert {line.split()[0] for line in listed[:5]} < set(ids)


def test_schemas_of_empty_views_are_those_of_the_stages(tmp_path: Path) -> None:
    build(tmp_path, {})
    with duckdb.connect(str(tmp_path / CATALOG), read_only=True) as connection:
        for view, schema in (
            *(("ledger", LEDGER_SCHEMA), ("ingested", DOCUMENT_SCHEMA), ("signals", SIGNALS_SCHEMA)),
            *(("known_documents", DOCUMENT_SCHEMA), ("duplicates", DUPLICATES_SCHEMA)),
        ):
            names = connection.sql(f"FROM {view}").columns
            assert names[: len(schema.names)] == schema.names


def test_committed_and_refs_give_the_same_catalog(run: Run) -> None:
    before = run.rows("SELECT view_name, sql FROM duckdb_views() WHERE NOT internal ORDER BY view_name")
    committed: dict[str, StageRef | Committed] = {name: ref.committed() for name, ref in run.refs.items()}
    build(run.workspace, committed)
    assert run.rows("SELECT view_name, sql FROM duckdb_views() WHERE NOT internal ORDER BY view_name") == before
