"""The document: one Arrow schema for every stage of the corpus."""

from __future__ import annotations

import hashlib

import pyarrow as pa

DOCUMENT_SCHEMA = pa.schema(
    [
        pa.field("id", pa.string(), nullable=False),
        pa.field("text", pa.large_string(), nullable=False),
        pa.field("source", pa.string(), nullable=False),
        pa.field("locator", pa.string(), nullable=False),
        pa.field("url", pa.string()),
        pa.field("date", pa.string()),
        pa.field("license", pa.string()),
        pa.field("language", pa.string()),
        pa.field("metadata", pa.string()),
    ]
)
"""`locator` is the input file (relative to its source) and the offset or row in it; `date` is ISO 8601;
`metadata` is a JSON object with sorted keys, for what a source adds. Row order inside a shard is meaningful."""


def document_id(source: str, locator: str, text: bytes) -> str:
    """Return the id of a record: 32 hex digits of BLAKE2b over source, locator and UTF-8 text.

    The locator is part of it, so that two records with the same text stay two documents, and the same record
    has the same id on every run and machine.
    """
    digest = hashlib.blake2b(source.encode(), digest_size=16)
    digest.update(b"\0" + locator.encode() + b"\0")
    digest.update(text)
    return digest.hexdigest()
