import pickle
from pathlib import Path

import numpy as np
import pyarrow as pa
import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydantic import ValidationError

from pipeline.annotators import Batch
from pipeline.toxicity import url_tables
from pipeline.toxicity.url_categories import UrlCategories, UrlCategoriesConfig
from tests.pipeline.toxicity.archives import folder, tar, zipped

UT1 = {
    "adult/domains": "bad.com\nboth.org\n\nÜnicode.net\r\n# comment\nbad.com\n",
    "adult/urls": "mixed.com/sex\nmixed.com/adult/\n",
    "adult/expressions": "(^|.)never.read",
    "gambling/domains": b"both.org\n\xff\xfe.com\nlast.net",
    "gambling/usage": "black",
    "empty/domains": "",
    "README": "x",
}


@pytest.fixture(autouse=True)
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("HEADRACE_CACHE", str(tmp_path / "cache"))
    url_tables.load_table.cache_clear()
    return tmp_path / "cache" / "url_categories"


def annotator(path: Path, *categories: str) -> UrlCategories:
    return UrlCategories(UrlCategoriesConfig(path=str(path), categories=categories or ("gambling", "adult", "adult")))


def measure(categories: UrlCategories, urls: list[str | None]) -> list[str | None]:
    addresses = pa.array([None, *urls], pa.string())[1:]
    batch = Batch(pa.array([""] * len(urls), pa.large_string()), addresses, np.array(["en"] * len(urls), np.object_))
    found = categories.measure(batch)
    (signal,) = categories.signals()
    assert list(found) == [signal.name]
    assert found[signal.name].type == signal.type
    return found[signal.name].to_pylist()


URLS = ["http://bad.com/x", "www.both.org", None, "https://ok.org", "xn--nicode-2ya.net", "mixed.com", "MIXED.com/Sexy",
        "mixed.com/adult", "last.net:80", "", "never.read"]  # fmt: skip
EXPECTED = ["adult", "adult,gambling", None, "", "adult", "", "adult", "", "gambling", "", ""]


def test_folder_and_archives_give_the_same(tmp_path, cache):
    nested = {f"blacklists/{name}": content for name, content in UT1.items()}
    paths = [
        folder(tmp_path / "ut1", UT1),
        folder(tmp_path / "above", nested),
        tar(tmp_path / "ut1.tar.gz", nested),
        zipped(tmp_path / "ut1.zip", UT1),
    ]
    for path in paths:
        assert measure(annotator(path), URLS) == EXPECTED
    identities = [annotator(path).identity() for path in paths]
    assert all(identity == identities[0] for identity in identities)
    assert sorted(identities[0]["sha256"]) == ["adult/domains", "adult/urls", "gambling/domains"]
    assert len(list(cache.iterdir())) == 1  # one table for all four


def test_a_link_to_a_category_is_that_category(tmp_path):
    path = tar(tmp_path / "ut1.tar.gz", {"b/adult/domains": "bad.com"}, {"b/porn": "adult"})
    assert measure(annotator(path, "porn", "adult"), ["bad.com"]) == ["adult,porn"]


def test_an_empty_category_matches_nothing(tmp_path):
    assert measure(annotator(folder(tmp_path, UT1), "empty"), URLS) == [None if url is None else "" for url in URLS]


def test_the_table_is_shared_rebuilt_when_damaged_and_kept_in_memory_where_it_cannot_be_written(tmp_path, cache):
    categories = annotator(folder(tmp_path / "ut1", UT1))
    assert measure(categories, URLS) == EXPECTED
    (file,) = cache.iterdir()
    whole = file.read_bytes()
    for damaged in (b"", whole[:-9], b"no array", whole[:20]):
        file.write_bytes(damaged)
        url_tables.load_table.cache_clear()
        assert measure(pickle.loads(pickle.dumps(categories)), URLS) == EXPECTED
        assert file.read_bytes() == whole
    folder(tmp_path / "ut1", {"adult/domains": "gone"})  # a process that has the table needs the lists no more
    url_tables.load_table.cache_clear()
    assert measure(pickle.loads(pickle.dumps(categories)), URLS) == EXPECTED
    file.unlink()
    url_tables.load_table.cache_clear()
    with pytest.raises(ValueError, match="have changed while they were in use"):
        measure(categories, URLS)
    cache.rmdir()
    cache.write_bytes(b"a file where the folder should be")
    assert measure(annotator(folder(tmp_path / "ut1", UT1)), URLS) == EXPECTED


def test_the_identity_follows_lists_and_categories_not_the_path(tmp_path):
    path = folder(tmp_path / "ut1", UT1)
    before = annotator(path).identity()
    assert annotator(path, "adult").identity() != before
    folder(path, {"adult/domains": "another.com"})
    assert annotator(path).identity() != before
    assert measure(annotator(path), ["another.com", "bad.com"]) == ["adult", ""]


def test_bad_lists_and_settings_are_refused(tmp_path):
    with pytest.raises(ValueError, match="nothing at"):
        annotator(tmp_path / "none").identity()
    path = folder(tmp_path / "ut1", {**UT1, "copy/adult/domains": "x"})
    with pytest.raises(ValueError, match="two files adult/domains"):
        annotator(path).identity()
    with pytest.raises(ValueError, match="no category 'porn'"):
        measure(annotator(path, "gambling", "porn"), ["x.com"])
    for categories in ([], ["../adult"], ["a,b"], [".."], [""], [f"c{n}" for n in range(64)]):
        with pytest.raises(ValidationError):
            UrlCategoriesConfig(path="x", categories=categories)


@given(
    urls=st.lists(st.one_of(st.none(), st.text(max_size=12), st.sampled_from(URLS)), max_size=10),
    cut=st.integers(0, 10),
)
def test_values_depend_on_no_other_document(tmp_path_factory, urls, cut):
    categories = annotator(folder(tmp_path_factory.mktemp("ut1"), UT1))
    together = measure(categories, urls)
    assert measure(categories, urls[:cut]) + measure(categories, urls[cut:]) == together
    assert measure(categories, urls[::-1]) == together[::-1]
