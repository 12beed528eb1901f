"""Topics on which nothing is sent for a while, for the broker took nothing there."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

FIRST_S = 1.0


@dataclass(slots=True)
class _Stop:
    why: str
    refusals: int
    until: float


class Stops:
    """Waits that double with each refusal, drawn from all of their bound (full jitter).

    Args:
        most_s: upper bound of a wait.
        jitter: maps a bound to the wait, both in seconds.
    """

    def __init__(self, most_s: float, jitter: Callable[[float], float]) -> None:
        self._most_s = most_s
        self._jitter = jitter
        self._stops: dict[str, _Stop] = {}

    def stop(self, topic: str, why: str, now: float) -> None:
        """Send nothing on a topic for a while, or for longer."""
        known = self._stops.get(topic)
        if known is not None and now < known.until:
            return  # of what was on its way together
        refusals = 1 if known is None else known.refusals + 1
        bound = min(FIRST_S * 2.0 ** min(refusals, 32), self._most_s)
        self._stops[topic] = _Stop(why, refusals, now + self._jitter(bound))

    def stopped(self, topic: str, now: float) -> bool:
        """Whether nothing is to be sent there now."""
        known = self._stops.get(topic)
        return known is not None and now < known.until

    def taken(self, topic: str) -> None:
        """Forget what was refused: the broker takes what is sent there again."""
        self._stops.pop(topic, None)

    def clear(self) -> None:
        """Forget all that was refused."""
        self._stops.clear()

    @property
    def whys(self) -> tuple[str, ...]:
        """What is refused, and why."""
        return tuple(f"{topic}: {stop.why}" for topic, stop in list(self._stops.items()))
