"""From a Q/DQ ONNX model to a plan, which is what TensorRT calls a built engine's bytes."""

from __future__ import annotations

import time
from dataclasses import dataclass
from typing import Any

from edgeclin.errors import EngineUnavailable
from edgeclin.tensorrt.library import Library, new_logger


@dataclass(frozen=True, slots=True)
class Plan:
    """What a build made.

    Attributes:
        timings: what TensorRT measured on the way, which makes a later build faster.
        flags: the builder's flags as TensorRT itself tells them, its own defaults among them.
        seconds: that the build took.
    """

    data: bytes
    timings: bytes
    flags: tuple[str, ...]
    seconds: float


def parse(library: Library, model: bytes) -> int:
    """Have a TensorRT read a model.

    Returns:
        how many layers its network has.

    Raises:
        EngineUnavailable: the parser refuses it; says at which node and why.
    """
    logger = new_logger(library.module)
    builder = library.module.Builder(logger)
    return int(_network(library, builder, logger, model)[0].num_layers)


def build_plan(library: Library, model: bytes, workspace_mb: int, timings: bytes = b"") -> Plan:
    """Build an engine for the GPU of this machine.

    Args:
        model: ONNX with explicit Q/DQ.
        workspace_mb: the most memory that the engine's layers may take for themselves.
        timings: of an earlier build with the same TensorRT on the same GPU.

    Raises:
        EngineUnavailable: TensorRT refuses the model, or cannot build it here; says why.
    """
    trt = library.module
    logger = new_logger(trt)
    builder = trt.Builder(logger)
    network, _parser = _network(library, builder, logger, model)  # which must live until the end
    config = builder.create_builder_config()
    config.set_memory_pool_limit(trt.MemoryPoolType.WORKSPACE, workspace_mb << 20)
    library.family.configure(trt, config)
    config.set_timing_cache(config.create_timing_cache(timings), ignore_mismatch=False)
    began = time.monotonic()
    plan = builder.build_serialized_network(network, config)
    if plan is None:
        raise EngineUnavailable(f"{library.title} did not build the engine: {_reason(logger)}")
    measured = config.get_timing_cache()
    return Plan(
        data=bytes(plan),
        timings=b"" if measured is None else bytes(measured.serialize()),
        flags=tuple(
            name for name, flag in trt.BuilderFlag.__members__.items() if config.get_flag(flag)
        ),
        seconds=round(time.monotonic() - began, 3),
    )


def _network(library: Library, builder: Any, logger: Any, model: bytes) -> tuple[Any, Any]:
    """The network that a parser makes of the model, and the parser, which owns the weights."""
    network = library.family.create_network(library.module, builder)
    parser = library.module.OnnxParser(network, logger)
    if not parser.parse(model):
        found = [parser.get_error(index) for index in range(parser.num_errors)]
        where = f" at node {found[0].node()}" if found and found[0].node() >= 0 else ""
        reason = found[0].desc() if found else _reason(logger)
        raise EngineUnavailable(f"{library.title} refuses the model{where}: {reason}")
    return network, parser


def _reason(logger: Any) -> str:
    return str(logger.problems[-1]) if logger.problems else "it does not say why"
