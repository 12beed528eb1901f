"""Static ONNX models to float TFLite, by onnx2tf in an environment of its own.

onnx2tf overwrites its input, and may end well without an engine or with one of another shape or
layout: it gets a copy, and what it made is checked here.
"""

from __future__ import annotations

import json
import os
import subprocess
from collections.abc import Callable
from importlib.resources import files
from pathlib import Path

import numpy as np

from edgeclin.backends.onnx import ONNXBackend
from edgeclin.convert.plain_onnx import INPUT, make_plain
from edgeclin.convert.request import Outcome, Request
from edgeclin.errors import ConversionFailed, MissingExtra
from edgeclin.toolchains import load_toolchain, require

try:
    import onnx
    from ai_edge_litert.interpreter import Interpreter
except ImportError as exc:
    raise MissingExtra("onnx and LiteRT, which make TFLite models,", "convert") from exc


def convert(request: Request, report: Callable[[str], None]) -> Outcome:
    """Make a float engine that takes what the ONNX model takes, in the same layout.

    Raises:
        EngineUnavailable: the toolchain is not installed.
        ConversionFailed: onnx2tf refused or crashed, or what it made is not what was asked.
    """
    folder, source = Path(request.folder), Path(request.model)
    environment = require(load_toolchain("onnx2tf"))
    before = source.read_bytes()
    report("asking the ONNX model itself")
    samples = np.load(request.samples, mmap_mode="r")
    asked = ONNXBackend(before, threads=2)
    np.save(folder / "answers.npy", np.stack([asked.run(np.array(one)) for one in samples]))
    report("making the float engine")
    model = onnx.load_from_string(before)
    shape = make_plain(model)
    place = folder / "onnx2tf"
    place.mkdir()
    onnx.save(model, place / "model.onnx")
    _run(environment.interpreter, place)
    if source.read_bytes() != before:
        raise ConversionFailed("onnx2tf changed the model that it was not given")
    made = place / "model_float32.tflite"
    if not made.is_file():
        raise ConversionFailed("onnx2tf ended without an error and without a TFLite model")
    _check(made, shape)
    made.replace(folder / "float.tflite")
    tools = {"onnx": onnx.__version__, **json.loads((place / "tools.json").read_bytes())}
    return Outcome(file="float.tflite", answers="answers.npy", tools=tools)


def _run(interpreter: Path, place: Path) -> None:
    runner = str(files("edgeclin.toolchains") / "run_onnx2tf.py")
    environment = {name: value for name, value in os.environ.items() if name != "PYTHONPATH"}
    done = subprocess.run(
        [interpreter, "-I", runner, place / "model.onnx", place, INPUT, str(os.getpid())],
        cwd=place,
        env=environment,
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        errors="replace",
        check=False,
    )
    print(done.stdout)  # into this converter's log
    if done.returncode != 0:
        lines = [line for line in done.stdout.splitlines() if line.strip()] or ["it said nothing"]
        raise ConversionFailed(f"onnx2tf ended with {done.returncode}: {lines[-1].strip()}")


def _check(path: Path, shape: tuple[int, ...]) -> None:
    """Refuse an engine that is damaged, or whose input is not exactly the ONNX model's."""
    try:
        engine = Interpreter(str(path))
        inputs, outputs = engine.get_input_details(), engine.get_output_details()
    except (ValueError, RuntimeError) as exc:
        raise ConversionFailed("onnx2tf made a TFLite model that LiteRT cannot read") from exc
    if len(inputs) != 1 or len(outputs) != 1:
        raise ConversionFailed(
            f"onnx2tf made a model with {len(inputs)} inputs and {len(outputs)} outputs"
        )
    found = tuple(int(size) for size in inputs[0]["shape_signature"])
    kind = np.dtype(inputs[0]["dtype"]).name
    if found != shape or kind != "float32":
        raise ConversionFailed(
            f"onnx2tf made a model that takes {kind} {list(found)}, the ONNX model takes float32 "
            f"{list(shape)}"
        )
