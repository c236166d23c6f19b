"""The stages that train n-gram models of reference sources and measure every document's perplexity with them."""

from collections.abc import Iterator, Mapping, Sequence
from functools import lru_cache
from pathlib import Path
from typing import Any, ClassVar, Final, Self

import fsspec
import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from numpy.typing import NDArray
from pydantic import Field, model_validator

from pipeline.annotate import batch_rows
from pipeline.perplexity.arpa import from_arpa
from pipeline.perplexity.buckets import quantiles
from pipeline.perplexity.counts import Words
from pipeline.perplexity.file import load, load_once, save
from pipeline.perplexity.model import DEFAULT_MINIMUM_COUNTS, DEFAULT_ORDER, NgramModel, spread
from pipeline.stage import Stage, StageConfig, Unit, UnitOutput, UnitRecord
from pipeline.store import File, Store, file_sha256, is_local
from pipeline.text.scan import SCAN_VERSION, word_hashes
from pipeline.text.tables import UNICODE_VERSION
from pipeline.tokens.split import sample_order

PERPLEXITY_SCHEMA: Final = pa.schema(
    [
        pa.field("id", pa.string(), nullable=False),
        pa.field("perplexity", pa.float64()),
    ]
)


class PerplexityModelConfig(StageConfig):
    """Which n-gram models there are, and how they are trained. Without sources or models no document is measured."""

    sources: list[str] = Field(
        default=[],
        description="Sources whose documents are the reference, such as a Wikipedia: one model is trained for each "
        "language in them (Wenzek et al. 2020, section 3.4)",
    )
    models: dict[str, str] = Field(
        default={},
        description="Files by language that take the place of training: models of this stage, or ARPA files (.arpa) "
        "whose words are those of the scan. Their digests are part of the stage's identity, their paths are not",
    )
    order: int = Field(
        default=DEFAULT_ORDER, ge=1, le=16, description="Longest n-gram in words. Default 5: Wenzek et al. 2020"
    )
    minimum_word_count: int = Field(
        default=2, ge=1, description="Words seen less often in the reference are <unk>, which so gets a probability"
    )
    minimum_counts: list[int] = Field(
        default=list(DEFAULT_MINIMUM_COUNTS),
        description="Occurrences below which n-grams of order 2, 3, ... are pruned after estimation; the last value "
        "holds for the orders above. Default 1, 2, 2, 2: SRILM's ngram-count (-gt3min). KenLM prunes nothing: [1]",
    )
    minimum_words: int = Field(
        default=100_000, ge=1, description="Languages with fewer words in the reference sources get no model"
    )
    maximum_words: int = Field(
        default=20_000_000,
        ge=1,
        le=2_000_000_000,
        description="Words of a language to train on, drawn as whole documents by hash of their id; training takes "
        "some 60 bytes of memory a word",
    )
    sample_seed: int = Field(default=0, description="Decides which documents are drawn")

    @model_validator(mode="after")
    def _check(self) -> Self:
        spread(self.minimum_counts, self.order)
        return self


class PerplexityModel(Stage[PerplexityModelConfig]):
    """Trains one n-gram model for each language of the reference sources, or takes over given ones.

    Raises ValueError where a given model is missing or damaged, or a source has no document.
    """

    name: ClassVar[str] = "perplexity_model"
    version: ClassVar[int] = 1

    def identity(self) -> dict[str, Any]:
        """The configuration, with digests for the paths of models, and the versions of the scan and of Unicode."""
        return {
            **self.config.model_dump(mode="json", exclude={"models"}),
            "models_sha256": {language: _digest(path) for language, path in sorted(self.config.models.items())},
            "scan_version": SCAN_VERSION,
            "unicode_version": UNICODE_VERSION,
        }

    def units(self) -> list[Unit]:
        """One unit for each language that gets a model."""
        check_same_documents(self)
        words = self._reference_words()
        languages = {name: count for name, count in words.items() if count >= self.config.minimum_words}
        languages.update(dict.fromkeys(self.config.models, 0))
        return [
            Unit(number, f"language {language}", {"language": language}, languages[language])
            for number, language in enumerate(sorted(languages))
        ]

    def _reference_words(self) -> dict[str, int]:
        """Words of the reference sources by language."""
        if not self.config.sources:
            return {}
        words: dict[str, int] = {}
        seen: set[str] = set()
        for file in self.inputs["annotate"].committed().files("signals"):
            table = file.table(["source", "language", "words"])
            seen.update(pc.unique(table["source"]).to_pylist())
            mine = table.filter(pc.is_in(table["source"], value_set=pa.array(self.config.sources, pa.string())))
            for row in mine.group_by("language").aggregate([("words", "sum")]).to_pylist():
                words[row["language"]] = words.get(row["language"], 0) + row["words_sum"]
        missing = sorted(set(self.config.sources) - seen)
        if missing and seen:  # of an empty corpus the stages that follow tell
            raise ValueError(
                f"perplexity_model.sources: no document is of source {', '.join(map(repr, missing))}; "
                f"the sources are: {', '.join(sorted(seen)) or 'none'}"
            )
        return words

    def process(self, unit: Unit, output: UnitOutput) -> None:
        """Write one language's model."""
        language = unit.spec["language"]
        if language in self.config.models:
            model = _given(self.config.models[language])
        else:
            model = self._train(language, output)
        facts = {"language": language, "words": model.facts.words, "order": len(model.facts.ngrams)}
        with output.file("models", ".ngrams", **facts, ngrams=model.facts.ngrams) as file:
            save(model, file)

    def _train(self, language: str, output: UnitOutput) -> NgramModel:
        config = self.config
        signals = self.inputs["annotate"].committed().files("signals")
        documents = self.inputs["deduplicate"].committed().files("documents")
        rows = sampled_rows(signals, config.sources, language, config.maximum_words, config.sample_seed)
        output.count(trained_documents=sum(map(len, rows)))
        try:
            return NgramModel.train(
                _words(documents, rows), config.order, config.minimum_word_count, config.minimum_counts
            )
        except ValueError as error:
            raise ValueError(
                f"language {language!r}: {error}; each of its documents may be longer than maximum_words "
                f"({config.maximum_words}), which must hold some"
            ) from error

    def summary(self, records: Sequence[UnitRecord]) -> dict[str, Any]:
        """Words trained on and n-grams kept of each language, and the sources."""
        found = [entry["attributes"] for record in records for entry in record.files if entry["kind"] == "models"]
        models = {entry["language"]: {"words": entry["words"], "ngrams": entry["ngrams"]} for entry in found}
        return {"models": models, "sources": sorted(self.config.sources)}


class PerplexityConfig(StageConfig):
    """How perplexities are measured and summarised."""

    exclude_references: bool = Field(
        default=True,
        description="Leave documents of the reference sources out of the percentiles of their language: models know "
        "the text that they were trained on, which would lower the cuts. They get a perplexity and a bucket all the "
        "same. In a language that has no other document they are all counted",
    )


class Perplexity(Stage[PerplexityConfig]):
    """Measures the perplexity of every document under the model of its language.

    Writes `signals` row by row as the annotate stage does: id, perplexity (null without a model or without words).
    """

    name: ClassVar[str] = "perplexity"
    version: ClassVar[int] = 1
    conserves = "deduplicate"

    def identity(self) -> dict[str, Any]:
        """The configuration and the versions of the scan and of Unicode."""
        versions = {"scan_version": SCAN_VERSION, "unicode_version": UNICODE_VERSION}
        return {**self.config.model_dump(mode="json"), **versions}

    def units(self) -> list[Unit]:
        """One unit for each shard of documents."""
        check_same_documents(self)
        trained = self.inputs["perplexity_model"].committed().manifest["inputs"]
        for name in ("deduplicate", "annotate"):
            if trained.get(name, self.inputs[name].fingerprint) != self.inputs[name].fingerprint:
                raise ValueError(f"the n-gram models are of another {name} run than the documents; train them on these")
        files = self.inputs["deduplicate"].committed().files("documents")
        return [
            Unit(number, f"shard {number}: {file.rows} documents", {"file": number}, file.bytes)
            for number, file in enumerate(files)
        ]

    def process(self, unit: Unit, output: UnitOutput) -> None:
        """Measure the documents of one shard, a batch at a time."""
        number = unit.spec["file"]
        signals = self.inputs["annotate"].committed().files("signals")[number].table(["id", "language"])
        file = self.inputs["deduplicate"].committed().files("documents")[number]
        files = self.inputs["perplexity_model"].committed().files("models")
        paths = {entry.attributes["language"]: entry.path for entry in files}
        done = 0
        with output.parquet("signals", PERPLEXITY_SCHEMA) as sink, file.parquet() as documents:
            for batch in documents.iter_batches(batch_rows(documents), columns=["id", "text"]):
                facts = signals.slice(done, batch.num_rows)
                done += batch.num_rows
                if not facts["id"].combine_chunks().equals(batch["id"]):
                    raise ValueError(
                        f"shard {number}: signals and documents do not match; run the annotate stage again"
                    )
                perplexity = measure(batch["text"], facts["language"], paths)
                columns = [batch["id"], pa.array(perplexity, from_pandas=True)]
                sink.write(pa.table(columns, schema=PERPLEXITY_SCHEMA))
                text_bytes = int(pc.sum(pc.binary_length(batch["text"])).as_py() or 0)
                output.count(read=batch.num_rows, kept=batch.num_rows, bytes_in=text_bytes, bytes_out=text_bytes)
                output.count(measured=int((~np.isnan(perplexity)).sum()))
        if done != signals.num_rows:
            raise ValueError(f"shard {number}: {signals.num_rows} signals for {done} documents; run annotate again")

    def summary(self, records: Sequence[UnitRecord]) -> dict[str, Any]:
        """Of each language with a model: documents measured, and the percentiles that the buckets are cut at.

        `quantiles` are percentiles 0, 0.1, ..., 100 of the exact values (`pipeline.perplexity.buckets.cut_points`).
        Takes 8 bytes of memory a document.
        """
        references = pa.array(self.inputs["perplexity_model"].committed().manifest["summary"]["sources"], pa.string())
        signals = self.inputs["annotate"].committed().files("signals")
        root = self.inputs["annotate"].path.rsplit("/", 2)[0]
        own = Store(root).ref(self.name, self.fingerprint())
        values: dict[tuple[str, bool], list[NDArray[np.float64]]] = {}
        for record in records:
            entry = next(entry for entry in record.files if entry["kind"] == "signals")
            table = File(**{**entry, "path": f"{own.path}/{entry['path']}"}).table(["perplexity"])
            facts = signals[record.unit].table(["source", "language"])
            is_reference = pc.is_in(facts["source"], value_set=references)
            joined = pa.table({"language": facts["language"], "reference": is_reference, "p": table["perplexity"]})
            joined = joined.filter(pc.is_finite(joined["p"]))
            for language in pc.unique(joined["language"]).to_pylist():
                of_language = joined.filter(pc.equal(joined["language"], language))
                reference = of_language["reference"].to_numpy()
                found = of_language["p"].to_numpy()
                values.setdefault((language, False), []).append(found[~reference])
                values.setdefault((language, True), []).append(found[reference])
        return {"languages": {name: self._facts(name, values) for name in sorted({name for name, _ in values})}}

    def _facts(self, language: str, values: Mapping[tuple[str, bool], list[NDArray[np.float64]]]) -> dict[str, Any]:
        others, references = (np.concatenate(values[language, which]) for which in (False, True))
        counted = others if self.config.exclude_references and len(others) else np.concatenate([others, references])
        return {
            "documents": len(others) + len(references),
            "reference_documents": len(references),
            "counted": len(counted),
            "quantiles": quantiles(counted),
        }


def check_same_documents(stage: Stage[Any]) -> None:
    """Raise ValueError unless the signals are of the documents."""
    annotated = stage.inputs["annotate"].committed()
    if annotated.manifest["inputs"].get("deduplicate") != stage.inputs["deduplicate"].fingerprint:
        raise ValueError(
            "the signals are of another deduplicate run than the documents; run the annotate stage on these"
        )


def measure(texts: pa.Array, languages: pa.Array | pa.ChunkedArray, models: Mapping[str, str]) -> NDArray[np.float64]:
    """Perplexity of each text under the model file of its language (documents,), NaN without one or without words."""
    found = np.full(len(texts), np.nan)
    for language in pc.unique(languages).to_pylist():
        if language in models:
            mask = pc.equal(languages, language).to_numpy(zero_copy_only=False)
            model = load_once(_local(models[language]))
            found[mask] = model.perplexities(word_hashes(texts.filter(pa.array(mask))))
    return found


def sampled_rows(
    signals: Sequence[File], sources: Sequence[str], language: str, maximum_words: int, seed: int
) -> list[NDArray[np.int64]]:
    """Rows of each shard to train a language on, ascending.

    Documents come in the order of the hash of their id, as long as their words together are at most `maximum_words`;
    one that alone has more never comes.
    """
    shards, rows, words, orders = [], [], [], []
    for number, file in enumerate(signals):
        table = file.table(["id", "source", "language", "words"])
        mask = pc.and_(
            pc.is_in(table["source"], value_set=pa.array([*sources], pa.string())),
            pc.and_(pc.equal(table["language"], language), pc.less_equal(table["words"], maximum_words)),
        )
        table = table.filter(mask)
        shards.append(np.full(table.num_rows, number))
        rows.append(np.flatnonzero(mask.to_numpy()))
        words.append(table["words"].to_numpy())
        orders.append(sample_order(table["id"], seed))
    if not shards:
        return []
    by_hash = np.argsort(np.concatenate(orders), kind="stable")
    taken = np.zeros(len(by_hash), np.bool_)
    taken[by_hash[np.cumsum(np.concatenate(words)[by_hash]) <= maximum_words]] = True
    shard, row = np.concatenate(shards)[taken], np.concatenate(rows)[taken]
    return [row[shard == number] for number in range(len(signals))]


def _words(documents: Sequence[File], rows: Sequence[NDArray[np.int64]]) -> Iterator[Words]:
    for file, wanted in zip(documents, rows, strict=True):
        if len(wanted) == 0:
            continue
        with file.parquet() as parquet:
            first = 0
            for batch in parquet.iter_batches(batch_rows(parquet), columns=["text"]):
                inside = slice(*np.searchsorted(wanted, [first, first + batch.num_rows]))
                if inside.start < inside.stop:
                    yield word_hashes(batch["text"].take(pa.array(wanted[inside] - first)))
                first += batch.num_rows


def _digest(path: str) -> str:
    file = Path(path).expanduser()
    try:
        status = file.stat()
        return _digest_once(file, status.st_size, status.st_mtime_ns)
    except OSError as error:
        raise ValueError(
            f"perplexity_model.models: there is no n-gram model at {path} ({error.strerror}); give the path of a file"
        ) from error


@lru_cache(maxsize=256)
def _digest_once(file: Path, size: int, modified: int) -> str:
    return file_sha256(file)


def _given(path: str) -> NgramModel:
    file = Path(path).expanduser()
    return from_arpa(file) if file.suffix == ".arpa" else load(file)


def _local(path: str) -> str:
    return path.removeprefix("file://") if is_local(path) else str(fsspec.open_local(f"simplecache::{path}"))
