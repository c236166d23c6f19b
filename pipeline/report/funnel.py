"""The sections on where the documents went: the river, the rules by source, the sources, input that was rejected."""

from __future__ import annotations

from collections.abc import Callable

from pipeline.report.charts import Part, bar
from pipeline.report.facts import STAGE_NAMES, Amount, Facts, Removal
from pipeline.report.formats import count, percent, plain, rule_name, short_count, size
from pipeline.report.headline import totals
from pipeline.report.markup import Child, Markup, el
from pipeline.report.river import Branch, Reach, river
from pipeline.report.scales import fit
from pipeline.report.tables import Cell, Column, absent, code, corpus_text, key, section, table
from pipeline.stage import DOCUMENT_STAGES

MOST_BRANCHES = 10
MOST_SOURCES = 12
OTHERS = "others"


def funnel_section(facts: Facts) -> Markup:
    """Return the funnel of the whole corpus, in documents and in bytes, and what each rule took from each source."""
    note = (
        "Every source flows in from the left; every rule takes its share out to the right. Widths are to scale. "
        "At each stage what came in is what stayed and what went: the run fails otherwise."
    )
    if not facts.corpus.read:
        return section("funnel", "Where the text went", note, absent("The ingest stage has not finished."))
    return section(
        "funnel",
        "Where the text went",
        note,
        el(
            "div",
            el(
                "fieldset",
                el("legend", "Measured in"),
                _tab("documents", "documents", True),
                _tab("bytes", "bytes of text", False),
                class_="tabs",
            ),
            el("div", _rivers(facts, "documents"), class_="panel"),
            el("div", _rivers(facts, "bytes"), class_="panel"),
            class_="tabbed",
        ),
        el("h3", "Sources"),
        _sources(facts),
        el("h3", "Rules"),
        _rules(facts),
        _examples(facts),
    )


def rejected_section(facts: Facts) -> Markup | None:
    """Return the table of input that could not be read, or nothing where there was none."""
    rejected = [removal for removal in facts.corpus.removals if removal.action == "rejected"]
    if not rejected:
        return None
    in_all = sum(removal.documents for removal in rejected)
    shown = facts.corpus.rejected
    rows = [[corpus_text(row.source), code(row.rule), corpus_text(row.detail)] for row in shown]
    columns = [Column("Source"), Column("What was wrong"), Column("Where and why")]
    more = f"The first {len(shown)} of {count(in_all)}." if in_all > len(shown) else ""
    note = (
        f"{count(in_all)} records or files could not be read. They never became documents; nothing else went with them."
    )
    return section("rejected", "Rejected input", note, table(columns, rows, caption=more))


def _tab(value: str, text: str, checked: bool) -> Markup:
    return el("label", el("input", type="radio", name="measure", value=value, checked=checked), text)


def _rivers(facts: Facts, measure: str) -> list[Markup]:
    return [_river(facts, measure, narrow) for narrow in (False, True)]


def _river(facts: Facts, measure: str, narrow: bool) -> Markup:
    of: Callable[[Amount], int] = (
        (lambda amount: amount.documents) if measure == "documents" else (lambda amount: amount.bytes)
    )
    show = count if measure == "documents" else size
    name = "documents" if measure == "documents" else "of text"
    sums = totals(facts)
    whole = of(sums.read)
    left = whole
    reaches = []
    for stage in STAGE_NAMES:
        branches = _branches(facts, stage, of, show, whole)
        if branches:
            left -= round(sum(branch.value for branch in branches))
            remaining = show(left) if narrow else f"{show(left)} {name} remain"
            reaches.append(Reach(stage, branches, remaining, percent(left, whole)))
    inflows = [
        Branch(
            source, of(amount), show(of(amount)), f"{source}\n{show(of(amount))} {name}, {percent(of(amount), whole)}"
        )
        for source, amount in _top_sources(facts)
    ]
    said = show(whole) if narrow else f"{show(whole)} {name} read"
    mouth = f"{show(left)} {name} kept"
    if sums.tokens:
        mouth += f" → {short_count(sums.tokens)} tokens"
        mouth += (
            f", {short_count(sums.held_out_tokens)} of them held out" if sums.held_out_tokens and not narrow else ""
        )
    prefix = f"{measure}-{'narrow' if narrow else 'wide'}"
    return river(prefix, inflows, said, reaches, mouth, narrow)


def _branches(
    facts: Facts, stage: str, of: Callable[[Amount], int], show: Callable[[float | None], str], whole: int
) -> list[Branch]:
    taken: dict[str, Amount] = {}
    for removal in facts.corpus.removals:
        if removal.stage == stage and removal.action != "rejected":
            documents = removal.documents if removal.action == "dropped" else 0
            taken[removal.rule] = taken.get(removal.rule, Amount()) + Amount(documents, removal.bytes)
    order = sorted((rule for rule in taken if of(taken[rule])), key=lambda rule: (-of(taken[rule]), rule))
    branches = [
        Branch(
            rule_name(rule),
            of(taken[rule]),
            f"{show(of(taken[rule]))}, {percent(of(taken[rule]), whole)}",
            f"{rule}\n{count(taken[rule].documents)} documents, {size(taken[rule].bytes)}",
        )
        for rule in order
    ]
    if len(branches) <= MOST_BRANCHES + 1:
        return branches
    rest = branches[MOST_BRANCHES:]
    value = sum(branch.value for branch in rest)
    summary = Branch(
        f"{len(rest)} more rules",
        value,
        f"{show(value)}, {percent(value, whole)}",
        "\n".join(f"{branch.label}: {branch.note}" for branch in rest),
    )
    return [*branches[:MOST_BRANCHES], summary]


def _top_sources(facts: Facts) -> list[tuple[str, Amount]]:
    """Return the largest sources, and all others as one."""
    sources = sorted(facts.corpus.read.items(), key=lambda item: (-item[1].documents, item[0]))
    if len(sources) <= MOST_SOURCES + 1:
        return sources
    rest = sum((amount for _, amount in sources[MOST_SOURCES:]), Amount())
    return [*sources[:MOST_SOURCES], (f"{len(sources) - MOST_SOURCES} {OTHERS}", rest)]


def _sources(facts: Facts) -> Markup:
    tokens: dict[str, int] = {}
    for row in facts.corpus.tokens:
        tokens[row.source] = tokens.get(row.source, 0) + row.tokens
    all_tokens = sum(tokens.values())
    most = max((amount.documents for amount in facts.corpus.read.values()), default=0)
    rows: list[list[Child]] = []
    for source, read in facts.corpus.read.items():
        ingest = facts.corpus.removed("ingest", source=source)
        duplicates = facts.corpus.removed("deduplicate", source=source)
        filtered = facts.corpus.removed(*DOCUMENT_STAGES[2:], source=source)
        kept = read - ingest - duplicates - filtered
        parts = [
            Part(kept.documents, "kept", f"{count(kept.documents)} kept"),
            Part(filtered.documents, "gone", f"{count(filtered.documents)} filtered out"),
            Part(duplicates.documents, "gone-2", f"{count(duplicates.documents)} duplicates"),
            Part(ingest.documents, "gone-3", f"{count(ingest.documents)} dropped while reading"),
        ]
        rows.append(
            [
                corpus_text(source),
                Cell(count(read.documents), read.documents),
                Cell(bar(parts, most), kept.documents / read.documents if read.documents else 0.0),
                Cell(
                    percent(kept.documents, read.documents), kept.documents / read.documents if read.documents else 0.0
                ),
                Cell(size(read.bytes), read.bytes),
                Cell(size(kept.bytes), kept.bytes),
                Cell(short_count(tokens.get(source, 0)) if tokens else "\u2013", tokens.get(source, 0)),
                Cell(percent(tokens.get(source, 0), all_tokens), tokens.get(source, 0)),
            ]
        )
    columns = [
        Column("Source"),
        Column("Documents", "number"),
        Column("", "chart"),
        Column("Kept", "number"),
        Column("Text in", "number"),
        Column("Text kept", "number"),
        Column("Tokens", "number"),
        Column("Share", "number", "Share of all tokens"),
    ]
    keys = [key("kept", "kept"), key("gone", "filtered out"), key("gone-2", "duplicates")]
    if facts.corpus.removed("ingest").documents:
        keys.append(key("gone-3", "dropped while reading"))
    return el("div", el("div", keys, class_="keys"), table(columns, rows))


def _rules(facts: Facts) -> list[Markup]:
    """Return what each rule took from each source; rules that took next to nothing are folded away."""
    rules: dict[tuple[int, str, str, str], list[Removal]] = {}
    for removal in facts.corpus.removals:
        if removal.action != "rejected":
            place = STAGE_NAMES.index(removal.stage) if removal.stage in STAGE_NAMES else len(STAGE_NAMES)
            rules.setdefault((place, removal.stage, removal.action, removal.rule), []).append(removal)
    if not rules:
        return [absent("No rule removed or edited anything.")]
    number = {name: sum(removal.documents for removal in removals) for name, removals in rules.items()}
    order = sorted(rules, key=lambda name: (name[0], -number[name], name))
    least = 0.0005 * sum(amount.documents for amount in facts.corpus.read.values())
    shown = [name for name in order if number[name] >= least]
    folded = [name for name in order if number[name] < least]
    if len(folded) < 4:
        shown, folded = order, []
    sources = [source for source, _ in _top_sources(facts)]
    columns = [Column("Stage", "stage"), Column("Rule"), Column("Documents", "number"), Column("Text", "number")]
    columns += [Column(fit(source, 130, 12.5), "heat", f"Documents of {source}") for source in sources]
    parts = [
        table(columns, [_rule_row(facts, sources, name, rules[name]) for name in names])
        for names in (shown, folded)
        if names
    ]
    caption = "The darker a cell, the larger the share of that source's documents. Edited documents stay, shortened."
    rest = f"{len(folded)} more rules, each of which took less than 0.05 % of the documents"
    return [
        el("p", caption, class_="caption"),
        parts[0],
        *(el("details", el("summary", rest), part) for part in parts[1:]),
    ]


def _rule_row(
    facts: Facts, sources: list[str], name: tuple[int, str, str, str], removals: list[Removal]
) -> list[Child]:
    _, stage, action, rule = name
    by_source = dict.fromkeys(sources, 0)
    for removal in removals:
        by_source[removal.source if removal.source in by_source else sources[-1]] += removal.documents
    documents, taken = (sum(getattr(removal, what) for removal in removals) for what in ("documents", "bytes"))
    return [
        el("span", stage, class_="sub"),
        [code(rule), el("span", " edits", class_="sub") if action == "edited" else None],
        Cell(count(documents), documents),
        Cell(size(taken), taken),
        *(
            Cell(count(number) if number else "\u00b7", number, _shade(facts, source, number))
            for source, number in by_source.items()
        ),
    ]


def _shade(facts: Facts, source: str, number: int) -> float:
    read = facts.corpus.read.get(source, Amount()).documents
    if not read:  # the column of all other sources together
        read = sum(amount.documents for amount in facts.corpus.read.values())
    return min(1.0, 4 * number / read) if number else 0.0


def _examples(facts: Facts) -> Markup | None:
    if not facts.corpus.examples:
        return None
    rows: list[list[Child]] = []
    for example in facts.corpus.examples:
        document = example.document
        against = f" against {plain(example.threshold)}" if example.threshold is not None else ""
        measured = f"{plain(example.value)}{against}" + (f", {example.detail}" if example.detail else "")
        rows.append(
            [
                [code(example.rule), el("br"), el("span", measured, class_="sub")],
                [
                    corpus_text(document.text, document.language, class_="excerpt"),
                    el("br"),
                    corpus_text(f"{document.source} · {document.url}", class_="sub"),
                ],
            ]
        )
    return el(
        "details",
        el("summary", "Read one document at the margin of each rule"),
        el("p", "Of each filter rule the removed document that came nearest to its threshold, and how it begins."),
        table([Column("Rule and value"), Column("Document")], rows, sortable=False),
    )
