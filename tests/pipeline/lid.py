"""Where the tests find the fastText model of languages; None where it is not on this machine."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

_SHARED = Path(__file__).parents[2] / "../shared/data/lid/lid.176.ftz"
_CACHE = Path(os.environ.get("HEADRACE_CACHE") or "~/.cache/headrace").expanduser()


def _find() -> Path | None:
    candidates = [_SHARED, *sorted(_CACHE.glob("**/lid.176.ftz"))]
    return next((path.resolve() for path in candidates if path.is_file()), None)


LID = _find()
needs_lid = pytest.mark.skipif(LID is None, reason="lid.176.ftz is not here; `make setup` fetches it")
