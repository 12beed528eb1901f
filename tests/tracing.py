"""What a process asks of the kernel."""

from __future__ import annotations

import shutil
import subprocess
from pathlib import Path

import pytest

_CALLS = "trace=fsync,fdatasync,pwrite64,write,rename,renameat,renameat2,unlink"


def traced(command: list[str], folder: Path) -> list[str]:
    """Run a command to its end; its writes, renames and syncs in order, a line each."""
    if shutil.which("strace") is None:
        pytest.skip("strace is not installed: apt-get install strace")
    trace = folder / "trace"
    child = subprocess.run(
        ["strace", "-f", "-y", "-o", str(trace), "-e", _CALLS, *command],
        check=False,
        capture_output=True,
        text=True,
    )
    if child.returncode != 0 and "ptrace" in child.stderr:
        pytest.skip("this machine does not let processes be traced")
    assert child.returncode == 0, child.stderr
    return trace.read_text().splitlines()
