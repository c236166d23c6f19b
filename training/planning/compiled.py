"""What a compiled step holds: the graphs that torch.compile would make, played through without generating code.

Dynamo, AOTAutograd and the min-cut partitioner do here what they do in a run, so what the forward pass saves for the
backward pass is what it really saves. Within a graph the compiler fuses pointwise operations into the kernels around
them; which results lie in memory is told here by a rule: inputs and outputs of matrix products, attention and other
kernels of a library, results of reductions, and outputs of the graph; on a CPU exponentials that are read more than
once, too, which are dear there. All else is taken to live in registers.

What is imported here is torch's own business, and may change with its version: import this module where an error can be
caught.
"""

from __future__ import annotations

import functools
from collections import Counter
from collections.abc import Callable, Sequence
from typing import Any

import torch
from functorch.compile import make_boxed_func, min_cut_rematerialization_partition
from torch import Tensor, nn
from torch._dynamo.backends.common import aot_autograd
from torch._inductor.decomposition import select_decomp_table
from torch.fx import GraphModule, Node

from training.planning.metering import StorageMeter, known_bytes

_KERNELS = (
    "mm",
    "addmm",
    "bmm",
    "baddbmm",
    "_scaled_mm",
    "_scaled_dot_product",
    "embedding_dense_backward",
    "index_put",
    "sort",
    "_int_mm",
    "convolution",
)
_REUSED_ON_CPU = ("exp", "sigmoid")
_REDUCTIONS = ("sum", "mean", "amax", "amin", "max", "min", "var", "var_mean", "any", "all", "prod", "argmax")


def compile_for_metering(module: nn.Module, meter: StorageMeter, on_cpu: bool) -> Callable[..., Tensor]:
    """The module as torch.compile would run it on static shapes; each graph tells the meter what it holds within."""
    backend = aot_autograd(
        fw_compiler=functools.partial(_metered, meter=meter, output_kind="activations", on_cpu=on_cpu),
        bw_compiler=functools.partial(_metered, meter=meter, output_kind="gradients", on_cpu=on_cpu),
        partition_fn=functools.partial(min_cut_rematerialization_partition, compiler="inductor"),
        decompositions=select_decomp_table(),
    )
    compiled: Callable[..., Tensor] = torch.compile(module, backend=backend, dynamic=False)
    return compiled


def _metered(graph: GraphModule, inputs: Sequence[Any], meter: StorageMeter, output_kind: str, on_cpu: bool) -> Any:
    backward = output_kind == "gradients"
    surges = _surges(graph, backward, on_cpu)
    run = make_boxed_func(graph)

    def execute(arguments: list[Any]) -> Any:
        for index, surge in enumerate(surges):
            meter.surge(surge, "end" if backward and index else "")
        with meter.paused():
            outputs = run(arguments)
        # As generated code does: what was saved is given back within the graph.
        arguments.clear()
        meter.claim((output for output in outputs if isinstance(output, Tensor)), output_kind, fresh_only=True)
        return outputs

    execute._boxed_call = True  # type: ignore[attr-defined]
    return execute


def _surges(graph: GraphModule, backward: bool, on_cpu: bool) -> list[Counter[str]]:
    """What the graph holds beyond its inputs when it holds most, in its first and in its second half, by kind.

    In a backward pass the saved activations are given back as soon as they are used, which counts as less than nothing.
    """
    nodes = list(graph.graph.nodes)
    buffers = _Buffers(nodes, backward, on_cpu)
    held: Counter[str] = Counter()
    peaks: list[Counter[str] | None] = [None, None]
    for position, node in enumerate(nodes):
        made, freed = buffers.made_at.get(position, []), buffers.freed_at.get(position, [])
        for storage in made:
            held[buffers.kind[storage]] += buffers.size[storage]
            if not _operation(node).startswith(_KERNELS):
                # A fused kernel writes over an operand of the same size that nobody reads after it.
                over = next((other for other in freed if buffers.size[other] == buffers.size[storage]), None)
                if over is not None and over != storage:
                    held[buffers.kind[over]] -= buffers.size[over]
                    freed = [other for other in freed if other != over]
        half = 0 if position < len(nodes) // 2 else 1
        peak = peaks[half]
        if peak is None or held.total() > peak.total():
            peaks[half] = held.copy()
        for storage in freed:
            held[buffers.kind[storage]] -= buffers.size[storage]
    return [peak for peak in peaks if peak is not None]


class _Buffers:
    """The storages of a graph that lie in memory: size, kind, and the positions where each is made and given back."""

    def __init__(self, nodes: list[Node], backward: bool, on_cpu: bool) -> None:
        self.size: dict[int, int] = {}
        self.kind: dict[int, str] = {}
        self.made_at: dict[int, list[int]] = {}
        self.freed_at: dict[int, list[int]] = {}
        output = next(node for node in nodes if node.op == "output")
        results = {storage for node in output.all_input_nodes for storage in _storages(node)}
        given = {storage for node in nodes if node.op == "placeholder" for storage in _storages(node)}
        kept = {s for node in nodes if node.op == "placeholder" and not _is_saved(node) for s in _storages(node)}
        laid = _laid_down(nodes, results, on_cpu)
        last_use = _last_uses(nodes, laid | given)
        kept_as = "gradients" if backward else "activations"
        for position, node in enumerate(nodes):
            for storage, nbytes in _storages(node).items():
                if storage in self.size or (node.op == "placeholder" and (storage in kept or not backward)):
                    continue
                if node.op == "placeholder":
                    self.size[storage], self.kind[storage] = nbytes, "activations"
                elif storage in laid and storage not in given:
                    self.size[storage] = nbytes
                    self.kind[storage] = kept_as if storage in results else "workspace"
                    self.made_at.setdefault(position, []).append(storage)
                else:
                    continue
                if storage not in results:
                    self.freed_at.setdefault(last_use.get(storage, position), []).append(storage)


def _laid_down(nodes: list[Node], results: set[int], on_cpu: bool) -> set[int]:
    """The storages that are written to memory."""
    laid = set(results)
    for node in nodes:
        name = _operation(node)
        reused = on_cpu and name in _REUSED_ON_CPU and len(node.users) > 1
        if name.startswith(_KERNELS) or name in _REDUCTIONS or reused:
            laid |= _storages(node).keys()
        if name.startswith(_KERNELS):
            laid |= {storage for argument in node.all_input_nodes for storage in _storages(argument)}
    return laid


def _last_uses(nodes: list[Node], laid: set[int]) -> dict[int, int]:
    """Position of the last reader of each storage; what reads a fused result reads what that was made of."""
    sources: dict[Node, set[int]] = {}
    last: dict[int, int] = {}
    for position, node in enumerate(nodes):
        own = _storages(node).keys()
        read = {storage for argument in node.all_input_nodes for storage in sources[argument]}
        for storage in read:
            last[storage] = position
        in_memory = own & laid
        sources[node] = set(in_memory) if in_memory else read
    return last


def _operation(node: Node) -> str:
    return node.target.__name__.split(".")[0] if node.op == "call_function" else ""  # type: ignore[union-attr]


def _is_saved(node: Node) -> bool:
    """Whether an input of a backward graph is an activation, and not a parameter, a buffer or an incoming gradient."""
    return not node.name.startswith(("primals", "tangents"))


def _storages(node: Node) -> dict[int, int]:
    """The storages behind a node's value, with their bytes."""
    value = node.meta.get("val")
    tensors = value if isinstance(value, tuple | list) else [value]
    return {
        tensor.untyped_storage()._cdata: known_bytes(tensor.untyped_storage())
        for tensor in tensors
        if isinstance(tensor, Tensor) and tensor.layout is torch.strided
    }
