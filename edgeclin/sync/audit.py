"""What this device was told to do and what became of it: JSON lines that are only ever added.

Each line names the SHA-256 of the line before, so that a changed one is found, and the queue's
database remembers the last, so that missing ones are. Neither holds against whoever may write both:
against them there is what the cloud was told, for each reply names the last line.
"""

from __future__ import annotations

import fcntl
import hashlib
import logging
import os
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal, TypeAlias

import msgspec

from edgeclin.errors import BadFile
from edgeclin.files import reading, sync_directory, writing
from edgeclin.offline_queue import OfflineQueue, remembered
from edgeclin.offline_queue.schema import real_path
from edgeclin.records import Record

log = logging.getLogger(__name__)

FIRST = "0" * 64
"""What the first line names as the one before."""
MOST_BYTES = 32 << 20
_MARK = "audit"
What: TypeAlias = Literal["request", "outcome", "refused", "mended", "missing", "changed"]


class Entry(Record, frozen=True, omit_defaults=True):
    """One line.

    Attributes:
        before: SHA-256 of the line before, without its end.
        at: seconds since 1970 by the device's clock.
        what: `request` (it is about to be carried out), `outcome`, `refused`, or what was found
            wrong with the log: `mended` (the line before is cut short), `missing`, `changed`.
        key, number: of a request that counts: signed by that key, and for this device.
        digest: SHA-256 of what was signed.
        count: of refusals before it that no line tells of.
    """

    before: str
    at: float
    what: What
    key: str = ""
    number: int = 0
    digest: str = ""
    command: str = ""
    arguments: dict[str, Any] = {}
    outcome: Literal["", "done", "failed", "unknown"] = ""
    reason: str = ""
    count: int = 0


class Mark(Record, frozen=True):
    """What the queue remembers of its log.

    Attributes:
        numbers: of the last request by each key.
    """

    lines: int = 0
    head: str = FIRST
    numbers: dict[str, int] = {}


@dataclass(slots=True)
class Examination:
    """A log, read from its first line to its last.

    Attributes:
        lines, head, size: of the whole; the head is the last line's SHA-256.
        numbers: of the last request by each key.
        unsettled: a request of which no line says what became.
        changed, missing: what is wrong with it, in sentences.
        torn: whether the last line has no end.
        stated: what lines in it say is wrong with it, in sentences.
        newest: the last lines with their SHA-256; None for one that cannot be read.
    """

    lines: int = 0
    head: str = FIRST
    size: int = 0
    numbers: dict[str, int] = field(default_factory=dict)
    unsettled: Entry | None = None
    changed: list[str] = field(default_factory=list)
    missing: str = ""
    torn: bool = False
    stated: list[str] = field(default_factory=list)
    newest: deque[tuple[str, Entry | None]] = field(default_factory=deque)

    @property
    def problems(self) -> list[str]:
        """All that is wrong, first what was found now."""
        torn = [f"line {self.lines} is cut short"] if self.torn else []
        return [*self.changed, *filter(None, [self.missing]), *torn, *self.stated]


def audit_path(queue: Path) -> Path:
    """Where the log of a queue stands."""
    return Path(f"{queue}.audit.jsonl")


def examine(queue: Path, newest: int) -> Examination:
    """The log of the queue at `queue`, to look at; changes nothing.

    Args:
        newest: how many lines to keep.

    Raises:
        BadFile, QueueUnusable: there is no queue, or one of both cannot be read.
    """
    mark = _mark(remembered(queue, _MARK))  # before the log, which may grow meanwhile
    return _examine(audit_path(real_path(queue)), mark, newest)


class AuditLog:
    """The log of an open queue, whose only writer this process is.

    Opening reads all of it, and adds a line about whatever is found wrong.

    Args:
        clock: seconds since 1970.

    Raises:
        BadFile: it cannot be read or written.
        QueueFull: the disk is full.
    """

    def __init__(self, queue: OfflineQueue, clock: Callable[[], float]) -> None:
        self._queue, self._clock = queue, clock
        self.path = audit_path(queue.path)
        mark = _mark(queue.remembered(_MARK))
        found = _examine(self.path, mark, 0)
        self.lines, self.head, self._size = found.lines, found.head, found.size
        self.numbers = {
            key: max(found.numbers.get(key, 0), mark.numbers.get(key, 0))
            for key in found.numbers.keys() | mark.numbers.keys()
        }
        self.problems = found.problems
        self._state(found)

    @property
    def moved(self) -> bool:
        """Whether the file is another than was written last."""
        try:
            return self.path.stat().st_size != self._size
        except OSError:
            return self._size > 0

    def append(self, what: What, **facts: Any) -> None:
        """Add a line that no power cut takes.

        Raises:
            BadFile: it cannot be written, or the log is full.
            QueueFull: the disk is full; the line may stand all the same.
        """
        if self._size >= MOST_BYTES:
            raise BadFile(
                self.path,
                f"{MOST_BYTES >> 20} MiB are full",
                "keep a copy elsewhere and move it away while `edgeclin sync` is not at work",
            )
        entry = Entry(before=self.head, at=self._clock(), what=what, **facts)
        line = msgspec.json.encode(entry)
        self._write(line + b"\n")
        self.head, self.lines = _sha256(line), self.lines + 1
        if entry.number:
            self.numbers[entry.key] = max(entry.number, self.numbers.get(entry.key, 0))
        mark = Mark(self.lines, self.head, self.numbers)
        self._queue.remember(_MARK, msgspec.json.encode(mark).decode())

    def _state(self, found: Examination) -> None:
        if found.torn:
            self._write(b"\n")
            self.append("mended", reason=f"line {found.lines} is cut short, as by a power cut")
        if found.missing:
            log.error("ALARM: %s: %s", self.path, found.missing)
            self.append("missing", reason=found.missing)
        if fresh := [one for one in found.changed if one not in found.stated]:
            log.error("ALARM: %s: %s", self.path, fresh[0])
            self.append("changed", reason=fresh[0], count=len(fresh))
        if (request := found.unsettled) is not None:
            self.append(
                "outcome",
                digest=request.digest,
                command=request.command,
                outcome="unknown",
                reason="nothing was written of what became of it: the agent ended, or a disk "
                "was full",
            )

    def _write(self, data: bytes) -> None:
        new = not self.path.exists()
        with writing(self.path), _locked(self.path) as descriptor:
            try:
                left = data
                while left:
                    left = left[os.write(descriptor, left) :]
                os.fsync(descriptor)
            except OSError:
                with suppress(OSError):  # else the next who opens it mends it
                    os.ftruncate(descriptor, self._size)
                raise
            if new:
                sync_directory(self.path.parent)
        self._size += len(data)


def _examine(path: Path, mark: Mark, newest: int) -> Examination:
    found = Examination(newest=deque(maxlen=newest))
    marked, unread = mark.lines == 0, 0
    with reading(path), _read(path) as file:
        for raw in file:
            line = raw.removesuffix(b"\n")
            entry = _entry(line)
            found.size += len(raw)
            found.torn = line == raw
            if unread and (entry is None or entry.what != "mended"):
                found.changed.append(f"line {unread} cannot be read")
            found.lines += 1
            unread = 0 if entry is not None else found.lines
            if entry is not None:
                _follow(found, entry)
            found.head = _sha256(line)
            marked = marked or (found.lines, found.head) == (mark.lines, mark.head)
            found.newest.append((found.head, entry))
    if unread and not found.torn:
        found.changed.append(f"line {unread} cannot be read")
    if not marked:
        found.missing = _gone(mark)
    return found


def _follow(found: Examination, entry: Entry) -> None:
    """Take in what a line says, and whether it follows the one before."""
    if entry.before != found.head:
        found.changed.append(f"line {found.lines} does not follow the one before it")
    if entry.number:
        found.numbers[entry.key] = max(entry.number, found.numbers.get(entry.key, 0))
    if entry.what == "request":
        found.unsettled = entry
    elif entry.what == "outcome":
        found.unsettled = None
    elif entry.what in ("missing", "changed"):
        found.stated.append(entry.reason)


def _gone(mark: Mark) -> str:
    return f"line {mark.lines} with the SHA-256 {mark.head} was there, and is not"


def _entry(line: bytes) -> Entry | None:
    try:
        return msgspec.json.decode(line, type=Entry)
    except (msgspec.MsgspecError, UnicodeDecodeError, RecursionError):
        return None


def _mark(text: str | None) -> Mark:
    """A mark; what a damaged database left of one is none."""
    try:
        return Mark() if text is None else msgspec.json.decode(text, type=Mark)
    except (msgspec.MsgspecError, UnicodeError):
        return Mark()


@contextmanager
def _read(path: Path) -> Iterator[Iterable[bytes]]:
    """The lines, while nobody adds one; none where no command has come yet."""
    if not path.exists():
        yield ()
        return
    with path.open("rb") as file:
        fcntl.flock(file, fcntl.LOCK_SH)
        yield file


@contextmanager
def _locked(path: Path) -> Iterator[int]:
    """The file, to add to, while nobody reads it."""
    descriptor = os.open(path, os.O_WRONLY | os.O_APPEND | os.O_CREAT | os.O_NOFOLLOW, 0o600)
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX)
        yield descriptor
    finally:
        os.close(descriptor)


def _sha256(line: bytes) -> str:
    return hashlib.sha256(line).hexdigest()
