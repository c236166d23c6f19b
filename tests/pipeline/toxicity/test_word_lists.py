import pickle
import re
import unicodedata
from pathlib import Path

import numpy as np
import pyarrow as pa
import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydantic import ValidationError

from pipeline.annotators import Batch
from pipeline.toxicity.lists import LONGEST_PHRASE, read_lists
from pipeline.toxicity.word_lists import WordLists, WordListsConfig
from tests.pipeline.toxicity.archives import folder, tar, zipped

REAL = Path(__file__).parents[3] / "../shared/data/filter/ldnoobw.tar.gz"
LISTS = {
    "en": "darn\nheck no\n🖕\nHECK NO\n\ndarn\r\n",
    "zh": "坏蛋\n奶\n13.\n王八蛋\n懒8\n",
    "th": "น้ําแตก\nกู\n",
    "fr": "Câlice\n",
    "fr-CA-u-sd-caqc": "tabarnak\n",
    "eo": "",
    "README.md": "darn darn",
    "LICENSE": "x",
}


def lists(tmp_path: Path, **settings: object) -> WordLists:
    return WordLists(WordListsConfig(path=str(folder(tmp_path / "lists", LISTS)), **settings))


def batch(texts: list[str], languages: list[str | None], urls: list[str | None] | None = None) -> Batch:
    addresses = pa.array(urls or [None] * len(texts), pa.string())
    return Batch(pa.array(texts, pa.large_string()), addresses, np.array(languages, np.object_))


def measure(annotator: WordLists, *parts: list) -> dict[str, list]:
    found = annotator.measure(batch(*parts))
    for signal in annotator.signals():
        assert found[signal.name].type == signal.type
    assert list(found) == [signal.name for signal in annotator.signals()]
    return {name: column.to_pylist() for name, column in found.items()}


def test_documents_are_matched_against_the_list_of_their_language(tmp_path):
    found = measure(
        lists(tmp_path),
        ["Darn! Heck, no darns.", "darn", "他是王八蛋", "darn 坏蛋", "", "darn", "darn"],
        ["en", "eng_Latn", "cmn_Hani", "zh", "en", "xx", None],
    )
    assert found["bad_words"] == [2, 1, 1, 1, 0, None, None]
    assert found["bad_word_fraction"] == [3 / 4, 1, 3 / 5, 2 / 3, 0, None, None]
    assert found["url_bad_words"] == [None] * 7


def test_an_empty_list_is_a_list(tmp_path):
    assert measure(lists(tmp_path), ["darn"], ["eo"])["bad_words"] == [0]


def test_emoji_count_as_matches_and_words(tmp_path):
    found = measure(lists(tmp_path), ["🖕🖕", "darn 🖕🏽 you"], ["en", "en"])
    assert found["bad_words"] == [2, 2]
    assert found["bad_word_fraction"] == [1, 2 / 3]


def test_urls_are_matched_against_the_same_lists(tmp_path):
    urls = ["https://www.darn-it.com/heck_no?darn=1", "https://darned.com", None, "https://darn.com", ""]
    found = measure(lists(tmp_path), [""] * 5, ["en", "en", "en", "xx", "en"], urls)
    assert found["url_bad_words"] == [3, 0, None, None, 0]


def test_always_adds_a_list(tmp_path):
    found = measure(lists(tmp_path, always=["en"]), ["darn 坏蛋", "darn", "darn"], ["zh", "xx", "en"])
    assert found["bad_words"] == [2, 1, 1]


def test_lists_of_a_language_can_be_set(tmp_path):
    annotator = lists(tmp_path, lists={"fr": ["fr", "fr-CA-u-sd-caqc"], "en": []})
    assert measure(annotator, ["câlice de TABARNAK", "darn"], ["fr", "en"])["bad_words"] == [2, None]
    assert measure(lists(tmp_path), ["câlice de tabarnak"], ["fr"])["bad_words"] == [1]


def test_spellings_that_look_alike_are_found(tmp_path):
    texts = [unicodedata.normalize(form, "câlice") for form in ("NFC", "NFD")]
    assert measure(lists(tmp_path), texts, ["fr", "fr"])["bad_words"] == [1, 1]
    assert measure(lists(tmp_path), ["น้ำแตก", "น้ําแตก"], ["th", "th"])["bad_words"] == [1, 1]


def test_bare_entries_are_left_out_and_said_to_be(tmp_path):
    text = ["喝牛奶 13 懒8"]
    annotator = lists(tmp_path)
    assert measure(annotator, text, ["zh"])["bad_words"] == [1]
    assert annotator.left_out()["zh"] == ("奶", "13.")
    assert annotator.left_out()["en"] == ()
    assert annotator.identity()["left_out"] == {"th": 1, "zh": 2}
    whole = lists(tmp_path, bare_entries=True)
    assert measure(whole, text, ["zh"])["bad_words"] == [3]
    assert "left_out" in whole.identity()
    assert whole.identity()["left_out"] == {}


def test_allowed_entries_are_left_out_however_they_are_written(tmp_path):
    annotator = lists(tmp_path, allowed={"en": ["Heck  No", "🖕"]})
    assert measure(annotator, ["heck no darn 🖕"], ["en"])["bad_words"] == [1]
    assert annotator.left_out()["en"] == ("heck no", "🖕", "HECK NO")


def test_ascii_punctuation_is_no_entry(tmp_path):
    path = folder(tmp_path, {"en": "---\n#\nbad\n"})
    annotator = WordLists(WordListsConfig(path=str(path)))
    assert annotator.left_out() == {"en": ("---", "#")}
    assert measure(annotator, ["# --- bad"], ["en"])["bad_words"] == [1]


def test_folder_and_archives_are_the_same_lists(tmp_path):
    annotators = [
        lists(tmp_path),
        WordLists(WordListsConfig(path=str(tar(tmp_path / "a.tar.gz", {f"top/{n}": t for n, t in LISTS.items()})))),
        WordLists(WordListsConfig(path=str(zipped(tmp_path / "a.zip", {f"{n}.txt": t for n, t in LISTS.items()})))),
    ]
    identities = [annotator.identity() for annotator in annotators]
    assert identities[0] == identities[1] == identities[2]
    assert set(identities[0]["sha256"]) == {"en", "zh", "th", "fr", "fr-CA-u-sd-caqc", "eo"}
    assert str(tmp_path) not in str(identities)


def test_the_identity_follows_the_lists_and_the_settings(tmp_path):
    before = lists(tmp_path).identity()
    assert lists(tmp_path).identity() == before
    assert lists(tmp_path, bare_entries=True).identity() != before
    assert lists(tmp_path, always=["en"]).identity() != before
    folder(tmp_path / "lists", {"en": "another"})
    annotator = WordLists(WordListsConfig(path=str(tmp_path / "lists")))
    assert annotator.identity() != before
    assert measure(annotator, ["another"], ["en"])["bad_words"] == [1]


def test_bad_lists_are_refused(tmp_path):
    def error(path: Path, **settings: object) -> str:
        with pytest.raises(ValueError, match=re.escape(str(path))) as caught:
            WordLists(WordListsConfig(path=str(path), **settings)).identity()
        return str(caught.value)

    assert "nothing at" in error(tmp_path / "none")
    assert "no word list" in error(folder(tmp_path / "a", {"README.md": "x"}))
    assert "b: en is not UTF-8: byte 2 is 0xe9" in error(folder(tmp_path / "b", {"en": b"ab\xe9"}))
    assert f"line of {LONGEST_PHRASE + 1} words" in error(folder(tmp_path / "c", {"en": "a " * (LONGEST_PHRASE + 1)}))
    assert "two lists for 'en', en and en.txt" in error(folder(tmp_path / "d", {"en": "a", "en.txt": "b"}))
    good = folder(tmp_path / "e", {"en": "a"})
    assert "always: there is no list 'fr'" in error(good, always=["fr"])
    assert "lists.de: there is no list 'fr'" in error(good, lists={"de": ["fr"]})
    assert "allowed.fr: there is no such list" in error(good, allowed={"fr": ["x"]})


def test_settings_are_checked():
    for settings in ({}, {"path": ""}, {"path": "x", "language": "en"}, {"path": "x", "always": "en"}):
        with pytest.raises(ValidationError):
            WordListsConfig(**settings)


def test_a_byte_order_mark_does_not_belong_to_the_first_entry(tmp_path):
    found = read_lists(folder(tmp_path, {"en": b"\xef\xbb\xbfdarn\r\nheck"}), {}, False)["en"]
    assert found.entries == 2
    assert len(found.phrases) == 2


FRAGMENTS = ["darn", "heck no", "heck", " ", " ", "\n", "坏蛋", "王八", "蛋", "奶", "🖕", "x", "câlice", "\0", "İ"]
DOCUMENTS = st.lists(
    st.tuples(
        st.one_of(st.lists(st.sampled_from(FRAGMENTS), max_size=12).map("".join), st.text(max_size=12)),
        st.sampled_from(["en", "zh", "cmn_Hani", "fr", "xx", "eo"]),
        st.sampled_from([None, "http://darn.com/heck-no", "http://x.org"]),
    ),
    min_size=1,
    max_size=12,
)


@given(documents=DOCUMENTS, cut=st.integers(0, 12), seed=st.randoms())
def test_values_depend_on_no_other_document(tmp_path_factory, documents, cut, seed):
    annotator = lists(tmp_path_factory.mktemp("lists"))
    together = rows(annotator, documents)
    assert rows(annotator, documents[:cut]) + rows(annotator, documents[cut:]) == together
    order = seed.sample(range(len(documents)), len(documents))
    assert rows(annotator, [documents[n] for n in order]) == [together[n] for n in order]


def rows(annotator: WordLists, documents: list[tuple]) -> list[tuple]:
    texts, languages, urls = ([row[n] for row in documents] for n in range(3))
    return [*zip(*measure(annotator, texts, languages, urls).values(), strict=True)]


def test_a_slice_of_a_larger_array_and_a_pickled_annotator(tmp_path):
    annotator = pickle.loads(pickle.dumps(lists(tmp_path)))
    texts = pa.array(["🖕", "darn 🖕", "heck no"], pa.large_string())[1:]
    urls = pa.array(["http://darn.com", None, "http://heck.no/darn"], pa.string())[1:]
    found = annotator.measure(Batch(texts, urls, np.array(["en", "en"], np.object_)))
    assert found["bad_words"].to_pylist() == [2, 1]
    assert found["url_bad_words"].to_pylist() == [None, 2]


def test_a_long_document_of_one_word(tmp_path):
    found = measure(lists(tmp_path), ["a" * 5_000_000, "darn " * 200_000], ["en", "en"])
    assert found["bad_words"] == [0, 200_000]


@pytest.mark.skipif(not REAL.exists(), reason="needs LDNOOBW's lists at ../shared/data/filter/ldnoobw.tar.gz")
def test_every_entry_of_the_real_lists_is_found_in_a_sentence(tmp_path):
    annotator = WordLists(WordListsConfig(path=str(REAL), allowed={}, bare_entries=True))
    names = annotator.identity()["sha256"]
    assert len(names) == 28
    assert not any(annotator.left_out().values())
    for name, content in _real_entries().items():
        around = ("", "") if name in ("zh", "ja", "th") else ("— ", " —")
        sentences = [f"1 {around[0]}{entry.upper()}{around[1]}." for entry in content]
        found = measure(annotator, sentences, [name] * len(sentences))["bad_words"]
        lost = [entry for entry, count in zip(content, found, strict=True) if not count]
        assert not [entry for entry in lost if entry.upper().lower() == entry.lower()], name


def _real_entries() -> dict[str, list[str]]:
    import tarfile

    with tarfile.open(REAL) as archive:
        members = {member.name.removeprefix("./"): member for member in archive if member.isfile()}
        return {
            name: [line for line in archive.extractfile(member).read().decode().split("\n") if line.strip()]
            for name, member in members.items()
            if name not in ("LICENSE", "README.md", "USERS.md")
        }
