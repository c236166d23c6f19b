"""The matrices of a model's blocks by name, and their exchange for ones with something beside them."""

from __future__ import annotations

from dataclasses import dataclass

from torch import Tensor, nn

from training.models import Model

_NAMES = {
    "qkv": ("query", "key", "value"),
    "query": ("query",),
    "key_value": ("key", "value"),
    "relative": ("relative",),
}
"""The rows that a layer of attention holds, by the name of its attribute."""


@dataclass(frozen=True)
class Site:
    """A linear layer, by the module that holds it."""

    owner: nn.Module
    attribute: str
    whole: str
    """Its name as one matrix."""
    rows: dict[str, tuple[int, int]]
    """First row and the one behind the last of each matrix that is stacked in it, by name."""

    @property
    def linear(self) -> nn.Linear:
        """The layer; raises ValueError where something else, such as a quantized one, stands in its place."""
        layer = getattr(self.owner, self.attribute)
        if not isinstance(layer, nn.Linear):
            raise ValueError(
                f"this model's {self.whole} is a {type(layer).__name__} and no plain matrix: start from the checkpoint "
                "that it was made of"
            )
        return layer

    def spans(self, targets: tuple[str, ...]) -> dict[str, tuple[int, int]]:
        """The rows of those matrices in it that are targets."""
        if self.whole in targets and self.whole not in self.rows:
            return {self.whole: (0, self.linear.out_features)}
        return {name: span for name, span in self.rows.items() if name in targets or "all" in targets}

    def exchange(self, layer: nn.Module) -> None:
        """Put another layer in its place."""
        setattr(self.owner, self.attribute, layer)


class HostLinear(nn.Module):
    """A linear layer with something beside it: a base class. Weight and bias are those of the layer, and so named."""

    bias: nn.Parameter | None

    def __init__(self, linear: nn.Linear) -> None:
        super().__init__()
        self.in_features, self.out_features = linear.in_features, linear.out_features
        self.weight = linear.weight
        self.register_parameter("bias", linear.bias)
        self.train(linear.training)

    def plain(self) -> nn.Linear:
        """The layer alone, of the same parameters."""
        layer = nn.Linear(self.in_features, self.out_features, bias=False, device="meta")
        layer.weight, layer.bias = self.weight, self.bias  # type: ignore[assignment]
        return layer.train(self.training)

    def delta(self) -> Tensor:
        """What is to be added to the weight to do without what is beside it, in float32; not all have it."""
        raise NotImplementedError


def trunk_of(model: Model) -> Model:
    """What is adapted: the model itself, or the discriminator of a replaced_token model."""
    return getattr(model, "discriminator", model)


def sites_of(trunk: Model) -> list[Site]:
    """The linear layers of all blocks in the order of the forward pass; what layers share is there once."""
    found: list[Site] = []
    for block in trunk.blocks:
        for attention in (block.attention, getattr(block, "cross_attention", None)):
            if attention is not None:
                found += [_site(attention, name, names) for name, names in _NAMES.items() if hasattr(attention, name)]
                found.append(_site(attention, "output", ("attention_output",)))
        gated = len(block.mlp.parts) == 2
        found.append(_site(block.mlp, "input", ("gate", "up") if gated else ("up",), "mlp_input"))
        found.append(_site(block.mlp, "output", ("down",)))
    return found


def targeted(sites: list[Site], targets: tuple[str, ...]) -> list[tuple[Site, dict[str, tuple[int, int]]]]:
    """The sites that hold targets, with the rows of these; raises ValueError for a target that no site holds."""
    known = sorted({name for site in sites for name in (site.whole, *site.rows)} | {"all"})
    for target in targets:
        if target not in known:
            raise ValueError(f"targets: this model has no {target}; it has {', '.join(known)}")
    chosen = [(site, site.spans(targets)) for site in sites]
    return [(site, spans) for site, spans in chosen if spans]


def _site(owner: nn.Module, attribute: str, names: tuple[str, ...], whole: str = "") -> Site:
    ends = [0]
    if len(names) > 1:
        for rows in owner.parts:  # type: ignore[union-attr]
            ends.append(ends[-1] + int(rows))
    else:
        ends.append(getattr(owner, attribute).weight.shape[0])
    rows = {name: (ends[index], ends[index + 1]) for index, name in enumerate(names)}
    return Site(owner, attribute, whole or (attribute if len(names) > 1 else names[0]), rows)
