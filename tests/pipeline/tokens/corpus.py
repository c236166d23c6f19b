"""Documents in several scripts, made here, and a stage that hands them out as the filter stage would."""

from __future__ import annotations

import random
from typing import Any

import pyarrow as pa

from pipeline.documents import DOCUMENT_SCHEMA, document_id
from pipeline.execution import run_stage
from pipeline.stage import Stage, StageConfig, Unit, UnitOutput
from pipeline.store import StageRef, Store

SCRIPTS = {
    "en": "abcdefghijklmnoprstuvwy",
    "ru": "абвгдежзиклмнопрстуяю",
    "zh": "的一是不了人我在有他这为之大来以个中上们到说国和地也子时道出而要于就下得可你年生",
    "hi": "कखगघचछजटठडतथदनपफबभमयरलवशसहािीुूेैोौ्",
    "ar": "ابتثجحخدرزسشصضطعفقكلمنهوي",
}


def make_text(language: str, seed: int, words: int) -> str:
    """Random words with a Zipf-like frequency, so that merges have something to find."""
    rng = random.Random(f"{language} {seed}")
    vocabulary = random.Random(language)
    lexicon = ["".join(vocabulary.choices(SCRIPTS[language], k=vocabulary.randint(1, 8))) for _ in range(300)]
    chosen = [lexicon[min(int(rng.paretovariate(0.7)) - 1, 299)] for _ in range(words)]
    gap = "" if language == "zh" else " "
    lines = [gap.join(chosen[i : i + 12]).capitalize() + rng.choice(".!?。") for i in range(0, words, 12)]
    return "\n".join([*lines, f"{rng.randint(0, 10**6)} <|endoftext|>  \t\r\n"])


def make_documents(count: int, seed: int = 0, words: int = 60) -> list[dict[str, Any]]:
    """Documents of two sources in turn over the languages; every seventh has none."""
    documents = []
    for i in range(count):
        language = list(SCRIPTS)[i % len(SCRIPTS)]
        source, locator = ("web", "books")[i % 3 == 0], f"file.jsonl:{i}"
        text = make_text(language, seed * 100_000 + i, words)
        documents.append(
            {
                "id": document_id(source, locator, text.encode()),
                "text": text,
                "source": source,
                "locator": locator,
                "language": None if i % 7 == 6 else language,
            }
        )
    return documents


def as_table(documents: list[dict[str, Any]]) -> pa.Table:
    return pa.Table.from_pylist(
        [{**dict.fromkeys(DOCUMENT_SCHEMA.names), **document} for document in documents], DOCUMENT_SCHEMA
    )


class GivenConfig(StageConfig):
    documents: list[dict[str, Any]]
    shards: int = 3


class Given(Stage[GivenConfig]):
    """Writes the documents of its configuration in some shards; stands in for the filter stage."""

    name = "filter"
    version = 1

    def units(self) -> list[Unit]:
        return [Unit(i, f"shard {i}", {}) for i in range(self.config.shards)]

    def process(self, unit: Unit, output: UnitOutput) -> None:
        whole, shards = self.config.documents, self.config.shards
        mine = whole[unit.index * len(whole) // shards : (unit.index + 1) * len(whole) // shards]
        output.write("documents", as_table(mine), row_group_rows=16)
        output.count(read=len(mine), kept=len(mine))


def committed_documents(store: Store, documents: list[dict[str, Any]], shards: int = 3) -> StageRef:
    stage = Given(GivenConfig(documents=documents, shards=shards), {})
    run_stage(stage, store, workers=0)
    return store.ref(stage.name, stage.fingerprint())
