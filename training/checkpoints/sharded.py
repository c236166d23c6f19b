"""torch.distributed.checkpoint on plain safetensors files: each process writes and reads its part of every tensor.

A sharded model is written to the very files that an unsharded one has: one safetensors file of whole tensors, into
which each process writes the rows that it holds. So no pickle is read back, any number of processes can load it, and
the model can be used as it is. All processes must see the same folder.
"""

from __future__ import annotations

import concurrent.futures
import hashlib
import math
import os
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
import torch.distributed.checkpoint as dcp
from safetensors import safe_open
from torch import Tensor
from torch.distributed.checkpoint.api import CheckpointException
from torch.distributed.checkpoint.metadata import (
    ChunkStorageMetadata,
    Metadata,
    TensorProperties,
    TensorStorageMetadata,
)
from torch.distributed.checkpoint.planner import LoadPlan, LoadPlanner, SavePlan, SavePlanner, WriteItem
from torch.distributed.checkpoint.storage import StorageReader, StorageWriter, WriteResult
from torch.futures import Future

from training.checkpoints.files import Layout, read_header, write_range
from training.checkpoints.folders import CheckpointError, begin, commit, hidden_of

_SEPARATOR = ":"


def key_of(file: str, name: str) -> str:
    """The name under which torch.distributed.checkpoint knows a tensor of a file."""
    return f"{file}{_SEPARATOR}{name}"


class SafetensorsWriter(StorageWriter):
    """Writes tensors named by `key_of` into safetensors files of a checkpoint, and commits it in the main process.

    `write_documents(folder, files)` is called there before, with the length and the ranges (begin, end, sha256) of each
    tensor file. Shards are runs of rows, as FSDP2 makes them.
    """

    def __init__(self, final: Path, write_documents: Callable[[Path, dict[str, dict[str, Any]]], None]) -> None:
        self._final, self._write_documents = final, write_documents
        self._layouts: dict[str, Layout] = {}

    def reset(self, checkpoint_id: str | os.PathLike[str] | None = None) -> None:
        """Nothing to do: a writer serves once."""

    def set_up_storage_writer(self, is_coordinator: bool, *args: Any, **kwargs: Any) -> None:
        """Nothing to do before the plan is known."""

    def prepare_local_plan(self, plan: SavePlan) -> SavePlan:
        """The plan as it is."""
        return plan

    def prepare_global_plan(self, plans: list[SavePlan]) -> list[SavePlan]:
        """In the main process: lay the files out, write their headers, and tell all where each tensor begins."""
        tensors: dict[str, dict[str, tuple[torch.dtype, tuple[int, ...]]]] = {}
        for plan in plans:
            for item in plan.items:
                file, name = item.index.fqn.split(_SEPARATOR, 1)
                assert item.tensor_data is not None, item
                facts = item.tensor_data.properties.dtype, tuple(item.tensor_data.size)
                tensors.setdefault(file, {})[name] = facts
        self._layouts = {file: Layout.of(named) for file, named in tensors.items()}
        hidden = begin(self._final)
        for file, layout in self._layouts.items():
            with (hidden / file).open("wb") as stream:
                stream.write(layout.header)
                stream.truncate(layout.bytes)
        begins = {file: layout.begins for file, layout in self._layouts.items()}
        return [replace(plan, storage_data=begins) for plan in plans]

    def write_data(self, plan: SavePlan, planner: SavePlanner) -> Future[list[WriteResult]]:
        """Write the parts that are this process's."""
        descriptors: dict[str, int] = {}
        results = []
        try:
            for item in plan.items:
                file, name = item.index.fqn.split(_SEPARATOR, 1)
                if file not in descriptors:
                    descriptors[file] = os.open(hidden_of(self._final) / file, os.O_WRONLY)
                tensor = planner.resolve_data(item)
                assert isinstance(tensor, Tensor), item
                begin = plan.storage_data[file][name] + _bytes_before(item)
                digest = hashlib.sha256()
                length = write_range(descriptors[file], tensor.cpu(), begin, digest)
                written = [file, begin, begin + length, digest.hexdigest()]
                results.append(WriteResult(item.index, length, written))
            for descriptor in descriptors.values():
                os.fsync(descriptor)
        finally:
            for descriptor in descriptors.values():
                os.close(descriptor)
        future: Future[list[WriteResult]] = Future()
        future.set_result(results)
        return future

    def finish(self, metadata: Metadata, results: list[list[WriteResult]]) -> None:
        """In the main process, when all have written: the documents, then the checkpoint's name."""
        files = {}
        for file, layout in self._layouts.items():
            ranges = [[0, len(layout.header), hashlib.sha256(layout.header).hexdigest()]]
            written = (result.storage_data for part in results for result in part)
            ranges += sorted([begin, end, sha256] for at, begin, end, sha256 in written if at == file and begin < end)
            ends = [end for _, end, _ in ranges]
            assert [begin for begin, _, _ in ranges[1:]] == ends[:-1], f"{file} has gaps"
            assert ends[-1] == layout.bytes, file
            files[file] = {"bytes": layout.bytes, "ranges": ranges}
        hidden = hidden_of(self._final)
        self._write_documents(hidden, files)
        commit(self._final)

    @classmethod
    def validate_checkpoint_id(cls, checkpoint_id: str | os.PathLike[str]) -> bool:
        """Whether a place can be written to: folders only, given on construction."""
        return False


class SafetensorsReader(StorageReader):
    """Reads, of one safetensors file, the parts of tensors that this process wants."""

    def __init__(self, path: Path) -> None:
        self._path = path

    def reset(self, checkpoint_id: str | os.PathLike[str] | None = None) -> None:
        """Nothing to do."""

    def read_metadata(self, *args: Any, **kwargs: Any) -> Metadata:
        """Each tensor as one chunk."""
        tensors: dict[str, Any] = {}
        for name, (dtype, shape) in read_header(self._path).items():
            size = torch.Size(shape)
            chunk = ChunkStorageMetadata(torch.Size([0] * len(shape)), size)
            tensors[name] = TensorStorageMetadata(TensorProperties(dtype=dtype), size, [chunk])
        return Metadata(tensors)

    def set_up_storage_reader(self, metadata: Metadata, is_coordinator: bool, *args: Any, **kwargs: Any) -> None:
        """Nothing to do."""

    def prepare_local_plan(self, plan: LoadPlan) -> LoadPlan:
        """The plan as it is."""
        return plan

    def prepare_global_plan(self, plans: list[LoadPlan]) -> list[LoadPlan]:
        """The plans as they are."""
        return plans

    def read_data(self, plan: LoadPlan, planner: LoadPlanner) -> Future[None]:
        """Copy slices of the file into the tensors of the plan."""
        with safe_open(self._path, framework="pt") as file:
            for item in plan.items:
                name = item.storage_index.fqn
                box = tuple(
                    slice(offset, offset + length)
                    for offset, length in zip(item.storage_offsets, item.lengths, strict=True)
                )
                part = file.get_slice(name)[box] if box else file.get_tensor(name)
                target = planner.resolve_tensor(item).detach()
                target.copy_(part)
                planner.commit_tensor(item, target)
        future: Future[None] = Future()
        future.set_result(None)
        return future

    @classmethod
    def validate_checkpoint_id(cls, checkpoint_id: str | os.PathLike[str]) -> bool:
        """Whether a place can be read: files only, given on construction."""
        return False


def start(
    final: Path,
    tensors: dict[str, Tensor],
    write_documents: Callable[[Path, dict[str, dict[str, Any]]], None],
    group: Any,
) -> concurrent.futures.Future[Any]:
    """Copy tensors, named by `key_of`, to main memory and write them in the background; all of the group call it.

    `group` is over gloo and used by nothing else at the time. What is not sharded is written by one process.
    """
    storage = SafetensorsWriter(final, write_documents)
    response: Any = dcp.async_save(tensors, storage_writer=storage, process_group=group)
    future: concurrent.futures.Future[Any] = getattr(response, "upload_completion", response)
    return future


def load_into(path: Path, tensors: dict[str, Tensor], group: Any) -> None:
    """Fill tensors, sharded or not, in place from the file; all processes of the group call it.

    Raises CheckpointError where a name or a shape is not that of the file, or it cannot be read.
    """
    state: dict[str, Any] = dict(tensors)
    try:
        dcp.load(state, storage_reader=SafetensorsReader(path), process_group=group)
    except CheckpointException as error:
        raise CheckpointError(f"{path}: cannot be read: {cause_of(error)}") from None


def cause_of(error: BaseException) -> BaseException:
    """What went wrong in the first process in which something did."""
    return next(iter(error.failures.values()))[0] if isinstance(error, CheckpointException) else error


def _bytes_before(item: WriteItem) -> int:
    """Bytes of a tensor that lie before a part of it."""
    data = item.tensor_data
    assert data is not None
    shape, offsets, sizes = tuple(data.size), tuple(data.chunk.offsets), tuple(data.chunk.sizes)
    assert sizes[1:] == shape[1:] or 0 in sizes, f"{item.index.fqn} is not sharded by rows"
    return offsets[0] * math.prod(shape[1:]) * data.properties.dtype.itemsize if shape else 0
