"""What every benchmark prints and writes: rows of {name, unit, ours, peer, peer_name, peer_version, ratio}."""

from __future__ import annotations

import argparse
import json
from dataclasses import asdict, dataclass
from pathlib import Path

from rich.console import Console
from rich.table import Table


@dataclass(frozen=True)
class Row:
    """One comparison; `ratio` is ours divided by the peer's."""

    name: str
    unit: str
    ours: float
    peer: float | None = None
    peer_name: str = ""
    peer_version: str = ""

    @property
    def ratio(self) -> float | None:
        return self.ours / self.peer if self.peer else None


def parser(description: str) -> argparse.ArgumentParser:
    """Return an argument parser with the option that every benchmark has."""
    result = argparse.ArgumentParser(description=description)
    result.add_argument("--json", type=Path, metavar="FILE", help="write the rows as JSON, too")
    return result


def show(rows: list[Row], title: str, path: Path | None = None) -> None:
    """Print rows as a table and write them where asked."""
    table = Table(title=title, title_justify="left")
    for column in ("name", "unit", "ours", "peer", "ratio", "peer name"):
        table.add_column(column, justify="right" if column in ("ours", "peer", "ratio") else "left")
    for row in rows:
        table.add_row(
            row.name,
            row.unit,
            f"{row.ours:,.4g}",
            "" if row.peer is None else f"{row.peer:,.4g}",
            "" if row.ratio is None else f"{row.ratio:.3g}",
            f"{row.peer_name} {row.peer_version}".strip(),
        )
    Console().print(table)
    if path is not None:
        path.write_text(json.dumps([{**asdict(row), "ratio": row.ratio} for row in rows], indent=1), encoding="utf-8")
