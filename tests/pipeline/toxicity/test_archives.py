import zipfile

import pytest

from pipeline.toxicity.archives import read_files, stamp
from tests.pipeline.toxicity.archives import folder, tar, zipped

FILES = {"en": "a", "deep/er/x": "b", "too/deep/for/this": "c"}


def everything(name: str) -> bool:
    return True


def test_a_folder_and_its_archives_hold_the_same(tmp_path):
    expected = {"deep/er/x": b"b", "en": b"a"}
    for path in (
        folder(tmp_path / "lists", FILES),
        tar(tmp_path / "lists.tar.gz", {f"./{name}": content for name, content in FILES.items()}),
        zipped(tmp_path / "lists.zip", FILES),
    ):
        assert read_files(path, everything, 100) == expected
        assert list(read_files(path, everything, 100)) == list(expected)
        assert read_files(path, lambda name: name == "en", 100) == {"en": b"a"}


@pytest.mark.parametrize("name", ["../en", "/etc/en", "a/../../en", "..\\en", "C:\\en"])
def test_a_path_that_leads_outside_is_refused(tmp_path, name):
    for path in (tar(tmp_path / "l.tar.gz", {name: "a", "de": "b"}), zipped(tmp_path / "l.zip", {name: "a"})):
        with pytest.raises(ValueError, match="leads outside"):
            read_files(path, everything, 100)


@pytest.mark.parametrize("target", ["/etc/passwd", "../en", "..", ".", "", "a/b", "a\\b"])
def test_a_link_that_leads_out_of_its_folder_is_refused(tmp_path, target):
    with pytest.raises(ValueError, match="leads out of its folder"):
        read_files(tar(tmp_path / "l.tar.gz", {"en": "a"}, {"fr": target}), everything, 100)


def test_a_link_to_a_folder_beside_it_stands_for_its_files(tmp_path):
    path = tar(tmp_path / "l.tar.gz", {"b/adult/domains": "x"}, {"b/porn": "adult", "b/loop": "loop"})
    assert read_files(path, everything, 1) == {"b/adult/domains": b"x", "b/porn/domains": b"x"}


def test_hard_links_devices_and_links_in_zips_are_refused(tmp_path):
    for kind in (b"1", b"3", b"6"):
        with pytest.raises(ValueError, match="neither a file nor a folder"):
            read_files(tar(tmp_path / "l.tar.gz", {"en": "a"}, {"fr": "en"}, kind), everything, 100)
    path = tmp_path / "l.zip"
    with zipfile.ZipFile(path, "w") as archive:
        info = zipfile.ZipInfo("fr")
        info.external_attr = 0o120777 << 16
        archive.writestr(info, "en")
    with pytest.raises(ValueError, match="link"):
        read_files(path, everything, 100)


def test_missing_damaged_and_too_large(tmp_path):
    with pytest.raises(ValueError, match="nothing at"):
        read_files(tmp_path / "none", everything, 100)
    for name, content in (("text", b"no archive"), ("empty.tar.gz", b"")):
        with pytest.raises(ValueError, match="neither a folder nor"):
            read_files(folder(tmp_path, {name: content}) / name, everything, 100)
    whole = tar(tmp_path / "whole.tar.gz", {"en": bytes(range(256)) * 500}).read_bytes()
    for cut in (len(whole) // 2, len(whole) - 9):
        with pytest.raises(ValueError, match="damaged|neither"):
            read_files(folder(tmp_path, {"cut.tar.gz": whole[:cut]}) / "cut.tar.gz", everything, 1 << 20)
    for path in (folder(tmp_path / "f", {"a": "x" * 60, "b": "x" * 60}), zipped(tmp_path / "z.zip", {"a": "x" * 120})):
        assert read_files(path, everything, 120)
        with pytest.raises(ValueError, match="larger than"):
            read_files(path, everything, 119)


def test_the_stamp_changes_with_the_files(tmp_path):
    path = folder(tmp_path / "l", {"en": "a"})
    before = stamp(path)
    assert stamp(path) == before
    folder(path, {"en": "ab"})
    assert stamp(path) != before
    assert stamp(tmp_path / "none") == ()
