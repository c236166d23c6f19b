"""The sections on what the run cost, and on what it was made from."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import yaml

from pipeline.report.charts import timeline
from pipeline.report.costs import costs_table
from pipeline.report.facts import Facts, StageFacts
from pipeline.report.formats import DASH, count, duration, size
from pipeline.report.headline import totals
from pipeline.report.markup import Child, Markup, el
from pipeline.report.tables import Cell, Column, absent, corpus_text, section, table

MOST_FILES = 60


def cost_section(facts: Facts) -> Markup:
    """Return each stage's time, processor time, memory, units and bytes, and what that came to."""
    note = (
        "Stages follow each other; the bars lie on the time of the whole run. Work that an earlier run had finished "
        "is not counted twice."
    )
    whole = totals(facts).seconds
    rows, start = [], 0.0
    for stage in facts.stages.values():
        rows.append(_stage_row(stage, start, whole))
        start += stage.execution.get("wall_seconds", 0.0)
    columns = [
        Column("Stage", "name"),
        Column("", "chart"),
        Column("Time", "number"),
        Column("CPU", "number", "Processor time of all processes"),
        Column("Memory", "number", "Peak of the largest process"),
        Column("Units", "number"),
        Column("Documents", "number", "Documents out"),
        Column("Speed", "number", "Text read a second"),
        Column("Written", "number"),
    ]
    sums = totals(facts)
    foot = f"In all {duration(sums.seconds)}, {duration(sums.cpu_seconds)} of processor time."
    if not rows:
        return section("cost", "Time and cost", note, absent("No stage is known."))
    return section("cost", "Time and cost", note, table(columns, rows, caption=foot), costs_table(facts))


def _stage_row(stage: StageFacts, start: float, whole: float) -> list[Child]:
    if stage.committed is None:
        return [stage.name, el("span", "not finished", class_="absent"), *[DASH] * 7]
    execution = stage.execution
    seconds = execution.get("wall_seconds")
    read = stage.counts.get("bytes_in", 0)
    speed = read / seconds if seconds and read else None
    reused = execution.get("units_of_earlier_runs", 0)
    units = [
        count(stage.committed.manifest.get("units")),
        el("span", f" ({count(reused)} earlier)", class_="sub") if reused else None,
    ]
    return [
        stage.name,
        Cell(timeline(start, seconds or 0.0, whole, f"{stage.name}: {duration(seconds)}"), start),
        Cell(duration(seconds), seconds),
        Cell(duration(execution.get("cpu_seconds")), execution.get("cpu_seconds")),
        Cell(size(execution.get("peak_memory_bytes")), execution.get("peak_memory_bytes")),
        Cell(units, stage.committed.manifest.get("units")),
        Cell(count(stage.counts["kept"]) if stage.counts.get("read") else DASH, stage.counts.get("kept")),
        Cell([size(speed), "/s"] if speed else DASH, speed or 0.0),
        Cell(size(stage.bytes_written), stage.bytes_written),
    ]


def lineage_section(facts: Facts) -> Markup:
    """Return the sources with their licences and digests, the fingerprints, the versions and the recipe."""
    note = (
        "A fingerprint is a hash of a stage's name, version, settings and the fingerprints of its inputs: the same "
        "fingerprint, the same bytes."
    )
    content: list[Child] = [el("h3", "Sources"), _sources(facts), el("h3", "Stages"), _fingerprints(facts)]
    content += [
        el("h3", "Packages"),
        el("p", ", ".join(f"{name} {version}" for name, version in facts.versions.items())),
    ]
    recipe = yaml.safe_dump(facts.recipe, sort_keys=False, allow_unicode=True, width=100)
    content += [el("h3", "Recipe"), el("details", el("summary", "The recipe of this run, complete"), el("pre", recipe))]
    return section("lineage", "Lineage", note, content)


def _fingerprints(facts: Facts) -> Markup:
    rows: list[list[Child]] = []
    for stage in facts.stages.values():
        inputs = stage.committed.manifest["inputs"] if stage.committed else {}
        version = stage.committed.manifest["version"] if stage.committed else None
        rows.append(
            [
                stage.name,
                el("code", stage.fingerprint),
                Cell(version if version is not None else DASH, version),
                ", ".join(inputs) or DASH,
            ]
        )
    columns = [Column("Stage", "name"), Column("Fingerprint"), Column("Version", "number"), Column("Made from")]
    return table(columns, rows, sortable=False)


def _sources(facts: Facts) -> Markup:
    """Return the sources with the digests that ingest took; of a run without ingest, what the recipe says of them."""
    ingest = facts.committed("ingest")
    config = _mapping(ingest.manifest["config"] if ingest else facts.recipe.get("ingest"))
    rows: list[list[Child]] = []
    for source in map(_mapping, config.get("sources") or []):
        files = [_mapping(file) for file in source.get("files") or []]
        in_all = sum(file.get("bytes") or 0 for file in files)
        rows.append(
            [
                corpus_text(str(source.get("name", ""))),
                str(source.get("format", "")),
                corpus_text(str(source.get("license") or "by document")),
                Cell(size(in_all) if files else DASH, in_all),
                _digests(files),
            ]
        )
    if not rows:
        return absent("The recipe names no sources.")
    columns = [
        Column("Source", "name"),
        Column("Format"),
        Column("Licence"),
        Column("Size", "number"),
        Column("Files and their SHA-256"),
    ]
    return table(columns, rows, sortable=False)


def _digests(files: list[dict[str, Any]]) -> Markup | str:
    if not files:
        return DASH
    lines = [
        el("div", el("code", str(file.get("name", ""))), " ", el("code", str(file.get("sha256", "")), class_="digest"))
        for file in files[:MOST_FILES]
    ]
    if len(files) > MOST_FILES:
        lines.append(el("div", f"and {count(len(files) - MOST_FILES)} more", class_="sub"))
    return lines[0] if len(files) == 1 else el("details", el("summary", f"{count(len(files))} files"), lines)


def _mapping(value: Any) -> dict[str, Any]:
    return dict(value) if isinstance(value, Mapping) else {}
