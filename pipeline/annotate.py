"""The annotate stage: measures every document once. Thresholds are applied later, by the filter stage.

Reads the documents of `deduplicate`, writes one row of `signals` for each, in the same order and the same shards.
"""

from collections.abc import Mapping, Sequence
from functools import cached_property
from pathlib import Path
from typing import Any, ClassVar, Final

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq
from pydantic import Field

from pipeline.annotators import Annotator, Batch
from pipeline.language import DEFAULT_BYTES, identify, load_model, model_path, model_sha256
from pipeline.quality.lines import Lines, line_rules
from pipeline.quality.signals import SIGNALS, measure
from pipeline.stage import Stage, StageConfig, Unit, UnitOutput, UnitRecord
from pipeline.store import StageRef
from pipeline.text.scan import SCAN_VERSION
from pipeline.text.tables import UNICODE_VERSION
from pipeline.toxicity.url_categories import UrlCategories, UrlCategoriesConfig
from pipeline.toxicity.word_lists import WordLists, WordListsConfig

SIGNALS_SCHEMA: Final = pa.schema(
    [  # type: ignore[arg-type]
        pa.field("id", pa.string(), nullable=False),
        pa.field("source", pa.string(), nullable=False),
        pa.field("language", pa.string(), nullable=False),
        pa.field("language_score", pa.float64(), nullable=False),
        pa.field("second_language", pa.string()),
        pa.field("second_language_score", pa.float64()),
        pa.field("third_language", pa.string()),
        pa.field("third_language_score", pa.float64()),
        pa.field("other_language_fraction", pa.float64(), nullable=False),
        pa.field("language_script_fraction", pa.float64()),
        *(pa.field(signal.name, signal.type) for signal in SIGNALS),
    ]
)

_BATCH_ROWS: Final = 1024
_BATCH_BYTES: Final = 16 << 20
_LANGUAGE_PREFIX: Final = "language_"


def batch_rows(documents: pq.ParquetFile) -> int:
    """Rows of documents to read at a time: about 16 MiB of text in the mean of the file, and 1024 at most."""
    metadata = documents.metadata
    column = metadata.schema.names.index("text")
    text_bytes = sum(
        metadata.row_group(group).column(column).total_uncompressed_size for group in range(metadata.num_row_groups)
    )
    return max(1, min(_BATCH_ROWS, _BATCH_BYTES * metadata.num_rows // max(text_bytes, 1)))


class AnnotateConfig(StageConfig):
    """What the annotate stage measures."""

    language_model: str | None = Field(
        default=None,
        description="File of a fastText classifier of languages; null: lid.176.ftz (Joulin et al. 2016), which the "
        "quickstart brings. Its digest is part of the stage's identity, its path is not",
    )
    language_bytes: int = Field(
        default=DEFAULT_BYTES,
        ge=64,
        description="UTF-8 bytes by which the language of a document is told: it is read whole up to this size, and "
        "beyond in evenly spread pieces. Default 2048: where more hardly changes the answer",
    )
    lines: Lines = Field(
        default=Lines(),
        description="Which lines the signals c4_* and refinedweb_* count as removed; the filter stage removes those "
        "(c4.remove_lines, refinedweb.remove_lines)",
    )
    word_lists: WordListsConfig | None = Field(
        default=None, description="Lists of bad words by language, for the signals bad_words; null: none"
    )
    url_categories: UrlCategoriesConfig | None = Field(
        default=None, description="Categories of hosts and URLs, for the signal url_categories; null: none"
    )

    def annotators(self) -> list[Annotator]:
        """What measures beside the language and the text statistics, in the order of the columns."""
        lists = [WordLists(self.word_lists)] if self.word_lists else []
        return [*lists, *([UrlCategories(self.url_categories)] if self.url_categories else [])]


class Annotate(Stage[AnnotateConfig]):
    """Language, script and quality statistics of every document.

    Raises ValueError where the language model is missing or damaged, on the first use of its identity.
    """

    name: ClassVar[str] = "annotate"
    version: ClassVar[int] = 2
    conserves = "deduplicate"

    def __init__(self, config: AnnotateConfig, inputs: Mapping[str, StageRef]) -> None:
        super().__init__(config, inputs)

    @cached_property
    def model_path(self) -> Path:
        """The file of the language model."""
        return model_path(self.config.language_model)

    def identity(self) -> dict[str, Any]:
        """The configuration, with the model's digest for its path, and the versions of the scan and of Unicode."""
        return {
            "language_bytes": self.config.language_bytes,
            "language_model_sha256": model_sha256(self.model_path),
            "lines": self.config.lines.model_dump(mode="json"),
            "annotators": [annotator.identity() for annotator in self.config.annotators()],
            "scan_version": SCAN_VERSION,
            "unicode_version": UNICODE_VERSION,
        }

    def units(self) -> list[Unit]:
        """One unit for each shard of documents."""
        files = self.inputs["deduplicate"].committed().files("documents")
        return [
            Unit(number, f"shard {number}: {file.rows} documents", {"file": number}, file.bytes)
            for number, file in enumerate(files)
        ]

    def process(self, unit: Unit, output: UnitOutput) -> None:
        """Measure the documents of one shard, a batch at a time."""
        file = self.inputs["deduplicate"].committed().files("documents")[unit.spec["file"]]
        model = load_model(self.model_path)
        rules = line_rules(self.config.lines)
        annotators = self.config.annotators()
        added = [signal for annotator in annotators for signal in annotator.signals()]
        schema = pa.schema([*SIGNALS_SCHEMA, *(pa.field(signal.name, signal.type) for signal in added)])
        with output.parquet("signals", schema) as sink, file.parquet() as documents:
            for rows in documents.iter_batches(batch_rows(documents), columns=["id", "source", "url", "text"]):
                found = identify(model, rows["text"], 3, self.config.language_bytes)
                statistics = measure(rows["text"], found.codes[0].tolist(), rules)
                batch = Batch.of(rows, found.codes[0])
                more = {name: column for one in annotators for name, column in one.measure(batch).items()}
                columns = [
                    rows["id"],
                    rows["source"],
                    *(
                        column
                        for codes, scores in zip(found.codes, found.scores, strict=True)
                        for column in (pa.array(codes, pa.string()), pa.array(scores, from_pandas=True))
                    ),
                    pa.array(found.other_fraction),
                    pa.array(found.script_fraction, from_pandas=True),
                    *statistics.columns,
                    *(more[signal.name] for signal in added),
                ]
                sink.write(pa.table(columns, schema=schema))
                size = batch.text_bytes
                output.count(read=rows.num_rows, kept=rows.num_rows, bytes_in=size, bytes_out=size)
                for count in pc.value_counts(columns[2]).to_pylist():
                    output.count(**{_LANGUAGE_PREFIX + count["values"]: count["counts"]})

    def summary(self, records: Sequence[UnitRecord]) -> dict[str, Any]:
        """Documents by language, most first, and the languages that the model knows."""
        languages: dict[str, int] = {}
        for record in records:
            for name, count in record.counts.items():
                if name.startswith(_LANGUAGE_PREFIX):
                    language = name.removeprefix(_LANGUAGE_PREFIX)
                    languages[language] = languages.get(language, 0) + count
        ordered = sorted(languages.items(), key=lambda item: (-item[1], item[0]))
        return {
            "documents_by_language": dict(ordered),
            "model_languages": list(load_model(self.model_path).labels),
        }
