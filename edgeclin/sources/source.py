"""The seam between the loop of `run` and where its samples come from."""

from __future__ import annotations

from typing import Protocol

from edgeclin.inbox import Inbox


class Source(Protocol):
    """Something that delivers samples, from a thread of its own."""

    def deliver(self, inbox: Inbox) -> None:
        """Add samples to lines of `inbox`, until it is stopped or no more come (see `Inbox.end`).

        The queue remembers how far each stream was judged, under its name. A recorded source goes
        on at `Line.start`, so that its stream has another name when it has other contents; a live
        one's samples are numbered from there.

        Raises:
            EdgeclinError: nothing more can come, and somebody must look.
        """


class Origin(Source, Protocol):
    """A source that was opened by its address.

    Attributes:
        name: of its stream, or what the names of its streams begin with.
        recorded: whether it goes on where the stream `name` was left.
        live: whether its samples cannot wait.
    """

    name: str
    recorded: bool
    live: bool
