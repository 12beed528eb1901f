"""What this machine can do for edgeclin, and what to install for the rest."""

from __future__ import annotations

import importlib.util
import os
import platform
import shutil
import socket
import sqlite3
import time
from collections.abc import Iterator
from datetime import datetime, timezone
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Literal

from edgeclin.backends.registry import backend_names
from edgeclin.bundle import Bundle
from edgeclin.config import DeviceConfig
from edgeclin.convert.edgetpu_compiler import find_compiler
from edgeclin.errors import BadFile, EdgeclinError, EngineUnavailable, MissingExtra
from edgeclin.executable import TENSORRT, load_executable, state_here
from edgeclin.files import reading
from edgeclin.keys import default_folder, load_public_key, trusted_keys
from edgeclin.offline_queue import handed_by_systemd, load_keyring
from edgeclin.offline_queue.schema import is_read_only
from edgeclin.records import Record
from edgeclin.toolchains import installed, known, load_toolchain
from edgeclin.version import VERSION

_RELEASED = datetime(2026, 11, 1, tzinfo=timezone.utc).timestamp()
"""A clock before this version's making is wrong."""
_FREE_MB = 512

_PARTS = (
    ("LiteRT (engine tflite)", "ai_edge_litert", "ai-edge-litert", "tflite"),
    ("ONNX Runtime (engine onnx-qdq)", "onnxruntime", "onnxruntime", "onnx"),
    ("OpenCV (image steps)", "cv2", "opencv-python-headless", "vision"),
    ("pydicom (DICOM files)", "pydicom", "pydicom", "vision"),
    ("SciPy (resampling)", "scipy", "scipy", "signal"),
    ("wfdb (WFDB records)", "wfdb", "wfdb", "wfdb"),
    ("TensorFlow (converters)", "tensorflow", "tensorflow-cpu", "convert"),
    ("PyTorch (its models as sources)", "torch", "torch", "pytorch"),
    ("PyArrow (cloud store)", "pyarrow", "pyarrow", "cloud"),
    ("iotcore (embedded broker)", "iotcore", "iotcore", "broker"),
)


class Finding(Record, frozen=True):
    """One thing looked at. `missing` is no fault: something optional is not there."""

    what: str
    status: Literal["ok", "missing", "wrong"]
    detail: str
    remedy: str = ""


def examine(config: DeviceConfig | None) -> Iterator[Finding]:
    """Look at this machine, and at what `config` names on it; changes nothing."""
    yield Finding(
        "edgeclin", "ok", f"{VERSION}, Python {platform.python_version()}, {platform.machine()}"
    )
    yield Finding("SQLite", "ok", sqlite3.sqlite_version)
    yield from (_part(*part) for part in _PARTS)
    yield from _toolchains()
    yield Finding("backends", "ok", ", ".join(name for name in backend_names() if name != "fake"))
    yield from _accelerators()
    yield _tensorrt()
    yield _edgetpu_compiler()
    yield _clock()
    yield _mosquitto()
    yield _disk(Path(config.queue.path if config else "queue.sqlite"))
    yield _keys(config)
    if config is not None:
        yield _encryption(config.queue.key)
        yield _broker(config.broker.host, config.broker.port)
        yield _bundle(config.bundle)


def _part(what: str, module: str, package: str, extra: str) -> Finding:
    if importlib.util.find_spec(module) is None:
        return Finding(what, "missing", "not installed", f"pip install 'edgeclin[{extra}]'")
    try:
        return Finding(what, "ok", version(package))
    except PackageNotFoundError:
        return Finding(what, "ok", "installed")


def _toolchains() -> Iterator[Finding]:
    for name in known():
        toolchain = load_toolchain(name)
        what, here = f"{name} ({toolchain.purpose})", installed(toolchain)
        if here is None:
            yield Finding(what, "missing", "not installed", toolchain.command)
        else:
            yield Finding(what, "ok", here.folder)


def _accelerators() -> Iterator[Finding]:
    usb = _coral_usb()
    if usb or Path("/dev/apex_0").exists():
        yield Finding("Coral Edge TPU", "ok", "on USB" if usb else "/dev/apex_0")
    else:
        yield Finding("Coral Edge TPU", "missing", "not found on USB nor as /dev/apex_0")
    tegra = Path("/etc/nv_tegra_release")
    if tegra.exists():
        yield Finding("Jetson", "ok", tegra.read_text().splitlines()[0])
    elif Path("/dev/nvidia0").exists():
        yield Finding("NVIDIA GPU", "ok", "/dev/nvidia0 (not a Jetson)")
    else:
        yield Finding("Jetson or NVIDIA GPU", "missing", "not found")


def _tensorrt() -> Finding:
    """The whole of what `edgeclin build` needs; asked only where there is a TensorRT to ask."""
    what = "TensorRT (edgeclin build)"
    if importlib.util.find_spec("tensorrt") is None:
        return Finding(what, "missing", "not installed", "on a Jetson it comes with JetPack")
    from edgeclin.tensorrt.cuda import open_cuda
    from edgeclin.tensorrt.library import load_library

    try:
        library, cuda = load_library(), open_cuda()
    except EdgeclinError as exc:
        return Finding(what, "missing", str(exc))
    cuda.close()
    return Finding(what, "ok", f"{library.version} on {cuda.device.name}")


def _edgetpu_compiler() -> Finding:
    what = "Edge TPU compiler (convert for Coral)"
    try:
        found = find_compiler()
    except BadFile as exc:
        return _wrong(what, exc)
    if found is None:
        remedy = "it is proprietary, for x86-64: put it on PATH, or name it in EDGETPU_COMPILER"
        return Finding(what, "missing", "not found", remedy)
    return Finding(what, "ok", str(found))


def _coral_usb() -> bool:
    identities = {("1a6e", "089a"), ("18d1", "9302")}
    return any(
        (vendor.read_text().strip(), (vendor.parent / "idProduct").read_text().strip())
        in identities
        for vendor in Path("/sys/bus/usb/devices").glob("*/idVendor")
    )


def _clock() -> Finding:
    now = time.time()
    shown = datetime.fromtimestamp(now, tz=timezone.utc).isoformat(timespec="seconds")
    if now < _RELEASED:
        return Finding("clock", "wrong", f"{shown} is in the past", "set it, or run an NTP client")
    return Finding("clock", "ok", shown)


def _mosquitto() -> Finding:
    # Debian keeps it in /usr/sbin, which is not on every user's path.
    found = shutil.which("mosquitto", path=f"{os.environ.get('PATH', '')}:/usr/sbin")
    if found:
        return Finding("mosquitto (broker)", "ok", found)
    return Finding("mosquitto (broker)", "missing", "not installed", "apt-get install mosquitto")


def _disk(queue: Path) -> Finding:
    folder = queue.parent
    try:
        with reading(folder):
            while not folder.exists():
                folder = folder.parent
    except BadFile as exc:
        return _wrong("disk", exc)
    free = shutil.disk_usage(folder).free >> 20
    if not os.access(folder, os.W_OK):
        return Finding("disk", "wrong", f"{folder} is not writable", "mend its permissions")
    if is_read_only(queue):
        return Finding("disk", "wrong", f"{folder} is read-only", "mend the disk")
    if free < _FREE_MB:
        return Finding("disk", "wrong", f"{free} MB free at {folder}", "make room")
    return Finding("disk", "ok", f"{free:,} MB free at {folder}")


def _keys(config: DeviceConfig | None) -> Finding:
    folder = default_folder()
    named = [Path(key) for key in config.trusted_keys] if config is not None else []
    try:
        for key in config.sync.command_keys if config is not None else ():
            load_public_key(Path(key))
        found = trusted_keys(named)
    except BadFile as exc:
        return _wrong("keys", exc)
    if not found:
        return Finding("keys", "missing", f"none in {folder}", "edgeclin keys new")
    where = ", ".join(map(str, named)) or str(folder)
    return Finding("keys", "ok", f"{len(found)} trusted: {where}")


def _encryption(named: str | None) -> Finding:
    what = "queue encryption"
    if named is None:
        return Finding(what, "missing", "what waits is stored in plain", "name a key in queue.key")
    if handed_by_systemd(named):
        only = "systemd hands its keys to the services alone"
        return Finding(what, "missing", only, "see `edgeclin queue status` there")
    try:
        keyring = load_keyring(named)
    except BadFile as exc:
        return _wrong(what, exc)
    return Finding(what, "ok", f"sealed with key {keyring.first} of {named}")


def _wrong(what: str, problem: BadFile) -> Finding:
    return Finding(what, "wrong", f"{problem.path}: {problem.problem}", problem.remedy)


def _broker(host: str, port: int) -> Finding:
    try:
        with socket.create_connection((host, port), timeout=3):
            return Finding("broker", "ok", f"{host}:{port} accepts connections")
    except (OSError, UnicodeError) as exc:  # the latter for a name that no host can have
        return Finding(
            "broker",
            "wrong",
            f"{host}:{port}: {getattr(exc, 'strerror', None) or exc}",
            "results wait in the queue meanwhile",
        )


def _bundle(path: str | None) -> Finding:
    if path is None:
        return Finding("bundle", "missing", "the configuration names none")
    try:
        bundle = Bundle.open(path, allow_unsigned=True)
        chosen, backend = load_executable(bundle)
    except BadFile as exc:
        return _wrong("bundle", exc)
    except (EngineUnavailable, MissingExtra) as exc:
        return Finding("bundle", "wrong", f"{path}: {exc}")
    backend.close()
    if chosen.note:
        primary = bundle.manifest.primary
        return Finding(
            "bundle",
            "ok",
            f"{path}: its {primary.backend} engine is {state_here(bundle, primary)}, the CPU twin "
            f"runs instead ({chosen.note})",
            f"edgeclin build {path}"
            if primary.backend == TENSORRT
            else "convert it where the Edge TPU compiler is"
            if primary.state != "ready"
            else "",
        )
    if chosen.build is not None:
        with_ = chosen.build.identity.tensorrt
        return Finding(
            "bundle", "ok", f"{path}: its tensorrt engine is built here with TensorRT {with_}"
        )
    return Finding("bundle", "ok", f"{path} (check it with `edgeclin verify`)")
