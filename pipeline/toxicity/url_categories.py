"""Categories of URLs, such as adult, from lists of domains and URLs in UT1's format."""

import re
from pathlib import Path
from typing import Any, Final

import numpy as np
import pyarrow as pa
from pydantic import Field, field_validator

from pipeline.annotators import Annotator, Batch, Signal
from pipeline.stage import StageConfig
from pipeline.text.arrow import utf8_view
from pipeline.toxicity.url_tables import Digests, digests, load_table, read_files_of
from pipeline.toxicity.urls import MOST_CATEGORIES, Table, scan_urls

_VERSION: Final = 1  # changes when the signal would


class UrlCategoriesConfig(StageConfig):
    """Which categories of URLs, and where their lists are."""

    path: str = Field(
        min_length=1,
        description="Folder, .tar.gz or .zip in UT1's format (Toulouse Capitole University's blacklists): a folder for "
        "each category with the files `domains` (a domain a line, which stands for its subdomains too) and `urls` (the "
        "beginning of a URL a line, without its scheme). `expressions` are not read",
    )
    categories: list[str] = Field(
        default=["adult"],
        min_length=1,
        max_length=MOST_CATEGORIES,
        description="Categories to look for, by the names of their folders. Default: adult",
    )

    @field_validator("categories")
    @classmethod
    def _check(cls, categories: list[str]) -> list[str]:
        for name in categories:
            if not re.fullmatch(r"[\w-][\w.-]*", name):
                raise ValueError(f"{name!r} is no category: it must be the name of a folder, such as adult")
        return sorted(set(categories))


class UrlCategories(Annotator):
    """Says which of the categories the URL of a document belongs to.

    A URL belongs to a category whose `domains` hold its host or a parent domain of it, or whose `urls` hold a beginning
    of its host and path. Domains are kept as 64-bit keys, sorted and memory-mapped from the user's cache, where all
    processes share them; with five million of them, a host that is not listed is taken for one that is with a
    probability of 3e-13 for each of its labels.
    """

    def __init__(self, config: UrlCategoriesConfig) -> None:
        self.config = config
        self._sha256: Digests | None = None  # travels to the workers, which then need not read the lists

    def signals(self) -> list[Signal]:
        """`url_categories`."""
        description = f"Those of the categories {', '.join(self.config.categories)} that the URL belongs to, "
        return [Signal("url_categories", pa.string(), description + "joined by commas; null without a URL")]

    def identity(self) -> dict[str, Any]:
        """The categories and the digests of their lists. Raises ValueError where one is missing or cannot be read."""
        return {"version": _VERSION, "categories": self.config.categories, "sha256": dict(self._digests())}

    def _digests(self) -> Digests:
        if self._sha256 is None:
            self._sha256 = digests(read_files_of(Path(self.config.path).expanduser(), self.config.categories))
        return self._sha256

    def measure(self, batch: Batch) -> dict[str, pa.Array]:
        """The categories of each document's URL, sorted."""
        bits = scan_urls(utf8_view(batch.urls), self._table()).bits
        sets, numbers = np.unique(bits, return_inverse=True)
        names = [",".join(self._names(int(mask))) for mask in sets]
        joined = pa.array(names, pa.string()).take(pa.array(numbers, mask=batch.urls.is_null().to_numpy(False)))
        return {"url_categories": joined}

    def _names(self, mask: int) -> list[str]:
        return [name for bit, name in enumerate(self.config.categories) if mask >> bit & 1]

    def _table(self) -> Table:
        return load_table(Path(self.config.path).expanduser(), tuple(self.config.categories), self._digests())
