"""Adapting a model to a task: what is frozen, what is put in, and how it becomes plain weights again."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import torch
from torch import Tensor, nn

from training.adapters import prefix
from training.adapters.bottleneck import BottleneckLinear
from training.adapters.config import AdapterConfig
from training.adapters.low_rank import LowRank, LowRankLinear
from training.adapters.rank_budget import RankBudget, Triplets, orthogonality
from training.adapters.sites import HostLinear, Site, sites_of, targeted, trunk_of
from training.checkpoints.files import read_json, read_tensors, write_json, write_tensors
from training.config import from_dict, to_dict
from training.models import Model
from training.models.transformer import Transformer

FILE = "adapter.safetensors"
_STATE = "budget/"
"""Prefix of the state tensors that are no parameters."""


def adapt(model: Model, config: AdapterConfig, seed: int) -> Adaptation:
    """Freeze what the method does not train, and put in what it adds, drawn from `seed`; in place.

    A replaced_token model is adapted in its discriminator. New parameters are float32, on the device of the weights,
    and named as parameters of the model; torch's generator is left as it was. With the same seed and targets LoRA,
    AdaLoRA and prefixes are those of peft.

    Raises ValueError for a target or a kind of parameter that the model has not, for an architecture that the method
    does not know, and for a model that is adapted already.
    """
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        return Adaptation(model, config)


def attach(model: Model, folder: str | Path) -> Adaptation:
    """Put a saved adapter back onto the model of its checkpoint folder, of which `Adaptation.save` made one.

    Raises ValueError naming the file where it is missing, damaged or does not fit the model.
    """
    source = Path(folder)
    description = read_json(source / "config.json").get("adapter")
    if description is None:
        raise ValueError(f"{source / 'config.json'}: names no adapter")
    adaptation = adapt(model, from_dict(AdapterConfig, description, f"{source / 'config.json'}: adapter"), seed=0)
    try:
        adaptation.load_state_tensors(read_tensors(source / FILE))
    except ValueError as error:
        raise ValueError(f"{source / FILE}: {error}") from None
    return adaptation


class Adaptation:
    """A model with its method; `adapt` makes it."""

    def __init__(self, model: Model, config: AdapterConfig) -> None:
        if any(isinstance(module, HostLinear | prefix.PrefixedAttention) for module in model.modules()):
            raise ValueError(
                "this model has an adapter already: merge it, or start from the checkpoint that it was made of"
            )
        self.model = model
        self.config = config
        self.trunk = trunk_of(model)
        self._sites: list[Site] = []
        self._budget: RankBudget | None = None
        self._new: set[str] = set()
        before = {id(parameter) for parameter in model.parameters()}
        chosen = {id(parameter) for parameter in self._insert()}
        for parameter in model.parameters():
            parameter.requires_grad_(id(parameter) in chosen)
        named = dict(model.named_parameters())
        self._trained = {name: parameter for name, parameter in named.items() if parameter.requires_grad}
        self._new = {name for name, parameter in named.items() if id(parameter) not in before}

    @property
    def mergeable(self) -> bool:
        """Whether plain weights can do the same."""
        return self.config.method not in ("houlsby", "prefix")

    @property
    def context_length(self) -> int:
        """Tokens that the model reads at most; a prefix before learned positions takes some of them."""
        return int(self.trunk.config.context_length)

    def trained(self) -> list[nn.Parameter]:
        """The parameters to be trained, each once, in the model's order."""
        return list(self._trained.values())

    def named_trained(self) -> dict[str, nn.Parameter]:
        """The same by their names in the model."""
        return dict(self._trained)

    def loss(self) -> Tensor | None:
        """What is to be added to the loss: AdaLoRA's weighted distance from orthogonality; else None."""
        if self._budget is None or not self.config.orthogonal_weight:
            return None
        return self.config.orthogonal_weight * orthogonality(list(self._budget.triplets.values()))

    def after_step(self, step: int, total: int) -> None:
        """Call it after the optimiser's step and before gradients are set to zero: AdaLoRA allocates its budget.

        `step` is the number of steps done, this one included; with the last of `total` the budget has its target. With
        several processes their gradients must be added up by then. Raises ValueError where tinit and tfinal leave no
        steps between.
        """
        if self._budget is not None:
            self.config.check_steps(total)
            self._budget.step(step, total)

    def ranks(self) -> dict[str, int]:
        """LoRA and AdaLoRA: the rank of each adapted matrix, by the name of its adapter; else empty."""
        if self._budget is not None:
            return self._budget.ranks()
        return {name: int(low_rank.down.shape[0]) for name, low_rank in self._low_ranks()}

    @torch.no_grad()
    def merge(self) -> None:
        """Turn the model into one of plain weights that does the same, in place; all of them may be trained again.

        Raises ValueError for a method that has no such weights, and where merged weights are not finite.
        """
        if not self.mergeable:
            raise ValueError(f"{self.config.method} has no plain weights that do the same: save the adapter instead")
        for site in self._sites:
            layer = getattr(site.owner, site.attribute)
            assert isinstance(layer, HostLinear)
            merged = layer.weight.float() + layer.delta()
            if not bool(torch.isfinite(merged).all()):
                raise ValueError(f"merging {site.whole}: the weights or the adapter hold NaN or infinity")
            layer.weight.copy_(merged)
        self.remove()

    def remove(self) -> None:
        """Take out what was put in, without merging it; the model is plain again, and all of it may be trained."""
        for site in self._sites:
            layer = getattr(site.owner, site.attribute)
            assert isinstance(layer, HostLinear)
            site.exchange(layer.plain())
        if self.config.method == "prefix" and self._new:
            prefix.remove(self.trunk)
        self._sites, self._budget, self._new = [], None, set()
        self.model.requires_grad_(True)

    def base_tensors(self) -> dict[str, Tensor]:
        """The model's state without what was put in: what a plain model of its config loads."""
        return {name: tensor for name, tensor in self.model.state_dict().items() if name not in self._new}

    def state_tensors(self) -> dict[str, Tensor]:
        """All that training changes, by name: the trained parameters, and AdaLoRA's importances. Not copies."""
        tensors = {name: parameter.detach() for name, parameter in self._trained.items()}
        if self._budget is not None:
            tensors |= {f"{_STATE}{name}": tensor for name, tensor in self._budget.tensors().items()}
        return tensors

    @torch.no_grad()
    def load_state_tensors(self, tensors: dict[str, Tensor]) -> None:
        """Copy what `state_tensors` or `save` gave into the model; raises ValueError naming what does not fit."""
        given = {name: tensor for name, tensor in tensors.items() if not name.startswith(_STATE)}
        for name in sorted(given.keys() ^ self._trained.keys()):
            raise ValueError(f"{name} is {'unknown to this adapter' if name in given else 'missing'}")
        for name, parameter in self._trained.items():
            if given[name].shape != parameter.shape:
                raise ValueError(f"{name} has the shape {list(given[name].shape)} and not {list(parameter.shape)}")
        for name, parameter in self._trained.items():
            parameter.copy_(given[name])
        if self._budget is not None:
            state = {name.removeprefix(_STATE): tensor for name, tensor in tensors.items() if name not in given}
            self._budget.load(state)

    def save(self, folder: str | Path) -> None:
        """Write adapter.safetensors into a checkpoint folder, and `adapter` into its config.json.

        model.safetensors there must hold `base_tensors`; a trainer.json that lists its files learns of both. Raises
        ValueError for the methods full and frozen, which have no adapter, and where the folder has no config.json.
        """
        if self.config.method in ("full", "frozen"):
            raise ValueError(f"method {self.config.method} has no adapter: the model's weights are all there is")
        target = Path(folder)
        description = read_json(target / "config.json")
        tensors = {name: parameter.detach().cpu().contiguous() for name, parameter in self._trained.items()}
        files = {FILE: write_tensors(target / FILE, tensors)}
        files["config.json"] = write_json(target / "config.json", {**description, "adapter": to_dict(self.config)})
        if (target / "trainer.json").exists():
            trainer = read_json(target / "trainer.json")
            write_json(target / "trainer.json", {**trainer, "files": {**trainer.get("files", {}), **files}})

    def _insert(self) -> list[nn.Parameter]:
        """Put in what the method adds, and return what it trains."""
        method, trunk = self.config.method, self.trunk
        if method == "full":
            if getattr(self.model, "quantization", None) is not None:
                raise ValueError(
                    "method full trains all weights, and this model's are integers: start from the checkpoint that it "
                    "was made of"
                )
            return list(trunk.parameters())
        if method == "frozen":
            return []
        if method == "bitfit":
            return self._biases()
        if method == "prefix":
            if not isinstance(trunk, Transformer):
                raise ValueError(
                    f"method prefix: the architecture {trunk.config.architecture} takes no prefix; choose lora"
                )
            return list(prefix.insert(trunk, self.config.prefix_tokens).values())
        return self._insert_houlsby() if method == "houlsby" else self._insert_low_rank()

    def _biases(self) -> list[nn.Parameter]:
        found = [parameter for name, parameter in self.trunk.named_parameters() if name.endswith("bias")]
        if not found:
            raise ValueError("method bitfit trains biases, and this model has none (bias: none); choose another method")
        return found

    def _insert_houlsby(self) -> list[nn.Parameter]:
        found: list[nn.Parameter] = []
        for site in sites_of(self.trunk):
            if site.whole in ("attention_output", "down"):
                layer = BottleneckLinear(site.linear, self.config.bottleneck).to(site.linear.weight.device)
                self._exchange(site, layer)
                found += [*layer.down.parameters(), *layer.up.parameters()]
        for name, module in self.trunk.named_modules():
            # The norm of the vocabulary head is not part of what a task reads.
            if isinstance(module, nn.LayerNorm | nn.RMSNorm) and not name.startswith("transform."):
                found += list(module.parameters())
        return found

    def _insert_low_rank(self) -> list[nn.Parameter]:
        config = self.config
        triplets: dict[str, Triplets] = {}
        found: list[nn.Parameter] = []
        for site, spans in targeted(sites_of(self.trunk), config.targets):
            linear = site.linear
            adapters = {name: self._low_rank(linear.in_features, end - begin) for name, (begin, end) in spans.items()}
            layer = LowRankLinear(linear, spans, adapters).to(linear.weight.device)
            self._exchange(site, layer)
            found += list(layer.adapters.parameters())
        if config.method == "adalora":
            triplets = {name: each for name, each in self._low_ranks() if isinstance(each, Triplets)}
            self._budget = RankBudget(config, triplets)
        return found

    def _low_rank(self, width_in: int, width_out: int) -> LowRank:
        config = self.config
        if config.method == "adalora":
            return Triplets(width_in, width_out, config.initial_rank, config.alpha, config.dropout)
        return LowRank(width_in, width_out, config.rank, config.alpha / config.rank, config.dropout)

    def _low_ranks(self) -> Iterator[tuple[str, LowRank]]:
        for name, module in self.model.named_modules():
            if isinstance(module, LowRank):
                yield name, module

    def _exchange(self, site: Site, layer: HostLinear) -> None:
        site.exchange(layer)
        self._sites.append(site)
