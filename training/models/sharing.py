"""Parameters that several modules of a model share (tied embeddings): written once, and shared again after reading."""

from __future__ import annotations

from torch import nn


def shared_names(model: nn.Module) -> dict[str, str]:
    """The further names of parameters that have several, each with the first one."""
    first: dict[int, str] = {}
    further: dict[str, str] = {}
    for name, parameter in model.named_parameters(remove_duplicate=False):
        if id(parameter) in first:
            further[name] = first[id(parameter)]
        else:
            first[id(parameter)] = name
    return further


def share(model: nn.Module, further: dict[str, str]) -> None:
    """Make parameters one again, as `shared_names` told before they were replaced."""
    for name, first in further.items():
        module, _, attribute = name.rpartition(".")
        setattr(model.get_submodule(module), attribute, model.get_parameter(first))
