"""What each held-out document costs a model: the unit that a comparison of models resamples."""

from __future__ import annotations

import io
import json
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from training.config import Shard, TrainingConfig, from_dict
from training.devices import resolve
from training.distributed import World
from training.evaluation.judged import Judged
from training.evaluation.perplexity import read_shard
from training.evaluation.scoring import token_log_probabilities
from training.files import write_file


@dataclass(frozen=True)
class DocumentScoring:
    """All that the scoring of held-out documents needs."""

    checkpoint: str
    """Checkpoint folder."""
    data: list[Shard]
    """Held-out shards."""
    output: str
    """The .npy file to write."""
    device: Literal["auto", "cpu", "cuda"] = "auto"
    precision: Literal["auto", "fp32", "bf16"] = "auto"
    threads: int = 0
    """CPU threads; 0 takes one for each core that the process may use."""


def score_documents(config: str | Path | DocumentScoring) -> NDArray[np.float64]:
    """Score held-out documents and write their nats as a NumPy file, float64 (documents, 2); returns them.

    Rows stand in the order of the shards and of the documents in them. The first column is what the text costs in nats,
    the second its end-of-text id; shards are scored as `score_shards` does, so that the sums are the same. `config` may
    be a JSON file. Raises ValueError for a wrong config, a checkpoint that does not read text from left to right, a
    shard that does not match its description, and a model that gives a token no finite probability.
    """
    if not isinstance(config, DocumentScoring):
        config = from_dict(DocumentScoring, json.loads(Path(config).read_text(encoding="utf-8")))
    training = TrainingConfig(device=config.device, precision=config.precision, threads=config.threads, compile="off")
    judged = Judged(config.checkpoint, resolve(training, World()))
    if not judged.reads_forward:
        raise ValueError(
            f"{config.checkpoint}: trained on {judged.name}, which gives a text no probability from left to right"
        )
    ids = [read_shard(shard) for shard in config.data]
    logs = token_log_probabilities(
        judged.model,
        ids,
        judged.begin_of_text,
        document_mask=judged.description.get("document_mask", False),
        arithmetic=judged.compute.autocast,
    )
    rows = [
        document_nats(shard, tokens, log, judged.end_of_text)
        for shard, tokens, log in zip(config.data, ids, logs, strict=True)
    ]
    nats = np.concatenate([np.zeros((0, 2)), *rows])
    buffer = io.BytesIO()
    np.save(buffer, nats, allow_pickle=False)
    write_file(Path(config.output), buffer.getvalue())
    return nats


def document_nats(
    shard: Shard, tokens: NDArray[np.integer], log_probabilities: NDArray[np.floating], end_of_text: int
) -> NDArray[np.float64]:
    """Sum the log-probabilities (T,) of a shard's tokens (T,) by document: (documents, 2), text and end-of-text id.

    Raises ValueError where a probability is not finite, or the documents are not as many as the shard's description
    says.
    """
    nats = -log_probabilities.astype(np.float64)
    if not np.isfinite(nats).all():
        raise ValueError(f"{shard.path}: the model gives some tokens no finite probability; its training has diverged")
    ends = np.flatnonzero(np.asarray(tokens) == end_of_text)
    if len(ends) != shard.documents or (len(tokens) and ends[-1:] != [len(tokens) - 1]):
        raise ValueError(
            f"{shard.path}: holds {len(ends)} documents that end, not the {shard.documents} of its description"
        )
    sums = np.concatenate([np.zeros(1), np.cumsum(nats)])
    begins = np.append(0, ends[:-1] + 1)
    return np.stack([sums[ends] - sums[begins], nats[ends]], axis=1)
