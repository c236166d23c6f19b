"""The same random weights here and in transformers, and what each writes."""

from __future__ import annotations

import functools
import tempfile
from collections import Counter
from pathlib import Path
from typing import Any

import torch
from transformers import AutoModelForSeq2SeqLM

from tests.training.huggingface.parity import VOCABULARY, exported, random_checkpoint
from tests.training.huggingface.test_parity_t5 import random_theirs
from training.checkpoints import load_model
from training.generation import Generator, load_tokenizer
from training.models.huggingface import import_model

SHAPE: dict[str, Any] = {"layers": 2, "heads": 4, "width": 32, "context_length": 64}
FAMILIES: dict[str, dict[str, Any]] = {
    "gpt2": {**SHAPE, "positions": "learned", "norm": "layernorm", "mlp": "gelu_tanh", "qk_norm": "none"}
    | {"bias": "all", "tied_embeddings": True},
    "llama": {**SHAPE, "kv_heads": 2, "mlp": "swiglu", "qk_norm": "none"},
    "qwen3": {**SHAPE, "kv_heads": 1, "head_width": 16, "mlp": "swiglu", "qk_norm": "gains"},
}
PROMPTS = [[], [17, 3, 250], [9, 301, 17, 88, 4, 62, 9, 301], [120], [333, 2, 2, 71, 60]]


@functools.cache
def pair(family: str) -> tuple[Generator, Any]:
    """A Generator and the model of transformers, of the same random weights; the end of a text comes often."""
    folder = Path(tempfile.mkdtemp())
    if family == "t5":
        return _t5(folder)
    checkpoint = random_checkpoint(folder, **FAMILIES[family])
    theirs = exported(checkpoint, folder / "theirs")
    ours = Generator.load(checkpoint)
    return _ending(ours), theirs


def _t5(folder: Path) -> tuple[Generator, Any]:
    theirs = random_theirs(feed_forward_proj="gated-gelu", tie_word_embeddings=False)
    theirs.save_pretrained(folder / "theirs")
    model, _ = load_model(import_model(folder / "theirs", folder / "ours"))
    tokenizer = load_tokenizer(random_checkpoint(folder / "other", **SHAPE))
    theirs = AutoModelForSeq2SeqLM.from_pretrained(folder / "theirs").eval()
    return _ending(Generator(model, tokenizer, 0, begin_of_text=1)), theirs


def _ending(generator: Generator) -> Generator:
    """The same with a token for the end of the text that the model writes often, but not at once."""
    greedy = [ids for found in generator.batch(PROMPTS, settings(max_new_tokens=16)) for ids in (found[0].ids,)]
    late = Counter(token for ids in greedy for token in set(ids[4:]) - set(ids[:4]))
    end = late.most_common(1)[0][0]
    return Generator(generator.model, generator.tokenizer, end, generator.begin_of_text)


def settings(**fields: Any) -> Any:
    from training.config.generation import GenerationConfig

    return GenerationConfig(**{"max_new_tokens": 24, "temperature": 0.0, **fields})


def written_by_theirs(generator: Generator, theirs: Any, prompt: list[int], **options: Any) -> Any:
    """What `generate` of transformers returns for a prompt: ids and scores, both without the prompt."""
    seq2seq = theirs.config.is_encoder_decoder
    # The encoder of ours reads the end of a text, which is another id here.
    ids = [*prompt, generator.end_of_text] if seq2seq else [generator.begin_of_text, *prompt]
    inputs = torch.tensor([ids])
    result = theirs.generate(
        inputs,
        attention_mask=torch.ones_like(inputs),
        eos_token_id=generator.end_of_text,
        pad_token_id=VOCABULARY - 1,
        return_dict_in_generate=True,
        output_scores=True,
        **{"max_new_tokens": 24, "do_sample": False, **options},
    )
    given = 1 if seq2seq else len(ids)
    rows = [_until(row[given:], generator.end_of_text) for row in result.sequences.tolist()]
    scores = getattr(result, "sequences_scores", None)
    return rows, None if scores is None else scores.tolist()


def _until(ids: list[int], end: int) -> list[int]:
    return ids[: ids.index(end)] if end in ids else ids
