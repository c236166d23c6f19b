"""Chinese tasks of the shared data as files that an evaluation reads: probes, choices, a cloze.

    python -m benchmarks.chinese_tasks --data ../shared/data --output tasks
    headrace run bert --set 'evaluate.choices=["tasks/xcopa_zh.jsonl"]'

Probes ({text, label}): `fewclue_source`, which of FewCLUE's tasks a text is from (news titles, descriptions of
applications, abstracts; the texts come without the labels of their own tasks), and `cmmlu_subject`, which of 67
subjects a question belongs to. Choices ({prompt, choices, answer}): `xcopa_zh` (Ponti et al. 2020), `cmmlu` (Li et al.
2023), and `fewclue_cloze` in the manner of ChID (Zheng et al. 2019): which of seven stretches of four characters stood
in the gap of a text; the others stood in gaps of other texts. A file that is not there is named, its tasks left out.
"""

from __future__ import annotations

import argparse
import csv
import gzip
import hashlib
import io
import json
import random
import re
import sys
import tarfile
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

CONNECTIVE = {"cause": "，因为", "effect": "，所以"}
"""What joins a premise and a choice of XCOPA."""
CLOZES = 2000
_GAP = re.compile(r"(?<=[，。、；])[\u4e00-\u9fff]{4}(?=[，。、；])")
_CHOICES = 7

Row = dict[str, Any]


def xcopa(path: Path) -> Iterator[Row]:
    """Premise and question as a prompt, two choices."""
    with tarfile.open(path) as archive:
        for line in _text(archive, "zh/test.zh.jsonl").splitlines():
            row = json.loads(line)
            choices = [row["choice1"], row["choice2"]]
            prompt = row["premise"].rstrip("。") + CONNECTIVE[row["question"]]
            yield {"prompt": prompt, "choices": choices, "answer": int(row["label"])}


def cmmlu(path: Path) -> Iterator[Row]:
    """Question and answers of each subject's test."""
    for _, row in _cmmlu_rows(path):
        choices = [row[letter].strip() for letter in "ABCD"]
        if row["Answer"] in tuple("ABCD") and all(choices):
            yield {"prompt": f"{row['Question']} 答案：", "choices": choices, "answer": "ABCD".index(row["Answer"])}


def cmmlu_subject(path: Path) -> Iterator[Row]:
    """Question and subject."""
    for subject, row in _cmmlu_rows(path):
        yield {"text": row["Question"], "label": subject}


def fewclue_source(path: Path) -> Iterator[Row]:
    """Text and the task that it is from."""
    for row in _fewclue(path):
        yield {"text": row["text"], "label": row["src"].rpartition("/")[2]}


def fewclue_cloze(path: Path) -> Iterator[Row]:
    """A gap of four characters between two marks, and seven fillings."""
    found = []
    for row in _fewclue(path):
        gaps = list(_GAP.finditer(row["text"]))
        if gaps and len(row["text"]) <= 400 and "{}" not in row["text"]:
            gap = gaps[_hash(row["text"]) % len(gaps)]
            left, right = row["text"][: gap.start()][-60:], row["text"][gap.end() :][:60]
            found.append((f"{left}{{}}{right}", gap.group()))
    fillings = sorted({filling for _, filling in found})
    for prompt, right_one in sorted(dict.fromkeys(found), key=lambda item: _hash(item[0]))[:CLOZES]:
        drawn = random.Random(_hash(prompt))
        others = [one for one in drawn.sample(fillings, _CHOICES) if one != right_one][: _CHOICES - 1]
        choices = [right_one, *others]
        drawn.shuffle(choices)
        yield {"prompt": prompt, "choices": choices, "answer": choices.index(right_one)}


TASKS: dict[str, tuple[str, Callable[[Path], Iterator[Row]]]] = {
    "fewclue_source": ("zh/fewclue_texts.jsonl.gz", fewclue_source),
    "fewclue_cloze": ("zh/fewclue_texts.jsonl.gz", fewclue_cloze),
    "cmmlu_subject": ("eval/cmmlu.tar.gz", cmmlu_subject),
    "cmmlu": ("eval/cmmlu.tar.gz", cmmlu),
    "xcopa_zh": ("eval/xcopa.tar.gz", xcopa),
}
"""File under the data folder, and what makes the rows of each task."""


def write_tasks(data: Path, output: Path) -> dict[str, int]:
    """Write every task whose data is there, and STS-B's test set; returns the rows of each by file name."""
    output.mkdir(parents=True, exist_ok=True)
    written = {}
    for name, (place, rows) in TASKS.items():
        if not (data / place).is_file():
            print(f"{name}: left out, {data / place} is not there", file=sys.stderr)
            continue
        lines = [json.dumps(row, ensure_ascii=False) for row in rows(data / place)]
        (output / f"{name}.jsonl").write_text("\n".join(lines) + "\n", encoding="utf-8")
        written[f"{name}.jsonl"] = len(lines)
    glue = data / "eval/glue_small.tar.gz"
    if glue.is_file():
        with tarfile.open(glue) as archive:
            text = _text(archive, "stsb/sts-test.csv")
        (output / "stsb_test.csv").write_text(text, encoding="utf-8")
        written["stsb_test.csv"] = len(text.splitlines())
    else:
        print(f"stsb_test: left out, {glue} is not there", file=sys.stderr)
    return written


def _cmmlu_rows(path: Path) -> Iterator[tuple[str, Row]]:
    with tarfile.open(path) as archive:
        for name in sorted(archive.getnames()):
            if name.startswith("test/") and name.endswith(".csv"):
                for row in csv.DictReader(io.StringIO(_text(archive, name))):
                    yield Path(name).stem, row


def _fewclue(path: Path) -> Iterator[Row]:
    with gzip.open(path, "rt", encoding="utf-8") as lines:
        for line in lines:
            yield json.loads(line)


def _text(archive: tarfile.TarFile, name: str) -> str:
    file = archive.extractfile(name)
    assert file is not None, name
    return file.read().decode("utf-8-sig")


def _hash(text: str) -> int:
    return int.from_bytes(hashlib.blake2b(text.encode(), digest_size=8).digest(), "little")


if __name__ == "__main__":
    parser = argparse.ArgumentParser(prog="python -m benchmarks.chinese_tasks", description=__doc__)
    parser.add_argument("--data", type=Path, default=Path("../shared/data"), help="folder of the shared data")
    parser.add_argument("--output", type=Path, default=Path("tasks"), help="folder for the files")
    options = parser.parse_args()
    for file_name, count in write_tasks(options.data, options.output).items():
        print(f"{options.output / file_name}: {count:,}")
