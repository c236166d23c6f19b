"""Token shards: flat token files with an index that says which document lies where.

A shard is a little-endian file of uint16 (uint32 for a vocabulary above 65,536) and nothing else: each document's ids,
then the end-of-text id. NumPy reads it with `np.memmap(path, dtype="<u2", mode="r")`.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any, Literal, NamedTuple

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from numpy.typing import NDArray

from pipeline.stage import UnitOutput
from pipeline.tokens.encoding import Encoded
from pipeline.tokens.sample import split_stratum, strata_of

TokenDtype = Literal["auto", "uint16", "uint32"]

TRAIN, VALIDATION = "train", "validation"
KIND, SUFFIX = "tokens", ".bin"
COUNTS = ["documents", "tokens", "text_bytes"]

INDEX_SCHEMA = pa.schema(
    [
        pa.field("id", pa.string(), nullable=False),
        pa.field("source", pa.string(), nullable=False),
        pa.field("language", pa.string(), nullable=False),
        pa.field("split", pa.string(), nullable=False),
        pa.field("shard", pa.string(), nullable=False),
        pa.field("offset", pa.int64(), nullable=False),
        pa.field("tokens", pa.int64(), nullable=False),
        pa.field("text_bytes", pa.int64(), nullable=False),
    ]
)
"""One row for each document, in the order of shards and offsets. `shard` is the file's path inside the stage's folder;
`offset` and `tokens` count tokens, the document's end-of-text id included; `text_bytes` is its UTF-8 length."""


class Closed(NamedTuple):
    """Documents as they lie in a shard, each with its end-of-text id."""

    tokens: NDArray[Any]  # (tokens,), uint16 or uint32
    lengths: NDArray[np.int64]  # (documents,)


class Part(NamedTuple):
    """Some documents in order, and what the index says of them."""

    closed: Closed
    rows: pa.Table  # id, source, language, text_bytes


def token_dtype(vocabulary_size: int, wanted: TokenDtype = "auto") -> np.dtype[Any]:
    """Return the little-endian dtype that holds every id of a vocabulary.

    Raises ValueError where the one that is wanted does not.
    """
    name = ("uint16" if vocabulary_size <= 1 << 16 else "uint32") if wanted == "auto" else wanted
    dtype = np.dtype(name).newbyteorder("<")
    if vocabulary_size > np.iinfo(dtype).max + 1:
        raise ValueError(
            f"a vocabulary of {vocabulary_size:,} ids does not fit into {name} (up to {np.iinfo(dtype).max + 1:,}); "
            "set the tokenize stage's dtype to auto or uint32, or train a smaller vocabulary"
        )
    return dtype


def close_documents(encoded: Encoded, end_of_text_id: int, dtype: np.dtype[Any]) -> Closed:
    """Put the end-of-text id after each document."""
    lengths = np.diff(encoded.offsets) + 1
    tokens = np.empty(len(encoded.ids) + len(lengths), dtype)
    is_text = np.ones(len(tokens), np.bool_)
    is_text[np.cumsum(lengths) - 1] = False
    tokens[is_text] = encoded.ids
    tokens[~is_text] = end_of_text_id
    return Closed(tokens, lengths)


def select(part: Part, mask: NDArray[np.bool_]) -> Part:
    """Return the documents of a mask, in their order."""
    if mask.all():
        return part
    tokens, lengths = part.closed
    return Part(Closed(tokens[np.repeat(mask, lengths)], lengths[mask]), part.rows.filter(pa.array(mask)))


def by_stratum(parts: Sequence[Part]) -> Iterator[tuple[tuple[str, str], Part]]:
    """Yield the documents of each (source, language), in the order of their names."""
    if not parts:
        return
    joined = Part(
        Closed(
            np.concatenate([part.closed.tokens for part in parts]),
            np.concatenate([part.closed.lengths for part in parts]),
        ),
        pa.concat_tables(part.rows for part in parts),
    )
    names = strata_of(joined.rows)
    for name in sorted(pc.unique(names).to_pylist()):
        mask = pc.equal(names, name).to_numpy(zero_copy_only=False)
        yield split_stratum(name), select(joined, mask)


def shard_path(unit: int, number: int) -> str:
    """Return a shard's path inside the stage's folder, as `UnitOutput.file` names it."""
    return f"{KIND}/{unit:05d}" + (f"-{number}" if number else "") + SUFFIX


def write_shard(output: UnitOutput, number: int, parts: Sequence[Part], split: str, **attributes: Any) -> pa.Table:
    """Write documents as the unit's token shard of this number (0, 1, ...) and return their rows of the index.

    The file's attributes are `attributes` and: split, dtype, documents, tokens, text_bytes, and `composition`, the same
    counts by source and language.
    """
    rows = pa.concat_tables(part.rows for part in parts)
    lengths = np.concatenate([part.closed.lengths for part in parts])
    counted = rows.append_column("tokens", pa.array(lengths))
    counted = counted.append_column("documents", pa.array(np.ones(len(lengths), np.int64)))
    composition = totals(counted, ["source", "language"])
    with output.file(KIND, SUFFIX, split=split, **attributes) as file:
        for part in parts:
            file.write(np.ascontiguousarray(part.closed.tokens).data.cast("B"))
        file.rows = len(lengths)
        file.attributes |= {
            "dtype": parts[0].closed.tokens.dtype.name,
            **{name: sum(row[name] for row in composition) for name in COUNTS},
            "composition": composition,
        }
    return pa.table(
        {
            "id": rows["id"],
            "source": rows["source"],
            "language": rows["language"],
            "split": pa.repeat(split, len(lengths)),
            "shard": pa.repeat(shard_path(output.unit.index, number), len(lengths)),
            "offset": np.cumsum(lengths) - lengths,
            "tokens": lengths,
            "text_bytes": rows["text_bytes"],
        },
        schema=INDEX_SCHEMA,
    )


def totals(rows: pa.Table, by: list[str]) -> list[dict[str, Any]]:
    """Sum documents, tokens and text_bytes of a table over each value of some of its columns, sorted by these."""
    sums = rows.group_by(by).aggregate([(name, "sum") for name in COUNTS])
    named = sums.select([*by, *(f"{name}_sum" for name in COUNTS)]).rename_columns([*by, *COUNTS])
    return named.sort_by([(name, "ascending") for name in by]).to_pylist()


def summarise(attributes: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
    """Return the counts of shards by split, and by source and language within each split.

    `bytes_per_token` is UTF-8 bytes of text for each token of text (end-of-text ids not counted).
    """
    fields = [(name, pa.string()) for name in ("split", "source", "language")] + [(name, pa.int64()) for name in COUNTS]
    cells = [{**row, "split": shard["split"]} for shard in attributes for row in shard["composition"]]
    table = pa.Table.from_pylist(cells, pa.schema(fields))
    summary: dict[str, Any] = {"tokens": sum(row["tokens"] for row in cells), "splits": {}}
    for split in (TRAIN, VALIDATION):
        mine = table.filter(pc.equal(table["split"], split))
        (whole,) = totals(mine, ["split"]) or [dict.fromkeys(COUNTS, 0)]
        summary["splits"][split] = {
            **_counts(whole),
            "sources": {row["source"]: _counts(row) for row in totals(mine, ["source"])},
            "languages": {row["language"]: _counts(row) for row in totals(mine, ["language"])},
        }
    return summary


def _counts(row: Mapping[str, Any]) -> dict[str, Any]:
    text_tokens = row["tokens"] - row["documents"]
    bytes_per_token = round(row["text_bytes"] / text_tokens, 4) if text_tokens else None
    return {**{name: row[name] for name in COUNTS}, "bytes_per_token": bytes_per_token}
