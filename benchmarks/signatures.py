"""MinHash signatures beside datatrove's stage, datasketch's bulk and rensa: text in, 112 permutations out, one core.

    python -m benchmarks.signatures [--megabytes 4] [--repeats 3] [--json FILE]

All sides have the same documents in the same run, in process time of one core with one thread, the fastest of the
repeats (datatrove runs once): English documentation as it is, the same cut into documents of 1.1 KB, and Chinese. The
peers run in their own environment (`benchmarks/peers.sh`), without their start.

Ours goes from Arrow text to the finished table: signatures, keys of 14 bands, digests of the words. datatrove's is its
whole signature stage, which writes and sorts 14 buckets of 8, with 5-grams, its defaults. datasketch (`MinHash.bulk`)
and rensa (`RMinHash.digest_matrix_from_token_sets`) get shingles of 5 words, or of 5 characters in Chinese, made in
plain Python as their documentation does; that is in their time. The rows of ready-made hashes give them our shingle
hashes as lists, and compare the permutations alone. Our signatures of these hashes are datasketch's, bit for bit, or
the benchmark fails. The last rows are the parts of our time.
"""

from __future__ import annotations

import hashlib
import json
import os
import subprocess
import tempfile
import time
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa

from benchmarks.corpora import Text, arrow, texts
from benchmarks.peers import TOKENIZERS, peers_python
from benchmarks.rows import Row, parser, show
from pipeline.dedup.config import DedupConfig
from pipeline.dedup.exact import content_digests
from pipeline.dedup.shingles import shingle_hashes
from pipeline.dedup.signatures import band_keys, minhash, signature_table
from pipeline.stage import ROW_GROUP_ROWS
from pipeline.text.scan import word_hashes

CONFIG = DedupConfig()
SHORT_CHARACTERS = 1100
ONE_THREAD = dict.fromkeys(("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS", "RAYON_NUM_THREADS"), "1")


def cut(documents: Iterable[Text]) -> list[Text]:
    """The documents in pieces of about 1.1 KB that end with a word."""
    found = []
    for item in documents:
        start = 0
        while start < len(item.text):
            end = item.text.find(" ", start + SHORT_CHARACTERS)
            end = len(item.text) if end < 0 else end
            found.append(Text(item.text[start:end], item.language, item.source))
            start = end
    return found


def fastest(repeats: int, work: Callable[[], object]) -> float:
    """Process time of the fastest run in seconds: at least `repeats` runs, and two seconds of them."""
    work()
    found: list[float] = []
    while len(found) < repeats or sum(found) < 2:
        started = time.process_time()
        work()
        found.append(time.process_time() - started)
    return min(found)


def ask_peers(documents: list[Text], ready: tuple[np.ndarray, np.ndarray], repeats: int) -> dict[str, Any]:
    """What minhash_signatures.py finds."""
    language = documents[0].language or "en"
    request = {
        "language": TOKENIZERS[language],
        "characters": language == "zh",
        "permutations": CONFIG.permutations,
        "seed": CONFIG.seed,
        "repeats": repeats,
    }
    with tempfile.TemporaryDirectory() as folder:
        paths = [Path(folder, name) for name in ("request.json", "documents.jsonl", "hashes.npz", "result.json")]
        paths[0].write_text(json.dumps(request), encoding="utf-8")
        paths[1].write_text("".join(json.dumps(item.text) + "\n" for item in documents), encoding="utf-8")
        np.savez(paths[2], offsets=ready[0], hashes=ready[1])
        script = Path(__file__).parent / "peers/minhash_signatures.py"
        command = list(map(str, (peers_python(), script, *paths)))
        subprocess.run(command, check=True, cwd=folder, env={**os.environ, **ONE_THREAD})
        result: dict[str, Any] = json.loads(paths[3].read_text(encoding="utf-8"))
    return result


def tables(documents: list[Text]) -> list[pa.Table]:
    """Batches of documents as the stage reads them."""
    found = []
    for at in range(0, len(documents), ROW_GROUP_ROWS):
        batch = documents[at : at + ROW_GROUP_ROWS]
        columns = {
            "id": pa.array([f"{at + row:032x}" for row in range(len(batch))]),
            "source": pa.array([item.source for item in batch]),
            "date": pa.nulls(len(batch), pa.string()),
            "text": arrow(batch),
        }
        found.append(pa.table(columns))
    return found


def part_rows(name: str, batches: list[pa.Array], megabytes: float, repeats: int) -> list[Row]:
    """ns a byte of the parts of our work."""
    words = [word_hashes(batch) for batch in batches]
    hashes = [shingle_hashes(*batch, CONFIG.shingle_words) for batch in words]
    signatures = [minhash(*batch, CONFIG.permutations, CONFIG.seed) for batch in hashes]
    parts: dict[str, Callable[[], object]] = {
        "words": lambda: [word_hashes(batch) for batch in batches],
        "shingles": lambda: [shingle_hashes(*batch, CONFIG.shingle_words) for batch in words],
        "permutations": lambda: [minhash(*batch, CONFIG.permutations, CONFIG.seed) for batch in hashes],
        "keys of bands": lambda: [band_keys(batch, CONFIG.bands, CONFIG.rows) for batch in signatures],
        "digests": lambda: [content_digests(batch, *own) for batch, own in zip(batches, words, strict=True)],
    }
    return [Row(f"{part}, {name}", "ns/byte", fastest(repeats, work) * 1e3 / megabytes) for part, work in parts.items()]


def rows_of(name: str, documents: list[Text], repeats: int) -> tuple[list[Row], list[Row]]:
    """Comparisons and parts for one kind of documents."""
    megabytes = sum(len(item.text.encode()) for item in documents) / 1e6
    print(f"{name}: {megabytes:.1f} MB, {len(documents):,} documents", flush=True)
    inputs = tables(documents)
    batches = [table["text"].chunk(0) for table in inputs]
    ready = shingle_hashes(*word_hashes(pa.chunked_array(batches)), CONFIG.shingle_words)
    theirs = ask_peers(documents, ready, repeats)
    signatures = minhash(*ready, CONFIG.permutations, CONFIG.seed)
    if hashlib.sha256(signatures.astype("<u4").tobytes()).hexdigest() != theirs["signatures"]:
        raise SystemExit(f"{name}: signatures are not datasketch's")
    ours = fastest(repeats, lambda: [signature_table(table, CONFIG) for table in inputs])
    permuted = fastest(repeats, lambda: minhash(*ready, CONFIG.permutations, CONFIG.seed))
    compared = (
        ("text in", "datatrove", ours, "datatrove"),
        ("text in", "datasketch", ours, "datasketch"),
        ("text in", "rensa", ours, "rensa"),
        ("ready-made hashes in", "datasketch", permuted, "datasketch_hashes"),
        ("ready-made hashes in", "rensa", permuted, "rensa_hashes"),
    )
    rows = [
        Row(f"{what}, {name}", "MB/s", megabytes / seconds, megabytes / theirs[key], peer, theirs["versions"][peer])
        for what, peer, seconds, key in compared
    ]
    rows.append(Row(f"text in, {name}", "documents/s", len(documents) / ours))
    return rows, part_rows(name, batches, megabytes, repeats)


def main() -> None:
    arguments = parser(__doc__ or "")
    arguments.add_argument("--megabytes", type=float, default=4.0, help="text of each kind")
    arguments.add_argument("--repeats", type=int, default=3)
    options = arguments.parse_args()
    pa.set_cpu_count(1)
    long = texts("technical", options.megabytes)
    kinds = {
        "English documentation": long,
        "English, 1.1 KB": cut(long),
        "Chinese": texts("chinese", options.megabytes),
    }
    found = [rows_of(name, documents, options.repeats) for name, documents in kinds.items()]
    rows = [row for part in (0, 1) for pair in found for row in pair[part]]
    show(rows, "Signatures: one core, process time, 112 permutations", options.json)


if __name__ == "__main__":
    main()
