"""Where an engine spends its time, operator by operator, as far as it tells."""

from __future__ import annotations

import json
import os
import re
import shutil
import subprocess
import tempfile
from collections import defaultdict
from collections.abc import Mapping, Sequence
from pathlib import Path
from statistics import median
from typing import Any, Literal

import numpy as np

from edgeclin.errors import EngineUnavailable
from edgeclin.records import Record

RUNS = 50
_TIMEOUT_S = 120
_ROW = re.compile(
    r"^\s*(?P<kind>\S.*?)\s+(?:[\d.]+\s+)?[\d.]+\s+(?P<mean>[\d.]+)\s+[\d.]+%\s+[\d.]+%\s+[\d.]+\s+"
    r"(?P<times>\d+)\s+(?P<name>\S.*)$"
)
_TABLE = "Operator-wise Profiling Info for Regular Benchmark Runs:"


class Operator(Record, frozen=True):
    """One operator's part of a run: milliseconds, and its share of all operators."""

    name: str
    kind: str
    ms: float
    share: float


class Profiled(Record, frozen=True):
    """All operators, the slowest first, and what measured them. Measuring takes time itself.

    Attributes:
        statistic: of the runs, which `ms` is. A few slow runs make a mean another one's.
    """

    tool: str
    runs: int
    statistic: Literal["median", "mean"]
    operators: tuple[Operator, ...]


def profile_operators(backend: str, model: bytes, sample: np.ndarray, threads: int) -> Profiled:
    """Have an engine profiled.

    Args:
        sample: [1, …] as the engine takes it.

    Raises:
        EngineUnavailable: nothing here profiles this engine; says what would.
    """
    if backend == "onnx":
        return _by_onnxruntime(model, sample, threads)
    if backend == "tflite":
        return _by_benchmark_model(model, threads)
    raise EngineUnavailable(f"the backend {backend} gives no profile of operators")


def _by_onnxruntime(model: bytes, sample: np.ndarray, threads: int) -> Profiled:
    import onnxruntime

    from edgeclin.backends.onnx import session_options

    options = session_options(threads)
    options.enable_profiling = True
    with tempfile.TemporaryDirectory(prefix="edgeclin-profile-") as folder:
        options.profile_file_prefix = str(Path(folder) / "profile")
        session = onnxruntime.InferenceSession(model, options, providers=["CPUExecutionProvider"])
        feed = {session.get_inputs()[0].name: sample}
        for _ in range(RUNS):
            session.run(None, feed)
        events = json.loads(Path(session.end_profiling()).read_bytes())
    return _ordered("ONNX Runtime's profiler", "median", read_events(events))


def read_events(events: Sequence[Mapping[str, Any]]) -> list[tuple[str, str, float]]:
    """Name, kind and median milliseconds a run of each operator, from ONNX Runtime's events of
    `RUNS` runs; one in a loop has several in each."""
    spent: dict[tuple[str, str], list[float]] = defaultdict(list)
    for event in events:
        name = str(event.get("name", ""))
        if event.get("cat") == "Node" and name.endswith("_kernel_time"):
            kind = str(event["args"].get("op_name", "?"))
            spent[name.removesuffix("_kernel_time"), kind].append(event["dur"] / 1000)
    return [(*key, median(took) * len(took) / RUNS) for key, took in spent.items()]


def find_benchmark_model() -> str | None:
    """TensorFlow Lite's `benchmark_model`: named in BENCHMARK_MODEL, or on PATH."""
    return os.environ.get("BENCHMARK_MODEL") or shutil.which("benchmark_model")


def _by_benchmark_model(model: bytes, threads: int) -> Profiled:
    """TensorFlow Lite's own command; LiteRT's interpreter in Python profiles nothing."""
    program = find_benchmark_model()
    if program is None:
        raise EngineUnavailable(
            "LiteRT's Python interpreter profiles no operators, and its litert-benchmark only "
            "whole runs; TensorFlow Lite's command benchmark_model does (put it on PATH, or name "
            "it in BENCHMARK_MODEL)"
        )
    with tempfile.NamedTemporaryFile(prefix="edgeclin-", suffix=".tflite") as file:
        file.write(model)
        file.flush()
        try:
            done = subprocess.run(
                [program, f"--graph={file.name}", f"--num_threads={threads}",
                 f"--num_runs={RUNS}", "--enable_op_profiling=true"],
                stdout=subprocess.PIPE, stderr=subprocess.STDOUT, stdin=subprocess.DEVNULL,
                text=True, errors="replace", timeout=_TIMEOUT_S, check=False,
            )  # fmt: skip
        except (OSError, subprocess.TimeoutExpired) as exc:
            raise EngineUnavailable(f"{program} did not profile the engine ({exc})") from exc
    rows = read_table(done.stdout)
    if not rows:
        raise EngineUnavailable(f"{program} printed no profile (exit {done.returncode})")
    return _ordered(f"benchmark_model ({program})", "mean", rows)


def read_table(text: str) -> list[tuple[str, str, float]]:
    """Name, kind and milliseconds a run of each operator, as benchmark_model prints them."""
    _, found, text = text.partition(_TABLE)
    if not found:
        return []
    run_order = text.partition("Top by Computation Time")[0]
    rows = filter(None, map(_ROW.match, run_order.splitlines()))
    return [(row["name"], row["kind"], float(row["mean"]) * int(row["times"])) for row in rows]


def _ordered(
    tool: str, statistic: Literal["median", "mean"], rows: list[tuple[str, str, float]]
) -> Profiled:
    total = sum(spent for _, _, spent in rows) or 1.0
    operators = [Operator(name, kind, spent, spent / total) for name, kind, spent in rows]
    return Profiled(tool, RUNS, statistic, tuple(sorted(operators, key=lambda one: -one.ms)))
