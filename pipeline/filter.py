"""The filter stage: thresholds over the signals decide which documents stay, and C4's line rules shorten those.

The rules stand in a fixed order: the published sets, in the order of FilterConfig, then the recipe's own decisions. A
document goes by the first that it fails; `evaluate` gives all of them.
"""

import json
from collections.abc import Mapping
from typing import Annotated, Any, ClassVar, Final, Self

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray
from pydantic import Field, model_validator

from pipeline.annotate import batch_rows
from pipeline.decisions import PREFIX, check_decisions, columns_of, decide
from pipeline.documents import DOCUMENT_SCHEMA
from pipeline.perplexity.buckets import PerplexityRules
from pipeline.quality.c4 import C4
from pipeline.quality.chinese import Chinese
from pipeline.quality.encoding import Encoding
from pipeline.quality.fineweb import FineWeb
from pipeline.quality.fineweb2 import FineWeb2
from pipeline.quality.gopher import GopherQuality, GopherRepetition
from pipeline.quality.language import LanguageRules
from pipeline.quality.lines import SETS, Edited, Lines, line_rules, remove_lines
from pipeline.quality.refinedweb import RefinedWeb
from pipeline.quality.rules import Evaluation, RuleSet, did_you_mean, first_failure
from pipeline.signals import Signals
from pipeline.stage import Stage, StageConfig, Unit, UnitOutput
from pipeline.store import Committed, StageRef
from pipeline.text.scan import SCAN_VERSION
from pipeline.toxicity.rules import ToxicityRules

LINES_RULES: Final = tuple(f"{name}_lines" for name in SETS)
"""The ledger's rules of a document from which lines were removed: `value` is their number, `bytes` their bytes."""


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
    fineweb: FineWeb | None = Field(
        default=None, description="FineWeb's own rules (Penedo et al. 2024, section 3.5); default: off"
    )
    fineweb2: FineWeb2 | None = Field(
        default=None, description="FineWeb-2's rules, with thresholds by language (Penedo et al. 2025); default: off"
    )
    refinedweb: RefinedWeb | None = Field(
        default=None, description="RefinedWeb's line-wise rules (Penedo et al. 2023, appendix G.2); default: off"
    )
    encoding: Encoding | None = Field(
        default=None, description="Text whose bytes were read in the wrong encoding; default: off"
    )
    chinese: Chinese | None = Field(default=None, description="Rules for Chinese; default: off")
    toxicity: ToxicityRules | None = Field(
        default=None, description="Bad words and categories of URLs (needs annotate.word_lists); default: off"
    )
    perplexity: PerplexityRules | None = Field(
        default=None, description="CCNet's head, middle and tail (needs the perplexity stage); default: off"
    )

    decisions: dict[Annotated[str, Field(pattern=r"^[a-z][a-z0-9_]*$")], str] = Field(
        default={},
        description="The recipe's own rules by name: SQL conditions over the columns of the signals under which a "
        "document stays, such as {long_enough: \"words > 200 OR language = 'zh'\"}. Null counts as true",
    )

    @model_validator(mode="after")
    def _check_decisions(self) -> Self:
        for name, condition in self.decisions.items():
            columns_of(f"{PREFIX}.{name}", condition)
        return self

    def rule_sets(self) -> list[RuleSet]:
        """The sets that are on, in the order in which they decide."""
        sets = (
            *(self.language, self.gopher_quality, self.gopher_repetition, self.c4, self.fineweb, self.fineweb2),
            *(self.refinedweb, self.encoding, self.chinese, self.toxicity, self.perplexity),
        )
        return [rules for rules in sets if rules is not None]

    def editing(self) -> list[str]:
        """The sets whose rules for lines edit the text, in the order of `pipeline.quality.lines.SETS`."""
        rules = {"c4": self.c4, "refinedweb": self.refinedweb}
        return [name for name in SETS if (one := rules[name]) is not None and one.remove_lines]


def evaluate(config: FilterConfig, signals: pa.Table) -> list[Evaluation]:
    """Every rule's value, threshold and verdict for each document of a signals table, in the order of the rules."""
    published = [evaluation for rules in config.rule_sets() for evaluation in rules.evaluate(signals)]
    return published + decide(config.decisions, signals)


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
    version: ClassVar[int] = 2
    conserves = "deduplicate"
    input_names: ClassVar[tuple[str, ...]] = ("deduplicate", "annotate", "classify", "perplexity")
    """The stages that it may read; the last two only where the run has them."""

    def __init__(self, config: FilterConfig, inputs: Mapping[str, StageRef]) -> None:
        super().__init__(config, inputs)

    def identity(self) -> dict[str, Any]:
        """The configuration, digests of the sets' own thresholds by language, and the version of the scan."""
        published = {rules.prefix: rules.identity()["language_defaults"] for rules in self.config.rule_sets()}
        return {**self.config.model_dump(mode="json"), "language_defaults": published, "scan_version": SCAN_VERSION}

    def units(self) -> list[Unit]:
        """One unit for each shard of documents."""
        self.check()
        documents = self.inputs["deduplicate"].committed().files("documents")
        return [
            Unit(number, f"shard {number}: {file.rows} documents", {"file": number}, file.bytes)
            for number, file in enumerate(documents)
        ]

    def check(self) -> None:
        """Raise ValueError unless the signals are of the documents and have all that the rules speak of."""
        signals = self._signals()
        if signals.parent != self.inputs["deduplicate"].fingerprint:
            raise ValueError(
                "the signals are of another deduplicate run than the documents; run the annotate stage on these"
            )
        annotated = self.inputs["annotate"].committed().manifest
        self._check_languages(annotated["summary"]["model_languages"])
        self._check_categories(annotated["config"]["annotators"])
        if signals.shards:
            check_decisions(self.config.decisions, signals.schema)
            evaluate(self.config, signals.schema.empty_table())

    def _signals(self) -> Signals:
        measured: dict[str, Committed] = {name: ref.committed() for name, ref in self.inputs.items()}
        return Signals(measured, self.config.perplexity)

    def _check_languages(self, known: list[str]) -> None:
        rules = self.config.language
        for language in (rules.allowed or []) if rules else []:
            if language not in known:
                raise ValueError(
                    f"filter.language.allowed: the language model knows no {language!r}{did_you_mean(language, known)} "
                    f"It knows {len(known)}: {' '.join(known)}"
                )

    def _check_categories(self, annotators: list[dict[str, Any]]) -> None:
        known = {category for annotator in annotators for category in annotator.get("categories", [])}
        for category in (self.config.toxicity.blocked_categories or []) if self.config.toxicity else []:
            if category not in known:
                raise ValueError(
                    f"filter.toxicity.blocked_categories: annotate.url_categories does not look for {category!r}"
                    f"{did_you_mean(category, known)}; it looks for: {', '.join(sorted(known)) or 'none'}"
                )

    def process(self, unit: Unit, output: UnitOutput) -> None:
        """Filter the documents of one shard, a batch at a time."""
        number = unit.spec["file"]
        signals = self._signals().table(number)
        evaluations = evaluate(self.config, signals)
        first = first_failure(evaluations, signals.num_rows)
        lines = Lines(**self.inputs["annotate"].committed().manifest["config"]["lines"])
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
                staying = pa.Table.from_batches([batch]).filter(pa.array(kept))
                edited = remove_lines(staying["text"], line_rules(lines), self.config.editing())
                sink.write(_edit(staying, facts.filter(pa.array(kept)), edited))
                gone = _dropped(facts, first[part], evaluations, part, self.config)
                output.ledger(_in_order(gone, _edited(facts, np.flatnonzero(kept), edited)))
                text_bytes = facts["text_bytes"].to_numpy()
                output.count(
                    read=batch.num_rows,
                    kept=int(kept.sum()),
                    dropped=int((~kept).sum()),
                    edited=int(_changed(edited).any(axis=1).sum()),
                    bytes_in=int(text_bytes.sum()),
                    bytes_out=int(text_bytes[kept].sum() - edited.removed_bytes.sum()),
                )
        if done != signals.num_rows:
            raise ValueError(f"shard {number}: {signals.num_rows} signals for {done} documents; run annotate again")


def _changed(edited: Edited) -> NDArray[np.bool_]:
    """(documents, sets) whether a set removed something; white space at the end of a line is no reason of its own."""
    return (edited.removed_lines > 0) | (edited.cut_lines > 0)


def _edit(staying: pa.Table, facts: pa.Table, edited: Edited) -> pa.Table:
    """The documents that stay, without the lines that go, with the language that was found."""
    columns = {"text": edited.texts, "language": facts["language"]}
    for name, column in columns.items():
        staying = staying.set_column(staying.schema.get_field_index(name), name, column)
    return staying.select(DOCUMENT_SCHEMA.names).cast(DOCUMENT_SCHEMA)


def _in_order(*ledgers: pa.Table) -> pa.Table:
    """Rows of the ledger in the order of the documents, so that they are the same whatever the batches are."""
    return pa.concat_tables(ledgers, promote_options="default").sort_by("row").drop_columns("row")


def _edited(facts: pa.Table, staying: NDArray[np.int64], edited: Edited) -> pa.Table:
    """One row for each document that stays and each set of rules for lines that edited it."""
    documents, sets = np.nonzero(_changed(edited))
    rows = staying[documents]
    return pa.table(
        {
            "row": rows,
            "id": facts["id"].take(rows),
            "source": facts["source"].take(rows),
            "action": pa.repeat(pa.scalar("edited"), len(rows)),
            "rule": pa.array(LINES_RULES, pa.string()).take(pa.array(sets)),
            "value": pa.array((edited.removed_lines + edited.cut_lines)[documents, sets].astype(np.float64)),
            "bytes": pa.array(edited.removed_bytes[documents, sets]),
        }
    )


def _dropped(
    facts: pa.Table, first: NDArray[np.int64], evaluations: list[Evaluation], part: slice, config: FilterConfig
) -> pa.Table:
    """One row for each document that goes."""
    rows = np.flatnonzero(first >= 0)
    rule = first[rows]
    values, thresholds = np.full(len(rows), np.nan), np.full(len(rows), np.nan)
    for number in np.unique(rule):
        of_rule = rule == number
        at = part.start + rows[of_rule]
        values[of_rule] = evaluations[number].values[at]
        thresholds[of_rule] = evaluations[number].thresholds[at]
    picked = facts.take(rows)
    names = [evaluations[number].rule for number in rule]
    return pa.table(
        {
            "row": rows,
            "id": picked["id"],
            "source": picked["source"],
            "action": pa.repeat(pa.scalar("dropped"), len(rows)),
            "rule": pa.array(names, pa.string()),
            "value": pa.array(values, from_pandas=True),
            "threshold": pa.array(thresholds, from_pandas=True),
            "bytes": picked["text_bytes"],
            "detail": pa.array(_details(names, picked, config), pa.string()),
        }
    )


def _details(names: list[str], picked: pa.Table, config: FilterConfig) -> list[str | None]:
    """What a value alone does not tell: the language, and the signals that a decision of the recipe looked at."""
    details: list[str | None] = [None] * len(names)
    languages = picked["language"].to_pylist() if any(name.startswith("language.") for name in names) else []
    read = {
        f"{PREFIX}.{name}": columns_of(f"{PREFIX}.{name}", condition) for name, condition in config.decisions.items()
    }
    for row, name in enumerate(names):
        if name.startswith("language."):
            details[row] = languages[row]
        elif name in read:
            seen = {column: picked[column][row].as_py() for column in read[name]}
            details[row] = json.dumps(seen, ensure_ascii=False)
    return details
