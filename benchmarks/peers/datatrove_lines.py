"""datatrove's three stages of sentence deduplication, in the peers' environment, and how long they take.

    python datatrove_lines.py DOCUMENTS_JSONL WORKING_FOLDER

Imports nothing of Headrace. Reads one {"text": ...} a line; removes repeated lines, and then, from the original texts,
repeated spans of three sentences. One process, no limits on what is left of a document. Prints one line of JSON: its
version, and for each the process time in seconds and the bytes of text that stay.
"""

import json
import sys
import time
from importlib.metadata import version
from pathlib import Path
from typing import Any

from datatrove.data import Document
from datatrove.pipeline.dedup import SentenceDedupFilter, SentenceDedupSignature, SentenceFindDedups
from datatrove.pipeline.dedup.sentence_dedup import SentDedupConfig


def deduplicate(texts: list[str], folder: Path, **options: Any) -> dict[str, float]:
    """Run the three stages over documents in memory; signatures and decisions go to files."""
    config = SentDedupConfig(min_doc_words=0, min_num_sentences=0, **options)
    signatures, duplicates = str(folder / "signatures"), str(folder / "duplicates")

    def documents() -> list[Document]:
        return [Document(text=text, id=str(number)) for number, text in enumerate(texts)]

    steps = (
        SentenceDedupSignature(signatures, config=config),
        SentenceFindDedups(signatures, duplicates, config=config),
        SentenceDedupFilter(duplicates, config=config),
    )
    steps[0].get_hashes(Document(text="Load the tokenizer. It is lazy. Now it is there.", id=""), 0)
    given = documents()
    started = time.process_time()
    steps[0].run(given, 0, 1)
    steps[1].run(None, 0, 1)
    kept = sum(len(document.text.encode()) for document in steps[2].run(iter(documents()), 0, 1))
    return {"seconds": time.process_time() - started, "kept_bytes": kept}


def main() -> None:
    path, folder = map(Path, sys.argv[1:])
    with path.open(encoding="utf-8") as stream:
        texts = [json.loads(line)["text"] for line in stream]
    lines = deduplicate(texts, folder / "lines", n_sentences=1, split_sentences=False)
    sentences = deduplicate(texts, folder / "sentences", n_sentences=3, split_sentences=True)
    print(json.dumps({"version": version("datatrove"), "line": lines, "sentences": sentences}))


if __name__ == "__main__":
    main()
