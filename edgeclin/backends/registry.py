"""Backends by name; the entry-point group `edgeclin.backends` is the only list."""

from __future__ import annotations

from importlib.metadata import entry_points

from edgeclin.backends.base import Backend
from edgeclin.errors import EngineUnavailable

GROUP = "edgeclin.backends"


def backend_names() -> list[str]:
    """The names of all installed backends."""
    return sorted({entry.name for entry in entry_points(group=GROUP)})


def load_backend(name: str, model: bytes, threads: int = 1) -> Backend:
    """Load an engine's bytes with the backend of that name.

    Raises:
        EngineUnavailable: no such backend, or it cannot execute these bytes here.
        MissingExtra: the backend's package is not installed.
    """
    found = [entry for entry in entry_points(group=GROUP) if entry.name == name]
    if not found:
        known = ", ".join(backend_names()) or "none"
        raise EngineUnavailable(f"no backend named {name!r} is installed (there are: {known})")
    backend: Backend = found[0].load()(model, threads)
    return backend
