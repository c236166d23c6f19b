"""The page: sections in the order of their importance, set into one HTML document without any outside reference."""

from __future__ import annotations

import base64
import hashlib
from importlib import resources

from pipeline.report.cleaning import cleaning_section
from pipeline.report.duplicates import duplicate_section
from pipeline.report.facts import Facts
from pipeline.report.funnel import funnel_section, rejected_section
from pipeline.report.headline import figures, story
from pipeline.report.markup import Markup, el, escape, join
from pipeline.report.model import evaluation_section, samples_section, training_section
from pipeline.report.quality import language_section, quality_section
from pipeline.report.run import cost_section, lineage_section
from pipeline.report.suites import suites_section


def page(facts: Facts) -> str:
    """Return the whole HTML document."""
    sections = [
        ("funnel", "Funnel", funnel_section(facts)),
        ("languages", "Languages", language_section(facts)),
        ("quality", "Quality", quality_section(facts)),
        ("duplicates", "Duplicates", duplicate_section(facts)),
        ("cleaning", "Privacy", cleaning_section(facts)),
        ("training", "Training", training_section(facts)),
        ("evaluation", "Evaluation", evaluation_section(facts)),
        ("suites", "Suites", suites_section(facts)),
        ("samples", "Samples", samples_section(facts)),
        ("cost", "Time and cost", cost_section(facts)),
        ("rejected", "Rejected input", rejected_section(facts)),
        ("lineage", "Lineage", lineage_section(facts)),
    ]
    present = [(key, label, content) for key, label, content in sections if content is not None]
    last = list(facts.stages.values())[-1:]
    body = join(
        [
            el(
                "header",
                el("p", "Headrace run ", [el("code", stage.fingerprint) for stage in last], class_="eyebrow"),
                el("h1", facts.title),
                story(facts),
                figures(facts),
                el("nav", [el("a", label, href=f"#{key}") for key, label, _ in present], aria_label="Sections"),
            ),
            el("main", [content for _, _, content in present]),
            el("footer", el("p", _description(facts))),
        ]
    )
    return document(facts.title, body)


def _description(facts: Facts) -> str:
    told = str(facts.recipe.get("description") or "")
    return f"{told} This page holds everything it shows and asks nothing of a network.".strip()


def document(title: str, body: Markup) -> str:
    """Return the whole HTML document: the template, filled.

    The body goes in last: nothing that it holds is taken for a mark of the template.
    """
    template, style, script = (
        resources.files(__package__).joinpath(name).read_text(encoding="utf-8")
        for name in ("page.html", "style.css", "script.js")
    )
    digest = base64.b64encode(hashlib.sha256(script.encode()).digest()).decode()
    head, body_mark, tail = template.partition("[[body]]")
    assert body_mark
    head = (
        head.replace("[[script-digest]]", f"sha256-{digest}")
        .replace("[[style]]", style)
        .replace("[[title]]", escape(title))
    )
    return head + body + tail.replace("[[script]]", script)
