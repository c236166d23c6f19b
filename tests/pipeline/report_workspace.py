"""A run in miniature for the tests of the report: real stages where they are quick, stand-ins that write the same files
where they would need a model, a network or a training process."""

from __future__ import annotations

import json
import math
import random
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc

from pipeline.annotate import SIGNALS_SCHEMA
from pipeline.dedup.config import DedupConfig
from pipeline.dedup.index import KNOWN
from pipeline.dedup.stages import Candidates, Deduplicate, Duplicates, PreferenceOrder, Signatures
from pipeline.documents import DOCUMENT_SCHEMA, document_id
from pipeline.execution import run_stage
from pipeline.filter import Filter, FilterConfig
from pipeline.quality.c4 import C4
from pipeline.quality.lines import Lines, line_rules
from pipeline.quality.signals import measure
from pipeline.stage import Stage, StageConfig, Unit, UnitOutput, UnitRecord
from pipeline.store import StageRef, Store
from pipeline.tokens.stages import Tokenize, TokenizeConfig, TokenizerConfig, TrainTokenizer

HOSTILE = "<script>document.title='taken'</script>"
HOSTILE_SOURCE = 'evil"><img src=x onerror=alert(1)>'
HOSTILE_URL = "javascript:alert('\"><svg onload=alert(2)>')"
SOURCES = ("docs", "wiki", "reviews", HOSTILE_SOURCE)

_TEXTS = {
    "en": """the of and to in a is that for it as was with be by on not he his but at are this have from or had an they
    which one you were all her she there would their we him been has when who will no more if out so up said what its
    about water channel wheel mill river stone gate flow level field house work time year city people history system
    library function returns module object value table column session engine query result method default""",
    "es": """el la de que y en un ser se no haber por con su para como estar tener le lo todo pero más hacer o poder
    decir este ir otro ese si me ya ver porque dar cuando muy sin vez mucho saber qué sobre mi alguno mismo también
    hasta agua río""",
}
_WORDS = {language: text.split() for language, text in _TEXTS.items()}
_ZH = "这本书很好我喜欢看内容不错作者写得也很有意思质量可以推荐给大家读起来非常舒服就是价格有点贵水车从河里引水到田里"


def sentence(chance: random.Random, language: str) -> str:
    """Return a sentence of a language's words."""
    if language == "zh":
        return "".join(chance.choice(_ZH) for _ in range(chance.randint(14, 34))) + "。"
    words = _WORDS[language]
    picked = [words[min(len(words) - 1, int(chance.expovariate(1 / 22)))] for _ in range(chance.randint(7, 18))]
    return (" ".join(picked)).capitalize() + "."


def document_text(chance: random.Random, language: str, sentences: int) -> str:
    """Return paragraphs of sentences."""
    lines = [sentence(chance, language) for _ in range(sentences)]
    return "\n".join(" ".join(lines[start : start + 4]) for start in range(0, len(lines), 4))


def corpus(documents: int) -> dict[str, list[dict[str, Any]]]:
    """Return rows by source: good documents, copies, near copies, short ones, repetitive ones, hostile ones."""
    chance = random.Random(7)
    rows: dict[str, list[dict[str, Any]]] = {source: [] for source in SOURCES}
    shares = {"docs": 0.5, "wiki": 0.25, "reviews": 0.2, HOSTILE_SOURCE: 0.05}
    for source, share in shares.items():
        texts: list[tuple[str, str]] = []
        for _ in range(max(4, round(documents * share))):
            language = {"wiki": chance.choice(["en", "es"]), "reviews": "zh"}.get(source, "en")
            kind = chance.random()
            if kind < 0.12 and texts:
                language, text = chance.choice(texts)
            elif kind < 0.24 and texts:
                language, text = chance.choice(texts)
                words = text.split(" ")
                words[len(words) // 2] = "changed" if language != "zh" else "改变了"
                text = " ".join(words)
            elif kind < 0.32:
                text = sentence(chance, language)
            elif kind < 0.38:
                text = "\n".join([sentence(chance, language)] * 12)
            elif kind < 0.42:
                text = document_text(chance, language, 8) + "\nfunction f() { return 1 }"
            elif kind < 0.46:
                text = document_text(chance, language, 9) + "\nWe use cookies to improve your experience on this site."
            else:
                text = document_text(chance, language, int(chance.lognormvariate(3, 0.6)) + 6)
            if source == HOSTILE_SOURCE:
                text = f"{HOSTILE} {text}\u202e\x07"
            texts.append((language, text))
        for number, (language, text) in enumerate(texts):
            url = HOSTILE_URL if source == HOSTILE_SOURCE else f"https://example.org/{source}/{number}.html"
            row = {"text": text, "source": source, "locator": f"{source}.jsonl#{number}", "url": url}
            rows[source].append({**row, "language": language})
    return rows


class IngestConfig(StageConfig):
    """How large the corpus is."""

    documents: int = 240
    reject: bool = True


class Ingest(Stage[IngestConfig]):
    """Writes the generated corpus, one shard a source, and rejects two records."""

    name = "ingest"
    version = 1

    def identity(self) -> Any:
        files = [{"name": "docs.jsonl", "bytes": 1234, "sha256": "ab" * 32}]
        sources = [{"name": source, "format": "jsonl", "license": "CC-BY-SA-4.0", "files": files} for source in SOURCES]
        return {**self.config.model_dump(), "sources": sources}

    def units(self) -> list[Unit]:
        return [Unit(index, source, {"source": source}) for index, source in enumerate(SOURCES)]

    def process(self, unit: Unit, output: UnitOutput) -> None:
        source = unit.spec["source"]
        rows = corpus(self.config.documents)[source] if self.config.documents else []
        for row in rows:
            row["id"] = document_id(row["source"], row["locator"], row["text"].encode())
        output.write("documents", pa.Table.from_pylist(rows, schema=DOCUMENT_SCHEMA))
        size = sum(len(row["text"].encode()) for row in rows)
        output.count(read=len(rows), kept=len(rows), bytes_in=size, bytes_out=size)
        if self.config.reject and source == HOSTILE_SOURCE:
            for rule in ("broken_record", "truncated_file"):
                detail = f"evil.jsonl.gz at byte 1,234: {HOSTILE}"
                output.ledger([{"source": source, "action": "rejected", "rule": rule, "detail": detail, "bytes": 99}])
                output.count(rejected=1)


class AnnotateConfig(StageConfig):
    """Nothing to set."""

    lines: Lines = Lines()
    annotators: tuple[str, ...] = ()


class Annotate(Stage[AnnotateConfig]):
    """The real statistics, with the language that the corpus was generated in for that of a classifier."""

    name = "annotate"
    version = 1
    conserves = "deduplicate"

    def units(self) -> list[Unit]:
        files = self.inputs["deduplicate"].committed().files("documents")
        return [Unit(index, f"shard {index}", {}) for index in range(len(files))]

    def process(self, unit: Unit, output: UnitOutput) -> None:
        table = self.inputs["deduplicate"].committed().files("documents")[unit.index].table()
        languages = table["language"].to_pylist()
        scores = [0.97 if index % 9 else 0.41 for index in range(len(languages))]
        if table.num_rows:
            statistics = measure(table["text"], languages, line_rules(self.config.lines))
            facts = {
                "id": table["id"],
                "source": table["source"],
                "language": pa.array(languages, pa.string()),
                "language_score": pa.array(scores, pa.float64()),
                "other_language_fraction": pa.array([0.0] * table.num_rows),
                **{name: statistics[name] for name in statistics.schema.names},
            }
            columns = [facts.get(field.name, pa.nulls(table.num_rows, field.type)) for field in SIGNALS_SCHEMA]
            output.write("signals", pa.table(columns, schema=SIGNALS_SCHEMA))
        else:
            output.write("signals", SIGNALS_SCHEMA.empty_table())
        size = pc.sum(pc.binary_length(table["text"])).as_py() or 0
        output.count(read=table.num_rows, kept=table.num_rows, bytes_in=size, bytes_out=size)

    def summary(self, records: Sequence[UnitRecord]) -> dict[str, Any]:
        return {"model_languages": ["en", "es", "zh"], "documents_by_language": {"en": 1, "es": 1, "zh": 1}}


class Train(Stage[StageConfig]):
    """A training journal and a result as the training process writes them."""

    name = "train"
    version = 1

    def identity(self) -> Any:
        return {"model": {"layers": 4, "width": 128, "context_length": 256}}

    def units(self) -> list[Unit]:
        return [Unit(0, "400 steps", {})]

    def process(self, unit: Unit, output: UnitOutput) -> None:
        chance = random.Random(3)
        with output.file("metrics", ".jsonl") as file:
            for step in range(10, 401, 10):
                loss = 3.1 + 5.9 * math.exp(-step / 60) + chance.gauss(0, 0.06)
                metrics = {
                    "train/loss": loss,
                    "train/learning_rate": 0.003 * min(1, step / 40) * (1 - step / 500),
                    "train/gradient_norm": 0.5 + chance.random(),
                    "train/tokens_per_second": 21_000 + chance.randint(-900, 900),
                }
                if step % 50 == 0:
                    for name, shift in (("", 0.1), ("/source/docs", 0.0), ("/source/wiki", 0.4)):
                        metrics[f"validation/loss{name}"] = loss + shift
                row = {"step": step, "tokens": step * 4096, "time": 1.7e9 + step, "metrics": metrics}
                file.write(json.dumps(row).encode() + b"\n")
        with output.file("result", ".json") as file:
            told = {"parameters": 5_200_000, "tokens": 1_638_400, "seconds": 81.9, "device": "cpu", "precision": "fp32"}
            file.write(json.dumps({**told, "threads": 2, "processes": 1, "peak_memory_bytes": 5 << 30}).encode())


class Evaluate(Stage[StageConfig]):
    """Results as the evaluation process writes them."""

    name = "evaluate"
    version = 1

    def units(self) -> list[Unit]:
        return [Unit(0, "best checkpoint", {})]

    def process(self, unit: Unit, output: UnitOutput) -> None:
        with output.file("results", ".json") as file:
            file.write(json.dumps(evaluation_results()).encode())


def evaluation_results() -> dict[str, Any]:
    """Return results of the evaluation's form."""

    def facts(loss: float) -> dict[str, Any]:
        bits = loss / math.log(2) / 3.6
        return {
            "loss": loss,
            "perplexity": math.exp(loss),
            "bits_per_byte": bits,
            "tokens": 12_345,
            "documents": 40,
            "text_bytes": 44_000,
        }

    def scores(loss: float) -> dict[str, Any]:
        return {
            "overall": facts(loss),
            "sources": {"docs": facts(loss - 0.3), "wiki": facts(loss + 0.4), HOSTILE_SOURCE: facts(loss + 0.1)},
            "languages": {"en": facts(loss - 0.1), "zh": facts(loss + 0.6), "es": facts(loss + 0.2)},
        }

    def accuracy(value: float, pairs: int = 100) -> dict[str, Any]:
        error = math.sqrt(value * (1 - value) / pairs)
        return {"accuracy": value, "standard_error": error, "pairs": pairs, "chance": 0.5}

    return {
        "checkpoint": {"name": "step-400", "step": 400, "parameters": 5_200_000},
        "evaluation": {"context_length": 256, "stride": 128},
        "perplexity": {"model": scores(3.21), "unigram": scores(6.62), "3-gram": scores(4.35)},
        "ngram": {"order": 3, "counted_tokens": 112_000, "trained_tokens": 112_000, "distinct": {}},
        "minimal_pairs": {
            "templates": {
                "overall": accuracy(0.66, 600),
                "languages": {"en": accuracy(0.7, 300), "zh": accuracy(0.62, 300)},
                "phenomena": {
                    "en/subject_verb_agreement": accuracy(0.81),
                    "en/determiner_noun": accuracy(0.74),
                    "en/word_order": accuracy(0.55),
                    "zh/classifier": accuracy(0.71),
                    "zh/resultative_order": accuracy(0.48),
                    "zh/aspect": accuracy(0.67),
                },
            }
        },
        "samples": [
            {"prompt": "The", "continuation": f" water {HOSTILE} flows to the wheel.", "tokens": 9, "finished": True},
            {"prompt": "这本书", "continuation": "很好，内容不错，推荐给大家。", "tokens": 12, "finished": False},
            {"prompt": "El", "continuation": " agua del río \ud800 mueve la rueda", "tokens": 9, "finished": False},
        ],
        "metrics": {},
    }


def build(
    workspace: Path,
    until: str = "evaluate",
    documents: int = 240,
    dedup: DedupConfig | None = None,
    known: StageRef | None = None,
) -> dict[str, StageRef]:
    """Run the stages in this process up to one of them and return the places of all of them."""
    dedup = dedup or DedupConfig()
    store = Store.at(workspace / "store")
    refs: dict[str, StageRef] = {}
    plan: list[tuple[type[Stage[Any]], Any, tuple[str, ...]]] = [
        (Ingest, IngestConfig(documents=documents), ()),
        (Signatures, dedup, ("ingest",)),
        (PreferenceOrder, dedup, ("ingest", "signatures")),
        (Candidates, dedup, ("ingest", "signatures", "order")),
        (Duplicates, dedup, ("ingest", "signatures", "order", "candidates")),
        (Deduplicate, dedup, ("ingest", "duplicates")),
        (Annotate, AnnotateConfig(), ("deduplicate",)),
        (Filter, FilterConfig(c4=C4(maximum_lorem_ipsum_lines=None)), ("deduplicate", "annotate")),
        (TrainTokenizer, TokenizerConfig(vocabulary_size=600, validation_fraction=0.1), ("filter",)),
        (Tokenize, TokenizeConfig(encoder="tokenizers"), ("filter", "tokenizer")),
        (Train, StageConfig(), ("tokenizer", "tokenize")),
        (Evaluate, StageConfig(), ("tokenize", "train")),
    ]
    reached = False
    for stage_class, config, inputs in plan:
        stage = stage_class(config, {name: refs[name] for name in inputs})
        if known is not None and stage.name in ("order", "candidates", "duplicates"):
            stage.inputs[KNOWN] = known
        refs[stage.name] = store.ref(stage.name, stage.fingerprint())
        if not reached:
            run_stage(stage, store, workers=0)
        reached = reached or stage.name == until
    return refs


RECIPE: Mapping[str, Any] = {
    "name": "miniature",
    "description": f"A run in miniature. {HOSTILE}",
    "ingest": {
        "sources": [
            {"name": source, "format": "jsonl", "path": ["docs.jsonl"], "license": "CC-BY-SA-4.0"} for source in SOURCES
        ]
    },
    "train": {"training": {"steps": 400}},
}
