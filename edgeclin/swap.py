"""Another bundle in the place of the one that answers, without a gap."""

from __future__ import annotations

import logging
import threading
from collections.abc import Callable
from pathlib import Path
from typing import TypeAlias

from edgeclin.bedside import Bedside
from edgeclin.bundle import Bundle
from edgeclin.errors import BadBundle, in_words
from edgeclin.manifest import Manifest
from edgeclin.priority import give_way
from edgeclin.runtime import Runtime, require_answerable
from edgeclin.sources.marks import Mark as FileMark
from edgeclin.sources.marks import marked
from edgeclin.steps import Decode, Step, Window

log = logging.getLogger(__name__)

LOOK_S = 2.0
"""How often to look at the bundle's path; what stands there must be the same in two looks."""
SLOW_S = 300.0
"""A bundle that loads for longer is told as an alarm."""
_END_S = 5.0
Mark: TypeAlias = tuple[tuple[str, int, FileMark], ...]
"""Name, inode and state of each file of a bundle."""


class Swap:
    """Looks for another bundle at the path, and has it answer once it has passed its self-test.

    Nothing waits meanwhile: the bundle that answers goes on until the other one is ready, and
    where that one cannot be trusted, loaded or believed, for good. `Bedside.refused` then says so.

    Args:
        path: where the bundle of `bedside` was opened.
        seen: `mark(path)` from before it was opened, so that no change is missed.
        open_bundle: opens what stands there now, as the command line was told to trust.
        load: makes a runtime of it, which runs its self-test; a fault of its engine must not be
            this process's.
        yields: whether loading gives way to answering; a process or threads that the engine
            starts would do so for good, as they inherit that.
    """

    def __init__(
        self,
        path: Path,
        seen: Mark,
        bedside: Bedside,
        open_bundle: Callable[[], Bundle],
        load: Callable[[Bundle], Runtime],
        yields: bool = True,
    ) -> None:
        self._path = path
        self._bedside = bedside
        self._open = open_bundle
        self._load = load
        self._yields = yields
        self._seen = seen
        self._changed = False
        self._done = threading.Event()
        self._thread = threading.Thread(target=self._look_in_time, daemon=True)

    def look(self) -> None:
        """Take what stands at the path, where it has changed and is no longer being written."""
        now = mark(self._path)
        if now != self._seen:
            self._seen, self._changed = now, True
        elif self._changed:
            self._changed = False
            self._take()

    def __enter__(self) -> Swap:
        self._thread.start()
        return self

    def __exit__(self, *exc: object) -> None:
        self._done.set()
        self._thread.join(_END_S)  # an engine that hangs while it loads must not hold the end up

    def _look_in_time(self) -> None:
        if self._yields:
            give_way()
        while not self._done.wait(LOOK_S):
            self.look()

    def _take(self) -> None:
        bedside, current = self._bedside, self._bedside.runtime.bundle
        try:
            bundle = self._open()
            if bundle.digest == current.digest:
                bedside.refused = ""
                return
            require_answerable(bundle)
            require_same_use(bundle, current, "restart the service to begin with it")
            runtime = self._load_in_time(bundle)
        except Exception as exc:  # whatever is wrong with it, the other one goes on
            self._alarm(f"now is refused: {in_words(exc)}")
            return
        old = bedside.replace(runtime)
        bedside.refused = ""
        log.warning("%s: bundle %s answers from now on", self._path, bundle.digest[:12])
        try:
            old.close()
        except Exception:  # it answers no more; this thread must go on looking
            log.exception("the engine of bundle %s could not be closed", current.digest[:12])

    def _load_in_time(self, bundle: Bundle) -> Runtime:
        """Load a bundle, and say so when that takes too long: it cannot be taken back."""
        words = f"has been loading for {SLOW_S:g} s: restart the service if it stays so"
        slow = threading.Timer(SLOW_S, self._alarm, (words,))
        slow.daemon = True
        slow.start()
        try:
            return self._load(bundle)
        finally:
            slow.cancel()
            slow.join()

    def _alarm(self, why: str) -> None:
        current = self._bedside.runtime.bundle.digest[:12]
        self._bedside.refused = f"bundle {current} goes on, since what stands at {self._path} {why}"
        log.error("ALARM: %s", self._bedside.refused)


def require_same_use(new: Bundle, old: Bundle, remedy: str) -> None:
    """Refuse a bundle of another task, or for which sources would have to deliver other samples.

    Args:
        remedy: what to do about it.

    Raises:
        BadBundle: names what is different.
    """
    before, after = (_use(bundle.manifest) for bundle in (old, new))
    for what, value in after.items():
        if value != before[what]:
            raise BadBundle(
                new.path,
                f"its {what} is {value}, that of the bundle that answers {before[what]}",
                remedy,
            )


def _use(manifest: Manifest) -> dict[str, object]:
    """The task, and what sources look at when they cut recordings and decode pictures."""
    spec = manifest.inputs[0]
    first: Step | None = next(iter(spec.preprocessing), None)
    return {
        "task": manifest.task.value,
        "kind": spec.kind,
        "unit": spec.units,
        "sampling_hz": spec.sampling_hz,
        "list of leads": list(spec.leads),
        "first step": first if isinstance(first, (Window, Decode)) else None,
        "shape": None if spec.kind == "image" else list(spec.shape),
    }


def mark(path: Path) -> Mark:
    """What tells one bundle from another without reading it; empty where there is none."""
    try:
        files = [path, *path.iterdir()] if path.is_dir() else [path]
        found = [(file.name, file.stat()) for file in sorted(files)]
    except OSError:
        return ()
    return tuple((name, status.st_ino, marked(status)) for name, status in found)
