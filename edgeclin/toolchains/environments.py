"""Environments that toolchains live in: whole and proven, or not there.

Each stands in `NAME-DIGEST`, where the digest names its versions. The record in it is written last,
once everything imports; a folder without one is what an interrupted installation left.
"""

from __future__ import annotations

import fcntl
import os
import shutil
import subprocess
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import msgspec

from edgeclin.errors import ConversionFailed, EngineUnavailable
from edgeclin.files import write_atomic, writing
from edgeclin.records import Record
from edgeclin.toolchains.facts import Toolchain
from edgeclin.toolchains.interpreters import find_python
from edgeclin.toolchains.pip import install, prove

_RECORD = "toolchain.json"


class Environment(Record, frozen=True):
    """An environment that was proven: what made it, when, and how large it is."""

    name: str
    folder: str
    python: str
    seconds: float
    size_mb: int

    @property
    def interpreter(self) -> Path:
        """What runs scripts in it."""
        return Path(self.folder) / "bin" / "python"


def default_folder() -> Path:
    """Where toolchains live when nobody says otherwise; `EDGECLIN_TOOLCHAINS` overrides it."""
    data = os.environ.get("XDG_DATA_HOME") or Path.home() / ".local" / "share"
    return Path(os.environ.get("EDGECLIN_TOOLCHAINS") or Path(data) / "edgeclin" / "toolchains")


def installed(toolchain: Toolchain) -> Environment | None:
    """The environment of exactly these versions that this user may run, or None."""
    folder = _place(toolchain)
    try:
        found = msgspec.json.decode((folder / _RECORD).read_bytes(), type=Environment)
        # A folder that was moved or copied names its old place in every script.
        whole = Path(found.folder) == folder and found.interpreter.exists()
    except (OSError, msgspec.DecodeError):
        return None
    return found if whole else None


def require(toolchain: Toolchain) -> Environment:
    """The environment of a toolchain that a conversion needs.

    Raises:
        EngineUnavailable: it is not installed.
    """
    found = installed(toolchain)
    if found is None:
        raise EngineUnavailable(
            f"the toolchain {toolchain.name} ({toolchain.purpose}) is not installed: "
            f"`{toolchain.command}` makes it, about {toolchain.size_mb} MB in {default_folder()}"
        )
    return found


def add(toolchain: Toolchain, python: Path | None, progress: Callable[[str], None]) -> Environment:
    """Make the environment of a toolchain, and prove it; what is there already stays.

    Raises:
        EngineUnavailable: no fitting Python on this machine.
        ConversionFailed: a package cannot be fetched, does not fit, or does not import.
        BadFile: the folder cannot be written.
    """
    folder = _place(toolchain).absolute()
    with writing(folder.parent):
        folder.parent.mkdir(parents=True, exist_ok=True)
    with _only_one(folder.parent):
        found = installed(toolchain)
        if found is not None:
            return found
        base = find_python(toolchain.python, python)
        _require_room(toolchain, folder.parent)
        shutil.rmtree(folder, ignore_errors=True)  # what an interrupted installation left
        began = time.monotonic()
        try:
            made = _make(toolchain, folder, base, began, progress)
        except BaseException:
            shutil.rmtree(folder, ignore_errors=True)
            raise
        for old in _folders(toolchain.name):
            if old != folder:
                shutil.rmtree(old)
    return made


def remove(name: str) -> int:
    """Remove a toolchain's environments, half-made ones too; returns how many there were."""
    if not default_folder().is_dir():
        return 0
    with _only_one(default_folder()):
        folders = _folders(name)
        for folder in folders:
            with writing(folder):
                # Its record goes first, so that half an environment never looks whole.
                (folder / _RECORD).unlink(missing_ok=True)
                shutil.rmtree(folder)
    return len(folders)


def _make(
    toolchain: Toolchain, folder: Path, base: Path, began: float, progress: Callable[[str], None]
) -> Environment:
    progress(f"making an environment with {base}")
    _run_venv(base, folder)
    interpreter = folder / "bin" / "python"
    install(interpreter, toolchain.requirements, progress)
    progress("proving that it is whole")
    prove(interpreter, toolchain.proof)
    size = sum(path.lstat().st_size for path in folder.rglob("*"))
    made = Environment(
        name=toolchain.name,
        folder=str(folder),
        python=toolchain.python,
        seconds=round(time.monotonic() - began, 1),
        size_mb=round(size / 1e6),
    )
    with writing(folder):
        write_atomic(folder / _RECORD, msgspec.json.encode(made))
    return made


def _run_venv(base: Path, folder: Path) -> None:
    done = subprocess.run(
        [base, "-I", "-m", "venv", folder], capture_output=True, text=True, check=False
    )
    if done.returncode != 0:
        lines = (done.stderr or done.stdout).strip().splitlines() or ["it said nothing"]
        raise ConversionFailed(f"{base} cannot make an environment in {folder}: {lines[-1]}")


def _require_room(toolchain: Toolchain, folder: Path) -> None:
    free = shutil.disk_usage(folder).free / 1e6
    if free < toolchain.size_mb:
        raise EngineUnavailable(
            f"{toolchain.name} needs {toolchain.size_mb} MB and {folder} has {free:.0f} MB free; "
            "make room, or set EDGECLIN_TOOLCHAINS to a folder that has it"
        )


def _place(toolchain: Toolchain) -> Path:
    return default_folder().absolute() / f"{toolchain.name}-{toolchain.digest}"


def _folders(name: str) -> list[Path]:
    """All versions of a toolchain, whole or not."""
    return sorted(default_folder().absolute().glob(f"{name}-{'?' * 12}"))


@contextmanager
def _only_one(folder: Path) -> Iterator[None]:
    """One installation at a time; a second one waits and then finds the work done."""
    with writing(folder / ".lock"):
        lock = (folder / ".lock").open("w")
    with lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        yield
