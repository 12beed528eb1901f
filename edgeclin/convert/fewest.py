"""The fewest layers that must stay in float, found by trials of which each costs an engine."""

from __future__ import annotations

from collections.abc import Callable, Sequence

Trial = Callable[[tuple[str, ...]], bool]


class Search:
    """Doubles from the hardest layer on, bisects, and then steps back; else steps back from all.

    Attributes:
        trials: how many engines were made.
    """

    def __init__(self, holds: Trial, most_trials: int) -> None:
        self._holds = holds
        self._left = most_trials
        self._known: dict[frozenset[str], bool] = {}

    @property
    def trials(self) -> int:
        return len(self._known)

    def run(self, ranked: Sequence[str], most: int) -> tuple[str, ...] | None:
        """Find layers whose engine holds.

        Args:
            ranked: hardest first.
            most: how many of them may stay in float.

        Returns:
            None where even `most` of them are not enough, or the trials were.
        """
        kept = self._from_below(ranked, most) or self._from_above(ranked)
        return kept if kept and len(kept) <= most else None

    def _from_below(self, ranked: Sequence[str], most: int) -> tuple[str, ...] | None:
        most = min(most, len(ranked))
        failed, count = 0, min(1, most)
        while count and not self._try(ranked[:count]):
            if count == most:
                return None
            failed, count = count, min(2 * count, most)
        if not count:
            return None
        while count - failed > 1:
            middle = (failed + count) // 2
            if self._try(ranked[:middle]):
                count = middle
            else:
                failed = middle
        return self._step_back(tuple(ranked[:count]))

    def _from_above(self, ranked: Sequence[str]) -> tuple[str, ...] | None:
        """Where the ranking misleads: a layer with a small error of its own can decide the most."""
        return self._step_back(tuple(ranked)) if self._try(ranked) else None

    def _step_back(self, kept: tuple[str, ...]) -> tuple[str, ...]:
        """Return to INT8 what need not stay: first half of them at once, then ever fewer.

        The chunks of Zeller's delta debugging ("Simplifying and isolating failure-inducing input",
        2002); what comes out cannot lose any single layer, unless the trials ran out.
        """
        size = max(1, len(kept) // 2)
        while len(kept) > 1:
            smaller = self._without_a_chunk(kept, size)
            if smaller is not None:
                kept = smaller
                size = min(size, max(1, len(kept) // 2))
            elif size == 1:
                break
            else:
                size //= 2
        return kept

    def _without_a_chunk(self, kept: tuple[str, ...], size: int) -> tuple[str, ...] | None:
        for end in range(len(kept), 0, -size):
            smaller = kept[: max(0, end - size)] + kept[end:]
            if smaller and self._try(smaller):
                return smaller
        return None

    def _try(self, kept: Sequence[str]) -> bool:
        asked = frozenset(kept)
        if asked not in self._known:
            if not self._left:
                return False
            self._left -= 1
            self._known[asked] = self._holds(tuple(kept))
        return self._known[asked]
