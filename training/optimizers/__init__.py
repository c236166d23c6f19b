"""Optimisers by name, over the groups of parameters that each one suits."""

from training.optimizers.adamw import AdamW
from training.optimizers.build import build
from training.optimizers.lamb import Lamb
from training.optimizers.lion import Lion
from training.optimizers.muon import Muon, orthogonalize
from training.optimizers.optimizer_set import OptimizerSet
from training.optimizers.row_adagrad import RowAdagrad
from training.optimizers.sgd import SGD

__all__ = ["SGD", "AdamW", "Lamb", "Lion", "Muon", "OptimizerSet", "RowAdagrad", "build", "orthogonalize"]
