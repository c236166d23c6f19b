"""Writing a checkpoint: at once, or from a snapshot in the background while training goes on."""

from __future__ import annotations

import copy
import errno
import functools
import hashlib
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from torch import Tensor

from training.checkpoints.files import write_bytes, write_json, write_tensors
from training.checkpoints.folders import CheckpointError, abandon, begin, commit, folder_of
from training.config import to_dict
from training.distributed import World
from training.models import Model
from training.models.sharing import shared_names
from training.optimizers.shards import is_sharded

FORMAT = 2
MODEL, TRAINER = "model.safetensors", "trainer.safetensors"
RAW = "raw/"
"""Prefix in trainer.safetensors of the weights that are trained, where model.safetensors holds their average."""


@dataclass
class TrainerState:
    """What a run needs to go on as if it had never stopped."""

    step: int
    tensors: dict[str, Tensor]
    """Optimiser state by parameter name and key (`<name>/<key>`); what is sharded is a DTensor."""
    identity: dict[str, Any]
    """`TrainingRun.identity()` of the run that wrote it."""
    extra: dict[str, Any]
    """JSON state of the trainer and its callbacks."""
    weights: dict[str, Tensor] = field(default_factory=dict)
    """When read from a checkpoint whose model.safetensors holds an average: the weights that are trained, by name."""


@functools.lru_cache(maxsize=1)
def _tokenizer(path: str) -> bytes:
    """A run's tokenizer, read once: one that vanishes later stops no checkpoint."""
    return Path(path).read_bytes()


@dataclass(frozen=True)
class Contents:
    """All that one checkpoint holds."""

    step: int
    tensors: dict[str, dict[str, Tensor]]
    """Tensors by file and name."""
    config: dict[str, Any]
    trainer: dict[str, Any]
    tokenizer: bytes | None

    @classmethod
    def of(
        cls,
        model: Model,
        state: TrainerState,
        description: dict[str, Any],
        tokenizer_path: str | Path | None,
        average: dict[str, Tensor] | None,
    ) -> Contents:
        """Collect it; the tensors are still those of the model and the optimiser."""
        further = shared_names(model)
        weights = {name: tensor.detach() for name, tensor in model.state_dict().items() if name not in further}
        raw = {f"{RAW}{name}": tensor for name, tensor in weights.items()} if average else {}
        averaged = {name: tensor for name, tensor in (average or {}).items() if name in weights}
        tokenizer = _tokenizer(str(tokenizer_path)) if tokenizer_path is not None else None
        config = {
            "format": FORMAT,
            "model": to_dict(model.config),
            "vocabulary_size": model.vocabulary_size,
            "tokenizer_sha256": hashlib.sha256(tokenizer).hexdigest() if tokenizer is not None else None,
            "step": state.step,
            **description,
        }
        trainer = {"format": FORMAT, "step": state.step, "identity": state.identity, "extra": state.extra}
        tensors = {MODEL: weights | averaged, TRAINER: state.tensors | raw}
        # What the callbacks handed in may be lists that they go on filling.
        return cls(state.step, tensors, copy.deepcopy(config), copy.deepcopy(trainer), tokenizer)

    @property
    def sharded(self) -> bool:
        """Whether this process holds only a part of it."""
        return any(is_sharded(tensor) for tensors in self.tensors.values() for tensor in tensors.values())

    def snapshot(self) -> Contents:
        """A copy in main memory, which training does not change."""
        tensors = {
            file: {name: tensor.detach().to("cpu", copy=True).contiguous() for name, tensor in named.items()}
            for file, named in self.tensors.items()
        }
        return replace(self, tensors=tensors)

    def write_documents(self, folder: Path, files: dict[str, dict[str, Any]]) -> None:
        """Write what is not a tensor; trainer.json comes last and holds the length and sha256 of all other files."""
        if self.tokenizer is not None:
            files["tokenizer.json"] = write_bytes(folder / "tokenizer.json", self.tokenizer)
        files["config.json"] = write_json(folder / "config.json", self.config)
        write_json(folder / "trainer.json", {**self.trainer, "files": files})


def save(
    checkpoints_dir: str | Path,
    model: Model,
    state: TrainerState,
    description: dict[str, Any],
    tokenizer_path: str | Path | None = None,
    average: dict[str, Tensor] | None = None,
) -> Path:
    """Write the checkpoint of `state.step` from this process alone and return its folder.

    An older one of the same step is replaced. `description` adds JSON facts (losses, tokens, dataset) to config.json.
    With `average` (by parameter name) model.safetensors holds that, and the model's weights go to trainer.safetensors.
    Raises CheckpointError when the disk is full or the folder cannot be written; nothing half-written stays behind
    under a name that a reader believes.
    """
    final = folder_of(Path(checkpoints_dir), state.step)
    try:
        contents = Contents.of(model, state, description, tokenizer_path, average)
        assert not contents.sharded, "a sharded model is written by CheckpointWriter"
        return _write(final, contents.snapshot())
    except OSError as error:
        raise _failure(final, error) from None


class CheckpointWriter:
    """Writes one checkpoint at a time in the background, from a snapshot in main memory.

    A model that each process holds as a whole is written by the main process; of a sharded one each process writes its
    part, through torch.distributed.checkpoint, and the main one commits when all have. All processes call `start` at
    the same step. Errors come with the next `poll` or `wait`: in all processes for sharded models, else in the main
    one.
    """

    def __init__(self, checkpoints_dir: str | Path, world: World | None = None) -> None:
        self._root = Path(checkpoints_dir)
        self._world = world or World()
        self._thread = ThreadPoolExecutor(1, "checkpoint")
        self._writing: tuple[Path, Future[Any]] | None = None

    def start(
        self,
        model: Model,
        state: TrainerState,
        description: dict[str, Any],
        tokenizer_path: str | Path | None = None,
        average: dict[str, Tensor] | None = None,
    ) -> None:
        """Take a snapshot, and write it in the background. `save` says what the arguments are.

        Call `wait` before, so that the checkpoint before this one is done and told.
        """
        assert self._writing is None, "wait() for the checkpoint before this one"
        final = folder_of(self._root, state.step)
        try:
            contents = Contents.of(model, state, description, tokenizer_path, average)
        except OSError as error:
            raise _failure(final, error) from None
        if contents.sharded:
            self._writing = final, self._start_sharded(final, contents)
        elif self._world.is_main:
            self._writing = final, self._thread.submit(_write, final, contents.snapshot())

    def poll(self) -> Path | None:
        """The folder of a checkpoint that was committed since the last call, if there is one; returns at once.

        Raises CheckpointError where it could not be written.
        """
        return self.wait() if self._writing is not None and self._writing[1].done() else None

    def wait(self) -> Path | None:
        """The same, but waits for what is being written."""
        if self._writing is None:
            return None
        (final, future), self._writing = self._writing, None
        try:
            future.result()
        except (OSError, RuntimeError) as error:
            raise _failure(final, error) from None
        return final

    def close(self) -> None:
        """End the thread, after what it writes."""
        self._thread.shutdown()

    def _start_sharded(self, final: Path, contents: Contents) -> Future[Any]:
        # Imported here, since torch.distributed.checkpoint takes a second that other runs can spare.
        from training.checkpoints import sharded

        tensors = {
            sharded.key_of(file, name): tensor
            for file, named in contents.tensors.items()
            for name, tensor in named.items()
        }
        documents = replace(contents, tensors={})
        written = sharded.start(final, tensors, documents.write_documents, self._world.background)
        return self._thread.submit(_outcome, final, written, self._world.is_main)


def _outcome(final: Path, written: Future[Any], is_main: bool) -> None:
    """Wait for torch.distributed.checkpoint; its errors name the processes and hold what went wrong there."""
    from training.checkpoints.sharded import cause_of

    # Its CheckpointException is no Exception.
    error = written.exception()
    if error is not None:
        if is_main:
            abandon(final)
        raise cause_of(error)


def _write(final: Path, contents: Contents) -> Path:
    try:
        hidden = begin(final)
        files = {name: write_tensors(hidden / name, tensors) for name, tensors in contents.tensors.items()}
        contents.write_documents(hidden, files)
        commit(final)
    except OSError:
        abandon(final)
        raise
    return final


def _failure(final: Path, error: BaseException) -> CheckpointError:
    full = isinstance(error, OSError) and error.errno in (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)
    advice = "free some space" if full else "check the folder"
    return CheckpointError(f"{final}: cannot be written ({error}); {advice}")
