"""Facts about the corpus: queries over the views of the catalog, on the files of this run alone."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

import duckdb
import fsspec
import pyarrow as pa

from pipeline.catalog.relations import identifier
from pipeline.catalog.views import Run, views
from pipeline.privacy.config import PrivacyConfig
from pipeline.privacy.masking import mask
from pipeline.report.facts import (
    Amount,
    Cluster,
    CorpusFacts,
    Example,
    Excerpt,
    Language,
    Pair,
    Rejected,
    Removal,
    StageFacts,
    Tokens,
)
from pipeline.report.signals import signal_facts
from pipeline.store import is_local

LARGEST_CLUSTERS = 12
EXAMPLES = 12
REJECTED_ROWS = 40
EXCERPT_CHARACTERS = 300
PAIR_CHARACTERS = 6000
SIMILARITIES = 200_000
MASKED_CHARACTERS = 400
"""Read beyond an excerpt, so that personal data at its end is known whole."""
LANGUAGE_RULES = "language."
"""What the names of the language rules begin with."""

MEMORY_LIMIT = "1GB"


def collect_corpus(stages: Mapping[str, StageFacts]) -> CorpusFacts:
    """Read the facts of every corpus stage that has finished."""
    with _open(stages) as catalog:
        clusters = _rows(catalog, _CLUSTERS)
        pair = next(iter(_rows(catalog, _PAIR)), None)
        examples = _rows(catalog, _EXAMPLES)
        masking = _masking(stages)
        excerpts = _excerpts(catalog, [row[0] for row in (*clusters, *examples)], EXCERPT_CHARACTERS, masking)
        texts = _excerpts(catalog, pair[:2], PAIR_CHARACTERS, masking) if pair else {}
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
            similarities=[row[0] for row in _rows(catalog, _SIMILARITIES)],
            pair=Pair(texts[pair[0]], texts[pair[1]], *pair[2:]) if pair and set(pair[:2]) == set(texts) else None,
            examples=[_example(row, excerpts) for row in examples if row[0] in excerpts],
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
SELECT twin, exact, size - 1 - exact, lowest_similarity, bytes, coalesce(source, ''), coalesce(url, locator, '')
FROM clusters ORDER BY size DESC, bytes DESC, twin LIMIT {LARGEST_CLUSTERS}
"""

_SIMILARITIES = f"""
SELECT coalesce(similarity, estimated) FROM duplicates WHERE rule <> 'exact' ORDER BY id LIMIT {SIMILARITIES}
"""

# The pair that shows most: near, not the same, of a length that can be read.
_PAIR = """
SELECT went.id, went.twin, estimated, similarity, containment
FROM duplicates AS went JOIN ledger ON ledger.id = went.id AND ledger.stage = 'deduplicate'
    LEFT JOIN signals AS stays ON stays.id = went.twin
ORDER BY went.rule = 'exact', coalesce(similarity, estimated) NOT BETWEEN 0.6 AND 0.97,
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


def _open(stages: Mapping[str, StageFacts]) -> duckdb.DuckDBPyConnection:
    """Open the catalog's views in memory: over this run whatever the workspace's own catalog shows by now."""
    catalog = duckdb.connect(config={"memory_limit": MEMORY_LIMIT})
    run = Run({name: stage.committed or stage.ref for name, stage in stages.items()})
    remote = {ref.path.partition("://")[0] for ref in run.refs.values() if not is_local(ref.path)}
    for protocol in sorted(remote):
        catalog.register_filesystem(fsspec.filesystem(protocol))
    for view in views(run):
        catalog.execute(f"CREATE VIEW {identifier(view.name)} AS {view.sql}")
    return catalog


def _rows(catalog: duckdb.DuckDBPyConnection, query: str) -> list[tuple[Any, ...]]:
    return catalog.execute(query).fetchall()


def _cluster(row: tuple[Any, ...], excerpts: Mapping[str, Excerpt]) -> Cluster:
    twin, exact, near, least, size, source, url = row
    document = excerpts.get(twin)
    text, language = (document.text, document.language) if document else ("", "")
    return Cluster(twin, source, url, text, language, exact, near, least, size)


def _example(row: tuple[Any, ...], excerpts: Mapping[str, Excerpt]) -> Example:
    document, stage, rule, value, threshold, detail = row
    return Example(stage, rule, value, threshold, detail, excerpts[document])


def _masking(stages: Mapping[str, StageFacts]) -> PrivacyConfig | None:
    """What the run does with personal data, dropping read as masking; the page travels further than the corpus."""
    committed = stages["privacy"].committed if "privacy" in stages else None
    if committed is None:
        return None
    config = {name: value for name, value in committed.manifest["config"].items() if name in PrivacyConfig.model_fields}
    return PrivacyConfig(**{name: "mask" if value == "drop" else value for name, value in config.items()})


def _excerpts(
    catalog: duckdb.DuckDBPyConnection, ids: Iterable[str], characters: int, masking: PrivacyConfig | None
) -> dict[str, Excerpt]:
    """Read the beginnings of documents as they came in, by id, without personal data where the run masks it."""
    margin = MASKED_CHARACTERS if masking else 0  # what a cut would leave of a match could not be found
    rows = catalog.execute(
        "SELECT id, source, coalesce(url, locator), coalesce(language, ''), "
        f"left(text, {characters + margin}) AS text FROM ingested "
        "WHERE id IN (SELECT unnest(?::VARCHAR[])) ORDER BY id",
        [sorted(set(ids))],
    ).fetchall()
    if masking is not None and rows:
        texts, _ = mask(pa.array([row[4] for row in rows], pa.large_string()), masking)
        rows = [(*row[:4], text[:characters]) for row, text in zip(rows, texts.to_pylist(), strict=True)]
    return {row[0]: Excerpt(*row) for row in rows}
