"""A first try of a bundle in a process of its own, before the one that answers loads it."""

from __future__ import annotations

import logging

from edgeclin.bundle import Bundle
from edgeclin.config import IsolationConfig
from edgeclin.errors import EngineFailed, EngineUnavailable
from edgeclin.executable import Executable, cpu_twin, executable
from edgeclin.golden import proof
from edgeclin.isolation import LOAD_S, EngineProcess, SharedModel

log = logging.getLogger(__name__)

_PATIENCE = 20
"""Times the deadline of an isolated engine: this one gives way to the one that answers."""


def rehearse(bundle: Bundle, threads: int = 1) -> None:
    """Load and self-test a bundle's engine as `Runtime` would, where its faults harm nobody.

    An engine that this machine cannot run is no fault where the CPU twin stands in for it.

    Raises:
        EngineFailed: it crashes, hangs, takes more memory than the profile's device has, or keeps
            its device when it should end.
        SelfTestFailed: it does not reproduce the bundle's golden outputs here.
        EngineUnavailable: neither it nor a CPU twin runs here.
    """
    chosen = executable(bundle)
    try:
        _try(bundle, chosen, threads)
    except EngineUnavailable as exc:
        twin = cpu_twin(bundle, "")
        if twin is None or twin.engine == chosen.engine:
            raise
        log.info("%s: the primary engine does not load: %s", bundle.path, exc)
        _try(bundle, twin, threads)


def _try(bundle: Bundle, chosen: Executable, threads: int) -> None:
    manifest, engine = bundle.manifest, chosen.engine
    memory_mb = manifest.profile.limits.memory_mb
    model = SharedModel(chosen.model)
    try:
        process = EngineProcess(engine.backend, model, threads)
        try:
            process.load(LOAD_S, memory_mb)
            deadline_s = IsolationConfig().deadline_s(manifest.profile.latency_budget_ms)
            process.allow(_PATIENCE * deadline_s)
            proof(bundle, engine)(process)
            process.check(memory_mb)
        finally:
            process.close()
            over = process.ended(LOAD_S)  # its device is wanted next
        if not over:
            raise EngineFailed(f"the engine's process, {process.pid}, cannot be ended")
    finally:
        model.close()
