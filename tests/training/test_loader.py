import hashlib
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.training.tiny_run import changed, make_run, make_shards, write_shard
from training.config import Shard
from training.loader import TrainLoader, ValidationLoader, _keys, check_shards, permute, spread
from training.rows import PADDING, Windows


@given(size=st.integers(1, 3000), seed=st.integers(0, 2**40), epoch=st.integers(0, 50))
@settings(max_examples=60, deadline=None)
def test_the_permutation_is_a_bijection(size: int, seed: int, epoch: int) -> None:
    order = permute(np.arange(size), size, _keys(seed, epoch))
    assert np.array_equal(np.sort(order), np.arange(size))


def test_the_permutation_mixes() -> None:
    size = 20_000
    orders = [permute(np.arange(size), size, _keys(1, epoch)) for epoch in range(2)]
    assert abs(np.corrcoef(orders[0], np.arange(size))[0, 1]) < 0.03
    assert abs(np.corrcoef(orders[0], orders[1])[0, 1]) < 0.03
    # Neighbours end up far apart: a random pair is size / 3 away on average.
    assert np.abs(np.diff(orders[0])).mean() == pytest.approx(size / 3, rel=0.03)


def test_a_large_range_stays_exact() -> None:
    size = 3_000_000_001
    order = permute(np.array([0, 1, size - 1]), size, _keys(1, 0))
    assert len(set(order.tolist())) == 3
    assert ((order >= 0) & (order < size)).all()


@given(
    lengths=st.lists(st.integers(0, 40), min_size=1, max_size=5).filter(lambda lengths: sum(lengths) > 8),
    sequence_length=st.integers(1, 7),
    batch_size=st.integers(1, 5),
)
@settings(max_examples=40, deadline=None)
def test_an_epoch_visits_each_window_once(
    tmp_path_factory: pytest.TempPathFactory, lengths: list[int], sequence_length: int, batch_size: int
) -> None:
    folder = tmp_path_factory.mktemp("shards")
    stream = np.arange(sum(lengths))
    parts = np.split(stream, np.cumsum(lengths)[:-1])
    shards = [write_shard(folder / f"{index}.bin", part) for index, part in enumerate(parts)]
    loader = TrainLoader(shards, Windows(sequence_length), batch_size, seed=3)
    steps = -(-2 * loader.windows // batch_size)
    samples = np.concatenate([loader.batch(step)["tokens"] for step in range(steps)])[: 2 * loader.windows]
    # Windows are runs of the ring, whatever the files.
    assert np.array_equal((samples[:, :1] + np.arange(sequence_length + 1)) % len(stream), samples)
    for epoch in np.split(samples, 2):
        targets = epoch[:, 1:].ravel()
        assert len(set(targets.tolist())) == loader.windows * sequence_length


def test_batches_do_not_depend_on_the_number_of_processes(tmp_path: Path) -> None:
    loader = TrainLoader(make_shards(tmp_path), Windows(16), batch_size=12, seed=1)
    for step in (0, 7, 1000):
        whole = loader.batch(step)["tokens"]
        for world_size in (2, 3, 4):
            shares = [loader.batch(step, rank, world_size)["tokens"] for rank in range(world_size)]
            assert np.array_equal(np.concatenate(shares), whole)


def test_seed_and_epoch_change_the_order(tmp_path: Path) -> None:
    shards = make_shards(tmp_path)
    first, second = (TrainLoader(shards, Windows(16), 4, seed) for seed in (1, 2))
    assert not np.array_equal(first.batch(0)["tokens"], second.batch(0)["tokens"])
    samples = np.arange(first.windows)
    assert not np.array_equal(first.starts(samples), first.starts(samples + first.windows))


def test_uint32_shards_are_read(tmp_path: Path) -> None:
    tokens = np.array([70_000, 1, 2, 70_001, 3], dtype="<u4")
    path = tmp_path / "wide.bin"
    path.write_bytes(tokens.tobytes())
    loader = TrainLoader([Shard(str(path), "train", 5, dtype="uint32")], Windows(2), batch_size=2, seed=0)
    assert {70_000, 70_001} <= set(np.concatenate([loader.batch(step)["tokens"] for step in range(9)]).ravel().tolist())


def test_too_few_tokens_is_an_error(tmp_path: Path) -> None:
    shards = [write_shard(tmp_path / "a.bin", np.arange(16))]
    with pytest.raises(ValueError, match=r"hold 16 tokens, fewer than one window of 17; add data or lower"):
        TrainLoader(shards, Windows(16), batch_size=1, seed=0)
    TrainLoader([write_shard(tmp_path / "b.bin", np.arange(17))], Windows(16), batch_size=1, seed=0)
    with pytest.raises(ValueError, match=r"hold 0 tokens"):
        TrainLoader([], Windows(16), batch_size=1, seed=0)


def test_changed_shards_are_refused(tmp_path: Path) -> None:
    run = make_run(tmp_path)
    check_shards(run)
    path = Path(run.data[1].path)
    content = path.read_bytes()
    path.write_bytes(content[:-2])
    with pytest.raises(ValueError, match=r"train-1\.bin: 4998 bytes, but 2500 tokens of uint16 take 5000"):
        check_shards(run)
    with pytest.raises(ValueError, match=r"train-1\.bin: 4998 bytes"):
        TrainLoader(run.shards("train"), Windows(16), 4, 1)
    path.write_bytes(content[:-2] + b"\x01\x00" if content[-2:] != b"\x01\x00" else content[:-2] + b"\x02\x00")
    with pytest.raises(ValueError, match=r"train-1\.bin: its sha256 is"):
        check_shards(run)
    check_shards(changed(run, "training", verify_digests=False))
    path.unlink()
    with pytest.raises(ValueError, match=r"train-1\.bin: cannot be read: No such file"):
        check_shards(run)


def test_shards_of_a_larger_vocabulary_are_refused(tmp_path: Path) -> None:
    run = make_run(tmp_path)
    with pytest.raises(
        ValueError, match=r"holds the id 49, but the vocabulary has 40; it belongs to another tokenizer"
    ):
        check_shards(changed(run, vocabulary_size=40))


def test_validation_covers_every_token_once(tmp_path: Path) -> None:
    lengths = [10, 16, 33, 0]
    streams = [np.arange(length) + 100 * index for index, length in enumerate(lengths, start=1)]
    shards = [write_shard(tmp_path / f"{i}.bin", stream, split="validation") for i, stream in enumerate(streams)]
    loader = ValidationLoader(shards, Windows(16), windows=1000, end_of_text=7)
    parts = list(loader.batches(2))
    windows, owners = np.concatenate([p.rows["tokens"] for p in parts]), np.concatenate([p.shards for p in parts])
    assert len(windows) == len(loader) == 1 + 1 + 3
    for index, stream in enumerate(streams[:3]):
        targets = windows[owners == index][:, 1:].ravel()
        assert np.array_equal(targets[targets != PADDING], stream)
    # The first target of a shard follows an end-of-text id, the others the token before them.
    assert windows[:, 0].tolist() == [7, 7, 7, 315, 331]
    shares = [np.concatenate([p.rows["tokens"] for p in loader.batches(2, rank, 2)]) for rank in range(2)]
    assert np.array_equal(shares[0], windows[0::2])
    assert np.array_equal(shares[1][:2], windows[1::2])
    assert (shares[1][2:] == PADDING).all()  # as many batches as the other process


@given(available=st.lists(st.integers(1, 1000), min_size=1, max_size=20), total=st.integers(1, 500))
def test_windows_are_spread_by_size(available: list[int], total: int) -> None:
    counts = np.array(available)
    taken = spread(counts, total)
    assert (taken >= 1).all()
    assert (taken <= counts).all()
    assert taken.sum() <= total + len(counts)
    ideal = np.clip(total * counts / counts.sum(), 1, counts)
    assert np.abs(taken - ideal).max() <= 0.5


def test_shards_of_another_tokenizer_are_refused(tmp_path: Path) -> None:
    run = make_run(tmp_path)
    tokenizer = tmp_path / "tokenizer.json"
    tokenizer.write_text("{}")
    digest = hashlib.sha256(b"{}").hexdigest()
    check_shards(changed(run, tokenizer_path=str(tokenizer), tokenizer_sha256=digest))
    with pytest.raises(ValueError, match=rf"tokenizer\.json: its sha256 is {digest}, but the token shards were made"):
        check_shards(changed(run, tokenizer_path=str(tokenizer), tokenizer_sha256="0" * 64))
    with pytest.raises(ValueError, match=r"nowhere\.json: cannot be read"):
        check_shards(changed(run, tokenizer_path=str(tmp_path / "nowhere.json"), tokenizer_sha256=digest))


@pytest.mark.parametrize(("windows", "processes", "batch_size"), [(21, 2, 2), (5, 2, 2), (1, 3, 4), (7, 4, 1)])
def test_every_process_has_as_many_validation_batches(
    tmp_path: Path, windows: int, processes: int, batch_size: int
) -> None:
    """A sharded model needs all processes in each forward pass; the fill counts for nothing."""
    run = make_run(tmp_path)
    loader = ValidationLoader(run.shards("validation"), Windows(16), windows, run.end_of_text)
    batches = [list(loader.batches(batch_size, rank, processes)) for rank in range(processes)]
    assert len({len(each) for each in batches}) == 1
    seen = [window for each in batches for part in each for window in part.rows["tokens"] if (window != PADDING).any()]
    assert len(seen) == len(loader)
