from __future__ import annotations

import gzip
import io
import json
import lzma
import tarfile
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from pipeline.decontamination import readers
from pipeline.decontamination.benchmarks import BenchmarkConfig, Item, items
from pipeline.decontamination.config import DecontaminateConfig
from pipeline.decontamination.index import build_index

ROWS = [
    {"id": 7, "q": "one, two", "a": ["x", 'the "y"'], "deep": {"er": [{"t": "水"}, {"t": "轮"}]}, "none": None},
    {"id": 8, "q": "three", "a": ["z"], "deep": {"er": []}, "none": None},
]
LINES = "\n".join(json.dumps(row, ensure_ascii=False) for row in ROWS) + "\n\n"


def write(path: Path, data: str | bytes) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(data.encode() if isinstance(data, str) else data)
    return path


def write_tar(path: Path, members: dict[str, str | bytes], mode: str = "w:gz") -> Path:
    with tarfile.open(path, mode) as tar:  # type: ignore[call-overload]
        tar.addfile(tarfile.TarInfo("folder.csv/"))  # a folder whose name would match
        for name, data in members.items():
            raw = data.encode() if isinstance(data, str) else data
            info = tarfile.TarInfo(name)
            info.size = len(raw)
            tar.addfile(info, io.BytesIO(raw))
    return path


def read(path: Path | str, **values: Any) -> list[tuple[str, str, str]]:
    values = values if "templates" in values else {"fields": ["q"], **values}
    return [tuple(item) for item in items(BenchmarkConfig(name="b", path=str(path), **values))]  # type: ignore[misc]


def test_fields_are_nested_flattened_and_joined(tmp_path: Path):
    path = write(tmp_path / "a.jsonl", LINES)
    assert read(path, fields=["q", "a", "deep.er.t", "id", "none"]) == [
        ("b", "a.jsonl:0", 'one, two\nx\nthe "y"\n水\n轮\n7'),
        ("b", "a.jsonl:1", "three\nz\n8"),
    ]
    assert read(path, fields=["deep.er.t"], id_field="id") == [("b", "7", "水\n轮")]


def test_templates_are_alternatives_of_one_item(tmp_path: Path):
    path = write(tmp_path / "a.jsonl", LINES)
    assert read(path, templates=["{q}: {a}!", "{q}{none}"], split_by="id") == [
        ("b/7", "a.jsonl:0", "one, two: x!"),
        ("b/7", "a.jsonl:0", 'one, two: the "y"!'),
        ("b/7", "a.jsonl:0", "one, two"),
        ("b/8", "a.jsonl:1", "three: z!"),
        ("b/8", "a.jsonl:1", "three"),
    ]
    assert read(path, templates=["{deep.er.t}"])[1] == ("b", "a.jsonl:0", "轮")


@pytest.mark.parametrize("pack", ["", ".gz", ".xz"])
def test_formats_give_the_same_items(tmp_path: Path, pack: str):
    packer = {"": bytes, ".gz": gzip.compress, ".xz": lzma.compress}[pack]
    expected = ["one, two", 'say "three"']
    files = {
        "a.jsonl": "\ufeff" + "".join(json.dumps({"q": text}) + "\r\n" for text in expected),
        "a.json": json.dumps({"data": {"rows": [{"q": text} for text in expected]}}),
        "a.csv": '\ufeffn,q\r\n1,"one, two"\r\n2,"say ""three"""\r\n',
        "a.tsv": 'n\tq\n1\tone, two\n2\tsay "three"\n',
        "a.txt": '0 one, two\n\n1 say "three"\n',
    }
    for name, data in files.items():
        extra: dict[str, Any] = {"records": "data.rows"} if name == "a.json" else {}
        extra = {"columns": ["n", "q"], "delimiter": " "} if name == "a.txt" else extra
        path = write(tmp_path / (name + pack), packer(data.encode()))
        assert [text for *_, text in read(path, **extra)] == expected, name
    sink = io.BytesIO()
    pq.write_table(pa.table({"q": expected}), sink)
    assert [text for *_, text in read(write(tmp_path / ("a.parquet" + pack), packer(sink.getvalue())))] == expected


def test_files_without_headers_and_ragged_ones(tmp_path: Path):
    path = write(tmp_path / "a.csv", 'x\t"open quote\tmore\tand more\ny\tsecond\n')
    assert [text for *_, text in read(path, format="tsv", columns=["n", "q"])] == ['"open quote', "second"]
    lines = write(tmp_path / "plain.txt", "one\ntwo\n")
    assert [text for *_, text in read(lines, fields=["line"])] == ["one", "two"]


def test_globs_and_archives_are_in_the_order_of_names(tmp_path: Path):
    for name in ("b/2", "a/1", "a/10"):
        write(tmp_path / f"{name}.jsonl", json.dumps({"q": name}))
    assert [name for _, name, _ in read(tmp_path / "**/*.jsonl")] == ["a/1.jsonl:0", "a/10.jsonl:0", "b/2.jsonl:0"]
    assert {name for name, *_ in read(tmp_path / "a/*.jsonl", split_by="$file")} == {"b/1", "b/10"}

    members: dict[str, str | bytes] = {
        "test/z.csv": "q\nlast\n", "dev/a.csv.gz": gzip.compress(b"q\nfirst\n"), "other.txt": "no\n",
    }  # fmt: skip
    archive = write_tar(tmp_path / "set.tar.gz", members)
    assert read(f"{archive}::*.csv*", split_by="$file") == [
        ("b/a", "dev/a.csv.gz:0", "first"), ("b/z", "test/z.csv:0", "last"),
    ]  # fmt: skip
    write_tar(tmp_path / "tes.tar", {"test/z.csv": "q\nagain\n"}, "w")
    both = read(f"{tmp_path}/*.tar*::test/*.csv")
    assert both == [("b", "set.tar.gz/test/z.csv:0", "last"), ("b", "tes.tar/test/z.csv:0", "again")]


def test_a_file_whose_name_has_wildcards_is_itself(tmp_path: Path):
    write(tmp_path / "q[1].jsonl", '{"q": "this"}')
    write(tmp_path / "q1.jsonl", '{"q": "other"}')
    assert read(tmp_path / "q[1].jsonl") == [("b", "q[1].jsonl:0", "this")]


def test_lone_surrogates_become_valid_text(tmp_path: Path):
    assert read(write(tmp_path / "a.jsonl", '{"q": "x \\ud800 y"}'))[0][2] == "x \ufffd y"


@pytest.mark.parametrize(
    ("name", "data", "values", "message"),
    [
        ("a.jsonl", '{"q": 1}\n{"q', {}, r"line 2"),
        ("a.jsonl", "[1]\n", {}, "line 1: expected an object, got list"),
        ("a.jsonl", '{"other": 1, "more": 2}', {}, "row 0: there is no field 'q'; it has 'other', 'more'"),
        ("a.jsonl", '{"q": {"x": 1}}', {}, "row 0: field 'q' is an object with 'x'"),
        ("a.jsonl", '{"q": {"x": 1}}', {"fields": ["q.y"]}, "no field 'q.y'"),
        ("a.jsonl", '{"q": "  "}\n{"q": null}', {}, "no text in 1 files"),
        ("a.jsonl", "", {}, "no text in 1 files"),
        ("a.jsonl", b"\xff\xfe{", {}, "cannot be read as jsonl.*utf-8"),
        ("a.jsonl.gz", b"no gzip", {}, "cannot be unpacked"),
        ("a.jsonl.gz", gzip.compress(b'{"q": "cut off"}' * 50)[:-20], {}, "cannot be unpacked"),
        ("a.json", '{"data": 1}', {}, "`records` says where"),
        ("a.json", '{"data": 1}', {"records": "rows"}, "no `records` at 'rows'"),
        ("a.csv", "n,q\n1\n", {}, "row 0: there is no field 'q'; it has 'n'"),
        ("a.csv", 'n,q\n1,"open\n', {}, "cannot be read as csv"),
        ("a.parquet", b"PAR1 not really", {}, "cannot be read as parquet"),
        ("a.dat", "x", {}, "the format does not follow from the name"),
        ("a.tar.gz", b"broken", {}, "not a whole tar archive"),
        ("a.jsonl", '{"q": 1}', {"split_by": "subject"}, "no field 'subject'"),
    ],
)
def test_broken_benchmarks_say_what_is_wrong(
    tmp_path: Path, name: str, data: str | bytes, values: dict[str, Any], message: str
):
    path = write(tmp_path / name, data)
    with pytest.raises(ValueError, match=f"benchmark 'b'.*{message}") as caught:
        read(path, **values)
    assert name in str(caught.value)


def test_paths_that_mean_nothing(tmp_path: Path):
    with pytest.raises(ValueError, match=r"benchmark 'b': no file at .*gone\.jsonl"):
        read(tmp_path / "gone.jsonl")
    with pytest.raises(ValueError, match="no file at"):
        read(tmp_path / "*.jsonl")
    archive = write_tar(tmp_path / "a.tar.gz", {"x.csv": "q\n1\n"})
    with pytest.raises(ValueError, match="no member like 'y/\\*'; it has x.csv"):
        read(f"{archive}::y/*")
    with pytest.raises(ValueError, match="is no archive"):
        read(f"{write(tmp_path / 'a.jsonl', LINES)}::x")


def test_files_larger_than_the_limit_are_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    path = write(tmp_path / "a.jsonl.gz", gzip.compress(LINES.encode() * 100))
    monkeypatch.setattr(readers, "MAX_FILE_BYTES", 1000)
    with pytest.raises(ValueError, match="more than 1000 bytes"):
        read(path)


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({}, "either fields or templates"),
        ({"fields": ["q"], "templates": ["{q}"]}, "either fields or templates"),
        ({"templates": ["no field"]}, "names no field"),
        ({"fields": ["q"], "format": "xml"}, "format"),
        ({"fields": ["q"], "colums": ["x"]}, "colums"),
    ],
)
def test_settings_that_contradict(values: dict[str, Any], message: str):
    with pytest.raises(ValueError, match=message):
        BenchmarkConfig(name="b", path="p", **values)


def test_names_must_differ(tmp_path: Path):
    path = str(write(tmp_path / "x.jsonl", LINES))
    one = BenchmarkConfig(name="b", path=path, fields=["q"])
    with pytest.raises(ValueError, match="b stand there more than once"):
        DecontaminateConfig(benchmarks=[one, one])
    with pytest.raises(ValueError, match="benchmarks"):
        DecontaminateConfig(benchmarks=[])
    split = BenchmarkConfig(name="b", path=path, fields=["q"], split_by="$file")
    whole = BenchmarkConfig(name="b/x", path=path, fields=["q"])
    with pytest.raises(ValueError, match="'b' and 'b/x' both make 'b/x'"):
        build_index(DecontaminateConfig(benchmarks=[split, whole]))


def test_identity_has_digests_and_no_folder(tmp_path: Path):
    def identity(folder: str, text: str) -> dict[str, Any]:
        path = write(tmp_path / folder / "a.jsonl", json.dumps({"q": text}))
        return BenchmarkConfig(name="b", path=str(path), fields=["q"]).identity()

    assert identity("one", "text") == identity("two", "text")
    assert identity("one", "text") != identity("three", "other")
    assert str(tmp_path) not in json.dumps(identity("one", "text"))


def test_a_file_that_changes_while_it_is_read_is_refused(tmp_path: Path):
    path = write(tmp_path / "a.jsonl", LINES)
    config = BenchmarkConfig(name="b", path=str(path), fields=["q"])
    sources = config.sources()
    write(path, LINES * 2)
    with pytest.raises(ValueError, match="changed while the run used it"):
        list(readers.read_sources(sources, config.layout()))


def test_items_are_named_tuples_for_other_makers():
    assert Item("b", "1", "text") == ("b", "1", "text")
