"""The documents of a class as batches: those that ingest has read, and those of a run chosen by a condition."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Final

import pyarrow as pa

from pipeline.annotate import batch_rows
from pipeline.classifiers.config import CommittedDocuments
from pipeline.stage import StageError
from pipeline.store import Committed

_COLUMNS: Final = ["id", "source", "text"]
_BATCH_ROWS: Final = 1024


def all_documents(documents: Committed) -> Iterator[pa.RecordBatch]:
    """Every document of a stage, as batches of id, source and text."""
    for file in documents.files("documents"):
        with file.parquet() as parquet:
            yield from parquet.iter_batches(batch_rows(parquet), columns=_COLUMNS)


def chosen_documents(
    chosen: CommittedDocuments, documents: Committed, signals: Committed | None
) -> Iterator[pa.RecordBatch]:
    """The documents of a stage for which the condition is true, as batches of id, source and text.

    Without `signals` the condition can only name columns of the documents. Raises StageError for a condition that
    DuckDB cannot evaluate.
    """
    paths = [file.path for file in documents.files("documents")]
    if not paths:
        return
    import duckdb  # here, as in pipeline.decisions

    with duckdb.connect(config={"threads": 1, "arrow_large_buffer_size": True}) as connection:
        connection.execute("SET enable_progress_bar = false")
        connection.from_parquet(paths).create_view("documents")
        rows = "SELECT * FROM documents"
        if signals is not None and signals.files("signals"):
            connection.from_parquet([file.path for file in signals.files("signals")]).create_view("signals")
            # A signal goes before what a source says of itself: language is the measured one.
            measured = set(connection.view("signals").columns) - {"id", "source"}
            hidden = sorted(measured & set(connection.view("documents").columns))
            kept = f"d.* EXCLUDE ({', '.join(hidden)})" if hidden else "d.*"
            rows = f"SELECT {kept}, s.* EXCLUDE (id, source) FROM documents d LEFT JOIN signals s USING (id)"
        try:
            query = f"SELECT id, source, text::VARCHAR AS text FROM ({rows}) WHERE {chosen.where}"
            yield from connection.sql(query).to_arrow_reader(_BATCH_ROWS)
        except duckdb.Error as error:
            raise StageError(
                f"the condition {chosen.where!r} over {chosen.stage}'s documents fails: {error}"
            ) from error
