"""HTML to plain text, by resiliparse: encoding, main content, title, language; and HTML files as a format."""

from __future__ import annotations

import codecs
import re
from collections.abc import Iterator
from dataclasses import dataclass

from resiliparse.extract.html2text import extract_plain_text
from resiliparse.parse.encoding import bytes_to_str, detect_encoding, map_encoding_to_html5
from resiliparse.parse.html import DOMContext, ElementNode, HTMLTree, traverse_dom

from pipeline.sources.compression import Place, detect
from pipeline.sources.config import HtmlConfig, Limits, SourceConfig
from pipeline.sources.content import Part, Raw, open_pieces, parts_between, runs
from pipeline.sources.fields import too_large
from pipeline.sources.files import InputFile, open_input
from pipeline.sources.nesting import html_shape
from pipeline.sources.records import Item, Record, Rejected, clean_text, metadata_json

SUFFIXES = (".html", ".htm", ".xhtml")
MAX_ATTRIBUTES = 1_000
HOPELESS = 4
_BOMS = ((codecs.BOM_UTF8, "utf-8"), (codecs.BOM_UTF16_LE, "utf-16le"), (codecs.BOM_UTF16_BE, "utf-16be"))
# The mark behind each heading of generated documentation that links to itself.
_PERMALINK = re.compile(
    r"""<a\s[^<>]{0,300}\bclass=["']?(?:headerlink|header-anchor|anchor-link|anchor)\b[^<>]{0,300}>[^<>\n]{0,3}</a>"""
)


@dataclass(frozen=True, slots=True)
class Page:
    """What a page says. `language` is its lang attribute, as it stands."""

    text: str
    title: str | None
    language: str | None


class NotText(ValueError):
    """A page that is not made into text, by the rule and the value that its ledger row names."""

    def __init__(self, rule: str, detail: str, value: float | None = None, threshold: float | None = None) -> None:
        super().__init__(detail)
        self.rule, self.detail, self.value, self.threshold = rule, detail, value, threshold

    def rejected(self, locator: str) -> Rejected:
        """Return this as what a reader reports."""
        return Rejected(locator, self.rule, self.detail, self.value, self.threshold)


def html_to_page(data: bytes, charset: str | None, config: HtmlConfig, limits: Limits) -> Page:
    """Return the text of a page, its paragraphs as lines. `charset` is what the server said.

    Raises NotText for a page that is too large, nests too deep, or is no text.
    """
    if len(data) > limits.max_document_bytes:
        raise _too_large(len(data), limits)
    html = decode_html(data, charset)
    if html.count("\0") > len(html) // 10:
        raise NotText("not_html", "the page is binary")
    ascii_based = data if b"\0" not in data[:64] else html.encode("utf-8", "replace")
    depth, attributes = html_shape(ascii_based, HOPELESS * limits.max_html_depth)
    if attributes > MAX_ATTRIBUTES:
        raise NotText("html_too_many_attributes", "a tag of the page", float(attributes), float(MAX_ATTRIBUTES))
    if depth >= HOPELESS * limits.max_html_depth:  # parsing this many open elements takes quadratic time, too
        raise NotText("html_too_deep", "elements are left open", float(depth), float(limits.max_html_depth))
    tree = HTMLTree.parse(_PERMALINK.sub("", html) if "headerlink" in html or "anchor" in html else html)
    if depth > limits.max_html_depth and _is_deeper(tree, limits.max_html_depth):
        raise NotText("html_too_deep", "elements nest deeper", None, float(limits.max_html_depth))
    text = extract_plain_text(
        tree,
        preserve_formatting=True,
        main_content=config.main_content,
        list_bullets=config.list_bullets,
        alt_texts=config.alt_texts,
        links=config.links,
        comments=config.comments,
    )
    root = _root(tree)
    title = " ".join((tree.title or "").split())
    return Page(clean_text(text), title or None, (root.getattr("lang") or None) if root else None)


def decode_html(data: bytes, charset: str | None) -> str:
    """Return a page as text. What has no character in its encoding becomes U+FFFD.

    A byte-order mark decides, then the bytes themselves where they are UTF-8, which text of no other encoding is by
    chance, then the server's charset, the page's own, and a guess. UTF-8 that is broken in a few places stays UTF-8.
    """
    for bom, encoding in _BOMS:
        if data.startswith(bom):
            return bytes_to_str(data, encoding, errors="replace", fallback_encodings=())
    announced = map_encoding_to_html5(charset.strip("\"' "), fallback_utf8=False) if charset else None
    encoding = announced or detect_encoding(data, from_html_meta=True) or "utf-8"
    if not (data.isascii() and b"\x1b" in data):  # the escape sequences of ISO-2022-JP are ASCII
        text = data.decode("utf-8", "replace")
        beyond_ascii = len(text) - len(text.encode("ascii", "ignore"))
        if text.count("\ufffd") * 5 <= beyond_ascii:
            return text
    try:
        return bytes_to_str(data, encoding, errors="strict", fallback_encodings=())
    except ValueError:
        guessed = detect_encoding(data) or "utf-8"
        return bytes_to_str(data, guessed, errors="replace", fallback_encodings=())


def page_record(
    locator: str, page: Page, source: SourceConfig, limits: Limits, url: str | None, date: str | None
) -> Item:
    """Return the record of a page."""
    return too_large(locator, page.text, limits) or Record(
        locator,
        page.text,
        url=url,
        date=date,
        license=source.license,
        language=source.language,
        metadata=metadata_json({"title": page.title, "html_language": page.language}),
    )


def plan(file: InputFile, source: SourceConfig, unit_bytes: int, limits: Limits) -> list[Part]:
    """Return the one part of an HTML file."""
    with open_input(file) as stream:
        compression = detect(bytes(Raw(stream, file.size).view(0, 16)))
    return parts_between(file, compression, [Place(0, 0)])


def read(part: Part, source: SourceConfig, limits: Limits) -> Iterator[Item]:
    """Yield the page of an HTML file, or why it has none."""
    run = next(runs(open_pieces(part, limits)))
    kept: list[bytes] = []
    for piece in run:
        if run.length <= limits.max_document_bytes:
            kept.append(piece.data)
    locator = part.locator(0)
    if run.damage or run.length > limits.max_document_bytes:
        yield part.rejected(run.damage) if run.damage else _too_large(run.length, limits).rejected(locator)
        return
    try:
        page = html_to_page(b"".join(kept), None, source.html, limits)
    except NotText as reason:
        yield reason.rejected(locator)
        return
    yield page_record(locator, page, source, limits, None, None)


def _too_large(size: int, limits: Limits) -> NotText:
    limit = float(limits.max_document_bytes)
    return NotText("too_large", "the page is longer than max_document_bytes", float(size), limit)


def _root(tree: HTMLTree) -> ElementNode | None:
    return tree.document.document_element if tree.document else None


def _is_deeper(tree: HTMLTree, depth: int) -> bool:
    def look(context: DOMContext) -> None:
        if context.depth > depth:
            raise _Deeper

    try:
        root = _root(tree)
        if root:
            traverse_dom(root, look, elements_only=True)
    except _Deeper:
        return True
    return False


class _Deeper(Exception):
    pass
