"""How far the rows of each tier were handed over."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, field

from edgeclin.offline_queue import Row
from edgeclin.records import Tier


@dataclass(slots=True)
class Progress:
    """How far each tier was handed over in this session.

    Rows up to `mark` are the backlog that was there when the session began; later ones are live
    and go first, so that a backlog never holds up what happens now.
    """

    mark: int = 0
    backlog: dict[Tier, int] = field(default_factory=lambda: dict.fromkeys(Tier, 0))
    live: dict[Tier, int] = field(default_factory=lambda: dict.fromkeys(Tier, 0))

    @classmethod
    def of(cls, mark: int) -> Progress:
        """Nothing was handed over yet, of a backlog up to `mark`."""
        return cls(mark=mark, live=dict.fromkeys(Tier, mark))

    def advance(self, tier: Tier, rows: Iterable[Row]) -> None:
        """Note rows that were handed over."""
        for row in rows:
            handed = self.live if row.seq > self.mark else self.backlog
            handed[tier] = max(handed[tier], row.seq)
