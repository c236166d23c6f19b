"""Which tensors of transformers stand for a parameter of a model; one table serves both directions."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor


@dataclass(frozen=True)
class Counterpart:
    """A parameter of ours, and the tensors whose rows, one below another, are its own."""

    ours: str
    theirs: tuple[str, ...]
    rows: tuple[int, ...]
    """Rows of each of theirs in ours; the length of each, for vectors."""
    columns: int | None = None
    """None for a vector."""
    transposed: bool = False
    """Whether theirs are stored (columns, rows), like the Conv1D of GPT-2."""
    unused: int = 0
    """Rows at the head of theirs that nothing reads and ours lacks, like RoBERTa's positions of padding; zero where
    they are written. Only where theirs is one matrix, not transposed."""
    optional: bool = False
    """Whether ours may lack it: zeros are written then, as for every bias that ours lacks, and files that lack it, too,
    are read."""

    @property
    def shape(self) -> tuple[int, ...]:
        """Shape of our parameter."""
        return (sum(self.rows),) if self.columns is None else (sum(self.rows), self.columns)

    def shapes(self) -> dict[str, tuple[int, ...]]:
        """Shape of each of theirs by name."""
        counts = [rows + self.unused for rows in self.rows]
        shapes = [(rows,) if self.columns is None else (rows, self.columns) for rows in counts]
        return {
            name: shape[::-1] if self.transposed else shape for name, shape in zip(self.theirs, shapes, strict=True)
        }

    def split(self, ours: Tensor) -> dict[str, Tensor]:
        """Their tensors, as views of our parameter; a copy where they have unused rows."""
        if self.unused:
            return {self.theirs[0]: torch.cat([ours.new_zeros(self.unused, *ours.shape[1:]), ours])}
        parts = ours.split(self.rows)
        return {name: part.mT if self.transposed else part for name, part in zip(self.theirs, parts, strict=True)}

    def join(self, theirs: Sequence[Tensor]) -> Tensor:
        """Our parameter from their tensors in the order of `theirs`; contiguous."""
        parts = [part.mT if self.transposed else part[self.unused :] for part in theirs]
        return (parts[0] if len(parts) == 1 else torch.cat(parts)).contiguous()


def norm(ours: str, theirs: str, length: int, bias: bool = True) -> list[Counterpart]:
    """The gain, and the bias where there is one, of a normalisation."""
    names = ("weight", "bias") if bias else ("weight",)
    return [vector(f"{ours}.{name}", f"{theirs}.{name}", length) for name in names]


def vector(ours: str, theirs: str, length: int) -> Counterpart:
    """A gain or a bias that is one vector on both sides."""
    return Counterpart(ours, (theirs,), (length,))


def matrix(ours: str, theirs: str, rows: int, columns: int) -> Counterpart:
    """A matrix that is one on both sides."""
    return Counterpart(ours, (theirs,), (rows,), columns)


def linear(
    ours: str, theirs: dict[str, int], columns: int, bias: bool, transposed: bool = False
) -> Iterator[Counterpart]:
    """The weight, and the bias where there is one, of a linear layer that stands for `theirs` (module: output rows)."""
    rows = tuple(theirs.values())
    weights = tuple(f"{name}.weight" for name in theirs)
    yield Counterpart(f"{ours}.weight", weights, rows, columns, transposed)
    if bias:
        yield Counterpart(f"{ours}.bias", tuple(f"{name}.bias" for name in theirs), rows)


def elements(shape: tuple[int, ...]) -> int:
    """Numbers in a tensor of this shape."""
    return math.prod(shape)
