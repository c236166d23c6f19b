"""What changed thresholds would do, from the signals alone: nothing is measured again and nothing is written."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from numpy.typing import NDArray

from pipeline.annotate import batch_rows
from pipeline.filter import Filter, FilterConfig, evaluate
from pipeline.quality.rules import Evaluation, first_failure
from pipeline.signals import Signals
from pipeline.store import File, StageRef

EXCERPT_CHARACTERS = 200


@dataclass
class Change:
    """What happens to the documents of one source and language; bytes are of text before lines are removed."""

    source: str
    language: str
    documents: int = 0
    kept_before: int = 0
    kept_after: int = 0
    newly_dropped: int = 0
    newly_kept: int = 0
    bytes_before: int = 0
    bytes_after: int = 0


@dataclass(frozen=True)
class Example:
    """A document that changes sides, with the rule by which it goes (or went)."""

    id: str
    source: str
    language: str
    rule: str
    value: float | None
    threshold: float | None
    locator: str
    url: str | None
    excerpt: str


@dataclass
class Simulation:
    """The outcome of a simulation."""

    documents: int = 0
    measured_documents: int = 0  # whose signals were computed for this: always 0
    changes: list[Change] = field(default_factory=list)
    rules_before: dict[str, int] = field(default_factory=dict)  # documents that go by each rule
    rules_after: dict[str, int] = field(default_factory=dict)
    newly_dropped: list[Example] = field(default_factory=list)
    newly_kept: list[Example] = field(default_factory=list)

    def as_json(self) -> dict[str, Any]:
        """All of it as JSON values."""
        return asdict(self)


@dataclass(frozen=True)
class _Picked:
    shard: int
    row: int
    facts: tuple[Any, ...]


def simulate(
    stages: Mapping[str, StageRef], before: FilterConfig, after: FilterConfig, examples: int = 5
) -> Simulation:
    """Decide on every document under two configurations of the filter and compare.

    `stages` are those of a run; deduplicate and annotate (and classify and perplexity, where the run has them) must be
    committed. `examples` is the number of documents to show on each side, the same ones on every run. Raises ValueError
    for a configuration that the signals do not allow, and NotCommitted.
    """
    inputs = {name: ref for name, ref in stages.items() if name in Filter.input_names}
    for config in (before, after):
        Filter(config, inputs).check()
    committed = {name: ref.committed() for name, ref in inputs.items()}
    old, new = Signals(committed, before.perplexity), Signals(committed, after.perplexity)
    outcome = Simulation()
    changes: dict[tuple[str, str], Change] = {}
    rules = Counter[str](), Counter[str]()
    picked: tuple[list[_Picked], list[_Picked]] = ([], [])
    for shard in range(old.shards):
        table = old.table(shard)
        decided = [_decide(before, table), _decide(after, new.table(shard))]
        outcome.documents += table.num_rows
        _add_changes(changes, table, *(first < 0 for first, _ in decided))
        for counter, (first, evaluations) in zip(rules, decided, strict=True):
            for number, count in zip(*np.unique(first[first >= 0], return_counts=True), strict=True):
                counter[evaluations[number].rule] += int(count)
        for side, (went, stays) in enumerate(((decided[1], decided[0]), (decided[0], decided[1]))):
            rows = np.flatnonzero((went[0] >= 0) & (stays[0] < 0))
            _pick(picked[side], examples, shard, rows, table, *went)
    outcome.changes = [changes[key] for key in sorted(changes)]
    outcome.rules_before, outcome.rules_after = (dict(sorted(counter.items())) for counter in rules)
    documents = committed["deduplicate"].files("documents")
    outcome.newly_dropped, outcome.newly_kept = (_with_texts(documents, found) for found in picked)
    return outcome


def _decide(config: FilterConfig, table: pa.Table) -> tuple[NDArray[np.int64], list[Evaluation]]:
    evaluations = evaluate(config, table)
    return first_failure(evaluations, table.num_rows), evaluations


def _add_changes(
    changes: dict[tuple[str, str], Change], table: pa.Table, before: NDArray[np.bool_], after: NDArray[np.bool_]
) -> None:
    sizes = table["text_bytes"].to_numpy()
    facts = pa.table(
        {
            "source": table["source"],
            "language": table["language"],
            "documents": pa.array(np.ones(len(sizes), np.int64)),
            "kept_before": before.astype(np.int64),
            "kept_after": after.astype(np.int64),
            "newly_dropped": (before & ~after).astype(np.int64),
            "newly_kept": (after & ~before).astype(np.int64),
            "bytes_before": sizes * before,
            "bytes_after": sizes * after,
        }
    )
    names = facts.column_names[2:]
    for row in facts.group_by(["source", "language"]).aggregate([(name, "sum") for name in names]).to_pylist():
        key = (row["source"], row["language"])
        change = changes.setdefault(key, Change(*key))
        for name in names:
            setattr(change, name, getattr(change, name) + row[f"{name}_sum"])


def _pick(
    picked: list[_Picked],
    examples: int,
    shard: int,
    rows: NDArray[np.int64],
    table: pa.Table,
    first: NDArray[np.int64],
    evaluations: list[Evaluation],
) -> None:
    """Keep the documents with the smallest ids: ids are hashes, so they are a sample of all."""
    order = pc.sort_indices(table["id"].take(rows))[:examples].to_numpy()
    for row in rows[order].tolist():
        evaluation = evaluations[first[row]]
        names = tuple(table[name][row].as_py() for name in ("id", "source", "language"))
        measured = (float(evaluation.values[row]), float(evaluation.thresholds[row]))
        picked.append(_Picked(shard, row, (*names, evaluation.rule, *measured)))
    picked.sort(key=lambda item: item.facts[0])
    del picked[examples:]


def _with_texts(documents: list[File], picked: list[_Picked]) -> list[Example]:
    texts: dict[tuple[int, int], tuple[str, str | None, str]] = {}
    for shard in sorted({item.shard for item in picked}):
        wanted = {item.row for item in picked if item.shard == shard}
        done = 0
        with documents[shard].parquet() as parquet:
            for batch in parquet.iter_batches(batch_rows(parquet), columns=["locator", "url", "text"]):
                for row in sorted(wanted & set(range(done, done + batch.num_rows))):
                    found = batch.slice(row - done, 1).to_pylist()[0]
                    texts[shard, row] = (found["locator"], found["url"], found["text"][:EXCERPT_CHARACTERS])
                done += batch.num_rows
    return [Example(*(*item.facts, *texts[item.shard, item.row])) for item in picked]
