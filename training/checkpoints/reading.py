"""Reading a checkpoint: its model for use, or all of it to go on training; whole or in shards."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from training.checkpoints.files import file_digest, read_header, read_json, read_tensors, verify
from training.checkpoints.folders import CheckpointError, FormatError, UnreadableError, list_checkpoints, step_of
from training.checkpoints.writing import FORMAT, MODEL, RAW, TRAINER, TrainerState
from training.config import ModelConfig, from_dict
from training.distributed import World
from training.models import Model, build
from training.models.sharing import share, shared_names
from training.optimizers.shards import is_sharded


def load_model(checkpoint_dir: str | Path, device: str | torch.device = "cpu") -> tuple[Model, ModelConfig]:
    """Load the model of a checkpoint for use: float32, in evaluation mode, on `device`.

    Where the run averages its weights, these are the averages; a quantized model keeps its integers, and an adapter
    that is not merged is put onto the weights. Raises CheckpointError (a ValueError) naming the file when something is
    missing, damaged or of another format.
    """
    folder = Path(checkpoint_dir)
    description = describe(folder)
    try:
        config = from_dict(ModelConfig, description["model"], "model")
        vocabulary_size = int(description["vocabulary_size"])
    except (KeyError, TypeError, ValueError) as error:
        raise CheckpointError(f"{folder / 'config.json'}: {error}") from None
    # On the meta device no weights are drawn, which would only be overwritten.
    with torch.device("meta"):
        model = build(config, vocabulary_size)
    _put_integers(model, folder, description)
    _fill(model, folder / MODEL, assign=True)
    model.reset_buffers()
    if "adapter" in description:
        from training.adapters import attach

        attach(model, folder)
    # That of the model: learned positions lose what a prefix takes.
    return model.to(device).eval(), model.config


def load_weights(model: Model, checkpoint_dir: str | Path, world: World | None = None) -> None:
    """Copy the weights of a checkpoint into a model of the same shape; raises CheckpointError where it differs.

    All processes call it for a sharded model, with the `world` that they joined; each reads its part.
    """
    path = Path(checkpoint_dir) / MODEL
    if _is_sharded(model):
        _load_shards(model, path, world)
        return
    _fill(model, path, assign=False)


def load_initial(
    model: Model, checkpoint_dir: str | Path, sha256: str = "", world: World | None = None
) -> dict[str, list[str]]:
    """Copy those weights of a checkpoint into a model whose names and shapes agree: what a run starts from.

    Returns the names of the model's parameters that were `taken` and that were `drawn` anew, and those of the file that
    were `left`. All processes call it. Raises CheckpointError where the file is missing, damaged or not the one of the
    digest, and ValueError where nothing in it fits.
    """
    path = Path(checkpoint_dir) / MODEL
    if sha256 and file_digest(path) != sha256:
        raise CheckpointError(f"{path}: its sha256 is not {sha256}: another checkpoint lies there by now")
    further = shared_names(model)
    ours = {name: tensor for name, tensor in model.state_dict().items() if name not in further}
    header = read_header(path)
    if any(dtype in (torch.int8, torch.uint8) for dtype, _ in header.values()):
        raise CheckpointError(f"{path}: is quantized; start from the model that it was made of")
    theirs = {name: shape for name, (_, shape) in header.items()}
    taken = [name for name, tensor in ours.items() if theirs.get(name) == tensor.shape]
    if not taken:
        raise ValueError(f"{path}: none of its tensors has the name and the shape of one of the model")
    if _is_sharded(model):
        _load(path, {name: ours[name] for name in taken}, world)
    else:
        weights = read_tensors(path)
        with torch.no_grad():
            for name in taken:
                ours[name].copy_(weights[name])
    return {
        "taken": taken,
        "drawn": [name for name in ours if name not in taken],
        "left": [name for name in theirs if name not in taken],
    }


def _put_integers(model: Model, folder: Path, description: dict[str, Any]) -> None:
    """Give a model the layers of its quantization, where it has one, before they are filled."""
    if "quantization" not in description:
        return
    from training.compression.quantization import restore

    try:
        restore(model, description["quantization"])
    except (TypeError, ValueError) as error:
        raise CheckpointError(f"{folder / 'config.json'}: {error}") from None


def _fill(model: Model, path: Path, assign: bool) -> None:
    """Copy whole tensors into a model, or make them its parameters."""
    weights = read_tensors(path)
    further = shared_names(model)
    weights |= {name: weights[first] for name, first in further.items() if first in weights}
    try:
        model.load_state_dict(weights, assign=assign)
    except RuntimeError as error:
        raise CheckpointError(f"{path}: does not fit the model: {error}") from None
    share(model, further)


def describe(checkpoint_dir: str | Path) -> dict[str, Any]:
    """The content of a checkpoint's config.json; raises CheckpointError if there is none or it is of another format."""
    path = Path(checkpoint_dir) / "config.json"
    description = read_json(path)
    _refuse_other_format(path, description)
    return description


def load_state(checkpoint_dir: str | Path, model: nn.Module | None = None, world: World | None = None) -> TrainerState:
    """Read the trainer's state after checking the size and sha256 of every file.

    For a sharded `model` each process gets its part, and all call it; state of the shape of a parameter, or of its
    first dimension, is sharded as that is. Raises CheckpointError if damaged, FormatError for another format.
    """
    folder = Path(checkpoint_dir)
    _verify(folder, World())
    return _read_state(folder, model, world)


@dataclass(frozen=True)
class Found:
    """What a search for a checkpoint came to."""

    path: Path | None
    """The checkpoint, verified; None where there is none."""
    state: TrainerState | None
    damaged: list[tuple[Path, str]]
    """Newer ones that are damaged, with the reason."""


def latest_whole(
    checkpoints_dir: str | Path,
    model: nn.Module | None = None,
    world: World | None = None,
    at_most: int | None = None,
) -> Found:
    """The newest checkpoint (of step `at_most` or before) that is whole, with its state; the same in all processes.

    All processes call it; they share the work of verifying. Raises FormatError for one of another version, and
    UnreadableError where reading fails: a run must not begin anew beside them without being told to.
    """
    world = world or World()
    root = Path(checkpoints_dir)
    candidates = [path for path in list_checkpoints(root) if at_most is None or step_of(path) <= at_most]
    names = world.broadcast([path.name for path in reversed(candidates)])
    damaged: list[tuple[Path, str]] = []
    for path in (root / name for name in names):
        problem, state = "", None
        try:
            _verify(path, world)
        except (FormatError, UnreadableError):
            raise
        except CheckpointError as error:
            problem = str(error)
        problems = [found for found in world.gather(problem) if found]
        if not problems:
            try:
                state = _read_state(path, model, world)
            except UnreadableError:
                raise
            except CheckpointError as error:
                problem = str(error)
            problems = [found for found in world.gather(problem) if found]
        if not problems:
            return Found(path, state, damaged)
        damaged.append((path, problems[0]))
    return Found(None, None, damaged)


def newest_before(
    checkpoints_dir: str | Path, step: int, model: nn.Module | None = None, world: World | None = None
) -> Found:
    """The newest whole checkpoint of this step or one before it: where a run goes back to."""
    return latest_whole(checkpoints_dir, model, world, at_most=step)


def _verify(folder: Path, world: World) -> None:
    """Check format, sizes and digests; each process reads its share."""
    document = read_json(folder / "trainer.json")
    _refuse_other_format(folder, document)
    try:
        files = document["files"].items()
        for name, facts in files:
            verify(folder / name, facts, world.rank, world.size)
    except (KeyError, TypeError, AttributeError, ValueError) as error:
        if isinstance(error, CheckpointError):
            raise
        raise CheckpointError(f"{folder / 'trainer.json'}: unexpected content: {error!r}") from None


def _read_state(folder: Path, model: nn.Module | None, world: World | None) -> TrainerState:
    document = read_json(folder / "trainer.json")
    path = folder / TRAINER
    sharded_model = model if model is not None and _is_sharded(model) else None
    tensors = read_tensors(path) if sharded_model is None else _sharded_state(path, sharded_model, world)
    raw = {name.removeprefix(RAW): tensors.pop(name) for name in list(tensors) if name.startswith(RAW)}
    try:
        return TrainerState(document["step"], tensors, document["identity"], document["extra"], raw)
    except KeyError as error:
        raise CheckpointError(f"{folder / 'trainer.json'}: unexpected content: {error!r}") from None


def _sharded_state(path: Path, model: nn.Module, world: World | None) -> dict[str, Tensor]:
    """State tensors of the file, each sharded as its parameter is, on the parameter's device."""
    from torch.distributed.tensor import DTensor, empty

    parameters = dict(model.named_parameters())
    tensors = {}
    for name, (dtype, shape) in read_header(path).items():
        parameter = parameters.get(name.removeprefix(RAW) if name.startswith(RAW) else name.rsplit("/", 1)[0])
        if isinstance(parameter, DTensor) and shape[:1] == parameter.shape[:1]:
            tensors[name] = empty(
                *shape, dtype=dtype, device_mesh=parameter.device_mesh, placements=parameter.placements
            )
        else:
            tensors[name] = torch.empty(shape, dtype=dtype)
    _load(path, tensors, world)
    return tensors


def _load_shards(model: Model, path: Path, world: World | None) -> None:
    further = shared_names(model)
    ours = {name: tensor for name, tensor in model.state_dict().items() if name not in further}
    theirs = {name: shape for name, (_, shape) in read_header(path).items()}
    odd = sorted(
        name for name in ours.keys() | theirs.keys() if name not in ours or theirs.get(name) != ours[name].shape
    )
    if odd:
        raise CheckpointError(f"{path}: does not fit the model: {', '.join(odd[:5])} differ")
    _load(path, ours, world)


def _load(path: Path, tensors: dict[str, Tensor], world: World | None) -> None:
    from training.checkpoints.sharded import load_into

    load_into(path, tensors, world.control if world is not None else None)


def _is_sharded(model: nn.Module) -> bool:
    return any(is_sharded(parameter) for parameter in model.parameters())


def _refuse_other_format(path: Path, document: dict[str, Any]) -> None:
    found = document.get("format")
    if found != FORMAT:
        raise FormatError(
            f"{path}: format {found!r}; this version reads format {FORMAT}. "
            "Choose another output_dir, or remove its checkpoints to start anew"
        )
