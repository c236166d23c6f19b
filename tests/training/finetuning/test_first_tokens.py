"""Where the head reads first tokens alone, the last block computes no others: same losses, same gradients."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from tests.training.evaluation.kinds import checkpoint
from tests.training.finetuning.tiny_tasks import one_thread
from training.adapters import AdapterConfig, adapt
from training.adapters.sites import trunk_of
from training.checkpoints import load_model
from training.config import ModelConfig, TrainingConfig, expand_preset, from_dict
from training.devices import resolve
from training.distributed import World
from training.finetuning import network as network_module
from training.finetuning.network import Network
from training.finetuning.sequences import Reader
from training.models import build
from training.models.transformer import MLP

__all__ = ["one_thread"]
TEXTS = ["The man saw the book.", "They read", "The women see these books every day at home", "A child"]


def gradients(network: Network, sequences: list[Any]) -> tuple[Tensor, dict[str, Tensor]]:
    """The outputs of a task's head, and what a loss of all of them does to each parameter."""
    outputs_BC = network.of_sequences("task", sequences)
    outputs_BC.square().sum().backward()  # type: ignore[no-untyped-call]
    found = {
        name: parameter.grad.clone() for name, parameter in network.named_parameters() if parameter.grad is not None
    }
    network.zero_grad()
    return outputs_BC.detach(), found


@pytest.mark.parametrize("family", ["bert", "roberta", "albert", "electra"])
@pytest.mark.parametrize("method", ["full", "lora", "houlsby", "prefix"])
def test_outputs_and_gradients_are_those_of_the_full_computation(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, family: str, method: str
) -> None:
    folder = checkpoint(tmp_path, family)
    model = load_model(folder)[0]
    adapt(model, from_dict(AdapterConfig, {"method": method, "targets": ["all"], "prefix_tokens": 3}), seed=1)
    reader = Reader(folder)
    compute = resolve(TrainingConfig(device="cpu", precision="fp32", threads=1, compile="off"), World())
    network = Network(model, reader, compute, reader.pooling, dropout=0.0)
    network.add_head("task", 3, False, torch.Generator().manual_seed(0))
    with torch.no_grad():  # an adapter begins as nothing
        for parameter in network.parameters():
            if parameter.requires_grad and parameter.ndim > 1:
                parameter.add_(0.1 * torch.randn_like(parameter))
    assert network.pooling == "first"
    sequences = [reader.single(ids) for ids in reader.ids(TEXTS)]
    rows: list[int] = []
    last = [one for one in trunk_of(model).modules() if isinstance(one, MLP)][-1]
    with last.register_forward_hook(lambda _, given, __: rows.append(given[0].shape[1])):
        ours, mine = gradients(network, sequences)
    whole = network_module.hidden_states
    monkeypatch.setattr(network_module, "hidden_states", lambda model, batch, read: whole(model, batch)[:, :read])
    theirs, others = gradients(network, sequences)
    # ALBERT's layers share one block: its last call counts.
    assert rows[-1] == 1
    torch.testing.assert_close(ours, theirs, rtol=1e-5, atol=1e-6)
    assert mine.keys() == others.keys()
    for name, gradient in mine.items():
        scale = float(others[name].abs().max())
        torch.testing.assert_close(gradient, others[name], rtol=1e-4, atol=1e-5 * max(scale, 1e-3), msg=name)


SHAPES: dict[str, dict[str, Any]] = {
    "masked": {"preset": "bert-tiny", "context_length": 600},
    "alibi": {"layers": 2, "attention": "bidirectional", "positions": "alibi"},
    "rotary, windows": {"layers": 3, "attention": "bidirectional", "window": 4, "global_every": 2, "first_norm": False},
    "causal": {"layers": 2, "kv_heads": 1},
}


@pytest.mark.parametrize("name", SHAPES)
def test_the_first_tokens_are_those_of_the_whole_stream(name: str) -> None:
    shape = {"layers": 2, "width": 32, "heads": 2, "context_length": 64, "dropout": 0.0}
    config = from_dict(ModelConfig, {**shape, **expand_preset({**shape, **SHAPES[name]})})
    torch.manual_seed(0)
    model = build(config, 50).eval()
    tokens = 560 if name == "masked" else 20  # beyond what is multiplied out
    ids_BT = torch.randint(50, (2, tokens))
    documents_BT = (torch.arange(tokens) < torch.tensor([tokens, tokens - 3])[:, None]).long()
    for documents in (None, documents_BT):
        whole_BTD = model.hidden(ids_BT, documents)
        for read in (1, 7):
            torch.testing.assert_close(model.hidden(ids_BT, documents, read=read), whole_BTD[:, :read])


def test_models_that_know_no_such_thing_give_all(tmp_path: Path) -> None:
    for family in ("t5", "xlnet"):
        folder = checkpoint(tmp_path / family, family)
        reader = Reader(folder)
        model: nn.Module = load_model(folder)[0]
        batch = reader.batch([reader.single(ids) for ids in reader.ids(TEXTS)], torch.device("cpu"))
        found = network_module.hidden_states(model, batch, 1)
        torch.testing.assert_close(found, network_module.hidden_states(model, batch)[:, :1])
