"""The content of a part of a file, as a reader wants it: runs of bytes without damage, each byte with its place."""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass, field
from typing import Any

from pipeline.sources.compression import Compression, Damage, Piece, Place, Raw, find_frames, read_pieces
from pipeline.sources.config import MIB, Limits
from pipeline.sources.files import InputFile, open_input
from pipeline.sources.records import Rejected

SEARCHED = 4 * MIB
BEGINNING = Place(0, 0)


@dataclass(frozen=True, slots=True)
class Part:
    """What one unit reads of one file: from `start` to `end` (None: the end of the file).

    `weight` is the bytes of the file that this covers; `options` is what the planner found out for the reader: JSON.
    """

    name: str
    path: str
    size: int
    stamp: str
    compression: Compression = "none"
    start: Place = BEGINNING
    end: Place | None = None
    weight: int = 0
    options: dict[str, Any] = field(default_factory=dict)

    def to_json(self) -> dict[str, Any]:
        """Return the part as JSON for a unit's spec."""
        return asdict(self)

    @classmethod
    def from_json(cls, value: dict[str, Any]) -> Part:
        """Return the part of a unit's spec."""
        end = value["end"]
        return cls(**{**value, "start": Place(*value["start"]), "end": None if end is None else Place(*end)})

    def locator(self, place: Place | int | str) -> str:
        """Return `<file>#<offset>`, in a compressed file `<file>#<offset of the frame>[+<offset in its output>]`."""
        if not isinstance(place, Place):
            return f"{self.name}#{place}"
        if self.compression == "none":
            return f"{self.name}#{place.inner}"
        return f"{self.name}#{place.frame}+{place.inner}" if place.inner else f"{self.name}#{place.frame}"

    def rejected(self, damage: Damage) -> Rejected:
        """Return damage as what the reader reports."""
        return Rejected(
            self.locator(damage.place), damage.rule, damage.detail, value=damage.value, threshold=damage.threshold
        )


class Run:
    """Pieces without damage between them. When all are taken, `damage` says what ended the run, None at the end.

    Offsets count from the run's first byte; `place` turns them into places.
    """

    def __init__(self, pieces: Iterator[Piece | Damage]) -> None:
        self.damage: Damage | None = None
        self.length = 0
        self._pieces = pieces
        self._offsets: list[int] = []
        self._places: list[Place] = []

    def __iter__(self) -> Iterator[Piece]:
        for item in self._pieces:
            if isinstance(item, Damage):
                self.damage = item
                return
            place = item.place
            if not self._places or place != self._following():
                self._offsets.append(self.length)
                self._places.append(place)
            self.length += len(item.data)
            yield item

    def _following(self) -> Place:
        frame, inner = self._places[-1]
        return Place(frame, inner + self.length - self._offsets[-1])

    def place(self, offset: int) -> Place:
        """Return the place of a byte by its offset in the run."""
        index = bisect_right(self._offsets, offset) - 1
        if index < 0:  # nothing was read
            return self.damage.place if self.damage else Place(0, 0)
        frame, inner = self._places[index]
        return Place(frame, inner + offset - self._offsets[index])


def runs(pieces: Iterator[Piece | Damage]) -> Iterator[Run]:
    """Yield the runs of some content; each must be taken to its end before the next."""
    while True:
        run = Run(pieces)
        yield run
        if run.damage is None:
            return


def open_pieces(part: Part, limits: Limits) -> Iterator[Piece | Damage]:
    """Yield the content of a part. Raises ValueError where the file is not the one that was planned with."""
    with open_input(part) as stream:
        yield from read_pieces(Raw(stream, part.size), part.compression, part.start, part.end, limits)


def head(raw: Raw, compression: Compression, limits: Limits, length: int = 4, start: Place = BEGINNING) -> bytes:
    """Return the first bytes of a file's content, or of it behind a place: `length` or more where there are so many."""
    content = b""
    for piece in read_pieces(raw, compression, start, None, limits):
        if not isinstance(piece, Piece):
            break
        content += piece.data
        if len(content) >= length:
            break
    return content


Search = Callable[[bytes], int]
"""Returns where in some content the first record surely begins, or -1 where more content is needed.

The content begins with a frame, or in an uncompressed file one byte before where a record would do."""


def split(
    file: InputFile, raw: Raw, compression: Compression, unit_bytes: int, search: Search, limits: Limits
) -> list[Part]:
    """Return the parts that a file is read in: some `unit_bytes` each, from one record's beginning to another's."""
    targets = split_targets(file.size, unit_bytes)
    if compression == "none":
        starts = [Place(0, target - 1) for target in targets]
    else:
        starts = [Place(frame, 0) for frame in find_frames(raw, compression, targets)]
    bounds = [Place(0, 0)]
    for start in starts:
        if start >= bounds[-1]:
            found = _first_record(Run(read_pieces(raw, compression, start, None, limits)), search)
            if found is not None and found > bounds[-1] and (compression != "none" or found.inner < file.size):
                bounds.append(found)
    return parts_between(file, compression, bounds)


def split_targets(size: int, unit_bytes: int) -> list[int]:
    """Return the offsets near which a file is best split, so that the parts are of one size."""
    count = -(-size // unit_bytes)
    return [size * index // count for index in range(1, count)]


def parts_between(file: InputFile, compression: Compression, bounds: list[Place]) -> list[Part]:
    """Return the parts from each bound to the next, the last one to the end of the file."""
    offsets = [bound.inner if compression == "none" else bound.frame for bound in bounds] + [file.size]
    return [
        Part(file.name, file.path, file.size, file.stamp, compression, start, end, offsets[index + 1] - offsets[index])
        for index, (start, end) in enumerate(zip(bounds, [*bounds[1:], None], strict=True))
    ]


def _first_record(run: Run, search: Search) -> Place | None:
    content = b""
    for piece in run:
        content += piece.data
        found = search(content)
        if found >= 0:
            return run.place(found) if found < len(content) else _behind(run, len(content))
        if len(content) > SEARCHED:
            return None
    return None


def _behind(run: Run, offset: int) -> Place:
    place = run.place(offset - 1)
    return Place(place.frame, place.inner + 1)
