"""Everything about one document: where it came from, every decision with its measurements, its twin, its tokens."""

from __future__ import annotations

import difflib
import json
import re
from pathlib import Path
from typing import Any

import duckdb

from pipeline.catalog.database import CatalogError, connect

SHORTEST_PREFIX = 4
CANDIDATES = 5
COPIES = 20
EXCERPT_CHARACTERS = 500
DIFF_LINES = 2000  # of each text
DIFF_OUTPUT_LINES = 200
LINE_CHARACTERS = 400

_HEX = re.compile(r"[0-9a-f]{1,32}")
_SENTENCE_END = re.compile(r"(?<=[.!?])\s+|(?<=[。！？])")


def explain(workspace: Path | str, key: str) -> dict[str, Any]:
    """Return everything about the document with this id (or the beginning of one), URL or locator, as JSON values.

    Keys: `document` (origin, size, beginning of the text); `outcome` (kept or not, by which stage and rule);
    `decisions` (one for each stage that it came to: action, rule, value, threshold, twin, bytes, detail); `duplicate`
    (its twin with similarities and a diff) or null; `copies` and `copies_count` (documents that went because it
    stayed); `signals` or null; `rules` (each rule of the filter: value, threshold, verdict and source); `edit` (a diff
    of what the filter removed) or null; `tokens` (split, shard, offset and length) or null.

    Raises CatalogError where no document or more than one answers to the key.
    """
    with connect(workspace) as connection:
        document = _find(connection, key)
        decisions = _decisions(connection, document["id"])
        duplicate = _duplicate(connection, document["id"])
        copies = _rows(
            connection,
            "SELECT id, rule, estimated, similarity, containment, source, locator, url FROM duplicates "
            "WHERE twin = $1 ORDER BY rule, source, locator, id",
            document["id"],
        )
        signals = _one(connection, "SELECT * FROM signals WHERE id = $1", document["id"])
        return {
            "document": document,
            "outcome": _outcome(decisions),
            "decisions": decisions,
            "duplicate": duplicate,
            "copies": copies[:COPIES],
            "copies_count": len(copies),
            "signals": signals,
            "rules": _rules(connection, document["id"]),
            "edit": _edit(connection, document["id"], decisions),
            "tokens": _one(
                connection,
                'SELECT split, path, "offset", tokens, text_bytes FROM token_index WHERE id = $1',
                document["id"],
            ),
        }


def text_diff(old: str, new: str, old_name: str, new_name: str) -> str:
    """Return a unified diff by lines, long lines cut at sentences; bounded, with a last line that says so."""
    before, after = _diff_lines(old), _diff_lines(new)
    names = (old_name, new_name)
    lines = list(difflib.unified_diff(before[:DIFF_LINES], after[:DIFF_LINES], *names, lineterm="", n=1))
    shown = [_shortened(line) for line in lines[:DIFF_OUTPUT_LINES]]
    if len(lines) > len(shown) or max(len(before), len(after)) > DIFF_LINES:
        shown.append("… (the rest of the difference is not shown)")
    return "\n".join(shown)


def _shortened(line: str) -> str:
    return line if len(line) <= LINE_CHARACTERS else line[:LINE_CHARACTERS] + "…"


def _diff_lines(text: str) -> list[str]:
    return [
        piece
        for line in text.splitlines()
        for piece in (_SENTENCE_END.split(line) if len(line) > LINE_CHARACTERS // 2 else [line])
    ]


def _rows(connection: duckdb.DuckDBPyConnection, sql: str, *parameters: Any) -> list[dict[str, Any]]:
    rows: list[dict[str, Any]] = connection.sql(sql, params=list(parameters)).to_arrow_table().to_pylist()
    return rows


def _one(connection: duckdb.DuckDBPyConnection, sql: str, *parameters: Any) -> dict[str, Any] | None:
    return next(iter(_rows(connection, sql, *parameters)), None)


def _find(connection: duckdb.DuckDBPyConnection, key: str) -> dict[str, Any]:
    """Return the one document that a key names; of one that the ingest stage dropped only the ledger knows."""
    found = _rows(
        connection,
        f"""
        WITH known AS (
            SELECT id, source, locator, url, false AS in_detail FROM ingested
            UNION ALL
            SELECT id, source, NULL, NULL, starts_with(detail, $1 || ': ') FROM ledger
            WHERE stage = 'ingest' AND action = 'dropped')
        SELECT * FROM known
        WHERE ($2 AND starts_with(id, $1)) OR url = $1 OR locator = $1 OR source || ' ' || locator = $1 OR in_detail
        ORDER BY source, locator, id
        LIMIT {CANDIDATES + 1}
        """,
        key,
        len(key) >= SHORTEST_PREFIX and bool(_HEX.fullmatch(key)),
    )
    if not found:
        raise CatalogError(_unknown(connection, key))
    if len(found) > 1:
        listed = "\n".join(f"  {row['id']}  {row['source']} {row['locator'] or ''}" for row in found[:CANDIDATES])
        more = "\n  ..." if len(found) > CANDIDATES else ""
        raise CatalogError(f"{key!r} names more than one document; take an id:\n{listed}{more}")
    whole = _one(
        connection,
        f"SELECT id, source, locator, url, date, license, language, metadata, text_bytes, "
        f"left(text, {EXCERPT_CHARACTERS}) AS excerpt FROM ingested WHERE id = $1",
        found[0]["id"],
    )
    if whole is None:
        return {"id": found[0]["id"], "source": found[0]["source"]}
    whole["metadata"] = json.loads(whole["metadata"]) if whole["metadata"] else None
    return whole


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
    texts = _texts(connection, "ingested", document_id, found["twin"])
    names = (f"{document_id[:12]} (went)", f"{found['twin'][:12]} (stays)")
    found["diff"] = text_diff(texts.get(document_id, ""), texts.get(found["twin"], ""), *names)
    return found


def _edit(connection: duckdb.DuckDBPyConnection, document_id: str, decisions: list[dict[str, Any]]) -> str | None:
    if not any(row["action"] == "edited" for row in decisions):
        return None
    before, after = _texts(connection, "ingested", document_id), _texts(connection, "documents", document_id)
    if document_id not in after:
        return None  # edited, then dropped
    return text_diff(before[document_id], after[document_id], "ingested", "kept")


def _texts(connection: duckdb.DuckDBPyConnection, view: str, *ids: str) -> dict[str, str]:
    rows = _rows(connection, f"SELECT id, text FROM {view} WHERE id IN (SELECT unnest($1))", list(ids))
    return {row["id"]: row["text"] for row in rows}


def _rules(connection: duckdb.DuckDBPyConnection, document_id: str) -> list[dict[str, Any]]:
    """Return the verdict of every rule of the filter on the document's signals."""
    stage = _one(connection, "SELECT path FROM stages WHERE stage = 'filter' AND committed")
    signals = connection.sql("SELECT * FROM signals WHERE id = $1", params=[document_id]).to_arrow_table()
    if signals.num_rows == 0 or stage is None:
        return []
    from pipeline.filter import FilterConfig, verdicts
    from pipeline.store import MANIFEST, read_json

    identity = read_json(f"{stage['path']}/{MANIFEST}")["config"]
    config = FilterConfig(**{name: identity[name] for name in FilterConfig.model_fields})
    if not config.rule_sets() and not config.decisions:
        return []
    return verdicts(config, signals).drop_columns(["id"]).to_pylist()
