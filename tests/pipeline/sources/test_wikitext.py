from __future__ import annotations

import bz2
import contextlib
import re
import time
from collections import Counter
from xml.etree import ElementTree

import mwparserfromhell
import pytest

from pipeline.sources.wikitext import plain_text
from tests.pipeline.sources.helpers import SHARED

CASES = {
    "'''Bold''' and ''italic''": "Bold and italic",
    "a [[link]], a [[target|label]], the [[bus]]es": "a link, a label, the buses",
    "[[:Category:Shown]] [[#Section|here]]": "Category:Shown here",
    "before {{template|a=b|{{inner}}}} after": "before after",
    "x{{a|}}y{{b||}}z": "xyz",
    "{{{1|default}}} text": "text",
    "text<ref>note {{cite|x}}</ref> goes<ref name=a /> on<REF name='b'>n</REF>.": "text goes on.",
    "<!-- hidden [[ --> shown <!-- never closed": "shown",
    "[[File:a.jpg|thumb|A [[caption]] with {{t}}]]after": "after",
    "[[Datei:a.jpg|mini]]a[[Category:C]]b[[de:Fremd]]": "ab",
    "{|\n! h\n|-\n| cell {{t|}} || [[x]]\n{| \n| nested\n|}\n|}\nbelow": "below",
    ":{| class=a\n|}\nbelow": "below",
    "a {| not a table |} b": "a {| not a table |} b",
    "<math>E=mc^2</math>, <math>\\frac{a}{b}</math> <nowiki>[[raw]]</nowiki>": "E=mc^2, [[raw]]",
    "{{transl|ar|Allah}} {{transl|ar|ALA|Allāh}}": "Allah Allāh",
    "<gallery>\nFile:a.jpg|x\n</gallery>end": "end",
    "[http://a.test label] [http://b.test] http://c.test": "label http://c.test",
    "one<br/>two <small>three</small> &amp; &nbsp;four": "one\ntwo three & four",
    "* a\n# b\n: c\n;d\n*": "• a\n• b\nc\nd",
    "__NOTOC__a": "a",
    "{{lang|fr|bonjour}}, {{convert|5|km|mi}}, {{convert|3|to|4|m}}, {{nowrap|a b}}": "bonjour, 5 km, 3 to 4 m, a b",
    "-{zh-hans:计算机;zh-hant:電腦}-和-{原文}-，-{H|zh-cn:甲;zh-tw:乙}-完": "计算机和原文，完",
    "Name ({{IPA|x}}; born 1900) (  ) end": "Name (born 1900) end",
    "open {{ never closed [[ here": "open {{ never closed [[ here",
    "]] }} |}": "]] }} |}",
    "a [[b {{c]] d}} e": "a b {{c d}} e",
    "{{quote|text=Said [[he]].}}": "Said he.",
    "{{ill|Stadt|de|Ort}} {{link-de|弗里德里希城|Friedrichstadt}}": "Stadt 弗里德里希城",
}


@pytest.mark.parametrize("wikitext", CASES)
def test_markup(wikitext: str):
    assert plain_text(wikitext).strip() == CASES[wikitext]


def test_headings_become_lines_and_empty_sections_go():
    wikitext = (
        "Lead.\n== A ==\ntext\n=== Deep ===\n== Empty ==\n=== Empty too ===\n{{t}}\n== B ==\n\n\nmore\n== Refs ==\n"
    )
    assert plain_text(wikitext) == "Lead.\n\nA\ntext\n\nB\nmore"
    assert plain_text("== A ==\n=== B ===\nx") == "A\n\nB\nx"
    assert plain_text("= =\n==\na = b\n=c") == "= =\n==\na = b\n=c"


def test_names_of_namespaces_are_the_wikis_own():
    assert plain_text("[[Mynd:a.jpg|x]][[Flokkur:b]]c", {"mynd"}, {"flokkur"}) == "c"


@pytest.mark.parametrize(
    "piece",
    [
        "{{",
        "[[",
        "}}",
        "]]",
        "<ref>",
        "<!--",
        "<math>",
        "{|\n",
        "[http:",
        "==",
        "-{",
        "'",
        "(",
        " ",
        "=\n",
        "{{a|",
        "<",
        "&",
    ],
)
def test_hostile_repetition_takes_linear_time(piece: str):
    def seconds(count: int) -> float:
        started = time.process_time()
        plain_text(piece * count)
        return time.process_time() - started

    seconds(100)
    assert seconds(100_000) < 2


def test_nesting_of_any_depth():
    assert plain_text("{{" * 50_000 + "x" + "}}" * 50_000 + "y") == "y"
    assert plain_text("[[" * 50_000 + "x" + "]]" * 50_000) == "x"


@pytest.mark.skipif(not (SHARED / "wiki").exists(), reason="the shared Wikipedia excerpt is not here")
def test_the_words_of_real_articles_are_those_that_mwparserfromhell_finds():
    with bz2.open(SHARED / "wiki/enwiki-shortened-206pages.xml.bz2") as stream:
        pages = [ElementTree.fromstring(page) for page in re.findall(rb"<page>.*?</page>", stream.read(), re.DOTALL)]
    articles = [page.findtext("revision/text") or "" for page in pages if page.find("redirect") is None]
    articles = sorted(articles, key=len)[10:70:6]  # a few of middling length: mwparserfromhell is slow
    ours: Counter[str] = Counter()
    theirs: Counter[str] = Counter()
    for article in articles:
        ours.update(re.findall(r"\w+", plain_text(article)))
        theirs.update(re.findall(r"\w+", reference_text(article)))
    shared = (ours & theirs).total()
    assert shared / ours.total() > 0.98
    assert shared / theirs.total() > 0.98


def reference_text(wikitext: str) -> str:
    """The text that mwparserfromhell gives without what strip_code leaves in: references, tables, files, categories."""
    code = mwparserfromhell.parse(wikitext)
    for tag in code.filter_tags(matches=lambda node: str(node.tag).strip().lower() in ("ref", "table")):
        with contextlib.suppress(ValueError):  # inside one that is gone already
            code.remove(tag)
    for link in code.filter_wikilinks(matches=lambda node: re.match(r"(File|Image|Category):", str(node.title))):
        with contextlib.suppress(ValueError):
            code.remove(link)
    return str(code.strip_code())
