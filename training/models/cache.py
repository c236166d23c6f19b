"""What a batch of sequences has read: the keys and values of each layer, in memory that is taken once.

Shape suffixes: B sequences, T new tokens, S slots, G key and value heads, H query heads, K head width.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

import torch
from torch import Tensor


class KeyValueCache:
    """Keys and values of up to `capacity` tokens of each of `rows` sequences; token i of a sequence lies in slot i.

    A pass of the model over new tokens (B, T) adds them behind each row's `lengths`; `advance` then says how many of
    them count, so that rows of different lengths are padded at their ends. What lies behind a row's length is never
    seen, and written over.
    """

    def __init__(self, rows: int, capacity: int) -> None:
        self.capacity = capacity
        self.lengths = [0] * rows
        self._keys: dict[int, Tensor] = {}
        self._values: dict[int, Tensor] = {}
        self._crossing: dict[int, tuple[Tensor, Tensor]] = {}
        self._ids_BS: Tensor | None = None
        self._spare: dict[torch.Size, list[Tensor]] = {}
        self._index: tuple[Tensor, Tensor] | None = None

    @property
    def empty(self) -> bool:
        """Whether nothing was read yet."""
        return not any(self.lengths)

    @property
    def start(self) -> int | None:
        """The length of all rows, or None where they differ."""
        return self.lengths[0] if self.lengths.count(self.lengths[0]) == len(self.lengths) else None

    def end(self, tokens: int) -> int:
        """Slots that are in use once `tokens` more were read."""
        return min(max(self.lengths) + tokens, self.capacity)

    def places(self, tokens: int, device: torch.device) -> Tensor:
        """Where `tokens` new tokens stand: (T,) int64, or (B, T) where rows differ in length.

        Padding that would stand behind the last slot stands in it.
        """
        new_T = torch.arange(tokens, device=device)
        if self.start is not None:
            assert self.start + tokens <= self.capacity, "the cache is full"
            return new_T + self.start
        return (torch.tensor(self.lengths, device=device)[:, None] + new_T).clamp(max=self.capacity - 1)

    def advance(self, counts: Sequence[int] | int) -> None:
        """Count the first of the tokens that were read last as parts of their rows."""
        self._index = None
        if isinstance(counts, int):
            counts = [counts] * len(self.lengths)
        self.lengths = [min(length + count, self.capacity) for length, count in zip(self.lengths, counts, strict=True)]

    def rewind(self, row: int, length: int) -> None:
        """Forget what a row has read behind its first `length` tokens."""
        self._index = None
        self.lengths[row] = min(self.lengths[row], length)

    def extend(self, layer: int, k_BGTK: Tensor, v_BGTK: Tensor) -> tuple[Tensor, Tensor]:
        """Write the new tokens' keys and values of a layer; returns those of all tokens (B, G, S, K), as views."""
        both = []
        tokens = k_BGTK.shape[2]
        for memory, new_BGTK in ((self._keys, k_BGTK), (self._values, v_BGTK)):
            if layer not in memory:
                batch, heads, _, width = new_BGTK.shape
                # Zeros: a weight of 0 on a slot that nobody has written must not meet NaN there.
                memory[layer] = new_BGTK.new_zeros(batch, heads, self.capacity, width)
            self._write(memory[layer], new_BGTK)
            both.append(memory[layer][:, :, : self.end(tokens)])
        return both[0], both[1]

    def crossing(self, layer: int, make: Callable[[], tuple[Tensor, Tensor]]) -> tuple[Tensor, Tensor]:
        """A decoder layer's keys and values of the encoder's tokens, made once."""
        if layer not in self._crossing:
            self._crossing[layer] = make()
        return self._crossing[layer]

    def previous(self, ids_BT: Tensor) -> Tensor:
        """The id (B, T) before each new one, 0 before the first of a sequence; keeps the new ids for the next call."""
        if self._ids_BS is None:
            # One slot more, in front, for the 0 before each sequence.
            self._ids_BS = ids_BT.new_zeros(len(self.lengths), self.capacity + 1)
        places = self.places(ids_BT.shape[1], ids_BT.device).expand(ids_BT.shape)
        self._ids_BS.scatter_(1, places + 1, ids_BT)
        return self._ids_BS.gather(1, places)

    def select(self, rows: Sequence[int]) -> None:
        """Keep the given rows, in this order; one may come several times."""
        self._index = None
        if list(rows) == list(range(len(self.lengths))):
            return
        used = self.end(0)
        self.lengths = [self.lengths[row] for row in rows]
        for memory in (self._keys, self._values):
            for layer, whole_BGSK in memory.items():
                memory[layer] = self._selected(whole_BGSK, rows, used)
        for layer, (k_BHSK, v_BHSK) in self._crossing.items():
            index = torch.tensor(rows, device=k_BHSK.device)
            self._crossing[layer] = (k_BHSK.index_select(0, index), v_BHSK.index_select(0, index))
        if self._ids_BS is not None:
            self._ids_BS = self._ids_BS[torch.tensor(rows, device=self._ids_BS.device)]

    def joined(self, other: KeyValueCache) -> KeyValueCache:
        """A cache of the rows of both, these before, as large as the larger one; decoders that cross are not joined."""
        both = KeyValueCache(len(self.lengths) + len(other.lengths), max(self.capacity, other.capacity))
        both.lengths = [*self.lengths, *other.lengths]
        for memory, mine, theirs in (
            (both._keys, self._keys, other._keys),
            (both._values, self._values, other._values),
        ):
            for layer, mine_BGSK in mine.items():
                memory[layer] = _stacked([mine_BGSK, theirs[layer]], [self.end(0), other.end(0)], both.capacity, 2)
        if self._ids_BS is not None and other._ids_BS is not None:
            used = [self.end(0) + 1, other.end(0) + 1]
            both._ids_BS = _stacked([self._ids_BS, other._ids_BS], used, both.capacity + 1, 1)
        return both

    def _write(self, whole_BGSK: Tensor, new_BGTK: Tensor) -> None:
        tokens = new_BGTK.shape[2]
        if self.start is not None:
            whole_BGSK[:, :, self.start : self.start + tokens] = new_BGTK
            return
        if self._index is None:
            # The same in each layer of a pass.
            rows_B1 = torch.arange(len(self.lengths), device=new_BGTK.device)[:, None]
            self._index = (rows_B1, self.places(tokens, new_BGTK.device))
        rows_B1, places_BT = self._index
        whole_BGSK[rows_B1, :, places_BT] = new_BGTK.transpose(1, 2)

    def _selected(self, whole_BGSK: Tensor, rows: Sequence[int], used: int) -> Tensor:
        index = torch.tensor(rows, device=whole_BGSK.device)
        shape = torch.Size((len(rows), *whole_BGSK.shape[1:]))
        spare = self._spare.setdefault(shape, [])
        # Beams are put in another order at each step: two memories of a layer take turns.
        result = spare.pop() if spare else whole_BGSK.new_zeros(shape)
        torch.index_select(whole_BGSK[:, :, :used], 0, index, out=result[:, :, :used])
        if whole_BGSK.shape == shape:
            spare.append(whole_BGSK)
        return result


def _stacked(parts: Sequence[Tensor], used: Sequence[int], slots: int, dim: int) -> Tensor:
    """Tensors one under the other along dimension 0, with as many slots in dimension `dim`, of which some are used."""
    shape = list(parts[0].shape)
    shape[0], shape[dim] = sum(len(part) for part in parts), slots
    whole = parts[0].new_zeros(shape)
    start = 0
    for part, length in zip(parts, used, strict=True):
        whole.narrow(0, start, len(part)).narrow(dim, 0, length).copy_(part.narrow(dim, 0, length))
        start += len(part)
    return whole


def reading_bias(
    places: Tensor, slots: int, window: int | None = None, slopes_H: Tensor | None = None, always: bool = False
) -> Tensor | None:
    """What is added to the scores of new tokens on all slots: (B or 1, H or 1, T, S) float32, or None where nothing is.

    `places` (T,) or (B, T) int64. Minus infinity where a slot lies behind the token or before its window. A single
    token that stands in the last slot sees all: no bias, unless `always`.
    """
    single = places.ndim == 1 and places.shape[0] == 1
    if single and window is None and slopes_H is None and not always:
        return None
    query_BT1 = (places if places.ndim == 2 else places[None])[:, :, None]
    key_S = torch.arange(slots, device=places.device)
    seen_BTS = key_S <= query_BT1
    if window is not None:
        seen_BTS = seen_BTS & (query_BT1 - key_S < window)
    bias = torch.zeros((), device=places.device)
    if slopes_H is not None:
        bias = -slopes_H[:, None, None] * (query_BT1 - key_S).abs()[:, None]
    return torch.where(seen_BTS[:, None], bias, float("-inf"))
