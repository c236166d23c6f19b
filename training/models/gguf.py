"""A checkpoint as one GGUF file, weights and tokenizer, as llama.cpp and what is built on it read it.

Names, metadata and the order of rows are those of llama.cpp's converter for the architectures gpt2, llama and qwen3;
names of tensors come from its package gguf, and so do the quantized blocks.
"""

from __future__ import annotations

import logging
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from training.models.gguf_vocabulary import write_vocabulary
from training.models.huggingface.family import effective_window
from training.models.huggingface.rope import halves_to_pairs, ntk_theta
from training.models.huggingface.source import Source, tensor_of, written
from training.models.model_card import Evidence, Form, model_card
from training.models.positions import rotary_frequencies

if TYPE_CHECKING:
    from gguf import GGUFWriter

TYPES = ("f32", "f16", "q8_0", "q4_0")
"""Numbers of the matrices: float32, float16, blocks of 32 with a scale of 8 and of 4 bits (llama.cpp's Q8_0, Q4_0)."""
FAMILIES = ("gpt2", "llama", "qwen3")
"""Families of transformers that GGUF has an architecture of the same name for."""
_BLOCK = 32

log = logging.getLogger(__name__)


class _Stored(NamedTuple):
    """A tensor of the file."""

    name: str
    values: NDArray[np.float32]
    numbers: Any
    """Its GGMLQuantizationType."""


def export_gguf(
    checkpoint_dir: str | Path,
    folder: str | Path,
    numbers: str = "f16",
    family: str | None = None,
    evidence: Evidence | None = None,
) -> Path:
    """Write `folder`/<its name>-<NUMBERS>.gguf and README.md, and return the file.

    `numbers` is one of `TYPES`, that of the matrices: norms, biases and learned positions stay float32, and of a matrix
    whose rows are no multiple of 32 the quantized types take float16. The folder is whole or absent; one tensor at a
    time is converted.

    Raises ValueError where the package gguf is missing, where no architecture of GGUF can hold the model or its
    tokenizer, naming what stands in the way, where the checkpoint has no tokenizer, and where the folder is not empty.
    """
    gguf = _package()
    target = Path(folder)
    if numbers not in TYPES:
        raise ValueError(f"numbers: {numbers!r} is unknown; there are {', '.join(TYPES)}")
    with written(target) as hidden:
        source = Source.of(checkpoint_dir, family)
        if lines := obstacles(source):
            raise ValueError(f"GGUF cannot hold this model: {'; '.join(lines)}")
        if source.tokenizer is None:
            raise ValueError(f"{checkpoint_dir}: has no tokenizer.json; a GGUF file holds the tokenizer, too")
        name = f"{target.resolve().name}-{numbers.upper()}.gguf"
        writer = gguf.GGUFWriter(hidden / name, source.family.name)
        try:
            _write(writer, source, target.resolve().name, numbers)
        finally:
            writer.close()
        form = Form("gguf", "AutoModelForCausalLM", f"as GGUF. Matrices are {numbers}.", _CODE.format(name=name))
        (hidden / "README.md").write_text(model_card(target.resolve().name, source, form, evidence), encoding="utf-8")
    return target / name


def obstacles(source: Source) -> list[str]:
    """One line for each setting that no architecture of GGUF can hold."""
    config, name = source.config, source.family.name
    if name not in FAMILIES:
        return [f"the family is {name}, must be {', '.join(FAMILIES)}"]
    lines = []
    if name == "gpt2" and config.mlp != "gelu_tanh":
        lines.append(f"mlp is {config.mlp}, must be gelu_tanh")
    if name == "qwen3" and config.bias != "none":
        lines.append(f"bias is {config.bias}, must be none")
    if effective_window(config) is not None:
        lines.append(f"window is {config.window}, must be null")
    return lines


def _package() -> Any:
    try:
        import gguf
    except ImportError:
        raise ValueError("GGUF needs the package gguf: pip install gguf") from None
    return gguf


_CODE = """\
from llama_cpp import Llama  # or: llama-cli -m {name}

model = Llama("path/of/this/folder/{name}")
"""


def _write(writer: GGUFWriter, source: Source, name: str, numbers: str) -> None:
    gguf = _package()
    _describe(writer, source, name)
    writer.add_file_type(getattr(gguf.LlamaFileType, _FILE_TYPES[numbers]))
    if numbers in ("q8_0", "q4_0"):
        writer.add_quantization_version(gguf.GGML_QUANT_VERSION)
    assert source.tokenizer is not None
    write_vocabulary(writer, source.tokenizer, source.vocabulary_size, source.special)
    if template := source.chat_template:
        writer.add_chat_template(template)
    for tensor in _tensors(source, numbers, empty=True):
        shape, bytes_of_row = tensor.values.shape, _row_bytes(tensor)
        size = bytes_of_row * int(np.prod(shape[:-1]))
        # Quantized tensors are bytes to numpy, and the shape is given in bytes.
        kind, shown = (np.uint8, (*shape[:-1], bytes_of_row)) if _is_quantized(tensor) else (np.float32, shape)
        writer.add_tensor_info(tensor.name, shown, np.dtype(kind), size, tensor.numbers)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_ti_data_to_file()
    for tensor in _tensors(source, numbers):
        writer.write_tensor_data(gguf.quants.quantize(tensor.values, tensor.numbers))


_FILE_TYPES = {"f32": "ALL_F32", "f16": "MOSTLY_F16", "q8_0": "MOSTLY_Q8_0", "q4_0": "MOSTLY_Q4_0"}


def _is_quantized(tensor: _Stored) -> bool:
    return tensor.numbers.name.startswith("Q")


def _row_bytes(tensor: _Stored) -> int:
    block, size = _package().GGML_QUANT_SIZES[tensor.numbers]
    return int(tensor.values.shape[-1] // block * size)


def _describe(writer: GGUFWriter, source: Source, name: str) -> None:
    """The metadata of the architecture."""
    config = source.config
    writer.add_name(name)
    writer.add_description("exported from Headrace")
    writer.add_vocab_size(source.vocabulary_size)
    writer.add_context_length(config.context_length)
    writer.add_embedding_length(config.width)
    writer.add_block_count(config.layers)
    writer.add_feed_forward_length(config.hidden_width)
    writer.add_head_count(config.heads)
    if source.family.name == "gpt2":
        writer.add_layer_norm_eps(config.norm_epsilon)
        return
    writer.add_head_count_kv(config.key_value_heads)
    writer.add_key_length(config.width_of_head)
    writer.add_value_length(config.width_of_head)
    writer.add_layer_norm_rms_eps(config.norm_epsilon)
    writer.add_rope_dimension_count(config.width_of_head)
    _describe_rope(writer, source)


def _describe_rope(writer: GGUFWriter, source: Source) -> None:
    """Rotary positions; what llama3 does to them is a tensor (`_rope_factors`), NTK another base."""
    config, scaling = source.config, source.config.rope_scaling
    is_ntk = scaling is not None and scaling.name == "ntk"
    writer.add_rope_freq_base(ntk_theta(config) if is_ntk else config.rope_theta)
    if scaling is None or scaling.name in ("ntk", "llama3"):
        return
    writer.add_rope_scaling_type(_package().RopeScalingType(scaling.name))
    writer.add_rope_scaling_factor(scaling.factor)
    if scaling.name == "yarn":
        writer.add_rope_scaling_orig_ctx_len(scaling.original_context_length)
        writer.add_rope_scaling_yarn_beta_fast(scaling.beta_fast)
        writer.add_rope_scaling_yarn_beta_slow(scaling.beta_slow)


def _tensors(source: Source, numbers: str, empty: bool = False) -> Iterator[_Stored]:
    """Every tensor in the order of the file; `empty` ones have the right shape and cost nothing."""
    gguf = _package()
    architecture = getattr(gguf.MODEL_ARCH, source.family.name.upper())
    names = gguf.get_tensor_name_map(architecture, source.config.layers)
    weights = source.weights
    for entry in source.table:
        for theirs, shape in entry.shapes().items():
            name = names.get_name(theirs, try_suffixes=(".weight", ".bias"))
            assert name is not None, theirs
            shape = shape[::-1] if entry.transposed else shape
            if empty:
                values = np.broadcast_to(np.float32(0), shape)
            else:
                tensor = tensor_of(entry, weights, theirs)
                # Linear layers are stored (outputs, inputs) here, whatever the family's own files have.
                tensor = tensor.mT if entry.transposed else tensor
                values = _in_order(tensor, theirs, source).contiguous().numpy()
            yield _Stored(name, values, _numbers_of(name, shape, numbers))
    if (factors := _rope_factors(source)) is not None:
        yield _Stored("rope_freqs.weight", factors, gguf.GGMLQuantizationType.F32)


def _in_order(tensor: Any, theirs: str, source: Source) -> Any:
    """llama.cpp's Llama turns neighbouring pairs of a head, and its Qwen3 the halves, as we do."""
    if source.family.name != "llama":
        return tensor
    for part, heads in ((".q_proj.", source.config.heads), (".k_proj.", source.config.key_value_heads)):
        if part in theirs:
            return halves_to_pairs(tensor, heads)
    return tensor


def _numbers_of(name: str, shape: tuple[int, ...], numbers: str) -> Any:
    kinds = _package().GGMLQuantizationType
    if numbers == "f32" or len(shape) == 1 or name == "position_embd.weight":
        return kinds.F32
    if numbers != "f16" and shape[-1] % _BLOCK:
        return kinds.F16
    return getattr(kinds, numbers.upper())


def _rope_factors(source: Source) -> NDArray[np.float32] | None:
    """What llama.cpp divides each frequency by, where Llama 3.1 stretches its positions."""
    config = source.config
    if config.rope_scaling is None or config.rope_scaling.name != "llama3":
        return None
    plain = rotary_frequencies(config.width_of_head, config.rope_theta)
    stretched = rotary_frequencies(config.width_of_head, config.rope_theta, config.rope_scaling)
    factors: NDArray[np.float32] = (plain / stretched).float().numpy()
    return factors
