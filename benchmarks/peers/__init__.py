"""The peers that live in an environment of their own (`benchmarks/peers.sh`), and how they are asked."""

from __future__ import annotations

import json
import os
import subprocess
import tempfile
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from benchmarks.corpora import Text
from pipeline.quality.stopwords import STOP_WORDS

# Names of datatrove's tokenizers. Its "zh" is not Chinese but the multilingual one, which takes a sentence for a word.
TOKENIZERS = {
    "cs": "ces",
    "da": "dan",
    "de": "deu",
    "el": "ell",
    "en": "eng",
    "es": "spa",
    "fi": "fin",
    "fr": "fra",
    "it": "ita",
    "nl": "nld",
    "pl": "pol",
    "pt": "por",
    "ro": "ron",
    "ru": "rus",
    "sv": "swe",
    "tr": "tur",
    "uk": "ukr",
    "zh": "cmn_Hani",
}
C4_LINES = {"min_words_per_line": 5, "max_word_length": 1000, "filter_javascript": True, "filter_policy": True}


def peers_python() -> Path:
    """The interpreter of the peers. Raises SystemExit where it is not there, saying how to make it."""
    folder = Path(os.environ.get("HEADRACE_PEERS", ".peers"))
    python = folder / "bin/python"
    if not python.exists():
        raise SystemExit(
            f"the peers are not in {folder}; make them with benchmarks/peers.sh, or set HEADRACE_PEERS to their folder"
        )
    return python.absolute()


def ask_datatrove(
    mode: str, documents: Iterable[Text], repeats: int = 1, whitespace: bool = False
) -> tuple[dict[str, str], list[dict[str, Any]]]:
    """Versions, and the rows that datatrove_filters.py gives in a mode: `decide` (one a document) or `time` (one).

    With `whitespace` datatrove takes the runs between white space for words."""
    request = {
        "tokenizers": TOKENIZERS,
        "stop_words": STOP_WORDS,
        "c4_lines": {**C4_LINES, "filter_no_terminal_punct": False},
        "c4_sentences": 3,
        "repeats": repeats,
        "whitespace": whitespace,
    }
    with tempfile.TemporaryDirectory() as folder:
        paths = [Path(folder, name) for name in ("request.json", "documents.jsonl", "result.jsonl")]
        paths[0].write_text(json.dumps(request), encoding="utf-8")
        with paths[1].open("w", encoding="utf-8") as stream:
            stream.writelines(json.dumps({"text": item.text, "language": item.language}) + "\n" for item in documents)
        script = Path(__file__).with_name("datatrove_filters.py")
        command = [str(part) for part in (peers_python(), script, mode, *paths)]
        subprocess.run(command, check=True, cwd=folder)
        with paths[2].open(encoding="utf-8") as stream:
            versions, *rows = map(json.loads, stream)
    return versions, rows
