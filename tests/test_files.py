"""files: whole or not there, whatever stops the writer."""

from __future__ import annotations

import os
import signal
import socket
import stat
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

import pytest
from unprivileged import closed

from edgeclin.bundle import Bundle
from edgeclin.config import load_config
from edgeclin.datasets import open_dataset, read_sample
from edgeclin.description import load_description
from edgeclin.errors import BadFile, EdgeclinError
from edgeclin.files import (
    directory_atomic,
    reading,
    require_file,
    require_place_for_page,
    write_atomic,
)
from edgeclin.keys import load_public_key, load_signer
from edgeclin.model_files import read_model
from edgeclin.profiles import load_profile

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
    with pytest.raises(BadFile, match="a NUL in its name"):
        require_file(tmp_path / "nul\0")


# What a person may point at instead of a file


READERS: dict[str, Callable[[Path], object]] = {
    "d.npz": open_dataset,
    "s.npy": read_sample,
    "s.png": read_sample,
    "b.edgeclin": Bundle.open,
    "k.pub": load_public_key,
    "k.key": load_signer,
    "m.keras": read_model,
    "model.toml": load_description,
    "device.toml": load_config,
    "own.toml": lambda path: load_profile(str(path)),
}
every_reader = pytest.mark.parametrize("name", READERS)


@contextmanager
def soon() -> Iterator[None]:
    """Fails rather than wait for ever."""

    def late(*_: object) -> None:
        raise TimeoutError("it blocks")

    before = signal.signal(signal.SIGALRM, late)
    signal.alarm(10)
    try:
        yield
    finally:
        signal.alarm(0)
        signal.signal(signal.SIGALRM, before)


@pytest.fixture(params=["null", "pipe", "socket"])
def special(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Path]:
    """Something that is neither a file nor a folder; a link to it does not hide what it is."""
    path = tmp_path / "special"
    if request.param == "pipe":
        os.mkfifo(path)
    elif request.param == "socket":
        here = Path.cwd()
        os.chdir(tmp_path)  # a socket's path must be short
        with socket.socket(socket.AF_UNIX) as server:
            server.bind("special")
        os.chdir(here)
    else:
        path.symlink_to("/dev/null")
    yield path


@every_reader
def test_what_could_block_or_never_end_is_refused_by_every_reader(
    name: str, special: Path, tmp_path: Path
) -> None:
    path = tmp_path / name
    path.symlink_to(special)
    with soon(), pytest.raises(BadFile, match="not a regular file but a") as caught:
        READERS[name](path)
    assert str(path) in str(caught.value)


def test_a_device_without_an_end_is_never_read() -> None:
    for name, read in READERS.items():
        if name not in ("d.npz", "s.npy", "s.png"):
            with soon(), pytest.raises(BadFile, match="/dev/zero: not a regular file but a device"):
                read(Path("/dev/zero"))


@every_reader
def test_a_folder_in_place_of_a_file_is_one_sentence(name: str, tmp_path: Path) -> None:
    path = tmp_path / name
    path.mkdir()
    with pytest.raises(EdgeclinError) as caught:
        READERS[name](path)
    assert str(path) in str(caught.value)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("name", ["k.pub", "k.key", "model.toml", "device.toml", "own.toml"])
def test_what_a_person_wrote_is_not_read_without_bound(name: str, tmp_path: Path) -> None:
    path = tmp_path / name
    path.touch()
    os.truncate(path, 100 << 30)  # sparse: it takes no room
    with soon(), pytest.raises(BadFile, match=r"larger than \d+ KiB"):
        READERS[name](path)


@every_reader
def test_a_closed_folder_is_one_sentence_from_every_reader(name: str, tmp_path: Path) -> None:
    folder = tmp_path / "closed"
    folder.mkdir()
    (folder / name).touch()
    with suppress(EdgeclinError):
        READERS[name](folder / name)  # imports what it needs
    with (
        closed(folder),
        pytest.raises(BadFile, match=r"cannot be read \(Permission denied\); mend") as caught,
    ):
        READERS[name](folder / name)
    assert str(folder / name) in str(caught.value)


def test_only_what_the_system_refused_is_called_unreadable(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="a bug"), reading(tmp_path):
        raise ValueError("a bug")
    with pytest.raises(BadFile, match="other: no such file"), reading(tmp_path):
        (tmp_path / "other").stat()


def test_a_page_takes_the_place_of_a_page_alone(tmp_path: Path) -> None:
    page, other = tmp_path / "a.html", tmp_path / "b.npz"
    require_place_for_page(page)
    page.write_text("<!DOCTYPE html>\n<title>older</title>")
    require_place_for_page(page)
    other.write_bytes(b"PK\3\4")
    link, pipe = tmp_path / "c.html", tmp_path / "d.html"
    link.symlink_to(page)
    os.mkfifo(pipe)
    for path, said in (
        (other, "exists and is no page"),
        (link, "not a regular file"),
        (pipe, "not a regular file"),
        (tmp_path, "not a regular file"),
        (Path("/dev/full"), "not a regular file"),
        (tmp_path / "none" / "e.html", "not a folder that is there"),
    ):
        with pytest.raises(BadFile, match=said):
            require_place_for_page(path)
    assert other.read_bytes() == b"PK\3\4"
