"""A model of transformers and the same one of ours, wrapped by peft and adapted by us."""

from __future__ import annotations

import copy
import functools
import tempfile
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from peft import get_peft_model
from torch import Tensor, nn
from transformers import BertConfig, BertForMaskedLM, GPT2Config, GPT2LMHeadModel, LlamaConfig, LlamaForCausalLM

from tests.training.huggingface.parity import VOCABULARY, imported, randomize, tokens
from training.adapters import AdapterConfig, adapt
from training.adapters.adaptation import Adaptation

SEED = 5
SPECIAL = {"vocab_size": VOCABULARY, "bos_token_id": 0, "eos_token_id": 0, "pad_token_id": 1}
LAYERS = {"num_hidden_layers": 2, "num_attention_heads": 4, "hidden_size": 32, "intermediate_size": 56}
DROPOUT = {"hidden_dropout_prob": 0.0, "attention_probs_dropout_prob": 0.0}
BUILDERS: dict[str, Callable[[], Any]] = {
    "gpt2": lambda: GPT2LMHeadModel(
        GPT2Config(
            n_layer=2, n_head=4, n_embd=32, n_positions=48, resid_pdrop=0.0, embd_pdrop=0.0, attn_pdrop=0.0, **SPECIAL
        )
    ),
    "llama": lambda: LlamaForCausalLM(
        LlamaConfig(**LAYERS, num_key_value_heads=2, max_position_embeddings=48, **SPECIAL)
    ),
    "bert": lambda: BertForMaskedLM(BertConfig(**LAYERS, max_position_embeddings=48, **DROPOUT, **SPECIAL)),
}


@dataclass
class Pair:
    """Both sides, with the same base weights."""

    family: str
    theirs: Any
    ours: Any
    adaptation: Adaptation

    def losses(self, ids: Tensor) -> tuple[Tensor, Tensor]:
        """Their loss with what peft adds to it, and ours."""
        labels = ids if self.family == "bert" else ids[:, 1:]
        # Not the outermost model, which without a task_type leaves AdaLoRA's loss out.
        theirs = self.theirs.base_model(input_ids=ids, labels=ids)
        logits = self.ours(ids) if self.family == "bert" else self.ours(ids)[:, :-1]
        loss = F.cross_entropy(logits.flatten(0, 1), labels.flatten())
        added = self.adaptation.loss()
        return theirs.loss, loss if added is None else loss + added

    def logits(self, ids: Tensor) -> tuple[Tensor, Tensor]:
        return self.theirs(input_ids=ids).logits, self.ours(ids)


def pair(family: str, config: AdapterConfig, theirs: Any, spread: bool = True) -> Pair:
    """Adapt both sides with one seed; `theirs` is peft's config. `spread` draws what begins at zero alike."""
    base, plain = _bases(family)
    base, plain = copy.deepcopy(base), copy.deepcopy(plain)
    torch.manual_seed(SEED)
    wrapped = get_peft_model(base, theirs)
    made = Pair(family, wrapped, plain, adapt(plain, config, SEED))
    if spread:
        for index, (mine, other) in enumerate(matching(made)):
            with torch.no_grad():
                noise = torch.randn(mine.shape, generator=torch.Generator().manual_seed(index)) * 0.2
                mine.copy_(noise)
                other.copy_(noise)
    return made


@functools.cache
def _bases(family: str) -> tuple[Any, Any]:
    torch.manual_seed(0)
    model = BUILDERS[family]()
    randomize(model)
    with tempfile.TemporaryDirectory() as folder:
        return model.eval(), imported(model, Path(folder))


def matching(made: Pair) -> list[tuple[nn.Parameter, nn.Parameter]]:
    """Our adapter's parameters, each with peft's: both sides hold them in the same order of layers."""
    order = {"lora_A": 0, "lora_B": 2, "lora_E": 1}
    kinds = ("down", "values", "up")
    theirs: dict[str, list[nn.Parameter]] = {}
    for name, parameter in made.theirs.named_parameters():
        if parameter.requires_grad:
            part = next(part for part in name.split(".") if part in order)
            theirs.setdefault(kinds[order[part]], []).append(parameter)
    ours: dict[str, list[nn.Parameter]] = {}
    for name, parameter in made.adaptation.named_trained().items():
        ours.setdefault(name.rsplit(".", 1)[1], []).append(parameter)
    assert {kind: len(held) for kind, held in ours.items()} == {kind: len(held) for kind, held in theirs.items()}
    return [(mine, other) for kind in ours for mine, other in zip(ours[kind], theirs[kind], strict=True)]


def batches(count: int, length: int = 12) -> list[Tensor]:
    return [tokens(length, seed=index) for index in range(count)]
