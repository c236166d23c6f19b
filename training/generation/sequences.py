"""The sequences that a model writes, and its reading of them: each token once, while the context has room.

Shape suffixes: B sequences, T tokens, S tokens of an encoder, D residual width, V vocabulary.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from training.models import Model, encoder_decoder, transformer
from training.models.cache import KeyValueCache


class Trunk:
    """Reads a decoder-only model. With `prefix` each row's given tokens see each other."""

    def __init__(self, model: Model, given: Sequence[int], prefix: bool) -> None:
        self.model = model
        self.given = list(given)
        self.prefix = prefix
        # A bidirectional model reads from left to right.
        self._how: dict[str, Any] = {} if model.config.attention == "causal" else {"causal": True}

    def new(self, ids_BT: Tensor, cache: KeyValueCache) -> Tensor:
        """The stream (B, T, D) of tokens that follow those in the cache."""
        known = self.given if self.prefix and cache.empty else None
        hidden_BTD: Tensor = self.model.hidden(ids_BT, cache=cache, **self._settings(ids_BT, known))
        return hidden_BTD

    def whole(self, ids_BT: Tensor, rows: Sequence[int], skipped: Sequence[int]) -> Tensor:
        """The stream of whole rows, each without as many of its first tokens as were skipped."""
        known = [max(self.given[row] - cut, 0) for row, cut in zip(rows, skipped, strict=True)]
        hidden_BTD: Tensor = self.model.hidden(ids_BT, **self._settings(ids_BT, known if self.prefix else None))
        return hidden_BTD

    def select(self, rows: Sequence[int]) -> None:
        """Keep the given rows, in this order."""
        self.given = [self.given[row] for row in rows]

    def _settings(self, ids_BT: Tensor, known: Sequence[int] | None) -> dict[str, Any]:
        if known is None:
            return self._how
        place_T = torch.arange(ids_BT.shape[1], device=ids_BT.device)
        return {**self._how, "prefix_BT": place_T < torch.tensor(known, device=ids_BT.device)[:, None]}


class Answering:
    """Reads the decoder of an encoder-decoder, whose encoder has read `inputs` once."""

    def __init__(self, model: Model, inputs: Sequence[Sequence[int]]) -> None:
        self.model = model
        device = next(model.parameters()).device
        inputs_BS = padded(inputs, device)
        lengths_B = torch.tensor([len(row) for row in inputs], device=device)
        seen_BS = torch.arange(inputs_BS.shape[1], device=device) < lengths_B[:, None]
        # Rows of one length need no mask.
        self._documents_BS = None if bool(seen_BS.all()) else seen_BS.long()
        self._memory_BSD: Tensor = model.encoded(inputs_BS, self._documents_BS)

    def new(self, ids_BT: Tensor, cache: KeyValueCache) -> Tensor:
        """The stream (B, T, D) of the decoder's tokens that follow those in the cache."""
        return self._decoded(ids_BT, self._memory_BSD, self._documents_BS, cache)

    def whole(self, ids_BT: Tensor, rows: Sequence[int], skipped: Sequence[int]) -> Tensor:
        """The stream of whole rows of the decoder."""
        documents_BS = None if self._documents_BS is None else self._documents_BS[list(rows)]
        return self._decoded(ids_BT, self._memory_BSD[list(rows)], documents_BS, None)

    def select(self, rows: Sequence[int]) -> None:
        """Keep the given rows, in this order."""
        self._memory_BSD = self._memory_BSD[list(rows)]
        if self._documents_BS is not None:
            self._documents_BS = self._documents_BS[list(rows)]

    def _decoded(
        self, ids_BT: Tensor, memory_BSD: Tensor, documents_BS: Tensor | None, cache: KeyValueCache | None
    ) -> Tensor:
        own_BT = None if documents_BS is None else torch.ones_like(ids_BT)
        hidden_BTD: Tensor = self.model.decoded(ids_BT, memory_BSD, documents_BS, own_BT, cache)
        return hidden_BTD


class Sequences:
    """Rows of ids that grow. Where a row is longer than the context, its newest tokens are read, anew at each step.

    `room` tokens are to be added to a row at most. Rows may differ in length; attribute `ids` holds them.
    """

    def __init__(self, reader: Trunk | Answering, ids: Sequence[Sequence[int]], room: int) -> None:
        self.ids = [list(row) for row in ids]
        self._reader = reader
        model = reader.model
        self._model = model
        self._context_length: int = model.config.context_length
        self._device = next(model.parameters()).device
        self._cache: KeyValueCache | None = None
        if keeps_keys(model):
            longest = max(map(len, self.ids))
            self._cache = KeyValueCache(len(self.ids), min(longest + room, self._context_length))

    def __len__(self) -> int:
        """How many rows there are."""
        return len(self.ids)

    def logits(self, last: int = 1) -> Tensor:
        """Logits (B, last, V) float32 of what follows each of the last tokens of each row.

        More than one needs as many tokens that were not read yet, and room for them in the context.
        """
        long = [row for row, ids in enumerate(self.ids) if len(ids) > self._context_length]
        everything = self._cache is None
        again = list(range(len(self.ids))) if everything else long
        hidden_BLD = None if len(again) == len(self.ids) else self._read_new(set(long), last)
        if again:
            whole_BLD = self._read_whole(again, last)
            if hidden_BLD is None:
                hidden_BLD = whole_BLD
            else:
                hidden_BLD = hidden_BLD.index_copy(0, torch.tensor(again, device=self._device), whole_BLD)
        assert hidden_BLD is not None
        # What stands in for a model in training has no readout.
        readout = getattr(self._model, "readout", None)
        logits_BLV: Tensor = self._model.head(hidden_BLD if readout is None else readout(hidden_BLD))
        return logits_BLV.float()

    def append(self, tokens: Sequence[int]) -> None:
        """Add a token to each row."""
        for row, token in zip(self.ids, tokens, strict=True):
            row.append(token)

    def cut(self, row: int, length: int) -> None:
        """Take a row back to its first `length` tokens."""
        del self.ids[row][length:]
        if self._cache is not None:
            self._cache.rewind(row, length)

    def select(self, rows: Sequence[int]) -> None:
        """Keep the given rows, in this order; one may come several times."""
        if list(rows) == list(range(len(self.ids))):
            return
        self.ids = [list(self.ids[row]) for row in rows]
        self._reader.select(rows)
        if self._cache is not None:
            self._cache.select(rows)

    def joined(self, other: Sequences) -> Sequences:
        """The rows of both, these before, of one decoder-only model that keeps keys; neither is used any more."""
        mine, theirs = self._reader, other._reader
        assert isinstance(mine, Trunk)
        assert isinstance(theirs, Trunk)
        assert self._cache is not None
        assert other._cache is not None
        reader = Trunk(mine.model, [*mine.given, *theirs.given], mine.prefix)
        both = Sequences(reader, [*self.ids, *other.ids], 0)
        both._cache = self._cache.joined(other._cache)
        return both

    def _read_new(self, long: set[int], last: int) -> Tensor:
        """The stream (B, last, D) at the last tokens of all rows but the long ones, after a pass over the new."""
        cache = self._cache
        assert cache is not None
        new = [
            [] if row in long else ids[length:]
            for row, (ids, length) in enumerate(zip(self.ids, cache.lengths, strict=True))
        ]
        hidden_BTD = self._reader.new(padded(new, self._device), cache)
        counts = [len(ids) for ids in new]
        cache.advance(counts)
        return _last(hidden_BTD, counts, last)

    def _read_whole(self, rows: Sequence[int], last: int) -> Tensor:
        ids = [self.ids[row][-self._context_length :] for row in rows]
        skipped = [len(self.ids[row]) - len(kept) for row, kept in zip(rows, ids, strict=True)]
        hidden_BTD = self._reader.whole(padded(ids, self._device), rows, skipped)
        return _last(hidden_BTD, [len(kept) for kept in ids], last)


def keeps_keys(model: Model) -> bool:
    """Whether a model reads a token once: not with attention that an adapter has changed, nor in shards."""
    if isinstance(model, transformer.Transformer):
        return all(
            type(block) is transformer.Block and type(block.attention) is transformer.Attention
            for block in model.blocks
        )
    if isinstance(model, encoder_decoder.EncoderDecoder):
        blocks = [block for block in model.blocks if type(block) is encoder_decoder.Block]
        return len(blocks) == len(model.blocks) and all(
            type(block.attention) is encoder_decoder.SelfAttention for block in blocks
        )
    return False


def padded(rows: Sequence[Sequence[int]], device: torch.device) -> Tensor:
    """Rows of ids (B, T) int64, the short ones filled with 0 at their ends."""
    longest = max(map(len, rows))
    return torch.tensor([[*row, *[0] * (longest - len(row))] for row in rows], device=device)


def _last(hidden_BTD: Tensor, counts: Sequence[int], last: int) -> Tensor:
    """The stream (B, last, D) at the last of the `counts` tokens of each row."""
    tokens = hidden_BTD.shape[1]
    if all(count == tokens for count in counts):
        return hidden_BTD[:, tokens - last :]
    place_B1 = torch.tensor(counts, device=hidden_BTD.device)[:, None]
    place_BL = (place_B1 - last + torch.arange(last, device=hidden_BTD.device)).clamp(min=0)
    return hidden_BTD.gather(1, place_BL[:, :, None].expand(-1, -1, hidden_BTD.shape[2]))
