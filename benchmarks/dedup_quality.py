"""What deduplication finds: pairs, and whole sets of duplicates, on labelled and planted documents, beside peers.

    python -m benchmarks.dedup_quality [--documents 10000] [--folder DIR] [--only planted] [--json FILE]

Systems: Headrace as it is (`verified`), Headrace with `deduplicate.verify: false` (`components`: all but one of each
connected component of the candidate pairs goes), datatrove's four MinHash stages in the peers' environment, and the
connected components of the candidates of datasketch's MinHashLSH over Headrace's shingles. All have 5-word shingles and
14 bands of 8 values.

Two documents are predicted to be duplicates when they are in one cluster: a document that stays, and all that were
removed for it. `precision`, `recall` and `f1` are over pairs of documents, `exact sets` is the share of documents
whose cluster is exactly themselves and what the labels say is their duplicate.

Labels: `gutenberg-editions` (Jaccard similarity of 5-word shingles), `install-guide` (of character 5-grams: as
labelled, and of every pair), `mccormick_1000` (a list), all three from DIR (../shared/data/dup by default), and the
planted documents of `benchmarks.duplicates`, where the recall of each kind of copy is a row, and the share of pages of
each kind of template that are taken for duplicates, which should be 0.
"""

from __future__ import annotations

import argparse
import gzip
import importlib.metadata
import json
import os
import subprocess
import tempfile
from collections import Counter, defaultdict
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from numpy.typing import NDArray
from rich.console import Console
from rich.table import Table

from benchmarks.dedup import LAST_STAGE, recipe_of, run_stages
from benchmarks.duplicates import COPIES, TEMPLATES, CorpusPlan, write_corpus
from benchmarks.peers import peers_python
from benchmarks.rows import Row, parser, show

Pair = tuple[str, str]
Clusters = list[list[str]]
PERMUTATIONS, BANDS, BAND_ROWS, SHINGLE_WORDS, SEED = 112, 14, 8, 5, 1
WORKERS = 2


@dataclass(frozen=True)
class Labels:
    """What is known of a set of documents: which pairs are duplicates, and of what kind documents are."""

    name: str
    pairs: frozenset[Pair]
    documents: int
    kinds: Mapping[str, Sequence[Pair]] = field(default_factory=dict)  # of pairs
    templates: Mapping[str, Sequence[str]] = field(default_factory=dict)  # ids of pages by kind


def scores(labels: Labels, clusters: Clusters) -> dict[str, float]:
    """Precision, recall, F1, exact sets, and recall by kind, each in 0..1; `clusters` are those of two or more."""
    cluster_of = {member: number for number, members in enumerate(clusters) for member in members}
    assert len(cluster_of) == sum(map(len, clusters)), "a document is in two clusters"

    def found(pairs: Iterable[Pair]) -> int:
        return sum(cluster_of.get(left, -1) == cluster_of.get(right, -2) for left, right in pairs)

    predicted = sum(size * (size - 1) // 2 for size in map(len, clusters))
    correct = found(labels.pairs)
    precision, recall = correct / predicted if predicted else 1.0, correct / len(labels.pairs)
    result = {
        "precision": precision,
        "recall": recall,
        "f1": 2 * precision * recall / (precision + recall) if correct else 0.0,
        "exact sets": exact_sets(labels, clusters),
    }
    result |= {f"recall, {kind}": found(pairs) / len(pairs) for kind, pairs in labels.kinds.items()}
    for kind, pages in labels.templates.items():
        result[f"taken for duplicates, {kind}"] = sum(page in cluster_of for page in pages) / len(pages)
    return result


def exact_sets(labels: Labels, clusters: Clusters) -> float:
    """The share of documents whose cluster is exactly what the labels say."""
    twins = defaultdict(set)
    for left, right in labels.pairs:
        twins[left].add(right)
        twins[right].add(left)
    sets = {member: set(members) for members in clusters for member in members}
    named = {*twins, *sets}
    exact = sum(twins.get(name, set()) | {name} == sets.get(name, {name}) for name in named)
    return (labels.documents - len(named) + exact) / labels.documents


def headrace(documents: Path, scratch: Path, workers: int = WORKERS, **deduplicate: object) -> Clusters:
    """The clusters of the ledger: each document that went was removed for its twin."""
    _, committed = run_stages(recipe_of(documents, **deduplicate), str(scratch), workers)
    names: dict[str, str] = {}
    for file in committed["ingest"].files("documents"):
        table = file.table(["id", "metadata"])
        names |= {
            own: json.loads(given)["id"] for own, given in zip(*(column.to_pylist() for column in table), strict=True)
        }
    members: dict[str, list[str]] = defaultdict(list)
    for file in committed[LAST_STAGE].files("ledger"):
        for row in file.table(["id", "action", "twin"]).to_pylist():
            if row["action"] == "dropped":
                members[row["twin"]].append(names[row["id"]])
    return [[names[twin], *gone] for twin, gone in members.items()]


def datatrove(documents: Path, scratch: Path) -> Clusters:
    """The clusters of datatrove's third stage."""
    script = Path(__file__).parent / "peers/datatrove_dedup.py"
    command = [*map(str, (peers_python(), script, documents, scratch, WORKERS)), "clusters"]
    done = subprocess.run(command, check=False, capture_output=True, text=True, env=os.environ)
    if done.returncode:
        raise RuntimeError(f"datatrove ended with {done.returncode}:\n{done.stderr[-2000:]}")
    return json.loads(done.stdout.splitlines()[-1])["clusters"]


def datasketch(documents: Path, scratch: Path) -> Clusters:
    """Connected components of the candidates of datasketch's MinHashLSH."""
    from datasketch import MinHash, MinHashLSH

    from pipeline.dedup.shingles import shingle_hashes
    from pipeline.text.scan import word_hashes

    table = pa.concat_tables([pq.read_table(path, columns=["id", "text"]) for path in sorted(documents.iterdir())])
    bounds, hashes = shingle_hashes(*word_hashes(table["text"]), SHINGLE_WORDS)
    lsh = MinHashLSH(num_perm=PERMUTATIONS, params=(BANDS, BAND_ROWS))
    sketches = {}
    for at, name in enumerate(table["id"].to_pylist()):
        if bounds[at + 1] > bounds[at]:
            sketch = MinHash(PERMUTATIONS, SEED, hashfunc=int, scheme="affine32")
            sketch.update_batch(hashes[bounds[at] : bounds[at + 1]].tolist())
            sketches[name] = sketch
            lsh.insert(name, sketch)
    return components([name, other] for name, sketch in sketches.items() for other in lsh.query(sketch))


def components(edges: Iterable[Sequence[str]]) -> Clusters:
    """The connected components of two or more."""
    parents: dict[str, str] = {}

    def root(node: str) -> str:
        while parents.setdefault(node, node) != node:
            parents[node] = node = parents[parents[node]]
        return node

    for left, right in edges:
        parents[root(left)] = root(right)
    members = defaultdict(list)
    for node in [*parents]:
        members[root(node)].append(node)
    return [group for group in members.values() if len(group) > 1]


VERIFIED, COMPONENTS = "verified", "components"
SYSTEMS: dict[str, Callable[[Path, Path], Clusters]] = {
    VERIFIED: headrace,
    COMPONENTS: lambda documents, scratch: headrace(documents, scratch, verify=False),
    "datatrove": datatrove,
    "datasketch": datasketch,
}


def planted(folder: Path, documents: int) -> list[Labels]:
    """Make planted documents in a folder, and say what they are."""
    corpus = write_corpus(folder, CorpusPlan(documents, copies=0.26, templated=0.2, pages=min(100, documents // 40)))
    kinds: dict[str, list[Pair]] = {kind: [] for kind in COPIES}
    templates: dict[str, list[str]] = {kind: [] for kind in TEMPLATES}
    for row in corpus.truth().to_pylist():
        if row["twin"] is None:
            templates[row["kind"]].append(row["id"])
        else:
            kinds[row["kind"]].append((row["id"], row["twin"]))
    pairs = frozenset(pair for members in kinds.values() for pair in members)
    return [Labels("planted", pairs, documents, kinds, templates)]


def write_documents(folder: Path, rows: Sequence[tuple[str, str]]) -> None:
    """Ids and texts as two Parquet files, one for each of the peer's workers."""
    target = folder / "documents"
    target.mkdir(parents=True)
    for number in range(WORKERS):
        part = rows[number * len(rows) // WORKERS : (number + 1) * len(rows) // WORKERS]
        schema = pa.schema([("id", pa.string()), ("text", pa.large_string())])
        columns = [pa.array(column, kind) for column, kind in zip(zip(*part, strict=True), schema.types, strict=True)]
        pq.write_table(pa.table(columns, schema=schema), target / f"{number:05d}.parquet")


def read_graded(name: str, folder: Path, source: Path) -> tuple[list[tuple[str, str]], dict[Pair, float]]:
    """Write labelled documents into a folder: their ids and texts, and the similarity of each labelled pair."""
    with gzip.open(source / f"{name}.docs.jsonl.gz", "rt", encoding="utf-8") as lines:
        rows = [(row["id"], row["text"]) for row in map(json.loads, lines)]
    write_documents(folder, rows)
    with gzip.open(source / f"{name}.pairs.tsv.gz", "rt", encoding="utf-8") as lines:
        pairs = [line.rstrip("\n").split("\t") for line in lines][1:]
    return rows, {(left, right): float(similarity) for left, right, similarity, *_ in pairs}


def from_threshold(name: str, documents: int, similarity: Mapping[Pair, float], threshold: float) -> Labels:
    """A pair counts as duplicate from a similarity on."""
    pairs = frozenset(pair for pair, value in similarity.items() if value >= threshold)
    return Labels(f"{name}, similarity {threshold} or more", pairs, documents)


def gutenberg(folder: Path, source: Path) -> list[Labels]:
    """Passages of two or more editions of books."""
    rows, similarity = read_graded("gutenberg-editions", folder, source)
    return [from_threshold("gutenberg-editions", len(rows), similarity, threshold) for threshold in (0.8, 0.9, 0.95)]


def install_guide(folder: Path, source: Path) -> list[Labels]:
    """Pages of one manual for four machines in six languages.

    The labels are of pages with one number only, and sections are numbered differently for some machines: so all pairs
    are measured here, too.
    """
    rows, labelled = read_graded("install-guide", folder, source)
    similarity = gram_similarities(rows, least=0.5)
    for pair, value in labelled.items():
        if value >= 0.51 and abs(similarity.get(pair, 0) - value) > 1e-4:
            raise ValueError(f"install-guide: {pair} have a similarity of {similarity.get(pair)}, labelled {value}")
    return [
        from_threshold("install-guide as labelled", len(rows), labelled, 0.8),
        *(from_threshold("install-guide", len(rows), similarity, least) for least in (0.5, 0.7, 0.8, 0.9)),
    ]


def gram_similarities(rows: Sequence[tuple[str, str]], least: float, length: int = 5) -> dict[Pair, float]:
    """Jaccard similarity of the sets of character n-grams (lower case, white space as one blank) of every pair.

    Those of `least` or more, in the order of the rows.
    """
    sets = [character_grams(" ".join(text.lower().split()), length) for _, text in rows]
    sizes = np.array([*map(len, sets)])
    owners = np.repeat(np.arange(len(sets)), sizes)
    _, gram = np.unique(np.concatenate(sets), return_inverse=True)
    held = owners[np.argsort(gram, kind="stable")]  # of each n-gram: the documents that have it
    counts = np.bincount(gram)
    starts = np.cumsum(counts) - counts
    found: dict[Pair, float] = {}
    for row, own in enumerate(np.split(gram, np.cumsum(sizes)[:-1])):
        many = counts[own]
        places = np.repeat(starts[own] - (np.cumsum(many) - many), many) + np.arange(many.sum())
        common = np.bincount(held[places], minlength=len(sets))[:row]
        similarity = common / np.maximum(sizes[row] + sizes[:row] - common, 1)
        for other in np.flatnonzero(similarity >= least).tolist():
            found[rows[other][0], rows[row][0]] = float(similarity[other])
    return found


def character_grams(text: str, length: int) -> NDArray[np.uint64]:
    """64-bit hashes of the distinct character n-grams."""
    characters = np.frombuffer(text.encode("utf-32-le"), np.uint32).astype(np.uint64)
    hashes = np.zeros(max(0, len(characters) - length + 1), np.uint64)
    for at in range(length):
        hashes = (hashes ^ characters[at : at + len(hashes)]) * np.uint64(0x9E3779B97F4A7C15)
        hashes ^= hashes >> np.uint64(29)
    return np.unique(hashes)


def mccormick(folder: Path, source: Path) -> list[Labels]:
    """News with ten plagiarised articles."""
    with gzip.open(source / "mccormick_1000.train.gz", "rt", encoding="utf-8") as lines:
        rows = [(name, text) for name, text in (line.rstrip("\n").split(" ", 1) for line in lines)]
    write_documents(folder, rows)
    pairs = [line.split() for line in (source / "mccormick_1000.truth").read_text().splitlines()]
    return [Labels("mccormick_1000", frozenset((left, right) for left, right in pairs), len(rows))]


LABELLED = {
    "gutenberg-editions": gutenberg,
    "install-guide": install_guide,
    "mccormick_1000": mccormick,
}


def measure(documents: Path, scratch: Path, all_labels: Sequence[Labels]) -> dict[str, dict[str, dict[str, float]]]:
    """Scores by labels, measure and system."""
    found: dict[str, dict[str, dict[str, float]]] = {labels.name: defaultdict(dict) for labels in all_labels}
    for system, run in SYSTEMS.items():
        (scratch / system).mkdir()
        clusters = run(documents, scratch / system)
        sizes = Counter(map(len, clusters))
        print(f"{all_labels[0].name}: {system}: {len(clusters):,} clusters, the largest of {max(sizes, default=1):,}")
        for labels in all_labels:
            for name, value in scores(labels, clusters).items():
                found[labels.name][name][system] = value
    return found


def rows_of(found: Mapping[str, Mapping[str, Mapping[str, float]]]) -> list[Row]:
    """A row for each measure and system beside the verified one."""
    ask = [str(peers_python()), "-c", "import importlib.metadata as found; print(found.version('datatrove'))"]
    theirs = subprocess.run(ask, check=True, capture_output=True, text=True).stdout.strip()
    versions = {"datasketch": importlib.metadata.version("datasketch"), "datatrove": theirs}
    return [
        Row(f"{labels}, {name}", "1", values[VERIFIED], values[system], system, versions.get(system, ""))
        for labels, measures in found.items()
        for name, values in measures.items()
        for system in values
        if system != VERIFIED
    ]


def print_tables(found: Mapping[str, Mapping[str, Mapping[str, float]]]) -> None:
    """A table for each set of labels: measures down, systems across."""
    for labels, measures in found.items():
        table = Table(title=labels, title_justify="left")
        table.add_column("")
        for system in SYSTEMS:
            table.add_column(system, justify="right")
        for name, values in measures.items():
            table.add_row(name, *(f"{values[system]:.4f}" for system in SYSTEMS))
        Console().print(table)


def main() -> None:
    arguments: argparse.ArgumentParser = parser(__doc__ or "")
    arguments.add_argument("--documents", type=int, default=10_000, help="planted documents")
    arguments.add_argument("--folder", type=Path, default=Path(__file__).parents[1] / "../shared/data/dup")
    arguments.add_argument("--only", choices=("planted", *LABELLED), action="append", help="these; by default all")
    options = arguments.parse_args()
    wanted = options.only or ("planted", *LABELLED)
    if {*wanted} != {"planted"} and not (options.folder / "mccormick_1000.truth").is_file():
        arguments.error(f"{options.folder} has no labelled documents; name another with --folder, or --only planted")
    found: dict[str, dict[str, dict[str, float]]] = {}
    for name in wanted:
        with tempfile.TemporaryDirectory() as folder:
            corpus = Path(folder, "corpus")
            labels = planted(corpus, options.documents) if name == "planted" else LABELLED[name](corpus, options.folder)
            found |= measure(corpus / "documents", Path(folder), labels)
    print_tables(found)
    if options.json:
        show(rows_of(found), "Deduplication: verified beside each other system", options.json)


if __name__ == "__main__":
    main()
