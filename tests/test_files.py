"""files: whole or not there, whatever stops the writer."""

from __future__ import annotations

import os
import signal
import stat
import subprocess
import sys
import time
from pathlib import Path

import pytest

from edgeclin.errors import BadFile
from edgeclin.files import directory_atomic, require_file, write_atomic

NOISE = os.urandom(48 << 10)


class Disk:
    """Every fsync and rename, in order, told by the inode: names change, inodes do not."""

    def __init__(self, patch: pytest.MonkeyPatch) -> None:
        self.events: list[tuple[str, int]] = []
        fsync, replace = os.fsync, Path.replace

        def watched_fsync(descriptor: int) -> None:
            self.events.append(("fsync", os.fstat(descriptor).st_ino))
            fsync(descriptor)

        def watched_replace(path: Path, target: Path) -> Path:
            self.events.append(("rename", path.stat().st_ino))
            return replace(path, target)

        patch.setattr(os, "fsync", watched_fsync)
        patch.setattr(Path, "replace", watched_replace)


@pytest.fixture
def disk(monkeypatch: pytest.MonkeyPatch) -> Disk:
    return Disk(monkeypatch)


def test_what_was_written_is_there_with_its_mode(tmp_path: Path) -> None:
    file = tmp_path / "secret"
    write_atomic(file, b"content", mode=0o600)
    assert file.read_bytes() == b"content"
    assert stat.S_IMODE(file.stat().st_mode) == 0o600
    write_atomic(file, b"other")
    assert file.read_bytes() == b"other"
    assert stat.S_IMODE(file.stat().st_mode) == 0o644
    assert list(tmp_path.iterdir()) == [file]


def test_a_file_is_on_the_disk_before_its_name_and_its_name_before_the_return(
    tmp_path: Path, disk: Disk
) -> None:
    write_atomic(tmp_path / "file", b"content")
    inode, folder = (tmp_path / "file").stat().st_ino, tmp_path.stat().st_ino
    assert disk.events == [("fsync", inode), ("rename", inode), ("fsync", folder)]


def test_a_full_disk_leaves_the_old_file_and_nothing_else(full_disk: Path) -> None:
    file = full_disk / "file"
    file.write_bytes(b"old")
    with pytest.raises(OSError):
        write_atomic(file, NOISE)
    assert [entry.name for entry in full_disk.iterdir()] == ["file"]
    assert file.read_bytes() == b"old"


def test_a_full_disk_leaves_no_new_file(full_disk: Path) -> None:
    with pytest.raises(OSError):
        write_atomic(full_disk / "file", NOISE)
    assert not list(full_disk.iterdir())


def test_an_interrupt_leaves_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def interrupt(_: int) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(os, "fsync", interrupt)
    with pytest.raises(KeyboardInterrupt):
        write_atomic(tmp_path / "file", b"content")
    assert not list(tmp_path.iterdir())


def test_a_folder_in_the_way_stays_as_it_is(tmp_path: Path) -> None:
    (tmp_path / "taken" / "inner").mkdir(parents=True)
    with pytest.raises(OSError):
        write_atomic(tmp_path / "taken", b"content")
    assert [entry.name for entry in tmp_path.iterdir()] == ["taken"]


def test_a_missing_folder_is_an_error_not_a_new_folder(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError):
        write_atomic(tmp_path / "absent" / "file", b"content")
    assert not list(tmp_path.iterdir())


WRITER = """
import sys
from pathlib import Path
from edgeclin.files import write_atomic
file, size = Path(sys.argv[1]), 1 << 20
print("ready", flush=True)
while True:
    for byte in (b"a", b"b"):
        write_atomic(file, byte * size)
"""


def test_a_reader_sees_all_or_nothing_whenever_the_writer_is_killed(tmp_path: Path) -> None:
    """Each round kills a writer at another moment, and reads while it writes and after it died."""
    file = tmp_path / "file"
    whole = {bytes([byte]) * (1 << 20) for byte in b"ab"}
    seen: set[bytes] = set()
    for pause_s in (0.0, 0.011, 0.023, 0.037):
        command = [sys.executable, "-c", WRITER, str(file)]
        process = subprocess.Popen(command, stdout=subprocess.PIPE)
        assert process.stdout is not None
        process.stdout.readline()
        until = time.monotonic() + pause_s
        while not file.exists() or time.monotonic() < until:
            if file.exists():
                seen.add(file.read_bytes())
        process.send_signal(signal.SIGKILL)
        process.wait()
        process.stdout.close()
        seen.add(file.read_bytes())
    assert seen <= whole
    assert seen


def test_a_folder_appears_whole_with_every_entry_on_the_disk(tmp_path: Path, disk: Disk) -> None:
    target = tmp_path / "bundle"
    with directory_atomic(target) as draft:
        (draft / "inner").mkdir()
        (draft / "inner" / "deep").write_bytes(b"1")
        (draft / "file").write_bytes(b"2")
        assert not target.exists()
    assert (target / "inner" / "deep").read_bytes() == b"1"
    assert stat.S_IMODE(target.stat().st_mode) == 0o755
    entries = {entry.stat().st_ino for entry in (target, *target.rglob("*"))}
    *before, renamed, after = disk.events
    assert {inode for event, inode in before if event == "fsync"} == entries
    assert renamed == ("rename", target.stat().st_ino)
    assert after == ("fsync", tmp_path.stat().st_ino)


def test_a_failure_in_the_block_leaves_no_folder(tmp_path: Path) -> None:
    with pytest.raises(KeyboardInterrupt), directory_atomic(tmp_path / "bundle") as draft:
        (draft / "file").write_bytes(b"half")
        raise KeyboardInterrupt
    assert not list(tmp_path.iterdir())


def test_a_full_disk_leaves_no_folder(full_disk: Path) -> None:
    with pytest.raises(OSError), directory_atomic(full_disk / "bundle") as draft:
        (draft / "file").write_bytes(NOISE)
    assert not list(full_disk.iterdir())


def test_a_folder_with_something_in_it_is_never_replaced(tmp_path: Path) -> None:
    (tmp_path / "bundle").mkdir()
    (tmp_path / "bundle" / "old").write_bytes(b"old")
    with pytest.raises(OSError), directory_atomic(tmp_path / "bundle") as draft:
        (draft / "new").write_bytes(b"new")
    assert [entry.name for entry in tmp_path.rglob("*")] == ["bundle", "old"]


def test_an_empty_folder_may_be_replaced(tmp_path: Path) -> None:
    (tmp_path / "bundle").mkdir()
    with directory_atomic(tmp_path / "bundle") as draft:
        (draft / "new").write_bytes(b"new")
    assert [entry.name for entry in tmp_path.rglob("*")] == ["bundle", "new"]


def test_a_path_without_a_readable_file_is_refused_with_its_name(tmp_path: Path) -> None:
    with pytest.raises(BadFile, match="absent: no such file"):
        require_file(tmp_path / "absent")
    with pytest.raises(BadFile, match="a folder, expected a file"):
        require_file(tmp_path)
    (tmp_path / "file").touch()
    with pytest.raises(BadFile, match="cannot be read"):
        require_file(tmp_path / "file" / "below")
    with pytest.raises(BadFile, match="cannot be read"):
        require_file(tmp_path / ("long" * 100))
    require_file(tmp_path / "file")
