"""How well duplicates are found: planted ones of every kind, and labelled real ones."""

from __future__ import annotations

import csv
import gzip
import json
from itertools import chain
from pathlib import Path

import pytest

from pipeline.dedup.config import DedupConfig
from tests.pipeline.dedup.corpora import Writer, covered, deduplicate, rows, shard, shingles, twins

LABELLED = Path(__file__).parents[3] / "../shared/data/dup"

ORIGINALS = 200
EDITED, TRUNCATED, EMBEDDED = (0.01, 0.02, 0.05, 0.1, 0.2, 0.4), (0.95, 0.8, 0.5), (0.05, 0.2, 0.5)
TEMPLATED = (0.5, 0.6, 0.7, 0.8)


def planted(seed: int) -> tuple[dict[str, str], dict[str, list[tuple[str, str]]]]:
    """Documents by id, and by kind the pairs (version, original); those of a template are no duplicates."""
    writer = Writer(seed)
    texts: dict[str, str] = {}
    pairs: dict[str, list[tuple[str, str]]] = {}

    def add(text: list[str]) -> str:
        key = f"{len(texts):032x}"
        texts[key] = " ".join(text)
        return key

    def plant(kind: str, version: list[str], original: list[str]) -> None:
        pairs.setdefault(kind, []).append((add(version), add(original)))

    def fresh() -> list[str]:
        return writer.write(int(writer.random.integers(100, 400)))

    for _ in range(ORIGINALS):
        for share in EDITED:
            original = fresh()
            plant(f"edited {share:.0%}", writer.edit(original, share), original)
        for share in TRUNCATED:
            original = fresh()
            plant(f"truncated to {share:.0%}", original[: round(share * len(original))], original)
        for share in EMBEDDED:
            original = fresh()
            around = writer.write(round(share * len(original)))
            plant(f"embedded in {1 + share:.0%}", original, [*around[::2], *original, *around[1::2]])
    for share in TEMPLATED:
        template = writer.write(round(200 * share))
        for _ in range(ORIGINALS // 2):
            pages = ([*template[:60], *writer.write(200 - len(template)), *template[60:]] for _ in range(2))
            plant(f"template of {share:.0%}", *pages)
    return texts, pairs


def recalls(found: dict[str, str], pairs: dict[str, list[tuple[str, str]]]) -> dict[str, float]:
    """Share of the pairs of each kind that are in one cluster."""
    return {
        kind: sum(found.get(left, left) == found.get(right, right) for left, right in of_kind) / len(of_kind)
        for kind, of_kind in pairs.items()
    }


# Least shares found; what the bands propose is 1 - (1 - J^8)^14 of the Jaccard similarity, 0.34 at 5 % of edited words.
FLOORS = {
    "edited 1%": 0.99,
    "edited 2%": 0.92,
    "edited 5%": 0.22,
    "truncated to 95%": 0.99,
    "truncated to 80%": 0.85,
    "embedded in 105%": 0.99,
    "embedded in 120%": 0.92,
    "embedded in 150%": 0.28,
}


@pytest.mark.parametrize("seed", [1, 2])
def test_planted_duplicates(tmp_path: Path, seed: int):
    texts, pairs = planted(seed)
    tables = [shard(list(texts.values()), ids=list(texts))]
    committed = deduplicate(tables, tmp_path)
    found = twins(committed)
    plain = twins(deduplicate(tables, tmp_path, DedupConfig(verify=False)))
    copies = {kind: of_kind for kind, of_kind in pairs.items() if not kind.startswith("template")}

    recall, recall_of_plain = recalls(found, copies), recalls(plain, copies)
    assert {kind: share for kind, share in recall.items() if share < FLOORS.get(kind, 0.0)} == {}
    assert {kind: share for kind, share in recall.items() if share < recall_of_plain[kind] - 0.01} == {}
    partners = dict(chain.from_iterable([*of_kind, *(pair[::-1] for pair in of_kind)] for of_kind in copies.values()))
    assert sum(partners.get(gone) == twin for gone, twin in found.items()) >= 0.99 * len(found)
    templated = {key for kind, of_kind in pairs.items() if kind not in copies for pair in of_kind for key in pair}
    assert not templated & found.keys()
    assert len(templated & plain.keys()) > 100  # which plain components take for one
    for row in rows(committed["duplicates"], "duplicates"):
        gone, stays = shingles(texts[row["id"]]), shingles(texts[row["twin"]])
        assert row["containment"] == pytest.approx(len(gone & stays) / len(gone))
        assert row["similarity"] == pytest.approx(len(gone & stays) / len(gone | stays))
        assert row["coverage"] == pytest.approx(covered(texts[row["id"]], stays))
        assert row["coverage"] >= 0.82


@pytest.mark.parametrize(
    ("name", "floors", "ceiling"),
    [
        ("gutenberg-editions", {0.9: 0.999, 0.8: 0.999}, 0.0),
        ("install-guide", {0.9: 0.99, 0.8: 0.98}, 0.02),  # labelled by character shingles, many languages
    ],
)
def test_labelled_real_duplicates(tmp_path: Path, name: str, floors: dict[float, float], ceiling: float):
    files = [LABELLED / f"{name}.docs.jsonl.gz", LABELLED / f"{name}.pairs.tsv.gz"]
    if not all(file.exists() for file in files):
        pytest.skip(f"the labelled pairs are not here: {files[1]}")
    with gzip.open(files[0], "rt", encoding="utf-8") as stream:
        documents = [json.loads(line) for line in stream]
    with gzip.open(files[1], "rt", encoding="utf-8") as stream:
        pairs = [(row[0], row[1], float(row[2])) for row in list(csv.reader(stream, delimiter="\t"))[1:]]
    halves = documents[::2], documents[1::2]
    tables = [shard([row["text"] for row in half], ids=[row["id"] for row in half]) for half in halves]
    kept = twins(deduplicate(tables, tmp_path))
    together = [(similarity, kept.get(left, left) == kept.get(right, right)) for left, right, similarity in pairs]
    for threshold, floor in floors.items():
        similar = [same for similarity, same in together if similarity >= threshold]
        assert sum(similar) / len(similar) >= floor
    different = [same for similarity, same in together if similarity < 0.4]
    assert sum(different) <= ceiling * len(different)
