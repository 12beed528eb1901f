"""A queue of a benchmark's own: on the disk that is asked for, delivered, gone afterwards."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import tempfile
import time
from contextlib import ExitStack, nullcontext, suppress
from pathlib import Path
from types import TracebackType

import numpy as np

from edgeclin.benchmark import delivering
from edgeclin.errors import BadFile, EngineUnavailable, QueueFull, QueueUnusable
from edgeclin.offline_queue import OfflineQueue, Stored
from edgeclin.records import Result

DEADLINE_S = 1.0


class TimedQueue(OfflineQueue):
    """A queue that says how long the last `put` took.

    Attributes:
        last_ms: in milliseconds.
    """

    last_ms = 0.0

    def put(
        self,
        result: Result,
        sample: np.ndarray | None = None,
        deadline_s: float = DEADLINE_S,
        *,
        last: bool = False,
        cut: str = "",
    ) -> Stored:
        start = time.perf_counter_ns()
        try:
            stored = super().put(result, sample, deadline_s, last=last, cut=cut)
        except QueueFull as exc:  # the loop of `run` would wait until there is room
            raise QueueUnusable(str(exc)) from exc
        self.last_ms = (time.perf_counter_ns() - start) / 1e6
        return stored


class Storing:
    """Stores answers as `edgeclin run` does, while another process delivers them.

    Args:
        folder: on the disk that counts; None for the temporary folder.

    Raises:
        BadFile: nothing can be written there.
        EngineUnavailable: the process that delivers does not start.
    """

    def __init__(self, folder: Path | None) -> None:
        with ExitStack() as made:
            try:
                self.folder = Path(tempfile.mkdtemp(prefix=".edgeclin-benchmark-", dir=folder))
            except OSError as exc:
                raise BadFile(folder or tempfile.gettempdir(), f"not writable ({exc})") from exc
            made.callback(shutil.rmtree, self.folder, ignore_errors=True)
            self.queue = TimedQueue(self.folder / "queue.sqlite")
            made.callback(self.queue.close)
            self._delivering = subprocess.Popen(
                [sys.executable, "-m", delivering.__name__, str(os.getpid()), str(self.queue.path)],
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                text=True,
                start_new_session=True,  # Ctrl-C is for the benchmark
            )
            made.callback(self._delivering.communicate)
            assert self._delivering.stdout is not None
            if self._delivering.stdout.readline().strip() != delivering.READY:
                raise EngineUnavailable("the process that delivers what was stored did not start")
            self._made = made.pop_all()

    def put(self, result: Result, sample: np.ndarray) -> Stored:
        """Store an answer, with its sample where a second opinion is asked for."""
        return self.queue.put(result, sample, DEADLINE_S)

    def close(self) -> None:
        """End the other process, and remove the queue.

        Raises:
            EngineUnavailable: that process had ended before, so that nothing was delivered.
        """
        self._made.close()
        if status := self._delivering.returncode:
            raise EngineUnavailable(
                "the process that delivers what was stored ended meanwhile, with status "
                f"{status}: measure again"
            )

    def __enter__(self) -> Storing:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, exc: BaseException | None, at: TracebackType | None
    ) -> None:
        with suppress(EngineUnavailable) if exc else nullcontext():
            self.close()
