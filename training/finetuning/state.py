"""What a fine-tuning needs to go on as if it had never stopped: folders that are whole or absent."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

from torch import Tensor

from training.checkpoints import CheckpointError, clean, list_checkpoints, remove, step_of
from training.checkpoints.files import read_json, read_tensors, verify, write_json, write_tensors
from training.checkpoints.folders import begin, commit, folder_of

_FILE = "state.json"


@dataclass
class State:
    """A fine-tuning after a step."""

    step: int
    tensors: dict[str, dict[str, Tensor]]
    """By file: `trained` weights, `optimizer` state, `best` weights."""
    facts: dict[str, Any]
    """History of the evaluations, the best of them, tokens and seconds so far: JSON."""


class States:
    """The states of one fine-tuning, of which the newest stays; `identity` says what it is one of."""

    def __init__(self, folder: Path, identity: dict[str, Any]) -> None:
        self._folder, self._identity = folder, identity

    def save(self, state: State) -> None:
        """Write a state, then remove those before it."""
        final = folder_of(self._folder, state.step)
        hidden = begin(final)
        files = {}
        for name, tensors in state.tensors.items():
            copied = {key: tensor.detach().cpu().contiguous() for key, tensor in tensors.items()}
            files[f"{name}.safetensors"] = write_tensors(hidden / f"{name}.safetensors", copied)
        document = {"identity": self._identity, "step": state.step, "facts": state.facts, "files": files}
        write_json(hidden / _FILE, document)
        commit(final)
        self.clear(but=final)

    def load(self) -> State | None:
        """The newest state that is whole and of this fine-tuning; what is not is removed."""
        clean(self._folder)
        for folder in reversed(list_checkpoints(self._folder)):
            try:
                document = read_json(folder / _FILE)
                if document.get("identity") != self._identity:
                    raise CheckpointError(f"{folder}: of another fine-tuning")
                for name, facts in document["files"].items():
                    verify(folder / name, facts)
                tensors = {name.partition(".")[0]: read_tensors(folder / name) for name in document["files"]}
                return State(step_of(folder), tensors, document["facts"])
            except (CheckpointError, KeyError, TypeError, AttributeError):
                remove(folder)
        return None

    def clear(self, but: Path | None = None) -> None:
        """Remove all states but one."""
        for folder in list_checkpoints(self._folder):
            if folder != but:
                remove(folder)
