"""The training step played through on tensors without data, to see what memory it holds and when."""

from __future__ import annotations

import contextlib
import dataclasses
import functools
import math
from collections import Counter
from collections.abc import Iterator
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn
from torch._subclasses.fake_tensor import FakeTensorMode

from training.models import transformer
from training.models.attention import Route, choose_route
from training.models.encoder_decoder import EncoderDecoder
from training.objectives import cross_entropy
from training.planning.metering import StorageMeter
from training.planning.stepping import Step, StepSettings

Peaks = dict[str, Counter[str]]
"""For each phase of a step the bytes by kind at its worst moment."""


class Rehearsal(NamedTuple):
    """What a step holds, by phase, and whether that is an upper bound."""

    peaks: Peaks
    upper_bound: bool


def rehearse(settings: StepSettings, bound: bool = False) -> Rehearsal:
    """What a step holds: parameters, gradients, optimizer, average, activations, logits, workspace.

    A compiled step is traced as the compiler traces it. With recomputation its backward pass is ordered anew by the
    compiler, which cannot be followed without it: then an upper bound is given, as is with `bound` (it takes a second
    where tracing takes ten), and where this version of torch does not trace as others do.
    """
    if not settings.compiled:
        return Rehearsal(_rehearsed(settings), upper_bound=False)
    if settings.recompute == "none" and not bound:
        # The compiler is followed by parts of torch that change from version to version: no plan may fail by them. A
        # mistake in the settings comes up again below.
        with contextlib.suppress(Exception):
            return Rehearsal(_rehearsed(settings), upper_bound=False)
    peaks = _rehearsed(dataclasses.replace(settings, compiled=False))
    if settings.recompute == "none":
        return Rehearsal(peaks, upper_bound=True)
    postponed = _postponed_bytes(settings)
    return Rehearsal({phase: held + postponed.get(phase, Counter()) for phase, held in peaks.items()}, upper_bound=True)


def _postponed_bytes(settings: StepSettings) -> dict[str, Counter[str]]:
    """What a compiled backward pass with recomputation may hold beyond an uncompiled one.

    The compiler computes the gradients of weights late: within a block after those of its activations, so that the
    gradients of all its products' results stay till then; and that of a head tied to the embedding at the very end,
    together with the embedding's, so that the gradient of whole logits stays, too.
    """
    model, width = settings.model, settings.dtype.itemsize
    positions = settings.device_batch_size * settings.sequence_length
    heads = (model.heads + 2 * model.key_value_heads) * model.width_of_head
    fed = model.hidden_width * (2 if model.gated else 1)
    block = Counter(workspace=positions * (heads + fed + 2 * model.width) * width)
    logits = 0 if settings.chunks or not model.tied_embeddings else positions * settings.vocabulary_size * width
    return {"backward": block, "backward end": block + Counter(logits=logits)}


def _rehearsed(settings: StepSettings) -> Peaks:
    """The peaks of a step, compiled or not.

    All layers are alike but for a period (a window, a policy of recomputation), so a deep model is played with few
    layers, twice, and continued as a straight line: in each phase the worst moment holds a fixed part and one for each
    layer. The backward pass has two phases, since it is worst at its beginning, with all activations, or at its end,
    with all gradients.
    """
    few = _few_layers(settings)
    if few is None:
        return _play(settings)
    low, high = (_play(_with_layers(settings, layers)) for layers in few)
    reach = (settings.model.layers - few[0]) / (few[1] - few[0])
    return {phase: _continued(low[phase], high[phase], reach) for phase in low}


def _continued(low: Counter[str], high: Counter[str], reach: float) -> Counter[str]:
    kinds = low.keys() | high.keys()
    return Counter({kind: round(low[kind] + (high[kind] - low[kind]) * reach) for kind in kinds})


def _few_layers(settings: StepSettings) -> tuple[int, int] | None:
    """Two numbers of layers to play with instead of all; None where all are few, or share weights in groups."""
    model = settings.model
    every = settings.recompute_every if settings.recompute != "none" else 1
    windows = model.global_every if model.window is not None else 1
    period = math.lcm(every, windows or 1)
    few = (2 * period, 4 * period)
    alike = model.architecture == "transformer" and model.blocks in (1, model.layers)
    return few if model.layers > few[1] and alike else None


def _with_layers(settings: StepSettings, layers: int) -> StepSettings:
    return dataclasses.replace(settings, model=dataclasses.replace(settings.model, layers=layers))


def _play(settings: StepSettings) -> Peaks:
    """The peaks of a step; micro-batches beyond the second hold what the second holds, and their tokens."""
    played = dataclasses.replace(settings, micro_batches=min(2, settings.micro_batches))
    sequences = settings.device_batch_size * (settings.micro_batches - played.micro_batches)
    # The windows, and the inputs and targets that are cut out of them.
    tokens = Counter(batch=sequences * (3 * settings.sequence_length + 1) * torch.int64.itemsize)
    return {phase: held + tokens for phase, held in _played(played).items()}


@functools.lru_cache(maxsize=256)
def _played(settings: StepSettings) -> Peaks:
    """Two steps without data; the peaks of the second, in which nothing is made for the first time."""
    meter = StorageMeter(settings.vocabulary_size + settings.objective.extra_tokens)
    with torch.random.fork_rng(devices=[]), FakeTensorMode(allow_non_fake_inputs=True), _as_on(settings):
        with meter:
            step = Step(settings, torch.device("cpu"))
            rows = step.rows()
        step.model.train()
        _follow(step, meter)
        if settings.compiled:
            from training.planning.compiled import compile_for_metering

            torch._dynamo.reset()
            step.loss = compile_for_metering(step.loss, meter, settings.kind == "cpu")  # type: ignore[arg-type]
        meter.claim(rows.values(), "batch")
        for _ in range(2):
            meter.peaks.clear()
            step.take(rows, functools.partial(_phase, meter, settings.compiled))
    return meter.peaks


@contextlib.contextmanager
def _phase(meter: StorageMeter, compiled: bool, name: str) -> Iterator[None]:
    """Meter a part of the step; Dynamo compiles nothing under a meter, but compiled graphs tell it what they hold."""
    own_report = compiled and name in ("forward", "backward")
    with meter.phase(name, "activations" if name == "forward" else "workspace"):
        with contextlib.nullcontext() if own_report else meter:
            yield


def _follow(step: Step, meter: StorageMeter) -> None:
    """Tell the meter what belongs to what, and when half of the backward pass is done."""
    model, settings = step.model, step.settings
    meter.claim(model.parameters(), "parameters")
    meter.claim(model.buffers(), "workspace")
    meter.claim(step.optimizer.state_tensors().values(), "optimizer")
    if step.average is not None:
        meter.claim(step.average.state_tensors().values(), "average")

    def gradient_made(parameter: Tensor) -> None:
        if parameter.grad is not None and parameter.grad.layout is torch.strided:
            meter.claim([parameter.grad], "gradients")

    for parameter in model.parameters():
        parameter.register_post_accumulate_grad_hook(gradient_made)
    if settings.kind == "cuda":
        # There the stream is in the dtype of the products (`Transformer._embedded`).
        for trunk in model.modules():
            if isinstance(trunk, transformer.Transformer | EncoderDecoder):
                trunk.dropout.register_forward_pre_hook(lambda module, arguments: (arguments[0].to(settings.dtype),))
    if not settings.compiled and len(model.blocks) > 1:
        middle = model.blocks[len(model.blocks) // 2]

        def half_done(module: nn.Module, arguments: tuple[Any, ...]) -> None:
            if arguments[0].requires_grad:
                arguments[0].register_hook(lambda gradient: meter.enter_phase("backward end"))

        middle.register_forward_pre_hook(half_done)


@contextlib.contextmanager
def _as_on(settings: StepSettings) -> Iterator[None]:
    """Let a model on CPU tensors without data take the ways that it takes on CUDA, where that is what is planned."""
    if settings.kind == "cpu":
        yield
        return
    routes, chunks = transformer.choose_route, cross_entropy.CHUNK_POSITIONS
    transformer.choose_route = _cuda_route  # type: ignore[attr-defined]
    cross_entropy.CHUNK_POSITIONS = {**chunks, "cpu": chunks["cuda"]}
    try:
        yield
    finally:
        transformer.choose_route = routes  # type: ignore[attr-defined]
        cross_entropy.CHUNK_POSITIONS = chunks


def _cuda_route(device: torch.device, tokens: int, head_width: int, plain: bool, dropout: float) -> Route:
    """FlexAttention keeps what fused attention keeps: queries, keys, values, the result and the log-normalisers."""
    route = choose_route(torch.device("cuda"), tokens, head_width, plain, dropout)
    return "fused" if route == "flex" else route
