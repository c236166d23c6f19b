"""Runs simulated from published laws."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from training.scaling import Combined, Law, Parametric, Run

BESIROGLU = Parametric(E=1.8172, A=482.01, B=2085.43, alpha=0.3478, beta=0.3658)
"""Chinchilla's parametric law as re-estimated by Besiroglu et al. 2024, table 1."""
KAPLAN = Combined(N_c=6.4e13, D_c=1.8e13, alpha_N=0.076, alpha_D=0.103)
"""Kaplan et al. 2020, table 2."""


def run(law: Law, parameters: float, tokens: float, noise: float = 0.0) -> Run:
    loss = float(law.loss(parameters, tokens)) * float(np.exp(noise))
    return Run(f"{parameters:.4g}-{tokens:.4g}", parameters, tokens, 6 * parameters * tokens, loss)


def chinchilla(noise: float = 0.0, count: int = 240, seed: int = 0) -> list[Run]:
    """As many runs as Besiroglu et al. read from the figure, of 1e18 to 3e21 FLOPs around the best size."""
    generator = np.random.default_rng(seed)
    flops = 10 ** generator.uniform(18, 21.5, count)
    sizes = np.sqrt(flops / 120) * 10 ** generator.uniform(-0.7, 0.7, count)
    errors = noise * generator.standard_normal(count)
    return [run(BESIROGLU, n, c / (6 * n), e) for n, c, e in zip(sizes, flops, errors, strict=True)]


def slices(law: Law, budgets: Sequence[float], noise: float = 0.0, seed: int = 0) -> list[Run]:
    """A ladder as the recipes make it: sizes that stand in the same ratio as the budgets."""
    generator = np.random.default_rng(seed)
    ratio = budgets[1] / budgets[0]
    middle = np.sqrt(budgets[0] / 120)
    found = []
    for index, flops in enumerate(budgets):
        for step in range(-2, 3):
            size = middle * ratio ** (index // 2 + step / 2)
            found.append(run(law, size, flops / (6 * size), noise * generator.standard_normal()))
    return found


def grid(law: Law, sizes: Sequence[float], tokens: Sequence[float]) -> list[Run]:
    return [run(law, n, d) for n in sizes for d in tokens]
