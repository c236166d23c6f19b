"""MinHash signatures of texts by datatrove, datasketch and rensa, in the peers' environment, and how long each takes.

    python minhash_signatures.py REQUEST.json DOCUMENTS.jsonl HASHES.npz RESULT.json

Imports nothing of Headrace. The request: `language` (of datatrove's tokenizer), `characters` (shingles of characters
and not of words), `permutations`, `seed`, `repeats`. The archive holds shingle hashes ready-made: `offsets` and
`hashes`. The result: versions, the seconds of process time of each peer, the fastest of the repeats, and a digest of
datasketch's signatures of the ready-made hashes.
"""

import hashlib
import json
import sys
import tempfile
import time
from collections.abc import Callable
from importlib.metadata import version
from itertools import pairwise
from typing import Any

import numpy as np
from datasketch import MinHash
from datatrove.data import Document
from datatrove.pipeline.dedup import MinhashDedupSignature
from datatrove.pipeline.dedup.minhash import MinhashConfig
from datatrove.utils.logging import logger
from rensa import RMinHash

SHINGLE_WORDS = 5


def shingles(text: str, characters: bool) -> list[str]:
    """Every 5 words of a text, as the documentation of these libraries makes them: in lower case, split at spaces."""
    words = text.lower().split()
    if characters:
        words = list("".join(words))
    return [" ".join(words[at : at + SHINGLE_WORDS]) for at in range(max(1, len(words) - SHINGLE_WORDS + 1))]


def fastest(repeats: int, work: Callable[[], Any]) -> float:
    """Process time of the fastest run, in seconds."""
    found = []
    for _ in range(repeats):
        started = time.process_time()
        work()
        found.append(time.process_time() - started)
    return min(found)


def datatrove_stage(texts: list[str], language: str) -> None:
    """The signature stage with its defaults: 5-grams, 14 buckets of 8 hashes, which are written and sorted."""
    with tempfile.TemporaryDirectory() as folder:
        stage = MinhashDedupSignature(folder, MinhashConfig(), language)
        stage.run(Document(text=text, id=str(number)) for number, text in enumerate(texts))


def main() -> None:
    request_path, documents_path, hashes_path, result_path = sys.argv[1:]
    logger.remove()
    with open(request_path, encoding="utf-8") as stream:
        request = json.load(stream)
    with open(documents_path, encoding="utf-8") as stream:
        texts = [json.loads(line) for line in stream]
    ready = np.load(hashes_path)
    flat, offsets = ready["hashes"], ready["offsets"]
    hashes = [flat[start:end].tolist() for start, end in pairwise(offsets)]
    characters, count, seed, repeats = (request[name] for name in ("characters", "permutations", "seed", "repeats"))

    def bulk() -> list[MinHash]:
        tokens = ([shingle.encode() for shingle in shingles(text, characters)] for text in texts)
        return MinHash.bulk(tokens, num_perm=count, seed=seed)

    def bulk_of_hashes() -> list[MinHash]:
        return MinHash.bulk(hashes, num_perm=count, seed=seed, hashfunc=lambda value: value, scheme="affine32")

    def rensa() -> Any:
        return RMinHash.digest_matrix_from_token_sets([shingles(text, characters) for text in texts], count, seed)

    def rensa_of_hashes() -> Any:
        return RMinHash.digest_matrix_from_token_hash_sets(hashes, count, seed)

    datatrove_stage(texts[:1], request["language"])  # loads its tokenizer
    signatures = b"".join(sketch.hashvalues.astype("<u4").tobytes() for sketch in bulk_of_hashes())
    result = {
        "versions": {name: version(name) for name in ("datatrove", "datasketch", "rensa")},
        "datatrove": fastest(1, lambda: datatrove_stage(texts, request["language"])),
        "datasketch": fastest(repeats, bulk),
        "datasketch_hashes": fastest(repeats, bulk_of_hashes),
        "rensa": fastest(repeats, rensa),
        "rensa_hashes": fastest(repeats, rensa_of_hashes),
        "signatures": hashlib.sha256(signatures).hexdigest(),
    }
    with open(result_path, "w", encoding="utf-8") as stream:
        json.dump(result, stream)


if __name__ == "__main__":
    main()
