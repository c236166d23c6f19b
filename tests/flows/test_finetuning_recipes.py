"""Recipes of fine-tuning over files of the form that they name: generated ones, and a small model."""

from __future__ import annotations

import io
import json
import random
import tarfile
from pathlib import Path
from typing import Any

import pytest

from flows.jobs_files import find_files
from flows.jobs_recipe import FINETUNING, config_of, load_job_recipe
from tests.training.evaluation.kinds import checkpoint
from tests.training.finetuning.tiny_tasks import one_thread
from training.finetuning import run
from training.finetuning.predictor import FineTuned

__all__ = ["one_thread"]
PEOPLE, PLACES, OTHERS = ["Anna", "Petr Novak"], ["Oslo", "New York"], ["sees", "the", "book", "in"]


def conll(drawn: random.Random, sentences: int) -> str:
    """Tokens in the four columns of CoNLL-2003, the tag last."""
    lines = ["-DOCSTART- -X- -X- O", ""]
    for _ in range(sentences):
        for kind, text in [("", "the"), ("PER", drawn.choice(PEOPLE)), ("", "in"), ("LOC", drawn.choice(PLACES))]:
            for place, word in enumerate(text.split()):
                tag = f"{'I' if place else 'B'}-{kind}" if kind else "O"
                lines.append(f"{word} NN O {tag}")
        lines.append("")
    return "\n".join(lines)


def squad(drawn: random.Random, questions: int) -> str:
    paragraphs = []
    for number in range(questions):
        words = [drawn.choice(OTHERS) for _ in range(6)]
        words[drawn.randrange(6)] = "Oslo"
        context = " ".join(words)
        answer = {"text": "Oslo", "answer_start": context.index("Oslo")}
        one = {"id": str(number), "question": "Which town?", "answers": [answer]}
        paragraphs.append({"context": context, "qas": [one]})
    return json.dumps({"version": "1.1", "data": [{"title": "towns", "paragraphs": paragraphs}]})


def mrpc(drawn: random.Random, pairs: int) -> str:
    lines = ["Quality\t#1 ID\t#2 ID\t#1 String\t#2 String"]
    for number in range(pairs):
        same = drawn.randrange(2)
        first = " ".join(drawn.choice(OTHERS) for _ in range(4))
        lines.append(f"{same}\t{number}\t{number}\t{first}\t{first if same else 'Anna ' + first}")
    return "\n".join(lines) + "\n"


def stsb(drawn: random.Random, pairs: int) -> str:
    lines = []
    for number in range(pairs):
        score = drawn.randrange(6)
        words = [drawn.choice(OTHERS) for _ in range(5)]
        other = words[:score] + ["Anna"] * (5 - score)
        lines.append(f"news\tfile\t2012\t{number}\t{score}.000\t{' '.join(words)}\t{' '.join(other)}")
    return "\n".join(lines) + "\n"


def write_files(data: Path) -> Path:
    """The files of the recipes below a folder, in little."""
    drawn = random.Random(0)
    texts = {
        "data/conll2003/eng.train": conll(drawn, 60),
        "data/conll2003/eng.testa": conll(drawn, 12),
        "data/conll2003/eng.testb": conll(drawn, 12),
        "data/squad/train-v1.1.json": squad(drawn, 60),
        "data/squad/dev-v1.1.json": squad(drawn, 12),
    }
    for name, text in texts.items():
        (data / name).parent.mkdir(parents=True, exist_ok=True)
        (data / name).write_text(text, encoding="utf-8")
    members = {
        "mrpc/msr_paraphrase_train.txt": mrpc(drawn, 60),
        "mrpc/msr_paraphrase_test.txt": mrpc(drawn, 12),
        "stsb/sts-train.csv": stsb(drawn, 60),
        "stsb/sts-dev.csv": stsb(drawn, 12),
        "stsb/sts-test.csv": stsb(drawn, 12),
    }
    (data / "data/eval").mkdir(parents=True, exist_ok=True)
    with tarfile.open(data / "data/eval/glue_small.tar.gz", "w:gz") as archive:
        for name, text in members.items():
            entry = tarfile.TarInfo(name)
            entry.size = len(text.encode())
            archive.addfile(entry, io.BytesIO(text.encode()))
    return data


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_files(tmp_path_factory.mktemp("files"))


RECIPES: dict[str, dict[str, Any]] = {
    "ner": {"reaches": "ner/test/entity_f1", "above": 0.6},
    "squad": {"reaches": "squad/test/exact_match", "above": 0.3, "epochs": 6},
    "mrpc-adalora": {"reaches": "mrpc/test/accuracy", "adapter": ("adapter.tinit=3", "adapter.tfinal=4")},
    "mrpc-prefix": {"reaches": "mrpc/test/f1", "adapter": ("adapter.prefix_tokens=4",)},
    "stsb-houlsby": {"reaches": "stsb/test/pearson", "adapter": ("adapter.bottleneck=8",)},
}


@pytest.mark.parametrize("name", RECIPES)
def test_the_recipe_trains_on_files_of_its_form(name: str, data: Path, tmp_path: Path) -> None:
    wanted = RECIPES[name]
    small = ("epochs=" + str(wanted.get("epochs", 3)), "batch_size=8", "max_length=48", "learning_rate=3e-3")
    further = (*small, "dropout=0.0", "threads=1", "device=cpu", "precision=fp32", *wanted.get("adapter", ()))
    recipe = load_job_recipe(FINETUNING, name, [f"finetuning.{one}" for one in further])
    config = config_of(recipe, FINETUNING)
    values = find_files(config, "finetuning", data).values(config)
    model = checkpoint(tmp_path, "bert")
    results = run({**values, "checkpoint": str(model), "output": str(tmp_path / "out")})
    assert results["metrics"][wanted["reaches"]] > wanted.get("above", -1.0), results["lines"]
    method = config.adapter.method
    assert (tmp_path / "out" / "model" / "adapter.safetensors").exists() is (method in ("houlsby", "prefix"))
    assert FineTuned(tmp_path / "out" / "model", threads=1).judge("test").predictions


def test_a_missing_file_of_the_user_is_named(tmp_path: Path) -> None:
    config = config_of(load_job_recipe(FINETUNING, "ner"), FINETUNING)
    with pytest.raises(ValueError, match=r"tasks.0.train: there is no file data/conll2003/eng.train; .*--data"):
        find_files(config, "finetuning", tmp_path)
