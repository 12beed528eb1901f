"""What a disk may hold after a power cut: what a process wrote is recorded with strace, and any of
it that was not synced is dropped, torn, or kept.

The model is POSIX's, which promises less than any file system keeps: the bytes of a file are there
once it was synced, its name once the folder was; of all else any part may be.
"""

from __future__ import annotations

import random
import re
import shutil
import subprocess
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path

SECTOR = 512
_CALLS = "openat,write,pwrite64,fdatasync,fsync,ftruncate,unlink,rename,mkdir"
_WHOLE = re.compile(r"(\d+) +([\d.]+) (\w+)\((.*)\) += (-?\d+).*")
_BEGUN = re.compile(r"(\d+) +[\d.]+ (\w+)\((.*) <unfinished \.\.\.>")
_ENDED = re.compile(r"(\d+) +([\d.]+) <\.\.\. (\w+) resumed>(.*)\) += (-?\d+).*")
_TEXT = re.compile(r'[<"]((?:\\x[0-9a-f]{2})*)[>"]')


@dataclass(frozen=True)
class Call:
    """One call of the kernel that succeeded, when it had: its arguments between the texts."""

    name: str
    at: float
    texts: tuple[bytes, ...]
    arguments: str

    @property
    def path(self) -> str:
        return self.texts[0].decode()


def traceable() -> bool:
    """Whether this machine has strace and lets it look."""
    tool = shutil.which("strace")
    return (
        tool is not None
        and not subprocess.run(
            [tool, "-o", "/dev/null", "true"], capture_output=True, check=False
        ).returncode
    )


def record(command: Sequence[str], log: Path) -> None:
    """Run a command, and write down what it writes."""
    options = ["-f", "-y", "-ttt", "-xx", "-s", "10000000", "-e", f"trace={_CALLS}", "-o", str(log)]
    subprocess.run(["strace", *options, *command], check=True)


def calls(log: Path) -> Iterator[Call]:
    """What was recorded, in the order in which it was done."""
    begun: dict[str, str] = {}
    with log.open() as lines:
        for line in lines:
            if match := _BEGUN.match(line):
                begun[match[1]] = match[3]
                continue
            if match := _ENDED.match(line):
                process, at, name, rest, result = match.groups()
                arguments = begun.pop(process) + rest
            elif match := _WHOLE.match(line):
                _, at, name, arguments, result = match.groups()
            else:
                continue
            if int(result) >= 0:
                texts = tuple(
                    bytes.fromhex(text.replace("\\x", "")) for text in _TEXT.findall(arguments)
                )
                yield Call(name, float(at), texts, _TEXT.sub("", arguments))


@dataclass
class _File:
    """Bytes that are on the disk, and writes that may be; a write without data sets the length."""

    durable: bytearray = field(default_factory=bytearray)
    size: int = 0
    pending: list[tuple[int, bytes | None]] = field(default_factory=list)

    def sync(self) -> None:
        for at, data in self.pending:
            _apply(self.durable, at, data)
        self.pending.clear()

    def after(self, chance: random.Random, kept: float) -> bytes:
        """What is there after a cut, with that share of the writes that were not synced."""
        found = bytearray(self.durable)
        for at, data in self.pending:
            if chance.random() >= kept:
                continue
            if data is not None and kept < 1 and chance.random() < 0.2:
                data = data[: chance.randrange(len(data) // SECTOR + 1) * SECTOR]
            _apply(found, at, data)
        return bytes(found)


class Disk:
    """One folder, written to as was recorded."""

    def __init__(self, folder: Path) -> None:
        self._folder = str(folder)
        self._names: dict[str, _File | None] = {}
        self._durable: dict[str, _File | None] = {}
        self._pending: list[tuple[str, str, _File | None]] = []

    def do(self, call: Call) -> None:
        """Take in one call; those outside the folder change nothing."""
        if call.name == "openat":
            self._open(call.texts[-1].decode(), call.arguments)
        elif call.name == "mkdir":
            self._name(call.path, None)
        elif call.name == "unlink" and call.path in self._names:
            self._unname(call.path)
        elif call.name == "rename" and call.path in self._names:
            source, target = (text.decode() for text in call.texts[:2])
            file = self._unname(source)
            self._name(target, file)
        elif call.name in ("fsync", "fdatasync"):
            self._sync(call.path)
        elif (file := self._names.get(call.path)) is not None:
            self._write(file, call)

    def after_cut(self, folder: Path, chance: random.Random, kept: float) -> None:
        """Make a folder as it is after a cut now."""
        names = self._durable.copy()
        share = chance.randrange(len(self._pending) + 1) if 0 < kept < 1 else None
        for what, name, file in self._pending[: share if kept < 1 else None] if kept else ():
            _rename(names, what, name, file)
        folder.mkdir()
        for name in sorted(names):
            path = folder / Path(name).relative_to(self._folder)
            file = names[name]
            if not path.parent.is_dir() or name.endswith("-shm"):
                continue
            if file is None:
                path.mkdir()
            else:
                path.write_bytes(file.after(chance, kept))

    def _open(self, path: str, arguments: str) -> None:
        if not path.startswith(f"{self._folder}/") or "O_DIRECTORY" in arguments:
            return
        if "O_CREAT" in arguments and path not in self._names:
            self._name(path, _File())
        file = self._names.get(path)
        if file is not None and "O_TRUNC" in arguments:
            file.size = 0
            file.pending.append((0, None))

    def _write(self, file: _File, call: Call) -> None:
        if call.name == "ftruncate":
            file.size = int(call.arguments.rsplit(",", 1)[1])
            file.pending.append((file.size, None))
            return
        at = int(call.arguments.rsplit(",", 1)[1]) if call.name == "pwrite64" else file.size
        file.pending.append((at, call.texts[-1]))
        file.size = max(file.size, at + len(call.texts[-1]))

    def _sync(self, path: str) -> None:
        file = self._names.get(path)
        if file is not None:
            file.sync()
            return
        own = [one for one in self._pending if str(Path(one[1]).parent) == path]
        self._pending = [one for one in self._pending if one not in own]
        for what, name, renamed in own:
            _rename(self._durable, what, name, renamed)

    def _name(self, path: str, file: _File | None) -> None:
        if path.startswith(f"{self._folder}/"):
            self._names[path] = file
            self._pending.append(("add", path, file))

    def _unname(self, path: str) -> _File | None:
        file = self._names.pop(path)
        self._pending.append(("remove", path, file))
        return file


def _rename(names: dict[str, _File | None], what: str, name: str, file: _File | None) -> None:
    if what == "add":
        names[name] = file
    else:
        names.pop(name, None)


def _apply(found: bytearray, at: int, data: bytes | None) -> None:
    if data is None:
        del found[at:]
    found.extend(bytes(max(0, at - len(found))))
    if data is not None:
        found[at : at + len(data)] = data
