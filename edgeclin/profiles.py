"""Facts about devices: what executes engines there, by which numeric rules, within which limits."""

from __future__ import annotations

from enum import Enum
from importlib.resources import files
from math import inf
from pathlib import Path
from typing import Literal

from edgeclin.errors import BadFile, UnknownProfile
from edgeclin.files import reading
from edgeclin.records import Record, load_toml

SCHEMA = 1


class EngineKind(str, Enum):
    """The engine formats that edgeclin knows."""

    TFLITE = "tflite"
    TFLITE_EDGETPU = "tflite-edgetpu"
    ONNX_QDQ = "onnx-qdq"
    TENSORRT = "tensorrt"


class Fact(Record, frozen=True):
    """A figure about a device and where it was read; `measured` only if edgeclin measured it."""

    value: float
    source: str


class Numeric(Record, frozen=True):
    """The numeric rules of an engine on this device."""

    precision: Literal["int8", "float32"]
    activations: Literal["int8", "uint8", "float32"]
    weights: Literal["int8", "float32"]
    symmetric_weights: bool = True
    symmetric_activations: bool = False
    per_channel: tuple[str, ...] = ()
    """Operators whose weights have one scale an output channel."""
    io: Literal["int8", "uint8", "float32"] = "float32"
    """Type of the engine's own inputs and outputs."""


class Limits(Record, frozen=True):
    """What the device cannot exceed."""

    memory_mb: int
    threads: int
    max_model_mb: float
    on_chip_mb: float | None = None
    """Memory for parameters on the accelerator itself, where it has its own."""


class Profile(Record, frozen=True):
    """One device, as facts."""

    schema: int
    name: str
    title: str
    architecture: Literal["x86_64", "aarch64", "armv7l"]
    engine: EngineKind
    numeric: Numeric
    limits: Limits
    latency_budget_ms: float
    """The longest a single inference should take for interactive use; a user's own wish."""
    accelerator: str | None = None
    power_w: Fact | None = None
    """Typical power of the whole board under inference, in watts."""
    price_usd: Fact | None = None
    toolchain: dict[str, str] = {}
    """Versions that the engine is built for: JetPack, TensorRT, the Edge TPU compiler."""
    notes: tuple[str, ...] = ()
    """Where the other figures were read."""


def shipped() -> dict[str, Path]:
    """The profiles that come with edgeclin, by name."""
    folder = Path(str(files("edgeclin.device_profiles")))
    return {path.stem: path for path in sorted(folder.glob("*.toml"))}


def load_profile(name: str) -> Profile:
    """Load a shipped profile by its name, or a user's own by its path.

    Raises:
        UnknownProfile: neither a shipped profile nor a file.
        BadFile: the file cannot be read, or breaks a rule of the schema.
    """
    known = shipped()
    path = known.get(name, Path(name))
    with reading(path):
        if not path.exists() or path.is_dir():
            raise UnknownProfile(name, list(known))
    profile = load_toml(path, Profile)
    _check(profile, path)
    return profile


def _check(profile: Profile, path: Path) -> None:
    if profile.schema != SCHEMA:
        raise BadFile(path, f"schema {profile.schema} is unknown", f"this version reads {SCHEMA}")
    limits = profile.limits
    for what, value in (
        ("limits.memory_mb", limits.memory_mb),
        ("limits.threads", limits.threads),
        ("limits.max_model_mb", limits.max_model_mb),
        ("limits.on_chip_mb", limits.on_chip_mb),
        ("latency_budget_ms", profile.latency_budget_ms),
    ):
        if value is not None and not 0 < value < inf:
            raise BadFile(path, f"{what} is {value}", "it must be above zero and finite")
    for what, fact in (("power_w", profile.power_w), ("price_usd", profile.price_usd)):
        if fact is None:
            continue
        if not 0 < fact.value < inf:
            raise BadFile(path, f"{what} is {fact.value}", "it must be above zero and finite")
        if not fact.source:
            raise BadFile(path, f"{what} has no source", "say where the figure was read")
