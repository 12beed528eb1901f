"""What stands in for an Edge TPU: a delegate that a C compiler makes, and an engine for it."""

from __future__ import annotations

import shutil
import subprocess
from pathlib import Path

import pytest


def library(folder: Path) -> Path:
    """Compile the delegate."""
    compiler = shutil.which("cc")
    if compiler is None:
        pytest.skip("the stand-in for libedgetpu needs a C compiler")
    made = folder / "libedgetpu.so.1"
    source = Path(__file__).parent / "libedgetpu.c"
    subprocess.run([compiler, "-shared", "-fPIC", "-O1", "-o", made, source], check=True)
    return made


def engine() -> bytes:
    """One custom operator from int8 [1, 140, 1] to int8 [1, 5], as the compiler leaves it."""
    flatbuffers = pytest.importorskip("flatbuffers", reason="the convert extra is not installed")
    pytest.importorskip("ai_edge_litert", reason="LiteRT is not installed")
    from ai_edge_litert import schema_py_generated as schema

    def tensor(name: str, shape: list[int], buffer: int) -> object:
        made = schema.TensorT()
        made.name, made.shape, made.type, made.buffer = name, shape, schema.TensorType.INT8, buffer
        made.quantization = schema.QuantizationParametersT()
        made.quantization.scale, made.quantization.zeroPoint = [0.0625], [3]
        return made

    code = schema.OperatorCodeT()
    code.builtinCode = code.deprecatedBuiltinCode = schema.BuiltinOperator.CUSTOM
    code.customCode = "edgetpu-custom-op"
    operator = schema.OperatorT()
    operator.inputs, operator.outputs, operator.opcodeIndex = [0], [1], 0
    graph = schema.SubGraphT()
    graph.tensors = [tensor("beat", [1, 140, 1], 1), tensor("logits", [1, 5], 2)]
    graph.inputs, graph.outputs, graph.operators = [0], [1], [operator]
    model = schema.ModelT()
    model.version, model.operatorCodes, model.subgraphs = 3, [code], [graph]
    model.buffers = [schema.BufferT() for _ in range(3)]
    builder = flatbuffers.Builder(1024)
    builder.Finish(model.Pack(builder), b"TFL3")
    return bytes(builder.Output())
