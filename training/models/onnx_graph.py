"""An encoder as a graph of ONNX operators, of any batch and length.

Written operator by operator, as `Transformer` computes it: no tracing, so that it takes a second, needs the package
onnx alone and comes out the same under every version of torch.

Shape suffixes: B sequences, T tokens, D width, E embedding width, H heads, K head width, V vocabulary.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
from torch import Tensor, nn

from training.config import ModelConfig
from training.models.transformer import Transformer

OPSET, IR_VERSION = 20, 9
"""The first operator set with GELU as one operator; ONNX 1.15 and onnxruntime 1.17 read it."""
LOWEST = float(np.finfo(np.float32).min)
"""Added to the scores of what is not seen: not minus infinity, or a row that sees nothing would be no number."""


class Graph:
    """Nodes and weights, in order; every method adds operators and returns the name of what comes out."""

    def __init__(self) -> None:
        self.nodes: list[Any] = []
        self._weights: dict[str, Any] = {}

    @property
    def initializers(self) -> list[Any]:
        """The weights and constants."""
        return list(self._weights.values())

    def op(self, kind: str, *inputs: str, name: str = "", **attributes: Any) -> str:
        """One operator of one output."""
        return self.ops(kind, 1, *inputs, name=name, **attributes)[0]

    def ops(self, kind: str, outputs: int, *inputs: str, name: str = "", **attributes: Any) -> list[str]:
        """One operator."""
        from onnx import helper

        label = name or f"{kind}_{len(self.nodes)}"
        names = [label] if outputs == 1 else [f"{label}_{number}" for number in range(outputs)]
        self.nodes.append(helper.make_node(kind, list(inputs), names, name=label, **attributes))
        return names

    def weight(self, name: str, tensor: Tensor) -> str:
        """A parameter; what is asked for again is there once."""
        from onnx import numpy_helper

        if name not in self._weights:
            array = np.ascontiguousarray(tensor.detach().float().cpu().numpy())
            self._weights[name] = numpy_helper.from_array(array, name)
        return name

    def constant(self, value: Any, kind: Any = np.int64) -> str:
        """A small constant."""
        from onnx import numpy_helper

        array = np.asarray(value, dtype=kind)
        name = f"constant_{array.dtype}_{'_'.join(map(str, array.flatten()))}_{array.ndim}"
        if name not in self._weights:
            self._weights[name] = numpy_helper.from_array(array, name)
        return name

    def linear(self, x: str, name: str, layer: nn.Linear) -> str:
        """A linear layer."""
        return self.affine(x, name, layer.weight, layer.bias)

    def affine(self, x: str, name: str, weight: Tensor, bias: Tensor | None) -> str:
        """x W' + b."""
        y = self.op("MatMul", x, self.weight(f"{name}.weight", weight.mT))
        return y if bias is None else self.op("Add", y, self.weight(f"{name}.bias", bias))

    def norm(self, x: str, name: str, layer: nn.Module) -> str:
        """Layer normalisation, or nothing where there is none."""
        if isinstance(layer, nn.Identity):
            return x
        assert isinstance(layer, nn.LayerNorm), layer
        parts = [self.weight(f"{name}.weight", layer.weight)]
        parts += [] if layer.bias is None else [self.weight(f"{name}.bias", layer.bias)]
        return self.op("LayerNormalization", x, *parts, axis=-1, epsilon=layer.eps)


class EncoderGraph(Graph):
    """The trunk of an encoder and its heads.

    Inputs: `input_ids` and `attention_mask` (B, T) int64, with more than one token type also `token_type_ids`. A token
    is seen where the mask is not 0.
    """

    def __init__(self, model: Transformer) -> None:
        super().__init__()
        self.model = model
        self.config: ModelConfig = model.config
        shape = self.op("Shape", "input_ids")
        self.tokens = self.op("Gather", shape, self.constant([1]), axis=0)
        count = self.op("Squeeze", self.tokens, self.constant([0]))
        self.places_T = self.op("Range", self.constant(0), count, self.constant(1), name="places")
        self.real_BT = self.op("Cast", "attention_mask", to=9, name="real")  # bool

    @property
    def inputs(self) -> list[str]:
        """What the graph reads."""
        return ["input_ids", "attention_mask", *(["token_type_ids"] if self.config.token_types > 1 else [])]

    def hidden(self) -> str:
        """`last_hidden_state` (B, T, D)."""
        config, model = self.config, self.model
        x = self._embedded()
        everywhere = self._bias(None)
        windowed = None if config.window is None else self._bias(config.window)
        for layer in range(config.layers):
            place = layer * config.blocks // config.layers
            sees_all = model.sees_everything(layer)
            bias = everywhere if sees_all or windowed is None else windowed
            x = self._block(x, f"blocks.{place}", model.blocks[place], bias, self._tables(sees_all))
        if model.norm is None:
            return self.op("Identity", x, name="last_hidden_state")
        return self.op("Identity", self.norm(x, "norm", model.norm), name="last_hidden_state")

    def logits(self, hidden: str) -> str:
        """`logits`: of the vocabulary (B, T, V), or of replaced tokens (B, T)."""
        model = self.model
        if model.replaced_head is not None:
            head = model.replaced_head
            y = self.op("Gelu", self.linear(hidden, "replaced_head.dense", head.dense))
            logit = self.linear(y, "replaced_head.output", head.output)
            return self.op("Squeeze", logit, self.constant([-1]), name="logits")
        if model.transform is not None:
            inner = self.linear(hidden, "transform.dense", model.transform.dense)
            hidden = self.norm(self._gelu(inner), "transform.norm", model.transform.norm)
        assert model.head is not None
        # A tied matrix would be there twice, once for each side of the product, so it is turned at run time.
        tied = model.head.weight is model.embedding.weight
        matrix = self.op("Transpose", "embedding.weight", perm=[1, 0]) if tied else None
        y = self.linear(hidden, "head", model.head) if matrix is None else self.op("MatMul", hidden, matrix)
        if matrix is not None and model.head.bias is not None:
            y = self.op("Add", y, self.weight("head.bias", model.head.bias))
        return self.op("Identity", y, name="logits")

    def pooled(self, hidden: str) -> str:
        """`pooler_output` (B, D)."""
        assert self.model.pooler is not None
        first = self.op("Gather", hidden, self.constant(0), axis=1)
        return self.op("Tanh", self.linear(first, "pooler", self.model.pooler), name="pooler_output")

    def sentence_logits(self, pooled: str) -> str:
        """`sentence_logits` (B, classes)."""
        assert self.model.sentence_head is not None
        return self.op(
            "Identity", self.linear(pooled, "sentence_head", self.model.sentence_head), name="sentence_logits"
        )

    def task(self, hidden: str, name: str, head: Mapping[str, Tensor], pooling: str | None) -> str:
        """`<name>_logits` of a fine-tuned head (`training/finetuning/network.py`): `dense`, where it has one, and
        `output`. It reads vectors (B, C) of whole sequences, by `pooling`, or without one each token (B, T, C)."""
        if pooling is not None:
            hidden = self.sentence(hidden, pooling, normalize=False, name=f"{name}_vector")
            if pooling == "first" and self.model.pooler is not None:
                hidden = self.op("Tanh", self.linear(hidden, "pooler", self.model.pooler))
        if "dense.weight" in head:
            dense = self.affine(hidden, f"{name}.dense", head["dense.weight"], head["dense.bias"])
            hidden = self.op("Tanh", dense)
        logits = self.affine(hidden, f"{name}.output", head["output.weight"], head["output.bias"])
        return self.op("Identity", logits, name=f"{name}_logits")

    def sentence(self, hidden: str, mode: str, normalize: bool, name: str = "sentence_embedding") -> str:
        """A vector of each text (B, D): the poolings of `training/evaluation/embedding.py`."""
        real_BT1 = self.op("Unsqueeze", self.real_BT, self.constant([2]))
        if mode == "max":
            seen = self.op("Where", real_BT1, hidden, self.constant(LOWEST, np.float32))
            vector = self.op("ReduceMax", seen, self.constant([1]), keepdims=0)
        else:
            weights_BT1 = self._pooling_weights(mode)
            total = self.op("ReduceSum", self.op("Mul", hidden, weights_BT1), self.constant([1]), keepdims=0)
            count = self.op("ReduceSum", weights_BT1, self.constant([1]), keepdims=0)
            count = self.op("Sqrt", count) if mode == "mean_root" else count
            vector = self.op("Div", total, count)
        if normalize:
            length = self.op("ReduceL2", vector, self.constant([1]), keepdims=1)
            vector = self.op("Div", vector, self.op("Max", length, self.constant(1e-12, np.float32)))
        return self.op("Identity", vector, name=name)

    def _pooling_weights(self, mode: str) -> str:
        """How much each token counts (B, T, 1) float32."""
        real = self.op("Cast", self.real_BT, to=1)
        places = self.op("Cast", self.places_T, to=1)
        if mode in ("first", "last"):
            one = self.constant(1, np.float32)
            last = self.op("Sub", self.op("ReduceSum", real, self.constant([1]), keepdims=1), one)
            chosen = self.constant([[0]], np.float32) if mode == "first" else last
            # Added to nothing, so that the result is (B, T) whatever the side that broadcasts.
            zero_BT = self.op("Sub", real, real)
            real = self.op("Cast", self.op("Equal", self.op("Add", places, zero_BT), chosen), to=1)
        elif mode == "weighted_mean":
            real = self.op("Mul", real, self.op("Add", places, self.constant(1, np.float32)))
        return self.op("Unsqueeze", real, self.constant([2]))

    def _embedded(self) -> str:
        model, config = self.model, self.config
        x = self.op("Gather", self.weight("embedding.weight", model.embedding.weight), "input_ids")
        if model.type_embedding is not None:
            table = model.type_embedding.weight
            if config.token_types > 1:
                types = self.op("Gather", self.weight("type_embedding.weight", table), "token_type_ids")
            else:
                types = self.weight("type_embedding.weight", table[0])
            x = self.op("Add", x, types)
        if model.position_embedding is not None:
            table = model.position_embedding.weight
            x = self.op("Add", x, self._first(self.weight("position_embedding.weight", table)))
        if model.embedding_norm is not None:
            x = self.norm(x, "embedding_norm", model.embedding_norm)
        if model.embedding_projection is not None:
            x = self.linear(x, "embedding_projection", model.embedding_projection)
        return x

    def _first(self, table: str) -> str:
        """The first T rows of a table of positions."""
        return self.op("Slice", table, self.constant([0]), self.tokens, self.constant([0]))

    def _tables(self, sees_all: bool) -> tuple[str, str] | None:
        """Cosine and sine (T, K / 2) of the layers that see everything, or of those with a window."""
        model = self.model
        windowed = not sees_all and model.windowed_cos_TK is not None
        pair = (model.windowed_cos_TK, model.windowed_sin_TK) if windowed else (model.cos_TK, model.sin_TK)
        if pair[0] is None or pair[1] is None:
            return None
        kind = "windowed_" if windowed else ""
        return self._first(self.weight(f"{kind}cosine", pair[0])), self._first(self.weight(f"{kind}sine", pair[1]))

    def _bias(self, window: int | None) -> str:
        """What is added to the scores, (B, 1, 1 or T, T)."""
        seen = self.op("Unsqueeze", self.real_BT, self.constant([1, 2]))
        if window is not None:
            rows = self.op("Unsqueeze", self.places_T, self.constant([1]))
            distance = self.op("Abs", self.op("Sub", rows, self.places_T))
            seen = self.op("And", seen, self.op("Less", distance, self.constant(window)))
        return self.op("Where", seen, self.constant(0, np.float32), self.constant(LOWEST, np.float32))

    def _block(self, x: str, name: str, block: Any, bias: str, tables: tuple[str, str] | None) -> str:
        def attend(y: str) -> str:
            return self._attention(y, f"{name}.attention", block.attention, bias, tables)

        def feed(y: str) -> str:
            return self._mlp(y, f"{name}.mlp", block.mlp)

        for part, function in (("attention_norm", attend), ("mlp_norm", feed)):
            layer = getattr(block, part)
            if block.post:
                x = self.norm(self.op("Add", x, function(x)), f"{name}.{part}", layer)
            else:
                x = self.op("Add", x, function(self.norm(x, f"{name}.{part}", layer)))
        return x

    def _attention(self, x: str, name: str, layer: Any, bias: str, tables: tuple[str, str] | None) -> str:
        heads, width = layer.heads, layer.head_width
        assert layer.key_value_heads == heads, "encoders have as many heads of keys"
        parts = self.ops("Split", 3, self.linear(x, f"{name}.qkv", layer.qkv), self.constant(layer.parts), axis=-1)
        shape = self.constant([0, 0, heads, width])
        q, k, v = (self.op("Transpose", self.op("Reshape", part, shape), perm=[0, 2, 1, 3]) for part in parts)
        if tables is not None:
            q, k = self._rotated(q, *tables), self._rotated(k, *tables)
        q = self.op("Mul", q, self.constant(width**-0.5, np.float32))
        scores = self.op("MatMul", q, self.op("Transpose", k, perm=[0, 1, 3, 2]))
        weights = self.op("Softmax", self.op("Add", scores, bias), axis=-1)
        y = self.op("Transpose", self.op("MatMul", weights, v), perm=[0, 2, 1, 3])
        joined = self.op("Reshape", y, self.constant([0, 0, heads * width]))
        return self.linear(joined, f"{name}.output", layer.output)

    def _rotated(self, x: str, cosine: str, sine: str) -> str:
        a, b = self.ops("Split", 2, x, axis=-1, num_outputs=2)
        first = self.op("Sub", self.op("Mul", a, cosine), self.op("Mul", b, sine))
        second = self.op("Add", self.op("Mul", a, sine), self.op("Mul", b, cosine))
        return self.op("Concat", first, second, axis=-1)

    def _mlp(self, x: str, name: str, layer: Any) -> str:
        h = self.linear(x, f"{name}.input", layer.input)
        if len(layer.parts) == 2:
            gate, value = self.ops("Split", 2, h, axis=-1, num_outputs=2)
            h = self.op("Mul", self._gelu(gate), value)
        else:
            h = self._gelu(h)
        return self.linear(h, f"{name}.output", layer.output)

    def _gelu(self, x: str) -> str:
        tanh = self.config.mlp in ("gelu_tanh", "geglu_tanh")
        return self.op("Gelu", x, approximate="tanh" if tanh else "none")
