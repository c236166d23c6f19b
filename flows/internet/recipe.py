"""The recipe of a plan: the crawl, the cluster and the training that it asks about; every default has its source."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from pydantic import Field

from flows.recipe import RECIPES, load_as
from pipeline.costs import CostSettings
from pipeline.stage import StageConfig

FOLDER = RECIPES / "internet"
TIB = 1 << 40
GIB = 1 << 30


def _number(default: float, source: str, **limits: Any) -> Any:
    return Field(default, allow_inf_nan=False, description=source, **limits)


class CrawlConfig(StageConfig):
    """One snapshot of a crawl. The defaults are those of Common Crawl's CC-MAIN-2024-51."""

    format: str = Field("warc", description="Format of its files; ingest is measured on sources of this format.")
    pages: float = _number(
        2.64e9, "Common Crawl, December 2024 crawl archive, blog post: 2.64 billion web pages.", gt=0
    )
    files: int = Field(
        90_000,
        ge=1,
        description="WARC files of a snapshot: 90,000 in December 2024 (Truffle Security, February 2025).",
    )
    stored_tebibytes: float = _number(
        85.0,
        "Rounded: compressed WARC files of the snapshots of 2023 to 2025 are 80 to 90 TiB by Common Crawl's tables.",
        gt=0,
    )
    content_tebibytes: float = _number(
        394.0, "Common Crawl, December 2024 crawl archive, blog post: 394 TiB of uncompressed content.", gt=0
    )
    text_bytes_per_page: float = _number(
        4000.0, "Assumed: bytes of text of a page without its menus; no published figure.", gt=0
    )
    kept_deduplicated: float | None = Field(
        0.56,
        gt=0,
        le=1,
        description="Share of one snapshot's text that deduplication keeps: 20 of 36 trillion tokens, each snapshot by "
        "itself (FineWeb, Penedo et al. 2024, section 3.4). null: as measured.",
    )
    kept_together_exponent: float = _number(
        0.356,
        "n snapshots deduplicated together keep n^-x of what they keep one by one: a power law through FineWeb's two "
        "figures, 20 trillion tokens one by one and 4 trillion for 96 together (Penedo et al. 2024, section 3.4).",
        ge=0,
        le=1,
    )
    kept_filtered: float | None = Field(
        0.15,
        gt=0,
        le=1,
        description="Share of the text that the filter keeps: 36 trillion English tokens of 96 snapshots (FineWeb, "
        "section 3.3), at 4.4 bytes a token, of 2.64 billion pages of 4,000 bytes. null: as measured.",
    )
    bytes_per_token: float | None = Field(
        4.4, gt=0, description="Assumed: English text in a vocabulary of 50,000. null: as the run's tokenizer does."
    )


class ClusterConfig(StageConfig):
    """The machines and their storage, and what goes wrong with them. The defaults are a plain rented cluster."""

    machines: int = Field(32, ge=1, le=10_000, description="Machines.")
    cores: int = Field(32, ge=1, le=1024, description="Cores of a machine.")
    memory_gibibytes: float = _number(128.0, "Memory of a machine.", gt=0)
    core_speed: float = _number(1.0, "Speed of a core over that of the machine that was measured.", gt=0)
    busy_efficiency: float = _number(
        0.9, "Assumed: speed of a core while all of its machine are busy, over one alone; measure yours.", gt=0, le=1
    )
    network_gigabits: float = _number(25.0, "Connection of a machine, in Gbit/s.", gt=0)
    connection_megabytes: float = _number(
        90.0,
        "One connection to the storage, in MB/s: 85 to 90 for a request to S3 (Amazon S3 User Guide, performance).",
        gt=0,
    )
    storage_read_gigabytes: float = _number(50.0, "Assumed: what the storage gives in a second, in GB/s.", gt=0)
    storage_write_gigabytes: float = _number(25.0, "Assumed: what the storage takes in a second, in GB/s.", gt=0)
    storage_requests: float = _number(
        5500.0,
        "Requests that the storage takes in a second: S3 takes 5,500 GET for each partitioned prefix (Amazon S3 User "
        "Guide, performance guidelines).",
        gt=0,
    )
    storage_latency_seconds: float = _number(0.02, "Assumed: the answer to one request, object storage.", ge=0)
    storage_tebibytes: float = _number(1000.0, "Room for what the stages write.", gt=0)
    request_mebibytes: float = _number(5.0, "Of one ranged read: fsspec's default block.", gt=0)
    unit_mebibytes: float = _number(
        1024.0, "Stored bytes of a unit (ingest.unit_bytes): by default about one WARC file.", gt=0
    )
    start_seconds: float = _number(3.0, "Assumed: core seconds in which a worker starts and loads its modules.", ge=0)
    failure_hours: float = _number(
        2000.0, "Assumed: mean time between failures of a machine; some hours for spot machines.", gt=0
    )
    restart_seconds: float = _number(300.0, "Assumed: from a failure to the machine's next unit.", ge=0)
    retries: int = Field(2, ge=0, le=100, description="Further tries of a unit, as the flow's tasks have.")
    straggler_share: float = _number(0.03, "Assumed: share of slow machines.", ge=0, le=1)
    straggler_factor: float = _number(2.0, "Assumed: how many times as long they take.", ge=1, le=100)
    variation: float = _number(0.2, "Assumed: standard deviation of the logarithm of equal units' seconds.", ge=0, le=3)
    throttle_every_hours: float = _number(12.0, "Assumed: mean time between throttlings of the storage.", gt=0)
    throttle_minutes: float = _number(20.0, "Assumed: how long one lasts in the mean.", ge=0)
    throttle_factor: float = _number(0.2, "Assumed: share of the storage's rates that is left.", gt=0, le=1)


class OptimalConfig(StageConfig):
    """The training on what the corpus gives."""

    device: str = Field("h200", description="h200, h100, a100, l40s, l4.")
    devices: int = Field(1024, ge=1, description="Devices at once.")
    mfu: float = _number(0.4, "Share of the peak arithmetic that is reached.", gt=0, le=1)
    tokens_per_parameter: float = _number(
        20.0, "Without a fit of headrace scaling in the workspace: Chinchilla (Hoffmann et al. 2022).", gt=0
    )
    furthest: float = _number(1000.0, "Times a fit's most tokens; a fit is carried no further than that.", gt=0)


class CorpusRecipe(StageConfig):
    """A plan for a corpus: whose measured stages, which crawl, on what."""

    name: str = Field(pattern=r"^[a-z0-9][a-z0-9-]*$", description="Lower case letters, digits and hyphens.")
    description: str = ""
    base: str | None = Field(None, description="Run recipe whose stages were measured; null: the newest run.")
    overrides: list[str] = Field(default_factory=list, description="Settings of the run recipe, key=value.")
    snapshots: int = Field(1, ge=1, le=1000, description="Snapshots of the crawl, deduplicated together.")
    crawl: CrawlConfig = Field(default_factory=CrawlConfig)
    cluster: ClusterConfig = Field(default_factory=ClusterConfig)
    training: OptimalConfig = Field(default_factory=OptimalConfig)
    costs: CostSettings = Field(default_factory=CostSettings)
    price_per_terabyte_month: float = _number(0.0, "Of storage, for what the stages write.", ge=0)
    price_per_terabyte_moved: float = _number(0.0, "Of reading the crawl from outside its region.", ge=0)
    simulated_units: int = Field(
        8192, ge=100, le=200_000, description="More units of a stage are put together for the simulation."
    )
    seed: int = Field(0, ge=0, description="Of the simulation.")


def load_corpus_recipe(recipe: str | Path, overrides: Sequence[str] = ()) -> CorpusRecipe:
    """Read a recipe of a plan by name or file, with `key=value` overrides. Raises RecipeError naming the field."""
    return load_as(CorpusRecipe, FOLDER, recipe, overrides)
