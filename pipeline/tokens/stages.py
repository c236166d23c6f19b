"""The stages that train the tokenizer and write the token shards."""

from __future__ import annotations

import logging
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Annotated, Any, Literal

import fsspec
import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from numpy.typing import NDArray
from pydantic import Field

from pipeline.stage import Stage, StageConfig, Unit, UnitOutput, UnitRecord, document_input
from pipeline.store import Committed, File, StageRef
from pipeline.tokens.encoding import Encoded, EncoderName, Loaded, check_encoding, load_encoder
from pipeline.tokens.mixture import RULE, copies, draws
from pipeline.tokens.sample import candidates, quotas, sampled_texts, taken_bytes, with_language
from pipeline.tokens.shards import (
    INDEX_SCHEMA,
    TRAIN,
    VALIDATION,
    Part,
    TokenDtype,
    by_stratum,
    close_documents,
    select,
    summarise,
    token_dtype,
    write_shard,
)
from pipeline.tokens.split import split_of
from pipeline.tokens.tokenizer import SMALLEST_VOCABULARY, Pattern, train_tokenizer
from pipeline.tokens.wordpiece import train_wordpiece

BATCH_ROWS = 2048
VERIFIED_CHARACTERS = 32_768  # of one document: tokenizers takes a second for some 3 MB

logger = logging.getLogger(__name__)


class TokenizerConfig(StageConfig):
    """How the tokenizer is trained, and which documents are held out from it and from training."""

    model: Literal["bpe", "wordpiece"] = Field(
        "bpe",
        description="bpe: on bytes, as for GPT-2, which spells any text and loses nothing; wordpiece: words of "
        "normalised text in pieces, as for BERT.",
    )
    vocabulary_size: int = Field(
        8192,
        ge=SMALLEST_VOCABULARY,
        le=1 << 20,
        description="Ids in all: 5 special tokens, 256 bytes, then merges; with wordpiece 6, characters, then merges. "
        "GPT-2 has 50,257, BERT 30,522; a model of some 10 M parameters is better served by 8,192.",
    )
    lowercase: bool = Field(
        True, description="wordpiece: letters lose case and accents, as in BERT's uncased models; bpe keeps both."
    )
    pattern: Pattern = Field(
        "o200k",
        description="bpe: pre-tokenisation expression by its published name: gpt2, cl100k (GPT-4), qwen2, o200k "
        "(GPT-4o; the only one that keeps combining marks, as in Hindi, with their letters).",
    )
    minimum_frequency: int = Field(
        2, ge=1, description="A pair seen less often is not merged; 2 as in Hugging Face's training examples."
    )
    sample_bytes: int = Field(
        16 << 20, ge=1, description="Text to train on, in UTF-8 bytes, drawn by hash of the document id."
    )
    sample_exponent: float = Field(
        0.7,
        ge=0.0,
        le=1.0,
        description="A (source, language) gets a share of the sample in proportion to its bytes to this power: 1 keeps "
        "the corpus' shares, 0 makes all equal; 0.7 is multilingual BERT's, which lifts small languages.",
    )
    sample_seed: int = Field(0, description="Decides which documents are sampled.")
    validation_fraction: float = Field(
        0.02, ge=0.0, lt=1.0, description="Share of the documents that is held out, by hash of the document id."
    )
    split_seed: int = Field(0, description="Decides which documents are held out.")


class TrainTokenizer(Stage[TokenizerConfig]):
    """Train the tokenizer on a bounded, levelled sample of the filtered documents that are not held out."""

    name = "tokenizer"
    version = 1

    def identity(self) -> dict[str, Any]:
        """Leave out what the model has no use for."""
        others = {"model", "lowercase"} if self.config.model == "bpe" else {"pattern"}
        return self.config.model_dump(mode="json", exclude=others)

    def units(self) -> list[Unit]:
        """Return the one unit: the whole corpus."""
        files = self.inputs[document_input(self.inputs)].committed().files("documents")
        return [Unit(0, f"{len(files)} document shards", {}, sum(file.bytes for file in files))]

    def process(self, unit: Unit, output: UnitOutput) -> None:
        """Write tokenizer.json."""
        config = self.config
        files = self.inputs[document_input(self.inputs)].committed().files("documents")
        found = candidates(files, config.validation_fraction, config.split_seed, config.sample_seed)
        available = np.bincount(found.stratum, found.bytes, len(found.names)).astype(np.int64)
        quota = quotas(available, config.sample_bytes, config.sample_exponent)
        taken = taken_bytes(found.order, found.bytes, found.stratum, quota)
        texts, size, minimum = sampled_texts(files, found, taken), config.vocabulary_size, config.minimum_frequency
        if config.model == "wordpiece":
            tokenizer_json, facts = train_wordpiece(texts, size, config.lowercase, minimum)
        else:
            tokenizer_json, facts = train_tokenizer(texts, size, config.pattern, minimum)
        documents = np.bincount(found.stratum, taken > 0, len(found.names)).astype(np.int64)
        sampled = np.bincount(found.stratum, taken, len(found.names)).astype(np.int64)
        sample = [
            {"source": source, "language": language, "documents": int(n), "bytes": int(size), "of_bytes": int(whole)}
            for (source, language), n, size, whole in zip(found.names, documents, sampled, available, strict=True)
        ]
        with output.file("tokenizer", ".json", **facts.as_json(), sample=sample) as file:
            file.write(tokenizer_json)
        output.count(sampled_documents=int(documents.sum()), sampled_bytes=int(sampled.sum()))

    def summary(self, records: Sequence[UnitRecord]) -> dict[str, Any]:
        """Return the tokenizer's digest, size and special tokens, and what it was trained on."""
        return dict(next(entry for entry in records[0].files if entry["kind"] == "tokenizer")["attributes"])


class TokenizeConfig(StageConfig):
    """How documents become token shards."""

    unit_bytes: int = Field(
        32 << 20, ge=1, description="Document shards, in bytes as stored, that make one unit and so one train shard."
    )
    dtype: TokenDtype = Field("auto", description="Of the shards; auto is uint16 up to 65,536 ids and uint32 above.")
    encoder: EncoderName = Field(
        "gigatoken",
        description="gigatoken, which gives way to tokenizers with a warning where it cannot load, or tokenizers. The "
        "ids are the same. For WordPiece a kernel stands in the place of gigatoken.",
    )
    verify_documents: int = Field(
        64,
        ge=0,
        description="Documents of each unit whose ids are compared with those of Hugging Face tokenizers; a difference "
        "fails the run.",
    )
    mixture: dict[str, Annotated[float, Field(ge=0.0, le=100.0)]] = Field(
        default_factory=dict,
        description="How often the training documents of a source are read, 1 where it is not named: 2 is twice, 0.5 "
        "half of them, drawn by hash of the document id. Held-out documents stay as they are.",
    )


@dataclass(frozen=True)
class TrainedTokenizer:
    """A committed tokenizer and the split that it was trained under."""

    json: bytes
    vocabulary_size: int
    end_of_text_id: int
    validation_fraction: float
    split_seed: int

    @classmethod
    def of(cls, committed: Committed) -> TrainedTokenizer:
        """Read it from the tokenizer stage's output."""
        summary, config = committed.manifest["summary"], committed.manifest["config"]
        with fsspec.open(committed.files("tokenizer")[0].path, "rb") as stream:
            return cls(
                stream.read(),
                summary["vocabulary_size"],
                summary["end_of_text_id"],
                config["validation_fraction"],
                config["split_seed"],
            )


class Tokenize(Stage[TokenizeConfig]):
    """Encode the filtered documents into token shards: training documents mixed, held-out ones by source and language.

    Documents keep their order; shuffling is the loader's, through its sample index.
    """

    name = "tokenize"
    version = 1

    def __init__(self, config: TokenizeConfig, inputs: Mapping[str, StageRef]) -> None:
        super().__init__(config, inputs)
        self.conserves: str = document_input(inputs)

    def identity(self) -> dict[str, Any]:
        """Return what the shards depend on: not which encoder makes the ids, nor how many are checked."""
        mixture = {"mixture"} if self.config.mixture else set()
        return self.config.model_dump(mode="json", include={"unit_bytes", "dtype"} | mixture)

    def units(self) -> list[Unit]:
        """Group consecutive document shards up to `unit_bytes`; a larger one is a unit of its own."""
        files = self.inputs[document_input(self.inputs)].committed().files("documents")
        return document_groups(files, self.config.unit_bytes)

    def process(self, unit: Unit, output: UnitOutput) -> None:
        """Write the unit's shards and index."""
        files = self.inputs[self.conserves].committed().files("documents")[unit.spec["begin"] : unit.spec["end"]]
        tokenizer = TrainedTokenizer.of(self.inputs["tokenizer"].committed())
        dtype = token_dtype(tokenizer.vocabulary_size, self.config.dtype)
        loaded = load_encoder(tokenizer.json, self.config.encoder)
        verifies = self.config.verify_documents > 0 and loaded.encoder is not loaded.reference
        stride = max(1, sum(file.rows for file in files) // max(1, self.config.verify_documents))
        facts: dict[str, Any] = {}
        if loaded.fallback_reason:
            logger.warning("encoding with tokenizers, some ten times slower: %s", loaded.fallback_reason)
            facts["encoder_fallback"] = loaded.fallback_reason

        train: list[list[Part]] = [[]]  # by how often a document came before
        held_out: list[Part] = []
        first = 0
        for batch in _batches(files):
            encoded = loaded.encoder.encode(batch["text"])
            if verifies:
                verify_batch(loaded, batch, encoded, np.arange(-first % stride, batch.num_rows, stride))
            whole = Part(close_documents(encoded, tokenizer.end_of_text_id, dtype), _described(batch))
            is_held_out = split_of(batch["id"], tokenizer.validation_fraction, tokenizer.split_seed)
            drawn = draws(batch["id"])
            times = np.where(is_held_out, 0, copies(drawn, batch["source"], self.config.mixture))
            train.extend([] for _ in range(len(train), int(times.max(initial=1))))
            for number, parts in enumerate(train):
                parts.append(select(whole, times > number))
            held_out.append(select(whole, is_held_out))
            self._count(output, whole.rows, drawn, is_held_out | (times > 0))
            first += batch.num_rows

        index = [INDEX_SCHEMA.empty_table()]
        # A document that comes again stands behind all others, so that no window reads it twice in a row.
        trained = [part for parts in train for part in parts]
        if any(part.rows.num_rows for part in trained):
            index.append(write_shard(output, 0, trained, TRAIN, source=None, language=None, **facts))
        for (source, language), part in by_stratum(held_out):
            number = len(index) - 1
            index.append(write_shard(output, number, [part], VALIDATION, source=source, language=language, **facts))
        output.write("index", pa.concat_tables(index))
        output.count(tokens=sum(pc.sum(table["tokens"]).as_py() or 0 for table in index))

    def _count(self, output: UnitOutput, rows: pa.Table, drawn: NDArray[np.float64], stays: NDArray[np.bool_]) -> None:
        """Count documents, and say of each that the mixture leaves out what it drew against its source's weight."""
        sizes = rows["text_bytes"].to_numpy()
        kept, gone = int(stays.sum()), rows.filter(pa.array(~stays))
        output.ledger(
            {
                "id": row["id"],
                "source": row["source"],
                "action": "dropped",
                "rule": RULE,
                "value": float(value),
                "threshold": self.config.mixture[row["source"]],
                "bytes": row["text_bytes"],
            }
            for row, value in zip(gone.to_pylist(), drawn[~stays], strict=True)
        )
        output.count(read=len(stays), kept=kept, dropped=len(stays) - kept)
        output.count(bytes_in=int(sizes.sum()), bytes_out=int(sizes[stays].sum()))

    def summary(self, records: Sequence[UnitRecord]) -> dict[str, Any]:
        """Return the tokenizer by digest and the tokens by split, source and language."""
        tokenizer = self.inputs["tokenizer"].committed().manifest["summary"]
        files = [entry for record in records for entry in record.files if entry["kind"] == "tokens"]
        return {
            "tokenizer": {name: value for name, value in tokenizer.items() if name != "sample"},
            "dtype": token_dtype(tokenizer["vocabulary_size"], self.config.dtype).name,
            **summarise([entry["attributes"] for entry in files]),
            "warnings": sorted(
                {
                    f"encoded with tokenizers instead of gigatoken: {entry['attributes']['encoder_fallback']}"
                    for entry in files
                    if "encoder_fallback" in entry["attributes"]
                }
            ),
        }


def document_groups(files: Sequence[File], unit_bytes: int) -> list[Unit]:
    """Group consecutive document shards into units of up to `unit_bytes`; a larger one is a unit of its own."""
    groups: list[list[int]] = []
    size = 0
    for number, file in enumerate(files):
        if not groups or size + file.bytes > unit_bytes:
            groups.append([])
            size = 0
        groups[-1].append(number)
        size += file.bytes
    return [
        Unit(
            index,
            f"document shards [{group[0]}:{group[-1] + 1}] of {len(files)}",
            {"begin": group[0], "end": group[-1] + 1},
            sum(files[number].bytes for number in group),
        )
        for index, group in enumerate(groups)
    ]


def verify_batch(loaded: Loaded, batch: pa.RecordBatch, encoded: Encoded, rows: NDArray[np.int64]) -> None:
    """Compare the ids of some documents of a batch with the reference encoder's.

    A document of more than VERIFIED_CHARACTERS is encoded once more up to there by both. Raises EncodingMismatch.
    """
    if len(rows) == 0:
        return
    picked = batch.take(pa.array(rows))
    beginning = pc.utf8_slice_codeunits(picked["text"], 0, VERIFIED_CHARACTERS)
    is_whole = pc.equal(pc.binary_length(beginning), pc.binary_length(picked["text"]))
    names = pc.binary_join_element_wise(picked["id"], " (", picked["source"], " ", picked["locator"], ")", "")
    for mask, reuse in ((is_whole, True), (pc.invert(is_whole), False)):
        texts = beginning.filter(mask)
        if len(texts):
            got = encoded.take(rows[mask.to_numpy(zero_copy_only=False)]) if reuse else loaded.encoder.encode(texts)
            check_encoding(got, loaded.reference.encode(texts), names.filter(mask).to_pylist())


def _batches(files: Sequence[File]) -> Iterator[pa.RecordBatch]:
    for file in files:
        with file.parquet() as parquet:
            columns = ["id", "text", "source", "locator", "language"]
            yield from parquet.iter_batches(BATCH_ROWS, columns=columns)


def _described(batch: pa.RecordBatch) -> pa.Table:
    lengths = pc.cast(pc.binary_length(batch["text"]), pa.int64())
    return pa.table(
        {"id": batch["id"], "source": batch["source"], "language": with_language(batch), "text_bytes": lengths}
    )
