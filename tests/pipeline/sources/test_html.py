from __future__ import annotations

import contextlib
import time
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from resiliparse.parse.html import HTMLTree, traverse_dom

from pipeline.sources import HtmlConfig, Limits
from pipeline.sources.html import NotText, decode_html, html_to_page
from pipeline.sources.nesting import html_shape
from tests.pipeline.sources.helpers import gz, html, read, records, rules

PAGE = """<!DOCTYPE html><html lang="de-CH"><head><title> Ein
 Titel </title><style>p {}</style><script>var x = "<p>no</p>";</script></head><body>
<nav><ul><li><a href="/">Home</a></li><li><a href="/x">Über uns</a></li></ul></nav>
<main><h1>Kopf<a class="headerlink" href="#kopf" title="Link">¶</a></h1>
<p>Erster Absatz mit <b>fetter</b> Schrift.</p><p>Zweiter   Absatz,
über zwei Zeilen.</p><pre>def f():
    return 1</pre><img src="x" alt="ein Bild"></main>
<footer>© 2020 Impressum</footer></body></html>"""


def page(data: bytes | str, charset: str | None = None, limits: Limits | None = None, **config):
    data = data.encode() if isinstance(data, str) else data
    return html_to_page(data, charset, HtmlConfig(**config), limits or Limits())


def test_main_content_with_paragraphs_as_lines():
    got = page(PAGE)
    assert got.title == "Ein Titel"
    assert got.language == "de-CH"
    assert got.text.split("\n") == [
        "Kopf",
        "",
        "Erster Absatz mit fetter Schrift.",
        "",
        "Zweiter Absatz, über zwei Zeilen.",
        "",
        "def f():",
        "    return 1",
    ]


def test_options():
    whole = page(PAGE, main_content=False).text
    assert "Home" in whole
    assert "Impressum" in whole
    assert "var x" not in whole
    assert "ein Bild" in page(PAGE, alt_texts=True).text
    assert "/x" in page(PAGE, main_content=False, links=True).text


CHINESE = "<html><head><title>标题</title></head><body><p>天地玄黄，宇宙洪荒。日月盈昃，辰宿列张。</p></body></html>"
FRENCH = "<p>Où est l'école&nbsp;? À côté du café.</p>"


@pytest.mark.parametrize(
    ("data", "charset", "expected"),
    [
        (CHINESE.encode(), None, "天地玄黄"),
        (CHINESE.encode(), "iso-8859-1", "天地玄黄"),  # UTF-8 under a server's default
        (CHINESE.encode("gb18030"), "gb18030", "天地玄黄"),
        (CHINESE.encode("gbk"), None, "天地玄黄"),
        (CHINESE.encode("big5", "ignore"), "big5", "天地玄"),
        (CHINESE.replace("<head>", "<head><meta charset=gbk>").encode("gbk"), None, "天地玄黄"),
        (CHINESE.encode("utf-16"), None, "天地玄黄"),
        (b"\xef\xbb\xbf" + CHINESE.encode(), "gbk", "天地玄黄"),
        ("<p>日本語のページです。</p>".encode("iso2022_jp"), "iso-2022-jp", "日本語のページです。"),
        ("<p>日本語のページです。</p>".encode("shift_jis"), '"Shift_JIS"', "日本語のページです。"),
        (FRENCH.encode("latin-1"), "utf-8", "À côté du café."),
        (FRENCH.encode("cp1252"), "no-such-charset", "À côté du café."),
        (CHINESE.encode().replace(b"</p>", b"\xff</p>"), "utf-8", "辰宿列张。�"),
    ],
)
def test_encodings(data: bytes, charset: str | None, expected: str):
    assert expected in page(data, charset, main_content=False).text


@given(st.binary(max_size=300), st.sampled_from([None, "utf-8", "latin-1", "gbk", "utf-16", "x"]))
def test_any_bytes_decode(data: bytes, charset: str | None):
    decode_html(data, charset).encode()


@given(st.text(alphabet="<>/ab=\"' !-pdiv\x00", max_size=200))
def test_any_page_gives_text_or_a_reason(text: str):
    with contextlib.suppress(NotText):
        page(text).text.encode()


def true_depth(text: str) -> int:
    deepest = 0

    def look(context) -> None:
        nonlocal deepest
        deepest = max(deepest, context.depth)

    traverse_dom(HTMLTree.parse(text).document.document_element, look, elements_only=True)
    return deepest


TAGS = """<div> </div> <span> </span> <b> </b> <i> </i> <br> x <!--<div>--> <section> </section> <object> </object>
<svg> </svg> <g> </g> <ul> </ul> <x-y> </x-y> </p> </x> <div/> <title> </title>
<script> </script> <font> </font>""".split()


@settings(max_examples=300, derandomize=True)
@given(st.lists(st.sampled_from(TAGS)))
def test_the_bound_of_depth_is_never_below_the_true_one(tags: list[str]):
    text = "".join(tags)
    assert html_shape(text.encode(), 512)[0] + 2 >= true_depth(text)  # + 2: the body, and a void element


def test_the_shape_of_a_page():
    assert html_shape(b"<div><p>a<p>b<br><img></div>" * 50, 512)[0] == 1
    assert html_shape(b"<script>'<div><div>'</script><div>", 512)[0] == 1
    assert html_shape(b"<ul><li><ul><li><table><tr><td>", 512)[0] == 3
    assert html_shape(b"<div " + b"a=1 " * 700 + b">x <p a b='c d' e>", 512)[1] == 700


def test_deep_pages_are_refused_in_time():
    disguised = ("<section></div>" * 50_000, "<div><object></div>" * 30_000, "<svg><title>" + "<div>" * 9000)
    reopened = "".join(f"<div><font a={number}></div>" for number in range(5000)) + "x"
    shielded = ("<div>" * 200 + "<object>" + "</div>" * 200) * 200
    for text in ("<div>" * 100_000, "<b>" * 100_000 + "x", "<font><i><u>" * 30_000, *disguised, shielded, reopened):
        started = time.process_time()
        with pytest.raises(NotText) as refused:
            page(text)
        assert time.process_time() - started < 5
        assert refused.value.rule == "html_too_deep"
        assert refused.value.threshold == 512
    page("<div>" * 400 + "fine" + "</div>" * 400)
    with pytest.raises(NotText, match="deeper"):
        page("<div>" * 100, limits=Limits(max_html_depth=50))


def test_a_page_with_tags_left_open_is_not_deep():
    assert "word" in page("<p><b>word " * 1500).text
    assert "word" in page("<a name=x>word " * 2000).text


def test_many_attributes_are_refused_in_time():
    started = time.process_time()
    with pytest.raises(NotText) as refused:
        page("<div " + " ".join(f"a{number}=1" for number in range(100_000)) + ">x</div>")
    assert refused.value.rule == "html_too_many_attributes"
    assert time.process_time() - started < 2


def test_large_and_binary_pages_are_refused():
    with pytest.raises(NotText, match="max_document_bytes"):
        page("x" * 200, limits=Limits(max_document_bytes=100))
    with pytest.raises(NotText, match="binary"):
        page(bytes(range(4)) * 500)


def test_files_of_html(tmp_path: Path):
    (tmp_path / "a.html").write_text(html("one\ntwo"))
    (tmp_path / "b.htm.gz").write_bytes(gz(html("three").encode()))
    (tmp_path / "c.html").write_text("<div>" * 2000)
    (tmp_path / "d.html").write_bytes(b"x" * 100_000)
    (tmp_path / "e.html.gz").write_bytes(gz(html("cut").encode())[:-9])
    (tmp_path / "f.html").write_bytes(b"")
    items = read(tmp_path, format="html", language="en", limits=Limits(max_document_bytes=50_000))
    assert [(record.locator, record.text) for record in records(items)] == [
        ("a.html#0", "one\n\ntwo"),
        ("b.htm.gz#0", "three"),
        ("f.html#0", ""),
    ]
    assert records(items)[0].metadata == '{"html_language":"en","title":"A title"}'
    assert rules(items) == ["html_too_deep", "too_large", "truncated_stream"]
