"""The document: one Arrow schema for every stage of the corpus."""

from __future__ import annotations

import hashlib
from collections.abc import Iterable

import numpy as np
import pyarrow as pa

from pipeline.text.arrow import utf8_view

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

ID_BYTES = 16


def document_id(source: str, locator: str, text: bytes) -> str:
    """Return the id of a record: 32 hex digits of BLAKE2b over source, locator and UTF-8 text.

    The locator is part of it, so that two records with the same text stay two documents, and the same record
    has the same id on every run and machine.
    """
    digest = hashlib.blake2b(source.encode(), digest_size=ID_BYTES)
    digest.update(b"\0" + locator.encode() + b"\0")
    digest.update(text)
    return digest.hexdigest()


def document_ids(source: str, locators: Iterable[str], texts: pa.LargeStringArray) -> pa.StringArray:
    """Return the `document_id` of each record of a source."""
    begun = hashlib.blake2b(source.encode(), digest_size=ID_BYTES)
    data, starts, ends = utf8_view(texts)
    content = memoryview(data)  # type: ignore[arg-type]
    digests = []
    for locator, start, end in zip(locators, starts.tolist(), ends.tolist(), strict=True):
        digest = begun.copy()
        digest.update(b"\0" + locator.encode() + b"\0")
        digest.update(content[start:end])
        digests.append(digest.digest())
    offsets = np.arange(0, 2 * ID_BYTES * len(digests) + 1, 2 * ID_BYTES, dtype=np.int32)
    digits = b"".join(digests).hex().encode()
    return pa.StringArray.from_buffers(len(digests), pa.py_buffer(offsets.data), pa.py_buffer(digits))
