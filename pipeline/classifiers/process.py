"""fastText's training in a process of its own, in which the same documents give the same bytes.

fastText starts from memory that it has not initialised where it has fewer than ten threads (its issue 1061), and its
threads race for the weights. One thread, and a C library that fills fresh memory (glibc's MALLOC_PERTURB_), make it
deterministic; both can only be had in a process that starts that way.
"""

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any, Final

from pipeline.stage import StageError

_TRAINER: Final = Path(__file__).with_name("trainer.py")
_TAIL_CHARACTERS: Final = 2000
# 255: fresh memory is filled with its complement, zeros.
_ENVIRONMENT: Final = {"MALLOC_PERTURB_": "255", "OMP_NUM_THREADS": "1", "OPENBLAS_NUM_THREADS": "1"}


def train_fasttext(
    documents: Path,
    model: Path,
    arguments: dict[str, Any],
    quantise: dict[str, Any] | None = None,
) -> dict[str, Any]:
    """Train a model on a file of labelled lines and write it to `model`; returns its number of words and its width.

    `arguments` are those of `train_supervised`, `quantise` those of `quantize`. Two files beside `model` serve the
    process. Any exception, cancellation included, ends the process first. Raises StageError with the end of its error
    output where it fails.
    """
    settings = {"input": str(documents), "output": str(model), "arguments": arguments, "quantise": quantise}
    settings_path, errors_path = Path(f"{model}.settings"), Path(f"{model}.errors")
    settings_path.write_text(json.dumps(settings), encoding="utf-8")
    with errors_path.open("wb") as errors:
        process = subprocess.Popen(
            [sys.executable, "-P", str(_TRAINER), str(settings_path)],
            stdin=subprocess.PIPE,  # its write end closes with this process, however that ends
            stdout=subprocess.PIPE,
            stderr=errors,
            env={**os.environ, **_ENVIRONMENT},
        )
        try:
            assert process.stdout is not None
            told = process.stdout.read()
            code = process.wait()
        finally:
            if process.poll() is None:
                process.kill()
                process.wait()
            for pipe in (process.stdin, process.stdout):
                if pipe is not None:
                    pipe.close()
    if code != 0:
        tail = errors_path.read_text(encoding="utf-8", errors="replace").strip()[-_TAIL_CHARACTERS:]
        reason = f"signal {-code}, which may mean that memory ran out" if code < 0 else f"exit code {code}"
        raise StageError(f"fastText's training ended with {reason}: {tail or 'it said nothing'}")
    return dict(json.loads(told))
