"""Damaged queues: each in a folder of its own beside the queue, until somebody deletes it."""

from __future__ import annotations

import logging
import re
import sqlite3
import time
from contextlib import closing
from pathlib import Path
from typing import Annotated

import msgspec

from edgeclin.files import sync_directory, write_atomic
from edgeclin.offline_queue.keyring import Keyring
from edgeclin.offline_queue.salvage import Salvaged, salvage

log = logging.getLogger(__name__)

SUFFIXES = (".payloads", "", "-wal", "-shm")
"""Of what belongs together. The payloads go first, for whoever opens a new queue sweeps them; then
the database: without it, whoever opens the queue next sees that its log has been left."""
_REPORT = "salvage.json"
_ATTEMPTS = 3


class _Report(msgspec.Struct, frozen=True):
    """What is known of taking over a damaged queue.

    Attributes:
        attempts: that were begun and did not end.
        taken_over: None where it was not done yet.
    """

    attempts: Annotated[int, msgspec.Meta(ge=0)] = 0
    taken_over: Salvaged | None = None


def set_aside(path: Path) -> Path:
    """Move the queue at `path` and all that belongs to it into a new folder `<path>.corrupt-N`."""
    folder = Path(f"{path}.corrupt-{max(_numbers(path), default=0) + 1}")
    folder.mkdir(mode=0o750)
    for suffix in SUFFIXES:
        file = Path(f"{path}{suffix}")
        if file.exists():
            file.rename(folder / file.name)
    sync_directory(folder)
    sync_directory(path.parent)
    return folder


def length(file: Path) -> int:
    """Its bytes; 0 where it is gone, as when another process closes the queue at this moment."""
    try:
        return file.stat().st_size
    except FileNotFoundError:
        return 0


def left_behind(path: Path) -> bool:
    """Whether a log lies at `path` without its database, and SQLite would delete it: somebody
    deleted or emptied that, or a process was killed while it set them aside."""
    files = [Path(f"{path}{suffix}") for suffix in ("", "-wal")]
    database, waiting = map(length, files)
    return waiting > 0 and not database


def damaged_queues(path: Path) -> list[Path]:
    """The folders of those that were set aside for the queue at `path`, oldest first."""
    places = [Path(f"{path}.corrupt-{number}") for number in sorted(_numbers(path))]
    return [place for place in places if place.is_dir()]


def take_over(folder: Path, path: Path, keyring: Keyring) -> Salvaged:
    """Take over what the damaged queue in a folder still holds into the one at `path`, and write
    down there what that was.

    Raises:
        sqlite3.Error, OSError: it ends there; what was taken over before is kept.
    """
    with closing(sqlite3.connect(path, isolation_level=None, timeout=10)) as db:
        found = salvage(folder / path.name, db, time.time(), keyring)
    _write_down(folder, _Report(taken_over=found))
    return found


def take_over_all(path: Path, keyring: Keyring) -> None:
    """Take over what was not taken over yet; where that fails the device starts all the same. A
    process that is killed meanwhile tries again at its next start, `_ATTEMPTS` times in all."""
    for folder in damaged_queues(path):
        try:
            report = _written_down(folder)
            if report.taken_over is not None:
                continue
            if report.attempts >= _ATTEMPTS:
                log.error("ALARM: %s was not taken over: `edgeclin queue salvage` does it", folder)
                continue
            _write_down(folder, _Report(attempts=report.attempts + 1))
            found = take_over(folder, path, keyring)
        except Exception as exc:  # of memory too: the device must start
            log.error("ALARM: %s was not taken over, or not all: %r", folder, exc)
        else:
            log.error("taken over of %s: %s", folder, found)


def damage_alarms(path: Path) -> tuple[str, ...]:
    """What was not taken over of the damaged queues of the one at `path`, each in a sentence."""
    alarms = []
    for folder in damaged_queues(path):
        report = _written_down(folder)
        if report.taken_over is None:
            alarms.append(f"{folder} was not taken over: `edgeclin queue salvage` does it")
        elif lost := report.taken_over.lost:
            alarms.append(f"of {folder} {lost}; delete it once nobody needs it any more")
    return tuple(alarms)


def _numbers(path: Path) -> list[int]:
    name = re.compile(re.escape(f"{path.name}.corrupt-") + r"(\d+)")
    found = [name.fullmatch(entry.name) for entry in path.parent.iterdir()]
    return [int(match[1]) for match in found if match]


def _written_down(folder: Path) -> _Report:
    try:
        return msgspec.json.decode((folder / _REPORT).read_bytes(), type=_Report)
    except (OSError, msgspec.MsgspecError, UnicodeDecodeError):
        return _Report()


def _write_down(folder: Path, report: _Report) -> None:
    write_atomic(folder / _REPORT, msgspec.json.format(msgspec.json.encode(report)))
