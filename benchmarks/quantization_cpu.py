"""Quantized models beside the same in float32, and beside torchao's and torch.ao's quantization of them, on a CPU.

    python -m benchmarks.quantization_cpu [--models NAME ...] [--sizes SIZE ...] [--threads 2] [--rounds 5]

All sides have the same random weights and quantize the same matrices, those of the blocks. Timed is the trunk (without
the vocabulary): one token, a prompt of 128 and a batch of 8 x 128, each side in turn, the best of all rounds. Float32
and the peers run in eager mode, as ours does.
"""

from __future__ import annotations

import copy
import time
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn

from benchmarks.rows import Row, parser, table, write
from training.compression.quantization import QuantizationConfig, quantize
from training.config import ModelConfig, expand_preset, from_dict
from training.models import Model, build

MODELS: dict[str, dict[str, Any]] = {
    "nano": {"preset": "gpt2", "layers": 6, "heads": 4, "width": 256, "context_length": 256},
    "gpt2": {"preset": "gpt2", "context_length": 256},
    "llama-125m": {"preset": "llama-125m", "context_length": 256},
}
OURS = {
    "dynamic int8": QuantizationConfig(),
    "static int8": QuantizationConfig("static_int8"),
    "weight int8 by row": QuantizationConfig("weight_int8", group_size=0),
    "weight int8 by 32": QuantizationConfig("weight_int8"),
    "weight int4 by 32": QuantizationConfig("weight_int4"),
}
SIZES = {"1 token": (1, 1), "1 x 128": (1, 128), "8 x 128": (8, 128)}
VOCABULARY = 1000


def main() -> None:
    """Measure and print."""
    options = parser(__doc__ or "")
    options.add_argument("--models", nargs="+", choices=list(MODELS), default=["nano", "gpt2"])
    options.add_argument("--sizes", nargs="+", choices=list(SIZES), default=list(SIZES))
    options.add_argument("--threads", type=int, default=2)
    options.add_argument("--rounds", type=int, default=5)
    given = options.parse_args()
    torch.set_num_threads(given.threads)
    rows: list[Row] = []
    for name in given.models:
        made = compare(name, given.sizes, given.rounds)
        print(table(made, f"{name}, {given.threads} threads, torch {torch.__version__}"), flush=True)
        rows += made
    if given.json is not None:
        write(rows, given.json)


@torch.inference_mode()
def compare(name: str, sizes: list[str], rounds: int) -> list[Row]:
    """The rows of one model: bytes and errors, then speeds beside float32, then beside the peers."""
    torch.manual_seed(0)
    config = from_dict(ModelConfig, expand_preset(MODELS[name]))
    dense = build(config, VOCABULARY).eval()
    text = {size: torch.randint(VOCABULARY, shape) for size, shape in SIZES.items()}
    models: dict[str, Model] = {"float32": dense}
    for method, settings in OURS.items():
        models[method] = copy.deepcopy(dense)
        quantize(models[method], settings, [text["8 x 128"]])
    ours = list(models)
    models |= peers(dense)
    expected = dense.hidden(text["8 x 128"])
    rows = []
    for method in ours[1:]:
        error = float((models[method].hidden(text["8 x 128"]) - expected).norm() / expected.norm())
        rows.append(Row(f"{name}, {method}: blocks", "bytes", size_of(models[method]), size_of(dense), "float32"))
        rows.append(Row(f"{name}, {method}: change of the hidden states", "share", error))
    for size in sizes:
        ids_BT = text[size]
        speeds = timed({key: reading(model, ids_BT) for key, model in models.items()}, ids_BT.numel(), rounds)
        for method in ours[1:]:
            label = f"{name}, {method}, {size}"
            rows.append(Row(label, "tokens/s", speeds[method], speeds["float32"], "float32"))
            for peer, (version, counterparts) in PEERS.items():
                if peer in speeds and method in counterparts:
                    rows.append(Row(label, "tokens/s", speeds[method], speeds[peer], peer, version))
    return rows


def size_of(model: Model) -> float:
    """Bytes of the tensors of the blocks."""
    return float(sum(tensor.nbytes for name, tensor in model.state_dict().items() if name.startswith("blocks.")))


def reading(model: Model, ids_BT: Tensor) -> Callable[[], Any]:
    """What is timed."""
    return lambda: model.hidden(ids_BT)


def timed(sides: dict[str, Callable[[], Any]], tokens: int, rounds: int) -> dict[str, float]:
    """Tokens a second of each side, in turns; the best round counts."""
    best = dict.fromkeys(sides, 0.0)
    for side in sides.values():
        side()
    for _ in range(rounds):
        for key, side in sides.items():
            begin, count = time.perf_counter(), 0
            while count == 0 or time.perf_counter() - begin < 0.2:
                side()
                count += 1
            best[key] = max(best[key], tokens * count / (time.perf_counter() - begin))
    return best


PEERS: dict[str, tuple[str, tuple[str, ...]]] = {
    "torchao dynamic int8": ("", ("dynamic int8", "static int8")),
    "torchao weight int8": ("", ("weight int8 by row", "weight int8 by 32", "weight int4 by 32")),
    "torch.ao dynamic int8": (torch.__version__, ("dynamic int8", "static int8")),
}
"""The version of each peer, and the methods of ours that it stands beside."""


def peers(dense: Model) -> dict[str, Model]:
    """The same model quantized by others, where they are installed and can."""
    made: dict[str, Model] = {}
    try:
        import torchao
        from torchao.quantization import Int8DynamicActivationInt8WeightConfig, Int8WeightOnlyConfig, quantize_
    except ImportError:
        print("torchao is not installed: pip install torchao")
    else:
        configs = (Int8DynamicActivationInt8WeightConfig(), Int8WeightOnlyConfig())
        for key, config in zip(("torchao dynamic int8", "torchao weight int8"), configs, strict=True):
            made[key] = copy.deepcopy(dense)
            quantize_(made[key], config, filter_fn=_of_blocks)
            PEERS[key] = (torchao.__version__, PEERS[key][1])
    old = getattr(torch.ao.quantization, "quantize_dynamic", None)
    if old is not None:
        key = "torch.ao dynamic int8"
        made[key] = copy.deepcopy(dense)
        made[key].blocks = old(made[key].blocks, {nn.Linear}, dtype=torch.qint8)
    return made


def _of_blocks(module: nn.Module, name: str) -> bool:
    return isinstance(module, nn.Linear) and name.startswith("blocks.")


if __name__ == "__main__":
    main()
