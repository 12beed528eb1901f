"""Where on this machine a Python of a certain version is."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

from edgeclin.errors import EngineUnavailable

_ASK = "import ensurepip, venv, sys; print('%d.%d' % sys.version_info[:2])"
_PATIENCE_S = 20


def find_python(version: str, given: Path | None = None) -> Path:
    """A Python of that version that can make virtual environments.

    Looks at `given` alone, or on PATH, at the Python that runs now, and at pyenv's versions.

    Raises:
        EngineUnavailable: there is none.
    """
    if given is not None:
        found = _version(given)
        if found != version:
            what = f"is Python {found}" if found else "is no Python that can make environments"
            raise EngineUnavailable(f"{given} {what}; Python {version} is needed")
        return given
    for candidate in _candidates(version):
        if _version(candidate) == version:
            return candidate
    raise EngineUnavailable(
        f"no Python {version} with venv found on PATH or in pyenv; install one, or name it with "
        "--python"
    )


def _candidates(version: str) -> Iterator[Path]:
    on_path = shutil.which(f"python{version}")
    if on_path:
        yield Path(on_path)
    yield Path(sys.executable)
    pyenv = Path(os.environ.get("PYENV_ROOT") or Path.home() / ".pyenv")
    yield from sorted(pyenv.glob(f"versions/{version}.*/bin/python{version}"), reverse=True)


def _version(python: Path) -> str | None:
    """What the interpreter itself says; None when it cannot run or lacks venv.

    pyenv's shims stand on PATH for versions that are not chosen, and then fail.
    """
    try:
        done = subprocess.run(
            [python, "-I", "-c", _ASK],
            capture_output=True,
            text=True,
            timeout=_PATIENCE_S,
            check=False,
        )
    except (OSError, subprocess.TimeoutExpired):
        return None
    return done.stdout.strip() if done.returncode == 0 else None
