"""Decisions of the published rules beside datatrove's filters, rule by rule, on real documents.

    python -m benchmarks.agreement [--documents 6000] [--examples 3] [--markdown docs/agreement.md] [--json FILE]

Both sides judge the same documents by the same thresholds, datatrove with its own word tokenizers, in the peers'
environment (`benchmarks/peers.sh`). A rule of datatrove is asked alone, not only where the rules before it passed, and
its value is the one that its own code compares. C4's rules for lines are compared line by line.

Then the values of a part of the documents are compared given the same words: the documents are reduced to letters,
digits and spaces, and datatrove's words are the runs between spaces.

Chinese stands apart: our words are characters, datatrove's are jieba's. There each side has its own thresholds, those
of `pipeline.quality.gopher` here and the published ones there.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Final

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray
from rich.console import Console
from rich.table import Table

from benchmarks.corpora import Text, arrow, mixed
from benchmarks.peers import C4_LINES, TOKENIZERS, ask_datatrove
from benchmarks.rows import Row, parser, show
from pipeline.quality.c4 import C4, C4Lines
from pipeline.quality.fineweb import FineWeb
from pipeline.quality.gopher import GopherQuality, GopherRepetition
from pipeline.quality.lines import SETS, Lines, line_rules, remove_lines
from pipeline.quality.rules import RuleSet, float_column
from pipeline.quality.signals import measure

RULE_SETS: Final[tuple[RuleSet, ...]] = (GopherQuality(), GopherRepetition(), C4(), FineWeb())
WORD_SIGNALS: Final = ("word", "gram", "sentence")  # in the name of a signal that depends on word boundaries
OWN: Final = ("c4.minimum_kept_lines",)  # a rule that datatrove does not have

# datatrove counts each punctuation mark as a word without a letter in this rule (and not where it counts words).
PUNCTUATION: Final = "gopher_quality.minimum_alphabetic_word_fraction"
ASIDE: Final = "alphabetic_word_fraction, punctuation aside"
COUNTED: Final = "alphabetic_token_fraction"  # our signal that counts them, too; FineWeb-2's thresholds are over it
# Chinese n-grams are of characters here and of words there: the pairs that the overrides of the thresholds speak of.
CHINESE: Final = {
    "top_3_gram_character_fraction": "top_2_gram_character_fraction",
    "top_4_gram_character_fraction": "top_2_gram_character_fraction",
    "duplicate_8_gram_character_fraction": "duplicate_5_gram_character_fraction",
    "duplicate_9_gram_character_fraction": "duplicate_5_gram_character_fraction",
    "duplicate_10_gram_character_fraction": "duplicate_6_gram_character_fraction",
}
LINE_RULES: Final[dict[str, dict[str, Any]]] = {
    "minimum_words": {"minimum_words": C4_LINES["min_words_per_line"]},
    "maximum_word_length": {"maximum_word_length": C4_LINES["max_word_length"]},
    "javascript": {"javascript": True},
    "policy": {"policy": True},
    "terminal_punctuation": {"terminal_punctuation": True},
}
NO_LINE_RULES: Final[dict[str, Any]] = {
    "minimum_words": None,
    "maximum_word_length": None,
    "javascript": False,
    "policy": False,
}


@dataclass(frozen=True)
class Comparison:
    """One rule on many documents (or lines): what each side measured, and whether it drops."""

    rule: str
    words: bool  # whether it depends on word boundaries
    ours: NDArray[np.bool_]
    theirs: NDArray[np.bool_]
    our_values: NDArray[np.float64]
    their_values: NDArray[np.float64]
    texts: Sequence[Text]
    long: NDArray[np.bool_]  # at least 50 words: those that Gopher's first rule lets pass; nothing for lines

    @property
    def agreement(self) -> float:
        """Percent of equal decisions."""
        return 100 * float(np.mean(self.ours == self.theirs))

    @property
    def agreement_of_long(self) -> float | None:
        """Percent of equal decisions on documents of 50 words or more, None for lines."""
        return 100 * float(np.mean((self.ours == self.theirs)[self.long])) if self.long.any() else None

    def cells(self) -> list[str]:
        """The row of the table."""
        ours, theirs = self.ours, self.theirs
        counts = (len(ours), ~ours & ~theirs, ours & theirs, ~ours & theirs, ours & ~theirs)
        numbers = [f"{count if isinstance(count, int) else int(count.sum()):,}" for count in counts]
        rest = "" if self.agreement_of_long is None else f"{self.agreement_of_long:.2f}"
        return [self.rule, "yes" if self.words else "", *numbers, f"{self.agreement:.2f}", rest]


CHINESE_SUFFIX: Final = ", Chinese"
MARKS: Final = ("<!-- tables of python -m benchmarks.agreement -->", "<!-- end of the tables -->")
HEADINGS: Final = (
    *("rule", "by words", "compared", "both keep", "both drop", "only theirs drops", "only ours drops"),
    *("agreement %", "from 50 words on %"),
)


def _fails(bound: str, values: NDArray[np.float64], threshold: NDArray[np.float64] | float) -> NDArray[np.bool_]:
    return values < threshold if bound == "minimum" else values > threshold


def compare_documents(documents: Sequence[Text], peer: Sequence[dict[str, Any]]) -> list[Comparison]:
    """Every rule for documents that both sides have, on the documents of whose language both have it."""
    languages = [item.language for item in documents]
    signals = measure(arrow(documents), languages, line_rules(Lines()))
    signals = signals.append_column("language", pa.array(languages, pa.string()))
    chinese = np.array([language == "zh" for language in languages])
    long = _column(peer, "words") >= 50
    published = {rule.name: rule.threshold for rules in RULE_SETS for rule in rules.rules()}
    found = []
    for evaluation in (evaluation for rules in RULE_SETS for evaluation in rules.evaluate(signals)):
        if evaluation.rule in OWN:
            continue
        limits = np.full(len(documents), published[evaluation.rule])
        values = _column(peer, evaluation.signal)
        if evaluation.signal in CHINESE:
            other = CHINESE[evaluation.signal]
            values = np.where(chinese, _column(peer, other), values)
            limits[chinese] = published[f"gopher_repetition.maximum_{other}"]
        mine = evaluation.values
        sides = [("", values, mine)]
        if evaluation.rule == PUNCTUATION:
            sides.append((", punctuation aside", _column(peer, ASIDE), mine))
            sides.append((", punctuation counted", values, float_column(signals, COUNTED)))
        measured = ~np.isnan(evaluation.thresholds) & ~np.isnan(evaluation.values)
        for group, chosen in (("", ~chinese), (CHINESE_SUFFIX, chinese)):
            rows = np.flatnonzero(chosen & measured)
            for name, theirs, mine in sides if len(rows) else ():
                found.append(
                    Comparison(
                        evaluation.rule + name + group,
                        any(part in evaluation.signal for part in WORD_SIGNALS),
                        _fails(evaluation.bound, mine[rows], evaluation.thresholds[rows]),
                        _fails(evaluation.bound, theirs[rows], limits[rows]),
                        mine[rows],
                        theirs[rows],
                        [documents[int(row)] for row in rows],
                        long[rows],
                    )
                )
    return found


def _column(peer: Iterable[dict[str, Any]], key: str) -> NDArray[np.float64]:
    return np.array([row["values"].get(key, np.nan) for row in peer], np.float64)


def compare_lines(documents: Sequence[Text], peer: Sequence[dict[str, Any]]) -> list[Comparison]:
    """C4's rules for lines, each alone, on every line with text."""
    lines, chinese = [], []
    for item in documents:
        rows = [line for line in item.text.split("\n") if line.strip()]
        lines += [Text(line, item.language, item.source) for line in rows]
        chinese += [item.language == "zh"] * len(rows)
    found = []
    for rule, settings in LINE_RULES.items():
        rules = line_rules(Lines(c4=C4Lines(**{**NO_LINE_RULES, **settings})))
        removed = remove_lines(arrow(lines), rules, ("c4",)).removed_lines[:, SETS.index("c4")]
        theirs = np.array([digit == "0" for row in peer for digit in row["lines"][rule]])
        for name, chosen in ((", lines", ~np.array(chinese)), (f", lines{CHINESE_SUFFIX}", np.array(chinese))):
            ours = removed[chosen] > 0
            nothing = np.full(len(ours), np.nan)
            texts = [line for line, take in zip(lines, chosen, strict=True) if take]
            found.append(
                Comparison(
                    f"c4_lines.{rule}{name}",
                    "words" in rule,
                    ours,
                    theirs[chosen],
                    nothing,
                    nothing,
                    texts,
                    np.zeros(len(ours), np.bool_),
                )
            )
    return found


def plain(item: Text) -> Text:
    """The document with ASCII letters, digits and single spaces alone: words are then the same to everyone."""
    lines = (" ".join(re.findall("[a-z0-9]+", line)) for line in item.text.lower().split("\n"))
    return replace(item, text=re.sub("\n\n+", "\n\n", "\n".join(lines)).strip())


def compare_values(documents: Sequence[Text]) -> list[tuple[str, float, int]]:
    """By signal, given the same words: the largest difference of values, and the documents with more than 1e-9."""
    texts = [item for item in map(plain, documents) if item.text]
    _, peer = ask_datatrove("decide", texts, whitespace=True)
    languages = [item.language for item in texts]
    signals = measure(arrow(texts), languages, line_rules(Lines()))
    found = []
    for signal in dict.fromkeys(rule.signal for rules in RULE_SETS for rule in rules.rules()):
        theirs = _column(peer, signal)
        if signal == "c4_kept_lines" or "sentences" in signal:
            continue
        difference = np.abs(float_column(signals, signal) - theirs)
        difference = difference[~np.isnan(difference)]
        found.append((signal, float(difference.max(initial=0)), int((difference > 1e-9).sum())))
    return found


def print_examples(comparisons: Sequence[Comparison], count: int) -> None:
    """Some documents of each kind of disagreement, with the values of both sides."""
    for found in comparisons:
        for title, chosen in (("theirs", ~found.ours & found.theirs), ("ours", found.ours & ~found.theirs)):
            rows = np.flatnonzero(chosen)
            for row in rows[:: max(1, len(rows) // count)][:count] if count else ():
                item = found.texts[row]
                print(
                    f"{found.rule}: only {title} drops; ours {found.our_values[row]:.4g}, theirs "
                    f"{found.their_values[row]:.4g}; {item.source} {item.language} {len(item.text)} characters: "
                    f"{item.text[:160]!r}"
                )


def write_table(
    path: Path, comparisons: Sequence[Comparison], values: Sequence[tuple[str, float, int]], title: str
) -> None:
    """Put the tables, spaced languages and Chinese apart, between the two marks of a Markdown page."""
    page = path.read_text(encoding="utf-8")
    if page.count(MARKS[0]) != 1 or page.count(MARKS[1]) != 1:
        raise SystemExit(f"{path} has not the two lines {MARKS[0]} and {MARKS[1]} between which the tables belong")
    before, rest = page.split(MARKS[0])
    after = rest.split(MARKS[1])[1]
    chinese = [found for found in comparisons if found.rule.endswith(CHINESE_SUFFIX)]
    spaced = [found for found in comparisons if not found.rule.endswith(CHINESE_SUFFIX)]
    tables = f"{title}\n\n{_table(spaced)}\nChinese:\n\n{_table(chinese)}\nValues given the same words:\n\n"
    tables += "| signal | largest difference | documents with more than 1e-9 |\n| --- | ---: | ---: |\n"
    tables += "".join(f"| `{signal}` | {most:.2g} | {count:,} |\n" for signal, most, count in values)
    path.write_text(f"{before}{MARKS[0]}\n{tables}{MARKS[1]}{after}", encoding="utf-8")


def _table(comparisons: Sequence[Comparison]) -> str:
    rows = [[*HEADINGS], ["---"] * 2 + ["---:"] * (len(HEADINGS) - 2), *(found.cells() for found in comparisons)]
    for row in rows[2:]:
        row[0] = f"`{row[0].removesuffix(CHINESE_SUFFIX)}`"
    return "".join(f"| {' | '.join(row)} |\n" for row in rows)


def main() -> None:
    arguments = parser(__doc__ or "")
    arguments.add_argument("--documents", type=int, default=6000)
    arguments.add_argument(
        "--plain", type=int, default=1000, help="documents whose values to compare, given the same words"
    )
    arguments.add_argument("--examples", type=int, default=0, help="disagreements of each kind to print")
    arguments.add_argument("--markdown", type=Path, metavar="FILE", help="put the table into this page, too")
    options = arguments.parse_args()
    documents = mixed(options.documents, tuple(TOKENIZERS))
    versions, peer = ask_datatrove("decide", documents)
    comparisons = [*compare_documents(documents, peer), *compare_lines(documents, peer)]
    table = Table(title=f"Agreement with datatrove {versions['version']}", title_justify="left")
    for heading in HEADINGS:
        table.add_column(heading, justify="left" if heading in HEADINGS[:2] else "right")
    for found in comparisons:
        table.add_row(*found.cells())
    Console(width=160).print(table)
    print_examples(comparisons, options.examples)
    english = [item for item in documents if item.language == "en"]
    values = compare_values(english[:: max(1, len(english) // options.plain)])
    for signal, most, count in values:
        print(f"{signal}: given the same words at most {most:.2g} apart, {count} documents by more than 1e-9")
    if options.markdown:
        title = (
            f"{len(documents):,} documents, datatrove {versions['version']}, spaCy {versions['spacy']}, "
            f"jieba {versions['jieba']}."
        )
        write_table(options.markdown, comparisons, values, title)
    rows = [
        Row(found.rule, "% agreement", found.agreement, None, "datatrove", versions["version"]) for found in comparisons
    ]
    show(rows, f"{len(documents)} documents", options.json)


if __name__ == "__main__":
    main()
