"""Decontamination against 100 evaluation sets and more at once: speed, and what is found of planted items.

    python -m benchmarks.decontamination [--megabytes 8] [--ngrams 5000000] [--rule gpt3] [--folder DIR] [--json FILE]

The evaluation sets are the files of DIR/eval (DIR is ../shared/data by default; BLiMP's phenomena and CMMLU's subjects
are a benchmark each), and generated items of random words up to the number of n-grams asked for. The documents are
English books and Chinese texts of DIR, in which items are planted. Speeds are of one core and the whole way from Arrow
text to matches. The peer is datatrove's NGramsDecontFilter (English) where it is installed, over every twentieth item,
as its tokenizer takes minutes for all (fewer n-grams do not make it slower); else a plain statement of the rule, a
Python set of 13-gram tuples over all items.
"""

from __future__ import annotations

import argparse
import gzip
import importlib.metadata
import json
import random
import re
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pyarrow as pa

from benchmarks.rows import Row, parser, show
from pipeline.decontamination.benchmarks import BenchmarkConfig, Item, items
from pipeline.decontamination.config import DecontaminateConfig, Rule
from pipeline.decontamination.index import Index, index_items
from pipeline.decontamination.matching import find

SEED = 5
DOCUMENT_CHARACTERS = 11_000  # of English: the mean of the documents that the filters are measured on
PEER_NGRAM = 13
_QUERY = ["{query} {choices}"]
_CONTEXT = ["{context} {continuation}"]
_OPTIONS = ["{context_options} {continuation}"]


def evaluation_sets(folder: Path) -> list[BenchmarkConfig]:
    """The evaluation sets of a folder, every file of it."""

    def core(name: str, templates: list[str]) -> BenchmarkConfig:
        return BenchmarkConfig(name=name, path=f"{folder}/core/{name}.jsonl.gz", templates=templates)

    def glue(name: str, member: str, fields: list[str], **layout: Any) -> BenchmarkConfig:
        return BenchmarkConfig(name=name, path=f"{folder}/glue_small.tar.gz::{member}", fields=fields, **layout)

    stsb = ["genre", "file", "year", "number", "score", "first", "second"]
    cola = ["source", "label", "mark", "sentence"]
    return [
        BenchmarkConfig(name="hellaswag", path=f"{folder}/hellaswag_val.jsonl.gz", templates=["{ctx} {endings}"]),
        *(core(name, _QUERY) for name in ("arc_challenge", "arc_easy", "copa", "openbook_qa", "piqa")),
        *(core(name, _QUERY) for name in ("agi_eval_lsat_ar", "commonsense_qa")),
        *(core(f"bigbench_{name}", _CONTEXT) for name in ("cs_algorithms", "dyck_languages", "operators")),
        *(core(name, _CONTEXT) for name in ("bigbench_repeat_copy_logic", "jeopardy_all", "lambada_openai")),
        *(core(name, _OPTIONS) for name in ("winograd_wsc", "winogrande")),
        BenchmarkConfig(
            name="dclm_tasks",
            path=f"{folder}/core/dclm_eval_meta_data.csv.gz",
            fields=["Description"],
            id_field="Eval Task",
        ),
        BenchmarkConfig(
            name="blimp",
            path=f"{folder}/blimp_67x1000.jsonl.gz",
            templates=["{sentence_good}", "{sentence_bad}"],
            split_by="UID",
        ),
        BenchmarkConfig(
            name="cmmlu",
            path=f"{folder}/cmmlu.tar.gz::*.csv",
            templates=["{Question}{A}{B}{C}{D}"],
            split_by="$file",
        ),
        BenchmarkConfig(
            name="xcopa",
            path=f"{folder}/xcopa.tar.gz::*.jsonl",
            templates=["{premise} {choice1}", "{premise} {choice2}"],
        ),
        glue("cola", "cola/*.tsv", ["sentence"], columns=cola),
        glue("mrpc", "mrpc/*.txt", ["#1 String", "#2 String"], format="tsv"),
        glue("sst2", "sst2/*", ["text"], format="lines", columns=["label", "text"], delimiter=" "),
        glue("stsb", "stsb/*.csv", ["first", "second"], format="tsv", columns=stsb, quoted=False),
    ]


def generated_items(words: int, rng: np.random.Generator) -> Iterator[Item]:
    """Items of random words, 100 words each: n-grams that no text has."""
    vocabulary = ["".join(row) for row in np.array([*"abcdefghijklmnopqrstuvwxyz"])[rng.integers(0, 26, (50_000, 6))]]
    for number in range(words // 100):
        chosen = rng.integers(0, len(vocabulary), 100)
        yield Item("generated", str(number), " ".join(vocabulary[word] for word in chosen))


def make_index(folder: Path, ngrams: int, rule: Rule) -> tuple[list[Item], Index]:
    """Items of all evaluation sets, and generated ones until there are so many n-grams."""
    config = DecontaminateConfig(benchmarks=evaluation_sets(folder), rule=rule)
    real = [item for benchmark in config.benchmarks for item in items(benchmark)]
    index = index_items(real, config)
    missing = max(0, ngrams - index.grams)
    print(f"{index.grams:,} n-grams of {len(index.benchmarks)} evaluation sets; {missing:,} generated")
    if missing:
        index = index_items([*real, *generated_items(missing * 100 // 88, np.random.default_rng(SEED))], config)
    return real, index


def corpora(folder: Path, size: int) -> dict[str, list[str]]:
    """About `size` bytes of documents for each language."""
    english = "\n".join(row["text"] for row in _rows(folder / "text" / "gutenberg18.jsonl.gz"))
    chinese = "\n".join(
        row["text"]
        for name in ("classical_modern", "fewclue_texts", "tang_poems")
        for row in _rows(folder / "zh" / f"{name}.jsonl.gz")
    )
    return {"English": _documents(english, size), "Chinese": _documents(chinese, size)}


def _rows(path: Path) -> Iterator[dict[str, Any]]:
    with gzip.open(path, "rt", encoding="utf-8") as lines:
        yield from map(json.loads, lines)


def _documents(text: str, size: int) -> list[str]:
    """Pieces of a text, which is gone through again where it is too short."""
    pieces = [text[at : at + DOCUMENT_CHARACTERS] for at in range(0, len(text), DOCUMENT_CHARACTERS)]
    documents: list[str] = []
    total = 0
    while total < size:
        documents.append(pieces[len(documents) % len(pieces)])
        total += len(documents[-1].encode())
    return documents


class Planted(NamedTuple):
    """Documents with items in the midst, one each."""

    documents: list[str]
    items: list[tuple[str, str]]  # of each document: benchmark and item


def plant(documents: list[str], chosen: list[Item], change: Callable[[str], str]) -> Planted:
    """Put one item into the midst of each of the first documents."""
    made = []
    for document, item in zip(documents, chosen, strict=False):
        middle = len(document) // 2
        made.append(f"{document[:middle]}\n{change(item.text)}\n{document[middle:]}")
    return Planted(made, [(item.benchmark, item.item_id) for item in chosen[: len(made)]])


def disguise(text: str) -> str:
    """Other case, other punctuation, other spacing: the same words."""
    return re.sub(r"\s+", " \n ", re.sub(r"[.,!?;:，。！？；：\"]", " - ", text)).swapcase()


def recall(planted: Planted, index: Index) -> float:
    """Share of the documents in which their item is found."""
    matches, _ = find(pa.array(planted.documents, pa.large_string()), index)
    found = {
        (document, index.benchmarks[index.text_benchmark[text]], index.text_item[text])
        for document, text in zip(matches.document.tolist(), matches.text.tolist(), strict=True)
    }
    return sum((number, *item) in found for number, item in enumerate(planted.items)) / len(planted.items)


def _language(item: Item) -> str | None:
    if item.benchmark.startswith("cmmlu/") or item.item_id.startswith("zh/"):
        return "Chinese"
    return None if item.benchmark == "xcopa" else "English"


def fastest(work: Callable[[], Any], times: int) -> float:
    """Process time in seconds, the least of several."""
    best = float("inf")
    for _ in range(times):
        started = time.process_time()
        work()
        best = min(best, time.process_time() - started)
    return best


def datatrove_peer(real: list[Item], folder: Path) -> tuple[Callable[[str], bool], str, str] | None:
    """Datatrove's filter over every twentieth item, made with its own tokenizer and hash; None where it is missing."""
    try:
        from datatrove.data import Document
        from datatrove.pipeline.decont import NGramsDecontConfig, NGramsDecontFilter
        from datatrove.utils.text import ngrams, simplify_text
    except ImportError:
        return None
    config = NGramsDecontConfig(n_grams=PEER_NGRAM)
    peer = NGramsDecontFilter(str(folder), config)
    hashes = {
        peer.hash_func(" ".join(ngram))
        for item in real[::20]
        for ngram in ngrams(peer.tokenizer.word_tokenize(simplify_text(item.text, config.norm_config)), PEER_NGRAM)
    }
    np.array(sorted(hashes), config.hash_config.np_descr).tofile(folder / "all.index.hashes")
    peer.load_index_hashes()

    def contaminated(text: str) -> bool:
        return peer.filter(Document(text=text, id="")) is not True

    return contaminated, "datatrove NGramsDecontFilter", importlib.metadata.version("datatrove")


def plain_peer(real: list[Item]) -> tuple[Callable[[str], bool], str, str]:
    """A set of tuples of 13 lower-case words (characters of Chinese), and every 13-gram of a document looked up."""
    word = re.compile(r"[一-鿿]|[^\W一-鿿]+(?:'\w+)*")

    def grams(text: str) -> Iterator[tuple[str, ...]]:
        words = word.findall(text.lower())
        return zip(*(words[start:] for start in range(PEER_NGRAM)), strict=False)

    index = {gram for item in real for gram in grams(item.text)}

    def contaminated(text: str) -> bool:
        return any(gram in index for gram in grams(text))

    return contaminated, "plain Python set of 13-gram tuples", ""


def peers(real: list[Item], language: str, folder: Path) -> tuple[Callable[[str], bool], str, str]:
    """What the speed is compared with; datatrove's default tokenizer is for English."""
    return (datatrove_peer(real, folder) if language == "English" else None) or plain_peer(real)


def measure(folder: Path, size: int, ngrams: int, rule: Rule) -> list[Row]:
    """All rows; prints how much of what was planted is found."""
    started = time.process_time()
    real, index = make_index(folder / "eval", ngrams, rule)
    rows = [Row("index, n-grams", "1", index.grams), Row("index, built", "s", time.process_time() - started)]
    rng = random.Random(SEED)
    checked = {text for text, words in enumerate(index.gram_words[: len(real)].tolist()) if words}
    for language, documents in corpora(folder, size).items():
        texts = pa.array(documents, pa.large_string())
        megabytes = sum(len(document.encode()) for document in documents) / 1e6
        find(texts.slice(0, 8), index)  # compiled
        ours = megabytes / fastest(lambda texts=texts: find(texts, index), 3)  # type: ignore[misc]
        few = documents[: max(1, len(documents) // 40)]
        with tempfile.TemporaryDirectory() as scratch:
            contaminated, name, version = peers(real, language, Path(scratch))
            few_megabytes = sum(len(document.encode()) for document in few) / 1e6
            peer = few_megabytes / fastest(lambda few=few, ask=contaminated: [*map(ask, few)], 1)  # type: ignore[misc]
        rows.append(Row(f"decontaminate, {language}", "MB/s", ours, peer, name, version))

        matches, _ = find(texts, index)
        own = [_language(item) == language for item in real]
        chosen = [real[text] for text in rng.sample(sorted(text for text in checked if own[text]), 1000)]
        clean = [document for number, document in enumerate(documents) if number not in set(matches.document.tolist())]
        many = [clean[number % len(clean)] for number in range(len(chosen))]
        touched = 100 * len(np.unique(matches.document)) / len(documents)
        for change, label in ((str, "verbatim"), (disguise, "other case and punctuation")):
            rows.append(Row(f"recall, {language}, {label}", "%", 100 * recall(plant(many, chosen, change), index)))
        rows.append(Row(f"documents with a match before planting, {language}", "%", touched))
        for document, text, begin, end in list(zip(*matches[:2], *matches[4:6], strict=True))[:8]:
            place = f"{index.benchmarks[index.text_benchmark[text]]} {index.text_item[text]}"
            print(f"{language}: {place}: {documents[document].encode()[begin:end].decode()[:100]!r}")
    return rows


def main() -> None:
    options: argparse.ArgumentParser = parser(__doc__ or "")
    options.add_argument("--megabytes", type=float, default=8, help="text of each language")
    options.add_argument("--ngrams", type=int, default=5_000_000, help="n-grams of the index at least")
    options.add_argument("--rule", choices=("gpt3", "strict"), default="gpt3")
    options.add_argument("--folder", type=Path, default=Path(__file__).parents[1] / "../shared/data")
    arguments = options.parse_args()
    if not (arguments.folder / "eval").is_dir():
        options.error(f"{arguments.folder} has no folder eval with evaluation sets; name another with --folder")
    show(
        measure(arguments.folder, int(arguments.megabytes * 1e6), arguments.ngrams, arguments.rule),
        f"Decontamination, rule {arguments.rule}, one core",
        arguments.json,
    )


if __name__ == "__main__":
    main()
