"""Small ONNX models that INT8 breaks, each in a way of its own, and data to break them with."""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from pathlib import Path

import numpy as np

FEATURES, HIDDEN, LABELS = 24, 16, 3


def samples(count: int, seed: int) -> np.ndarray:
    """Smooth random curves, float32 [n, FEATURES]."""
    random = np.random.default_rng(seed)
    steps = random.standard_normal((count, FEATURES + 4))
    smooth = sum(steps[:, shift : shift + FEATURES] for shift in range(5))
    return (smooth / 5**0.5).astype(np.float32)


class Dense:
    """Weights of a network of dense layers with ReLU between them, He-initialised."""

    def __init__(self, depth: int = 5, seed: int = 7) -> None:
        random = np.random.default_rng(seed)
        sizes = [FEATURES, *[HIDDEN] * (depth - 1), LABELS]
        self.weights = [
            (random.standard_normal(pair) * (2 / pair[0]) ** 0.5).astype(np.float32)
            for pair in itertools.pairwise(sizes)
        ]
        self.biases = [np.zeros(weights.shape[1], np.float32) for weights in self.weights]

    def save(self, path: Path) -> Path:
        """As ONNX, with batch size 1."""
        import onnx
        from onnx import helper, numpy_helper

        nodes, constants, here = [], [], "x"
        for number, (weights, bias) in enumerate(zip(self.weights, self.biases, strict=True)):
            last = number == len(self.weights) - 1
            names = f"weights {number}", f"bias {number}"
            constants += [numpy_helper.from_array(weights, names[0])]
            constants += [numpy_helper.from_array(bias, names[1])]
            given = "logits" if last else f"dense {number}"
            nodes.append(helper.make_node("Gemm", [here, *names], [given], name=given))
            if not last:
                nodes.append(helper.make_node("Relu", [given], [f"relu {number}"]))
            here = given if last else f"relu {number}"
        ends = [
            [helper.make_tensor_value_info(name, onnx.TensorProto.FLOAT, [1, size])]
            for name, size in (("x", FEATURES), ("logits", self.weights[-1].shape[1]))
        ]
        graph = helper.make_graph(nodes, "dense", *ends, constants)
        model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 15)])
        model.ir_version = 8
        onnx.save(model, path)
        return path


def with_a_wide_channel(factor: float = 3000.0, layer: int = 2) -> Dense:
    """One unit gives values of another size, which the next layer scales back."""
    model = Dense()
    model.weights[layer][:, 0] *= factor
    model.weights[layer + 1][0] /= factor
    return model


def with_a_mixed_output() -> Dense:
    """Two scores of 0 to 1 beside a place of -640 to 0, which never wins."""
    model = Dense()
    model.weights[-1] *= 0.2
    model.weights[-1][:, 0] = -np.abs(model.weights[-1][:, 0]) * 800
    model.biases[-1][0] = -50
    return model


def with_tiny_margins() -> Dense:
    """Labels that differ by far less than what they have in common."""
    model = Dense()
    common = np.abs(model.weights[-1][:, :1]) * 30
    model.weights[-1] = (common + 0.02 * model.weights[-1]).astype(np.float32)
    return model


def tflite_with_a_wide_channel(model: bytes, factor: float = 3000.0) -> bytes:
    """The same for the first two convolutions of a float TFLite model; its answers stay."""
    from ai_edge_litert import schema_py_generated as schema

    from edgeclin.convert.flatbuffer import pack, unpack

    content = unpack(model)
    graph = content.subgraphs[0]
    codes = [code.builtinCode for code in content.operatorCodes]
    convolutions = [
        one for one in graph.operators if codes[one.opcodeIndex] == schema.BuiltinOperator.CONV_2D
    ]

    def scale(index: int, place: tuple[object, ...], by: float) -> None:
        tensor = graph.tensors[index]
        buffer = content.buffers[tensor.buffer]
        values = np.frombuffer(bytes(bytearray(buffer.data)), np.float32).copy()
        values.reshape(tensor.shape)[place] *= by
        buffer.data = np.frombuffer(values.tobytes(), np.uint8)

    first, second = convolutions[:2]
    scale(first.inputs[1], (0,), factor)
    scale(first.inputs[2], (0,), factor)
    scale(second.inputs[1], (..., 0), 1 / factor)
    return pack(content)


def tflite_with_untaken_parts(model: bytes) -> bytes:
    """A TFLite model whose answer is split by column, of which only the first is taken."""
    from edgeclin.convert.flatbuffer import copied, pack, schema, unpack

    content = unpack(model)
    graph, given = content.subgraphs[0], content.subgraphs[0].outputs[0]
    columns = int(graph.tensors[given].shape[-1])
    code, axis, buffer = schema.OperatorCodeT(), schema.TensorT(), schema.BufferT()
    code.builtinCode = code.deprecatedBuiltinCode = schema.BuiltinOperator.SPLIT
    code.version = 2
    buffer.data = np.frombuffer(np.array(1, np.int32).tobytes(), np.uint8)
    axis.name, axis.shape, axis.type = "axis", [], schema.TensorType.INT32
    axis.buffer = len(content.buffers)
    parts = [copied(graph.tensors[given]) for _ in range(columns)]
    for number, part in enumerate(parts):
        part.name, part.shape, part.shapeSignature = f"part {number}", [1, 1], None
    first = len(graph.tensors)
    split = schema.OperatorT()
    split.opcodeIndex = len(content.operatorCodes)
    split.inputs, split.outputs = [first, given], list(range(first + 1, first + 1 + columns))
    split.builtinOptionsType = schema.BuiltinOptions.SplitOptions
    split.builtinOptions = schema.SplitOptionsT()
    split.builtinOptions.numSplits = columns
    graph.tensors = [*graph.tensors, axis, *parts]
    graph.operators = [*graph.operators, split]
    graph.outputs = [first + 1]
    content.operatorCodes = [*content.operatorCodes, code]
    content.buffers = [*content.buffers, buffer]
    content.signatureDefs = []
    return pack(content)


def save_samples(path: Path, values: np.ndarray, labels: Sequence[int] | None = None) -> Path:
    """As a data set."""
    if labels is None:
        np.savez(path, X=values)
    else:
        np.savez(path, X=values, y=np.array(labels))
    return path
