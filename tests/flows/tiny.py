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

from tests.pipeline.lid import LID

EMAIL = "ada.lovelace@analytical-engine.co.uk"
"""An address that stands in one document."""

# Word lists by place in the sentence; short fixed parts, so that the repetition rules find nothing to object to.
_ENGLISH = [
    "the|a|every|this|one|her|our".split("|"),
    "young|old|quiet|small|tired|famous|honest|lonely|clever|wealthy|gentle|brave".split("|"),
    "engineer|teacher|miller|farmer|painter|doctor|sailor|writer|child|neighbour|baker|traveller".split("|"),
    "carried|described|needed|changed|found|remembered|brought|watched|painted|followed|sold|opened".split("|"),
    "some|the|that|another|his|no".split("|"),
    "letters|grain|bridges|stories|windows|gardens|horses|books|boats|songs|lamps|stones".split("|"),
    "with|for|of|near|behind|without|from".split("|"),
    "people|water|winter|the valley|the market|rain|the river|friends|the library|morning|the wind|patience".split("|"),
    "and|because|while|although|before|so that".split("|"),
    "children|birds|the workers|dogs|clouds|strangers|the judges|cooks|the trees|sisters".split("|"),
    "have|had|would have|could have|never".split("|"),
    "played|slept|waited|sung|returned|argued|grown|hidden|danced|listened".split("|"),
]
_SPANISH = [
    "el|un|cada|este|nuestro|aquel".split("|"),
    "viejo|joven|pequeño|antiguo|buen|famoso|pobre|nuevo".split("|"),
    "ingeniero|maestro|molinero|pintor|médico|marinero|escritor|vecino|panadero|viajero".split("|"),
    "llevaba|describía|necesitaba|cambió|encontró|recordaba|trajo|miraba|pintaba|seguía|vendió|abrió".split("|"),
    "las|unas|muchas|sus|otras|algunas".split("|"),
    "cartas|ventanas|historias|flores|lámparas|piedras|canciones|barcas|mesas|calles".split("|"),
    "con|para|de|cerca de|sin|desde".split("|"),
    "la gente|el agua|el invierno|el valle|el mercado|la lluvia|el río|los amigos|la biblioteca|el viento".split("|"),
    "y|porque|mientras|aunque|cuando|pero".split("|"),
    "los niños|los pájaros|los obreros|las nubes|los jueces|los árboles|las hermanas|los perros".split("|"),
    "nunca|siempre|ya|también|todavía|casi".split("|"),
    "jugaban|dormían|esperaban|cantaban|volvían|discutían|crecían|bailaban|escuchaban".split("|"),
]
_CHINESE = [
    "这个|那个|一位|我们的|他的|每个".split("|"),
    "年轻|老实|聪明|安静|有名|勇敢|疲倦|善良".split("|"),
    "的工程师|的老师|的农民|的画家|的医生|的水手|的作家|的孩子|的邻居".split("|"),
    "带来了|描写过|需要着|改变了|发现了|记得|看见了|打开过|卖掉了".split("|"),
    "一些|许多|几封|那些|别人的|自己的".split("|"),
    "信件|粮食|故事|窗户|花园|书籍|船只|歌曲|石头|灯笼".split("|"),
    "，因为|，虽然|，但是|，所以|，而且|，后来".split("|"),
    "冬天|昨天|早晨|市场上|河边|图书馆里|山谷中|风雨里|桥下".split("|"),
    "孩子们|小鸟|工人们|云彩|朋友们|树木|姐妹们|狗".split("|"),
    "还在玩耍|都睡着了|正在等待|又唱起歌来|慢慢长大|不再争论|跳起舞来|静静地听着".split("|"),
]


def sentences(rng: random.Random, language: str, count: int) -> str:
    """Return a text of sentences in a language, one paragraph a handful of them."""
    parts = {"en": _ENGLISH, "es": _SPANISH, "zh": _CHINESE}[language]
    join, stop = ("", "。") if language == "zh" else (" ", ".")
    lines, line = [], []
    for _ in range(count):
        text = join.join(rng.choice(part) for part in parts)
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
    (folder / "notes" / "broken.txt").write_bytes(b"broken \xd8\xff\xfe\xfa text")
    with open(folder / "notes" / "0.txt", "a", encoding="utf-8") as stream:
        stream.write(f"\n\nThe writer answers letters to {EMAIL} within a week.\n")
    for index in (1, 2):
        with open(folder / "notes" / f"{index}.txt", "a", encoding="utf-8") as stream:
            stream.write("\n\nThis note stands with the others of its year in the third room of the library.\n")
    # One item of this evaluation set is a sentence of the corpus, the other is not.
    items = [
        english[5].partition(".")[0],
        "No page of this corpus holds the sentence that this item asks a model about.",
    ]
    pair = {
        "sentence_good": "The painter near the old bridges has never slept while the judges of the valley argued.",
        "sentence_bad": "The painter near the old bridges have never slept while the judges of the valley argued.",
    }
    (folder / "quiz_pairs.jsonl").write_text(json.dumps(pair) + "\n", encoding="utf-8")
    (folder / "quiz.jsonl").write_text(
        "".join(json.dumps({"question": item}) + "\n" for item in items), encoding="utf-8"
    )


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
        "deduplicate": {"urls": True, "lines": {"rules": [{"unit": "paragraph"}]}, "substrings": {}},
        "classify": {"fasttext": [{"name": "lid", "path": str(LID), "labels": ["en", "zh"]}]},
        "perplexity_model": {"sources": ["english", "chinese"], "minimum_words": 1000, "order": 3},
        "filter": {
            "perplexity": {"buckets": None},
            "decisions": {"english_if_english": "source <> 'english' OR lid_en_score > 0.3"},
        },
        "privacy": {},
        "decontaminate": {
            "benchmarks": [
                {"name": "quiz", "path": str(folder / "quiz.jsonl"), "fields": ["question"]},
                {"name": "pairs", "path": str(folder / "quiz_pairs.jsonl"), "fields": ["sentence_good"]},
            ],
            "gpt3": {"maximum_documents": 10},
        },
        "tokenizer": {"vocabulary_size": 512, "validation_fraction": 0.1},
        "marks": {},
        "train": {
            "model": {"layers": 2, "heads": 2, "width": 32, "context_length": 64, "bigram_buckets": 512},
            "training": {
                "steps": 30,
                "batch_size": 4,
                "log_every": 5,
                "evaluate_every": 10,
                "evaluation_batches": 2,
                "checkpoint_every": 10,
            },
        },
        "evaluate": {
            "minimal_pairs": ["templates:en", str(folder / "quiz_pairs.jsonl")],
            "pairs_per_phenomenon": 4,
            "prompts": ["The river"],
            "sample_tokens": 8,
        },
        "execution": {"workers": 2, "tasks_per_stage": 2},
    }
    values.update(changes)
    return values


def write_recipe(path: Path, values: dict[str, Any]) -> Path:
    """Write a recipe as YAML."""
    path.write_text(yaml.safe_dump(values, allow_unicode=True, sort_keys=False), encoding="utf-8")
    return path
