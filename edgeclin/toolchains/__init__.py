"""Tools that cannot share edgeclin's environment, each in an environment of its own."""

from edgeclin.toolchains.environments import Environment, add, installed, remove, require
from edgeclin.toolchains.facts import Toolchain, known, load_toolchain, needed_by

__all__ = [
    "Environment",
    "Toolchain",
    "add",
    "installed",
    "known",
    "load_toolchain",
    "needed_by",
    "remove",
    "require",
]
