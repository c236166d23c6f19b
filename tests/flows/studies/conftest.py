"""A Prefect server and a corpus for studies that run in the process of the tests."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest
from prefect.settings import PREFECT_API_URL, PREFECT_HOME, temporary_settings

from tests.flows.studies.mini import take_corpus


@pytest.fixture
def prefect_here(prefect_environment: dict[str, str]) -> Iterator[None]:
    """Flows of this process talk to the tests' server."""
    with temporary_settings(
        {PREFECT_API_URL: prefect_environment["PREFECT_API_URL"], PREFECT_HOME: prefect_environment["PREFECT_HOME"]}
    ):
        yield


@pytest.fixture
def workspace(tmp_path: Path, tiny_recipe: Path, finished: Path) -> Path:
    """A workspace with the tiny recipe's corpus, and nothing trained."""
    folder = tmp_path / "work space"
    take_corpus(tiny_recipe, finished, folder)
    return folder
