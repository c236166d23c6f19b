"""A whole fine-tuning beside transformers' model, torch's optimiser and transformers' schedule."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch
import torch.nn.functional as F
import transformers
from safetensors.torch import load_file
from torch import Tensor

from tests.training.evaluation.kinds import tokenizer_with_special_tokens
from tests.training.finetuning.tiny_tasks import finetune, one_thread, task
from training.config import from_dict
from training.finetuning.config import FinetuningConfig
from training.finetuning.judging import load_task
from training.finetuning.order import Order, TaskItems
from training.finetuning.sequences import Reader
from training.models.huggingface import export, import_model

__all__ = ["one_thread"]
STEPS, BATCH, RATE = 8, 8, 2e-3


def bert(folder: Path, **settings: Any) -> tuple[Any, Path]:
    """A random classifier of transformers, and the checkpoint of its trunk."""
    tokenizer = tokenizer_with_special_tokens()
    config = transformers.BertConfig(
        vocab_size=tokenizer.get_vocab_size(),
        hidden_size=32,
        num_hidden_layers=2,
        num_attention_heads=2,
        intermediate_size=64,
        max_position_embeddings=64,
        pad_token_id=1,
        hidden_dropout_prob=0.0,
        attention_probs_dropout_prob=0.0,
        **settings,
    )
    torch.manual_seed(3)
    theirs = transformers.BertForSequenceClassification(config)
    theirs.bert.save_pretrained(folder / "theirs")
    fast = transformers.PreTrainedTokenizerFast(
        tokenizer_object=tokenizer, pad_token="[PAD]", mask_token="[MASK]", cls_token="[CLS]", sep_token="[SEP]"
    )
    fast.save_pretrained(folder / "theirs")
    return theirs.train(), import_model(folder / "theirs", folder / "ours")


def train_theirs(model: Any, checkpoint: Path, config: FinetuningConfig, weights: Tensor | None) -> list[float]:
    """The plain loop: the same batches, padded, with a mask."""
    reader = Reader(checkpoint, config.max_length)
    loaded = load_task(config.tasks[0], reader, config)
    items = loaded.splits["train"].items
    order = Order([TaskItems([item.length for item in items])], BATCH, config.epochs, config.seed, max_steps=STEPS)
    plain = [p for p in model.parameters() if p.ndim == 1]
    groups = [
        {"params": [p for p in model.parameters() if p.ndim > 1], "weight_decay": 0.01},
        {"params": plain, "weight_decay": 0.0},
    ]
    optimizer = torch.optim.AdamW(groups, lr=RATE)
    losses = []
    for step in range(STEPS):
        batch = [items[place] for place in order.batch(step)[1]]
        longest = max(item.length for item in batch)
        rows, masks, types = (torch.zeros(len(batch), longest, dtype=torch.long) for _ in range(3))
        for row, item in enumerate(batch):
            one = item.sequences[0]
            rows[row, : item.length] = torch.from_numpy(one.ids)
            types[row, : item.length] = torch.from_numpy(one.segments)
            masks[row, : item.length] = 1
        logits = model(input_ids=rows, attention_mask=masks, token_type_ids=types).logits
        loss = F.cross_entropy(logits, torch.tensor([int(item.target) for item in batch]), weights)
        loss.backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        for group in optimizer.param_groups:
            group["lr"] = RATE * (STEPS - step) / STEPS
        optimizer.step()
        optimizer.zero_grad()
        losses.append(float(loss.detach()))
    return losses


@pytest.mark.parametrize("weighted", [False, True])
def test_steps_are_those_of_transformers(tmp_path: Path, weighted: bool) -> None:
    theirs, checkpoint = bert(tmp_path)
    class_weights = (0.5, 2.0) if weighted else "none"
    one = task(tmp_path, "pair_classification", labels=("name", "verb"), class_weights=class_weights)
    further = {"learning_rate": RATE, "warmup": 0.0, "dropout": 0.0, "max_steps": STEPS, "log_every": 1, "keep": "last"}
    head = torch.Generator().manual_seed(1)
    with torch.no_grad():
        theirs.classifier.weight.normal_(std=0.02, generator=head)
        theirs.classifier.bias.zero_()
    results = finetune(checkpoint, tmp_path / "out", one, **further)
    plain = {"tasks": [one], "epochs": 3, "batch_size": BATCH, **further}
    config = from_dict(FinetuningConfig, plain)
    losses = train_theirs(theirs, checkpoint, config, torch.tensor(class_weights) if weighted else None)
    assert results["steps"] == STEPS
    assert losses[-1] != pytest.approx(losses[0], rel=1e-3)
    journal = (tmp_path / "out" / "metrics.jsonl").read_text().splitlines()
    rows = [json.loads(line)["metrics"] for line in journal]
    ours = [row["train/loss"] for row in rows if "train/loss" in row]
    assert ours == pytest.approx(losses, rel=1e-4)
    export(tmp_path / "out" / "model", tmp_path / "exported")
    trained = dict(transformers.BertModel.from_pretrained(tmp_path / "exported").named_parameters())
    for name, parameter in theirs.bert.named_parameters():
        torch.testing.assert_close(trained[name], parameter, rtol=2e-3, atol=2e-5, msg=name)
    heads = load_file(tmp_path / "out" / "model" / "head.safetensors")
    ours_head = heads["pair_classification.output.weight"]
    torch.testing.assert_close(ours_head, theirs.classifier.weight.detach(), rtol=1e-3, atol=1e-5)
