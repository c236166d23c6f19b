"""How well duplicates are found: planted ones of every kind, and labelled real ones."""

from __future__ import annotations

import csv
import gzip
import json
from itertools import chain
from pathlib import Path

import pytest

from pipeline.dedup.config import DedupConfig
from tests.pipeline.dedup.corpora import Writer, deduplicate, rows, shard, shingles, twins

LABELLED = Path(__file__).parents[3] / "../shared/data/dup"

ORIGINALS = 200


def planted(seed: int) -> tuple[dict[str, str], dict[str, list[tuple[str, str]]]]:
    """Documents by id, and by kind the pairs (version, original); of the kind `template` they are no duplicates."""
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
        for share in (0.01, 0.02, 0.05, 0.1, 0.2):
            original = fresh()
            plant(f"edited {share:.0%}", writer.edit(original, share), original)
        for share in (0.95, 0.8, 0.5):
            original = fresh()
            plant(f"truncated to {share:.0%}", original[: round(share * len(original))], original)
        for share in (0.05, 0.2):
            original = fresh()
            around = writer.write(round(share * len(original)))
            plant(f"embedded in {1 + share:.0%}", original, [*around[::2], *original, *around[1::2]])
    template = writer.write(150)
    for _ in range(ORIGINALS):
        plant("template", *([*template[:80], *writer.write(50), *template[80:]] for _ in range(2)))
    return texts, pairs


def recalls(found: dict[str, str], pairs: dict[str, list[tuple[str, str]]]) -> dict[str, float]:
    """Share of the pairs of each kind of which one document went for the other."""
    return {
        kind: sum(found.get(left) == right or found.get(right) == left for left, right in of_kind) / len(of_kind)
        for kind, of_kind in pairs.items()
    }


# Least shares found. At 5 % of edited words 0.95^5 = 77 % of the shingles are left, just below the threshold.
FLOORS = {
    "edited 1%": 0.98,
    "edited 2%": 0.9,
    "truncated to 95%": 0.98,
    "truncated to 80%": 0.85,
    "embedded in 105%": 0.98,
    "embedded in 120%": 0.85,
}


def test_planted_duplicates(tmp_path: Path):
    texts, pairs = planted(1)
    table = shard(list(texts.values()), ids=list(texts))
    committed = deduplicate([table], tmp_path)
    found = twins(committed)
    recall = recalls(found, pairs)
    assert {kind: share for kind, share in recall.items() if share < FLOORS.get(kind, 0.0)} == {}
    assert recall["template"] == recall["edited 20%"] == 0.0
    partners = dict(chain.from_iterable([*of_kind, *(pair[::-1] for pair in of_kind)] for of_kind in pairs.values()))
    assert all(partners[gone] == twin for gone, twin in found.items())  # precision 1
    for row in rows(committed["duplicates"], "duplicates"):
        gone, stays = shingles(texts[row["id"]]), shingles(texts[row["twin"]])
        assert row["containment"] == pytest.approx(len(gone & stays) / len(gone))
        assert row["containment"] >= 0.8
        assert row["similarity"] == pytest.approx(len(gone & stays) / len(gone | stays))


def test_verification_costs_no_recall_and_gains_precision(tmp_path: Path):
    texts, pairs = planted(2)
    table = shard(list(texts.values()), ids=list(texts))
    verified = twins(deduplicate([table], tmp_path / "verified"))
    plain = twins(deduplicate([table], tmp_path / "plain", DedupConfig(verify=False)))
    enough = [  # pairs that are duplicates by the definition in force
        pair
        for pair in chain.from_iterable(of_kind for kind, of_kind in pairs.items() if kind != "template")
        if len(shingles(texts[pair[0]]) & shingles(texts[pair[1]]))
        >= 0.8 * min(len(shingles(texts[key])) for key in pair)
    ]
    assert len(enough) > 6 * ORIGINALS
    assert recalls(verified, {"all": enough})["all"] >= recalls(plain, {"all": enough})["all"] - 0.01
    template = {key for pair in pairs["template"] for key in pair}
    assert not template & verified.keys()
    assert len(template & plain.keys()) > 10


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
