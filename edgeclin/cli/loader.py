"""Loading bundles as the command line of `edgeclin run` was told to."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from edgeclin.cli.bundles import open_bundle

if TYPE_CHECKING:
    from edgeclin.bundle import Bundle
    from edgeclin.config import IsolationConfig
    from edgeclin.runtime import Runtime


@dataclass(frozen=True, slots=True)
class Loader:
    """Opens, tries and loads bundles.

    Attributes:
        path: of the bundle that answers.
        isolation: None for an engine in this process.
    """

    path: Path
    trust: tuple[Path, ...]
    allow_unsigned: bool
    threads: int
    isolation: IsolationConfig | None

    @property
    def yields(self) -> bool:
        """Whether a thread that gives way may load: what the engine starts would do so for good."""
        return self.isolation is None and self.threads == 1

    def open(self) -> Bundle:
        """What stands at the path now."""
        return open_bundle(self.path, self.trust, self.allow_unsigned)

    def load(self, bundle: Bundle) -> Runtime:
        """The runtime that answers.

        Raises:
            EngineUnavailable: also when this version does not answer the bundle's task.
        """
        from edgeclin.runtime import Runtime, require_answerable

        require_answerable(bundle)
        return Runtime(bundle, threads=self.threads, isolation=self.isolation)

    def load_beside(self, bundle: Bundle) -> Runtime:
        """A runtime that is to take over from one that answers, which its faults must not end."""
        from edgeclin.rehearsal import rehearse

        if self.isolation is None:
            rehearse(bundle, self.threads)
        return self.load(bundle)

    def open_shadow(self, path: Path, beside: Bundle) -> Bundle:
        """A second bundle.

        Raises:
            BadBundle: it is for another use than the bundle `beside`.
        """
        from edgeclin.swap import require_same_use

        bundle = open_bundle(path, self.trust, self.allow_unsigned)
        require_same_use(bundle, beside, "a shadow must be for the same use: name another bundle")
        return bundle

    def load_shadow(self, path: Path, beside: Bundle) -> Runtime:
        """A runtime of a second bundle, in a process of its own whatever the first one's is; raises
        as `open_shadow`."""
        from edgeclin.config import IsolationConfig
        from edgeclin.runtime import Runtime

        bundle = self.open_shadow(path, beside)
        isolation = self.isolation or IsolationConfig()
        return Runtime(bundle, threads=self.threads, isolation=isolation)
