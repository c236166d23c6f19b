"""The corpus: readers, text kernels, deduplication, filters, tokenizer, shards, ledger and catalog."""

import os
from pathlib import Path

# Compiled kernels are cached per user, outside the source tree; Numba reads this once, at its first import.
os.environ.setdefault(
    "NUMBA_CACHE_DIR",
    str(Path(os.environ.get("HEADRACE_CACHE") or Path.home() / ".cache" / "headrace") / "numba"),
)
