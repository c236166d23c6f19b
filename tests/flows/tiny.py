"""A tiny corpus and recipe for tests of the whole: generated text in three languages, in five formats, with faults."""

from __future__ import annotations

import gzip
import json
import random
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import yaml

_ENGLISH = (
    ["the river", "a young engineer", "the old mill", "this small town", "the water", "our library", "the teacher"],
    ["carries", "describes", "has always needed", "would change", "finds that people have", "brings", "remembers"],
    ["the grain to the market", "the work of many years", "a letter about the weather", "the history of the valley"],
    ["and the children play near the bridge", "because of the rain that fell with the wind", "before winter comes"],
)
_SPANISH = (
    ["el río", "una joven ingeniera", "el viejo molino", "este pequeño pueblo", "la biblioteca", "el maestro"],
    ["lleva", "describe", "siempre ha necesitado", "quiere cambiar", "recuerda", "encuentra"],
    ["el grano al mercado", "el trabajo de muchos años", "una carta sobre el tiempo", "la historia del valle"],
    ["y los niños juegan cerca del puente", "porque llovió mucho durante la noche", "antes de que llegue el invierno"],
)
_CHINESE = (
    ["这条河", "一位年轻的工程师", "那座老磨坊", "我们的图书馆", "这个小镇", "老师"],
    ["带来了", "描述着", "一直需要", "想要改变", "记得", "发现了"],
    ["山谷的历史", "许多年的工作", "一封关于天气的信", "市场上的粮食"],
    ["，孩子们在桥边玩耍", "，因为昨天晚上下了很大的雨", "，然后冬天就来了"],
)


def sentences(rng: random.Random, language: str, count: int) -> str:
    """Return a text of sentences in a language, one paragraph a handful of them."""
    parts = {"en": _ENGLISH, "es": _SPANISH, "zh": _CHINESE}[language]
    join, stop = ("", "。") if language == "zh" else (" ", ".")
    lines, line = [], []
    for _ in range(count):
        number = str(rng.randint(2, 999)) if language == "zh" else f" {rng.randint(2, 999)}"
        text = join.join(rng.choice(part) for part in parts) + number
        line.append(text[0].upper() + text[1:] + stop)
        if len(line) == 5:
            lines.append(join.join(line))
            line = []
    return "\n\n".join([*lines, join.join(line)]).strip()


def write_corpus(folder: Path, documents: int = 60, seed: int = 1) -> None:
    """Write JSON lines (plain, gzip), Parquet and text files with duplicates, poor pages and broken records."""
    rng = random.Random(seed)
    folder.mkdir(parents=True, exist_ok=True)
    english = [sentences(rng, "en", 14) for _ in range(documents)]
    chinese = [sentences(rng, "zh", 14) for _ in range(documents)]
    spanish = [sentences(rng, "es", 14) for _ in range(documents // 2)]
    rows = [{"text": text, "url": f"https://example.org/{index}"} for index, text in enumerate(english)]
    rows.append({"text": english[0], "url": "https://example.org/copy"})
    rows.append({"text": english[1] + " One more sentence stands at the end of this page.", "url": None})
    rows.append({"text": "too short", "url": None})
    rows.append({"text": "### ### ### " * 200, "url": None})
    lines = [json.dumps(row, ensure_ascii=False) for row in rows]
    lines.insert(len(lines) // 2, '{"text": "broken')
    (folder / "english.jsonl").write_text("\n".join(lines) + "\n", encoding="utf-8")
    with gzip.open(folder / "chinese.jsonl.gz", "wt", encoding="utf-8") as stream:
        stream.writelines(json.dumps({"text": text}, ensure_ascii=False) + "\n" for text in chinese)
    pq.write_table(pa.table({"text": spanish}), folder / "spanish.parquet", row_group_size=8)
    (folder / "notes").mkdir(exist_ok=True)
    for index in range(4):
        (folder / "notes" / f"{index}.txt").write_text(sentences(rng, "en", 12), encoding="utf-8")
    (folder / "notes" / "broken.txt").write_bytes(b"\xff\xfe\xfa broken \xd8")


def recipe(folder: Path, **changes: Any) -> dict[str, Any]:
    """Return a recipe over such a corpus that trains in seconds."""
    values: dict[str, Any] = {
        "name": "tiny",
        "ingest": {
            "unit_bytes": 40_000,
            "sources": [
                {"name": "english", "format": "jsonl", "path": str(folder / "english.jsonl"), "url_field": "url"},
                {"name": "chinese", "format": "jsonl", "path": str(folder / "chinese.jsonl.gz")},
                {"name": "spanish", "format": "parquet", "path": str(folder / "spanish.parquet")},
                {"name": "notes", "format": "text", "path": str(folder / "notes" / "*.txt")},
            ],
        },
        "tokenizer": {"vocabulary_size": 512, "validation_fraction": 0.1},
        "train": {
            "model": {"layers": 2, "heads": 2, "width": 32, "context_length": 64},
            "training": {
                "steps": 30,
                "batch_size": 4,
                "log_every": 5,
                "evaluate_every": 10,
                "evaluation_batches": 2,
                "checkpoint_every": 10,
            },
        },
        "evaluate": {"pairs_per_phenomenon": 4, "prompts": ["The river"], "sample_tokens": 8},
        "execution": {"workers": 2, "tasks_per_stage": 2},
    }
    values.update(changes)
    return values


def write_recipe(path: Path, values: dict[str, Any]) -> Path:
    """Write a recipe as YAML."""
    path.write_text(yaml.safe_dump(values, allow_unicode=True, sort_keys=False), encoding="utf-8")
    return path
