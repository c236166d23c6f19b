"""Batches of token windows, as a pure function of the step.

The train shards are one long ring of tokens. Epoch `e` cuts it, from a start of its own, into windows of T + 1 tokens
(the last one is the target of the one before it, and so the first of the next window) and visits each of them once, in
an order drawn by a keyed permutation. Sample `i` of the run is therefore known without any state: a run goes on at any
step, with any number of processes and any micro-batch, and sees the same samples.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from training.config import Shard, TrainingRun

PADDING = -1
"""Fills a window behind its last token; never a token id."""

_FEISTEL_ROUNDS = 6


class TokenRing:
    """The tokens of some shards, memory-mapped, one behind the other and round again."""

    def __init__(self, shards: Sequence[Shard]) -> None:
        self._maps = [_open(shard) for shard in shards if shard.tokens]
        self._ends = np.cumsum([len(tokens) for tokens in self._maps], dtype=np.int64)
        self.tokens = int(self._ends[-1]) if self._maps else 0

    def read(self, start: int, length: int) -> NDArray[np.int64]:
        """Copy `length` tokens from position `start` (taken modulo the length of the ring)."""
        window = np.empty(length, dtype=np.int64)
        filled = 0
        while filled < length:
            position = (start + filled) % self.tokens
            shard = int(np.searchsorted(self._ends, position, side="right"))
            tokens = self._maps[shard]
            offset = position - (int(self._ends[shard]) - len(tokens))
            part = tokens[offset : offset + length - filled]
            window[filled : filled + len(part)] = part
            filled += len(part)
        return window


class TrainLoader:
    """Training batches by step number.

    Attributes: sequence_length (T), batch_size (sequences in one optimiser step, over all processes), windows (in one
    epoch), tokens (in the train shards). Raises ValueError when the shards hold less than one window.
    """

    def __init__(self, shards: Sequence[Shard], sequence_length: int, batch_size: int, seed: int) -> None:
        self.sequence_length = sequence_length
        self.batch_size = batch_size
        self._seed = seed
        self._ring = TokenRing(shards)
        self.tokens = self._ring.tokens
        if self.tokens < sequence_length + 1:
            raise ValueError(
                f"the {len(shards)} train shards hold {self.tokens} tokens, fewer than one window of "
                f"{sequence_length + 1}; add data or lower training.sequence_length"
            )
        self.windows = (self.tokens - 1) // sequence_length

    def batch(self, step: int, rank: int = 0, world_size: int = 1) -> NDArray[np.int64]:
        """Windows (batch_size / world_size, T + 1) that process `rank` trains on in step `step` (0-based)."""
        assert self.batch_size % world_size == 0, (self.batch_size, world_size)
        share = self.batch_size // world_size
        first = step * self.batch_size + rank * share
        starts = self.starts(np.arange(first, first + share, dtype=np.int64))
        return np.stack([self._ring.read(int(start), self.sequence_length + 1) for start in starts])

    def starts(self, samples: NDArray[np.int64]) -> NDArray[np.int64]:
        """Position in the ring of the first token of each sample (n,) of the run."""
        epochs, indices = np.divmod(samples, self.windows)
        starts = np.empty(len(samples), dtype=np.int64)
        for epoch in np.unique(epochs):
            chosen = epochs == epoch
            keys = _keys(self._seed, int(epoch))
            offset = int(keys[0]) % self.sequence_length
            starts[chosen] = offset + self.sequence_length * permute(indices[chosen], self.windows, keys[1:])
        return starts % self.tokens


class BatchReader:
    """The batches of one process as tensors on its device; for CUDA the next one is read ahead, by a thread."""

    def __init__(self, loader: TrainLoader, rank: int, world_size: int, device: torch.device) -> None:
        self._loader, self._rank, self._world_size, self._device = loader, rank, world_size, device
        self._ahead = ThreadPoolExecutor(1, "loader") if device.type == "cuda" else None
        self._next: tuple[int, Future[Tensor]] = (-1, Future())

    def take(self, index: int) -> Tensor:
        """The windows (batch_size / world_size, T + 1) int64 of the batch with this number."""
        if self._ahead is None:
            return self._read(index)
        expected, coming = self._next
        windows = coming.result() if index == expected else self._read(index)
        self._next = (index + 1, self._ahead.submit(self._read, index + 1))
        return windows.to(self._device, non_blocking=True)

    def _read(self, index: int) -> Tensor:
        windows = torch.from_numpy(self._loader.batch(index, self._rank, self._world_size))
        return windows.pin_memory() if self._ahead is not None else windows


@dataclass(frozen=True)
class ValidationBatch:
    """Windows (B, T + 1) int64, PADDING behind the end of a shard, and the shard (B,) that each belongs to."""

    windows: NDArray[np.int64]
    shards: NDArray[np.int64]


class ValidationLoader:
    """A fixed choice of windows, spread evenly over each validation shard; the same in every evaluation.

    Each shard that is not empty gets at least one window, and beyond that a share by its size. Every token of a shard
    can be a target: its first one follows an end-of-text id.
    """

    def __init__(self, shards: Sequence[Shard], sequence_length: int, windows: int, end_of_text: int) -> None:
        self.shards = [shard for shard in shards if shard.tokens]
        self.sequence_length = sequence_length
        self._end_of_text = end_of_text
        self._rings = [TokenRing([shard]) for shard in self.shards]
        available = np.array([-(-shard.tokens // sequence_length) for shard in self.shards], dtype=np.int64)
        self._windows = [
            (shard, window)
            for shard, (count, taken) in enumerate(zip(available, spread(available, windows), strict=True))
            for window in (2 * np.arange(taken) + 1) * count // (2 * taken)
        ]

    def __len__(self) -> int:
        """Windows in one evaluation."""
        return len(self._windows)

    def batches(self, batch_size: int, rank: int = 0, world_size: int = 1) -> Iterator[ValidationBatch]:
        """The share of process `rank`, `batch_size` windows at a time; as many batches in every process."""
        mine = self._windows[rank::world_size]
        most = -(-len(self._windows) // world_size)
        for first in range(0, most, batch_size):
            part = mine[first : first + batch_size]
            # A process without windows left takes part all the same: a sharded model needs all of them.
            windows = [self._read(shard, int(window)) for shard, window in part] or [self._nothing()]
            shards = [shard for shard, _ in part] or [0]
            yield ValidationBatch(np.stack(windows), np.array(shards, dtype=np.int64))

    def _nothing(self) -> NDArray[np.int64]:
        return np.full(self.sequence_length + 1, PADDING, dtype=np.int64)

    def _read(self, shard: int, window: int) -> NDArray[np.int64]:
        ring, length = self._rings[shard], self.sequence_length
        start = window * length - 1
        tokens = self._nothing()
        tokens[0] = self._end_of_text if start < 0 else ring.read(start, 1)[0]
        count = min(length, ring.tokens - window * length)
        tokens[1 : 1 + count] = ring.read(window * length, count)
        return tokens


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
