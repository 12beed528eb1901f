"""What the processes of a device say of themselves, to each other and to the cloud."""

from __future__ import annotations

from math import sqrt

from edgeclin.records import Record


class Shift(Record, frozen=True):
    """How far a quantity is from the reference.

    Attributes:
        n: samples counted.
        psi: population stability index, the sum of (p - q) ln(p / q) over the bins, with half a
            sample added to each.
        psi_noise: what samples of the same distribution stay below with 99 % for all quantities
            together: (1/n + 1/m) times a quantile of chi-squared with bins - 1 degrees of freedom
            (Yurdakul and Naranjo 2020, "Statistical properties of the population stability index").
        moved: `none` below 0.1, `some` below 0.25, else `much`, by the rule of thumb.
        ks: largest difference of the cumulative shares at the edges, which is at most the
            Kolmogorov-Smirnov statistic; None for labels, which have no order.
        ks_noise: its critical value, again for all quantities together (Smirnov 1948).
        alarm: much moved, and more than noise.
    """

    quantity: str
    n: int
    psi: float
    psi_noise: float
    moved: str
    ks: float | None
    ks_noise: float | None
    alarm: bool


class DriftReport(Record, frozen=True):
    """Shifts since the start, and of the last 500 to 1,000 samples counted.

    Attributes:
        answered: samples that were answered.
        observed: those of them that there was time to count.
    """

    answered: int
    observed: int
    since_start: tuple[Shift, ...]
    recent: tuple[Shift, ...]

    @property
    def alarm(self) -> bool:
        return any(shift.alarm for shift in (*self.since_start, *self.recent))

    def __str__(self) -> str:
        """The quantity that is furthest beyond its noise, one in alarm before others, in both."""
        parts = {"since the start": self.since_start, "of the last": self.recent}
        said = [
            f"{when} PSI {worst.psi:.2f} in {worst.quantity} (noise to {worst.psi_noise:.2f}, "
            f"n = {worst.n})"
            for when, shifts in parts.items()
            if shifts
            for worst in [max(shifts, key=lambda one: (one.alarm, one.psi - one.psi_noise))]
        ]
        return ", ".join(said) or "nothing counted yet"


class ShadowHealth(Record, frozen=True, omit_defaults=True):
    """How a second bundle, whose answers nobody is shown, agrees with the one that answers.

    Attributes:
        bundle, engine: what judges in the shadow; empty until it is loaded.
        beside: the bundle that it is compared with; counts are since that one began to answer.
        compared: samples that both answered.
        agreed: of these, those with the same label.
        sure: of those compared, the ones of which both were sure; `sure_agreed` of these agree.
        unanswered: samples that the first one answered and the shadow could not judge.
        missed: samples that came faster than it judges.
        problem: what went wrong last.
    """

    bundle: str = ""
    engine: str = ""
    beside: str = ""
    compared: int = 0
    agreed: int = 0
    sure: int = 0
    sure_agreed: int = 0
    unanswered: int = 0
    missed: int = 0
    problem: str = ""

    def __str__(self) -> str:
        said = "nothing compared yet"
        if self.compared:
            share, (low, high) = self.agreed / self.compared, wilson(self.agreed, self.compared)
            said = f"{share:.1%} agree [{low:.1%}, {high:.1%}], n = {self.compared}"
        if self.sure:
            said += f"; where both are sure {self.sure_agreed} of {self.sure}"
        if self.unanswered:
            said += f"; {self.unanswered} unanswered"
        if self.missed:
            said += f"; {self.missed} missed"
        return f"{said}; {self.problem}" if self.problem else said


class RunHealth(Record, frozen=True, omit_defaults=True):
    """`edgeclin run`; counts are since its start.

    Attributes:
        made_at: seconds since 1970 by the device's clock.
        up_s: seconds since the start.
        bundle, engine, degraded: of what would judge the next sample, as in a result.
        states: answers by state; rejected samples are among the unreviewed ones.
        late: answers that were stored after their deadline.
        dropped: samples of live streams that found no room.
        waiting: samples that wait to be judged.
        restarts: of isolated engines, since this bundle answers.
        busy_s: how long the sample in hand has been in hand; 0 when there is none.
        drift: how far what was answered is from what was validated, when the bundle says.
        alarms: what somebody must look at now, a sentence each.
        shadow: how a second bundle agrees, where one judges too.
        written: bytes that it had a disk write; None where nobody counts.
    """

    made_at: float
    up_s: float
    bundle: str
    engine: str
    degraded: str = ""
    states: dict[str, int] = {}
    rejected: int = 0
    urgent: int = 0
    late: int = 0
    dropped: int = 0
    waiting: int = 0
    restarts: int = 0
    busy_s: float = 0.0
    drift: DriftReport | None = None
    alarms: tuple[str, ...] = ()
    shadow: ShadowHealth | None = None
    written: int | None = None


class SyncHealth(Record, frozen=True, omit_defaults=True):
    """`edgeclin sync`; counts are since its start.

    Attributes:
        made_at: seconds since 1970 by the device's clock.
        connected: whether there is a session with the broker now.
        delivered: rows that the cloud has receipted.
        reviews: answers that an opinion settled.
        silent_s: how long something has been on its way and no receipt came; 0 before that is
            longer than a receipt may take.
        refused: topics on which the broker took nothing of late, and why.
        sent: bytes of payload that were handed over.
        left: bytes of the day's budget; None where there is none.
        held: what does not go for now, a tier or `questions`, and why.
        goodput: bytes a second that the link carries, by what the broker acknowledged; 0 before
            that is known.
        round_trip_s: the least of late from a message to its acknowledgement.
        written: bytes that it had a disk write; None where nobody counts.
    """

    made_at: float
    up_s: float
    connected: bool
    delivered: int = 0
    reviews: int = 0
    silent_s: float = 0.0
    refused: tuple[str, ...] = ()
    sent: int = 0
    left: float | None = None
    held: dict[str, str] = {}
    goodput: float = 0.0
    round_trip_s: float = 0.0
    written: int | None = None


def wilson(count: int, n: int) -> tuple[float, float]:
    """The 95 % score interval of a share, as numbers in [0, 1] (Wilson 1927)."""
    if n == 0:
        return 0.0, 1.0
    z2 = 1.959964**2
    middle = (count + z2 / 2) / (n + z2)
    half = sqrt(z2) / (n + z2) * sqrt(count * (n - count) / n + z2 / 4)
    return max(0.0, middle - half), min(1.0, middle + half)
