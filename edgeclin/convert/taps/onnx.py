"""The tensors of a float ONNX model, executed by ONNX Runtime."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import numpy as np

from edgeclin.errors import MissingExtra

try:
    import onnx
    import onnxruntime
except ImportError as exc:
    raise MissingExtra("ONNX Runtime, which executes ONNX models,", "convert") from exc


class ONNXTap:
    """A float ONNX model with every float tensor as an output.

    The graph is executed as it stands: a runtime that fused operators would not compute the tensors
    that a quantiser needs ranges of.
    """

    def __init__(self, model: Path, threads: int = 1) -> None:
        loaded = onnx.shape_inference.infer_shapes(onnx.load(model))
        graph = loaded.graph
        known = {value.name: value for value in (*graph.value_info, *graph.output)}
        computed = {name for node in graph.node for name in node.output}
        floats = {
            name
            for name, value in known.items()
            if name in computed and value.type.tensor_type.elem_type == onnx.TensorProto.FLOAT
        }
        self.output = graph.output[0].name
        present = {output.name for output in graph.output}
        graph.output.extend(known[name] for name in sorted(floats - present))
        options = onnxruntime.SessionOptions()
        options.graph_optimization_level = onnxruntime.GraphOptimizationLevel.ORT_DISABLE_ALL
        options.intra_op_num_threads = threads
        self._session = onnxruntime.InferenceSession(
            loaded.SerializeToString(), options, providers=["CPUExecutionProvider"]
        )
        self._input = self._session.get_inputs()[0].name
        self._names = [
            output.name for output in self._session.get_outputs() if output.name in floats
        ]

    def run(self, sample: np.ndarray) -> Iterator[tuple[str, np.ndarray]]:
        yield self._input, sample[np.newaxis]
        values = self._session.run(self._names, {self._input: sample[np.newaxis]})
        yield from zip(self._names, values, strict=True)
