from __future__ import annotations

import dataclasses
import logging
from collections import Counter
from pathlib import Path

import numpy as np
import pytest
import torch

from tests.training.small_models import TEXT, one_thread, tiny_checkpoint, tiny_model, tiny_tokenizer
from training.checkpoints import load_model
from training.generation import DEFAULT_PROMPTS, GenerationConfig, Generator, choose, end_of_text_id, load_tokenizer
from training.generation.linear import ReadingLinear
from training.generation.stops import until_stop

__all__ = ["one_thread"]


@pytest.fixture(scope="module")
def generator() -> Generator:
    tokenizer = tiny_tokenizer()
    return Generator(tiny_model(tokenizer.get_vocab_size()), tokenizer, 0)


def test_greedy_ids_are_those_of_the_plain_loop(generator: Generator) -> None:
    prompt = generator.encode("The man")
    ids = [0, *prompt]
    for _ in range(30):
        with torch.no_grad():
            token = int(generator.model(torch.tensor([ids[-16:]]))[0, -1].argmax())
        if token == 0:
            break
        ids.append(token)
    assert (
        list(generator.token_ids(prompt, GenerationConfig(max_new_tokens=30, temperature=0))) == ids[1 + len(prompt) :]
    )
    assert len(ids) > len(prompt) + 5


def test_a_seed_gives_the_same_text_and_another_one_another(generator: Generator) -> None:
    texts = [generator.generate("The", GenerationConfig(40, temperature=1.0, top_k=0, seed=seed)) for seed in (1, 1, 2)]
    assert texts[0] == texts[1] != texts[2]


def test_the_stream_is_the_whole_text_in_pieces_of_whole_characters(generator: Generator) -> None:
    for seed in range(12):
        settings = GenerationConfig(50, temperature=2.0, top_k=0, seed=seed)
        ids = list(generator.token_ids(generator.encode("中国"), settings))
        pieces = list(generator.stream("中国", settings))
        assert all(pieces)
        whole = generator.tokenizer.decode(ids)
        assert whole.startswith("".join(pieces))
        # All that never comes are bytes of a character that never became whole.
        assert set(whole[len("".join(pieces)) :]) <= {"\ufffd"}
        assert generator.generate("中国", settings) == "".join(pieces)


def test_no_character_is_broken_between_two_tokens(generator: Generator) -> None:
    text = TEXT[2] + TEXT[1]
    parts = {generator.tokenizer.decode([token]) for token in generator.encode("🧡")}
    assert "\ufffd" in parts  # the emoji takes several tokens, each a part of its bytes
    pieces = list(generator.decode(generator.encode(text + "🧡.")))
    assert "".join(pieces) == text + "🧡."
    assert "".join(generator.decode(generator.encode("a🧡")[:-1])) == "a"
    assert not any("\ufffd" in piece for piece in pieces)


def test_generation_stops_at_the_end_of_the_text() -> None:
    tokenizer = tiny_tokenizer()
    model = tiny_model(tokenizer.get_vocab_size())
    greedy = GenerationConfig(50, temperature=0)
    first = next(Generator(model, tokenizer, 0).token_ids([5], greedy))
    generator = Generator(model, tokenizer, first)
    assert list(generator.token_ids([5], greedy)) != []  # it begins with the other end-of-text id now
    ends = Generator(model, tokenizer, next(generator.token_ids([5], greedy)))
    ids = list(ends.token_ids([5], GenerationConfig(200, temperature=1.0)))
    assert ends.end_of_text not in ids
    (sample,) = generator.sample(["The"], GenerationConfig(3, temperature=0))
    assert sample.tokens == 3
    assert not sample.finished


def test_a_model_that_always_ends_gives_an_empty_finished_sample() -> None:
    tokenizer = tiny_tokenizer()
    model = tiny_model(tokenizer.get_vocab_size())
    with torch.no_grad():
        model.head.weight.zero_()  # all logits tie: greedy takes the lowest id, the end of the text
    (sample,) = Generator(model, tokenizer, 0).sample(["The"], GenerationConfig(9, temperature=0))
    assert (sample.continuation, sample.tokens, sample.finished) == ("", 0, True)


def test_a_prompt_longer_than_the_context_loses_its_beginning_with_a_warning(
    generator: Generator, caplog: pytest.LogCaptureFixture
) -> None:
    prompt = generator.encode("The women see these books every day. " * 3)
    assert len(prompt) > 16
    greedy = GenerationConfig(5, temperature=0)
    with caplog.at_level(logging.WARNING):
        ids = list(generator.token_ids(prompt, greedy))
    assert "its beginning is cut off" in caplog.text
    with torch.no_grad():
        expected = int(generator.model(torch.tensor([prompt[-16:]]))[0, -1].argmax())
    assert ids[0] == expected


def test_top_k_and_top_p_keep_the_likeliest_tokens() -> None:
    logits = torch.log(torch.tensor([0.05, 0.4, 0.1, 0.3, 0.15]))
    random = torch.Generator().manual_seed(0)

    def drawn(**limits: float) -> set[int]:
        settings = GenerationConfig(temperature=1.0, **{"top_k": 0, **limits})  # type: ignore[arg-type]
        return {choose(logits, settings, random) for _ in range(400)}

    assert drawn() == {0, 1, 2, 3, 4}
    assert drawn(top_k=2) == {1, 3}
    assert drawn(top_p=0.7) == {1, 3}
    assert drawn(top_p=0.71) == {1, 3, 4}
    assert drawn(top_p=0.0) == {1}
    assert drawn(top_k=3, top_p=0.8) == {1, 3}  # of the three, 0.4 and 0.3 of 0.85 are enough


def test_draws_follow_the_probabilities_at_the_temperature() -> None:
    probabilities = np.array([0.5, 0.25, 0.15, 0.1])
    logits = torch.log(torch.tensor(probabilities))
    random = torch.Generator().manual_seed(3)
    settings = GenerationConfig(temperature=2.0, top_k=0)
    counts = Counter(choose(logits, settings, random) for _ in range(20_000))
    expected = probabilities**0.5 / (probabilities**0.5).sum()
    np.testing.assert_allclose([counts[token] / 20_000 for token in range(4)], expected, atol=0.012)


@pytest.mark.parametrize(
    "wrong",
    [{"max_new_tokens": -1}, {"temperature": -0.1}, {"temperature": float("nan")}, {"top_k": -1}, {"top_p": 1.5}],
)
def test_wrong_settings_are_refused(wrong: dict[str, float]) -> None:
    with pytest.raises(ValueError, match=next(iter(wrong))):
        GenerationConfig(**wrong)  # type: ignore[arg-type]


def test_an_unknown_id_is_refused(generator: Generator) -> None:
    with pytest.raises(ValueError, match="token id 999999 lies outside"):
        next(generator.token_ids([1, 999999]))


def test_a_checkpoint_folder_generates(tmp_path: Path) -> None:
    folder = tiny_checkpoint(tmp_path)
    generator = Generator.load(folder)
    samples = generator.sample(DEFAULT_PROMPTS, GenerationConfig(4))
    assert [sample.prompt for sample in samples] == list(DEFAULT_PROMPTS)
    assert samples[0].continuation == generator.generate("The", GenerationConfig(4))
    assert end_of_text_id(folder) == 0
    assert generator.generate("", GenerationConfig(4)) is not None


def test_a_checkpoint_without_a_tokenizer_says_so(tmp_path: Path) -> None:
    folder = tiny_checkpoint(tmp_path)
    (folder / "tokenizer.json").write_text("{")
    with pytest.raises(ValueError, match="damaged"):
        load_tokenizer(folder)
    (folder / "tokenizer.json").unlink()
    with pytest.raises(ValueError, match="cannot read text"):
        Generator.load(folder)


def test_no_part_of_a_stop_string_is_yielded(generator: Generator) -> None:
    for seed in range(6):
        free = GenerationConfig(max_new_tokens=40, temperature=1.5, top_k=0, seed=seed)
        text = generator.generate("The", free)
        for stop in (text[7:9], text[12:13], text[5:11]):
            if "\ufffd" in stop:  # what stands for half a character may become another
                continue
            held = dataclasses.replace(free, stop=(stop, "never said"))
            pieces = list(generator.stream("The", held))
            assert "".join(pieces) == text[: text.index(stop)]
            assert all(pieces)
            ids = list(generator.token_ids(generator.encode("The"), held))
            assert stop in generator.tokenizer.decode(ids)
            assert stop not in generator.tokenizer.decode(ids[:-1])
            (sample,) = generator.sample(["The"], held)
            assert (sample.continuation, sample.finished) == ("".join(pieces), True)


def test_what_might_have_become_a_stop_string_comes_in_the_end() -> None:
    assert list(until_stop(iter(["ab", "c", "abab", "a"]), ["abcd", "bac"])) == ["abcab", "a", "ba"]
    assert list(until_stop(iter(["x<", "en", "d>y"]), ["<end>"])) == ["x"]
    assert "".join(until_stop(iter("aabaabaab"), ["aabaaab"])) == "aabaabaab"


def test_stop_tokens_end_the_text_and_do_not_come(generator: Generator) -> None:
    greedy = GenerationConfig(max_new_tokens=20, temperature=0)
    ids = list(generator.token_ids([5, 6], greedy))
    held = dataclasses.replace(greedy, stop_tokens=(ids[4],))
    assert list(generator.token_ids([5, 6], held)) == ids[: ids.index(ids[4])]
    ((found,),) = generator.batch([[5, 6]], held)
    assert (found.ids, found.finished) == (ids[: ids.index(ids[4])], True)


def test_a_batch_is_its_prompts_one_by_one(generator: Generator) -> None:
    prompts = [[], [7, 8, 9], list(range(40, 70)), [3]]
    drawn = GenerationConfig(max_new_tokens=25, temperature=1.2, top_k=20)
    found = generator.batch(prompts, drawn, seeds=[1, 2, 3, 4])
    for seed, prompt, (one,) in zip((1, 2, 3, 4), prompts, found, strict=True):
        assert one.ids == list(generator.token_ids(prompt, dataclasses.replace(drawn, seed=seed)))
    assert generator.batch([], drawn) == []
    assert generator.batch([[5]], dataclasses.replace(drawn, max_new_tokens=0))[0][0].ids == []


def test_the_score_is_the_log_probability_by_length(generator: Generator) -> None:
    greedy = GenerationConfig(max_new_tokens=6, temperature=0, length_penalty=2.0)
    ((found,),) = generator.batch([[5, 6]], greedy)
    with torch.no_grad():
        logs = torch.log_softmax(generator.model(torch.tensor([[0, 5, 6, *found.ids]])), -1)[0]
    total = sum(float(logs[2 + place, token]) for place, token in enumerate(found.ids))
    assert not found.finished
    assert found.score == pytest.approx(total / 36, rel=1e-4)


@pytest.mark.parametrize("beams", [1, 3])
def test_weights_that_are_no_numbers_are_named(beams: int) -> None:
    tokenizer = tiny_tokenizer()
    model = tiny_model(tokenizer.get_vocab_size())
    with torch.no_grad():
        model.blocks[1].mlp.output.weight[3, 3] = float("nan")
    damaged = Generator(model, tokenizer, 0)
    for settings in (GenerationConfig(beams=beams), GenerationConfig(temperature=0, beams=beams)):
        with pytest.raises(ValueError, match="weights hold NaN"):
            damaged.batch([[1, 2]], settings)
        with pytest.raises(ValueError, match="weights hold NaN"):
            damaged.generate("The", settings)
    with pytest.raises(ValueError, match="weights hold NaN"):
        next(Generator(model, tokenizer, 0, draft=Generator(tiny_model(400), tokenizer, 0)).token_ids([1]))


def test_products_of_another_layout_are_the_same(tmp_path: Path) -> None:
    folder = tiny_checkpoint(tmp_path)
    laid_out, plain = Generator.load(folder), load_model(folder)[0]
    assert any(isinstance(module, ReadingLinear) for module in laid_out.model.modules())
    assert {name for name, _ in laid_out.model.named_parameters()} == {name for name, _ in plain.named_parameters()}
    for shape in ((1, 1), (1, 9), (3, 1), (5, 16)):
        ids = torch.randint(400, shape, generator=torch.Generator().manual_seed(1))
        with torch.inference_mode():
            torch.testing.assert_close(laid_out.model(ids), plain(ids), rtol=1e-4, atol=1e-4)
    half = Generator.load(folder, dtype=torch.bfloat16)
    with torch.inference_mode():
        torch.testing.assert_close(half.model(ids).float(), plain(ids), rtol=0.1, atol=1.5)


def test_a_constraint_goes_with_one_stream(generator: Generator) -> None:
    class Only:
        """Tokens 7 and 8 in turn, four of them."""

        def __init__(self) -> None:
            self.seen: list[int] = []

        finished = property(lambda self: len(self.seen) == 4)

        def allowed(self) -> np.ndarray:
            return np.arange(100) == 7 + len(self.seen) % 2

        def advance(self, token: int) -> None:
            self.seen.append(token)

    drawn = GenerationConfig(max_new_tokens=9, temperature=1.0)
    assert list(generator.token_ids([5], drawn, Only())) == [7, 8, 7, 8]  # type: ignore[arg-type]
    with pytest.raises(ValueError, match="set beams to 1"):
        next(generator.token_ids([5], GenerationConfig(beams=2), Only()))  # type: ignore[arg-type]
