"""The catalog: `corpus.duckdb`, views over what the stages committed, and everything about one document."""

from pipeline.catalog.database import CATALOG, CatalogError, build, connect, query, refresh_scores, refresh_trials
from pipeline.catalog.explanation import explain

__all__ = ["CATALOG", "CatalogError", "build", "connect", "explain", "query", "refresh_scores", "refresh_trials"]
