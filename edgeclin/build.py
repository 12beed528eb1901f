"""`edgeclin build`: the TensorRT engine of a bundle, built on the device that will run it."""

from __future__ import annotations

import hashlib
from collections.abc import Callable
from dataclasses import dataclass
from datetime import datetime, timezone
from pathlib import Path

from edgeclin.backends.registry import load_backend
from edgeclin.bundle import Bundle
from edgeclin.convert.scratch import scratch_folder
from edgeclin.errors import EngineUnavailable, SelfTestFailed
from edgeclin.executable import TENSORRT, identity_here, model_sha256
from edgeclin.runtime import Runtime
from edgeclin.tensorrt.cache import SCHEMA, Build, DamagedEngine, EngineCache, Identity, SelfTest
from edgeclin.tensorrt.families import check_version
from edgeclin.tensorrt.worker import MODEL, PLAN, TIMINGS, build_here, check_here
from edgeclin.version import VERSION

Progress = Callable[[str], None]


@dataclass(frozen=True, slots=True)
class Outcome:
    """An engine that passed the self-test on this machine; `made` unless it was there already."""

    build: Build
    folder: Path
    made: bool


def build(bundle: Bundle, cache: EngineCache, progress: Progress = lambda _: None) -> Outcome:
    """Build a bundle's TensorRT engine, or find that it is built; test it either way.

    Raises:
        EngineUnavailable: nothing to build, or TensorRT, a GPU or the right version is missing,
            or TensorRT refuses the model.
        SelfTestFailed: the engine that was built does not reproduce the golden outputs; it is gone.
        BadFile: the folder of engines cannot be written.
    """
    _require_buildable(bundle)
    identity = identity_here(bundle.manifest, model_sha256(bundle))
    wanted = bundle.manifest.profile.toolchain.get("tensorrt", "")
    note = check_version(identity.tensorrt, wanted)
    with cache.claim():
        found = _found(bundle, cache, identity, progress)
        if found is not None:
            return Outcome(found, cache.folder / identity.name, made=False)
        made = _make(bundle, cache, identity, (note,) if note else (), progress)
    return Outcome(made, cache.folder / identity.name, made=True)


def check(bundle: Bundle) -> str:
    """Have a TensorRT take the model; keeps and runs nothing.

    Returns:
        what took it and how far, in words that claim no more.

    Raises:
        EngineUnavailable: nothing to build, no TensorRT of any kind here, or it refuses the model.
    """
    _require_buildable(bundle)
    with scratch_folder() as folder:
        (folder / MODEL).write_bytes(bundle.read(bundle.manifest.primary.file))
        found = check_here(folder)
    took = f"{found['title']}: {found['layers']} layers"
    if found["built"]:
        return f"parsed and built by another TensorRT, {took}; nothing was kept, and nothing ran"
    return f"parsed by {took}; nothing was built, and nothing ran"


def _require_buildable(bundle: Bundle) -> None:
    primary = bundle.manifest.primary
    if primary.backend != TENSORRT or primary.state == "ready":
        raise EngineUnavailable(
            f"{bundle.path}: its primary engine ({primary.backend}, {primary.state}) is not one "
            "that is built on the device; only tensorrt ones are"
        )


def _found(
    bundle: Bundle, cache: EngineCache, identity: Identity, progress: Progress
) -> Build | None:
    """The engine that is there already, unless it is damaged or computes something else."""
    try:
        found = cache.find(identity)
    except DamagedEngine as exc:
        progress(f"the built engine is damaged and is built anew: {exc}")
        return None
    if found is None:
        return None
    progress("testing the engine that is there")
    try:
        _self_test(bundle, found[1])
    except SelfTestFailed as exc:
        # Without it the CPU twin answers; with it the runtime would rightly refuse to.
        cache.remove(identity)
        progress(f"the built engine is removed and built anew: {exc}")
        return None
    except EngineUnavailable as exc:
        progress(f"the built engine is built anew: {exc}")
        return None
    return found[0]


def _make(
    bundle: Bundle,
    cache: EngineCache,
    identity: Identity,
    notes: tuple[str, ...],
    progress: Progress,
) -> Build:
    timings = cache.timings(identity)
    with cache.draft(identity) as folder:
        (folder / MODEL).write_bytes(bundle.read(bundle.manifest.primary.file))
        if timings:
            (folder / TIMINGS).write_bytes(timings)
        progress(
            f"building with TensorRT {identity.tensorrt} on {identity.device}"
            + (", with the timings of earlier builds" if timings else "; this can take minutes")
        )
        made = build_here(folder, identity.workspace_mb)
        plan = (folder / PLAN).read_bytes()
        progress("testing the engine against the bundle's golden outputs")
        tested = _self_test(bundle, plan)
        build = Build(
            schema=SCHEMA,
            identity=identity,
            plan_sha256=hashlib.sha256(plan).hexdigest(),
            plan_bytes=len(plan),
            flags=tuple(made["flags"]),
            seconds=made["seconds"],
            timings=bool(timings),
            created=datetime.now(timezone.utc).isoformat(timespec="seconds"),
            edgeclin=VERSION,
            self_test=tested,
            notes=notes,
        )
        cache.accept(folder, build)
        measured = (folder / TIMINGS).read_bytes()
        for name in (MODEL, TIMINGS):
            (folder / name).unlink()
    if measured:
        cache.keep_timings(identity, measured)
    return build


def _self_test(bundle: Bundle, plan: bytes) -> SelfTest:
    """Run the bundle's golden samples through the engine, with all of their preprocessing."""
    golden = bundle.manifest.golden
    backend = load_backend(TENSORRT, plan)
    try:
        off = Runtime(bundle, backend).off
    finally:
        backend.close()
    return SelfTest(bundle.digest, golden.samples, off, golden.tolerance)
