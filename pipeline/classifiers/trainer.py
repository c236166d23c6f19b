"""The process in which fastText trains: `python -P trainer.py SETTINGS.json`, one JSON object on its output at the end.

It imports nothing of Headrace. It ends itself when its standard input is closed, so that it never outlives the process
that started it.
"""

import json
import os
import sys
import threading
from pathlib import Path
from typing import Any


def _end_with_parent() -> None:
    while os.read(0, 1 << 10):
        pass
    os._exit(1)


def train(settings: dict[str, Any]) -> dict[str, Any]:
    """Train, check and save a model; returns how many words it has and its width.

    Raises ValueError where the training ended in weights that are no finite numbers.
    """
    import fasttext
    import numpy as np

    model = fasttext.train_supervised(input=settings["input"], thread=1, verbose=0, **settings["arguments"])
    for name, matrix in (("input", model.f.getInputMatrix()), ("output", model.f.getOutputMatrix())):
        weights = np.asarray(matrix)  # a view: the matrix may be most of the memory
        if not (np.isfinite(weights.min()) and np.isfinite(weights.max())):
            raise ValueError(f"the {name} weights are not all finite; lower the learning rate")
    if settings["quantise"] is not None:
        model.quantize(input=settings["input"], thread=1, verbose=0, **settings["quantise"])
    model.save_model(settings["output"])
    return {"words": len(model.words), "dimension": model.get_dimension()}


def main() -> None:
    """Train as the settings file says."""
    threading.Thread(target=_end_with_parent, daemon=True).start()
    try:
        told = train(json.loads(Path(sys.argv[1]).read_text(encoding="utf-8")))
    except Exception as error:
        sys.exit(f"{type(error).__name__}: {error}")
    print(json.dumps(told), flush=True)


if __name__ == "__main__":
    main()
