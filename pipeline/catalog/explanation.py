"""Everything about one document: where it came from, every decision with its measurements, its twin, its tokens."""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from dataclasses import asdict
from pathlib import Path
from typing import Any

import duckdb

from pipeline.catalog.database import CatalogError, connect
from pipeline.catalog.diff import word_diff
from pipeline.catalog.relations import parquet
from pipeline.store import MANIFEST, StageRef, read_json

SHORTEST_PREFIX = 4
CANDIDATES = 5
COPIES = 20
EXCERPT_CHARACTERS = 500

_HEX = re.compile(r"[0-9a-f]{1,32}")


def explain(workspace: Path | str, key: str) -> dict[str, Any]:
    """Return everything about the document with this id (or the beginning of one), URL or locator, as JSON values.

    Keys: `document` (origin, size, beginning of the text; `ingest` is the fingerprint of the stage that holds it);
    `known` (whether only an earlier run, with which this one was compared, has the document; then there are no
    decisions); `outcome` (kept or not, by which stage and rule; null for a known one); `decisions` (one for each stage
    that it came to: action, rule, value, threshold, twin, bytes, detail); `duplicate` or null: its row of the view
    `duplicates`, `reason` (the rule in words), `twin_outcome` (null for a known twin), and `diff`, the pieces that turn
    its text into the twin's (`pipeline.catalog.diff.Piece`); `copies` and `copies_count` (documents that went because
    it stayed); `signals` or null; `rules` (each rule of the filter: value, threshold, verdict and source); `edits` (of
    each stage that changed the text and wrote it: `stage`, `rules` and `diff`); `tokens` (split, shard, offset and
    length) or null.

    Raises CatalogError where no document or more than one answers to the key.
    """
    with connect(workspace) as connection:
        document = _find(connection, key)
        known = document.pop("known")
        document_id = document["id"]
        decisions = [] if known else _decisions(connection, document_id)
        copies = _rows(
            connection,
            "SELECT id, rule, estimated, coverage, containment, similarity, source, locator, url FROM duplicates "
            "WHERE twin = $1 AND twin_known = $2 ORDER BY rule, source, locator, id",
            document_id,
            known,
        )
        return {
            "document": document,
            "known": known,
            "outcome": None if known else _outcome(decisions),
            "decisions": decisions,
            "duplicate": None if known else _duplicate(connection, document_id),
            "copies": copies[:COPIES],
            "copies_count": len(copies),
            "signals": None if known else _one(connection, "SELECT * FROM signals WHERE id = $1", document_id),
            "rules": [] if known else _rules(connection, document_id),
            "edits": _edits(connection, document_id, decisions),
            "tokens": None
            if known
            else _one(
                connection,
                'SELECT split, path, "offset", tokens, text_bytes FROM token_index WHERE id = $1',
                document_id,
            ),
        }


def _rows(connection: duckdb.DuckDBPyConnection, sql: str, *parameters: Any) -> list[dict[str, Any]]:
    rows: list[dict[str, Any]] = connection.sql(sql, params=list(parameters)).to_arrow_table().to_pylist()
    return rows


def _one(connection: duckdb.DuckDBPyConnection, sql: str, *parameters: Any) -> dict[str, Any] | None:
    return next(iter(_rows(connection, sql, *parameters)), None)


def _find(connection: duckdb.DuckDBPyConnection, key: str) -> dict[str, Any]:
    """Return the one document that a key names; of one that the ingest stage dropped only the ledger knows.

    Documents of earlier runs answer only where none of this run does.
    """
    prefix = len(key) >= SHORTEST_PREFIX and bool(_HEX.fullmatch(key))
    named = "($2 AND starts_with(id, $1)) OR url = $1 OR locator = $1 OR source || ' ' || locator = $1"
    own = f"""
        WITH listed AS (
            SELECT id, ingest, source, locator, url, false AS in_detail FROM ingested
            UNION ALL
            SELECT id, NULL, source, NULL, NULL, starts_with(detail, $1 || ': ') FROM ledger
            WHERE stage = 'ingest' AND action = 'dropped')
        SELECT id, ingest, source, locator FROM listed WHERE {named} OR in_detail
        """
    known = f"SELECT id, any_value(ingest) AS ingest, source, locator FROM known_documents WHERE {named} GROUP BY ALL"
    order = f"ORDER BY source, locator, id LIMIT {CANDIDATES + 1}"
    found = _rows(connection, f"{own} {order}", key, prefix)
    is_known = not found
    if is_known:
        found = _rows(connection, f"{known} {order}", key, prefix)
    if not found:
        raise CatalogError(_unknown(connection, key))
    if len(found) > 1:
        listed = "\n".join(f"  {row['id']}  {row['source']} {row['locator'] or ''}" for row in found[:CANDIDATES])
        more = "\n  ..." if len(found) > CANDIDATES else ""
        raise CatalogError(f"{key!r} names more than one document; take an id:\n{listed}{more}")
    whole = _one(
        connection,
        f"SELECT id, source, locator, url, date, license, language, metadata, text_bytes, ingest, "
        f"left(text, {EXCERPT_CHARACTERS}) AS excerpt FROM {_VIEWS[is_known]} WHERE id = $1 AND ingest = $2",
        found[0]["id"],
        found[0]["ingest"],
    )
    if whole is None:
        return {"id": found[0]["id"], "source": found[0]["source"], "known": False}
    whole["metadata"] = json.loads(whole["metadata"]) if whole["metadata"] else None
    return {**whole, "known": is_known}


_VIEWS = {False: "ingested", True: "known_documents"}
"""The view that holds a document, by whether it is known from an earlier run."""


def _unknown(connection: duckdb.DuckDBPyConnection, key: str) -> str:
    rejected = _rows(
        connection,
        "SELECT source, rule, detail FROM ledger WHERE action = 'rejected' AND contains(detail, $1) LIMIT 3",
        key,
    )
    if rejected:
        listed = "\n".join(f"  {row['source']}: {row['rule']}: {row['detail']}" for row in rejected)
        return f"no document has the id, URL or locator {key!r}, but input that could not be read has:\n{listed}"
    short = f" (of an id, give at least {SHORTEST_PREFIX} digits)" if len(key) < SHORTEST_PREFIX else ""
    return (
        f"no document has the id, URL or locator {key!r}{short}; "
        'list some with: headrace query "SELECT id, source, locator, url FROM ingested LIMIT 20"'
    )


def _decisions(connection: duckdb.DuckDBPyConnection, document_id: str) -> list[dict[str, Any]]:
    """Return what each stage decided, in order, up to the one that dropped the document."""
    sql = "SELECT * EXCLUDE (id, source) FROM ledger WHERE id = $1 ORDER BY action, rule"
    rows = _rows(connection, sql, document_id)
    decisions: list[dict[str, Any]] = []
    for step in _rows(connection, "SELECT stage FROM funnel ORDER BY step"):
        mine = [row for row in rows if row["stage"] == step["stage"]]
        decisions += mine or [{**dict.fromkeys(_DECISION), "stage": step["stage"], "action": "kept"}]
        if any(row["action"] == "dropped" for row in mine):
            break
    return decisions


_DECISION = ("stage", "action", "rule", "value", "threshold", "twin", "bytes", "detail")


def _outcome(decisions: list[dict[str, Any]]) -> dict[str, Any]:
    last = decisions[-1] if decisions else dict.fromkeys(_DECISION)
    kept = last["action"] != "dropped"
    return {"kept": kept, "stage": last["stage"], "rule": None if kept else last["rule"]}


def _duplicate(connection: duckdb.DuckDBPyConnection, document_id: str) -> dict[str, Any] | None:
    found = _one(connection, "SELECT * FROM duplicates WHERE id = $1", document_id)
    if found is None:
        return None
    config = _config(connection, "duplicates") or {}
    text, twin_text = (
        _one(connection, f"SELECT text FROM {_VIEWS[known]} WHERE id = $1 AND ingest = $2", name, ingest)
        for name, ingest, known in (
            (document_id, _ingest(connection), False),
            (found["twin"], found["twin_ingest"], found["twin_known"]),
        )
    )
    found["reason"] = _reason(found, config)
    found["twin_outcome"] = None if found["twin_known"] else _outcome(_decisions(connection, found["twin"]))
    found["diff"] = _diff(text, twin_text) if text and twin_text else []
    return found


def _reason(duplicate: Mapping[str, Any], config: Mapping[str, Any]) -> str:
    """Return the rule that a duplicate went by in words, with what was measured and what was asked."""
    from pipeline.dedup.decisions import EXACT, URL  # brings kernels

    if duplicate["rule"] == EXACT:
        return "it has the same words in the same order (case, punctuation and white space aside)"
    if duplicate["rule"] == URL:
        return "it has the same canonical URL, and of each URL one document stays, whatever the texts"
    if duplicate["coverage"] is None:
        return "candidate pairs of MinHash connect it with the twin, directly or through others; nothing was verified"
    measures = [
        (f"{duplicate['coverage']:.1%} of its words lie in shingles that the twin has, too", config["coverage"]),
        (f"the twin holds {duplicate['containment']:.1%} of its shingles", config["containment"]),
        (f"the two sets of shingles have a Jaccard similarity of {duplicate['similarity']:.3f}", config["jaccard"]),
    ]
    return " and ".join(f"{said} (at least {least:g} was asked)" for said, least in measures if least)


def _ingest(connection: duckdb.DuckDBPyConnection) -> str:
    stage = _one(connection, "SELECT fingerprint FROM stages WHERE stage = 'ingest'")
    return stage["fingerprint"] if stage else ""


def _config(connection: duckdb.DuckDBPyConnection, stage: str) -> dict[str, Any] | None:
    """Return the configuration that a stage was committed with; None where it is not committed."""
    found = _one(connection, "SELECT path FROM stages WHERE stage = $1 AND committed", stage)
    if found is None:
        return None
    config: dict[str, Any] = read_json(f"{found['path']}/{MANIFEST}")["config"]
    return config


def _diff(old: Mapping[str, str], new: Mapping[str, str]) -> list[dict[str, Any]]:
    return [asdict(piece) for piece in word_diff(old["text"], new["text"])]


def _edits(
    connection: duckdb.DuckDBPyConnection, document_id: str, decisions: list[dict[str, Any]]
) -> list[dict[str, Any]]:
    """Return what each stage changed in the text, from the documents that it wrote."""
    rules: dict[str, list[str]] = {}
    for row in decisions:
        if row["action"] == "edited":
            rules.setdefault(row["stage"], []).append(row["rule"])
    edits: list[dict[str, Any]] = []
    before = _one(connection, "SELECT text FROM ingested WHERE id = $1", document_id) if rules else None
    for stage, names in rules.items():
        place = _one(connection, "SELECT fingerprint, path FROM stages WHERE stage = $1", stage)
        assert place is not None
        files = StageRef(stage, place["fingerprint"], place["path"]).committed().files("documents")
        written = parquet(files, {"id": "VARCHAR", "text": "VARCHAR"})
        after = _one(connection, f"SELECT text FROM ({written}) WHERE id = $1", document_id)
        if before is None or after is None:
            break  # edited, then dropped by the same stage
        edits.append({"stage": stage, "rules": names, "diff": _diff(before, after)})
        before = after
    return edits


def _rules(connection: duckdb.DuckDBPyConnection, document_id: str) -> list[dict[str, Any]]:
    """Return the verdict of every rule of the filter on the document's signals."""
    identity = _config(connection, "filter")
    signals = connection.sql("SELECT * FROM signals WHERE id = $1", params=[document_id]).to_arrow_table()
    if signals.num_rows == 0 or identity is None:
        return []
    from pipeline.filter import FilterConfig, verdicts

    config = FilterConfig(**{name: identity[name] for name in FilterConfig.model_fields})
    if not config.rule_sets() and not config.decisions:
        return []
    return verdicts(config, signals).drop_columns(["id"]).to_pylist()
