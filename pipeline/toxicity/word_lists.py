"""Bad words: how many entries of the word lists for its language a document and its URL hold."""

from collections import defaultdict
from dataclasses import dataclass, field
from functools import lru_cache
from pathlib import Path
from typing import Any, Final

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray
from pydantic import Field

from pipeline.annotators import Annotator, Batch, Signal
from pipeline.stage import StageConfig
from pipeline.text.arrow import utf8_view
from pipeline.text.scan import SCAN_VERSION, word_hashes
from pipeline.text.tables import UNICODE_VERSION
from pipeline.toxicity.archives import stamp
from pipeline.toxicity.languages import find_list
from pipeline.toxicity.lists import WordList, read_lists
from pipeline.toxicity.phrases import (
    Phrases,
    Symbols,
    compile_phrases,
    compile_symbols,
    count_phrases,
    count_symbols,
)

_VERSION: Final = 1  # changes when the signals would

_SIGNALS: Final = (
    Signal(
        "bad_words",
        pa.int64(),
        "Entries of the word lists for its language in the text, the longest first, without overlap; "
        "null where the language has no list",
    ),
    Signal(
        "bad_word_fraction",
        pa.float64(),
        "Words of the text that belong to those entries, as a fraction; an emoji of a list counts as a word",
    ),
    Signal("url_bad_words", pa.int64(), "Entries of the same lists in the URL; null without a URL or a list, too"),
)


class WordListsConfig(StageConfig):
    """Which word lists, and which of them for which document."""

    path: str = Field(
        min_length=1,
        description="Folder, .tar.gz or .zip with a list for each language in LDNOOBW's format: a UTF-8 file named by "
        "the language's code (en, cmn_Hani, fr.txt) with a word or phrase on each line",
    )
    always: list[str] = Field(
        default=[],
        description="Lists that every document is matched against beside that of its language, such as [en]. Default: "
        "none, as in the C4 code (c4_utils.py of TensorFlow Datasets)",
    )
    lists: dict[str, list[str]] = Field(
        default={},
        description="Lists of a language in place of the one with its code, such as {fr: [fr, fr-CA-u-sd-caqc]}; "
        "an empty list switches the language off",
    )
    allowed: dict[str, list[str]] = Field(
        default={"ja": ["sm", "グロ", "女の子"], "zh": ["性"]},
        description="Entries by list that are not looked for. Default: those of the C4 code (c4_utils.py of TensorFlow "
        "Datasets), each of which removed over a tenth of the documents of its language",
    )
    bare_entries: bool = Field(
        default=False,
        description="Look also for entries that are no more than a number or one letter of a script without spaces, "
        "such as '13.' and 奶, although they are part of countless harmless words. Default false; the C4 code looks "
        "for all but those it allows",
    )


@dataclass
class _Lists:
    by_name: dict[str, WordList]
    compiled: dict[tuple[str, ...], tuple[Phrases, Symbols]] = field(default_factory=dict)

    def compile(self, names: tuple[str, ...]) -> tuple[Phrases, Symbols]:
        """The tables of all these lists together, built once."""
        if names not in self.compiled:
            chosen = [self.by_name[name] for name in names]
            phrases = compile_phrases(phrase for members in chosen for phrase in members.phrases)
            symbols = compile_symbols(symbol for members in chosen for symbol in members.symbols)
            self.compiled[names] = phrases, symbols
        return self.compiled[names]


class WordLists(Annotator):
    """Counts the entries of word lists in documents, each matched against the list of its own language.

    Source of the rule: Raffel et al. 2020, section 2.2, and the C4 code (c4_utils.py of TensorFlow Datasets). As there,
    words count only as a whole, but in scripts without spaces wherever they stand.
    """

    def __init__(self, config: WordListsConfig) -> None:
        self.config = config

    def signals(self) -> list[Signal]:
        """`bad_words`, `bad_word_fraction`, `url_bad_words`."""
        return [*_SIGNALS]

    def identity(self) -> dict[str, Any]:
        """The settings and the digests of the lists; how many entries of each are not looked for.

        Raises ValueError where the lists are missing or damaged, or where a list that is named does not exist.
        """
        lists = self._load().by_name
        return {
            "version": _VERSION,
            "scan": SCAN_VERSION,
            "unicode": UNICODE_VERSION,
            **self.config.model_dump(mode="json", exclude={"path"}),
            "sha256": {name: found.sha256 for name, found in lists.items()},
            "left_out": {name: len(found.left_out) for name, found in lists.items() if found.left_out},
        }

    def left_out(self) -> dict[str, tuple[str, ...]]:
        """The entries of each list that are not looked for: allowed ones, bare ones, ASCII punctuation."""
        return {name: found.left_out for name, found in self._load().by_name.items()}

    def lists_for(self, language: str | None) -> tuple[str, ...]:
        """The names of the lists that a document of a language is matched against, sorted."""
        return self._choose(language, self._load())

    def _choose(self, language: str | None, lists: _Lists) -> tuple[str, ...]:
        own = self.config.lists.get(language or "")
        if own is None:
            found = find_list(language, lists.by_name) if language else None
            own = [] if found is None else [found]
        return tuple(sorted({*own, *self.config.always}))

    def measure(self, batch: Batch) -> dict[str, pa.Array]:
        """The three signals of each document."""
        lists = self._load()
        documents = len(batch.texts)
        groups = self._groups(batch.languages, lists)
        matches, matched, words = (np.zeros(documents, np.int64) for _ in range(3))
        in_urls = np.zeros(documents, np.int64)
        unlisted = np.ones(documents, np.bool_)
        if groups:
            offsets, hashes = batch.words
            words = np.diff(offsets)
            url_offsets, url_hashes = word_hashes(batch.urls)
            view = utf8_view(batch.texts)
        for names, members in groups.items():
            phrases, symbols = lists.compile(names)
            count_phrases(offsets, hashes, members, phrases, matches, matched)
            count_phrases(url_offsets, url_hashes, members, phrases, in_urls, np.zeros(documents, np.int64))
            if len(symbols.data):
                found = np.zeros(documents, np.int64)
                count_symbols(*view, members, symbols, found)
                matches, matched, words = matches + found, matched + found, words + found
            unlisted[members] = False
        no_url = batch.urls.is_null().to_numpy(zero_copy_only=False)
        return {
            "bad_words": pa.array(matches, mask=unlisted),
            "bad_word_fraction": pa.array(matched / np.maximum(words, 1), mask=unlisted),
            "url_bad_words": pa.array(in_urls, mask=unlisted | no_url),
        }

    def _groups(self, languages: NDArray[np.object_], lists: _Lists) -> dict[tuple[str, ...], NDArray[np.int64]]:
        """The documents that are matched against the same lists; those without a list are in none."""
        encoded = pa.array(languages, pa.string()).dictionary_encode()
        chosen = [self._choose(language, lists) for language in encoded.dictionary.to_pylist()]
        codes = encoded.indices.fill_null(len(chosen)).to_numpy(zero_copy_only=False)
        numbers: dict[tuple[str, ...], list[int]] = defaultdict(list)
        for number, names in enumerate([*chosen, self._choose(None, lists)]):
            numbers[names].append(number)
        groups = {names: np.flatnonzero(np.isin(codes, members)) for names, members in numbers.items() if names}
        return {names: members for names, members in sorted(groups.items()) if len(members)}

    def _load(self) -> _Lists:
        return _load(self.config.model_dump_json(), stamp(Path(self.config.path).expanduser()))


@lru_cache(maxsize=4)
def _load(config_json: str, files: tuple[tuple[str, int, int], ...]) -> _Lists:
    """The lists of a configuration, read once a process as long as the files stay as they are."""
    config = WordListsConfig.model_validate_json(config_json)
    path = Path(config.path).expanduser()
    lists = read_lists(path, config.allowed, config.bare_entries)
    for where, names in {
        "always": config.always,
        **{f"lists.{code}": own for code, own in config.lists.items()},
    }.items():
        for name in names:
            if name not in lists:
                raise ValueError(f"{where}: there is no list {name!r} in {path}; it has {', '.join(lists)}")
    if config.allowed != WordListsConfig.model_fields["allowed"].default:
        for name in config.allowed:
            if name not in lists:
                raise ValueError(f"allowed.{name}: there is no such list in {path}; it has {', '.join(lists)}")
    return _Lists(lists)
