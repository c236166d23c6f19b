from __future__ import annotations

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from pipeline.text.lexicon import build_lexicon
from tests.pipeline.text import reference

WORDS = ("a", "b", "c")
sequences = st.lists(st.sampled_from(WORDS), min_size=1, max_size=4)


@given(st.lists(sequences, min_size=1, max_size=4), st.lists(st.sampled_from((*WORDS, "z")), max_size=30))
@settings(deadline=None)
def test_the_automaton_finds_every_phrase_where_it_ends(phrases: list[list[str]], text: list[str]):
    lexicon = build_lexicon({str(i): [" ".join(phrase)] for i, phrase in enumerate(phrases)}, {})
    codes = {}
    for word in (*WORDS, "z"):
        at = [slot for slot, value in enumerate(lexicon.hashes.tolist()) if value == reference.word_hash(word)]
        codes[word] = int(lexicon.codes[at[0]]) if at else 0
    state = 0
    for end, word in enumerate(text, 1):
        state = int(lexicon.automaton[state, codes[word]])
        expected = sum(1 << i for i, phrase in enumerate(phrases) if text[:end][-len(phrase) :] == phrase)
        assert int(lexicon.categories[state]) == expected


def test_lists_are_numbered_and_share_words():
    lexicon = build_lexicon({}, {"en": ["the", "de"], "es": ["De"], "none": []})
    the, de = lexicon.lists[0].tolist()
    assert lexicon.lists.tolist() == [[the, de], [de, 0], [0, 0]]
    assert lexicon.list_names == ("en", "es", "none")
    assert lexicon.words == 2
    slot = lexicon.hashes.tolist().index(reference.word_hash("the"))
    assert lexicon.listed[slot] == the > 0


@pytest.mark.parametrize(
    ("phrases", "lists"), [({"x": ["..."]}, {}), ({}, {"en": ["the cat"]}), ({}, {"zh": ["我们"]})]
)
def test_what_the_scan_cannot_find_is_refused(phrases: dict, lists: dict):
    with pytest.raises(ValueError, match="word"):
        build_lexicon(phrases, lists)
