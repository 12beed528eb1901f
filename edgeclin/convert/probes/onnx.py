"""The layers of a Q/DQ ONNX engine, executed by ONNX Runtime.

The graph is executed as it stands, pairs of Q and DQ between operators that compute in float: what
the model says, and not the fused integer kernels that will run it. For the layers' own errors the
graph is cut apart: in a copy every operator takes its tensors from inputs of their own.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from importlib.metadata import version
from pathlib import Path

import numpy as np

from edgeclin.convert.layers import INPUT
from edgeclin.convert.probes.base import Place
from edgeclin.convert.probes.weights import spread
from edgeclin.errors import MissingExtra

try:
    import onnx
    import onnxruntime
    from onnx import numpy_helper
except ImportError as exc:
    raise MissingExtra("ONNX Runtime, which executes ONNX models,", "convert") from exc

_Q, _DQ = "QuantizeLinear", "DequantizeLinear"
_KERNEL_AXIS = {"Conv": 0, "ConvTranspose": 1, "MatMul": -1}
"""The axis of the output channels in the weights, which are the second input; Gemm has its own."""
_FED, _GIVEN = "fed to ", "given by "
_FLOAT = onnx.TensorProto.FLOAT


class ONNXProbe:
    """A Q/DQ ONNX engine beside its float model."""

    channel_axis = 1

    def __init__(self, engine: Path, model: Path, threads: int = 1) -> None:
        self.executed_by = f"ONNX Runtime {version('onnxruntime')}, Q and DQ as they stand"
        graph = _Graph(onnx.load(engine), onnx.load(model))
        self.places = list(graph.places())
        self._names = [place.name for place in self.places]
        self._input = graph.input
        self._whole = _session(graph.with_all_given(), threads)
        cut, self._fed = graph.cut_apart()
        self._parts = _session(cut, threads)

    def arriving(self, sample: np.ndarray) -> Iterator[tuple[str, np.ndarray]]:
        yield from self._run(self._whole, {self._input: sample[np.newaxis]})

    def own(self, floats: Mapping[str, np.ndarray]) -> Iterator[tuple[str, np.ndarray]]:
        yield from self._run(self._parts, {fed: floats[name] for fed, name in self._fed.items()})

    def _run(
        self, session: onnxruntime.InferenceSession, fed: Mapping[str, np.ndarray]
    ) -> Iterator[tuple[str, np.ndarray]]:
        given = session.run([_GIVEN + name for name in self._names], dict(fed))
        yield from zip(self._names, given, strict=True)


def _session(model: onnx.ModelProto, threads: int) -> onnxruntime.InferenceSession:
    options = onnxruntime.SessionOptions()
    options.graph_optimization_level = onnxruntime.GraphOptimizationLevel.ORT_DISABLE_ALL
    options.intra_op_num_threads = threads
    return onnxruntime.InferenceSession(
        model.SerializeToString(), options, providers=["CPUExecutionProvider"]
    )


class _Graph:
    """A Q/DQ graph, its tensors known by the float model's names."""

    def __init__(self, engine: onnx.ModelProto, model: onnx.ModelProto) -> None:
        self._engine = engine
        self._nodes = list(engine.graph.node)
        self._constants = {tensor.name: tensor for tensor in engine.graph.initializer}
        self._makers = {name: node for node in self._nodes for name in node.output}
        self._quantisers = {node.input[0]: node for node in self._nodes if node.op_type == _Q}
        self._float = onnx.shape_inference.infer_shapes(model).graph
        self._shapes = {
            value.name: [axis.dim_value for axis in value.type.tensor_type.shape.dim]
            for value in (*self._float.input, *self._float.value_info, *self._float.output)
            if value.type.tensor_type.elem_type == _FLOAT
        }
        self.input = next(
            value.name for value in engine.graph.input if value.name not in self._constants
        )
        self._raw = {self._name(raw): raw for raw in self._computed() if self._name(raw)}

    def _computed(self) -> Iterator[str]:
        yield self.input
        for node in self._nodes:
            if node.op_type not in (_Q, _DQ):
                yield from node.output

    def _name(self, raw: str) -> str:
        """The float tensor that a computed one stands for; empty where there is none.

        The engine's output has the float one's name, and what is quantised for it another.
        """
        if raw in self._shapes:
            return raw
        after = self._dequantised(raw)
        return after if after in self._shapes else ""

    def _dequantised(self, raw: str) -> str:
        """What a tensor is once it went through Q and DQ; itself where it does not."""
        quantiser = self._quantisers.get(raw)
        if quantiser is None:
            return raw
        users = (node for node in self._nodes if quantiser.output[0] in node.input)
        return next((user.output[0] for user in users if user.op_type == _DQ), raw)

    def places(self) -> Iterator[Place]:
        """What is known of each layer before anything runs."""
        yield self._place(self.input, INPUT, (), None)
        waiting: dict[str, list[onnx.NodeProto]] = {}
        for node in self._float.node:
            parts = [*(one for name in node.input for one in waiting.pop(name, ())), node]
            name = node.output[0]
            if name not in self._raw:
                waiting[name] = parts
                continue
            operator = "+".join(one.op_type for one in parts)
            yield self._place(name, operator, tuple(one.output[0] for one in parts), parts[0])

    def _place(
        self, name: str, operator: str, tensors: tuple[str, ...], node: onnx.NodeProto | None
    ) -> Place:
        raw = self._raw[name]
        ends, step = self._ends(raw)
        axis, weights = self._weights(node)
        maker = self._makers.get(raw)
        scales = 0 if maker is None or not weights.size else self._scales(maker)
        return Place(
            name=name,
            operator=operator,
            tensors=tensors,
            ends=ends,
            step=step,
            weight_spread=spread(weights, axis),
            weight_scales=scales,
        )

    def _ends(self, raw: str) -> tuple[tuple[float, float] | None, float]:
        quantiser = self._quantisers.get(raw)
        if quantiser is None:
            return None, 0.0
        scale = float(numpy_helper.to_array(self._constants[quantiser.input[1]]))
        zero = numpy_helper.to_array(self._constants[quantiser.input[2]])
        bounds = np.iinfo(zero.dtype)
        return ((bounds.min - int(zero)) * scale, (bounds.max - int(zero)) * scale), scale

    def _weights(self, node: onnx.NodeProto | None) -> tuple[int, np.ndarray]:
        if node is None or node.op_type not in (*_KERNEL_AXIS, "Gemm"):
            return 0, np.zeros(0)
        held = {tensor.name: tensor for tensor in self._float.initializer}
        if node.input[1] not in held:
            return 0, np.zeros(0)
        transposed = any(one.name == "transB" and one.i for one in node.attribute)
        axis = _KERNEL_AXIS.get(node.op_type, 0 if transposed else 1)
        return axis, numpy_helper.to_array(held[node.input[1]])

    def _scales(self, operator: onnx.NodeProto) -> int:
        maker = self._makers.get(operator.input[1])
        if maker is None or maker.op_type != _DQ:
            return 0
        return numpy_helper.to_array(self._constants[maker.input[1]]).size

    def with_all_given(self) -> onnx.ModelProto:
        """A copy in which every layer's tensor, as the next one takes it, is an output."""
        copy = onnx.ModelProto()
        copy.CopyFrom(self._engine)
        self._observe(copy, {name: self._dequantised(raw) for name, raw in self._raw.items()})
        return copy

    def cut_apart(self) -> tuple[onnx.ModelProto, dict[str, str]]:
        """A copy in which no operator waits for another, and what to feed to which input."""
        copy = onnx.ModelProto()
        copy.CopyFrom(self._engine)
        names = {raw: name for name, raw in self._raw.items()}
        fed: dict[str, str] = {}
        for node in copy.graph.node:
            for position, tensor in enumerate(node.input):
                if tensor in names:
                    name = names[tensor]
                    node.input[position] = _FED + name
                    fed[_FED + name] = name
        del copy.graph.input[:]
        copy.graph.input.extend(
            onnx.helper.make_tensor_value_info(one, _FLOAT, self._shapes[name])
            for one, name in fed.items()
        )
        given = {}
        for name, raw in self._raw.items():
            source = _FED + name if raw == self.input else raw
            quantiser = self._quantisers.get(raw)
            given[name] = source if quantiser is None else self._rounded(copy, source, quantiser)
        self._observe(copy, given)
        return copy, fed

    def _rounded(self, copy: onnx.ModelProto, raw: str, quantiser: onnx.NodeProto) -> str:
        """A pair of Q and DQ beside the one whose input was cut off."""
        rounded = f"rounded {raw}"
        copy.graph.node.extend(
            [
                onnx.helper.make_node(_Q, [raw, *quantiser.input[1:]], [f"steps of {raw}"]),
                onnx.helper.make_node(_DQ, [f"steps of {raw}", *quantiser.input[1:]], [rounded]),
            ]
        )
        return rounded

    def _observe(self, copy: onnx.ModelProto, given: Mapping[str, str]) -> None:
        del copy.graph.output[:]
        copy.graph.node.extend(
            onnx.helper.make_node("Identity", [tensor], [_GIVEN + name])
            for name, tensor in given.items()
        )
        copy.graph.output.extend(
            onnx.helper.make_tensor_value_info(_GIVEN + name, _FLOAT, None) for name in given
        )
