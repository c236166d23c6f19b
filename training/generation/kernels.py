"""The product of a matrix and a single row on a CPU, compiled: what a stream of text spends its time on.

The one module of this package that needs Numba; without it a stream is slower and the same (`linear.py`).

It reads the weights once and in their order, with as many threads as torch has; `benchmarks/generation_cpu.py` measures
what a stream gains by it beside transformers, whose products are torch's.

Shape suffixes: N outputs, K inputs.
"""

from __future__ import annotations

from typing import Any

import numba
import numpy as np
import torch
from torch import Tensor

_WORK = 1 << 14
"""Weights that are worth a thread's start."""
_MOST_THREADS: int = numba.config.NUMBA_NUM_THREADS  # type: ignore[attr-defined]


# Sums may be taken in any order, so that they are vectors; numbers that are none stay what they are.
_SUMS = {"reassoc", "contract", "nsz"}


@numba.njit(parallel=True, nogil=True, cache=True, fastmath=_SUMS)
def _product(w_NK, x_K, bias_N, y_N, parts):  # type: ignore[no-untyped-def]
    rows, width = w_NK.shape
    for part in numba.prange(parts):
        for row in range(rows * part // parts, rows * (part + 1) // parts):
            total = np.float32(0)
            for place in range(width):
                total += w_NK[row, place] * x_K[place]
            y_N[row] = total + bias_N[row] if bias_N.size else total


@numba.njit(parallel=True, nogil=True, cache=True, fastmath=_SUMS)
def _product_bfloat16(w_NK, x_K, bias_N, y_N, parts):  # type: ignore[no-untyped-def]
    """The same of bfloat16 weights, given as their bits in uint16: the upper half of a float32's."""
    rows, width = w_NK.shape
    for part in numba.prange(parts):
        for row in range(rows * part // parts, rows * (part + 1) // parts):
            total = np.float32(0)
            for place in range(width):
                weight = np.uint32(np.uint32(w_NK[row, place]) << np.uint32(16)).view(np.float32)
                total += weight * x_K[place]
            y_N[row] = total + bias_N[row] if bias_N.size else total


class RowProduct:
    """x W' + b for a single row x of K numbers, W (N, K) and b (N,) or None in float32 or bfloat16, on a CPU.

    Sums are float32; bfloat16 is rounded once, at the end.
    """

    def __init__(self, w_NK: Tensor, bias_N: Tensor | None) -> None:
        self._halves = w_NK.dtype == torch.bfloat16
        w_NK = w_NK.detach()
        self._w_NK = (w_NK.view(torch.uint16) if self._halves else w_NK).numpy()
        self._bias_N = np.empty(0, np.float32) if bias_N is None else bias_N.detach().float().numpy()
        self._kernel: Any = _product_bfloat16 if self._halves else _product
        self._most = max(1, w_NK.numel() // _WORK)

    def __call__(self, x: Tensor) -> Tensor:
        """(N,) of any shape of K numbers."""
        threads = min(torch.get_num_threads(), _MOST_THREADS, self._most)
        numba.set_num_threads(threads)
        y_N = torch.empty(len(self._w_NK))
        self._kernel(self._w_NK, x.detach().reshape(-1).float().numpy(), self._bias_N, y_N.numpy(), threads)
        return y_N.bfloat16() if self._halves else y_N
