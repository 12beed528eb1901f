"""Facts about a toolchain: a TOML file, and beside it the versions it is made of."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from importlib.resources import files
from pathlib import Path

from edgeclin.errors import EdgeclinError
from edgeclin.records import Record, load_toml


class Toolchain(Record, frozen=True):
    """One toolchain, as facts."""

    name: str
    purpose: str
    python: str
    """The version of Python that it runs on, such as `3.12`."""
    proof: tuple[str, ...]
    """Modules that must import before its environment counts as whole."""
    converters: tuple[str, ...]
    """The converters that run it."""
    size_mb: int

    @property
    def requirements(self) -> Path:
        """Every package with its version, one a line."""
        return _folder() / f"{self.name}.txt"

    @property
    def digest(self) -> str:
        """Names the versions: an environment of other ones is another toolchain."""
        facts = f"{self.python}\n{self.requirements.read_text()}"
        return hashlib.sha256(facts.encode()).hexdigest()[:12]

    @property
    def command(self) -> str:
        """What installs it."""
        return f"edgeclin toolchain add {self.name}"


def known() -> list[str]:
    """The names of all toolchains."""
    return sorted(path.stem for path in _folder().glob("*.toml"))


def load_toolchain(name: str) -> Toolchain:
    """The facts of one toolchain.

    Raises:
        EdgeclinError: there is none of that name.
    """
    if name not in known():
        raise EdgeclinError(f"no toolchain named {name!r}; choose one of {', '.join(known())}")
    return load_toml(_folder() / f"{name}.toml", Toolchain)


def needed_by(converters: Sequence[str]) -> list[Toolchain]:
    """The toolchains that any of these converters runs."""
    every = [load_toolchain(name) for name in known()]
    return [one for one in every if set(one.converters) & set(converters)]


def _folder() -> Path:
    return Path(str(files("edgeclin.toolchains")))
