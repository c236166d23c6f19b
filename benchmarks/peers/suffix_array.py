"""Run by benchmarks.substrings with the peers' interpreter: suffix array and LCP array by pydivsufsort.

    suffix_array.py build TEXT             of the bytes of a file: the seconds that it took
    suffix_array.py words NUMBERS TOKENS   of int32 numbers of words, documents parted by numbers of their own: how many
                                           words lie in windows that stand earlier too, without overlap, and in how many
                                           stretches

Prints one line of JSON, with the peak of this process's memory.
"""

from __future__ import annotations

import importlib.metadata
import json
import sys
import time
from pathlib import Path

import numpy as np
from pydivsufsort import divsufsort, kasai


def repeated_words(numbers: np.ndarray, tokens: int) -> tuple[int, int]:
    """Words that repeated windows cover, and the stretches that they form."""
    suffixes = divsufsort(numbers).astype(np.int64)
    common = kasai(numbers, suffixes.astype(np.int32))  # of each suffix and the next one in order
    starts = np.flatnonzero(np.concatenate([[True], common[:-1] < tokens]))
    firsts = np.repeat(np.minimum.reduceat(suffixes, starts), np.diff(np.append(starts, len(suffixes))))
    windows = suffixes[suffixes - firsts >= tokens]
    steps = np.zeros(len(numbers) + tokens + 1, np.int64)
    np.add.at(steps, windows, 1)
    np.add.at(steps, windows + tokens, -1)
    covered = np.cumsum(steps) > 0
    return int(covered.sum()), int((covered[1:] & ~covered[:-1]).sum() + covered[0])


def main() -> None:
    mode, path, *rest = sys.argv[1:]
    found: dict[str, object] = {"version": importlib.metadata.version("pydivsufsort")}
    if mode == "build":
        text = np.fromfile(path, np.uint8)
        started = time.process_time()
        kasai(text, divsufsort(text))
        found["seconds"] = time.process_time() - started
    else:
        found["words"], found["spans"] = repeated_words(np.fromfile(path, np.int32), int(rest[0]))
    (line,) = (line for line in Path("/proc/self/status").read_text().splitlines() if line.startswith("VmHWM"))
    print(json.dumps({**found, "mib": int(line.split()[1]) / 1024}))


if __name__ == "__main__":
    main()
