"""Sequence classifiers of Hugging Face's Transformers as signals: FineWeb-Edu's, toxicity, sentiment, any in a folder.

torch and transformers are imported here and nowhere else in the pipeline, on first use. A model is data: a local folder
with safetensors. Nothing is downloaded and no code of a model runs.
"""

import hashlib
import json
import multiprocessing
import re
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cached_property, lru_cache
from pathlib import Path
from typing import Any, Final, Literal

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from numpy.typing import NDArray
from pydantic import Field

from pipeline.annotators import Annotator, Batch, Signal
from pipeline.stage import StageConfig
from pipeline.store import file_sha256

# Increase when the same text, model and settings give another value.
NEURAL_VERSION: Final = 1
DECIMALS: Final = 5

_CHARACTERS_PER_TOKEN: Final = 32  # a token of text is shorter; a run of blanks or marks may not be
_LENGTH_STEP: Final = 64
_NOT_IN_A_NAME: Final = re.compile(r"[^a-z0-9]+")


class NeuralClassifierConfig(StageConfig):
    """A sequence classifier in a folder, and how it is applied."""

    name: str = Field(
        pattern=r"^[a-z][a-z0-9_]*$", description="Beginning of its columns: lower-case letters, digits, underscores."
    )
    path: str = Field(
        description="Local folder as save_pretrained writes it: config.json, tokenizer, safetensors. Its digest is "
        "part of the identity, its place is not."
    )
    maximum_tokens: int = Field(
        default=512,
        ge=2,
        le=1 << 17,
        description="Tokens at the start of a document that are read. Default 512, as FineWeb-Edu's classifier does "
        "(Penedo et al. 2024, section 4).",
    )
    batch_tokens: int = Field(
        default=16_384,
        ge=1,
        description="Tokens of one pass through the model, padding among them. It bounds the memory.",
    )
    precision: Literal["float32", "bfloat16"] = Field(
        default="float32",
        description="Arithmetic of the model. bfloat16 is the faster one on a GPU and moves a probability in its "
        "second or third digit. A choice of the recipe and not of the machine: signals are the same on all.",
    )
    device: Literal["auto", "cpu", "cuda"] = Field(
        default="auto", description="auto: the GPU where there is one. Not part of the identity."
    )


class NeuralClassifier(Annotator):
    """A sequence classifier's scores.

    Columns: `<name>_<label>_score` for each label, probabilities of a softmax (of a sigmoid each where the model says
    multi_label_classification); for a model of one output, such as FineWeb-Edu's, `<name>_value`, as it comes.

    A document passes through the model in a shape that follows from its own length alone: its tokens are padded to the
    next multiple of 64, and the pass always has as many rows. So neighbours do not change its value: equal to the last
    stored digit, 1e-5, for any cut into batches. Another number of threads, another processor or GPU may move the last
    digits.
    """

    def __init__(self, config: NeuralClassifierConfig) -> None:
        self.config = config

    @cached_property
    def _shape(self) -> "_Shape":
        return _read_shape(Path(self.config.path).expanduser())

    def signals(self) -> list[Signal]:
        """One column a label, float64, null where there is no text."""
        name, shape = self.config.name, self._shape
        if shape.kind == "regression":
            return [Signal(f"{name}_value", pa.float64(), f"value that the classifier {name} gives")]
        labels = [_NOT_IN_A_NAME.sub("_", label.lower()).strip("_") for label in shape.labels]
        if len(set(labels)) < len(labels) or not all(labels):
            raise ValueError(
                f"{self.config.path}: the labels {', '.join(shape.labels)} do not give column names that differ; "
                "mend id2label in its config.json"
            )
        return [
            Signal(f"{name}_{column}_score", pa.float64(), f"probability that the classifier {name} gives to {label}")
            for column, label in zip(labels, shape.labels, strict=True)
        ]

    def identity(self) -> dict[str, Any]:
        """The settings, and the digest of the folder in place of its path."""
        settings = self.config.model_dump(mode="json", exclude={"path", "device", "batch_tokens"})
        folder = Path(self.config.path).expanduser()
        _read_shape(folder)
        return {**settings, "folder_sha256": folder_sha256(folder), "version": NEURAL_VERSION}

    def measure(self, batch: Batch) -> dict[str, pa.Array]:
        """The scores of each document. Raises ValueError where transformers, torch or the model cannot be used."""
        values = self._classify(batch.texts)
        return {
            signal.name: pa.array(np.ascontiguousarray(column), pa.float64(), from_pandas=True)
            for signal, column in zip(self.signals(), values.T, strict=True)
        }

    def _classify(self, texts: pa.LargeStringArray) -> NDArray[np.float64]:
        """Scores (documents, outputs), NaN where there is no text."""
        model = _load(str(Path(self.config.path).expanduser()), self.config.device, self.config.precision)
        most = min(self.config.maximum_tokens, model.most_tokens)
        beginnings = pc.utf8_slice_codeunits(texts, 0, most * _CHARACTERS_PER_TOKEN).to_pylist()
        values = np.full((len(texts), len(self._shape.labels)), np.nan)
        written = [row for row, text in enumerate(beginnings) if text.strip()]
        if not written:
            return values
        tokens = model.tokenize([beginnings[row] for row in written], most)
        for length, rows in _passes([len(ids) for ids in tokens], most, self.config.batch_tokens):
            count = max(1, self.config.batch_tokens // length)
            logits = model.forward([tokens[row] for row in rows], length, count)
            values[[written[row] for row in rows]] = _scores(logits, self._shape.kind)
        return np.round(values, DECIMALS)


def _passes(lengths: list[int], most: int, batch_tokens: int) -> Iterator[tuple[int, list[int]]]:
    """Rows of a similar length together: (padded length, rows), the longest first so that memory fails early."""
    padded = [min(most, -(-length // _LENGTH_STEP) * _LENGTH_STEP) for length in lengths]
    for length in sorted(set(padded), reverse=True):
        rows = [row for row, other in enumerate(padded) if other == length]
        count = max(1, batch_tokens // length)
        for start in range(0, len(rows), count):
            yield length, rows[start : start + count]


def _scores(logits: NDArray[np.float64], kind: str) -> NDArray[np.float64]:
    if kind == "regression":
        return logits
    if kind == "multi_label":
        return 1.0 / (1.0 + np.exp(-logits))
    powers = np.exp(logits - logits.max(axis=1, keepdims=True))
    return powers / powers.sum(axis=1, keepdims=True)


@dataclass(frozen=True)
class _Shape:
    """What config.json tells of a model's outputs."""

    labels: tuple[str, ...]
    kind: Literal["single_label", "multi_label", "regression"]


def _read_shape(folder: Path) -> _Shape:
    """Raises ValueError where the folder holds no sequence classifier in safetensors."""
    try:
        config = json.loads((folder / "config.json").read_text(encoding="utf-8"))
    except FileNotFoundError as error:
        raise ValueError(
            f"there is no classifier at {folder}: it has no config.json; name a folder as save_pretrained writes it"
        ) from error
    except (ValueError, OSError) as error:
        raise ValueError(f"{folder / 'config.json'} cannot be read: {error}") from error
    architectures = config.get("architectures") or []
    if not any(str(name).endswith("ForSequenceClassification") for name in architectures):
        raise ValueError(
            f"{folder} holds {', '.join(architectures) or 'a model without a head'}, no sequence classifier"
        )
    if not list(folder.glob("*.safetensors")):
        raise ValueError(f"{folder} holds no safetensors; pickled weights are not read, save the model again")
    names = config.get("id2label") or {"0": "LABEL_0", "1": "LABEL_1"}  # transformers leaves out its default of two
    labels = tuple(str(names[key]) for key in sorted(names, key=int))
    if len(labels) == 1 or config.get("problem_type") == "regression":
        if len(labels) > 1:
            raise ValueError(f"{folder} is a regression of {len(labels)} values; one is supported")
        return _Shape(labels, "regression")
    multi = config.get("problem_type") == "multi_label_classification"
    return _Shape(labels, "multi_label" if multi else "single_label")


def folder_sha256(folder: Path) -> str:
    """SHA-256 over the names and digests of a folder's files, hidden ones left out, as hex."""
    whole = hashlib.sha256()
    for path in sorted(path for path in folder.rglob("*") if path.is_file()):
        name = path.relative_to(folder)
        if not any(part.startswith(".") for part in name.parts):
            whole.update(f"{name.as_posix()}\0{_file_digest(str(path), _stamp(path))}\n".encode())
    return whole.hexdigest()


def _stamp(path: Path) -> tuple[int, int]:
    status = path.stat()
    return status.st_size, status.st_mtime_ns


@lru_cache(maxsize=256)
def _file_digest(path: str, stamp: tuple[int, int]) -> str:
    return file_sha256(path)


class _Model:
    """A model and its tokenizer on a device."""

    def __init__(self, folder: str, device: str, precision: str) -> None:
        torch, transformers = _import()
        if device == "cuda" and not torch.cuda.is_available():
            raise ValueError("device is cuda, but torch finds no GPU here; use auto or cpu")
        self.device = "cuda" if device != "cpu" and torch.cuda.is_available() else "cpu"
        if multiprocessing.parent_process() is not None:
            torch.set_num_threads(1)  # a pool has a worker for each core
        local = {"local_files_only": True, "trust_remote_code": False}
        try:
            self.tokenizer = transformers.AutoTokenizer.from_pretrained(folder, **local)
            model = transformers.AutoModelForSequenceClassification.from_pretrained(
                folder, use_safetensors=True, dtype=getattr(torch, precision), **local
            )
        except Exception as error:  # transformers, tokenizers and safetensors have no error in common
            raise ValueError(f"{folder} cannot be loaded as a sequence classifier: {error}") from error
        if self.tokenizer.pad_token_id is None:
            raise ValueError(f"the tokenizer in {folder} has no padding token; set one and save it again")
        model.config.pad_token_id = self.tokenizer.pad_token_id
        self.model = model.to(self.device).eval()
        # A tokenizer without a limit gives a very large number.
        self.most_tokens: int = int(min(_positions(model), self.tokenizer.model_max_length))

    def tokenize(self, texts: list[str], most: int) -> list[list[int]]:
        """Ids of each text with the model's special tokens, cut to `most`."""
        return list(self.tokenizer(texts, truncation=True, max_length=most, add_special_tokens=True)["input_ids"])

    def forward(self, tokens: list[list[int]], length: int, count: int) -> NDArray[np.float64]:
        """Logits (rows, outputs) of at most `count` rows, computed in the shape (count, length)."""
        import torch

        left = self.tokenizer.padding_side == "left"
        ids = np.full((count, length), self.tokenizer.pad_token_id, np.int64)
        mask = np.zeros((count, length), np.int64)
        for row in range(count):
            own = tokens[min(row, len(tokens) - 1)]  # rows that are not needed repeat the last one
            span = slice(length - len(own), length) if left else slice(0, len(own))
            ids[row, span], mask[row, span] = own, 1
        with torch.inference_mode():
            given = {"input_ids": torch.from_numpy(ids), "attention_mask": torch.from_numpy(mask)}
            logits = self.model(**{name: tensor.to(self.device) for name, tensor in given.items()}).logits
        return logits[: len(tokens)].double().cpu().numpy()


def _positions(model: Any) -> int:
    """Tokens that a model has positions for. RoBERTa and its kin begin to count behind the padding token's id."""
    most = getattr(model.config, "max_position_embeddings", None) or 1 << 30
    for name, module in model.named_modules():
        if name.endswith("position_embeddings") and getattr(module, "padding_idx", None) is not None:
            most = min(most, module.num_embeddings - module.padding_idx - 1)
    return int(most)


def _import() -> tuple[Any, Any]:
    try:
        import torch
        import transformers
    except ImportError as error:
        raise ValueError(
            f"a neural classifier needs the package {error.name}: pip install 'headrace[classifiers]'"
        ) from error
    transformers.utils.logging.disable_progress_bar()
    return torch, transformers


@lru_cache(maxsize=4)
def _load(folder: str, device: str, precision: str) -> _Model:
    return _Model(folder, device, precision)
