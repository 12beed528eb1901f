"""Puts trained clinical models on edge devices and keeps them honest there.

The names below load what they need when they are first used: importing edgeclin is cheap.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

from edgeclin.version import VERSION as __version__

if TYPE_CHECKING:
    from edgeclin.bundle import Bundle
    from edgeclin.errors import EdgeclinError
    from edgeclin.offline_queue import OfflineQueue
    from edgeclin.profiles import Profile
    from edgeclin.records import Result, State
    from edgeclin.runtime import Runtime
    from edgeclin.sync import SyncAgent

__all__ = [
    "Bundle",
    "EdgeclinError",
    "OfflineQueue",
    "Profile",
    "Result",
    "Runtime",
    "State",
    "SyncAgent",
    "__version__",
]

_HOMES = {
    "Bundle": "bundle",
    "EdgeclinError": "errors",
    "OfflineQueue": "offline_queue",
    "Profile": "profiles",
    "Result": "records",
    "Runtime": "runtime",
    "State": "records",
    "SyncAgent": "sync",
}


def __getattr__(name: str) -> Any:
    if name not in _HOMES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(import_module(f"edgeclin.{_HOMES[name]}"), name)
