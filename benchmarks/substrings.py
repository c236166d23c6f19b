"""Repeated spans of 50 words and more: speed and memory beside a suffix array, and whether both find the same.

    python -m benchmarks.substrings [--megabytes 16] [--large 128] [--repeats 3] [--limit 256] [--json FILE]

The text is generated: documents of 200 to 1,000 words drawn from English books with their frequencies, and in a share
of them spans of 60 to 300 words of other documents, so that about so many words of all are repeated ones. Last comes
real text as it is: English books in several editions. Ours is one thread, from Arrow text to spans, in process time,
scratch files included, the best of the repeats. The peer is a suffix array and its LCP array, on which ExactSubstr
(Lee et al. 2022) rests, by pydivsufsort over the same bytes, without the search that has to follow; it runs in the
peers' environment (`benchmarks/peers.sh`).

The rows `repeated words` and `spans` give what ours finds and what follows from a suffix array over the same words.
Memory is the peak of a process of its own that reads the text from Parquet, with --limit MB for the search; the row
`before` is such a process before it begins.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Iterator
from dataclasses import asdict
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from benchmarks.corpora import texts
from benchmarks.peers import peers_python
from benchmarks.rows import Row, parser, show
from pipeline.repeats.kept import KeptBatch, KeptDocuments, KeptInMemory
from pipeline.repeats.substrings import SubstringFacts, SubstringsConfig, find_repeated_substrings
from pipeline.text.scan import word_hashes

SEED = 4
SHARES = (0.0, 0.05, 0.3)
BATCH_ROWS = 1024
TOKENS = SubstringsConfig().tokens


class ParquetDocuments(KeptDocuments):
    """The documents of a Parquet file, one shard, the earlier the more preferred."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.shards = 1
        self.documents = pq.read_metadata(path).num_rows

    def read(self, shard: int) -> Iterator[KeptBatch]:
        """Yield the documents in batches."""
        row = 0
        with pq.ParquetFile(self.path, pre_buffer=False) as file:
            for batch in file.iter_batches(BATCH_ROWS, columns=["text"]):
                rows = np.arange(row, row + len(batch))
                row += len(batch)
                yield KeptBatch(shard, rows, rows.astype(np.uint32), batch["text"].cast(pa.large_string()))


@cache
def vocabulary() -> tuple[list[str], np.ndarray]:
    """The words of English books between white space, and how often each occurs."""
    counts = Counter(word for item in texts("prose", 4.0) for word in item.text.split())
    weights = np.array(list(counts.values()), float)
    return list(counts), weights / weights.sum()


def generated(megabytes: float, share: float) -> Iterator[str]:
    """Documents of this much text in all, of which about a share of the words repeats earlier documents."""
    random = np.random.default_rng(SEED)
    words, weights = vocabulary()
    written = 0.0
    earlier: list[np.ndarray] = []
    while written < megabytes * 1e6:
        drawn = random.choice(len(words), 1 << 20, p=weights)
        used = 0
        while used + 1000 <= len(drawn) and written < megabytes * 1e6:
            length = int(random.integers(200, 1001))
            document = drawn[used : used + length]
            used += length
            # A span has 180 words in the mean, a document 600.
            for _ in range(int(random.poisson(share / (1 - share) * length / 180)) if earlier else 0):
                source = earlier[int(random.integers(len(earlier)))]
                begin = int(random.integers(len(source) - 60))
                place = int(random.integers(len(document) + 1))
                span = source[begin : begin + int(random.integers(60, 301))]
                document = np.concatenate([document[:place], span, document[place:]])
            earlier.append(document)
            del earlier[:-10_000]
            text = " ".join([words[number] for number in document])
            written += len(text.encode())
            yield text


def in_memory(documents: list[str]) -> KeptInMemory:
    """The documents in batches of one shard, the earlier the more preferred."""
    batches = []
    for begin in range(0, len(documents), BATCH_ROWS):
        part = pa.array(documents[begin : begin + BATCH_ROWS], pa.large_string())
        rows = np.arange(begin, begin + len(part))
        batches.append(KeptBatch(0, rows, rows.astype(np.uint32), part))
    return KeptInMemory(batches)


def run(documents: KeptDocuments, folder: Path, limit_mb: int) -> tuple[float, SubstringFacts]:
    """Process time of a search, and what it saw."""
    facts = SubstringFacts()
    started = time.process_time()
    for _ in find_repeated_substrings(documents, SubstringsConfig(memory_limit_mb=limit_mb), folder, 1, facts):
        pass
    return time.process_time() - started, facts


def ask_peer(*arguments: object) -> dict[str, Any]:
    """What peers/suffix_array.py answers."""
    script = Path(__file__).with_name("peers") / "suffix_array.py"
    command = [str(peers_python()), str(script), *map(str, arguments)]
    return json.loads(subprocess.run(command, check=True, capture_output=True, text=True).stdout)


def compared(name: str, documents: list[str], folder: Path, repeats: int, limit_mb: int) -> list[Row]:
    """Speed and findings of both sides over the same documents."""
    kept = in_memory(documents)
    text, numbers = folder / "text", folder / "numbers"
    text.write_text("\n".join(documents), encoding="utf-8")
    megabytes = text.stat().st_size / 1e6
    seconds, facts = min((run(kept, folder / "scratch", limit_mb) for _ in range(repeats)), key=lambda found: found[0])
    built = ask_peer("build", text)
    parts = []
    for number, batch in enumerate(kept.batches):
        offsets, words = word_hashes(batch.texts)
        ends = np.arange(len(batch.rows), dtype=np.uint64) + np.uint64(number * BATCH_ROWS)  # no word hashes so low
        parts.append(np.insert(words, offsets[1:], ends))
    np.unique(np.concatenate(parts), return_inverse=True)[1].astype(np.int32).tofile(numbers)
    found = ask_peer("words", numbers, TOKENS)
    peer = ("pydivsufsort", built["version"])
    return [
        Row(f"{name}: speed", "MB/s", megabytes / seconds, megabytes / built["seconds"], *peer),
        Row(f"{name}: repeated words", "words", facts.repeated_tokens, found["words"], *peer),
        Row(f"{name}: spans", "spans", facts.spans, found["spans"], *peer),
        Row(f"{name}: share repeated", "%", 100 * facts.repeated_tokens / facts.tokens),
    ]


def peak_mib() -> float:
    """The peak of this process's memory."""
    (line,) = (line for line in Path("/proc/self/status").read_text().splitlines() if line.startswith("VmHWM"))
    return int(line.split()[1]) / 1024


def find_in_file(path: Path, limit_mb: int) -> dict[str, Any]:
    """Search a Parquet file; the peak of this process's memory before and after."""
    with tempfile.TemporaryDirectory(dir=path.parent) as scratch:
        run(in_memory(["one two " * TOKENS]), Path(scratch), 64)  # compiles
        for _ in ParquetDocuments(path).read(0):
            pass
        before = peak_mib()
        seconds, facts = run(ParquetDocuments(path), Path(scratch), limit_mb)
    return {"before": before, "after": peak_mib(), "seconds": seconds, "facts": asdict(facts)}


def memory_rows(megabytes: float, limit_mb: int, folder: Path) -> list[Row]:
    """Speed and peak memory of a process of its own over a file, beside that of a suffix array over the same text."""
    path, text = folder / "documents.parquet", folder / "text"
    schema = pa.schema([("text", pa.large_string())])
    with pq.ParquetWriter(path, schema) as writer, text.open("w", encoding="utf-8") as plain:
        held: list[str] = []
        for document in generated(megabytes, 0.05):
            held.append(document)
            plain.write(document + "\n")
            if len(held) == 8 * BATCH_ROWS:
                writer.write_table(pa.table([pa.array(held, schema.types[0])], schema))
                held = []
        writer.write_table(pa.table([pa.array(held, schema.types[0])], schema))
    command = [sys.executable, "-m", "benchmarks.substrings", "--find", str(path), "--limit", str(limit_mb)]
    root = {**os.environ, "PYTHONPATH": str(Path(__file__).parents[1])}
    ours = json.loads(subprocess.run(command, check=True, capture_output=True, text=True, env=root).stdout)
    built = ask_peer("build", text)
    peer = ("pydivsufsort", built["version"])
    name = f"{megabytes:g} MB in Parquet"
    size = text.stat().st_size / 1e6
    return [
        Row(f"{name}: speed", "MB/s", size / ours["seconds"], size / built["seconds"], *peer),
        Row(f"{name}: peak memory", "MiB", ours["after"], built["mib"], *peer),
        Row(f"{name}: peak memory, before", "MiB", ours["before"]),
    ]


def main() -> None:
    arguments = parser(__doc__ or "")
    arguments.add_argument("--megabytes", type=float, default=16.0, help="text for the comparison")
    arguments.add_argument("--large", type=float, default=128.0, help="MB of text for the comparison of memory")
    arguments.add_argument("--limit", type=int, default=256, help="memory_limit_mb of ours")
    arguments.add_argument("--repeats", type=int, default=3)
    arguments.add_argument("--find", type=Path, help="search one Parquet file, and print the memory that it took")
    options = arguments.parse_args()
    if options.find:
        print(json.dumps(find_in_file(options.find, options.limit)))
        return
    rows = []
    with tempfile.TemporaryDirectory() as folder:
        for share in SHARES:
            documents = list(generated(options.megabytes, share))
            name = f"generated, {100 * share:g} % planted"
            rows += compared(name, documents, Path(folder), options.repeats, options.limit)
        books = list(dict.fromkeys(item.text for item in texts("prose", options.megabytes)))
        rows += compared("books", books, Path(folder), options.repeats, options.limit)
        if options.large:
            rows += memory_rows(options.large, options.limit, Path(folder))
    show(rows, f"Repeated spans of {TOKENS} words: one core, process time", options.json)


if __name__ == "__main__":
    main()
