"""Generation on two CPU cores beside transformers' `generate`: the same weights, prompts and number of tokens.

    python -m benchmarks.generation_cpu [--models gpt2,...] [--tokens 64] [--rounds 3] [--only stream,...] [--json FILE]

Random weights of the families' shapes, greedy, the end of a text switched off on both sides, so that each writes all
tokens. `stream`: one prompt of 32 tokens. `batch`: 16 prompts of 8 to 38 tokens, for transformers padded at their
beginnings. `beams`: 4 beams of one prompt. Rounds of both sides take turns; the best of each counts. `bandwidth` is
what a stream reads of weights in a second, as a share of what a sum over a large tensor reads; caches are left out.
The rows in bfloat16 have both sides' weights in it.

`speculative` has no peer: it is a stream of a model with a draft that is the same model, in tokens a second, beside the
stream without: what a pass over several tokens saves if all are accepted, less the draft's own passes.
"""

from __future__ import annotations

import argparse
import dataclasses
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch

from benchmarks.rows import Row, parser, show
from training.checkpoints import TrainerState, save
from training.config import ModelConfig, expand_preset, from_dict
from training.config.generation import GenerationConfig
from training.generation import Generator
from training.models import build

VOCABULARIES = {"gpt2": 50_257, "llama-125m": 32_000, "qwen3-0.6b": 151_936}
MODELS = "nano-llama,llama-tiny,gpt2,llama-125m"
NANO = {"preset": "llama-tiny", "layers": 6, "heads": 4, "width": 256}
_NO_END = 2_000_000_000
Sides = dict[str, Callable[[], int]]


def checkpoint(name: str, folder: Path) -> Path:
    """Random weights of a preset's shape, with a tokenizer of words that nothing is read with."""
    from tokenizers import Tokenizer, models

    folder.mkdir(parents=True)
    config = from_dict(ModelConfig, expand_preset(NANO if name == "nano-llama" else name))
    config = dataclasses.replace(config, context_length=min(config.context_length, 1024))
    torch.manual_seed(0)
    model = build(config, VOCABULARIES.get(name, 32_000))
    tokenizer = Tokenizer(models.WordLevel({"<|endoftext|>": 0, "a": 1}, unk_token="a"))
    tokenizer.save(str(folder / "tokenizer.json"))
    state = TrainerState(0, {}, {}, {})
    return save(folder / "checkpoints", model, state, {"end_of_text": 0}, folder / "tokenizer.json")


def load(folder: Path, dtype: torch.dtype) -> tuple[Generator, Any]:
    """A Generator and the model of transformers, of the same weights."""
    from transformers import AutoModelForCausalLM

    from training.models.huggingface import export

    ours = Generator.load(folder, dtype=dtype)
    ours = Generator(ours.model, ours.tokenizer, _NO_END, begin_of_text=0)
    theirs_folder = folder.parent.parent / "theirs"
    if not theirs_folder.exists():
        export(folder, theirs_folder)
    return ours, AutoModelForCausalLM.from_pretrained(theirs_folder, dtype=dtype).eval()


def prompts(count: int, vocabulary: int) -> list[list[int]]:
    """Random ids, of lengths that differ where there are several prompts."""
    random = torch.Generator().manual_seed(1)
    lengths = [32] if count == 1 else [8 + 2 * place for place in range(count)]
    return [torch.randint(1, vocabulary, (length,), generator=random).tolist() for length in lengths]


def sides(ours: Generator, theirs: Any, count: int, tokens: int, beams: int = 1) -> Sides:
    """What each side runs: `tokens` for each of `count` prompts; both return how many tokens they wrote."""
    given = prompts(count, ours.model.vocabulary_size)
    settings = GenerationConfig(max_new_tokens=tokens, temperature=0.0, beams=beams)
    longest = 1 + max(map(len, given))
    padded = torch.tensor([[0] * (longest - len(ids)) + ids for ids in given])
    mask = torch.tensor([[0] * (longest - 1 - len(ids)) + [1] * (1 + len(ids)) for ids in given])
    options = {"do_sample": False, "num_beams": beams, "eos_token_id": None, "pad_token_id": 0, "use_cache": True}

    def run_ours() -> int:
        if count == 1 and beams == 1:
            return sum(1 for _ in ours.token_ids(given[0], settings))
        return sum(len(found[0].ids) for found in ours.batch(given, settings))

    @torch.inference_mode()
    def run_theirs() -> int:
        written = theirs.generate(padded, attention_mask=mask, max_new_tokens=tokens, min_new_tokens=tokens, **options)
        return int(written[:, longest:].numel())

    return {"ours": run_ours, "theirs": run_theirs}


def race(runs: Sides, rounds: int) -> dict[str, float]:
    """Tokens a second of each, the best of some rounds in turns, after one that is not counted."""
    best = dict.fromkeys(runs, 0.0)
    for round_ in range(rounds + 1):
        for name, run in runs.items():
            begin = time.perf_counter()
            tokens = run()
            if round_:
                best[name] = max(best[name], tokens / (time.perf_counter() - begin))
    return best


def bandwidth() -> float:
    """Bytes a second that a sum over 256 MB reads, the best of ten."""
    numbers = torch.ones(1 << 26)
    best = 0.0
    for _ in range(10):
        begin = time.perf_counter()
        numbers.sum()
        best = max(best, numbers.nbytes / (time.perf_counter() - begin))
    return best


def bytes_read(model: Any) -> int:
    """Bytes of the weights that one token reads: all but an embedding's, of which it reads a row."""
    tables = [model.embedding.weight, *([] if model.position_embedding is None else [model.position_embedding.weight])]
    parameters = {id(p): p.nbytes for p in model.parameters()}
    for table in tables:
        parameters.pop(id(table), None)
    head = model.head.weight
    parameters[id(head)] = head.nbytes
    return sum(parameters.values())


def measure(name: str, folder: Path, arguments: argparse.Namespace, dtype: torch.dtype) -> list[Row]:
    """The rows of one model."""
    import transformers

    ours, theirs = load(folder, dtype)
    label = name if dtype == torch.float32 else f"{name} bf16"
    rows = []
    for kind, count, beams in (("stream", 1, 1), ("batch", 16, 1), ("beams", 1, 4)):
        if kind not in arguments.only:
            continue
        speed = race(sides(ours, theirs, count, arguments.tokens, beams), arguments.rounds)
        peer = ("transformers", transformers.__version__)
        rows.append(Row(f"{label} {kind}", "tokens/s", speed["ours"], speed["theirs"], *peer))
        if kind == "stream":
            share = speed["ours"] * bytes_read(ours.model) / bandwidth()
            rows.append(Row(f"{label} bandwidth", "share", share, note="of what a sum reads"))
            if "speculative" in arguments.only:
                with_draft = Generator(ours.model, ours.tokenizer, _NO_END, begin_of_text=0, draft=ours)
                fast = race({"ours": sides(with_draft, theirs, 1, arguments.tokens)["ours"]}, arguments.rounds)
                rows.append(Row(f"{label} speculative", "tokens/s", fast["ours"], speed["ours"], "one by one"))
    return rows


def main() -> None:
    options = parser(__doc__ or "")
    options.add_argument("--models", default=MODELS, help="presets, or nano-llama (12 million parameters)")
    options.add_argument("--tokens", type=int, default=64)
    options.add_argument("--rounds", type=int, default=3)
    options.add_argument("--threads", type=int, default=2)
    options.add_argument("--dtypes", default="float32,bfloat16")
    options.add_argument("--only", default="stream,batch,beams")
    arguments = options.parse_args()
    torch.set_num_threads(arguments.threads)
    rows = []
    for name in arguments.models.split(","):
        with tempfile.TemporaryDirectory() as folder:
            path = checkpoint(name, Path(folder) / "ours")
            for dtype in arguments.dtypes.split(","):
                rows += measure(name, path, arguments, getattr(torch, dtype))
    show(rows, f"Generation, {arguments.threads} threads, {arguments.tokens} tokens", arguments.json)


if __name__ == "__main__":
    main()
