"""Files that come into a folder, each of them named once it has come to rest.

The folder is read again and again rather than watched by inotify: what another machine writes on
an NFS or SMB share wakes no inotify here, a restart and an overflow of its events need the whole
folder anyway, and one way that always works is better than two.
"""

from __future__ import annotations

import hashlib
import logging
import os
import re
import stat
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from edgeclin.sources.marks import CLOSED, Mark, hidden, mark, marked, plain, readable

log = logging.getLogger(__name__)

_SUFFIX = re.compile(r"(\.[a-z][a-z0-9]{0,7})?")
_KINDS = 100
REST_S = 2.0
"""Size and time of change of a file must stay the same for so long before it is read."""
MISSING_S = 60.0
"""An empty file, one without read permission and one whose companion is missing have so long to
mend; only then it is told that they cannot be judged."""
TEMPORARY = (".part", ".partial", ".filepart", ".tmp", ".temp", ".crdownload", ".swp", "~")
"""Ends of names that writers give a file which is not whole yet; so is one with a leading dot."""


@dataclass(frozen=True, slots=True)
class Landed:
    """A file that has come to rest.

    Attributes:
        stream: the name of what is in it; another one when its size or time of change is.
        backlog: it was there before it was looked for.
    """

    path: Path
    stream: str
    marks: tuple[Mark, ...]
    companions: tuple[Path, ...]
    backlog: bool


@dataclass(slots=True)
class _File:
    """What is known of a name; `since` when its marks have been what they are."""

    marks: tuple[Mark, ...]
    companions: tuple[Path, ...]
    since: float
    first_seen: float
    backlog: bool
    stream: str | None = None
    told: bool = False


class Landing:
    """The files of a folder that are read, without its subfolders.

    Args:
        reads: whether files with this suffix (lower case) are read.
        companions: the files beside a file that its samples are in, those that are missing too.
        ended: whether a stream needs no more remembering here.
        clock: monotonic seconds.

    Attributes:
        away: why the folder cannot be read; empty while it can be.
    """

    def __init__(
        self,
        folder: Path,
        reads: Callable[[str], bool],
        companions: Callable[[Path], tuple[Path, ...]],
        ended: Callable[[str], bool],
        *,
        rest_s: float = REST_S,
        missing_s: float = MISSING_S,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._folder = folder.absolute()
        self._reads, self._companions, self._ended = reads, companions, ended
        self._rest_s, self._missing_s = rest_s, missing_s
        self._clock = clock
        self._files: dict[str, _File] = {}
        self._told: set[str] = set()
        self._looked = False
        self.away = ""

    def scan(self) -> list[Landed]:
        """Look once, and name the files that came to rest since, oldest change first.

        A folder that cannot be read is told once and is empty until it can be.
        """
        try:
            found = self._own_marks()
        except OSError as exc:
            if not self.away:
                log.error("ALARM: %s: %s; it is waited for", self._folder, exc.strerror)
            self.away = exc.strerror or "unreadable"
            return []
        if self.away:
            log.warning("%s: is there again", self._folder)
            self.away = ""
        for name in self._files.keys() - found.keys():
            # While its samples still wait, it would be judged twice if it came back.
            stream = self._files[name].stream
            if stream is None or self._ended(stream):
                del self._files[name]
        landed = [file for name, own in found.items() if (file := self._landed(name, own))]
        self._looked = True
        return sorted(landed, key=lambda file: (file.marks[0][1], file.path))

    def changed(self, file: Landed) -> bool:
        """Whether it is another one by now, or gone."""
        own = mark(file.path)
        if own[0] >= 0 and not readable(file.path):
            own = CLOSED
        return file.marks != (own, *map(mark, file.companions))

    def forget(self, file: Landed) -> None:
        """Name it again once it has come to rest again."""
        self._files.pop(file.path.name, None)

    def _own_marks(self) -> dict[str, Mark]:
        found = {}
        with os.scandir(self._folder) as entries:
            for entry in entries:
                if entry.name.startswith(".") or entry.name.lower().endswith(TEMPORARY):
                    continue
                _, dot, end = entry.name.rpartition(".")
                suffix = (dot + end).lower() if dot else ""
                if not self._reads(suffix):
                    self._tell(suffix, entry)
                elif (own := self._own_mark(entry)) is not None:
                    found[entry.name] = own
        return found

    def _own_mark(self, entry: os.DirEntry[str]) -> Mark | None:
        """None for a folder."""
        try:
            status = entry.stat()
        except OSError as exc:
            return hidden(exc)
        if stat.S_ISDIR(status.st_mode):
            return None
        known = self._files.get(entry.name)
        was_read = known is not None and known.stream is not None and known.marks[0][0] >= 0
        if not was_read and not readable(entry.path):
            return CLOSED
        return marked(status)

    def _landed(self, name: str, own: Mark) -> Landed | None:
        now, known = self._clock(), self._files.get(name)
        if known is not None and known.marks == (own, *map(mark, known.companions)):
            return None if known.stream is not None else self._rested(name, known, now)
        path = self._folder / name
        companions = self._companions(path)
        waits = known is not None and known.stream is None
        self._files[name] = file = _File(
            marks=(own, *map(mark, companions)),
            companions=companions,
            since=now,
            first_seen=known.first_seen if known is not None and waits else now,
            backlog=not self._looked if known is None else known.backlog and waits,
            told=waits and known is not None and known.told,
        )
        if not file.told and now - file.first_seen >= self._missing_s:
            file.told = True
            log.warning(
                "%s: has been changing for %.0f s; it is read once it stays the same for %g s",
                path,
                now - file.first_seen,
                self._rest_s,
            )
        return None

    def _rested(self, name: str, file: _File, now: float) -> Landed | None:
        whole = all(size > 0 for size, _ in file.marks)
        if now - file.since < (self._rest_s if whole else self._missing_s):
            return None
        path = self._folder / name
        text = f"{path} {file.marks}"
        digest = hashlib.sha256(text.encode("utf-8", "surrogateescape")).hexdigest()[:12]
        file.stream = plain(f"{self._folder.name}/{name}#{digest}")
        return Landed(path, file.stream, file.marks, file.companions, file.backlog)

    def _tell(self, suffix: str, entry: os.DirEntry[str]) -> None:
        if suffix == ".dat":  # of a WFDB record, which its header names
            return
        if entry.is_dir(follow_symlinks=False):
            kind = "subfolders"
        elif _SUFFIX.fullmatch(suffix) and len(self._told) < _KINDS:
            kind = f"files with suffix {suffix!r}"
        else:  # such as numbers, each another one
            kind = "files without a usual suffix"
        if kind not in self._told:
            self._told.add(kind)
            log.warning("%s: %s are not read, such as %s", self._folder, kind, plain(entry.name))
