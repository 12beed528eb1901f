"""A backend whose engine runs in a process of its own, and has a deadline for each answer."""

from __future__ import annotations

import os
import resource
import signal
import socket
import subprocess
import sys
import time
from contextlib import ExitStack, suppress
from pathlib import Path

import msgspec
import numpy as np

from edgeclin.backends.base import TensorSpec
from edgeclin.errors import EngineFailed, EngineUnavailable
from edgeclin.isolation.board import ASKED, LOADED, REFUSED, Loaded, set_up
from edgeclin.isolation.model import SharedModel

LOAD_S = 60.0
"""How long an engine may take to load: one for a GPU reads and checks its plan first."""
_LOOK_S = 0.5
_MESSAGE = 1 << 16
_LAST_WORDS_S = 0.2
"""How long a process that closed its channel may take to end, while a sample waits."""


class EngineProcess:
    """A backend; starting is immediate, and `load` waits.

    The process ends with the *thread* that started it (prctl(2), PR_SET_PDEATHSIG). What failed
    once must be closed: it does not answer again.

    Args:
        backend: the name of its entry point.
        model: the engine's bytes, which stay the caller's.
    """

    input: TensorSpec
    output: TensorSpec
    version: str

    def __init__(self, backend: str, model: SharedModel, threads: int = 1) -> None:
        worker = [sys.executable, "-m", "edgeclin.isolation.worker", str(os.getpid())]
        with ExitStack() as failed:
            self._channel, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
            failed.callback(self._channel.close)
            with theirs:
                flags = os.MFD_CLOEXEC | os.MFD_ALLOW_SEALING
                self._memory = os.memfd_create("edgeclin-sample", flags)
                failed.callback(os.close, self._memory)
                inherited = (theirs.fileno(), self._memory, model.fd)
                self._process = subprocess.Popen(
                    [*worker, *map(str, inherited), backend, str(threads)],
                    pass_fds=inherited,
                    stdin=subprocess.DEVNULL,
                    stdout=subprocess.DEVNULL,
                    start_new_session=True,
                )
            failed.pop_all()
        self._number = 0

    @property
    def pid(self) -> int:
        """Of the engine's process."""
        return self._process.pid

    def load(self, within_s: float, memory_mb: int) -> None:
        """Wait until the engine is loaded and has run once.

        Raises:
            EngineUnavailable: its backend says that this machine cannot execute it.
            EngineFailed: it crashes or hangs meanwhile, or takes more memory than that.
        """
        said = self._first_words(within_s, memory_mb)
        if not said:
            raise EngineFailed(f"{self._how_it_ended()} while it loaded")
        if said.startswith(REFUSED):
            raise EngineUnavailable(said[len(REFUSED) :].decode(errors="replace"))
        loaded = msgspec.json.decode(said.removeprefix(LOADED), type=Loaded)
        self.input, self.output, self.version = loaded.input, loaded.output, loaded.version
        self._own = np.dtype(loaded.input.dtype)
        self._board = set_up(self._memory, loaded)

    def allow(self, deadline_s: float) -> None:
        """Set how long each of the next answers may take."""
        self._deadline_s = deadline_s
        self._channel.settimeout(deadline_s)

    def place(self) -> None:
        """There is none: what hangs in the other process would still read it."""

    def run(self, sample: np.ndarray | None) -> np.ndarray:
        """As `Backend.run`.

        Raises:
            EngineFailed: no answer within the deadline, or the process ended or raised an error.
        """
        assert sample is not None
        self._number += 1
        own = sample.dtype == self._own
        (self._board.own if own else self._board.real)[...] = sample
        asked = ASKED.pack(own, self._number)
        try:
            self._channel.send(asked)
            said = self._channel.recv(_MESSAGE)
        except TimeoutError:
            limit = self._deadline_s * 1000
            raise EngineFailed(f"the engine did not answer within {limit:g} ms") from None
        except OSError:
            said = b""
        if said == asked:
            return self._board.answer.copy()
        if said:
            raise EngineFailed(f"the engine failed: {said.decode(errors='replace')}")
        raise EngineFailed(self._how_it_ended())

    def check(self, memory_mb: int) -> None:
        """Look at the process, from any thread.

        Raises:
            EngineFailed: it ended, or takes more than that much memory.
        """
        if self.ended(0):
            raise EngineFailed(self._how_it_ended())
        try:
            pages = int(Path(f"/proc/{self.pid}/statm").read_text().split()[1])
        except (OSError, IndexError):  # it ends just now
            return
        taken = pages * resource.getpagesize() >> 20
        if taken > memory_mb:
            raise EngineFailed(f"the engine's process took {taken} MB (allowed: {memory_mb} MB)")

    def kill(self) -> None:
        """End the process without waiting for it, from any thread; `run` fails then."""
        self._process.kill()

    def close(self) -> None:
        """End the process, without waiting for it, and give its memory back."""
        self.kill()
        self._let_go()

    def ended(self, within_s: float) -> bool:
        """Whether the process has ended: one that a driver holds does not, even by SIGKILL."""
        try:
            self._process.wait(within_s)
        except subprocess.TimeoutExpired:
            return False
        return True

    def _first_words(self, within_s: float, memory_mb: int) -> bytes:
        """What the process says once it has loaded; empty when it ended before."""
        until = time.monotonic() + within_s
        while (left := until - time.monotonic()) > 0:
            self._channel.settimeout(min(left, _LOOK_S))
            try:
                return self._channel.recv(_MESSAGE)
            except TimeoutError:
                self.check(memory_mb)
            except OSError:
                return b""
        raise EngineFailed(f"the engine did not load within {within_s:g} s")

    def _let_go(self) -> None:
        self._channel.close()
        if self._memory >= 0:
            os.close(self._memory)
            self._memory = -1

    def _how_it_ended(self) -> str:
        if not self.ended(_LAST_WORDS_S):
            return "the engine's process closed its channel"
        status = self._process.returncode
        if status < 0:
            name = f"signal {-status}"
            with suppress(ValueError):  # a real-time signal has no name
                name = signal.Signals(-status).name
            return f"the engine's process was ended by {name}"
        return f"the engine's process exited with status {status}"
