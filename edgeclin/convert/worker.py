"""Runs one converter in a process of its own."""

from __future__ import annotations

import json
import os
import re
import signal
import subprocess
import sys
from collections.abc import Callable
from importlib.metadata import entry_points
from pathlib import Path

import msgspec

from edgeclin.convert.request import LOG, OUTCOME, REQUEST, Outcome, Request
from edgeclin.convert.scratch import unusable
from edgeclin.errors import ConversionFailed, EdgeclinError
from edgeclin.lifeline import end_with

GROUP = "edgeclin.converters"
_ROUTINE = re.compile(r"[IW]\d{4} |WARNING: |.*Warning: ")
"""How lines of the log begin that explain no crash: absl's notices and Python's warnings."""


def converter_names() -> list[str]:
    """The names of all installed converters."""
    return sorted({entry.name for entry in entry_points(group=GROUP)})


def run_converter(name: str, request: Request, progress: Callable[[str], None]) -> Outcome:
    """Run a converter and wait for it.

    Raises:
        ConversionFailed: it refused, crashed, or left no outcome; its log's end is in the message.
    """
    folder = Path(request.folder)
    (folder / REQUEST).write_bytes(msgspec.json.encode(request))
    # What tools leave in their temporary folder goes when this one goes.
    environment = {
        **os.environ,
        "TF_CPP_MIN_LOG_LEVEL": "3",
        "PYTHONUNBUFFERED": "1",
        "TMPDIR": str(folder),
    }
    problem = None
    with (folder / LOG).open("wb") as log:
        process = subprocess.Popen(
            [sys.executable, "-m", "edgeclin.convert.worker", name, str(folder), str(os.getpid())],
            stdout=subprocess.PIPE,
            stderr=log,
            stdin=subprocess.DEVNULL,
            env=environment,
            text=True,
        )
        try:
            assert process.stdout is not None
            for line in process.stdout:
                kind, _, text = line.partition(" ")
                if kind == "stage":
                    progress(json.loads(text))
                elif kind == "problem":
                    problem = json.loads(text)
            status = process.wait()
        except BaseException:
            process.kill()
            process.wait()
            raise
    if problem is not None:
        raise ConversionFailed(f"{name}: {problem}")
    return _outcome(name, folder, status)


def _outcome(name: str, folder: Path, status: int) -> Outcome:
    if status != 0 or not (folder / OUTCOME).exists():
        how = (
            f"was killed by {signal.Signals(-status).name}"
            if status < 0
            else f"ended with {status}"
        )
        log = (folder / LOG).read_text(errors="replace").strip().splitlines()
        lines = [line for line in log if not _ROUTINE.match(line)]
        raise ConversionFailed(f"{name} {how}: {lines[-1] if lines else 'it said nothing'}")
    return msgspec.json.decode((folder / OUTCOME).read_bytes(), type=Outcome)


def main(name: str, folder: Path, parent: int) -> None:
    """The other process: leave the converter's outcome in `folder`, or tell its problem."""
    end_with(parent)
    request = msgspec.json.decode((folder / REQUEST).read_bytes(), type=Request)
    (entry,) = entry_points(group=GROUP, name=name)
    # What tools print on standard output belongs into the log; the pipe is for what `tell` says,
    # a full disk included.
    pipe = os.fdopen(os.dup(1), "w", buffering=1)
    os.dup2(2, 1)

    def tell(kind: str, text: str) -> None:
        print(kind, json.dumps(text), file=pipe)

    try:
        outcome = entry.load()(request, lambda stage: tell("stage", stage))
        (folder / OUTCOME).write_bytes(msgspec.json.encode(outcome))
    except EdgeclinError as exc:
        tell("problem", str(exc))
        sys.exit(1)
    except OSError as exc:
        tell("problem", str(unusable(folder.parents[1], exc)))
        sys.exit(1)


if __name__ == "__main__":
    main(sys.argv[1], Path(sys.argv[2]), int(sys.argv[3]))
