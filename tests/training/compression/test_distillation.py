"""What a student is told, beside torch's own losses; and that it learns it."""

from __future__ import annotations

import dataclasses
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import nn

from tests.training.small_models import one_thread  # noqa: F401
from tests.training.tiny_run import VOCABULARY, token_stream
from training.compression.config import DistillationConfig, StudentConfig
from training.compression.distillation import Teaching, check_student, make_student
from training.compression.distillation_losses import attention_scores, cosine_loss, soft_loss, state_loss
from training.compression.pruning_importance import measure_importance
from training.config import (
    ModelConfig,
    ObjectiveConfig,
    OptimizerConfig,
    SpecialTokens,
    TrainingConfig,
    expand_preset,
    from_dict,
)
from training.devices import resolve
from training.distributed import World
from training.loader import as_tensors
from training.models import build
from training.models.transformer import Transformer
from training.objectives import Batch, Objective, Setting
from training.objectives import build as build_objective
from training.objectives.cross_entropy import CHUNK_POSITIONS
from training.optimizers import build as build_optimizer
from training.rows import IGNORED, Stretch


@pytest.mark.parametrize(("t", "biases"), [(1.0, False), (2.5, True)])
def test_soft_loss_is_that_of_torch(monkeypatch: pytest.MonkeyPatch, t: float, biases: bool) -> None:
    monkeypatch.setitem(CHUNK_POSITIONS, "cpu", 3)
    torch.manual_seed(0)
    student, teacher = (nn.Linear(width, 11, bias=biases, dtype=torch.float64) for width in (5, 7))
    read, given = torch.randn(8, 5, dtype=torch.float64, requires_grad=True), torch.randn(8, 7, dtype=torch.float64)
    counted = torch.tensor([True, False, True, True, True, False, True, True])
    wanted = [read, *student.parameters()]
    ours = soft_loss(read, student, given, teacher, counted, t)
    gradients = torch.autograd.grad(3.0 * ours, wanted)
    log_q = F.log_softmax(student(read) / t, dim=1)[counted]
    log_p = F.log_softmax(teacher(given) / t, dim=1)[counted]
    theirs = F.kl_div(log_q, log_p, reduction="batchmean", log_target=True) * t * t
    torch.testing.assert_close(ours, theirs)
    for mine, other in zip(gradients, torch.autograd.grad(3.0 * theirs, wanted), strict=True):
        torch.testing.assert_close(mine, other)


def test_hidden_losses_are_those_of_torch() -> None:
    torch.manual_seed(0)
    ours, theirs = torch.randn(2, 3, 5), torch.randn(2, 3, 5)
    counted = torch.tensor([[True, True, False], [True, False, False]])
    wanted = nn.CosineEmbeddingLoss()(ours[counted], theirs[counted], torch.ones(3))
    torch.testing.assert_close(cosine_loss(ours, theirs, counted), wanted)
    torch.testing.assert_close(state_loss(ours, theirs, counted), F.mse_loss(ours[counted], theirs[counted]))


def objective_of(name: str) -> tuple[Objective, Batch]:
    special = {"padding": 45, "mask": 46, "first": 47, "separator": 48}
    objective = build_objective(ObjectiveConfig(name=name), Setting(VOCABULARY, 0, SpecialTokens(**special)))  # type: ignore[arg-type]
    return objective, batch_of(objective, 0)


def batch_of(objective: Objective, seed: int, sequences: int = 4) -> Batch:
    form = objective.form(16)
    stretches = [
        Stretch(token_stream(form.reads, 100 * seed + row), None, 1000 * seed + 50 * row, 0, row)
        for row in range(sequences)
    ]
    return objective.prepare(as_tensors(form.rows(stretches, stretches if form.draws_others else [])))


def model_of(name: str, seed: int = 0, **shape: Any) -> Any:
    base: dict[str, Any] = {"layers": 4, "heads": 2, "width": 32, "context_length": 16, **shape}
    if name == "masked":
        base = {
            **expand_preset({"preset": "bert-tiny", "sentence_classes": 0, "pooler": False}),
            **base,
            "dropout": 0.0,
        }
    if name == "permutation":
        base = {**expand_preset({"preset": "xlnet-tiny"}), **base, "dropout": 0.0}
    if name == "span_corruption":
        base = {**expand_preset({"preset": "t5-tiny"}), **base, "head_width": 16, "dropout": 0.0}
    torch.manual_seed(seed)
    model = build(from_dict(ModelConfig, base), VOCABULARY + 100)
    with torch.no_grad():
        for parameter in model.parameters():
            if parameter.ndim == 2:
                parameter.add_(torch.randn_like(parameter) * 0.2)
    return model.eval()


@pytest.mark.parametrize("name", ["causal", "masked", "permutation", "span_corruption"])
def test_each_objective_compares_the_logits_of_its_targets(name: str) -> None:
    """The soft loss is that of the logits which the objective's own loss looks at."""
    objective, batch = objective_of(name)
    student, teacher = model_of(name), model_of(name, seed=1)
    config = DistillationConfig(temperature=2.0, soft_weight=0.7, hard_weight=0.3)
    parts = Teaching(config, student, teacher, objective).loss(batch)
    reads = {}
    for key, model in (("student", student), ("teacher", teacher)):
        taken: list[torch.Tensor] = []
        real = model.readout
        model.readout = lambda hidden, real=real, taken=taken: taken.append(real(hidden)) or taken[-1]
        hard = objective.loss(model, batch)
        if key == "student":
            torch.testing.assert_close(parts["hard"], hard.detach())
        reads[key] = model.head(taken[0])[batch["targets"].flatten() != IGNORED]
    logs = [F.log_softmax(reads[key] / 2.0, dim=1) for key in ("student", "teacher")]
    wanted = F.kl_div(logs[0], logs[1], reduction="batchmean", log_target=True) * 4
    torch.testing.assert_close(parts["soft"], wanted.detach(), rtol=1e-4, atol=1e-5)
    torch.testing.assert_close(parts["loss"], 0.7 * parts["soft"] + 0.3 * parts["hard"])


@pytest.mark.parametrize("name", ["causal", "masked"])
@pytest.mark.parametrize("hidden", ["cosine", "mse"])
def test_a_model_has_nothing_to_learn_from_itself(name: str, hidden: str) -> None:
    objective, batch = objective_of(name)
    model = model_of(name)
    config = DistillationConfig(hidden=hidden, attention_weight=1.0, hard_weight=0.0)  # type: ignore[arg-type]
    parts = Teaching(config, model, model_of(name), objective).loss(batch)
    assert parts.keys() == {"loss", "soft", "hidden", "attention"}
    for key, value in parts.items():
        assert value.item() == pytest.approx(0.0, abs=1e-5), key
    other = Teaching(config, model, model_of(name, seed=1), objective).loss(batch)
    assert all(other[key].item() > 0.01 for key in parts)


def test_states_and_scores_are_those_of_the_layers_in_their_order() -> None:
    """TinyBERT's layers by hand: the student's 1 and 2 beside the teacher's 2 and 4, embeddings beside embeddings."""
    objective, batch = objective_of("causal")
    student, teacher = model_of("causal", layers=2), model_of("causal", seed=1)
    config = DistillationConfig(hidden="mse", attention_weight=1.0)
    parts = Teaching(config, student, teacher, objective).loss(batch)

    def inside(model: Transformer) -> tuple[list[torch.Tensor], list[torch.Tensor]]:
        x = model.embedding(batch["inputs"])
        context = model.context(x)
        states, weights = [x], []
        for block in model.blocks:
            assert isinstance(block.attention, nn.Module)
            weights.append(block.attention.probabilities(block.attention_norm(x), context))  # type: ignore[operator]
            x = block(x, context)
            states.append(x)
        return states, weights

    with torch.no_grad():
        ours, theirs = inside(student), inside(teacher)
    pairs = [(0, 0), (1, 2), (2, 4)]
    wanted = sum(F.mse_loss(ours[0][a], theirs[0][b]) for a, b in pairs) / 3
    torch.testing.assert_close(parts["hidden"], wanted)
    seen = torch.ones(16, 16).tril().bool()
    scores: list[list[torch.Tensor]] = []
    for model, (states, weights) in ((student, ours), (teacher, theirs)):
        scores.append([])
        for block, x, weight in zip(model.blocks, states, weights, strict=False):
            q, k, _ = block.attention.projections(block.attention_norm(x), model.context(x))
            scores[-1].append(attention_scores(q, k).detach())
            softmax = scores[-1][-1].masked_fill(~seen, float("-inf")).softmax(-1)
            torch.testing.assert_close(softmax, weight, rtol=1e-4, atol=1e-5)
    differences = [(scores[0][a] - scores[1][b]).square()[..., seen].mean() for a, b in ((0, 1), (1, 3))]
    torch.testing.assert_close(parts["attention"], torch.stack(differences).mean())


def train(student: Any, teaching: Teaching, objective: Objective, steps: int) -> list[float]:
    optimizer = build_optimizer(OptimizerConfig(name="adamw", learning_rate=3e-3), student)
    losses = []
    for step in range(steps):
        loss = teaching.loss(batch_of(objective, step, 8))["loss"]
        loss.backward()  # type: ignore[no-untyped-call]
        optimizer.step(1.0)
        optimizer.zero_grad()
        losses.append(loss.item())
    return losses


def test_a_student_from_the_teacher_s_parts_begins_better_than_a_random_one_and_learns() -> None:
    objective, batch = objective_of("causal")
    teacher = build(ModelConfig(layers=4, heads=2, width=32, context_length=16), VOCABULARY)
    optimizer = build_optimizer(OptimizerConfig(learning_rate=3e-3), teacher)
    for step in range(40):
        objective.loss(teacher, batch_of(objective, step, 8)).backward()  # type: ignore[no-untyped-call]
        optimizer.step(1.0)
        optimizer.zero_grad()
    teacher.eval()
    compute = resolve(TrainingConfig(device="cpu", precision="fp32", threads=1, compile="off"), World())
    importance = measure_importance(teacher, objective, [batch], compute)
    shape = StudentConfig(layers=3, heads=1, mlp_width=96, width=24)
    config = DistillationConfig(student=shape, hidden="mse", hidden_weight=0.1)
    losses = {}
    for initial in ("teacher", "random"):
        student = make_student(teacher, dataclasses.replace(shape, initial=initial), importance, seed=5)  # type: ignore[arg-type]
        assert (student.config.layers, student.config.heads, student.config.width) == (3, 1, 24)
        assert student.config.hidden_width == 96
        teaching = Teaching(config, student, teacher, objective)
        losses[initial] = train(student, teaching, objective, 12)
        assert student.projection.weight.grad is None
        assert student.projection.weight.shape == (32, 24)
        teaching.finish()
        assert not hasattr(student, "projection")
    assert losses["teacher"][0] < losses["random"][0]
    assert losses["teacher"][-1] < losses["random"][-1]
    assert losses["teacher"][-1] < 0.9 * losses["teacher"][0]
    assert all(parameter.grad is None for parameter in teacher.parameters())


@pytest.mark.parametrize(
    ("student", "message"),
    [
        ({"layers": 9}, r"student.layers: 9 is more than the model's 4"),
        ({"width": 64}, r"student.width: 64 is more than"),
        ({"heads": 3}, r"student.heads must be a multiple of 2"),
    ],
)
def test_students_that_cannot_be_made(student: dict[str, int], message: str) -> None:
    config = ModelConfig(layers=4, heads=4, kv_heads=2, width=32)
    with pytest.raises(ValueError, match=message):
        check_student(config, StudentConfig(**student))  # type: ignore[arg-type]


def test_pairs_that_cannot_be_compared() -> None:
    objective, _ = objective_of("causal")
    model = model_of("causal")
    with pytest.raises(ValueError, match=r"attention_weight: the student has 1 heads, the teacher 2"):
        Teaching(DistillationConfig(attention_weight=1.0), model_of("causal", heads=1), model, objective)
    with pytest.raises(ValueError, match=r"teacher: 2 layers are fewer"):
        Teaching(DistillationConfig(hidden="mse"), model, model_of("causal", layers=2), objective)
    with pytest.raises(ValueError, match=r"vocabulary has 60 ids, the student's 150"):
        Teaching(DistillationConfig(), model, build(model.config, 60), objective)
    with pytest.raises(ValueError, match=r"hidden and distil.attention_weight need"):
        Teaching(DistillationConfig(hidden="mse"), *[model_of("permutation")] * 2, objective_of("permutation")[0])
    unlike = build_objective(ObjectiveConfig(also=(ObjectiveConfig(name="prefix"),)), Setting(VOCABULARY, 0))
    with pytest.raises(ValueError, match=r"trained on causal, prefix"):
        Teaching(DistillationConfig(), model, model, unlike)
