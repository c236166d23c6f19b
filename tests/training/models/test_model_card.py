"""A model card says what is known, and nothing of what is not."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import yaml

from tests.training.huggingface.encoders import encoder_checkpoint
from tests.training.huggingface.parity import random_checkpoint
from tests.training.huggingface.test_parity import OURS_GPT2
from tests.training.huggingface.test_parity_bert import OURS as BERT
from training.models.gguf import export_gguf
from training.models.huggingface import export
from training.models.model_card import Evidence
from training.models.onnx import export_onnx

EVIDENCE = Evidence(
    recipe="tiny",
    description="A small | model\nof stories.",
    model="models:/tiny@best",
    funnel=[
        {"stage": "ingest", "read": 1200, "kept": 1000, "dropped": 200},
        {"stage": "filter", "read": 1000, "kept": 900, "dropped": 100},
    ],
    corpus=[
        {"source": "wiki", "license": "CC-BY-SA-3.0", "language": "en", "documents": 600, "tokens": 60_000},
        {"source": "wiki", "license": "CC-BY-SA-3.0", "language": "zh", "documents": 200, "tokens": 30_000},
        {"source": "reviews", "license": None, "language": "zh", "documents": 100, "tokens": 10_000},
    ],
    results=[
        {"metric": "perplexity", "value": 29.75, "baseline": "unigram 900", "note": None},
        {"metric": "piqa: accuracy", "value": 0.625, "note": "the corpus was NOT cleaned of this set"},
    ],
    stages={"ingest": "aaaa", "train": "bbbb"},
    steps=["finetuning: cola (`f00d`), of tiny"],
)


@pytest.fixture
def checkpoint(tmp_path: Path) -> Path:
    return random_checkpoint(tmp_path, **OURS_GPT2)


def sections(card: str) -> dict[str, str]:
    """The text of each section by its title."""
    parts = card.split("\n## ")[1:]
    return {part.partition("\n")[0]: part.partition("\n")[2] for part in parts}


def front(card: str) -> dict[str, object]:
    """The YAML at the head."""
    found: dict[str, object] = yaml.safe_load(card.split("---\n")[1])
    return found


def test_all_that_is_known_is_told(checkpoint: Path, tmp_path: Path) -> None:
    card = (export(checkpoint, tmp_path / "theirs", evidence=EVIDENCE) / "README.md").read_text()
    assert front(card) == {
        "library_name": "transformers",
        "pipeline_tag": "text-generation",
        "language": ["en", "zh"],
        "tags": ["headrace"],
    }
    found = sections(card)
    assert list(found) == ["Use", "Shape", "Training", "Data", "Results", "Where it comes from", "Limits"]
    assert "A small \\| model of stories." in card
    assert "| ingest | 1,200 | 1,000 | 200 |\n| filter | 1,000 | 900 | 100 |" in found["Data"]
    assert "| wiki | CC-BY-SA-3.0 | 800 | 90,000 |\n| reviews | unknown | 100 | 10,000 |" in found["Data"]
    assert "Tokens by language: en 60.0%, zh 40.0%." in found["Data"]
    assert "| perplexity | 29.75 | unigram 900 |  |" in found["Results"]
    for line in ("| model | models:/tiny@best |", "| step 1 | finetuning: cola (`f00d`), of tiny |"):
        assert line in found["Where it comes from"]
    assert "| stage train | `bbbb` |" in found["Where it comes from"]
    assert "Licence unknown: reviews." in found["Limits"]
    assert "not searched for the texts of these results: piqa: accuracy." in found["Limits"]
    assert "It reads 48 tokens at most" in found["Limits"]


def test_what_is_not_known_has_no_section(checkpoint: Path, tmp_path: Path) -> None:
    card = (export(checkpoint, tmp_path / "theirs") / "README.md").read_text()
    assert list(sections(card)) == ["Use", "Shape", "Training", "Limits"]
    assert "language" not in front(card)
    assert "None" not in card


def test_parents_and_imports_are_named(checkpoint: Path, tmp_path: Path) -> None:
    path = checkpoint / "config.json"
    facts = json.loads(path.read_text())
    facts["parent"] = {"checkpoint": "step-00000003", "sha256": "abc123"}
    facts["imported"] = {"architecture": "GPT2LMHeadModel", "folder": "gpt2", "untrained": ["head.weight"]}
    path.write_text(json.dumps(facts))
    found = sections((export(checkpoint, tmp_path / "theirs") / "README.md").read_text())
    assert "| parent.sha256 | abc123 |" in found["Where it comes from"]
    assert "| imported.folder | gpt2 |" in found["Where it comes from"]
    assert "drawn at random: head.weight" in found["Limits"]
    assert "begin a prompt" not in found["Use"]


def test_every_format_has_its_own_use(checkpoint: Path, tmp_path: Path) -> None:
    gguf = export_gguf(checkpoint, tmp_path / "small", "q8_0", evidence=EVIDENCE).parent
    onnx = export_onnx(encoder_checkpoint(tmp_path / "bert", **BERT), tmp_path / "onnx").parent
    for folder, library, used in ((gguf, "gguf", "small-Q8_0.gguf"), (onnx, "onnx", "onnxruntime.InferenceSession")):
        card = (folder / "README.md").read_text()
        assert front(card)["library_name"] == library
        assert used in sections(card)["Use"]
    assert "| wiki | CC-BY-SA-3.0 | 800 | 90,000 |" in (gguf / "README.md").read_text()
