"""Requests: how texts are parted, what is cut, kept and refused."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file

from tests.training.evaluation.kinds import checkpoint as checkpoint_of_kind
from tests.training.suites.toys import judged, likelihood, one_thread, write_checkpoint
from training.evaluation.text_scores import text_scorer
from training.generation import GenerationConfig, Generator
from training.suites.cache import Cache
from training.suites.likelihood import Answer, Likelihood, Request, _joined, encode

__all__ = ["one_thread"]


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_checkpoint(tmp_path_factory.mktemp("model"))


def test_spaces_belong_to_what_follows(checkpoint: Path):
    model = judged(checkpoint)
    spaced, plain = encode(model, [("The man saw ", "the book."), ("The man saw", " the book.")], "a test")
    assert spaced == plain
    assert model.tokenizer.decode(list(plain.continuation)) == " the book."
    with pytest.raises(ValueError, match="a test: the tokenizer finds no token"):
        encode(model, [("The man", "")], "a test")


def test_a_long_context_loses_its_beginning(checkpoint: Path):
    asked = likelihood(checkpoint)
    long = tuple(range(1, 100))
    (cut,) = asked.answers([Request(long, (5, 6))], "a test")
    # 64 tokens are read, and the last one is only predicted: 63 of the context and the first of the continuation.
    model = judged(checkpoint).model
    with torch.inference_mode():
        logs = model(torch.tensor([[*long[-63:], 5]]))[0, -2:].log_softmax(1)
    assert cut.log_probability == pytest.approx(float(logs[0, 5] + logs[1, 6]), rel=1e-5)
    assert asked.cut == 1


def test_a_continuation_longer_than_the_context_is_asked_for_in_blocks(checkpoint: Path):
    asked = likelihood(checkpoint)
    context, continuation = (7, 8), tuple(range(1, 81))
    (answer,) = asked.answers([Request(context, continuation)], "a test")
    loaded = judged(checkpoint)
    whole = [loaded.begin_of_text, *context, *continuation]
    expected = 0.0
    with torch.inference_mode():
        # Blocks of 32 of the 80 tokens, each with what stands before it, 65 tokens in all.
        for start in (3, 35, 67):
            seen = whole[max(min(start + 32, len(whole)) - 65, 0) : min(start + 32, len(whole))]
            asked_for = min(32, len(whole) - start)
            logs = loaded.model(torch.tensor([seen[:-1]]))[0, -asked_for:].log_softmax(1)
            expected += float(logs.gather(1, torch.tensor(seen[-asked_for:])[:, None]).sum())
    assert answer.tokens == 80
    assert answer.log_probability == pytest.approx(expected, rel=1e-5)
    assert asked.cut == 1


def test_what_is_matched_is_what_the_model_would_write(checkpoint: Path):
    prompt = [5, 6, 7]
    model = judged(checkpoint)
    generator = Generator(model.model, model.tokenizer, model.end_of_text, model.begin_of_text)
    written = list(generator.token_ids(prompt, GenerationConfig(max_new_tokens=6, temperature=0.0)))
    other = [*written[:4], written[4] + 1, written[5]]
    answers = likelihood(checkpoint).answers([Request(tuple(prompt), tuple(ids)) for ids in (written, other)], "a test")
    assert [answer.matched for answer in answers] == [6, 4]


def test_kept_answers_are_not_computed_again(checkpoint: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    requests = [Request((number, 1, 2), (3, number)) for number in range(4, 40)]
    first = Likelihood(judged(checkpoint), Cache(tmp_path / "c.sqlite", "one", "fp32"), positions=40)
    computed: list[int] = []
    real = Likelihood._forward

    def counted(self: Likelihood, batch: list, trees: list) -> list[Answer]:
        computed.append(len(batch))
        if len(computed) == 3:
            raise KeyboardInterrupt
        return real(self, batch, trees)

    monkeypatch.setattr(Likelihood, "_forward", counted)
    with pytest.raises(KeyboardInterrupt):
        first.answers(requests, "a test")
    done = sum(computed[:2])
    resumed = Likelihood(judged(checkpoint), Cache(tmp_path / "c.sqlite", "one", "fp32"), positions=40)
    answers = resumed.answers(requests, "a test")
    assert sum(computed[3:]) == len(requests) - done
    monkeypatch.undo()
    assert answers == likelihood(checkpoint, positions=40).answers(requests, "a test")
    other = Cache(tmp_path / "c.sqlite", "another model", "fp32")
    assert not other.find([other.key("log_likelihood", [[1], 0])])


def test_weights_that_are_no_numbers_are_named(tmp_path: Path):
    checkpoint = write_checkpoint(tmp_path)
    weights = load_file(checkpoint / "model.safetensors")
    weights["norm.weight"][3] = float("nan")
    save_file(weights, checkpoint / "model.safetensors")
    with pytest.raises(ValueError, match="a test no finite probability; its weights are damaged"):
        likelihood(checkpoint).answers([Request((1,), (2,))], "a test")


def test_other_models_are_asked_by_their_own_score(tmp_path: Path):
    for kind, score in (
        ("bert", "pseudo_log_likelihood"),
        ("electra", "discriminator"),
        ("xlnet", "pseudo_log_likelihood"),
    ):
        checkpoint = checkpoint_of_kind(tmp_path / kind, kind)
        asked = likelihood(checkpoint)
        assert (asked.score, asked.reads_forward) == (score, False)
        (answer,) = asked.answers([Request((20, 21), (30, 31, 32))], "a test")
        scored_by = text_scorer(judged(checkpoint))
        assert scored_by is not None
        (logs,) = scored_by[1]([torch.tensor([20, 21, 30, 31, 32]).numpy()], [2])
        assert answer.log_probability == pytest.approx(float(logs[2:].sum()), rel=1e-5)
    with pytest.raises(ValueError, match="span_corruption gives texts no score"):
        likelihood(checkpoint_of_kind(tmp_path / "t5", "t5"))


def test_a_broken_cache_is_named(tmp_path: Path):
    path = tmp_path / "requests.sqlite"
    path.write_bytes(b"something else entirely" * 100)
    with pytest.raises(ValueError, match=r"cache .*requests.sqlite: cannot be used"):
        Cache(path, "model", "fp32")


def test_answers_belong_to_one_model_one_arithmetic_and_one_kind_of_request(tmp_path: Path):
    path = tmp_path / "answers.sqlite"
    first = Cache(path, "model", "fp32")
    first.add({first.key("text", [1, 2]): 0.5})
    assert first.find([first.key("text", [1, 2])]) == {first.key("text", [1, 2]): 0.5}
    assert not first.find([first.key("log_likelihood", [1, 2]), first.key("text", [12]), first.key("text", [[1], 2])])
    for digest, arithmetic in (("other", "fp32"), ("model", "bf16"), ("modelfp32", "")):
        other = Cache(path, digest, arithmetic)
        assert not other.find([other.key("text", [1, 2])])
        other.close()
    first.close()


def test_what_is_matched_ends_with_the_first_block_that_is_not_whole():
    blocks = [Answer(-1.0, 3, 3), Answer(-2.0, 3, 1), Answer(-4.0, 2, 2)]
    assert _joined(blocks) == Answer(-7.0, 8, 4)
    assert _joined(blocks[:1]) == blocks[0]
