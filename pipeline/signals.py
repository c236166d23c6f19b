"""The signals of a corpus: one table of all that the measuring stages found out about each document."""

from __future__ import annotations

from collections.abc import Mapping

import pyarrow as pa

from pipeline.perplexity.buckets import PerplexityRules, buckets
from pipeline.store import Committed

SIGNAL_STAGES = ("annotate", "classify", "perplexity")
"""The stages that measure, in the order of their columns. Their shards and rows are those of `deduplicate`."""

BUCKET = "perplexity_bucket"
_KEY = "id"


class SignalsError(ValueError):
    """The signals of two stages are not of the same documents."""


class Signals:
    """The signals that a run's measuring stages committed, shard by shard.

    `perplexity` gives the percentiles of the column perplexity_bucket. Raises SignalsError where the stages measured
    different documents.
    """

    def __init__(self, stages: Mapping[str, Committed], perplexity: PerplexityRules | None = None) -> None:
        self._stages = {name: stages[name] for name in SIGNAL_STAGES if name in stages}
        if "annotate" not in self._stages:
            raise SignalsError("there are no signals; run the annotate stage first")
        self._files = {name: stage.files("signals") for name, stage in self._stages.items()}
        self._cuts = None
        if "perplexity" in self._stages:
            rules = perplexity or PerplexityRules()
            self._cuts = rules.cuts(self._stages["perplexity"].manifest["summary"])
        parents = {name: stage.manifest["inputs"].get("deduplicate") for name, stage in self._stages.items()}
        if len(set(parents.values())) > 1:
            raise SignalsError(
                f"the stages {', '.join(parents)} measured different documents; run the missing ones again"
            )
        self.parent: str | None = parents["annotate"]

    @property
    def shards(self) -> int:
        """Number of shards."""
        return len(self._files["annotate"])

    @property
    def schema(self) -> pa.Schema:
        """The columns of every shard."""
        fields: list[pa.Field] = []
        for files in self._files.values() if self.shards else ():
            with files[0].parquet() as parquet:
                fields += [field for field in parquet.schema_arrow if not fields or field.name != _KEY]
        if self._cuts is not None:
            fields.append(pa.field(BUCKET, pa.string()))
        return pa.schema(fields)

    def table(self, shard: int) -> pa.Table:
        """All signals of one shard, in the order of its documents. Raises SignalsError where rows do not match."""
        table = self._files["annotate"][shard].table()
        for name in list(self._stages)[1:]:
            other = self._files[name][shard].table()
            if not other["id"].equals(table["id"]):
                raise SignalsError(f"shard {shard}: the rows of {name} and annotate do not match; run {name} again")
            for column in other.column_names:
                if column != _KEY:
                    table = table.append_column(other.schema.field(column), other[column])
        if self._cuts is not None:
            found = buckets(table["perplexity"], table["language"], self._cuts)
            table = table.append_column(pa.field(BUCKET, pa.string()), found)
        return table
