"""The last results, as they are now, for whoever asks; adding one costs the loop microseconds."""

from __future__ import annotations

import threading
from collections import deque
from collections.abc import Callable, Mapping
from dataclasses import dataclass

import numpy as np

from edgeclin.description import Input
from edgeclin.inbox import Sample
from edgeclin.manifest import Manifest
from edgeclin.offline_queue import Stored
from edgeclin.records import Record, Result, Review, State, Tier
from edgeclin.uptime import uptime

KEPT = 50
ASKED = 200
"""Older ones of which it is still known what an opinion that comes makes of them."""
URGENT = 16
"""Older urgent ones of which one is shown, the last that was not amended to something else."""
KEPT_BYTES = 32 << 20
"""Of samples, for drawings; beyond it the oldest have none."""


class Shown(Record, frozen=True, omit_defaults=True):
    """One result as it is now.

    Attributes:
        seq, id: as the queue stored it.
        state: that of the review where there is one.
        result: the first answer, which stays on record whatever a review says.
        threshold: the confidence from which an answer with its label is sure.
        urgent: whether it is so as it is now: an amended one by its new label.
        age_s: seconds since it was stored.
        drawn: whether its sample is kept, so that it can be drawn.
    """

    seq: int
    id: str
    state: State
    result: Result
    age_s: float
    urgent: bool = False
    threshold: float | None = None
    review: Review | None = None
    drawn: bool = False


class Latest(Record, frozen=True):
    """What changed since a listener was last told.

    Attributes:
        results: new or reviewed ones, oldest first; of those no longer kept, the urgent and the
            amended one that became so last, and what was reviewed.
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
    urgent_labels: tuple[str, ...]
    spec: Input | None
    sample: np.ndarray | None
    review: Review | None = None

    @property
    def urgent(self) -> bool:
        if self.review is not None and self.review.state is State.AMENDED and self.spec:
            return self.review.label in self.urgent_labels
        return self.result.tier is Tier.URGENT

    @property
    def in_doubt(self) -> bool:
        """Whether an opinion was asked for at once."""
        return self.result.audit or self.result.state is State.PROVISIONAL

    @property
    def asked(self) -> bool:
        """Whether an opinion may still change it."""
        asked = self.in_doubt or self.stored.asked
        return asked and (self.review is None or self.review.state is State.UNREVIEWED)

    @property
    def bytes(self) -> int:
        return 0 if self.sample is None else self.sample.nbytes


class History:
    """The last `KEPT` results since the start, and the last urgent and the last amended one before
    them.

    Listeners hold a cursor and nothing is queued for them, so that a slow one costs no memory. The
    lock is held for copying the list at most: the loop waits for it.

    Args:
        clock: seconds that no change of the clock moves and that count on while the device sleeps.
    """

    def __init__(self, clock: Callable[[], float] = uptime) -> None:
        self._clock = clock
        self._lock = threading.Lock()
        self._kept: deque[_Kept] = deque(maxlen=KEPT)
        self._urgent: deque[_Kept] = deque(maxlen=URGENT)
        self._amended: _Kept | None = None
        self._asked: deque[_Kept] = deque(maxlen=ASKED)
        self._spare: deque[_Kept] = deque(maxlen=ASKED)
        self._reviewed: deque[_Kept] = deque(maxlen=KEPT)
        self._cursor = Cursor()
        self._held = 0

    @property
    def cursor(self) -> Cursor:
        return self._cursor

    def add(
        self, stored: Stored, result: Result, sample: Sample, manifest: Manifest | None
    ) -> None:
        """Take in a result; the array is kept as it is, so nobody may change it.

        Args:
            manifest: of the bundle that gave it; None where it is not known any more.
        """
        threshold = _threshold(result.label, manifest)
        seen = _own(sample) if isinstance(sample, np.ndarray) and manifest else None
        spec = manifest.inputs[0] if manifest else None
        with self._lock:
            cursor = Cursor(self._cursor.change + 1, self._cursor.count + 1)
            new = _Kept(
                cursor.change,
                cursor.count,
                self._clock(),
                stored,
                result,
                threshold,
                manifest.output.urgent if manifest else (),
                spec,
                seen,
            )
            if len(self._kept) == KEPT:
                self._leave(self._kept[0])
            self._kept.append(new)
            self._held += new.bytes
            self._forget_samples()
            self._cursor = cursor

    def review(self, reviews: Mapping[int, Review]) -> None:
        """Take in what became of results, by their numbers; a review that is known changes
        nothing."""
        with self._lock:
            left = (*self._asked, *self._spare)
            before, pinned = self._cursor.change, [one.count for one in self._pinned]
            for kept in (*self._pinned, *self._urgent, *left, *self._kept):
                review = reviews.get(kept.stored.seq)
                if review is not None and review != kept.review:
                    self._cursor = Cursor(self._cursor.change + 1, self._cursor.count)
                    kept.review, kept.change = review, self._cursor.change
            for kept in left:
                self._pin(kept)
            for one in self._pinned:
                if one.count not in pinned and one.change <= before:  # in sight once more
                    self._cursor = Cursor(self._cursor.change + 1, self._cursor.count)
                    one.change = self._cursor.change
            self._reviewed.extend(one for one in left if not one.asked)
            self._asked = deque((one for one in self._asked if one.asked), ASKED)
            self._spare = deque((one for one in self._spare if one.asked), ASKED)

    def newest(self, after: int = 0, limit: int = KEPT) -> list[Shown]:
        """Results with a sequence number above `after`, newest first."""
        kept = [one for one in reversed(self._all()) if one.stored.seq > after]
        return [self._shown(one) for one in kept[:limit]]

    def since(self, cursor: Cursor) -> tuple[Latest, Cursor]:
        """What changed after a cursor, and the cursor after it."""
        with self._lock:
            kept, now = list(self._kept), self._cursor
            left = (*self._reviewed, *self._asked, *self._spare, *self._urgent)
            gone = [one for one in left if one.review and 0 < cursor.change < one.change]
            pinned = {one.count: one for one in (*gone, *self._pinned)}
        everything = [*(pinned[count] for count in sorted(pinned)), *kept]
        changed = [self._shown(one) for one in everything if one.change > cursor.change]
        missed = kept[0].count - cursor.count - 1 if kept else 0
        missed -= sum(count > cursor.count for count in pinned)
        return Latest(tuple(changed), max(0, missed)), now

    def sample(self, seq: int) -> tuple[np.ndarray, Input] | None:
        """The sample of a result and what it was described as, while it is kept."""
        for one in self._all():
            if one.stored.seq == seq and (sample := one.sample) is not None and one.spec:
                return sample, one.spec
        return None

    @property
    def oldest_seq(self) -> int | None:
        """Of those that a review may change; None when there is no result."""
        with self._lock:
            everything = (*self._pinned, *self._asked, *self._spare, *self._kept)
            return min((one.stored.seq for one in everything), default=None)

    def _all(self) -> list[_Kept]:
        with self._lock:
            return list(self._kept)

    def _leave(self, old: _Kept) -> None:
        """Keep of one that is no longer among the newest what must stay in sight."""
        self._held -= old.bytes
        old.sample = None
        self._pin(old)
        if old.asked:
            (self._asked if old.in_doubt else self._spare).append(old)

    def _pin(self, old: _Kept) -> None:
        if old.urgent and old.count not in (one.count for one in self._urgent):
            self._urgent.append(old)
        amended = old.review is not None and old.review.state is State.AMENDED
        if amended and (self._amended is None or self._amended.change < old.change):
            self._amended = old

    @property
    def _pinned(self) -> list[_Kept]:
        """Of those that are no longer among the newest the last urgent and the last amended one."""
        urgent = next((one for one in reversed(self._urgent) if one.urgent), None)
        both = {one.count: one for one in (urgent, self._amended) if one is not None}
        return list(both.values())

    def _shown(self, kept: _Kept) -> Shown:
        return Shown(
            seq=kept.stored.seq,
            id=kept.stored.id,
            state=kept.result.state if kept.review is None else kept.review.state,
            result=kept.result,
            age_s=round(self._clock() - kept.at, 3),
            urgent=kept.urgent,
            threshold=kept.threshold,
            review=kept.review,
            drawn=kept.sample is not None,
        )

    def _forget_samples(self) -> None:
        for kept in self._kept:
            if self._held <= KEPT_BYTES:
                return
            self._held -= kept.bytes
            kept.sample = None


def _threshold(label: str | None, manifest: Manifest | None) -> float | None:
    if label is None or manifest is None:
        return None
    return manifest.confidence.threshold_of(manifest.output.labels.index(label))


def _own(sample: np.ndarray) -> np.ndarray:
    """The sample without what it was cut from, which would be kept with it."""
    base = sample.base
    return sample.copy() if isinstance(base, np.ndarray) and base.nbytes > sample.nbytes else sample
