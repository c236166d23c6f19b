"""ELECTRA against transformers' two models, its labels and gradients by hand, its samples against the softmax."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from torch import Tensor
from transformers import ElectraConfig, ElectraForMaskedLM, ElectraForPreTraining

from training.config import (
    MaskingConfig,
    ModelConfig,
    ObjectiveConfig,
    ReplacedTokenConfig,
    SpecialTokens,
    expand_preset,
)
from training.models import build
from training.models.replaced_token import ReplacedTokenModel, generator_config
from training.models.sharing import shared_names
from training.objectives.cross_entropy import IGNORED
from training.objectives.noise import uniform
from training.objectives.objective import Batch, Setting
from training.objectives.replaced_token import ReplacedTokenObjective, sample
from training.rows import Stretch

VOCABULARY, LENGTH = 60, 32
SPECIAL = SpecialTokens(padding=0, mask=4, first=2, separator=3)
SETTING = Setting(VOCABULARY, end_of_text=1, special_tokens=SPECIAL, seed=7)
MASKING = MaskingConfig(rate=0.3, mask_share=1.0, random_share=0.0)


@pytest.fixture(autouse=True)
def one_thread() -> Iterator[None]:
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)


def small_config(**fields: Any) -> ModelConfig:
    preset = {"preset": "electra-tiny", "width": 32, "heads": 2, "layers": 2, "context_length": LENGTH, "dropout": 0.0}
    preset |= {"attention_dropout": 0.0, "embedding_width": 24}
    return ModelConfig(**expand_preset(preset | fields))


def small_model(seed: int = 0, **fields: Any) -> ReplacedTokenModel:
    """Weights far from their initialisation, so that predictions are far from even."""
    torch.manual_seed(seed)
    model = ReplacedTokenModel(small_config(**fields), VOCABULARY)
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            if parameter.ndim == 2:
                parameter.normal_(std=1.2 * parameter.shape[1] ** -0.5)
            else:
                parameter.copy_((0.0 if name.endswith("bias") else 1.0) + 0.2 * torch.randn_like(parameter))
    return model.eval()


def objective(**fields: Any) -> ReplacedTokenObjective:
    return ReplacedTokenObjective(ObjectiveConfig(name="replaced_token", masking=MASKING, **fields), SETTING)


def rows_of(texts: list[list[int]], task: ReplacedTokenObjective, visit: int = 0) -> Batch:
    """Rows of texts with an end-of-text id behind each, as the loader makes them."""
    stretches = []
    for number, text in enumerate(texts):
        tokens = np.full(LENGTH, -1, dtype=np.int64)
        tokens[: len(text) + 1] = [*text, SETTING.end_of_text][:LENGTH]
        stretches.append(Stretch(tokens, None, 1000 * number, visit))
    return {name: torch.from_numpy(array) for name, array in task.form(LENGTH).rows(stretches, []).items()}


def random_texts(count: int, seed: int = 0) -> list[list[int]]:
    generator = np.random.default_rng(seed)
    return [generator.integers(5, VOCABULARY, int(generator.integers(12, 29))).tolist() for _ in range(count)]


def replaced(task: ReplacedTokenObjective, model: Any, batch: Batch) -> Tensor:
    """What the discriminator reads."""
    with torch.no_grad():
        return task._corrupted(model.generator, task._read(model.generator, batch), batch)


@pytest.mark.parametrize(
    ("preset", "width", "heads", "feed_forward"),
    [("electra-small", 64, 1, 256), ("electra-base", 256, 4, 1024), ("electra-large", 256, 4, 1024)],
)
def test_generator_has_the_published_shape(preset: str, width: int, heads: int, feed_forward: int) -> None:
    config = ModelConfig(**expand_preset(preset))
    found = generator_config(config)
    assert (found.width, found.heads, found.hidden_width, found.layers) == (width, heads, feed_forward, config.layers)
    assert found.width_of_embedding == config.width_of_embedding


@pytest.mark.parametrize("preset", ["electra-small", "electra-base"])
def test_parameters_as_in_transformers(preset: str) -> None:
    config = ModelConfig(**expand_preset(preset))
    with torch.device("meta"):
        model = build(config, 30_522)
        shape = {"hidden_size": config.width, "num_attention_heads": config.heads}
        shape |= {"intermediate_size": config.hidden_width, "embedding_size": config.width_of_embedding}
        theirs = ElectraForPreTraining(ElectraConfig(**shape))
        narrow = generator_config(config)
        shape |= {"hidden_size": narrow.width, "num_attention_heads": narrow.heads}
        generator = ElectraForMaskedLM(ElectraConfig(**shape | {"intermediate_size": narrow.hidden_width}))
    assert sum(p.numel() for p in model.discriminator.parameters()) == theirs.num_parameters()
    embeddings = sum(p.numel() for p in theirs.electra.embeddings.parameters())
    assert model.parameters_count() == theirs.num_parameters() + generator.num_parameters() - embeddings


def test_a_share_that_makes_no_model_is_refused() -> None:
    with pytest.raises(ValueError, match=r"generator_share 0.3 of width 768 makes no generator"):
        generator_config(ModelConfig(**expand_preset({"preset": "electra-base", "generator_share": 0.3})))
    with pytest.raises(ValueError, match="bigram_buckets"):
        ReplacedTokenModel(small_config(embedding_width=None, bigram_buckets=8), VOCABULARY)


def test_embeddings_are_shared_and_drawn_anew() -> None:
    model = ReplacedTokenModel(small_config(), VOCABULARY)
    for name in ("embedding", "position_embedding", "type_embedding", "embedding_norm"):
        assert getattr(model.generator, name) is getattr(model.discriminator, name)
    assert model.generator.head.weight is model.generator.embedding.weight  # type: ignore[union-attr]
    assert model.generator.embedding_projection is not model.discriminator.embedding_projection
    names = [name for name, _ in model.named_parameters()]
    assert "discriminator.embedding.weight" in names
    assert set(shared_names(model)) == {
        "generator.embedding.weight",
        "generator.position_embedding.weight",
        "generator.type_embedding.weight",
        "generator.embedding_norm.weight",
        "generator.embedding_norm.bias",
        "generator.head.weight",
    }
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.fill_(9.0)
    model.reset_parameters()
    assert all(0 < parameter.std() < 0.03 for parameter in model.parameters() if parameter.ndim == 2)
    assert all(parameter.abs().max() <= 1 for parameter in model.parameters())


@pytest.mark.parametrize("temperature", [1.0, 2.0])
def test_samples_follow_the_softmax(temperature: float) -> None:
    model, draws = small_model(), 200_000
    read = torch.randn(24, generator=torch.Generator().manual_seed(1))
    with torch.no_grad():
        logits = F.linear(read, model.generator.head.weight, model.generator.head.bias)  # type: ignore[union-attr]
        model.generator.head.bias[5] = -torch.inf  # type: ignore[union-attr]
    logits[5] = -torch.inf
    noise = uniform(torch.arange(draws), torch.zeros(1, dtype=torch.int64), 1, 2)
    found = sample(model.generator, read.expand(draws, -1), noise, temperature).bincount(minlength=VOCABULARY)
    expected = draws * torch.softmax(logits.double() / temperature, 0)
    assert found[5] == 0
    seen = expected >= 5  # the condition of the chi-square test
    statistic = float(((found - expected)[seen].square() / expected[seen]).sum())
    freedom = int(seen.sum()) - 1
    # Wilson & Hilferty 1931: the cube root is normal; three sigma.
    deviation = (2 / (9 * freedom)) ** 0.5
    assert abs((statistic / freedom) ** (1 / 3) - (1 - deviation**2)) < 3 * deviation, (statistic, freedom)
    ends = torch.tensor([0.0, 1 - 2**-24])
    assert 5 not in sample(model.generator, read.expand(2, -1), ends)


def test_restored_tokens_are_labelled_original() -> None:
    model, task = small_model(), objective()
    with torch.no_grad():
        model.generator.head.bias[9] += 1000  # type: ignore[union-attr]
    # A generator that says nothing but 9 restores all of the first text, half of the second, nothing of the third.
    texts = [[9] * 24, [9, 8] * 12, [8] * 24]
    batch = task.prepare(rows_of(texts, task))
    chosen = torch.zeros_like(batch["tokens"], dtype=torch.bool)
    for row, (places, targets) in enumerate(zip(batch["positions"], batch["targets"], strict=True)):
        chosen[row, places[targets != IGNORED]] = True
    labels = chosen & (batch["tokens"] != 9)
    assert chosen[0].any()
    assert not labels[0].any()
    assert 0 < int(labels[1].sum()) < int(chosen[1].sum())
    ids = replaced(task, model, batch)
    assert ids.equal(batch["tokens"].masked_fill(chosen, 9))
    with torch.no_grad():
        logits = model(ids, batch["documents"])
    wanted = F.binary_cross_entropy_with_logits(logits, labels.float(), reduction="none") * (batch["documents"] > 0)
    measures = task.evaluate(model, batch)
    torch.testing.assert_close(measures["replaced_loss"][0].float(), wanted.sum(1))
    assert measures["replaced_recall"][1].equal(labels.sum(1))
    assert measures["generator_accuracy"][0].tolist() == (chosen & (batch["tokens"] == 9)).sum(1).tolist()


def test_only_masked_tokens_are_replaced() -> None:
    model, task = small_model(), objective(replaced_token=ReplacedTokenConfig(temperature=4.0))
    batch = task.prepare(rows_of(random_texts(6), task))
    ids, masked = replaced(task, model, batch), batch["inputs"] == SPECIAL.mask
    assert (ids != batch["tokens"]).any()
    assert ids[~masked].equal(batch["tokens"][~masked])
    again = task.prepare(rows_of(random_texts(6), task))
    assert replaced(task, model, again).equal(ids)
    other = task.prepare(rows_of(random_texts(6), task, visit=1))
    assert not replaced(task, model, other).equal(ids)


def test_the_discriminator_teaches_the_generator_nothing_but_the_embeddings() -> None:
    model = small_model()
    gradients = []
    for weight in (1.0, 50.0):
        task = objective(replaced_token=ReplacedTokenConfig(weight=weight))
        model.zero_grad()
        task.loss(model, task.prepare(rows_of(random_texts(4), task))).backward()
        gradients.append({name: parameter.grad.clone() for name, parameter in model.named_parameters()})  # type: ignore[union-attr]
    light, heavy = gradients
    for name, gradient in light.items():
        if name.startswith("generator."):
            assert gradient.any(), name
            torch.testing.assert_close(heavy[name], gradient, rtol=0, atol=0)
        elif "embedding" in name and "projection" not in name:
            # Both: g + w d.
            assert not torch.allclose(heavy[name], gradient), name
            assert not torch.allclose(heavy[name], 50 * gradient), name
        else:
            torch.testing.assert_close(heavy[name], 50 * gradient, rtol=1e-3, atol=1e-5)


def test_micro_batches_have_the_mean_of_the_batch() -> None:
    model, task = small_model(), objective()
    batch = task.prepare(rows_of(random_texts(6), task))
    whole = task.loss(model, batch)
    parts = [task.loss(model, {name: x[i : i + 2] for name, x in batch.items()}) for i in (0, 2, 4)]
    torch.testing.assert_close(torch.stack(parts).mean(), whole)
    assert not torch.isclose(parts[0], whole)


def test_measures_against_counts() -> None:
    model, task = small_model(), objective()
    batch = task.prepare(rows_of([*random_texts(5), []], task), training=False)
    ids = replaced(task, model, batch)
    with torch.no_grad():
        # So that it takes half of the tokens for replaced ones.
        model.discriminator.replaced_head.output.bias -= model(ids, batch["documents"]).median()
        said = (model(ids, batch["documents"]) > 0).tolist()
    measures = task.evaluate(model, batch)
    sums = {name: (float(total.sum()), int(count.sum())) for name, (total, count) in measures.items()}
    right = true = found = actual = tokens = 0
    for row, column in np.argwhere(batch["documents"].numpy() > 0):
        label, answer = bool(ids[row, column] != batch["tokens"][row, column]), said[row][column]
        tokens += 1
        right += label == answer
        true += label and answer
        found += answer
        actual += label
    assert sums["replaced_accuracy"] == (right, tokens)
    assert sums["replaced_precision"] == (true, found)
    assert sums["replaced_recall"] == (true, actual)
    assert min(true, found - true, actual - true) > 0, "the case is too easy"
    one = {name: x[:1] for name, x in batch.items()}
    of_row = task.evaluate(model, one)
    ratio = {name: float(of_row[name][0] / of_row[name][1]) for name in ("loss", "generator_loss", "replaced_loss")}
    assert ratio["loss"] == pytest.approx(ratio["generator_loss"] + 50 * ratio["replaced_loss"])
    share = {
        "share": (one["targets"] != IGNORED).sum(1).float(),
        "replaced_share": (one["documents"] > 0).sum(1).float(),
    }
    assert ratio["loss"] == pytest.approx(float(task.loss(model, one | share).detach()), rel=1e-5)
    assert measures["loss"][1][5] == 0


def copied(ours: Any, theirs: Any, prefix: str) -> None:
    """Put a trunk's weights into the encoder of a transformers model."""
    state = {
        "embeddings.word_embeddings.weight": ours.embedding.weight,
        "embeddings.position_embeddings.weight": ours.position_embedding.weight,
        "embeddings.token_type_embeddings.weight": ours.type_embedding.weight,
        "embeddings.LayerNorm": ours.embedding_norm,
        "embeddings_project": ours.embedding_projection,
    }
    for index, block in enumerate(ours.blocks):
        layer = f"encoder.layer.{index}"
        for name, weight, bias in zip(
            ("query", "key", "value"),
            block.attention.qkv.weight.chunk(3),
            block.attention.qkv.bias.chunk(3),
            strict=True,
        ):
            state[f"{layer}.attention.self.{name}.weight"] = weight
            state[f"{layer}.attention.self.{name}.bias"] = bias
        state[f"{layer}.attention.output.dense"] = block.attention.output
        state[f"{layer}.attention.output.LayerNorm"] = block.attention_norm
        state[f"{layer}.intermediate.dense"] = block.mlp.input
        state[f"{layer}.output.dense"] = block.mlp.output
        state[f"{layer}.output.LayerNorm"] = block.mlp_norm
    if ours.replaced_head is not None:
        state |= {f"{prefix}discriminator_predictions.dense": ours.replaced_head.dense}
        state |= {f"{prefix}discriminator_predictions.dense_prediction": ours.replaced_head.output}
    else:
        state |= {f"{prefix}generator_predictions.dense": ours.transform.dense}
        state |= {f"{prefix}generator_predictions.LayerNorm": ours.transform.norm}
        state |= {f"{prefix}generator_lm_head": ours.head}
    tensors = {}
    for name, value in state.items():
        full = name.removeprefix(prefix) if name.startswith(prefix) else f"electra.{name}"
        if isinstance(value, Tensor):
            tensors[full] = value.detach().clone()
        else:
            tensors |= {f"{full}.weight": value.weight.detach().clone(), f"{full}.bias": value.bias.detach().clone()}
    missing, unexpected = theirs.load_state_dict(tensors, strict=False)
    assert not unexpected
    assert all("position_ids" in name or "token_type_ids" in name for name in missing), missing


def test_losses_and_gradients_as_in_transformers() -> None:
    model, task = small_model(embedding_width=24), objective()
    shape = {"vocab_size": VOCABULARY, "embedding_size": 24, "max_position_embeddings": LENGTH, "num_hidden_layers": 2}
    shape |= {"hidden_dropout_prob": 0.0, "attention_probs_dropout_prob": 0.0, "pad_token_id": None}
    narrow = model.generator.config
    generator = ElectraForMaskedLM(
        ElectraConfig(
            **shape, hidden_size=narrow.width, num_attention_heads=narrow.heads, intermediate_size=narrow.hidden_width
        )
    ).eval()
    discriminator = ElectraForPreTraining(
        ElectraConfig(**shape, hidden_size=32, num_attention_heads=2, intermediate_size=128)
    ).eval()
    copied(model.generator, generator, "own:")
    copied(model.discriminator, discriminator, "own:")

    batch = task.prepare(rows_of(random_texts(4), task))
    attention = (batch["documents"] > 0).long()
    assert not attention.all(), "no padding"
    labels = torch.full_like(batch["tokens"], IGNORED)
    for row, (places, targets) in enumerate(zip(batch["positions"], batch["targets"], strict=True)):
        used = targets != IGNORED
        labels[row, places[used]] = targets[used]
    ids = replaced(task, model, batch)
    theirs = generator(input_ids=batch["inputs"], attention_mask=attention, labels=labels)
    found = discriminator(input_ids=ids, attention_mask=attention, labels=(ids != batch["tokens"]).long())
    loss = task.loss(model, batch)
    torch.testing.assert_close(loss, theirs.loss + 50 * found.loss, rtol=1e-5, atol=0)

    loss.backward()
    (theirs.loss + 50 * found.loss).backward()
    ours = model.discriminator.embedding.weight.grad
    both = [side.electra.embeddings.word_embeddings.weight.grad for side in (generator, discriminator)]
    assert ours is not None
    for wanted in both:
        assert not torch.allclose(ours, wanted)
    torch.testing.assert_close(ours, both[0] + both[1], rtol=1e-4, atol=1e-4)
    for mine, side in ((model.generator, generator), (model.discriminator, discriminator)):
        wanted = side.electra.encoder.layer[0].intermediate.dense.weight.grad
        assert isinstance(mine.embedding_projection, torch.nn.Linear)
        torch.testing.assert_close(mine.blocks[0].mlp.input.weight.grad, wanted, rtol=1e-4, atol=1e-4)  # type: ignore[union-attr, arg-type]
