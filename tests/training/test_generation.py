from __future__ import annotations

import logging
from collections import Counter
from pathlib import Path

import numpy as np
import pytest
import torch

from tests.training.small_models import TEXT, one_thread, tiny_checkpoint, tiny_model, tiny_tokenizer
from training.generation import DEFAULT_PROMPTS, Generator, SamplingConfig, choose, end_of_text_id, load_tokenizer

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
    assert list(generator.token_ids(prompt, SamplingConfig(30, temperature=0))) == ids[1 + len(prompt) :]
    assert len(ids) > len(prompt) + 5


def test_a_seed_gives_the_same_text_and_another_one_another(generator: Generator) -> None:
    texts = [generator.generate("The", SamplingConfig(40, temperature=1.0, top_k=0, seed=seed)) for seed in (1, 1, 2)]
    assert texts[0] == texts[1] != texts[2]


def test_the_stream_is_the_whole_text_in_pieces_of_whole_characters(generator: Generator) -> None:
    for seed in range(12):
        settings = SamplingConfig(50, temperature=2.0, top_k=0, seed=seed)
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
    greedy = SamplingConfig(50, temperature=0)
    first = next(Generator(model, tokenizer, 0).token_ids([5], greedy))
    generator = Generator(model, tokenizer, first)
    assert list(generator.token_ids([5], greedy)) != []  # it begins with the other end-of-text id now
    ends = Generator(model, tokenizer, next(generator.token_ids([5], greedy)))
    ids = list(ends.token_ids([5], SamplingConfig(200, temperature=1.0)))
    assert ends.end_of_text not in ids
    (sample,) = generator.sample(["The"], SamplingConfig(3, temperature=0))
    assert sample.tokens == 3
    assert not sample.finished


def test_a_model_that_always_ends_gives_an_empty_finished_sample() -> None:
    tokenizer = tiny_tokenizer()
    model = tiny_model(tokenizer.get_vocab_size())
    with torch.no_grad():
        model.head.weight.zero_()  # all logits tie: greedy takes the lowest id, the end of the text
    (sample,) = Generator(model, tokenizer, 0).sample(["The"], SamplingConfig(9, temperature=0))
    assert (sample.continuation, sample.tokens, sample.finished) == ("", 0, True)


def test_a_prompt_longer_than_the_context_loses_its_beginning_with_a_warning(
    generator: Generator, caplog: pytest.LogCaptureFixture
) -> None:
    prompt = generator.encode("The women see these books every day. " * 3)
    assert len(prompt) > 16
    greedy = SamplingConfig(5, temperature=0)
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
        settings = SamplingConfig(temperature=1.0, **{"top_k": 0, **limits})  # type: ignore[arg-type]
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
    settings = SamplingConfig(temperature=2.0, top_k=0)
    counts = Counter(choose(logits, settings, random) for _ in range(20_000))
    expected = probabilities**0.5 / (probabilities**0.5).sum()
    np.testing.assert_allclose([counts[token] / 20_000 for token in range(4)], expected, atol=0.012)


@pytest.mark.parametrize(
    "wrong",
    [{"max_new_tokens": -1}, {"temperature": -0.1}, {"temperature": float("nan")}, {"top_k": -1}, {"top_p": 1.5}],
)
def test_wrong_settings_are_refused(wrong: dict[str, float]) -> None:
    with pytest.raises(ValueError, match=next(iter(wrong))):
        SamplingConfig(**wrong)  # type: ignore[arg-type]


def test_an_unknown_id_is_refused(generator: Generator) -> None:
    with pytest.raises(ValueError, match="token id 999999 lies outside"):
        next(generator.token_ids([1, 999999]))


def test_a_checkpoint_folder_generates(tmp_path: Path) -> None:
    folder = tiny_checkpoint(tmp_path)
    generator = Generator.load(folder)
    samples = generator.sample(DEFAULT_PROMPTS, SamplingConfig(4))
    assert [sample.prompt for sample in samples] == list(DEFAULT_PROMPTS)
    assert samples[0].continuation == generator.generate("The", SamplingConfig(4))
    assert end_of_text_id(folder) == 0
    assert generator.generate("", SamplingConfig(4)) is not None


def test_a_checkpoint_without_a_tokenizer_says_so(tmp_path: Path) -> None:
    folder = tiny_checkpoint(tmp_path)
    (folder / "tokenizer.json").write_text("{")
    with pytest.raises(ValueError, match="damaged"):
        load_tokenizer(folder)
    (folder / "tokenizer.json").unlink()
    with pytest.raises(ValueError, match="cannot read text"):
        Generator.load(folder)
