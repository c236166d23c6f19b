"""The filter stage: thresholds over the signals decide which documents stay, and C4's line rules shorten those.

The rules stand in a fixed order: language, Gopher quality, Gopher repetition, C4. A document goes by the first that it
fails; `evaluate` gives all of them.
"""

import difflib
from collections.abc import Mapping
from typing import Any, ClassVar, Final

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from numpy.typing import NDArray
from pydantic import Field

from pipeline.annotate import batch_rows
from pipeline.documents import DOCUMENT_SCHEMA
from pipeline.quality.c4 import C4, C4Lines, line_rules, remove_lines
from pipeline.quality.gopher import GopherQuality, GopherRepetition
from pipeline.quality.language import LanguageRules
from pipeline.quality.rules import Evaluation, RuleSet, first_failure
from pipeline.stage import Stage, StageConfig, Unit, UnitOutput
from pipeline.store import StageRef
from pipeline.text.scan import SCAN_VERSION

LINES_RULE: Final = "c4_lines"
"""The ledger's rule of a document from which lines were removed: `value` is their number, `bytes` their bytes."""


class FilterConfig(StageConfig):
    """The rules of the filter stage; null switches a whole set off."""

    language: LanguageRules | None = Field(default=LanguageRules(), description="Language rules (FineWeb's score)")
    gopher_quality: GopherQuality | None = Field(
        default=GopherQuality(), description="Gopher's quality rules (Rae et al. 2021, A.1.1)"
    )
    gopher_repetition: GopherRepetition | None = Field(
        default=GopherRepetition(), description="Gopher's repetition rules (Rae et al. 2021, table A1)"
    )
    c4: C4 | None = Field(default=C4(), description="C4's rules (Raffel et al. 2020, section 2.2)")

    def rule_sets(self) -> list[RuleSet]:
        """The sets that are on, in the order in which they decide."""
        sets = (self.language, self.gopher_quality, self.gopher_repetition, self.c4)
        return [rules for rules in sets if rules is not None]


def evaluate(config: FilterConfig, signals: pa.Table) -> list[Evaluation]:
    """Every rule's value, threshold and verdict for each document of a signals table, in the order of the rules."""
    return [evaluation for rules in config.rule_sets() for evaluation in rules.evaluate(signals)]


def verdicts(config: FilterConfig, signals: pa.Table) -> pa.Table:
    """`evaluate` as a table for people: one row for each document and rule.

    Columns: id, rule, signal, bound (minimum or maximum), value, threshold, verdict (pass, fail, off: no threshold for
    the language, not measured), decisive (the rule by which the document goes), source (of the rule).
    """
    evaluations = evaluate(config, signals)
    first = first_failure(evaluations, signals.num_rows)
    ids = signals["id"].combine_chunks().cast(pa.string())
    tables = []
    for number, evaluation in enumerate(evaluations):
        off, missing = np.isnan(evaluation.thresholds), np.isnan(evaluation.values)
        verdict = np.select([off, missing, evaluation.failed], ["off", "not measured", "fail"], "pass")
        facts = {"rule": evaluation.rule, "signal": evaluation.signal, "bound": evaluation.bound}
        tables.append(
            pa.table(
                {
                    "id": ids,
                    **{name: pa.repeat(pa.scalar(value, pa.string()), len(ids)) for name, value in facts.items()},
                    "value": pa.array(evaluation.values, from_pandas=True),
                    "threshold": pa.array(evaluation.thresholds, from_pandas=True),
                    "verdict": pa.array(verdict.astype(object), pa.string()),
                    "decisive": pa.array(first == number),
                    "source": pa.repeat(pa.scalar(evaluation.source, pa.string()), len(ids)),
                }
            )
        )
    if not tables:
        raise ValueError("every set of rules is off: there is nothing to evaluate")
    return pa.concat_tables(tables)


class Filter(Stage[FilterConfig]):
    """Decides on every document by its signals and removes lines from those that stay.

    Raises ValueError where an allowed language is unknown to the model that annotated, or where the documents and the
    signals are not of the same documents.
    """

    name: ClassVar[str] = "filter"
    version: ClassVar[int] = 1
    conserves: ClassVar[str | None] = "deduplicate"

    def __init__(self, config: FilterConfig, inputs: Mapping[str, StageRef]) -> None:
        super().__init__(config, inputs)

    def identity(self) -> dict[str, Any]:
        """The configuration and the version of the scan, which decides what a line is."""
        return {**self.config.model_dump(mode="json"), "scan_version": SCAN_VERSION}

    def units(self) -> list[Unit]:
        """One unit for each shard of documents."""
        annotated = self.inputs["annotate"].committed()
        if annotated.manifest["inputs"].get("deduplicate") != self.inputs["deduplicate"].fingerprint:
            raise ValueError(
                "the signals are of another deduplicate run than the documents; run the annotate stage on these"
            )
        self._check_languages(annotated.manifest["summary"]["model_languages"])
        documents = self.inputs["deduplicate"].committed().files("documents")
        return [
            Unit(number, f"shard {number}: {file.rows} documents", {"file": number}, file.bytes)
            for number, file in enumerate(documents)
        ]

    def _check_languages(self, known: list[str]) -> None:
        rules = self.config.language
        for language in (rules.allowed or []) if rules else []:
            if language not in known:
                near = difflib.get_close_matches(language, known, n=3, cutoff=0.5)
                hint = f"; did you mean {' or '.join(near)}?" if near else ""
                raise ValueError(
                    f"filter.language.allowed: the language model knows no {language!r}{hint} "
                    f"It knows {len(known)}: {' '.join(known)}"
                )

    def _line_rules(self) -> C4Lines | None:
        if self.config.c4 is None or not self.config.c4.remove_lines:
            return None
        return C4Lines(**self.inputs["annotate"].committed().manifest["config"]["c4_lines"])

    def process(self, unit: Unit, output: UnitOutput) -> None:
        """Filter the documents of one shard, a batch at a time."""
        number = unit.spec["file"]
        signals = self.inputs["annotate"].committed().files("signals")[number].table()
        evaluations = evaluate(self.config, signals)
        first = first_failure(evaluations, signals.num_rows)
        lines = self._line_rules()
        file = self.inputs["deduplicate"].committed().files("documents")[number]
        done = 0
        with output.parquet("documents", DOCUMENT_SCHEMA) as sink, file.parquet() as parquet:
            for batch in parquet.iter_batches(batch_rows(parquet)):
                part = slice(done, done + batch.num_rows)
                facts = signals.slice(done, batch.num_rows)
                done += batch.num_rows
                if not facts["id"].combine_chunks().equals(batch["id"]):
                    raise ValueError(
                        f"shard {number}: signals and documents do not match; run the annotate stage again"
                    )
                kept = first[part] < 0
                documents, edited = _keep(pa.Table.from_batches([batch]), facts, kept, lines)
                sink.write(documents)
                output.ledger(_ledger(facts, first[part], evaluations, part, edited))
                text_bytes = facts["text_bytes"].to_numpy()
                output.count(
                    read=batch.num_rows,
                    kept=int(kept.sum()),
                    dropped=int((~kept).sum()),
                    edited=int((edited > 0).sum()),
                    bytes_in=int(text_bytes.sum()),
                    bytes_out=int(text_bytes[kept].sum() - facts["c4_removed_bytes"].to_numpy()[edited > 0].sum()),
                )
        if done != signals.num_rows:
            raise ValueError(f"shard {number}: {signals.num_rows} signals for {done} documents; run annotate again")


def _keep(
    documents: pa.Table, facts: pa.Table, kept: NDArray[np.bool_], lines: C4Lines | None
) -> tuple[pa.Table, NDArray[np.int64]]:
    """The documents that stay, edited, with their language; and the lines removed from each of all documents."""
    mask = pa.array(kept)
    staying = documents.filter(mask)
    edited = np.zeros(len(kept), np.int64)
    if lines is not None:
        texts, removed = remove_lines(staying["text"], line_rules(lines))
        assert np.array_equal(removed, facts["c4_removed_lines"].to_numpy()[kept]), "lines differ from the signals"
        staying = staying.set_column(staying.schema.get_field_index("text"), "text", texts)
        edited[kept] = removed
    language = facts["language"].filter(mask)
    staying = staying.set_column(staying.schema.get_field_index("language"), "language", language)
    return staying.select(DOCUMENT_SCHEMA.names).cast(DOCUMENT_SCHEMA), edited


def _ledger(
    facts: pa.Table,
    first: NDArray[np.int64],
    evaluations: list[Evaluation],
    part: slice,
    edited: NDArray[np.int64],
) -> pa.Table:
    """One row for each document that goes or is edited, in the order of the documents."""
    rows = np.flatnonzero((first >= 0) | (edited > 0))
    dropped = first[rows] >= 0
    rule = np.where(dropped, first[rows], len(evaluations))
    names = pa.array([*(evaluation.rule for evaluation in evaluations), LINES_RULE], pa.string())
    values, thresholds = edited[rows].astype(np.float64), np.full(len(rows), np.nan)
    for number in np.unique(rule[dropped]):
        of_rule = rule == number
        at = part.start + rows[of_rule]
        values[of_rule] = evaluations[number].values[at]
        thresholds[of_rule] = evaluations[number].thresholds[at]
    picked = facts.take(rows)
    by_language = pc.starts_with(names.take(rule), "language.")
    columns: dict[str, Any] = {
        "id": picked["id"],
        "source": picked["source"],
        "action": pa.array(np.where(dropped, "dropped", "edited").astype(object), pa.string()),
        "rule": names.take(rule),
        "value": pa.array(values, from_pandas=True),
        "threshold": pa.array(thresholds, from_pandas=True),
        "bytes": pc.if_else(pa.array(dropped), picked["text_bytes"], picked["c4_removed_bytes"]),
        "detail": pc.if_else(by_language, picked["language"], pa.scalar(None, pa.string())),
    }
    return pa.table(columns)
