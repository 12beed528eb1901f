"""The last results, as they are now, for whoever asks; adding one costs the loop microseconds."""

from __future__ import annotations

import threading
import time
from collections import deque
from collections.abc import Callable, Iterable
from dataclasses import dataclass

import numpy as np

from edgeclin.inbox import Sample
from edgeclin.offline_queue import Stored
from edgeclin.records import Record, Result, Review, State

KEPT = 50
KEPT_BYTES = 32 << 20
"""Of samples, for drawings; beyond it the oldest have none."""


class Shown(Record, frozen=True, omit_defaults=True):
    """One result as it is now.

    Attributes:
        seq, id: as the queue stored it.
        state: that of the review where there is one.
        result: the first answer, which stays on record whatever a review says.
        threshold: the confidence from which an answer with its label is sure.
        age_s: seconds since it was stored.
        drawn: whether its sample is kept, so that it can be drawn.
    """

    seq: int
    id: str
    state: State
    result: Result
    age_s: float
    threshold: float | None = None
    review: Review | None = None
    drawn: bool = False


class Latest(Record, frozen=True):
    """What changed since a listener was last told.

    Attributes:
        results: new or reviewed ones, oldest first.
        missed: results in between that are no longer kept.
    """

    results: tuple[Shown, ...]
    missed: int


@dataclass(frozen=True, slots=True)
class Cursor:
    """Up to which change, and up to which result, a listener was told."""

    change: int = 0
    count: int = 0


@dataclass(slots=True)
class _Kept:
    change: int
    count: int
    at: float
    stored: Stored
    result: Result
    threshold: float | None
    sample: np.ndarray | None
    review: Review | None = None


class History:
    """The last `KEPT` results since the start.

    Listeners hold a cursor and nothing is queued for them, so that a slow one costs no memory.

    Args:
        threshold: the confidence from which an answer with that label is sure.
        clock: monotonic seconds.
    """

    def __init__(
        self,
        threshold: Callable[[str], float],
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._threshold = threshold
        self._clock = clock
        self._lock = threading.Lock()
        self._kept: deque[_Kept] = deque(maxlen=KEPT)
        self._cursor = Cursor()

    @property
    def cursor(self) -> Cursor:
        return self._cursor

    def add(self, stored: Stored, result: Result, sample: Sample) -> None:
        """Take in a result; the array is kept as it is, so nobody may change it."""
        threshold = None if result.label is None else self._threshold(result.label)
        seen = _own(sample) if isinstance(sample, np.ndarray) else None
        now = self._clock()
        with self._lock:
            cursor = Cursor(self._cursor.change + 1, self._cursor.count + 1)
            self._kept.append(
                _Kept(cursor.change, cursor.count, now, stored, result, threshold, seen)
            )
            self._forget_samples()
            self._cursor = cursor

    def review(self, reviews: Iterable[Review]) -> None:
        """Take in what became of results, in order; a review that is known changes nothing."""
        latest = {review.result: review for review in reviews}
        with self._lock:
            for kept in self._kept:
                review = latest.get(kept.stored.id)
                if review is not None and review != kept.review:
                    self._cursor = Cursor(self._cursor.change + 1, self._cursor.count)
                    kept.review, kept.change = review, self._cursor.change

    def newest(self, after: int = 0, limit: int = KEPT) -> list[Shown]:
        """Results with a sequence number above `after`, newest first."""
        with self._lock:
            kept = [one for one in reversed(self._kept) if one.stored.seq > after][:limit]
            return [self._shown(one) for one in kept]

    def since(self, cursor: Cursor) -> tuple[Latest, Cursor]:
        """What changed after a cursor, and the cursor after it."""
        with self._lock:
            changed = [one for one in self._kept if one.change > cursor.change]
            changed.sort(key=lambda one: one.count)
            first = self._kept[0].count if self._kept else 1
            missed = max(0, first - cursor.count - 1)
            return Latest(tuple(map(self._shown, changed)), missed), self._cursor

    def sample(self, seq: int) -> np.ndarray | None:
        """The sample of a result, while it is kept."""
        with self._lock:
            return next((one.sample for one in self._kept if one.stored.seq == seq), None)

    @property
    def oldest_seq(self) -> int | None:
        """None when there is no result."""
        with self._lock:
            return self._kept[0].stored.seq if self._kept else None

    def _shown(self, kept: _Kept) -> Shown:
        return Shown(
            seq=kept.stored.seq,
            id=kept.stored.id,
            state=kept.result.state if kept.review is None else kept.review.state,
            result=kept.result,
            age_s=round(self._clock() - kept.at, 3),
            threshold=kept.threshold,
            review=kept.review,
            drawn=kept.sample is not None,
        )

    def _forget_samples(self) -> None:
        held = 0
        for kept in reversed(self._kept):
            if kept.sample is not None:
                held += kept.sample.nbytes
                if held > KEPT_BYTES:
                    kept.sample = None


def _own(sample: np.ndarray) -> np.ndarray:
    """The sample without what it was cut from, which would be kept with it."""
    base = sample.base
    return sample.copy() if isinstance(base, np.ndarray) and base.nbytes > sample.nbytes else sample
