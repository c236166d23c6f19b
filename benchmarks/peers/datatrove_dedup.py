"""datatrove's four MinHash stages from Parquet to Parquet, in the peers' environment, and how long each takes.

    python datatrove_dedup.py FOLDER_OF_PARQUET WORKING_FOLDER WORKERS [clusters]

Imports nothing of Headrace. 5-word shingles, 14 x 8 bands, English words: its defaults. Prints one line of JSON: its
version, the seconds of each stage and how many documents stay. With `clusters` the documents that go are written too,
and the line has the clusters of two or more documents, as lists of ids.
"""

import json
import sys
import time
from collections import defaultdict
from collections.abc import Callable
from importlib.metadata import version
from pathlib import Path
from typing import Any

import pyarrow.parquet as pq
from datatrove.executor import LocalPipelineExecutor
from datatrove.pipeline.dedup import (
    MinhashDedupBuckets,
    MinhashDedupCluster,
    MinhashDedupFilter,
    MinhashDedupSignature,
)
from datatrove.pipeline.dedup.minhash import MinhashConfig
from datatrove.pipeline.readers import ParquetReader
from datatrove.pipeline.writers import ParquetWriter


def pipelines(documents: str, folder: Path, workers: int, clusters: bool) -> dict[str, Callable[[], Any]]:
    """The four stages in their order, each to be run."""
    config = MinhashConfig()
    signatures, buckets, removed = str(folder / "signatures"), str(folder / "buckets"), str(folder / "removed")
    cluster = MinhashDedupCluster(buckets, removed, config=config, save_cluster_id=clusters)
    gone = ParquetWriter(str(folder / "gone")) if clusters else None
    deduplicate = MinhashDedupFilter(removed, exclusion_writer=gone, load_cluster_ids=clusters)

    def stage(name: str, steps: list[Any], tasks: int) -> Callable[[], Any]:
        logs = str(folder / "logs" / name)
        return LocalPipelineExecutor(steps, tasks=tasks, workers=min(tasks, workers), logging_dir=logs).run

    return {
        "signature": stage("signature", [ParquetReader(documents), MinhashDedupSignature(signatures, config)], workers),
        "buckets": stage("buckets", [MinhashDedupBuckets(signatures, buckets, config=config)], config.num_buckets),
        "cluster": stage("cluster", [cluster], 1),
        "filter": stage(
            "filter", [ParquetReader(documents), deduplicate, ParquetWriter(str(folder / "kept"))], workers
        ),
    }


def clusters_of(folder: Path) -> list[list[str]]:
    """The clusters of two or more documents; documents without any pair have no number."""
    members = defaultdict(list)
    for path in [*(folder / "kept").glob("*.parquet"), *(folder / "gone").glob("*.parquet")]:
        for row in pq.read_table(path).to_pylist():
            number = (row["metadata"] or {}).get("minhash_cluster_id", -1)
            if number is not None and number >= 0:
                members[number].append(row["id"])
    return [ids for ids in members.values() if len(ids) > 1]


def main() -> None:
    documents, working, workers, *mode = sys.argv[1:]
    folder = Path(working)
    seconds = {}
    for name, run in pipelines(documents, folder, int(workers), mode == ["clusters"]).items():
        started = time.perf_counter()
        run()
        seconds[name] = time.perf_counter() - started
    result: dict[str, Any] = {"version": version("datatrove"), "seconds": seconds}
    result["kept"] = sum(pq.ParquetFile(path).metadata.num_rows for path in (folder / "kept").glob("*.parquet"))
    if mode == ["clusters"]:
        result["clusters"] = clusters_of(folder)
    print(json.dumps(result))


if __name__ == "__main__":
    main()
