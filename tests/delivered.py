"""What a source puts into its lines, taken as the loop takes it."""

from __future__ import annotations

from edgeclin.inbox import Arrival, Inbox
from edgeclin.sources import Source


def delivered(source: Source, start: int = 0) -> list[Arrival]:
    """All arrivals of a source whose streams go on at `start`."""
    inbox = Inbox(lambda stream: start)
    inbox.feed(source)
    return list(iter(inbox.take, None))
