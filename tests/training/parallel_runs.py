"""Steps of small models in one process or several, for tests; torchrun starts it with a folder as its argument."""

from __future__ import annotations

import json
import sys
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import torch
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

from training import checkpoints, optimizers
from training.checkpoints import CheckpointWriter, TrainerState
from training.config import ModelConfig, ObjectiveConfig, OptimizerConfig, TrainingConfig
from training.distributed import World
from training.models.transformer import Transformer
from training.objectives import Setting, build
from training.optimizers.shards import local
from training.parallel import gradients_summed, parallelise, whole

VOCABULARY, BATCH, TOKENS, MICRO = 23, 8, 8, 2
SMALL = {"layers": 2, "heads": 2, "width": 16, "context_length": TOKENS}
MODELS = {
    # 23 rows do not divide by 2, and bigrams are a second embedding.
    "untied": ModelConfig(**SMALL, bigram_buckets=9),
    "tied": ModelConfig(**SMALL, tied_embeddings=True, positions="learned", norm="layernorm", bias="all"),
    "shared": ModelConfig(**{**SMALL, "layers": 4}, layer_groups=2, tied_embeddings=True),
}
OPTIMIZERS = {"untied": "muon", "tied": "adamw", "shared": "adamw"}
CPU = SimpleNamespace(device=torch.device("cpu"), dtype=torch.float32)


class Loss(nn.Module):
    """As the trainer's: the head's matrix is read outside of any forward pass but this one."""

    def __init__(self, model: Transformer) -> None:
        super().__init__()
        self.model = model
        self.objective = build(ObjectiveConfig(), Setting(VOCABULARY, 0))

    def forward(self, batch: dict[str, Tensor]) -> Tensor:
        return self.objective.loss(self.model, batch)


class Run:
    """A model, its optimiser and the step that it is at."""

    def __init__(self, name: str, world: World, parallel: Any = "ddp", recompute: bool = False) -> None:
        torch.manual_seed(1)
        self.world = world
        self.model = Transformer(MODELS[name], VOCABULARY)
        if recompute:
            self.model.set_recompute("blocks")
        loss = Loss(self.model)
        self.objective = loss.objective
        self.loss = parallelise(loss, self.model, TrainingConfig(parallel=parallel), world, CPU)
        self.optimizer = optimizers.build(OptimizerConfig(OPTIMIZERS[name], learning_rate=0.01), self.model)
        self.step = 0
        self.losses: list[float] = []

    def to(self, step: int) -> Run:
        """Train to a step; gradients are accumulated over micro-batches."""
        share = BATCH // self.world.size
        while self.step < step:
            generator = torch.Generator().manual_seed(self.step)
            windows = torch.randint(0, VOCABULARY, (BATCH, TOKENS + 1), generator=generator)
            windows = windows[self.world.rank * share : (self.world.rank + 1) * share]
            parts = windows.split(MICRO)
            total = torch.zeros(())
            for index, part in enumerate(parts):
                with gradients_summed(self.loss, last=index == len(parts) - 1):
                    loss = self.loss(self.objective.prepare({"tokens": part})) / len(parts)
                    loss.backward()
                total += loss.detach()
            norm = self.optimizer.clip(1.0)
            self.losses += [float(self.world.sum(total) / self.world.size), float(norm)]
            self.optimizer.step(1.0)
            self.optimizer.zero_grad()
            self.step += 1
        return self

    def evaluate(self) -> float:
        """The summed loss of a fixed batch, outside of the loss's forward pass."""
        windows = torch.arange(BATCH * (TOKENS + 1)).view(BATCH, -1) % VOCABULARY
        self.model.eval()
        with whole(self.loss), torch.no_grad():
            batch = self.objective.prepare({"tokens": windows}, training=False)
            losses_B, _ = self.objective.evaluate(self.model, batch)["loss"]
            logits_BTV = self.model(windows[:, :-1])
        self.model.train()
        return float(losses_B.sum()) + float(logits_BTV.sum())

    def state(self) -> TrainerState:
        return TrainerState(self.step, self.optimizer.state_tensors(), {"a": 1}, {"losses": self.losses})

    def write(self, folder: Path, average: bool = False) -> Path | None:
        """A checkpoint through the background writer; training goes on before it is waited for."""
        writer = CheckpointWriter(folder, self.world)
        # An average that cannot be mistaken for the weights.
        halves = {name: parameter.detach() * 0.5 for name, parameter in self.model.named_parameters()}
        writer.start(self.model, self.state(), {"metrics": {}}, None, halves if average else None)
        self.to(self.step + 1)
        path = writer.wait()
        writer.close()
        return path

    def resume(self, folder: Path) -> Run:
        """Take up the newest checkpoint."""
        found = checkpoints.latest_whole(folder, self.model, self.world)
        assert found.path is not None
        assert found.state is not None
        checkpoints.load_weights(self.model, found.path, self.world)
        self.model.load_state_dict(found.state.weights, strict=False)
        self.optimizer.load_state_tensors(found.state.tensors)
        self.step, self.losses = found.state.step, found.state.extra["losses"]
        return self

    def weights(self) -> dict[str, Tensor]:
        """All weights as whole tensors."""
        named = self.model.named_parameters()
        return {name: (p.full_tensor() if hasattr(p, "full_tensor") else p).detach().clone() for name, p in named}


def main(folder: Path) -> None:
    """Every scenario of test_parallel in one pair of processes, since starting them takes the most time."""
    torch.set_num_threads(1)
    world = World.from_environment()
    facts: dict[str, Any] = {}

    def keep(label: str, run: Run) -> None:
        weights = run.weights()
        facts[label] = {"losses": run.losses, "evaluation": run.evaluate()}
        if world.is_main:
            save_file(weights, folder / f"{label}.safetensors")

    with world.joined(torch.device("cpu")):
        for name in MODELS:
            keep(f"{name}-ddp", Run(name, world).to(3))
            run = Run(name, world, "fsdp")
            before = run.evaluate()
            keep(f"{name}-fsdp", run.to(3))
            facts[f"{name}-fsdp"]["before"] = before
            facts[f"{name}-fsdp"]["share"] = sum(local(p).numel() for p in run.model.parameters())
            keep(f"{name}-recompute", Run(name, world, "fsdp", recompute=True).to(3))
            # What one process wrote, taken up by two; and what two write.
            keep(f"{name}-ddp-resumed", Run(name, world).resume(folder / f"{name}-one").to(4))
            keep(f"{name}-fsdp-resumed", Run(name, world, "fsdp").resume(folder / f"{name}-one").to(4))
            Run(name, world).to(2).write(folder / f"{name}-two-ddp")
            Run(name, world, "fsdp").to(2).write(folder / f"{name}-two-fsdp", average=name == "shared")
            keep(f"{name}-again", Run(name, world, "fsdp").resume(folder / f"{name}-two-fsdp").to(4))
        facts["world"] = _questions(world)
        facts["damaged"] = _damaged(world, folder)
        facts["full"] = _full_disk(world, folder)
    if world.is_main:
        (folder / "facts.json").write_text(json.dumps(facts))


def _questions(world: World) -> dict[str, Any]:
    return {
        "agree": [world.agree(world.rank == 1), world.agree(False)],
        "broadcast": world.gather(world.broadcast({"from": world.rank, "text": "é" * (1 + world.rank)})),
        "gather": world.gather([world.rank] * world.rank),
    }


def _damaged(world: World, folder: Path) -> list[Any]:
    """The second half of the tensors is damaged: whoever reads that, both must say so."""
    root = folder / "damaged"
    Run("tied", world, "fsdp").to(1).write(root)
    Run("tied", world, "fsdp").to(2).write(root)
    if world.is_main:
        path = root / "step-00000002" / "trainer.safetensors"
        content = bytearray(path.read_bytes())
        content[-3] ^= 1
        path.write_bytes(content)
    world.wait()
    found = checkpoints.latest_whole(root, Run("tied", world, "fsdp").model, world)
    return world.gather([str(found.path), [problem for _, problem in found.damaged]])


def _full_disk(world: World, folder: Path) -> list[Any]:
    """A limit on the size of files, in the second process alone, stands in for a full disk."""
    import resource

    root = folder / "full"
    run = Run("tied", world, "fsdp").to(1)
    run.write(root)
    limits = resource.getrlimit(resource.RLIMIT_FSIZE)
    if world.rank == 1:
        resource.setrlimit(resource.RLIMIT_FSIZE, (8192, limits[1]))
    try:
        run.write(root)
        message = ""
    except checkpoints.CheckpointError as error:
        message = str(error)
    resource.setrlimit(resource.RLIMIT_FSIZE, limits)
    world.wait()
    names = sorted(path.name for path in root.iterdir())
    # Room again: the next one is written.
    run.write(root)
    world.wait()
    return world.gather([message, names, sorted(path.name for path in root.iterdir())])


def kept_weights(folder: Path, label: str) -> dict[str, Tensor]:
    return load_file(folder / f"{label}.safetensors")


if __name__ == "__main__":
    main(Path(sys.argv[1]))
