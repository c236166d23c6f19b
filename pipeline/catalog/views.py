"""The views of the catalog, each a query over the committed files of one run or over another view."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

from pipeline.annotate import SIGNALS_SCHEMA
from pipeline.catalog.relations import columns_of, parquet, values
from pipeline.decontamination.stage import MATCHES_SCHEMA
from pipeline.dedup.decisions import DUPLICATES_SCHEMA, EXACT, MINHASH, URL
from pipeline.dedup.index import known_runs
from pipeline.documents import DOCUMENT_SCHEMA
from pipeline.ledger import LEDGER_SCHEMA
from pipeline.perplexity.buckets import PerplexityRules
from pipeline.signals import BUCKET, SIGNAL_STAGES
from pipeline.sql import quoted
from pipeline.store import EXECUTION, Committed, File, StageRef, is_local, read_json
from pipeline.tokens.sample import UNKNOWN_LANGUAGE
from pipeline.tokens.shards import COUNTS, INDEX_SCHEMA

_STAGE_COLUMNS = {
    "step": "INTEGER",
    "stage": "VARCHAR",
    "version": "INTEGER",
    "fingerprint": "VARCHAR",
    "committed": "BOOLEAN",
    "units": "BIGINT",
    "files": "BIGINT",
    "rows": "BIGINT",
    "bytes": "BIGINT",
    "wall_seconds": "DOUBLE",
    "cpu_seconds": "DOUBLE",
    "peak_memory_bytes": "BIGINT",
    "path": "VARCHAR",
}
_FUNNEL_COLUMNS = {
    "step": "INTEGER",
    "stage": "VARCHAR",
    **dict.fromkeys(("read", "kept", "dropped", "rejected", "edited", "bytes_in", "bytes_out"), "BIGINT"),
}
_BENCHMARK_COLUMNS = {
    **dict.fromkeys(("benchmark", "rule", "action", "digest"), "VARCHAR"),
    **dict.fromkeys(("ngram_words", "items", "checked", "unchecked", "found", "documents", "words"), "BIGINT"),
}
CURATED = ("filter", "privacy", "decontaminate")
"""The stages after which documents are part of the corpus, in their order."""

_SHARD_COLUMNS = {
    **dict.fromkeys(("split", "source", "language", "dtype"), "VARCHAR"),
    **dict.fromkeys((*COUNTS, "bytes", "unit"), "BIGINT"),
    "sha256": "VARCHAR",
    "path": "VARCHAR",
}

_RULES = """
SELECT stage, rule, source, action, count(*) AS documents, coalesce(sum(bytes), 0)::BIGINT AS bytes
FROM ledger GROUP BY stage, rule, source, action ORDER BY bytes DESC, stage, rule, source, action
"""

_PRIVACY = """
SELECT source, kind, action, count(*) AS documents, sum(number)::BIGINT AS found
FROM (
    SELECT source, action, unnest(map_entries(counts), recursive := true)
    FROM (SELECT *, TRY_CAST(TRY_CAST(detail AS JSON) AS MAP(VARCHAR, BIGINT)) AS counts FROM ledger)
    WHERE stage = 'privacy') AS found_in(source, action, kind, number)
GROUP BY source, kind, action ORDER BY found DESC, source, kind, action
"""

_CLUSTERS = f"""
SELECT twin, twin_known AS known, count(*) + 1 AS size, coalesce(sum(went.bytes), 0)::BIGINT AS bytes,
    count(*) FILTER (duplicates.rule = '{EXACT}') AS exact, count(*) FILTER (duplicates.rule = '{URL}') AS same_url,
    count(*) FILTER (duplicates.rule = '{MINHASH}') AS near,
    min(coverage) AS lowest_coverage, min(similarity) AS lowest_similarity,
    any_value(twin_source) AS source, any_value(twin_locator) AS locator, any_value(twin_url) AS url,
    twin_ingest AS ingest
FROM duplicates
    LEFT JOIN (SELECT id, bytes FROM ledger WHERE stage = 'deduplicate' AND action = 'dropped') AS went USING (id)
GROUP BY twin, twin_ingest, twin_known ORDER BY size DESC, bytes DESC, twin, twin_ingest
"""

_TOKENS = """
SELECT source, language, split, count(*) AS documents, sum(tokens)::BIGINT AS tokens,
    sum(text_bytes)::BIGINT AS text_bytes,
    round(sum(text_bytes) / nullif(sum(tokens) - count(*), 0), 3)::DOUBLE AS bytes_per_token
FROM token_index GROUP BY source, language, split ORDER BY source, language, split
"""


class View(NamedTuple):
    """A view's name, what it shows in one sentence, and its query."""

    name: str
    comment: str
    sql: str


class Run:
    """The stages of one run, in order, each with its manifest where it is committed."""

    def __init__(self, stages: Mapping[str, StageRef | Committed], known: StageRef | None = None) -> None:
        """`known` is the `duplicates` stage of the run that this one was compared with."""
        self.refs = dict(stages)
        self.known_ingests = [earlier["ingest"].committed() for earlier in known_runs(known)]
        """The ingest stages of the earlier runs, the oldest first."""
        self.committed: dict[str, Committed] = {}
        for name, stage in stages.items():
            if isinstance(stage, Committed):
                self.committed[name] = stage
            elif stage.is_committed:
                self.committed[name] = stage.committed()

    def files(self, stage: str, kind: str) -> list[File]:
        """Return the files of a kind of a stage; none where it is not committed."""
        return self.committed[stage].files(kind) if stage in self.committed else []

    def has(self, stage: str, kind: str) -> bool:
        """Whether a stage is committed with files of a kind."""
        return bool(self.files(stage, kind))

    def fingerprint(self, stage: str) -> str:
        """The identity of a stage's output; empty where the run does not have it."""
        return self.refs[stage].fingerprint if stage in self.refs else ""

    def last_of(self, stages: Sequence[str]) -> str:
        """The last of some stages that the run has; it need not be committed."""
        return next((name for name in reversed(stages) if name in self.refs), stages[0])

    @property
    def deciding(self) -> list[str]:
        """The committed stages that documents pass through: they write documents, tokens or ledger rows."""
        return [
            name
            for name, stage in self.committed.items()
            if (stage.counts["read"] and (self.has(name, "documents") or self.has(name, "tokens")))
            or stage.counts["dropped"] + stage.counts["edited"] + stage.counts["rejected"]
        ]


def views(run: Run) -> Iterator[View]:
    """Yield every view in an order in which each finds those that it reads."""
    documents = columns_of(DOCUMENT_SCHEMA)
    yield View(
        "ingested",
        "every document that was read, as the ingest stage wrote it",
        _ingested(run.files("ingest", "documents"), run.fingerprint("ingest")),
    )
    yield View(
        "known_documents",
        "every document of the earlier runs that this one was compared with, as their ingest stages wrote it",
        " UNION ALL ".join(_ingested(stage.files("documents"), stage.fingerprint) for stage in run.known_ingests)
        or _ingested([], ""),
    )
    yield View(
        "documents",
        "the documents that stayed, as the last stage that decides about them wrote them, with their language",
        f"SELECT * REPLACE (coalesce(language, '{UNKNOWN_LANGUAGE}') AS language), strlen(text)::BIGINT AS text_bytes "
        f"FROM ({parquet(run.files(run.last_of(CURATED), 'documents'), documents)})",
    )
    ledgers = [file for stage in run.committed.values() for file in stage.files("ledger")]
    yield View(
        "ledger",
        "one row for each document that a stage dropped or edited, and for each input that it could not read",
        parquet(ledgers, columns_of(LEDGER_SCHEMA)),
    )
    yield View("stages", "the stages of the run: identity, place, size and cost", _stages(run))
    yield View("funnel", "documents and text bytes through the stages that decide about them", _funnel(run))
    yield View("funnel_by_source", "the same by source, text bytes throughout", _funnel_by_source(run))
    yield View("rules", "what each rule did to each source: documents, and bytes removed", _RULES)
    yield View(
        "signals",
        "the measurements of each document before the filter",
        _signals(run),
    )
    yield View(
        "contamination",
        "each document that holds (part of) an item of an evaluation set, and where",
        parquet(run.files("decontaminate", "matches"), columns_of(MATCHES_SCHEMA)),
    )
    yield View("benchmarks", "what was found of each evaluation set that the corpus was cleaned of", _benchmarks(run))
    yield View("privacy", "personal data found, by source and kind; counts only, values are kept nowhere", _PRIVACY)
    yield View(
        "duplicates",
        "each removed duplicate, the rule, the twin that stays, which may be of an earlier run, and how alike they are",
        _duplicates(run),
    )
    yield View(
        "clusters",
        "the groups of duplicates by the document that stays: documents that are one, and bytes removed",
        _CLUSTERS,
    )
    yield View("token_index", "where each document lies in the token shards", _token_index(run))
    yield View("shards", "the token shards", _shards(run))
    yield View("tokens", "tokens by source, language and split", _TOKENS)
    yield View("languages", "documents, text bytes and tokens by language", _languages(run))


def _signals(run: Run) -> str:
    """One row for each document of annotate, with the columns of the other stages that measured it."""
    columns = columns_of(SIGNALS_SCHEMA)
    sql = parquet(run.files("annotate", "signals"), columns)
    for stage in SIGNAL_STAGES[1:]:
        if run.has(stage, "signals"):
            own = parquet(run.files(stage, "signals"), {"id": "VARCHAR"})
            sql = f"SELECT * FROM ({sql}) LEFT JOIN ({own}) USING (id)"
    if run.has("perplexity", "signals"):
        sql = f"SELECT *, {_bucket(run)} AS {BUCKET} FROM ({sql})"
    return sql


def _bucket(run: Run) -> str:
    """CCNet's bucket as SQL, with the percentiles that the filter decided by, or the default ones."""
    config = run.committed["filter"].manifest["config"].get("perplexity") if "filter" in run.committed else None
    cuts = PerplexityRules(**config or {}).cuts(run.committed["perplexity"].manifest["summary"])
    cases = " ".join(
        f"WHEN language = {quoted(language)} THEN CASE WHEN perplexity < {head!r} THEN 'head' "
        f"WHEN perplexity < {tail!r} THEN 'middle' WHEN perplexity IS NOT NULL THEN 'tail' END"
        for language, (head, tail) in sorted(cuts.items())
    )
    return f"CASE {cases} END" if cases else "NULL::VARCHAR"


def _benchmarks(run: Run) -> str:
    stage = run.committed.get("decontaminate")
    found = stage.manifest["summary"]["benchmarks"] if stage else {}
    return values([{"benchmark": name, **facts} for name, facts in sorted(found.items())], _BENCHMARK_COLUMNS)


def _stages(run: Run) -> str:
    rows = []
    for step, (name, ref) in enumerate(run.refs.items()):
        row: dict[str, Any] = {"step": step, "stage": name, "fingerprint": ref.fingerprint, "path": ref.path}
        stage = run.committed.get(name)
        row["committed"] = stage is not None
        if stage is not None:
            files = stage.manifest["files"]
            row |= {"version": stage.manifest["version"], "units": stage.manifest["units"], "files": len(files)}
            row |= {"rows": sum(file["rows"] for file in files), "bytes": sum(file["bytes"] for file in files)}
            row |= _execution(stage.path)
        rows.append(row)
    return values(rows, _STAGE_COLUMNS)


def _execution(path: str) -> dict[str, Any]:
    if is_local(path) and not Path(path, EXECUTION).exists():
        return {}
    facts = read_json(f"{path}/{EXECUTION}")
    return {name: facts.get(name) for name in ("wall_seconds", "cpu_seconds", "peak_memory_bytes")}


def _funnel(run: Run) -> str:
    steps = {name: step for step, name in enumerate(run.refs)}
    rows = [{"step": steps[name], "stage": name, **run.committed[name].counts} for name in run.deciding]
    return values(rows, _FUNNEL_COLUMNS)


def _funnel_by_source(run: Run) -> str:
    """Documents that ingest wrote, by source, less what the ledger says went at each stage."""
    sizes = "ingested"
    if run.has("signatures", "signatures"):  # knows them without reading the text
        sizes = f"({parquet(run.files('signatures', 'signatures'), {'source': 'VARCHAR', 'text_bytes': 'BIGINT'})})"
    return f"""
WITH whole AS (SELECT source, count(*) AS documents, sum(text_bytes) AS bytes FROM {sizes} GROUP BY source),
went AS (
    SELECT stage, source, count(*) FILTER (action = 'dropped') AS dropped,
        count(DISTINCT id) FILTER (action = 'edited') AS edited, count(*) FILTER (action = 'rejected') AS rejected,
        sum(bytes) FILTER (action <> 'rejected') AS removed
    FROM ledger GROUP BY stage, source),
sources AS (SELECT source FROM whole UNION SELECT source FROM went),
grid AS (
    SELECT step, stage, source, coalesce(dropped, 0) AS dropped, coalesce(edited, 0) AS edited,
        coalesce(rejected, 0) AS rejected, coalesce(removed, 0) AS removed,
        coalesce(documents, 0) + coalesce(sum(dropped) FILTER (stage = 'ingest') OVER everything, 0) AS all_documents,
        coalesce(bytes, 0) + coalesce(sum(removed) FILTER (stage = 'ingest') OVER everything, 0) AS all_bytes
    FROM (SELECT step, stage FROM funnel) CROSS JOIN sources
        LEFT JOIN whole USING (source) LEFT JOIN went USING (stage, source)
    WINDOW everything AS (PARTITION BY source)),
flow AS (
    SELECT *, all_documents - coalesce(sum(dropped) OVER earlier, 0) AS read,
        all_bytes - coalesce(sum(removed) OVER earlier, 0) AS bytes_in
    FROM grid
    WINDOW earlier AS (PARTITION BY source ORDER BY step ROWS BETWEEN UNBOUNDED PRECEDING AND 1 PRECEDING))
SELECT step, stage, source, read::BIGINT AS read, (read - dropped)::BIGINT AS kept, dropped, rejected, edited,
    bytes_in::BIGINT AS bytes_in, (bytes_in - removed)::BIGINT AS bytes_out
FROM flow ORDER BY step, source
"""


def _ingested(files: Sequence[File], fingerprint: str) -> str:
    """The documents of an ingest stage, their sizes, and the stage's fingerprint: an id may stand in several."""
    return (
        f"SELECT *, strlen(text)::BIGINT AS text_bytes, {quoted(fingerprint)} AS ingest "
        f"FROM ({parquet(files, columns_of(DOCUMENT_SCHEMA))})"
    )


def _duplicates(run: Run) -> str:
    decided = parquet(run.files("duplicates", "duplicates"), columns_of(DUPLICATES_SCHEMA))
    columns = ", ".join(f"gone.{name}" for name in DUPLICATES_SCHEMA.names)
    origin = "id, ingest, source, locator, url"
    return f"""
SELECT {columns}, gone.twin_ingest <> {quoted(run.fingerprint("ingest"))} AS twin_known, a.locator, a.url,
    b.source AS twin_source, b.locator AS twin_locator, b.url AS twin_url
FROM ({decided}) AS gone LEFT JOIN ingested AS a ON a.id = gone.id
    LEFT JOIN (SELECT {origin} FROM ingested UNION ALL SELECT {origin} FROM known_documents) AS b
        ON b.id = gone.twin AND b.ingest = gone.twin_ingest
"""


def _token_index(run: Run) -> str:
    columns = columns_of(INDEX_SCHEMA)
    index = parquet(run.files("tokenize", "index"), columns)
    folder = run.refs["tokenize"].path if "tokenize" in run.refs else ""
    return f"SELECT *, {quoted(folder + '/')} || shard AS path FROM ({index})"


def _shards(run: Run) -> str:
    rows = [
        {**file.attributes, "path": file.path, "unit": file.unit, "bytes": file.bytes, "sha256": file.sha256}
        for file in run.files("tokenize", "tokens")
    ]
    return values(rows, _SHARD_COLUMNS)


def _languages(run: Run) -> str:
    if run.has("tokenize", "index"):  # knows the sizes without reading the text
        return (
            "SELECT language, count(*) AS documents, sum(text_bytes)::BIGINT AS text_bytes, "
            "sum(tokens)::BIGINT AS tokens FROM token_index GROUP BY language ORDER BY documents DESC, language"
        )
    return (
        "SELECT language, count(*) AS documents, sum(text_bytes)::BIGINT AS text_bytes, NULL::BIGINT AS tokens "
        "FROM documents GROUP BY language ORDER BY documents DESC, language"
    )
