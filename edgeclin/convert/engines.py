"""The engines that a bundle carries: one for the accelerator, and its twin for the CPU."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from edgeclin.convert.routes import COMPILED
from edgeclin.convert.stages import BACKEND, Stage
from edgeclin.manifest import Engine
from edgeclin.profiles import Profile


@dataclass(frozen=True, slots=True)
class Deployed:
    """Engines as the manifest lists them, and the files that they name."""

    engines: tuple[Engine, ...]
    files: dict[str, bytes]


def deploy(
    profile: Profile, made: Stage, twin: Stage | None = None, compiled: bytes | None = None
) -> Deployed:
    """Name what was made.

    Args:
        made: the engine that was judged; for an accelerator what its engine is made from.
        twin: another engine for the CPU; by default `made` is the twin too.
        compiled: a Coral's engine, where the Edge TPU compiler is on this machine.
    """
    backend, precision = BACKEND[made.form], profile.numeric.precision
    name, data = f"engine{made.path.suffix}", made.path.read_bytes()
    if profile.engine not in COMPILED:
        return Deployed((Engine(backend, name, precision),), {name: data})
    files, own, other = {name: data}, name, name
    if compiled is not None:
        own = f"engine_edgetpu{made.path.suffix}"
        files[own] = compiled
    if twin is not None:
        other = f"twin{twin.path.suffix}"
        files[other] = twin.path.read_bytes()
    state: Literal["ready", "not compiled"] = "not compiled" if compiled is None else "ready"
    return Deployed(
        (
            Engine(profile.engine.value, own, precision, state=state),
            Engine(backend, other, precision, role="cpu-twin"),
        ),
        files,
    )
