"""An engine called as its own library has it, without anything of edgeclin.

Run as a script it is the bare process that edgeclin's memory and start are compared with:
`python bare_engine.py BACKEND ENGINE INPUT.npy THREADS STARTED_NS RUNS` prints JSON. Nothing of
edgeclin may be imported here.
"""

from __future__ import annotations

import json
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any, TypeAlias

import numpy as np

Call: TypeAlias = Callable[[], Any]
"""Sets the input, invokes, and gets the output."""


def bare_tflite(model: bytes, sample: np.ndarray, threads: int) -> Call:
    """LiteRT: set_tensor, invoke, get_tensor.

    Args:
        sample: [1, …] of the engine's own dtype.
    """
    from ai_edge_litert.interpreter import Interpreter

    engine = Interpreter(model_content=model, num_threads=threads)
    engine.allocate_tensors()
    given = engine.get_input_details()[0]["index"]
    wanted = engine.get_output_details()[0]["index"]

    def call() -> Any:
        engine.set_tensor(given, sample)
        engine.invoke()
        return engine.get_tensor(wanted)

    return call


def bare_onnx(model: bytes, sample: np.ndarray, threads: int) -> Call:
    """ONNX Runtime: one run of a session."""
    import onnxruntime

    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = threads
    options.log_severity_level = 3
    options.add_session_config_entry("session.x64quantprecision", "1")  # the same sums
    session = onnxruntime.InferenceSession(model, options, providers=["CPUExecutionProvider"])
    given, wanted = session.get_inputs()[0].name, session.get_outputs()[0].name
    return lambda: session.run([wanted], {given: sample})


BARE: dict[str, Callable[[bytes, np.ndarray, int], Call]] = {
    "tflite": bare_tflite,
    "onnx": bare_onnx,
}
"""By the backend's name."""


def memory_mb() -> tuple[float, float]:
    """This program's resident memory now, and its most so far.

    Not getrusage(2): its most is that of the process, so of what started this program too.
    """
    lines = Path("/proc/self/status").read_text().splitlines()
    facts = dict(line.split(":", 1) for line in lines)
    now, most = (int(facts[name].split()[0]) / 1024 for name in ("VmRSS", "VmHWM"))
    return now, most


def main(backend: str, engine: str, sample: str, threads: str, started: str, runs: str) -> None:
    """Load, answer, and print times since `started` (CLOCK_MONOTONIC, ns; in ms) and memory."""

    def since() -> float:
        return (time.monotonic_ns() - int(started)) / 1e6

    interpreter = since()
    call = BARE[backend](Path(engine).read_bytes(), np.load(sample), int(threads))
    ready = since()
    call()
    first = since()
    for _ in range(int(runs)):
        call()
    now, most = memory_mb()
    facts = {"interpreter": interpreter, "ready": ready, "first": first}
    print(json.dumps({**facts, "rss_mb": now, "peak_mb": most}))


if __name__ == "__main__":
    main(*sys.argv[1:])
