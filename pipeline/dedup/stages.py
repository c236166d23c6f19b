"""The stages of deduplication: signatures by shard, order, pairs and decisions over all documents, removal by shard."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict
from pathlib import Path, PurePosixPath
from typing import Any

import duckdb
import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from numpy.typing import NDArray

from pipeline.dedup.buckets import bucket_pairs, buckets
from pipeline.dedup.config import CANDIDATE_FIELDS, DECISION_FIELDS, ORDER_FIELDS, SIGNATURE_FIELDS, DedupConfig
from pipeline.dedup.decisions import DUPLICATES_SCHEMA, EXACT, MINHASH, URL, Decisions
from pipeline.dedup.index import KNOWN, KNOWN_STORE, Column, Index, SignatureTable, damaged, regrouped, store_root
from pipeline.dedup.order import NO_COPY, Order
from pipeline.dedup.signatures import band_column, signature_schema, signature_table
from pipeline.dedup.urls import URLS_VERSION
from pipeline.documents import DOCUMENT_SCHEMA
from pipeline.execution import available_cores
from pipeline.repeats.kept import rows_of_shard
from pipeline.repeats.spans import SPANS_SCHEMA, cut_spans
from pipeline.stage import Stage, StageError, Unit, UnitOutput, UnitRecord
from pipeline.store import File, StageRef
from pipeline.text.scan import SCAN_VERSION
from pipeline.text.tables import UNICODE_VERSION

SIGNATURE_GROUP_ROWS = 16_384  # 7 MB of signatures at 112 permutations
DUPLICATE_GROUP_ROWS = 65_536
PAIRS_GROUP_ROWS = 1 << 20
BAND_KEYS_PER_UNIT = 4_000_000
"""So many keys at least make a unit of `candidates`: the bands of a small corpus are one."""

RULES = {EXACT: "exact_duplicate", URL: "url_duplicate", MINHASH: "near_duplicate"}
"""The rules in the ledger."""

SPAN_STAGES = ("lines", "substrings")
"""Inputs of `deduplicate` that may name spans to cut."""

SPAN_RULES = ("repeated_lines", "repeated_paragraphs", "repeated_sentences", "repeated_substrings")
"""The rules that cut them, in the order in which a byte counts for one."""

PAIRS_SCHEMA = pa.schema([pa.field("pair", pa.uint64(), nullable=False)])


class Signatures(Stage[DedupConfig]):
    """Digest, shingle count, MinHash signature and band keys of each document, in document order."""

    name = "signatures"
    version = 1
    conserves = "ingest"

    def identity(self) -> dict[str, Any]:
        """Return what the output depends on, besides its inputs."""
        return {**self.config.part(SIGNATURE_FIELDS), "scan": SCAN_VERSION, "unicode": UNICODE_VERSION}

    def units(self) -> list[Unit]:
        """Return one unit for each shard of documents."""
        return _shard_units(self.inputs["ingest"])

    def process(self, unit: Unit, output: UnitOutput) -> None:
        """Write the signatures of a shard."""
        schema = signature_schema(self.config)
        output.count(shingles=0)  # the shard may be empty
        with (
            _named_damage(self),
            File(**unit.spec["file"]).parquet() as parquet,
            output.parquet("signatures", schema, SIGNATURE_GROUP_ROWS) as sink,
        ):
            groups = (
                parquet.read_row_group(group, ["id", "source", "date", "text"])
                for group in range(parquet.num_row_groups)
            )
            for signatures in regrouped(
                (signature_table(group, self.config) for group in groups), SIGNATURE_GROUP_ROWS
            ):
                sink.write(signatures)
                text_bytes = pc.sum(signatures["text_bytes"]).as_py()
                output.count(read=len(signatures), kept=len(signatures), bytes_in=text_bytes, bytes_out=text_bytes)
                output.count(shingles=pc.sum(signatures["shingles"]).as_py())


class PreferenceOrder(Stage[DedupConfig]):
    """The rank of each document in the order of preference, and the copies by words or URL: one unit over all.

    Raw files of little-endian numbers: `rank` and (with `within`) `scope` by position; `position`, `first` and `copy`
    by rank.
    """

    name = "order"
    version = 1
    conserves = "signatures"

    def identity(self) -> dict[str, Any]:
        """Return what the output depends on, besides its inputs."""
        versions = {"urls_version": URLS_VERSION} if self.config.urls else {}
        return {**self.config.part(ORDER_FIELDS), **versions}

    def units(self) -> list[Unit]:
        """Return the one unit."""
        return _one_unit(self.inputs["signatures"])

    def process(self, unit: Unit, output: UnitOutput) -> None:
        """Order all documents; raises IndexMismatch where signatures do not fit them."""
        index = _index(self)
        with _work(self, output) as scratch:
            order = Order(index, self.config, scratch, available_cores())
            for kind in ("rank", "position", "first", "copy", *(["scope"] if order.scope is not None else [])):
                output.adopt(kind, scratch / kind, f"{unit.index:05d}.bin", index.new.size)
        _count_documents(output, self.inputs["signatures"])


class Candidates(Stage[DedupConfig]):
    """Pairs of documents that agree in a band: some bands a unit, so that machines can share them."""

    name = "candidates"
    version = 1
    conserves = "signatures"

    def identity(self) -> dict[str, Any]:
        """Return what the output depends on, besides its inputs."""
        return self.config.part(CANDIDATE_FIELDS)

    def units(self) -> list[Unit]:
        """Return units of neighbouring bands."""
        documents = _index(self).size
        each = self._bands_of_a_unit(documents)
        units = []
        for index, first in enumerate(range(0, self.config.bands, each)):
            bands = list(range(first, min(first + each, self.config.bands)))
            name = f"band {first}" if len(bands) == 1 else f"bands {first} to {bands[-1]}"
            units.append(
                Unit(index, f"{name} of {documents:,} documents", {"bands": bands}, 8 * documents * len(bands))
            )
        return units

    def _bands_of_a_unit(self, documents: int) -> int:
        return min(self.config.bands, max(1, BAND_KEYS_PER_UNIT // max(1, documents)))

    def process(self, unit: Unit, output: UnitOutput) -> None:
        """Write the pairs of some bands, a member and a more preferred document each (member << 32 | other)."""
        index = _index(self)
        output.count(pairs=0, buckets=0)  # there may be none
        units = -(-self.config.bands // self._bands_of_a_unit(index.size))
        threads = max(1, available_cores() // units)
        with output.parquet("pairs", PAIRS_SCHEMA, PAIRS_GROUP_ROWS) as sink, _work(self, output) as scratch:
            ranks = Column.of(index.segments, "order", "rank", np.uint32, scratch)
            copies = Column.of(index.segments, "order", "copy", np.uint8, scratch)
            scopes = None
            if self.config.within is not None:
                scopes = Column.of(index.segments, "order", "scope", np.uint64, scratch)
            with SignatureTable(index, scratch, self.config.memory_limit_mb, threads) as signatures:
                for band in unit.spec["bands"] if index.new.size else []:
                    for bounds, members in buckets(signatures, band_column(band), ranks, scopes):
                        left_out = copies[members] != NO_COPY
                        output.count(buckets=len(bounds) - 1)
                        start, most = index.new.start, self.config.representatives
                        for pairs in bucket_pairs(bounds, members, left_out, start, most):
                            sink.write(pa.table([pairs], schema=PAIRS_SCHEMA))
                            output.count(pairs=len(pairs))
        if unit.index == 0:  # every unit goes through all documents; they are counted once
            _count_documents(output, self.inputs["signatures"])


class Duplicates(Stage[DedupConfig]):
    """Which documents are duplicates of which: one unit over all pairs. Removes nothing itself.

    `duplicates` has a row for each document to remove; `kept`, a raw file of little-endian numbers, the rank of the
    document that stays for each, by rank.
    """

    name = "duplicates"
    version = 2
    conserves = "signatures"

    def identity(self) -> dict[str, Any]:
        """Return what the output depends on, besides its inputs."""
        return self.config.part(DECISION_FIELDS)

    def units(self) -> list[Unit]:
        """Return the one unit."""
        return _one_unit(self.inputs["signatures"])

    def summary(self, records: Sequence[UnitRecord]) -> dict[str, Any]:
        """Say where the earlier run is, unless it lies in the same store: the run after this one needs it, too."""
        known = self.inputs.get(KNOWN)
        if known is None or store_root(known) == store_root(self.inputs["signatures"]):
            return {}
        return {KNOWN_STORE: store_root(known)}

    def process(self, unit: Unit, output: UnitOutput) -> None:
        """Decide over all documents."""
        index = _index(self)
        candidates = self.inputs["candidates"].committed().files("pairs")
        counts = dict.fromkeys((EXACT, URL, MINHASH), 0)
        with (
            output.parquet("duplicates", DUPLICATES_SCHEMA, DUPLICATE_GROUP_ROWS) as sink,
            _work(self, output) as scratch,
        ):
            decisions = Decisions(index, candidates, self.config, scratch, available_cores())
            for rows in decisions.tables():
                sink.write(rows)
                for found in pc.value_counts(rows["rule"]):
                    counts[str(found["values"])] += found["counts"].as_py()
            output.adopt("kept", scratch / "kept", f"{unit.index:05d}.bin", index.new.size)
        _count_documents(output, self.inputs["signatures"])
        output.count(exact_duplicates=counts[EXACT], url_duplicates=counts[URL], near_duplicates=counts[MINHASH])
        output.count(compared=decisions.compared)


class Deduplicate(Stage[DedupConfig]):
    """The documents without the duplicates and without repeated spans of text, in their order.

    The ledger has a row with the twin for each document that went, and one for each rule that cut spans out of a
    document: `value` is their number, `bytes` their bytes. A document of which nothing but white space would be left
    goes, under the rule that took most of it.
    """

    name = "deduplicate"
    version = 2
    conserves = "ingest"

    def identity(self) -> dict[str, Any]:
        """Return what the output depends on, besides its inputs."""
        return {}  # every decision is made, and so every threshold counted, in the stages before

    def units(self) -> list[Unit]:
        """Return one unit for each shard of documents."""
        return _shard_units(self.inputs["ingest"])

    def process(self, unit: Unit, output: UnitOutput) -> None:
        """Write what stays of a shard, and the ledger of what goes."""
        committed = self.inputs["duplicates"].committed()
        config = committed.manifest["config"]
        duplicates = rows_of_shard(committed.files("duplicates")[0], unit.index)
        spans = self._spans(unit.index)
        gone_rows, span_rows = duplicates["row"].to_numpy(), spans["row"].to_numpy()
        with (
            _named_damage(self),
            output.parquet("documents", DOCUMENT_SCHEMA) as sink,
            File(**unit.spec["file"]).parquet() as parquet,
        ):
            first = 0
            for group in range(parquet.num_row_groups):
                documents = parquet.read_row_group(group)
                end = first + len(documents)
                start, stop = np.searchsorted(gone_rows, [first, end])
                keep = np.ones(len(documents), np.bool_)
                keep[gone_rows[start:stop] - first] = False
                gone, kept = documents.filter(pa.array(~keep)), documents.filter(pa.array(keep))
                decided = duplicates.slice(start, stop - start)
                if not gone["id"].equals(decided["id"]):
                    raise ValueError(f"the duplicates at {committed.path} are of other documents; find them again")
                output.ledger(_ledger_rows(gone, decided, config))
                output.count(read=len(documents), dropped=len(gone), bytes_in=_text_bytes(documents))
                start, stop = np.searchsorted(span_rows, [first, end])
                if stop > start:
                    rows = first + np.flatnonzero(keep)
                    kept = _cut(kept, rows, spans.slice(start, stop - start), output)
                sink.write(kept)
                output.count(kept=len(kept), bytes_out=_text_bytes(kept))
                first = end

    def _spans(self, shard: int) -> pa.Table:
        """The spans to cut out of the documents of a shard, ordered by row."""
        files = [self.inputs[name].committed().files("spans")[0] for name in SPAN_STAGES if name in self.inputs]
        found = [rows_of_shard(file, shard) for file in files]
        return pa.concat_tables([SPANS_SCHEMA.empty_table(), *found]).sort_by("row").combine_chunks()


def _cut(documents: pa.Table, rows: NDArray[np.int64], spans: pa.Table, output: UnitOutput) -> pa.Table:
    """Cut spans out of documents, note it in the ledger, and return the documents of which something is left."""
    texts = pa.concat_arrays(documents["text"].chunks)
    cut = cut_spans(texts, rows, spans, SPAN_RULES)
    of = cut.cuts["text"].to_numpy()
    blank = cut.blank[of]
    edited, emptied = cut.cuts.filter(pa.array(~blank)), cut.cuts.filter(pa.array(blank)).sort_by("text")
    at = documents.schema.get_field_index("text")
    documents = documents.set_column(at, documents.schema.field(at), cut.texts)
    output.ledger(_span_rows(documents, edited, "edited"))
    # A document goes once, whole, under the rule that took most of it.
    most = emptied.sort_by([("text", "ascending"), ("bytes", "descending")])
    leading = most.filter(pa.array(np.diff(most["text"].to_numpy(), prepend=-1) != 0))
    whole = pc.binary_length(texts).take(leading["text"]).cast(pa.int64())
    output.ledger(_span_rows(documents, leading.set_column(3, "bytes", whole), "dropped"))
    output.count(dropped=int(cut.blank.sum()), edited=len(pc.unique(edited["text"])))
    return documents.filter(pa.array(~cut.blank))


def _span_rows(documents: pa.Table, cuts: pa.Table, action: str) -> pa.Table:
    of = cuts["text"]
    return pa.table(
        {
            "id": documents["id"].take(of),
            "source": documents["source"].take(of),
            "action": pa.repeat(action, len(cuts)),
            "rule": cuts["rule"],
            "value": cuts["spans"].cast(pa.float64()),
            "bytes": cuts["bytes"],
        }
    )


def _shard_units(ingest: StageRef) -> list[Unit]:
    """Return one unit for each shard of documents, in order."""
    return [
        Unit(index, f"{PurePosixPath(file.path).name} ({file.rows:,} documents)", {"file": asdict(file)}, file.bytes)
        for index, file in enumerate(ingest.committed().files("documents"))
    ]


def _one_unit(signatures: StageRef) -> list[Unit]:
    """Return the unit of a stage that looks at all documents at once."""
    files = signatures.committed().files("signatures")
    return [Unit(0, f"{sum(file.rows for file in files):,} documents", {}, sum(file.bytes for file in files))]


def _index(stage: Stage[DedupConfig]) -> Index:
    """The new documents and those of the runs before, if any."""
    return Index(stage.inputs, stage.config.within)


@contextlib.contextmanager
def _work(stage: Stage[DedupConfig], output: UnitOutput) -> Iterator[Path]:
    """A folder for temporary files; where DuckDB finds no room, there or in memory, the error says what to do."""
    scratch = output.scratch / "work"
    scratch.mkdir()
    try:
        with _named_damage(stage):
            yield scratch
    except (duckdb.OutOfMemoryException, duckdb.IOException) as error:
        raise StageError(
            f"stage {stage.name!r}: DuckDB could not group the documents: {str(error).splitlines()[0]}. It may hold "
            f"{stage.config.memory_limit_mb} MB of memory (memory_limit_mb) and spills to {scratch}: "
            "give it more of the one or of the other and start again"
        ) from error


@contextlib.contextmanager
def _named_damage(stage: Stage[DedupConfig]) -> Iterator[None]:
    """Where an input cannot be read, the error says which file it is: not all readers do."""
    try:
        yield
    except Exception as error:
        of_the_system = isinstance(error, OSError) and error.errno is not None  # such as a full disk
        problem = None if of_the_system else damaged(stage.inputs)
        if problem is None:
            raise
        raise StageError(f"stage {stage.name!r}: {problem} ({type(error).__name__}: {error})") from error


def _count_documents(output: UnitOutput, signatures: StageRef) -> None:
    """Count the documents of a stage that passes all of them on."""
    counts = signatures.committed().counts
    output.count(read=counts["kept"], kept=counts["kept"], bytes_in=counts["bytes_in"], bytes_out=counts["bytes_in"])


def _ledger_rows(gone: pa.Table, duplicates: pa.Table, config: Mapping[str, Any]) -> pa.Table:
    rules = duplicates["rule"]
    # Without verification only the estimate is known, and the bands have no sharp threshold.
    measure, threshold = "estimated", None
    if config["verify"]:
        name = next(name for name in ("coverage", "containment", "jaccard") if config[name])
        measure, threshold = {"jaccard": "similarity"}.get(name, name), float(config[name])
    near = pc.equal(rules, MINHASH)
    return pa.table(
        {
            "id": duplicates["id"],
            "source": duplicates["source"],
            "action": pa.repeat("dropped", len(duplicates)),
            "rule": pa.array(list(RULES.values())).take(pc.index_in(rules, pa.array(list(RULES)))),
            "value": duplicates[measure],
            "threshold": pc.if_else(
                near, pa.scalar(threshold, pa.float64()), pc.if_else(pc.equal(rules, EXACT), 1.0, None)
            ),
            "twin": duplicates["twin"],
            "bytes": pc.binary_length(gone["text"]),
        }
    )


def _text_bytes(documents: pa.Table) -> int:
    return pc.sum(pc.binary_length(documents["text"])).as_py() or 0
