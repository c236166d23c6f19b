"""With a draft the text is the model's own: its very tokens, or drawn with its probabilities."""

from __future__ import annotations

import itertools
from typing import Any

import pytest
import scipy.stats
import torch

from tests.training.generation.peers import settings
from tests.training.huggingface.parity import randomize
from tests.training.small_models import one_thread, tiny_model, tiny_tokenizer
from training.config import ModelConfig, expand_preset, from_dict
from training.config.generation import GenerationConfig
from training.generation import Generator
from training.generation.drawing import adjusted, dense
from training.generation.sequences import Sequences, Trunk
from training.generation.speculation import speculate
from training.models import Model, build

__all__ = ["one_thread"]

TOKENIZER = tiny_tokenizer()
SIZE = TOKENIZER.get_vocab_size()


def generator(seed: int, context_length: int = 40, draft: Generator | None = None) -> Generator:
    return Generator(tiny_model(SIZE, context_length, seed), TOKENIZER, 0, draft=draft)


@pytest.mark.parametrize("draft_tokens", [1, 5])
@pytest.mark.parametrize("context_lengths", [(40, 40), (40, 20), (16, 40)])
def test_greedy_tokens_are_the_models_own(draft_tokens: int, context_lengths: tuple[int, int]) -> None:
    alone = generator(0, context_lengths[0])
    greedy = settings(draft_tokens=draft_tokens, max_new_tokens=32, repetition_penalty=1.2)
    same, other = (generator(0, context_lengths[0], generator(seed, context_lengths[1])) for seed in (0, 1))
    # Half of this draft's tokens are those of the model, half are not.
    near = tiny_model(SIZE, context_lengths[1])
    with torch.no_grad():
        near.head.weight.add_(0.4 * torch.randn(near.head.weight.shape, generator=torch.Generator().manual_seed(1)))
    between = generator(0, context_lengths[0], Generator(near, TOKENIZER, 0))
    for prompt in ([], list(range(30, 48))):
        expected = list(alone.token_ids(prompt, greedy))
        for one in (same, other, between):
            assert list(one.token_ids(prompt, greedy)) == expected


def small(seed: int, tied: float) -> Model:
    model = build(ModelConfig(layers=1, heads=2, width=16, context_length=8), 4)
    randomize(model, seed)
    with torch.no_grad():
        model.head.weight.mul_(tied)
    return model.eval()


@pytest.mark.parametrize("fields", [{"temperature": 1.0, "top_k": 0}, {"temperature": 1.4, "top_k": 3}])
def test_drawn_tokens_have_the_models_distribution(fields: dict[str, Any]) -> None:
    target, draft = small(0, 1.0), small(3, 1.5)
    wanted = GenerationConfig(**fields, max_new_tokens=3, draft_tokens=2, repetition_penalty=1.3)
    expected = {}
    with torch.inference_mode():
        for text in itertools.product(range(4), repeat=3):
            chance = 1.0
            for place, token in enumerate(text):
                ids = [1, *text[:place]]
                logits = target(torch.tensor([ids]))[:, -1]
                chance *= float(dense(adjusted(logits, [ids], wanted)[0], wanted)[token])
            expected[text] = chance
        runs, counts = 400, dict.fromkeys(expected, 0)
        random = torch.Generator().manual_seed(4)
        for _ in range(runs):
            both = [Sequences(Trunk(model, [1], False), [[1]], 3) for model in (target, draft)]
            counts[tuple(speculate(both[0], both[1], wanted, random, 8))] += 1
    assert sum(expected.values()) == pytest.approx(1)
    assert not any(counts[text] for text, chance in expected.items() if chance == 0)
    likely = [text for text, chance in expected.items() if chance * runs >= 5]
    observed = [*(counts[text] for text in likely), runs - sum(counts[text] for text in likely)]
    chances = [*(expected[text] for text in likely), 1 - sum(expected[text] for text in likely)]
    if chances[-1] * runs < 1:
        observed, chances = observed[:-1], [chance / sum(chances[:-1]) for chance in chances[:-1]]
    assert scipy.stats.chisquare(observed, [chance * sum(observed) for chance in chances]).pvalue > 1e-3


def test_a_seed_gives_the_same_text_with_a_draft_too() -> None:
    one = generator(0, draft=generator(1))
    drawn = GenerationConfig(max_new_tokens=20, temperature=1.0, top_k=0, seed=5)
    assert one.generate("The", drawn) == one.generate("The", drawn)


def test_a_draft_of_another_vocabulary_is_refused() -> None:
    with pytest.raises(
        ValueError, match=f"the draft model has a vocabulary of {SIZE + 9} ids, the model one of {SIZE}"
    ):
        Generator(tiny_model(SIZE), TOKENIZER, 0, draft=Generator(tiny_model(SIZE + 9), TOKENIZER, 0))
    other = tiny_tokenizer(300)
    other.add_tokens([f"<{number}>" for number in range(SIZE - other.get_vocab_size())])
    assert other.get_vocab_size() == SIZE
    with pytest.raises(ValueError, match="trained with the same tokenizer"):
        Generator(tiny_model(SIZE), TOKENIZER, 0, draft=Generator(tiny_model(SIZE), other, 0))
    shape = from_dict(ModelConfig, {**expand_preset({"preset": "t5-tiny"}), "context_length": 40})
    with_encoder = Generator(build(shape, SIZE), TOKENIZER, 0)
    for target, draft in ((generator(0), with_encoder), (with_encoder, generator(0))):
        with pytest.raises(ValueError, match="must have an encoder where the model has one"):
            Generator(target.model, TOKENIZER, 0, draft=draft)
