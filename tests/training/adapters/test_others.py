"""Houlsby adapters and BitFit against models of transformers; which parameters each method trains."""

from __future__ import annotations

import copy
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from tests.training.adapters import pairs
from tests.training.huggingface.parity import LOGITS, VOCABULARY, randomize, tokens
from training.adapters import AdapterConfig, adapt
from training.config import ModelConfig
from training.models import build


def with_bottlenecks(model: Any, matrices: dict[int, list[Tensor]]) -> list[nn.Parameter]:
    """Put bottlenecks behind both sublayers of each layer of a model of transformers by hooks."""
    parameters: list[nn.Parameter] = []
    places = iter(sorted(matrices))
    for name, module in model.named_modules():
        if not name.endswith("output.dense"):
            continue
        down, down_bias, up, up_bias = (nn.Parameter(matrix.clone()) for matrix in matrices[next(places)])
        parameters += [down, down_bias, up, up_bias]

        def hook(
            _: Any, __: Any, y: Tensor, down: Any = down, bias: Any = down_bias, up: Any = up, last: Any = up_bias
        ) -> Tensor:
            return y + F.gelu(y @ down.T + bias) @ up.T + last

        module.register_forward_hook(hook)
    return parameters


def layer_norms(model: nn.Module) -> list[nn.LayerNorm]:
    """All but that of the vocabulary head's transform."""
    found = [(name, module) for name, module in model.named_modules() if isinstance(module, nn.LayerNorm)]
    return [module for name, module in found if "transform" not in name]


def test_houlsby_steps_are_those_of_hooks_in_bert() -> None:
    theirs, ours = (copy.deepcopy(base) for base in pairs._bases("bert"))
    before = ours(tokens(12))
    adaptation = adapt(ours, AdapterConfig("houlsby", bottleneck=6), 3)
    torch.testing.assert_close(ours(tokens(12)), before, rtol=1e-2, atol=1e-2)
    named = adaptation.named_trained()
    sites = sorted({name.rsplit(".", 2)[0] for name in named if ".down." in name or ".up." in name})
    assert sites == [f"blocks.{layer}.{part}.output" for layer in (0, 1) for part in ("attention", "mlp")]
    for index, parameter in enumerate(adaptation.trained()):
        with torch.no_grad():
            parameter.add_(torch.randn(parameter.shape, generator=torch.Generator().manual_seed(index)), alpha=0.2)
    matrices = {
        index: [named[f"{site}.{part}"] for part in ("down.weight", "down.bias", "up.weight", "up.bias")]
        for index, site in enumerate(sites)
    }
    inserted = with_bottlenecks(theirs, matrices)
    theirs.requires_grad_(False)
    norms = list(zip(layer_norms(ours), layer_norms(theirs), strict=True))
    assert len(norms) == 5
    for our, their in norms:
        their.load_state_dict(our.state_dict())
        inserted += list(their.requires_grad_(True).parameters())
    optimizers = [torch.optim.AdamW(group, lr=1e-2, eps=1e-4) for group in (adaptation.trained(), inserted)]
    for ids in pairs.batches(4):
        outputs = ours(ids), theirs(ids).logits
        torch.testing.assert_close(*outputs, rtol=1e-4, atol=1e-4)
        for optimizer, logits in zip(optimizers, outputs, strict=True):
            optimizer.zero_grad()
            F.cross_entropy(logits.flatten(0, 1), ids.flatten()).backward()
            optimizer.step()
    assert len(adaptation.trained()) == len(inserted)
    assert not torch.allclose(ours(tokens(12)), before, atol=0.1)


def test_bitfit_steps_are_those_of_the_biases_of_bert() -> None:
    theirs, ours = (copy.deepcopy(base) for base in pairs._bases("bert"))
    adaptation = adapt(ours, AdapterConfig("bitfit"), 0)
    for name, parameter in theirs.named_parameters():
        parameter.requires_grad_("bias" in name)
    biases = [parameter for parameter in theirs.parameters() if parameter.requires_grad]
    assert sum(p.numel() for p in adaptation.trained()) == sum(p.numel() for p in biases)
    optimizers = [torch.optim.AdamW(group, lr=1e-2, eps=1e-4) for group in (adaptation.trained(), biases)]
    before = {name: tensor.clone() for name, tensor in ours.state_dict().items()}
    for ids in pairs.batches(4):
        outputs = ours(ids), theirs(ids).logits
        torch.testing.assert_close(*outputs, rtol=1e-4, atol=1e-4)
        for optimizer, logits in zip(optimizers, outputs, strict=True):
            optimizer.zero_grad()
            F.cross_entropy(logits.flatten(0, 1), ids.flatten()).backward()
            optimizer.step()
    changed = {name for name, tensor in ours.state_dict().items() if not torch.equal(tensor, before[name])}
    assert changed == adaptation.named_trained().keys()
    assert adaptation.mergeable
    adaptation.merge()


SMALL: dict[str, Any] = {"layers": 2, "heads": 2, "width": 16, "context_length": 24}
T5: dict[str, Any] = {
    "architecture": "encoder_decoder",
    "positions": "relative",
    "initialization": "t5",
    "qk_norm": "none",
    "mlp": "geglu_tanh",
}
XLNET: dict[str, Any] = {
    "architecture": "two_stream",
    "positions": "relative",
    "attention": "bidirectional",
    "norm_position": "post",
    "norm": "layernorm",
    "bias": "all",
    "mlp": "gelu",
    "qk_norm": "none",
    "initialization": "bert",
}
ELECTRA: dict[str, Any] = {
    "architecture": "replaced_token",
    "generator_share": 0.5,
    "attention": "bidirectional",
    "head": "replaced_token",
    "positions": "learned",
    "token_types": 2,
    "norm": "layernorm",
    "norm_position": "post",
    "embedding_norm": True,
    "bias": "all",
    "mlp": "gelu",
    "qk_norm": "none",
}
ALBERT: dict[str, Any] = {"layers": 4, "layer_groups": 1, "embedding_width": 8, "attention": "bidirectional"}
MODELS = {"t5": T5, "xlnet": XLNET, "electra": ELECTRA, "albert": ALBERT, "gpt": {"tied_embeddings": True}}


def random_model(kind: str) -> Any:
    torch.manual_seed(0)
    model = build(ModelConfig(**{**SMALL, **MODELS[kind]}), VOCABULARY)
    randomize(model)
    return model.eval()


def output(model: Any, kind: str, seed: int = 0) -> Tensor:
    ids = tokens(9, seed=seed)
    values: Tensor = model(ids, tokens(7, seed=seed)) if kind == "t5" else model(ids)
    return values


@pytest.mark.parametrize("kind", list(MODELS))
@pytest.mark.parametrize("method", ["lora", "adalora", "houlsby", "prefix", "bitfit", "full", "frozen"])
def test_every_architecture_is_adapted_or_refused(kind: str, method: Any) -> None:
    model = random_model(kind)
    config = AdapterConfig(
        method, rank=2, targets=("all",), initial_rank=3, target_rank=1, bottleneck=4, prefix_tokens=3
    )
    before, names = output(model, kind), set(model.state_dict())
    if (method == "prefix" and kind in ("t5", "xlnet")) or (method == "bitfit" and kind in ("t5", "gpt")):
        with pytest.raises(ValueError, match="method " + method):
            adapt(model, config, 0)
        return
    adaptation = adapt(model, config, 0)
    assert set(adaptation.base_tensors()) == names
    if method in ("lora", "adalora", "full", "frozen", "bitfit"):
        assert torch.equal(output(model, kind), before)
    if method != "frozen":
        optimizer = torch.optim.SGD(adaptation.trained(), lr=0.5)
        for step in (1, 2):
            optimizer.zero_grad()
            output(model, kind).square().mean().backward()
            optimizer.step()
            adaptation.after_step(step, 2)
        assert not torch.equal(output(model, kind), before)
    unused = [name for name, parameter in adaptation.named_trained().items() if parameter.grad is None]
    assert method in ("full", "frozen", "bitfit") or not unused
    after = output(model, kind)
    if adaptation.mergeable:
        adaptation.merge()
        torch.testing.assert_close(output(model, kind), after, **LOGITS)
    else:
        with pytest.raises(ValueError, match="no plain weights"):
            adaptation.merge()
        adaptation.remove()
    assert set(model.state_dict()) == names
    assert all(parameter.requires_grad for parameter in model.parameters())


def test_what_is_trained_is_a_small_part() -> None:
    model = random_model("electra")
    adaptation = adapt(model, AdapterConfig("lora", rank=2), 0)
    named = adaptation.named_trained()
    assert sum(p.numel() for p in named.values()) == 2 * 2 * 2 * 2 * 16  # layers, targets, matrices, rank, width
    assert all(name.startswith("discriminator.blocks.") for name in named)
    assert [id(p) for p in adaptation.trained()] == [id(p) for p in model.parameters() if p.requires_grad]
