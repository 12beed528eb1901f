"""Builds or checks in a process of its own, so that a crash of TensorRT is an error message.

A build also holds the interpreter for minutes: only the other process's end can interrupt it.
"""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from pathlib import Path
from typing import Any

from edgeclin.errors import EdgeclinError, EngineUnavailable
from edgeclin.lifeline import end_with

_CHECK_MB = 1024
MODEL, PLAN, TIMINGS = "model.onnx", "engine.plan", "timings.bin"


def check_here(folder: Path) -> dict[str, Any]:
    """Have the TensorRT that is here parse the model in a folder, or TensorRT-RTX also build it.

    Returns:
        `title` of what took it, the number of `layers`, and whether it was `built`.

    Raises:
        EngineUnavailable: neither is here, or it refuses the model or crashes.
    """
    return _call("check", folder)


def build_here(folder: Path, workspace_mb: int) -> dict[str, Any]:
    """Build the plan of the model in a folder, with the timings that lie there, if any.

    Returns:
        `flags` and `seconds` as in `edgeclin.tensorrt.plan.Plan`.

    Raises:
        EngineUnavailable: TensorRT refuses or crashes.
        OSError: the folder is full.
    """
    return _call("build", folder, str(workspace_mb))


def _call(task: str, folder: Path, *arguments: str) -> dict[str, Any]:
    process = subprocess.Popen(
        [sys.executable, "-m", __name__, task, str(os.getpid()), str(folder), *arguments],
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        errors="replace",
    )
    try:
        said, log = process.communicate()
    except BaseException:
        process.kill()
        process.wait()
        raise
    answer: dict[str, Any] = (
        json.loads(said) if said else {"problem": _crash(process.returncode, log)}
    )
    if "errno" in answer:
        raise OSError(answer["errno"], os.strerror(answer["errno"]))
    if "problem" in answer:
        raise EngineUnavailable(answer["problem"])
    return answer


def _crash(status: int, log: str) -> str:
    how = f"was killed by {signal.Signals(-status).name}" if status < 0 else f"ended with {status}"
    lines = log.strip().splitlines()
    return f"the process that asks TensorRT {how}: {lines[-1] if lines else 'it said nothing'}"


def main(task: str, parent: int, folder: Path, arguments: list[str]) -> None:
    """The other process: leave files in `folder`, and one JSON object on standard output."""
    end_with(parent)
    # What TensorRT prints belongs into the log; the pipe is for the answer.
    pipe = os.fdopen(os.dup(1), "w")
    os.dup2(2, 1)
    try:
        answer = _check(folder) if task == "check" else _build(folder, int(arguments[0]))
    except EdgeclinError as exc:
        answer = {"problem": str(exc)}
    except OSError as exc:
        answer = {"errno": exc.errno}
    with pipe:
        pipe.write(json.dumps(answer))


def _check(folder: Path) -> dict[str, Any]:
    from edgeclin.tensorrt.library import load_library, load_rtx
    from edgeclin.tensorrt.plan import build_plan, parse

    model = (folder / MODEL).read_bytes()
    try:
        library, other = load_library(), False
    except EngineUnavailable:
        library, other = load_rtx(), True
    layers = parse(library, model)
    if other:  # it needs no GPU, and refuses more when it builds than when it parses
        build_plan(library, model, _CHECK_MB)
    return {"title": library.title, "layers": layers, "built": other}


def _build(folder: Path, workspace_mb: int) -> dict[str, Any]:
    from edgeclin.tensorrt.library import load_library
    from edgeclin.tensorrt.plan import build_plan

    timings = folder / TIMINGS
    known = timings.read_bytes() if timings.exists() else b""
    model = (folder / MODEL).read_bytes()
    plan = build_plan(load_library(), model, workspace_mb, known)
    (folder / PLAN).write_bytes(plan.data)
    timings.write_bytes(plan.timings)
    return {"flags": plan.flags, "seconds": plan.seconds}


if __name__ == "__main__":
    main(sys.argv[1], int(sys.argv[2]), Path(sys.argv[3]), sys.argv[4:])
