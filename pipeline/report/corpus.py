"""Facts about the corpus: queries over the views of the catalog, on the files of this run alone."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import duckdb
import fsspec
import pyarrow as pa

from pipeline.catalog.relations import identifier
from pipeline.catalog.views import Run, views
from pipeline.dedup.decisions import EXACT, MINHASH
from pipeline.privacy.config import PrivacyConfig
from pipeline.privacy.masking import mask
from pipeline.report.facts import (
    Amount,
    Cluster,
    CorpusFacts,
    Cut,
    Example,
    Excerpt,
    KnownDocuments,
    Language,
    Pair,
    Rejected,
    Removal,
    StageFacts,
    Tokens,
)
from pipeline.report.signals import signal_facts
from pipeline.sql import quoted
from pipeline.store import StageRef, is_local

LARGEST_CLUSTERS = 12
EXAMPLES = 12
REJECTED_ROWS = 40
EXCERPT_CHARACTERS = 300
PAIR_CHARACTERS = 6000
NEAR_DUPLICATES = 200_000
MASKED_CHARACTERS = 400
"""Read beyond an excerpt, so that personal data at its end is known whole."""
LANGUAGE_RULES = "language."
"""What the names of the language rules begin with."""

MEMORY_LIMIT = "1GB"

Place = tuple[str, str]
"""The id of a document, and the fingerprint of the ingest stage that holds it."""


def collect_corpus(stages: Mapping[str, StageFacts], known: StageRef | None = None) -> CorpusFacts:
    """Read the facts of every corpus stage that has finished; `known` as for the catalog."""
    run = Run({name: stage.committed or stage.ref for name, stage in stages.items()}, known)
    with _open(run) as catalog:
        clusters = _rows(catalog, _CLUSTERS)
        pair = next(iter(_rows(catalog, _PAIR)), None)
        examples = _rows(catalog, _EXAMPLES)
        masking = _masking(stages)
        ingest = run.fingerprint("ingest")
        shown = [*(row[:2] for row in clusters), *((row[0], ingest) for row in examples)]
        excerpts = _excerpts(catalog, shown, EXCERPT_CHARACTERS, masking)
        texts = _excerpts(catalog, [(pair[0], ingest), pair[1:3]] if pair else [], PAIR_CHARACTERS, masking)
        return CorpusFacts(
            read={source: Amount(*amount) for source, *amount in _rows(catalog, _READ)},
            removals=[Removal(*row) for row in _rows(catalog, _REMOVALS)],
            tokens=[Tokens(*row) for row in _rows(catalog, _TOKENS)],
            languages=[
                Language(code, Amount(*kept), Amount(*language), Amount(*quality))
                for code, kept, language, quality in _rows(catalog, _LANGUAGES)
            ],
            signals=signal_facts(stages, dict(_rows(catalog, _DROPPED_BY_RULE))),
            clusters=[_cluster(row, excerpts) for row in clusters],
            clusters_in_all=_rows(catalog, "SELECT count(*) FROM clusters")[0][0],
            near_measures=_near_measures(catalog),
            known=_known(run, catalog),
            cuts=[Cut(*row) for row in _rows(catalog, _CUTS)],
            pair=_pair(pair, texts, ingest) if pair else None,
            examples=[_example(row, excerpts[row[0], ingest]) for row in examples if (row[0], ingest) in excerpts],
            rejected=[Rejected(*row) for row in _rows(catalog, _REJECTED)],
            privacy=_rows(catalog, _PRIVACY),  # type: ignore[arg-type]
            benchmarks=_rows(catalog, _BENCHMARKS),  # type: ignore[arg-type]
        )


_READ = """
SELECT source, read, bytes_in FROM funnel_by_source WHERE stage = 'ingest' AND read > 0 ORDER BY read DESC, source
"""

_REMOVALS = """
SELECT stage, action, rule, source, documents, bytes FROM rules ORDER BY stage, action, rule, source
"""

_DROPPED_BY_RULE = """
SELECT rule, sum(documents)::BIGINT FROM rules WHERE stage = 'filter' AND action = 'dropped' GROUP BY rule ORDER BY rule
"""

_TOKENS = """
SELECT source, language, split, documents, tokens, text_bytes FROM tokens ORDER BY source, language, split
"""

_LANGUAGES = f"""
WITH dropped AS (
    SELECT id, starts_with(rule, '{LANGUAGE_RULES}') AS by_language FROM ledger
    WHERE stage = 'filter' AND action = 'dropped'),
judged AS (
    SELECT language, text_bytes, dropped.id IS NULL AS kept, by_language FROM signals LEFT JOIN dropped USING (id))
SELECT coalesce(language, ''), (count(*) FILTER (kept), coalesce(sum(text_bytes) FILTER (kept), 0)::BIGINT),
    (count(*) FILTER (by_language), coalesce(sum(text_bytes) FILTER (by_language), 0)::BIGINT),
    (count(*) FILTER (NOT by_language), coalesce(sum(text_bytes) FILTER (NOT by_language), 0)::BIGINT)
FROM judged GROUP BY 1 ORDER BY count(*) DESC, 1
"""

_CLUSTERS = f"""
SELECT twin, ingest, known, coalesce(source, ''), coalesce(url, locator, ''), exact, same_url, near, lowest_coverage,
    lowest_similarity, bytes
FROM clusters ORDER BY size DESC, bytes DESC, twin, ingest LIMIT {LARGEST_CLUSTERS}
"""

_NEAR = f"""
SELECT coverage, similarity, estimated FROM duplicates WHERE rule = '{MINHASH}' ORDER BY id LIMIT {NEAR_DUPLICATES}
"""

_CUTS = """
SELECT rule, count(DISTINCT id), sum(value)::BIGINT, sum(bytes)::BIGINT FROM ledger
WHERE stage = 'deduplicate' AND action = 'edited' GROUP BY rule ORDER BY sum(bytes) DESC, rule
"""

# The pair that shows most: near, not the same, of a length that can be read.
_PAIR = f"""
SELECT went.id, went.twin, twin_ingest, twin_known, went.rule, estimated, coverage, containment, similarity
FROM duplicates AS went JOIN ledger ON ledger.id = went.id AND stage = 'deduplicate' AND action = 'dropped'
    LEFT JOIN signals AS stays ON stays.id = went.twin
ORDER BY went.rule <> '{MINHASH}', went.rule = '{EXACT}', coalesce(similarity, estimated) NOT BETWEEN 0.6 AND 0.97,
    greatest(ledger.bytes, stays.text_bytes) NOT BETWEEN 400 AND 5000,
    abs(coalesce(similarity, estimated) - 0.85), went.id
LIMIT 1
"""

# Of each rule the document nearest to its threshold; the rules that took most documents come first.
_EXAMPLES = f"""
WITH placed AS (
    SELECT *, count(*) OVER (PARTITION BY rule) AS documents, row_number() OVER (
        PARTITION BY rule ORDER BY bytes < 200, abs(value - threshold), bytes DESC, id) AS place
    FROM ledger WHERE action = 'dropped' AND stage = 'filter')
SELECT id, stage, rule, value, threshold, coalesce(detail, '') FROM placed
WHERE place = 1 ORDER BY documents DESC, rule LIMIT {EXAMPLES}
"""

_PRIVACY = """
SELECT kind, action, sum(documents)::BIGINT, sum(found)::BIGINT FROM privacy GROUP BY kind, action ORDER BY kind, action
"""

_BENCHMARKS = """
SELECT benchmark, rule, action, ngram_words, items, checked, found, documents FROM benchmarks
ORDER BY found DESC, benchmark
"""

_REJECTED = f"""
SELECT source, rule, coalesce(detail, '') FROM ledger WHERE action = 'rejected'
ORDER BY source, detail, rule LIMIT {REJECTED_ROWS}
"""


def _open(run: Run) -> duckdb.DuckDBPyConnection:
    """Open the catalog's views in memory: over this run whatever the workspace's own catalog shows by now."""
    catalog = duckdb.connect(config={"memory_limit": MEMORY_LIMIT})
    places = [*run.refs.values(), *run.known_ingests]
    remote = {place.path.partition("://")[0] for place in places if not is_local(place.path)}
    for protocol in sorted(remote):
        catalog.register_filesystem(fsspec.filesystem(protocol))
    for view in views(run):
        catalog.execute(f"CREATE VIEW {identifier(view.name)} AS {view.sql}")
    return catalog


def _rows(catalog: duckdb.DuckDBPyConnection, query: str) -> list[tuple[Any, ...]]:
    return catalog.execute(query).fetchall()


def _near_measures(catalog: duckdb.DuckDBPyConnection) -> dict[str, Sequence[float]]:
    rows = _rows(catalog, _NEAR)
    if rows and rows[0][0] is None:  # nothing was verified
        return {"estimated": [row[2] for row in rows]}
    return {"coverage": [row[0] for row in rows], "similarity": [row[1] for row in rows]}


def _known(run: Run, catalog: duckdb.DuckDBPyConnection) -> KnownDocuments | None:
    if not run.known_ingests:
        return None
    documents = sum(stage.counts["kept"] for stage in run.known_ingests)
    ((removed,),) = _rows(catalog, "SELECT count(*) FROM duplicates WHERE twin_known")
    return KnownDocuments(len(run.known_ingests), documents, removed)


def _cluster(row: tuple[Any, ...], excerpts: Mapping[Place, Excerpt]) -> Cluster:
    twin, ingest, known, source, url, *counted = row
    document = excerpts.get((twin, ingest))
    text, language = (document.text, document.language) if document else ("", "")
    return Cluster(twin, known, source, url, text, language, *counted)


def _pair(row: tuple[Any, ...], texts: Mapping[Place, Excerpt], ingest: str) -> Pair | None:
    document, twin, twin_ingest, *measured = row
    gone, stays = texts.get((document, ingest)), texts.get((twin, twin_ingest))
    return Pair(gone, stays, *measured) if gone and stays else None


def _example(row: tuple[Any, ...], document: Excerpt) -> Example:
    _, stage, rule, value, threshold, detail = row
    return Example(stage, rule, value, threshold, detail, document)


def _masking(stages: Mapping[str, StageFacts]) -> PrivacyConfig | None:
    """What the run does with personal data, dropping read as masking; the page travels further than the corpus."""
    committed = stages["privacy"].committed if "privacy" in stages else None
    if committed is None:
        return None
    config = {name: value for name, value in committed.manifest["config"].items() if name in PrivacyConfig.model_fields}
    return PrivacyConfig(**{name: "mask" if value == "drop" else value for name, value in config.items()})


def _excerpts(
    catalog: duckdb.DuckDBPyConnection, places: Iterable[Place], characters: int, masking: PrivacyConfig | None
) -> dict[Place, Excerpt]:
    """Read the beginnings of documents as they came in, without personal data where the run masks it."""
    margin = MASKED_CHARACTERS if masking else 0  # what a cut would leave of a match could not be found
    wanted: dict[str, set[str]] = {}
    for document, ingest in places:
        wanted.setdefault(ingest, set()).add(document)
    columns = f"id, ingest, source, coalesce(url, locator), coalesce(language, ''), left(text, {characters + margin})"
    rows: list[tuple[Any, ...]] = []
    for ingest, documents in sorted(wanted.items()):
        # Written out, the fingerprint leaves out the files of other runs, and the ids all text but these documents'.
        named = f"ingest = {quoted(ingest)} AND id IN ({', '.join(map(quoted, sorted(documents)))})"
        views = (f"SELECT {columns} FROM {view} WHERE {named}" for view in ("ingested", "known_documents"))
        rows += _rows(catalog, " UNION ALL ".join(views))
    if masking is not None and rows:
        texts, _ = mask(pa.array([row[-1] for row in rows], pa.large_string()), masking)
        rows = [(*row[:-1], text[:characters]) for row, text in zip(rows, texts.to_pylist(), strict=True)]
    return {row[:2]: Excerpt(row[0], *row[2:]) for row in rows}
