"""The product of one row: torch's values in both types, for any widths; what is no number stays none."""

from __future__ import annotations

import threading

import pytest
import torch
import torch.nn.functional as F
from torch import nn

from training.generation import linear
from training.generation.kernels import RowProduct
from training.generation.linear import lay_out


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize(("outputs", "inputs"), [(1, 1), (5, 3), (300, 67), (1000, 256)])
@pytest.mark.parametrize("biased", [False, True])
def test_one_row_has_the_values_of_torch(outputs: int, inputs: int, biased: bool, dtype: torch.dtype) -> None:
    torch.manual_seed(0)
    w_NK = torch.randn(outputs, inputs).to(dtype)
    bias_N = torch.randn(outputs).to(dtype) if biased else None
    x_K = torch.randn(inputs).to(dtype)
    expected_N = F.linear(x_K.double(), w_NK.double(), None if bias_N is None else bias_N.double())
    found_N = RowProduct(w_NK, bias_N)(x_K[None, None])
    assert found_N.dtype == dtype
    assert found_N.shape == (outputs,)
    close = {"rtol": 1e-5, "atol": 1e-4} if dtype == torch.float32 else {"rtol": 2**-8, "atol": 2**-8}
    torch.testing.assert_close(found_N.double(), expected_N, **close)


def test_a_view_of_a_wider_row_and_a_transposed_matrix() -> None:
    w_KN = torch.randn(8, 5)
    wide = torch.randn(2, 16)
    torch.testing.assert_close(RowProduct(w_KN.t(), None)(wide[:1, ::2]), wide[0, ::2] @ w_KN)


def test_no_number_stays_none() -> None:
    w_NK = torch.ones(4, 64)
    w_NK[1, 3], w_NK[2, 5] = float("nan"), float("inf")
    found_N = RowProduct(w_NK, None)(torch.ones(64))
    assert found_N[0] == found_N[3] == 64
    assert found_N[1].isnan()
    assert found_N[2] == float("inf")


def test_without_numba_a_layer_computes_the_same(monkeypatch: pytest.MonkeyPatch) -> None:
    model = nn.Sequential(nn.Linear(64, 32))
    lay_out(model)
    x = torch.randn(1, 1, 64)
    with torch.inference_mode():
        expected = model(x)
        monkeypatch.setattr(linear, "_row_product", lambda: None)
        torch.testing.assert_close(model(x), expected)


def test_threads_share_a_product() -> None:
    """As a server's do: each has its own result."""
    w_NK = torch.randn(512, 256)
    product = RowProduct(w_NK, None)
    rows = torch.randn(4, 256)
    wrong: list[int] = []

    def work(place: int) -> None:
        expected_N = rows[place] @ w_NK.t()
        for _ in range(200):
            if not torch.allclose(product(rows[place]), expected_N, atol=1e-4):
                wrong.append(place)

    workers = [threading.Thread(target=work, args=(place,)) for place in range(len(rows))]
    for worker in workers:
        worker.start()
    for worker in workers:
        worker.join()
    assert not wrong
