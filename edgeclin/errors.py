"""Every error that edgeclin raises on purpose: one root, one sentence, the facts as attributes.

`exit_code` is what the command line returns for it: 1 the user's mistake, 3 a gate was
missed, 4 not possible on this machine. (0 is success and 2 is click's wrong usage.)
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

_MOST_REPEATED = 500


def legible(text: str) -> str:
    """Text on one line: what a broker, a cloud or a file says may hold what moves a cursor."""
    return "".join(one if one.isprintable() else repr(one)[1:-1] for one in text)


class EdgeclinError(Exception):
    """The root of all errors with a one-sentence explanation."""

    exit_code = 1


class BadFile(EdgeclinError, ValueError):
    """A file does not hold what it should."""

    def __init__(self, path: Path | str, problem: str, remedy: str = "") -> None:
        self.path, self.problem, self.remedy = Path(path), problem, remedy
        super().__init__(f"{path}: {problem}" + (f"; {remedy}" if remedy else ""))


class BadBundle(BadFile):
    """A bundle is damaged, incomplete, inconsistent or of an unknown schema."""


class UntrustedBundle(BadBundle):
    """A bundle carries no signature, or none by a key that this machine trusts."""


class BadInput(EdgeclinError, ValueError):
    """A sample cannot be judged: wrong shape, wrong type, or values that are not finite."""


class BadMessage(EdgeclinError, ValueError):
    """Bytes from the network are not a message of the documented wire format. The sentence repeats
    little of them, on one line, for it goes into logs."""

    def __init__(self, problem: str) -> None:
        super().__init__(legible(problem[:_MOST_REPEATED]))


class UntrustedMessage(BadMessage):
    """A message that has to be signed is not, or by no key that this machine trusts."""


class UnknownProfile(EdgeclinError, LookupError):
    """No shipped profile has that name and no file stands at that path."""

    def __init__(self, name: str, known: Sequence[str]) -> None:
        self.name, self.known = name, tuple(known)
        super().__init__(
            f"no profile named {name!r}; choose one of {', '.join(known)}, or give the path of a "
            "TOML file"
        )


class MissingExtra(EdgeclinError, ImportError):
    """An optional part of edgeclin is not installed."""

    exit_code = 4

    def __init__(self, what: str, extra: str) -> None:
        self.what, self.extra = what, extra
        super().__init__(f"{what} is not installed: pip install 'edgeclin[{extra}]'")


class EngineUnavailable(EdgeclinError, RuntimeError):
    """The engine that a bundle or a profile names cannot run on this machine."""

    exit_code = 4


class EngineFailed(EdgeclinError, RuntimeError):
    """An engine gave no answer about one sample, or one that is no number."""

    exit_code = 4


class EngineOut(EngineFailed):
    """No engine was asked about the sample, for all are being started again.

    Attributes:
        out_s: how long that has been so.
    """

    def __init__(self, why: str, out_s: float = 0.0) -> None:
        super().__init__(why)
        self.out_s = out_s


class SelfTestFailed(EdgeclinError, RuntimeError):
    """The engine on this machine does not reproduce the bundle's golden outputs."""

    exit_code = 4


class ConversionFailed(EdgeclinError, RuntimeError):
    """A converter crashed, refused the model, or wrote something that is not what was asked."""


class GateMissed(EdgeclinError, RuntimeError):
    """An engine differs from its source by more than a gate allows.

    `advice` says what breaks it, what was tried, and which remedy fits; `profiles` which of several
    devices got no bundle.
    """

    exit_code = 3

    def __init__(
        self,
        missed: Sequence[str],
        gates: Sequence[object] = (),
        advice: Sequence[str] = (),
        profiles: Sequence[str] = (),
    ) -> None:
        self.missed, self.gates, self.advice = tuple(missed), tuple(gates), tuple(advice)
        whose = f" for {' and '.join(profiles)}" if profiles else ""
        super().__init__(
            f"{len(self.missed)} gate{'s' * (len(self.missed) != 1)} missed, no bundle was "
            f"written{whose}: {'; '.join((*self.missed, *self.advice))}"
        )


class PromiseBroken(EdgeclinError, RuntimeError):
    """A bundle's confident answers err more often than it promises."""

    exit_code = 3


class QueueFull(EdgeclinError, OSError):
    """The queue's byte bound is reached and nothing less important is left to drop."""


class QueueUnusable(EdgeclinError, OSError):
    """The queue's database cannot be opened: corrupt, of a newer schema, or not writable."""

    exit_code = 4


class KeyAbsent(EdgeclinError, LookupError):
    """Something in the queue is sealed with a key that the keyring lacks."""

    def __init__(self, key: str) -> None:
        self.key = key
        super().__init__(f"sealed with the key {key}, which is not there; put it back in queue.key")


class BadSeal(EdgeclinError, ValueError):
    """Something sealed is damaged, or stands where it was not sealed for."""


class StoreUnusable(EdgeclinError, OSError):
    """The cloud's store cannot be opened, read or written: damaged, locked, or the disk is full."""

    exit_code = 4


class NotConnected(EdgeclinError, ConnectionError):
    """A message was handed to a transport that has no connection."""

    exit_code = 4


class NoAnswer(EdgeclinError, TimeoutError):
    """A device did not say in time what became of a command."""

    exit_code = 4


class CommandFailed(EdgeclinError, RuntimeError):
    """A device did not carry out a command, and says why."""


def in_words(exc: Exception) -> str:
    """What went wrong, for a record or an alarm: a fault that is not ours with its type."""
    return str(exc) if isinstance(exc, EdgeclinError) else f"{type(exc).__name__}: {exc}"
