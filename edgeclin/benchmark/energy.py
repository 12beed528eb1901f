"""Energy by the meter of the machine, where it has one that may be read."""

from __future__ import annotations

import re
import shutil
import subprocess
import threading
import time
from pathlib import Path
from typing import Protocol

from edgeclin.errors import EngineUnavailable
from edgeclin.records import Record

INTERVAL_MS = 100
_ROOT = Path("/")
_RAIL = re.compile(r"([A-Z][A-Z0-9_]*) (\d+)(?:mW)?/(\d+)(?:mW)?(?= |$)")
_WHOLE_BOARD = ("VDD_IN", "POM_5V_IN")
_NO_POWER = {"RAM", "SWAP", "IRAM"}


class Energy(Record, frozen=True):
    """What a run took.

    Attributes:
        joules: of all that the meter covers, whatever else ran there.
        idle_watts: of the same just before, when nothing was asked.
        each_mj, above_idle_mj: millijoules an inference, in all and above the idle power; None
            without inferences.
    """

    meter: str
    joules: float
    seconds: float
    idle_watts: float
    each_mj: float | None
    above_idle_mj: float | None


class Meter(Protocol):
    """Something that counts energy."""

    name: str

    def joules(self) -> float:
        """Since it was opened; to be asked at least every minute."""

    def close(self) -> None:
        """Let go of it."""


class RAPL:
    """Intel's and AMD's counters (Linux, Documentation/power/powercap): a model of the processor's
    consumption, not a wattmeter.

    Counts `psys` (the whole platform) where there is one, else packages and their DRAM. Counters
    begin anew at `max_energy_range_uj`.

    Raises:
        EngineUnavailable: there are none, or only root may read them.
    """

    def __init__(self, root: Path = _ROOT) -> None:
        zones = {
            path: (path / "name").read_text().strip()
            for path in sorted((root / "sys/class/powercap").glob("intel-rapl:*"))
            if (path / "name").exists()
        }
        whole = [path for path, name in zones.items() if name == "psys"]
        chosen = whole or [
            path for path, name in zones.items() if name.startswith("package") or name == "dram"
        ]
        if not chosen:
            raise EngineUnavailable("no RAPL counters in /sys/class/powercap")
        try:
            self._last = {path: _microjoules(path) for path in chosen}
            self._ranges = {
                path: int((path / "max_energy_range_uj").read_text()) for path in chosen
            }
        except (OSError, ValueError) as exc:
            raise EngineUnavailable(f"RAPL's counters cannot be read ({exc})") from exc
        self.name = f"RAPL ({', '.join(zones[path] for path in chosen)})"
        self._total = 0

    def joules(self) -> float:
        for path, before in self._last.items():
            now = _microjoules(path)
            self._total += now - before if now >= before else now - before + self._ranges[path]
            self._last[path] = now
        return self._total / 1e6

    def close(self) -> None:
        """Nothing is held."""


class Tegrastats:
    """A Jetson's power rails, as the command `tegrastats` prints them ten times a second.

    Counts the rail of the whole board (VDD_IN, POM_5V_IN), else the sum of all rails; each reading
    stands for the time until the next one.

    Raises:
        EngineUnavailable: no such command, or it names no rail.
    """

    def __init__(self) -> None:
        program = shutil.which("tegrastats")
        if program is None:
            raise EngineUnavailable("no tegrastats")
        self._process = subprocess.Popen(
            [program, "--interval", str(INTERVAL_MS)],
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
            stdin=subprocess.DEVNULL,
            text=True,
            start_new_session=True,
        )
        self._lock = threading.Lock()
        self._joules, self._watts, self._at = 0.0, 0.0, time.monotonic()
        self._seen = threading.Event()
        self.name = ""
        threading.Thread(target=self._read, daemon=True).start()
        if not self._seen.wait(10.0) or not self.name:
            self.close()
            raise EngineUnavailable("tegrastats names no power rail")

    def joules(self) -> float:
        with self._lock:
            self._advance()
            return self._joules

    def close(self) -> None:
        if self._process.poll() is None:
            self._process.terminate()
        self._process.wait()

    def _read(self) -> None:
        assert self._process.stdout is not None
        for line in self._process.stdout:
            rails = power_rails(line)
            with self._lock:
                self._advance()
                self._watts = sum(rails.values()) / 1000
            if rails:
                self.name = f"tegrastats ({', '.join(rails)})"
            self._seen.set()
        self._seen.set()

    def _advance(self) -> None:
        now = time.monotonic()
        self._joules += self._watts * (now - self._at)
        self._at = now


def power_rails(line: str) -> dict[str, int]:
    """Milliwatts now, by rail, of a line of tegrastats: that of the whole board, else all."""
    rails = {name: int(now) for name, now, _ in _RAIL.findall(line) if name not in _NO_POWER}
    for name in _WHOLE_BOARD:
        if name in rails:
            return {name: rails[name]}
    return rails


def open_meter(root: Path = _ROOT) -> Meter:
    """This machine's meter.

    Raises:
        EngineUnavailable: it has none; says what was looked for.
    """
    problems = []
    for open_one in (Tegrastats, lambda: RAPL(root)):
        try:
            return open_one()
        except EngineUnavailable as exc:
            problems.append(str(exc))
    raise EngineUnavailable("; ".join(problems))


def energy(meter: str, joules: float, seconds: float, idle_watts: float, count: int) -> Energy:
    """Sum up a run of so many inferences."""
    above = joules - idle_watts * seconds
    return Energy(
        meter=meter,
        joules=joules,
        seconds=seconds,
        idle_watts=idle_watts,
        each_mj=1e3 * joules / count if count else None,
        above_idle_mj=1e3 * above / count if count else None,
    )


def _microjoules(zone: Path) -> int:
    return int((zone / "energy_uj").read_text())
