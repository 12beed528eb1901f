"""What the Edge TPU compiler will probably do with an engine, read from the engine's flatbuffer.

A prediction, by the rules of `edgetpu_rules`: only the compiler's own log says what was mapped.
Compiler 16 understands operators of TensorFlow 2.5's age.
"""

from __future__ import annotations

import re
from typing import Any, Literal

import msgspec

from edgeclin.convert.edgetpu_operator import Operator
from edgeclin.convert.edgetpu_rules import objections
from edgeclin.convert.flatbuffer import unpack
from edgeclin.records import Record

_NEWEST_RUNTIME = (2, 5, 0)
_RANK = {"Edge TPU": 0, "uncertain": 1, "CPU": 2}


class Mapping(Record, frozen=True):
    """Where one operator will probably run, and why."""

    operator: str
    version: int
    output: str
    predicted: Literal["Edge TPU", "uncertain", "CPU"]
    reason: str = ""
    remedy: str = ""


class Preflight(Record, frozen=True):
    """All operators in the order of execution; sizes in bytes."""

    operators: tuple[Mapping, ...]
    parameter_bytes: int
    on_chip_bytes: int
    minimum_runtime: str
    """The TensorFlow Lite that the engine itself says it needs; empty when it does not."""

    @property
    def mapped(self) -> int:
        """How many operators will probably run on the Edge TPU."""
        return sum(one.predicted == "Edge TPU" for one in self.operators)

    @property
    def end(self) -> Mapping | None:
        """The operator that ends the part on the Edge TPU, or may end it."""
        return next((one for one in self.operators if one.predicted != "Edge TPU"), None)

    @property
    def sentence(self) -> str:
        fits = "fit" if self.parameter_bytes <= self.on_chip_bytes else "do not fit"
        size = f"{self.parameter_bytes:,} bytes of parameters {fits}"
        uncertain = sum(one.predicted == "uncertain" for one in self.operators)
        perhaps = f" ({uncertain} more are uncertain)" if uncertain else ""
        return (
            f"predicted, not compiled: {self.mapped} of {len(self.operators)} operators on the "
            f"Edge TPU{perhaps}; {size} into about {self.on_chip_bytes >> 20} MiB on the chip"
            + self._too_new()
        )

    def _too_new(self) -> str:
        needed = tuple(int(part) for part in re.findall(r"\d+", self.minimum_runtime))
        if needed <= _NEWEST_RUNTIME:
            return ""
        newest = ".".join(map(str, _NEWEST_RUNTIME))
        return f"; it needs TensorFlow Lite {self.minimum_runtime}, compiler 16 knows {newest}"


def preflight(engine: bytes, on_chip_mb: float) -> Preflight:
    """Judge every operator; after the first one that stays on the CPU all others do, and after the
    first uncertain one all others are.

    Args:
        on_chip_mb: memory for parameters on the accelerator, which its program shares.
    """
    model = unpack(engine)
    graph = model.subgraphs[0]
    found: list[Mapping] = []
    end: Mapping | None = None
    for operator in graph.operators:
        judged = _judge(Operator(operator, graph, model))
        if end is not None and judged.predicted != "CPU":
            judged = msgspec.structs.replace(
                judged,
                predicted=end.predicted,
                reason=f"after {end.operator}: there is one part, from the first operator on",
                remedy=f"mend {end.operator} ({end.output})",
            )
        if _RANK[judged.predicted] > _RANK["Edge TPU" if end is None else end.predicted]:
            end = judged
        found.append(judged)
    parameters = sum(
        len(model.buffers[tensor.buffer].data)
        for tensor in graph.tensors
        if model.buffers[tensor.buffer].data is not None
    )
    return Preflight(tuple(found), parameters, int(on_chip_mb * (1 << 20)), _minimum_runtime(model))


def custom_operators(engine: bytes) -> list[str]:
    """The custom operators of an engine, in the order of execution."""
    model = unpack(engine)
    operators = model.subgraphs[0].operators
    codes = [model.operatorCodes[one.opcodeIndex].customCode for one in operators]
    return [code.decode() for code in codes if code]


def _minimum_runtime(model: Any) -> str:
    for entry in model.metadata or []:
        if entry.name == b"min_runtime_version":
            return bytes(model.buffers[entry.buffer].data).rstrip(b"\0").decode()
    return ""


def _judge(operator: Operator) -> Mapping:
    mapping = Mapping(
        operator=operator.name,
        version=operator.version,
        output=operator.outputs[0].name.decode(),
        predicted="Edge TPU",
    )
    worst = max(objections(operator), key=lambda one: one.certain, default=None)
    if worst is None:
        return mapping
    return msgspec.structs.replace(
        mapping,
        predicted="CPU" if worst.certain else "uncertain",
        reason=worst.reason,
        remedy=worst.remedy,
    )
