"""How much a process has a disk write, as the kernel counts it."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

from edgeclin import flash
from edgeclin.benchmark.machine import filesystem

WRITE = """
import os, sys
from edgeclin.flash import written
before = written()
with open(sys.argv[1], "wb") as file:
    file.write(bytes(3_000_000))
    file.flush()
    os.fsync(file.fileno())
print(written() - before)
"""


@pytest.mark.skipif(flash.written() is None, reason="the kernel does not count")
def test_it_is_what_was_written(tmp_path: Path) -> None:
    if filesystem(tmp_path) == "tmpfs":
        pytest.skip("no disk is behind the temporary folder")
    command = [sys.executable, "-c", WRITE, str(tmp_path / "file")]
    done = subprocess.run(command, capture_output=True, text=True, check=True)
    assert 3_000_000 <= int(done.stdout) < 4_000_000


def test_where_nobody_counts_it_is_unknown(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(flash, "_IO", tmp_path / "not there")
    assert flash.written() is None
    (tmp_path / "io").write_text("rchar: 1\nwrite_bytes: 4096\ncancelled_write_bytes: 0\n")
    monkeypatch.setattr(flash, "_IO", tmp_path / "io")
    assert flash.written() == 4096
