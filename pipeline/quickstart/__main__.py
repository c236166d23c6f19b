"""`python -m pipeline.quickstart`: set the quickstart corpus up and print what it holds."""

from __future__ import annotations

import argparse
import sys
import time
from collections.abc import Sequence
from pathlib import Path

from pipeline.quickstart.corpus import Quickstart, QuickstartError, ensure
from pipeline.quickstart.layout import CorpusFile

_FORMATS = {
    ".warc.gz": "WARC (HTML)",
    ".xml.bz2": "Wikipedia dump",
    ".jsonl.gz": "JSON Lines, gz",
    ".jsonl.zst": "JSON Lines, zst",
    ".parquet": "Parquet",
    ".txt": "text",
    ".ftz": "fastText model",
}


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command; return its exit code."""
    parser = argparse.ArgumentParser(prog="python -m pipeline.quickstart", description=__doc__)
    parser.add_argument("--cache", type=Path, help="cache folder (default: $HEADRACE_CACHE or ~/.cache/headrace)")
    started = time.perf_counter()
    try:
        quickstart = ensure(parser.parse_args(arguments).cache, progress=lambda line: print(line, flush=True))
    except QuickstartError as error:
        print(f"error: {error}", file=sys.stderr)
        return 1
    print(f"the quickstart corpus lies in {quickstart.root} ({time.perf_counter() - started:.1f} s)\n")
    print(table(quickstart))
    return 0


def table(quickstart: Quickstart) -> str:
    """Return the files of the corpus as a table; the files of a folder share a line."""
    groups: dict[str, list[CorpusFile]] = {}
    for file in quickstart.files:
        groups.setdefault(file.group, []).append(file)
    rows: list[tuple[str, ...]] = [("file", "format", "documents", "MB", "licence", "languages")]
    rows += [_row(group, files) for group, files in groups.items()]
    total = sum(file.content_bytes for file in quickstart.files)
    rows.append(("", "", f"{sum(file.documents for file in quickstart.files):,}", f"{total / 1e6:.1f}", "", ""))
    widths = [max(len(row[column]) for row in rows) for column in range(5)]
    return "\n".join(_line(row, widths) for row in rows)


def _row(group: str, files: Sequence[CorpusFile]) -> tuple[str, ...]:
    name = group + "*.txt" if group.endswith("/") else group
    kind = next(kind for ending, kind in _FORMATS.items() if name.endswith(ending))
    documents = sum(file.documents for file in files)
    size = sum(file.content_bytes for file in files) / 1e6
    languages = sorted({tag for file in files for tag in file.languages})
    licences = sorted({licence for file in files for licence in file.licences})
    return (name, kind, f"{documents:,}", f"{size:.1f}", ", ".join(licences), " ".join(languages))


def _line(row: Sequence[str], widths: Sequence[int]) -> str:
    cells = [
        cell.rjust(width) if column in (2, 3) else cell.ljust(width)
        for column, (cell, width) in enumerate(zip(row, widths, strict=False))
    ]
    return "  ".join([*cells, row[-1]]).rstrip()


if __name__ == "__main__":
    sys.exit(main())
