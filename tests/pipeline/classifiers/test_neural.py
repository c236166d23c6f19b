"""A tiny BERT with random weights, saved as a user would, against a direct call of transformers."""

from __future__ import annotations

import importlib
import json
import pickle
import random
import shutil
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pytest

from pipeline.annotators import Batch
from pipeline.classifiers.neural import NeuralClassifier, NeuralClassifierConfig, folder_sha256

WORDS = "the river runs cold in winter and children sing near old bridges while rain falls on quiet stones".split()


def batch(texts: list[str]) -> Batch:
    return Batch(
        pa.array(texts, pa.large_string()), pa.nulls(len(texts), pa.string()), np.array(["en"] * len(texts), object)
    )


def some_texts(count: int, seed: int = 1) -> list[str]:
    rng = random.Random(seed)
    return [" ".join(rng.choice(WORDS) for _ in range(rng.choice((1, 5, 40, 90, 400)))) for _ in range(count)]


def save(folder: Path, **settings: Any) -> Path:
    """Write a tiny classifier and its tokenizer."""
    transformers = pytest.importorskip("transformers", reason="transformers is not installed (headrace[classifiers])")
    import torch

    folder.mkdir()
    vocabulary = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", *WORDS]
    (folder / "vocab.txt").write_text("\n".join(vocabulary), encoding="utf-8")
    tokenizer = transformers.BertTokenizerFast(vocab=str(folder / "vocab.txt"), model_max_length=128)
    torch.manual_seed(7)
    config = transformers.BertConfig(
        vocab_size=len(vocabulary),
        hidden_size=64,
        num_hidden_layers=2,
        num_attention_heads=4,
        intermediate_size=128,
        max_position_embeddings=128,
        initializer_range=0.2,
        **settings,
    )
    transformers.BertForSequenceClassification(config).save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    return folder


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return save(
        tmp_path_factory.mktemp("models") / "three", num_labels=3, id2label={0: "Good text", 1: "so-so", 2: "B"}
    )


def classifier(folder: Path, **settings: Any) -> NeuralClassifier:
    return NeuralClassifier(NeuralClassifierConfig(name="quality", path=str(folder), **settings))


def direct(folder: Path, text: str) -> np.ndarray:
    """The logits of one text, by transformers alone and without padding."""
    import torch
    import transformers

    tokenizer = transformers.AutoTokenizer.from_pretrained(folder)
    model = transformers.AutoModelForSequenceClassification.from_pretrained(folder).eval()
    with torch.inference_mode():
        return model(**tokenizer([text], truncation=True, max_length=128, return_tensors="pt")).logits[0].numpy()


def test_probabilities_are_those_of_transformers(folder: Path):
    texts = [*some_texts(12), "Unknown 文字 here"]
    found = classifier(folder, device="cpu").measure(batch(texts))
    assert list(found) == ["quality_good_text_score", "quality_so_so_score", "quality_b_score"]
    for row, text in enumerate(texts):
        logits = direct(folder, text).astype(np.float64)
        expected = np.exp(logits) / np.exp(logits).sum()
        assert np.allclose([column[row].as_py() for column in found.values()], expected, atol=1e-5)
    spread = np.array(found["quality_b_score"])
    assert spread.max() - spread.min() > 0.05  # the weights are such that texts differ


@pytest.mark.parametrize("batch_tokens", [128, 1000, 4096])
def test_values_do_not_depend_on_the_cut_into_batches(folder: Path, batch_tokens: int):
    texts = some_texts(16, seed=3)
    apply = classifier(folder, device="cpu", batch_tokens=batch_tokens)
    whole = apply.measure(batch(texts))["quality_b_score"].to_pylist()
    alone = [apply.measure(batch([text]))["quality_b_score"][0].as_py() for text in texts]
    backwards = apply.measure(batch(texts[::-1]))["quality_b_score"].to_pylist()[::-1]
    assert whole == alone == backwards


def test_a_model_of_one_output_gives_its_value(tmp_path: Path):
    folder = save(tmp_path / "one", num_labels=1, problem_type="regression")
    texts = some_texts(5)
    found = classifier(folder, device="cpu").measure(batch(texts))
    assert list(found) == ["quality_value"]
    for row, text in enumerate(texts):
        assert found["quality_value"][row].as_py() == pytest.approx(float(direct(folder, text)[0]), abs=1e-4)


def test_roberta_counts_its_positions_behind_the_padding(tmp_path: Path):
    transformers = pytest.importorskip("transformers", reason="transformers is not installed (headrace[classifiers])")
    save(tmp_path / "bert", num_labels=2)
    folder = Path(shutil.copytree(tmp_path / "bert", tmp_path / "roberta"))
    config = transformers.RobertaConfig(
        vocab_size=40, hidden_size=16, num_hidden_layers=1, num_attention_heads=2, intermediate_size=16, pad_token_id=0,
        max_position_embeddings=66, num_labels=2, type_vocab_size=2,
    )  # fmt: skip
    transformers.RobertaForSequenceClassification(config).save_pretrained(folder)
    found = classifier(folder, device="cpu").measure(batch(["the river " * 500]))
    assert sum(column[0].as_py() for column in found.values()) == pytest.approx(1, abs=2e-5)


def test_labels_that_do_not_exclude_each_other_have_a_sigmoid_each(tmp_path: Path):
    folder = save(tmp_path / "many", num_labels=3, problem_type="multi_label_classification")
    (text,) = some_texts(1)
    found = classifier(folder, device="cpu").measure(batch([text]))
    expected = 1 / (1 + np.exp(-direct(folder, text)))
    assert np.allclose([column[0].as_py() for column in found.values()], expected, atol=1e-5)


def test_empty_and_enormous_texts(folder: Path):
    apply = classifier(folder, device="cpu")
    found = apply.measure(batch(["", " \n\t", "x" * 50_000_000, "the river " * 100_000, "the river"]))
    column = found["quality_b_score"]
    assert column.is_valid().to_pylist() == [False, False, True, True, True]
    assert apply.measure(batch([]))["quality_b_score"].to_pylist() == []
    assert apply.measure(batch([""]))["quality_b_score"].to_pylist() == [None]


def test_bfloat16_is_near(folder: Path):
    texts = some_texts(8)
    exact = np.array(classifier(folder, device="cpu").measure(batch(texts))["quality_b_score"])
    rough = np.array(classifier(folder, device="cpu", precision="bfloat16").measure(batch(texts))["quality_b_score"])
    assert np.abs(exact - rough).max() < 0.1
    assert (exact != rough).any()


@pytest.mark.gpu
def test_the_gpu_gives_what_the_cpu_gives(folder: Path):
    if not pytest.importorskip("torch").cuda.is_available():
        pytest.skip("there is no CUDA device")
    texts = some_texts(64)
    cpu = np.array(classifier(folder, device="cpu").measure(batch(texts))["quality_b_score"])
    gpu = classifier(folder, device="cuda")
    assert np.abs(cpu - np.array(gpu.measure(batch(texts))["quality_b_score"])).max() < 1e-4
    alone = [gpu.measure(batch([text]))["quality_b_score"][0].as_py() for text in texts]
    assert alone == gpu.measure(batch(texts))["quality_b_score"].to_pylist()


def test_identity_follows_the_files_and_not_their_place(folder: Path, tmp_path: Path):
    moved = Path(shutil.copytree(folder, tmp_path / "elsewhere"))
    apply = classifier(folder)
    assert apply.identity() == classifier(moved, device="cpu", batch_tokens=1).identity()
    assert apply.identity() != classifier(moved, maximum_tokens=64).identity()
    assert apply.identity() != classifier(moved, precision="bfloat16").identity()
    before = folder_sha256(moved)
    (moved / ".cache").mkdir()
    (moved / ".cache" / "noise").write_text("x")
    assert folder_sha256(moved) == before
    weights = moved / "model.safetensors"
    data = bytearray(weights.read_bytes())
    data[-1] ^= 1
    weights.write_bytes(data)
    assert folder_sha256(moved) != before


def plain_folder(folder: Path, **changes: Any) -> Path:
    """A folder that looks like a classifier's, made without transformers."""
    folder.mkdir()
    config = {"architectures": ["BertForSequenceClassification"], "model_type": "bert", **changes}
    (folder / "config.json").write_text(json.dumps(config))
    (folder / "model.safetensors").write_bytes(b"")
    return folder


def test_what_is_no_classifier_is_refused(tmp_path: Path):
    with pytest.raises(ValueError, match=r"there is no classifier at .*gone"):
        classifier(tmp_path / "gone").identity()
    other = plain_folder(tmp_path / "other", architectures=["BertForMaskedLM"])
    with pytest.raises(ValueError, match="holds BertForMaskedLM, no sequence classifier"):
        classifier(other).signals()
    pickled = plain_folder(tmp_path / "pickled")
    (pickled / "model.safetensors").unlink()
    (pickled / "pytorch_model.bin").write_bytes(pickle.dumps({}))
    with pytest.raises(ValueError, match="pickled weights are not read"):
        classifier(pickled).identity()
    alike = plain_folder(tmp_path / "alike", id2label={"0": "A b", "1": "a-b"})
    with pytest.raises(ValueError, match="do not give column names that differ"):
        classifier(alike).signals()


def test_a_damaged_model_is_told(folder: Path, tmp_path: Path):
    broken = Path(shutil.copytree(folder, tmp_path / "broken"))
    (broken / "model.safetensors").write_bytes((folder / "model.safetensors").read_bytes()[:1000])
    with pytest.raises(ValueError, match=r"broken cannot be loaded as a sequence classifier"):
        classifier(broken, device="cpu").measure(batch(["the river"]))


def test_without_transformers_the_extra_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setitem(sys.modules, "transformers", None)
    with pytest.raises(ValueError, match=r"headrace\[classifiers\]"):
        classifier(plain_folder(tmp_path / "plain", id2label={"0": "a", "1": "b"})).measure(batch(["the river"]))


def test_the_module_imports_neither_torch_nor_transformers():
    import subprocess

    code = "import sys, pipeline.classifiers.neural; print([m for m in ('torch', 'transformers') if m in sys.modules])"
    root = Path(importlib.import_module("pipeline").__file__ or "").parents[1]
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, cwd=root, check=True)
    assert done.stdout.strip() == "[]"
