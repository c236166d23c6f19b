from __future__ import annotations

import base64
import hashlib
import itertools
import json
import math
import re
from collections.abc import Iterator
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import duckdb
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from pipeline.catalog.views import Run, views
from pipeline.dedup.config import DedupConfig
from pipeline.dedup.stages import Deduplicate
from pipeline.execution import run_stage
from pipeline.filter import FilterConfig
from pipeline.privacy.config import PrivacyConfig
from pipeline.quality.gopher import GopherQuality
from pipeline.repeats.stages import Lines
from pipeline.report import corpus, render
from pipeline.report.collect import collect, read_metrics
from pipeline.report.facts import Facts
from pipeline.report.formats import axis, duration, percent, short_count, size
from pipeline.report.headline import scores, totals
from pipeline.report.markup import VOID, Markup, el, escape
from pipeline.report.scales import Scale, fit, smooth, spread, text_width, thin, ticks
from pipeline.report.signals import bin_edges, filter_limits
from pipeline.store import StageRef, Store
from tests.pipeline.dedup.corpora import Writer, deduplicate, shard
from tests.pipeline.report_workspace import HOSTILE, HOSTILE_SOURCE, HOSTILE_URL, RECIPE, SOURCES, build

TITLE = "A run </title><script>alert(0)</script>"


class Page(HTMLParser):
    """What a browser would make of a page: elements, their text, and whether every tag is closed in its order."""

    def __init__(self, html: str) -> None:
        super().__init__(convert_charrefs=True)
        self.elements: list[tuple[str, dict[str, str | None]]] = []
        self.open: list[str] = []
        self.texts: list[tuple[str, str]] = []
        self.section = ""
        self.feed(html)
        self.close()

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.elements.append((tag, dict(attrs)))
        if tag == "section":
            self.section = dict(attrs)["id"] or ""
        if tag not in VOID:
            self.open.append(tag)

    def handle_endtag(self, tag: str) -> None:
        assert self.open, f"</{tag}> closes nothing"
        assert self.open.pop() == tag

    def handle_data(self, data: str) -> None:
        self.texts.append((self.section, data))

    def text(self, section: str | None = None) -> str:
        joined = "".join(data for where, data in self.texts if section is None or where == section)
        return re.sub(r"\s+", " ", joined)


@pytest.fixture(scope="module")
def workspace(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("report")


@pytest.fixture(scope="module")
def refs(workspace: Path) -> dict[str, StageRef]:
    return build(workspace)


@pytest.fixture(scope="module")
def html(workspace: Path, refs: dict[str, StageRef]) -> str:
    return render(str(workspace), dict(RECIPE), refs, TITLE)


@pytest.fixture(scope="module")
def page(html: str) -> Page:
    return Page(html)


@pytest.fixture(scope="module")
def facts(refs: dict[str, StageRef]) -> Facts:
    return collect(dict(RECIPE), refs, TITLE)


@pytest.fixture(scope="module")
def catalog(refs: dict[str, StageRef]) -> Iterator[duckdb.DuckDBPyConnection]:
    with duckdb.connect() as connection:
        for view in views(Run(refs)):
            connection.execute(f'CREATE VIEW "{view.name}" AS {view.sql}')
        yield connection


def rows(catalog: duckdb.DuckDBPyConnection, sql: str) -> list[tuple[Any, ...]]:
    return catalog.execute(sql).fetchall()


def test_the_page_is_well_formed_and_complete(page: Page) -> None:
    assert page.open == []
    sections = [attributes["id"] for tag, attributes in page.elements if tag == "section"]
    assert sections == [
        *("funnel", "languages", "quality", "duplicates", "training"),
        *("evaluation", "samples", "cost", "rejected", "lineage"),
    ]
    links = {attributes["href"] for tag, attributes in page.elements if tag == "a"}
    assert links == {f"#{name}" for name in sections}
    identifiers = [attributes["id"] for _, attributes in page.elements if attributes.get("id")]
    assert len(identifiers) == len(set(identifiers))


def test_the_page_asks_nothing_of_a_network(html: str, page: Page) -> None:
    assert len(html.encode()) < 1_500_000
    loading = ("src", "srcset", "action", "formaction", "data", "poster", "background", "xlink:href")
    for tag, attributes in page.elements:
        assert not set(attributes) & set(loading), (tag, attributes)
        assert tag not in ("iframe", "object", "embed", "base", "form", "img", "video", "audio")
        for name in ("href", "fill"):
            value = attributes.get(name)
            assert value is None or value.startswith(("#", "url(#", "data:,")), (tag, value)
    style = html.partition("<style>")[2].partition("</style>")[0]
    assert "url(" not in style
    assert "@import" not in style


def test_the_policy_allows_the_pages_own_script_and_no_other(html: str, page: Page) -> None:
    (policy,) = [a["content"] for _, a in page.elements if a.get("http-equiv") == "Content-Security-Policy"]
    scripts = re.findall(r"<script>(.*?)</script>", html, re.DOTALL)
    assert len(scripts) == 1
    digest = base64.b64encode(hashlib.sha256(scripts[0].encode()).digest()).decode()
    assert f"script-src 'sha256-{digest}'" in (policy or "")
    assert "default-src 'none'" in (policy or "")


def test_hostile_text_stays_text(html: str, page: Page) -> None:
    assert sum(tag == "script" for tag, _ in page.elements) == 1
    assert not any(name.startswith("on") for _, attributes in page.elements for name in attributes)
    for section in ("duplicates", "samples", "rejected", "lineage"):
        assert "<script>document.title" in page.text(section), section
    assert HOSTILE not in html
    assert HOSTILE_SOURCE not in html
    assert HOSTILE_SOURCE[:8] in page.text("funnel")  # in the river, where it may be cut
    tips = [attributes["data-tip"] or "" for _, attributes in page.elements if "data-tip" in attributes]
    assert any(HOSTILE_SOURCE in tip for tip in tips)
    assert HOSTILE_URL in page.text("duplicates") + page.text("funnel")
    assert TITLE in page.text()
    assert not re.search("[\x00-\x08\x0b-\x1f\x7f\u202a-\u202e\ud800-\udfff]", html)
    assert "这本书很好" in page.text("samples")


def test_the_same_files_give_the_same_page(
    html: str, refs: dict[str, StageRef], workspace: Path, tmp_path: Path
) -> None:
    assert render(str(workspace), dict(RECIPE), refs, TITLE) == html
    assert str(workspace) not in html
    recipe = {**RECIPE, "paths": {"inside": [f"{workspace}/notes.txt"], "outside": "/elsewhere/notes.txt"}}
    shown = Page(render(str(workspace), recipe, refs, TITLE)).text("lineage")
    assert "- notes.txt outside: /elsewhere/notes.txt" in shown


def test_the_totals_are_those_of_the_manifests(facts: Facts, refs: dict[str, StageRef], page: Page) -> None:
    ingest, filtered = refs["ingest"].committed().counts, refs["filter"].committed().counts
    sums = totals(facts)
    assert (sums.read.documents, sums.read.bytes) == (ingest["read"], ingest["bytes_in"])
    assert (sums.kept.documents, sums.kept.bytes) == (filtered["kept"], filtered["bytes_out"])
    assert 0 < filtered["kept"] < ingest["read"]
    assert sums.tokens == sum(file.attributes["tokens"] for file in refs["tokenize"].committed().files("tokens"))
    assert f"Of {ingest['read']:,} documents" in page.text()
    assert f"{filtered['kept']:,} were kept" in page.text()


def test_the_river_is_to_scale(html: str, facts: Facts) -> None:
    """The thickness of every strip, read back from its path, is proportional to what its tooltip says."""
    river = re.search(r'<svg viewBox="[^"]*" class="river wide".*?</svg>', html, re.DOTALL)
    assert river
    found = []
    for path, tip in re.findall(r'<path d="([^"]+)" fill="[^"]+" class="strip" data-tip="([^"]+)"', river[0]):
        small, large = sorted({float(radius) for radius in re.findall(r"A([\d.]+)", path)})
        (number,) = re.search(r"\n([\d,]+) documents", tip).groups()  # type: ignore[union-attr]
        found.append((large - small, int(number.replace(",", ""))))
    whole = totals(facts).read.documents
    taken = whole - totals(facts).kept.documents
    assert sum(number for _, number in found) == whole + taken
    for thick, number in found:
        assert thick == pytest.approx(216 * number / whole, abs=0.02)


def test_the_removals_and_sources_are_those_of_the_ledger(
    facts: Facts, refs: dict[str, StageRef], catalog: duckdb.DuckDBPyConnection
) -> None:
    expected = rows(catalog, "SELECT stage, action, rule, source, count(*), sum(bytes) FROM ledger GROUP BY ALL")
    found = [(r.stage, r.action, r.rule, r.source, r.documents, r.bytes) for r in facts.corpus.removals]
    assert sorted(found) == sorted(expected)
    for source in SOURCES:
        kept = facts.corpus.read[source] - facts.corpus.removed("ingest", "deduplicate", "filter", source=source)
        where = f"WHERE source = '{source}'"
        assert [(kept.documents, kept.bytes)] == rows(
            catalog, f"SELECT count(*), sum(text_bytes) FROM documents {where}"
        )


def test_the_languages_add_up(facts: Facts, refs: dict[str, StageRef], catalog: duckdb.DuckDBPyConnection) -> None:
    sums = np.zeros(3, int)
    for language in facts.corpus.languages:
        sums += [language.kept.documents, language.dropped_by_language.documents, language.dropped_by_quality.documents]
    counts = refs["filter"].committed().counts
    assert sums[0] == counts["kept"]
    assert sums[1] + sums[2] == counts["dropped"]
    (by_rule,) = rows(catalog, "SELECT count(*) FROM ledger WHERE rule LIKE 'language.%'")[0]
    assert sums[1] == by_rule > 0


def test_the_histograms_count_what_a_query_counts(
    facts: Facts, refs: dict[str, StageRef], catalog: duckdb.DuckDBPyConnection
) -> None:
    in_all = refs["annotate"].committed().counts["kept"]
    signals = {signal.signal: signal for signal in facts.corpus.signals}
    assert {"language_score", "words", "mean_word_length", "duplicate_line_fraction", "stop_words"} <= set(signals)
    assert "lorem_ipsum_lines" not in signals  # its rule is off
    for signal in signals.values():
        assert sum(signal.counts) == signal.measured <= in_all
        assert all(part <= whole for part, whole in zip(signal.failing, signal.counts, strict=True))
    words = signals["words"]
    edges = list(words.edges)
    spans = [f"count(*) FILTER (words >= {low} AND words < {high})" for low, high in itertools.pairwise(edges)]
    assert rows(catalog, f"SELECT {', '.join(spans)} FROM signals") == [tuple(words.counts)]
    short = rows(catalog, "SELECT count(*) FROM signals WHERE words < if(language = 'zh', 80, 50)")
    assert short == [(sum(words.failing),)]
    assert (
        words.dropped_first == rows(catalog, "SELECT count(*) FROM ledger WHERE rule LIKE '%.minimum_words'")[0][0] > 0
    )
    (limit, _) = words.limits
    assert (limit.threshold, limit.least, limit.by_language["zh"]) == (50, True, 80)


def test_rules_that_are_off_are_left_out() -> None:
    quality = GopherQuality(minimum_words=None, overrides={"zh": {"minimum_words": 80}})
    config = FilterConfig(language=None, gopher_repetition=None, c4=None, gopher_quality=quality)
    assert [limit.rule for limit in filter_limits(config, ["en"])["words"]] == ["gopher_quality.maximum_words"]
    limits = filter_limits(config, ["en", "zh"])
    assert [limit.rule for limit in limits["words"]] == ["gopher_quality.minimum_words", "gopher_quality.maximum_words"]
    assert limits["words"][0].threshold is None  # off in general, and on for Chinese
    assert "language_score" not in limits
    assert "curly_brackets" not in limits


def test_bins_hold_the_thresholds_and_the_values() -> None:
    for name, low, high, thresholds in [
        ("words", 0, 90_000, [50, 100_000]),
        ("stop_words", 0, 8, [2]),
        ("mean_word_length", 1.2, 400.0, [3, 10]),
        ("duplicate_line_fraction", 0.0, 0.1, [0.3]),
        ("bullet_line_fraction", 0.0, 1.0, [0.9]),
        ("curly_brackets", 0, 0, [0]),
    ]:
        edges = bin_edges(name, low, high, thresholds)
        assert np.all(np.diff(edges) > 0)
        assert edges[0] <= low
        assert all(edges[0] <= threshold <= edges[-1] for threshold in thresholds)


def table_rows(html: str, heading: str) -> list[list[str]]:
    """The cells of the rows of the table under a heading."""
    body = html.partition(f"<h3>{heading}</h3>")[2].partition("<tbody>")[2].partition("</tbody>")[0]
    cells = [re.findall(r"<td[^>]*>(.*?)</td>", row) for row in body.split("</tr>")[:-1]]
    return [[re.sub(r"<[^>]+>", "", cell).replace("\u202f", " ") for cell in row] for row in cells]


def histogram_bars(html: str, title: str) -> tuple[int, str]:
    """The documents that the bars of a histogram stand for, and the label of its limit."""
    chart = html.partition(f'aria-label="{title}"')[2].partition("</svg>")[0]
    counted = sum(int(number.replace(",", "")) for number in re.findall(r": ([\d,]+) documents", chart))
    return counted, "".join(re.findall(r'class="limit"[^>]*>([^<]*)<', chart))


def test_the_duplicates_are_those_of_the_stage(
    facts: Facts, refs: dict[str, StageRef], page: Page, html: str, catalog: duckdb.DuckDBPyConnection
) -> None:
    largest = rows(
        catalog,
        "SELECT count(*) FILTER (rule = 'exact'), count(*) FILTER (rule = 'minhash'), min(coverage), min(similarity) "
        "FROM duplicates GROUP BY twin ORDER BY count(*) DESC, twin",
    )
    assert len(largest) == facts.corpus.clusters_in_all
    first = facts.corpus.clusters[0]
    assert first.exact + first.near == sum(largest[0][:2])
    found = {(c.exact, c.near, c.least_coverage, c.least_similarity) for c in facts.corpus.clusters}
    assert found <= set(largest)
    shown = table_rows(html, "Largest clusters")
    assert [row[2:6] for row in shown] == [
        [str(c.exact), str(c.near), f"{c.least_coverage:.2f}", f"{c.least_similarity:.2f}"]
        for c in facts.corpus.clusters
    ]
    near = rows(catalog, "SELECT coverage, similarity FROM duplicates WHERE rule = 'minhash' ORDER BY id")
    assert facts.corpus.near_measures == {
        "coverage": [coverage for coverage, _ in near],
        "similarity": [similarity for _, similarity in near],
    }
    assert histogram_bars(html, "Coverage of near duplicates") == (len(near), f"≥ {DedupConfig().coverage:g}")
    assert histogram_bars(html, "Jaccard similarity of near duplicates") == (len(near), "")
    pair = facts.corpus.pair
    assert pair is not None
    ((twin, rule, known, *measures),) = rows(
        catalog,
        "SELECT twin, rule, twin_known, estimated, coverage, containment, similarity FROM duplicates "
        f"WHERE id = '{pair.gone.id}'",
    )
    assert (pair.twin.id, pair.rule, pair.known) == (twin, rule, known)
    assert [pair.estimated, pair.coverage, pair.containment, pair.similarity] == measures
    assert pair.rule == "minhash"
    texts = dict(rows(catalog, f"SELECT id, text FROM ingested WHERE id IN ('{pair.gone.id}', '{twin}')"))
    assert (pair.gone.text, pair.twin.text) == (texts[pair.gone.id], texts[twin])
    assert any(tag == "del" for tag, _ in page.elements)
    assert "earlier run" not in page.text("duplicates")


def test_duplicates_of_an_earlier_run(workspace: Path, refs: dict[str, StageRef]) -> None:
    dedup = DedupConfig(urls=True)
    later = build(workspace / "later", "deduplicate", 300, dedup, refs["duplicates"])
    html = render(str(workspace), {}, later, TITLE, refs["duplicates"])
    text = Page(html).text("duplicates")
    facts = collect({}, later, TITLE, refs["duplicates"])
    counts = later["duplicates"].committed().counts
    (file,) = later["duplicates"].committed().files("duplicates")
    duplicates = file.table().to_pylist()
    of_known = [row for row in duplicates if row["twin_ingest"] == refs["ingest"].fingerprint]
    assert 0 < len(of_known) < len(duplicates)
    known_documents = refs["ingest"].committed().counts["kept"]
    assert (
        f"Compared with the {known_documents} documents of an earlier run, too: {len(of_known)} went in favour of a "
        "known one." in text
    )
    assert counts["url_duplicates"] > 0
    assert f"{counts['url_duplicates']} have the URL of another" in text
    shown = table_rows(html, "Largest clusters")
    clusters = facts.corpus.clusters
    assert [row[2:5] for row in shown] == [[str(n) for n in (c.exact, c.same_url, c.near)] for c in clusters]
    assert any(cluster.same_url for cluster in clusters)
    assert ["of an earlier run" in row[0] for row in shown] == [cluster.known for cluster in clusters]
    assert any(cluster.known for cluster in clusters)
    assert all(cluster.excerpt for cluster in clusters)  # known ones have a text, too
    known = {
        row["id"]: row["text"]
        for file in refs["ingest"].committed().files("documents")
        for row in file.table().to_pylist()
    }
    for cluster in clusters:
        if cluster.known:
            assert known[cluster.twin].startswith(cluster.excerpt)


def test_the_pair_may_be_of_an_earlier_run(tmp_path: Path) -> None:
    words = Writer(1).write(200)
    old = deduplicate([shard(["else", " ".join(words)])], tmp_path)
    known = StageRef("duplicates", old["duplicates"].fingerprint, old["duplicates"].path)
    new = deduplicate([shard([" ".join([*words[:100], "changed", *words[100:-9]])])], tmp_path, known=old["duplicates"])
    refs = {name: StageRef(name, stage.fingerprint, stage.path) for name, stage in new.items()}
    pair = collect({}, refs, TITLE, known).corpus.pair
    assert pair is not None
    assert (pair.known, pair.twin.text) == (True, " ".join(words))
    html = render(str(tmp_path), {}, refs, TITLE, known)
    assert "<del>changed </del>" in html
    assert f"<ins>{' '.join(words[-9:])}</ins>" in html
    assert "Kept in its place, known from an earlier run" in html


def test_without_verification_the_estimate_is_shown(tmp_path: Path) -> None:
    refs = build(tmp_path, "deduplicate", 240, DedupConfig(verify=False))
    html = render(str(tmp_path), {}, refs, TITLE)
    near = refs["duplicates"].committed().counts["near_duplicates"]
    assert histogram_bars(html, "Estimated similarity of near duplicates") == (near, "")
    assert "Coverage of near duplicates" not in html
    assert "Nothing was verified" in Page(html).text("duplicates")


def test_spans_that_were_cut_are_counted(tmp_path: Path) -> None:
    banner = "All rights to these pages are reserved by the people of the mill"
    texts = [f"{banner}\n{' '.join(Writer(seed).write(60))}\n{banner}, and of the river" for seed in range(9)]
    config = DedupConfig.model_validate({"lines": {"rules": [{"unit": "line"}]}})
    committed = deduplicate([shard(texts)], tmp_path, config)
    store = Store.at(tmp_path)
    refs = {name: StageRef(name, stage.fingerprint, stage.path) for name, stage in committed.items()}
    lines = Lines(config, refs)
    run_stage(lines, store, 0)
    counted = {**refs, "lines": store.ref("lines", lines.fingerprint())}
    cutting = Deduplicate(config, {name: counted[name] for name in ("ingest", "duplicates", "lines")})
    assert run_stage(cutting, store, 0).counts["edited"] == 8
    cut = {**counted, "deduplicate": store.ref("deduplicate", cutting.fingerprint())}
    section = render(str(tmp_path), {}, cut, TITLE)
    gone = 8 * (len(banner) + 1 + len(f"\n{banner}, and of the river"))
    assert table_rows(section, "Repeated passages") == [["repeated lines", "8", "16", f"{gone / 1000:.2f} kB"]]
    # The same search without the cut.
    section = render(str(tmp_path), {}, counted, TITLE)
    assert "Repeated passages" in section
    assert "16 stretches of text found by lines were counted, and left where they are" in section


def test_the_examples_lie_at_the_margin(
    facts: Facts, refs: dict[str, StageRef], catalog: duckdb.DuckDBPyConnection
) -> None:
    assert len({example.rule for example in facts.corpus.examples}) == len(facts.corpus.examples) > 3
    for example in facts.corpus.examples:
        nearest = rows(
            catalog,
            f"SELECT min(abs(value - threshold)) FROM ledger WHERE rule = '{example.rule}' "
            f"AND (bytes >= 200) = (SELECT bool_or(bytes >= 200) FROM ledger WHERE rule = '{example.rule}')",
        )
        assert example.value is not None
        assert example.threshold is not None
        assert nearest == [(abs(example.value - example.threshold),)]


def test_the_model_part_shows_its_numbers(page: Page, facts: Facts) -> None:
    score = scores(facts)
    assert list(score.baselines) == ["unigram", "3-gram"]
    assert score.loss == 3.21
    assert "unigram 6.62, 3-gram 4.35" in page.text()
    assert "3.41 below a unigram model and 1.14 below a 3-gram model of 112 k training tokens" in page.text().replace(
        "\u202f", " "
    )
    assert "5.20 M" in page.text().replace("\u202f", " ")
    evaluation = page.text("evaluation")
    for shown in (
        "English",
        "Chinese",
        "Spanish",
        "subject verb agreement",
        "0.81",
        "resultative order",
        "0.660 ± 0.019 of 600 pairs",
    ):
        assert shown in evaluation
    whiskers = [a for tag, a in page.elements if tag == "line" and a.get("class") == "whisker"]
    left, right = whiskers[-1]["x1"], whiskers[-1]["x2"]  # resultative order: 0.48, 100 pairs
    margin = 1.96 * math.sqrt(0.48 * 0.52 / 100)
    assert float(left.rstrip("%")) == pytest.approx(3 + 94 * (0.48 - margin), abs=0.01)  # type: ignore[union-attr]
    assert float(right.rstrip("%")) == pytest.approx(3 + 94 * (0.48 + margin), abs=0.01)  # type: ignore[union-attr]
    assert totals(facts).peak_memory_bytes == 5 << 30
    assert "20,005 tokens a second" in page.text("training")
    assert "Learning rate" in page.text("training")
    assert "validation" in page.text("training")


@pytest.mark.parametrize(
    ("until", "absent", "present"),
    [
        (
            "ingest",
            ["The annotate stage has not finished", "The duplicates stage has not finished"],
            "Of 80 documents",
        ),
        ("deduplicate", ["The annotate stage has not finished", "The train stage has not finished"], "near duplicate"),
        ("filter", ["The train stage has not finished", "The evaluate stage has not finished"], "Mean word length"),
        ("tokenize", ["The train stage has not finished"], "Text to tokens"),
        ("train", ["The evaluate stage has not finished"], "Learning rate"),
    ],
)
def test_unfinished_runs_say_what_is_missing(
    tmp_path_factory: pytest.TempPathFactory, until: str, absent: list[str], present: str
) -> None:
    folder = tmp_path_factory.mktemp("unfinished")
    text = Page(render(str(folder), dict(RECIPE), build(folder, until, documents=80), "Part of a run")).text()
    for sentence in absent:
        assert sentence in text
    assert present in text
    assert "Not finished" in text


def test_nothing_at_all_and_an_empty_corpus(tmp_path: Path) -> None:
    text = Page(render(str(tmp_path), {}, {}, "Nothing")).text()
    assert "No stage of this run has finished yet" in text
    refs = build(tmp_path, "filter", documents=0)
    text = Page(render(str(tmp_path), dict(RECIPE), refs, "Empty")).text()
    assert "has not finished, or found no documents" in text


def test_a_resumed_journal_counts_each_step_once() -> None:
    lines = [
        {"step": 10, "tokens": 100, "time": 1.0, "metrics": {"train/loss": 5.0}},
        {"step": 20, "tokens": 200, "time": 2.0, "metrics": {"train/loss": 4.0, "validation/loss": 4.5}},
        {"step": 20, "tokens": 200, "time": 9.0, "metrics": {"train/loss": 4.25}},
        {"step": 30, "tokens": 300, "time": 9.5, "metrics": {"train/loss": float("nan")}},
    ]
    text = "\n".join(json.dumps(line) for line in lines) + '\n{"step": 40, "tok'
    curves, tokens = read_metrics(text)
    assert curves["train/loss"].points == [(10.0, 5.0), (20.0, 4.25)]
    assert curves["validation/loss"].points == [(20.0, 4.5)]
    assert tokens == 300


@given(st.text(), st.text())
def test_text_comes_back_from_markup_as_it_was(text: str, attribute: str) -> None:
    page = Page(el("p", text, title=attribute))
    clean = str.maketrans({"\r": "\n"})
    said, given_ = page.text(), page.elements[0][1]["title"]
    assert [tag for tag, _ in page.elements] == ["p"]
    if not re.search("[\x00-\x1f\x7f-\x9f\u200e\u200f\u202a-\u202e\u2066-\u2069\ufffe\uffff\ufffd]", text + attribute):
        assert said == re.sub(r"\s+", " ", text.translate(clean))
        assert given_ == attribute


def test_markup_is_escaped_unless_it_is_markup() -> None:
    assert el("b", "<i>", Markup("<i>"), None, False, ["&", 3]) == "<b>&lt;i&gt;<i>&amp;3</b>"
    assert (
        el("rect", x=1.005, y=-0.001, class_='"', hidden=True, id=None)
        == '<rect x="1" y="0" class="&quot;" hidden></rect>'
    )
    assert escape("a\x00\u202eb\ud800") == "a\ufffd\ufffdb\ufffd"


@given(st.lists(st.floats(0, 300), min_size=1, max_size=12))
def test_labels_are_apart_and_in_order(positions: list[float]) -> None:
    placed = spread(positions, 15, 0, 300)
    order = sorted(range(len(positions)), key=lambda index: (positions[index], index))
    for before, after in itertools.pairwise(order):
        assert placed[after] - placed[before] >= 15 - 1e-6
    assert all(place <= 300 for place in placed)


@given(st.lists(st.floats(-100, 100), min_size=1, max_size=80), st.integers(1, 9))
def test_the_moving_average_is_an_average(values: list[float], reach: int) -> None:
    smoothed = smooth(values, reach)
    for index, value in enumerate(smoothed):
        near = min(reach, index, len(values) - 1 - index)
        assert value == pytest.approx(np.mean(values[index - near : index + near + 1]), abs=1e-9)


@given(st.floats(-1e6, 1e6), st.floats(1e-3, 1e6))
def test_ticks_are_round_and_inside(low: float, span: float) -> None:
    marks = ticks(low, low + span, 5)
    assert len(marks) <= 11
    assert all(low - 1e-6 * span <= mark <= low + span * (1 + 1e-6) for mark in marks)


def test_thin_keeps_the_extremes() -> None:
    points = [(float(x), math.sin(x / 50)) for x in range(5000)]
    points[3333] = (3333.0, 9.0)
    kept = thin(points, 400)
    assert len(kept) <= 402
    assert (3333.0, 9.0) in kept
    assert kept == sorted(kept)


def test_scales_and_widths() -> None:
    scale = Scale(0, 999, 0, 300, log=True)
    assert (scale(0), scale(99), scale(999)) == pytest.approx((0, 200, 300))
    assert Scale(0, 10, 100, 0)(20) == 0
    assert text_width("水", 10) == 10
    assert fit("a long name", 40, 10) == "a long…"


def test_numbers_read_well() -> None:
    plain = str.maketrans({"\u202f": " "})
    assert [size(n).translate(plain) for n in (0, 999, 8_100, 23_400_000)] == ["0 B", "999 B", "8.10 kB", "23.4 MB"]
    assert [short_count(n).translate(plain) for n in (7, 999_900, 12_345)] == ["7", "1.00 M", "12.3 k"]
    assert [duration(n).translate(plain) for n in (0.44, 59.6, 185, 7_800)] == [
        "0.4 s",
        "1 min 00 s",
        "3 min 05 s",
        "2 h 10 min",
    ]
    assert [percent(n).translate(plain) for n in (0, 0.0004, 0.034, 0.12, 0.999, 1)] == [
        *("0 %", "< 0.1 %", "3.4 %", "12 %", "99.9 %", "100 %")
    ]
    assert [axis(n) for n in (0.5, 200, 10_000, 1_500_000)] == ["0.5", "200", "10k", "1.5M"]


def test_excerpts_hold_no_personal_data_where_the_run_masks_it() -> None:
    email = "ada.lovelace@analytical-engine.co.uk"
    long = "word " * 58 + email  # the excerpt ends within the address
    with duckdb.connect() as catalog:
        catalog.execute(
            "CREATE TABLE ingested AS SELECT * FROM (VALUES ('a', 'f', 's', 'l', NULL, 'en', ?), "
            "('b', 'f', 's', 'l', NULL, 'en', ?)) AS t(id, ingest, source, locator, url, language, text)",
            [f"Write to {email}.", long],
        )
        catalog.execute("CREATE TABLE known_documents AS SELECT * REPLACE ('e' AS ingest) FROM ingested")
        places = [("a", "f"), ("b", "f"), ("b", "e"), ("c", "f")]
        masked = corpus._excerpts(catalog, places, 300, PrivacyConfig())
        plain = corpus._excerpts(catalog, places, 300, None)
    assert set(masked) == set(plain) == set(places[:3])
    assert masked["a", "f"].text == "Write to <EMAIL>."
    assert masked["b", "f"].text == masked["b", "e"].text == "word " * 58 + "<EMAIL>"
    assert plain["a", "f"].text == f"Write to {email}."
    assert plain["b", "f"].text == plain["b", "e"].text == long[:300]
