"""The files of a checkpoint: safetensors written in one pass with their digest, JSON, and their verification.

A safetensors file is the length of its header (uint64, little-endian), the header (JSON: dtype, shape and place of each
tensor), and the tensors' bytes without gaps (https://huggingface.co/docs/safetensors). It is written here and not by
the library, whose writer holds the interpreter lock and the whole file in memory, and cannot leave room for the shards
of other processes.
"""

from __future__ import annotations

import hashlib
import json
import math
import os
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file
from torch import Tensor

from training.checkpoints.folders import CheckpointError, unreadable

_DTYPES = {
    torch.float64: "F64",
    torch.float32: "F32",
    torch.bfloat16: "BF16",
    torch.float16: "F16",
    torch.float8_e4m3fn: "F8_E4M3",
    torch.float8_e5m2: "F8_E5M2",
    torch.int64: "I64",
    torch.int32: "I32",
    torch.int16: "I16",
    torch.int8: "I8",
    torch.uint8: "U8",
    torch.bool: "BOOL",
}
TORCH_DTYPES = {name: dtype for dtype, name in _DTYPES.items()}
_PIECE_BYTES = 1 << 22


@dataclass(frozen=True)
class Layout:
    """Where each tensor of a safetensors file lies."""

    header: bytes
    begins: dict[str, int]
    """First byte of each tensor, counted from the beginning of the file."""
    bytes: int
    """Length of the file."""

    @classmethod
    def of(cls, tensors: dict[str, tuple[torch.dtype, tuple[int, ...]]]) -> Layout:
        """Lay tensors of given dtype and shape out, wide elements first, so that each is aligned."""
        header: dict[str, Any] = {}
        begins: dict[str, int] = {}
        end = 0
        for name in sorted(tensors, key=lambda name: (-tensors[name][0].itemsize, name)):
            dtype, shape = tensors[name]
            begins[name], end = end, end + dtype.itemsize * math.prod(shape)
            header[name] = {"dtype": _DTYPES[dtype], "shape": list(shape), "data_offsets": [begins[name], end]}
        text = json.dumps(header, separators=(",", ":")).encode()
        text += b" " * (-len(text) % 8)
        head = len(text).to_bytes(8, "little") + text
        return cls(head, {name: begin + len(head) for name, begin in begins.items()}, end + len(head))


def write_tensors(path: Path, tensors: dict[str, Tensor]) -> dict[str, Any]:
    """Write a safetensors file of CPU tensors, flush it to the disk and return its length and sha256."""
    layout = Layout.of({name: (tensor.dtype, tuple(tensor.shape)) for name, tensor in tensors.items()})
    digest = hashlib.sha256(layout.header)
    with path.open("wb", buffering=0) as file:
        _write_all(file.fileno(), memoryview(layout.header), 0)
        for name, begin in layout.begins.items():
            write_range(file.fileno(), tensors[name], begin, digest)
        os.fsync(file.fileno())
    return {"bytes": layout.bytes, "sha256": digest.hexdigest()}


def write_range(descriptor: int, tensor: Tensor, begin: int, digest: Any) -> int:
    """Write a CPU tensor's bytes at an offset, add them to a digest and return their number."""
    octets = tensor.detach().contiguous().reshape(-1).view(torch.uint8).numpy()
    content = memoryview(octets)  # type: ignore[arg-type]
    for start in range(0, len(content), _PIECE_BYTES):
        piece = content[start : start + _PIECE_BYTES]
        digest.update(piece)
        _write_all(descriptor, piece, begin + start)
    return len(content)


def _write_all(descriptor: int, content: memoryview, begin: int) -> None:
    while content:
        written = os.pwrite(descriptor, content, begin)
        content, begin = content[written:], begin + written


def write_bytes(path: Path, content: bytes) -> dict[str, Any]:
    """Write a file, flush it to the disk and return its length and sha256."""
    with path.open("wb", buffering=0) as file:
        _write_all(file.fileno(), memoryview(content), 0)
        os.fsync(file.fileno())
    return {"bytes": len(content), "sha256": hashlib.sha256(content).hexdigest()}


def write_json(path: Path, document: dict[str, Any]) -> dict[str, Any]:
    """Write a JSON object as `write_bytes` does."""
    return write_bytes(path, json.dumps(document, indent=2, allow_nan=False).encode() + b"\n")


def read_tensors(path: Path) -> dict[str, Tensor]:
    """All tensors of a safetensors file; raises CheckpointError naming it."""
    try:
        return load_file(path)
    except OSError as error:
        raise unreadable(path, error) from None
    except SafetensorError as error:
        raise CheckpointError(f"{path}: damaged: {error}") from None


def read_header(path: Path) -> dict[str, tuple[torch.dtype, tuple[int, ...]]]:
    """Dtype and shape of each tensor of a safetensors file; raises CheckpointError naming it."""
    try:
        with path.open("rb") as file:
            length = int.from_bytes(file.read(8), "little")
            if length > path.stat().st_size:
                raise ValueError("its header is longer than the file")
            header = json.loads(file.read(length))
        header.pop("__metadata__", None)
        return {name: (TORCH_DTYPES[facts["dtype"]], tuple(facts["shape"])) for name, facts in header.items()}
    except OSError as error:
        raise unreadable(path, error) from None
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        raise CheckpointError(f"{path}: damaged: {error}") from None


def read_json(path: Path) -> dict[str, Any]:
    """A JSON object; raises CheckpointError naming the file."""
    try:
        document = json.loads(path.read_bytes())
    except OSError as error:
        raise unreadable(path, error) from None
    except ValueError as error:
        raise CheckpointError(f"{path}: damaged: {error}") from None
    if not isinstance(document, dict):
        raise CheckpointError(f"{path}: damaged: not a JSON object")
    return document


def verify(path: Path, facts: dict[str, Any], rank: int = 0, size: int = 1) -> None:
    """Compare a file with its recorded length and sha256, or its ranges with theirs; raises CheckpointError.

    Process `rank` of `size` reads its share of the ranges only. A file without ranges is read by the first process.
    """
    try:
        found = path.stat().st_size
        if found != facts["bytes"]:
            raise CheckpointError(f"{path}: {found} bytes instead of {facts['bytes']}")
        ranges = facts.get("ranges", [[0, found, facts.get("sha256")]])
        with path.open("rb", buffering=0) as file:
            for begin, end, sha256 in ranges[rank::size]:
                if _sha256(file.fileno(), begin, end) != sha256:
                    raise CheckpointError(f"{path}: its content is damaged (sha256 differs)")
    except OSError as error:
        raise unreadable(path, error) from None


def file_digest(path: Path) -> str:
    """The sha256 of a file as hex; raises CheckpointError naming it."""
    try:
        with path.open("rb", buffering=0) as file:
            return _sha256(file.fileno(), 0, path.stat().st_size)
    except OSError as error:
        raise unreadable(path, error) from None


def _sha256(descriptor: int, begin: int, end: int) -> str:
    digest = hashlib.sha256()
    while begin < end:
        piece = os.pread(descriptor, min(_PIECE_BYTES, end - begin), begin)
        if not piece:
            break
        digest.update(piece)
        begin += len(piece)
    return digest.hexdigest()
