"""The command line `headrace`: its commands by kind, in the order in which they are shown."""

from __future__ import annotations

import importlib
import sys

from flows.commands.base import app

for _kind in ("runs", "studies", "jobs", "corpus", "writing", "models"):
    importlib.import_module(f"flows.commands.{_kind}")


def main() -> None:
    """Entry point of the console script."""
    sys.exit(app())


if __name__ == "__main__":
    main()
