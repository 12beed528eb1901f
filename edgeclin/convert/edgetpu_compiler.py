"""The Edge TPU compiler, where the user has it: what it was asked, made and said.

It is proprietary and in no package registry. Its log is read as version 16.0 writes it, and as
versions 2.1 to 15 did (Coral's documentation, "Edge TPU Compiler", and logs that users reported).
"""

from __future__ import annotations

import os
import re
import shutil
import signal
import subprocess
from collections import Counter
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from edgeclin.errors import BadFile, ConversionFailed
from edgeclin.lifeline import guarded
from edgeclin.records import Record

if TYPE_CHECKING:
    from edgeclin.convert.edgetpu import Preflight

NAME = "edgetpu_compiler"
CUSTOM_OPERATOR = "edgetpu-custom-op"
_TIMEOUT_S = 600.0
"""Its own timer ends a search after 180 s; this one is for a compiler that hangs."""
_MAPPED = "Mapped to Edge TPU"
_VERSION = re.compile(r"^Edge TPU Compiler version (\S+)", re.MULTILINE)
_ROW = re.compile(r"^([A-Z][A-Z0-9_]*)\s+(\d+)\s+(\S.*?)\s*$", re.MULTILINE)
_SIZE = r":\s*([\d.]+)\s*(B|KiB|MiB|GiB)"
_UNITS = {"B": 1, "KiB": 1 << 10, "MiB": 1 << 20, "GiB": 1 << 30}
_SUBGRAPHS = re.compile(r"Number of Edge TPU subgraphs:\s*(\d+)")
_ROUTINE = re.compile(
    r"Edge TPU Compiler version|Started a compilation timeout|Compilation child process|"
    r"Searching for valid delegate|Try to compile segment"
)
"""Lines that explain no failure."""


class MappedOperator(Record, frozen=True):
    """`count` operators of one kind with one fate; `status` is the compiler's own word for it."""

    operator: str
    count: int
    status: str

    @property
    def mapped(self) -> bool:
        return self.status == _MAPPED


class Compilation(Record, frozen=True):
    """What the compiler said of an engine that it compiled; sizes in bytes.

    `disagreements` are the operators of which the prediction said otherwise.
    """

    compiler: str
    operators: tuple[MappedOperator, ...]
    on_chip_used: int
    on_chip_left: int
    off_chip: int
    subgraphs: int
    disagreements: tuple[str, ...]

    @property
    def sentence(self) -> str:
        mapped = sum(one.count for one in self.operators if one.mapped)
        whole = sum(one.count for one in self.operators)
        off = f", {self.off_chip:,} bytes streamed from outside it" if self.off_chip else ""
        elsewhere = "".join(
            f"; on the CPU: {one.count} {one.operator} ({one.status})"
            for one in self.operators
            if not one.mapped
        )
        return (
            f"compiled by the Edge TPU compiler {self.compiler}: {mapped} of {whole} operators "
            f"mapped; {self.on_chip_used:,} bytes of parameters on the chip{off}{elsewhere}"
        )


@dataclass(frozen=True, slots=True)
class Compiled:
    """The engine for the Edge TPU, and what the compiler said."""

    engine: bytes
    compilation: Compilation


def find_compiler() -> Path | None:
    """The compiler that `EDGETPU_COMPILER` names, else the one on PATH.

    Raises:
        BadFile: `EDGETPU_COMPILER` names no program.
    """
    named = os.environ.get("EDGETPU_COMPILER")
    found = shutil.which(named or NAME)
    if named and not found:
        raise BadFile(named, "no program that can be run", "mend EDGETPU_COMPILER, or unset it")
    return Path(found) if found else None


def compile_engine(
    compiler: Path, engine: Path, predicted: Preflight, folder: Path, timeout_s: float = _TIMEOUT_S
) -> Compiled:
    """Compile a copy of an engine in `folder`, an empty one, and check what came out.

    Raises:
        ConversionFailed: it failed, hung, crashed, or made nothing for the Edge TPU.
    """
    from edgeclin.convert.edgetpu import custom_operators

    model = folder / "model.tflite"
    shutil.copy(engine, model)
    log = _run([str(compiler), "-s", "-o", str(folder), str(model)], folder, timeout_s)
    made = folder / "model_edgetpu.tflite"
    if not made.exists():
        raise ConversionFailed(f"the Edge TPU compiler wrote no engine: {_reason(log)}")
    data = made.read_bytes()
    try:
        holds = CUSTOM_OPERATOR in custom_operators(data)
    except Exception as exc:  # flatbuffers raises what it stumbles over
        raise ConversionFailed("what the Edge TPU compiler wrote is no TFLite model") from exc
    if not holds:
        raise ConversionFailed(
            f"the Edge TPU compiler mapped nothing: its engine has no {CUSTOM_OPERATOR}"
        )
    return Compiled(data, read_log(log, predicted))


def read_log(log: str, predicted: Preflight) -> Compilation:
    """Facts from what the compiler printed with `-s`.

    Raises:
        ConversionFailed: its version or its table of operators is not there.
    """
    version = _VERSION.search(log)
    rows = tuple(
        MappedOperator(name, int(count), status) for name, count, status in _ROW.findall(log)
    )
    if version is None or not rows:
        raise ConversionFailed(
            "the Edge TPU compiler's log has no version or no table of operators, so nothing is "
            "known of what it mapped"
        )
    subgraphs = _SUBGRAPHS.search(log)
    return Compilation(
        compiler=version.group(1),
        operators=rows,
        on_chip_used=_size("On-chip memory used for caching model parameters", log),
        on_chip_left=_size("On-chip memory remaining for caching model parameters", log),
        off_chip=_size("Off-chip memory used for streaming uncached model parameters", log),
        subgraphs=int(subgraphs.group(1)) if subgraphs else 1,
        disagreements=tuple(_disagreements(rows, predicted)),
    )


def _disagreements(rows: tuple[MappedOperator, ...], predicted: Preflight) -> list[str]:
    """Kinds of operators of which more or fewer were mapped than was predicted."""
    mapped: Counter[str] = Counter()
    for row in rows:
        mapped[row.operator] += row.count if row.mapped else 0
    sure = Counter(one.operator for one in predicted.operators if one.predicted == "Edge TPU")
    perhaps = Counter(one.operator for one in predicted.operators if one.predicted == "uncertain")
    found = []
    for name in sorted({one.operator for one in predicted.operators} | set(mapped)):
        least, most = sure[name], sure[name] + perhaps[name]
        if not least <= mapped[name] <= most:
            expected = str(least) if least == most else f"{least} to {most}"
            found.append(f"{name}: {mapped[name]} mapped, {expected} predicted")
    return found


def _run(command: list[str], folder: Path, timeout_s: float) -> str:
    process = subprocess.Popen(
        guarded(command),
        cwd=folder,
        env={**os.environ, "TMPDIR": str(folder)},
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        start_new_session=True,
        text=True,
        errors="replace",
    )
    try:
        log, _ = process.communicate(timeout=timeout_s)
    except BaseException as exc:
        # It compiles in a child of its own, which would live on and keep the pipe open.
        os.killpg(process.pid, signal.SIGKILL)
        process.communicate()
        if isinstance(exc, subprocess.TimeoutExpired):
            raise ConversionFailed(
                f"the Edge TPU compiler did not end within {timeout_s:g} s and was stopped"
            ) from exc
        raise
    if process.returncode != 0 or "Internal compiler error" in log:
        how = f"failed ({process.returncode})" if process.returncode else "failed"
        raise ConversionFailed(f"the Edge TPU compiler {how}: {_reason(log)}")
    return log


def _reason(log: str) -> str:
    lines = [line.strip() for line in log.splitlines() if line.strip()]
    telling = [line for line in lines if not _ROUTINE.match(line)]
    return telling[0] if telling else "it does not say why"


def _size(what: str, log: str) -> int:
    found = re.search(re.escape(what) + _SIZE, log)
    return round(float(found.group(1)) * _UNITS[found.group(2)]) if found else 0
