"""Which documents train a classifier and which judge it: decided by a hash of what the classifier reads.

Equal texts are one document: otherwise a copy of what trained the model would judge it. A text that stands in both
classes teaches nothing and goes. The order, the samples and the held-out share follow from the hashes alone, so they
are the same for any order and cut of the input.
"""

import hashlib
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Final

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from pipeline.classifiers.config import ClassifierConfig, Side
from pipeline.stage import StageError

EXAMPLES: Final = pa.schema(
    [
        pa.field("id", pa.string(), nullable=False),
        pa.field("source", pa.string(), nullable=False),
        pa.field("positive", pa.bool_(), nullable=False),
        pa.field("digest", pa.binary(16), nullable=False),
        pa.field("share", pa.float64(), nullable=False),
        pa.field("line", pa.large_string(), nullable=False),
    ]
)
"""A document as the classifier reads it; `share` in [0, 1) comes from other bits of the hash than the order."""

_MEMORY: Final = "1GB"
_BATCH_ROWS: Final = 1024


@dataclass(frozen=True)
class Counts:
    """Documents of one class."""

    train: int
    held_out: int


def examples(batch: pa.RecordBatch, lines: pa.LargeStringArray, side: Side) -> pa.Table:
    """A batch (id, source) with its lines as EXAMPLES."""
    digests = [hashlib.blake2b(line.as_buffer() or b"", digest_size=16).digest() for line in lines]
    # 53 bits: what a float64 below 1 holds.
    bits = np.frombuffer(b"".join(digests), ">u8").reshape(-1, 2)[:, 1] >> np.uint64(11)
    columns = [
        batch["id"],
        batch["source"],
        pa.array(np.full(len(lines), side == "positive")),
        pa.array(digests, pa.binary(16)),
        pa.array(bits * 2.0**-53),
        lines,
    ]
    return pa.table(columns, schema=EXAMPLES)


class Selection:
    """Examples in a Parquet file, each with its part: train, held_out, or the rule by which it goes.

    Sorting and counting are DuckDB's, in bounded memory, with `folder` for what does not fit. Use it as a context
    manager.
    """

    def __init__(self, path: Path, config: ClassifierConfig, folder: Path) -> None:
        import duckdb  # here, as in pipeline.decisions

        self._connection = duckdb.connect(
            config={
                "memory_limit": _MEMORY,
                "temp_directory": str(folder / "duckdb"),
                "threads": 1,
                "arrow_large_buffer_size": True,
            }
        )
        self._connection.execute("SET enable_progress_bar = false")
        self._examples = f"read_parquet('{str(path).replace(chr(39), chr(39) * 2)}')"
        self._decide(config)

    def __enter__(self) -> "Selection":
        return self

    def __exit__(self, *_: object) -> None:
        self._connection.close()

    def _decide(self, config: ClassifierConfig) -> None:
        self._connection.execute(f"""
            CREATE TABLE texts AS
            SELECT id, source, positive, digest, share, strlen(line) AS bytes,
                first_value(id) OVER same AS twin,
                row_number() OVER same AS copy,
                min(positive) OVER (PARTITION BY digest) <> max(positive) OVER (PARTITION BY digest) AS both_classes
            FROM {self._examples}
            WINDOW same AS (PARTITION BY digest ORDER BY id, source)
        """)
        self._connection.execute("""
            CREATE TABLE parts AS
            SELECT *, CASE WHEN bytes = 0 THEN 'empty' WHEN both_classes THEN 'both_classes'
                WHEN copy > 1 THEN 'duplicate' END AS rule
            FROM texts
        """)
        usable = self._by_class("SELECT positive, count(*) FROM parts WHERE rule IS NULL GROUP BY positive")
        self._check(usable, config)
        most = [count for count in (config.maximum_documents,) if count is not None]
        if config.balance == "downsample":
            most.append(min(usable.values()))
        self._connection.execute(
            """
            CREATE TABLE chosen AS
            SELECT id, source, digest, positive, share < $share AS held_out FROM parts WHERE rule IS NULL
            QUALIFY row_number() OVER (PARTITION BY positive ORDER BY digest) <= $most
            """,
            {"share": config.held_out, "most": min(most, default=1 << 62)},
        )
        for side, part in self.counts().items():
            if not part.train or not part.held_out:
                raise StageError(
                    f"of the {side} documents {part.train} would train and {part.held_out} judge the model with "
                    f"held_out = {config.held_out:g}; give more documents or another share"
                )

    def _check(self, usable: dict[Side, int], config: ClassifierConfig) -> None:
        given = self._by_class("SELECT positive, count(*) FROM parts GROUP BY positive")
        for side, count in usable.items():
            if count >= config.minimum_documents:
                continue
            gone = dict(
                self._connection.execute(
                    "SELECT rule, count(*) FROM parts WHERE rule IS NOT NULL AND positive = $positive "
                    "GROUP BY rule ORDER BY rule",
                    {"positive": side == "positive"},
                ).fetchall()
            )
            reasons = ", ".join(f"{_REASONS[rule]}: {number}" for rule, number in gone.items())
            raise StageError(
                f"classifier {config.name!r}: {count} of {given[side]} {side} documents can be used, "
                f"minimum_documents is {config.minimum_documents}" + (f" ({reasons})" if reasons else "")
            )

    def _by_class(self, query: str) -> dict[Side, int]:
        found = dict(self._connection.execute(query).fetchall())
        return {"negative": found.get(False, 0), "positive": found.get(True, 0)}

    def counts(self) -> dict[Side, Counts]:
        """Documents that train and that judge, by class."""
        train = self._by_class("SELECT positive, count(*) FROM chosen WHERE NOT held_out GROUP BY positive")
        held_out = self._by_class("SELECT positive, count(*) FROM chosen WHERE held_out GROUP BY positive")
        return {side: Counts(train[side], held_out[side]) for side in train}

    def batches(self, held_out: bool) -> Iterator[pa.RecordBatch]:
        """The documents of one part in the order of their hashes: id, source, positive, line."""
        yield from self._connection.sql(
            f"""
            SELECT chosen.id, chosen.source, chosen.positive, any_value(e.line) AS line
            FROM {self._examples} e JOIN chosen USING (digest) WHERE chosen.held_out = $held_out
            GROUP BY chosen.id, chosen.source, chosen.positive, digest ORDER BY digest
            """,
            params={"held_out": held_out},
        ).to_arrow_reader(_BATCH_ROWS)

    def dropped(self) -> pa.Table:
        """Ledger rows of the documents that neither train nor judge."""
        return self._connection.sql("""
            SELECT id, source, 'dropped' AS action, coalesce(rule, 'not_sampled') AS rule,
                CASE WHEN rule = 'duplicate' THEN twin END AS twin, bytes
            FROM parts WHERE rule IS NOT NULL OR digest NOT IN (SELECT digest FROM chosen)
            ORDER BY id, source
        """).to_arrow_table()


_REASONS: Final = {
    "empty": "without any text",
    "duplicate": "with the text of another",
    "both_classes": "with a text that stands in both classes",
}


def write_examples(path: Path, batches: Iterable[pa.Table]) -> int:
    """Write tables of EXAMPLES to a Parquet file; returns the number of rows."""
    rows = 0
    with pq.ParquetWriter(path, EXAMPLES, compression="zstd", compression_level=1) as writer:
        for table in batches:
            writer.write_table(table)
            rows += table.num_rows
    return rows
