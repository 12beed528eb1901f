"""Runs one converter in a process of its own."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from collections.abc import Callable
from importlib.metadata import entry_points
from pathlib import Path

import msgspec

from edgeclin.convert.request import LOG, OUTCOME, PROBLEM, REQUEST, Outcome, Request
from edgeclin.errors import ConversionFailed, EdgeclinError, EngineUnavailable

GROUP = "edgeclin.converters"


def converter_names() -> list[str]:
    """The names of all installed converters."""
    return sorted({entry.name for entry in entry_points(group=GROUP)})


def require_converter(target: str, source: str) -> str:
    """The converter that makes `target` engines from `source` models.

    Raises:
        EngineUnavailable: none is installed.
    """
    name = f"{target.replace('-', '_')}_from_{source}"
    if name not in converter_names():
        raise EngineUnavailable(
            f"no converter makes {target} engines from {source} models yet; there are: "
            f"{', '.join(converter_names()) or 'none'}"
        )
    return name


def run_converter(name: str, request: Request, progress: Callable[[str], None]) -> Outcome:
    """Run a converter and wait for it.

    Raises:
        ConversionFailed: it refused, crashed, or left no outcome; its log's end is in the message.
    """
    folder = Path(request.folder)
    (folder / REQUEST).write_bytes(msgspec.json.encode(request))
    environment = {**os.environ, "TF_CPP_MIN_LOG_LEVEL": "3", "PYTHONUNBUFFERED": "1"}
    with (folder / LOG).open("wb") as log:
        process = subprocess.Popen(
            [sys.executable, "-m", "edgeclin.convert.worker", name, str(folder)],
            stdout=subprocess.PIPE,
            stderr=log,
            stdin=subprocess.DEVNULL,
            env=environment,
            text=True,
        )
        try:
            assert process.stdout is not None
            for line in process.stdout:
                if line.startswith("stage "):
                    progress(json.loads(line.removeprefix("stage ")))
            status = process.wait()
        except BaseException:
            process.kill()
            process.wait()
            raise
    return _outcome(name, folder, status)


def _outcome(name: str, folder: Path, status: int) -> Outcome:
    problem = folder / PROBLEM
    if problem.exists():
        raise ConversionFailed(f"{name}: {problem.read_text()}")
    if status != 0 or not (folder / OUTCOME).exists():
        how = (
            f"was killed by {signal.Signals(-status).name}"
            if status < 0
            else f"ended with {status}"
        )
        lines = (folder / LOG).read_text(errors="replace").strip().splitlines()
        raise ConversionFailed(f"{name} {how}: {lines[-1] if lines else 'it said nothing'}")
    return msgspec.json.decode((folder / OUTCOME).read_bytes(), type=Outcome)


def main(name: str, folder: Path) -> None:
    """The other process: load the converter and leave its outcome, or its problem, in `folder`."""
    request = msgspec.json.decode((folder / REQUEST).read_bytes(), type=Request)
    (entry,) = entry_points(group=GROUP, name=name)
    # What tools print on standard output belongs into the log; the pipe is for stages alone.
    stages = os.fdopen(os.dup(1), "w", buffering=1)
    os.dup2(2, 1)
    try:
        outcome = entry.load()(
            request, lambda stage: print("stage", json.dumps(stage), file=stages)
        )
    except EdgeclinError as exc:
        (folder / PROBLEM).write_text(str(exc))
        sys.exit(1)
    (folder / OUTCOME).write_bytes(msgspec.json.encode(outcome))


if __name__ == "__main__":
    main(sys.argv[1], Path(sys.argv[2]))
