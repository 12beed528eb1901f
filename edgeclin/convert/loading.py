"""Engines that the kernels of this machine refuse, such as one whose scales are too far apart."""

from __future__ import annotations

from pathlib import Path

import numpy as np

from edgeclin.backends import Backend, load_backend
from edgeclin.convert.stages import Stage, answers, ask
from edgeclin.errors import ConversionFailed, EngineUnavailable
from edgeclin.gates import Gate


def ask_engine(form: str, path: Path, judged: np.ndarray) -> Stage:
    """Execute an engine that a quantiser made on every validation sample, on this machine.

    Returns:
        its stage; where the kernels refuse it, with their reason, and with what LiteRT's built-in
        ones answer: what to compare its layers by, never what to deploy.

    Raises:
        ConversionFailed: no kernels here take it.
    """
    try:
        return ask(form, path, judged)
    except EngineUnavailable as exc:
        if form != "tflite":
            raise ConversionFailed(str(exc)) from exc
        engine = path.read_bytes()
        reason = f"{str(exc).rstrip('.')} (operator {_refused_operator(engine)})"
        try:
            builtin = _builtin(engine)
        except EngineUnavailable:
            raise ConversionFailed(reason) from exc
        return Stage(form, path, answers(builtin, judged), builtin.version, refused=reason)


def gate_of(stage: Stage, samples: int) -> Gate:
    """The gate that an engine misses which cannot be loaded."""
    return Gate.judge(
        "INT8 engine",
        "engines that can be loaded",
        "at least",
        0.0,
        (0.0, 0.0),
        1.0,
        samples,
        hint=stage.refused,
    )


def _refused_operator(engine: bytes) -> str:
    """Kind and tensor of the first operator that no engine may end with, found by halves."""
    from edgeclin.convert.flatbuffer import schema, unpack

    model = unpack(engine)
    graph = model.subgraphs[0]
    fits, refused = 0, len(graph.operators)
    while refused - fits > 1:
        middle = (fits + refused) // 2
        if _loads(_beginning(engine, middle)):
            fits = middle
        else:
            refused = middle
    operator = graph.operators[refused - 1]
    code = model.operatorCodes[operator.opcodeIndex]
    kind = max(code.builtinCode, code.deprecatedBuiltinCode)
    names = {value: name for name, value in vars(schema.BuiltinOperator).items() if name.isupper()}
    name = graph.tensors[operator.outputs[0]].name.decode().split(";")[0]
    return f"{names[kind]} {name}"


def _beginning(engine: bytes, operators: int) -> bytes:
    """An engine of the first operators alone."""
    from edgeclin.convert.flatbuffer import pack, unpack

    model = unpack(engine)
    graph = model.subgraphs[0]
    graph.operators = graph.operators[:operators]
    graph.outputs = graph.operators[-1].outputs
    model.signatureDefs = []
    return pack(model)


def _loads(engine: bytes) -> bool:
    try:
        load_backend("tflite", engine).close()
    except EngineUnavailable:
        return False
    return True


def _builtin(engine: bytes) -> Backend:
    from edgeclin.backends.tflite import TFLiteBackend

    return TFLiteBackend(engine, xnnpack=False)
