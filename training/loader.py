"""Batches of rows, as a pure function of the step.

The train shards are one long ring of tokens. Epoch `e` cuts it, from a start of its own, into stretches of a row's
length and visits each of them once, in an order drawn by a keyed permutation; a form (`training.rows`) makes a row of
what begins there. Sample `i` of the run is therefore known without any state: a run goes on at any step, with any
number of processes and any micro-batch, and sees the same samples.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from training.config import Shard, TrainingRun
from training.rows import PADDING, Form, Rows, Stretch

_FEISTEL_ROUNDS = 6


class TokenRing:
    """The tokens of some shards and their marks, memory-mapped, one behind the other and round again."""

    def __init__(self, shards: Sequence[Shard]) -> None:
        shards = [shard for shard in shards if shard.tokens]
        self._maps = [_open(shard) for shard in shards]
        self._marks = [_open_marks(shard) for shard in shards] if all(shard.marks for shard in shards) else []
        self._ends = np.cumsum([len(tokens) for tokens in self._maps], dtype=np.int64)
        self.tokens = int(self._ends[-1]) if self._maps else 0

    def read(self, start: int, length: int) -> NDArray[np.int64]:
        """Copy `length` tokens from position `start` (taken modulo the length of the ring)."""
        return self._read(self._maps, start, length, np.dtype(np.int64))

    def stretch(self, start: int, length: int, visit: int, number: int) -> Stretch:
        """`length` tokens from position `start`, with their marks where there are any."""
        marks = self._read(self._marks, start, length, np.dtype(np.uint8)) if self._marks else None
        return Stretch(self.read(start, length), marks, start, visit, number)

    def _read(self, maps: Sequence[NDArray[Any]], start: int, length: int, dtype: np.dtype[Any]) -> NDArray[Any]:
        window = np.empty(length, dtype=dtype)
        filled = 0
        while filled < length:
            position = (start + filled) % self.tokens
            shard = int(np.searchsorted(self._ends, position, side="right"))
            values = maps[shard]
            offset = position - (int(self._ends[shard]) - len(values))
            part = values[offset : offset + length - filled]
            window[filled : filled + len(part)] = part
            filled += len(part)
        return window


class TrainLoader:
    """Training batches by step number.

    Attributes: form, batch_size (rows in one optimiser step, over all processes), windows (rows in one epoch), tokens
    (in the train shards). Raises ValueError when the shards hold less than one row.
    """

    def __init__(self, shards: Sequence[Shard], form: Form, batch_size: int, seed: int) -> None:
        self.form = form
        self.batch_size = batch_size
        self._seed = seed
        self._ring = TokenRing(shards)
        self.tokens = self._ring.tokens
        if self.tokens < form.stride + 1:
            raise ValueError(
                f"the {len(shards)} train shards hold {self.tokens} tokens, fewer than one window of "
                f"{form.stride + 1}; add data or lower training.sequence_length"
            )
        self.windows = (self.tokens - 1) // form.stride

    def batch(self, step: int, rank: int = 0, world_size: int = 1) -> Rows:
        """The rows (batch_size / world_size, ...) that process `rank` trains on in step `step` (0-based)."""
        assert self.batch_size % world_size == 0, (self.batch_size, world_size)
        share = self.batch_size // world_size
        first = step * self.batch_size + rank * share
        samples = np.arange(first, first + share, dtype=np.int64)
        starts = self.starts(samples)
        visits = np.array([self._visit(epoch) for epoch in (samples // self.windows).tolist()], dtype=np.int64)
        others = self._elsewhere(starts, visits) if self.form.draws_others else starts[:0]
        drawn = self._stretches(others, visits, samples) if len(others) else []
        return self.form.rows(self._stretches(starts, visits, samples), drawn)

    def starts(self, samples: NDArray[np.int64]) -> NDArray[np.int64]:
        """Position in the ring of the first token of each sample (n,) of the run."""
        epochs, indices = np.divmod(samples, self.windows)
        starts = np.empty(len(samples), dtype=np.int64)
        for epoch in np.unique(epochs):
            chosen = epochs == epoch
            offset = int(_keys(self._seed, self._visit(int(epoch)))[0]) % self.form.stride
            order = permute(indices[chosen], self.windows, _keys(self._seed, int(epoch))[1:])
            starts[chosen] = offset + self.form.stride * order
        return starts % self.tokens

    def _visit(self, epoch: int) -> int:
        return epoch if self.form.copies is None else epoch % self.form.copies

    def _elsewhere(self, starts: NDArray[np.int64], visits: NDArray[np.int64]) -> NDArray[np.int64]:
        """A random position for each row, the same when the row comes again."""
        words = _mix(starts.astype(np.uint64) + _mix(visits.astype(np.uint64) + _keys(self._seed, -1)[0]))
        return (words % np.uint64(self.tokens)).astype(np.int64)

    def _stretches(
        self, starts: NDArray[np.int64], visits: NDArray[np.int64], samples: NDArray[np.int64]
    ) -> list[Stretch]:
        reads = self.form.reads
        return [
            self._ring.stretch(start, reads, visit, number)
            for start, visit, number in zip(starts.tolist(), visits.tolist(), samples.tolist(), strict=True)
        ]


class BatchReader:
    """The batches of one process as tensors on its device; for CUDA the next one is read ahead, by a thread."""

    def __init__(self, loader: TrainLoader, rank: int, world_size: int, device: torch.device) -> None:
        self._loader, self._rank, self._world_size, self._device = loader, rank, world_size, device
        self._ahead = ThreadPoolExecutor(1, "loader") if device.type == "cuda" else None
        self._next: tuple[int, Future[dict[str, Tensor]]] = (-1, Future())

    def take(self, index: int) -> dict[str, Tensor]:
        """The rows (batch_size / world_size, ...) of the batch with this number."""
        if self._ahead is None:
            return self._read(index)
        expected, coming = self._next
        rows = coming.result() if index == expected else self._read(index)
        self._next = (index + 1, self._ahead.submit(self._read, index + 1))
        return on_device(rows, self._device)

    def _read(self, index: int) -> dict[str, Tensor]:
        rows = as_tensors(self._loader.batch(index, self._rank, self._world_size))
        return {name: tensor.pin_memory() for name, tensor in rows.items()} if self._ahead is not None else rows


def as_tensors(rows: Rows) -> dict[str, Tensor]:
    """Rows as tensors that share their memory."""
    return {name: torch.from_numpy(array) for name, array in rows.items()}


def on_device(rows: dict[str, Tensor], device: torch.device) -> dict[str, Tensor]:
    """Rows on a device; from pinned memory without waiting."""
    return {name: tensor.to(device, non_blocking=True) for name, tensor in rows.items()}


@dataclass(frozen=True)
class ValidationBatch:
    """Rows, and the shard (B,) that each belongs to."""

    rows: Rows
    shards: NDArray[np.int64]


class ValidationLoader:
    """A fixed choice of rows, spread evenly over each validation shard; the same in every evaluation.

    Each shard that is not empty gets at least one row, and beyond that a share by its size. Every token of a shard can
    be a target: where a form reads a token before its own, that before the first one is an end-of-text id.
    """

    def __init__(self, shards: Sequence[Shard], form: Form, windows: int, end_of_text: int) -> None:
        self.shards = [shard for shard in shards if shard.tokens]
        self.form = form
        self._end_of_text = end_of_text
        self._rings = [TokenRing([shard]) for shard in self.shards]
        # Places are those in all shards together, so that no two shards draw the same random numbers.
        self._firsts = np.cumsum([0, *(shard.tokens for shard in self.shards)]).tolist()
        available = np.array([-(-shard.tokens // form.stride) for shard in self.shards], dtype=np.int64)
        self._windows = [
            (shard, window)
            for shard, (count, taken) in enumerate(zip(available, spread(available, windows), strict=True))
            for window in ((2 * np.arange(taken) + 1) * count // (2 * taken)).tolist()
        ]

    def __len__(self) -> int:
        """Rows in one evaluation."""
        return len(self._windows)

    def batches(self, batch_size: int, rank: int = 0, world_size: int = 1) -> Iterator[ValidationBatch]:
        """The share of process `rank`, `batch_size` rows at a time; as many batches in every process."""
        mine = list(range(len(self._windows)))[rank::world_size]
        most = -(-len(self._windows) // world_size)
        for first in range(0, most, batch_size):
            part = mine[first : first + batch_size]
            # A process without rows left takes part all the same: a sharded model needs all of them.
            stretches = [self._read(number) for number in part] or [self._nothing()]
            shards = [self._windows[number][0] for number in part] or [0]
            others = [self._read(self._elsewhere(number)) for number in part] or [self._nothing()]
            rows = self.form.rows(stretches, others if self.form.draws_others else [])
            yield ValidationBatch(rows, np.array(shards, dtype=np.int64))

    def _elsewhere(self, number: int) -> int:
        return (number + max(1, len(self._windows) // 2)) % len(self._windows)

    def _nothing(self) -> Stretch:
        reads = self.form.reads
        return Stretch(np.full(reads, PADDING, dtype=np.int64), np.zeros(reads, np.uint8), 0, 0)

    def _read(self, number: int) -> Stretch:
        shard, window = self._windows[number]
        ring, (tokens, marks, *_) = self._rings[shard], self._nothing()
        assert marks is not None
        begin = window * self.form.stride - self.form.leads
        skipped = max(0, -begin)
        tokens[:skipped] = self._end_of_text
        count = min(self.form.reads - skipped, ring.tokens - begin - skipped)
        found = ring.stretch(begin + skipped, count, 0, number)
        tokens[skipped : skipped + count] = found.tokens
        if found.marks is not None:
            marks[skipped : skipped + count] = found.marks
        return Stretch(tokens, None if found.marks is None else marks, self._firsts[shard] + begin, 0, number)


def spread(available: NDArray[np.int64], total: int) -> NDArray[np.int64]:
    """Divide `total` among bins in proportion to `available`: at least one each, none above what is available."""
    if not len(available):
        return available
    share = total * available / available.sum()
    return np.clip(np.round(share).astype(np.int64), 1, available)


def permute(indices: NDArray[np.int64], size: int, keys: NDArray[np.uint64]) -> NDArray[np.int64]:
    """A bijection of [0, size) chosen by `keys` (rounds,), applied to `indices` (n,).

    A balanced Feistel network on the next power of four, walked until it falls into range (Black & Rogaway 2002,
    "Ciphers with arbitrary finite domains", method 2: cycle walking).
    """
    half = np.uint64(max(1, -(-(size - 1).bit_length() // 2)))
    mask = (np.uint64(1) << half) - np.uint64(1)
    values = indices.astype(np.uint64)
    walking = np.ones(len(values), dtype=bool)
    while walking.any():
        left, right = values[walking] >> half, values[walking] & mask
        for key in keys:
            left, right = right, left ^ (_mix(right + key) & mask)
        values[walking] = (left << half) | right
        walking = values >= np.uint64(size)
    return values.astype(np.int64)


def check_shards(run: TrainingRun) -> None:
    """Refuse shards that are missing, changed, of another tokenizer, or hold ids beyond the vocabulary.

    Reads the files to the end when `training.verify_digests` is set, otherwise looks at their size only. Raises
    ValueError naming the file.
    """
    if run.tokenizer_path is not None and run.tokenizer_sha256:
        _check_tokenizer(Path(run.tokenizer_path), run.tokenizer_sha256)
    for shard in run.data:
        _check_size(shard)
        if run.objective.marks:
            _check_marks(shard, run.training.verify_digests)
        if run.training.verify_digests:
            _check_content(shard, run.vocabulary_size)


def _check_tokenizer(path: Path, sha256: str) -> None:
    try:
        found = hashlib.sha256(path.read_bytes()).hexdigest()
    except OSError as error:
        raise ValueError(f"tokenizer_path {path}: cannot be read: {error.strerror}") from None
    if found != sha256:
        raise ValueError(
            f"tokenizer_path {path}: its sha256 is {found}, but the token shards were made with the tokenizer "
            f"{sha256}; name that one, or tokenize the corpus again"
        )


def _check_size(shard: Shard) -> None:
    path = Path(shard.path)
    try:
        found = path.stat().st_size
    except OSError as error:
        raise ValueError(f"token shard {path}: cannot be read: {error.strerror}; tokenize the corpus again") from None
    expected = shard.tokens * np.dtype(shard.dtype).itemsize
    if found != expected:
        raise ValueError(
            f"token shard {path}: {found} bytes, but {shard.tokens} tokens of {shard.dtype} take {expected}; "
            "the data changed since it was tokenized: tokenize it again"
        )


def _check_marks(shard: Shard, verify_digest: bool) -> None:
    if not shard.marks:
        raise ValueError(
            f"token shard {shard.path}: has no marks of words and sentences, which the objective needs: run the stage "
            "marks"
        )
    try:
        content = Path(shard.marks).read_bytes() if verify_digest else None
        found = Path(shard.marks).stat().st_size
    except OSError as error:
        raise ValueError(f"marks {shard.marks}: cannot be read: {error.strerror}; run the stage marks again") from None
    changed = content is not None and shard.marks_sha256 and hashlib.sha256(content).hexdigest() != shard.marks_sha256
    if found != shard.tokens or changed:
        raise ValueError(
            f"marks {shard.marks}: not those of the {shard.tokens} tokens of {shard.path}; run the stage marks again"
        )


def _check_content(shard: Shard, vocabulary_size: int, chunk_bytes: int = 1 << 24) -> None:
    digest = hashlib.sha256()
    largest = -1
    with open(shard.path, "rb") as file:
        while chunk := file.read(chunk_bytes):
            digest.update(chunk)
            largest = max(largest, int(np.frombuffer(chunk, dtype=_dtype(shard)).max()))
    if shard.sha256 and digest.hexdigest() != shard.sha256:
        raise ValueError(
            f"token shard {shard.path}: its sha256 is {digest.hexdigest()}, not {shard.sha256}; "
            "the data changed since it was tokenized: tokenize it again"
        )
    if largest >= vocabulary_size:
        raise ValueError(
            f"token shard {shard.path}: holds the id {largest}, but the vocabulary has {vocabulary_size}; "
            "it belongs to another tokenizer"
        )


def _open(shard: Shard) -> NDArray[np.integer]:
    _check_size(shard)
    return np.memmap(shard.path, dtype=_dtype(shard), mode="r")


def _open_marks(shard: Shard) -> NDArray[np.uint8]:
    _check_marks(shard, verify_digest=False)
    return np.memmap(shard.marks, dtype=np.uint8, mode="r")


def _dtype(shard: Shard) -> np.dtype[np.integer]:
    return np.dtype(shard.dtype).newbyteorder("<")


def _keys(seed: int, epoch: int) -> NDArray[np.uint64]:
    """One word for the start of the epoch and one for each round."""
    size = 8 * (1 + _FEISTEL_ROUNDS)
    digest = hashlib.blake2b(f"headrace epoch {seed} {epoch}".encode(), digest_size=size).digest()
    return np.frombuffer(digest, dtype="<u8").astype(np.uint64)


def _mix(values: NDArray[np.uint64]) -> NDArray[np.uint64]:
    """The finaliser of SplitMix64 (Steele, Lea & Flood 2014, figure 16); wraps around."""
    values = (values ^ (values >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
    values = (values ^ (values >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    return values ^ (values >> np.uint64(31))
