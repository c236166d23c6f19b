"""Training few parameters of a model, or few beside it: `adapt` before training, `attach` when it is loaded again.

    config.py       AdapterConfig: which method, and its settings
    sites.py        the matrices of a model by name, and their exchange for ones with something beside them
    low_rank.py     LoRA
    rank_budget.py  AdaLoRA: singular values that a budget sets to zero
    bottleneck.py   Houlsby adapters
    prefix.py       prefix tuning
    adaptation.py   Adaptation: what all methods have in common
    merging.py      a checkpoint with a saved adapter as one of plain weights

A model keeps its class and the names of its weights; what is inserted has further names.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from training.adapters.config import AdapterConfig

if TYPE_CHECKING:
    from training.adapters.adaptation import Adaptation, adapt, attach

__all__ = ["Adaptation", "AdapterConfig", "adapt", "attach"]


def __getattr__(name: str) -> Any:
    # Late, so that a config can name its adapter without torch.
    if name not in __all__:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    from training.adapters import adaptation

    return getattr(adaptation, name)
