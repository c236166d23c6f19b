from __future__ import annotations

import re
from collections import Counter, defaultdict
from pathlib import Path
from types import SimpleNamespace

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from benchmarks.duplicates import COPIES, KINDS, TEMPLATES, Corpus, CorpusPlan, write_corpus

PLAN = CorpusPlan(documents=3000, median_words=120, copies=0.3, templated=0.2, pages=25, files=3, seed=7)


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> SimpleNamespace:
    corpus = write_corpus(tmp_path_factory.mktemp("made") / "corpus", PLAN)
    files = sorted(corpus.documents_folder.iterdir())
    table = pa.concat_tables([pq.read_table(path) for path in files])
    texts = dict(zip(table["id"].to_pylist(), table["text"].to_pylist(), strict=True))
    words = {name: re.findall(r"\w+", text.lower()) for name, text in texts.items()}
    truth = corpus.truth().to_pylist()
    return SimpleNamespace(corpus=corpus, files=files, table=table, texts=texts, words=words, truth=truth)


def edit_distance(left: list[str], right: list[str]) -> int:
    """Levenshtein's distance of words, in plain Python."""
    row = list(range(len(right) + 1))
    for at, word in enumerate(left, 1):
        before, row[0] = row[0], at
        for to, other in enumerate(right, 1):
            before, row[to] = row[to], min(row[to] + 1, row[to - 1] + 1, before + (word != other))
    return row[-1]


def within(words: list[str], others: list[str]) -> bool:
    return any(others[at : at + len(words)] == words for at in range(len(others) - len(words) + 1))


def test_number_size_and_columns(made: SimpleNamespace) -> None:
    corpus: Corpus = made.corpus
    assert corpus.documents == len(made.texts) == len(made.table) == 3000
    assert corpus.text_bytes == sum(len(text.encode()) for text in made.texts.values())
    assert made.table.column_names == ["id", "text", "source", "url", "date"]
    assert [pq.ParquetFile(path).metadata.num_rows for path in made.files] == [1000, 1000, 1000]
    assert len(set(made.table["url"].to_pylist())) == 3000
    words = sum(map(len, made.words.values()))
    assert 5.7 < corpus.text_bytes / words < 6.4


def test_size_asked_for(tmp_path: Path) -> None:
    corpus = write_corpus(tmp_path / "corpus", CorpusPlan.of_size(8))
    assert corpus.text_bytes == pytest.approx(8e6, rel=0.1)


def test_shares_of_kinds(made: SimpleNamespace) -> None:
    kinds = Counter(row["kind"] for row in made.truth)
    assert set(kinds) == set(KINDS[1:])
    assert sum(kinds[kind] for kind in COPIES) == 900
    assert sum(kinds[kind] for kind in TEMPLATES) == 600
    assert max(kinds[kind] for kind in COPIES) - min(kinds[kind] for kind in COPIES) <= 1


def test_copies_are_what_their_kind_says(made: SimpleNamespace) -> None:
    seen = Counter()
    for row in made.truth:
        kind, _, number = row["kind"].partition(" ")
        if row["twin"] is None or seen[row["kind"]] == 5:
            continue
        seen[row["kind"]] += 1
        assert row["twin"] < row["id"], "a copy comes after its original"
        copy, original = made.words[row["id"]], made.words[row["twin"]]
        if kind == "exact":
            assert copy == original
        elif kind == "truncated":
            assert copy == original[: len(copy)]
            assert len(copy) == pytest.approx(len(original) * int(number[:-1]) / 100, abs=1)
        elif kind == "embedded":
            assert within(original, copy)
            assert len(copy) == pytest.approx(len(original) * int(number[:-1]) / 100, abs=1.5)
        else:
            edits = max(1, round(len(original) * int(number[:-1]) / 100))
            # A frequent word may be replaced by itself, and neighbouring edits may have a shorter way.
            assert 0.8 * edits - 2 <= edit_distance(copy, original) <= edits
    assert seen == dict.fromkeys(COPIES, 5)


def test_each_document_is_copied_once_at_most_and_only_originals_are(made: SimpleNamespace) -> None:
    twins = Counter(row["twin"] for row in made.truth if row["twin"] is not None)
    assert set(twins.values()) == {1}
    assert not set(twins) & {row["id"] for row in made.truth}


def test_pages_share_their_template_and_nothing_else(made: SimpleNamespace) -> None:
    pages = defaultdict(list)
    for row in made.truth:
        if row["template"] is not None:
            pages[row["kind"], row["template"]].append(made.words[row["id"]])
    assert {len(group) for group in pages.values()} == {25}
    for (kind, _), (first, second, *_) in pages.items():
        share = int(kind.split()[1][:-1]) / 100
        assert len(first) == len(second)
        shingles = [{tuple(page[at : at + 5]) for at in range(len(page) - 4)} for page in (first, second)]
        # Each of the five seams of template and own words breaks four shingles; chance adds some.
        assert share * len(first) - 22 <= len(shingles[0] & shingles[1]) <= share * len(first) + 6


def test_originals_share_nothing(made: SimpleNamespace) -> None:
    planted = {row["id"] for row in made.truth}
    seen: Counter[tuple[str, ...]] = Counter()
    originals = [words for name, words in made.words.items() if name not in planted][:500]
    for words in originals:
        seen.update({tuple(words[at : at + 5]) for at in range(len(words) - 4)})
    assert sum(count > 1 for count in seen.values()) < 0.01 * len(seen)


def test_the_same_plan_gives_the_same_bytes(tmp_path: Path, made: SimpleNamespace) -> None:
    again = write_corpus(tmp_path / "again", PLAN)
    assert [path.read_bytes() for path in sorted(again.documents_folder.iterdir())] == [
        path.read_bytes() for path in made.files
    ]
    assert again.truth().to_pylist() == made.truth


def test_too_many_copies_are_refused(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="copied once"):
        write_corpus(tmp_path / "corpus", CorpusPlan(100, copies=0.5, templated=0.2))
