"""The catalog as a file: written beside the old one and put in its place, read by anyone at any time."""

from __future__ import annotations

import tempfile
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path

import duckdb
import pyarrow as pa

from pipeline.catalog.costs import COMMENT as COSTS_COMMENT
from pipeline.catalog.costs import COSTS, costs_sql
from pipeline.catalog.relations import identifier
from pipeline.catalog.scores import COMMENT as SCORES_COMMENT
from pipeline.catalog.scores import scores_sql
from pipeline.catalog.trials import COMMENT as TRIALS_COMMENT
from pipeline.catalog.trials import trials_sql
from pipeline.costs import CostSettings
from pipeline.sql import quoted
from pipeline.store import Committed, StageRef, write_bytes_atomically

try:
    import fcntl
except ImportError:  # Windows has none
    fcntl = None  # type: ignore[assignment]

CATALOG = "corpus.duckdb"
LOCK = ".catalog.lock"
SCORES, TRIALS = "scores", "trials"
STORAGE_VERSION = "v1.0.0"  # any DuckDB of version 1 or later opens it


class CatalogError(ValueError):
    """The catalog cannot answer; the message says why and what to do."""


def build(
    workspace: Path | str,
    stages: Mapping[str, StageRef | Committed],
    known: StageRef | None = None,
    costs: CostSettings | None = None,
) -> Path:
    """Write `<workspace>/corpus.duckdb`, views over the files that the stages of a run have committed, and return it.

    `stages` are those of the run in their order; what a stage that is not committed yet would show is empty. `known` is
    the `duplicates` stage of the run that this one was compared with, `costs` the prices of its recipe. The file takes
    the place of the old one in one step: who has that one open keeps it, and nobody waits. It holds no data, and
    absolute paths: build it again where the workspace has moved.
    """
    from pipeline.catalog.views import Run, views  # brings the kernels of the stages, which a query does not need

    shown = [*views(Run(stages, known)), (COSTS, COSTS_COMMENT, costs_sql(stages, costs or CostSettings()))]
    with _alone(workspace) as path:
        return _write(path, [*shown, _scores(workspace), _trials(workspace)])


def refresh_scores(workspace: Path | str) -> Path:
    """Let the catalog's view `scores` show all that was judged in the workspace by now; the other views stay."""
    return _refresh(workspace, _scores)


def refresh_trials(workspace: Path | str) -> Path:
    """Let the catalog's view `trials` show the trials of all studies of the workspace; the other views stay."""
    return _refresh(workspace, _trials)


def _scores(workspace: Path | str) -> tuple[str, str, str]:
    return SCORES, SCORES_COMMENT, scores_sql(str(workspace))


def _trials(workspace: Path | str) -> tuple[str, str, str]:
    return TRIALS, TRIALS_COMMENT, trials_sql(str(workspace))


def _refresh(workspace: Path | str, view: Callable[[Path | str], tuple[str, str, str]]) -> Path:
    """Replace one view in the catalog that is there by then."""
    if not Path(workspace, CATALOG).is_file():
        return build(workspace, {})
    with _alone(workspace) as path:
        # Only now: what was committed while this one waited is part of it.
        return _write(path, [view(workspace)], path.read_bytes())


@contextmanager
def _alone(workspace: Path | str) -> Iterator[Path]:
    """Hold the catalog's file against others that would change it: of two that read it, one's views would be lost."""
    path = Path(workspace, CATALOG)
    path.parent.mkdir(parents=True, exist_ok=True)
    with open(path.with_name(LOCK), "a") as stream:
        if fcntl is not None:
            fcntl.flock(stream, fcntl.LOCK_EX)
        yield path


def _write(path: Path, shown: Iterable[tuple[str, str, str]], content: bytes | None = None) -> Path:
    """Write a catalog with views (name, comment, query), or add them to the `content` of one, in one step."""
    with tempfile.TemporaryDirectory() as folder:
        fresh = Path(folder, CATALOG)
        if content is not None:
            fresh.write_bytes(content)
        with duckdb.connect() as connection:
            connection.execute(f"ATTACH {quoted(str(fresh))} AS catalog (STORAGE_VERSION '{STORAGE_VERSION}')")
            connection.execute("USE catalog")
            for name, comment, sql in shown:
                connection.execute(f"CREATE OR REPLACE VIEW {identifier(name)} AS {sql}")
                connection.execute(f"COMMENT ON VIEW {identifier(name)} IS {quoted(comment)}")
            connection.execute("USE memory")
            connection.execute("DETACH catalog")
        write_bytes_atomically(str(path), fresh.read_bytes())
    return path


@contextmanager
def connect(workspace: Path | str) -> Iterator[duckdb.DuckDBPyConnection]:
    """Open the catalog of a workspace for reading.

    Raises CatalogError where there is none, and for what DuckDB cannot do inside the block.
    """
    path = Path(workspace, CATALOG)
    if not path.is_file():
        raise CatalogError(f"there is no catalog at {path}; `headrace run` writes it, or name another --workspace")
    try:
        with duckdb.connect(str(path), read_only=True) as connection:
            yield connection
    except duckdb.IOException as error:
        raise CatalogError(f"{error}: files that {path} refers to are gone or moved; start the run again") from error
    except duckdb.Error as error:
        raise CatalogError(str(error)) from error


def query(workspace: Path | str, sql: str) -> pa.Table:
    """Run SQL over the catalog of a workspace, which it cannot change, and return the rows.

    Raises CatalogError, a ValueError, for wrong SQL and where there is no catalog.
    """
    with connect(workspace) as connection:
        relation = connection.sql(sql)
        return relation.to_arrow_table() if relation is not None else pa.table({})
