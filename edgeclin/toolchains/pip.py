"""pip, run in a toolchain's own environment."""

from __future__ import annotations

import os
import re
import subprocess
from collections import deque
from collections.abc import Callable, Sequence
from pathlib import Path

from edgeclin.errors import ConversionFailed

_FETCHED = re.compile(r"(?:Collecting|Processing \S*/)\s*([\w.-]+?)(?:==|-\d)")
_LAST_LINES = 40
_OURS = ("PIP_CONSTRAINT", "PIP_TARGET", "PIP_PREFIX", "PYTHONPATH", "PYTHONHOME", "VIRTUAL_ENV")
"""Settings of the environment that edgeclin runs in, which are not the toolchain's."""


def install(interpreter: Path, requirements: Path, progress: Callable[[str], None]) -> None:
    """Install exactly the packages listed, none of which is built from source.

    Raises:
        ConversionFailed: pip refused; its reason is in the message.
    """
    names = [line for line in requirements.read_text().splitlines() if "==" in line]
    command = [
        *_pip(interpreter), "install", "--no-input", "--no-deps", "--only-binary", ":all:",
        "--progress-bar", "off", "--requirement", str(requirements),
    ]  # fmt: skip
    process = subprocess.Popen(
        command,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        stdin=subprocess.DEVNULL,
        env=_environment(),
        text=True,
    )
    last: deque[str] = deque(maxlen=_LAST_LINES)
    seen = 0
    try:
        assert process.stdout is not None
        for line in process.stdout:
            last.append(line.strip())
            fetched = _FETCHED.match(line)
            if fetched:
                seen += 1
                progress(f"fetching {fetched[1]} ({seen} of {len(names)})")
            elif line.startswith("Installing collected packages"):
                progress("unpacking")
        status = process.wait()
    except BaseException:
        process.kill()
        process.wait()
        raise
    if status != 0:
        raise ConversionFailed(f"pip could not install {requirements.stem}: {_reason(last)}")


def prove(interpreter: Path, modules: Sequence[str]) -> None:
    """Check that the packages fit each other and that the modules import.

    Raises:
        ConversionFailed: they do not; says which.
    """
    for what, command in (
        ("its packages do not fit each other", [*_pip(interpreter), "check"]),
        ("it does not import", [str(interpreter), "-I", "-c", f"import {', '.join(modules)}"]),
    ):
        done = subprocess.run(
            command, capture_output=True, text=True, env=_environment(), check=False
        )
        if done.returncode != 0:
            lines = (done.stderr.strip() or done.stdout.strip()).splitlines()
            raise ConversionFailed(f"{what}: {lines[-1] if lines else 'it said nothing'}")


def _pip(interpreter: Path) -> list[str]:
    return [str(interpreter), "-m", "pip", "--disable-pip-version-check"]


def _environment() -> dict[str, str]:
    return {name: value for name, value in os.environ.items() if name not in _OURS}


def _reason(lines: Sequence[str]) -> str:
    errors = [line for line in lines if line.startswith("ERROR: ")]
    return (errors or list(lines) or ["it said nothing"])[-1].removeprefix("ERROR: ")
