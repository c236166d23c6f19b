"""What a model takes, how fast it is and how good: before, and after each step."""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import torch

from training.checkpoints.files import read_tensors
from training.compression.stages import WEIGHTS
from training.config import Shard
from training.continuing import continues_text
from training.devices import Compute
from training.evaluation.judged import Judged
from training.loader import ValidationLoader, as_tensors, on_device
from training.models import build
from training.models.transformer import Transformer

READ, GENERATED = "read_tokens_per_second", "generated_tokens_per_second"

Figures = dict[str, float]


def size_of(folder: Path, judged: Judged, dense: Figures | None) -> Figures:
    """`bytes` of the file of weights, `parameters`, and `nonzero`, those that are not zero.

    A quantized file holds the same parameters as the `dense` model that it was made of, whose counts are taken over.
    """
    figures: Figures = {"bytes": (folder / WEIGHTS).stat().st_size}
    if "quantization" in judged.description and dense is not None:
        return figures | {name: dense[name] for name in ("parameters", "nonzero")}
    with torch.device("meta"):
        figures["parameters"] = build(judged.model.config, judged.model.vocabulary_size).parameters_count()
    figures["nonzero"] = sum(int(torch.count_nonzero(tensor)) for tensor in read_tensors(folder / WEIGHTS).values())
    return figures


def quality_of(judged: Judged, held_out: Sequence[Shard], tokens: int) -> Figures:
    """`loss` of the model's objective on held-out rows, and `perplexity` where that is a likelihood.

    Rows of the training's length, spread over the shards, of `tokens` tokens together (0: all). Nothing without
    held-out text. Raises ValueError where the loss is not finite.
    """
    if not held_out:
        return {}
    objective, length = judged.objective, judged.sequence_length
    form = objective.form(length)
    rows = sum(-(-shard.tokens // form.stride) for shard in held_out)
    rows = min(rows, -(-tokens // form.stride)) if tokens else rows
    loader = ValidationLoader(held_out, form, rows, judged.end_of_text)
    total, count = 0.0, 0.0
    for part in loader.batches(max(1, (65536 if judged.device.type == "cuda" else 2048) // length)):
        batch = objective.prepare(on_device(as_tensors(part.rows), judged.device), training=False)
        with torch.inference_mode(), judged.compute.autocast():
            sums_B, counts_B = objective.evaluate(judged.model, batch)["loss"]
        total, count = total + float(sums_B.double().sum()), count + float(counts_B.sum())
    loss = total / max(count, 1.0)
    if not math.isfinite(loss):
        raise ValueError(f"{judged.checkpoint}: the loss on held-out text is not finite; the model has diverged")
    return {"loss": loss, "perplexity": math.exp(min(loss, 700.0))} if objective.likelihood else {"loss": loss}


def speeds_of(folders: Sequence[Path], compute: Compute, seconds: float, batch: int, seed: int) -> list[Figures]:
    """Tokens a second of each model: read in whole sequences, and generated as one stream where it continues a text.

    Each for `seconds`, in turn with the others, so that a busy machine slows all of them; the best round counts. Ids
    are random. Models are held in memory together.
    """
    runs: list[dict[str, Callable[[], int]]] = [_runs(folder, compute, batch, seed) for folder in folders]
    best: list[Figures] = [dict.fromkeys(run, 0.0) for run in runs]
    for name in (READ, GENERATED):
        measured = [index for index, run in enumerate(runs) if name in run]
        for index in measured:
            runs[index][name]()  # warm
        end = time.perf_counter() + seconds * len(measured)
        rounds = 0
        while measured and (rounds < 3 or time.perf_counter() < end):
            for index in measured:
                begin = time.perf_counter()
                tokens = runs[index][name]()
                compute.synchronize()
                best[index][name] = max(best[index][name], tokens / (time.perf_counter() - begin))
            rounds += 1
    return best


def table_of(names: Sequence[str], figures: Sequence[Mapping[str, float]]) -> dict[str, Any]:
    """One row for each model; columns are the figures that any of them has."""
    columns = list(dict.fromkeys(name for one in figures for name in one))
    rows = [[name, *(one.get(column) for column in columns)] for name, one in zip(names, figures, strict=True)]
    return {"columns": ["model", *columns], "rows": rows}


def lines_of(names: Sequence[str], figures: Sequence[Mapping[str, float]]) -> list[str]:
    """What each model comes to beside the first, a line each."""
    first = figures[0]
    return [f"{name}: {', '.join(_compared(one, first))}" for name, one in zip(names, figures, strict=True)]


def _compared(figures: Mapping[str, float], first: Mapping[str, float]) -> Iterator[str]:
    yield f"{figures['bytes'] / 1e6:.2f} MB"
    yield f"{figures['parameters']:,.0f} parameters"
    if figures["nonzero"] < 0.99 * figures["parameters"]:
        yield f"{figures['nonzero'] / figures['parameters']:.0%} not zero"
    if "perplexity" in figures:
        yield f"perplexity {figures['perplexity']:.2f}"
    elif "loss" in figures:
        yield f"loss {figures['loss']:.4f}"
    yield from (f"{name} {value:.3f}" for name, value in figures.items() if "/" in name)
    for name, word in ((READ, "read"), (GENERATED, "generated")):
        if name in figures:
            times = f" ({figures[name] / first[name]:.2f}x)" if first.get(name) and figures is not first else ""
            yield f"{figures[name]:,.0f} tokens/s {word}{times}"


def _runs(folder: Path, compute: Compute, batch: int, seed: int) -> dict[str, Callable[[], int]]:
    """What is timed; each returns how many tokens it has worked on."""
    judged = Judged(folder, compute, seed)
    model = judged.model
    generator = torch.Generator().manual_seed(seed)
    length = min(judged.sequence_length, judged.context_length)
    ids_BT = torch.randint(judged.tokenizer_vocabulary, (batch, length), generator=generator).to(compute.device)
    runs: dict[str, Callable[[], int]] = {}

    @torch.inference_mode()
    def read() -> int:
        with compute.autocast():
            model.hidden(ids_BT)
        return ids_BT.numel()

    if isinstance(model, Transformer):
        runs[READ] = read
    if continues_text(judged.objective_config):
        from training.config.generation import GenerationConfig
        from training.generation import Generator

        stream = Generator.load(folder, compute.device)
        prompt = ids_BT[0, : length // 4].tolist()
        settings = GenerationConfig(max_new_tokens=max(1, length // 2), temperature=1.0, top_k=0, seed=seed)

        def generate() -> int:
            return sum(1 for _ in stream.token_ids(prompt, settings))

        # A stream that ends at once has no speed.
        if generate():
            runs[GENERATED] = generate
    return runs
