"""An encoder as an ONNX model, which onnxruntime and its kin run without torch."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from training.checkpoints.files import read_tensors
from training.models.huggingface.settings import write_json
from training.models.huggingface.source import Source, written
from training.models.model_card import Evidence, Form, model_card
from training.models.onnx_graph import IR_VERSION, OPSET, EncoderGraph
from training.models.transformer import Transformer

Shapes = dict[str, list[str | int]]
"""Of outputs by name."""
MODEL = "model.onnx"
_LARGEST_BYTES = 1_900_000_000
"""A file of protocol buffers ends at 2 GB; the weights of larger models stand beside it."""
_HEADS = "head.safetensors"
_OF_TOKENS = ("token_classification", "question_answering")
_MLP = ("gelu", "gelu_tanh", "geglu", "geglu_tanh")


def export_onnx(
    checkpoint_dir: str | Path, folder: str | Path, family: str | None = None, evidence: Evidence | None = None
) -> Path:
    """Write an encoder as `folder`/model.onnx, float32, with the files of its tokenizer, and return that file.

    Inputs, int64 of any batch and of any length up to the context: `input_ids`, `attention_mask`, and with more than
    one token type `token_type_ids` (B, T). Outputs, float32: `last_hidden_state` (B, T, D); `logits` where the model
    has a trained head, of the vocabulary (B, T, V) or of replaced tokens (B, T); `pooler_output` (B, D) and
    `sentence_logits` where there are such heads; `sentence_embedding` (B, D) of a sentence encoder; of a fine-tuned
    model instead of all heads `<task>_logits`, of whole sequences (B, C) or of tokens (B, T, C). The folder is whole or
    absent.

    Raises ValueError where the package onnx is missing, for a model that is no encoder, and where the folder is not
    empty.
    """
    onnx = _package()
    target = Path(folder)
    with written(target) as hidden:
        source = Source.of(checkpoint_dir, family)
        if lines := obstacles(source):
            raise ValueError(f"ONNX is written of encoders: {'; '.join(lines)}")
        graph = EncoderGraph(source.model)
        outputs = _task_outputs(graph, source, Path(checkpoint_dir)) or _outputs(graph, source)
        model = _model(onnx, graph, outputs, target.resolve().name)
        outside = model.ByteSize() > _LARGEST_BYTES
        onnx.save_model(model, hidden / MODEL, save_as_external_data=outside, location=f"{MODEL}.data")
        write_json(hidden / "config.json", source.settings)
        source.write_tokenizer(hidden)
        auto = source.family.architectures[source.architecture]
        form = Form("onnx", auto, "as ONNX. Weights are float32.", _code(model))
        card = model_card(target.resolve().name, source, form, evidence)
        (hidden / "README.md").write_text(card, encoding="utf-8")
    return target / MODEL


def obstacles(source: Source) -> list[str]:
    """One line for each setting that the graph has no operators for."""
    config = source.config
    lines = []
    if source.family.kind != "encoder":
        lines.append(f"the family is {source.family.name}, which is none")
    elif not isinstance(source.model, Transformer):
        lines.append(f"architecture is {config.architecture}, must be transformer or replaced_token")
    elif config.mlp not in _MLP:
        lines.append(f"mlp is {config.mlp}, must be {' or '.join(_MLP)}")
    return lines


def _package() -> Any:
    try:
        import onnx
    except ImportError:
        raise ValueError("ONNX needs the package onnx: pip install onnx") from None
    return onnx


def _model(onnx: Any, graph: EncoderGraph, outputs: Shapes, name: str) -> Any:
    helper, kinds = onnx.helper, onnx.TensorProto
    both = ["batch", "tokens"]
    inputs = [helper.make_tensor_value_info(one, kinds.INT64, both) for one in graph.inputs]
    found = [helper.make_tensor_value_info(one, kinds.FLOAT, shape) for one, shape in outputs.items()]
    made = helper.make_graph(graph.nodes, name, inputs, found, graph.initializers)
    model = helper.make_model(
        made, opset_imports=[helper.make_opsetid("", OPSET)], ir_version=IR_VERSION, producer_name="headrace"
    )
    if model.ByteSize() <= _LARGEST_BYTES:
        onnx.checker.check_model(model, full_check=True)
    return model


def _task_outputs(graph: EncoderGraph, source: Source, checkpoint_dir: Path) -> Shapes:
    """Add the operators of fine-tuned heads; nothing for a model without any."""
    task, path = source.facts.get("task"), checkpoint_dir / _HEADS
    if not isinstance(task, dict) or not path.is_file():
        return {}
    tensors = read_tensors(path)
    hidden = graph.hidden()
    shapes: Shapes = {hidden: ["batch", "tokens", source.config.width]}
    for one in task["tasks"]:
        prefix = f"{one['name']}."
        head = {name.removeprefix(prefix): value for name, value in tensors.items() if name.startswith(prefix)}
        if head:
            of_tokens = one["kind"] in _OF_TOKENS
            name = graph.task(hidden, one["name"], head, None if of_tokens else task["pooling"])
            shapes[name] = ["batch", *(["tokens"] if of_tokens else []), len(head["output.weight"])]
    return shapes


def _outputs(graph: EncoderGraph, source: Source) -> Shapes:
    """Add the operators of all outputs; their shapes by name."""
    config, model = source.config, source.model
    hidden = graph.hidden()
    shapes: Shapes = {hidden: ["batch", "tokens", config.width]}
    untrained = (source.facts.get("imported") or {}).get("untrained")
    pooling = source.facts.get("pooling")
    if not untrained and not pooling:
        last = [] if model.replaced_head is not None else [source.vocabulary_size]
        shapes[graph.logits(hidden)] = ["batch", "tokens", *last]
    if model.pooler is not None and not pooling:
        pooled = graph.pooled(hidden)
        shapes[pooled] = ["batch", config.width]
        if model.sentence_head is not None:
            shapes[graph.sentence_logits(pooled)] = ["batch", config.sentence_classes]
    if pooling:
        vector = graph.sentence(hidden, pooling["mode"], bool(pooling.get("normalize")))
        shapes[vector] = ["batch", config.width]
    return shapes


def _code(model: Any) -> str:
    names = ", ".join(output.name for output in model.graph.output)
    return (
        "import onnxruntime\nfrom transformers import AutoTokenizer\n\n"
        'tokenizer = AutoTokenizer.from_pretrained("path/of/this/folder")\n'
        f'model = onnxruntime.InferenceSession("path/of/this/folder/{MODEL}")\n'
        'inputs = tokenizer(["A text."], padding=True, return_tensors="np")\n'
        f"{names} = model.run(None, dict(inputs))\n"
    )
