"""Wikitext to plain text, in one pass over its brackets and tags with a stack: linear in the text, whatever it nests.

Templates, tables, references, files and categories go; links become their text, headings lines of their own. A few
templates that only wrap text keep it. Compared with mwparserfromhell in tests/pipeline/sources/test_wikitext.py.
"""

from __future__ import annotations

import html
import re
from collections.abc import Collection

# Tags whose content is no prose, and tags whose content is taken as it stands.
_GONE = "ref|gallery|timeline|score|imagemap|graph|hiero|templatedata|inputbox|categorytree|section|mapframe|maplink"
_RAW = "nowiki|pre|syntaxhighlight|source|code|math|chem|ce"
_FORMULAS = ("math", "chem", "ce")
# Each alternative begins with a literal character, so that the regex engine skips to the next one of them.
_TOKEN = re.compile(
    rf"<(?:!--|(?i:(?P<gone>{_GONE})|(?P<raw>{_RAW}))\b[^<>]{{0,1000}}>)|"
    r"\{(?:\{|\|)|\[\[|\}\}|\]\]|\|\}"
)
_OPENS = frozenset(("{{", "{{{", "[[", "{|"))
_CLOSES = {"}}": "{{", "]]": "[[", "|}": "{|"}


def _words(text: str) -> frozenset[str]:
    return frozenset(text.split())


# The English names that work in every wiki, and older or second names that a dump's <siteinfo> does not list.
FILES = _words(
    """file image media datei bild fichier archivo imagen immagine ficheiro imagem bestand afbeelding plik grafika
    soubor fil файл изображение зображення картинка 文件 檔案 图像 圖像 ファイル 画像 파일 그림 ملف صورة קובץ תמונה"""
)
CATEGORIES = _words(
    """category kategorie catégorie categoría categoria categorie kategoria kategori категория категорія
    分类 分類 カテゴリ 분류 تصنيف קטגוריה"""
)
_INTERLANGUAGE = re.compile(r"(?:[a-z]{2,3}|simple)(?:-[a-z]{2,8}){0,3}", re.ASCII)

_EXTERNAL = re.compile(
    r"\[(?:https?:|ftp:|mailto:|news:|//)[^\s\[\]]{0,2000}[ \t]*([^\[\]\n]{0,2000})\]", re.IGNORECASE
)
_BREAK = re.compile(r"<(?:br|hr|/p|p|/div|/li|/blockquote)\b[^<>]{0,200}>", re.IGNORECASE)
_TAG = re.compile(r"</?[A-Za-z][^<>]{0,1000}>")
_QUOTES = re.compile(r"'{2,5}")
_SWITCH = re.compile(r"__[A-Z]{3,24}__")
_VARIANT = re.compile(r"-\{([^{}]{0,1000})\}-")
_HOLLOW = re.compile(r"[ \t]?[(（][\s,;:、，；]{0,20}[)）]")
_LEADING = re.compile(r"([(（])[ \t,;:、，；]{1,20}")
_SPACES = re.compile(r"[ \t\xa0]{2,}")
_LIST = re.compile(r"[*#:;]+[ \t]*")

_WRAPPERS = _words("nowrap nobr small big smaller larger center centre quote blockquote cquote quotation em strong")
_WRAPPERS |= _words("ill le 仮リンク")  # links to articles that exist in another language only
_RANGES = _words("- – to and or by x × +/- ± to(-)")


def plain_text(wikitext: str, files: Collection[str] = FILES, categories: Collection[str] = CATEGORIES) -> str:
    """Return the prose of a wikitext. `files` and `categories` are namespace names in lower case."""
    text = _without_brackets(wikitext, files, categories)
    text = _EXTERNAL.sub(r"\1", text)
    text = _TAG.sub("", _BREAK.sub("\n", text))
    text = _SWITCH.sub("", _QUOTES.sub("", text))
    if "-{" in text:
        text = _VARIANT.sub(_variant, text)
    text = html.unescape(text)
    text = _LEADING.sub(r"\1", _HOLLOW.sub("", text))
    text = _SPACES.sub(" ", text).replace(" ,", ",")
    return "\n".join(_sections(text.split("\n")))


def _without_brackets(text: str, files: Collection[str], categories: Collection[str]) -> str:
    out: list[str] = []
    stack: list[tuple[str, int]] = []  # (opening bracket, where its content begins in `out`)
    open_count = dict.fromkeys(_OPENS, 0)
    never_closed: set[str] = set()
    position = 0
    while token := _TOKEN.search(text, position):
        start, after = token.span()
        if start > position:
            out.append(text[position:start])
        position = after
        bracket = token.group()
        if bracket == "{{" and text.startswith("{", after) and not text.startswith("{{", after):
            bracket, position = "{{{", after + 1  # a template's parameter
        if bracket in _OPENS:
            out.append(bracket)
            if bracket != "{|" or _begins_line(text, start):
                stack.append((bracket, len(out)))
                open_count[bracket] += 1
        elif bracket in _CLOSES:
            opening = _CLOSES[bracket]
            if opening == "{{" and stack and stack[-1][0] == "{{{" and text.startswith("}", after):
                opening, position = "{{{", after + 1
            if bracket == "|}" and (not _begins_line(text, start) or text.startswith("}", after)):
                out.append("|")  # the end of a template whose last argument is empty: {{a|}}
                position = start + 1
            elif not open_count[opening]:
                out.append(bracket)
            else:
                _close(out, stack, open_count, opening, files, categories)
        elif bracket == "<!--":
            position = text.find("-->", after) + 3
            if position < 3:
                return "".join(out)
        elif not bracket.endswith("/>"):
            name = (token["gone"] or token["raw"]).lower()
            end = -1 if name in never_closed else _closing_tag(text, name, after)
            if end < 0:
                never_closed.add(name)
                continue
            if token["raw"]:
                out.append(_verbatim(name, text[after:end]))
            position = text.find(">", end) + 1 or len(text)
    out.append(text[position:])
    return "".join(out)


def _begins_line(text: str, position: int) -> bool:
    before = text[max(0, position - 20) : position].rstrip(" \t:")
    return not before or before.endswith("\n")


def _close(
    out: list[str],
    stack: list[tuple[str, int]],
    open_count: dict[str, int],
    opening: str,
    files: Collection[str],
    categories: Collection[str],
) -> None:
    while True:  # what was opened inside and never closed is left as it stands
        opened, begin = stack.pop()
        open_count[opened] -= 1
        if opened == opening:
            break
    content = "".join(out[begin:])
    del out[begin - 1 :]
    if opening == "[[":
        out.append(_link(content, files, categories))
    elif opening == "{{":
        out.append(_template(content))


def _verbatim(name: str, content: str) -> str:
    """Return what stands between tags that suspend the markup; of formulas only those that read as text."""
    return "" if name in _FORMULAS and set(content) & {"\\", "{"} else content


def _closing_tag(text: str, name: str, position: int) -> int:
    end = text.find(f"</{name}", position)
    if end >= 0:
        return end
    found = re.compile(f"</{name}", re.IGNORECASE).search(text, position)
    return found.start() if found else -1


def _link(content: str, files: Collection[str], categories: Collection[str]) -> str:
    target, bar, label = content.partition("|")
    prefix, colon, _ = target.partition(":")
    if colon and prefix.strip():
        namespace = prefix.strip().lower()
        if namespace in files or namespace in categories:
            return ""
        if not bar and _INTERLANGUAGE.fullmatch(prefix.strip()):
            return ""
    if bar:
        return label
    return target.lstrip(": ").partition("#")[0] or target


def _template(content: str) -> str:
    name, _, rest = content.partition("|")
    name = name.strip().lower().replace("_", " ")
    if name in _WRAPPERS or name.startswith("link-"):
        return _argument(rest, 0)
    if name in ("lang", "langx"):
        return _argument(rest, 1)
    if name in ("transl", "transliteration"):  # the standard of the transliteration may stand before the text
        return _argument(rest, 2) or _argument(rest, 1)
    if name.startswith("lang-"):
        return _argument(rest, 0)
    if name in ("convert", "cvt"):
        return _measure(rest)
    return ""


def _measure(arguments: str) -> str:
    """Return the quantity of {{convert|5|km}}, or the range of {{convert|5|to|6|km}}, as it is written."""
    first, second = _argument(arguments, 0), _argument(arguments, 1)
    if second in _RANGES:
        return f"{first} {second} {_argument(arguments, 2)} {_argument(arguments, 3)}"
    return f"{first} {second}"


def _argument(arguments: str, index: int) -> str:
    positional = []
    for argument in arguments.split("|"):
        name, equals, value = argument.partition("=")
        if not equals:
            positional.append(argument.strip())
        elif name.strip() == str(index + 1) or (not index and name.strip() in ("text", "quote")):
            return value.strip()
    return positional[index] if len(positional) > index else ""


def _variant(match: re.Match[str]) -> str:
    """Return the first text of a Chinese language-variant rule, -{zh-hans:a;zh-hant:b}-; hidden rules have none."""
    flags, bar, rule = match.group(1).partition("|")
    if not bar:
        flags, rule = "", flags
    if set(flags.upper()) & set("HT-"):
        return ""
    first = rule.partition(";")[0]
    variant, colon, value = first.partition(":")
    return value.strip() if colon and variant.strip().lower().startswith("zh") else first.strip()


def _sections(lines: list[str]) -> list[str]:
    """Clean each line; drop headings of sections that have become empty, and blank lines in a row."""
    kept: list[str] = []
    pending: list[tuple[int, str]] = []  # headings without text so far, each of a deeper level than the one before
    for line in lines:
        line = line.strip()
        if line.startswith("=") and line.endswith("=") and (title := line.strip("=").strip()):
            level = len(line) - len(line.lstrip("="))
            while pending and pending[-1][0] >= level:
                pending.pop()
            pending.append((level, title))
            continue
        marker = _LIST.match(line)
        if marker:
            content = line[marker.end() :]
            line = f"• {content}" if content and marker.group()[0] in "*#" else content
        if not line:
            if kept and kept[-1] and not pending:
                kept.append("")
            continue
        for _, title in pending:
            if kept and kept[-1]:
                kept.append("")
            kept.append(title)
        pending = []
        kept.append(line)
    return kept
