"""Sequences beside transformers' tokenizer, and the windows of passages."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from transformers import BertTokenizerFast

from tests.training.evaluation.kinds import KINDS, checkpoint
from training.config import from_dict
from training.finetuning.config import TaskConfig
from training.finetuning.kinds import make
from training.finetuning.kinds.answers import Question, QuestionAnswering, Span
from training.finetuning.sequences import Reader


@pytest.fixture(scope="module")
def bert(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A checkpoint with a WordPiece tokenizer of transformers."""
    folder = checkpoint(tmp_path_factory.mktemp("bert"), "bert")
    words = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", "a", "b", "c", "##b", "##c"]
    vocabulary = {word: place for place, word in enumerate(words)}
    theirs = BertTokenizerFast(vocab=vocabulary)
    theirs.backend_tokenizer.enable_truncation(4)  # as sentence encoders are stored
    theirs.backend_tokenizer.save(str(folder / "tokenizer.json"))
    description = json.loads((folder / "config.json").read_text())
    description["special_tokens"] = {"padding": 0, "first": 2, "separator": 3, "mask": 4}
    (folder / "config.json").write_text(json.dumps(description))
    return folder


TEXT = st.lists(st.sampled_from(["a", "b", "c", "abc", "cb"]), min_size=1, max_size=12).map(" ".join)


@settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(TEXT, TEXT, st.integers(8, 24))
def test_pairs_are_cut_as_transformers_cuts_them(bert: Path, first: str, second: str, length: int) -> None:
    reader = Reader(bert, length)
    theirs = BertTokenizerFast(vocab=reader.tokenizer.get_vocab())
    wanted = theirs(first, second, truncation="longest_first", max_length=length)
    ours = reader.pair(*reader.ids([first, second]))
    assert ours.ids.tolist() == wanted["input_ids"]
    assert ours.segments.tolist() == wanted["token_type_ids"]
    single = reader.single(reader.ids([first])[0])
    assert single.ids.tolist() == theirs(first, truncation=True, max_length=length)["input_ids"]


@settings(max_examples=40, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(st.lists(st.sampled_from(["a", "bb", "ccc"]), min_size=1, max_size=60), st.data())
def test_every_answer_is_found_again_in_its_windows(bert: Path, words: list[str], data: st.DataObject) -> None:
    context = " ".join(words)
    begin = data.draw(st.integers(0, len(words) - 1))
    end = data.draw(st.integers(begin + 1, min(len(words), begin + 4)))
    first = len(" ".join(words[:begin])) + (begin > 0)
    answer = " ".join(words[begin:end])
    columns = {"text": "q", "second": "c"}
    config = {"name": "t", "kind": "question_answering", "train": "x", "columns": columns, "stride": 14}
    kind = make(from_dict(TaskConfig, config), Reader(bert, 40))
    items = kind.items([Question("a b", context, (Span(first, first + len(answer)),))], training=True)
    covered = set()
    holding = 0
    for item in items:
        spans, at = item.facts["spans"], item.facts["first"]
        covered |= {tuple(span) for span in spans}
        assert len(item.sequences[0].ids) <= 40
        if item.target != (0, 0):
            low, high = (place - at for place in item.target)
            assert context[spans[low][0] : spans[high][1]] == answer
            holding += 1
    # A stride longer than any answer shows each one whole at least once, and no token is skipped.
    assert holding >= 1
    assert sum(stop - start for start, stop in covered) == sum(map(len, words))


@pytest.mark.parametrize("kind", ["gpt", "roberta", "electra", "xlnet", "t5"])
def test_frames_and_poolings(tmp_path: Path, kind: str) -> None:
    assert kind in KINDS
    reader = Reader(checkpoint(tmp_path, kind))
    ids = np.array([7, 8])
    frames = {
        "gpt": ([0, 7, 8], "last"),
        "roberta": ([3, 7, 8, 4], "first"),
        "electra": ([3, 7, 8, 4], "first"),
        "xlnet": ([7, 8, 4, 3], "last"),
        "t5": ([7, 8, 0], "mean"),
    }
    assert (reader.single(ids).ids.tolist(), reader.pooling) == frames[kind]


@pytest.mark.parametrize("allows_none", [False, True])
def test_the_answer_is_the_best_stretch_of_all_windows(bert: Path, allows_none: bool) -> None:
    """By trying out every stretch: none that ends before it begins, none that is too long."""
    columns = {"text": "q", "second": "c"}
    config = {"name": "t", "kind": "question_answering", "train": "x", "columns": columns, "stride": 5, "max_answer": 3}
    kind = make(from_dict(TaskConfig, config), Reader(bert, 24))
    assert isinstance(kind, QuestionAnswering)
    kind.allows_none = allows_none
    random = np.random.default_rng(0)
    found, chosen = [], set()
    examples = [Question("a", " ".join(random.choice(["a", "b", "c"], 40)), ()) for _ in range(12)]
    items = kind.items(examples, training=False)
    assert len(items) > 2 * len(examples)
    longest = max(item.length for item in items)
    scores_NT2 = random.normal(size=(len(items), longest, 2)).astype(np.float32)
    scores_NT2[:, 0] += 2.0  # nothing is a likely answer, too
    outcomes = kind.outcomes(torch.from_numpy(scores_NT2), items)
    predicted = kind.predictions(examples, items, outcomes)
    for place, example in enumerate(examples):
        best, text, nothing, window = -np.inf, "", np.inf, 0
        for number, (item, scores_T2) in enumerate(zip(items, scores_NT2, strict=True)):
            if item.example != place:
                continue
            nothing = min(nothing, scores_T2[0].sum())
            spans, first = item.facts["spans"], item.facts["first"]
            for begin in range(len(spans)):
                for end in range(begin, min(begin + 3, len(spans))):
                    score = scores_T2[first + begin, 0] + scores_T2[first + end, 1]
                    if score > best:
                        best, text, window = score, example.context[spans[begin][0] : spans[end][1]], number
        found.append("" if allows_none and nothing > best else text)
        chosen.add(window - next(number for number, item in enumerate(items) if item.example == place))
    assert [one["answer"] for one in predicted] == found
    assert len(chosen) > 1  # windows differ in which one has the answer
    assert ("" in found) is allows_none
