"""Which of a bundle's engines this machine runs, and why not the primary one."""

from __future__ import annotations

from dataclasses import dataclass

from edgeclin.backends import Backend, load_backend
from edgeclin.backends.registry import backend_names
from edgeclin.bundle import Bundle
from edgeclin.errors import EdgeclinError, EngineUnavailable, MissingExtra
from edgeclin.manifest import Engine, Manifest
from edgeclin.tensorrt.cache import Build, EngineCache, Identity, default_folder

TENSORRT = "tensorrt"
_WORKSPACE_SHARE = 4
"""CPU and GPU share the memory of a Jetson: a quarter is for the layers' own use."""
NOT_COMPILED = "the primary engine is not compiled"


@dataclass(frozen=True, slots=True)
class Executable:
    """An engine and the bytes that its backend takes.

    Attributes:
        note: why it is not the primary engine; empty when it is.
        build: how it was built on this machine, where that was needed.
    """

    engine: Engine
    model: bytes
    note: str = ""
    build: Build | None = None


def executable(bundle: Bundle) -> Executable:
    """The primary engine; where it is not compiled, not built here or has no backend, the CPU twin.

    Raises:
        BadBundle: the bundle changed since it was opened.
    """
    manifest = bundle.manifest
    primary = manifest.primary
    if primary.state == "ready":
        twin = None
        if primary.backend not in backend_names():
            twin = cpu_twin(bundle, f"this machine has no backend {primary.backend}")
        return twin or Executable(primary, bundle.read(primary.file))
    found, note = built(bundle)
    if found is not None:
        build, plan = found
        return Executable(primary, plan, build=build)
    stand_in = manifest.executable
    return Executable(stand_in, bundle.read(stand_in.file), note)


def cpu_twin(bundle: Bundle, note: str) -> Executable | None:
    """The bundle's CPU twin, and why it is wanted; None where the bundle has none."""
    twin = next((one for one in bundle.manifest.engines if one.role == "cpu-twin"), None)
    return Executable(twin, bundle.read(twin.file), note) if twin else None


def load_executable(bundle: Bundle, threads: int = 1) -> tuple[Executable, Backend]:
    """Load what this machine runs; the CPU twin also where the primary engine does not load.

    Raises:
        EngineUnavailable, MissingExtra: the primary engine does not load and there is no twin, or
            that one does not load either.
    """
    chosen = executable(bundle)
    try:
        return chosen, load_backend(chosen.engine.backend, chosen.model, threads)
    except (EngineUnavailable, MissingExtra) as exc:
        twin = cpu_twin(bundle, f"the primary engine does not load: {exc}")
        if twin is None or chosen.engine == twin.engine:
            raise
    return twin, load_backend(twin.engine.backend, twin.model, threads)


def state_here(bundle: Bundle, engine: Engine) -> str:
    """An engine's state in words, with what `edgeclin build` made of it on this machine."""
    if engine.backend != TENSORRT or engine.state == "ready":
        return engine.state
    found, note = built(bundle)
    if found is None:
        return "not built here" if note == NOT_COMPILED else f"not built here: {note}"
    return f"built here with TensorRT {found[0].identity.tensorrt}"


def built(bundle: Bundle) -> tuple[tuple[Build, bytes] | None, str]:
    """The engine that was built here from a bundle's primary one, or why there is none."""
    if bundle.manifest.primary.backend != TENSORRT:
        return None, NOT_COMPILED
    cache = EngineCache(default_folder())
    try:
        if not cache.knows(model_sha256(bundle)):
            return None, NOT_COMPILED
        found = cache.find(identity_here(bundle.manifest, model_sha256(bundle)))
    except EdgeclinError as exc:
        return None, f"the engine built from the primary one cannot be used: {exc}"
    if found is None:
        return None, f"{NOT_COMPILED} for this TensorRT and GPU"
    return found, ""


def model_sha256(bundle: Bundle) -> str:
    """Of the model that the primary engine is built from."""
    return bundle.manifest.files[bundle.manifest.primary.file].sha256


def identity_here(manifest: Manifest, model: str) -> Identity:
    """What an engine built on this machine belongs to.

    Raises:
        EngineUnavailable: there is no TensorRT or no GPU here.
    """
    from edgeclin.tensorrt.cuda import open_cuda
    from edgeclin.tensorrt.library import load_library

    library = load_library()
    cuda = open_cuda()
    device = cuda.device
    cuda.close()
    return Identity(
        model_sha256=model,
        tensorrt=library.version,
        device=device.name,
        capability=device.capability,
        driver=device.driver,
        settings=library.family.settings,
        workspace_mb=max(1, manifest.profile.limits.memory_mb // _WORKSPACE_SHARE),
    )
