"""Corpora and circumstances that break deduplication elsewhere: what it must bear, and what it says otherwise."""

from __future__ import annotations

import json
import os
import resource
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pytest

from pipeline.dedup import stages as dedup_stages
from pipeline.dedup.config import DedupConfig
from pipeline.dedup.index import scratch_column
from pipeline.dedup.stages import Candidates, Deduplicate, Duplicates, PreferenceOrder, Signatures
from pipeline.execution import run_stage, shut_down_pools
from pipeline.stage import Stage, StageError
from pipeline.store import Committed, StageRef, Store, StoreError
from tests.pipeline.dedup.corpora import Given, Writer, deduplicate, rows, shard, twins

ROOT = Path(__file__).parents[3]


@pytest.fixture(autouse=True)
def _end_workers() -> Iterator[None]:
    yield
    shut_down_pools()


def ids(count: int) -> list[str]:
    return [f"{number:032x}" for number in range(count)]


def column(committed: Committed, kind: str, name: str) -> pa.ChunkedArray:
    return pa.concat_tables(file.table([name]) for file in committed.files(kind))[name]


def peak_memory_bytes(committed: Committed) -> int:
    """The most that a worker process held while it was at a stage, or before."""
    records = [json.loads(path.read_text()) for path in Path(committed.path, "units").glob("*.json")]
    return max(record["execution"]["peak_memory_bytes"] for record in records)


@pytest.mark.parametrize("exact", [True, False])
def test_one_document_a_million_times(tmp_path: Path, exact: bool):
    count = 1_000_000 if exact else 300_000
    table = shard(["the same few words, time and again"] * count, ids=ids(count)[::-1])
    config = DedupConfig(exact=exact, memory_limit_mb=256, bands=2, rows=4)
    committed = deduplicate([table.slice(0, 200_000), table.slice(200_000)], tmp_path, config, workers=1)
    assert column(committed["deduplicate"], "documents", "id").to_pylist() == ["0" * 32]
    rules = pc.unique(column(committed["deduplicate"], "ledger", "rule")).to_pylist()
    assert rules == ["exact_duplicate" if exact else "near_duplicate"]
    assert pc.unique(column(committed["duplicates"], "duplicates", "twin")).to_pylist() == ["0" * 32]
    pairs = committed["candidates"].counts["pairs"]
    assert pairs == 0 if exact else 0 < pairs <= config.bands * config.representatives * count
    assert max(peak_memory_bytes(stage) for stage in list(committed.values())[1:]) < 1 << 30


def test_a_bucket_of_a_hundred_thousand_templated_pages(tmp_path: Path):
    """Pages of which the template is four fifths, and real duplicates among them.

    With one value in a band, pages are paired for a single shingle, and so for a collision of its 32 bits, too.
    Verification takes others, so that no page counts five words more as covered than are.
    """
    count, planted = 100_000, 200
    template = [f"t{number}" for number in range(80)]
    head, tail = " ".join(template[:40]), " ".join(template[40:])
    texts = [f"{head} {' '.join(f'{page}n{place}' for place in range(20))} {tail}" for page in range(count)]
    originals = np.random.default_rng(1).choice(count, planted, replace=False)
    texts += [f"{texts[original]} more" for original in originals]
    table = shard(texts, ids=ids(len(texts)))
    config = DedupConfig(bands=12, rows=1)
    committed = deduplicate([table.slice(0, 30_000), table.slice(30_000)], tmp_path, config)
    largest = pc.max(column(committed["signatures"], "signatures", "band_000").value_counts().field("counts")).as_py()
    assert largest > count / 2
    pairs = committed["candidates"].counts["pairs"]
    assert pairs <= config.bands * config.representatives * len(texts)
    assert committed["duplicates"].counts["compared"] > count / 2
    expected = {ids(count)[original]: table["id"][count + place].as_py() for place, original in enumerate(originals)}
    found = twins(committed)
    assert found.items() <= expected.items()  # nothing that is distinct goes
    assert len(found) > 0.8 * planted  # the others were never paired: in their buckets others were nearer

    plain = deduplicate([table.slice(0, 5000)], tmp_path / "plain", DedupConfig(bands=12, rows=1, verify=False))
    assert plain["deduplicate"].counts["kept"] == 1  # the bands alone would have taken all of them
    (row, *_), (duplicate, *_) = rows(plain["deduplicate"], "ledger"), rows(plain["duplicates"], "duplicates")
    assert (row["value"], row["threshold"]) == (duplicate["estimated"], None)
    assert duplicate["similarity"] is duplicate["containment"] is None


def test_all_documents_different(tmp_path: Path):
    texts = [" ".join(f"{document}n{place}" for place in range(12)) for document in range(50_000)]
    table = shard(texts, ids=ids(len(texts)))
    committed = deduplicate([table.slice(0, 20_000), table.slice(20_000)], tmp_path)
    assert column(committed["deduplicate"], "documents", "id").to_pylist() == ids(len(texts))
    assert [committed["candidates"].counts[name] for name in ("pairs", "buckets")] == [0, 0]
    assert committed["duplicates"].counts["compared"] == 0
    assert rows(committed["duplicates"], "duplicates") == []


def normalised(text: str) -> str:
    """Words in lower case, or what is there instead of words."""
    kept = "".join(letter if letter.isalnum() else " " for letter in text.lower())
    return " ".join(kept.split()) or "".join(text.split())


@pytest.mark.parametrize("exact", [True, False])
def test_documents_shorter_than_a_shingle_and_empty_ones(tmp_path: Path, exact: bool):
    lengths = ["a", "a b", "a b c", "a b c d", "a b c d e", "a b c d e f"]  # below, at and above five words
    wordless = ["", " \n", "!", " ! ", "?", "\t"]
    texts = [*lengths, *wordless, "A.", "A, b!", "b a", "a  b\nc d", "A b c (d) e.", "a b c d e g", "我", "我。", ""]
    expected = {normalised(text) for text in texts}
    if not exact:  # what has no word is compared with nothing
        without_words = [text for text in map(normalised, texts) if not any(map(str.isalnum, text))]
        expected = [*(expected - set(without_words)), *without_words]
    committed = deduplicate([shard(texts[:9]), shard(texts[9:])], tmp_path, DedupConfig(exact=exact))
    kept = [normalised(row["text"]) for row in rows(committed["deduplicate"], "documents")]
    assert sorted(kept) == sorted(expected)
    for row in rows(committed["duplicates"], "duplicates"):
        assert (row["rule"], row["coverage"], row["similarity"]) == ("exact" if exact else "minhash", 1.0, 1.0)


STAGES: tuple[type[Stage[DedupConfig]], ...] = (Signatures, PreferenceOrder, Candidates, Duplicates, Deduplicate)


def planned(tables: Sequence[pa.Table], root: Path, config: DedupConfig) -> tuple[list[Stage[Any]], list[StageRef]]:
    """All stages over shards and their places, in their order; nothing has run."""
    store = Store.at(root)
    stages: list[Stage[Any]] = [Given(tables)]
    refs = {"ingest": store.ref("ingest", stages[0].fingerprint())}
    for stage_class in STAGES:
        inputs = {name: refs[name] for name in ("ingest", "duplicates")} if stage_class is Deduplicate else refs.copy()
        stages.append(stage_class(config, inputs))
        refs[stage_class.name] = store.ref(stage_class.name, stages[-1].fingerprint())
    return stages, list(refs.values())


def versions(seed: int, originals: int) -> list[pa.Table]:
    """Texts and near duplicates of half of them, in two shards."""
    writer = Writer(seed)
    texts = [" ".join(writer.write(30)) for _ in range(originals)]
    texts += [f"{text} more" for text in texts[::2]]
    return [shard(texts[: originals // 3]), shard(texts[originals // 3 :])]


@pytest.mark.parametrize("name", ["order", "candidates", "duplicates"])
def test_a_disk_that_is_full_in_the_middle(tmp_path: Path, name: str):
    tables, config = versions(13, 4000), DedupConfig(exact=False, memory_limit_mb=128)
    undisturbed = deduplicate(tables, tmp_path / "undisturbed", config)
    stages, refs = planned(tables, tmp_path / "full", config)
    store = Store.at(tmp_path / "full")
    at = [stage.name for stage in stages].index(name)
    for stage in stages[:at]:
        run_stage(stage, store, 0)
    limits = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (4096, limits[1]))  # as a full disk, no file grows beyond it
    try:
        with pytest.raises((StageError, StoreError), match=r"start (again|the same command again)|File too large"):
            run_stage(stages[at], store, 0)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limits)
    assert not list(Path(refs[at].path).glob(".tmp-*"))
    for stage in stages[at:]:
        assert run_stage(stage, store, 0).manifest == undisturbed[stage.name].manifest


def test_too_little_memory_is_said_so(tmp_path: Path):
    config = DedupConfig().model_copy(update={"memory_limit_mb": 1})  # less than a recipe may ask for
    with pytest.raises(StageError, match=r"DuckDB could not group .* may hold 1 MB .*give it more"):
        deduplicate(versions(13, 4000), tmp_path, config)


def test_room_for_a_column_is_taken_before_it_is_written(tmp_path: Path):
    values = scratch_column(tmp_path / "column", 1_000_000, np.uint32)
    status = (tmp_path / "column").stat()
    assert 512 * status.st_blocks >= status.st_size == 4_000_000  # else a full disk would kill the process (SIGBUS)
    assert not values.any()
    values[-1] = 7
    assert scratch_column(tmp_path / "none", 0, np.uint32).tolist() == []
    limits = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (4096, limits[1]))
    try:
        with pytest.raises(OSError, match="File too large"):
            scratch_column(tmp_path / "large", 1_000_000, np.uint32)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limits)


RUN = """
import sys
from pathlib import Path
from pipeline.dedup import stages as dedup_stages
from pipeline.execution import run_stage
from pipeline.store import Store
from tests.pipeline.dedup import test_bad_input as corpus

dedup_stages.BAND_KEYS_PER_UNIT = 1
stages, _ = corpus.planned(corpus.versions(14, 12_000), Path(sys.argv[1]), corpus.DedupConfig())
for stage in stages:
    run_stage(stage, Store.at(sys.argv[1]), 0)
"""


def kill_when(started: Any, root: Path) -> None:
    """Run all stages in a process and kill it without warning as soon as `started()` holds."""
    process = subprocess.Popen([sys.executable, "-c", RUN, str(root)], cwd=ROOT, stderr=subprocess.PIPE)
    deadline = time.monotonic() + 200
    while not started():
        assert process.poll() is None, process.stderr.read().decode() if process.stderr else ""
        assert time.monotonic() < deadline
        time.sleep(0.001)
    os.kill(process.pid, signal.SIGKILL)
    process.communicate()


def test_killed_in_the_middle(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(dedup_stages, "BAND_KEYS_PER_UNIT", 1)
    tables, config = versions(14, 12_000), DedupConfig()
    undisturbed = deduplicate(tables, tmp_path / "undisturbed", config)
    assert undisturbed["candidates"].manifest["units"] == config.bands
    root = tmp_path / "killed"
    stages, refs = planned(tables, root, config)
    places = {ref.name: Path(ref.path) for ref in refs}

    def records() -> dict[Path, int]:
        return {path: path.stat().st_mtime_ns for path in places["candidates"].glob("units/*.json")}

    kill_when(lambda: len(records()) >= 3 and any(places["candidates"].glob(".tmp-*/work/table-*")), root)
    finished = records()
    assert 3 <= len(finished) < config.bands
    assert not (places["candidates"] / "manifest.json").exists()
    kill_when(lambda: any(places["duplicates"].glob(".tmp-*/work/*")), root)
    assert finished.items() < records().items()  # what was done was not done again
    assert any(places["duplicates"].glob(".tmp-*"))
    assert not (places["duplicates"] / "manifest.json").exists()
    for stage in stages:
        assert run_stage(stage, Store.at(root), 0).manifest == undisturbed[stage.name].manifest
    assert not list(root.rglob(".tmp-*"))


@pytest.fixture(scope="module")
def small(tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = tmp_path_factory.mktemp("small")
    deduplicate(versions(15, 40), root)
    return root


@pytest.mark.parametrize("cut", [0.0, 0.5, None], ids=["empty", "half", "missing"])
@pytest.mark.parametrize(
    ("kind", "owner", "reader"),
    [
        ("signatures", "signatures", "order"),
        ("signatures", "signatures", "candidates"),
        ("rank", "order", "candidates"),
        ("pairs", "candidates", "duplicates"),
        ("documents", "ingest", "duplicates"),
        ("duplicates", "duplicates", "deduplicate"),
    ],
)
def test_a_damaged_file_is_named(small: Path, tmp_path: Path, kind: str, owner: str, reader: str, cut: float | None):
    shutil.copytree(small, tmp_path / "store")
    stages, refs = planned(versions(15, 40), tmp_path / "store", DedupConfig())
    by_name = {ref.name: ref for ref in refs}
    path = Path(by_name[owner].committed().files(kind)[0].path)
    whole = path.read_bytes()
    path.unlink() if cut is None else path.write_bytes(whole[: int(cut * len(whole))])
    shutil.rmtree(by_name[reader].path)
    (stage,) = (stage for stage in stages if stage.name == reader)
    with pytest.raises(StageError, match=str(path)):
        run_stage(stage, Store.at(tmp_path / "store"), 0)
    shutil.rmtree(by_name[owner].path)  # as the message says
    for stage in stages:
        run_stage(stage, Store.at(tmp_path / "store"), 0)
    undamaged = Store.at(small).ref(reader, by_name[reader].fingerprint)
    assert by_name[reader].committed().manifest == undamaged.committed().manifest
