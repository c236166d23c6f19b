from __future__ import annotations

import hashlib
import json
import multiprocessing
import os
import time
from pathlib import Path

import fsspec
import pytest
from pydantic import ValidationError

from pipeline.sources import IngestConfig, InputFile, SourceConfig, digests, source_files
from pipeline.sources.digests import cache_path, sha256_of
from tests.pipeline.sources.helpers import read, texts


@pytest.fixture(autouse=True)
def own_cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HEADRACE_CACHE", str(tmp_path / "cache"))


def tree(root: Path, *names: str) -> Path:
    for name in names:
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        (root / name).write_text(f"text of {name}")
    return root


def names(*paths: Path | str, kind: str = "text") -> list[str]:
    return [file.name for file in source_files(SourceConfig(name="s", format=kind, path=tuple(map(str, paths))))]


def test_names_are_relative_to_where_the_pattern_begins(tmp_path: Path):
    root = tree(tmp_path / "d", "b.txt", "a/c.txt", "a/b/d.txt.gz", ".hidden.txt", "e.jsonl")
    assert names(root) == ["a/b/d.txt.gz", "a/c.txt", "b.txt"]
    assert names(root / "*.txt") == ["b.txt"]
    assert names(f"{root}/**/*.txt") == ["a/c.txt", "b.txt"]
    assert names(root / "a/*") == ["c.txt"]
    assert names(root / "b.txt") == ["b.txt"]
    assert names(root, root / "b.txt") == ["a/b/d.txt.gz", "a/c.txt", "b.txt"]


def test_a_name_with_brackets_is_a_name(tmp_path: Path):
    root = tree(tmp_path, "a[1].txt")
    assert names(root / "a[1].txt") == ["a[1].txt"]


def test_files_of_one_name_are_told_apart(tmp_path: Path):
    root = tree(tmp_path, "2023/x.txt", "2024/x.txt")
    assert names(root / "2023/x.txt", root / "2024/x.txt") == ["2023/x.txt", "2024/x.txt"]


def test_relative_paths(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    tree(tmp_path, "d/a.txt")
    monkeypatch.chdir(tmp_path)
    assert names("d/*.txt") == names("d") == names(tmp_path / "d") == ["a.txt"]


def test_urls(tmp_path: Path):
    memory = fsspec.filesystem("memory")
    for name in ("one/a.txt", "one/two/b.txt", "one/c.md.gz", "one/d.png"):
        memory.pipe(f"/bucket/{name}", name.encode())
    assert names("memory://bucket/one") == ["a.txt", "c.md.gz", "two/b.txt"]
    assert names("memory://bucket/one/*.txt") == ["a.txt"]
    assert names("memory://bucket/one/two/b.txt") == ["b.txt"]
    assert texts(read("memory://bucket/one/**/*.txt", format="text")) == ["one/a.txt", "one/two/b.txt"]
    assert names(f"file://{tree(tmp_path, 'x.txt')}/x.txt") == ["x.txt"]
    with pytest.raises(ValueError, match=r"source 's': there is no file memory://bucket/none\.txt"):
        names("memory://bucket/none.txt")


@pytest.mark.parametrize(
    ("path", "message"),
    [
        ("absent.txt", "source 's': there is no file .*absent.txt"),
        ("*.absent", r"source 's': .*\*\.absent matches no file"),
        ("folder", r"source 's': the folder .*folder holds no file that ends in .*\.txt"),
    ],
)
def test_a_path_without_files_is_an_error(tmp_path: Path, path: str, message: str):
    tree(tmp_path, "folder/a.png")
    with pytest.raises(ValueError, match=message):
        names(tmp_path / path)


def test_an_archive_is_an_error_that_names_the_file(tmp_path: Path):
    (tmp_path / "a.txt").write_bytes(b"PK\x03\x04" + bytes(30))
    with pytest.raises(ValueError, match=r"source 'test': cannot read .*a\.txt: it is a zip archive"):
        read(tmp_path, format="text")


@pytest.mark.parametrize(
    "wrong",
    [
        {"format": "word"},
        {"path": ()},
        {"paht": "x"},
        {"name": "a b"},
        {"encoding": "base64"},
        {"encoding": "klingon"},
        {"text_field": "body"},
        {"delimiter": "page"},
        {"format": "jsonl", "delimiter": "line"},
        {"format": "warc", "html": {"main": True}},
    ],
)
def test_a_wrong_source_is_refused(wrong: dict):
    with pytest.raises(ValidationError):
        SourceConfig(**{"name": "s", "format": "text", "path": "x", **wrong})


def test_sources_need_names_of_their_own():
    source = SourceConfig(name="s", format="text", path="x")
    with pytest.raises(ValidationError, match="two sources are named 's'"):
        IngestConfig(sources=(source, source))
    with pytest.raises(ValidationError):
        IngestConfig(sources=())


def settled(path: Path, content: bytes, age: int = 60) -> InputFile:
    path.write_bytes(content)
    status = path.stat()
    os.utime(path, ns=(status.st_mtime_ns, status.st_mtime_ns - age * 10**9))
    return InputFile(path.name, str(path), len(content), str(path.stat().st_mtime_ns))


def test_digests_are_remembered_by_path_size_and_time(tmp_path: Path):
    file = settled(tmp_path / "a", b"one")
    expected = hashlib.sha256(b"one").hexdigest()
    assert sha256_of([file]) == [expected]
    Path(file.path).unlink()
    assert sha256_of([file]) == [expected]
    other = settled(tmp_path / "a", b"two", age=30)
    assert sha256_of([other, file]) == [hashlib.sha256(b"two").hexdigest(), expected]


def test_a_file_written_just_now_is_read_each_time(tmp_path: Path):
    file = settled(tmp_path / "a", b"one", age=0)
    assert sha256_of([file]) == [hashlib.sha256(b"one").hexdigest()]
    Path(file.path).write_bytes(b"two")
    os.utime(file.path, ns=(int(file.stamp), int(file.stamp)))  # within one tick of the clock
    assert sha256_of([file]) == [hashlib.sha256(b"two").hexdigest()]


def test_a_broken_cache_is_made_anew(tmp_path: Path):
    file = settled(tmp_path / "a", b"one")
    cache_path().parent.mkdir()
    for content in ("{", "[]", '{"x": 1}'):
        cache_path().write_text(content)
        assert sha256_of([file]) == [hashlib.sha256(b"one").hexdigest()]
        assert list(json.loads(cache_path().read_text()).values()) == [hashlib.sha256(b"one").hexdigest()]


def test_an_unreadable_file_is_named(tmp_path: Path):
    with pytest.raises(ValueError, match=r"cannot read the input file .*gone"):
        sha256_of([InputFile("gone", str(tmp_path / "gone"), 3, "1")])


def test_digests_are_remembered_on_the_way_and_before_an_error(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    files = [settled(tmp_path / name, name.encode()) for name in ("a", "b", "last")]
    seen: list[set[str]] = []

    def read(file: InputFile) -> str:
        if file.name == "last":  # ends when it was seen that the others are remembered, or never were
            deadline = time.monotonic() + 0.5
            while time.monotonic() < deadline and len(seen[-1]) < 2:
                time.sleep(0.01)
                seen.append(set(json.loads(cache_path().read_text())) if cache_path().exists() else set())
            raise ValueError("it broke")
        return hashlib.sha256(file.name.encode()).hexdigest()

    monkeypatch.setattr(digests, "_read", read)
    for seconds, before in ((-1.0, 2), (60.0, 0)):
        monkeypatch.setattr(digests, "REMEMBER_SECONDS", seconds)
        cache_path().unlink(missing_ok=True)
        seen.append(set())
        with pytest.raises(ValueError, match="it broke"):
            sha256_of(files)
        assert len(seen[-1]) == before
        assert len(json.loads(cache_path().read_text())) == 2


def digest_some(folder: str, numbers: range) -> None:
    for number in numbers:
        sha256_of([settled(Path(folder, str(number)), str(number).encode())])


def test_two_processes_share_the_cache(tmp_path: Path):
    context = multiprocessing.get_context("spawn")
    parts = [range(0, 40), range(40, 80)]
    processes = [context.Process(target=digest_some, args=(str(tmp_path), part)) for part in parts]
    for process in processes:
        process.start()
    for process in processes:
        process.join()
        assert process.exitcode == 0
    known = set(json.loads(cache_path().read_text()).values())
    assert known == {hashlib.sha256(str(number).encode()).hexdigest() for number in range(80)}
