"""A device and its cloud, of real processes, which a fault test kills and starts again."""

from __future__ import annotations

import json
import os
import random
import signal
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Callable
from pathlib import Path

import numpy as np
from broker import LocalBroker

from edgeclin.bundle import Bundle
from edgeclin.runtime import Runtime
from faults.ledger import Ledger
from faults.spy import Spy

ROLES = ("run", "sync", "broker", "ingest")
_WAIT_S = 90.0


class Scene:
    """One device that replays samples, its agent, a broker and an ingest worker.

    Args:
        folder: for all that they write.
        bundle: what answers.
        keys: the folder of the keys that the device trusts.
        samples: [n, …], which the device judges in turn.
        rate: samples a second.

    Attributes:
        killed: how often each role was.
    """

    def __init__(
        self, folder: Path, bundle: Path, keys: Path, samples: np.ndarray, rate: float
    ) -> None:
        self.folder = folder
        self.store = folder / "store"
        self.issued = range(len(samples))
        self.killed: Counter[str] = Counter()
        np.savez(folder / "samples.npz", X=samples)
        self._bundle, self._samples = bundle, samples
        self._broker = LocalBroker(folder, "mosquitto").start()
        self.ledger = Ledger(folder)
        self.spy = Spy(self._broker.port)
        self._config = folder / "device.toml"
        self._config.write_text(
            f'schema = 1\nsite = "ward"\ndevice = "bed"\nbundle = "{bundle}"\n'
            f'source = "{folder / "samples.npz"}"\n[queue]\npath = "{folder / "queue.sqlite"}"\n'
            f"[broker]\nport = {self._broker.port}\nreconnect_most_s = 0.5\n"
            "[sync]\nreceipt_timeout_s = 1\n"
        )
        address = f"127.0.0.1:{self._broker.port}"
        self._commands = {
            "run": ["run", "--config", str(self._config), "--rate", str(rate), "--json"],
            "sync": ["sync", "--config", str(self._config)],
            "ingest": ["cloud", "ingest", "--store", str(self.store), "--broker", address,
                       "--compact-every", "0.5"],
        }  # fmt: skip
        self._environment = {**os.environ, "EDGECLIN_KEYS": str(keys)}
        self._processes: dict[str, subprocess.Popen[bytes]] = {}

    def expected(self) -> dict[int, str | None]:
        """The label of each sample, as the bundle answers here."""
        runtime = Runtime(Bundle.open(self._bundle, allow_unsigned=True))
        try:
            return {at: runtime.predict(one).label for at, one in enumerate(self._samples)}
        finally:
            runtime.close()

    def start(self, role: str) -> None:
        """Start a process; what `run` prints goes to the ledger."""
        if role == "broker":
            self._broker.start()
            return
        with (self.folder / f"{role}.log").open("ab") as log, self.ledger.pen() as pen:
            self._processes[role] = subprocess.Popen(
                [sys.executable, "-m", "edgeclin", "-v", *self._commands[role]],
                stdout=pen if role == "run" else log,
                stderr=log,
                stdin=subprocess.DEVNULL,
                env=self._environment,
            )

    def kill(self, role: str) -> None:
        """SIGKILL, and the same again from what is on disk; a broker keeps no sessions."""
        self.killed[role] += 1
        if role == "broker":
            self._broker.kill()
        else:
            self._processes[role].kill()
            self._processes[role].wait()
        self.start(role)

    def kill_at_random(self, times: int, draw: random.Random, progress: bool) -> None:
        """Kill one role after another, at moments that `draw` decides."""
        roles = [ROLES[number % len(ROLES)] for number in range(times)]
        draw.shuffle(roles)
        for number, role in enumerate(roles):
            time.sleep(draw.uniform(0.02, 0.7))
            self.kill(role)
            if progress and number % 10 == 9:
                print(
                    f"{number + 1} of {times} kills, {len(self.ledger.entries())} results "
                    f"acknowledged, {self.spy.resent} sent again",
                    flush=True,
                )

    def wait_for_fresh(self, count: int) -> None:
        """Until so many more results are acknowledged."""
        before = len(self.ledger.entries())
        self.wait(lambda: len(self.ledger.entries()) >= before + count, "fresh results")

    def finish(self) -> None:
        """End judging, and what delivers once nothing waits any more."""
        assert self.stop("run") in (0, 128 + signal.SIGTERM)
        self.wait(lambda: not self.waiting(), "full delivery")
        assert self.stop("sync") in (0, 128 + signal.SIGTERM)
        assert self.stop("ingest") in (0, 128 + signal.SIGTERM)
        self.ledger.close()

    def waiting(self) -> int:
        """Rows and questions that wait, by `edgeclin queue status`."""
        told = subprocess.run(
            [sys.executable, "-m", "edgeclin", "queue", "status", "--json", "--config",
             str(self._config)],
            capture_output=True, check=True,
        )  # fmt: skip
        waits: dict[str, dict[str, int]] = json.loads(told.stdout)["waiting"]
        return sum(usage["count"] for name, usage in waits.items() if name != "questions")

    def stop(self, role: str) -> int:
        """SIGTERM, and the exit code."""
        self._processes[role].send_signal(signal.SIGTERM)
        return self._processes[role].wait(timeout=30)

    def wait(self, condition: Callable[[], bool], what: str) -> None:
        deadline = time.monotonic() + _WAIT_S
        while not condition():
            assert time.monotonic() < deadline, f"{what}: not within {_WAIT_S:g} s"
            time.sleep(0.2)

    def close(self) -> None:
        """Kill what still lives."""
        for process in self._processes.values():
            if process.poll() is None:
                process.kill()
                process.wait()
        self.ledger.close()
        self.spy.close()
        self._broker.stop()
