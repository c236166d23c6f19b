"""The corpus: readers, text kernels, deduplication, filters, tokenizer, shards, ledger and catalog."""

import os
from hashlib import blake2b
from pathlib import Path


def _kernel_cache() -> Path:
    """Return the folder of compiled kernels: per user, outside the source tree, one for each state of the sources.

    Numba looks only at a kernel's own file; a change in a kernel that it calls would go unnoticed.
    """
    digest = blake2b(digest_size=8)
    root = Path(__file__).parent
    for path in sorted(root.rglob("*.py")):
        source = path.read_bytes()
        if b"numba" in source:
            digest.update(str(path.relative_to(root)).encode() + b"\0" + source)
    home = Path(os.environ.get("HEADRACE_CACHE") or Path.home() / ".cache" / "headrace")
    return home / "numba" / digest.hexdigest()


# Numba reads it once, at its first import; worker processes inherit it.
if "NUMBA_CACHE_DIR" not in os.environ:
    os.environ["NUMBA_CACHE_DIR"] = str(_kernel_cache())
