"""What a benchmark ran on, and what else may have moved its figures."""

from __future__ import annotations

import os
import platform
import sqlite3
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from importlib.metadata import version
from pathlib import Path

from edgeclin.records import Record
from edgeclin.version import VERSION

_ROOT = Path("/")
_LOOK_S = 0.5
_BUSY_CORES = 0.1
_HOT_RISE_C = 15.0
_TICK = os.sysconf("SC_CLK_TCK")


class Machine(Record, frozen=True):
    """Facts about a computer; None where it does not tell.

    Attributes:
        cpu: its name.
        board: of a single-board computer.
        cores: that this process may use.
        governor, fixed_clock: of the CPU's clock frequency.
        others_before: cores that other processes kept busy just before the benchmark.
        versions: of what runs there.
    """

    cpu: str
    board: str | None
    architecture: str
    cores: int
    memory_mb: int
    kernel: str
    governor: str | None
    fixed_clock: bool | None
    virtual: bool
    load: float
    others_before: float | None
    temperature_c: float | None
    versions: dict[str, str]


def look(root: Path = _ROOT) -> Machine:
    """Look at this machine; takes half a second.

    Args:
        root: what stands in for `/`.
    """
    before = Moment.now(root)
    time.sleep(_LOOK_S)
    others = Moment.now(root).others_since(before)
    clock = root / "sys/devices/system/cpu/cpu0/cpufreq"
    low, high = _text(clock / "scaling_min_freq"), _text(clock / "scaling_max_freq")
    info = _text(root / "proc/cpuinfo") or ""
    flags = _field(info, "flags") or ""
    return Machine(
        cpu=_field(info, "model name") or _field(info, "Model") or platform.processor() or "?",
        board=(_text(root / "proc/device-tree/model") or "").rstrip("\0") or None,
        architecture=platform.machine(),
        cores=len(os.sched_getaffinity(0)),
        memory_mb=int((_field(_text(root / "proc/meminfo") or "", "MemTotal") or "0").split()[0])
        >> 10,
        kernel=platform.release(),
        governor=_text(clock / "scaling_governor"),
        fixed_clock=None if low is None or high is None else low == high,
        virtual="hypervisor" in flags.split(),
        load=float((_text(root / "proc/loadavg") or "0").split()[0]),
        others_before=others,
        temperature_c=max(_temperatures(root), default=None),
        versions={
            "edgeclin": VERSION,
            "Python": platform.python_version(),
            "numpy": version("numpy"),
            "SQLite": sqlite3.sqlite_version,
        },
    )


@dataclass(frozen=True, slots=True)
class Moment:
    """Counters of the whole machine and of this process at one moment.

    Attributes:
        busy, stolen: CPU seconds since boot, of all cores; None where /proc tells nothing.
        own: CPU seconds of this process and its ended children.
        throttled: how often cores were slowed down for heat or power.
    """

    at: float
    busy: float | None
    stolen: float
    own: float
    throttled: int | None
    temperature_c: float | None

    @classmethod
    def now(cls, root: Path = _ROOT) -> Moment:
        times = os.times()
        busy, stolen = _cpu_seconds(root)
        return cls(
            at=time.monotonic(),
            busy=busy,
            stolen=stolen,
            own=times.user + times.system + times.children_user + times.children_system,
            throttled=_throttled(root),
            temperature_c=max(_temperatures(root), default=None),
        )

    def others_since(self, before: Moment) -> float | None:
        """Cores that other processes kept busy in the mean."""
        spent = self.at - before.at
        if self.busy is None or before.busy is None or spent <= 0:
            return None
        return max(0.0, (self.busy - before.busy - (self.own - before.own)) / spent)


def warnings(machine: Machine, before: Moment, after: Moment) -> Iterator[str]:
    """What may have moved the figures, in sentences."""
    if machine.others_before is not None and machine.others_before > _BUSY_CORES:
        yield f"other processes kept {machine.others_before:.1f} cores busy before it began"
    others = after.others_since(before)
    if others is not None and others > _BUSY_CORES:
        yield f"other processes kept {others:.1f} cores busy meanwhile: figures are upper bounds"
    stolen = after.stolen - before.stolen
    if stolen > 0.01 * (after.at - before.at):
        yield f"the hypervisor took {stolen:.1f} s of CPU time away meanwhile"
    if machine.fixed_clock is False and machine.governor != "performance":
        yield (
            f"the CPU's clock frequency is not fixed (governor {machine.governor}): fix it, or "
            "compare only what was measured in one run"
        )
    elif machine.fixed_clock is None:
        where = "of this virtual machine " if machine.virtual else ""
        yield f"the CPU's clock frequency {where}cannot be read: it may not be fixed"
    if after.throttled is not None and after.throttled > (before.throttled or 0):
        yield f"the CPU was throttled {after.throttled - (before.throttled or 0)} times meanwhile"
    if before.temperature_c is not None and after.temperature_c is not None:
        rise = after.temperature_c - before.temperature_c
        if rise > _HOT_RISE_C:
            yield f"the CPU grew {rise:.0f} °C hotter meanwhile: a longer run may be slower"


def filesystem(folder: Path, root: Path = _ROOT) -> str:
    """The type of file system that a folder lies on, such as `ext4`."""
    best, kind = -1, "unknown"
    for line in (_text(root / "proc/mounts") or "").splitlines():
        _, place, name, *_ = line.split()
        place = place.encode().decode("unicode_escape")
        if folder.resolve().is_relative_to(place) and len(place) >= best:
            best, kind = len(place), name
    return kind


def _cpu_seconds(root: Path) -> tuple[float | None, float]:
    """proc(5), /proc/stat: user nice system idle iowait irq softirq steal."""
    fields = (_text(root / "proc/stat") or "").split("\n")[0].split()[1:9]
    if len(fields) < 8:
        return None, 0.0
    user, nice, system, _, _, irq, softirq, steal = (int(field) / _TICK for field in fields)
    return user + nice + system + irq + softirq, steal


def _throttled(root: Path) -> int | None:
    cpus = root / "sys/devices/system/cpu"
    found = [_text(path) for path in cpus.glob("cpu[0-9]*/thermal_throttle/*_throttle_count")]
    counts = [int(text) for text in found if text]
    return sum(counts) if counts else None


def _temperatures(root: Path) -> Sequence[float]:
    zones = (root / "sys/class/thermal").glob("thermal_zone*/temp")
    return [int(text) / 1000 for text in map(_text, zones) if text and text.lstrip("-").isdigit()]


def _field(text: str, name: str) -> str | None:
    for line in text.splitlines():
        key, colon, value = line.partition(":")
        if colon and key.strip() == name:
            return value.strip()
    return None


def _text(path: Path) -> str | None:
    try:
        return path.read_text(errors="replace").strip()
    except OSError:
        return None
