"""What every benchmark prints and writes: rows of {name, unit, ours, peer, peer_name, peer_version, ratio, note}.

A row may lack a figure; its note then says why. Nothing but the standard library: machines that train have little more
than torch.
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path


@dataclass(frozen=True)
class Row:
    """One comparison; `ratio` is ours divided by the peer's."""

    name: str
    unit: str
    ours: float | None = None
    peer: float | None = None
    peer_name: str = ""
    peer_version: str = ""
    note: str = ""

    @property
    def ratio(self) -> float | None:
        return self.ours / self.peer if self.ours is not None and self.peer else None


def parser(description: str) -> argparse.ArgumentParser:
    """Return an argument parser with the option that every benchmark has."""
    result = argparse.ArgumentParser(description=description)
    result.add_argument("--json", type=Path, metavar="FILE", help="write the rows as JSON, too")
    return result


def show(rows: Sequence[Row], title: str, path: Path | None = None) -> None:
    """Print rows as a table and write them where asked."""
    print(table(rows, title))
    if path is not None:
        write(rows, path)


def table(rows: Sequence[Row], title: str) -> str:
    """The rows as a Markdown table whose columns line up in a terminal, too."""
    header = ["name", "unit", "ours", "peer", "ratio", "peer name", "note"]
    cells = [
        [
            row.name,
            row.unit,
            _figure(row.ours),
            _figure(row.peer),
            "" if row.ratio is None else f"{row.ratio:.3g}",
            f"{row.peer_name} {row.peer_version}".strip(),
            row.note.replace("|", "/").replace("\n", " "),
        ]
        for row in rows
    ]
    if not any(row.note for row in rows):
        header, cells = header[:-1], [entries[:-1] for entries in cells]
    widths = [max(map(len, column)) for column in zip(header, *cells, strict=True)]
    right = {2, 3, 4}

    def line(entries: Sequence[str]) -> str:
        padded = [
            entry.rjust(width) if at in right else entry.ljust(width)
            for at, (entry, width) in enumerate(zip(entries, widths, strict=True))
        ]
        return f"| {' | '.join(padded)} |"

    rule = [f"{'-' * (width - 1)}{':' if at in right else '-'}" for at, width in enumerate(widths)]
    return "\n".join([f"{title}\n", line(header), line(rule), *map(line, cells)])


def write(rows: Sequence[Row], path: Path) -> None:
    """Write the rows as JSON."""
    path.write_text(json.dumps([{**asdict(row), "ratio": row.ratio} for row in rows], indent=1), encoding="utf-8")


def read(path: Path) -> list[Row]:
    """Rows that `write` wrote."""
    documents = json.loads(path.read_text(encoding="utf-8"))
    return [Row(**{key: value for key, value in document.items() if key != "ratio"}) for document in documents]


def _figure(value: float | None) -> str:
    return "" if value is None else f"{value:,.4g}" if value < 1000 else f"{value:,.0f}"
