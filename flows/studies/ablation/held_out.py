"""The held-out documents of an ablation: text to be kept out of every training, and what the models are judged on.

They are the validation part of one run, the same for all variants.
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from flows.plan import Plan
from flows.reference import document_ref
from flows.studies.ablation.recipe import SeparationConfig
from pipeline.store import Committed, unwritable, write_bytes_atomically
from pipeline.tokens.shards import TRAIN, VALIDATION
from pipeline.tokens.split import split_of
from training.comparison import Held

FILE_NAME = "held-out.jsonl"
_COLUMNS = ["id", "source", "split", "shard", "text_bytes"]


def index_rows(tokens: Committed, split: str) -> pa.Table:
    """The documents of one split of token shards, in the order in which they lie there."""
    tables = [file.table(_COLUMNS) for file in tokens.files("index")]
    rows = pa.concat_tables(tables)
    return rows.filter(pc.equal(rows["split"], split))


def read_held(tokens: Committed) -> Held:
    """The held-out documents, in the order of the held-out shards. Raises ValueError where there are none."""
    rows = index_rows(tokens, VALIDATION)
    if not rows.num_rows:
        raise ValueError(
            "held_out: the run holds no document out; raise tokenizer.validation_fraction, or give it more documents"
        )
    shards = [
        file.path.removeprefix(f"{tokens.path}/")
        for file in tokens.files("tokens")
        if file.attributes["split"] == VALIDATION
    ]
    assert list(dict.fromkeys(rows["shard"].to_pylist())) == shards
    return Held(rows["text_bytes"].to_numpy().astype(np.float64), np.array(rows["source"].to_pylist()))


def write_held_out(plan: Plan, folder: Path, separation: SeparationConfig) -> Path:
    """Write the text of the held-out documents of a run in stretches, a line of {id, text} each; returns the file.

    The same run gives the same bytes. Raises StoreError where the folder cannot be written.
    """
    config = plan.recipe.tokenizer
    lines = []
    for file in document_ref(plan.store, plan.refs["tokenize"].committed()).committed().files("documents"):
        with file.parquet() as parquet:
            for batch in parquet.iter_batches(columns=["id", "text"]):
                held_out = batch.filter(pa.array(split_of(batch["id"], config.validation_fraction, config.split_seed)))
                for document, text in zip(held_out["id"].to_pylist(), held_out["text"].to_pylist(), strict=True):
                    lines += [
                        json.dumps({"id": f"{document}#{number}", "text": stretch}, ensure_ascii=False)
                        for number, stretch in enumerate(stretches(text, separation.stretch_characters))
                    ]
    path = folder / FILE_NAME
    try:
        folder.mkdir(parents=True, exist_ok=True)
        write_bytes_atomically(str(path), ("\n".join(lines) + "\n").encode())
    except OSError as error:
        raise unwritable(str(folder), error) from error
    return path


def stretches(text: str, characters: int) -> Iterator[str]:
    """Cut a text into pieces of so many characters; what would be less than half of that stays with the last."""
    begin = 0
    while len(text) - begin >= 3 * characters // 2:
        yield text[begin : begin + characters]
        begin += characters
    yield text[begin:]


def check_apart(variant: str, tokens: Committed, held_out: Committed) -> dict[str, int]:
    """Return what a variant trains on: documents (distinct), tokens.

    Raises ValueError where a held-out document is in its training part, or the part is empty.
    """
    trained = pc.unique(index_rows(tokens, TRAIN)["id"])
    both = pc.sum(pc.is_in(trained, value_set=index_rows(held_out, VALIDATION)["id"].combine_chunks())).as_py() or 0
    if both:
        raise ValueError(f"variant {variant}: {both} held-out documents are in its training part; nothing can be said")
    if not len(trained):
        raise ValueError(f"variant {variant}: no document is left to train on; see what its overrides drop")
    return {"documents": len(trained), "tokens": tokens.manifest["summary"]["splits"][TRAIN]["tokens"]}
