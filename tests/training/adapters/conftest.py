"""No test here reaches for a hub."""

from __future__ import annotations

import os
from collections.abc import Iterator

import pytest
import torch

# Read when huggingface_hub is imported.
os.environ["HF_HUB_OFFLINE"] = "1"


@pytest.fixture(autouse=True)
def one_thread() -> Iterator[None]:
    """Keep tiny products on one thread: sharing them out takes longer than computing them."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)
