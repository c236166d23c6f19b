from __future__ import annotations

import bz2
from pathlib import Path

import pytest

from pipeline.sources import Dropped, Limits, Record
from tests.pipeline.sources.helpers import (
    SHARED,
    SITEINFO,
    dropped,
    read,
    records,
    rejected,
    rules,
    texts,
    wiki_dump,
    wiki_page,
)

PAGES = [
    wiki_page("Käse & Wein", "'''Käse''' ist [[Essen|gut]].\n\n[[Lichtbild:k.jpg|mini|Bild]]\n[[Kategorie:Essen]]"),
    wiki_page("Weiter", "#WEITERLEITUNG [[Käse]]", redirect="Käse"),
    wiki_page("Diskussion:Käse", "Gerede", namespace=1),
    wiki_page("Brot", "Text {{Vorlage}} hier."),
]


def write(path: Path, content: bytes) -> Path:
    path.write_bytes(content)
    return path


def test_articles_become_records(tmp_path: Path):
    file = write(tmp_path / "dewiki.xml", wiki_dump(PAGES))
    items = read(file, format="wikipedia", license="CC-BY-SA-4.0")
    first, second = records(items)
    offset = file.read_bytes().index(b"<page>")
    assert first == Record(
        locator=f"dewiki.xml#{offset}",
        text="Käse ist gut.",
        url="https://de.wikipedia.org/wiki/K%C3%A4se_%26_Wein",
        date="2020-01-02T03:04:05Z",
        license="CC-BY-SA-4.0",
        language="de",
        metadata='{"page":"7","revision":"9","title":"Käse & Wein"}',
    )
    assert second.text == "Text hier."
    assert [(item.rule, item.value, item.detail) for item in dropped(items)] == [
        ("redirect", None, "Weiter -> Käse"),
        ("namespace", 1.0, "Diskussion:Käse"),
    ]
    assert records(read(file, format="wikipedia", language="gsw"))[0].language == "gsw"


def test_a_redirect_and_a_namespace_of_old_exports(tmp_path: Path):
    pages = [
        wiki_page("A", "#REDIRECT [[B]]", namespace=None),
        wiki_page("Diskussion:B", "x", namespace=None),
        wiki_page("Star Wars: Eins", "x", namespace=None),
    ]
    items = read(write(tmp_path / "a.xml", wiki_dump(pages)), format="wikipedia")
    assert rules(items) == ["redirect", "namespace"]
    assert texts(items) == ["x"]


@pytest.mark.parametrize("encoding", ["utf-16", "utf-16-le", "utf-16-be", "utf-8-sig"])
def test_other_encodings(tmp_path: Path, encoding: str):
    expected = texts(read(write(tmp_path / "a.xml", wiki_dump(PAGES)), format="wikipedia"))
    file = write(tmp_path / "b.xml", wiki_dump(PAGES, encoding))
    assert texts(read(file, format="wikipedia")) == expected
    assert texts(read(file, 300, format="wikipedia")) == expected
    declared = f'<?xml version="1.0" encoding="iso-8859-1"?>{wiki_dump(PAGES).decode()}'.encode("latin-1")
    assert texts(read(write(file, declared), format="wikipedia")) == expected
    unknown = declared.replace(b"iso-8859-1", b"klingon")
    assert rules(read(write(file, unknown), 50, format="wikipedia")) == ["unknown_encoding"]


def test_broken_pages_cost_themselves(tmp_path: Path):
    pages = [page.encode() for page in (wiki_page(f"T{number}", f"text {number}") for number in range(7))]
    pages[1] = pages[1].replace(b"</title>", b"</titel>")
    pages[3] = pages[3].replace(b"</page>", b"")
    pages[4] = pages[4].replace(b"text 4", b"text \xff\xfe")
    pages[5] = pages[5].replace(b"text 5", b"&undefined; text")
    content = SITEINFO.encode() + b"".join(pages) + b"</mediawiki>"
    items = read(write(tmp_path / "a.xml", content), format="wikipedia")
    assert texts(items) == ["text 0", "text 2", "text 6"]
    assert rules(items) == ["broken_record", "broken_record", "undecodable_bytes", "broken_record"]
    assert "before the next one" in rejected(items)[1].detail


def test_pages_without_an_end_split_anywhere(tmp_path: Path):
    pages = [wiki_page(f"T{number}", f"text {number} " * number) for number in range(30)]
    pages = [page.replace("</page>", "") if number % 3 == 1 else page for number, page in enumerate(pages)]
    file = write(tmp_path / "a.xml", wiki_dump(pages[:-1]) + pages[-1].replace("</page>", "").encode())
    whole = read(file, format="wikipedia")
    assert rules(whole) == ["broken_record"] * 10 + ["truncated_stream"]
    for unit_bytes in range(100, 2000, 130):
        assert read(file, unit_bytes, format="wikipedia") == whole


def test_entities_of_a_document_type_do_not_expand(tmp_path: Path):
    bomb = '<!DOCTYPE m [<!ENTITY a "aaaaaaaaaa"><!ENTITY b "&a;&a;&a;">]>\n'
    page = wiki_page("T", "x").replace(">x<", ">&b;<")
    items = read(write(tmp_path / "a.xml", (bomb + wiki_dump([page]).decode()).encode()), format="wikipedia")
    assert rules(items) == ["broken_record"]


def test_a_cut_off_dump(tmp_path: Path):
    content = wiki_dump(wiki_page(f"T{number}", f"text {number}") for number in range(50))
    items = read(write(tmp_path / "a.xml", content[:6000]), format="wikipedia")
    assert len(texts(items)) > 10
    assert rules(items) == ["truncated_stream"]
    items = read(write(tmp_path / "b.xml.bz2", bz2.compress(content * 300)[:-100]), format="wikipedia")
    assert rules(items) == ["truncated_stream"]


def test_limits_and_empty_files(tmp_path: Path):
    pages = [wiki_page("T", "short"), wiki_page("T", "x" * 9000), wiki_page("T", "y" * 900)]
    file = write(tmp_path / "a.xml", wiki_dump(pages))
    items = read(file, format="wikipedia", limits=Limits(max_record_bytes=2048, max_document_bytes=500))
    assert texts(items) == ["short"]
    assert [(item.rule, item.threshold) for item in rejected(items)] == [("too_large", 2048), ("too_large", 500)]
    items = read(file, format="wikipedia", limits=Limits(max_record_bytes=2048))
    assert texts(items) == ["short", "y" * 900]
    assert rules(items) == ["too_large"]
    assert rules(read(write(file, b"<html>no dump</html>"), format="wikipedia")) == ["empty"]


def test_a_multistream_dump_is_split_at_its_streams(tmp_path: Path):
    """The form in which Wikipedia offers its dumps: bzip2 streams of some pages each."""
    pages = [wiki_page(f"T{number}", f"text {number} " * 50) for number in range(60)]
    streams = [SITEINFO, *("".join(pages[start : start + 10]) for start in range(0, 60, 10)), "</mediawiki>"]
    file = write(tmp_path / "a.xml.bz2", b"".join(bz2.compress(stream.encode()) for stream in streams))
    whole = read(file, format="wikipedia")
    assert len(texts(whole)) == 60
    assert read(file, 200, format="wikipedia") == whole


@pytest.mark.skipif(not (SHARED / "wiki").exists(), reason="the shared Wikipedia excerpt is not here")
def test_a_real_dump():
    items = read(SHARED / "wiki/enwiki-shortened-206pages.xml.bz2", format="wikipedia")
    assert len(records(items)) == 106
    assert len([item for item in items if isinstance(item, Dropped) and item.rule == "redirect"]) == 99
    assert not rejected(items)
    anarchism = next(record for record in records(items) if record.url == "https://en.wikipedia.org/wiki/Anarchism")
    assert anarchism.text.startswith("Anarchism is a political philosophy that advocates self-governed societies")
    markup = ("{{", "}}", "[[", "]]", "<ref", "'''", "&nbsp;")
    spoiled = [record.locator for record in records(items) if any(mark in record.text for mark in markup)]
    assert len(spoiled) <= 2
