"""The same numbers as lm-evaluation-harness: through the adapter, and with its own model of transformers."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import pytest

os.environ.setdefault("HF_DATASETS_OFFLINE", "1")
os.environ.setdefault("HF_HUB_OFFLINE", "1")
lm_eval = pytest.importorskip("lm_eval")

from tests.training.small_models import TEXT  # noqa: E402
from tests.training.suites.toys import one_thread, quiz, write_checkpoint, write_rows, write_yaml  # noqa: E402
from training.models.huggingface import export  # noqa: E402
from training.suites import run  # noqa: E402
from training.suites.documents import read_documents  # noqa: E402
from training.suites.harness import harness_model, local_task  # noqa: E402

__all__ = ["one_thread"]

SHARED = Path(__file__).parents[4] / "shared" / "data"
CHOICES = {"output_type": "multiple_choice", "metric_list": [{"metric": "acc"}, {"metric": "acc_norm"}]}
THEIRS: dict[str, dict[str, Any]] = {
    "hellaswag": {**CHOICES, "doc_to_text": "{{ctx}}", "doc_to_choice": "{{endings}}", "doc_to_target": "gold"},
    "lambada": {
        "output_type": "loglikelihood",
        "doc_to_text": "{{context}}",
        "doc_to_target": "{{' ' + continuation}}",
        "metric_list": [{"metric": "acc"}, {"metric": "perplexity"}],
    },
    "arc_easy_2shot": {
        **CHOICES,
        "doc_to_text": "{{query}}",
        "doc_to_choice": "{{choices}}",
        "doc_to_target": "gold",
        "target_delimiter": "\nAnswer: ",
        "num_fewshot": 2,
        "fewshot_split": "test",
        "fewshot_config": {"sampler": "first_n"},
    },
    "blimp": {
        "output_type": "multiple_choice",
        "doc_to_text": "",
        "doc_to_choice": "{{[sentence_good, sentence_bad]}}",
        "doc_to_target": 0,
        "target_delimiter": "",
        "metric_list": [{"metric": "acc"}],
    },
}
NAMES = {"acc": "accuracy", "acc_norm": "accuracy_normalized", "perplexity": "perplexity"}
FILES = {
    "hellaswag": "eval/hellaswag_val.jsonl.gz",
    "lambada": "eval/core/lambada_openai.jsonl.gz",
    "arc_easy_2shot": "eval/core/arc_easy.jsonl.gz",
    "blimp": "eval/blimp_67x1000.jsonl.gz",
}


def theirs(model: Any, root: str, limit: int, tasks: dict[str, dict[str, Any]] = THEIRS) -> dict[str, float]:
    """What lm_eval makes of the tasks, by our names."""
    made = {
        name: local_task(name, lambda name=name: read_documents(root, FILES[name], limit), **config)
        for name, config in tasks.items()
    }
    # simple_evaluate would first read all tasks that come with lm_eval.
    found = lm_eval.evaluate(model, made, bootstrap_iters=0, log_samples=False)["results"]
    return {
        f"{name}/{NAMES[metric]}": found[name][f"{metric},none"]
        for name, config in tasks.items()
        for metric in (entry["metric"] for entry in config["metric_list"])
    }


def ours(checkpoint: Path, root: str, output: Path, limit: int, tasks: list[str]) -> dict[str, float]:
    config = {"tasks": tasks, "root": root, "limit": limit, "precision": "fp32", "bootstrap": 0, "threads": 1}
    found: dict[str, float] = run(config | {"checkpoint": str(checkpoint), "output": str(output)})["metrics"]
    return found


@pytest.mark.skipif(not SHARED.is_dir(), reason="the data sets are not at hand")
def test_four_tasks_agree_to_the_fourth_digit(tmp_path: Path):
    checkpoint = write_checkpoint(tmp_path / "model", preset="gpt2", context_length=512)
    group = write_yaml(
        tmp_path / "both.yaml",
        tasks=["hellaswag", "lambada", "blimp", {"task": "arc_easy", "shots": 2, "shots_order": "first"}],
    )
    limit = 20
    mine = ours(checkpoint, str(SHARED), tmp_path / "out", limit, [group])
    adapted = theirs(harness_model(checkpoint, device="cpu", threads=1), str(SHARED), limit)
    from lm_eval.models.huggingface import HFLM

    folder = str(export(checkpoint, tmp_path / "exported"))
    loaded = HFLM(folder, device="cpu", batch_size=8, add_bos_token=True, dtype="float32")
    with_transformers = theirs(loaded, str(SHARED), limit)
    for name, value in adapted.items():
        assert mine[name] == pytest.approx(value, abs=5e-5, rel=1e-5)
        assert mine[name] == pytest.approx(with_transformers[name], abs=5e-5, rel=1e-4)


def test_whole_texts_and_written_ones(tmp_path: Path):
    checkpoint = write_checkpoint(tmp_path / "model")
    write_rows(tmp_path / "ask.jsonl", [{"q": row["question"], "a": row["options"][0]} for row in quiz(6)])
    write_rows(tmp_path / "text.jsonl", [{"text": text * 4} for text in TEXT])
    tasks = [
        write_yaml(
            tmp_path / "ask.yaml",
            form="generation",
            file="ask.jsonl",
            prompt="{q}",
            references="a",
            stop=["a", "\n"],
            max_new_tokens=6,
            normalize=[],
            metrics=["exact_match"],
        ),
        write_yaml(tmp_path / "text.yaml", form="text", file="text.jsonl"),
    ]
    mine = ours(checkpoint, str(tmp_path), tmp_path / "out", 0, tasks)
    made = {
        "text": local_task(
            "text",
            lambda: read_documents(str(tmp_path), "text.jsonl"),
            output_type="loglikelihood_rolling",
            doc_to_text="",
            doc_to_target="{{text}}",
            metric_list=[{"metric": name} for name in ("word_perplexity", "byte_perplexity", "bits_per_byte")],
        ),
        "ask": local_task(
            "ask",
            lambda: read_documents(str(tmp_path), "ask.jsonl"),
            output_type="generate_until",
            doc_to_text="{{q}}",
            doc_to_target="{{a}}",
            generation_kwargs={"until": ["a", "\n"], "max_gen_toks": 6, "do_sample": False},
            metric_list=[{"metric": "exact_match"}],
        ),
    }
    model = harness_model(checkpoint, device="cpu", threads=1)
    found = lm_eval.evaluate(model, made, bootstrap_iters=0)
    for name in ("word_perplexity", "byte_perplexity", "bits_per_byte"):
        assert mine[f"text/{name}"] == pytest.approx(found["results"]["text"][f"{name},none"], rel=1e-5)
    import gzip
    import json

    lines = gzip.decompress((tmp_path / "out/artifacts/items/ask.jsonl.gz").read_bytes()).decode().splitlines()
    written = [json.loads(line)["written"] for line in lines]
    assert written == [sample["resps"][0][0] for sample in found["samples"]["ask"]]
    assert any(written)
